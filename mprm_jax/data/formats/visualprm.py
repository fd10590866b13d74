"""VisualPRM's multi-turn conversation: a turn per step, answered by "+" or "-".

``{"image": path or [paths], "conversations": [{"from": "human", "value": "<image>\\n###
Question:\\nq\\n\\n### Solution Process:\\ns1"}, {"from": "gpt", "value": "+"},
{"from": "human", "value": "s2"}, {"from": "gpt", "value": "-"}]}``

- Labels are hard: "+" is one success in one trial, "-" none.
- One ``"<image>\\n"`` per image leads the first turn. No text is written that contains
  ``<image>``, because trainers pair placeholders with images.
- The question ends at the first ``"\\n\\n### Solution Process:\\n"``.
- A text-only rollout has no ``image`` key. Answer, response and source are not held.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions, WriteOptions, hard_labels
from mprm_jax.data.formats.json_record import (
    Pictured,
    check_readable,
    image_entry,
    json_line,
)
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step

_PLACEHOLDER = "<image>"
_IMAGE_LINE = _PLACEHOLDER + "\n"
_QUESTION = "### Question:\n"
_PROCESS = "\n\n### Solution Process:\n"
_SUCCESSES = {"+": 1, "-": 0}


class _Turn(msgspec.Struct, frozen=True):
    speaker: Literal["human", "gpt"] = msgspec.field(name="from")
    value: str


class _Conversation(Pictured, frozen=True):
    conversations: tuple[_Turn, ...]


def _split_first(turn: str) -> tuple[int, str, str]:
    """(image placeholders, question, first step) of the first human turn."""
    n_images = 0
    while turn.startswith(_IMAGE_LINE):
        turn = turn[len(_IMAGE_LINE) :]
        n_images += 1
    question, frame, step = turn.partition(_PROCESS)
    if not frame or not question.startswith(_QUESTION):
        raise BadRecord(
            "not a visualprm record",
            f"the first turn is not {_QUESTION + '…' + _PROCESS + '…'!r}",
        )
    return n_images, question[len(_QUESTION) :].strip(), step.strip()


def _read(value: _Conversation, options: ReadOptions) -> Record:
    turns = value.conversations
    if not turns or [turn.speaker for turn in turns] != ["human", "gpt"] * (
        len(turns) // 2
    ):
        raise BadRecord(
            "not a visualprm record", "human and gpt turns do not alternate"
        )
    n_images, question, first = _split_first(turns[0].value)
    texts = [first, *(turn.value.strip() for turn in turns[2::2])]
    successes = [_SUCCESSES.get(turn.value.strip()) for turn in turns[1::2]]
    steps = []
    for text, success in zip(texts, successes, strict=True):
        if success is None:
            raise BadRecord(
                "not a visualprm record", f"step {len(steps) + 1} is not judged + or -"
            )
        steps.append(Step(text, success, 1))
    record = Record(question, tuple(steps), value.paths())
    if n_images != len(record.images):
        raise BadRecord(
            "placeholders and images differ",
            f"{n_images} leading {_PLACEHOLDER}, {len(record.images)} images",
        )
    return record


def _write(record: Record, options: WriteOptions) -> bytes:
    texts = [step.text for step in record.steps]
    for text in (record.question, *texts):
        if _PLACEHOLDER in text:
            raise BadRecord(
                "image placeholder in text", f"it contains the literal {_PLACEHOLDER}"
            )
    first = (
        _IMAGE_LINE * len(record.images)
        + f"{_QUESTION}{record.question}{_PROCESS}{texts[0]}"
    )
    _, question, first_step = _split_first(first)
    later = [text.strip() for text in texts[1:]]
    check_readable(record, question, [first_step, *later], "visualprm")
    turns = []
    hard = hard_labels(record.steps, options)
    for text, positive in zip([first, *texts[1:]], hard, strict=True):
        turns.append({"from": "human", "value": text})
        turns.append({"from": "gpt", "value": "+" if positive else "-"})
    return json_line(image_entry(record) | {"conversations": turns})


def _recognise(keys: dict) -> bool:
    match keys:
        case {"conversations": [_, {"value": str()}, *_]}:
            return True
    return False


VISUALPRM = Format(
    name="visualprm",
    meaning="VisualPRM conversation: one turn per step, judged + or -; hard labels",
    decoder=msgspec.json.Decoder(_Conversation),
    read=_read,
    write=_write,
    recognise=_recognise,
)
