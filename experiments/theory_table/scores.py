"""Statements about the scores of a rollout: what BIS is, and what it orders."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from experiments.theory_table.statement import (
    Statement,
    both,
    half_mean_squared_difference,
)
from theory import score_identities, scores
from theory.paper import WORKED_EXAMPLES
from theory.rollouts import Rollouts

(_FIRST, _FIRST_BIS), (_SECOND, _SECOND_BIS) = WORKED_EXAMPLES


def _rollout(counts: tuple[int, ...]) -> Rollouts:
    n = len(counts)
    return Rollouts(
        np.array(counts), np.full(n, 16), np.array([0, n]), np.array([0]), ("example",)
    )


def _worked_example(counts: tuple[int, ...], number: int, paper: float) -> Statement:
    n_pos = sum(k > 0 for k in counts)
    p = Fraction(n_pos, len(counts))
    reliability = Fraction(sum(counts), 16 * n_pos)
    return Statement(
        f"worked_example_{number}",
        f"BIS, worked example {number}",
        "enumeration",
        exact=lambda: scores.bis(_rollout(counts))[0],
        oracle=lambda: (p * (1 - p) + Fraction(1, 20)) * reliability,
        paper=paper,
    )


def _covariance_of_pairs() -> float:
    s = np.array(_FIRST) / 16
    y = (s > 0).astype(float)
    pairs = itertools.product(range(len(s)), repeat=2)
    return sum((y[i] - y[k]) * (s[i] - s[k]) for i, k in pairs) / (2 * len(s) ** 2)


def _variance_parts() -> float:
    between, within = score_identities.mc_variance_parts(_rollout(_SECOND))
    return between[0] + within[0]


def _bisected_break_even() -> Fraction:
    """The R at which a mixed rollout of p = .4 scores as a perfect one, alpha .05."""
    p, alpha = Fraction(4, 10), Fraction(1, 20)
    low, high = Fraction(0), Fraction(1)
    for _ in range(60):
        middle = (low + high) / 2
        above = (p * (1 - p) + alpha) * middle > alpha
        low, high = (low, middle) if above else (middle, high)
    return high


STATEMENTS: tuple[Statement, ...] = (
    _worked_example(_FIRST, 1, _FIRST_BIS),
    _worked_example(_SECOND, 2, _SECOND_BIS),
    Statement(
        "bis_is_a_covariance",
        "p(1-p) R = Cov_j(y_j, s_j)",
        "enumeration",
        **both("bis_covariance", _rollout(_FIRST), part=0),
        oracle=_covariance_of_pairs,
    ),
    # What the hard label explains of the score, and what it does not.
    Statement(
        "variance_splits",
        "Var s = p(1-p)R^2 + p Var+(s)",
        "enumeration",
        exact=_variance_parts,
        oracle=lambda: half_mean_squared_difference(np.array(_SECOND) / 16),
        simulate=both("mc_variance", _rollout(_SECOND), part=0)["simulate"],
    ),
    Statement(
        "break_even",
        "break-even R, p .4, alpha .05",
        "enumeration",
        exact=lambda: score_identities.break_even_reliability(0.4, 0.05),
        oracle=_bisected_break_even,
        note="mixed rollouts below it rank below every perfect one",
    ),
)
