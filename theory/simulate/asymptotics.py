"""Simulations of :mod:`theory.asymptotics`: maximum-likelihood fits to drawn labels.

Each fit draws a sample of its own; there are ``draws // 10`` of them, at least 100.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from theory import asymptotics
from theory.simulate.draw import DRAWS, Estimate, mean_and_se, twin

# Labels per fit where the closed form is a limit, or a coefficient of 1/n.
_LIMIT, _MANY = 10**10, 10**5
_BASE_RATE = 0.3


@twin(asymptotics.leading_mle_excess_risk)
def leading_mle_excess_risk(n, d, *, rng, draws=DRAWS):
    """Mean KL divergence of d fitted probabilities (K + 1/2) / (n/d + 1) from .3, each
    seen n/d times; the rest is O(n^-2).
    """
    each = n / d
    if each != int(each):
        raise ValueError(f"n must be a multiple of d = {d}, not {n}")
    fit = (rng.binomial(int(each), _BASE_RATE, (draws, int(d))) + 0.5) / (each + 1)
    q = _BASE_RATE
    divergence = q * np.log(q / fit) + (1 - q) * np.log((1 - q) / (1 - fit))
    return divergence.mean(axis=-1)


@twin(asymptotics.noisy_minimizer_and_sandwich)
def noisy_minimizer_and_sandwich(phi, q, fpr, fnr, weights=None, *, rng, draws=DRAWS):
    """Mean, n times the covariance, and mean excess risk of fits to 10^10 labels; the
    error of the last holds the 1/n that is left.
    """
    w, excess, _, _ = _fits(_LIMIT, phi, q, fpr, fnr, weights, rng, draws)
    off = w - w.mean(axis=0)
    floor, se = mean_and_se(excess)
    cov = _LIMIT * off[:, :, None] * off[:, None, :]
    return w, cov, Estimate(floor, se + w.shape[1] / _LIMIT)


@twin(asymptotics.excess_coefficient)
def excess_coefficient(phi, q, fpr, fnr, weights=None, *, rng, draws=DRAWS):
    """n times what fits to 10^5 labels have above the risk of the noisy minimiser."""
    fits = _fits(_MANY, phi, q, fpr, fnr, weights, rng, draws)
    return _MANY * (fits.excess - fits.linear - fits.floor)


@twin(asymptotics.leading_excess_risk)
def leading_excess_risk(n, phi, q, fpr, fnr, weights=None, *, rng, draws=DRAWS):
    """Mean excess risk of fits to n labels; n must be so large that none is separable,
    and the rest is O(n^-2).
    """
    fits = _fits(n, phi, q, fpr, fnr, weights, rng, draws)
    return fits.excess - fits.linear


class _Fits(NamedTuple):
    """Maximum-likelihood fits to samples of n noisy labels.

    Attributes:
        w: ``[fits, d]``.
        excess: in the clean loss, ``[fits]``.
        linear: the part of the excess that is linear in the labels, of mean 0:
            without it the others have a small standard error.
        floor: excess of the noisy population's minimiser.
    """

    w: np.ndarray
    excess: np.ndarray
    linear: np.ndarray
    floor: float


def _fits(n, phi, q, fpr, fnr, weights, rng, draws) -> _Fits:
    phi, q = np.asarray(phi, float), np.asarray(q, float)
    weights = np.ones(len(q)) if weights is None else np.asarray(weights, float)
    weights = weights / weights.sum()
    noisy = q * (1 - np.asarray(fnr)) + (1 - q) * fpr
    zero = np.zeros(phi.shape[1])
    teacher, start = (
        logistic_fits(phi, weights[None], (weights * share)[None], zero)[0]
        for share in (q, noisy)
    )

    def risk(w: np.ndarray) -> np.ndarray:
        z = w @ phi.T
        return (np.logaddexp(0, z) - q * z) @ weights

    counts = rng.multinomial(n, weights, size=max(draws // 10, 100))
    right = rng.binomial(counts, q)
    positives = rng.binomial(right, 1 - np.asarray(fnr)) + rng.binomial(
        counts - right, fpr
    )
    w = logistic_fits(phi, counts, positives, start)
    s = expit(phi @ start)
    curvature = phi.T @ ((weights * s * (1 - s))[:, None] * phi)
    move = np.linalg.solve(curvature, ((positives - counts * s) @ phi).T / n).T
    linear = move @ (phi.T @ (weights * (noisy - q)))
    floor = float(risk(start) - risk(teacher))
    return _Fits(w, risk(w) - risk(teacher), linear, floor)


def logistic_fits(phi, counts, positives, start) -> np.ndarray:
    """Newton's method on all samples ``[fits, m]`` at a time."""
    w = np.tile(start, (len(counts), 1))
    for _ in range(30):
        s = expit(w @ phi.T)
        slope = (counts * s - positives) @ phi
        curvature = np.einsum("rm,md,me->rde", counts * s * (1 - s), phi, phi)
        try:
            step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        except np.linalg.LinAlgError:
            break
        w = w - step
        if np.all(np.abs(step) <= 1e-9 * (1 + np.abs(w))):
            return w
    raise ValueError("n must be larger: a sample of labels is separable, or nearly so")
