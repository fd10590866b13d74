"""Scores of a rollout that its Monte-Carlo counts alone can give.

Every score is a pure function ``Rollouts -> float64 [n_rollouts]`` of the measured
steps (those with N > 0); it is computed from exact integer totals, so rollouts with
equal counts get equal scores to the last bit, wherever they stand in the corpus.

Notation: n measured steps, of which n_pos have K > 0; s_j = K_j / N_j; p = n_pos / n.
All raise ValueError if a rollout has no measured step.
"""

from __future__ import annotations

import math

import numpy as np

from theory import paper
from theory.rollouts import Rollouts

# Section 4 of the paper: the default that its ablation (Table 5) finds best at 25 %.
DEFAULT_ALPHA = paper.ALPHA


def _label_counts(rollouts: Rollouts, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, n_pos) of each rollout, int64 ``[n_rollouts]`` each; ``first`` is the row of
    the first one, for the message.
    """
    n = rollouts.n_measured
    if not np.all(n):
        row = first + int(np.argmax(n == 0))
        raise ValueError(f"rollout {row} has no measured step; drop it first")
    return n, rollouts.n_positive


# Up to this common denominator of all K/N, sums of squares are exact in int64;
# annotators use one N, and lcm(1, ..., 16) = 720,720 still fits.
_MAX_DENOMINATOR = 2**20


def _score_sum(
    rollouts: Rollouts, power: int = 1, distinct: tuple[int, ...] | None = None
) -> tuple[np.ndarray, int]:
    """(numerator, denominator) of sum_j s_j^power over the measured steps.

    All K/N are brought to their least common denominator L, so that a later division is
    the only rounding and rollouts with equal scores get equal floats whatever N and n
    are. Where L would exceed 2^20 the sums are floats over 1, rounded once per N. For a
    part of a corpus, ``distinct`` holds every N of the whole.
    """
    distinct = rollouts.distinct_trials if distinct is None else distinct
    common = math.lcm(*distinct)
    total = np.zeros(rollouts.n_rollouts, np.int64)
    if common > _MAX_DENOMINATOR:
        total = total.astype(np.float64)
    for trials in distinct:
        powers = rollouts.successes
        if len(distinct) > 1:  # else K = 0 wherever N is another, which is 0
            powers = powers * (rollouts.trials == trials)
        if power > 1:
            powers = np.power(powers, power, dtype=np.int64)
        if common > _MAX_DENOMINATOR:
            total += rollouts.total(powers) / trials**power
        else:
            total += rollouts.total(powers) * (common // trials) ** power
    return total, 1 if common > _MAX_DENOMINATOR else common**power


def _mixture(n: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    return n_pos * (n - n_pos) / n**2


def _positive_mean(
    rollouts: Rollouts,
    n_pos: np.ndarray,
    all_negative: float,
    distinct: tuple[int, ...] | None = None,
) -> np.ndarray:
    # Negatives have s = 0, so the sum over all steps is the sum over the positives.
    total, denominator = _score_sum(rollouts, distinct=distinct)
    mean = total / (denominator * np.maximum(n_pos, 1))
    return np.where(n_pos > 0, mean, all_negative)


def label_mixture(rollouts: Rollouts) -> np.ndarray:
    """Label mixture ``p (1 - p) = n_pos n_neg / n^2``, in [0, 1/4] (Section 4).

    Computed from the integers, so that swapping positives and negatives gives the same
    float. The release computes ``p * (1 - p)`` in floats, which is not symmetric in its
    last bit; its compatibility path keeps that form.
    """
    return _mixture(*_label_counts(rollouts))


def unbiased_mixture(rollouts: Rollouts) -> np.ndarray:
    """``n_pos n_neg / (n (n - 1))``, in [0, 1/2]: half the probability that two steps
    drawn without replacement differ in label; 0 for n = 1.

    For equal q_j it is unbiased for q (1 - q), where the expectation of
    :func:`label_mixture` is (1 - 1/n) of that (Lemma 2, App. F.4). If the q_j differ it
    exceeds theta by Var_j(q_j) / (n - 1).
    """
    n, n_pos = _label_counts(rollouts)
    return n_pos * (n - n_pos) / (n * np.maximum(n - 1, 1))


def reliability(rollouts: Rollouts, all_negative: float = 1.0) -> np.ndarray:
    """Reliability R: mean MC score over the positive steps, in (0, 1] (Section 4).

    ``R = sum_{j: K_j > 0} s_j / n_pos``, and ``all_negative`` where n_pos = 0 (1 in the
    paper; 0 treats such a rollout as the least reliable).
    """
    _, n_pos = _label_counts(rollouts)
    return _positive_mean(rollouts, n_pos, all_negative)


def bis(rollouts: Rollouts, alpha: float = DEFAULT_ALPHA) -> np.ndarray:
    """Balanced-Information Score ``(p (1 - p) + alpha) R``, in [0, alpha + 1/4]
    (Section 4).

    Raises:
        ValueError: ``alpha`` is negative or not finite.
    """
    check_alpha(alpha)
    score = np.empty(rollouts.n_rollouts)
    distinct = rollouts.distinct_trials
    for rows, block in rollouts.blocks():
        n, n_pos = _label_counts(block, rows.start)
        r = _positive_mean(block, n_pos, 1.0, distinct)
        score[rows] = (_mixture(n, n_pos) + alpha) * r
    return score


def check_alpha(alpha: float) -> None:
    """Refuse what is no alpha of BIS.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be finite and at least 0, not {alpha}")


