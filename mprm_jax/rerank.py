"""Best-of-N: of N candidate solutions the one, or the answer, that scores stand for.

A trajectory's score is an aggregate of its step scores (their mean in the paper,
Table 3); the best one is taken, or candidates vote for their answers, each with one
vote or with its mean score. Beside them stand random choice and the bound pass@N (some
candidate is right). All are exact: expectations over ties, and over which N of the
candidates are there (:mod:`theory.best_of_n`), not samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from msgspec import UNSET

from mprm_jax.data.scored import CandidateSet
from theory.best_of_n import best_at, majority_at, pass_at, weighted_at
from theory.intervals import (
    LEVEL,
    REPLICATES,
    Interval,
    percentile_interval,
    weight_chunks,
)

Aggregate = Literal["mean", "min", "product", "last", "first_error"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
Vote = Literal["majority", "weighted_majority"]
# Ways to choose, and what bounds them.
Way = Literal[Aggregate, Vote, "random", "pass_at_n"]
WAYS: tuple[Way, ...] = get_args(Way)

# Of first_error: a step that is more likely wrong than right is an error.
THRESHOLD = 0.5


def aggregate(
    scores: Sequence[float], how: Aggregate, threshold: float = THRESHOLD
) -> tuple[float, ...]:
    """The score of a trajectory, from at least one step score, to be compared in order.

    The product is given as its logarithm, which orders alike and does not underflow;
    sums are exact, so that the order of equal steps makes no difference. "first_error"
    is the share of steps before the first one below the threshold, then the mean.

    Raises:
        ValueError: a product of a score outside [0, 1].
    """
    mean = math.fsum(scores) / len(scores)
    match how:
        case "mean":
            return (mean,)
        case "min":
            return (min(scores),)
        case "last":
            return (scores[-1],)
        case "first_error":
            passed = (j for j, score in enumerate(scores) if score < threshold)
            return (next(passed, len(scores)) / len(scores), mean)
    if not in_unit_interval(scores):
        raise ValueError("product of scores outside [0, 1]")
    return (math.fsum(map(math.log, scores)) if all(scores) else -math.inf,)


def in_unit_interval(scores: Sequence[float]) -> bool:
    """Whether scores can be probabilities."""
    return all(0 <= score <= 1 for score in scores)


def steps_of(of: CandidateSet) -> list[tuple[float, ...]]:
    """The step scores of each candidate, all of which must have some."""
    return [one.scores or () for one in of.candidates]


def correct_of(of: CandidateSet) -> list[bool]:
    """Whether each candidate is right."""
    return [one.correct for one in of.candidates]


def accuracy_at(
    of: CandidateSet, how: Way, sizes: Sequence[int], threshold: float = THRESHOLD
) -> np.ndarray:
    """Accuracy of one way of choosing among N candidates of a problem, ``[n_sizes]``.

    NaN where the way is not defined (product and weighted majority of scores outside
    [0, 1], votes where a candidate's answer is not known), or costs too much.

    Args:
        of: the problem, with scores.
        how: one of ``WAYS``.
        sizes: N; all candidates where they are fewer.
        threshold: of "first_error".
    """
    right, steps = correct_of(of), steps_of(of)
    if how == "random":
        return np.full(len(sizes), sum(right) / len(right))
    if how == "pass_at_n":
        return pass_at(right, sizes)
    undefined = np.full(len(sizes), np.nan)
    bounded = all(map(in_unit_interval, steps))
    if how in ("weighted_majority", "product") and not bounded:
        return undefined
    if how == "majority" or how == "weighted_majority":
        if of.classes is None:
            return undefined
        if how == "majority":
            return majority_at(of.classes, right, sizes)
        weights = [aggregate(scores, "mean")[0] for scores in steps]
        return weighted_at(of.classes, weights, right, sizes)
    return best_at([aggregate(one, how, threshold) for one in steps], right, sizes)


@dataclass(frozen=True)
class Intervals:
    """Ends of intervals, by resampling problems within their sources.

    Attributes:
        accuracy: by way of choosing.
        gain: over chance.
        gain_over_majority: over the vote.
        curve: of the accuracy at each size, by way of choosing.
        replicates: of the bootstrap.
    """

    accuracy: dict[str, Interval | None]
    gain: dict[str, Interval | None]
    gain_over_majority: dict[str, Interval | None]
    curve: dict[str, list[Interval | None]]
    replicates: int


@dataclass(frozen=True)
class BestOfN:
    """How well candidates are chosen.

    Attributes:
        accuracy: in [0, 1], choosing among all candidates, by those of ``WAYS`` that
            are defined for every problem.
        problems: judged.
        candidates: fewest and most per problem.
        tied: problems in which chance decides between right and wrong, by aggregate.
        steps_truncated: without a score.
        unanswered: candidates without an answer, which count as wrong.
        answers_unknown: candidates of which only is told whether they are right.
        undecided: comparisons of answers that mathematics gave up.
        repeated: problems whose id another one before has, too.
        gain: accuracy less random, but for the bounds.
        gain_over_majority: accuracy less that of the majority vote, likewise.
        per_source: (accuracy, problems) of each source.
        sizes: N of the curve.
        curve: accuracy of choosing among N of a problem's candidates (among all where
            they are fewer), by way; NaN where it costs too much to be exact.
        intervals: None without replicates.
    """

    accuracy: dict[str, float]
    problems: int
    candidates: tuple[int, int]
    tied: dict[str, int]
    steps_truncated: int
    unanswered: int
    answers_unknown: int
    undecided: int
    repeated: int
    gain: dict[str, float]
    gain_over_majority: dict[str, float]
    per_source: dict[str, tuple[dict[str, float], int]]
    sizes: list[int]
    curve: dict[str, list[float]]
    intervals: Intervals | None

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values; a way that is not defined is None."""
        value = asdict(self)
        value = dict.fromkeys(WAYS) | value.pop("accuracy") | value
        value["candidates"] = list(self.candidates)
        value["per_source"] = {
            name: accuracy | {"problems": problems}
            for name, (accuracy, problems) in self.per_source.items()
        }
        value["curve"] = {"n": value.pop("sizes")} | {
            how: [None if math.isnan(one) else one for one in of]
            for how, of in self.curve.items()
        }
        ends = value.pop("intervals")
        if ends is not None:
            value["intervals"] = ends.pop("accuracy") | ends | {"level": LEVEL}
        return value


