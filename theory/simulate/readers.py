"""Simulations of :mod:`theory.readers`."""

from __future__ import annotations

import numpy as np

from theory import readers
from theory.simulate.draw import DRAWS, twin

# Steps a source: a limit, where no estimate is biased.
_LIMIT = 10**10


@twin(readers.two_source_rates)
def two_source_rates(counts, *, rng, draws=DRAWS):
    """Mean rates in drawn tables of 10^10 steps a source, each by its geometry: the
    laws given the truth are where the line through both tables is independent.
    """
    shares = np.asarray(counts, float).reshape(2, 4)
    shares = shares / shares.sum(axis=1, keepdims=True)
    drawn = [rng.multinomial(_LIMIT, s, draws) / _LIMIT for s in shares]
    first, second = (table.reshape(-1, 2, 2) for table in drawn)
    step = second - first
    # det(first + t step) = 0; the root at which the judge says 1 more often is right.
    c, a = np.linalg.det(first), np.linalg.det(step)
    b = np.linalg.det(second) - a - c
    square = b**2 - 4 * a * c
    if not np.all(square > 0):
        raise ValueError("counts must not be next to tables that no rates make")
    roots = (-b + np.array([[-1], [1]]) * np.sqrt(square)) / (2 * a)
    judged = roots * step[:, :, 1].sum(axis=-1)
    wrong, right = np.take_along_axis(roots, np.argsort(judged, axis=0), axis=0)
    prevalence = np.stack([-wrong, 1 - wrong], axis=1) / (right - wrong)[:, None]

    def positive(t):
        law = first + t[:, None, None] * step
        return np.stack([law[:, 1].sum(axis=-1), law[:, :, 1].sum(axis=-1)], axis=1)

    return prevalence, positive(wrong), 1 - positive(right)
