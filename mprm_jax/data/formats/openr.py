"""OpenR: a question, its solution with a marker after each step, a list of labels.

``{"question": "q", "process": "Step 1: s1 ки\\nStep 2: s2 ки", "label": ["+", "-"]}``

- A label is + or -, a boolean, 1 or 0 (one trial each), or an MC score (a float; N is
  ``ReadOptions.trials`` or unknown). The list may be called ``label`` or ``labels``; it
  is written as ``label``, hard, because OpenR's trainer reads that.
- The marker is ки, which is written, or five line ends (MATH-APS); ``<prm>`` and
  ``<extra_0>`` are read as well.
- Step numbers are taken away, as in Math-Shepherd.
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
    unnumbered,
    with_marks,
)
from mprm_jax.records.record import Record


class _Solution(Pictured, frozen=True):
    question: str
    process: str
    label: tuple[Label, ...] | None = None
    labels: tuple[Label, ...] | None = None


def _read(value: _Solution, options: ReadOptions) -> Record:
    judged = only_one("openr", value.label, value.labels)
    parts = marked(value.process, marker_of(value.process, len(judged)))
    steps = judged_steps(unnumbered(parts), judged, options)
    return Record(value.question.strip(), steps, value.paths())


def _write(record: Record, options: WriteOptions) -> bytes:
    check_text_only(record, "openr", MARKER)
    process = with_marks(record, [MARKER] * len(record.steps))
    texts = unnumbered(marked(process))
    check_readable(record, record.question.strip(), texts, "openr")
    judged = ["+" if hard else "-" for hard in hard_labels(record.steps, options)]
    return json_line({"question": record.question, "process": process, "label": judged})


def _recognise(keys: dict) -> bool:
    labelled = "label" in keys or "labels" in keys
    return labelled and keys.keys() >= {"question", "process"}


OPENR = Format(
    name="openr",
    meaning=f"OpenR: question, process with {MARKER} after each step, list of labels",
    decoder=msgspec.json.Decoder(_Solution),
    read=_read,
    write=_write,
    recognise=_recognise,
)
