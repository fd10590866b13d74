"""Agreement of scores with judgements of steps: F1, its threshold sweep, AUROC.

A step is predicted correct ("positive") iff its score is at least the decision
threshold. Neutral steps are never counted. F1 is 0 where its denominator is 0. A source
without counted steps is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash


class JudgedSteps(NamedTuple):
    """Scores of judged steps whose rollouts do not matter.

    Attributes:
        scores: float ``[n_steps]``, finite; larger means more likely correct.
        correct: bool ``[n_steps]``, the judgement.
        step_source: int ``[n_steps]``, source of each step, at least 0.
    """

    scores: np.ndarray
    correct: np.ndarray
    step_source: np.ndarray


@dataclass(frozen=True, eq=False)
class StepScores:
    """Scores of judged steps in rollouts; neutral and unscored steps are not in here.

    Attributes:
        scores: float64 ``[n_steps]``, finite; larger means more likely correct.
        correct: bool ``[n_steps]``, the judgement.
        rollout: int64 ``[n_steps]``, ascending.
        position: int64 ``[n_steps]``, index of the step in its rollout from 0, neutral
            steps counted in.
        source: int64 ``[n_rollouts]``, index into ``source_names``.
        source_names: sorted.
        keys: uint64 ``[n_rollouts]``, hash of what identifies the rollout; every split
            is made by it, so it does not depend on the order of the rollouts.
        length: int64 ``[n_rollouts]``, steps with a score, neutral ones counted in.
        least_is_last: float64 ``[n_rollouts]``, 1/m where the last scored step is one
            of m with the rollout's least score, else 0.
        cut: bool ``[n_rollouts]``, whether steps without a score follow; none if None.
    """

    scores: np.ndarray
    correct: np.ndarray
    rollout: np.ndarray
    position: np.ndarray
    source: np.ndarray
    source_names: tuple[str, ...]
    keys: np.ndarray
    length: np.ndarray
    least_is_last: np.ndarray
    cut: np.ndarray | None = None

    @property
    def n_steps(self) -> int:
        """Counted steps."""
        return len(self.scores)

    @property
    def n_rollouts(self) -> int:
        """Rollouts, those without counted steps included."""
        return len(self.source)

    @property
    def step_source(self) -> np.ndarray:
        """Source of each step, int64 ``[n_steps]``."""
        return self.source[self.rollout]

    def take(self, rows: np.ndarray) -> StepScores:
        """The rollouts with these ascending row numbers (int ``[k]``)."""
        new = np.full(self.n_rollouts, -1, np.int64)
        new[rows] = np.arange(len(rows))
        kept = new[self.rollout] >= 0
        return StepScores(
            self.scores[kept],
            self.correct[kept],
            new[self.rollout[kept]],
            self.position[kept],
            self.source[rows],
            self.source_names,
            self.keys[rows],
            self.length[rows],
            self.least_is_last[rows],
            None if self.cut is None else self.cut[rows],
        )


def step_scores(
    sources: Sequence[str],
    labels: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
    ids: Sequence[str],
    cut: Sequence[bool] | None = None,
) -> StepScores:
    """Columns of rollouts given one by one.

    Args:
        sources: name of each rollout's source.
        labels: 1 correct, -1 wrong, 0 neutral, per step of each rollout.
        scores: as many per rollout as labels.
        ids: what identifies each rollout, whichever model scored it.
        cut: whether steps without a score follow; none if None.

    Raises:
        ValueError: a rollout has more labels than scores or fewer.
    """
    names = tuple(sorted(set(sources)))
    index = {name: i for i, name in enumerate(names)}
    lengths = np.array([len(of) for of in labels], np.int64)
    if lengths.tolist() != [len(of) for of in scores]:
        raise ValueError("labels and scores differ in number")
    label = np.array([one for of in labels for one in of], np.int64)
    counted = label != 0
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    least_is_last = [of[-1] == min(of) and 1 / of.count(of[-1]) for of in scores if of]
    ends = np.zeros(len(lengths))
    ends[lengths > 0] = least_is_last
    return StepScores(
        np.array([one for of in scores for one in of], np.float64)[counted],
        label[counted] > 0,
        np.repeat(np.arange(len(lengths)), lengths)[counted],
        (np.arange(len(label)) - starts)[counted],
        np.array([index[name] for name in sources], np.int64),
        names,
        np.array([xxhash.xxh3_64_intdigest(one.encode()) for one in ids], np.uint64),
        lengths,
        ends,
        None if cut is None else np.array(cut, bool),
    )


Judged = JudgedSteps | StepScores


class Confusion(NamedTuple):
    """Steps by judgement and prediction; four arrays of one shape."""

    true_positive: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray
    true_negative: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """All four together."""
        return sum(self, start=np.zeros_like(self.true_positive))


class F1(NamedTuple):
    """What F1 says of several sources together, each in [0, 1] and of one shape.

    Attributes:
        micro_f1: mean of the sources' macro-F1, weighted by their counted steps: how
            the paper reads VisualProcessBench's "micro average of the score from
            different data sources" (Wang et al. 2025, Table 3).
        macro_f1_pooled: macro-F1 of all steps as one source: how others read it.
        source_mean_f1: mean of the sources' macro-F1, each source alike: the "average"
            of tables that have a column for each source.
        f1_positive: F1 of the correct steps, pooled.
        f1_negative: F1 of the wrong steps, pooled.
    """

    micro_f1: np.ndarray
    macro_f1_pooled: np.ndarray
    source_mean_f1: np.ndarray
    f1_positive: np.ndarray
    f1_negative: np.ndarray


def f1(hits: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """F1 = 2 hits / (2 hits + wrong + missed), 0 where that is 0/0."""
    denominator = 2 * hits + wrong + missed
    return 2 * hits / np.maximum(denominator, 1)


def f1_by_class(counts: Confusion) -> tuple[np.ndarray, np.ndarray]:
    """(F1 of the correct steps, F1 of the wrong steps)."""
    return (
        f1(counts.true_positive, counts.false_positive, counts.false_negative),
        f1(counts.true_negative, counts.false_negative, counts.false_positive),
    )


def macro_f1(counts: Confusion) -> np.ndarray:
    """Mean of the two classes' F1."""
    positive, negative = f1_by_class(counts)
    return (positive + negative) / 2


