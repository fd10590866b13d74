"""Predictions: the scores any model gave to judged steps, one record per line.

``{"data_source": name, "labels_per_step": [1, -1, 0], "prm_scores": [0.9, 0.2, 0.5]}``

Labels are 1 correct, -1 wrong, 0 neutral. A record of several responses holds a list of
labels and a list of scores for each: ``[[1, -1], [1]]``, ``[[0.9, 0.2], [0.7]]``.
Scores are any finite numbers, larger for more likely correct. ``id``, if there, names
what was scored, the same for every model; splits are made by its hash. Other keys may
be there. Instead of one record per line the file may be one JSON list of records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mprm_jax.data.formats.raw import load_object
from mprm_jax.data.framing import CorpusFile, RecordFile
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.record import check_encodable
from theory.agreement import StepScores, step_scores


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


class _Record(msgspec.Struct):
    data_source: str
    labels_per_step: list[float | list[float]]
    prm_scores: list[float | list[float]]
    id: str | int | None = None
    truncated: int = 0


_DECODER = msgspec.json.Decoder(_Record)


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


def read_records(
    path: Path, decoder: msgspec.json.Decoder[Any], form: str
) -> Iterator[tuple[str, int, Any, bytes]]:
    """(where, number, value, bytes) of every record, by a typed decoder.

    ``where`` is ``FILE:LINE: record NUMBER``. NaN and infinities get through, as they
    are for whoever knows what the number means to refuse.

    Raises:
        DataError: a record is no JSON or of another form; the message says which.
    """
    for number, line, data in json_records(path):
        where = f"{path}:{line}: record {number}"
        try:
            value = _decode(data, decoder, form)
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
        yield where, number, value, data


def _decode(data: bytes, decoder: msgspec.json.Decoder[Any], form: str) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise BadRecord(f"not a {form} record", str(error)) from None
    except RecursionError:
        raise BadRecord("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The standard library reads NaN, and has words for every other fault.
        value = load_object(data)
    try:
        return msgspec.convert(value, decoder.type)
    except msgspec.ValidationError as error:
        raise BadRecord(f"not a {form} record", str(error)) from None


def read_predictions(path: Path) -> list[Prediction]:
    """The scored responses of a predictions file.

    Raises:
        DataError: the file cannot be used; the message names the record.
    """
    rows: list[Prediction] = []
    for where, number, record, _ in read_records(path, _DECODER, "predictions"):
        try:
            rows.extend(_responses(record, number))
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
    return rows


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
            values.append(msgspec.json.decode(_FIELDS.decode(data)[field]))
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


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _responses(record: _Record, number: int) -> Iterator[Prediction]:
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
