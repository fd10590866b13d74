"""Statements about how well a student of so many labels ranks steps."""

from __future__ import annotations

import jax.numpy as jnp
import mpmath as mp
import numpy as np
from jax.scipy.special import ndtr as jax_ndtr
from scipy.special import ndtr

from experiments.theory_table.statement import Statement, autodiff_hessian, both

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


def _to_first_order() -> float:
    curvature = autodiff_hessian(_auroc, _W)
    return float(_auroc(_W)) + float(np.trace(curvature @ _COV)) / (2 * _MANY)


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


STATEMENTS = (
    Statement(
        "auroc_lost_to_estimation",
        "AUROC of 100,000 labels",
        "autodiff",
        **both("estimated_score_auroc", _MANY, _W, _COV, _DELTA, _WITHIN),
        oracle=_to_first_order,
        note="three features; the oracle is to first order in 1/n",
    ),
    Statement(
        "gain_constant",
        "k of the gain, clean labels",
        "mpmath",
        **both("gaussian_constant", _Q, 0.0, 0.0, _SEPARATION, _DIMENSION),
        oracle=_integrated_constant,
        note="two Gaussian classes 1.5 apart in 32 dimensions; 31/64 for close ones",
    ),
)
