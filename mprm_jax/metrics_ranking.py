"""Ranking quality: AUROC, within groups and weighted, average precision, and what
position or a known prior alone would score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mprm_jax.metrics import StepScores

# Parts of the cross-fit of position; comparisons are made inside each part only.
FOLDS = 5

# Quantile classes of a prior when it is fitted together with position.
PRIOR_CLASSES = 10


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
    group = np.zeros(len(scores), np.int64) if group is None else group
    unit = np.arange(len(scores)) if unit is None else unit
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

    Args:
        plan: of the steps.
        weights_UxW: W weightings of the units.
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


class PriorAuroc(NamedTuple):
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


def average_precision(scores: np.ndarray, correct: np.ndarray) -> float | None:
    """Sum over distinct thresholds of precision times gain in recall; None without
    correct steps. In [0, 1]; its value for a useless score is the share of correct
    steps."""
    total = int(np.count_nonzero(correct))
    if not total:
        return None
    order = np.argsort(-scores)
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits = np.cumsum(correct[order])[last]
    precision = hits / (last + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / total)
