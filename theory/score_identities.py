"""What BIS is: a covariance, a trade of mixture for reliability, a family of lines.

``BIS(alpha) = (m + alpha) R`` with mixture m = p (1 - p) and reliability R: one line
in alpha per rollout.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from theory import scores
from theory.domain import check_count, check_nonnegative, check_probability
from theory.rollouts import Rollouts

# Scores are quotients of counts with denominators far below 10^6, so smaller
# differences than this are ties that rounding has split.
_TIE = 1e-12


class VarianceParts(NamedTuple):
    """Within-rollout variance of the MC score, split by the hard label.

    Attributes:
        between: of the label means, ``p (1 - p) R^2``.
        within: inside the positives, ``p Var_+(s)`` (negatives all have s = 0).
    """

    between: np.ndarray
    within: np.ndarray


class Swaps(NamedTuple):
    """Pairs of rollouts whose order under BIS changes with alpha, by rising alpha.

    Attributes:
        alpha: float64 ``[n_swaps]``, > 0, where the two scores are equal.
        overtaken: int64 ``[n_swaps]``, the rollout ahead below alpha (larger m).
        overtaking: int64 ``[n_swaps]``, the rollout ahead above alpha (larger R).
    """

    alpha: np.ndarray
    overtaken: np.ndarray
    overtaking: np.ndarray


def bis_covariance(rollouts: Rollouts) -> np.ndarray:
    """What BIS at alpha = 0 is: ``Cov_j(y_j, s_j) = p (1 - p) R``, in [0, 1/4].

    The covariance over the measured steps of the hard label y = 1[K > 0] with the MC
    score s, computed as ``mean(y s) - mean(y) mean(s)`` where y s = s, so it is
    ``(1 - p) mean(s)``.

    Returns:
        float64 ``[n_rollouts]``.

    Raises:
        ValueError: a rollout has no measured step.
    """
    mean = scores.mean_mc(rollouts)
    return mean * (scores.negative_count(rollouts) / rollouts.n_measured)


def mc_variance_parts(rollouts: Rollouts) -> VarianceParts:
    """Law of total variance of the MC score over the hard label.

    ``Var_j(s_j) = p (1 - p) R^2 + p Var_+(s)``; the first part is
    ``Cov_j(y, s)^2 / Var_j(y)``, what the hard label explains of the score.

    Returns:
        two float64 ``[n_rollouts]``, in [0, 1/4], with sum
        :func:`theory.scores.mc_variance`.

    Raises:
        ValueError: a rollout has no measured step.
    """
    between = scores.label_mixture(rollouts) * scores.reliability(rollouts) ** 2
    # Both are sums of squares, so only rounding can make the difference negative.
    within = np.maximum(scores.mc_variance(rollouts) - between, 0.0)
    return VarianceParts(between, within)


def break_even_reliability(p: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    """Reliability above which a mixed rollout outranks a perfect one, in [0, 1].

    ``R > alpha / (alpha + p (1 - p))``, from (m + alpha) R > alpha: a perfect rollout
    (m = 0, R = 1) scores alpha. 1, never passed, where p is 0 or 1.

    Args:
        p: share of positive steps, in [0, 1].
        alpha: >= 0; broadcasts against ``p``.

    Raises:
        ValueError: an argument is outside its range.
    """
    mixture = _mixture(p)
    alpha = check_nonnegative("alpha", alpha)
    never = np.ones(np.broadcast_shapes(mixture.shape, alpha.shape))
    return np.divide(alpha, alpha + mixture, out=never, where=mixture > 0)


def alpha_breakpoints(
    p: ArrayLike, reliability: ArrayLike, pairs: ArrayLike | None = None
) -> Swaps:
    """Where two rollouts swap order under BIS as alpha grows from 0.

    Lines (m_i + alpha) R_i and (m_j + alpha) R_j cross at
    ``alpha = (m_i R_i - m_j R_j) / (R_j - R_i)``, which is > 0 iff the one with the
    lower R leads at alpha = 0. Beyond the last breakpoint BIS ranks by R alone
    (Reliable). Differences below 1e-12 count as ties, which never swap.

    Args:
        p: share of positive steps, ``[n_rollouts]``, in [0, 1].
        reliability: R, ``[n_rollouts]``, in [0, 1].
        pairs: rows to compare, integer ``[n_pairs, 2]``; by default all pairs, which
            takes memory for n_rollouts^2 numbers.

    Raises:
        ValueError: an argument is outside its range, or has the wrong shape.
    """
    mixture = _mixture(p)
    reliability = check_probability("reliability", reliability)
    if mixture.ndim != 1 or mixture.shape != reliability.shape:
        raise ValueError("p and reliability must both have shape [n_rollouts]")
    if pairs is None:
        left, right = np.triu_indices(len(mixture), k=1)
    else:
        rows = check_count("pairs", pairs)
        if rows.ndim != 2 or rows.shape[1] != 2:
            raise ValueError("pairs must have shape [n_pairs, 2]")
        if np.any(rows >= len(mixture)):
            raise ValueError(f"pairs must be rows in [0, {len(mixture) - 1}]")
        left, right = rows[:, 0], rows[:, 1]
    steeper = reliability[left] > reliability[right]
    slow, fast = np.where(steeper, right, left), np.where(steeper, left, right)
    lead = mixture[slow] * reliability[slow] - mixture[fast] * reliability[fast]
    rise = reliability[fast] - reliability[slow]
    swap = (lead > _TIE) & (rise > _TIE)
    alpha = lead[swap] / rise[swap]
    order = np.argsort(alpha, kind="stable")
    return Swaps(alpha[order], slow[swap][order], fast[swap][order])


def _mixture(p: ArrayLike) -> np.ndarray:
    p = check_probability("p", p)
    return p * (1 - p)
