"""The raw VisualPRM annotation: Monte-Carlo counts for every step of a rollout.

``{image, question, question_orig?, answer, response, steps_with_score: [{step, score,
num_mc_correct, num_mc_total}], num_mc_sequences?}``, one record per line. ``image`` (or
``images``) is a path, a list of paths, or null for a text-only rollout; one of these
keys must be there. Where a record holds a key twice, the last one counts, as for every
JSON reader of Python. N may differ from step to step. The counts decide; a score that
stands beside them may be rounded to two or more decimals. Where there are no counts,
the score is read with ``ReadOptions.trials``, or as it is (:func:`scored_step`).
Answer and response are not read: a raw corpus is copied to raw line by line, and no
other format that is written has a place for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from mprm_jax.data.formats.base import Format, ReadOptions, WriteOptions
from mprm_jax.data.formats.json_record import (
    Pictured,
    all_pictures,
    check_pictures,
    check_readable,
)
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import (
    MAX_TRIALS,
    PLACEHOLDER,
    STEP_MARKER,
    Record,
    Step,
    check_image_path,
    scored_step,
)
from theory.rollouts import SCORE_TOLERANCE


class _Step(msgspec.Struct, gc=False):
    step: str
    score: float
    num_mc_correct: int | UnsetType = UNSET
    num_mc_total: int | UnsetType = UNSET


class _Answered(msgspec.Struct):
    answer: str | int | float = ""


class _Rollout(Pictured, frozen=True, gc=False):
    steps_with_score: list[_Step] = msgspec.field(default_factory=list)
    question: str | None = None
    question_orig: str | None = None


_DECODER = msgspec.json.Decoder(_Rollout)
_ANSWER = msgspec.json.Decoder(_Answered)

_IMAGE = attrgetter("image")
# UNSET is false; a key that is there but empty says nothing that another does not.
_OTHERS = attrgetter("images", "image_path", "image_paths")

_HIGH_BITS = np.uint64(0x8080808080808080)


def _read(value: _Rollout, options: ReadOptions) -> Record:
    if value.image is UNSET and not value.paths():
        raise BadRecord("image missing", 'a text-only rollout says "image": null')
    steps = enumerate(value.steps_with_score, 1)
    return Record(
        question=(value.question_orig or value.question or "").strip(),
        steps=tuple([_step(step, number, options) for number, step in steps]),
        image=value.paths(),
    )


def _step(step: _Step, number: int, options: ReadOptions) -> Step:
    correct, total, score = step.num_mc_correct, step.num_mc_total, step.score
    text = step.step.strip()
    if correct is UNSET and total is UNSET:
        return scored_step(text, score, options.trials, number)
    correct = _count(correct, "num_mc_correct", number)
    total = _count(total, "num_mc_total", number)
    if correct > total:
        raise BadRecord(
            "more correct than sampled",
            f"step {number}: num_mc_correct {correct}, num_mc_total {total}",
        )
    if not 0 <= score <= 1:
        raise BadRecord("score outside [0, 1]", f"step {number} has score {score}")
    if not is_ratio(score, correct / total if total else 0.0):
        raise BadRecord(
            "score is not correct/total",
            f"step {number} has score {score} with {correct}/{total}",
        )
    return Step(text, correct, total)


def is_ratio(score: float, ratio: float) -> bool:
    """Whether a score is K/N, perhaps rounded to as many decimals as it shows, two at
    the least.

    Example:
        >>> is_ratio(0.94, 15 / 16), is_ratio(0.9, 15 / 16)
        (True, False)
    """
    shown = Decimal(repr(score)).as_tuple().exponent
    decimals = max(2, -shown if isinstance(shown, int) else 0)
    return abs(score - ratio) <= 0.5 * 10.0**-decimals + SCORE_TOLERANCE


def _count(count: int | UnsetType, name: str, number: int) -> int:
    if count is UNSET:
        raise BadRecord(f"{name} missing", f"step {number}")
    if not 0 <= count <= MAX_TRIALS:
        raise BadRecord(f"{name} outside [0, {MAX_TRIALS}]", f"step {number}")
    return count


def columns(data: bytes, lines: Sequence[memoryview]) -> dict[str, np.ndarray] | None:
    """The counts of many lines at once, or None if any needs a closer look.

    Args:
        data: the lines with their newlines.
        lines: each of them.

    Returns:
        successes, trials: K and N per step, unsigned ``[n_steps]``.
        lengths: steps per record, int32 ``[n_lines]``.
    """
    if b"\r" in data or not is_utf8(data):
        return None
    rollouts = _typed(lines)
    if rollouts is None:
        return None
    steps = list(chain.from_iterable(map(attrgetter("steps_with_score"), rollouts)))
    fit = _pictured(rollouts, data, lines) and _usable(rollouts, steps)
    return _counts(rollouts, steps) if fit else None


def _typed(lines: Sequence[memoryview]) -> list[_Rollout] | None:
    # As deep in the stack as ``parse`` below ``Format.decode``: whether a line nests
    # too deeply must not hang on the lines around it.
    try:
        return list(map(_DECODER.decode, lines))
    except (msgspec.DecodeError, RecursionError):
        return None


def _usable(rollouts: list[_Rollout], steps: list[_Step]) -> bool:
    """Whether all texts may stand in a record."""
    texts = [rollout.question_orig or rollout.question or "" for rollout in rollouts]
    texts += [step.step for step in steps]
    # A single character is found several times as fast as a whole marker.
    suspects = [text for text in texts if STEP_MARKER[0] in text]
    if not all(map(str.strip, texts)):
        return False
    placed = any(PLACEHOLDER in text for text in suspects)
    if placed and any(map(_says_placeholder, rollouts)):
        return False
    return not any(STEP_MARKER in text for text in suspects)


def _pictured(
    rollouts: list[_Rollout], data: bytes, lines: Sequence[memoryview]
) -> bool:
    """Whether each names its pictures in ``image``, as ``Format.decode`` would have it,
    or has none, and there are no others.
    """
    if any(map(any, map(_OTHERS, rollouts))):
        return False
    images = list(map(_IMAGE, rollouts))
    try:
        for image, line in zip(images, lines, strict=True):
            if type(image) is str:
                check_image_path(image)
            elif image is None:
                check_pictures(line)
            else:
                return False
    except BadRecord:
        return False
    return all_pictures(data, images)


def _says_placeholder(rollout: _Rollout) -> bool:
    """Whether a text holds a placeholder that does not lead the question, as that of a
    rollout with one picture may.
    """
    question = rollout.question_orig or rollout.question or ""
    texts = [step.step for step in rollout.steps_with_score]
    leading = PLACEHOLDER if rollout.image else ""
    texts.append(question.lstrip().removeprefix(leading))
    return any(PLACEHOLDER in text for text in texts)


def _counts(
    rollouts: list[_Rollout], steps: list[_Step]
) -> dict[str, np.ndarray] | None:
    lengths = [len(rollout.steps_with_score) for rollout in rollouts]
    try:
        correct, total, score = (
            np.fromiter(map(attrgetter(name), steps), dtype, len(steps))
            for name, dtype in (
                ("num_mc_correct", np.int64),
                ("num_mc_total", np.int64),
                ("score", np.float64),
            )
        )
    except (OverflowError, TypeError):
        return None
    fits = (
        all(lengths)
        and np.all(correct >= 0)
        and np.all(correct <= total)
        and np.all(total <= MAX_TRIALS)
        and np.all((score >= 0) & (score <= 1))
    )
    if fits:
        ratio = correct / np.maximum(total, 1)
        off = np.abs(score - ratio) > SCORE_TOLERANCE
        pairs = zip(score[off].tolist(), ratio[off].tolist(), strict=True)
        fits = all(is_ratio(*pair) for pair in pairs)
    if not fits:
        return None
    narrow = np.min_scalar_type(int(total.max()))
    return {
        "successes": correct.astype(narrow),
        "trials": total.astype(narrow),
        "lengths": np.array(lengths, np.int32),
    }


def is_utf8(data: bytes) -> bool:
    """Whether ``data`` is valid UTF-8, in a fifth of the time of ``data.decode()``.

    Only the eight-byte words with a non-ASCII byte are decoded, each run of them with
    the word behind it: that one is ASCII, so no sequence can reach across a gap.
    """
    if data.isascii():
        return True
    words = np.frombuffer(data, "<u8", len(data) // 8)
    needed = (words & _HIGH_BITS) != 0
    needed[1:] |= needed[:-1].copy()
    try:
        (words[needed].tobytes() + data[words.nbytes :]).decode()
    except UnicodeDecodeError:
        return False
    return True


def _write(record: Record, options: WriteOptions) -> bytes:
    # Counts are kept, so label options do not apply. Scores are K/N, and 0 for a step
    # that was never sampled, as the annotator writes.
    texts = [step.text.strip() for step in record.steps]
    check_readable(record, record.question.strip(), texts, "raw")
    value: dict[str, Any] = {"image": record.image, "question": record.question}
    if record.answer is not None:
        value["answer"] = record.answer
    value["steps_with_score"] = [
        {"step": step.text, "score": step.score if step.trials else 0.0}
        | ({} if step.stated is not None else _counts_of(step))
        for step in record.steps
    ]
    return msgspec.json.encode(value)


def _counts_of(step: Step) -> dict[str, int]:
    return {"num_mc_correct": step.successes, "num_mc_total": step.trials}


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STEPS = msgspec.json.Decoder(list[msgspec.Raw])
_STEP = msgspec.json.Decoder(_Step)


def cut(line: bytes, kept: int | None = None, unlabelled: Sequence[int] = ()) -> bytes:
    """The raw line without its empty steps; the rest keeps its bytes.

    Args:
        line: of a corpus that was read without empty steps.
        kept: how many of the other steps stay; None: all.
        unlabelled: of these the ones, from 0, that become never sampled.

    Raises:
        BadRecord: the line cannot be taken apart (it nests too deeply, or holds NaN).
    """
    value, all_steps = _parts(line)
    steps = [step for step in all_steps if _STEP.decode(step).step.strip()][:kept]
    if len(steps) == len(all_steps) and not unlabelled:
        return line
    for j in unlabelled:
        step = _FIELDS.decode(steps[j])
        none = dict.fromkeys(("score", "num_mc_correct", "num_mc_total"), 0)
        steps[j] = msgspec.Raw(msgspec.json.encode(step | none))
    value["steps_with_score"] = msgspec.Raw(msgspec.json.encode(steps))
    return msgspec.json.encode(value)


def recount(line: bytes, counts: Mapping[int, tuple[int, int]]) -> bytes:
    """The raw line with other counts; all else, white space included, keeps its bytes.

    Args:
        line: of a corpus.
        counts: K and N of steps, by number from 0 among those that say something.

    Raises:
        BadRecord: the line cannot be taken apart.

    Example:
        >>> old = b'{"steps_with_score": [{"step": "a", "score": 0}], "id": 7}'
        >>> recount(old, {0: (3, 4)})[:45]
        b'{"steps_with_score": [{"step":"a","score":0.7'
    """
    value, steps = _parts(line)
    old = bytes(value["steps_with_score"])
    new, done, number = b"", 0, -1
    for raw in map(bytes, steps):
        at = old.index(raw, done)  # elements follow one another
        number += bool(_STEP.decode(raw).step.strip())
        changed = raw
        if (pair := counts.get(number)) and _STEP.decode(raw).step.strip():
            k, n = pair
            stated = {"score": k / n, "num_mc_correct": k, "num_mc_total": n}
            changed = msgspec.json.encode(_FIELDS.decode(raw) | stated)
        new += old[done:at] + changed
        done = at + len(raw)
    new += old[done:]
    if line.count(old) == 1:
        return line.replace(old, new)
    value["steps_with_score"] = msgspec.Raw(new)
    return msgspec.json.encode(value)


def reference_answer(line: bytes) -> str:
    """The answer that a raw line says is right.

    Raises:
        BadRecord: it says none.
    """
    try:
        answer = _ANSWER.decode(line).answer
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRecord("no answer", str(error)) from None
    if not str(answer).strip():
        raise BadRecord("no answer", "nothing to compare answers with")
    return str(answer)


def _parts(line: bytes) -> tuple[dict[str, msgspec.Raw], list[msgspec.Raw]]:
    """A line's fields and its steps, undecoded."""
    try:
        value = _FIELDS.decode(line)
        return value, _STEPS.decode(value["steps_with_score"])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRecord("cannot be cut", str(error)) from None


RAW = Format(
    name="raw",
    meaning="VisualPRM annotation: Monte-Carlo counts per step",
    decoder=_DECODER,
    read=_read,
    write=_write,
    soft=True,
    unlabelled=True,
    lenient=True,
    recognise=lambda keys: "steps_with_score" in keys,
)
