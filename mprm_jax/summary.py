"""Everything that is said about one model on one benchmark, ready for JSON.

Agreement of its scores with the judgements (:mod:`theory.agreement`), what position or
a known prior alone would score, calibration, the first wrong step, and intervals by
resampling whole rollouts within their sources: the sources are the benchmark's own and
keep their sizes. The decision threshold stays what it is in every replicate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from mprm_jax.records.problems import DataError
from theory.agreement import (
    F1,
    Confusion,
    PairPlan,
    StepScores,
    auroc,
    average_precision,
    best_threshold,
    combined_f1,
    confusion,
    count_pairs,
    decision_thresholds,
    f1_at,
    macro_f1,
    pair_plan,
)
from theory.intervals import (
    LEVEL,
    REPLICATES,
    Interval,
    basic_interval,
    percentile_interval,
    weight_chunks,
)

ThresholdChoice = Literal["held-out", "cross-fitted", "source", "fixed", "test"]

# A fifth: some 570 of the benchmark's solutions, about 5,000 steps for one number.
HELD_OUT_SHARE = 0.2


# Parts of the cross-fit of position; comparisons are made inside each part only.
FOLDS = 5

# Quantile classes of a prior when it is fitted together with position.
PRIOR_CLASSES = 10

# Bins of the calibration curve.
BINS = 15


def held_out(steps: StepScores) -> np.ndarray:
    """Which rollouts the hash of the rollout holds out, bool ``[n_rollouts]``."""
    # The high bits decide here, the low ones in the folds of a fit: independent.
    return (steps.keys >> np.uint64(11)) * 2.0**-53 < HELD_OUT_SHARE


def second_half(steps: StepScores) -> np.ndarray:
    """Which rollouts the hash of the rollout puts into the second of two halves, bool
    ``[n_rollouts]``.
    """
    return steps.keys >> np.uint64(63) == 1


@dataclass(frozen=True)
class Decision:
    """A decision threshold and where it comes from.

    Attributes:
        threshold: a step is predicted correct iff its score is at least this; where
            ``halves`` are given, their mean.
        chosen_on: "held-out": best micro-F1 on rollouts that are then left out;
            "cross-fitted": best micro-F1 on the half of the rollouts that a step is not
            in; "source": best micro-F1 on one source, as ProcessBench chooses on GSM8K;
            "fixed": given; "test": best micro-F1 on the evaluated steps themselves,
            which flatters.
        rollouts: on which it was chosen; 0 if fixed.
        steps: on which it was chosen; 0 if fixed.
        halves: thresholds of the rollouts of the first and of the second half.
        source: on which it was chosen, if on one.
        first_error: the threshold of ProcessBench's F1, chosen on the same rollouts for
            that F1; None if fixed, or if no rollouts there have an error, or all have.
    """

    threshold: float
    chosen_on: ThresholdChoice
    rollouts: int = 0
    steps: int = 0
    halves: tuple[float, float] | None = None
    source: str | None = None
    first_error: Decision | None = None

    def at(self, steps: StepScores) -> np.ndarray | float:
        """The threshold of each step, ``[n_steps]``, or the one of all."""
        if self.halves is None:
            return self.threshold
        return np.where(second_half(steps)[steps.rollout], *self.halves[::-1])


def decide(
    steps: StepScores,
    chosen_on: ThresholdChoice,
    fixed: float = 0.5,
    source: str | None = None,
) -> tuple[Decision, np.ndarray]:
    """The decision threshold, and the rows of the rollouts that are left to evaluate.

    What a fifth held out leaves to chance, its small number and the four fifths left,
    is less when cross-fitted: every rollout is judged, none by a threshold that it
    helped to choose.

    Args:
        steps: all there are.
        chosen_on: see :class:`Decision`.
        fixed: the threshold, if fixed.
        source: name of the source to choose on, if on one; it is evaluated, too.

    Raises:
        DataError: there is no counted step, or none where the threshold is chosen or
            evaluated.
    """
    left = np.arange(steps.n_rollouts)
    if not steps.n_steps:
        raise DataError(
            "no counted steps: every label is 0 (neutral), or there is none"
        )
    lacking, of_source = "choose a decision threshold", None
    match chosen_on:
        case "fixed":
            return Decision(fixed, "fixed"), left
        case "test":
            parts = [steps]
        case "cross-fitted":
            second = second_half(steps)
            parts = [steps.take(np.flatnonzero(of)) for of in (second, ~second)]
            lacking = "choose the decision threshold of each half on the other"
        case "source":
            names, of_source = steps.source_names, source
            if source not in names:
                known = ", ".join(f"{name[:40]!r}" for name in names[:12])
                raise DataError(f"no source {source!r}; there are: {known}")
            parts = [steps.take(np.flatnonzero(steps.source == names.index(source)))]
            lacking = f"choose the decision threshold on {source!r}"
        case "held-out":
            out = held_out(steps)
            parts, left = [steps.take(np.flatnonzero(out))], np.flatnonzero(~out)
            lacking = "hold some out for the decision threshold"
            if parts[0].n_steps == steps.n_steps:
                parts = [steps.take(left)]
    if not all(part.n_steps for part in parts):
        raise DataError(
            f"{steps.n_rollouts} rollouts are too few to {lacking}; give one "
            "(--threshold 0.5)"
        )
    decision = _chosen(parts, best_threshold, chosen_on, of_source)
    assert decision is not None
    first_error = _chosen(parts, best_first_error_threshold, chosen_on, of_source)
    return replace(decision, first_error=first_error), left


def _chosen(
    parts: Sequence[StepScores],
    best: Callable[[StepScores], float | None],
    chosen_on: ThresholdChoice,
    source: str | None,
) -> Decision | None:
    """What is best on the one part, or on each of two halves for the other."""
    found = [threshold for part in parts if (threshold := best(part)) is not None]
    if len(found) < len(parts):
        return None
    rollouts, steps = (
        sum(of.n_rollouts for of in parts),
        sum(of.n_steps for of in parts),
    )
    halves = (found[0], found[1]) if len(found) == 2 else None
    mean = sum(found) / len(found)
    return Decision(mean, chosen_on, rollouts, steps, halves, source)


@dataclass(frozen=True)
class FirstError:
    """How well the first wrong step is found (ProcessBench, Zheng et al. 2024).

    A neutral step is neither the first wrong one nor a false alarm.

    Attributes:
        f1: harmonic mean of the other two; None where one is missing.
        wrong_found: share of the rollouts with a wrong step whose first wrong step is
            the first one predicted wrong; None without such rollouts.
        right_passed: share of the rollouts without a wrong step of which no step is
            predicted wrong; None without such rollouts.
    """

    f1: float | None
    wrong_found: float | None
    right_passed: float | None


@dataclass(frozen=True)
class ProcessBench(FirstError):
    """The same of all sources: each attribute is the mean over those that have it, as
    ProcessBench averages over its subsets; of one source they are its own.

    Attributes:
        threshold: of the decision, chosen for this F1; None: it could not be chosen.
        sources: of each source, at that threshold.
        rollouts_cut: rollouts left out because their first wrong step may be among
            those without a score.
    """

    threshold: Decision | None
    sources: dict[str, FirstError]
    rollouts_cut: int


class _Verdicts(NamedTuple):
    """At which decision thresholds each judged rollout's first wrong step is found, or
    all its steps pass if none is wrong: low < threshold <= high.
    """

    rollout: np.ndarray
    wrong: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _verdicts(steps: StepScores) -> _Verdicts:
    # Steps before the first wrong one must pass, and that one must not.
    n, none = steps.n_rollouts, np.iinfo(np.int64).max
    first = np.full(n, none)
    of = ~steps.correct
    np.minimum.at(first, steps.rollout[of], steps.position[of])
    before = steps.position < first[steps.rollout]
    high, low = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(high, steps.rollout[before], steps.scores[before])
    at = steps.position == first[steps.rollout]
    low[steps.rollout[at]] = steps.scores[at]
    judged = np.bincount(steps.rollout, minlength=n) > 0
    rows = np.flatnonzero(judged & ~_unknown(steps, first < none))
    return _Verdicts(rows, first[rows] < none, low[rows], high[rows])


def _unknown(steps: StepScores, wrong: np.ndarray) -> np.ndarray:
    """Rollouts whose first wrong step may lie behind the last one with a score."""
    return np.zeros(len(wrong), bool) if steps.cut is None else steps.cut & ~wrong


def _hits(
    steps: StepScores, threshold: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of judged rollouts: (row, whether a step is wrong, whether judged so)."""
    of = _verdicts(steps)
    threshold_N = np.zeros(steps.n_rollouts)
    threshold_N[steps.rollout] = threshold
    at = threshold_N[of.rollout]
    return of.rollout, of.wrong, (of.low < at) & (at <= of.high)


