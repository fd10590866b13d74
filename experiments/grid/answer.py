"""Did one rule beat another here? Means over seeds, their intervals, and the sentence.

A trained model varies with its seed, and its score with the rollouts it is tested on.
Both enter the interval; where a rule is compared with another, both models of a seed
are tested on the same rollouts, so their difference is taken seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats
from scipy.optimize import root_scalar

from experiments.console.text import number, percent, signed

Seed = int | None
Verdict = Literal["ahead", "behind", "open"]
Covers = Literal["seeds and rollouts", "seeds", "rollouts", "nothing"]

LEVEL = 0.95

# Of a score in a sentence.
_DIGITS = 3

# p-values below it are told as 0.
_LEAST_P = 1e-12

# Scores are shares; what differs by less differs by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Score:
    """One metric of one trained model.

    Attributes:
        value: on the benchmark.
        replicates: on resamples of the benchmark's rollouts; the b-th of every model of
            a world comes from the same resample. NaN where a resample does not define
            it; empty: not recorded.
    """

    value: float
    replicates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        mean: over the seeds.
        half_width: the interval is mean +- half_width; None where nothing gives one.
        seeds: number of values behind the mean.
        covers: the sources of variation that the interval holds.
        p: two-sided p-value of mean 0; None where the interval does not hold how seeds
            vary.
    """

    mean: float
    half_width: float | None
    seeds: int
    covers: Covers
    p: float | None = None

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval, ends included, lies on one side of zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def mean_over_seeds(scores: Sequence[Score], level: float = LEVEL) -> Estimate:
    """Mean over seeds, with an interval that covers seeds and rollouts.

    ``half_width^2 = t_{S-1}^2 v_S + z^2 v_R``: v_S = Var_s(value) / S is what S seeds
    leave open, v_R = Var_b(mean_s replicate_sb) what the benchmark's rollouts leave
    open; the squares of both half-widths add (Howe 1974; Zou and Donner 2008). Never
    narrower than either alone: with t of Satterthwaite's degrees of freedom two seeds
    that happen to agree give an interval that holds the truth in 87 % of cases. What a
    seed and a rollout do together is in both terms, so it errs on the wide side.

    Values that are equal in all of two or more seeds leave v_S unknown, not zero: the t
    statistic is 0/0 (or x/0) whatever the number of seeds, and on a coarse benchmark
    models of different seeds tie. They count as one seed does: the interval, if there
    is one, holds the rollouts only, and there is no p-value.

    Args:
        scores: one per seed. With replicates only if all have equally many, >= 2.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: there is no score.
    """
    if not scores:
        raise ValueError("a mean needs at least one score")
    values = np.array([score.value for score in scores])
    seeds = len(values)
    counts = {len(score.replicates) for score in scores}
    v_rollouts = v_seeds = None
    if len(counts) == 1:
        means_B = np.array([score.replicates for score in scores]).mean(axis=0)
        defined = means_B[np.isfinite(means_B)]
        if len(defined) >= 2 and 2 * len(defined) >= len(means_B):
            v_rollouts = float(defined.var(ddof=1))
    if seeds >= 2 and np.ptp(values) > _ROUNDING:
        v_seeds = float(values.var(ddof=1)) / seeds
    covers: Covers = "nothing"
    if v_seeds is not None:
        covers = "seeds" if v_rollouts is None else "seeds and rollouts"
    elif v_rollouts is not None:
        covers = "rollouts"
    mean = float(values.mean())
    if covers == "nothing":
        return Estimate(mean, None, seeds, covers)

    def half(alpha: float) -> float:
        t = stats.t.isf(alpha / 2, seeds - 1) if v_seeds else 0.0
        z = stats.norm.isf(alpha / 2) if v_rollouts else 0.0
        return math.hypot(t * (v_seeds or 0.0) ** 0.5, z * (v_rollouts or 0.0) ** 0.5)

    p = None if v_seeds is None else _p_value(abs(mean), half)
    return Estimate(mean, half(1 - level), seeds, covers, p)


def _p_value(distance: float, half: Callable[[float], float]) -> float:
    """The alpha at which an interval of level 1 - alpha just reaches zero."""
    if distance == 0:
        return 1.0
    if half(_LEAST_P) <= distance:
        return 0.0
    found = root_scalar(
        lambda p: half(p) - distance, bracket=(_LEAST_P, 1.0), xtol=1e-15
    )
    return float(found.root)


