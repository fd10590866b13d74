"""Steps that a model has scored: predictions of judged steps, and candidate sets.

Predictions are the scores any model gave to judged steps, one record per line:

``{"data_source": name, "labels_per_step": [1, -1, 0], "prm_scores": [0.9, 0.2, 0.5]}``

Labels are 1 correct, -1 wrong, 0 neutral. A record of several responses holds a list of
labels and a list of scores for each: ``[[1, -1], [1]]``, ``[[0.9, 0.2], [0.7]]``.
Scores are any finite numbers, larger for more likely correct. ``id``, if there, names
what was scored, the same for every model; splits are made by its hash.

A record of a benchmark (:attr:`Format.benchmark`) with scores beside is a prediction,
too. One list of scores is for its first solution, several are for all it holds.

Candidate sets are several solutions of one problem, of which a model picks the best:

``{"question", "image"?, "answer"?, "data_source"?, "candidates": [{"steps": [s1, s2],
"answer" or "correct", "prm_scores"?}]}``

A candidate is correct if ``correct`` says so, else if its answer is the problem's: the
same text, upper and lower case alike, or the same decimal number; one without an answer
(none was found in its text: ``null``, empty, or no such key) is wrong. ``prm_scores``
are the scores of a model, one per step; with them the texts may be left out.

Scores may stand under any name in :class:`Scored`. Other keys may be there. Instead of
one record per line the file may be one JSON list; a folder of such files is read as
one, in the order of their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import xxhash
from msgspec import UNSET, UnsetType

from mprm_jax.data.answers import same_answer
from mprm_jax.data.formats import FORMATS, detect
from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import (
    Pictured,
    check_paired,
    check_pictures,
    parse,
)
from mprm_jax.data.framing import CorpusFile, RecordFile, corpus_files
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import (
    Record,
    check_encodable,
    check_image_path,
    check_text,
    image_root,
    without_placeholders,
)
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
        truncated: further steps that have no score: they did not fit the model, or none
            is given.
    """

    data_source: str
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    id: str
    record: int
    truncated: int = 0


_Scores = list[float | list[float]]


class Scored(msgspec.Struct, kw_only=True):
    """The names under which people keep the scores of a response's steps.

    The first one goes before all others. What is no list (a single score, say) is none.
    """

    prm_scores: _Scores | None = None
    scores: Any = None
    step_scores: Any = None
    steps_scores: Any = None
    prm_step_scores: Any = None
    process_scores: Any = None
    prm_score: Any = None
    step_score: Any = None
    prm_rewards: Any = None
    step_rewards: Any = None
    process_rewards: Any = None
    prm_reward: Any = None
    step_reward: Any = None
    rewards: Any = None
    step_probs: Any = None

    def given(self) -> list[list[float]]:
        """The scores, one list per response.

        Raises:
            BadRecord: there are none, two names hold different ones, or one is no
                number.
        """
        if self.prm_scores is not None:
            return _lists(self.prm_scores)
        given: dict[str, _Scores] = {}
        for name in Scored.__struct_fields__[1:]:
            match getattr(self, name):
                # As PRMBench's evaluation code writes them.
                case {"step_level_validity_scores": [*value]} | [*value]:
                    given[name] = _numbers(value, name)
        if not given:
            names = ", ".join(Scored.__struct_fields__)
            raise BadRecord("no scores", f"no list under any of {names}")
        first, *others = given.values()
        if any(of != first for of in others):
            raise BadRecord("two keys hold scores", " and ".join(given))
        return _lists(first)


def _numbers(value: list[Any], name: str) -> _Scores:
    try:
        return msgspec.convert(value, _Scores)
    except msgspec.ValidationError as error:
        raise BadRecord("no scores", str(error).replace("`$", f"`$.{name}")) from None


class _Prediction(Scored):
    data_source: str
    labels_per_step: list[float | list[float]]
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


class _Candidate(Scored):
    steps: list[str] = []
    answer: str | int | float | UnsetType | None = UNSET
    correct: bool | int | None = None
    truncated: int = 0


class _Problem(Pictured, frozen=True):
    candidates: list[_Candidate]
    question: str = ""
    answer: str | int | float | None = None
    data_source: str | None = None


