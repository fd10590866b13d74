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

from collections.abc import Sequence

import msgspec

from mprm_jax.data.formats.base import (
    Format,
    ReadOptions,
    WriteOptions,
    hard_labels,
    judged_steps,
)
from mprm_jax.data.formats.json_record import Pictured, check_readable, json_line
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step

MARKER = "ки"
# What others put after a step: trainers of PRMs, Qwen's PRM, OpenR with Qwen.
_MARKERS = (MARKER, "<prm>", "<extra_0>", "\n\n\n\n\n")
_JUDGEMENTS = ("+", "-")
_FIRST = "Step 1:"


class _Solution(Pictured, frozen=True):
    input: str
    label: str
    task: str | None = None


def marker_of(text: str, n_labels: int) -> str:
    """What marks the steps of a text: the first marker that occurs once a label, else
    the first that occurs.

    Raises:
        BadRecord: none does.
    """
    there = [mark for mark in _MARKERS if mark in text]
    if not there:
        known = ", ".join(map(repr, _MARKERS))
        raise BadRecord("no steps", f"the text has no step marker, of {known}")
    return next((mark for mark in there if text.count(mark) == n_labels), there[0])


def marked(text: str, marker: str = MARKER) -> list[str]:
    """The text up to each marker.

    Raises:
        BadRecord: there is no marker, or text after the last.
    """
    *parts, rest = text.split(marker)
    if not parts:
        raise BadRecord("no steps", f"no {marker!r} in the text")
    if rest.strip():
        raise BadRecord("text after the last step marker", f"it ends in {rest[-40:]!r}")
    return parts


def unnumbered(parts: Sequence[str], first: int = 1) -> list[str]:
    """Step texts without the number that :func:`numbered` puts before them."""
    return [
        part.strip().removeprefix(f"Step {number}:").strip()
        for number, part in enumerate(parts, first)
    ]


def question_of(parts: Sequence[str], form: str) -> tuple[str, list[str]]:
    """(question, step texts) where the question stands before step 1.

    Raises:
        BadRecord: nothing tells the two apart.
    """
    question, number, first = parts[0].partition(_FIRST)
    if not number:
        raise BadRecord(
            f"not a {form} record",
            f"no {_FIRST!r} tells the question from the first step",
        )
    return question.strip(), [first.strip(), *unnumbered(parts[1:], 2)]


def numbered(steps: Sequence[Step]) -> list[str]:
    """``Step j: `` and the text of each step."""
    return [f"Step {number}: {step.text}" for number, step in enumerate(steps, 1)]


def with_marks(record: Record, marks: Sequence[str]) -> str:
    """The numbered steps, each with a mark behind it."""
    steps = zip(numbered(record.steps), marks, strict=True)
    return "\n".join(f"{step} {mark}" for step, mark in steps)


def check_text_only(record: Record, form: str, marker: str | None = None) -> None:
    """Refuse to write a rollout with pictures, or with the marker in a text.

    Raises:
        BadRecord: it has them.
    """
    if record.images:
        raise BadRecord(
            "format holds no image", f"{form} is text only; use prm, visualprm or trl"
        )
    for text in (record.question, record.source or "", *(s.text for s in record.steps)):
        if marker is not None and marker in text:
            raise BadRecord(
                "step marker in text", f"a text contains the literal {marker}"
            )


def _judgements(text: str, label: str) -> list[str]:
    """What stands in ``label`` for each marker of ``text``, + or -."""
    *parts, rest = text.split(MARKER)
    judgements = []
    at = 0
    for part in parts:
        judged = at + len(part)
        judgement = label[judged : judged + 1]
        if label[at:judged] != part or judgement not in _JUDGEMENTS:
            raise BadRecord(
                "label does not match input",
                f"step {len(judgements) + 1}: label must repeat input with + or - "
                f"for {MARKER}",
            )
        judgements.append(judgement)
        at = judged + 1
    if label[at:] != rest:
        raise BadRecord("label does not match input", "after the last step")
    return judgements


def _read(value: _Solution, options: ReadOptions) -> Record:
    question, texts = question_of(marked(value.input), "math-shepherd")
    judgements = _judgements(value.input, value.label)
    steps = judged_steps(texts, judgements, options)
    return Record(question, steps, value.paths(), source=value.task or None)


def _write(record: Record, options: WriteOptions) -> bytes:
    check_text_only(record, "math-shepherd", MARKER)
    text = f"{record.question} {with_marks(record, [MARKER] * len(record.steps))}"
    check_readable(record, *question_of(marked(text), "math-shepherd"), "math-shepherd")
    judged = ["+" if hard else "-" for hard in hard_labels(record.steps, options)]
    value = {
        "input": text,
        "label": f"{record.question} {with_marks(record, judged)}",
    }
    return json_line(value | {"task": record.source} if record.source else value)


def _recognise(keys: dict) -> bool:
    return "input" in keys and isinstance(keys.get("label"), str)


MATH_SHEPHERD = Format(
    name="math-shepherd",
    meaning=f"Math-Shepherd: input with {MARKER} after each step, label with + or -",
    decoder=msgspec.json.Decoder(_Solution),
    read=_read,
    write=_write,
    recognise=_recognise,
)
