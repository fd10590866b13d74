"""The statistics of a corpus or a subset: the columns of the paper's Tables 1 and 8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory import scores
from theory.rollouts import Rollouts

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

# The label thresholds 1/N and 2/N of Table 2 turn positives with so few successes into
# negatives; they are the ones whose label is most in doubt.
LOW_MC_SUCCESSES = 2


@dataclass(frozen=True)
class Summary:
    """Statistics of a set of rollouts; shares and ratios are fractions in [0, 1].

    Attributes:
        rollouts: number of rollouts.
        steps: number of steps, never-sampled ones included.
        steps_per_rollout: their ratio.
        unmeasured_steps: steps with N = 0.
        error_step_ratio: measured steps with K = 0, of the measured steps (Table 1).
        mean_mc: mean of K/N over the measured steps (Table 1, Table 8).
        mixed_share: rollouts with a positive and a negative step (Table 1).
        all_negative_share: rollouts without a positive step.
        all_positive_share: rollouts without a negative step.
        low_mc_positive_share: positive steps with K <= 2, of the positive steps with
            N > 2; None if there is none, as in a corpus of binary labels.
        reliability_quantiles: of R at 5, 25, 50, 75, 95 %.
        bis_quantiles: of BIS at the same.
    """

    rollouts: int
    steps: int
    steps_per_rollout: float
    unmeasured_steps: int
    error_step_ratio: float
    mean_mc: float
    mixed_share: float
    all_negative_share: float
    all_positive_share: float
    low_mc_positive_share: float | None
    reliability_quantiles: tuple[float, ...]
    bis_quantiles: tuple[float, ...]


def summarise(rollouts: Rollouts, alpha: float = scores.DEFAULT_ALPHA) -> Summary:
    """Statistics of all rollouts together.

    Rollouts without a measured step count as rollouts and steps, but enter no share.

    Args:
        rollouts: at least one, with at least one measured step.
        alpha: BIS's alpha.

    Raises:
        ValueError: there is no measured step.
    """
    measured = int(np.count_nonzero(rollouts.measured))
    if measured == 0:
        raise ValueError("there is no measured step to describe")
    labelled = rollouts.n_measured > 0
    if not np.all(labelled):
        labelled_rollouts = rollouts.take(np.flatnonzero(labelled))
    else:
        labelled_rollouts = rollouts
    n, n_pos = labelled_rollouts.n_measured, labelled_rollouts.n_positive
    n_rollouts = len(n)
    positive_steps = int(n_pos.sum())
    tested = (rollouts.successes > 0) & (rollouts.trials > LOW_MC_SUCCESSES)
    n_tested = int(np.count_nonzero(tested))
    n_low = int(np.count_nonzero(tested & (rollouts.successes <= LOW_MC_SUCCESSES)))
    mc_sum = float((scores.mean_mc(labelled_rollouts) * n).sum())
    return Summary(
        rollouts=rollouts.n_rollouts,
        steps=rollouts.n_steps,
        steps_per_rollout=rollouts.n_steps / rollouts.n_rollouts,
        unmeasured_steps=rollouts.n_steps - measured,
        error_step_ratio=(measured - positive_steps) / measured,
        mean_mc=mc_sum / measured,
        mixed_share=int(np.count_nonzero((n_pos > 0) & (n_pos < n))) / n_rollouts,
        all_negative_share=int(np.count_nonzero(n_pos == 0)) / n_rollouts,
        all_positive_share=int(np.count_nonzero(n_pos == n)) / n_rollouts,
        low_mc_positive_share=n_low / n_tested if n_tested else None,
        reliability_quantiles=_quantiles(scores.reliability(labelled_rollouts)),
        bis_quantiles=_quantiles(scores.bis(labelled_rollouts, alpha)),
    )


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(q) for q in np.quantile(values, QUANTILES))


def by_source(rollouts: Rollouts) -> dict[str, np.ndarray]:
    """Ascending rows of each source that has any, in the order of the names."""
    return {
        name: rows
        for i, name in enumerate(rollouts.source_names)
        if len(rows := np.flatnonzero(rollouts.source == i))
    }
