"""Two models' scores of the same solutions: matched, and compared on the same draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from mprm_jax.data.scored import Prediction, columns
from mprm_jax.decision import (
    Decision,
    ThresholdChoice,
    decide,
    processbench_metrics,
)
from mprm_jax.records.problems import DataError
from mprm_jax.summary import (
    Metrics,
    auroc_metrics,
    f1_metrics,
    joined,
    of_each_source,
    rank_metrics,
    replicate,
    under,
)
from theory.agreement import StepScores
from theory.intervals import LEVEL, REPLICATES, Interval, holm, resampled_difference

# What is compared; prm_score of all classes of PRMBench together.
COMPARED = (
    "micro_f1",
    "processbench_f1",
    "prm_score",
    "auroc",
    "within_position_auroc",
    "average_precision_wrong",
    "false_positive_rate",
    "aurc",
)


class Unmatched(DataError):
    """One of two models lacks scores that the other has."""


class Scores(NamedTuple):
    """One model's scores, and what they are called in messages."""

    name: str
    rows: Sequence[Prediction]


@dataclass(frozen=True)
class Match:
    """Scored responses that two models have in common, in the order of the first.

    Attributes:
        first: of the one.
        second: of the other, the same responses with the same labels.
        by: "id", or "number" of the record where a file names none.
        only_first: responses that the second lacks.
        only_second: responses that the first lacks.
        steps_cut: steps without a score of one of the two, left out.
        repeats: records left out because an earlier one of their file is the same.
    """

    first: list[Prediction]
    second: list[Prediction]
    by: Literal["id", "number"]
    only_first: int
    only_second: int
    steps_cut: int
    repeats: int


def match(first: Scores, second: Scores, common: bool = False) -> Match:
    """Match responses by id, or by the number of their record where a file has no ids.

    Args:
        first: scores of one model.
        second: of the other.
        common: compare the steps that both have scores of, instead of refusing.

    Raises:
        Unmatched: one lacks a response or a score that the other has, and not
            ``common``.
        DataError: an id stands in two records; labels differ; nothing is common.
    """
    by_id = all(_has_id(row) for of in (first, second) for row in of.rows)
    one, other = (_by_key(of, by_id) for of in (first, second))
    repeats = len(first.rows) + len(second.rows) - len(one) - len(other)
    only_first = [key for key in one if key not in other]
    only_second = [key for key in other if key not in one]
    if not common:
        for missing, has, of, lacks in (
            (only_first, first, one, second),
            (only_second, second, other, first),
        ):
            if missing:
                where, many = _where(has, of[missing[0]]), len(missing)
                raise Unmatched(
                    f"{where}: {lacks.name} has no scores of it"
                    + (f", nor of {many - 1} others" if many > 1 else "")
                )
    pairs = [
        _paired((first, one[key]), (second, other[key]), common)
        for key in one
        if key in other
    ]
    if not pairs:
        raise DataError(f"{first.name} and {second.name} have no response in common")
    return Match(
        [a for a, _ in pairs],
        [b for _, b in pairs],
        "id" if by_id else "number",
        len(only_first),
        len(only_second),
        sum(abs(len(one[k].scores) - len(other[k].scores)) for k in one if k in other),
        repeats,
    )


def _has_id(row: Prediction) -> bool:
    return row.id != f"record {row.record}"


def _where(of: Scores, row: Prediction) -> str:
    return f"{of.name}: record {row.record}"


def _by_key(of: Scores, by_id: bool) -> dict[Any, Prediction]:
    """Responses by id or record, and by their place among those of the record."""
    found: dict[tuple[str | int, int], Prediction] = {}
    last, seen = None, {}
    for row in of.rows:
        if row.record != last:
            last, seen = row.record, {}
        name = row.id if by_id else row.record
        seen[name] = seen.get(name, 0) + 1
        before = found.setdefault((name, seen[name]), row)
        if before is not row and (before.labels, before.scores, before.data_source) != (
            row.labels,
            row.scores,
            row.data_source,
        ):
            raise DataError(
                f"{_where(of, row)}: the id {row.id[:40]!r} is that of record "
                f"{before.record}, too"
            )
    return found


def _paired(
    first: tuple[Scores, Prediction], second: tuple[Scores, Prediction], common: bool
) -> tuple[Prediction, Prediction]:
    (of_a, a), (of_b, b) = first, second
    n = min(len(a.labels), len(b.labels))
    lengths = [len(row.labels) + row.truncated for row in (a, b)]
    if a.labels[:n] != b.labels[:n] or lengths[0] != lengths[1]:
        raise DataError(
            f"{_where(of_b, b)}: other labels than {_where(of_a, a)} has of the same"
        )
    if len(a.scores) != len(b.scores) and not common:
        raise Unmatched(
            f"{_where(of_b, b)}: {len(b.scores)} scores, {_where(of_a, a)} has "
            f"{len(a.scores)}"
        )
    cut = {"labels": a.labels[:n], "truncated": lengths[0] - n}
    # Thresholds are chosen by the hash of the id: the same responses for both.
    named = {"id": a.id, "data_source": a.data_source}
    return (
        msgspec.structs.replace(a, scores=a.scores[:n], **cut),
        msgspec.structs.replace(b, scores=b.scores[:n], **cut, **named),
    )


