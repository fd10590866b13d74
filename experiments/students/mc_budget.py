"""How many continuations per step are worth buying, at a fixed total of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.store.paired import Contrast
from experiments.students.options import StudentOptions

if TYPE_CHECKING:
    from experiments.students.runs import Arm
    from experiments.students.worlds import World

NAME = "mc_budget"

# N, with so many rollouts that N times rollouts is the same for all.
TRIALS = (2, 4, 8, 16, 32)
CONTINUATIONS = 80_000

# Rollouts that all subsets keep: half of those with N = 32.
KEPT = 1250

SMALL_WORLDS = ("scarce", "lenient")
FULL_WORLDS = ("scarce", "plentiful", "lenient", "strict", "judged")


@dataclasses.dataclass(frozen=True)
class Options(StudentOptions):
    """Many rollouts with few continuations, or few rollouts with many?

    80,000 continuations per step position are spent on 40,000 rollouts with N = 2 up
    to 2,500 with N = 32. Students train on everything (updates grow with the rollouts),
    and on 1,250 rollouts that a rule chooses (equal updates). 20 paired seeds.

    Example: mprm run mc_budget --size small
    """


OPTIONS = Options


def at_budget(world: World, trials: int) -> World:
    """The world with so many continuations per step, named after both."""
    law = dataclasses.replace(
        world.law, trials=trials, rollouts=CONTINUATIONS // trials
    )
    return dataclasses.replace(world, name=f"{world.name}, N = {trials}", law=law)


def arms(world: World) -> list[Arm]:
    """All rollouts with four kinds of labels, and 1,250 chosen ones."""
    from experiments.students.runs import Arm

    keep_ratio = KEPT / world.law.rollouts
    return [
        Arm("full"),
        Arm("full", labels="soft"),
        Arm("full", labels="counts"),
        Arm("full", labels="clean"),
        Arm("random", keep_ratio),
        Arm("bis", keep_ratio),
        Arm("mixed", keep_ratio),
        Arm("low-mc", keep_ratio),
    ]


def contrasts() -> list[Contrast]:
    """Selection at each N."""
    hard = {"labels": "hard-0"}
    return [
        Contrast(
            "BIS > Random, 1,250 rollouts", {"rule": "bis"}, {"rule": "random"}
        ),
        Contrast("BIS, 1,250 > all", {"rule": "bis"}, {"rule": "full"} | hard),
        Contrast(
            "counts > 1[K > 0], all", {"rule": "full", "labels": "counts"},
            {"rule": "full"} | hard,
        ),
    ]  # fmt: skip


def run(options: Options) -> None:
    """Run what is missing, and report."""
    from experiments.students.experiment import run_listed
    from experiments.students.worlds import worlds

    names = SMALL_WORLDS if options.size == "small" else FULL_WORLDS
    listed = [at_budget(worlds()[name], trials) for name in names for trials in TRIALS]
    run_listed(options, NAME, listed, arms, contrasts())
