"""Best-of-N: of N candidate solutions the one whose steps score highest.

A trajectory's score is an aggregate of its step scores (their mean in the paper,
Table 3). Candidates that tie for the best are chosen among by chance, and accuracies
are expectations over that. Beside them stand random choice and the bound pass@N (some
candidate is right); both are exact, not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np

from mprm_jax.data.scored import CandidateSet
from theory.intervals import (
    LEVEL,
    REPLICATES,
    Interval,
    percentile_interval,
    weight_chunks,
)

Aggregate = Literal["mean", "min", "product", "last"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)


def aggregate(scores: Sequence[float], how: Aggregate) -> float:
    """The score of a trajectory, from at least one step score.

    The product is given as its logarithm, which orders alike and does not underflow;
    sums are exact, so that the order of equal steps makes no difference.

    Raises:
        ValueError: a product of a score outside [0, 1].
    """
    match how:
        case "mean":
            return math.fsum(scores) / len(scores)
        case "min":
            return min(scores)
        case "last":
            return scores[-1]
    if not all(0 <= score <= 1 for score in scores):
        raise ValueError("product of scores outside [0, 1]")
    if not all(scores):
        return -math.inf
    return math.fsum(map(math.log, scores))


class Choice(NamedTuple):
    """Which candidate is chosen, as probabilities.

    Attributes:
        accuracy: probability that the chosen candidate is correct.
        tied: whether chance decides between right and wrong candidates.
    """

    accuracy: float
    tied: bool


def choose(values: Sequence[float], correct: Sequence[bool]) -> Choice:
    """The candidate of the largest value, ties by even chance."""
    best = max(values)
    tied = [
        right for value, right in zip(values, correct, strict=True) if value == best
    ]
    share = sum(tied) / len(tied)
    return Choice(share, 0 < share < 1)


@dataclass(frozen=True)
class Intervals:
    """Ends of intervals, by resampling problems within their sources.

    Attributes:
        accuracy: by way of choosing.
        gain: of an aggregate over chance.
        replicates: of the bootstrap.
    """

    accuracy: dict[str, Interval | None]
    gain: dict[str, Interval | None]
    replicates: int


@dataclass(frozen=True)
class BestOfN:
    """How well candidates are chosen.

    Attributes:
        accuracy: in [0, 1], by way of choosing: the aggregates (without the product if
            a score lies outside [0, 1]), ``random``, ``pass_at_n``.
        problems: judged.
        candidates: fewest and most per problem.
        tied: problems in which chance decides between right and wrong, by aggregate.
        steps_truncated: without a score.
        unanswered: candidates without an answer, which count as wrong.
        gain: accuracy less random.
        per_source: (accuracy, problems) of each source.
        intervals: None without replicates.
    """

    accuracy: dict[str, float]
    problems: int
    candidates: tuple[int, int]
    tied: dict[str, int]
    steps_truncated: int
    unanswered: int
    gain: dict[str, float]
    per_source: dict[str, tuple[dict[str, float], int]]
    intervals: Intervals | None

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values; an aggregate that is not defined is None."""
        value = asdict(self)
        value = dict.fromkeys(AGGREGATES) | value.pop("accuracy") | value
        value["candidates"] = list(self.candidates)
        value["per_source"] = {
            name: accuracy | {"problems": problems}
            for name, (accuracy, problems) in self.per_source.items()
        }
        ends = value.pop("intervals")
        if ends is not None:
            value["intervals"] = ends.pop("accuracy") | ends | {"level": LEVEL}
        return value


def best_of_n(
    sets: Sequence[CandidateSet], *, replicates: int = REPLICATES, seed: int = 0
) -> BestOfN:
    """Accuracy of choosing by scores.

    Args:
        sets: problems, at least one, every candidate with scores.
        replicates: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
    """
    found = {how: _choices(sets, how) for how in AGGREGATES}
    choices = {str(how): of for how, of in found.items() if of is not None}
    correct = [[one.correct for one in of.candidates] for of in sets]
    outcome: dict[str, np.ndarray] = {
        how: np.array([choice.accuracy for choice in of]) for how, of in choices.items()
    }
    outcome["random"] = np.array([sum(of) / len(of) for of in correct])
    outcome["pass_at_n"] = np.array([float(any(of)) for of in correct])
    gains = {how: outcome[how] - outcome["random"] for how in choices}
    names, source = np.unique([of.source for of in sets], return_inverse=True)
    sizes = [len(of) for of in correct]
    intervals = None
    if replicates:
        table = np.stack([*outcome.values(), *gains.values()], axis=1)
        drawn = _resampled(table, source, replicates, np.random.default_rng(seed))
        ends = [percentile_interval(column) for column in drawn.T]
        intervals = Intervals(
            dict(zip(outcome, ends, strict=False)),
            dict(zip(gains, ends[len(outcome) :], strict=True)),
            replicates,
        )
    return BestOfN(
        accuracy=_means(outcome),
        problems=len(sets),
        candidates=(min(sizes), max(sizes)),
        tied={how: sum(one.tied for one in of) for how, of in choices.items()},
        steps_truncated=sum(one.truncated for of in sets for one in of.candidates),
        unanswered=sum(not one.answered for of in sets for one in of.candidates),
        gain=_means(gains),
        per_source={
            name: (
                _means({how: of[source == i] for how, of in outcome.items()}),
                int(np.count_nonzero(source == i)),
            )
            for i, name in enumerate(names.tolist())
        },
        intervals=intervals,
    )


def replicate_accuracy(
    sets: Sequence[CandidateSet],
    how: Aggregate,
    replicates: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Accuracy of choosing by one aggregate on resamples of the problems, [replicates].

    Problems are drawn within their sources; the same ``rng`` draws the same problems
    for every model.

    Raises:
        ValueError: the aggregate is not defined for these scores.
    """
    choices = _choices(sets, how)
    if choices is None:
        raise ValueError(f"{how} is not defined for scores outside [0, 1]")
    _, source = np.unique([of.source for of in sets], return_inverse=True)
    table = np.array([[choice.accuracy] for choice in choices])
    return _resampled(table, source, replicates, rng)[:, 0]


def _resampled(
    table: np.ndarray, source: np.ndarray, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """Column means of the rows, a problem each, on resamples within sources."""
    chunks = weight_chunks(source, replicates, rng, len(table))
    return np.concatenate([weights @ table / len(table) for weights in chunks])


def _choices(sets: Sequence[CandidateSet], how: Aggregate) -> list[Choice] | None:
    try:
        return [
            choose(
                [aggregate(one.scores or (), how) for one in of.candidates],
                [one.correct for one in of.candidates],
            )
            for of in sets
        ]
    except ValueError:
        return None


def _means(of: dict[str, np.ndarray]) -> dict[str, float]:
    return {how: float(values.mean()) for how, values in of.items()}


def encode_scored(of: CandidateSet) -> bytes:
    """One line that :func:`mprm_jax.data.scored.read_candidates` reads as scored,
    without the texts.
    """
    value: dict[str, Any] = {"id": of.id, "data_source": of.source}
    value["candidates"] = [
        {"correct": one.correct, "prm_scores": one.scores, "truncated": one.truncated}
        | ({} if one.answered else {"answer": None})
        for one in of.candidates
    ]
    return msgspec.json.encode(value) + b"\n"
