"""Steps that a model has scored: predictions of judged steps, and candidate sets.

Predictions are the scores any model gave to judged steps, one record per line:

``{"data_source": name, "labels_per_step": [1, -1, 0], "prm_scores": [0.9, 0.2, 0.5]}``

Labels are 1 correct, -1 wrong, 0 neutral. A record of several responses holds a list of
labels and a list of scores for each: ``[[1, -1], [1]]``, ``[[0.9, 0.2], [0.7]]``.
Scores are any finite numbers, larger for more likely correct. ``id``, if there, names
what was scored, the same for every model; splits are made by its hash.

Candidate sets are several solutions of one problem, of which a model picks the best:

``{"question", "image"?, "answer"?, "data_source"?, "candidates": [{"steps": [s1, s2],
"answer" or "correct", "prm_scores"?}]}``

A candidate is correct if ``correct`` says so, else if its answer is the problem's: the
same text, upper and lower case alike, or the same decimal number; one without an answer
(none was found in its text: ``null``, empty, or no such key) is wrong. ``prm_scores``
are the scores of a model, one per step; with them the texts may be left out.

Other keys may be there. Instead of one record per line the file may be one JSON list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import xxhash
from msgspec import UNSET, UnsetType

from mprm_jax.data.formats.json_record import parse
from mprm_jax.data.framing import CorpusFile, RecordFile
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import check_encodable, check_image_path, check_text
from theory.agreement import StepScores, step_scores

T = TypeVar("T")


class Prediction(msgspec.Struct, frozen=True):
    """One scored response.

    Attributes:
        data_source: name of its source.
        labels: 1, -1 or 0 per step.
        scores: as many.
        id: what was scored, whichever model did.
        record: number of the record, from 1.
        truncated: further steps that did not fit the model and have no score.
    """

    data_source: str
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    id: str
    record: int
    truncated: int = 0


class _Prediction(msgspec.Struct):
    data_source: str
    labels_per_step: list[float | list[float]]
    prm_scores: list[float | list[float]]
    id: str | int | None = None
    truncated: int = 0


class Candidate(msgspec.Struct, frozen=True):
    """One solution.

    Attributes:
        steps: texts; empty where only scores are given.
        correct: whether its answer is right.
        scores: one per step, where given.
        truncated: steps at the end without a score, because they did not fit the model.
        answered: whether it has an answer; wrong if not.
    """

    steps: tuple[str, ...]
    correct: bool
    scores: tuple[float, ...] | None = None
    truncated: int = 0
    answered: bool = True


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
    answer: str | int | float | UnsetType | None = UNSET
    correct: bool | int | None = None
    prm_scores: list[float] | None = None
    truncated: int = 0


class _Problem(msgspec.Struct):
    candidates: list[_Candidate]
    question: str = ""
    image: str | tuple[str, ...] | None = None
    answer: str | int | float | None = None
    data_source: str | None = None


_PREDICTION = msgspec.json.Decoder(_Prediction)
_PROBLEM = msgspec.json.Decoder(_Problem)


def json_records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, line, bytes) of every record of JSON lines or of one JSON list.

    Blank lines are passed over.

    Raises:
        DataError: the file cannot be read, or holds no record.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    file = CorpusFile(path, path.name)
    number = 0
    for line, data in _framed(file):
        if data.strip():
            number += 1
            yield number, line, data
    if not number:
        raise DataError(f"{path}: holds no record")


def _framed(file: CorpusFile) -> Iterator[tuple[int, bytes]]:
    with RecordFile(file) as probe:
        starts = (chunk.data.lstrip()[:1] for chunk in probe.chunks())
        is_list = next(filter(None, starts), b"") == b"["
    with RecordFile(file) as records:
        if is_list:
            for line, _, data in records.array_elements():
                yield line, data
            return
        for chunk in records.chunks():
            if chunk.too_long:
                raise DataError(f"{file.path}:{chunk.line}: line too long for a record")
            for line, _, data in chunk.located():
                yield line, data


def read_records(path: Path, read: Callable[[str, int, bytes], T]) -> Iterator[T]:
    """What ``read`` makes of (where, number, bytes) of every record.

    ``where`` is ``FILE:LINE: record NUMBER``.

    Raises:
        DataError: the file cannot be read, or ``read`` raised a BadRecord; the message
            says which record it is.
    """
    for number, line, data in json_records(path):
        where = f"{path}:{line}: record {number}"
        try:
            value = read(where, number, data)
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
        yield value


def read_predictions(path: Path) -> list[Prediction]:
    """The scored responses of a predictions file.

    Raises:
        DataError: the file cannot be used; the message names the record.
    """

    def read(_: str, number: int, data: bytes) -> list[Prediction]:
        return list(
            _responses(parse(data, _PREDICTION, "predictions", lenient=True), number)
        )

    return [row for rows in read_records(path, read) for row in rows]


def columns(rows: Sequence[Prediction]) -> StepScores:
    """The judged steps of scored responses."""
    return step_scores(
        [row.data_source for row in rows],
        [row.labels for row in rows],
        [row.scores for row in rows],
        [row.id for row in rows],
    )


def encode_prediction(row: Prediction) -> bytes:
    """One line of a predictions file, with its newline."""
    value: dict[str, Any] = {
        "id": row.id,
        "data_source": row.data_source,
        "labels_per_step": row.labels,
        "prm_scores": row.scores,
    }
    if row.truncated:
        value["truncated"] = row.truncated
    return msgspec.json.encode(value) + b"\n"


def read_prior(path: Path, field: str, rows: Sequence[Prediction]) -> np.ndarray:
    """A column known beforehand, for the judged steps of ``rows``, float64.

    Args:
        path: JSON records, one for each record that ``rows`` come from, in their order.
        field: of every record: a number, or one for each step (those without a score
            at the end included).
        rows: scored responses.

    Raises:
        DataError: there are more or fewer records, or a field does not fit.
    """
    values: list[Any] = []
    for number, line, data in json_records(path):
        try:
            values.append(msgspec.json.decode(data, type=dict)[field])
        except (KeyError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise DataError(
                f"{path}:{line}: record {number}: no usable field {field!r}"
            ) from None
    records = max((row.record for row in rows), default=0)
    if len(values) != records:
        raise DataError(
            f"{path}: {len(values)} records where the scores have {records}; they must "
            "follow one another in the same order"
        )
    column: list[float] = []
    for row in rows:
        value, n = values[row.record - 1], len(row.labels)
        of_steps = value[:n] if isinstance(value, list) else [value] * n
        if len(of_steps) != n or not all(type(one) in (int, float) for one in of_steps):
            raise DataError(
                f"{path}: record {row.record}: {field!r} is neither a number nor one "
                f"for each of {n} steps"
            )
        column.extend(
            float(one) for one, label in zip(of_steps, row.labels, strict=True) if label
        )
    return np.array(column, np.float64)


def _responses(record: _Prediction, number: int) -> Iterator[Prediction]:
    labels, scores = _lists(record.labels_per_step), _lists(record.prm_scores)
    if len(labels) != len(scores):
        raise BadRecord(
            "labels and scores differ in number",
            f"labels of {len(labels)} responses, scores of {len(scores)}",
        )
    # Without an id the place in the file stands for it: the same for every model that
    # scored the same file.
    name = f"record {number}" if record.id is None else str(record.id)
    check_encodable(record.data_source + name, "data_source or id")
    for of_labels, of_scores in zip(labels, scores, strict=True):
        if len(of_labels) != len(of_scores):
            raise BadRecord(
                "labels and scores differ in number",
                f"{len(of_labels)} labels_per_step, {len(of_scores)} prm_scores",
            )
        yield Prediction(
            record.data_source,
            tuple(_label(label, j) for j, label in enumerate(of_labels, 1)),
            finite_scores(of_scores),
            name,
            number,
            record.truncated,
        )


def _lists(value: list[float | list[float]]) -> list[list[float]]:
    """One list per response."""
    nested: list[list[float]] = [one for one in value if isinstance(one, list)]
    flat: list[float] = [one for one in value if not isinstance(one, list)]
    if nested and flat:
        raise BadRecord("lists and numbers mixed", "give one list per response")
    return nested or [flat]


def _label(label: float, number: int) -> int:
    if label not in (1, -1, 0):
        raise BadRecord(
            "label is not 1, -1 or 0",
            f"step {number} has {label} (1 correct, -1 wrong, 0 neutral)",
        )
    return int(label)


def finite_scores(scores: Sequence[float]) -> tuple[float, ...]:
    """The scores of one response.

    Raises:
        BadRecord: one is NaN or infinite.
    """
    for number, score in enumerate(scores, 1):
        if not math.isfinite(score):
            raise BadRecord("score is not finite", f"step {number} has {score}")
    return tuple(scores)


def read_candidates(path: Path, scored: bool) -> list[CandidateSet]:
    """The candidate sets of a file.

    Args:
        path: the file.
        scored: whether scores must be there; else texts must.

    Raises:
        DataError: the file cannot be used; the message names the record.
    """

    def read(where: str, _: int, data: bytes) -> CandidateSet:
        return _candidate_set(
            where, parse(data, _PROBLEM, "candidates", lenient=True), scored
        )

    return list(read_records(path, read))


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
        correct, answered = _correct(value, answer, where)
        scores = finite_scores(scores)
        return Candidate(steps, correct, scores, value.truncated, answered)
    if not steps or not all(steps):
        raise BadRecord("empty step" if steps else "no steps", where)
    for number, step in enumerate(steps, 1):
        check_text(step, f"{where}, step {number}")
    correct, answered = _correct(value, answer, where)
    return Candidate(steps, correct, answered=answered)


def _correct(value: _Candidate, answer: Any, where: str) -> tuple[bool, bool]:
    """Whether the candidate is right, and whether it has an answer."""
    given = value.answer
    if value.correct is not None:
        if value.correct not in (0, 1):
            raise BadRecord("correct is not true or false", f"{where}: {value.correct}")
        return bool(value.correct), bool(value.correct) or not _is_blank(given)
    if answer is UNSET or _is_blank(answer):
        raise BadRecord(
            "answer missing",
            f'the problem has no "answer", and {where} is not told "correct"',
        )
    if given is UNSET or _is_blank(given):
        return False, False
    return same_answer(str(given), str(answer)), True


def _is_blank(answer: Any) -> bool:
    return answer is None or (isinstance(answer, str) and not answer.strip())


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