@dataclass(frozen=True)
class Compared:
    """One metric of two models on the same steps; None where it is undefined.

    Attributes:
        first: of the one.
        second: of the other.
        difference: second less first.
        interval: of the difference.
        p: two-sided, of no difference.
        adjusted_p: Holm's, over the metrics, or over all metrics of all sources.
    """

    first: float | None
    second: float | None
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    adjusted_p: float | None = None


@dataclass(frozen=True)
class ScoreComparison:
    """Two models on the same steps.

    Attributes:
        rollouts: evaluated, with counted steps.
        steps: counted in these.
        thresholds: of the first and of the second model.
        metrics: of all sources together, by name.
        sources: of each source, its macro-F1 as "micro_f1"; empty if there is one.
        replicates: of the bootstrap behind the intervals.
    """

    rollouts: int
    steps: int
    thresholds: tuple[Decision, Decision]
    metrics: dict[str, Compared]
    sources: dict[str, dict[str, Compared]]
    replicates: int

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self) | {"level": LEVEL}


class Pair(NamedTuple):
    """Two models' scores of the same steps, to evaluate at thresholds of their own."""

    first: StepScores
    second: StepScores
    thresholds: tuple[Decision, Decision]


def decide_both(
    match: Match,
    chosen_on: ThresholdChoice,
    fixed: float = 0.5,
    source: str | None = None,
) -> Pair:
    """Each model's threshold by the same protocol, on the same rollouts, and what is
    left to evaluate; arguments and errors as :func:`mprm_jax.decision.decide`.
    """
    first, second = columns(match.first), columns(match.second)
    one, left = decide(first, chosen_on, fixed, source)
    other, _ = decide(second, chosen_on, fixed, source)
    return Pair(first.take(left), second.take(left), (one, other))


def compare(pair: Pair, replicates: int = REPLICATES, seed: int = 0) -> ScoreComparison:
    """Differences of two models' metrics. Rollouts are resampled within their sources,
    the same ones for both models, and the thresholds stay.

    Args:
        pair: the scores.
        replicates: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
    """
    models = list(zip(pair[:2], pair.thresholds, strict=True))
    one, other = (_metrics(steps, decision) for steps, decision in models)
    once = np.ones((pair.first.n_rollouts, 1))
    values = one(once), other(once)

    def differences(weights_NxW: np.ndarray) -> dict[Any, np.ndarray]:
        found = one(weights_NxW)
        return {key: of - found[key] for key, of in other(weights_NxW).items()}

    rng = np.random.default_rng(seed)
    drawn = replicate(differences, pair.first, replicates, rng) if replicates else None
    scopes = list(dict.fromkeys(scope for scope, _ in values[0]))
    metrics, *_ = _adjusted({_ALL: _of_scope(_ALL, values, drawn)}).values()
    sources = {of: _of_scope(of, values, drawn) for of in scopes if of is not _ALL}
    return ScoreComparison(
        len(np.unique(pair.first.rollout)),
        pair.first.n_steps,
        pair.thresholds,
        metrics,
        _adjusted(sources) if len(sources) > 1 else {},
        replicates,
    )


# Scope of the metrics of all sources, beside their names.
_ALL = None


def _metrics(steps: StepScores, decision: Decision) -> Metrics:
    def of(part: StepScores) -> Metrics:
        threshold = decision.at(part)
        return joined(
            f1_metrics(part, threshold),
            auroc_metrics(part),
            rank_metrics(part, threshold),
            processbench_metrics(part, decision),
        )

    return joined(under(_ALL, of(steps)), of_each_source(steps, of))


def _of_scope(
    scope: str | None,
    values: Sequence[dict[Any, np.ndarray]],
    drawn: dict[Any, np.ndarray] | None,
) -> dict[str, Compared]:
    compared = {}
    for name in COMPARED:
        of_classes = name == "prm_score"
        if (scope, name) not in values[0] or (of_classes and scope is not _ALL):
            continue
        first, second = (float(of[scope, name][0]) for of in values)
        found = Compared(
            first if math.isfinite(first) else None,
            second if math.isfinite(second) else None,
        )
        difference = second - first
        if math.isfinite(difference):
            found = replace(found, difference=difference)
            if drawn is not None:
                interval, p = resampled_difference(difference, drawn[scope, name])
                found = replace(found, interval=interval, p=p)
        compared[name] = found
    return compared


def _adjusted(by_scope: dict[Any, dict[str, Compared]]) -> dict[Any, dict]:
    """With Holm's p-values, over all metrics of all scopes."""
    places = [
        (scope, name, of.p)
        for scope, metrics in by_scope.items()
        for name, of in metrics.items()
        if of.p is not None
    ]
    for (scope, name, _), p in zip(places, holm([p for *_, p in places]), strict=True):
        by_scope[scope][name] = replace(by_scope[scope][name], adjusted_p=p)
    return by_scope
