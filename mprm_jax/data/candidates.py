"""Candidate sets: several solutions of one problem, of which a model picks the best.

``{"question", "image"?, "answer"?, "data_source"?, "candidates": [{"steps": [s1, s2],
"answer" or "correct", "prm_scores"?}]}``, one problem per line or one JSON list.

A candidate is correct if ``correct`` says so, else if its answer is the problem's: the
same text, upper and lower case alike, or the same decimal number. ``prm_scores`` are
the scores of a model, one per step; with them the texts may be left out.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from mprm_jax.data.predictions import finite_scores, read_records
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.record import check_encodable, check_image_path, check_text


class Candidate(msgspec.Struct, frozen=True):
    """One solution.

    Attributes:
        steps: texts; empty where only scores are given.
        correct: whether its answer is right.
        scores: one per step, where given.
        truncated: steps at the end without a score, because they did not fit the model.
    """

    steps: tuple[str, ...]
    correct: bool
    scores: tuple[float, ...] | None = None
    truncated: int = 0


class CandidateSet(msgspec.Struct, frozen=True):
    """One problem with its candidates.

    Attributes:
        where: ``FILE:LINE: record NUMBER``, for messages.
        question: without surrounding white space; empty where only scores are given.
        images: paths below the image root.
        source: name of its source; empty if not given.
        candidates: at least one.
    """

    where: str
    question: str
    images: tuple[str, ...]
    source: str
    candidates: tuple[Candidate, ...]

    @property
    def id(self) -> str:
        """Hash of what is asked (question, image paths), not of the answers."""
        content = msgspec.json.encode([self.question, self.images])
        return xxhash.xxh3_64_hexdigest(content)


class _Candidate(msgspec.Struct):
    steps: list[str] = []
    answer: str | int | float | None = None
    correct: bool | int | None = None
    prm_scores: list[float] | None = None
    truncated: int = 0


class _Problem(msgspec.Struct):
    candidates: list[_Candidate]
    question: str = ""
    image: str | tuple[str, ...] | None = None
    answer: str | int | float | None = None
    data_source: str | None = None


_DECODER = msgspec.json.Decoder(_Problem)


def read_candidates(path: Path, scored: bool) -> list[CandidateSet]:
    """The candidate sets of a file.

    Args:
        path: the file.
        scored: whether scores must be there; else texts must.

    Raises:
        DataError: the file cannot be used; the message names the record.
    """
    sets = []
    for where, _, value, _ in read_records(path, _DECODER, "candidates"):
        try:
            sets.append(_candidate_set(where, value, scored))
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
    return sets


def _candidate_set(where: str, value: _Problem, scored: bool) -> CandidateSet:
    if not value.candidates:
        raise BadRecord("no candidates")
    images = (value.image,) if isinstance(value.image, str) else value.image or ()
    for image in images:
        check_image_path(image)
    if not scored and not value.question.strip():
        raise BadRecord("question missing")
    check_text(value.question, "the question")
    check_encodable(value.data_source or "", "data_source")
    return CandidateSet(
        where,
        value.question.strip(),
        images,
        value.data_source or "",
        tuple(
            _candidate(one, value.answer, f"candidate {number}", scored)
            for number, one in enumerate(value.candidates, 1)
        ),
    )


def _candidate(value: _Candidate, answer: Any, where: str, scored: bool) -> Candidate:
    steps = tuple(step.strip() for step in value.steps)
    if scored:
        scores = value.prm_scores
        if not scores:
            raise BadRecord("no scores", f"{where} has no prm_scores")
        if steps and len(steps) != len(scores) + value.truncated:
            raise BadRecord(
                "steps and scores differ in number",
                f"{where} has {len(steps)} steps, {len(scores)} prm_scores",
            )
        correct = _correct(value, answer, where)
        return Candidate(steps, correct, finite_scores(scores), value.truncated)
    if not steps or not all(steps):
        raise BadRecord("empty step" if steps else "no steps", where)
    for number, step in enumerate(steps, 1):
        check_text(step, f"{where}, step {number}")
    return Candidate(steps, _correct(value, answer, where))


def _correct(value: _Candidate, answer: Any, where: str) -> bool:
    if value.correct is not None:
        if value.correct not in (0, 1):
            raise BadRecord("correct is not true or false", f"{where}: {value.correct}")
        return bool(value.correct)
    if value.answer is None or answer is None:
        missing = "the problem" if value.answer is not None else where
        raise BadRecord(
            "answer missing", f'{missing} has neither "answer" nor "correct"'
        )
    return same_answer(str(value.answer), str(answer))


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are the same text, whatever the case, or the same number."""
    one, other = one.strip().casefold(), other.strip().casefold()
    if one == other:
        return True
    try:
        numbers = Decimal(one), Decimal(other)
    except InvalidOperation:
        return False
    return all(number.is_finite() for number in numbers) and numbers[0] == numbers[1]
