"""How long a checkpoint stops training.

    uv run python -m experiments.benchmarks.checkpoint_stop --megabytes 200

A state of three equal trees (weights and two moments) is updated in place and saved,
in turns so that the next update waits for the disk, and so that it does not. The floor
is a copy of the state in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from mprm_jax.train.checkpoint import CheckpointWriter, Progress

# As many as an adapted backbone has: seven pairs, and the head.
_ARRAYS = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """What is saved.

    Attributes:
        megabytes: Of weights and moments together.
        pairs: Of checkpoints, one of each kind.
    """

    megabytes: int = 200
    pairs: int = 9


def state_of(megabytes: int) -> list[Any]:
    """Weights and two moments, random."""
    side = round((megabytes * 1e6 / 4 / 3 / _ARRAYS) ** 0.5)
    keys = jax.random.split(jax.random.key(0), 3 * _ARRAYS)
    draw = jax.jit(jax.vmap(lambda key: jax.random.normal(key, (side, side))))
    return [list(draw(part)) for part in jnp.split(keys, 3)]


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Append the seconds that the block takes."""
    began = time.perf_counter()
    yield
    into.append(time.perf_counter() - began)


def measure(options: Options, folder: Path) -> dict[str, list[float]]:
    """Seconds of each part, one for every pair."""
    update: Callable = jax.jit(
        lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0
    )
    state = update(state_of(options.megabytes))
    seconds: dict[str, list[float]] = {
        name: []
        for name in ("copy", "update", "waiting", "stopped", "update after", "written")
    }
    number = 0
    with CheckpointWriter(folder, 1) as writer:

        def save() -> None:
            nonlocal number
            number += 1
            weights, *moments = state
            writer.write(Progress(number, 0, "", {}, {}), weights, moments)

        for _ in range(options.pairs):
            with timed(seconds["copy"]):
                jax.tree.map(lambda x: np.array(x, copy=True), state)
            with timed(seconds["update"]):
                state = jax.block_until_ready(update(state))
            with timed(seconds["waiting"]):
                save()
                writer.settle()
            state = jax.block_until_ready(update(state))
            with timed(seconds["written"]):
                with timed(seconds["stopped"]):
                    save()
                with timed(seconds["update after"]):
                    state = jax.block_until_ready(update(state))
                writer.settle()
    return seconds


def main(options: Options) -> None:
    """Print the median of each, and the range."""
    with tempfile.TemporaryDirectory() as name:
        found = measure(options, Path(name))
    for what, seconds in found.items():
        low, high = min(seconds), max(seconds)
        print(f"{what:<13}{statistics.median(seconds):7.3f} s  ({low:.3f}-{high:.3f})")


if __name__ == "__main__":
    main(tyro.cli(Options))
