"""Adaptive best-of-N: draw candidates until the one that leads is good enough.

Candidates come one at a time in random order, and the best mean score leads. Three
rules say when to stop: "posterior" once Pr(mean success rate of the leader's steps >=
level) >= t, by the concentrations of its steps; "score" once the leader's mean score is
at least t; both after N candidates at the latest; "fixed" after N. What they cost and
bring is exact over the orders (:mod:`theory.stopping`). BetaPRM (arXiv:2605.15529)
reports up to a third of best-of-16's tokens saved by concentrations; its rule also
continues doubtful prefixes.

So that nothing is chosen on what it is judged by, level, t and N come for each half of
the problems (by the hash of their id) from the other half: the cheapest there that are
as accurate as best-of-M, or, for a budget, the most accurate that keep to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
Unit = Literal["tokens", "words", "steps"]

# Quantiles that are tried, of candidates' mean scores as level, of what stops as t, and
# numbers N. What lies between is small beside what sampling of problems leaves open.
_LEVELS, _THRESHOLDS, _NUMBERS = 4, 16, 16


@dataclass(frozen=True)
class Point:
    """What a budget buys.

    Attributes:
        budget: share of the cost of all candidates that may be spent.
        cost: share that is spent.
        accuracy: in [0, 1].
    """

    budget: float
    cost: float
    accuracy: float


class Setting(NamedTuple):
    """When a rule stops; inf where only the number does.

    Attributes:
        most: N.
        threshold: t.
        level: of "posterior".
    """

    most: int
    threshold: float
    level: float | None


@dataclass(frozen=True)
class Judged:
    """A rule, set on one half of the problems and judged on the other, both ways.

    Attributes:
        settings: of the first half of the problems, and of the second.
        accuracy: in [0, 1].
        change: accuracy less that of best-of-M.
        drawn: mean number of candidates.
        cost: share of the cost of all candidates.
        intervals: of change and cost, problems resampled within sources; None without
            replicates.
        frontier: accuracy by budget.
    """

    settings: tuple[Setting, Setting]
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
        accuracy: of best-of-M by the mean.
        rules: None where concentrations are not known.
        saved: cost of "score" less that of "posterior", as a share of the cost of all
            candidates; None where the latter is.
        saved_interval: of it.
    """

    unit: Unit
    accuracy: float
    rules: dict[Rule, Judged | None]
    saved: float | None
    saved_interval: Interval | None


