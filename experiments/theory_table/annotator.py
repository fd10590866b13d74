"""Statements about the Monte-Carlo annotator: posteriors, noise rates, scores."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath as mp
import numpy as np
from scipy.special import betaincc

from experiments.theory_table.statement import Statement, both, label_information
from theory import beta_binomial, label_noise
from theory.beta_binomial_fit import fit_from_mean_and_zero_rate
from theory.paper import FULL_DATA, TRIALS
from theory.simulate.beta_binomial import annotate
from theory.simulate.draw import mean_and_se

_TAU = 0.5

Prior = tuple[float, float]


# The Beta prior with the mean MC and the error-step ratio of Table 1.
_A, _B = map(
    float,
    fit_from_mean_and_zero_rate(FULL_DATA.mean_mc, FULL_DATA.error_step_ratio, TRIALS),
)
_PRIOR: Prior = _A, _B


def _joint(k: int, low: float = 0, high: float = 1, prior: Prior = _PRIOR):
    """Pr(K = k, low < r < high), a number of mpmath."""
    a, b = prior
    shape = mp.mpf(a) + k, mp.mpf(b) + TRIALS - k
    weight = mp.binomial(TRIALS, k) * mp.beta(*shape) / mp.beta(a, b)
    return weight * mp.betainc(*shape, low, high, regularized=True)


def _unreliable(k: int, prior: Prior = _PRIOR):
    """Pr(r < tau | K = k), a number of mpmath."""
    return _joint(k, 0, _TAU, prior) / _joint(k, prior=prior)


def _zeros(low: float, high: float):
    """Pr(K = 0 | low < r < high), a number of mpmath."""
    total = sum(_joint(k, low, high) for k in range(TRIALS + 1))
    return _joint(0, low, high) / total


def _eta(k: Any, prior: Prior = _PRIOR, trials: int = TRIALS, tau: Any = _TAU):
    a, b = prior
    return beta_binomial.unreliability_posterior(k, a, b, trials, tau)


# --- Lemma 3, and what is not linear in K ---------------------------------------------


def _lemma_3_drop():
    return mp.mpf(_TAU) ** 201 / mp.beta(1, 201)


# A prior at which K = (8, 8) has the lower mean score and the lower mean eta_eff.
_LINEAR = (2.0, 1.0)


def _difference_of_means() -> float:
    middle, top, low = _eta([8, 16, 1], _LINEAR)
    return float(middle - (top + low) / 2)


def _simulated_difference(rng: np.random.Generator, draws: int) -> tuple[float, float]:
    r, counts = annotate(*_LINEAR, TRIALS, rng, draws)
    (middle, se_middle), (top, se_top), (low, se_low) = (
        mean_and_se(r[counts == k] < _TAU) for k in (8, 16, 1)
    )
    se = np.hypot(se_middle, np.hypot(se_top, se_low) / 2)
    return middle - (top + low) / 2, float(se)


# --- noise rates ----------------------------------------------------------------------


def _pseudo_positives():
    below = sum(_joint(k, 0, _TAU) for k in range(1, TRIALS + 1))
    return below / sum(_joint(k) for k in range(1, TRIALS + 1))


# Pr(K = 0) of right and of wrong steps whose mixture has the prior's counts.
_ZERO_IF_RIGHT = float(beta_binomial.count_pmf(_A + 1, _B, TRIALS)[0])
_ZERO_IF_WRONG = float(beta_binomial.count_pmf(_A, _B + 1, TRIALS)[0])


# --- information ----------------------------------------------------------------------


# Pr(r >= tau) and the distributions of K in both classes.
_RELIABLE = float(betaincc(_A, _B, _TAU))
_F0, _F1 = beta_binomial.class_conditional_counts(_A, _B, TRIALS, _TAU)


def _kept_by_the_label() -> float:
    positive = min(_F0[1:].sum(), 1.0)
    kept = label_noise.noisy_fisher_weight(_RELIABLE, positive, _F1[0])
    return float(kept / label_noise.count_information(_RELIABLE, _F0, _F1))


def _kept_oracle() -> float:
    both = [np.array([f[0], f[1:].sum()]) for f in (_F0, _F1)]
    kept = label_information(_RELIABLE, *both)
    return kept / label_information(_RELIABLE, _F0, _F1)


# --- scores ---------------------------------------------------------------------------

_STEPS = 3


def _expected_score(name: str, text: str, closed_form: str, *alpha: float) -> Statement:
    """Expected R, or BIS at alpha, of three steps, against all 17^3 outcomes."""

    def score(k: np.ndarray) -> np.ndarray:
        p = (k > 0).mean(axis=-1)
        positives = np.maximum((k > 0).sum(axis=-1), 1)
        r = np.where(p > 0, k.sum(axis=-1) / (TRIALS * positives), 1.0)
        return (p * (1 - p) + alpha[0]) * r if alpha else r

    def oracle() -> float:
        pmf = np.array([_joint(k) for k in range(TRIALS + 1)], float)
        outcomes = np.array(list(itertools.product(range(TRIALS + 1), repeat=_STEPS)))
        return math.fsum(np.prod(pmf[outcomes], axis=-1) * score(outcomes))

    return Statement(
        name,
        text,
        "enumeration",
        **both(closed_form, *_PRIOR, TRIALS, _STEPS, *alpha),
        oracle=oracle,
    )


STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "positive_labels",
        "Pr(K>0) = 1 - B(a,b+N)/B(a,b)",
        "mpmath",
        **both("positive_label_prob", *_PRIOR, TRIALS),
        oracle=lambda: 1 - _joint(0),
        paper=1 - FULL_DATA.error_step_ratio,
    ),
    Statement(
        "effective_noise",
        "eta_eff(4) = I_tau(a+4, b+12)",
        "mpmath",
        **both("unreliability_posterior", 4, *_PRIOR, TRIALS, _TAU),
        oracle=lambda: _unreliable(4),
    ),
    # k = 0 where every step, and where none, is reliable.
    Statement(
        "effective_noise_at_the_ends",
        "eta_eff(0), tau 1 less tau 0",
        "mpmath",
        exact=lambda: -np.subtract(*_eta(0, tau=[0.0, 1.0])),
        oracle=lambda: _joint(0) / float(_joint(0)),
        paper=1.0,
    ),
    # Strictly decreasing in k, but not in the arithmetic of computers.
    Statement(
        "lemma_3_in_float64",
        "Lemma 3: eta(0)-eta(1), N 200",
        "mpmath",
        exact=lambda: np.subtract(*_eta([0, 1], (1, 1), 200)),
        oracle=_lemma_3_drop,
        paper="> 0",
        claim=lambda exact: exact > 0,
        otherwise="counterexample",
        tolerance=1e-15,
        note=f"true in exact arithmetic (the drop is {float(_lemma_3_drop()):.1e}), a "
        "tie in float64: rank by the counts, not by a computed eta_eff",
    ),
    Statement(
        "mean_score_does_not_order_noise",
        "eta_eff of K=(8,8) less (16,1)",
        "mpmath",
        exact=_difference_of_means,
        oracle=lambda: (
            _unreliable(8, _LINEAR)
            - (_unreliable(16, _LINEAR) + _unreliable(1, _LINEAR)) / 2
        ),
        simulate=_simulated_difference,
        paper="> 0",
        claim=lambda exact: exact > 0,
        otherwise="counterexample",
        note="mean s is .50 against .53, so a lower mean score does not mean more "
        "noise: eta_eff is not linear in k",
    ),
    Statement(
        "false_positive_rate",
        "fpr = Pr(K > 0 | r < tau)",
        "mpmath",
        **both("class_conditional_rates", *_PRIOR, TRIALS, _TAU, part=0),
        oracle=lambda: 1 - _zeros(0.0, _TAU),
        note="the noise of Monte-Carlo labels is one-sided: one eta for both classes, "
        "as in Eq. 6, describes neither",
    ),
    Statement(
        "false_negative_rate",
        "fnr = Pr(K = 0 | r >= tau)",
        "mpmath",
        **both("class_conditional_rates", *_PRIOR, TRIALS, _TAU, part=1),
        oracle=lambda: _zeros(_TAU, 1.0),
    ),
    Statement(
        "pseudo_positives",
        "pseudo-positives, r<tau | K>0",
        "mpmath",
        **both("pseudo_positive_rate", *_PRIOR, TRIALS, _TAU),
        oracle=_pseudo_positives,
    ),
    Statement(
        "noise_is_not_identified",
        "Pr(K = 0), two-class model",
        "mpmath",
        exact=lambda: _A / (_A + _B) * _ZERO_IF_RIGHT + _B / (_A + _B) * _ZERO_IF_WRONG,
        oracle=lambda: _joint(0),
        paper=FULL_DATA.error_step_ratio,
        note=f"the same histogram with fpr {1 - _ZERO_IF_WRONG:.2f}, fnr "
        f"{_ZERO_IF_RIGHT:.3f} and with labels that ignore the truth: counts alone do "
        "not identify the noise",
    ),
    # What K itself tells, by Louis's identity.
    Statement(
        "information_of_counts",
        "I_K = q(1-q) - E Var(Y | K)",
        "autodiff",
        **both("count_information", _RELIABLE, _F0, _F1),
        oracle=lambda: label_information(_RELIABLE, _F0, _F1),
    ),
    Statement(
        "information_of_the_hard_label",
        "share of I_K kept by 1[K > 0]",
        "autodiff",
        exact=_kept_by_the_label,
        oracle=_kept_oracle,
        note="the rest is what training on hard labels throws away",
    ),
    _expected_score("expected_r", "E[R], 3 independent steps", "expected_reliability"),
    _expected_score("expected_score", "E[BIS], the same", "expected_bis", 0.05),
)
