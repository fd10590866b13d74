"""One line as the released selection script reads and rewrites it.

The standard library's ``json`` decides what a line holds. A typed decoder, which builds
none of the text that no one asks for, reads the lines on which the two are known to
agree; a differential fuzz test compares them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import numpy as np

from mprm_jax.data.formats.json_record import json_value
from mprm_jax.data.formats.prm import conversation_line, render_prompt
from mprm_jax.data.framing import Chunk
from mprm_jax.data.problems import BadRecord
from mprm_jax.data.typed_lines import decode_chunk, may_hold_long_integer

NO_IMAGE = "image missing"
EMPTY_STEP = "empty step text"
NO_SCORE = "score does not count"


class _Score(msgspec.Struct, gc=False):
    score: float | None = None


class _Scores(msgspec.Struct, gc=False):
    steps_with_score: list[_Score] | None = None


class _Step(msgspec.Struct, gc=False):
    step: str | None = None
    score: float | None = None


class _Rollout(msgspec.Struct, gc=False):
    steps_with_score: list[_Step]
    image: str | None = None
    question: str | None = None
    question_orig: str | None = None


_score = attrgetter("score")
_SCORES = msgspec.json.Decoder(_Scores)
_ROLLOUT = msgspec.json.Decoder(_Rollout)
_T = TypeVar("_T")


class Blank(Exception):
    """A line of white space alone."""


class Refused(Exception):
    """A line that ``json.loads`` refuses; the release skips it in silence."""


@dataclass(frozen=True)
class Pick:
    """What the release writes of a chosen rollout.

    Attributes:
        image: as is, whatever it is.
        question: without surrounding white space; may be empty.
        texts: of each step, without surrounding white space.
        scores: of each step; None does not count.
    """

    image: Any
    question: str
    texts: list[str]
    scores: list[float | None]

    @property
    def drop_reason(self) -> str | None:
        """Why the release drops the pick: the first reason it meets, or None."""
        if not self.image:
            return NO_IMAGE
        for text, score in zip(self.texts, self.scores, strict=True):
            if not text:
                return EMPTY_STEP
            if score is None:
                return NO_SCORE
        return None

    def output(self) -> bytes:
        """The line ``json.dumps({"image": ..., "conversations": ...},
        ensure_ascii=False)``, of a pick that is not dropped.

        Raises:
            BadRecord: it cannot be written as UTF-8, or nests too deeply.
        """
        labels = [1.0 if score and score > 0 else 0.0 for score in self.scores]
        try:
            prompt = render_prompt(self.question, self.texts)
            return conversation_line(json_value(self.image), prompt, labels)
        except BadRecord as error:
            raise _crash(error.reason, error.detail) from error
        except RecursionError as error:
            raise _crash("nested too deeply") from error


def read_clean_scores(
    chunk: Chunk, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """(scores of all lines one after another, how many each line has), as
    :func:`read_scores` gives them for each line; None if that must decide for any line.
    """
    records = decode_chunk(_SCORES, chunk, starts, ends)
    if records is None:
        return None
    steps = [record.steps_with_score or () for record in records]
    lengths = np.fromiter(map(len, steps), np.int64, len(steps))
    # None becomes NaN, which no JSON number is.
    scores = np.fromiter(map(_score, chain.from_iterable(steps)), np.float64)
    counts = ~np.isnan(scores)
    if not np.all(counts):
        owner = np.repeat(np.arange(len(steps)), lengths)
        lengths = np.bincount(owner[counts], minlength=len(steps))
    return scores[counts], lengths


def read_scores(line: bytes) -> list[float]:
    """The scores that count, in the order of the steps: ``float(score)`` succeeds.

    Raises:
        Blank, Refused: the release skips the line.
        BadRecord: the release would crash.
    """
    # The decoder does not look at the bytes of strings it skips.
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise _crash("invalid UTF-8", error.reason) from error
    typed = _typed(_SCORES, line)
    if typed is not None:
        scores = [step.score for step in typed.steps_with_score or ()]
    else:
        scores = [_number(step.get("score")) for step in _parsed(line)[1]]
    return [score for score in scores if score is not None]


def read_pick(line: bytes) -> Pick:
    """A line for which :func:`read_scores` gave at least one score.

    Raises:
        BadRecord: the release would crash, or the line is no longer that line.
    """
    try:
        typed = _typed(_ROLLOUT, line)
        if typed is not None:
            return Pick(
                typed.image,
                (typed.question_orig or typed.question or "").strip(),
                [(step.step or "").strip() for step in typed.steps_with_score],
                [step.score for step in typed.steps_with_score],
            )
        record, steps = _parsed(line)
        return Pick(
            record.get("image"),
            str(record.get("question_orig") or record.get("question") or "").strip(),
            [str(step.get("step") or "").strip() for step in steps],
            [_number(step.get("score")) for step in steps],
        )
    except (Blank, Refused, UnicodeDecodeError) as error:
        raise BadRecord("line changed", "the file changed while it was read") from error
    except RecursionError as error:
        raise _crash("nested too deeply") from error


def _typed(decoder: msgspec.json.Decoder[_T], line: bytes) -> _T | None:
    """A line of UTF-8 by a typed decoder, or None where ``json.loads`` must decide:
    NaN, lone surrogates, values of other types, very long integers, deep nesting, and
    whatever both refuse.
    """
    if may_hold_long_integer(line):
        return None
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None


def _parsed(line: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record and its steps by the standard library."""
    text = line.decode().strip()
    if not text:
        raise Blank
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused from error
    if not isinstance(record, dict):
        raise _crash("record is no object")
    steps = record.get("steps_with_score") or []
    if not isinstance(steps, list):
        raise _crash("steps_with_score is no list")
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict):
            raise _crash("step is no object", f"step {number}")
    return record, steps


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
