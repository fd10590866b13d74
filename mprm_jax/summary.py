"""Everything that is said about one model on one benchmark, ready for JSON.

Agreement of its scores with the judgements (:mod:`theory.agreement`), what position or
a known prior alone would score, calibration, the first wrong step, and intervals by
resampling whole rollouts within their sources: the sources are the benchmark's own and
keep their sizes. The decision threshold stays what it is in every replicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mprm_jax.data.formats.prmbench import CORRECT, DIMENSIONS, NEVER_WRONG
from mprm_jax.decision import (
    Decision,
    FirstError,
    ProcessBench,
    first_wrong,
    first_wrong_unknown,
    processbench_metrics,
)
from theory.agreement import (
    Confusion,
    PairPlan,
    RankPlan,
    StepScores,
    auroc,
    average_precision,
    combined_f1,
    confusion,
    count_pairs,
    count_ranks,
    error_rates,
    f1_by_class,
    macro_f1,
    pair_plan,
    rank_plan,
    ratio,
    risk_at_coverage,
    risk_coverage_area,
    weighted_average_precision,
)
from theory.intervals import (
    LEVEL,
    REPLICATES,
    Interval,
    basic_interval,
    percentile_interval,
    weight_chunks,
)

# Parts of the cross-fit of position; comparisons are made inside each part only.
FOLDS = 5

# Quantile classes of a prior when it is fitted together with position.
PRIOR_CLASSES = 10

# Bins of the calibration curve.
BINS = 15

# Correct and wrong steps in a group of positions: Var(AUROC) <= 1/4 / min(correct,
# wrong) (Birnbaum and Klose 1957), so that its standard error is .1 at most.
LEAST_OF_A_KIND = 25

# Points of the risk-coverage curve, one a hundredth.
CURVE_POINTS = 100

# Biased down in each source, and less variable than each: the basic interval.
MEANS_OVER_SOURCES = frozenset(
    {"micro_f1", "source_mean_f1", "processbench_f1", *DIMENSIONS}
)

# Metrics of a group of steps, of a source and of all, and of all only.
OF_GROUPS = (
    "auroc", "first_error_auroc", "false_positive_rate", "false_negative_rate",
)  # fmt: skip
_IN_BOTH = (
    *OF_GROUPS, "within_position_auroc", "f1_positive", "f1_negative",
    "average_precision_wrong", "aurc", "later_error_auroc",
)  # fmt: skip
_FIRST_ERRORS = ("processbench_f1", "wrong_found", "right_passed")
_OVERALL = ("micro_f1", "macro_f1_pooled", "source_mean_f1", "brier")


def within_position_auroc(steps: StepScores) -> float | None:
    """AUROC over pairs of steps at the same position, of any two rollouts."""
    return auroc(steps.scores, steps.correct, steps.position)


def position_auroc(steps: StepScores) -> float | None:
    """AUROC of a step's position alone: how well a model could do without reading.

    The score is the empirical P(correct | position), cross-fitted; see
    :func:`fitted_auroc`.
    """
    return fitted_auroc(steps, steps.position)


def fitted_auroc(steps: StepScores, cell: np.ndarray) -> float | None:
    """AUROC of the cross-fitted share of correct steps in each step's cell.

    The hash of the rollout puts it into one of five folds. The score of a step in fold
    f and cell c is (n+_c + b) / (n_c + 1): n_c and n+_c count the steps and correct
    steps of that cell in the other folds, b is the share of correct steps there. Only
    pairs of the same fold are compared, because scores of other folds come from another
    fit (compared across, they would rank a fold below 1/2 by what it was left out of).

    Args:
        steps: what to fit and to rank.
        cell: int ``[n_steps]``, non-negative.
    """
    if not steps.n_steps:
        return None
    fold = (steps.keys % np.uint64(FOLDS)).astype(np.int64)[steps.rollout]
    cells, index = np.unique(cell, return_inverse=True)
    shape = (FOLDS, len(cells))
    flat = fold * len(cells) + index
    size = np.bincount(flat, minlength=FOLDS * len(cells)).reshape(shape)
    correct = np.bincount(flat, steps.correct, FOLDS * len(cells)).reshape(shape)
    others, others_correct = size.sum(0) - size, correct.sum(0) - correct
    base = others_correct.sum(1) / np.maximum(others.sum(1), 1)
    rate_FxC = (others_correct + base[:, None]) / (others + 1)
    return auroc(rate_FxC[fold, index], steps.correct, fold)


@dataclass(frozen=True)
class PriorAuroc:
    """What a column known beforehand, such as a slip rate, would score.

    Attributes:
        auroc: of the column itself, in its better direction, so at least 1/2.
        higher_is: "correct" or "wrong", that direction.
        with_position: AUROC of the cross-fitted P(correct | tenth of the column,
            position), see :func:`fitted_auroc`.
    """

    auroc: float | None
    higher_is: str
    with_position: float | None


def prior_auroc(steps: StepScores, prior: np.ndarray) -> PriorAuroc:
    """AUROC of a column given for every counted step, float64 ``[n_steps]``."""
    plain = auroc(prior, steps.correct)
    if plain is None:
        return PriorAuroc(None, "correct", None)
    edges = np.quantile(prior, np.arange(1, PRIOR_CLASSES) / PRIOR_CLASSES)
    tenth = np.searchsorted(edges, prior, side="right")
    with_position = fitted_auroc(steps, steps.position * PRIOR_CLASSES + tenth)
    higher_is = "correct" if plain >= 0.5 else "wrong"
    return PriorAuroc(max(plain, 1 - plain), higher_is, with_position)


@dataclass(frozen=True)
class ReliabilityBin:
    """Steps whose score lies in [low, high), the last bin with its end."""

    low: float
    high: float
    steps: int
    mean_score: float
    share_correct: float


class Calibration(NamedTuple):
    """Agreement of scores, read as probabilities, with judgements.

    Attributes:
        ece: expected calibration error, sum over bins of n_b/n |share_correct_b -
            mean_score_b|, 15 equal bins; in [0, 1].
        brier: mean of (score - correct)^2; in [0, 1].
        curve: the bins that hold steps.
    """

    ece: float
    brier: float
    curve: tuple[ReliabilityBin, ...]


def calibration(scores: np.ndarray, correct: np.ndarray) -> Calibration | None:
    """Calibration of scores in [0, 1]; None if one lies outside (a logit, say).

    Source: Guo et al. 2017, Eq. 3 (ECE); Brier 1950.
    """
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    edges = np.arange(BINS + 1) / BINS
    which = np.searchsorted(edges[1:-1], scores, side="right")
    size = np.bincount(which, minlength=BINS)
    n = np.maximum(size, 1)
    mean = np.bincount(which, scores, BINS) / n
    share = np.bincount(which, correct, BINS) / n
    columns = (of.tolist() for of in (edges[:-1], edges[1:], size, mean, share))
    return Calibration(
        float(np.sum(size * np.abs(share - mean)) / len(scores)),
        float(np.mean((scores - correct) ** 2)),
        tuple(ReliabilityBin(*of) for of in zip(*columns, strict=True) if of[2]),
    )


# From how often each rollout counts, ``[n_rollouts, W]``, whole numbers, to metrics,
# ``[..., W]`` each, NaN where one is not defined. Weights of 1 give the metric, drawn
# ones its bootstrap replicates, and those of two models on the same draw are paired.
Metrics = Callable[[np.ndarray], dict[Any, np.ndarray]]


def joined(*parts: Metrics) -> Metrics:
    """The metrics of all parts."""
    return lambda weights: {k: of for part in parts for k, of in part(weights).items()}


def under(scope: Any, metrics: Metrics) -> Metrics:
    """The metrics by (scope, name)."""
    return lambda weights: {(scope, k): of for k, of in metrics(weights).items()}


def of_each_source(
    steps: StepScores, metrics_of: Callable[[StepScores], Metrics]
) -> Metrics:
    """Metrics of every source that has counted steps, by (source, name)."""

    def part(i: int) -> Metrics | None:
        rows = np.flatnonzero(steps.source == i)
        of = steps.take(rows)
        if not of.n_steps:
            return None
        metrics = under(steps.source_names[i], metrics_of(of))
        return lambda weights: metrics(weights[rows])

    parts = map(part, range(len(steps.source_names)))
    return joined(*(of for of in parts if of is not None))


def replicate(
    metrics: Metrics, steps: StepScores, replicates: int, rng: np.random.Generator
) -> dict[Any, np.ndarray]:
    """Metrics ``[..., R]`` of data sets whose rollouts are drawn from those of each
    source, with replacement.
    """
    chunks = weight_chunks(steps.source, replicates, rng, steps.n_steps)
    parts = [metrics(np.ascontiguousarray(weights.T)) for weights in chunks]
    join = partial(np.concatenate, axis=-1)
    return {key: join([part[key] for part in parts]) for key in parts[0]}


def f1_metrics(steps: StepScores, threshold: float | np.ndarray) -> Metrics:
    """Every F1 of :class:`theory.agreement.F1`, ``false_positive_rate`` and
    ``false_negative_rate``, and of PRMBench's classes what PRMBench reports.

    Its PRMScore of a class is the class's macro-F1, of "multi_solutions", where nothing
    is wrong, the F1 of the correct steps; of a dimension the mean of its classes; of
    all, the macro-F1 of their steps as one source. Original processes do not count.
    Source: Song et al. 2025, Sec. 3.4 and their evaluation code.
    """
    by_rollout = confusion(steps, threshold, steps.rollout, steps.n_rollouts)
    counts_4xN = np.stack(by_rollout).astype(float)
    names = steps.source_names
    rows = [np.flatnonzero(steps.source == i) for i in range(len(names))]
    counted = {names[i] for i in np.unique(steps.step_source)}
    dimensions = {
        dimension: shown
        for dimension, classes in DIMENSIONS.items()
        if (shown := [name for name in classes if name in counted])
    }
    if counted - {CORRECT, *(of for some in dimensions.values() for of in some)}:
        dimensions = {}

    def metrics(weights_NxW: np.ndarray) -> dict[str, np.ndarray]:
        by_source = [Confusion(*(counts_4xN[:, of] @ weights_NxW[of])) for of in rows]
        wrong, missed = error_rates(Confusion(*np.sum(by_source, axis=0)))
        found = combined_f1(by_source)._asdict()
        found |= {"false_positive_rate": wrong, "false_negative_rate": missed}
        if not dimensions:
            return found
        of_class = dict(zip(names, by_source, strict=True))
        of_class.pop(CORRECT, None)
        found["prm_score"] = combined_f1(of_class.values()).macro_f1_pooled
        for dimension, classes in dimensions.items():
            scores = [_prm_score(name, of_class[name]) for name in classes]
            found[dimension] = np.mean(scores, axis=0)
        return found

    return metrics


def _prm_score(name: str, counts: Confusion) -> np.ndarray:
    return f1_by_class(counts)[0] if name == NEVER_WRONG else macro_f1(counts)


def auroc_metrics(steps: StepScores) -> Metrics:
    """``auroc`` and ``within_position_auroc``."""
    plans = {
        name: pair_plan(steps.scores, steps.correct, group, steps.rollout)
        for name, group in (
            ("auroc", None),
            ("within_position_auroc", steps.position),
        )
    }
    return lambda weights: {name: _auroc(of, weights) for name, of in plans.items()}


def _auroc(plan: PairPlan, weights_NxW: np.ndarray) -> np.ndarray:
    wins, pairs = count_pairs(plan, weights_NxW)
    return ratio(wins.sum(axis=0), pairs.sum(axis=0))


def first_error_metrics(steps: StepScores) -> Metrics:
    """``first_error_auroc`` and ``later_error_auroc``: of rollouts' first wrong steps,
    and of the wrong ones behind, each against the correct steps before any wrong one.
    """
    order = _order(steps)
    plans = {
        name: _plan_of(steps, order, against)
        for name, against in (("first_error_auroc", 0), ("later_error_auroc", 1))
    }
    return lambda weights: {name: _auroc(of, weights) for name, of in plans.items()}


def _order(steps: StepScores) -> np.ndarray:
    """-1 before the rollout's first wrong step, 0 at it, 1 behind; ``[n_steps]``."""
    return np.sign(steps.position - first_wrong(steps)[steps.rollout])