def paired_difference(
    arm: Mapping[Seed, Score], other: Mapping[Seed, Score]
) -> Estimate | None:
    """Mean of ``arm - other`` over the seeds that both have; None if they share none.

    An arm whose only seed is None has nothing random in it (the untrained base): it is
    set against every seed of the other.
    """
    if set(arm) == {None}:
        arm = dict.fromkeys(other, arm[None])
    elif set(other) == {None}:
        other = dict.fromkeys(arm, other[None])
    shared = [seed for seed in arm if seed in other]
    if not shared:
        return None
    return mean_over_seeds([_minus(arm[seed], other[seed]) for seed in shared])


def _minus(a: Score, b: Score) -> Score:
    if len(a.replicates) != len(b.replicates):
        return Score(a.value - b.value)
    pairs = zip(a.replicates, b.replicates, strict=True)
    return Score(a.value - b.value, tuple(x - y for x, y in pairs))


def verdict(difference: Estimate | None, adjusted_p: float | None = None) -> Verdict:
    """What may be said of a difference: ahead or behind iff p, corrected for what else
    was asked, is below 5 %, or where nothing was corrected the interval excludes zero.

    One seed decides nothing, whatever the rollouts say; nor do several that all give
    the same difference, because they do not show how seeds vary.
    """
    if difference is None or difference.seeds < 2 or "seeds" not in difference.covers:
        return "open"
    sure = difference.excludes_zero if adjusted_p is None else adjusted_p < 1 - LEVEL
    if not sure:
        return "open"
    return "ahead" if difference.mean > 0 else "behind"


def answer_sentence(
    difference: Estimate | None,
    arm: str,
    other: str = "Random",
    *,
    where: str = "",
    adjusted_p: float | None = None,
) -> str:
    """The answer, plainly: who was ahead, by how much, how surely.

    Args:
        difference: of micro-F1, arm - other; None if they share no seed.
        arm: name of the rule in question.
        other: name of the rule it is set against.
        where: begins the sentence, such as "In the world “scarce”, ".
        adjusted_p: Holm's, where several differences were tested together.
    """
    text = where + _said(difference, arm, other, adjusted_p)
    return text[0].upper() + text[1:]


def _said(
    difference: Estimate | None, arm: str, other: str, adjusted_p: float | None
) -> str:
    if difference is None:
        return (
            f"there is no answer: {arm} and {other} were not both trained with a "
            "common seed."
        )
    by = f"{number(abs(difference.mean), _DIGITS)} micro-F1"
    mean = f"{signed(difference.mean, _DIGITS)} micro-F1"
    if difference.seeds < 2:
        lead = "level with" if difference.mean == 0 else "ahead of"
        if difference.mean < 0:
            lead = "behind"
        return (
            f"{arm} ended {lead} {other} by {by} in the one seed that was run; "
            "that decides nothing."
        )
    if "seeds" not in difference.covers:
        return (
            f"it is not decided whether {arm} beats {other}: the difference is {mean} "
            f"in each of {difference.seeds} seeds, which does not show how seeds vary."
        )
    seeds = f"mean of {difference.seeds} seeds, paired"
    evidence = _evidence(difference, adjusted_p)
    match verdict(difference, adjusted_p):
        case "ahead":
            return f"{arm} beat {other} by {by} ({seeds}); {evidence}."
        case "behind":
            return f"{arm} did not beat {other}: it lost by {by} ({seeds}); {evidence}."
    return (
        f"it is not decided whether {arm} beats {other}: the difference is "
        f"{mean} ({seeds}), and {evidence}."
    )


def _evidence(difference: Estimate, adjusted_p: float | None) -> str:
    ends = " to ".join(
        signed(end, _DIGITS)
        for end in (difference.low, difference.high)
        if end is not None
    )
    holds = "excludes zero" if difference.excludes_zero else "includes zero"
    interval = f"the {percent(LEVEL)} interval over {difference.covers}, {ends}"
    if adjusted_p is None:
        return f"{interval}, {holds}"
    return f"{interval}, {holds} before correction; Holm’s p is {adjusted_p:.2g}"
