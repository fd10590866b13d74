"""Learning from rollouts that were kept because their labels are mixed.

Labels are independent given the features, ``y_j ~ Bernoulli(q_j)``, and a rollout is
kept if they are not all equal. With ``a = prod q``, ``b = prod (1 - q)``,
``M = 1 - a - b`` its labels then have

    ``E[y_i | mixed] = (q_i - a) / M``,  ``E[y_i y_j | mixed] = (q_i q_j - a) / M``.

The shift of each step's logit is
:func:`theory.mixture.mixed_selection_logit_shift`, and no reweighting undoes it: a pure
rollout is kept with probability 0, whatever the budget. The likelihood given that the
rollout is mixed does, for it is that of an exponential family with the log normaliser
``sum_j log(1 + e^z_j) + log M``, ``z = logit q``: concave, its information the
covariance above. It is right wherever selection depends on the labels through "mixed"
alone: all mixed rollouts, or some drawn without regard to labels. A budget that cuts
among them (BIS below the mixed share) conditions on more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_expit

from theory.domain import check_finite, check_offsets, check_probability
from theory.mixture import log1mexp

# Beyond it 1 - q is no normal float64 any more.
_LARGEST_LOGIT = 700.0

# Newton's method has converged where no logit moves by more than this: the error that
# is left is the square.
_LOGIT_TOLERANCE = 1e-8
_MAX_NEWTON_STEPS = 100
# Steps that move every logit less than this need no line search.
_NEAR = 1e-3


class MixedLikelihood(NamedTuple):
    """Log-likelihood of the labels of mixed rollouts at w.

    Attributes:
        value: in nats, <= 0.
        gradient: in w, ``[d]``.
        information: minus its Hessian, observed and expected alike, ``[d, d]``.
    """

    value: float
    gradient: np.ndarray
    information: np.ndarray


class MixedFit(NamedTuple):
    """Maximum-likelihood weights from mixed rollouts.

    Attributes:
        w: estimate, ``[d]``.
        covariance: the inverse information at w, ``[d, d]``.
    """

    w: np.ndarray
    covariance: np.ndarray


def mixed_information(phi: ArrayLike, q: ArrayLike) -> np.ndarray:
    """Fisher information about w in the labels of a rollout kept because mixed.

    ``I_mixed = Phi^T Cov(y | mixed) Phi``. At equal q a contrast (``sum_j phi_j = 0``)
    gains by ``1 / M`` a kept rollout, so that keeping the share M loses none of it; the
    common direction loses, at n = 2 everything. ``M I_mixed`` never exceeds the
    information ``Phi^T diag(q (1 - q)) Phi`` of all rollouts.

    Args:
        phi: features of the steps ``[..., n, d]``, n >= 2.
        q: label probabilities in (0, 1), ``[..., n]``.

    Returns:
        symmetric positive semi-definite ``[..., d, d]``.

    Raises:
        ValueError: an argument is outside its range or has the wrong shape.

    Example:
        Two steps that differ: one is right, and which one is a fair coin.

        >>> mixed_information([[0.5], [-0.5]], [0.9, 0.9])
        array([[0.25]])
    """
    phi, q = check_finite("phi", phi), check_probability("q", q)
    if q.ndim == 0 or q.shape[-1] < 2 or phi.shape[:-1] != q.shape:
        raise ValueError("phi and q must have shapes [..., n, d] and [..., n], n >= 2")
    if np.any((q == 0) | (q == 1)):
        raise ValueError("q must be in (0, 1)")
    given = _given_mixed(np.log(q).ravel(), np.log1p(-q).ravel(), _starts(q))
    own, u, v = (x.reshape(q.shape) for x in (given.own, given.u, given.v))
    covariance = given.c.reshape(q.shape[:-1])[..., None, None] ** 2 - (
        u[..., :, None] * u[..., None, :] + v[..., :, None] * v[..., None, :]
    )
    covariance[..., np.arange(q.shape[-1]), np.arange(q.shape[-1])] += own
    return np.swapaxes(phi, -1, -2) @ covariance @ phi


def mixed_log_likelihood(
    w: ArrayLike, phi: ArrayLike, y: ArrayLike, offsets: ArrayLike
) -> MixedLikelihood:
    """Log-likelihood of labels given that their rollouts are mixed, and derivatives.

    ``sum_j [y_j log q_j + (1 - y_j) log(1 - q_j)] - sum_x log M_x``, ``q =
    sigma(<w, phi>)``; gradient ``sum_j (y_j - E[y_j | mixed]) phi_j``. Digits are kept
    where M is tiny and where a rollout is long; the work is linear in the steps.

    Args:
        w: weights ``[d]``.
        phi: features ``[n_steps, d]``.
        y: labels 0 or 1, ``[n_steps]``, both in each rollout.
        offsets: rollout i owns steps ``offsets[i]:offsets[i + 1]``, ``[n_rollouts +
            1]``.

    Raises:
        ValueError: an argument is outside its range or has the wrong shape, a rollout
            is not mixed, or a logit is beyond +-700.
    """
    w = check_finite("w", w)
    phi, y, offsets = _check_mixed(phi, y, offsets)
    if w.shape != phi.shape[1:]:
        raise ValueError(f"w must have shape [d = {phi.shape[1]}], not {w.shape}")
    z = phi @ w
    if not np.all(np.abs(z) <= _LARGEST_LOGIT):
        raise ValueError(f"<w, phi> must be in +-{_LARGEST_LOGIT:g}")
    log_q, log_e = log_expit(z), log_expit(-z)
    given = _given_mixed(log_q, log_e, offsets[:-1])
    value = np.sum(np.where(y == 1, log_q, log_e)) - np.sum(given.log_share)
    residual = np.where(y == 1, given.negative, -given.positive)

    def of_rollouts(weight: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weight[:, None] * phi, offsets[:-1])

    u, v = of_rollouts(given.u), of_rollouts(given.v)
    c = of_rollouts(np.repeat(given.c, np.diff(offsets)))
    information = phi.T @ (given.own[:, None] * phi) - u.T @ u - v.T @ v + c.T @ c
    return MixedLikelihood(float(value), residual @ phi, information)


def fit_mixed(phi: ArrayLike, y: ArrayLike, offsets: ArrayLike) -> MixedFit:
    """Logistic regression that undoes the selection of mixed rollouts.

    Maximises :func:`mixed_log_likelihood` by damped Newton steps from 0; it is concave,
    so the maximum is the only one. Estimates and standard errors are those of the
    weights that all rollouts have, where a plain fit to mixed ones is off by a shift
    that no amount of data removes.

    Args:
        phi: features ``[n_steps, d]``.
        y: labels 0 or 1, ``[n_steps]``, both in each rollout.
        offsets: as for :func:`mixed_log_likelihood`.

    Raises:
        ValueError: as :func:`mixed_log_likelihood`; a direction of w is not identified
            (in rollouts of two steps what they have in common is not); or no finite
            maximum is found, the labels being separable within their rollouts.
    """
    phi, y, offsets = _check_mixed(phi, y, offsets)
    w = np.zeros(phi.shape[1])
    here = mixed_log_likelihood(w, phi, y, offsets)
    # What is identified does not depend on w: no q in (0, 1) makes a law degenerate.
    if np.linalg.matrix_rank(here.information, hermitian=True) < len(w):
        raise ValueError(
            "phi must identify all of w: its columns are dependent, or differ only "
            "between rollouts of two steps, of which one is always positive"
        )
    for _ in range(_MAX_NEWTON_STEPS):
        try:
            step = np.linalg.solve(here.information, here.gradient)
        except np.linalg.LinAlgError:
            break
        move = np.max(np.abs(phi @ step))
        if move <= _LOGIT_TOLERANCE:
            return MixedFit(w + step, np.linalg.inv(here.information))
        # On separable labels the information underflows, and steps are noise.
        if np.max(np.abs(phi @ (w + step))) > _LARGEST_LOGIT:
            break
        there = mixed_log_likelihood(w + step, phi, y, offsets)
        # Armijo's rule with 1/4.
        while move > _NEAR and there.value < here.value + here.gradient @ step / 4:
            step, move = step / 2, move / 2
            there = mixed_log_likelihood(w + step, phi, y, offsets)
        w, here = w + step, there
    raise ValueError(
        "y must not be separable within rollouts: the likelihood has no finite "
        "maximum, or none within reach of float64"
    )


class _GivenMixed(NamedTuple):
    """Moments of labels given that their rollout is mixed.

    ``Cov(y_i, y_j | mixed) = -[a (1-q_i) (1-q_j) + b q_i q_j - a b] / M^2`` between
    steps is ``-u_i u_j - v_i v_j + c^2``; the variance adds ``own`` to that.

    Attributes:
        log_share: log M of each rollout; c likewise, all else of each step.
        positive: Pr(y_j = 1 | mixed).
        negative: Pr(y_j = 0 | mixed), with its own digits.
    """

    log_share: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    u: np.ndarray
    v: np.ndarray
    c: np.ndarray
    own: np.ndarray


def _given_mixed(
    log_q: np.ndarray, log_e: np.ndarray, starts: np.ndarray
) -> _GivenMixed:
    """From log q and log(1 - q) of steps ``[n_steps]``; no rollout is empty."""
    log_a, log_b = np.add.reduceat(log_q, starts), np.add.reduceat(log_e, starts)
    # M >= 2 sqrt(a b), so the smaller takes at most a third of 1 - the larger.
    rest = log1mexp(np.maximum(log_a, log_b))
    log_share = rest + log1mexp(np.minimum(log_a, log_b) - rest)
    rollout = np.repeat(np.arange(len(starts)), np.diff([*starts, len(log_q)]))
    a, b, share = log_a[rollout], log_b[rollout], log_share[rollout]
    # log 0 where all others are certain within float64: the wanted limit.
    with np.errstate(divide="ignore"):
        positive = np.exp(log_q + log1mexp(a - log_q) - share)
        negative = np.exp(log_e + log1mexp(b - log_e) - share)
    u, v = np.exp(log_e + a / 2 - share), np.exp(log_q + b / 2 - share)
    c = np.exp((log_a + log_b) / 2 - log_share)
    own = positive * negative + u**2 + v**2 - c[rollout] ** 2
    return _GivenMixed(log_share, positive, negative, u, v, c, own)


def _starts(q: np.ndarray) -> np.ndarray:
    return np.arange(0, q.size, q.shape[-1])


def _check_mixed(
    phi: ArrayLike, y: ArrayLike, offsets: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    phi, y = check_finite("phi", phi), check_probability("y", y)
    if phi.ndim != 2 or phi.size == 0 or y.shape != phi.shape[:1]:
        raise ValueError("phi and y must have shapes [n_steps, d] and [n_steps]")
    offsets = check_offsets(offsets, len(y))
    n_pos = np.diff(np.concatenate([[0], np.cumsum(y)])[offsets])
    if (
        np.any((y != 0) & (y != 1))
        or np.any(n_pos == 0)
        or np.any(n_pos == np.diff(offsets))
    ):
        raise ValueError("y must be 0 or 1, and both in each rollout")
    return phi, y, offsets
