"""Statements about how well a student of so many labels ranks steps."""

from __future__ import annotations

import jax.numpy as jnp
import mpmath as mp
import numpy as np
from jax.scipy.special import ndtr as jax_ndtr
from scipy.special import expit, ndtr

from experiments.theory_table.statement import (
    Statement,
    autodiff_hessian,
    mean_and_se,
)
from theory import gain

# --- errors across the best direction -------------------------------------------------

_MANY = 100_000
_WITHIN = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 1.5]])
_COV = np.array([[3.0, -1.0, 0.4], [-1.0, 2.0, 0.0], [0.4, 0.0, 5.0]])
_DELTA = np.array([1.0, -0.5, 0.8])
_W = np.linalg.solve(_WITHIN, _DELTA)


def _auroc(w):
    """Of scores ``[..., 3]``, with numpy's arrays or JAX's."""
    squared = ((w @ _WITHIN) * w).sum(axis=-1)
    if isinstance(w, np.ndarray):
        return ndtr(w @ _DELTA / np.sqrt(2 * squared))
    return jax_ndtr(w @ _DELTA / jnp.sqrt(2 * squared))


def _lost() -> float:
    found = gain.estimated_score_auroc(_MANY, _W, _COV, _DELTA, _WITHIN)
    return _MANY * float(_auroc(_W) - found)


def _drawn_loss(rng, draws: int) -> np.ndarray:
    error = rng.multivariate_normal(np.zeros(3), _COV / _MANY, draws)
    both = (_auroc(_W + error) + _auroc(_W - error)) / 2
    return _MANY * np.asarray(_auroc(_W) - both)


# --- the constant ---------------------------------------------------------------------

_Q, _SEPARATION, _DIMENSION = 0.8, 1.5, 32


def _integrated_constant():
    q, s = mp.mpf(_Q), mp.mpf(_SEPARATION)

    def kept(x):
        p = 1 / (1 + (1 - q) / q * mp.exp(-s * x))
        density = q * mp.npdf(x, s / 2) + (1 - q) * mp.npdf(x, -s / 2)
        return p * (1 - p) * density

    share = mp.mpf(_DIMENSION - 1) / _DIMENSION
    return share * q * (1 - q) / mp.quad(kept, [-12, -1, 0, 1, 12]) / 2


def _simulated_constant(rng, draws: int) -> tuple[float, float]:
    right = rng.random(draws) < _Q
    x = rng.normal(size=draws) + _SEPARATION * (right - 0.5)
    p = expit(np.log(_Q / (1 - _Q)) + _SEPARATION * x)
    mean, se = mean_and_se(p * (1 - p))
    k = (_DIMENSION - 1) / _DIMENSION * _Q * (1 - _Q) / mean / 2
    return k, k * se / mean


STATEMENTS = (
    Statement(
        "auroc_lost_to_estimation",
        "n (AUROC lost to n labels)",
        "autodiff",
        exact=_lost,
        oracle=lambda: -np.trace(autodiff_hessian(_auroc, _W) @ _COV) / 2,
        simulate=_drawn_loss,
        tolerance=1e-4,
        note="three features; n is 100,000, the oracle's is infinite",
    ),
    Statement(
        "gain_constant",
        "k of the gain, clean labels",
        "mpmath",
        exact=lambda: gain.gaussian_constant(_Q, 0.0, 0.0, _SEPARATION, _DIMENSION),
        oracle=_integrated_constant,
        simulate=_simulated_constant,
        note="two Gaussian classes 1.5 apart in 32 dimensions; 31/64 for close ones",
    ),
)
