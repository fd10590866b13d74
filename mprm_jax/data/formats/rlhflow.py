"""RLHFlow's conversations (Mistral-PRM-Data): a user turn per step, answered + or -.

``{"conversations": [{"content": "q Step 1: s1", "role": "user"}, {"content": "+",
"role": "assistant"}, {"content": "Step 2: s2", "role": "user"}, ...]}``

- Labels are hard: one success in one trial, or none.
- The question ends at the first ``Step 1:`` of the first turn and step numbers are
  taken away, as in Math-Shepherd. Where steps have no numbers (Deepseek-PRM-Data)
  nothing tells the question from the first step, and the record is refused.
- The format has no image, so a rollout with one is not written. Answer, response and
  source are not held.
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
from mprm_jax.data.formats.json_record import check_readable, json_line
from mprm_jax.data.formats.math_shepherd import check_text_only, numbered, question_of
from mprm_jax.data.formats.turns import Conversation, exchanges, first_exchange
from mprm_jax.data.formats.visualprm import is_framed
from mprm_jax.records.record import Record


def _read(value: Conversation, options: ReadOptions) -> Record:
    said, answers = exchanges(value, "rlhflow")
    question, texts = question_of(said, "rlhflow")
    return Record(question, judged_steps(texts, answers, options), value.paths())


def _write(record: Record, options: WriteOptions) -> bytes:
    check_text_only(record, "rlhflow")
    first, *later = numbered(record.steps)
    said = [f"{record.question} {first}", *later]
    check_readable(record, *question_of(said, "rlhflow"), "rlhflow")
    turns = []
    if options.system_turn is not None:
        turns.append({"content": options.system_turn, "role": "system"})
    for text, hard in zip(said, hard_labels(record.steps, options), strict=True):
        turns.append({"content": text, "role": "user"})
        turns.append({"content": "+" if hard else "-", "role": "assistant"})
    return json_line({"conversations": turns})


def _recognise(keys: dict) -> bool:
    said, answer = first_exchange(keys)
    judged = isinstance(answer, str) and answer.strip() in ("+", "-")
    return judged and not is_framed(said)


RLHFLOW = Format(
    name="rlhflow",
    meaning="RLHFlow conversation: question and Step 1 in one turn, judged + or -",
    decoder=msgspec.json.Decoder(Conversation),
    read=_read,
    write=_write,
    system=True,
    recognise=_recognise,
)
