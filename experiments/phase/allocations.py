"""How arms spend continuations: who is continued how often, and what it then says.

Pure functions of one table of outcomes, so that every arm reads the same continuations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from experiments.phase.annotation_design import FULL, KEEP_RATIO, MOST, RELIABLE, ROUNDS
from theory.annotation import PlanOptions, neighbour_prior, plan_continuations
from theory.beta_binomial import unreliability_posterior
from theory.confidence import confidence_sequence
from theory.labelling import DOUBTFUL
from theory.rollouts import Rollouts
from theory.scores import moment_prior


class Allocation(NamedTuple):
    """What was spent on each step, and seen.

    Attributes:
        trials: N, ``[n_steps]``.
        successes: K, ``[n_steps]``.
        inferred: 1 right, -1 wrong, without a continuation; 0 where there are some.
    """

    trials: np.ndarray
    successes: np.ndarray
    inferred: np.ndarray


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Continuations of every step, in the order in which they are drawn.

    Attributes:
        rollouts: whose steps; the counts do not matter.
        successes_SxM: K after 0, 1, ... continuations, ``[n_steps, most + 1]``.
        again: another full annotation, whose continuations no arm reads.
        order: of the rollouts in which caps are raised.
    """

    rollouts: Rollouts
    successes_SxM: np.ndarray
    again: Allocation
    order: np.ndarray

    @classmethod
    def draw(
        cls, rollouts: Rollouts, r_S: np.ndarray, rng: np.random.Generator
    ) -> Outcomes:
        """``U ~ Bernoulli(r)``, :data:`MOST` a step."""
        succeeds = rng.random((len(r_S), MOST)) < r_S[:, None]
        table = np.pad(np.cumsum(succeeds, axis=1, dtype=np.int16), [(0, 0), (1, 0)])
        again = rng.binomial(FULL, r_S)
        seen = Allocation(np.full(len(r_S), FULL), again, np.zeros(len(r_S), np.int8))
        return cls(rollouts, table, seen, rng.permutation(rollouts.n_rollouts))

    @cached_property
    def prior(self) -> tuple[float, float]:
        """Beta prior of r, by moments of the first continuations of every step."""
        trials = np.full(self.rollouts.n_steps, PLAN_START)
        return moment_prior(counted(self.rollouts, _seen(self, trials)))

    def after(self, trials_S: np.ndarray) -> np.ndarray:
        """K of each step after its N."""
        return self.successes_SxM[np.arange(len(trials_S)), trials_S]


# --- arms with a cap on the continuations of a step -----------------------------------


def uniform(outcomes: Outcomes, cap_S: np.ndarray) -> Allocation:
    """N = cap."""
    return _seen(outcomes, cap_S)


def first_success(outcomes: Outcomes, cap_S: np.ndarray) -> Allocation:
    """Up to the first success."""
    return _seen(outcomes, _until(outcomes.successes_SxM > 0, cap_S))


def confidence(outcomes: Outcomes, cap_S: np.ndarray) -> Allocation:
    """Up to where the confidence sequence leaves out :data:`DOUBTFUL`."""
    trials = np.arange(MOST + 1)
    return _seen(outcomes, _until(_decided()[trials, outcomes.successes_SxM], cap_S))


def early_stop(outcomes: Outcomes, cap_S: np.ndarray) -> Allocation:
    """N = cap up to a rollout's first step with K = 0; the rest is called wrong."""
    failed = outcomes.after(cap_S) == 0
    before = np.cumsum(failed) - failed
    first = outcomes.rollouts.offsets[:-1]
    unseen = before > np.repeat(before[first], outcomes.rollouts.lengths)
    return _seen(outcomes, np.where(unseen, 0, cap_S), -unseen.astype(np.int8))


def binary_search(outcomes: Outcomes, cap_S: np.ndarray) -> Allocation:
    """N = cap of the middle of the steps among which the first error is; steps before
    one with K > 0 are called right, steps behind one with K = 0 wrong.
    """
    offsets, lengths = outcomes.rollouts.offsets, outcomes.rollouts.lengths
    positive = outcomes.after(cap_S) > 0
    low, high = np.zeros_like(lengths), lengths.copy()
    trials = np.zeros_like(cap_S)
    while len(rows := np.flatnonzero(low < high)):
        middle = (low[rows] + high[rows]) // 2
        step = offsets[rows] + middle
        trials[step] = cap_S[step]
        low[rows] = np.where(positive[step], middle + 1, low[rows])
        high[rows] = np.where(positive[step], high[rows], middle)
    right = np.arange(len(cap_S)) < np.repeat(offsets[:-1] + low, lengths)
    return _seen(outcomes, trials, np.where(right, 1, -1))


def _seen(
    outcomes: Outcomes, trials: np.ndarray, inferred: np.ndarray | int = 0
) -> Allocation:
    return Allocation(trials, outcomes.after(trials), np.where(trials > 0, 0, inferred))


def _until(met_SxM: np.ndarray, cap_S: np.ndarray) -> np.ndarray:
    """The first N at which something is met, at most the cap."""
    first = np.where(met_SxM.any(axis=1), met_SxM.argmax(axis=1), MOST)
    return np.minimum(first, cap_S)


@cache
def _decided() -> np.ndarray:
    """Whether the sequence of (N, K) leaves out DOUBTFUL."""
    n, k = np.ogrid[: MOST + 1, : MOST + 1]
    low, high = confidence_sequence(np.minimum(k, n), n)
    return (low > DOUBTFUL) | (high < DOUBTFUL)


