"""Statements about the scores of a rollout: what BIS is, and what it orders."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from experiments.theory_table.row import Row, Statement, mean_and_se
from theory.paper import WORKED_EXAMPLES
from theory.rollouts import Rollouts

(_FIRST, _FIRST_BIS), (_SECOND, _SECOND_BIS) = WORKED_EXAMPLES


def _rollout(counts: tuple[int, ...]) -> Rollouts:
    return Rollouts(
        np.array(counts),
        np.full(len(counts), 16),
        np.array([0, len(counts)]),
        np.array([0]),
        ("example",),
    )


def _worked(counts: tuple[int, ...], number: int, paper: float) -> Row:
    from theory.scores import bis

    n_pos = sum(k > 0 for k in counts)
    p = Fraction(n_pos, len(counts))
    reliability = Fraction(sum(counts), 16 * n_pos)
    return Row(
        f"BIS, worked example {number}",
        exact=float(bis(_rollout(counts))[0]),
        oracle=float((p * (1 - p) + Fraction(1, 20)) * reliability),
        kind="enumeration",
        paper=paper,
    )


def worked_example_1(rng: np.random.Generator, draws: int) -> Row:
    """Section 4."""
    return _worked(_FIRST, 1, _FIRST_BIS)


def worked_example_2(rng: np.random.Generator, draws: int) -> Row:
    """Section 4."""
    return _worked(_SECOND, 2, _SECOND_BIS)


def bis_is_a_covariance(rng: np.random.Generator, draws: int) -> Row:
    """What BIS at alpha = 0 is."""
    from theory.score_identities import bis_covariance

    s = np.array(_FIRST) / 16
    y = s > 0
    j = rng.integers(len(s), size=draws)
    simulation, se = mean_and_se((y[j] - y.mean()) * (s[j] - s.mean()))
    pairs = itertools.product(range(len(s)), repeat=2)
    twice = sum((float(y[i]) - float(y[k])) * (s[i] - s[k]) for i, k in pairs)
    return Row(
        "p(1-p) R = Cov_j(y_j, s_j)",
        exact=float(bis_covariance(_rollout(_FIRST))[0]),
        oracle=float(twice / (2 * len(s) ** 2)),
        kind="enumeration",
        simulation=simulation,
        se=se,
    )


def variance_splits(rng: np.random.Generator, draws: int) -> Row:
    """What the hard label explains of the score, and what it does not."""
    from theory.score_identities import mc_variance_parts

    s = np.array(_SECOND) / 16
    j = rng.integers(len(s), size=draws)
    simulation, se = mean_and_se((s[j] - s.mean()) ** 2)
    between, within = mc_variance_parts(_rollout(_SECOND))
    pairs = [(x - y) ** 2 for x, y in itertools.product(s, s)]
    return Row(
        "Var s = p(1-p)R^2 + p Var+(s)",
        exact=float(between[0] + within[0]),
        oracle=float(sum(pairs) / (2 * len(s) ** 2)),
        kind="enumeration",
        simulation=simulation,
        se=se,
    )


def break_even(rng: np.random.Generator, draws: int) -> Row:
    """The reliability above which a mixed rollout outranks a perfect one."""
    from theory.score_identities import break_even_reliability

    p, alpha = Fraction(4, 10), Fraction(1, 20)
    low, high = Fraction(0), Fraction(1)
    for _ in range(60):
        middle = (low + high) / 2
        mixed, perfect = (p * (1 - p) + alpha) * middle, alpha
        low, high = (low, middle) if mixed > perfect else (middle, high)
    return Row(
        "break-even R, p .4, alpha .05",
        exact=float(break_even_reliability(float(p), float(alpha))),
        oracle=float(high),
        kind="enumeration",
        note="mixed rollouts below it rank below every perfect one",
    )


STATEMENTS: tuple[Statement, ...] = (
    worked_example_1,
    worked_example_2,
    bis_is_a_covariance,
    variance_splits,
    break_even,
)
