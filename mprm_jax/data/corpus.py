"""A corpus on disk as columns: built by any executor, cached, and ready for rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import ReadOptions
from mprm_jax.data.framing import CorpusFile, corpus_files, unread_files
from mprm_jax.data.index import (
    FileIndex,
    detect_format,
    recall,
    scan_and_store,
    scan_file,
)
from mprm_jax.records.problems import (
    BadCorpus,
    BadLine,
    BadLines,
    BadRecord,
    DataError,
)
from mprm_jax.records.record import UnmeasuredPolicy, unmeasured_step
from theory.labelling import step_targets
from theory.rollouts import Rollouts


@dataclass(frozen=True, eq=False)
class Corpus:
    """Every rollout of a corpus as numbers; row i of each column is rollout i.

    Attributes:
        path: as the user gave it.
        format: name of the format its files have.
        options: how they were read.
        files: in the order of their names.
        sha256: of each file; empty if it was not asked for.
        lines: lines over all files, blank ones included.
        blank: blank lines.
        bad_lines: refused lines.
        notes: of lines that were read, what should be said of them.
        rollouts: the counts.
        file: index into ``files``, int32 ``[n_rollouts]``.
        offset: byte offset in the (decompressed) file, int64 ``[n_rollouts]``.
        size: bytes of the record, int32 ``[n_rollouts]``.
        line: line number from 1, int32 ``[n_rollouts]``.
        content: hash of the record's bytes and the part, uint64 ``[n_rollouts]``.
        part: which of the rollouts that its record holds, uint32 ``[n_rollouts]``.
        stated: whether an MC score of it is stated without N, bool ``[n_rollouts]``.
        reused: files whose columns came from the cache.
    """

    path: Path
    format: str
    options: ReadOptions
    files: tuple[CorpusFile, ...]
    sha256: tuple[str, ...]
    lines: int
    blank: int
    bad_lines: BadLines
    notes: BadLines
    rollouts: Rollouts
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    line: np.ndarray
    content: np.ndarray
    part: np.ndarray
    stated: np.ndarray
    reused: int

    @property
    def folder(self) -> Path:
        """Where manifest and pictures lie: with the files, or above annotations/."""
        folder = self.files[0].path.parent
        return folder.parent if folder.name == "annotations" else folder

    def where(self, row: int) -> str:
        """``file:line`` of a rollout."""
        return f"{self.files[self.file[row]].path}:{self.line[row]}"

    def bad_line(self, row: int, error: BadRecord) -> BadLine:
        """What is wrong with a rollout, at its place."""
        file = str(self.files[self.file[row]].path)
        return BadLine(file, int(self.line[row]), error.reason, error.detail)

    @property
    def duplicates(self) -> int:
        """Rollouts whose bytes another, earlier rollout has too."""
        ordered = np.sort(self.content)
        return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def read_corpus(
    path: Path,
    format_name: str = "auto",
    options: ReadOptions | None = None,
    *,
    executor: Executor | None = None,
    use_cache: bool = True,
    sha256: bool = True,
    progress: Callable[[CorpusFile], None] = lambda file: None,
) -> Corpus:
    """Scan (or recall) every file of a corpus.

    Args:
        path: a file, a folder of files, or a folder that holds ``annotations/``.
        format_name: of all its files, or "auto": told by the first file's keys.
        options: what the format leaves open.
        executor: scans files in parallel; the result does not depend on it.
        use_cache: reuse and write the index cache.
        sha256: take the SHA-256 of every file, for a manifest; it costs a sixth of a
            scan, and one reading of the files if the cache lacks it.
        progress: called after each file, in order.

    Raises:
        DataError: a file cannot be read, or its format not be told.
    """
    options = options or ReadOptions()
    files = corpus_files(path)
    if format_name == "auto":
        format_name = _detect(files)
    found = [
        recall(file, format_name, options, sha256) if use_cache else None
        for file in files
    ]
    missed = [file for file, piece in zip(files, found, strict=True) if piece is None]
    scan = partial(_scan, format_name, options, use_cache, sha256)
    scanned = iter((executor.map if executor else map)(scan, missed))
    pieces = []
    for file, piece in zip(files, found, strict=True):
        pieces.append(next(scanned) if piece is None else piece)
        progress(file)
    reused = len(files) - len(missed)
    return _merged(path, format_name, options, files, pieces, reused)


def _scan(
    format_name: str,
    options: ReadOptions,
    use_cache: bool,
    sha256: bool,
    file: CorpusFile,
) -> FileIndex:
    # By name, because a format holds functions that other processes cannot be sent.
    form = by_name(format_name)
    return (scan_and_store if use_cache else scan_file)(file, form, options, sha256)


def _detect(files: tuple[CorpusFile, ...]) -> str:
    """The format that the first file to show one has."""
    first: DataError | None = None
    for file in files:
        try:
            return detect_format(file).name
        except DataError as error:
            first = first or error
    raise first or DataError("no file to read")


def _merged(
    path: Path,
    format_name: str,
    options: ReadOptions,
    files: tuple[CorpusFile, ...],
    pieces: list[FileIndex],
    reused: int,
) -> Corpus:
    """The columns of all files one after another; those of the files are given up."""
    names: dict[str, int] = {}
    bad_lines, notes = BadLines(), BadLines()
    for other in unread_files(path, files):
        kind = (
            "folder with data of its own" if other.is_dir() else "another kind of file"
        )
        notes.add(BadLine(str(other), 0, f"{kind}, not read"))
    for file, piece in zip(files, pieces, strict=True):
        bad_lines.extend(piece.bad_lines, str(file.path))
        notes.extend(piece.notes, str(file.path))
        ids = [names.setdefault(name, len(names)) for name in piece.source_names]
        if len(piece.source):
            piece.source = np.array(ids, np.int32)[piece.source]

    sizes = [len(piece.lengths) for piece in pieces]

    def column(name: str, dtype: type | None = None) -> np.ndarray:
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        for piece in pieces:
            # No column is held twice.
            setattr(piece, name, joined[:0])
        return joined if dtype is None else joined.astype(dtype, copy=False)

    offsets = np.zeros(sum(sizes) + 1, np.int64)
    np.cumsum(column("lengths"), out=offsets[1:])
    sha256 = tuple(piece.sha256 for piece in pieces)
    return Corpus(
        path=path,
        format=format_name,
        options=options,
        files=files,
        sha256=sha256 if all(sha256) else (),
        lines=sum(piece.lines for piece in pieces),
        blank=sum(piece.blank for piece in pieces),
        bad_lines=bad_lines,
        notes=notes,
        rollouts=Rollouts(
            column("successes"),
            column("trials"),
            offsets,
            column("source", np.int32),
            tuple(names),
        ),
        file=np.repeat(np.arange(len(files), dtype=np.int32), sizes),
        offset=column("offset", np.int64),
        size=column("size", np.int32),
        line=column("line", np.int32),
        content=column("content", np.uint64),
        part=column("part", np.uint32),
        stated=column("stated", np.bool_),
        reused=reused,
    )


@dataclass(frozen=True, eq=False)
class SelectableCorpus:
    """The rollouts that may be selected, every step measured but under "keep".

    Attributes:
        corpus: where they come from.
        rollouts: counts after the policy for unmeasured steps.
        row: row in the corpus of each, ascending int64 ``[n_usable]``.
        unmeasured: the policy.
        unmeasured_steps: steps that were never sampled.
        truncated: rollouts cut before their first such step.
        emptied: rollouts of which nothing was left, or which have no label.
        bad_lines: refused lines, those with unmeasured steps among them under "error".
        refused: rows of the corpus that :meth:`without` took away, ascending.
    """

    corpus: Corpus
    rollouts: Rollouts
    row: np.ndarray
    unmeasured: UnmeasuredPolicy
    unmeasured_steps: int
    truncated: int
    emptied: int
    bad_lines: BadLines
    refused: tuple[int, ...] = ()

    @property
    def content(self) -> np.ndarray:
        """Content hash of each, uint64 ``[n_usable]``."""
        content = self.corpus.content
        return content if len(self.row) == len(content) else content[self.row]

    def without(
        self, refused: Mapping[int, BadRecord], max_bad: int
    ) -> SelectableCorpus:
        """The corpus without rollouts that turned out to be bad once they were looked
        at whole; they are counted with its bad lines.

        Args:
            refused: why, by row of ``rollouts``.
            max_bad: bad lines to go on without, those of the corpus included.

        Raises:
            BadCorpus: more are bad; it carries them all.
        """
        if not refused:
            return self
        bad_lines = BadLines()
        bad_lines.extend(self.bad_lines)
        bad_lines.extend(self.lines_of(refused))
        if bad_lines.total > max_bad:
            none_left = "" if len(refused) == len(self.row) else None
            raise BadCorpus(bad_lines, max_bad, none_left)
        kept = np.delete(np.arange(len(self.row)), list(refused))
        if not len(kept):
            raise DataError(f"{self.corpus.path}: no rollout is left")
        return replace(
            self,
            rollouts=self.rollouts.take(kept),
            row=self.row[kept],
            bad_lines=bad_lines,
            refused=tuple(sorted({*self.refused, *self.row[list(refused)].tolist()})),
        )

    def lines_of(self, refused: Mapping[int, BadRecord]) -> BadLines:
        """The lines of rollouts that turned out to be bad."""
        bad_lines = BadLines()
        for row, error in refused.items():
            bad_lines.add(self.corpus.bad_line(int(self.row[row]), error))
        return bad_lines

    def need_counts(self, what: str) -> None:
        """Refuse what needs K and N where some scores are stated without N.

        Raises:
            DataError: it names the first such rollout.
        """
        stated = self.row[self.corpus.stated[self.row]]
        if len(stated):
            raise DataError(
                f"{self.corpus.where(int(stated[0]))}: {what} needs K and N of every "
                "step, and here is a score without N; pass --trials N if it is one for "
                "all (16 in VisualPRM400K-v1.1)"
            )

    def masked_steps(self, usable_rows: np.ndarray) -> list[list[int]]:
        """Of each rollout the steps, from 0, that masked labels leave out though they
        were sampled (:mod:`theory.labelling`).
        """
        of = self.rollouts.take(usable_rows)
        out = of.measured & (step_targets(of, "masked").weight_S == 0)
        return [
            np.flatnonzero(out[start:end]).tolist()
            for start, end in zip(of.offsets, of.offsets[1:], strict=False)
        ]


def _likely(corpus: Corpus) -> str:
    """Which format the records look like, where it is not the one they are read as."""
    try:
        found = detect_format(corpus.files[0]).name
    except DataError:
        return f"is the format {corpus.format}?"
    return "" if found == corpus.format else f"its keys are those of format {found}"


def usable_rollouts(
    corpus: Corpus, unmeasured: UnmeasuredPolicy = "error", max_bad: int = 0
) -> SelectableCorpus:
    """Refuse what must be refused, and settle what an unmeasured step means.

    Args:
        corpus: the columns.
        unmeasured: "error" refuses lines with such steps (they count as bad lines);
            "drop" cuts the rollout before the first; "negative" labels them negative;
            "keep" leaves them without a label.
        max_bad: bad lines to go on without.

    Raises:
        BadCorpus: more than ``max_bad`` lines are bad.
        DataError: no rollout is left.
    """
    rollouts = corpus.rollouts
    human = by_name(corpus.format).human
    missing = rollouts.trials == 0
    unmeasured_steps = int(np.count_nonzero(missing))
    bad_lines = BadLines()
    bad_lines.extend(corpus.bad_lines)
    keep = np.ones(rollouts.n_rollouts, bool)
    truncated = emptied = 0
    if unmeasured_steps:
        if unmeasured == "negative" and human:
            raise DataError(
                f"{corpus.path}: people judged the steps of format {corpus.format}; "
                "one that they did not judge is no negative: drop or keep it"
            )
        affected = rollouts.total(missing) > 0
        first = _first_missing(rollouts, missing)
        match unmeasured:
            case "error":
                # Several rollouts of one line are one bad line.
                lines = {
                    (int(corpus.file[row]), int(corpus.line[row])): row
                    for row in np.flatnonzero(affected)[::-1].tolist()
                }
                for row in sorted(lines.values()):
                    error = unmeasured_step(int(first[row]) + 1, human)
                    bad_lines.add(corpus.bad_line(row, error))
                keep = ~affected
            case "drop":
                keep = first > 0
                emptied = int(np.count_nonzero(~keep))
                truncated = int(np.count_nonzero(affected)) - emptied
                rollouts = _truncate(rollouts, first)
            case "keep":
                keep = rollouts.n_measured > 0
                emptied = int(np.count_nonzero(~keep))
            case "negative":
                rollouts = Rollouts(
                    rollouts.successes,
                    np.maximum(rollouts.trials, 1),
                    rollouts.offsets,
                    rollouts.source,
                    rollouts.source_names,
                )
    none = bool(bad_lines) and not emptied and not keep.any()
    if none or bad_lines.total > max_bad:
        raise BadCorpus(bad_lines, max_bad, _likely(corpus) if none else None)
    del missing
    row = np.flatnonzero(keep)
    if len(row) == 0:
        raise DataError(f"{corpus.path}: no rollout to select from")
    return SelectableCorpus(
        corpus=corpus,
        rollouts=rollouts if np.all(keep) else rollouts.take(row),
        row=row,
        unmeasured=unmeasured,
        unmeasured_steps=unmeasured_steps,
        truncated=truncated,
        emptied=emptied,
        bad_lines=bad_lines,
    )


def _first_missing(rollouts: Rollouts, missing: np.ndarray) -> np.ndarray:
    """Steps before the first unmeasured one of each rollout, int64 ``[n_rollouts]``."""
    first = rollouts.lengths.copy()
    np.minimum.at(first, rollouts.rollout[missing], rollouts.position[missing])
    return first


def _truncate(rollouts: Rollouts, lengths: np.ndarray) -> Rollouts:
    kept = rollouts.position < np.repeat(lengths, rollouts.lengths)
    return Rollouts(
        rollouts.successes[kept],
        rollouts.trials[kept],
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rollouts.source,
        rollouts.source_names,
    )
