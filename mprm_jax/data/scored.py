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
"answer" or "correct", "prm_scores"?, "prm_concentrations"?, "tokens"?}]}``

A candidate is correct if ``correct`` says so, else if its answer is the problem's by a
rule of :mod:`mprm_jax.data.answers`; one without an answer (none was found in its text:
``null``, empty, or no such key) is wrong. ``prm_scores`` are the scores of a model, one
per step; with them the texts may be left out. ``prm_concentrations`` c beside them say
that the success rate of a step of score m is Beta(c m, c (1 - m)). ``tokens`` (else the
``words`` of the texts) are what a candidate cost.

Scores may stand under any name in :class:`Scored`. Other keys may be there. Instead of
one record per line the file may be one JSON list; a folder of such files is read as
one, in the order of their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import xxhash
from msgspec import UNSET, UnsetType

from mprm_jax.data.answers import AnswerRule, answer_classes
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


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Prediction(Scored):
    data_source: str
    labels_per_step: list[float | list[float]]
    id: str | int | None = None
    truncated: _Count = 0


class Candidate(msgspec.Struct, frozen=True):
    """One solution.

    Attributes:
        steps: texts; empty where only scores are given.
        correct: whether its answer is right.
        scores: one per step, where given.
        truncated: steps at the end without a score, because they did not fit the model.
        answer: None: none was found; UNSET: nobody says, only whether it is right.
        concentrations: of the steps' success rates about their scores, where given.
        tokens: that it cost, where given.
        words: of its steps; None where neither they nor their texts are given.
    """

    steps: tuple[str, ...]
    correct: bool
    scores: tuple[float, ...] | None = None
    truncated: int = 0
    answer: str | UnsetType | None = UNSET
    concentrations: tuple[float, ...] | None = None
    tokens: int | None = None
    words: int | None = None


class CandidateSet(msgspec.Struct, frozen=True):
    """One problem with its candidates.

    Attributes:
        where: ``FILE:LINE: record NUMBER``, for messages.
        question: without surrounding white space; empty where only scores are given.
        images: paths below the image root.
        source: name of its source; empty if not given.
        candidates: at least one.
        id: of the problem; by default a hash of what is asked (question, image paths).
        classes: which of the candidates have the same answer, -1 for none; None: of
            some nobody says what they answer.
        undecided: comparisons of answers that mathematics gave up.
    """

    where: str
    question: str
    images: tuple[str, ...]
    source: str
    candidates: tuple[Candidate, ...]
    id: str
    classes: tuple[int, ...] | None
    undecided: int


class _Candidate(Scored):
    steps: list[str] = []
    answer: str | int | float | UnsetType | None = UNSET
    correct: bool | int | None = None
    truncated: _Count = 0
    prm_concentrations: list[float] | None = None
    tokens: _Count | None = None
    words: _Count | None = None


class _Problem(Pictured, frozen=True):
    candidates: list[_Candidate]
    id: str | int | None = None
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


def read_candidates(
    path: Path, scored: bool, answers: AnswerRule = "text"
) -> list[CandidateSet]:
    """The candidate sets of a file.

    Args:
        path: the file.
        scored: whether scores must be there; else texts must.
        answers: when two answers are the same.

    Raises:
        DataError: the file cannot be used; the message names the record.
        ModuleNotFoundError: the rule needs a library.
    """

    def read(place: Place, data: bytes) -> CandidateSet:
        value = parse(data, _PROBLEM, "candidates", lenient=True)
        if not value.paths():
            check_pictures(data)
        return _candidate_set(place, value, scored, answers)

    return list(read_records(path, read))


def _candidate_set(
    place: Place, value: _Problem, scored: bool, answers: AnswerRule
) -> CandidateSet:
    if not value.candidates:
        raise BadRecord("no candidates")
    asked = without_placeholders(Record(value.question.strip(), (), value.paths()))
    for image in asked.images:
        check_image_path(image)
    if not scored and not asked.question:
        raise BadRecord("question missing")
    check_text(asked.question, "the question")
    check_encodable(value.data_source or "", "data_source")
    given = [
        UNSET if one.answer is UNSET and one.correct is not None else _text(one.answer)
        for one in value.candidates
    ]
    told = [_text(value.answer), *(one or None for one in given)]
    found = answer_classes(told, answers)
    truth, *classes = found.of
    candidates = []
    for number, one in enumerate(value.candidates, 1):
        where = f"candidate {number}"
        read = _scored_candidate(one, where) if scored else _texts(one, where)
        candidates.append(
            msgspec.structs.replace(
                read,
                correct=_correct(one, truth, classes[number - 1], where),
                answer=given[number - 1],
                tokens=one.tokens,
                words=sum(len(step.split()) for step in read.steps) or one.words,
            )
        )
    return CandidateSet(
        place.where,
        asked.question,
        asked.images,
        value.data_source or "",
        tuple(candidates),
        _id(value, asked, place),
        None if UNSET in given else tuple(classes),
        found.undecided,
    )


def _id(value: _Problem, asked: Record, place: Place) -> str:
    if value.id is None and not asked.question:
        return f"record {place.number}"
    content = msgspec.json.encode([asked.question, asked.images])
    name = xxhash.xxh3_64_hexdigest(content) if value.id is None else str(value.id)
    check_encodable(name, "id")
    return name


def _scored_candidate(value: _Candidate, where: str) -> Candidate:
    steps = tuple(step.strip() for step in value.steps)
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
    found, how = finite_scores(scores[0]), value.prm_concentrations
    if how is not None:
        if len(how) != len(found):
            raise BadRecord(
                "scores and concentrations differ in number",
                f"{where} has {len(found)} scores, {len(how)} prm_concentrations",
            )
        if not all(0 < one < math.inf for one in how):
            raise BadRecord("concentration is not positive and finite", where)
        if not all(0 <= one <= 1 for one in found):
            raise BadRecord("concentrations beside scores outside [0, 1]", where)
    of = None if how is None else tuple(how)
    return Candidate(steps, False, found, value.truncated, concentrations=of)


def _texts(value: _Candidate, where: str) -> Candidate:
    steps = tuple(step.strip() for step in value.steps)
    if not steps or not all(steps):
        raise BadRecord("empty step" if steps else "no steps", where)
    for number, step in enumerate(steps, 1):
        check_text(step, f"{where}, step {number}")
    return Candidate(steps, False)


def _correct(value: _Candidate, truth: int, answer: int, where: str) -> bool:
    """Whether the candidate is right, by word or by the classes of the answers."""
    if value.correct is not None:
        if value.correct not in (0, 1):
            raise BadRecord("correct is not true or false", f"{where}: {value.correct}")
        return bool(value.correct)
    if truth < 0:
        raise BadRecord(
            "answer missing",
            f'the problem has no "answer", and {where} is not told "correct"',
        )
    return answer == truth


def _text(answer: Any) -> str | None:
    """An answer as text; None where there is none, or it is empty."""
    text = "" if answer is None or answer is UNSET else str(answer).strip()
    check_encodable(text, "answer")
    return text or None
