"""Math-Shepherd: one text with a marker after each step, and the same text judged.

``{"input": "q Step 1: s1 ки\\nStep 2: s2 ки", "label": "q Step 1: s1 +\\nStep 2: s2 -",
"task": source}``

- Labels are hard and are read from ``label``, which must be ``input`` with every marker
  replaced by + or -: one success in one trial, or none.
- The question ends at the first ``Step 1:``, so it cannot contain it. The writer puts
  ``Step j: `` before step j and the reader takes exactly that away, so a text that
  itself begins with a step number keeps it. A published step without its number is
  read as it stands.
- No text may hold the marker, not even inside a Russian word: markers and labels would
  no longer pair up.
- The format has no image, so a rollout with one is not written. Answer and response are
  not held; ``task`` is left out where the record has no source.
"""

from __future__ import annotations

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions, WriteOptions, hard_labels
from mprm_jax.data.formats.json_record import (
    check_readable,
    json_line,
)
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step

MARKER = "ки"
_JUDGEMENTS = ("+", "-")
_FIRST = "Step 1:"


class _Solution(msgspec.Struct, frozen=True):
    input: str
    label: str
    task: str | None = None


def _split(text: str) -> tuple[list[str], str]:
    """(text up to each marker, text after the last)."""
    *parts, rest = text.split(MARKER)
    return parts, rest


def _judgements(text: str, label: str) -> list[bool]:
    """Whether each marker of ``text`` is a + in ``label``."""
    parts, rest = _split(text)
    positive = []
    at = 0
    for part in parts:
        judged = at + len(part)
        judgement = label[judged : judged + 1]
        if label[at:judged] != part or judgement not in _JUDGEMENTS:
            raise BadRecord(
                "label does not match input",
                f"step {len(positive) + 1}: label must repeat input with + or - "
                f"for {MARKER}",
            )
        positive.append(judgement == "+")
        at = judged + 1
    if label[at:] != rest:
        raise BadRecord("label does not match input", "after the last step")
    return positive


def _texts(text: str) -> tuple[str, list[str]]:
    """(question, step texts) of ``input``."""
    parts, rest = _split(text)
    if not parts:
        raise BadRecord("no steps", f"input has no {MARKER}")
    if rest.strip():
        raise BadRecord("text after the last step marker", f"it ends in {rest[-40:]!r}")
    question, number, first = parts[0].partition(_FIRST)
    if not number:
        raise BadRecord(
            "not a math-shepherd record",
            f"no {_FIRST!r} between the question and the first {MARKER}",
        )
    later = [
        part.lstrip().removeprefix(f"Step {number}:")
        for number, part in enumerate(parts[1:], 2)
    ]
    return question.strip(), [step.strip() for step in (first, *later)]


def _read(value: _Solution, options: ReadOptions) -> Record:
    question, texts = _texts(value.input)
    positive = _judgements(value.input, value.label)
    steps = tuple(
        Step(text, int(good), 1) for text, good in zip(texts, positive, strict=True)
    )
    return Record(question, steps, source=value.task or None)


def _write(record: Record, options: WriteOptions) -> bytes:
    if record.images:
        raise BadRecord(
            "format holds no image", "math-shepherd is text only; use prm or visualprm"
        )
    for text in (record.question, record.source or "", *(s.text for s in record.steps)):
        if MARKER in text:
            raise BadRecord(
                "step marker in text", f"a text contains the literal {MARKER}"
            )
    text = _render(record, [MARKER] * len(record.steps))
    check_readable(record, *_texts(text), "math-shepherd")
    judged = ["+" if hard else "-" for hard in hard_labels(record.steps, options)]
    value = {"input": text, "label": _render(record, judged)}
    return json_line(value | {"task": record.source} if record.source else value)


def _render(record: Record, marks: list[str]) -> str:
    solution = "\n".join(
        f"Step {number}: {step.text} {mark}"
        for number, (step, mark) in enumerate(zip(record.steps, marks, strict=True), 1)
    )
    return f"{record.question} {solution}"


MATH_SHEPHERD = Format(
    name="math-shepherd",
    meaning=f"Math-Shepherd: input with {MARKER} after each step, label with + or -",
    decoder=msgspec.json.Decoder(_Solution),
    read=_read,
    write=_write,
    recognise=lambda keys: keys.keys() >= {"input", "label"},
)
