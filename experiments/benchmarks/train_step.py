"""What an update of the tiny model costs, beside its floor and beside PyTorch.

    uv run --group parity python -m experiments.benchmarks.train_step

Cost is CPU time on one core, so that no thread spins while it waits for another and
busy neighbours count little. The floor is the FLOPs of the matrix products of a forward
and a backward pass over the rate of one large float32 product, measured in the same
rounds. PyTorch runs the same model from the same parameters on the same batches; its
loss of each update is compared with ours before anything is timed. Rounds are
interleaved.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.console.tables import format_table
from experiments.grid.demo import ACCUMULATE
from mprm_jax.data.batches import Batch, Bucket, Buckets, Example, collate
from mprm_jax.models.tiny import TinyConfig, TinyModel
from mprm_jax.train.objective import Objective, StepLabeller
from mprm_jax.train.open_model import open_model
from mprm_jax.train.optimizer import OptimizerConfig
from mprm_jax.train.update import UpdateRule, initial_state, update
from mprm_jax.train.update_plan import plan

_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure one update of the tiny model.

    Attributes:
        batch_size: Rollouts per update.
        tokens: Of every rollout.
        steps: Of every rollout.
        updates: Per round.
        rounds: Interleaved; medians are reported.
        accumulate: Micro-batches of our update, as the demo has.
    """

    batch_size: int = 16
    tokens: int = 96
    steps: int = 6
    updates: int = 10
    rounds: int = 5
    accumulate: int = ACCUMULATE


def random_batches(options: Options, config: TinyConfig) -> list[Batch]:
    """Random rollouts in the shape of the demo's."""
    rng = np.random.default_rng(0)
    patches = len(config.cell_tokens)
    shape = Buckets((Bucket(options.tokens, patches),), options.steps)
    marker_S = np.linspace(8, options.tokens - 1, options.steps).astype(np.int32)

    def example() -> Example:
        pixels = rng.integers(0, 256, (patches, config.patch_dim)).astype(np.uint8)
        tokens_L = rng.integers(3, config.vocab_size, options.tokens).astype(np.int32)
        successes_S = rng.integers(0, 17, options.steps).astype(np.int32)
        trials_S = np.full(options.steps, 16, np.int32)
        return Example(tokens_L, pixels, marker_S, successes_S, trials_S)

    return [
        collate(
            [example() for _ in range(options.batch_size)],
            shape,
            options.batch_size,
            StepLabeller(Objective()),
        )
        for _ in range(options.updates)
    ]


def update_flops(config: TinyConfig, options: Options) -> float:
    """Multiply-adds of the matrix products of one update, times two.

    Forward once; backward twice that, but nothing below the projector, which is frozen
    with all that comes before it. The lower triangle of attention alone is counted.
    """
    d, patches = config.width, len(config.cell_tokens)
    length = patches + options.tokens
    block = (4 + 2 * config.mlp_ratio) * d * d
    vision = (
        patches * (2 * d * config.patch_dim + 2 * d * d + config.vision_layers * block)
        + config.vision_layers * 2 * patches**2 * d
    )
    decoder = config.layers * (length * block + length**2 * d) + patches * d * d
    # The projector's own input needs no gradient.
    backward = 2 * decoder - patches * d * d
    return 2.0 * options.batch_size * (vision + decoder + backward)


def matmul_rate(size: int = 1024, repeats: int = 4) -> float:
    """FLOP per CPU second of a float32 product of two square matrices."""
    product = jax.jit(jnp.matmul)
    a = jnp.ones((size, size), jnp.float32)
    product(a, a).block_until_ready()
    began = time.process_time()
    for _ in range(repeats):
        product(a, a).block_until_ready()
    return repeats * 2 * size**3 / (time.process_time() - began)


def jax_run(
    model: TinyModel, params: dict, accumulate: int, batches: list[Batch]
) -> list[float]:
    """Losses of one update after another."""
    budget = plan(len(batches), 1, warmup_share=0)
    state, frozen = initial_state(model, params, budget, OptimizerConfig(), _RATE)
    rule = UpdateRule(model, OptimizerConfig(), Objective())
    losses = []
    for batch in batches:
        parts = [
            jax.tree.map(lambda rows, i=i: rows[i::accumulate], batch)
            for i in range(accumulate)
        ]
        weight = float(batch.weight_BxS.sum())
        state, metrics = update(state, frozen, parts, weight, rule)
        losses.append(float(metrics["loss"]))
    return losses


def torch_run_of(
    model: TinyModel, params: dict
) -> Callable[[list[Batch]], list[float]] | None:
    """The same updates in PyTorch, or None where it is not installed."""
    try:
        from experiments.benchmarks.torch_tiny import run
    except ImportError:
        return None
    arrays = jax.tree.map(np.asarray, params)
    return partial(run, model.config, arrays, rate=_RATE)


def main(options: Options) -> None:
    """Compare, measure, print."""
    if hasattr(os, "sched_setaffinity"):
        # Before the first product starts its threads.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model, params = open_model("tiny")
    assert isinstance(model, TinyModel)
    batches = random_batches(options, model.config)
    runs: dict[str, Callable[[list[Batch]], list[float]]] = {
        f"in {parts} parts": partial(jax_run, model, params, parts)
        for parts in sorted({1, options.accumulate})
    }
    theirs = torch_run_of(model, params)
    if theirs is not None:
        runs["PyTorch"] = theirs
    losses = {name: run(batches) for name, run in runs.items()}
    if theirs is not None:
        ours, other = losses[f"in {options.accumulate} parts"], losses["PyTorch"]
        apart = float(np.max(np.abs(np.array(ours) - np.array(other))))
        print(f"losses of {len(ours)} updates differ by at most {apart:.1e}")
        assert apart < 2e-3
    cost: dict[str, list[float]] = {name: [] for name in runs}
    rates = []
    for _ in range(options.rounds):
        rates.append(matmul_rate())
        for name, run in runs.items():
            began = time.process_time()
            run(batches)
            cost[name].append((time.process_time() - began) / len(batches))
    rate = statistics.median(rates)
    floor = update_flops(model.config, options) / rate
    rows = [
        (
            name,
            f"{1e3 * (middle := statistics.median(of)):.1f}",
            f"{1e3 * min(of):.1f}-{1e3 * max(of):.1f}",
            f"{60 * options.batch_size / middle:,.0f}",
            f"{middle / floor:.1f}",
        )
        for name, of in cost.items()
    ]
    rows.append(("floor", f"{1e3 * floor:.1f}", "", "", "1.0"))
    print(
        format_table(
            ("", "cpu ms/update", "range", "rollouts/cpu min", "x floor"), rows
        )
    )
    print(
        f"{update_flops(model.config, options) / 1e9:.2f} GFLOP per update of "
        f"{options.batch_size} x {options.tokens} tokens; {rate / 1e9:.0f} GFLOP per "
        "CPU second in a 1024 x 1024 float32 product"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
