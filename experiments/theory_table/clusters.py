"""Statements about kept, dependent and twice-read labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, expit

from experiments.theory_table.statement import Statement, autodiff_hessian, both
from theory import clusters, mixed, mixture, readers
from theory.asymptotics import noisy_minimizer_and_sandwich

# --- rollouts kept because mixed ------------------------------------------------------

_N, _Q = 5, 0.9
_EQUAL = np.full(_N, _Q)
_LABELS = np.array(list(itertools.product((0, 1), repeat=_N)))
_MIXED = _LABELS[1:-1]
_CONTRAST = np.array([2.0, 1.0, 0.0, -1.0, -2.0])
_CLEAN = _Q * (1 - _Q)

_PHI = np.array([[1.0, 1.0], [1.0, 0.4], [1.0, 0.0], [1.0, -0.7], [1.0, -1.5]])
_W = np.array([2.0, 1.0])


def _gain(psi: np.ndarray) -> dict[str, Any]:
    """Information of a kept rollout over that of a rollout of independent labels."""
    of_all = _CLEAN * float(psi @ psi)
    return both(
        "mixed_information", psi[:, None], _EQUAL, part=lambda x: x[0, 0] / of_all
    )


def _of_mixed(q: np.ndarray) -> np.ndarray:
    """Probabilities of the mixed label vectors, of which the rest is pure."""
    return np.prod(np.where(_MIXED == 1, q, 1 - q), axis=1)


def _enumerated_gain(psi: np.ndarray) -> float:
    weight, total = _of_mixed(_EQUAL) / _of_mixed(_EQUAL).sum(), _MIXED @ psi
    return float((weight @ total**2 - (weight @ total) ** 2) / (_CLEAN * psi @ psi))


def _plain_slope() -> float:
    """Where logistic regression on mixed rollouts goes."""
    q = expit(_PHI @ _W)
    shift = mixture.mixed_selection_logit_shift(q)
    shifted = expit(_PHI @ _W + shift)
    return float(noisy_minimizer_and_sandwich(_PHI, shifted, 0, 0).w[1])


def _best_slope(log_normaliser: Callable[[np.ndarray], float]) -> float:
    """Slope of the model with this normaliser that mixed rollouts are nearest to."""
    weight = _of_mixed(expit(_PHI @ _W))
    mean = weight @ _MIXED / weight.sum()

    def loss(w: np.ndarray) -> float:
        return log_normaliser(_PHI @ w) - float(mean @ _PHI @ w)

    return float(minimize(loss, np.zeros(2), tol=1e-14, method="Nelder-Mead").x[1])


def _kept(rng: np.random.Generator, draws: int) -> tuple[np.ndarray, ...]:
    """Features, labels and offsets of the mixed ones of drawn rollouts."""
    labels = rng.random((draws, _N)) < expit(_PHI @ _W)
    labels = labels[labels.any(axis=1) & ~labels.all(axis=1)]
    offsets = _N * np.arange(len(labels) + 1)
    return np.tile(_PHI, (len(labels), 1)), labels.ravel(), offsets


def _simulated_slope(rng: np.random.Generator, draws: int) -> tuple[float, float]:
    phi, y, offsets = _kept(rng, draws)
    shares = y.reshape(-1, _N).mean(axis=0)
    w = noisy_minimizer_and_sandwich(_PHI, shares, 0, 0).w
    # Selection makes the labels of a rollout dependent.
    cov = clusters.clustered_sandwich(w, phi, y, offsets)
    return float(w[1]), float(np.sqrt(cov[1, 1]))


def _corrected_slope(rng: np.random.Generator, draws: int) -> tuple[float, float]:
    fit = mixed.fit_mixed(*_kept(rng, draws))
    return float(fit.w[1]), float(np.sqrt(fit.covariance[1, 1]))


def _error_of_slope() -> float:
    """Standard error of the corrected slope, times the root of the rollouts kept."""
    information = mixed.mixed_information(_PHI, expit(_PHI @ _W))
    return float(np.sqrt(np.linalg.inv(information)[1, 1]))


def _autodiff_error_of_slope() -> float:
    def log_normaliser(w):
        scores = jnp.asarray(_MIXED @ _PHI) @ w
        return jnp.log(jnp.sum(jnp.exp(scores)))

    return float(np.sqrt(np.linalg.inv(autodiff_hessian(log_normaliser, _W))[1, 1]))


# --- steps that depend on each other --------------------------------------------------

# Correlation of two labels of a rollout.
_ICC = 0.5
_BETA = (_Q * (1 / _ICC - 1), (1 - _Q) * (1 / _ICC - 1))


def _enumerated_effect(psi: np.ndarray) -> float:
    """Variance of sum_j y_j psi_j of exchangeable labels over that of independent."""
    a, b = _BETA
    k = _LABELS.sum(axis=1)
    weight = np.exp(betaln(a + k, b + _N - k) - betaln(a, b))
    return float(weight @ ((_LABELS - _Q) @ psi) ** 2 / (_CLEAN * psi @ psi))


# --- two readings, several sources ----------------------------------------------------

_PREVALENCE, _FPR, _FNR = (0.9, 0.6), (0.35, 0.1), (0.04, 0.08)
_STEPS = 500


def _table(prevalence: float) -> np.ndarray:
    """Probabilities of (label, judgement) in a source."""
    right = np.outer([_FNR[0], 1 - _FNR[0]], [_FNR[1], 1 - _FNR[1]])
    wrong = np.outer([1 - _FPR[0], _FPR[0]], [1 - _FPR[1], _FPR[1]])
    return prevalence * right + (1 - prevalence) * wrong


_TABLES = np.array([_table(prevalence) for prevalence in _PREVALENCE])


def _autodiff_error_of_fpr() -> float:
    def negative_log_likelihood(theta):
        share, fpr, fnr = theta[:2, None, None], theta[2:4], theta[4:]
        right = jnp.outer(*jnp.stack([fnr, 1 - fnr], axis=1))
        wrong = jnp.outer(*jnp.stack([1 - fpr, fpr], axis=1))
        law = share * right[None] + (1 - share) * wrong[None]
        return -_STEPS * jnp.sum(jnp.asarray(_TABLES) * jnp.log(law))

    truth = np.array([*_PREVALENCE, *_FPR, *_FNR])
    inverse = np.linalg.inv(autodiff_hessian(negative_log_likelihood, truth))
    return float(np.sqrt(inverse[2, 2]))


STATEMENTS: tuple[Statement, ...] = (
    # Labels of kept rollouts are not the corpus's; their likelihood is known.
    Statement(
        "mixed_contrast_gain",
        "contrasts, mixed only: 1 / M",
        "enumeration",
        **_gain(_CONTRAST),
        oracle=lambda: _enumerated_gain(_CONTRAST),
        note="information in a kept rollout over that in any, at equal q: the share M "
        "that is kept has all there is about contrasts, and less about the level",
    ),
    Statement(
        "mixed_level_loss",
        "the level, mixed only",
        "enumeration",
        **_gain(np.ones(_N)),
        oracle=lambda: _enumerated_gain(np.ones(_N)),
    ),
    Statement(
        "plain_slope_of_mixed",
        "plain slope on mixed, truth 1",
        "enumeration",
        exact=_plain_slope,
        oracle=lambda: _best_slope(lambda z: float(np.sum(np.logaddexp(0, z)))),
        simulate=_simulated_slope,
        paper=float(_W[1]),
        otherwise="counterexample",
        tolerance=1e-6,
        note="no weights repair it: a pure rollout is kept with probability 0",
    ),
    Statement(
        "corrected_slope_of_mixed",
        "the same, given mixed",
        "enumeration",
        exact=lambda: _W[1],
        oracle=lambda: _best_slope(lambda z: float(np.log(np.sum(np.exp(_MIXED @ z))))),
        simulate=_corrected_slope,
        tolerance=1e-6,
        note="the likelihood given that a rollout is mixed undoes the selection",
    ),
    Statement(
        "error_of_corrected_slope",
        "its error times root of kept",
        "autodiff",
        exact=_error_of_slope,
        oracle=_autodiff_error_of_slope,
    ),
    # Steps of a rollout are not as many rollouts of one step.
    Statement(
        "design_effect_between",
        "variance of levels, ICC .5",
        "enumeration",
        **both("design_effect", _N, _ICC),
        oracle=lambda: _enumerated_effect(np.ones(_N)),
        note="1 + (n - 1) icc times that of independent steps, and 1 - icc for "
        "contrasts within a rollout",
    ),
    Statement(
        "design_effect_within",
        "variance of contrasts, ICC .5",
        "enumeration",
        **both("design_effect", _N, _ICC, -1 / (_N - 1)),
        oracle=lambda: _enumerated_effect(_CONTRAST),
    ),
    # Without a truth, from label and judge in sources of different prevalence.
    Statement(
        "two_readers",
        "fpr of labels, no truth known",
        "enumeration",
        **both("two_source_rates", _TABLES, part=lambda x: x[1][0]),
        oracle=lambda: _FPR[0],
        note="counts alone do not identify the noise; a second reading does, in two "
        "sources of different prevalence, if its errors are independent",
    ),
    Statement(
        "two_readers_error",
        "its error, 500 steps a source",
        "autodiff",
        exact=lambda: readers.two_reader_rates(_STEPS * _TABLES).standard_errors[1][0],
        oracle=_autodiff_error_of_fpr,
        tolerance=1e-6,
    ),
)
