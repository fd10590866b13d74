"""How sure a number is: t over seeds, the bootstrap over clusters, both, and Holm.

SciPy is imported by the functions that need it, so that commands which only count can
import this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
REPLICATES = 1000

# p-values below it are given as 0.
_LEAST_P = 1e-12

# Scores are shares; what differs by less differs by rounding.
_ROUNDING = 1e-12

# Numbers in one array of weighted steps: small enough for the cache of a core.
_CHUNK = 1 << 18


class Interval(NamedTuple):
    """Ends of an interval."""

    low: float
    high: float


class TInterval(NamedTuple):
    """A mean and its two-sided t interval.

    Attributes:
        mean: of the values.
        low: lower end; None where all values are one number other than 0.
        high: upper end; None likewise.
        p: two-sided p-value of mean 0; 1 where all values are equal.
        n: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    n: int


def t_half_width(error: ArrayLike, n: int, level: float = LEVEL) -> np.ndarray:
    """``t_{n-1} error``: half the interval of a mean of n values; NaN for one value.

    Args:
        error: standard error of the mean, any shape.
        n: values behind the mean, at least 1.
        level: of the interval, in (0, 1).
    """
    if n < 2:
        return np.full(np.shape(error), np.nan)
    return np.asarray(error) * _two_sided_t(1 - level, n)


def _two_sided_t(alpha: float, n: int) -> float:
    from scipy import stats

    return float(stats.t.isf(alpha / 2, n - 1))


def normal_half_width(error: ArrayLike, level: float = LEVEL) -> np.ndarray:
    """``z error``: half the interval of an asymptotically normal estimate.

    Args:
        error: standard error, any shape.
        level: of the interval, in (0, 1).
    """
    return np.asarray(error) * _two_sided_z(1 - level)


def _two_sided_z(alpha: float) -> float:
    return -NormalDist().inv_cdf(alpha / 2)


