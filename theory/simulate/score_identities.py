"""Simulations of :mod:`theory.score_identities`."""

from __future__ import annotations

from theory import score_identities
from theory.simulate.draw import DRAWS, twin
from theory.simulate.scores import differences


@twin(score_identities.bis_covariance)
def bis_covariance(rollouts, *, rng, draws=DRAWS):
    """Half the mean product of the differences in score and in label of two measured
    steps drawn at random.
    """
    s, y = differences(rollouts, rng, draws)
    return s * y / 2
