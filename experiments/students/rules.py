"""Every selection rule at every keep ratio (the paper's Tables 2 and 4)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.store.paired import Contrast
from experiments.students.options import StudentOptions
from theory.selection import RULE_NAMES

if TYPE_CHECKING:
    from experiments.students.runs import Arm

NAME = "rules"

KEEP_RATIOS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)

SMALL_WORLDS = ("scarce", "plentiful-lenient")

# These do not keep a prefix of a ranking.
_NO_STEP_BUDGET = ("ccs", "step-matched-random")


@dataclasses.dataclass(frozen=True)
class Options(StudentOptions):
    """Which rule's subset teaches a student best?

    Every rule of mprm select at keep ratios from 2 to 50 %, at equal rollouts and (full
    size) at equal steps, beside all data, all data with clean labels, and the Bayes
    rule. 20 paired seeds per world.

    Example: mprm run rules --size small
    """


OPTIONS = Options


def arms(steps: bool) -> list[Arm]:
    """All arms; those with a budget of steps on request."""
    from experiments.students.runs import Arm

    units = ("rollouts", "steps") if steps else ("rollouts",)
    return [
        Arm("bayes"),
        Arm("full"),
        Arm("full", labels="clean"),
        *(
            Arm(rule, keep_ratio, unit=unit)
            for unit in units
            for rule in RULE_NAMES
            for keep_ratio in KEEP_RATIOS
            if unit == "rollouts" or rule not in _NO_STEP_BUDGET
        ),
    ]


def contrasts() -> list[Contrast]:
    """The paper's comparisons, at each of its keep ratios."""

    def arm(rule: str, keep_ratio: float) -> dict:
        labels = {"labels": "hard-0", "unit": "rollouts"}
        return {"rule": rule, "keep_ratio": keep_ratio} | labels

    full = {"rule": "full", "labels": "hard-0"}
    listed = []
    for keep in (0.05, 0.1, 0.25, 0.5):
        share = f"{100 * keep:g} %"
        listed += [
            Contrast(f"BIS > Random at {share}", arm("bis", keep), arm("random", keep)),
            Contrast(f"BIS > Mixed at {share}", arm("bis", keep), arm("mixed", keep)),
            Contrast(f"BIS {share} > full data", arm("bis", keep), full),
        ]
    at = 0.25
    listed += [
        Contrast("Mixed > Random at 25 %", arm("mixed", at), arm("random", at)),
        Contrast("Low-MC > Random at 25 %", arm("low-mc", at), arm("random", at)),
        Contrast("Mixed > Low-MC at 25 %", arm("mixed", at), arm("low-mc", at)),
        Contrast("Random > Reliable at 25 %", arm("random", at), arm("reliable", at)),
    ]
    return listed


def run(options: Options) -> None:
    """Run what is missing, and report."""
    from experiments.students.experiment import run_worlds

    everything = options.size == "full"
    names = None if everything else SMALL_WORLDS
    run_worlds(options, NAME, names, lambda world: arms(everything), contrasts())