@dataclass(frozen=True, eq=False)
class _Problems:
    """What the rules are judged on.

    Attributes:
        candidates: of each problem, led by their mean scores, which also judge them.
        whole: accuracy of best-of-M in each, ``[n]``.
        total: cost of all candidates in each, ``[n]``.
        second: which are in the second half, bool ``[n]``.
        source: of each, int ``[n]``.
        how: the bootstrap.
    """

    candidates: list[Candidates]
    whole: np.ndarray
    total: np.ndarray
    second: np.ndarray
    source: np.ndarray
    how: Choosing

    def halves(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places of the problems of each half, and of the other."""
        for half in (False, True):
            here = self.second == half
            yield np.flatnonzero(here), np.flatnonzero(~here)


@dataclass(frozen=True, eq=False)
class _Table:
    """What each setting of a rule gives in every problem, ``[n, n_settings]``.

    Attributes:
        settings: the last one draws all candidates.
        stopped: accuracy, drawn, cost.
    """

    settings: list[Setting]
    stopped: Stopped

    def chosen(
        self, on: _Problems, choose: Callable[[np.ndarray, np.ndarray, np.ndarray], int]
    ) -> tuple[list[int], Stopped]:
        """Settings of both halves, and what they give in each problem, ``[n]``.

        Args:
            on: the problems.
            choose: the place of a setting, by accuracy and cost of each in some
                problems, whose places come last.
        """
        places, place = [], np.zeros(len(on.second), int)
        for here, other in on.halves():
            accuracy, cost = self.stopped.accuracy[other], self.stopped.cost[other]
            places.append(choose(accuracy.mean(axis=0), cost.sum(axis=0), other))
            place[here] = places[-1]
        rows = np.arange(len(place))
        return places, Stopped(*(column[rows, place] for column in self.stopped))


def success_chances(sets: Sequence[CandidateSet], level: float) -> list[np.ndarray]:
    """Pr(mean success rate of a candidate's steps >= level), by problem, ``[M]``.

    The mean of S steps with rates Beta(c m, c (1 - m)), taken as independent, has mean
    sum m / S and variance sum m (1 - m) / (c + 1) / S^2; it is taken for the Beta of
    these moments.

    Args:
        sets: with scores and concentrations.
        level: in (0, 1).
    """
    from scipy.special import betainc

    moments = []
    for of in sets:
        for one in of.candidates:
            m, c = np.array(one.scores), np.array(one.concentrations)
            moments.append((m.mean(), (m * (1 - m) / (c + 1)).sum() / len(m) ** 2))
    mean, variance = np.array(moments).T
    chance = (mean >= level).astype(float)
    spread = variance > 0
    mean, variance = mean[spread], variance[spread]
    c = mean * (1 - mean) / variance - 1
    chance[spread] = 1 - betainc(c * mean, c * (1 - mean), level)
    return np.split(chance, np.cumsum([len(of.candidates) for of in sets])[:-1])


def candidate_costs(sets: Sequence[CandidateSet]) -> tuple[Unit, list[list[float]]]:
    """What each candidate of each problem cost, in tokens if all of them say so, else
    in words, else in steps.
    """
    every = [one for of in sets for one in of.candidates]
    if all(one.tokens is not None for one in every):
        unit, cost = "tokens", [one.tokens or 0 for one in every]
    elif all(one.words is not None for one in every):
        unit, cost = "words", [one.words or 0 for one in every]
    else:
        unit, cost = "steps", [len(one.scores or ()) + one.truncated for one in every]
    following = iter(map(float, cost))
    return unit, [[next(following) for _ in of.candidates] for of in sets]


def adaptive(sets: Sequence[CandidateSet], how: Choosing) -> Adaptive | None:
    """Every rule, judged; None where one half of the problems is empty, or a problem's
    candidates cost nothing.

    Args:
        sets: problems with scores.
        how: the bootstrap.
    """
    unit, costs = candidate_costs(sets)
    candidates = [
        Candidates(means, means, correct_of(of), cost)
        for of, cost in zip(sets, costs, strict=True)
        for means in [[aggregate(scores, "mean")[0] for scores in steps_of(of)]]
    ]
    second = [xxhash.xxh3_64_intdigest(of.id.encode()) >> 63 == 1 for of in sets]
    _, source = np.unique([of.source for of in sets], return_inverse=True)
    on = _Problems(
        candidates,
        np.array(
            [best_at(of.values, of.right, [len(of.right)])[0] for of in candidates]
        ),
        np.array([sum(cost) for cost in costs]),
        np.array(second),
        source,
        how,
    )
    if on.second.all() or not on.second.any() or not on.total.all():
        return None
    means = [np.array(of.values) for of in candidates]
    tables: dict[Rule, _Table | None] = {
        "posterior": _by_posterior(on, sets),
        "score": _stopping(on, [(None, means)], _THRESHOLDS),
        "fixed": _stopping(on, [(None, means)], 0),
    }
    saved, interval = None, None
    if (posterior := tables["posterior"]) and (score := tables["score"]):
        less = _as_accurate(on, score)[1].cost - _as_accurate(on, posterior)[1].cost
        saved = float(less.sum() / on.total.sum())
        interval = _share_interval(on, less)
    judged: dict[Rule, Judged | None] = {
        rule: of and _judged(on, of) for rule, of in tables.items()
    }
    return Adaptive(unit, float(on.whole.mean()), judged, saved, interval)


def _by_posterior(on: _Problems, sets: Sequence[CandidateSet]) -> _Table | None:
    if any(one.concentrations is None for of in sets for one in of.candidates):
        return None
    means = np.concatenate([of.values for of in on.candidates])
    levels = np.unique(np.quantile(means, (np.arange(_LEVELS) + 0.5) / _LEVELS))
    indices = [(at, success_chances(sets, at)) for at in levels.tolist()]
    return _stopping(on, indices, _THRESHOLDS)


def _stopping(
    on: _Problems,
    indices: Sequence[tuple[float | None, Sequence[np.ndarray]]],
    levels: int,
) -> _Table:
    """Stopping at numbers and so many quantiles of indices of the candidates, each with
    the level that it is of.
    """
    counts = np.array([len(of.values) for of in on.candidates])
    most = np.unique(np.linspace(1, counts.max(), _NUMBERS).round().astype(int))
    settings, found = [], []
    for level, index in indices:
        quantiles = np.quantile(np.concatenate(index), np.linspace(0, 1, levels))
        thresholds = [*np.unique(quantiles).tolist(), np.inf]
        settings += [Setting(int(n), at, level) for at in thresholds for n in most]
        rows = []
        for of, each, count in zip(on.candidates, index, counts, strict=True):
            stopped = stop_at_leader(of._replace(indices=each.tolist()), thresholds)
            upto = np.minimum(most, count) - 1
            rows.append([column[:, upto].ravel() for column in stopped])
        found.append(np.array(rows))
    every = np.concatenate(found, axis=2)
    return _Table(settings, Stopped(*every.swapaxes(0, 1)))


def _as_accurate(on: _Problems, of: _Table) -> tuple[list[int], Stopped]:
    """The cheapest setting that is as accurate as drawing all."""

    def choose(accuracy: np.ndarray, cost: np.ndarray, problems: np.ndarray) -> int:
        enough = accuracy >= accuracy[-1] - 1e-12
        return int(np.where(enough, cost, np.inf).argmin())

    return of.chosen(on, choose)


def _judged(on: _Problems, of: _Table) -> Judged:
    places, found = _as_accurate(on, of)
    change = found.accuracy - on.whole
    intervals = None
    if on.how.replicates:
        (ends,) = resampled_ends([change], on.source, on.how)
        intervals = {"change": ends, "cost": _share_interval(on, found.cost)}
    return Judged(
        (of.settings[places[0]], of.settings[places[1]]),
        float(found.accuracy.mean()),
        float(change.mean()),
        float(found.drawn.mean()),
        float(found.cost.sum() / on.total.sum()),
        intervals,
        _frontier(on, of),
    )


def _frontier(on: _Problems, of: _Table) -> list[Point]:
    """The most accurate setting of each budget of 1/M, 2/M, ... 1."""
    m = max(len(one.values) for one in on.candidates)
    points = []
    for n in range(1, m + 1):

        def choose(
            accuracy: np.ndarray, cost: np.ndarray, problems: np.ndarray, n: int = n
        ) -> int:
            most = on.total[problems].sum() * n / m * (1 + 1e-12)
            if not (cost <= most).any():
                return int(cost.argmin())
            return int(np.where(cost <= most, accuracy, -1).argmax())

        _, found = of.chosen(on, choose)
        cost = float(found.cost.sum() / on.total.sum())
        points.append(Point(n / m, cost, float(found.accuracy.mean())))
    return points


def _share_interval(on: _Problems, cost: np.ndarray) -> Interval | None:
    """Interval of a cost as a share of the cost of all candidates."""
    if not on.how.replicates:
        return None
    part, whole = resampled_means([cost, on.total], on.source, on.how)
    return percentile_interval(part / whole)
