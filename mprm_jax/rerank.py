"""Best-of-N: of N candidate solutions the one whose steps score highest.

A trajectory's score is an aggregate of its step scores (their mean in the paper,
Table 3). Candidates that tie for the best are chosen among by chance, and accuracies
are expectations over that. Beside them stand random choice and the bound pass@N (some
candidate is right); both are exact, not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np

from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.scored import CandidateSet
from mprm_jax.metrics_bootstrap import LEVEL, REPLICATES, interval, weight_chunks

if TYPE_CHECKING:
    from mprm_jax.data.batches import Example
    from mprm_jax.models.model import Model, Params

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


def best_of_n(
    sets: Sequence[CandidateSet], *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, Any]:
    """Accuracy of choosing by scores, as JSON values.

    Keys: mean, min, product (None if a score lies outside [0, 1]), last, random,
    pass_at_n: accuracies in [0, 1]; problems; candidates (fewest and most per problem);
    tied: problems in which chance decides, by aggregate; steps_truncated: without a
    score; gain: accuracy less random; intervals of all these by resampling problems
    within their sources; per_source.

    Args:
        sets: problems, at least one, every candidate with scores.
        replicates: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
    """
    choices = {how: _choices(sets, how) for how in AGGREGATES}
    correct = [[one.correct for one in of.candidates] for of in sets]
    outcome = {
        how: np.array([choice.accuracy for choice in of])
        for how, of in choices.items()
        if of is not None
    }
    outcome["random"] = np.array([sum(of) / len(of) for of in correct])
    outcome["pass_at_n"] = np.array([float(any(of)) for of in correct])
    gains = {
        how: outcome[how] - outcome["random"] for how in AGGREGATES if how in outcome
    }
    names = sorted({of.source for of in sets})
    source = np.array([names.index(of.source) for of in sets])
    sizes = [len(of) for of in correct]
    value: dict[str, Any] = dict.fromkeys(AGGREGATES) | _means(outcome)
    value |= {
        "problems": len(sets),
        "candidates": [min(sizes), max(sizes)],
        "tied": {
            how: sum(choice.tied for choice in of)
            for how, of in choices.items()
            if of is not None
        },
        "steps_truncated": sum(one.truncated for of in sets for one in of.candidates),
        "gain": _means(gains),
        "per_source": {
            name: _means({how: of[source == i] for how, of in outcome.items()})
            | {"problems": int(np.count_nonzero(source == i))}
            for i, name in enumerate(names)
        },
    }
    if replicates:
        rng = np.random.default_rng(seed)
        keys = [*outcome, *(f"gain of {how}" for how in gains)]
        table = np.stack([*outcome.values(), *gains.values()], axis=1)
        drawn = _resampled(table, source, replicates, rng)
        ends = {key: interval(drawn[:, i]) for i, key in enumerate(keys)}
        value["intervals"] = {
            **{how: ends[how] for how in outcome},
            "gain": {how: ends[f"gain of {how}"] for how in gains},
            "level": LEVEL,
            "replicates": replicates,
        }
    return value


def replicate_accuracy(
    sets: Sequence[CandidateSet],
    how: Aggregate,
    replicates: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Accuracy of choosing by one aggregate on resamples of the problems, [replicates].

    Problems are drawn within their sources; the same ``rng`` draws the same problems
    for every model.

    Args:
        sets: problems, every candidate with scores.
        how: the aggregate.
        replicates: B.
        rng: of the resamples.

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


def score_candidates(
    model: Model,
    params: Params,
    sets: Sequence[CandidateSet],
    root: Path,
    batch_size: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[CandidateSet]:
    """The sets with the model's scores of all candidates.

    A candidate that is too long is judged by the steps that fit; its scores are fewer
    than its steps.

    Args:
        model: any model.
        params: of the model.
        sets: to score.
        root: of their images.
        batch_size: B.
        tick: told how many sets have been encoded.

    Raises:
        DataError: a candidate cannot be encoded or scored; the message names it.
    """
    from mprm_jax.data.images import read_images
    from mprm_jax.evaluate import encode_example, score_prompts

    def examples() -> Iterator[Example]:
        for done, of in enumerate(sets, 1):
            try:
                images = read_images(root, of.images)
                for one in of.candidates:
                    yield encode_example(model, of.question, one.steps, images)
            except BadRecord as error:
                raise DataError(f"{of.where}: {error}") from None
            tick(done)

    scores = iter(score_prompts(model, params, examples(), batch_size))
    scored = []
    for of in sets:
        candidates = []
        for number, one in enumerate(of.candidates, 1):
            of_steps = next(scores)
            if not len(of_steps):
                raise DataError(
                    f"{of.where}: candidate {number}: not one step fits the model"
                )
            if not np.isfinite(of_steps).all():
                raise DataError(
                    f"{of.where}: candidate {number}: the model's score is not a number"
                )
            found = tuple(of_steps.tolist())
            candidates.append(
                msgspec.structs.replace(
                    one, scores=found, truncated=len(one.steps) - len(found)
                )
            )
        scored.append(msgspec.structs.replace(of, candidates=tuple(candidates)))
    return scored


def encode_scored(of: CandidateSet) -> bytes:
    """One line that ``mprm rerank --predictions`` reads, without the texts."""
    value: dict[str, Any] = {"id": of.id, "data_source": of.source}
    value["candidates"] = [
        {"correct": one.correct, "prm_scores": one.scores, "truncated": one.truncated}
        for one in of.candidates
    ]
    return msgspec.json.encode(value) + b"\n"
