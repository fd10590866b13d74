"""ProcessBench: solutions with the first wrong step that humans found (read only).

``{"id", "generator", "problem", "steps": [s1, s2], "final_answer_correct", "label"}``

``label`` is the index of the first wrong step from 0, or -1 where all are right. Steps
before it are positive, it is negative (one trial each); later ones were never judged
(trials 0). The source is left to the file, because each split is one.
"""

from __future__ import annotations

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import parse, source_of
from mprm_jax.data.problems import BadRecord
from mprm_jax.data.record import Record, Step, check_record


class _Solution(msgspec.Struct, frozen=True):
    problem: str
    steps: tuple[str, ...]
    label: int


_DECODER = msgspec.json.Decoder(_Solution)


def decode(data: bytes, options: ReadOptions) -> Record:
    """One solution.

    Raises:
        BadRecord: it has another form, or ``label`` names no step.
    """
    value = parse(data, _DECODER, "processbench")
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
    source = source_of(data, options, None)
    return check_record(Record(value.problem.strip(), steps, source=source))


PROCESSBENCH = Format(
    name="processbench",
    meaning="ProcessBench: index of the first wrong step, or -1; read only",
    decode=decode,
    encode=None,
    soft=False,
    recognise=lambda keys: keys.keys() >= {"problem", "steps", "label"},
)