@dataclass(frozen=True)
class Choosing:
    """How candidates are chosen, and how sure that is.

    Attributes:
        threshold: of "first_error".
        curve: whether accuracy is found for N = 1, 2, 4, ... too, or for all only.
        replicates: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
    """

    threshold: float = THRESHOLD
    curve: bool = True
    replicates: int = REPLICATES
    seed: int = 0


_USUAL = Choosing()


def best_of_n(sets: Sequence[CandidateSet], how: Choosing = _USUAL) -> BestOfN:
    """Accuracy of choosing by scores.

    Args:
        sets: problems, at least one, every candidate with scores.
        how: to choose.
    """
    counts = [len(of.candidates) for of in sets]
    sizes = [max(counts)]
    if how.curve:
        sizes = [1 << i for i in range((max(counts) - 1).bit_length())] + sizes
    # [problems, sizes]
    outcome = {
        way: np.array([accuracy_at(of, way, sizes, how.threshold) for of in sets])
        for way in WAYS
    }
    outcome = {way: of for way, of in outcome.items() if not np.isnan(of[:, -1]).any()}
    last = {way: of[:, -1] for way, of in outcome.items()}
    ways = [way for way in last if way not in ("random", "pass_at_n")]
    gain = {way: last[way] - last["random"] for way in ways}
    over = {}
    if "majority" in last:
        over = {way: last[way] - last["majority"] for way in ways if way != "majority"}
    names, source = np.unique([of.source for of in sets], return_inverse=True)
    every = [one for of in sets for one in of.candidates]
    return BestOfN(
        accuracy=_means(last),
        problems=len(sets),
        candidates=(min(counts), max(counts)),
        tied={
            way: int(np.count_nonzero((last[way] > 0) & (last[way] < 1)))
            for way in AGGREGATES
            if way in last
        },
        steps_truncated=sum(one.truncated for one in every),
        unanswered=sum(one.answer is None and not one.correct for one in every),
        answers_unknown=sum(one.answer is UNSET for one in every),
        undecided=sum(of.undecided for of in sets),
        repeated=len(sets) - len({of.id for of in sets}),
        gain=_means(gain),
        gain_over_majority=_means(over),
        per_source={
            name: (
                _means({way: of[source == i] for way, of in last.items()}),
                int(np.count_nonzero(source == i)),
            )
            for i, name in enumerate(names.tolist())
        },
        sizes=sizes,
        curve={way: of.mean(axis=0).tolist() for way, of in outcome.items()},
        intervals=_intervals(outcome, (last, gain, over), source, how),
    )


