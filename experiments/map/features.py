"""What a corpus's counts say that may decide whether selection pays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from theory.rollouts import Rollouts
from theory.scores import reliability
from theory.summary import summarise

# A positive with at most this share of successes is in doubt (K <= 2 of 16).
_LOW_SCORE = 1 / 8

# Inputs of the predictor, in order, each of a corpus, a keep ratio and a training.
NAMES = (
    "log mixed share",
    "log error-step ratio",
    "mean MC score",
    "share of Var(MC) between rollouts",
    "positives with K/N <= 1/8",
    "reliability of mixed rollouts",
    "log keep ratio",
    "keep ratio over mixed share, log",
    "log updates on the subset",
)


def corpus_measures(rollouts: Rollouts) -> dict[str, float]:
    """The corpus's part of the inputs, before logarithms.

    Raises:
        ValueError: there is no measured step, no mixed rollout, or no negative step:
            then there is nothing for BIS to rank.
    """
    summary = summarise(rollouts)
    if summary.mixed_share == 0:
        raise ValueError("no rollout is mixed: BIS has nothing to rank")
    measured = rollouts.measured
    scores = rollouts.successes[measured] / rollouts.trials[measured]
    positive = scores > 0
    n, n_positive = rollouts.n_measured, rollouts.n_positive
    mixed = (n_positive > 0) & (n_positive < n)
    return {
        "mixed_share": summary.mixed_share,
        "error_step_ratio": summary.error_step_ratio,
        "mean_mc": summary.mean_mc,
        "between_share": between_share(rollouts),
        "low_positive_share": float(np.mean(scores[positive] <= _LOW_SCORE)),
        "mixed_reliability": float(
            reliability(rollouts.take(np.flatnonzero(mixed))).mean()
        ),
    }


def between_share(rollouts: Rollouts) -> float:
    """Share of the variance of the MC score that lies between rollouts, in [0, 1].

    Of the law of r that moments give: variance between rollouts by the products of
    different steps of a rollout, variance within less the binomial's.
    """
    measured = rollouts.measured
    trials = rollouts.trials[measured].astype(np.float64)
    s = rollouts.successes[measured] / trials
    n = rollouts.n_measured
    row = np.repeat(np.arange(rollouts.n_rollouts), n)
    total = np.bincount(row, s, rollouts.n_rollouts)
    squares = np.bincount(row, s**2, rollouts.n_rollouts)
    pairs = n * (n - 1)
    if pairs.sum() == 0:
        return 0.0
    mean = s.mean()
    between = (total**2 - squares).sum() / pairs.sum() - mean**2
    several = trials > 1
    # E[s^2] = E[r^2] + E[r (1 - r)] / N.
    second = (trials * s**2 - s)[several] / (trials - 1)[several]
    spread = (second.mean() if several.any() else (s**2).mean()) - mean**2
    return float(np.clip(between / spread, 0.0, 1.0)) if spread > 0 else 0.0


def inputs(
    measures: Mapping[str, float], keep_ratio: float, updates: float
) -> np.ndarray:
    """Inputs of the predictor, float64 ``[len(NAMES)]``.

    Args:
        measures: from :func:`corpus_measures`.
        keep_ratio: rho.
        updates: on the subset.
    """
    return np.array(
        [
            np.log(measures["mixed_share"]),
            np.log(measures["error_step_ratio"]),
            measures["mean_mc"],
            measures["between_share"],
            measures["low_positive_share"],
            measures["mixed_reliability"],
            np.log(keep_ratio),
            np.log(keep_ratio / measures["mixed_share"]),
            np.log(updates),
        ]
    )