def mean_mc(rollouts: Rollouts) -> np.ndarray:
    """Mean MC score ``sum_j s_j / n`` of the measured steps, in [0, 1]."""
    n, _ = _label_counts(rollouts)
    total, denominator = _score_sum(rollouts)
    return total / (denominator * n)


def mc_variance(rollouts: Rollouts) -> np.ndarray:
    """Variance of the MC score within the rollout, ``Var_j(s_j)``, in [0, 1/4].

    ``Var_j(s) = p (1 - p) R^2 + p Var_+(s)`` (law of total variance over the label).
    """
    n, _ = _label_counts(rollouts)
    first, denominator = _score_sum(rollouts)
    second, _ = _score_sum(rollouts, power=2)
    if (
        denominator * int(n.max(initial=0)) >= 2**31
    ):  # the squares below would overflow int64
        n, first, second = (x.astype(np.float64) for x in (n, first, second))
    # Below 0 by rounding only, and only where the sums are floats.
    spread = np.maximum(n * second - first**2, 0)
    return spread / (denominator * n) ** 2


def mc_uncertainty(rollouts: Rollouts) -> np.ndarray:
    """Mean Bernoulli uncertainty ``mean_j 4 s_j (1 - s_j)`` of the steps, in [0, 1]."""
    n, _ = _label_counts(rollouts)
    first, denominator = _score_sum(rollouts)
    second, squared = _score_sum(rollouts, power=2)
    total = np.maximum(denominator * first - second, 0)
    return 4 * total / (squared * n)


def max_drop(rollouts: Rollouts) -> np.ndarray:
    """Largest fall of the MC score from one measured step to the next, in [0, 1].

    ``max_j (s_{j-1} - s_j)``, and 0 if the score never falls: the sharpest sign of
    where an error entered.
    """
    n, _ = _label_counts(rollouts)
    measured = rollouts.measured
    k = rollouts.successes[measured].astype(np.int64)
    trials = rollouts.trials[measured].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(n)])
    falls = np.zeros(len(k))
    # Over one denominator, so that equal falls are equal floats.
    falls[1:] = (k[:-1] * trials[1:] - k[1:] * trials[:-1]) / (trials[:-1] * trials[1:])
    falls[offsets[:-1]] = 0.0
    return np.maximum(np.maximum.reduceat(falls, offsets[:-1]), 0.0)


def negative_count(rollouts: Rollouts) -> np.ndarray:
    """Number of steps with K = 0, as float64."""
    n, n_pos = _label_counts(rollouts)
    return (n - n_pos).astype(np.float64)


def moment_prior(rollouts: Rollouts) -> tuple[float, float]:
    """Beta(a, b) prior of the one-shot success probability, by moments.

    Over the steps with N >= 2, ``m = E[K/N] = a / (a + b)`` and
    ``E[K (K - 1) / (N (N - 1))] = m (a + 1) / (a + b + 1)`` (the beta-binomial's first
    two factorial moments).

    Raises:
        ValueError: no step has two continuations, or the counts vary less than a
            binomial's, so that no Beta prior fits.
    """
    usable = rollouts.trials >= 2
    if not np.any(usable):
        raise ValueError("a prior needs steps with at least two continuations")
    # Counted and summed without rounding, the prior does not depend on the line order.
    pairs = rollouts.trials[usable].astype(np.int64) << 32 | rollouts.successes[usable]
    distinct, counts = np.unique(pairs, return_counts=True)
    k, n = distinct & 0xFFFFFFFF, distinct >> 32
    steps = int(counts.sum())
    mean = math.fsum(counts * (k / n)) / steps
    second = math.fsum(counts * (k * (k - 1) / (n * (n - 1)))) / steps
    between = second - mean**2
    if not 0 < between < mean * (1 - mean):
        raise ValueError(
            "the counts do not vary as a Beta prior would make them "
            f"(mean {mean:.4g}, variance of r {between:.4g})"
        )
    concentration = mean * (1 - mean) / between - 1
    return mean * concentration, (1 - mean) * concentration


def shrunken_bis(
    rollouts: Rollouts, a: float, b: float, alpha: float = DEFAULT_ALPHA
) -> np.ndarray:
    """BIS with each s_j replaced by its posterior mean ``(a + K_j) / (a + b + N_j)``
    in R, in [0, alpha + 1/4].

    A single lucky continuation (K = 1) then counts as what the prior Beta(a, b) makes
    of it. ``moment_prior`` gives a prior from the corpus.

    Raises:
        ValueError: ``a`` or ``b`` is not positive, or ``alpha`` is negative.
    """
    check_alpha(alpha)
    if not (a > 0 and b > 0 and np.isfinite(a + b)):
        raise ValueError(f"a and b must be positive and finite, not {a} and {b}")
    n, n_pos = _label_counts(rollouts)
    total = np.zeros(rollouts.n_rollouts)
    for trials in rollouts.distinct_trials:
        positive = (rollouts.trials == trials) & (rollouts.successes > 0)
        steps = rollouts.total(positive)
        successes = rollouts.total(rollouts.successes * positive)
        total += (a * steps + successes) / (a + b + trials)
    r = np.where(n_pos > 0, total / np.maximum(n_pos, 1), 1.0)
    return (_mixture(n, n_pos) + alpha) * r
