"""Steps of a rollout depend on each other: covariances that allow for it.

Formulas for independent steps take a corpus for larger than it is. What counts is the
number of rollouts, between which only independence is assumed here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from theory.domain import check_count, check_finite, check_offsets
from theory.logistic import logistic_gradient, logistic_hessian


def clustered_covariance(
    scores: ArrayLike, information: ArrayLike, offsets: ArrayLike
) -> np.ndarray:
    """Covariance of an estimate whose steps are dependent within rollouts.

    ``V = H^-1 (G / (G - 1) sum_x g_x g_x^T) H^-1`` with ``g_x = sum_{j in x} g_j``, for
    G independent rollouts that have steps, whatever the law within one (Liang and
    Zeger 1986). A rollout repeated within itself changes nothing. With few rollouts,
    below about 40, intervals are still too short.

    Args:
        scores: gradients g_j of the steps' log-likelihoods (or losses) at the
            estimate, which sum to 0, ``[n_steps, d]``.
        information: H, minus the Hessian of the total log-likelihood, ``[d, d]``.
        offsets: rollout i owns steps ``offsets[i]:offsets[i + 1]``, ``[n_rollouts +
            1]``.

    Returns:
        symmetric positive semi-definite ``[d, d]``.

    Raises:
        ValueError: an argument is not finite or has the wrong shape, ``information``
            is singular, or fewer than two rollouts have steps.

    Example:
        The mean of four steps in two rollouts, which differ by 1:

        >>> y = np.array([0.0, 0.0, 1.0, 1.0])
        >>> scores = (y - y.mean())[:, None]
        >>> clustered_covariance(scores, [[4.0]], [0, 2, 4])
        array([[0.25]])
    """
    scores = check_finite("scores", scores)
    information = check_finite("information", information)
    if scores.ndim != 2 or information.shape != 2 * scores.shape[1:]:
        raise ValueError(
            "scores and information must have shapes [n_steps, d] and [d, d], not "
            f"{scores.shape} and {information.shape}"
        )
    offsets = check_offsets(offsets, len(scores))
    # reduceat would give a rollout without steps the next one's first step.
    starts = offsets[:-1][np.diff(offsets) > 0]
    if len(starts) < 2:
        raise ValueError("offsets must hold at least two rollouts that have steps")
    if np.linalg.matrix_rank(information) < len(information):
        raise ValueError("information must not be singular")
    moved = np.linalg.solve(information, np.add.reduceat(scores, starts).T)
    return len(starts) / (len(starts) - 1) * moved @ moved.T


def clustered_sandwich(
    w: ArrayLike, phi: ArrayLike, y: ArrayLike, offsets: ArrayLike
) -> np.ndarray:
    """Covariance of fitted logistic weights, steps dependent within rollouts.

    ``H^-1 (G / (G - 1) sum_x (sum_j (s_j - y_j) phi_j)(.)^T) H^-1``,
    ``H = sum_j s_j (1 - s_j) phi_j phi_j^T``, ``s = sigma(<w, phi>)``: right whether or
    not the model is (:func:`clustered_covariance`). Its counterpart for independent
    labels of a population: :func:`theory.asymptotics.noisy_minimizer_and_sandwich`,
    which also finds w.

    Args:
        w: minimiser of the logistic loss of these steps, ``[d]``.
        phi: features ``[n_steps, d]``.
        y: labels or soft targets in [0, 1], ``[n_steps]``.
        offsets: as for :func:`clustered_covariance`.

    Returns:
        ``[d, d]``, of w itself (not times n).

    Raises:
        ValueError: an argument is outside its range or has the wrong shape, the
            features do not span R^d, or fewer than two rollouts have steps.
    """
    information = logistic_hessian(w, phi).sum(axis=0)
    return clustered_covariance(logistic_gradient(w, phi, y), information, offsets)


def design_effect(
    n: ArrayLike, icc: ArrayLike, feature_icc: ArrayLike = 1.0
) -> np.ndarray:
    """Factor on the variance of a coefficient, against as many independent steps.

    ``1 + (n - 1) icc feature_icc`` for exchangeable labels of equal probability, n a
    rollout, and a centred feature with intraclass correlation ``feature_icc`` (Kish
    1965; Scott and Holt 1982). A feature of the rollout (1) has ``1 + (n - 1) icc``; a
    contrast, which sums to 0 in each rollout, has ``-1 / (n - 1)``, so ``1 - icc``:
    what takes from the level gives to the contrasts.

    Args:
        n: steps a rollout, >= 1.
        icc: correlation of two labels of a rollout, in [-1/(n - 1), 1].
        feature_icc: likewise of the feature; all three broadcast.

    Returns:
        >= 0; 1 at n = 1.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> design_effect(5, 0.5, [1, -1 / 4])
        array([3. , 0.5])
    """
    n = check_count("n", n, low=1)
    icc, feature_icc = (
        check_finite("icc", icc),
        check_finite("feature_icc", feature_icc),
    )
    others = n - 1
    for name, value in (("icc", icc), ("feature_icc", feature_icc)):
        # At n = 1 nothing is correlated, and any value does.
        if np.any(value > 1) or np.any(others * value < -1):
            raise ValueError(f"{name} must be in [-1/(n - 1), 1]")
    return 1 + others * icc * feature_icc
