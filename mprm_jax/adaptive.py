"""Adaptive best-of-N: draw candidates until the one that leads is good enough.

Candidates come one at a time in random order, and the best mean score leads. Three
rules say when to stop: "posterior" once Pr(mean success rate of the leader's steps >=
t) >= 1 - delta, with the concentrations of its steps; "score" once the leader's mean
score is at least t; "fixed" after N candidates. One number, t or N, trades accuracy for
cost. Costs and accuracies are exact over the orders (:mod:`theory.stopping`).

So that nothing is chosen on what it is judged by, t and N come for each half of the
problems (by the hash of their id) from the other half: what costs least there of all
that are at least as accurate as best-of-M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import xxhash

from mprm_jax.data.scored import CandidateSet
from mprm_jax.rerank import (
    Choosing,
    aggregate,
    correct_of,
    resampled_ends,
    resampled_means,
    steps_of,
)
from theory.best_of_n import best_at
from theory.intervals import Interval, percentile_interval
from theory.stopping import Candidates, Stopped, stop_at_leader

Rule = Literal["posterior", "score", "fixed"]
RULES: tuple[Rule, ...] = get_args(Rule)
Unit = Literal["tokens", "words", "steps"]

# Thresholds that are tried: quantiles of what leaders are judged by.
_THRESHOLDS = 64


@dataclass(frozen=True)
class Point:
    """What one threshold gives on all problems.

    Attributes:
        threshold: t, or N.
        accuracy: in [0, 1].
        drawn: mean number of candidates.
        cost: share of the cost of all candidates.
    """

    threshold: float
    accuracy: float
    drawn: float
    cost: float


@dataclass(frozen=True)
class Judged:
    """A rule with thresholds chosen on one half of the problems, judged on the other.

    Attributes:
        thresholds: t or N of the first half of the problems, and of the second.
        accuracy: in [0, 1].
        change: accuracy less that of best-of-M.
        drawn: mean number of candidates.
        cost: share of the cost of all candidates.
        intervals: of change and cost, problems resampled within sources; None without
            replicates.
        frontier: all thresholds, the cheapest first.
    """

    thresholds: tuple[float, float]
    accuracy: float
    change: float
    drawn: float
    cost: float
    intervals: dict[str, Interval | None] | None
    frontier: list[Point]


@dataclass(frozen=True)
class Adaptive:
    """Stopping early beside choosing among all.

    Attributes:
        unit: of costs.
        delta: of "posterior".
        accuracy: of best-of-M by the mean.
        rules: None where concentrations are not known.
        saved: cost of "score" less that of "posterior", as a share of all cost; None
            where the latter is.
        saved_interval: of it.
    """

    unit: Unit
    delta: float
    accuracy: float
    rules: dict[Rule, Judged | None]
    saved: float | None
    saved_interval: Interval | None


def lower_bounds(sets: Sequence[CandidateSet], delta: float) -> list[np.ndarray] | None:
    """Of each problem the delta-quantile of each candidate's mean success rate.

    The mean of S steps with rates Beta(c m, c (1 - m)), taken as independent, has mean
    sum m / S and variance sum m (1 - m) / (c + 1) / S^2; it is taken for the Beta of
    these moments. None where a candidate has no concentrations.

    Args:
        sets: with scores.
        delta: in (0, 1).
    """
    from scipy.special import betaincinv

    moments = []
    for of in sets:
        for one, scores in zip(of.candidates, steps_of(of), strict=True):
            if one.concentrations is None:
                return None
            m, c = np.array(scores), np.array(one.concentrations)
            moments.append((m.mean(), (m * (1 - m) / (c + 1)).sum() / len(m) ** 2))
    mean, variance = np.array(moments).T
    spread = variance > 0
    bound = mean.copy()
    c = mean[spread] * (1 - mean[spread]) / variance[spread] - 1
    bound[spread] = betaincinv(c * mean[spread], c * (1 - mean[spread]), delta)
    return np.split(bound, np.cumsum([len(of.candidates) for of in sets])[:-1])


def costs(sets: Sequence[CandidateSet]) -> tuple[Unit, list[list[float]]]:
    """What each candidate of each problem cost, in tokens if all of them say so, else
    in words, else in steps.
    """
    every = [one for of in sets for one in of.candidates]
    if all(one.tokens is not None for one in every):
        unit, of_one = "tokens", [one.tokens or 0 for one in every]
    elif all(one.words is not None for one in every):
        unit, of_one = "words", [one.words or 0 for one in every]
    else:
        unit, of_one = "steps", [len(one.scores or ()) + one.truncated for one in every]
    following = iter(map(float, of_one))
    return unit, [[next(following) for _ in of.candidates] for of in sets]


@dataclass(frozen=True, eq=False)
class _Problems:
    """What the rules are judged on.

    Attributes:
        candidates: of each problem, led by their mean scores, which also judge them.
        whole: accuracy of best-of-M in each, ``[n]``.
        total: cost of all candidates in each, ``[n]``.
        second: which are in the second half, bool ``[n]``.
        source: of each, int ``[n]``.
    """

    candidates: list[Candidates]
    whole: np.ndarray
    total: np.ndarray
    second: np.ndarray
    source: np.ndarray


@dataclass(frozen=True, eq=False)
class _Table:
    """What every threshold, ascending, gives in every problem: ``[n, n_thresholds]``."""

    thresholds: np.ndarray
    stopped: Stopped


def adaptive(
    sets: Sequence[CandidateSet], delta: float, how: Choosing
) -> Adaptive | None:
    """Every rule, judged; None where one half of the problems is empty.

    Args:
        sets: problems with scores.
        delta: of "posterior", in (0, 1).
        how: the bootstrap.
    """
    unit, cost = costs(sets)
    candidates, whole = [], []
    for of, each in zip(sets, cost, strict=True):
        means = [aggregate(scores, "mean")[0] for scores in steps_of(of)]
        candidates.append(Candidates(means, means, correct_of(of), each))
        whole.append(best_at(means, correct_of(of), [len(means)])[0])
    second = [xxhash.xxh3_64_intdigest(of.id.encode()) >> 63 == 1 for of in sets]
    _, source = np.unique([of.source for of in sets], return_inverse=True)
    total = np.array([sum(of) for of in cost])
    on = _Problems(candidates, np.array(whole), total, np.array(second), source)
    if on.second.all() or not on.second.any() or not total.all():
        return None
    bounds = lower_bounds(sets, delta)
    tables: dict[Rule, _Table | None] = {
        "posterior": None if bounds is None else _by_index(on, bounds),
        "score": _by_index(on, [np.array(of.values) for of in candidates]),
        "fixed": _fixed(on),
    }
    saved, interval = None, None
    if (posterior := tables["posterior"]) and (score := tables["score"]):
        less = _cross_fitted(on, score)[1].cost - _cross_fitted(on, posterior)[1].cost
        saved = float(less.sum() / total.sum())
        interval = _share_interval(on, less, how)
    judged: dict[Rule, Judged | None] = {
        rule: of and _judged(on, of, how) for rule, of in tables.items()
    }
    return Adaptive(unit, delta, float(on.whole.mean()), judged, saved, interval)


def _by_index(on: _Problems, indices: Sequence[np.ndarray]) -> _Table:
    """Stopping at thresholds of an index of each candidate."""
    levels = np.quantile(np.concatenate(indices), np.linspace(0, 1, _THRESHOLDS))
    thresholds = np.append(np.unique(levels), np.inf)
    rows = [
        stop_at_leader(of._replace(indices=index.tolist()), thresholds.tolist())
        for of, index in zip(on.candidates, indices, strict=True)
    ]
    return _Table(thresholds, Stopped(*map(np.array, zip(*rows, strict=True))))


def _fixed(on: _Problems) -> _Table:
    """Drawing N candidates, or all where there are fewer."""
    m = np.array([len(of.values) for of in on.candidates])
    sizes = np.arange(1, m.max() + 1)
    drawn = np.minimum(sizes, m[:, None])
    accuracy = [best_at(of.values, of.right, sizes.tolist()) for of in on.candidates]
    cost = on.total[:, None] * drawn / m[:, None]
    return _Table(sizes, Stopped(np.array(accuracy), drawn, cost))


def _cross_fitted(on: _Problems, of: _Table) -> tuple[tuple[int, int], Stopped]:
    """Places of the thresholds of both halves, each chosen on the other, and what they
    give in each problem, ``[n]``: of those as accurate as best-of-M the first, which is
    the cheapest.
    """
    places = []
    for half in (False, True):
        other = on.second != half
        accuracy = of.stopped.accuracy[other].mean(axis=0)
        # All candidates are as good as they are, whatever rounding says.
        enough = accuracy >= min(on.whole[other].mean(), accuracy[-1]) - 1e-12
        places.append(int(np.argmax(enough)))
    place = np.where(on.second, places[1], places[0])
    rows = np.arange(len(place))
    found = Stopped(*(column[rows, place] for column in of.stopped))
    return (places[0], places[1]), found


def _judged(on: _Problems, of: _Table, how: Choosing) -> Judged:
    places, found = _cross_fitted(on, of)
    first, second = (float(of.thresholds[place]) for place in places)
    change = found.accuracy - on.whole
    intervals = None
    if how.replicates:
        (ends,) = resampled_ends([change], on.source, how)
        intervals = {"change": ends, "cost": _share_interval(on, found.cost, how)}
    means = (of.stopped.accuracy.mean(axis=0), of.stopped.drawn.mean(axis=0))
    shares = of.stopped.cost.sum(axis=0) / on.total.sum()
    return Judged(
        (first, second),
        float(found.accuracy.mean()),
        float(change.mean()),
        float(found.drawn.mean()),
        float(found.cost.sum() / on.total.sum()),
        intervals,
        [
            Point(*map(float, row))
            for row in zip(of.thresholds, *means, shares, strict=True)
        ],
    )


def _share_interval(on: _Problems, cost: np.ndarray, how: Choosing) -> Interval | None:
    """Interval of a cost as a share of all cost."""
    if not how.replicates:
        return None
    part, whole = resampled_means([cost, on.total], on.source, how)
    return percentile_interval(part / whole)
