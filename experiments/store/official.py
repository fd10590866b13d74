"""The released script's subset, written and verified, with what it hides."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from experiments.store.manifests import InputFile, typed
from experiments.store.provenance import file_sha256, versions
from experiments.store.write_subset import drop_meta
from mprm_jax.data.compat import OfficialReport, select_official
from mprm_jax.data.framing import annotations_folder
from mprm_jax.data.outputs import SUBSET_SCHEMA, OutputSet, manifest_path
from mprm_jax.records.problems import DataError


class _Selection(msgspec.Struct):
    keep_ratio: float
    alpha: float


class _Written(msgspec.Struct):
    sha256: str


class _Manifest(msgspec.Struct):
    corpus: str
    selection: _Selection
    inputs: list[InputFile]
    output: _Written


def write_official(
    corpus: Path, output: Path, keep_ratio: float, alpha: float
) -> tuple[OfficialReport, dict[str, Any]]:
    """Select as the release does, and write the subset and its manifest.

    Returns:
        the report, and what of the manifest is no file.

    Raises:
        DataError: the corpus is no folder of JSONL files, or a file cannot be written.
    """
    folder = annotations_folder(corpus)
    if not folder.is_dir():
        raise DataError(f"{folder}: --compat official reads a folder of *.jsonl files")
    with OutputSet() as outputs:
        file = outputs.add(output)
        drop_meta(outputs, output)
        report = select_official(folder, keep_ratio, alpha, file.write)
        result = {
            "compat": "official",
            "selection": {"keep_ratio": keep_ratio, "alpha": alpha},
            "counts": {
                name: sum(getattr(file, name) for file in report.files)
                for name in ("lines", "blank", "refused", "unscored", "rollouts")
            },
            "selected": report.selected,
            "written": report.written,
            "dropped": report.dropped,
            "tied_share": report.tied / max(report.selected, 1),
            "refused_lines": sum(file.refused for file in report.files),
            "skipped_files": [path.name for path in report.skipped],
        }
        inputs = [
            {
                "file": file.path.name,
                "bytes": file.path.stat().st_size,
                "sha256": file.sha256,
                "lines": file.written.tolist(),
            }
            for file in report.files
        ]
        written = {"format": "prm", "rollouts": report.written} | file.facts()
        manifest = {"versions": versions(), "corpus": str(folder.resolve()), **result}
        manifest |= {"inputs": inputs, "output": written}
        outputs.add_manifest(manifest_path(output), manifest, SUBSET_SCHEMA)
    return report, result


def verify_official(
    output: Path, value: dict[str, Any], corpus: Path | None
) -> list[tuple[str, bool]]:
    """The checks of `mprm verify` for a subset made by ``--compat official``."""
    manifest = typed(output, value, _Manifest)
    folder = annotations_folder(corpus or Path(manifest.corpus))
    digest = hashlib.sha256()
    selection = manifest.selection
    report = select_official(
        folder, selection.keep_ratio, selection.alpha, digest.update
    )
    before = {file.file: file.sha256 for file in manifest.inputs}
    now = {file.path.name: file.sha256 for file in report.files}
    return [
        (
            f"{output.name} has the SHA-256 of the manifest",
            file_sha256(output) == manifest.output.sha256,
        ),
        (f"{folder} has the files of the manifest", list(before) == list(now)),
        *((f"{name} is unchanged", now.get(name) == before[name]) for name in before),
        (
            "selecting again gives the same bytes",
            digest.hexdigest() == manifest.output.sha256,
        ),
    ]