def mean_and_half_width(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Mean of ``[n]`` values and half the width of its t interval; NaN for n = 1."""
    x = np.asarray(values, float)
    n = len(x)
    error = x.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(x.mean()), float(t_half_width(error, n, level))


def paired_interval(
    treated: ArrayLike, baseline: ArrayLike, level: float = LEVEL
) -> TInterval:
    """Student's t interval of the mean of ``treated - baseline``.

    Differences that are all one number other than 0 leave their spread unknown, not
    zero (see :func:`mean_over_seeds`): there is no interval, and p is 1, not 0. If all
    are 0, the arms are the same, and the interval is that point.

    Raises:
        ValueError: the lists differ in length, or have fewer than two pairs.
    """
    from scipy import stats

    difference = np.asarray(treated, float) - np.asarray(baseline, float)
    n = len(difference)
    if n < 2:
        raise ValueError("a paired interval needs at least two pairs")
    mean, half = mean_and_half_width(difference, level)
    if not difference.any():
        return TInterval(0.0, 0.0, 0.0, 1.0, n)
    if np.ptp(difference) <= _ROUNDING:
        return TInterval(mean, None, None, 1.0, n)
    error = float(difference.std(ddof=1) / np.sqrt(n))
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return TInterval(mean, mean - half, mean + half, p, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(running, 1.0)
    return adjusted


class Verdict(NamedTuple):
    """Whether a mean can be told from zero among several.

    Attributes:
        interval: of the mean, at its own level.
        adjusted_p: Holm's, over all of them.
        sign: 1 or -1 where it can be told, else 0.
    """

    interval: TInterval
    adjusted_p: float
    sign: int


def tell_apart(differences: Sequence[ArrayLike], level: float = LEVEL) -> list[Verdict]:
    """Which of several means of paired differences are told apart from zero.

    Args:
        differences: values of each mean, at least two.
        level: of the intervals; means are told apart at ``1 - level`` over all of them.

    Raises:
        ValueError: as :func:`paired_interval`.

    Example:
        >>> found = tell_apart([[1, 1.1, 0.9], [-1, 1, 0.1], [-2, -2.1, -1.9]])
        >>> [verdict.sign for verdict in found]
        [1, 0, -1]
    """
    found = [paired_interval(x, np.zeros(np.shape(x)), level) for x in differences]
    adjusted = holm([interval.p for interval in found])
    return [
        Verdict(interval, p, int(np.sign(interval.mean)) if p < 1 - level else 0)
        for interval, p in zip(found, adjusted, strict=True)
    ]


def draw_weights(
    stratum: np.ndarray, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each cluster is drawn, float64 ``[replicates, n_clusters]``.

    The bootstrap of clusters within strata (Davison and Hinkley 1997, Sec. 3.8): steps
    of a rollout stand or fall together, so rollouts are drawn with replacement, and as
    many of each source as it has. Row by row the draws follow one stream, so the same
    strata and seed give the same rows however many are asked for at a time: replicates
    of two models on the same rollouts are paired.

    Args:
        stratum: of each cluster, int ``[n_clusters]``, at least 0.
        replicates: R.
        rng: of the draws.
    """
    n = len(stratum)
    order = np.argsort(stratum, kind="stable")
    size = np.bincount(stratum)
    start = np.cumsum(size) - size
    slot = stratum[order]
    pick = start[slot] + np.floor(rng.random((replicates, n)) * size[slot])
    drawn = order[pick.astype(np.int64)] + n * np.arange(replicates)[:, None]
    return np.bincount(drawn.ravel(), minlength=replicates * n).reshape(-1, n) * 1.0


def weight_chunks(
    stratum: np.ndarray, replicates: int, rng: np.random.Generator, width: int
) -> Iterator[np.ndarray]:
    """:func:`draw_weights` a few rows at a time, for work on ``width`` columns."""
    rows = max(1, _CHUNK // max(width, len(stratum), 1))
    for done in range(0, replicates, rows):
        yield draw_weights(stratum, min(rows, replicates - done), rng)


def percentile_interval(values_R: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Percentile interval of replicates (Efron 1979); NaN where one is undefined.

    None if under half of them are defined.
    """
    defined = values_R[np.isfinite(values_R)]
    if 2 * len(defined) < len(values_R) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def basic_interval(
    value: float, values_R: np.ndarray, level: float = LEVEL
) -> Interval | None:
    """Basic interval ``2 value - q`` of a metric in [0, 1], cut to that range.

    q are the two quantiles of :func:`percentile_interval`, the upper one for the lower
    end (Davison and Hinkley 1997, Sec. 5.2). Replicates are biased as the metric is,
    so that the percentile interval doubles the bias; this one takes it off. It matters
    for micro-F1, a mean over sources whose macro-F1 are all biased down: of five with
    ten solutions each it holds the truth in 93 % of cases, the percentile interval in
    87 %. Of a single source, and of pooled F1, neither is better.

    Args:
        value: the metric of the data.
        values_R: of replicates; NaN where one is undefined.
        level: of the interval, in (0, 1).
    """
    found = percentile_interval(values_R, level)
    if found is None:
        return None
    low, high = 2 * value - found.high, 2 * value - found.low
    return Interval(max(0.0, low), min(1.0, high))


def resampled_difference(
    value: float, values_R: np.ndarray, level: float = LEVEL
) -> tuple[Interval | None, float]:
    """Normal interval ``value +- z s`` of a difference, s being the standard deviation
    of its replicates (Davison and Hinkley 1997, Sec. 5.2), and the p-value at which it
    just reaches zero.

    Centred at the data's own difference it doubles no bias, as the basic interval; and
    a p-value may be as small as many comparisons need, where one counted among R
    replicates is 1/R at least. If all replicates and the difference are 0, so are the
    ends, and p is 1. Replicates that are all one other number leave s unknown.

    Args:
        value: the difference.
        values_R: of replicates; NaN where one is undefined. There is no interval if
            under half of them are defined.
        level: of the interval, in (0, 1).

    Returns:
        The interval, None where nothing gives one, and the two-sided p-value of no
        difference, then 1.
    """
    defined = values_R[np.isfinite(values_R)]
    if 2 * len(defined) < len(values_R) or len(defined) < 2:
        return None, 1.0
    error = float(defined.std(ddof=1))
    if error <= _ROUNDING:
        same = abs(value) <= _ROUNDING and not defined.any()
        return Interval(0.0, 0.0) if same else None, 1.0
    half = _two_sided_z(1 - level) * error
    p = 2 * NormalDist().cdf(-abs(value) / error)
    return Interval(value - half, value + half), p


Covers = Literal["seeds and rollouts", "seeds", "rollouts", "nothing"]


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
    seed and a rollout do together is in both terms, so it errs on the wide side. Two
    seeds cost a width five times that of many wherever seeds vary most, because t of
    one degree does: a fiducial interval is as wide, and the larger of the two half
    widths, up to 17 % narrower in between, holds the truth of eight seeds in 90 %.

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
        t = _two_sided_t(alpha, seeds) if v_seeds else 0.0
        z = _two_sided_z(alpha) if v_rollouts else 0.0
        return math.hypot(t * (v_seeds or 0.0) ** 0.5, z * (v_rollouts or 0.0) ** 0.5)

    p = None if v_seeds is None else _p_value(abs(mean), half)
    return Estimate(mean, half(1 - level), seeds, covers, p)


def _p_value(distance: float, half: Callable[[float], float]) -> float:
    """The alpha at which an interval of level 1 - alpha just reaches zero."""
    from scipy.optimize import root_scalar

    if distance == 0:
        return 1.0
    if half(_LEAST_P) <= distance:
        return 0.0
    found = root_scalar(
        lambda p: half(p) - distance, bracket=(_LEAST_P, 1.0), xtol=1e-15
    )
    return float(found.root)
