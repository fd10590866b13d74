"""One selection: options to rows, rows to files, and the manifest that binds them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.store.own_scores import JoinedBy, ScoreTable
from experiments.store.provenance import file_sha256, versions
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import WriteOptions
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import (
    SUBSET_SCHEMA,
    OutputSet,
    finish_interrupted,
    manifest_path,
)
from mprm_jax.data.write import (
    encoded_lines,
    first_pictures,
    internvl_meta,
    picture_root,
    write_lines,
)
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import ImageRoot, resolve_image
from theory.scores import DEFAULT_ALPHA
from theory.selection import (
    NEEDS_TRIALS,
    BudgetUnit,
    Selection,
    SelectionOptions,
    TieRule,
    select,
)
from theory.summary import summarise

# Formats that InternVL's trainers read through a meta file.
META_FORMATS = ("prm", "visualprm")


@dataclass(frozen=True)
class OwnScores:
    """A selection by somebody's own scores, which the manifest names by their hash.

    Attributes:
        sha256: of the scores, float64 of each usable rollout, little-endian.
        keep_ratio, per_source, unit, ties, seed: as in
            :class:`theory.selection.SelectionOptions`.
        rule: tells such a manifest from a rule's.
        alpha: of the BIS that the manifest's statistics show.
        file: table that the scores are of; None: they were given as an array.
        file_sha256: its.
        column: its scores.
        joined_by: what told which of its rows is whose.
    """

    sha256: str
    keep_ratio: float
    per_source: bool
    unit: BudgetUnit
    ties: TieRule
    seed: int
    rule: str = "scores"
    alpha: float = DEFAULT_ALPHA
    file: str | None = None
    file_sha256: str | None = None
    column: str | None = None
    joined_by: JoinedBy | None = None

    def choose(self, usable: SelectableCorpus, scores: np.ndarray) -> Selection:
        """The rows of ``usable`` with the largest scores.

        Raises:
            ValueError: there is not one finite score for each rollout.
        """
        return select(
            usable.rollouts,
            scores,
            self.keep_ratio,
            usable.content,
            per_source=self.per_source,
            unit=self.unit,
            ties=self.ties,
            seed=self.seed,
        )


def own_scores(
    scores: np.ndarray,
    options: SelectionOptions,
    table: ScoreTable | None = None,
    joined_by: JoinedBy | None = None,
) -> OwnScores:
    """The options with the scores in the rule's place.

    Args:
        scores: of each usable rollout.
        options: of which the rule does not count.
        table: that the scores are of.
        joined_by: what told which of its rows is whose.

    Raises:
        DataError: the table cannot be read.
    """
    found = OwnScores(
        hashlib.sha256(np.asarray(scores, "<f8").tobytes()).hexdigest(),
        options.keep_ratio,
        options.per_source,
        options.unit,
        options.ties,
        options.seed,
        alpha=options.alpha,
    )
    if table is None:
        return found
    return replace(
        found,
        file=str(table.path.resolve()),
        file_sha256=file_sha256(table.path),
        column=table.column,
        joined_by=joined_by,
    )


def choose(usable: SelectableCorpus, options: SelectionOptions) -> Selection:
    """The rows of ``usable`` that the options select.

    Raises:
        DataError: the rule's score is undefined on this corpus.
    """
    if options.rule in NEEDS_TRIALS:
        usable.need_counts(f"rule {options.rule}")
    try:
        return select(
            usable.rollouts,
            options.rule,
            options.keep_ratio,
            usable.content,
            alpha=options.alpha,
            per_source=options.per_source,
            unit=options.unit,
            ties=options.ties,
            seed=options.seed,
        )
    except ValueError as error:
        raise DataError(
            f"{usable.corpus.path}: --rule {options.rule}: {error}"
        ) from None


def corpus_reading(usable: SelectableCorpus) -> dict[str, Any]:
    """How the corpus was read: all that `mprm verify` needs to read it again."""
    return {
        "format": usable.corpus.format,
        "trials": usable.corpus.options.trials,
        "source_from": usable.corpus.options.source_from,
        "empty_steps": usable.corpus.options.empty_steps,
        "unmeasured": usable.unmeasured,
        "max_bad": usable.bad_lines.total,
        "refused": list(usable.refused),
    }


def evidence(
    usable: SelectableCorpus, selection: Selection, alpha: float, labels: WriteOptions
) -> dict[str, Any]:
    """What a manifest says about a selection beside its rows."""
    masked = {}
    if labels.labels == "masked":
        masked["masked_steps"] = sum(map(len, usable.masked_steps(selection.rows)))
    subset = summarise(usable.rollouts.take(selection.rows), alpha)
    never = int(never_sampled(usable)[selection.rows].sum())
    return {
        "counts": corpus_counts(usable),
        "subset": asdict(subset) | {"unmeasured_steps": never} | masked,
        "tied_share": selection.tied_share,
        "cuts": [asdict(cut) for cut in selection.cuts],
    }


def never_sampled(usable: SelectableCorpus) -> np.ndarray:
    """Steps of each usable rollout that were never sampled, int64 ``[n_usable]``: as
    the corpus has them, before --unmeasured dealt with them.
    """
    if usable.unmeasured_steps == 0:
        return np.zeros(len(usable.row), np.int64)
    rollouts = usable.corpus.rollouts
    return rollouts.total(rollouts.trials == 0)[usable.row]


def corpus_counts(usable: SelectableCorpus) -> dict[str, int]:
    """Where every line of the corpus went."""
    corpus = usable.corpus
    return {
        "lines": corpus.lines,
        "blank": corpus.blank,
        "bad": usable.bad_lines.total,
        "rollouts": len(usable.row),
        "duplicates": corpus.duplicates,
        "unmeasured_steps": usable.unmeasured_steps,
        "truncated_rollouts": usable.truncated,
        "emptied_rollouts": usable.emptied,
    }


def meta_path(output: Path) -> Path:
    """Where the meta file of an output lies: beside it, with all of its name but
    ``.jsonl``.
    """
    return output.with_name(f"{_meta_name(output)}.meta.json")


def _meta_name(output: Path) -> str:
    # Not Path.stem, which ends a name like bis0.25 at its dot.
    return output.name.removesuffix(".jsonl")


def meta_bytes(
    usable: SelectableCorpus,
    rows: np.ndarray,
    output: Path,
    length: int,
    images: Path | ImageRoot | None,
) -> bytes:
    """InternVL's meta file for an output, all paths absolute; pictures are where
    `mprm train` looks for them.
    """
    root = picture_root(usable, rows, images).path.resolve()
    meta = internvl_meta(_meta_name(output), str(root), str(output.resolve()), length)
    return msgspec.json.format(msgspec.json.encode(meta), indent=2) + b"\n"


def drop_meta(outputs: OutputSet, output: Path) -> None:
    """The meta file of an output that is replaced by one without goes with it; anybody
    else's of that name stays.
    """
    path = meta_path(output)
    try:
        meta = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if meta.get(_meta_name(output), {}).get("annotation") == str(output.resolve()):
        outputs.drop(path)


def say_pictures(
    usable: SelectableCorpus, rows: np.ndarray, images: Path | ImageRoot | None
) -> None:
    """Say to stderr if the first picture of what was written is not where a trainer
    would look for it.
    """
    root = picture_root(usable, rows, images)
    for image in first_pictures(usable, rows)[:1]:
        try:
            if resolve_image(root, image) != Path(os.path.realpath(root.path / image)):
                lead = image.partition("/")[0]
                print(
                    f"pictures are found without {lead}/ in front of their paths; "
                    f"another trainer needs them below {root.path / lead}",
                    file=sys.stderr,
                )
        except BadRecord as error:
            print(f"{error}; name their folder with --images", file=sys.stderr)


class Unwritable(DataError):
    """Chosen rollouts that the format cannot hold, or whose pictures are not there.

    Attributes:
        refused: why, by row of the usable rollouts.
    """

    def __init__(self, usable: SelectableCorpus, refused: dict[int, BadRecord]) -> None:
        row, error = next(iter(refused.items()))
        super().__init__(f"{usable.corpus.where(int(usable.row[row]))}: {error}")
        self.refused = refused


def write_selection(
    usable: SelectableCorpus,
    selection: Selection,
    options: SelectionOptions | OwnScores,
    output: Path,
    format_name: str,
    labels: WriteOptions,
    images: Path | ImageRoot | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Write the subset, its manifest, and a meta file for InternVL's trainers.

    With ``format_name`` "rows" the manifest alone is written: it holds the rows, which
    is all that ``mprm train --subset`` needs.

    Returns:
        the manifest.

    Raises:
        Unwritable: the format cannot hold some records; it carries them all.
        DataError: a file cannot be written.
    """
    refused: dict[int, BadRecord] = {}
    written: dict[str, Any] = {
        "file": output.name,
        "format": format_name,
        "rollouts": len(selection.rows),
    }
    finish_interrupted(output)
    if format_name == "rows" and output.exists():
        raise DataError(
            f"{output}: would lie beside the manifest of other rows; remove it, or "
            "choose another output"
        )
    with OutputSet() as outputs:
        if format_name != "rows":
            form = by_name(format_name)
            rows = selection.rows
            lines = encoded_lines(usable, rows, form, labels, images, refused)
            file = outputs.add(output)
            write_lines(lines, file.write, progress)
            if refused:
                raise Unwritable(usable, refused)
            written |= file.facts()
            if format_name in META_FORMATS:
                meta = meta_bytes(usable, rows, output, len(rows), images)
                outputs.add(meta_path(output), describes=True).write(meta)
            else:
                drop_meta(outputs, output)
        manifest = corpus_manifest(usable) | {
            "selection": asdict(options),
            "labels": asdict(labels),
            "output": written,
            **evidence(usable, selection, options.alpha, labels),
            "rows": usable.row[selection.rows].astype(np.int64).tolist(),
        }
        outputs.add_manifest(manifest_path(output), manifest, SUBSET_SCHEMA)
    return manifest