def _plan_of(
    steps: StepScores, order: np.ndarray, kind: int, group: np.ndarray | None = None
) -> PairPlan:
    """Pairs of a correct step before any wrong one, and a wrong one of that order."""
    of = (order < 0) | ((order == kind) & ~steps.correct)
    groups = None if group is None else group[of]
    return pair_plan(steps.scores[of], steps.correct[of], groups, steps.rollout[of])


def rank_metrics(steps: StepScores, threshold: float | np.ndarray) -> Metrics:
    """``average_precision_wrong``, of the wrong steps, the lowest scores first, and
    ``aurc``, the area under the risk-coverage curve.
    """
    wrong = rank_plan(-steps.scores, ~steps.correct, steps.rollout)
    sure = confidence_plan(steps, threshold)
    return lambda weights: {
        "average_precision_wrong": weighted_average_precision(
            count_ranks(wrong, weights)
        ),
        "aurc": risk_coverage_area(count_ranks(sure, weights)),
    }


def confidence_plan(steps: StepScores, threshold: float | np.ndarray) -> RankPlan:
    """Steps by confidence, which is the distance of the score from the decision
    threshold; the misjudged ones are marked.
    """
    with np.errstate(over="ignore"):
        confidence = np.abs(steps.scores - threshold)
    misjudged = (steps.scores >= threshold) != steps.correct
    return rank_plan(confidence, misjudged, steps.rollout)


