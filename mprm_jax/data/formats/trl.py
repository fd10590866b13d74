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
    ImageField,
    check_paired,
    check_readable,
    image_entry,
    json_line,
    parse,
    source_of,
)
from mprm_jax.data.record import Record, Step, check_record


class _Row(msgspec.Struct, frozen=True):
    prompt: str
    completions: tuple[str, ...]
    labels: tuple[bool | Literal[0, 1], ...]
    image: ImageField = None


_DECODER = msgspec.json.Decoder(_Row)


def decode(data: bytes, options: ReadOptions) -> Record:
    """One row.

    Raises:
        BadRecord: it has another form, or as many labels as steps are not there.
    """
    row = parse(data, _DECODER, "trl")
    check_paired(len(row.completions), len(row.labels))
    steps = tuple(
        Step(text.strip(), int(positive), 1)
        for text, positive in zip(row.completions, row.labels, strict=True)
    )
    source = source_of(data, options, None)
    return check_record(Record(row.prompt.strip(), steps, row.image, source=source))


def encode(record: Record, options: WriteOptions) -> bytes:
    """The row with hard labels.

    Raises:
        BadRecord: a step has no label, or a text has white space around it.
    """
    check_record(record)
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
    decode=decode,
    encode=encode,
    soft=False,
    recognise=lambda keys: keys.keys() >= {"prompt", "completions", "labels"},
)