Capped = Callable[[Outcomes, np.ndarray], Allocation]

# An arm, and the most that it draws of a step.
CAPPED: dict[str, tuple[Capped, int]] = {
    "uniform": (uniform, MOST),
    "early-stop": (early_stop, MOST),
    "first-success": (first_success, FULL),
    "confidence": (confidence, MOST),
    "binary-search": (binary_search, MOST),
}


def spend(arm: str, outcomes: Outcomes, budget: int) -> Allocation:
    """Raise the cap one by one, rollout by rollout, until the budget is spent.

    Args:
        arm: of :data:`CAPPED`.
        outcomes: of the continuations.
        budget: continuations in all; no more are spent, and less by under one rollout's
            share unless the arm's cap is reached.
    """
    allocate, most = CAPPED[arm]
    rollouts = outcomes.rollouts

    def costs(cap_R: np.ndarray) -> np.ndarray:
        cap_S = np.repeat(cap_R, rollouts.lengths)
        return rollouts.total(allocate(outcomes, cap_S).trials)

    cap_R = np.zeros(rollouts.n_rollouts, np.int64)
    spent = costs(cap_R)
    while cap_R.min() < most:
        dearer = costs(cap_R + 1)
        rise = np.cumsum((dearer - spent)[outcomes.order])
        affordable = np.flatnonzero(rise <= budget - spent.sum())
        raised = outcomes.order[: affordable.max(initial=-1) + 1]
        cap_R[raised] += 1
        if len(raised) < len(cap_R):
            break
        spent = dearer
    return allocate(outcomes, np.repeat(cap_R, rollouts.lengths))


# --- planned arms ---------------------------------------------------------------------

# Two continuations of every step give a prior; a cut is dear to follow, so in larger
# blocks.
PLAN_START = 2
PLANNED = {
    "flip": PlanOptions("flip"),
    "information": PlanOptions("information"),
    "cut": PlanOptions("cut", block=8, keep_ratio=KEEP_RATIO),
}


def plan(arm: str, outcomes: Outcomes, budget: int, content: np.ndarray) -> Allocation:
    """Start with two of every step, and plan the rest in equal rounds, each as `mprm
    annotate plan` does: by neighbours' counts, and without last steps.

    Args:
        arm: of :data:`PLANNED`.
        outcomes: of the continuations.
        budget: continuations in all; a plan leaves what would change nothing.
        content: hashes of the rollouts, which order ties.
    """
    options, rollouts = PLANNED[arm], outcomes.rollouts
    trials = np.full(rollouts.n_steps, PLAN_START)
    inner = np.ones(rollouts.n_steps, bool)
    inner[rollouts.offsets[1:] - 1] = False
    for left in range(ROUNDS, 0, -1):
        share = (budget - int(trials.sum())) // left
        if share < options.block:
            continue
        so_far = counted(rollouts, _seen(outcomes, trials))
        try:
            trials = trials + plan_continuations(
                so_far,
                share,
                options,
                prior=neighbour_prior(so_far, inner),
                content=content,
                only=inner,
            )
        except ValueError:  # nothing that it could draw would change anything
            break
    return _seen(outcomes, trials)


# --- what an allocation says ----------------------------------------------------------


def counted(rollouts: Rollouts, of: Allocation) -> Rollouts:
    """The rollouts with these counts."""
    return Rollouts(
        of.successes, of.trials, rollouts.offsets, rollouts.source,
        rollouts.source_names,
    )  # fmt: skip


def read(outcomes: Outcomes, of: Allocation, reading: str) -> Rollouts:
    """Counts whose 1[K > 0] is the label by a reading.

    An inferred label counts as one continuation that said so; where a reading calls a
    step right without a success, as one success, and wrong, as none.
    """
    label = of.successes > 0
    if reading == "reliable":
        label = _reliable(outcomes.prior)[of.trials, of.successes]
    label = np.where(of.inferred == 0, label, of.inferred > 0)
    successes = np.where(label, np.maximum(of.successes, 1), 0)
    filled = of._replace(trials=np.maximum(of.trials, 1), successes=successes)
    return counted(outcomes.rollouts, filled)


@cache
def _reliable(prior: tuple[float, float]) -> np.ndarray:
    """Whether Pr(r >= 1/2 | K, N) >= 1/2, by N and K."""
    n, k = np.ogrid[1 : MOST + 1, : MOST + 1]
    eta = unreliability_posterior(np.minimum(k, n), *prior, n, RELIABLE)
    return np.pad(eta <= 0.5, [(1, 0), (0, 0)])


def checked(
    outcomes: Outcomes, raises: float, counts: str, rng: np.random.Generator
) -> Allocation:
    """Full annotation by a checker that raises on a right answer now and then.

    Args:
        outcomes: of the continuations.
        raises: probability e.
        counts: "wrong": as a failure, so that E[K/N] = r (1 - e); "skipped": not.
        rng: of the checker.
    """
    succeeds = np.diff(outcomes.successes_SxM[:, : FULL + 1]) > 0
    raised = succeeds & (rng.random(succeeds.shape) < raises)
    trials = np.full(len(succeeds), FULL)
    if counts == "skipped":
        trials -= raised.sum(axis=1)
    successes = (succeeds & ~raised).sum(axis=1)
    return Allocation(trials, successes, np.zeros(len(trials), np.int8))
