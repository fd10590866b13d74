"""Statements about what a selection keeps of the contrast within rollouts."""

from __future__ import annotations

import itertools

import mpmath as mp
import numpy as np
from scipy.special import ndtr, roots_genlaguerre, roots_hermitenorm

from experiments.theory_table.statement import Statement, both
from theory import contrast
from theory.rollouts import Rollouts

_PRIOR = (0.73, 0.30)
_TAU = 0.5
_TRIALS = 16

# K of each step of eight rollouts, and whether the step is right.
_COUNTS = (
    (16, 9, 0, 0),
    (3, 1, 0),
    (1, 0, 0, 0, 0),
    (16, 16, 16),
    (16, 12, 2, 1, 0),
    (5, 0),
    (2, 0, 7, 0),
    (1, 1, 1, 0),
)
_RIGHT = (
    (1, 1, 0, 0),
    (1, 0, 0),
    (0, 0, 1, 0, 0),
    (1, 1, 1),
    (1, 1, 0, 1, 0),
    (1, 0),
    (0, 0, 1, 1),
    (0, 1, 0, 1),
)
_SIZE = 3
_SIGNAL, _DIMENSION, _NUISANCE, _EFFICIENCY = 1.5, 32, 0.5, 8.0


def _corpus() -> Rollouts:
    counts = np.concatenate(_COUNTS)
    return Rollouts(
        counts,
        np.full(len(counts), _TRIALS),
        np.cumsum([0, *map(len, _COUNTS)]),
        np.zeros(len(_COUNTS), np.int64),
        ("example",),
    )


def _exact() -> tuple[np.ndarray, np.ndarray]:
    return contrast.contrast_counts(_corpus(), np.concatenate(_RIGHT) > 0)


def _centred() -> list[np.ndarray]:
    labels = [np.array(counts) > 0 for counts in _COUNTS]
    return [y - y.mean() for y in labels]


def _signed_by_hand(chosen: tuple[int, ...]) -> float:
    u, z = _centred(), _RIGHT
    c = sum(float(u[x] @ np.array(z[x])) for x in chosen)
    v = sum(float(u[x] @ u[x]) for x in chosen)
    return np.sign(c) * c**2 / v if v else 0.0


def _best_of_all(size: int) -> float:
    subsets = itertools.combinations(range(len(_COUNTS)), size)
    return max(map(_signed_by_hand, subsets))


def _best_of_any() -> float:
    return max(_best_of_all(m + 1) for m in range(len(_COUNTS)))


def _best_exact(size: int | None) -> float:
    c, v = _exact()
    rows = contrast.best_subset(c, v, size).rows
    return contrast.selection_efficiency(c[rows], v[rows])


def _expected_oracle() -> mp.mpf:
    """Mean contrast of the first rollout over all truths of its steps."""
    a, b = map(mp.mpf, _PRIOR)
    right = [
        1 - mp.betainc(a + k, b + _TRIALS - k, 0, mp.mpf(_TAU), regularized=True)
        for k in _COUNTS[0]
    ]
    u = _centred()[0]
    mean = mp.mpf(0)
    for truths in itertools.product((0, 1), repeat=len(right)):
        chances = [p if z else 1 - p for p, z in zip(right, truths, strict=True)]
        mean += mp.fprod(chances) * float(u @ np.array(truths))
    return mean


def _mean_auroc() -> float:
    """Mean over the score T of the AUROC of the student that it makes."""
    x, p = roots_hermitenorm(80)
    half, q = roots_genlaguerre(80, (_DIMENSION - 1) / 2 - 1)
    along = x[:, None] + _SIGNAL * np.sqrt(_EFFICIENCY)
    cosine = along / np.sqrt(along**2 + 2 * half)
    values = ndtr(_SIGNAL * cosine / np.sqrt(2 * (1 + _NUISANCE**2)))
    return float(p @ values @ q / p.sum() / q.sum())


def _simulated_best(rng: np.random.Generator, draws: int) -> tuple[float, None]:
    """Efficiency of the best of many weightings."""
    c, v = _exact()
    weights = rng.standard_normal((draws, len(c)))
    return float(((weights @ c) ** 2 / (weights**2 @ v)).max()), None


STATEMENTS = (
    Statement(
        "contrast_efficiency",
        "G = (sum C)^2 / sum V",
        "enumeration",
        **both("selection_efficiency", *_exact()),
        oracle=lambda: _signed_by_hand(tuple(range(len(_COUNTS)))),
        note="eight rollouts; what the steps of a rollout share cancels",
    ),
    Statement(
        "contrast_best_of_three",
        "largest G of three of them",
        "enumeration",
        exact=lambda: _best_exact(_SIZE),
        oracle=lambda: _best_of_all(_SIZE),
        note="the top three by 2 C - J V at their own J = sum C / sum V",
    ),
    Statement(
        "contrast_best_of_any",
        "largest G of any subset",
        "enumeration",
        exact=lambda: _best_exact(None),
        oracle=_best_of_any,
        note="above that of all eight: rollouts with C/V < J/2 are better left out",
    ),
    Statement(
        "contrast_bound",
        "G of any weights <= sum C^2/V",
        "enumeration",
        exact=lambda: contrast.weighted_efficiency(*_exact()),
        oracle=_best_of_any,
        simulate=_simulated_best,
        bound=True,
    ),
    Statement(
        "contrast_expected",
        "E[C | K = 16, 9, 0, 0]",
        "mpmath",
        **both("expected_contrast", _corpus(), *_PRIOR, _TAU, part=lambda x: x[0][0]),
        oracle=_expected_oracle,
    ),
    Statement(
        "contrast_one_step",
        "AUROC after one step, G = 8",
        "enumeration",
        **both("one_step_auroc", _EFFICIENCY, _SIGNAL, _DIMENSION, _NUISANCE),
        oracle=_mean_auroc,
        # A ratio of means for the mean of a ratio.
        tolerance=0.002,
    ),
)
