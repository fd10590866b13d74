"""The released selection script, byte for byte (``--compat official``).

The release ranks by floating-point sums in file order, breaks ties by that order and
drops chosen rollouts without replacing them; its subsets can only be reproduced by
doing the same, so nothing here is shared with the default path, which works on exact
counts.
"""

from __future__ import annotations

import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mprm_jax.data.compat_record import Blank, Refused, read_pick, read_scores
from mprm_jax.data.problems import BadRecord, DataError, Problem
from theory.selection import budget

# The release has no limit; ours keeps the promise of bounded memory.
MAX_LINE_BYTES = 64 << 20

# Stays in the second-level cache between the copy from the kernel and the decoder.
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, eq=False)
class OfficialFile:
    """What the release would do with one file.

    Attributes:
        path: the file.
        lines: lines, by universal newlines.
        blank: lines of white space alone.
        refused: lines that ``json.loads`` refuses; the release skips them in silence.
        unscored: records without a step whose score counts.
        rollouts: m, the records that are ranked; 0 means that the file is skipped.
        selected: ``max(1, int(m * rho))`` picks, 0 if m = 0.
        tied: picks at the score of the last one while an equal rollout was left out:
            those that file order chose, not the score.
        dropped: picks not written, by reason (the first that applies).
        written: line number from 1 of each output line, int64, ascending.
    """

    path: Path
    lines: int
    blank: int
    refused: int
    unscored: int
    rollouts: int
    selected: int
    tied: int
    dropped: dict[str, int]
    written: np.ndarray


@dataclass(frozen=True, eq=False)
class OfficialReport:
    """What :func:`select_official` did, file by file in the order read.

    ``[(f.path, line) for f in files for line in f.written]`` names the rollout behind
    each output line.
    """

    files: tuple[OfficialFile, ...]

    @property
    def skipped(self) -> tuple[Path, ...]:
        """Files without a rollout that could be ranked."""
        return tuple(file.path for file in self.files if file.rollouts == 0)

    @property
    def selected(self) -> int:
        """Picks over all files, as the release prints them."""
        return sum(file.selected for file in self.files)

    @property
    def written(self) -> int:
        """Output lines: the picks less those dropped."""
        return sum(len(file.written) for file in self.files)

    @property
    def tied(self) -> int:
        """Picks that file order chose among equal scores."""
        return sum(file.tied for file in self.files)

    @property
    def dropped(self) -> dict[str, int]:
        """Picks not written, by reason, over all files."""
        return dict(sum((Counter(file.dropped) for file in self.files), Counter()))


def select_official(
    folder: Path,
    keep_ratio: float,
    alpha: float,
    write: Callable[[bytes], object],
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> OfficialReport:
    """Write the subset that the released script selects, line by line.

    Each ``*.jsonl`` directly in the folder, in the order of full file names, keeps its
    ``max(1, int(m * rho))`` best rollouts by :func:`official_bis`, ties by file order.

    Args:
        folder: holds the files.
        keep_ratio: rho in (0, 1]; ``m * rho`` is the product in floats, so 29 of 100
            are 28 at 0.29 (:func:`theory.selection.budget` says 29).
        alpha: BIS's alpha.
        write: takes each output line with its newline; its errors pass through.
        chunk_bytes: read at most this much at once; the result does not depend on it.

    Raises:
        DataError: with ``file:line``, where the release would crash, or for a line
            longer than MAX_LINE_BYTES; or the folder holds no such file, or one that
            cannot be read.
        ValueError: ``keep_ratio`` or ``alpha`` is out of range.
    """
    budget(1, keep_ratio)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be finite and at least 0, not {alpha}")
    return OfficialReport(
        tuple(
            _select_file(path, keep_ratio, alpha, write, chunk_bytes)
            for path in _official_files(folder)
        )
    )


def official_bis(scores: Sequence[float], alpha: float) -> float:
    """BIS ``(p (1 - p) + alpha) R`` in the release's own float operations (Section 4).

    ``p = n_pos / n``; R is the left-to-right float sum of the positive scores over
    n_pos, or 1. (:func:`theory.scores.bis` is exact in the counts, hence the same for
    equal rollouts; this one may differ from it, and between permuted steps, in the last
    bit, and the release's ties and order hang on that bit.)

    Args:
        scores: at least one; may be outside [0, 1] or not finite.
        alpha: BIS's alpha.
    """
    n_pos = 0
    total = 0.0
    # Not sum(): since Python 3.12 it compensates for rounding.
    for score in scores:
        if score > 0:
            n_pos += 1
            total += score
    p = n_pos / len(scores)
    return (p * (1 - p) + alpha) * (total / n_pos if n_pos else 1.0)


def _official_files(folder: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith(".jsonl")]
    except OSError as error:
        raise _unreadable(folder, error) from error
    files = sorted((p for p in paths if not p.is_dir()), key=lambda path: path.name)
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: is no file (a link to nowhere, or a pipe)")
    if not files:
        raise DataError(f"{folder}: holds no *.jsonl file")
    return files


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", buffering=CHUNK_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: {error.strerror or error}")


