"""Simulations of :mod:`theory.confidence`."""

from __future__ import annotations

import numpy as np

from theory import confidence
from theory.simulate.draw import DRAWS, twin


@twin(confidence.coverage_under_stopping)
def coverage_under_stopping(interval, stop, r, most, *, rng, draws=DRAWS):
    """Shares of paths that hold r where they stop, and always; and where they stop."""
    k = np.zeros(draws, int)
    at_stop, always = np.zeros(draws, bool), np.ones(draws, bool)
    trials = np.zeros(draws)
    for n in range(1, most + 1):
        k += rng.random(draws) < r
        low, high = (end[k] for end in interval(np.arange(n + 1), n))
        holds = (low <= r) & (r <= high)
        always &= holds
        ends = (trials == 0) & (stop(k, n) | (n == most))
        trials[ends], at_stop[ends] = n, holds[ends]
    return at_stop, always, trials
