"""The released selection script, byte for byte (``--compat official``).

The release ranks by floating-point sums in file order, breaks ties by that order and
drops chosen rollouts without replacing them; its subsets can only be reproduced by
doing the same, so nothing here is shared with the default path, which works on exact
counts.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mprm_jax.data import framing
from mprm_jax.data.compat_record import (
    Blank,
    Refused,
    read_clean_scores,
    read_pick,
    read_scores,
)
from mprm_jax.data.framing import (
    CHUNK_BYTES,
    Chunk,
    CorpusFile,
    RecordFile,
    line_ends,
)
from mprm_jax.data.prm_lines import released_lines
from mprm_jax.data.problems import BadRecord, DataError, Problem
from mprm_jax.data.typed_lines import bounds
from theory.selection import budget

# Picks that are read and rewritten together.
_BATCH = 128


@dataclass(frozen=True, eq=False)
class OfficialFile:
    """What the release would do with one file.

    Attributes:
        path: the file.
        sha256: of the file as it was read.
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
    sha256: str
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
        write: takes output lines, each with its newline; its errors pass through.
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
    sha256 = hashlib.sha256()
    with RecordFile(CorpusFile(path, path.name), sha256) as records:
        ranked = _rank(path, records, alpha, chunk_bytes)
        records.read_rest()
        bis = ranked.column("bis", np.float64)
        rollouts = len(bis)
        selected = max(1, int(rollouts * keep_ratio)) if rollouts else 0
        rows, tied = _top(bis, selected)
        places = [
            ranked.column(name, np.int64)[rows] for name in ("offset", "size", "line")
        ]
        dropped: dict[str, int] = {}
        written: list[int] = []
        for start in range(0, len(rows), _BATCH):
            offsets, sizes, numbers = (
                place[start : start + _BATCH].tolist() for place in places
            )
            lines = records.read_each(offsets, sizes)
            outputs = []
            for line, number, output in zip(
                lines, numbers, released_lines(lines), strict=True
            ):
                if output is None:
                    try:
                        pick = read_pick(line)
                        if reason := pick.drop_reason:
                            dropped[reason] = dropped.get(reason, 0) + 1
                            continue
                        output = pick.output()
                    except BadRecord as error:
                        raise _located(path, number, error) from error
                outputs.append(output)
                written.append(number)
            write(b"".join([output + b"\n" for output in outputs]))
    return OfficialFile(
        path=path,
        sha256=sha256.hexdigest(),
        lines=ranked.lines,
        blank=ranked.blank,
        refused=ranked.refused,
        unscored=ranked.lines - ranked.blank - ranked.refused - rollouts,
        rollouts=rollouts,
        selected=selected,
        tied=tied,
        dropped=dropped,
        written=np.array(written, np.int64),
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

    blocks: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {"bis": [], "offset": [], "size": [], "line": []}
    )
    lines: int = 0
    blank: int = 0
    refused: int = 0

    def add(
        self, bis: np.ndarray, offset: np.ndarray, size: np.ndarray, line: np.ndarray
    ) -> None:
        """Columns of some rollouts."""
        columns = (bis, offset, size, line)
        for blocks, column in zip(self.blocks.values(), columns, strict=True):
            blocks.append(column)

    def column(self, name: str, dtype: type) -> np.ndarray:
        """A column of all of them."""
        return np.concatenate([np.zeros(0, dtype), *self.blocks[name]])


def _rank(path: Path, records: RecordFile, alpha: float, chunk_bytes: int) -> _Ranked:
    ranked = _Ranked()
    offset = 0
    for data in _whole_lines(records, chunk_bytes):
        chunk = Chunk(data, line_ends(data), offset, ranked.lines + 1)
        if (columns := _ranked_at_once(chunk, alpha)) is not None:
            ranked.add(*columns)
            ranked.lines += len(chunk.ends)
        else:
            _rank_each(path, chunk, alpha, ranked)
        offset += len(data)
    return ranked


def _ranked_at_once(
    chunk: Chunk, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """(BIS, offset, size, line) of the rollouts of a chunk in which every line is
    clean and every score counts, else None.
    """
    starts, ends = bounds(chunk)
    scored = read_clean_scores(chunk, starts, ends)
    if scored is None:
        return None
    scores, n = scored
    rows = np.arange(len(n))
    owner = np.repeat(rows, n)
    # Adding 0.0 changes no sum, and bincount adds from left to right, as the release.
    positive = np.where(scores > 0, scores, 0.0)
    total = np.bincount(owner, positive, len(n))
    n_pos = np.bincount(owner[scores > 0], minlength=len(n))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = n_pos / n
        bis = (p * (1 - p) + alpha) * np.where(n_pos > 0, total / n_pos, 1.0)
    some = n > 0
    return (
        bis[some],
        (chunk.offset + starts)[some],
        (ends - starts)[some],
        (chunk.line + rows)[some],
    )


def _rank_each(path: Path, chunk: Chunk, alpha: float, ranked: _Ranked) -> None:
    """Rank line by line, by universal newlines."""
    offset = chunk.offset
    rows: list[tuple[float, int, int, int]] = []
    for line in chunk.data.splitlines(keepends=True):
        ranked.lines += 1
        try:
            if len(line.rstrip(b"\r\n")) > framing.MAX_LINE_BYTES:
                raise BadRecord(
                    "line too long",
                    f"over {framing.MAX_LINE_BYTES} bytes; the released script has no "
                    "limit, but an image or a log in a record is a fault",
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
                bis = official_bis(scores, alpha)
                rows.append((bis, offset, len(line), ranked.lines))
        offset += len(line)
    if rows:
        bis, *places = zip(*rows, strict=True)
        ranked.add(np.array(bis), *(np.array(place, np.int64) for place in places))


def _whole_lines(records: RecordFile, size: int) -> Iterator[bytes]:
    """The file in pieces of whole lines by universal newlines.

    A line longer than MAX_LINE_BYTES is cut short, but stays longer than that.
    """
    held = b""
    while data := records.read(size):
        data = held + data if held else data
        held = b""
        if not data.endswith(b"\n"):
            tail = records.read(framing.MAX_LINE_BYTES, line=True)
            data += tail
            if len(tail) == framing.MAX_LINE_BYTES and not tail.endswith(b"\n"):
                # After a carriage return at the very end the line may go on with \n.
                cut = data.rfind(b"\r", 0, -1) + 1 or len(data)
                data, held = data[:cut], data[cut:]
        yield data
    if held:
        yield held
