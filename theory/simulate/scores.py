"""Simulations of :mod:`theory.scores`."""

from __future__ import annotations

import numpy as np

from theory import scores
from theory.simulate.draw import DRAWS, twin


@twin(scores.mc_variance)
def mc_variance(rollouts, *, rng, draws=DRAWS):
    """Half the mean squared difference of two measured steps drawn at random."""
    s, _ = differences(rollouts, rng, draws)
    return s**2 / 2


def differences(rollouts, rng, draws):
    """Of two measured steps drawn at random with replacement: s less s, and hard label
    less hard label, ``[draws, n_rollouts]``.
    """
    n, measured = rollouts.n_measured, rollouts.measured
    k = rollouts.successes[measured].astype(float)
    s = k / rollouts.trials[measured]
    start = np.cumsum(n) - n
    two = rng.integers(n, size=(2, draws, len(n))) + start
    return s[two[0]] - s[two[1]], (k[two[0]] > 0) * 1.0 - (k[two[1]] > 0)
