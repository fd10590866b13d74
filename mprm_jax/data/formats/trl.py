"""The stepwise-supervision rows of TRL and axolotl.

``{"prompt": q, "completions": [s1, s2], "labels": [true, false]}``

- Labels are booleans, or the numbers 0 and 1, with one trial each. Other numbers are
  read as MC scores (N is ``ReadOptions.trials`` or unknown), but hard labels alone are
  written, because these libraries cut labels down to integers.
- The prompt may be a chat of one user turn; a system turn before it is not read.
- These libraries know text only; an ``image`` column (a path or a list of paths) is
  added only where the rollout has an image, and read likewise.
- Answer, response and source are not held.
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
    Pictured,
    check_readable,
    image_entry,
    json_line,
)
from mprm_jax.data.formats.turns import Turn, without_system
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record


class _Row(Pictured, frozen=True):
    prompt: str | tuple[Turn, ...]
    completions: tuple[str, ...]
    labels: tuple[bool | int | float, ...]


def _question(prompt: str | tuple[Turn, ...]) -> str:
    if isinstance(prompt, str):
        return prompt
    turns = without_system(prompt)
    if [turn.said_by for turn in turns] != ["user"]:
        raise BadRecord("not a trl record", "prompt is a chat, but not of one question")
    return turns[0].text


def _read(row: _Row, options: ReadOptions) -> Record:
    steps = judged_steps(row.completions, row.labels, options)
    return Record(_question(row.prompt).strip(), steps, row.paths())


def _write(record: Record, options: WriteOptions) -> bytes:
    texts = [step.text for step in record.steps]
    check_readable(
        record, record.question.strip(), [text.strip() for text in texts], "trl"
    )
    return json_line(
        {
            "prompt": record.question,
            "completions": texts,
            "labels": hard_labels(record.steps, options),
        }
        | image_entry(record)
    )


TRL = Format(
    name="trl",
    meaning="TRL and axolotl stepwise rows: prompt, completions, boolean labels",
    decoder=msgspec.json.Decoder(_Row),
    read=_read,
    write=_write,
    recognise=lambda keys: keys.keys() >= {"prompt", "completions", "labels"},
)
