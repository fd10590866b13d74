"""How a count becomes a label (the paper's Table 2)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.store.paired import Contrast
from experiments.students.options import StudentOptions

if TYPE_CHECKING:
    from experiments.students.runs import Arm

NAME = "labels"

KINDS = ("hard-0", "hard-1", "hard-2", "soft", "counts", "clean")

# rule, keep ratio: everything, and two subsets.
SUBSETS = (("full", 1.0), ("random", 0.25), ("bis", 0.25), ("bis", 0.1))

SMALL_WORLDS = ("scarce", "lenient", "strict", "judged")


@dataclasses.dataclass(frozen=True)
class Options(StudentOptions):
    """Which labels teach best: 1[K > 0], 1[K > 1], 1[K > 2], K/N, or the counts?

    "counts" is the beta-binomial likelihood of K; "clean", the truth, is the upper
    bound. On all data, Random-25 %, BIS-25 % and BIS-10 %; 20 paired seeds.

    Example: mprm run labels --size small
    """


OPTIONS = Options


def arms() -> list[Arm]:
    """Every kind of labels on every subset."""
    from experiments.students.runs import Arm

    return [Arm("bayes")] + [
        Arm(rule, keep_ratio, labels=kind)
        for rule, keep_ratio in SUBSETS
        for kind in KINDS
    ]


def contrasts() -> list[Contrast]:
    """Table 2's order on all data, and what else a label could be."""

    def full(kind: str) -> dict:
        return {"rule": "full", "labels": kind}

    return [
        Contrast("1[K > 0] > 1[K > 1]", full("hard-0"), full("hard-1")),
        Contrast("1[K > 1] > 1[K > 2]", full("hard-1"), full("hard-2")),
        Contrast("1[K > 2] > soft", full("hard-2"), full("soft")),
        Contrast("1[K > 0] > soft", full("hard-0"), full("soft")),
        Contrast("counts > 1[K > 0]", full("counts"), full("hard-0")),
        Contrast("clean > 1[K > 0]", full("clean"), full("hard-0")),
    ]


def run(options: Options) -> None:
    """Run what is missing, and report."""
    from experiments.students.experiment import run_worlds

    names = SMALL_WORLDS if options.size == "small" else None
    run_worlds(options, NAME, names, lambda world: arms(), contrasts())