_OBJECT = msgspec.json.Decoder(dict[str, Any])
_SCORED = msgspec.json.Decoder(Scored)
_PREDICTION = msgspec.json.Decoder(_Prediction)
_PROBLEM = msgspec.json.Decoder(_Problem)


def json_records(path: Path) -> Iterator[tuple[int, CorpusFile, int, bytes]]:
    """(number from 1, file, line, bytes) of every record of JSON lines, of one JSON
    list, or of a folder of such files.

    Blank lines are passed over.

    Raises:
        DataError: a file cannot be read, or there is no record.
    """
    number = 0
    for file in corpus_files(path):
        for line, data in _framed(file):
            if data.strip():
                number += 1
                yield number, file, line, data
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


class Place(NamedTuple):
    """Where a record stands.

    Attributes:
        where: ``FILE:LINE: record NUMBER``, for messages.
        number: of the record, from 1.
        source: name of the file's source.
    """

    where: str
    number: int
    source: str


def read_records(path: Path, read: Callable[[Place, bytes], T]) -> Iterator[T]:
    """What ``read`` makes of the place and the bytes of every record.

    Raises:
        DataError: the file cannot be read, or ``read`` raised a BadRecord; the message
            says which record it is.
    """
    for number, file, line, data in json_records(path):
        where = f"{file.path}:{line}: record {number}"
        try:
            value = read(Place(where, number, file.source), data)
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
        yield value


def benchmark_format(data: bytes) -> Format | None:
    """The format of a benchmark's record; None if it is of none.

    Raises:
        BadRecord: it is no JSON object.
    """
    keys = parse(data, _OBJECT, "JSON", lenient=True)
    return next((of for of in FORMATS if of.benchmark and of.recognise(keys)), None)


def judged_records(data: bytes) -> tuple[Record, ...]:
    """The judged solutions of a benchmark's record.

    Raises:
        BadRecord: it is of no benchmark, or cannot be used.
    """
    if (form := benchmark_format(data)) is not None:
        return form.decode(data, ReadOptions())
    keys = parse(data, _OBJECT, "JSON", lenient=True)
    try:
        other = f"format {detect(keys).name} is not one"
    except DataError as error:
        other = str(error).partition(";")[0]
    raise BadRecord("no record of a benchmark", f"{other}; benchmarks: {_known()}")


def _known() -> str:
    return ", ".join(form.name for form in FORMATS if form.benchmark)


def judgements(record: Record) -> tuple[int, ...]:
    """Of each step: 1 correct, -1 wrong, 0 neutral or not judged."""
    return tuple(2 * step.successes - step.trials for step in record.steps)


def content_id(record: Record) -> str:
    """Hash of what is judged (question, steps, image paths), not of how."""
    texts = [step.text for step in record.steps]
    content = [record.question, texts, record.images]
    return xxhash.xxh3_64_hexdigest(msgspec.json.encode(content))


class Solution(msgspec.Struct, frozen=True):
    """One solution of a benchmark.

    Attributes:
        where: ``FILE:LINE: record NUMBER``, for messages.
        record: question, steps, images, source.
        labels: judgement of each step: 1 correct, -1 wrong, 0 neutral.
        number: of the record it stands in, from 1; a record may hold several.
    """

    where: str
    record: Record
    labels: tuple[int, ...]
    number: int

    @property
    def id(self) -> str:
        """Hash of what is judged (question, steps, image paths), not of how."""
        return content_id(self.record)


def read_benchmark(path: Path) -> list[Solution]:
    """The solutions of a benchmark's file in any format for that, JSON lines or a list,
    or of a folder of them. Where a record names no source, the file does.

    Raises:
        DataError: the file cannot be used; the message names the record.
    """

    def read(place: Place, data: bytes) -> list[Solution]:
        return [
            Solution(
                place.where,
                msgspec.structs.replace(record, source=record.source or place.source),
                judgements(record),
                place.number,
            )
            for record in judged_records(data)
        ]

    return [one for several in read_records(path, read) for one in several]


def solutions_root(path: Path, solutions: Sequence[Solution]) -> Path:
    """Where a benchmark's pictures lie if nobody says, by the first that it names."""
    named = (of.record.images for of in solutions if of.record.images)
    return image_root(path, next(named, ()))


