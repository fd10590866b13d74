"""Which steps a training sees at which update: batches of rollouts, laid end to end."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Shapes are rounded up, so that worlds of like size share one compilation: capacities
# to a multiple of this, lengths of feeds and tables to a power of two.
_CAPACITY_STEP = 32

# Names the streams of the orders: (seed, 0) alone would be the stream of the seed.
_ORDER = zlib.crc32(b"order of rollouts")


@dataclass(frozen=True, eq=False)
class Training:
    """One arm: what is trained on, and for how long.

    Attributes:
        rows: rollouts of the subset, ascending int64, at least one.
        labels: index of the kind of labels.
        updates: T; by default a single pass, ``ceil(len(rows) / batch)``.
        passes: passes over the subset where ``updates`` is not given.
    """

    rows: np.ndarray
    labels: int = 0
    updates: int | None = None
    passes: int = 1

    def length(self, batch: int) -> int:
        """T, with batches of so many rollouts."""
        if self.updates is not None:
            return self.updates
        return self.passes * -(-len(self.rows) // batch)


class Plan(NamedTuple):
    """Batches of A trainings on one corpus.

    Attributes:
        feed_F: steps in the order in which they are fed, int32, training after
            training; zeros after the last.
        start_AxT: where in ``feed_F`` the batch of an update begins, int32.
        count_AxT: its number of steps, int32; 0 after a training's last update.
        updates_A: T of each training, int32.
        labels_A: kind of labels of each training, int32.
        capacity: most steps of any batch.
    """

    feed_F: np.ndarray
    start_AxT: np.ndarray
    count_AxT: np.ndarray
    updates_A: np.ndarray
    labels_A: np.ndarray
    capacity: int


def plan_trainings(
    offsets: np.ndarray, trainings: Sequence[Training], batch: int, seed: int
) -> Plan:
    """Batches of every training; each pass visits every rollout of its subset once.

    Rollouts that two trainings share come in the same relative order in both, so that
    differences between arms are not blurred by different orders.

    Args:
        offsets: of the corpus, int64 ``[n_rollouts + 1]``.
        trainings: the arms.
        batch: rollouts per update; the last batch of a pass is what is left.
        seed: of the orders.

    Raises:
        ValueError: ``batch`` is not positive, or a subset is empty.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    lengths = np.diff(offsets)
    orders: dict[int, np.ndarray] = {}
    feeds, starts, counts, begin = [], [], [], 0
    for training in trainings:
        if len(training.rows) == 0:
            raise ValueError("a training needs at least one rollout")
        updates = training.length(batch)
        per_pass = -(-len(training.rows) // batch)
        rollouts, sizes = [], []
        for epoch in range(-(-updates // per_pass)):
            if epoch not in orders:
                stream = np.random.SeedSequence(seed, spawn_key=(_ORDER, epoch))
                rng = np.random.default_rng(stream)
                orders[epoch] = rng.random(len(lengths))
            ranked = training.rows[np.argsort(orders[epoch][training.rows])]
            steps = lengths[ranked]
            per_batch = np.add.reduceat(steps, np.arange(0, len(ranked), batch))
            rollouts.append(ranked)
            sizes.append(per_batch)
        size = np.concatenate(sizes)[:updates]
        fed = _steps_of(offsets, np.concatenate(rollouts))[: size.sum()]
        feeds.append(fed)
        starts.append(begin + np.cumsum(size) - size)
        counts.append(size)
        begin += len(fed)
    longest = max(map(len, counts))
    capacity = int(max(count.max() for count in counts))
    return Plan(
        np.concatenate(feeds).astype(np.int32),
        _padded(starts, longest),
        _padded(counts, longest),
        np.array([len(count) for count in counts], np.int32),
        np.array([training.labels for training in trainings], np.int32),
        capacity,
    )


def stack_plans(plans: Sequence[Plan]) -> Plan:
    """The plans of several seeds, one leading axis more, shapes rounded up.

    Raises:
        ValueError: the plans have different numbers of trainings.
    """
    if len({len(plan.updates_A) for plan in plans}) != 1:
        raise ValueError("all seeds must have the same trainings")
    largest = max(plan.capacity for plan in plans)
    capacity = -(-largest // _CAPACITY_STEP) * _CAPACITY_STEP
    # A batch may be read beyond its end, up to the capacity.
    feed = max(len(plan.feed_F) for plan in plans) + capacity
    feed = 1 << (feed - 1).bit_length()
    updates = max(plan.start_AxT.shape[1] for plan in plans)
    updates = 1 << (updates - 1).bit_length()

    def widen(table: np.ndarray, width: int) -> np.ndarray:
        missing = width - table.shape[-1]
        return np.pad(table, [(0, 0)] * (table.ndim - 1) + [(0, missing)])

    return Plan(
        np.stack([widen(plan.feed_F, feed) for plan in plans]),
        np.stack([widen(plan.start_AxT, updates) for plan in plans]),
        np.stack([widen(plan.count_AxT, updates) for plan in plans]),
        np.stack([plan.updates_A for plan in plans]),
        np.stack([plan.labels_A for plan in plans]),
        capacity,
    )


def _steps_of(offsets: np.ndarray, rollouts: np.ndarray) -> np.ndarray:
    """Steps of the given rollouts, in their order."""
    lengths = np.diff(offsets)[rollouts]
    ends = np.cumsum(lengths)
    first = np.repeat(offsets[rollouts] - (ends - lengths), lengths)
    return first + np.arange(ends[-1])


def _padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    table = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