def minimum_metrics(steps: StepScores) -> Metrics:
    """``last_minimum``: how often a rollout's least score is its last, ties shared
    among the steps that tie, and ``last_minimum_expected``, the mean of 1/n, which it
    would be were the place of the minimum uniform; of rollouts of two or more steps, n
    with the neutral ones, that are scored to the end. The same of those ``_right``,
    without a wrong step, and ``_wrong``.

    A share far above the expected one says that the model judges the answer, not the
    steps. Source: Zhang et al. 2025 ("The Lessons of Developing Process Reward Models
    in Mathematical Reasoning"), Sec. 3.
    """
    kinds = minimum_kinds(steps)
    columns = {
        "last_minimum": steps.least_is_last,
        "last_minimum_expected": 1 / np.maximum(steps.length, 1),
    }

    def metrics(weights_NxW: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name + ending: ratio(column[of] @ weights_NxW[of], weights_NxW[of].sum(0))
            for name, column in columns.items()
            for ending, of in kinds.items()
        }

    return metrics


def minimum_kinds(steps: StepScores) -> dict[str, np.ndarray]:
    """Rows of the rollouts of :func:`minimum_metrics`, by the ending of its names."""
    judged = np.bincount(steps.rollout, minlength=steps.n_rollouts) > 0
    wrong = np.bincount(steps.rollout, ~steps.correct, steps.n_rollouts) > 0
    usable = judged & (steps.length > 1)
    if steps.cut is not None:
        usable &= ~steps.cut
    kinds = {"": usable, "_right": usable & ~wrong, "_wrong": usable & wrong}
    return {ending: np.flatnonzero(of) for ending, of in kinds.items()}


