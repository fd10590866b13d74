"""ProcessBench: solutions with the first wrong step that humans found (read only).

``{"id", "generator", "problem", "steps": [s1, s2], "final_answer_correct", "label",
"image"?}``

``label`` is the index of the first wrong step from 0, or -1 where all are right. Steps
before it are positive, it is negative (one trial each); later ones were never judged
(trials 0). The source is the subset that an ``id`` such as ``gsm8k-0`` names, else the
file's. Published solutions have no pictures; files in this shape may.
"""

from __future__ import annotations

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import Pictured
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step


class _Solution(Pictured, frozen=True):
    problem: str
    steps: tuple[str, ...]
    label: int
    id: str | int | None = None


def _read(value: _Solution, options: ReadOptions) -> Record:
    if not -1 <= value.label < len(value.steps):
        raise BadRecord(
            "label names no step",
            f"label {str(value.label)[:20]} with {len(value.steps)} steps "
            "(from 0; -1: all are right)",
        )
    wrong = value.label if value.label >= 0 else len(value.steps)
    steps = tuple(
        Step(text.strip(), int(j < wrong), int(j <= wrong))
        for j, text in enumerate(value.steps)
    )
    subset, _, number = str(value.id).rpartition("-")
    named = number.isdecimal() and any(map(str.isalpha, subset))
    source = subset if named else None
    return Record(value.problem.strip(), steps, value.paths(), source=source)


PROCESSBENCH = Format(
    name="processbench",
    meaning="ProcessBench: index of the first wrong step, or -1; read only",
    decoder=msgspec.json.Decoder(_Solution),
    read=_read,
    write=None,
    recognise=lambda keys: keys.keys() >= {"problem", "steps", "label"},
    human=True,
    benchmark=True,
)
