"""VisualPRM's multi-turn conversation: a turn per step, answered by "+" or "-".

``{"image": path or [paths], "conversations": [{"from": "human", "value": "<image>\\n###
Question:\\nq\\n\\n### Solution Process:\\ns1"}, {"from": "gpt", "value": "+"},
{"from": "human", "value": "s2"}, {"from": "gpt", "value": "-"}]}``

- Labels are hard: "+" is one success in one trial, "-" none.
- One ``"<image>\\n"`` per image is written in front of the first turn, unless the
  question itself has as many. It is read there or, as in the released corpus, in front
  of the question, or nowhere.
- The released corpus has a system turn in front; it is not read, and written where
  ``WriteOptions.system_turn`` gives one.
- The question ends at the first ``"\\n\\n### Solution Process:\\n"``.
- A text-only rollout has no ``image`` key. Answer, response and source are not held.
"""

from __future__ import annotations

import msgspec

from mprm_jax.data.formats.base import (
    Format,
    ReadOptions,
    WriteOptions,
    hard_labels,
    judged_steps,
)
from mprm_jax.data.formats.json_record import (
    check_readable,
    image_entry,
    json_line,
    placed,
    placeholders,
    split_placeholders,
)
from mprm_jax.data.formats.turns import Conversation, exchanges, first_exchange
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record

_QUESTION = "### Question:\n"
_PROCESS = "\n\n### Solution Process:\n"


def is_framed(turn: str) -> bool:
    """Whether a first user turn has this format's frame."""
    turn = split_placeholders(turn)[1]
    return turn.startswith(_QUESTION) and _PROCESS in turn


def _split_first(turn: str) -> tuple[int, str, str]:
    """(image placeholders in front, question, first step) of the first user turn."""
    n_images, turn = split_placeholders(turn)
    question, frame, step = turn.partition(_PROCESS)
    if not frame or not question.startswith(_QUESTION):
        raise BadRecord(
            "not a visualprm record",
            f"the first turn is not {_QUESTION + '…' + _PROCESS + '…'!r}",
        )
    return n_images, question[len(_QUESTION) :].strip(), step.strip()


def _read(value: Conversation, options: ReadOptions) -> Record:
    said, answers = exchanges(value, "visualprm")
    n_images, question, first = _split_first(said[0])
    steps = judged_steps([first, *said[1:]], answers, options)
    return placed(Record(question, steps, value.paths()), n_images)


def _write(record: Record, options: WriteOptions) -> bytes:
    texts = [step.text for step in record.steps]
    frame = f"{_QUESTION}{record.question}{_PROCESS}{texts[0]}"
    first = placeholders(record) + frame
    _, question, first_step = _split_first(first)
    later = [text.strip() for text in texts[1:]]
    check_readable(record, question, [first_step, *later], "visualprm")
    turns = []
    if options.system_turn is not None:
        turns.append({"from": "system", "value": options.system_turn})
    hard = hard_labels(record.steps, options)
    for text, positive in zip([first, *texts[1:]], hard, strict=True):
        turns.append({"from": "human", "value": text})
        turns.append({"from": "gpt", "value": "+" if positive else "-"})
    return json_line(image_entry(record) | {"conversations": turns})


def _recognise(keys: dict) -> bool:
    said, answer = first_exchange(keys)
    return isinstance(answer, str) and is_framed(said)


VISUALPRM = Format(
    name="visualprm",
    meaning="VisualPRM conversation: one turn per step, judged + or -; hard labels",
    decoder=msgspec.json.Decoder(Conversation),
    read=_read,
    write=_write,
    system=True,
    recognise=_recognise,
)
