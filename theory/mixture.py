"""Label mixture of a rollout: what p(1-p) measures, under noise and under dependence.

Notation: a rollout has n steps with label probabilities q_j, p = n_pos / n is the share
of positive labels, qbar = mean_j q_j. Label probabilities ``q`` in [0, 1] stand on the
last axis ``[..., n]``, n >= 1; uncertainty ``theta`` is in [0, 1/4], the flip rate
``eta`` in [0, 1]. Arguments broadcast; one outside its range raises ValueError.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from theory.domain import (
    check_count,
    check_finite,
    check_nonnegative,
    check_probability,
)


class MixtureMoments(NamedTuple):
    """What the label probabilities of a rollout say about its mixture.

    Attributes:
        information: A = mean_j q_j (1 - q_j), in [0, 1/4].
        uncertainty: theta = qbar (1 - qbar), in [A, 1/4].
        expected_mixture: E[p (1 - p)], in [0, 1/4].
    """

    information: np.ndarray
    uncertainty: np.ndarray
    expected_mixture: np.ndarray


class UnbiasedMixture(NamedTuple):
    """Moments of the estimator ``n_pos n_neg / (n (n - 1))``.

    Attributes:
        expectation: its mean under independent labels.
        bias: expectation - theta.
    """

    expectation: np.ndarray
    bias: np.ndarray


class MixtureBounds(NamedTuple):
    """Bounds of E[p (1 - p)] given theta and n."""

    lower: np.ndarray
    upper: np.ndarray


def label_mixture_moments(q: ArrayLike) -> MixtureMoments:
    """Information A, uncertainty theta and expected mixture of independent labels.

    ``A = mean_j q_j (1 - q_j)``, ``theta = qbar (1 - qbar)``,
    ``E[p (1 - p)] = theta - A / n`` (Eq. 7-8, Lemma 2, App. F.4). ``theta - A`` is
    Var_j(q_j), so theta is headroom for information at the teacher, not information:
    q = (1, 1, 0, 0) has theta = 1/4 and A = 0.

    Returns:
        three arrays ``[...]``.
    """
    q = _check_steps(q)
    information = np.mean(q * (1 - q), axis=-1)
    mean = np.mean(q, axis=-1)
    uncertainty = mean * (1 - mean)
    return MixtureMoments(
        information, uncertainty, uncertainty - information / q.shape[-1]
    )


def mixture_bounds(theta: ArrayLike, n: ArrayLike) -> MixtureBounds:
    """Bounds of the expected mixture that hold whatever the q_j (Eq. 9).

    ``theta (1 - 1/n) <= E[p (1 - p)] <= theta``: the lower one is met by equal q_j, the
    upper one by q_j in {0, 1}. Only the lower one needs independent labels
    (:func:`exchangeable_expected_mixture`): ``E[p (1 - p)] = theta - Var(p)`` always.
    """
    theta = _check_uncertainty(theta)
    n = check_count("n", n, low=1)
    return MixtureBounds(theta * (1 - 1 / n), theta * np.ones(n.shape))


def flipped_uncertainty(theta: ArrayLike, eta: ArrayLike) -> np.ndarray:
    """Uncertainty after labels flip with probability eta, in [theta, 1/4].

    ``theta~ = (1 - 2 eta)^2 theta + eta (1 - eta)`` (Eq. 10 and 22-23), computed as
    theta and what :func:`flip_gap` adds, so that rounding cannot leave the range.
    """
    return _check_uncertainty(theta) + flip_gap(theta, eta)


def flip_gap(theta: ArrayLike, eta: ArrayLike) -> np.ndarray:
    """What flips add to the uncertainty, exactly, in [0, 1/4].

    ``theta~ - theta = eta (1 - eta) (1 - 4 theta) = eta (1 - eta) (1 - 2 qbar)^2``:
    never negative, at most 1/4, and 0 where labels are balanced; Eq. 24 bounds it by
    2 eta, at least twice the truth wherever eta > 0.
    """
    theta = _check_uncertainty(theta)
    eta = check_probability("eta", eta)
    return eta * (1 - eta) * (1 - 4 * theta)


def unbiased_mixture(q: ArrayLike) -> UnbiasedMixture:
    """Expectation and bias of :func:`theory.scores.unbiased_mixture`.

    ``E[n_pos n_neg / (n (n - 1))] = theta + Var_j(q_j) / (n - 1)``: unbiased for theta
    (and for A) only if the q_j are equal, otherwise above both (from Lemma 2). A single
    step scores 0, which is biased by -theta.

    Returns:
        two arrays ``[...]``.
    """
    q = _check_steps(q)
    n = q.shape[-1]
    theta = label_mixture_moments(q).uncertainty
    bias = -theta if n == 1 else np.var(q, axis=-1) / (n - 1)
    return UnbiasedMixture(theta + bias, bias)


def mixed_share(q: ArrayLike) -> np.ndarray:
    """Probability that independent labels are not all equal, in [0, 1].

    ``1 - prod_j q_j - prod_j (1 - q_j)``, summed as the probabilities that label j is
    the first to differ, so that small shares keep their digits.

    Returns:
        ``[...]``; 0 for n = 1.
    """
    q = _check_steps(q)
    first_negative = np.cumprod(q, axis=-1)[..., :-1] * (1 - q[..., 1:])
    first_positive = np.cumprod(1 - q, axis=-1)[..., :-1] * q[..., 1:]
    return np.sum(first_negative + first_positive, axis=-1)


def mixed_selection_logit_shift(q: ArrayLike) -> np.ndarray:
    """What keeping only mixed rollouts adds to each step's logit, in [-inf, inf].

    ``logit Pr(y_j = 1 | mixed) = logit q_j + log[(1 - prod_{i != j} q_i) /
    (1 - prod_{i != j} (1 - q_i))]`` for independent labels: selecting on labels biases
    even noiseless ones, downwards where the other steps are mostly positive. (Bayes:
    the ratio is Pr(mixed | y_j = 1) / Pr(mixed | y_j = 0).)

    Args:
        q: label probabilities ``[..., n]``, n >= 2.

    Returns:
        ``[..., n]``; -inf where all other labels are certainly positive, inf where all
        others are certainly negative.

    Raises:
        ValueError: an entry of ``q`` is outside [0, 1], or n < 2.
    """
    q = _check_steps(q)
    if q.shape[-1] < 2:
        raise ValueError("q must have n >= 2 steps on its last axis to be mixed")
    # log 0 = -inf is the wanted limit, on both sides.
    with np.errstate(divide="ignore"):
        all_positive = _sum_of_others(np.log(q))
        all_negative = _sum_of_others(np.log1p(-q))
        return log1mexp(all_positive) - log1mexp(all_negative)


def exchangeable_mixed_share(q: ArrayLike, n: ArrayLike, icc: ArrayLike) -> np.ndarray:
    """Probability that n exchangeable labels are not all equal, in [0, 1].

    The rollout draws Q ~ Beta(a, b) with mean q and intraclass correlation
    icc = 1 / (a + b + 1), its labels are Bernoulli(Q): ``1 - E[Q^n] - E[(1 - Q)^n]``,
    ``E[Q^n] = q prod_{i=1}^{n-1} (q (1 - icc) + i icc) / (1 - icc + i icc)``
    (beta-binomial; Skellam 1948). icc = 0 is independence, icc = 1 makes every rollout
    pure. Summed as the probabilities that label t + 1 is the first to differ.

    Args:
        q: mean label probability in [0, 1].
        n: steps, >= 1.
        icc: correlation of two labels of a rollout, in [0, 1]; all three broadcast.
    """
    q = check_probability("q", q)
    n = check_count("n", n, low=1)
    icc = check_probability("icc", icc)
    all_positive, all_negative, share = np.broadcast_arrays(
        q, 1 - q, np.zeros(np.broadcast_shapes(q.shape, n.shape, icc.shape))
    )
    for t in range(1, int(n.max(initial=1))):
        scale = 1 - icc + t * icc
        first_negative = all_positive * (1 - q) * (1 - icc) / scale
        first_positive = all_negative * q * (1 - icc) / scale
        share = share + np.where(t < n, first_negative + first_positive, 0.0)
        all_positive = all_positive * (q * (1 - icc) + t * icc) / scale
        all_negative = all_negative * ((1 - q) * (1 - icc) + t * icc) / scale
    return share


def exchangeable_expected_mixture(
    q: ArrayLike, n: ArrayLike, icc: ArrayLike
) -> np.ndarray:
    """Expected mixture of exchangeable labels, in [0, 1/4].

    ``E[p (1 - p)] = q (1 - q) (1 - 1/n) (1 - icc)``: dependence within a rollout takes
    mixture away by exactly its correlation, so Eq. 9's lower bound needs icc = 0.

    Arguments as for :func:`exchangeable_mixed_share`.
    """
    q = check_probability("q", q)
    n = check_count("n", n, low=1)
    icc = check_probability("icc", icc)
    return q * (1 - q) * (1 - 1 / n) * (1 - icc)


def conditional_logistic_information(
    n_pos: ArrayLike, psi: ArrayLike, beta: ArrayLike | None = None
) -> np.ndarray:
    """Fisher information of a rollout's labels about beta once n_pos is known.

    The conditional logistic model ``Pr(y | n_pos) ~ exp(sum_j y_j <beta, psi_j>)``
    cancels the rollout's own intercept; its information is
    ``Cov(sum_j y_j psi_j | n_pos)``. At beta = 0 (the default) that is
    ``n / (n - 1) p (1 - p) sum_j (psi_j - psibar)(psi_j - psibar)^T``: a pure rollout
    carries nothing, at any beta (Cox 1972; Gail, Lubin and Rubinstein 1981).

    Args:
        n_pos: positive labels per rollout, integer ``[...]``, each in [0, n].
        psi: features of the steps ``[..., n, d]``, n >= 1.
        beta: coefficients ``[..., d]``; leading axes of all three broadcast.

    Returns:
        symmetric positive semi-definite ``[..., d, d]``.

    Raises:
        ValueError: an argument has the wrong shape, is not finite, or n_pos > n.
    """
    psi = check_finite("psi", psi)
    if psi.ndim < 2 or psi.shape[-2] == 0:
        raise ValueError("psi must have shape [..., n, d] with n >= 1")
    n = psi.shape[-2]
    n_pos = check_count("n_pos", n_pos)
    if np.any(n_pos > n):
        raise ValueError(f"n_pos must be an integer in [0, n = {n}], not {n_pos.max()}")
    # A constant added to every psi_j changes nothing: sum_j y_j is known.
    centred = psi - np.mean(psi, axis=-2, keepdims=True)
    if beta is None:
        weight = n_pos * (n - n_pos) / (n * max(n - 1, 1))
        scatter = np.swapaxes(centred, -1, -2) @ centred
        return weight[..., None, None] * scatter
    beta = check_finite("beta", beta)
    if beta.ndim == 0 or beta.shape[-1] != psi.shape[-1]:
        raise ValueError(f"beta must have shape [..., d = {psi.shape[-1]}]")
    with np.errstate(over="ignore", invalid="ignore"):
        logit = check_finite("<beta, psi>", (centred @ beta[..., None])[..., 0])
    lead = np.broadcast_shapes(logit.shape[:-1], n_pos.shape)
    of_count = _covariance_by_count(
        np.broadcast_to(logit, (*lead, n)),
        np.broadcast_to(centred, (*lead, *psi.shape[-2:])),
    )
    row = np.broadcast_to(n_pos, lead)[..., None, None, None]
    return np.take_along_axis(of_count, row, axis=-3)[..., 0, :, :]


def _covariance_by_count(logit: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Cov(sum_j y_j psi_j | sum_j y_j = c) for c = 0..n: ``[..., n + 1, d, d]``.

    The recursion e_c(k) = e_c(k-1) + w_k e_{c-1}(k-1) of the elementary symmetric
    polynomials is a two-part mixture (step k negative or positive), whose mean and
    covariance are carried along: only sums of positive terms, so no cancellation.
    """
    *lead, n, d = psi.shape
    log_e = np.zeros((*lead, n + 1))
    mean = np.zeros((*lead, n + 1, d))
    cov = np.zeros((*lead, n + 1, d, d))
    for k in range(n):
        below, inner = slice(0, k), slice(1, k + 1)
        odds = log_e[..., below] + logit[..., k, None] - log_e[..., inner]
        shift = mean[..., below, :] + psi[..., k, None, :] - mean[..., inner, :]
        negative, positive = expit(-odds)[..., None], expit(odds)[..., None]
        # Count k + 1 is all steps positive, so its covariance stays 0; it reads count
        # k before that is renewed.
        log_e[..., k + 1] = log_e[..., k] + logit[..., k]
        mean[..., k + 1, :] = mean[..., k, :] + psi[..., k, :]
        spread = shift[..., :, None] * shift[..., None, :]
        cov[..., inner, :, :] = (
            negative[..., None] * cov[..., inner, :, :]
            + positive[..., None] * cov[..., below, :, :]
            + (negative * positive)[..., None] * spread
        )
        mean[..., inner, :] += positive * shift
        log_e[..., inner] += np.logaddexp(0, odds)
    return cov


