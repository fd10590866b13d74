"""Scores of a rollout that its Monte-Carlo counts alone can give.

Every score is a pure function ``Rollouts -> float64 [n_rollouts]`` of the measured
steps (those with N > 0); it is computed from exact integer totals, so rollouts with
equal counts get equal scores to the last bit, wherever they stand in the corpus.

Notation: n measured steps, of which n_pos have K > 0; s_j = K_j / N_j; p = n_pos / n.
All raise ValueError if a rollout has no measured step.
"""

from __future__ import annotations

import numpy as np

from theory.rollouts import Rollouts

# Section 4 of the paper: the default that its ablation (Table 5) finds best at 25 %.
DEFAULT_ALPHA = 0.05


def _label_counts(rollouts: Rollouts) -> tuple[np.ndarray, np.ndarray]:
    """(n, n_pos) of each rollout, int64 ``[n_rollouts]`` each."""
    n = rollouts.n_measured
    if np.any(n == 0):
        raise ValueError(
            f"rollout {int(np.argmax(n == 0))} has no measured step; drop it first"
        )
    return n, rollouts.n_positive


def _score_sum(rollouts: Rollouts, power: int = 1) -> np.ndarray:
    """sum_j s_j^power over the measured steps of each rollout.

    One exact integer sum per distinct N, so the result depends on the rollout alone.
    """
    powers = rollouts.successes
    if power > 1:
        powers = np.power(powers, power, dtype=np.int64)
    total = np.zeros(rollouts.n_rollouts)
    for trials in rollouts.distinct_trials:
        of_this_n = rollouts.trials == trials
        total += rollouts.total(powers * of_this_n) / trials**power
    return total


def _mixture(n: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    return n_pos * (n - n_pos) / n**2


def _positive_mean(
    n_pos: np.ndarray, positive_sum: np.ndarray, all_negative: float
) -> np.ndarray:
    return np.where(n_pos > 0, positive_sum / np.maximum(n_pos, 1), all_negative)


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
    # Negatives have s = 0, so the sum over all steps is the sum over the positives.
    return _positive_mean(n_pos, _score_sum(rollouts), all_negative)


def bis(rollouts: Rollouts, alpha: float = DEFAULT_ALPHA) -> np.ndarray:
    """Balanced-Information Score ``(p (1 - p) + alpha) R``, in (0, alpha + 1/4]
    (Section 4).

    Raises:
        ValueError: ``alpha`` is negative or not finite.
    """
    _check_alpha(alpha)
    n, n_pos = _label_counts(rollouts)
    r = _positive_mean(n_pos, _score_sum(rollouts), all_negative=1.0)
    return (_mixture(n, n_pos) + alpha) * r


def _check_alpha(alpha: float) -> None:
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be finite and at least 0, not {alpha}")


def mean_mc(rollouts: Rollouts) -> np.ndarray:
    """Mean MC score ``sum_j s_j / n`` of the measured steps, in [0, 1]."""
    n, _ = _label_counts(rollouts)
    return _score_sum(rollouts) / n


def mc_variance(rollouts: Rollouts) -> np.ndarray:
    """Variance of the MC score within the rollout, ``Var_j(s_j)``, in [0, 1/4].

    ``Var_j(s) = p (1 - p) R^2 + p Var_+(s)`` (law of total variance over the label).
    """
    n, _ = _label_counts(rollouts)
    mean = _score_sum(rollouts) / n
    # Rounding may leave -1e-17 where all scores are equal but N is not.
    return np.maximum(_score_sum(rollouts, power=2) / n - mean**2, 0.0)


def mc_uncertainty(rollouts: Rollouts) -> np.ndarray:
    """Mean Bernoulli uncertainty ``mean_j 4 s_j (1 - s_j)`` of the steps, in [0, 1]."""
    n, _ = _label_counts(rollouts)
    total = _score_sum(rollouts) - _score_sum(rollouts, power=2)
    return np.maximum(4 * total / n, 0.0)


def max_drop(rollouts: Rollouts) -> np.ndarray:
    """Largest fall of the MC score from one measured step to the next, in [0, 1].

    ``max_j (s_{j-1} - s_j)``, and 0 if the score never falls: the sharpest sign of
    where an error entered.
    """
    n, _ = _label_counts(rollouts)
    measured = rollouts.measured
    scores = rollouts.successes[measured] / rollouts.trials[measured]
    offsets = np.concatenate([[0], np.cumsum(n)])
    falls = np.zeros_like(scores)
    falls[1:] = scores[:-1] - scores[1:]
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
    k = rollouts.successes[usable].astype(np.float64)
    n = rollouts.trials[usable].astype(np.float64)
    mean = float(np.mean(k / n))
    second = float(np.mean(k * (k - 1) / (n * (n - 1))))
    between = second - mean**2
    if not 0 < between < mean * (1 - mean):
        raise ValueError(
            "the counts do not vary as a Beta prior would make them "
            f"(mean {mean:.4g}, variance of r {between:.4g})"
        )
    concentration = mean * (1 - mean) / between - 1
    return mean * concentration, (1 - mean) * concentration


def shrunken_bis(
    rollouts: Rollouts,
    a: float,
    b: float,
    alpha: float = DEFAULT_ALPHA,
) -> np.ndarray:
    """BIS with each s_j replaced by its posterior mean ``(a + K_j) / (a + b + N_j)``
    in R, in (0, alpha + 1/4].

    A single lucky continuation (K = 1) then counts as what the prior Beta(a, b) makes
    of it. ``moment_prior`` gives a prior from the corpus.

    Raises:
        ValueError: ``a`` or ``b`` is not positive, or ``alpha`` is negative.
    """
    _check_alpha(alpha)
    if not (a > 0 and b > 0 and np.isfinite(a + b)):
        raise ValueError(f"a and b must be positive and finite, not {a} and {b}")
    n, n_pos = _label_counts(rollouts)
    total = np.zeros(rollouts.n_rollouts)
    for trials in rollouts.distinct_trials:
        positive = (rollouts.trials == trials) & (rollouts.successes > 0)
        steps = rollouts.total(positive)
        successes = rollouts.total(rollouts.successes * positive)
        total += (a * steps + successes) / (a + b + trials)
    r = _positive_mean(n_pos, total, all_negative=1.0)
    return (_mixture(n, n_pos) + alpha) * r
