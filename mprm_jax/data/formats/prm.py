"""The conversation that trainers of process reward models read (the release's).

``{"image": path or [paths], "conversations": [{"from": "human", "value":
"<image>\\nQuestion: q\\nProcess: s1<prm>\\n\\ns2<prm>"}, {"from": "gpt", "value": [1.0,
0.0]}]}``

- Labels are hard (0 and 1: one trial) or MC scores, of which N is
  ``ReadOptions.trials`` or unknown.
- One ``"<image>\\n"`` per image is written in front, because InternVL's loader pairs
  them with the images, unless the question itself has as many. The release writes none,
  so none is read as well.
- A step without a label has no marker: its text runs on into that of the next one, as
  in the prompt. Behind the last label it is a step that was never sampled; written,
  it is left out.
- A system turn in front is not read.
- The question ends at the first ``"\\nProcess: "``: it cannot contain it, a step can.
- A text-only rollout has no ``image`` key. Answer, response and source are not held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions, WriteOptions, labels
from mprm_jax.data.formats.json_record import (
    Pictured,
    check_paired,
    check_readable,
    json_line,
    placed,
    placeholders,
    split_placeholders,
)
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import (
    STEP_MARKER,
    Record,
    Step,
    scored_step,
)

_QUESTION = "Question: "
_PROCESS = "\nProcess: "
_BETWEEN = "\n\n"


class _Turn(msgspec.Struct, frozen=True):
    speaker: Literal["system", "human", "gpt"] = msgspec.field(name="from")
    value: str | tuple[float, ...]


class _Conversation(Pictured, frozen=True):
    conversations: tuple[_Turn, ...]


def render_prompt(question: str, texts: list[str]) -> str:
    """The human turn: the question, then every step followed by its marker."""
    process = _BETWEEN.join(text + STEP_MARKER for text in texts)
    return f"{_QUESTION}{question}{_PROCESS}{process}"


def split_prompt(prompt: str) -> tuple[str, list[str], str]:
    """(question, step texts, text behind the last marker) of a human turn, the inverse
    of :func:`render_prompt`.

    Raises:
        BadRecord: it has another frame.
    """
    question, frame, process = prompt.partition(_PROCESS)
    if not frame or not question.startswith(_QUESTION):
        raise BadRecord(
            "not a prm record",
            f"the human turn is not {_QUESTION + '…' + _PROCESS + '…'!r}",
        )
    *texts, rest = process.split(STEP_MARKER)
    question = question[len(_QUESTION) :].strip()
    return question, [text.strip() for text in texts], rest.strip()


def _parts(turns: Sequence[_Turn]) -> tuple[str, tuple[float, ...]]:
    """The human turn and the labels."""
    if turns and turns[0].speaker == "system":
        turns = turns[1:]
    match turns:
        case (_Turn("human", str(prompt)), _Turn("gpt", tuple(labels))):
            return prompt, labels
    raise BadRecord("not a prm record", "no human turn with a gpt turn of labels")


def _read(value: _Conversation, options: ReadOptions) -> Record:
    prompt, labels = _parts(value.conversations)
    n_images, prompt = split_placeholders(prompt)
    question, texts, rest = split_prompt(prompt)
    check_paired(len(texts), len(labels))
    steps = [
        scored_step(text, score, options.trials, number)
        for number, (text, score) in enumerate(zip(texts, labels, strict=True), 1)
    ]
    if rest:
        steps.append(Step(rest, 0, 0))
    return placed(Record(question, tuple(steps), value.paths()), n_images)


def _write(record: Record, options: WriteOptions) -> bytes:
    question, steps = record.question, record.steps
    if options.labels == "masked":
        steps = _labelled(steps)
    texts = [step.text for step in steps]
    prompt = render_prompt(question, texts)
    stripped = question == question.strip() and texts == list(map(str.strip, texts))
    # One look shows of nearly every record that the reader finds its parts again.
    if not stripped or _PROCESS in question:
        check_readable(record, *split_prompt(prompt)[:2], "prm")
    prompt = placeholders(record) + prompt
    image = None if record.image is None else json_line(record.image)
    return conversation_line(image, prompt, labels(steps, options))


def _labelled(steps: Sequence[Step]) -> list[Step]:
    """The steps that have a label, each with the text of those before it that do not.

    Raises:
        BadRecord: none has one.
    """
    found, unlabelled = [], []
    for step in steps:
        unlabelled.append(step.text)
        if step.trials:
            text = _BETWEEN.join(unlabelled)
            found.append(msgspec.structs.replace(step, text=text))
            unlabelled = []
    if not found:
        raise BadRecord("nothing to write", "no step has a label")
    return found


def conversation_line(
    image: bytes | None, prompt: str, labels: Sequence[float]
) -> bytes:
    """``{"image": ..., "conversations": [human turn, gpt turn]}`` as
    ``json.dumps(..., ensure_ascii=False)`` writes it, seven times as fast.

    Args:
        image: JSON of the image, or None to leave the key out.
        prompt: the human turn.
        labels: the gpt turn.

    Raises:
        BadRecord: the prompt holds half of a surrogate pair.
    """
    head = b"" if image is None else b'"image": %b, ' % image
    return (
        b'{%b"conversations": [{"from": "human", "value": %b}, '
        b'{"from": "gpt", "value": [%b]}]}'
        % (head, json_line(prompt), ", ".join(map(repr, labels)).encode())
    )


def _recognise(keys: dict) -> bool:
    match keys:
        case {"conversations": [*_, {"value": list()}]}:
            return True
    return False


PRM = Format(
    name="prm",
    meaning="PRM conversation: one text with <prm> after each step, a list of labels",
    decoder=msgspec.json.Decoder(_Conversation),
    read=_read,
    write=_write,
    soft=True,
    unlabelled=True,
    recognise=_recognise,
)