def brier_metrics(steps: StepScores) -> Metrics:
    """``brier``, as in :class:`Calibration`."""
    known = calibration(steps.scores, steps.correct) is not None
    error = (steps.scores - steps.correct) ** 2 if known else steps.scores * np.nan
    sums = np.bincount(steps.rollout, error, steps.n_rollouts)
    size = np.bincount(steps.rollout, minlength=steps.n_rollouts)
    return lambda weights: {"brier": ratio(sums @ weights, size @ weights)}


def model_metrics(steps: StepScores, decision: Decision) -> Metrics:
    """Every metric of one model on all sources together."""
    threshold = decision.at(steps)
    return joined(
        f1_metrics(steps, threshold),
        auroc_metrics(steps),
        rank_metrics(steps, threshold),
        first_error_metrics(steps),
        processbench_metrics(steps, decision),
        minimum_metrics(steps),
        brier_metrics(steps),
    )


def group_metrics(
    steps: StepScores, threshold: float | np.ndarray, group: np.ndarray
) -> Metrics:
    """Of the steps of each group, ``[n_groups, W]``: ``auroc``, ``first_error_auroc``
    and the rates of :func:`f1_metrics`.

    Args:
        steps: to evaluate.
        threshold: of the decision, one or ``[n_steps]``.
        group: int ``[n_steps]``, at least 0.
    """
    n, groups = steps.n_rollouts, int(group.max(initial=0)) + 1
    cells = confusion(steps, threshold, group * n + steps.rollout, groups * n)
    counts_4xGxN = np.stack([of.reshape(groups, n) for of in cells]).astype(float)
    plans = {
        "auroc": pair_plan(steps.scores, steps.correct, group, steps.rollout),
        "first_error_auroc": _plan_of(steps, _order(steps), 0, group),
    }

    def metrics(weights_NxW: np.ndarray) -> dict[Any, np.ndarray]:
        rates = error_rates(Confusion(*(counts_4xGxN @ weights_NxW)))
        found: dict[Any, np.ndarray] = {
            "false_positive_rate": rates[0],
            "false_negative_rate": rates[1],
        }
        for name, plan in plans.items():
            found[name] = np.full((groups, weights_NxW.shape[1]), np.nan)
            found[name][plan.groups] = ratio(*count_pairs(plan, weights_NxW))
        return found

    return metrics


