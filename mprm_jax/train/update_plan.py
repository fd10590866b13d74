"""How many updates a run makes: every number that depends on the data's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from theory.paper import TRAINING

# Devices count them in int32.
_MOST_UPDATES = 2**31 - 1


@dataclass(frozen=True)
class UpdatePlan:
    """The updates of a run.

    Attributes:
        rollouts: in the training set.
        batch_size: B, rollouts per update.
        updates: T.
        warmup: updates of linear warm-up.
        presentations: rollouts read in all: those of every epoch, or T B where the
            number of updates is another's.
    """

    rollouts: int
    batch_size: int
    updates: int
    warmup: int
    presentations: int


def plan(
    rollouts: int,
    batch_size: int,
    *,
    warmup_share: float = TRAINING.warmup,
    matched_to: int | None = None,
    epochs: int = 1,
) -> UpdatePlan:
    """T = ceil(E N / B), and ceil(5 % of T) updates of warm-up (Table 7, E = 1).

    Args:
        rollouts: N in the subset, that is floor(rho N_s) summed over sources.
        batch_size: B of the global batch.
        warmup_share: of the updates, in [0, 1].
        matched_to: rollouts of the set whose number of updates is to be matched
            (the full data in the paper's Fig. 2b); the subset is repeated, shuffled
            anew each time. None: as many as the epochs take.
        epochs: E, passes over the rollouts, each in an order of its own.

    Raises:
        ValueError: a number is out of range.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")
    if rollouts < 1 or batch_size < 1:
        raise ValueError(f"nothing to train on: {rollouts} rollouts in {batch_size}s")
    if not 0 <= warmup_share <= 1:
        raise ValueError(f"warmup_share must lie in [0, 1], not {warmup_share}")
    presentations = epochs * rollouts
    updates = _updates(presentations, batch_size)
    if matched_to is not None and _updates(matched_to, batch_size) > updates:
        updates = _updates(matched_to, batch_size)
        presentations = updates * batch_size
    if updates > _MOST_UPDATES:
        raise ValueError(f"epochs must be fewer: they make {updates:,} updates")
    warmup = math.ceil(warmup_share * updates)
    return UpdatePlan(rollouts, batch_size, updates, warmup, presentations)


def _updates(rollouts: int, batch_size: int) -> int:
    return -(-rollouts // batch_size)
