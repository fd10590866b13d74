"""Fitting the Monte-Carlo annotator of :mod:`theory.beta_binomial` to counts.

What counts can tell is the distribution of K, so the prior Beta(a, b) of r if there is
one. They cannot tell the noise of the labels: a Beta prior is also the two-class model

    ``Beta(a, b) = m Beta(a + 1, b) + (1 - m) Beta(a, b + 1)``,  ``m = a / (a + b)``,

so "right" steps from Beta(a + 1, b) and "wrong" ones from Beta(a, b + 1) give the same
histogram of K as labels that ignore the truth, at other noise rates. Either the truth
is defined through r (``r >= tau``), or some steps must be judged by other means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import gammaln

from theory.beta_binomial import count_pmf, positive_label_prob
from theory.clusters import clustered_covariance
from theory.domain import check_count, check_offsets, check_probability

# exp(+-32) brackets every a + b that float64 counts can tell from 0 or infinity.
_LOG_CONCENTRATION = 32.0

# Estimates under two standard errors are not told from 0 at the usual 5 %.
_RESOLVED = 2.0


def fit_from_mean_and_zero_rate(
    mean: ArrayLike, zero_rate: ArrayLike, trials: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """The prior (a, b) with ``E[K / N] = mean`` and ``Pr(K = 0) = zero_rate``.

    At a given mean, P0 falls from ``1 - mean`` (a + b = 0, r is 0 or 1) to
    ``(1 - mean)^N`` (a + b infinite, r = mean): bisection in log(a + b).

    Args:
        mean: mean MC score in (0, 1).
        zero_rate: error-step ratio in ``((1 - mean)^N, 1 - mean)``.
        trials: N, integer >= 2.

    Raises:
        ValueError: an argument is outside its range.
    """
    mean, zero_rate, trials = np.broadcast_arrays(
        check_probability("mean", mean),
        check_probability("zero_rate", zero_rate),
        check_count("trials", trials, low=2),
    )
    if np.any((mean == 0) | (mean == 1)):
        raise ValueError("mean must be in (0, 1)")

    def too_frequent(log_s: np.ndarray) -> np.ndarray:
        s = np.exp(log_s)
        return count_pmf(mean * s, (1 - mean) * s, trials)[..., 0] > zero_rate

    low = np.full(mean.shape, -_LOG_CONCENTRATION)
    high = np.full(mean.shape, _LOG_CONCENTRATION)
    if not np.all(too_frequent(low)) or np.any(too_frequent(high)):
        raise ValueError("zero_rate must be in ((1 - mean)^trials, 1 - mean)")
    # 64 halvings of the bracket reach the spacing of float64.
    for _ in range(64):
        middle = (low + high) / 2
        above = too_frequent(middle)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    s = np.exp(high)
    return mean * s, (1 - mean) * s


@dataclass(frozen=True, eq=False)
class BetaBinomialFit:
    """Maximum-likelihood prior of the annotator.

    Attributes:
        a: estimate, > 0.
        b: estimate, > 0.
        covariance: of (a, b), ``[2, 2]``: robust to dependence within rollouts
            (:func:`theory.clusters.clustered_covariance`), or, where the fit was not
            told the rollouts, the inverse observed information, which is too small on
            real corpora.
        log_likelihood: as if the steps were independent, of the counts, binomial
            coefficients included, in nats.
        n_steps: measured steps used.
        warnings: what these counts do not identify: always the noise of the labels,
            with two models that fit equally well and their rates; and a or b where it
            lies within two standard errors of 0.
    """

    a: float
    b: float
    covariance: np.ndarray
    log_likelihood: float
    n_steps: int
    warnings: tuple[str, ...]

    @property
    def se_a(self) -> float:
        """Standard error of a."""
        return float(np.sqrt(self.covariance[0, 0]))

    @property
    def se_b(self) -> float:
        """Standard error of b."""
        return float(np.sqrt(self.covariance[1, 1]))


def fit_beta_binomial(
    successes: ArrayLike, trials: ArrayLike, offsets: ArrayLike | None = None
) -> BetaBinomialFit:
    """Fit ``K ~ BetaBinomial(N, a, b)`` by maximum likelihood, with standard errors.

    The log-likelihood is ``sum_k T_k log(a + k) + F_k log(b + k) - M_k log(a + b + k)``
    plus a constant, where T_k, F_k and M_k steps have K > k, N - K > k and N > k. It
    has one maximum, which is inside the domain iff the counts vary more than a
    binomial's and some lies strictly between 0 and N (Levin and Reeds, 1977). Steps of
    a rollout that depend on each other leave the estimate consistent, for the Beta law
    nearest to that of r, but not its inverse information: give the ``offsets``.

    Args:
        successes: K, integer ``[n_steps]`` in [0, trials].
        trials: N, integer ``[n_steps]`` or one for all; steps with N = 0 are left out.
        offsets: rollout i owns steps ``offsets[i]:offsets[i + 1]``, ``[n_rollouts +
            1]``; None takes all steps for independent.

    Raises:
        ValueError: an argument is outside its range, fewer than two rollouts have
            measured steps, or no (a, b) maximises the likelihood: it has no step with
            N >= 2, all steps have K = 0 or K = N, or the counts vary no more than a
            binomial's.
    """
    successes, trials = np.broadcast_arrays(
        check_count("successes", successes), check_count("trials", trials)
    )
    if np.any(successes > trials):
        raise ValueError("successes must be an integer in [0, trials]")
    measured = trials > 0
    k, n = successes[measured], trials[measured]
    _refuse_without_maximum(k, n)
    tails = _tail_counts(k), _tail_counts(n - k), _tail_counts(n)

    def objective(log_prior: np.ndarray) -> float:
        a, b = np.exp(log_prior)
        return -_log_likelihood(a, b, *tails) / len(k)

    def slope(log_prior: np.ndarray) -> np.ndarray:
        a, b = np.exp(log_prior)
        return -_score(a, b, *tails) * [a, b] / len(k)

    def curvature(log_prior: np.ndarray) -> np.ndarray:
        a, b = np.exp(log_prior)
        in_logs = _information(a, b, *tails) * np.outer([a, b], [a, b])
        return (in_logs - np.diag(_score(a, b, *tails) * [a, b])) / len(k)

    found = minimize(
        objective,
        np.zeros(2),
        jac=slope,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-10, "maxiter": 1000},
    )
    a, b = (float(x) for x in np.exp(found.x))
    covariance = np.linalg.inv(_information(a, b, *tails))
    if offsets is not None:
        steps_before = np.concatenate([[0], np.cumsum(measured)])
        covariance = clustered_covariance(
            _step_scores(a, b, k, n),
            _information(a, b, *tails),
            steps_before[check_offsets(offsets, len(measured))],
        )
    coefficients = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return BetaBinomialFit(
        a,
        b,
        covariance,
        float(_log_likelihood(a, b, *tails) + coefficients.sum()),
        len(k),
        _warnings(a, b, covariance, int(np.bincount(n).argmax())),
    )


def _refuse_without_maximum(k: np.ndarray, n: np.ndarray) -> None:
    if not np.any(n >= 2):
        raise ValueError("trials must be at least 2 on some step: N = 1 tells only a/b")
    if np.all((k == 0) | (k == n)):
        raise ValueError(
            "successes must lie strictly between 0 and trials on some step: "
            "otherwise the likelihood grows without bound as a + b -> 0"
        )
    mean = k.sum() / n.sum()
    # The slope of the log-likelihood in 1 / (a + b) at 0, twice.
    excess = k * (k - 1) / mean + (n - k) * (n - k - 1) / (1 - mean) - n * (n - 1)
    if excess.sum() <= 0:
        raise ValueError(
            "successes must vary more than a binomial's: "
            "otherwise the likelihood grows as a + b -> infinity"
        )


def _tail_counts(counts: np.ndarray) -> np.ndarray:
    """Number of steps whose count exceeds i, for i = 0, 1, ..."""
    return np.bincount(counts)[:0:-1].cumsum()[::-1]


def _log_likelihood(
    a: float, b: float, t: np.ndarray, f: np.ndarray, m: np.ndarray
) -> float:
    return float(
        t @ np.log(a + np.arange(len(t)))
        + f @ np.log(b + np.arange(len(f)))
        - m @ np.log(a + b + np.arange(len(m)))
    )


def _score(
    a: float, b: float, t: np.ndarray, f: np.ndarray, m: np.ndarray
) -> np.ndarray:
    """Gradient of the log-likelihood in (a, b)."""
    both = m @ (1 / (a + b + np.arange(len(m))))
    return np.array(
        [
            t @ (1 / (a + np.arange(len(t)))) - both,
            f @ (1 / (b + np.arange(len(f)))) - both,
        ]
    )


def _step_scores(a: float, b: float, k: np.ndarray, n: np.ndarray) -> np.ndarray:
    """:func:`_score` of each step, ``[n_steps, 2]``."""

    def slope(x: float, count: np.ndarray) -> np.ndarray:
        terms = 1 / (x + np.arange(count.max(initial=0)))
        return np.concatenate([[0.0], np.cumsum(terms)])[count]

    own = np.stack([slope(a, k), slope(b, n - k)], axis=1)
    return own - slope(a + b, n)[:, None]


def _information(
    a: float, b: float, t: np.ndarray, f: np.ndarray, m: np.ndarray
) -> np.ndarray:
    """Observed information: minus the Hessian of the log-likelihood in (a, b)."""
    own = [t @ (a + np.arange(len(t))) ** -2.0, f @ (b + np.arange(len(f))) ** -2.0]
    return np.diag(own) - m @ (a + b + np.arange(len(m))) ** -2.0


def _warnings(
    a: float, b: float, covariance: np.ndarray, trials: int
) -> tuple[str, ...]:
    p = float(positive_label_prob(a, b, trials))
    fpr = float(positive_label_prob(a, b + 1, trials))
    fnr = float(count_pmf(a + 1, b, trials)[0])
    found = [
        f"the noise of the labels is not identified by the counts: at N = {trials}, "
        f"right steps from Beta({a + 1:.3g}, {b:.3g}) and wrong ones from "
        f"Beta({a:.3g}, {b + 1:.3g}) (fpr {fpr:.3g}, fnr {fnr:.3g}) fit as well as "
        f"labels that ignore the truth (fpr {p:.3g}, fnr {1 - p:.3g})"
    ]
    for name, estimate, variance in zip("ab", (a, b), np.diag(covariance), strict=True):
        if estimate < _RESOLVED * np.sqrt(variance):
            found.append(
                f"{name} = {estimate:.3g} lies within {_RESOLVED:g} standard errors "
                f"({np.sqrt(variance):.3g}) of 0: the counts hardly identify it"
            )
    return tuple(found)