def _sum_of_others(values: np.ndarray) -> np.ndarray:
    """sum_{i != j} values_i, by running sums from both ends (-inf is allowed)."""
    zero = np.zeros_like(values[..., :1])
    before = np.cumsum(np.concatenate([zero, values[..., :-1]], axis=-1), axis=-1)
    after = np.cumsum(np.concatenate([zero, values[..., :0:-1]], axis=-1), axis=-1)
    return before + after[..., ::-1]


def log1mexp(x: np.ndarray) -> np.ndarray:
    """log(1 - e^x) for x <= 0, accurate at both ends (Maechler 2012)."""
    near_zero = x > -np.log(2)
    return np.where(
        near_zero,
        np.log(-np.expm1(np.where(near_zero, x, -1.0))),
        np.log1p(-np.exp(np.where(near_zero, -1.0, x))),
    )


def _check_steps(q: ArrayLike) -> np.ndarray:
    q = check_probability("q", q)
    if q.ndim == 0 or q.shape[-1] == 0:
        raise ValueError("q must have shape [..., n] with n >= 1 probabilities")
    return q


def _check_uncertainty(theta: ArrayLike) -> np.ndarray:
    theta = check_nonnegative("theta", theta)
    if np.any(theta > 0.25):
        raise ValueError(f"theta must be in [0, 1/4], not {theta.max()}")
    return theta
