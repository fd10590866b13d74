"""Simulations of :mod:`theory.annotation`."""

from __future__ import annotations

import numpy as np

from theory import annotation
from theory.simulate.draw import DRAWS, Estimate, twin


@twin(annotation.flip_probability)
def flip_probability(k, n, more, a, b, label_threshold=0.0, *, rng, draws=DRAWS):
    """Share of steps with this count whose label the next continuations change."""
    drawn = rng.binomial(more, rng.beta(a + k, b + n - k, draws))
    return ((k + drawn) / (n + more) > label_threshold) != (k / n > label_threshold)


@twin(annotation.information_gain)
def information_gain(k, n, more, a, b, tau=0.5, *, rng, draws=DRAWS):
    """Variance, over the next counts, of the share of steps with r >= tau among those
    that have them.
    """
    r = rng.beta(a + k, b + n - k, draws)
    drawn = rng.binomial(more, r)
    right = r >= tau
    size = np.bincount(drawn, minlength=more + 1)
    hits = np.bincount(drawn, right, minlength=more + 1)
    share = hits / np.maximum(size, 1)
    # Of pairs of different steps with the same count: the mean square is not biased by
    # how the shares err.
    pairs = (hits - share) / np.maximum(size - 1, 1)
    square = np.where(size > 1, share * pairs, share**2)
    mean = right.mean()
    value = (size * square).sum() / draws - mean**2 + mean * (1 - mean) / (draws - 1)
    off = share[drawn] - mean
    influence = 2 * off * right - off**2 - off.mean()
    se = influence.std() / np.sqrt(draws) + (more + 1) / draws
    return Estimate(float(value), float(se))