def _first_error(wrong: np.ndarray, hit: np.ndarray) -> FirstError:
    found, passed = (
        float(hit[of].mean()) if of.any() else None for of in (wrong, ~wrong)
    )
    if found is None or passed is None:
        return FirstError(None, found, passed)
    return FirstError(
        float(_harmonic(np.array(found), np.array(passed))), found, passed
    )


def _harmonic(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    both = one + other
    return 2 * one * other / np.where(both == 0, 1, both)


def _first_error_decision(decision: Decision) -> Decision | None:
    return decision if decision.chosen_on == "fixed" else decision.first_error


def processbench(steps: StepScores, decision: Decision) -> ProcessBench:
    """ProcessBench's F1 of every source, and its mean over the sources.

    Args:
        steps: to evaluate.
        decision: whose ``first_error`` threshold is used, or itself if it is fixed.
    """
    chosen = _first_error_decision(decision)
    cut = 0
    if steps.cut is not None:
        wrong = np.bincount(steps.rollout, ~steps.correct, steps.n_rollouts) > 0
        cut = int(np.count_nonzero(_unknown(steps, wrong)))
    if chosen is None:
        return ProcessBench(None, None, None, None, {}, cut)
    rollout, wrong, hit = _hits(steps, chosen.at(steps))
    source = steps.source[rollout]
    sources = {
        steps.source_names[i]: _first_error(wrong[source == i], hit[source == i])
        for i in np.unique(source)
    }

    def mean(name: str) -> float | None:
        known = [v for of in sources.values() if (v := getattr(of, name)) is not None]
        return sum(known) / len(known) if known else None

    means = mean("f1"), mean("wrong_found"), mean("right_passed")
    return ProcessBench(*means, chosen, sources, cut)


def processbench_replicates(
    steps: StepScores, decision: Decision, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """ProcessBench's F1 of resampled data sets, ``[R]``, NaN where a source that has
    one lacks it; the threshold stays.
    """
    chosen = _first_error_decision(decision)
    if chosen is None:
        return np.full(replicates, np.nan)
    rollout, wrong, hit = _hits(steps, chosen.at(steps))
    source = steps.source[rollout]
    # Of each source that has both, its rollouts with an error and those without.
    pairs = [
        [kind for kind in (wrong & (source == i), ~wrong & (source == i)) if kind.any()]
        for i in np.unique(source)
    ]
    pairs = [pair for pair in pairs if len(pair) == 2]
    if not pairs:
        return np.full(replicates, np.nan)
    drawn = []
    for weights_WxN in weight_chunks(steps.source, replicates, rng, steps.n_steps):
        weights = weights_WxN[:, rollout]
        with np.errstate(invalid="ignore"):
            shares = [
                [weights[:, kind] @ hit[kind] / weights[:, kind].sum(1) for kind in of]
                for of in pairs
            ]
        drawn.append(np.mean([_harmonic(*of) for of in shares], axis=0))
    return np.concatenate(drawn)


def first_error_sweep(steps: StepScores, thresholds: np.ndarray) -> np.ndarray | None:
    """ProcessBench's F1, mean over sources, at ascending decision thresholds.

    Returns:
        float64, as many; None where no source has rollouts with and without an error.
    """
    of = _verdicts(steps)
    source, possible = steps.source[of.rollout], of.low < of.high
    found = []
    for i in np.unique(source):
        kinds = [(source == i) & kind for kind in (of.wrong, ~of.wrong)]
        if not all(kind.any() for kind in kinds):
            continue
        shares = []
        for kind in kinds:
            low, high = (np.sort(end[kind & possible]) for end in (of.low, of.high))
            hits = np.searchsorted(low, thresholds) - np.searchsorted(high, thresholds)
            shares.append(hits / np.count_nonzero(kind))
        found.append(_harmonic(*shares))
    return np.mean(found, axis=0) if found else None


def best_first_error_threshold(steps: StepScores) -> float | None:
    """The decision threshold of the largest ProcessBench F1, the lowest of equal ones;
    None where that F1 is not defined.
    """
    thresholds = decision_thresholds(steps)
    swept = first_error_sweep(steps, thresholds)
    return None if swept is None else float(thresholds[np.argmax(swept)])


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


def macro_f1_per_source(
    steps: StepScores, threshold: float | np.ndarray
) -> dict[str, float]:
    """Macro-F1 of every source that has counted steps."""
    counts = confusion(steps, threshold, groups=len(steps.source_names))
    named = zip(steps.source_names, macro_f1(counts), counts.steps, strict=True)
    return {name: float(value) for name, value, n in named if n}


class Replicates(NamedTuple):
    """Metrics of R resampled data sets; NaN where a replicate does not define one.

    Attributes:
        f1: of all sources together, each ``[R]``.
        auroc: ``[R]``.
        within_position_auroc: ``[R]``.
        source_macro_f1: of each source, ``[n_sources, R]``.
        source_auroc: likewise.
        source_within_position: likewise, of pairs within the source only.
    """

    f1: F1
    auroc: np.ndarray
    within_position_auroc: np.ndarray
    source_macro_f1: np.ndarray
    source_auroc: np.ndarray
    source_within_position: np.ndarray


def replicate(
    steps: StepScores,
    threshold: float | np.ndarray,
    replicates: int,
    rng: np.random.Generator,
) -> Replicates:
    """Metrics of resampled data sets; the threshold, or those ``[n_steps]``, stay.

    Raises:
        ValueError: there is no counted step.
    """
    if not steps.n_steps:
        raise ValueError("no counted steps")
    by_rollout = confusion(steps, threshold, steps.rollout, steps.n_rollouts)
    counts_Nx4 = np.stack(by_rollout, axis=1).astype(float)
    n_sources = len(steps.source_names)
    rows = [np.flatnonzero(steps.source == i) for i in range(n_sources)]
    step_source = steps.step_source
    n_positions = int(steps.position.max()) + 1
    cell = step_source * n_positions + steps.position
    everything, at_position, in_source, in_cell = (
        pair_plan(steps.scores, steps.correct, group, steps.rollout)
        for group in (None, steps.position, step_source, cell)
    )
    parts = []
    for weights_WxN in weight_chunks(steps.source, replicates, rng, steps.n_steps):
        by_source = [Confusion(*(weights_WxN[:, of] @ counts_Nx4[of]).T) for of in rows]
        weights_NxW = np.ascontiguousarray(weights_WxN.T)
        parts.append(
            Replicates(
                combined_f1(by_source),
                _auroc(everything, weights_NxW),
                _auroc(at_position, weights_NxW),
                np.stack([macro_f1(counts) for counts in by_source]),
                _merged_auroc(in_source, weights_NxW, in_source.groups, n_sources),
                _merged_auroc(
                    in_cell, weights_NxW, in_cell.groups // n_positions, n_sources
                ),
            )
        )
    f1, *others = zip(*parts, strict=True)
    join = partial(np.concatenate, axis=-1)
    return Replicates(F1(*map(join, zip(*f1, strict=True))), *map(join, others))


def _auroc(plan: PairPlan, weights_NxW: np.ndarray) -> np.ndarray:
    """AUROC over the pairs of all groups, ``[W]``."""
    return _merged_auroc(plan, weights_NxW, np.zeros_like(plan.groups), 1)[0]


def _merged_auroc(
    plan: PairPlan, weights_NxW: np.ndarray, into: np.ndarray, n: int
) -> np.ndarray:
    """AUROC over the pairs of the groups that go ``into`` each of n, ``[n, W]``."""
    wins, pairs = count_pairs(plan, weights_NxW)
    member = np.arange(n)[:, None] == into
    with np.errstate(invalid="ignore"):
        return (member @ wins) / (member @ pairs)


@dataclass(frozen=True)
class SourceSummary:
    """One source of the benchmark.

    Attributes:
        rollouts: with counted steps.
        steps: counted.
        steps_wrong: of them.
        auroc: of the source's steps.
        within_position_auroc: likewise.
        intervals: of macro_f1, auroc and within_position_auroc; None: not asked for.
    """

    rollouts: int
    steps: int
    steps_wrong: int
    auroc: float | None
    within_position_auroc: float | None
    intervals: dict[str, Interval | None] | None = None


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one model; None where one is undefined.

    Attributes:
        micro_f1: this and the other F1 as in :class:`theory.agreement.F1`.
        steps: counted.
        per_source: macro-F1 of every source that has counted steps.
        auroc: of all steps.
        within_position_auroc: over pairs of the same position.
        position_auroc: of the position alone.
        average_precision: of the correct steps.
        processbench: how well the first wrong step is found.
        ece: this, ``brier`` and the curve ``reliability`` as in :class:`Calibration`.
        rollouts: with counted steps.
        sources: every source that has counted steps.
        prior: what the given prior would score; None: none was given.
        intervals: of the four F1, auroc, within_position_auroc and processbench_f1;
            None: not asked for.
        replicates: of the bootstrap behind the intervals.
    """

    micro_f1: float
    macro_f1_pooled: float
    f1_positive: float
    f1_negative: float
    steps: int
    per_source: dict[str, float]
    auroc: float | None
    within_position_auroc: float | None
    position_auroc: float | None
    average_precision: float | None
    average_precision_wrong: float | None
    processbench: ProcessBench
    ece: float | None
    brier: float | None
    reliability: tuple[ReliabilityBin, ...]
    rollouts: int
    steps_wrong: int
    threshold: Decision
    sources: dict[str, SourceSummary]
    prior: PriorAuroc | None
    intervals: dict[str, Interval | None] | None
    replicates: int

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values; what was not asked for is left out."""
        value = asdict(self)
        replicates = value.pop("replicates")
        value["threshold"].pop("first_error")
        (value["processbench"]["threshold"] or {}).pop("first_error", None)
        value["processbench_f1"] = self.processbench.f1
        if self.prior is None:
            del value["prior"]
        if self.intervals is None:
            for of in (value, *value["sources"].values()):
                del of["intervals"]
        else:
            value["intervals"] |= {"level": LEVEL, "replicates": replicates}
        return value


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
    drawn, intervals = None, None
    threshold = decision.at(steps)
    f1 = {name: float(of) for name, of in f1_at(steps, threshold)._asdict().items()}
    if replicates:
        rng = np.random.default_rng(seed)
        drawn = replicate(steps, threshold, replicates, rng)
        intervals = _intervals(f1["micro_f1"], drawn)
        found = processbench_replicates(steps, decision, replicates, rng)
        intervals["processbench_f1"] = percentile_interval(found)
    calibrated = calibration(steps.scores, steps.correct)
    return Evaluation(
        **f1,
        steps=steps.n_steps,
        per_source=macro_f1_per_source(steps, threshold),
        auroc=auroc(steps.scores, steps.correct),
        within_position_auroc=within_position_auroc(steps),
        position_auroc=position_auroc(steps),
        average_precision=average_precision(steps.scores, steps.correct),
        average_precision_wrong=average_precision(-steps.scores, ~steps.correct),
        processbench=processbench(steps, decision),
        ece=calibrated and calibrated.ece,
        brier=calibrated and calibrated.brier,
        reliability=calibrated.curve if calibrated else (),
        rollouts=len(np.unique(steps.rollout)),
        steps_wrong=int(np.count_nonzero(~steps.correct)),
        threshold=decision,
        sources=_sources(steps, drawn),
        prior=None if prior is None else prior_auroc(steps, prior),
        intervals=intervals,
        replicates=replicates,
    )


def _intervals(micro_f1: float, drawn: Replicates) -> dict[str, Interval | None]:
    metrics = drawn.f1._asdict()
    metrics["auroc"] = drawn.auroc
    metrics["within_position_auroc"] = drawn.within_position_auroc
    found = {name: percentile_interval(of) for name, of in metrics.items()}
    # A mean over sources, whose macro-F1 are all biased down, varies less than each.
    return found | {"micro_f1": basic_interval(micro_f1, drawn.f1.micro_f1)}


_OF_SOURCES: tuple[str, ...] = ("macro_f1", "auroc", "within_position_auroc")


def _sources(steps: StepScores, drawn: Replicates | None) -> dict[str, SourceSummary]:
    described = {}
    for i, name in enumerate(steps.source_names):
        part = steps.take(np.flatnonzero(steps.source == i))
        if not part.n_steps:
            continue
        intervals = None
        if drawn is not None:
            found = (percentile_interval(of[i]) for of in drawn[3:])
            intervals = dict(zip(_OF_SOURCES, found, strict=True))
        described[name] = SourceSummary(
            rollouts=len(np.unique(part.rollout)),
            steps=part.n_steps,
            steps_wrong=int(np.count_nonzero(~part.correct)),
            auroc=auroc(part.scores, part.correct),
            within_position_auroc=within_position_auroc(part),
            intervals=intervals,
        )
    return described
