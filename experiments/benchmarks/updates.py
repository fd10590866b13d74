"""Compile an update once and time it: what benchmarks of single updates share."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from mprm_jax.data.batches import Batch
from mprm_jax.train.update import UpdateRule, compiled_step


class Compiled(NamedTuple):
    """An update by a batch, made ready; ``seconds`` are those that took."""

    step: Any
    weight: np.float32
    seconds: float


class Timed(NamedTuple):
    """Updates one after another: seconds and loss of each."""

    seconds: list[float]
    losses: list[float]


def compile_update(start: Any, batch: Batch, rule: UpdateRule) -> Compiled:
    """The update of a (state, frozen parameters) by a batch; shapes of them will do."""
    weight, began = np.float32(batch.weight_BxS.sum()), time.perf_counter()
    step = compiled_step.lower(*start, batch, weight, rule=rule).compile()
    return Compiled(step, weight, time.perf_counter() - began)


def time_updates(made: Compiled, start: Any, batch: Batch, count: int) -> Timed:
    """Make updates, each of which ends when its loss has been read; the memory of the
    state in ``start`` is taken.
    """
    timed, (state, frozen) = Timed([], []), start
    for _ in range(count):
        began = time.perf_counter()
        state, metrics = made.step(state, frozen, batch, made.weight)
        timed.losses.append(float(metrics["loss"]))
        timed.seconds.append(time.perf_counter() - began)
    return timed


def peak_bytes() -> int | None:
    """The most that the first device has held; None where it does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