def _intervals(
    outcome: dict[str, np.ndarray],
    columns: Sequence[dict[str, np.ndarray]],
    source: np.ndarray,
    how: Choosing,
) -> Intervals | None:
    if not how.replicates:
        return None
    ends = [
        dict(zip(of, resampled_ends(list(of.values()), source, how), strict=True))
        for of in columns
    ]
    curve = {
        way: resampled_ends(list(of.T), source, how) for way, of in outcome.items()
    }
    return Intervals(*ends, curve=curve, replicates=how.replicates)


def resampled_ends(
    columns: Sequence[np.ndarray], source: np.ndarray, how: Choosing
) -> list[Interval | None]:
    """The interval of the mean of each column, a value per problem."""
    return [percentile_interval(one) for one in resampled_means(columns, source, how)]


def resampled_means(
    columns: Sequence[np.ndarray], source: np.ndarray, how: Choosing
) -> np.ndarray:
    """Means of columns, a value per problem, on resamples of the problems within their
    sources, ``[n_columns, replicates]``: the same resamples whatever the columns.
    """
    table = np.reshape(columns, (len(columns), len(source))).T
    chunks = weight_chunks(
        source, how.replicates, np.random.default_rng(how.seed), len(table)
    )
    return np.concatenate([weights @ table / len(table) for weights in chunks]).T


def replicate_accuracy(
    sets: Sequence[CandidateSet], how: Aggregate, replicates: int
) -> np.ndarray:
    """Accuracy of choosing by one aggregate on resamples of the problems, [replicates],
    the same of every model; NaN where it is not defined for these scores.
    """
    _, source = np.unique([of.source for of in sets], return_inverse=True)
    accuracy = [accuracy_at(of, how, [len(of.candidates)])[0] for of in sets]
    drawn = Choosing(replicates=replicates)
    return resampled_means([np.array(accuracy)], source, drawn)[0]


def _means(of: dict[str, np.ndarray]) -> dict[str, float]:
    return {how: float(values.mean()) for how, values in of.items()}


def encode_scored(of: CandidateSet) -> bytes:
    """One line that :func:`mprm_jax.data.scored.read_candidates` reads as scored,
    without the texts.
    """
    value: dict[str, Any] = {"id": of.id, "data_source": of.source}
    value["candidates"] = [
        {
            name: given
            for name, given in (
                ("correct", one.correct),
                ("answer", one.answer),
                ("prm_scores", one.scores),
                ("prm_concentrations", one.concentrations or UNSET),
                ("truncated", one.truncated),
                ("tokens", UNSET if one.tokens is None else one.tokens),
                ("words", UNSET if one.words is None else one.words),
            )
            if given is not UNSET
        }
        for one in of.candidates
    ]
    return msgspec.json.encode(value) + b"\n"