def position_starts(steps: StepScores) -> np.ndarray:
    """Where groups of positions begin, int64 ascending from 0: each is as short as it
    can be with 25 correct and 25 wrong steps; what is left at the end joins the last.
    """
    size = int(steps.position.max(initial=0)) + 1
    kinds = (steps.correct, ~steps.correct)
    counts_2xP = np.stack([np.bincount(steps.position, of, size) for of in kinds])
    starts, begun = [0], np.zeros(2)
    for position in range(size):
        begun += counts_2xP[:, position]
        if begun.min() >= LEAST_OF_A_KIND:
            starts.append(position + 1)
            begun = np.zeros(2)
    return np.array(starts[:-1] or [0])


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """Metrics of some steps; None where one is undefined.

    Attributes:
        steps: counted.
        steps_wrong: of them.
        auroc: of all.
        first_error_auroc: of the first wrong ones, see :func:`first_error_metrics`.
        false_positive_rate: share of the wrong steps that are predicted correct.
        false_negative_rate: share of the correct steps that are predicted wrong.
        intervals: of metrics, by name; None: not asked for.
    """

    steps: int
    steps_wrong: int
    auroc: float | None
    first_error_auroc: float | None
    false_positive_rate: float | None
    false_negative_rate: float | None
    intervals: dict[str, Interval | None] | None


@dataclass(frozen=True, kw_only=True)
class StepGroup(GroupSummary):
    """The steps that stand in one part of their solutions.

    Attributes:
        name: of the part.
        first_errors: those that are the first wrong ones of their rollouts.
    """

    name: str
    first_errors: int


@dataclass(frozen=True, kw_only=True)
class SourceSummary(GroupSummary):
    """One source of the benchmark; intervals are of macro_f1 and of ProcessBench's
    metrics, too.

    Attributes:
        rollouts: with counted steps.
        within_position_auroc: over pairs of the same position.
        f1_positive: this and the next as in :class:`theory.agreement.F1`.
        f1_negative: likewise.
        average_precision_wrong: of the wrong steps.
        aurc: area under the risk-coverage curve, confidence being the distance from the
            threshold (:func:`theory.agreement.risk_coverage_area`).
        later_error_auroc: of the wrong steps behind the first wrong ones.
    """

    rollouts: int
    within_position_auroc: float | None
    f1_positive: float | None
    f1_negative: float | None
    average_precision_wrong: float | None
    aurc: float | None
    later_error_auroc: float | None


class LastMinimum(NamedTuple):
    """How often the least score is the last; see :func:`minimum_metrics`.

    Attributes:
        share: of the rollouts; None without any.
        expected: were the place of the least score uniform.
        rollouts: so many.
    """

    share: float | None
    expected: float | None
    rollouts: int


