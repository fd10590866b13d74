"""The Monte-Carlo annotator: N continuations of a step succeed K times.

``r ~ Beta(a, b)`` is a step's one-shot success probability, ``K | r ~ Binomial(N, r)``,
its hard label ``Y~ = 1[K > 0]``, its truth ``Z = 1[r >= tau]``. ``P0 = Pr(K = 0)``,
``p = 1 - P0``. Steps are independent unless said otherwise. ``a`` and ``b`` are > 0,
``trials`` is N, an integer >= 1, ``k`` one in [0, N], ``n`` the steps of a rollout, an
integer >= 1, and ``tau`` in [0, 1]. Arguments broadcast; results are float64; an
argument outside its range or NaN raises ValueError.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincc

from theory.domain import (
    check_count,
    check_nonnegative,
    check_positive,
    check_probability,
)
from theory.rollouts import Rollouts
from theory.scores import label_mixture

# Posterior probabilities enter posterior_fisher in these units: the totals of a rollout
# of up to 2^13 steps are then integers that float64 holds exactly.
_FIXED_POINT = 2**40


def success_posterior(
    k: ArrayLike, a: ArrayLike, b: ArrayLike, trials: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior of r given K = k: ``Beta(a + k, b + N - k)``, as its two parameters."""
    a, b, trials = _annotator(a, b, trials)
    k = check_count("k", k)
    if np.any(k > trials):
        raise ValueError("k must be an integer in [0, trials]")
    first, second = np.broadcast_arrays(a + k, b + (trials - k))
    return first, second


def unreliability_posterior(
    k: ArrayLike, a: ArrayLike, b: ArrayLike, trials: ArrayLike, tau: ArrayLike
) -> np.ndarray:
    """Effective noise ``eta_eff(k) = Pr(r < tau | K = k) = I_tau(a + k, b + N - k)``.

    Strictly decreasing in k for tau in (0, 1), in exact arithmetic (Lemma 3): from k to
    k + 1 by ``tau^(a+k) (1 - tau)^(b+N-k-1) / ((a + k) B(a + k, b + N - k))``. In
    float64 it ties where that drop is below the last bit.

    Args:
        tau: reliability threshold in [0, 1]; 0 gives 0, 1 gives 1.

    Returns:
        In [0, 1].
    """
    return betainc(*success_posterior(k, a, b, trials), check_probability("tau", tau))


def positive_label_prob(a: ArrayLike, b: ArrayLike, trials: ArrayLike) -> np.ndarray:
    """Probability of a positive label, ``p = 1 - B(a, b + N) / B(a, b)``, in (0, 1]."""
    return -np.expm1(_log_zero_prob(*_annotator(a, b, trials)))