def _located(path: Path, line: int, error: BadRecord) -> DataError:
    return DataError(str(Problem(str(path), line, error.reason, error.detail)))


def _select_file(
    path: Path,
    keep_ratio: float,
    alpha: float,
    write: Callable[[bytes], object],
    chunk_bytes: int,
) -> OfficialFile:
    with _open(path) as file:
        try:
            ranked = _rank(path, file, alpha, chunk_bytes)
        except OSError as error:
            raise _unreadable(path, error) from error
        rollouts = len(ranked.bis)
        selected = max(1, int(rollouts * keep_ratio)) if rollouts else 0
        rows, tied = _top(np.array(ranked.bis), selected)
        dropped: dict[str, int] = {}
        written = array("q")
        for row in rows.tolist():
            try:
                line = os.pread(file.fileno(), ranked.size[row], ranked.offset[row])
                pick = read_pick(line)
                reason = pick.drop_reason
                output = b"" if reason else pick.output()
            except BadRecord as error:
                raise _located(path, ranked.line[row], error) from error
            except OSError as error:
                raise _unreadable(path, error) from error
            if reason:
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                write(output)
                written.append(ranked.line[row])
    return OfficialFile(
        path=path,
        lines=ranked.lines,
        blank=ranked.blank,
        refused=ranked.refused,
        unscored=ranked.lines - ranked.blank - ranked.refused - rollouts,
        rollouts=rollouts,
        selected=selected,
        tied=tied,
        dropped=dropped,
        written=np.array(written),
    )


def _top(bis: np.ndarray, keep: int) -> tuple[np.ndarray, int]:
    """Ascending rows of the ``keep`` best, and how many of them file order chose."""
    if np.any(np.isnan(bis)):
        # Where NaN ends up depends on which values the sort compares: only Python's
        # own sort puts it where the release has it.
        keys = bis.tolist()
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__, reverse=True))
    else:
        order = np.argsort(-bis, kind="stable")
    rows = np.sort(order[:keep])
    if not keep:
        return rows, 0
    cut = bis[order[keep - 1]]
    at_cut = int(np.count_nonzero(bis[rows] == cut))
    return rows, at_cut if np.count_nonzero(bis == cut) > at_cut else 0


@dataclass
class _Ranked:
    """BIS and place of each rollout of one file, and counts of its other lines."""

    bis: array[float] = field(default_factory=lambda: array("d"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("l"))
    line: array[int] = field(default_factory=lambda: array("q"))
    lines: int = 0
    blank: int = 0
    refused: int = 0


def _rank(path: Path, file: BinaryIO, alpha: float, chunk_bytes: int) -> _Ranked:
    ranked = _Ranked()
    offset = 0
    for line in _lines(file, chunk_bytes):
        ranked.lines += 1
        try:
            if len(line) > MAX_LINE_BYTES:
                raise BadRecord(
                    "line too long",
                    f"--compat official reads lines of up to {MAX_LINE_BYTES} bytes",
                )
            scores = read_scores(line)
        except Blank:
            ranked.blank += 1
        except Refused:
            ranked.refused += 1
        except BadRecord as error:
            raise _located(path, ranked.lines, error) from error
        else:
            if scores:
                ranked.bis.append(official_bis(scores, alpha))
                ranked.offset.append(offset)
                ranked.size.append(len(line))
                ranked.line.append(ranked.lines)
        offset += len(line)
    return ranked


def _lines(file: BinaryIO, chunk_bytes: int) -> Iterator[bytes]:
    """The lines by universal newlines, with their ends, as text mode would split them.

    A line longer than MAX_LINE_BYTES is cut short, but stays longer than that.
    """
    held: list[bytes] = []
    size = 0
    while piece := file.readline(chunk_bytes):
        returns = b"\r" in piece
        ends = piece.endswith(b"\n")
        if ends and not size and not returns:
            yield piece
            continue
        held.append(piece)
        size += len(piece)
        if ends or returns or size > MAX_LINE_BYTES:
            *whole, last = b"".join(held).splitlines(keepends=True)
            yield from whole
            # After a carriage return the line may go on with its newline.
            if last.endswith(b"\n") or len(last) > MAX_LINE_BYTES:
                yield last
                last = b""
            held, size = [last], len(last)
    yield from b"".join(held).splitlines(keepends=True)
