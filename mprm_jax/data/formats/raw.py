"""The raw VisualPRM annotation: Monte-Carlo counts for every step of a rollout.

``{image, question, question_orig?, answer, response, steps_with_score: [{step, score,
num_mc_correct, num_mc_total}], num_mc_sequences?}``, one record per line. ``image`` is
a path, a list of paths, or null for a text-only rollout; the key must be there. Where a
record holds a key twice, the last one counts, as for every JSON reader of Python.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions, WriteOptions
from mprm_jax.data.formats.json_record import check_readable, kind_of, load_object
from mprm_jax.data.problems import BadRecord
from mprm_jax.data.record import (
    MAX_TRIALS,
    Record,
    Step,
    check_record,
    counts_from_score,
)
from theory.rollouts import SCORE_TOLERANCE


def decode(line: bytes, options: ReadOptions) -> Record:
    """One raw record; a record without counts needs binary scores or ``trials``.

    Raises:
        BadRecord: anything that makes it unusable, each with its own words.
    """
    value = load_object(line)
    steps = value.get("steps_with_score")
    if not isinstance(steps, list):
        raise BadRecord(
            "no steps" if steps is None else "steps_with_score is not a list"
        )
    question = value.get("question_orig") or value.get("question")
    if question is not None and not isinstance(question, str):
        raise BadRecord("question is not a string", f"it is {kind_of(question)}")
    return check_record(
        Record(
            question=(question or "").strip(),
            steps=tuple(_step(step, i, options) for i, step in enumerate(steps, 1)),
            image=_image(value),
            answer=_optional_text(value.get("answer")),
            response=_optional_text(value.get("response")),
            source=_source(value, options),
        )
    )


def _optional_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _source(value: dict, options: ReadOptions) -> str | None:
    if options.source_from is None:
        return None
    source = value.get(options.source_from)
    if not isinstance(source, str) or not source:
        raise BadRecord(
            "source missing", f"field {options.source_from!r} holds {kind_of(source)}"
        )
    return source


def _image(value: dict) -> str | tuple[str, ...] | None:
    if "image" not in value:
        raise BadRecord("image missing", 'a text-only rollout says "image": null')
    image = value["image"]
    if image is None or isinstance(image, str):
        return image
    if not isinstance(image, list):
        raise BadRecord("image is no path", f"it is {kind_of(image)}")
    if not image:
        raise BadRecord("image empty", "the list of images is empty")
    for path in image:
        if not isinstance(path, str):
            raise BadRecord("image is no path", f"the list holds {kind_of(path)}")
    return tuple(image)


def _step(step: object, number: int, options: ReadOptions) -> Step:
    if not isinstance(step, dict):
        raise BadRecord("step is not an object", f"step {number} is {kind_of(step)}")
    text = step.get("step")
    if not isinstance(text, str):
        raise BadRecord("step text is not a string", f"step {number}: {kind_of(text)}")
    score = _score(step, number)
    if "num_mc_correct" not in step and "num_mc_total" not in step:
        successes, trials = counts_from_score(score, options.trials, number)
        return Step(text.strip(), successes, trials)
    successes = _count(step, "num_mc_correct", number)
    trials = _count(step, "num_mc_total", number)
    if successes > trials:
        raise BadRecord(
            "more correct than sampled",
            f"step {number}: num_mc_correct {successes}, num_mc_total {trials}",
        )
    if not 0 <= score <= 1:
        raise BadRecord("score outside [0, 1]", f"step {number} has score {score}")
    if abs(score - (successes / trials if trials else 0.0)) > SCORE_TOLERANCE:
        raise BadRecord(
            "score is not correct/total",
            f"step {number} has score {score} with {successes}/{trials}",
        )
    return Step(text.strip(), successes, trials)


def _score(step: dict, number: int) -> float:
    if "score" not in step:
        raise BadRecord("score missing", f"step {number}")
    score = step["score"]
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise BadRecord("score is not a number", f"step {number} has {kind_of(score)}")
    if isinstance(score, int) and abs(score) > 1:
        raise BadRecord("score outside [0, 1]", f"step {number}")
    if not math.isfinite(score):
        raise BadRecord("score is not finite", f"step {number} has {score}")
    return float(score)


def _count(step: dict, name: str, number: int) -> int:
    count = step.get(name)
    if isinstance(count, bool) or not isinstance(count, int):
        raise BadRecord(f"{name} is not an integer", f"step {number}: {kind_of(count)}")
    if not 0 <= count <= MAX_TRIALS:
        raise BadRecord(f"{name} outside [0, {MAX_TRIALS}]", f"step {number}")
    return count


def encode(record: Record, options: WriteOptions) -> bytes:
    """One raw line; counts are kept, so label options do not apply.

    Scores are K/N, and 0 for a step that was never sampled, as the annotator writes.

    Raises:
        BadRecord: the record is one that would be refused when read.
    """
    check_record(record)
    texts = [step.text.strip() for step in record.steps]
    check_readable(record, record.question.strip(), texts, "raw")
    value: dict[str, Any] = {"image": record.image, "question": record.question}
    if record.answer is not None:
        value["answer"] = record.answer
    if record.response is not None:
        value["response"] = record.response
    value["steps_with_score"] = [
        {
            "step": step.text,
            "score": step.score if step.trials else 0.0,
            "num_mc_correct": step.successes,
            "num_mc_total": step.trials,
        }
        for step in record.steps
    ]
    return msgspec.json.encode(value)


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STEPS = msgspec.json.Decoder(list[msgspec.Raw])


def truncate(line: bytes, n_steps: int) -> bytes:
    """The raw line with only its first ``n_steps`` steps; the rest keeps its bytes.

    Raises:
        BadRecord: the line cannot be taken apart (it nests too deeply, or holds NaN).
    """
    try:
        value = _FIELDS.decode(line)
        steps = _STEPS.decode(value["steps_with_score"])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRecord("cannot be cut", str(error)) from None
    value["steps_with_score"] = msgspec.Raw(msgspec.json.encode(steps[:n_steps]))
    return msgspec.json.encode(value)


RAW = Format(
    name="raw",
    meaning="VisualPRM annotation: Monte-Carlo counts per step",
    decode=decode,
    encode=encode,
    soft=True,
    recognise=lambda keys: "steps_with_score" in keys,
)
