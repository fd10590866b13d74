"""`mprm verify`: derive a subset again from its manifest and compare."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import tyro

from experiments.console.command import answer
from experiments.console.errors import AlreadyReported, UsageError
from experiments.console.options import JsonOption, OptionalPath
from experiments.store.manifests import InputFile, typed
from experiments.store.own_scores import ScoreTable, read_scores
from experiments.store.provenance import file_sha256
from experiments.store.read_subset import ReadPolicy, Written
from experiments.store.write_subset import OwnScores, SelectionOptions, choose, evidence
from mprm_jax.data.corpus import read_corpus
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import WriteOptions
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import MANIFEST_SUFFIX, manifest_path, read_manifest
from mprm_jax.data.write import encoded_lines, write_lines
from mprm_jax.records.problems import DataError
from theory.scores import DEFAULT_ALPHA


@dataclasses.dataclass(frozen=True)
class Options(JsonOption):
    """Is this subset what its manifest says it is?

    Hashes the subset and every corpus file, selects again with the manifest's options,
    writes the result again (to nowhere), and compares. Exit status 1 if anything
    differs. What was selected by your own scores is selected again if they lie where
    they lay, or where --scores says; if not, that is said, and the rest is checked.

    Example: mprm verify subset.jsonl

    Attributes:
        output: A file that mprm select wrote, or the manifest beside it.
        corpus: Where the corpus is now, if it was moved.
        scores: Where your own scores are now, if the subset was selected by any.
    """

    output: tyro.conf.Positional[Path]
    corpus: OptionalPath = None
    scores: OptionalPath = None


OPTIONS = Options


class _Manifest(msgspec.Struct):
    corpus: str
    input: ReadPolicy
    selection: dict[str, Any]
    labels: WriteOptions
    inputs: list[InputFile]
    output: Written
    rows: list[Annotated[int, msgspec.Meta(ge=0)]]


def run(options: Options) -> None:
    """Verify."""
    output = options.output
    if output.is_dir():
        raise DataError(f"{output}: is a folder; name a file of mprm select")
    if name := output.name.removesuffix(MANIFEST_SUFFIX):
        output = output.with_name(name)
    value = read_manifest(output)
    if options.scores is not None and "column" not in value.get("selection", ()):
        raise UsageError(f"--scores: {output} was not selected by your own scores")
    if value.get("compat"):
        from experiments.store.official import verify_official

        checks = list(verify_official(output, value, options.corpus))
    else:
        manifest = typed(output, value, _Manifest)
        try:
            checks = list(_checks(output, options, manifest, value))
        except ValueError as error:
            raise DataError(f"{manifest_path(output)}: {error}") from error
    failed = sum(not holds for _, holds in checks)
    found = [{"what": what, "holds": holds} for what, holds in checks]
    lines = [f"{'ok  ' if holds else 'FAIL'}  {what}" for what, holds in checks]
    if not failed:
        lines.append(f"\n{output} is what its manifest says.")
    answer(
        options.json,
        {"output": str(output), "verified": not failed, "checks": found},
        "\n".join(lines),
    )
    if failed:
        raise AlreadyReported(f"{output}: {failed} of {len(checks)} checks failed")


def _checks(
    output: Path, options: Options, manifest: _Manifest, value: dict[str, Any]
) -> Iterator[tuple[str, bool]]:
    """What is compared, and whether it holds; ends where nothing more can be."""
    written = manifest.output
    if written.sha256 is not None:
        whole = file_sha256(output) == written.sha256
        yield f"{output.name} has the SHA-256 of the manifest", whole
    elif output.exists():
        yield f"no {output.name} lies beside a manifest of rows alone", False
    path = options.corpus or Path(manifest.corpus)
    names = [file.path.name for file in corpus_files(path)]
    known = names == [file.file for file in manifest.inputs]
    yield f"{path} has the {len(manifest.inputs)} files of the manifest", known
    if not known:
        return
    reading = manifest.input
    # What is to be proven must not rest on what was remembered.
    corpus = read_corpus(path, reading.format, reading.options, use_cache=False)
    for name, now, before in zip(names, corpus.sha256, manifest.inputs, strict=True):
        yield f"{name} is unchanged", now == before.sha256
    usable = reading.usable(corpus)
    selection, alpha = None, DEFAULT_ALPHA
    if manifest.selection.get("rule") != OwnScores.rule:
        chosen = msgspec.convert(manifest.selection, SelectionOptions)
        selection, alpha = choose(usable, chosen), chosen.alpha
    else:
        own = msgspec.convert(manifest.selection, OwnScores)
        table = _scores_of(own, options)
        if table is not None:
            unchanged = file_sha256(table.path) == own.file_sha256
            yield f"{table.path.name} is unchanged", unchanged
            if unchanged:
                selection = own.choose(usable, read_scores(table, usable).scores)
                alpha = own.alpha
    if selection is None:
        rows = np.flatnonzero(np.isin(usable.row, manifest.rows))
        same = len(rows) == len(manifest.rows)
        said = "why these is not checked: the scores are not here"
        yield f"the corpus has the {len(manifest.rows):,} rows ({said})", same
    else:
        rows = selection.rows
        same = usable.row[rows].tolist() == manifest.rows
        yield f"selecting again gives the same {len(manifest.rows):,} rows", same
        again = msgspec.json.decode(
            msgspec.json.encode(evidence(usable, selection, alpha, manifest.labels))
        )
        equal = all(value.get(name) == of for name, of in again.items())
        yield "counts, statistics, ties and cuts are those of the manifest", equal
    counted = len(manifest.rows) == written.rollouts
    yield f"the manifest counts {written.rollouts:,} rollouts and as many rows", counted
    if written.sha256 is not None and same:
        digest = hashlib.sha256()
        form = by_name(written.format)
        write_lines(encoded_lines(usable, rows, form, manifest.labels), digest.update)
        yield "writing again gives the same bytes", digest.hexdigest() == written.sha256


def _scores_of(own: OwnScores, options: Options) -> ScoreTable | None:
    """The table of the scores, if there is one."""
    path = options.scores or (own.file and Path(own.file))
    if own.column is None or not path:
        return None
    if options.scores is None and not path.is_file():
        return None
    return ScoreTable(path, own.column)