def without_repeats(solutions: Sequence[Solution]) -> list[Solution]:
    """The solutions without those that stand behind another one in their record and
    stood in an earlier record, judged alike: PRMBench repeats an original process for
    every class of error.
    """
    seen: set[tuple[str, tuple[int, ...]]] = set()
    kept, number = [], 0
    for one in solutions:
        key = one.id, one.labels
        if one.number != number or key not in seen:
            kept.append(one)
        number = one.number
        seen.add(key)
    return kept


def read_predictions(path: Path) -> list[Prediction]:
    """The scored responses of a file of predictions, or of benchmark records with
    scores beside them.

    Raises:
        DataError: the file cannot be used; the message names the record.
    """

    def read(place: Place, data: bytes) -> list[Prediction]:
        if b'"labels_per_step"' not in data:
            if benchmark_format(data) is None:
                raise BadRecord(
                    "not a predictions record",
                    f"it has no labels_per_step and is of no benchmark ({_known()})",
                )
            return list(_scored_solutions(place, data))
        value = parse(data, _PREDICTION, "predictions", lenient=True)
        return list(_responses(value, place.number))

    return [row for rows in read_records(path, read) for row in rows]


def _scored_solutions(place: Place, data: bytes) -> Iterator[Prediction]:
    records = judged_records(data)
    scores = parse(data, _SCORED, "scores", lenient=True).given()
    if len(scores) == 1:
        scores += [[]] * (len(records) - 1)
    if len(scores) != len(records):
        raise BadRecord(
            "solutions and scores differ in number",
            f"{len(records)} solutions, scores of {len(scores)}",
        )
    for record, of in zip(records, scores, strict=True):
        if of:
            check_paired(len(record.steps), len(of), "scores")
        labels, cut = judgements(record)[: len(of)], len(record.steps) - len(of)
        source, name = record.source or place.source, content_id(record)
        yield Prediction(source, labels, finite_scores(of), name, place.number, cut)


def columns(rows: Sequence[Prediction]) -> StepScores:
    """The judged steps of scored responses."""
    return step_scores(
        [row.data_source for row in rows],
        [row.labels for row in rows],
        [row.scores for row in rows],
        [row.id for row in rows],
        [row.truncated > 0 for row in rows],
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
    for number, file, line, data in json_records(path):
        try:
            values.append(msgspec.json.decode(data, type=dict)[field])
        except (KeyError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise DataError(
                f"{file.path}:{line}: record {number}: no usable field {field!r}"
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
    labels, scores = _lists(record.labels_per_step), record.given()
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

    def read(place: Place, data: bytes) -> CandidateSet:
        value = parse(data, _PROBLEM, "candidates", lenient=True)
        if not value.paths():
            check_pictures(data)
        return _candidate_set(place.where, value, scored)

    return list(read_records(path, read))


def _candidate_set(where: str, value: _Problem, scored: bool) -> CandidateSet:
    if not value.candidates:
        raise BadRecord("no candidates")
    asked = without_placeholders(Record(value.question.strip(), (), value.paths()))
    for image in asked.images:
        check_image_path(image)
    if not scored and not asked.question:
        raise BadRecord("question missing")
    check_text(asked.question, "the question")
    check_encodable(value.data_source or "", "data_source")
    return CandidateSet(
        where,
        asked.question,
        asked.images,
        value.data_source or "",
        tuple(
            _candidate(one, value.answer, f"candidate {number}", scored)
            for number, one in enumerate(value.candidates, 1)
        ),
    )


def _candidate(value: _Candidate, answer: Any, where: str, scored: bool) -> Candidate:
    steps = tuple(step.strip() for step in value.steps)
    if scored:
        try:
            scores = value.given()
        except BadRecord as error:
            raise BadRecord(error.reason, f"{where}: {error.detail}") from None
        if len(scores) != 1 or not scores[0]:
            raise BadRecord("no scores", f"{where} has not one list of them")
        if steps and len(steps) != len(scores[0]) + value.truncated:
            raise BadRecord(
                "steps and scores differ in number",
                f"{where} has {len(steps)} steps, {len(scores[0])} scores",
            )
        correct, answered = _correct(value, answer, where)
        values = finite_scores(scores[0])
        return Candidate(steps, correct, values, value.truncated, answered)
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
