"""The released selection script, byte for byte.

The release ranks by floating-point sums in file order, breaks ties by that order and
drops chosen rollouts without replacing them; its subsets can only be reproduced by
doing the same, so nothing here is shared with the default path, which works on exact
counts. The standard library's ``json`` decides what a line holds; a differential fuzz
test compares the result with the script written out plainly.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mprm_jax.data import framing
from mprm_jax.data.formats.json_record import json_line
from mprm_jax.data.formats.prm import conversation_line, render_prompt
from mprm_jax.data.framing import CorpusFile, RecordFile
from mprm_jax.records.problems import BadLine, BadRecord, DataError, faults_of
from theory.selection import budget

# Picks that are read and written together.
_BATCH = 128

NO_IMAGE = "image missing"
EMPTY_STEP = "empty step text"
NO_SCORE = "score does not count"


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
            _select_file(path, keep_ratio, alpha, write)
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
    with faults_of(folder):
        paths = [path for path in folder.iterdir() if path.name.endswith(".jsonl")]
    files = sorted((p for p in paths if not p.is_dir()), key=lambda path: path.name)
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: is no file (a link to nowhere, or a pipe)")
    if not files:
        raise DataError(f"{folder}: holds no *.jsonl file")
    return files


def _located(path: Path, line: int, error: BadRecord) -> DataError:
    return DataError(str(BadLine(str(path), line, error.reason, error.detail)))


def _select_file(
    path: Path, keep_ratio: float, alpha: float, write: Callable[[bytes], object]
) -> OfficialFile:
    sha256 = hashlib.sha256()
    with RecordFile(CorpusFile(path, path.name), sha256) as records:
        ranked = _rank(path, records, alpha)
        records.read_rest()
        bis = np.frombuffer(ranked.bis, np.float64)
        selected = max(1, int(len(bis) * keep_ratio)) if len(bis) else 0
        rows, tied = _top(bis, selected)
        places = np.frombuffer(ranked.place, np.int64).reshape(-1, 3)[rows]
        dropped: Counter[str] = Counter()
        written: list[int] = []
        for start in range(0, len(rows), _BATCH):
            offsets, sizes, numbers = places[start : start + _BATCH].T.tolist()
            lines = records.read_each(offsets, sizes)
            for number, line in zip(numbers, lines, strict=True):
                try:
                    output = _output(line)
                except _Dropped as reason:
                    dropped[str(reason)] += 1
                except BadRecord as error:
                    raise _located(path, number, error) from error
                else:
                    written.append(number)
                    write(output)
    return OfficialFile(
        path=path,
        sha256=sha256.hexdigest(),
        lines=ranked.lines,
        blank=ranked.blank,
        refused=ranked.refused,
        unscored=ranked.lines - ranked.blank - ranked.refused - len(bis),
        rollouts=len(bis),
        selected=selected,
        tied=tied,
        dropped=dict(dropped),
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
    """BIS of each rollout of one file, its (offset, size, line number), and counts of
    the other lines.
    """

    bis: array = field(default_factory=lambda: array("d"))
    place: array = field(default_factory=lambda: array("q"))
    lines: int = 0
    blank: int = 0
    refused: int = 0


def _rank(path: Path, records: RecordFile, alpha: float) -> _Ranked:
    ranked = _Ranked()
    offset = 0
    for data in _whole_lines(records):
        for line in data.splitlines(keepends=True):
            ranked.lines += 1
            try:
                scores = _scores(line)
            except _Blank:
                ranked.blank += 1
            except _Refused:
                ranked.refused += 1
            except BadRecord as error:
                raise _located(path, ranked.lines, error) from error
            else:
                if scores:
                    ranked.bis.append(official_bis(scores, alpha))
                    ranked.place.extend((offset, len(line), ranked.lines))
            offset += len(line)
    return ranked


def _whole_lines(records: RecordFile) -> Iterator[bytes]:
    """The file in pieces of whole lines by universal newlines.

    A line longer than MAX_LINE_BYTES is cut short, but stays longer than that.
    """
    held = b""
    while data := records.read(framing.CHUNK_BYTES):
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


class _Blank(Exception):
    """A line of white space alone."""


class _Refused(Exception):
    """A line that ``json.loads`` refuses; the release skips it in silence."""


class _Dropped(Exception):
    """A pick that the release does not write; says why."""


def _parsed(line: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record of a line and its steps.

    Raises:
        _Blank, _Refused: the release skips the line.
        BadRecord: the release would crash.
    """
    if len(line.rstrip(b"\r\n")) > framing.MAX_LINE_BYTES:
        raise BadRecord(
            "line too long",
            f"over {framing.MAX_LINE_BYTES} bytes; the released script has no limit, "
            "but an image or a log in a record is a fault",
        )
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise _crash("invalid UTF-8", error.reason) from error
    if not text:
        raise _Blank
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Refused from error
    if not isinstance(record, dict):
        raise _crash("record is no object")
    steps = record.get("steps_with_score") or []
    if not isinstance(steps, list):
        raise _crash("steps_with_score is no list")
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict):
            raise _crash("step is no object", f"step {number}")
    return record, steps


def _scores(line: bytes) -> list[float]:
    """The scores that count, in the order of the steps: ``float(score)`` succeeds."""
    scores = [_number(step.get("score")) for step in _parsed(line)[1]]
    return [score for score in scores if score is not None]


def _output(line: bytes) -> bytes:
    """What the release writes of a chosen rollout: ``json.dumps({"image": ...,
    "conversations": ...}, ensure_ascii=False)``, with its newline.

    Raises:
        _Dropped: it writes nothing.
        BadRecord: it would crash, or the line is no longer the one that was ranked.
    """
    try:
        record, steps = _parsed(line)
    except (_Blank, _Refused) as error:
        raise BadRecord("line changed", "the file changed while it was read") from error
    if not record.get("image"):
        raise _Dropped(NO_IMAGE)
    texts, labels = [], []
    for step in steps:
        texts.append(str(step.get("step") or "").strip())
        if not texts[-1]:
            raise _Dropped(EMPTY_STEP)
        score = _number(step.get("score"))
        if score is None:
            raise _Dropped(NO_SCORE)
        labels.append(1.0 if score > 0 else 0.0)
    question = str(record.get("question_orig") or record.get("question") or "").strip()
    try:
        image, prompt = json_line(record["image"]), render_prompt(question, texts)
        return conversation_line(image, prompt, labels) + b"\n"
    except BadRecord as error:
        raise _crash(error.reason, error.detail) from error
    except RecursionError as error:
        raise _crash("nested too deeply") from error


def _number(score: Any) -> float | None:
    try:
        return float(score)
    except (TypeError, ValueError):
        return None
    except OverflowError as error:
        raise _crash("score too large", "it overflows a float") from error


def _crash(reason: str, detail: str = "") -> BadRecord:
    """The fault that would end the release with a traceback."""
    way_out = "the released script would crash here; mend the line or take it out"
    return BadRecord(reason, f"{detail}; {way_out}" if detail else way_out)