def combined_f1(by_source: Iterable[Confusion]) -> F1:
    """F1 over the sources, taken one at a time (they may be long)."""
    pooled, weighted, sources, total = None, 0.0, 0, 0.0
    for counts in by_source:
        of_source = macro_f1(counts)
        weighted = weighted + counts.steps * of_source
        total = total + of_source
        sources = sources + (counts.steps > 0)
        pooled = (
            counts
            if pooled is None
            else Confusion(*(a + b for a, b in zip(pooled, counts, strict=True)))
        )
    if pooled is None:
        raise ValueError("no source")
    positive, negative = f1_by_class(pooled)
    return F1(
        weighted / np.maximum(pooled.steps, 1),
        (positive + negative) / 2,
        total / np.maximum(sources, 1),
        positive,
        negative,
    )


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where that is 0/0."""
    with np.errstate(invalid="ignore"):
        return part / whole


def error_rates(counts: Confusion) -> tuple[np.ndarray, np.ndarray]:
    """(False-positive rate, false-negative rate): the share of the wrong steps that are
    predicted correct, and of the correct ones predicted wrong; NaN without such steps.
    """
    wrong = counts.false_positive + counts.true_negative
    right = counts.true_positive + counts.false_negative
    return ratio(counts.false_positive, wrong), ratio(counts.false_negative, right)


def confusion(
    steps: Judged,
    threshold: float | np.ndarray,
    group: np.ndarray | None = None,
    groups: int = 1,
) -> Confusion:
    """Counts at a decision threshold, int64 ``[n_groups]``.

    Args:
        steps: to count.
        threshold: of the decision, one or ``[n_steps]``.
        group: int ``[n_steps]``, at least 0; by source if None.
        groups: at least so many, though the last ones have no steps.
    """
    group = steps.step_source if group is None else group
    positive, correct = steps.scores >= threshold, steps.correct
    n = max(groups, int(group.max(initial=0)) + 1)

    def count(of: np.ndarray) -> np.ndarray:
        return np.bincount(group[of], minlength=n)

    return Confusion(
        count(correct & positive),
        count(~correct & positive),
        count(correct & ~positive),
        count(~correct & ~positive),
    )


def f1_at(steps: Judged, threshold: float | np.ndarray) -> F1:
    """F1 at a decision threshold, one or ``[n_steps]``; scalars."""
    rows = np.stack(confusion(steps, threshold), axis=-1)
    return combined_f1(Confusion(*row) for row in rows)


def decision_thresholds(steps: Judged) -> np.ndarray:
    """Every decision threshold that makes a difference, float64 ``[n_distinct + 1]``,
    ascending: each distinct score, and last the next number above the largest, at which
    no step is positive.
    """
    distinct = np.unique(steps.scores)
    return np.append(distinct, np.nextafter(distinct[-1:], np.inf))


class Sweep(NamedTuple):
    """F1 at every decision threshold that makes a difference.

    Attributes:
        thresholds: those of :func:`decision_thresholds`.
        f1: at each of them.
    """

    thresholds: np.ndarray
    f1: F1


def sweep(steps: Judged) -> Sweep:
    """F1 at all decision thresholds, by one sort and cumulative sums.

    Raises:
        ValueError: there is no counted step.
    """
    if not len(steps.scores):
        raise ValueError("no counted steps")
    order = np.argsort(steps.scores)
    thresholds = decision_thresholds(steps)
    # Before these places of the order lies what each threshold calls wrong.
    cut = np.searchsorted(steps.scores[order], thresholds)
    correct, source = steps.correct[order], steps.step_source[order]

    def below(of: np.ndarray) -> np.ndarray:
        return np.append(0, np.cumsum(of))[cut]

    def by_source() -> Iterator[Confusion]:
        for i in np.unique(source):
            member = source == i
            positive, negative = below(member & correct), below(member & ~correct)
            yield Confusion(
                positive[-1] - positive, negative[-1] - negative, positive, negative
            )

    return Sweep(thresholds, combined_f1(by_source()))


def best_threshold(steps: Judged) -> float:
    """The decision threshold of the largest micro-F1, the lowest of equal ones.

    Raises:
        ValueError: there is no counted step.
    """
    swept = sweep(steps)
    return float(swept.thresholds[np.argmax(swept.f1.micro_f1)])


class Pairs(NamedTuple):
    """Pairs of a correct and a wrong step of one group; float64 ``[G, W]``.

    Attributes:
        wins: pairs whose correct step scores higher, ties half.
        pairs: all of them.
    """

    wins: np.ndarray
    pairs: np.ndarray


@dataclass(frozen=True, eq=False)
class PairPlan:
    """Steps sorted once by group and score, to count pairs under many weightings.

    Groups without a pair are left out.

    Attributes:
        groups: int64 ``[G]``, ascending.
        right: int64 ``[n_right]``, unit of each correct step, in that order.
        wrong: int64 ``[n_wrong]``, unit of each wrong step, in that order.
        right_start: int64 ``[G + 1]``, where each group's correct steps begin.
        wrong_start: int64 ``[G + 1]``, where each group's wrong steps begin.
        below: int64 ``[n_wrong]``, correct steps before those that tie with it.
        upto: int64 ``[n_wrong]``, correct steps before those that beat it.
    """

    groups: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    right_start: np.ndarray
    wrong_start: np.ndarray
    below: np.ndarray
    upto: np.ndarray


def pair_plan(
    scores: np.ndarray,
    correct: np.ndarray,
    group: np.ndarray | None = None,
    unit: np.ndarray | None = None,
) -> PairPlan:
    """Sort steps for :func:`count_pairs`.

    Args:
        scores: ``[n_steps]``.
        correct: bool ``[n_steps]``.
        group: int ``[n_steps]``; one group if None.
        unit: int ``[n_steps]``, what is weighted (the rollout of each step); each step
            is its own unit if None.
    """
    unit = np.arange(len(scores)) if unit is None else unit
    if group is None:
        group = np.zeros(len(scores), np.int64)
        both = correct.any() and not correct.all()
        order = np.argsort(scores, kind="stable") if both else np.arange(0)
    else:
        paired = np.isin(group, np.intersect1d(group[correct], group[~correct]))
        order = np.flatnonzero(paired)
        order = order[np.lexsort((scores[order], group[order]))]
    group, scores, right = group[order], scores[order], correct[order]
    groups = np.unique(group)
    # Runs of steps that tie within their group, and correct steps up to each's end.
    same = (group[1:] == group[:-1]) & (scores[1:] == scores[:-1])
    run = np.cumsum(np.append(0, ~same))[: len(order)]
    ends = np.append(0, np.cumsum(np.bincount(run, right)).astype(np.int64))
    return PairPlan(
        groups,
        unit[order[right]],
        unit[order[~right]],
        np.searchsorted(group[right], np.append(groups, np.iinfo(np.int64).max)),
        np.searchsorted(group[~right], np.append(groups, np.iinfo(np.int64).max)),
        ends[run[~right]],
        ends[run[~right] + 1],
    )


def count_pairs(plan: PairPlan, weights_UxW: np.ndarray) -> Pairs:
    """Count the pairs of each group, a step counting as often as its unit's weight.

    wins = sum over wrong steps i of w_i (C(all) - (C(below_i) + C(upto_i)) / 2), where
    C is the cumulative weight of the group's correct steps; exact for integer weights.
    """
    width = weights_UxW.shape[1]
    # Weightings lie side by side in memory: sums and look-ups move whole rows.
    right = np.zeros((len(plan.right) + 1, width))
    np.cumsum(weights_UxW[plan.right], axis=0, out=right[1:])
    wrong = weights_UxW[plan.wrong]
    total_GxW = np.add.reduceat(wrong, plan.wrong_start[:-1], axis=0)
    beaten = right[plan.below]
    if not np.array_equal(plan.below, plan.upto):
        beaten = (beaten + right[plan.upto]) / 2
    beaten *= wrong
    beaten_GxW = np.add.reduceat(beaten, plan.wrong_start[:-1], axis=0)
    start, end = right[plan.right_start[:-1]], right[plan.right_start[1:]]
    return Pairs(end * total_GxW - beaten_GxW, (end - start) * total_GxW)


def auroc(
    scores: np.ndarray, correct: np.ndarray, group: np.ndarray | None = None
) -> float | None:
    """Pr(a correct step scores higher than a wrong one of its group), ties half.

    Every pair has the same weight, so a group weighs as much as it has pairs. In
    [0, 1]; None where there is no pair (only one class).
    """
    wins, pairs = count_pairs(
        pair_plan(scores, correct, group), np.ones((len(scores), 1))
    )
    total = float(pairs.sum())
    return float(wins.sum()) / total if total else None


@dataclass(frozen=True, eq=False)
class RankPlan:
    """Steps sorted once, the highest first, to rank the marked ones among them under
    many weightings.

    A run is what ties; only runs with marked steps are told.

    Attributes:
        unit: int64 ``[n_steps]``, unit of each step, in that order.
        marked: int64 ``[n_marked]``, unit of each marked step, in that order.
        run_start: int64 ``[n_runs]``, first marked step of each run.
        start: int64 ``[n_runs]``, steps before each run.
        end: int64 ``[n_runs]``, steps before the next.
    """

    unit: np.ndarray
    marked: np.ndarray
    run_start: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Ranks(NamedTuple):
    """Weights of the runs of a plan; float64 ``[n_runs, W]``, and ``[W]``.

    Attributes:
        marked: of the marked steps in the run.
        before: of all steps before it.
        upto: of these and the run.
        total: of all steps.
    """

    marked: np.ndarray
    before: np.ndarray
    upto: np.ndarray
    total: np.ndarray


def rank_plan(
    scores: np.ndarray, marked: np.ndarray, unit: np.ndarray | None = None
) -> RankPlan:
    """Sort steps for :func:`count_ranks`; ``unit`` as in :func:`pair_plan`."""
    unit = np.arange(len(scores)) if unit is None else unit
    order = np.argsort(-scores, kind="stable")
    ordered, of = scores[order], marked[order]
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(order)]
    run = np.cumsum(new)[of] - 1
    bounds = np.append(np.flatnonzero(new), len(order))
    first = np.flatnonzero(np.append(True, run[1:] != run[:-1])[: len(run)])
    told = run[first]
    unit = unit[order]
    return RankPlan(unit, unit[of], first, bounds[told], bounds[told + 1])


def count_ranks(plan: RankPlan, weights_UxW: np.ndarray) -> Ranks:
    """Weights before, in and behind the runs of a plan."""
    seen = np.zeros((len(plan.unit) + 1, weights_UxW.shape[1]))
    np.cumsum(weights_UxW[plan.unit], axis=0, out=seen[1:])
    marked = weights_UxW[plan.marked]
    if len(plan.run_start) < len(marked):
        marked = np.add.reduceat(marked, plan.run_start, axis=0)
    return Ranks(marked, seen[plan.start], seen[plan.end], seen[-1])


def weighted_average_precision(ranks: Ranks) -> np.ndarray:
    """Sum over distinct thresholds of precision times gain in recall, ``[W]``; NaN
    without marked steps. In [0, 1]; of a useless score the share of the marked.
    """
    hits = np.cumsum(ranks.marked, axis=0)
    gained = ranks.marked * hits / np.maximum(ranks.upto, 1)
    return ratio(gained.sum(axis=0), ranks.marked.sum(axis=0))


def average_precision(scores: np.ndarray, correct: np.ndarray) -> float | None:
    """:func:`weighted_average_precision` of the correct steps; None without any."""
    if not correct.any():
        return None
    ranks = count_ranks(rank_plan(scores, correct), np.ones((len(scores), 1)))
    return float(weighted_average_precision(ranks)[0])


def risk_coverage_area(ranks: Ranks) -> np.ndarray:
    """Area under the risk-coverage curve, ``[W]``; NaN without steps.

    ``AURC = 1/n sum_k e_k / k``: steps are ranked by confidence, and e_k of the k most
    confident ones are misjudged (marked). One at rank r adds H_n - H_{r-1} to the sum,
    H being the harmonic numbers; where confidences tie, its expectation over all
    orders of the tie: of ranks a+1 to b, H_n - (G_b - G_a) / (b - a) with
    G_x = H_0 + ... + H_{x-1} = x (H_x - 1). In [0, 1], and the share misjudged where
    confidence says nothing. Weights must be whole numbers.
    Source: Geifman and El-Yaniv 2017; the area, Geifman, Uziel and El-Yaniv 2019.
    """
    ranks_1 = np.arange(1, int(ranks.total.max(initial=0)) + 1)
    harmonic = np.append(0, np.cumsum(1 / ranks_1))
    sums = np.append(0, ranks_1 * (harmonic[1:] - 1))
    before, upto = (of.astype(np.int64) for of in (ranks.before, ranks.upto))
    mean = (sums[upto] - sums[before]) / np.maximum(upto - before, 1)
    added = ranks.marked * (harmonic[ranks.total.astype(np.int64)] - mean)
    return ratio(added.sum(axis=0), ranks.total)


def risk_at_coverage(ranks: Ranks, covered: np.ndarray) -> np.ndarray:
    """Risk ``e_k / k`` of :func:`risk_coverage_area` under the first weighting, at the
    numbers of steps k >= 1 given, ascending.
    """
    ends = np.stack([ranks.before[:, 0], ranks.upto[:, 0]], axis=1).ravel()
    hits = np.cumsum(ranks.marked[:, 0])
    marked = np.stack([hits - ranks.marked[:, 0], hits], axis=1).ravel()
    if not len(ends):
        return np.zeros(len(covered))
    return np.interp(covered, ends, marked) / covered
