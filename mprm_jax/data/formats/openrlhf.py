"""OpenRLHF: one text with a marker after each step, and a list of labels.

``{"input": "q Step 1: s1 ки\\nStep 2: s2 ки", "value": ["+", "-"]}``

- A label is + or -, a boolean, 1 or 0 (one trial each), or an MC score (a float; N is
  ``ReadOptions.trials`` or unknown). The list may be called ``value``, ``label`` or
  ``labels``; it is written as ``value``.
- The marker is ки; ``<prm>``, ``<extra_0>`` and five line ends are read as well.
- The question ends at the first ``Step 1:`` and step numbers are taken away, as in
  Math-Shepherd (whose ``label`` is a text, which OpenRLHF refuses).
- The format has no image, so a rollout with one is not written. Answer, response and
  source are not held.
"""

from __future__ import annotations

import msgspec

from mprm_jax.data.formats.base import (
    Format,
    Label,
    ReadOptions,
    WriteOptions,
    hard_labels,
    judged_steps,
    labels,
)
from mprm_jax.data.formats.json_record import (
    Pictured,
    check_readable,
    json_line,
    only_one,
)
from mprm_jax.data.formats.math_shepherd import (
    MARKER,
    check_text_only,
    marked,
    marker_of,
    question_of,
    with_marks,
)
from mprm_jax.records.record import Record


class _Solution(Pictured, frozen=True):
    input: str
    value: tuple[Label, ...] | None = None
    label: tuple[Label, ...] | None = None
    labels: tuple[Label, ...] | None = None


def _read(value: _Solution, options: ReadOptions) -> Record:
    judged = only_one("openrlhf", value.value, value.label, value.labels)
    parts = marked(value.input, marker_of(value.input, len(judged)))
    question, texts = question_of(parts, "openrlhf")
    return Record(question, judged_steps(texts, judged, options), value.paths())


def _write(record: Record, options: WriteOptions) -> bytes:
    check_text_only(record, "openrlhf", MARKER)
    text = f"{record.question} {with_marks(record, [MARKER] * len(record.steps))}"
    check_readable(record, *question_of(marked(text), "openrlhf"), "openrlhf")
    if options.labels == "soft":
        judged = labels(record.steps, options)
    else:
        judged = ["+" if hard else "-" for hard in hard_labels(record.steps, options)]
    return json_line({"input": text, "value": judged})


def _recognise(keys: dict) -> bool:
    lists = any(isinstance(keys.get(key), list) for key in ("value", "label", "labels"))
    return "input" in keys and lists and not isinstance(keys.get("label"), str)


OPENRLHF = Format(
    name="openrlhf",
    meaning=f"OpenRLHF: input with {MARKER} after each step, a list of labels",
    decoder=msgspec.json.Decoder(_Solution),
    read=_read,
    write=_write,
    soft=True,
    recognise=_recognise,
)
