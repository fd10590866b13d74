"""How many updates a run makes: every number that depends on the data's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from theory.paper import TRAINING


@dataclass(frozen=True)
class UpdatePlan:
    """The updates of a run.

    Attributes:
        rollouts: in the training set.
        batch_size: B, rollouts per update.
        updates: T.
        warmup: updates of linear warm-up.
    """

    rollouts: int
    batch_size: int
    updates: int
    warmup: int

    @property
    def presentations(self) -> int:
        """Rollouts read in all: one pass, or T B of a longer, repeated one."""
        if self.updates == _updates(self.rollouts, self.batch_size):
            return self.rollouts
        return self.updates * self.batch_size


def plan(
    rollouts: int,
    batch_size: int,
    *,
    warmup_share: float = TRAINING.warmup,
    matched_to: int | None = None,
) -> UpdatePlan:
    """T = ceil(N / B), and ceil(5 % of T) updates of warm-up (Table 7).

    Args:
        rollouts: N in the subset, that is floor(rho N_s) summed over sources.
        batch_size: B of the global batch.
        warmup_share: of the updates, in [0, 1].
        matched_to: rollouts of the set whose number of updates is to be matched
            (the full data in the paper's Fig. 2b); the subset is repeated, shuffled
            anew each time. None: a single pass.

    Raises:
        ValueError: a number is out of range.
    """
    if rollouts < 1 or batch_size < 1:
        raise ValueError(f"nothing to train on: {rollouts} rollouts in {batch_size}s")
    if not 0 <= warmup_share <= 1:
        raise ValueError(f"warmup_share must lie in [0, 1], not {warmup_share}")
    updates = _updates(rollouts, batch_size)
    if matched_to is not None:
        updates = max(updates, _updates(matched_to, batch_size))
    return UpdatePlan(rollouts, batch_size, updates, math.ceil(warmup_share * updates))


def _updates(rollouts: int, batch_size: int) -> int:
    return -(-rollouts // batch_size)
