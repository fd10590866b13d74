"""`mprm select --compat official`: the released script's subset, with what it hides."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from experiments.console import shared
from experiments.console.tables import format_table, percent, printable
from experiments.store.manifests import InputFile, typed
from experiments.store.provenance import file_sha256, versions
from mprm_jax.data.compat import OfficialReport, select_official
from mprm_jax.data.framing import annotations_folder
from mprm_jax.data.outputs import (
    SUBSET_SCHEMA,
    OutputSet,
    manifest_bytes,
    manifest_path,
)
from mprm_jax.data.problems import DataError

if TYPE_CHECKING:
    from experiments.cli.select_rollouts import Options


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


def run_official(options: Options) -> None:
    """Select as the release does, and say what it dropped."""
    folder = annotations_folder(options.corpus)
    if not folder.is_dir():
        raise DataError(f"{folder}: --compat official reads a folder of *.jsonl files")
    with OutputSet() as outputs:
        output = outputs.add(options.output)
        report = select_official(
            folder, options.keep_ratio, options.alpha, output.write
        )
        result = {
            "compat": "official",
            "selection": {"keep_ratio": options.keep_ratio, "alpha": options.alpha},
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
        manifest = {
            "versions": versions(),
            "corpus": str(folder.resolve()),
            **result,
            "inputs": _inputs(report),
            "output": {
                "file": options.output.name,
                "format": "prm",
                "rollouts": report.written,
                "bytes": output.size,
                "sha256": output.sha256.hexdigest(),
            },
        }
        outputs.add(manifest_path(options.output)).write(
            manifest_bytes(manifest, SUBSET_SCHEMA)
        )
    if options.json:
        shared.print_json({"output": str(options.output), **result})
    else:
        _print(options.output, report)


def _inputs(report: OfficialReport) -> list[dict[str, Any]]:
    return [
        {
            "file": file.path.name,
            "bytes": file.path.stat().st_size,
            "sha256": file.sha256,
            "lines": file.written.tolist(),
        }
        for file in report.files
    ]


def _print(output: Path, report: OfficialReport) -> None:
    print(
        format_table(
            ("file", "lines", "ranked", "selected", "tied", "dropped", "written"),
            [
                (
                    printable(file.path.name, 28),
                    f"{file.lines:,}",
                    f"{file.rollouts:,}",
                    f"{file.selected:,}",
                    f"{file.tied:,}",
                    f"{sum(file.dropped.values()):,}",
                    f"{len(file.written):,}",
                )
                for file in report.files
            ],
        )
    )
    print()
    tied = report.tied / max(report.selected, 1)
    print(
        f"{percent(tied, 1)} of the picks were chosen by file order among equal scores."
    )
    for reason, count in report.dropped.items():
        print(f"{count:,} picks dropped and not replaced: {reason}.")
    for count, what in (
        (sum(file.blank for file in report.files), "blank lines"),
        (sum(file.refused for file in report.files), "lines that are not JSON"),
        (sum(file.unscored for file in report.files), "records without a score"),
    ):
        if count:
            print(f"{count:,} {what} passed over.")
    for path in report.skipped:
        print(f"{printable(path.name, 60)}: skipped, nothing in it can be ranked.")
    print(f"\nselected={report.selected} wrote {report.written}: {output}")


def verify_official(
    output: Path, value: dict[str, Any], corpus: Path | None
) -> list[dict[str, Any]]:
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
    checks = [
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
    return [{"what": what, "holds": holds} for what, holds in checks]
