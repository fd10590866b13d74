"""How much smoothing BIS needs (the paper's Table 5)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.store.paired import Contrast
from experiments.students.options import StudentOptions

if TYPE_CHECKING:
    from experiments.students.runs import Arm

NAME = "alpha"

ALPHAS = (0.0, 0.02, 0.05, 0.08, 0.1, 0.2, 0.5)
KEEP_RATIOS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)

SMALL_WORLDS = ("scarce", "plentiful")


@dataclasses.dataclass(frozen=True)
class Options(StudentOptions):
    """Which alpha should BIS have at which keep ratio?

    alpha from 0 to 0.5 at keep ratios from 2 to 50 %, beside Random; 20 paired seeds.
    At alpha = 0 rollouts that are not mixed score 0 and come last.

    Example: mprm run alpha --size small
    """


OPTIONS = Options


def arms() -> list[Arm]:
    """Every alpha at every keep ratio, and Random."""
    from experiments.students.runs import Arm

    return [Arm("random", keep_ratio) for keep_ratio in KEEP_RATIOS] + [
        Arm("bis", keep_ratio, alpha) for keep_ratio in KEEP_RATIOS for alpha in ALPHAS
    ]


def contrasts() -> list[Contrast]:
    """The default against its neighbours in Table 5 and the extremes."""

    def bis(alpha: float, keep_ratio: float) -> dict:
        return {"rule": "bis", "alpha": alpha, "keep_ratio": keep_ratio}

    return [
        Contrast(
            f"alpha .05 > {other:g} at {100 * keep:g} %",
            bis(0.05, keep),
            bis(other, keep),
        )
        for keep in (0.05, 0.1, 0.25)
        for other in (0.0, 0.02, 0.08, 0.2, 0.5)
    ]


def run(options: Options) -> None:
    """Run what is missing, and report."""
    from experiments.students.experiment import run_worlds

    names = SMALL_WORLDS if options.size == "small" else None
    run_worlds(options, NAME, names, lambda world: arms(), contrasts())