@dataclass(frozen=True, kw_only=True)
class Evaluation(SourceSummary):
    """All metrics of one model; intervals are of all but position_auroc,
    average_precision, ece and the expected shares.

    Attributes:
        micro_f1: this and the next two as in :class:`theory.agreement.F1`.
        macro_f1_pooled: likewise.
        source_mean_f1: likewise.
        per_source: macro-F1 of every source that has counted steps.
        position_auroc: of the position alone.
        average_precision: of the correct steps.
        risk_coverage: (share of the steps that is covered, share misjudged of those).
        last_minimum: of "all" rollouts, the "right" and the "wrong" ones.
        processbench: how well the first wrong step is found.
        prmbench: PRMScore of all classes and by dimension, see :func:`f1_metrics`; None
            where the sources are other than PRMBench's classes.
        ece: this, ``brier`` and the curve ``reliability`` as in :class:`Calibration`.
        positions: steps by position, see :func:`position_starts`.
        thirds: steps by third of their solution.
        threshold: of the decision.
        sources: every source that has counted steps.
        prior: what the given prior would score; None: none was given.
        replicates: of the bootstrap behind the intervals.
    """

    micro_f1: float
    macro_f1_pooled: float
    source_mean_f1: float
    per_source: dict[str, float]
    position_auroc: float | None
    average_precision: float | None
    risk_coverage: tuple[tuple[float, float], ...]
    last_minimum: dict[str, LastMinimum]
    processbench: ProcessBench
    prmbench: dict[str, float] | None
    ece: float | None
    brier: float | None
    reliability: tuple[ReliabilityBin, ...]
    positions: tuple[StepGroup, ...]
    thirds: tuple[StepGroup, ...]
    threshold: Decision
    sources: dict[str, SourceSummary]
    prior: PriorAuroc | None
    replicates: int

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values; what was not asked for is left out."""
        value = asdict(self)
        replicates = value.pop("replicates")
        value["threshold"].pop("first_error")
        (value["processbench"]["threshold"] or {}).pop("first_error", None)
        value["processbench_f1"] = self.processbench.f1
        value["last_minimum"] = {k: of._asdict() for k, of in self.last_minimum.items()}
        for name in ("prior", "prmbench"):
            if value[name] is None:
                del value[name]
        if self.intervals is None:
            groups = (*value["positions"], *value["thirds"])
            for of in (value, *value["sources"].values(), *groups):
                del of["intervals"]
        else:
            value["intervals"] |= {"level": LEVEL, "replicates": replicates}
        return value


# Scopes of metrics, beside the names of sources.
_ALL, _POSITIONS, _THIRDS = range(3)

_THIRD_NAMES = ("first third", "middle third", "last third")


@dataclass(frozen=True)
class _Findings:
    """Metrics by (scope, name), ``[..., 1]``, and replicates of them, if any."""

    value: dict[Any, np.ndarray]
    drawn: dict[Any, np.ndarray] | None

    def number(self, scope: Any, name: str, *at: int) -> Any:
        """A float; None where the metric is not defined."""
        found = self.value[scope, name][(*at, 0)]
        return float(found) if np.isfinite(found) else None

    def interval(self, scope: Any, name: str, *at: int) -> Interval | None:
        assert self.drawn is not None
        found = self.number(scope, name, *at)
        if found is None:
            return None
        drawn = self.drawn[scope, name][at]
        if name in MEANS_OVER_SOURCES and scope == _ALL:
            return basic_interval(found, drawn)
        return percentile_interval(drawn)

    def intervals(
        self, scope: Any, names: Iterable[str], *at: int
    ) -> dict[str, Interval | None] | None:
        if self.drawn is None:
            return None
        return {name: self.interval(scope, name, *at) for name in names}

    def names(self, scope: Any) -> list[str]:
        of = [name for where, name in self.value if where == scope]
        return [name for name in of if not name.startswith("last_minimum_expected")]


def evaluation(
    steps: StepScores,
    decision: Decision,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    prior: np.ndarray | None = None,
) -> Evaluation:
    """All metrics of the given steps.

    Args:
        steps: to evaluate, at least one counted.
        decision: the threshold.
        replicates: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
        prior: float64 ``[n_steps]``, known beforehand (see ``prior_auroc``).
    """
    threshold, starts = decision.at(steps), position_starts(steps)
    group = {
        _POSITIONS: np.searchsorted(starts, steps.position, side="right") - 1,
        # By the middle of the step: of two steps one is first, the other last.
        _THIRDS: (6 * steps.position + 3) // (2 * steps.length[steps.rollout]),
    }
    metrics = joined(
        under(_ALL, model_metrics(steps, decision)),
        *(under(k, group_metrics(steps, threshold, of)) for k, of in group.items()),
        of_each_source(steps, lambda part: model_metrics(part, decision)),
    )
    rng = np.random.default_rng(seed)
    found = _Findings(
        metrics(np.ones((steps.n_rollouts, 1))),
        replicate(metrics, steps, replicates, rng) if replicates else None,
    )
    own = {name: found.number(_ALL, name) for name in found.names(_ALL)}
    described = _sources(steps, found)
    calibrated = calibration(steps.scores, steps.correct)
    scopes = (_POSITIONS, _position_names(starts)), (_THIRDS, _THIRD_NAMES)
    positions, thirds = (
        _groups(steps, group[scope], found, scope, names) for scope, names in scopes
    )
    dimensions = [name for name in ("prm_score", *DIMENSIONS) if name in own]
    return Evaluation(
        **{name: own[name] for name in (*_IN_BOTH, *_OVERALL)},
        steps=steps.n_steps,
        per_source={name: found.number(name, "micro_f1") for name in described},
        position_auroc=position_auroc(steps),
        average_precision=average_precision(steps.scores, steps.correct),
        risk_coverage=_risk_coverage(steps, threshold),
        last_minimum=_last_minimum(steps, found),
        processbench=_processbench(steps, decision, found),
        prmbench={name: own[name] for name in dimensions} or None,
        ece=calibrated and calibrated.ece,
        reliability=calibrated.curve if calibrated else (),
        positions=positions,
        thirds=thirds,
        rollouts=len(np.unique(steps.rollout)),
        steps_wrong=int(np.count_nonzero(~steps.correct)),
        threshold=decision,
        sources=described,
        prior=None if prior is None else prior_auroc(steps, prior),
        intervals=found.intervals(_ALL, own),
        replicates=replicates,
    )


def _sources(steps: StepScores, found: _Findings) -> dict[str, SourceSummary]:
    described = {}
    for i, name in enumerate(steps.source_names):
        of = steps.step_source == i
        if not of.any():
            continue
        intervals = found.intervals(name, (*_IN_BOTH, "micro_f1", *_FIRST_ERRORS))
        if intervals is not None:
            intervals["macro_f1"] = intervals.pop("micro_f1")
        described[name] = SourceSummary(
            rollouts=len(np.unique(steps.rollout[of])),
            steps=int(np.count_nonzero(of)),
            steps_wrong=int(np.count_nonzero(of & ~steps.correct)),
            **{key: found.number(name, key) for key in _IN_BOTH},
            intervals=intervals,
        )
    return described


def _groups(
    steps: StepScores,
    group: np.ndarray,
    found: _Findings,
    scope: int,
    names: Sequence[str],
) -> tuple[StepGroup, ...]:
    first = _order(steps) == 0

    def described(i: int) -> StepGroup:
        of = group == i
        return StepGroup(
            name=names[i],
            steps=int(np.count_nonzero(of)),
            steps_wrong=int(np.count_nonzero(of & ~steps.correct)),
            first_errors=int(np.count_nonzero(of & first)),
            **{key: found.number(scope, key, i) for key in OF_GROUPS},
            intervals=found.intervals(scope, OF_GROUPS, i),
        )

    return tuple(map(described, np.unique(group).tolist()))


def _position_names(starts: np.ndarray) -> list[str]:
    """Positions from 1."""
    ends = [*starts[1:].tolist(), None]
    return [
        f"{start + 1} on" if end is None else f"{start + 1}"
        if end == start + 1 else f"{start + 1} to {end}"
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]  # fmt: skip


def _risk_coverage(
    steps: StepScores, threshold: float | np.ndarray
) -> tuple[tuple[float, float], ...]:
    ranks = count_ranks(
        confidence_plan(steps, threshold), np.ones((steps.n_rollouts, 1))
    )
    n = steps.n_steps
    covered = np.unique(np.ceil(np.arange(1, CURVE_POINTS + 1) * n / CURVE_POINTS))
    risk = risk_at_coverage(ranks, covered)
    return tuple(zip((covered / n).tolist(), risk.tolist(), strict=True))


def _processbench(
    steps: StepScores, decision: Decision, found: _Findings
) -> ProcessBench:
    def at(scope: Any) -> dict[str, float | None]:
        names = ("f1", "wrong_found", "right_passed")
        of = zip(names, _FIRST_ERRORS, strict=True)
        return {name: found.number(scope, key) for name, key in of}

    chosen = decision.of_first_errors
    counted = [steps.source_names[i] for i in np.unique(steps.step_source)]
    return ProcessBench(
        **at(_ALL),
        threshold=chosen,
        sources={} if chosen is None else {of: FirstError(**at(of)) for of in counted},
        rollouts_cut=int(np.count_nonzero(first_wrong_unknown(steps))),
    )


def _last_minimum(steps: StepScores, found: _Findings) -> dict[str, LastMinimum]:
    return {
        ending[1:] or "all": LastMinimum(
            found.number(_ALL, f"last_minimum{ending}"),
            found.number(_ALL, f"last_minimum_expected{ending}"),
            len(rows),
        )
        for ending, rows in minimum_kinds(steps).items()
    }