def corpus_manifest(usable: SelectableCorpus) -> dict[str, Any]:
    """What the manifest of any output says about the corpus it was made from."""
    corpus = usable.corpus
    return {
        "versions": versions(),
        "corpus": str(corpus.path.resolve()),
        "input": corpus_reading(usable),
        "inputs": [
            {"file": of.path.name, "bytes": of.path.stat().st_size, "sha256": sha256}
            for of, sha256 in zip(corpus.files, corpus.sha256, strict=True)
        ],
        "counts": corpus_counts(usable),
    }


def check_output(output: Path, corpus: Path, *others: Path) -> None:
    """Refuse an output that is an input, or that the next run would take for one;
    the files that go beside it included.

    Raises:
        DataError: the output lies among the corpus's files, or is one of the others.
    """
    files = [file.path for file in corpus_files(corpus)]
    inputs = {os.path.realpath(file) for file in (*files, *others)}
    for file in (output, manifest_path(output), meta_path(output)):
        # Unlike Path.resolve, realpath takes a link to itself for what it is.
        if os.path.realpath(file) in inputs:
            raise DataError(f"{file}: is an input; choose another name")
    if corpus.is_dir() and os.path.realpath(output.parent) in folders_of(files):
        raise DataError(
            f"{output}: lies in the corpus's own folder and would be read as a part "
            "of it; choose another folder"
        )


def folders_of(files: Sequence[Path]) -> set[str]:
    """The folders in which the files lie, and those in which they are if links."""
    found = {os.path.realpath(file.parent) for file in files}
    return found | {os.path.dirname(os.path.realpath(file)) for file in files}