def _log_zero_prob(a: np.ndarray, b: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """``log P0 = sum_{i < N} log((b + i) / (a + b + i))``: a difference of log Beta
    functions loses the digits of a small p.
    """
    a, b, trials = (x[..., None] for x in (a, b, trials))
    i = np.arange(np.max(trials, initial=1))
    terms = np.logaddexp(0.0, np.log(a) - np.log(b + i))
    return -np.where(i < trials, terms, 0.0).sum(axis=-1)


def count_pmf(a: ArrayLike, b: ArrayLike, trials: ArrayLike) -> np.ndarray:
    """Beta-binomial ``Pr(K = k) = C(N, k) B(a + k, b + N - k) / B(a, b)`` for all k.

    Returns:
        ``[..., max N + 1]``, 0 where k exceeds its N.
    """
    a, b, trials = _annotator(a, b, trials)
    log_zero = _log_zero_prob(a, b, trials)[..., None]
    a, b, trials = (x[..., None] for x in (a, b, trials))
    k = np.arange(np.max(trials, initial=1))
    left = np.maximum(trials - k, 1)
    # From k to k + 1: the ratio keeps its precision at any a and b, gammaln does not.
    steps = np.log(left / (k + 1)) + np.log(a + k) - np.log(b + (left - 1))
    steps = np.where(k < trials, steps, -np.inf)
    log_pmf = np.cumsum(np.concatenate([log_zero, steps], axis=-1), axis=-1)
    return np.exp(log_pmf)


def class_conditional_counts(
    a: ArrayLike, b: ArrayLike, trials: ArrayLike, tau: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Distributions of K in the two classes, ``Pr(K = k | r < tau)`` and
    ``Pr(K = k | r >= tau)``.

    ``Pr(K = k) eta_eff(k) / Pr(r < tau)``, and with ``1 - eta_eff(k)`` for the other.
    At tau = 0 and 1 the empty class gets its limit, K = 0 and K = N.

    Returns:
        Two arrays ``[..., max N + 1]``, 0 where k exceeds its N.

    Raises:
        ValueError: an argument is outside its range, or tau in (0, 1) leaves a class a
            probability too small for float64.
    """
    a, b, trials = _annotator(a, b, trials)
    tau = check_probability("tau", tau)
    pmf = count_pmf(a, b, trials)
    a, b, trials, tau = (x[..., None] for x in (a, b, trials, tau))
    k = np.arange(pmf.shape[-1])
    posterior = a + k, b + np.maximum(trials - k, 0)
    below = pmf * betainc(*posterior, tau)
    above = pmf * betaincc(*posterior, tau)
    return (
        _normalised(below, empty=tau == 0, at=k == 0),
        _normalised(above, empty=tau == 1, at=k == trials),
    )


def _normalised(joint: np.ndarray, empty: np.ndarray, at: np.ndarray) -> np.ndarray:
    total = joint.sum(axis=-1, keepdims=True)
    if np.any((total == 0) & ~empty):
        raise ValueError(
            "tau must leave both classes a probability that float64 can hold"
        )
    return np.where(empty, at, joint / np.where(empty, 1.0, total))


def class_conditional_rates(
    a: ArrayLike, b: ArrayLike, trials: ArrayLike, tau: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Noise rates of the label, ``fpr = Pr(K > 0 | r < tau)`` and
    ``fnr = Pr(K = 0 | r >= tau)``, each in [0, 1].

    Args:
        tau: reliability threshold in [0, 1]; both rates have limits at 0 and 1.

    Raises:
        ValueError: as :func:`class_conditional_counts`.
    """
    negative, positive = class_conditional_counts(a, b, trials, tau)
    return np.minimum(negative[..., 1:].sum(axis=-1), 1.0), positive[..., 0]


def pseudo_positive_rate(
    a: ArrayLike, b: ArrayLike, trials: ArrayLike, tau: ArrayLike
) -> np.ndarray:
    """Share of positive labels whose step is unreliable, ``Pr(r < tau | K > 0)``.

    The mean of eta_eff over the positive labels; 1 - PPV of the label.

    Returns:
        In [0, 1].
    """
    pmf = count_pmf(a, b, trials)[..., 1:]
    a, b, trials, tau = (np.asarray(x)[..., None] for x in (a, b, trials, tau))
    k = np.minimum(np.arange(1, pmf.shape[-1] + 1), trials)
    eta = unreliability_posterior(k, a, b, trials, tau)
    return (pmf * eta).sum(axis=-1) / pmf.sum(axis=-1)


def expected_reliability(
    a: ArrayLike, b: ArrayLike, trials: ArrayLike, n: ArrayLike
) -> np.ndarray:
    """Expected reliability R of a rollout of n independent steps, in (0, 1].

    ``mu+ (1 - P0^n) + P0^n`` with ``mu+ = E[K / N | K > 0] = a / ((a + b) p)``.
    """
    mean, log_zero, n = _independent_steps(a, b, trials, n)
    return mean * -np.expm1(n * log_zero) + np.exp(n * log_zero)


def expected_bis(
    a: ArrayLike, b: ArrayLike, trials: ArrayLike, n: ArrayLike, alpha: ArrayLike
) -> np.ndarray:
    """Expected BIS of a rollout of n independent steps, in (0, alpha + 1/4].

    ``mu+ (p (1 - p) (1 - 1/n) + alpha) + alpha (1 - mu+) P0^n``: given the labels, the
    scores of the positives keep the mean mu+ (as in :func:`expected_reliability`).
    """
    mean, log_zero, n = _independent_steps(a, b, trials, n)
    alpha = check_nonnegative("alpha", alpha)
    mixture = -np.expm1(log_zero) * np.exp(log_zero) * (1 - 1 / n)
    return mean * (mixture + alpha) + alpha * (1 - mean) * np.exp(n * log_zero)


def _independent_steps(
    a: ArrayLike, b: ArrayLike, trials: ArrayLike, n: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, trials = _annotator(a, b, trials)
    log_zero = _log_zero_prob(a, b, trials)
    mean = np.minimum(a / (a + b) / -np.expm1(log_zero), 1.0)
    return mean, log_zero, check_count("n", n, low=1)


def posterior_fisher(
    rollouts: Rollouts, a: float, b: float, tau: float = 0.5
) -> np.ndarray:
    """Fisher information of a rollout's labels under the posterior of the annotator.

    ``p (1 - p) (PPV + NPV - 1)^2``: the information of a noisy label
    (:func:`theory.label_noise.noisy_fisher_weight`) with the rollout's own
    ``p = n_pos / n``, PPV the mean of ``1 - eta_eff(K)`` over its positive steps and
    NPV the mean of ``eta_eff(0)`` over its measured steps with K = 0. Each step counts
    with its own N.

    The means are taken over integer multiples of 2^-40, exactly, so that rollouts with
    the same proportions of counts tie to the last bit, in any order of steps.

    Returns:
        float64 ``[n_rollouts]`` in [0, 1/4]; 0 for a pure rollout.

    Raises:
        ValueError: a parameter is outside its range, or a rollout has no measured step.
    """
    return label_mixture(rollouts) * predictive_excess(rollouts, a, b, tau) ** 2


def predictive_excess(
    rollouts: Rollouts, a: float, b: float, tau: float | None = 0.5
) -> np.ndarray:
    """``PPV_x + NPV_x - 1`` of a rollout: by how much more its positive steps are
    expected to be right than its negative ones.

    With z = 1[r >= tau], PPV is the mean of ``E[z | K] = 1 - eta_eff(K)`` over the
    positive steps and NPV that of ``eta_eff(0)`` over the measured steps with K = 0.

    Args:
        tau: reliability threshold in [0, 1]; None: z = r, whose posterior mean is
            ``(a + K) / (a + b + N)``.

    Returns:
        float64 ``[n_rollouts]``; an empty class counts as 0, so that pure rollouts have
        values in [-1, 0].

    Raises:
        ValueError: a parameter is outside its range.
    """
    # Probability, in fixed point, that the step's label is right.
    correct = np.zeros(rollouts.n_steps, np.int64)
    for trials in rollouts.distinct_trials:
        of_this_n = rollouts.trials == trials
        k = rollouts.successes[of_this_n]
        present = np.unique(k)
        if tau is None:
            alpha, beta = success_posterior(present, a, b, trials)
            eta = beta / (alpha + beta)
        else:
            eta = unreliability_posterior(present, a, b, trials, tau)
        right = np.where(present > 0, 1 - eta, eta)
        table = np.zeros(trials + 1, np.int64)
        table[present] = np.rint(right * _FIXED_POINT)
        correct[of_this_n] = table[k]
    positive = rollouts.successes > 0
    n_pos = rollouts.n_positive
    n_neg = rollouts.n_measured - n_pos
    ppv = rollouts.total(correct * positive) / np.maximum(n_pos, 1) / _FIXED_POINT
    npv = rollouts.total(correct * ~positive) / np.maximum(n_neg, 1) / _FIXED_POINT
    return ppv + npv - 1


def _annotator(
    a: ArrayLike, b: ArrayLike, trials: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        check_positive("a", a),
        check_positive("b", b),
        check_count("trials", trials, low=1),
    )
