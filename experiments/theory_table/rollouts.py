"""Statements about the labels of one rollout: their mixture and their contrast."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import mpmath as mp
import numpy as np
from scipy.optimize import brentq

from experiments.theory_table.statement import (
    Statement,
    autodiff_hessian,
    both,
    half_mean_squared_difference,
)
from theory import mixture
from theory.paper import FULL_DATA
from theory.simulate.draw import bernoulli

_Q = np.array([0.95, 0.9, 0.7, 0.4, 0.1])
_N = len(_Q)
_CERTAIN = np.array([1.0, 1.0, 0.0, 0.0])
_ETA = 0.1


def _labels(n: int) -> np.ndarray:
    """All label vectors ``[2^n, n]``."""
    return np.array(list(itertools.product((0, 1), repeat=n)))


def _weights(q: np.ndarray) -> np.ndarray:
    """Their probabilities for independent labels."""
    return np.prod(np.where(_labels(len(q)) == 1, q, 1 - q), axis=-1)


def _mixture(labels: np.ndarray) -> np.ndarray:
    p = labels.mean(axis=-1)
    return p * (1 - p)


def _expected_mixture(name: str, text: str, q: np.ndarray, paper: float) -> Statement:
    """E p (1 - p) of independent labels, against all label vectors."""
    return Statement(
        name,
        text,
        "enumeration",
        **both("label_mixture_moments", q, part=2),
        oracle=lambda: _weights(q) @ _mixture(_labels(len(q))),
        paper=paper,
    )


# --- flips ----------------------------------------------------------------------------

_MOMENTS = mixture.label_mixture_moments(_Q)
_THETA = float(_MOMENTS.uncertainty)


def _uncertainty(q: np.ndarray) -> float:
    return float(q.mean() * (1 - q.mean()))


# --- contrasts of a rollout, given its number of positives ----------------------------

_PSI = np.array([[0.5, 1.0], [-1.0, 0.2], [0.3, -0.7], [1.2, 0.4], [-0.2, -1.1]])
_BETA = np.array([0.8, -1.5])


def _conditional(name: str, text: str, n_pos: int, beta: np.ndarray, **rest):
    """Trace of the information of a conditional logistic model."""

    def oracle() -> float:
        labels = _labels(_N)
        sums = labels[labels.sum(axis=-1) == n_pos] @ _PSI

        def log_normaliser(beta):
            return jnp.log(jnp.sum(jnp.exp(sums @ beta)))

        return np.trace(autodiff_hessian(log_normaliser, beta))

    at = beta if beta.any() else None
    return Statement(
        name,
        text,
        "autodiff",
        **both("conditional_logistic_information", n_pos, _PSI, at, part=np.trace),
        oracle=oracle,
        **rest,
    )


# --- selection of mixed rollouts ------------------------------------------------------

_NEAR_PERFECT = np.array([0.9, 0.95, 0.85, 0.9])


def _logit(x: float) -> float:
    return float(np.log(x) - np.log1p(-x))


def _is_mixed(labels: np.ndarray) -> np.ndarray:
    return (labels.min(axis=-1) == 0) & (labels.max(axis=-1) == 1)


def _enumerated_shift() -> float:
    labels, weights = _labels(len(_NEAR_PERFECT)), _weights(_NEAR_PERFECT)
    mixed = _is_mixed(labels)
    share = weights[mixed] @ labels[mixed, 0] / weights[mixed].sum()
    return _logit(float(share)) - _logit(float(_NEAR_PERFECT[0]))


# --- dependent steps ------------------------------------------------------------------

# Label probability, steps and intraclass correlation; the Beta law they give.
_SHARED_Q, _SHARED_N, _ICC = 0.8, 5, 0.5
_SHARED = (_SHARED_Q * (1 / _ICC - 1), (1 - _SHARED_Q) * (1 / _ICC - 1))
_LOWER = _SHARED_Q * (1 - _SHARED_Q) * (1 - 1 / _SHARED_N)


def _beta_binomial_mixture() -> float:
    (a, b), n = _SHARED, _SHARED_N

    def pmf(k: int) -> float:
        return float(mp.binomial(n, k) * mp.beta(a + k, b + n - k) / mp.beta(a, b))

    return sum(pmf(k) * k * (n - k) / n**2 for k in range(n + 1))


# Share of positive steps, steps per rollout and mixed share of Table 1. Rollouts have
# 5 or, with this probability, 6 steps.
_POSITIVE = 1 - FULL_DATA.error_step_ratio
_LONGER = FULL_DATA.steps_per_rollout - 5


def _mixed_share(icc: float) -> float:
    both = mixture.exchangeable_mixed_share(_POSITIVE, [5, 6], icc)
    return float((1 - _LONGER) * both[0] + _LONGER * both[1])


def _simulated_mixed_share(rng, draws: int) -> np.ndarray:
    drawn = bernoulli(np.full(6, _POSITIVE), rng, draws)
    length = np.where(rng.random(draws) < _LONGER, 6, 5)
    positives = np.where(length == 6, drawn.sum(axis=-1), drawn[:, :5].sum(axis=-1))
    return (positives > 0) & (positives < length)


def _independent_mixed_share() -> float:
    pure = [_POSITIVE**n + (1 - _POSITIVE) ** n for n in (5, 6)]
    return 1 - (1 - _LONGER) * pure[0] - _LONGER * pure[1]


# Its intraclass correlation at which the mixed share is Table 1's.
_NEEDED_ICC = brentq(lambda icc: _mixed_share(icc) - FULL_DATA.mixed_share, 0, 1)


STATEMENTS: tuple[Statement, ...] = (
    _expected_mixture(
        "lemma_2",
        "Lemma 2: E p(1-p) = theta-A/n",
        _Q,
        float(_uncertainty(_Q) - np.mean(_Q * (1 - _Q)) / _N),
    ),
    # A single step is never mixed.
    _expected_mixture("lemma_2_of_one_step", "Lemma 2 at n = 1", np.array([0.3]), 0.0),
    # Met by equal label probabilities, and by certain labels.
    _expected_mixture(
        "equation_9_lower",
        "Eq. 9 lower bound, equal q_j",
        np.full(5, 0.3),
        0.3 * 0.7 * (1 - 1 / 5),
    ),
    _expected_mixture(
        "equation_9_upper", "Eq. 9 upper bound, certain q_j", _CERTAIN, 0.25
    ),
    # A <= theta bounds from above: theta = 1/4 promises nothing.
    Statement(
        "headroom_is_not_information",
        "A <= theta: A of q = (1,1,0,0)",
        "enumeration",
        **both("label_mixture_moments", _CERTAIN, part=0),
        oracle=lambda: np.mean([x - x**2 for x in _CERTAIN]),
        paper=float(mixture.label_mixture_moments(_CERTAIN).uncertainty),
        otherwise="counterexample",
        note="a rollout with the largest theta, 1/4, and no information: theta - A is "
        "Var_j(q_j)",
    ),
    Statement(
        "theta_less_a",
        "theta - A = Var_j(q_j)",
        "enumeration",
        exact=lambda: _MOMENTS.uncertainty - _MOMENTS.information,
        oracle=lambda: half_mean_squared_difference(_Q),
    ),
    Statement(
        "equation_10",
        "Eq. 10, 22: theta~, flips .1",
        "enumeration",
        **both("flipped_uncertainty", _THETA, _ETA),
        oracle=lambda: _uncertainty(
            np.array([(1 - _ETA) * x + _ETA * (1 - x) for x in _Q])
        ),
        paper=(1 - 2 * _ETA) ** 2 * _THETA + _ETA * (1 - _ETA),
    ),
    Statement(
        "equation_24",
        "Eq. 24: theta~-theta <= 2 eta",
        "enumeration",
        **both("flip_gap", _uncertainty(_Q), _ETA),
        oracle=lambda: (
            _uncertainty((1 - _ETA) * _Q + _ETA * (1 - _Q)) - _uncertainty(_Q)
        ),
        paper=2 * _ETA,
        note="true with slack: the gap is eta (1 - eta) (1 - 2 qbar)^2, at most half "
        "the bound, and 0 for balanced labels",
    ),
    Statement(
        "unbiased_mixture",
        "unbiased mixture, unequal q_j",
        "enumeration",
        **both("unbiased_mixture", _Q, part=0),
        oracle=lambda: _weights(_Q) @ (_mixture(_labels(_N)) * _N / (_N - 1)),
        note="n+ n- / (n (n-1)) has the mean theta + Var_j(q_j) / (n-1): unbiased only "
        "for equal q_j",
    ),
    # Eq. 9's lower bound needs independent labels.
    Statement(
        "dependence",
        "Eq. 9 lower bound, ICC .5",
        "enumeration",
        **both("exchangeable_expected_mixture", _SHARED_Q, _SHARED_N, _ICC),
        oracle=_beta_binomial_mixture,
        paper=_LOWER,
        claim=lambda exact: exact >= _LOWER,
        otherwise="counterexample",
        note="it holds given the q_j; where a rollout shares its difficulty, and theta "
        "is that of the mean, mixture falls by exactly the factor 1 - icc",
    ),
    # Independent steps do not give the mixed share of the paper's corpus.
    Statement(
        "mixed_share",
        "mixed share, independent steps",
        "enumeration",
        exact=lambda: _mixed_share(0.0),
        oracle=_independent_mixed_share,
        simulate=_simulated_mixed_share,
        paper=FULL_DATA.mixed_share,
        otherwise="counterexample",
        note=f"Table 1's {100 * FULL_DATA.mixed_share:.2f} % needs an intraclass "
        f"correlation of {_NEEDED_ICC:.2f} under a Beta law: "
        "rollouts differ far more than the steps within one",
    ),
    # What the labels of a rollout say about differences between its steps.
    _conditional("contrast", "conditional logit, beta = 0", 2, np.zeros(2)),
    _conditional("contrast_elsewhere", "conditional logit, beta <> 0", 3, _BETA),
    _conditional(
        "pure_rollouts",
        "the same, pure rollout",
        _N,
        _BETA,
        note="yet every pure rollout gets BIS = alpha R, which is alpha at R = 1",
    ),
    # Selecting on labels biases even noiseless ones.
    Statement(
        "selection_shift",
        "logit shift, mixed only",
        "enumeration",
        **both("mixed_selection_logit_shift", _NEAR_PERFECT, part=0),
        oracle=_enumerated_shift,
        note="keeping mixed rollouts only changes what their labels teach, noise or "
        "not; the base rate of the subset is not that of the corpus",
    ),
)
