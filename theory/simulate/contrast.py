"""Simulations of :mod:`theory.contrast`: scores of labels, on drawn features.

An efficiency is the squared mean over the variance of the score's coordinate along the
truth, at a signal of 1.
"""

from __future__ import annotations

import numpy as np

from theory import contrast
from theory.simulate.draw import DRAWS, Estimate, mean_and_se, squared_snr, twin

# Of what the steps of a rollout share, where it cancels: any numbers do.
_LEVEL, _SPREAD = 9.0, 5.0


@twin(contrast.expected_contrast)
def expected_contrast(rollouts, a, b, tau=0.5, *, rng, draws=DRAWS):
    """Mean contrast of truths drawn from the posterior, and the labels' variation."""
    measured, u = rollouts.measured, _centred(rollouts)
    k, n = rollouts.successes[measured], rollouts.trials[measured]
    r = rng.beta(a + k, b + n - k, (draws, len(k)))
    starts = np.cumsum(rollouts.n_measured) - rollouts.n_measured
    found = np.add.reduceat((r if tau is None else r >= tau) * u, starts, axis=-1)
    return found, Estimate(np.add.reduceat(u**2, starts), np.zeros(len(starts)))


@twin(contrast.selection_efficiency)
def selection_efficiency(contrast, variation, weights=1.0, *, rng, draws=DRAWS):
    """Of two steps a rollout, labels and truths of this contrast and variation: what
    the two share cancels.
    """
    c = np.asarray(contrast, float)
    u = np.sqrt(np.asarray(variation, float) / 2)
    z = np.divide(c, u, where=u > 0, out=np.zeros(len(c)))
    shared = _LEVEL + _SPREAD * rng.standard_normal((draws, len(c)))
    first, second = shared + rng.standard_normal((2, draws, len(c)))
    return squared_snr((first + z - second) @ (weights * u))


@twin(contrast.pooled_efficiency)
def pooled_efficiency(
    rollouts, right, nuisance=0.0, source_shift=0.0, *, rng, draws=DRAWS
):
    """Of the labels about their mean, on features that hold what steps share."""
    measured = rollouts.measured
    y = 1.0 * (rollouts.successes[measured] > 0)
    rollout = np.repeat(np.arange(len(rollouts.source)), rollouts.n_measured)
    of_rollout = rng.standard_normal((draws, len(rollouts.source)))
    of_source = rng.standard_normal((draws, len(rollouts.source_names)))
    phi = right[measured] + rng.standard_normal((draws, len(y)))
    phi += nuisance * of_rollout[:, rollout]
    phi += source_shift * of_source[:, rollouts.source[rollout]]
    return squared_snr(phi @ (y - y.mean()))


@twin(contrast.one_step_auroc)
def one_step_auroc(efficiency, signal, dimension, nuisance, *, rng, draws=DRAWS):
    """Share of pairs in which a right step is above a wrong one, seen at the angle of
    drawn scores: their mean along the truth over the root of their mean square.
    """
    along = signal * np.sqrt(efficiency) + rng.standard_normal(draws)
    square = along**2 + 2 * rng.gamma((dimension - 1) / 2, size=draws)
    cosine = along.mean() / np.sqrt(square.mean())
    influence = along / np.sqrt(square.mean()) - cosine * square / square.mean() / 2
    own, shared = rng.standard_normal((2, 2, draws))
    wrong, right = own + nuisance * shared
    share, se = mean_and_se(right + signal * cosine > wrong)
    # The slope in the angle is a normal density of variance 2 at least.
    of_angle = signal / np.sqrt(4 * np.pi) * mean_and_se(influence).standard_error
    return Estimate(share, float(np.hypot(se, of_angle)))


def _centred(rollouts):
    """Hard labels of the measured steps less their mean over the rollout."""
    y = 1.0 * (rollouts.successes[rollouts.measured] > 0)
    return y - np.repeat(rollouts.n_positive / rollouts.n_measured, rollouts.n_measured)
