"""`mprm verify`: derive a subset again from its manifest and compare."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import tyro

from experiments.console.command import print_json
from experiments.console.errors import AlreadyReported
from experiments.console.options import OptionalPath
from experiments.store.manifests import InputFile, typed
from experiments.store.provenance import file_sha256
from experiments.store.read_subset import Reading
from experiments.store.write_subset import SelectionOptions, choose, evidence
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import WriteOptions
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import MANIFEST_SUFFIX, manifest_path, read_manifest
from mprm_jax.data.problems import DataError
from mprm_jax.data.subset import encoded_lines, write_lines


@dataclasses.dataclass(frozen=True)
class Options:
    """Is this subset what its manifest says it is?

    Hashes the subset and every corpus file, selects again with the manifest's options,
    writes the result again (to nowhere), and compares. Exit status 1 if anything
    differs.

    Example: mprm verify subset.jsonl

    Attributes:
        output: A file that mprm select wrote, or the manifest beside it.
        corpus: Where the corpus is now, if it was moved.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    output: tyro.conf.Positional[Path]
    corpus: OptionalPath = None
    json: bool = False


OPTIONS = Options


class _Written(msgspec.Struct):
    format: str
    rollouts: int
    sha256: str | None = None


class _Manifest(msgspec.Struct):
    corpus: str
    input: Reading
    selection: SelectionOptions
    labels: WriteOptions
    inputs: list[InputFile]
    output: _Written
    rows: list[Annotated[int, msgspec.Meta(ge=0)]]


def run(options: Options) -> None:
    """Verify."""
    if options.output.is_dir():
        raise DataError(f"{options.output}: is a folder; name a file of mprm select")
    if name := options.output.name.removesuffix(MANIFEST_SUFFIX):
        options = dataclasses.replace(options, output=options.output.with_name(name))
    value = read_manifest(options.output)
    if value.get("compat"):
        from experiments.store.official import verify_official

        checks = verify_official(options.output, value, options.corpus)
    else:
        manifest = typed(options.output, value, _Manifest)
        try:
            checks = _checks(options, manifest, value)
        except ValueError as error:
            raise DataError(f"{manifest_path(options.output)}: {error}") from error
    failed = [check for check in checks if not check["holds"]]
    if options.json:
        print_json(
            {"output": str(options.output), "verified": not failed, "checks": checks}
        )
    else:
        for check in checks:
            print(f"{'ok  ' if check['holds'] else 'FAIL'}  {check['what']}")
    if failed:
        raise AlreadyReported(
            f"{options.output}: {len(failed)} of {len(checks)} checks failed"
        )
    if not options.json:
        print(f"\n{options.output} is what its manifest says.")


def _checks(
    options: Options, manifest: _Manifest, value: dict[str, Any]
) -> list[dict[str, Any]]:
    checks: list[dict[str, Any]] = []

    def check(what: str, holds: bool) -> bool:
        checks.append({"what": what, "holds": bool(holds)})
        return holds

    written = manifest.output
    if written.sha256 is not None:
        check(
            f"{options.output.name} has the SHA-256 of the manifest",
            file_sha256(options.output) == written.sha256,
        )
    path = options.corpus or Path(manifest.corpus)
    names = [file.path.name for file in corpus_files(path)]
    if not check(
        f"{path} has the {len(manifest.inputs)} files of the manifest",
        names == [file.file for file in manifest.inputs],
    ):
        return checks
    corpus = read_corpus(
        path,
        manifest.input.format,
        manifest.input.options,
        # What is to be proven must not rest on what was remembered.
        use_cache=False,
    )
    for file, sha256, before in zip(
        corpus.files, corpus.sha256, manifest.inputs, strict=True
    ):
        check(f"{file.path.name} is unchanged", sha256 == before.sha256)
    usable = usable_rollouts(
        corpus, manifest.input.unmeasured, max(manifest.input.max_bad, 0)
    )
    selection = choose(usable, manifest.selection)
    same_rows = check(
        f"selecting again gives the same {len(manifest.rows):,} rows",
        usable.row[selection.rows].tolist() == manifest.rows,
    )
    check(
        f"the manifest counts {written.rollouts:,} rollouts and as many rows",
        len(manifest.rows) == written.rollouts,
    )
    again = msgspec.json.decode(
        msgspec.json.encode(evidence(usable, selection, manifest.selection.alpha))
    )
    check(
        "counts, statistics, ties and cuts are those of the manifest",
        all(value.get(name) == of for name, of in again.items()),
    )
    if written.sha256 is not None and same_rows:
        digest = hashlib.sha256()
        form = by_name(written.format)
        lines = encoded_lines(usable, np.asarray(selection.rows), form, manifest.labels)
        write_lines(lines, digest.update)
        check(
            "writing again gives the same bytes", digest.hexdigest() == written.sha256
        )
    return checks
