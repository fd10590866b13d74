"""Simulations of :mod:`theory.mixed`."""

from __future__ import annotations

import numpy as np

from theory import mixed
from theory.simulate.draw import DRAWS, bernoulli, twin
from theory.simulate.mixture import is_mixed


@twin(mixed.mixed_information)
def mixed_information(phi, q, *, rng, draws=DRAWS):
    """Covariance of ``sum_j y_j phi_j`` over the mixed rollouts."""
    labels = bernoulli(q, rng, draws)
    scores = labels[is_mixed(labels)] @ np.asarray(phi, float)
    if len(scores) < 2:
        raise ValueError("draws must be more: fewer than two rollouts are mixed")
    off = scores - scores.mean(axis=0)
    return off[:, :, None] * off[:, None, :]
