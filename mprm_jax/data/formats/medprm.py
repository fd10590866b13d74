"""Med-PRM samples: medical multiple choice with Monte-Carlo scores (read only).

``{"question", "options", "correct_answer", "data_source", "steps": ["Step 1: s1 ки"],
"prm_soft_label": [0.125]}``, each score K/16 unless ``ReadOptions.trials`` says else.

The question is the question and, on the next lines, its options. The marker that ends
each step is taken away; "Step j:" stays. Judges' labels, the hard label (1[s > 0]) and
``full_solution`` (the steps again, with markers) are not read.
"""

from __future__ import annotations

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import Pictured, check_paired
from mprm_jax.data.formats.math_shepherd import MARKER
from mprm_jax.records.record import Record, scored_step

# Every published score is a multiple of 1/16.
TRIALS = 16


class _Sample(Pictured, frozen=True):
    question: str
    options: str
    data_source: str
    steps: tuple[str, ...]
    prm_soft_label: tuple[float, ...]
    correct_answer: str | None = None


def _read(value: _Sample, options: ReadOptions) -> Record:
    check_paired(len(value.steps), len(value.prm_soft_label))
    trials = TRIALS if options.trials is None else options.trials
    steps = tuple(
        scored_step(text.rstrip().removesuffix(MARKER).strip(), score, trials, number)
        for number, (text, score) in enumerate(
            zip(value.steps, value.prm_soft_label, strict=True), 1
        )
    )
    return Record(
        question=f"{value.question}\n{value.options}".strip(),
        steps=steps,
        image=value.paths(),
        answer=value.correct_answer,
        source=value.data_source or None,
    )


MEDPRM = Format(
    name="medprm",
    meaning="Med-PRM samples: soft labels K/16, text only; read only",
    decoder=msgspec.json.Decoder(_Sample),
    read=_read,
    write=None,
    soft=True,
    recognise=lambda keys: keys.keys() >= {"steps", "prm_soft_label"},
)
