"""The stepwise-supervision rows of TRL and axolotl.

``{"prompt": q, "completions": [s1, s2], "labels": [true, false]}``

- Labels are hard: booleans, or the integers 0 and 1, with one trial each.
- These libraries know text only; an ``image`` column (a path or a list of paths) is
  added only where the rollout has an image, and read likewise.
- Answer, response and source are not held.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions, WriteOptions, hard_labels
from mprm_jax.data.formats.json_record import (
    Pictured,
    check_paired,
    check_readable,
    image_entry,
    json_line,
)
from mprm_jax.records.record import Record, Step


class _Row(Pictured, frozen=True):
    prompt: str
    completions: tuple[str, ...]
    labels: tuple[bool | Literal[0, 1], ...]


def _read(row: _Row, options: ReadOptions) -> Record:
    check_paired(len(row.completions), len(row.labels))
    steps = tuple(
        Step(text.strip(), int(positive), 1)
        for text, positive in zip(row.completions, row.labels, strict=True)
    )
    return Record(row.prompt.strip(), steps, row.paths())


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
