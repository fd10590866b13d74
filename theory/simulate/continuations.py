"""Simulations of :mod:`theory.continuations`."""

from __future__ import annotations

import numpy as np

from theory import continuations
from theory.simulate.draw import DRAWS, twin
from theory.simulate.label_noise import count_information, target_information


@twin(continuations.trials_information)
def trials_information(q, trials, counts, target="count", *, rng, draws=DRAWS):
    """What the drawn counts, or the labels made from them, tell of the truth."""
    k = np.arange(trials + 1)
    drawn = {"rng": rng, "draws": draws}
    if target == "count":
        return count_information(q, *counts(trials), **drawn)
    label = k > 0 if target == "hard" else k
    return target_information(q, label, *counts(trials), **drawn)
