"""How much of BIS is its score, and how much the filler behind ties."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from experiments.store.paired import Contrast
from experiments.students.options import StudentOptions
from theory.paper import FULL_DATA
from theory.rollouts import Rollouts
from theory.scores import bis, reliability
from theory.selection import budget

if TYPE_CHECKING:
    from experiments.students.runs import Arm
    from sim.students.problem import Problem

NAME = "ties"

# Below, at, and above the mixed share of the scarce world (that of the paper's corpus).
KEEP_RATIOS = (0.02, 0.05, FULL_DATA.mixed_share, 0.1, 0.25)

# How rollouts with equal scores are ordered, and what may fill the budget.
VARIANTS = (
    "bis",
    "bis-file",
    "bis-easy-first",
    "bis-hard-first",
    "bis-all-negative-0",
    "bis-no-filler",
    "bis-random-filler",
    "bis-perfect-filler",
    "bis-all-negative-filler",
    "mixed",
    "random",
)

SMALL_WORLDS = ("scarce", "judged")


@dataclasses.dataclass(frozen=True)
class Options(StudentOptions):
    """What do ties decide, and does it matter?

    Every perfect and every all-negative rollout scores exactly alpha. Arms: BIS with
    ties by content, by file order, and by files that list easy or hard rollouts first;
    with all-negative rollouts scored 0; and, with the mixed rollouts that BIS chooses,
    no filler at all, random filler, only perfect or only all-negative filler. Keep
    ratios below, at and above the mixed share; 20 paired seeds.

    Example: mprm run ties --size small
    """


OPTIONS = Options


def arms() -> list[Arm]:
    """Every variant at every keep ratio."""
    from experiments.students.runs import Arm

    return [Arm(rule, keep) for keep in KEEP_RATIOS for rule in VARIANTS]


def contrasts() -> list[Contrast]:
    """Each variant against BIS, at and above the mixed share."""
    listed = [
        Contrast(
            f"BIS > {variant} at {100 * keep:g} %",
            {"rule": "bis", "keep_ratio": keep},
            {"rule": variant, "keep_ratio": keep},
        )
        for keep in (0.1, 0.25)
        for variant in VARIANTS[1:]
    ]
    return listed + [
        Contrast(
            f"BIS > {rule} at {100 * keep:g} %",
            {"rule": "bis", "keep_ratio": keep},
            {"rule": rule, "keep_ratio": keep},
        )
        for keep in KEEP_RATIOS[:3]
        for rule in ("mixed", "random")
    ]


def choose(problem: Problem, arm: Arm) -> tuple[np.ndarray, float]:
    """Rows of a variant; those of the library are the library's.

    The share beside a variant's rows is that of its filler: rollouts not mixed.
    """
    from experiments.students.runs import choose_rows

    if not arm.rule.startswith("bis-"):
        return choose_rows(problem, arm)
    rollouts, variant = problem.rollouts, arm.rule.removeprefix("bis-")
    key = bis(rollouts, arm.alpha)
    order = problem.content.astype(np.float64)
    positive, n = rollouts.n_positive, rollouts.n_measured
    mixed = (positive > 0) & (positive < n)
    if variant == "file":
        order = np.arange(rollouts.n_rollouts)
    elif variant in ("easy-first", "hard-first"):
        # The rollout's ease as features show it, which is its true mean r.
        ease = problem.steps.ease_S[rollouts.offsets[:-1]]
        order = -ease if variant == "easy-first" else ease
    elif variant == "all-negative-0":
        key = key * (reliability(rollouts, all_negative=0.0) > 0)
    elif variant == "random-filler":
        # Behind every rollout that beats the tied block, in random order.
        key = np.where(key > arm.alpha, key, 0.0)
    elif variant in ("perfect-filler", "all-negative-filler"):
        wanted = positive == n if variant == "perfect-filler" else positive == 0
        key = np.where(key > arm.alpha, key, np.where(wanted, arm.alpha, 0.0))
    rows = top_rows(rollouts, key, order, arm.keep_ratio)
    if variant == "no-filler":
        without = rows[mixed[rows] & (key[rows] > arm.alpha)]
        # A subset must not be empty: the best rollout stays.
        rows = without if len(without) else rows[[np.argmax(key[rows])]]
    return rows, float(np.mean(~mixed[rows]))


def top_rows(
    rollouts: Rollouts, key: np.ndarray, order: np.ndarray, keep_ratio: float
) -> np.ndarray:
    """Rows with the largest keys of each source, equal ones by ``order``, ascending."""
    chosen = []
    for source in range(len(rollouts.source_names)):
        rows = np.flatnonzero(rollouts.source == source)
        ranked = rows[np.lexsort((order[rows], -key[rows]))]
        chosen.append(ranked[: budget(len(rows), keep_ratio)])
    return np.sort(np.concatenate(chosen))


def run(options: Options) -> None:
    """Run what is missing, and report."""
    from experiments.students.experiment import run_worlds

    names = SMALL_WORLDS if options.size == "small" else None
    run_worlds(options, NAME, names, lambda world: arms(), contrasts(), choose=choose)
