"""`mprm run selection --dry-run`: what a grid costs before any cell was run."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.cli.train_plan import planned, price_of
from experiments.console.tables import format_table
from experiments.grid.plan import PASSES_PER_ROLLOUT, Price
from experiments.grid.tables import duration, priced
from mprm_jax.data.update_plan import UpdatePlan

if TYPE_CHECKING:
    from experiments.grid.inputs import Inputs
    from experiments.grid.options import Options
    from mprm_jax.train import price
    from mprm_jax.train.loop import TrainConfig

_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Rates:
    """What updates and evaluations of a grid cost, from shapes alone.

    Attributes:
        run: price of a run on all rollouts.
        solutions: of the benchmark.
    """

    run: price.Price
    solutions: int

    @property
    def flops_per_evaluation(self) -> float:
        """Of the benchmark, whose solutions are taken to be as long as the corpus's
        rollouts: a forward pass, a third of a trained one.
        """
        trained = self.run.flops_per_update / self.run.batch_size
        return trained / PASSES_PER_ROLLOUT * self.solutions

    def flops(self, of: Price) -> float:
        """Of training and judging."""
        return (
            of.updates * self.run.flops_per_update
            + of.evaluations * self.flops_per_evaluation
        )

    def completed(self, of: Price) -> Price:
        """A price whose tokens and seconds were measured, or else are these."""
        tokens, seconds = of.tokens, of.seconds
        if tokens is None:
            tokens = round(of.rollouts * self.run.tokens_per_rollout)
        if seconds is None:
            seconds = self.flops(of) * self.run.seconds_per_flop
        return dataclasses.replace(of, tokens=tokens, seconds=seconds)


def rates(
    options: Options, inputs: Inputs, budget: UpdatePlan, config: TrainConfig
) -> Rates:
    """Price an update, with nothing allocated; the devices need not be here.

    Args:
        options: of the grid.
        inputs: corpus and benchmark.
        budget: of all rollouts.
        config: of the training.

    Raises:
        UsageError: a setting of the model, the mesh or the price is out of range.
        DataError: there is no such model, or a prompt of the sample cannot be read.
    """
    from mprm_jax.data.batches import open_ladder
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.train.loop import TrainingJob

    training = options.training()
    model, shapes = planned(training)
    lengths = inputs.usable.rollouts.lengths
    every = np.arange(len(lengths))
    source = CorpusExamples(inputs.usable, every, model.encode, inputs.images)
    buckets = open_ladder(int(lengths.max()))
    job = TrainingJob(model, source, budget, buckets, config)
    found = price_of(training, job, shapes, options.mfu, options.peak_tflops)
    return Rates(found, len(inputs.solutions))


def as_json(whole: Price, left: Price, of: Rates) -> dict[str, Any]:
    """Both prices, and what they go by; where ``measured`` is 0, estimates."""
    return {
        name: dataclasses.asdict(of.completed(price)) | {"flops": of.flops(price)}
        for name, price in (("grid", whole), ("left", left))
    } | {
        "rates": {
            "tokens_per_rollout": of.run.tokens_per_rollout,
            "flops_per_update": of.run.flops_per_update,
            "flops_per_evaluation": of.flops_per_evaluation,
            "seconds_per_flop": of.run.seconds_per_flop,
            "prompts_read": of.run.prompts_read,
            "devices": of.run.devices,
            "mfu": of.run.mfu,
            "peak_tflops": of.run.peak_tflops,
        }
    }


def as_text(whole: Price, left: Price, part: str | None, of: Rates) -> str:
    """The table of what was measured, or else of what is to be expected."""
    run = of.run
    counted = textwrap.fill(
        f"FLOPs: {of.flops(whole):.3g} for the whole grid, {of.flops(left):.3g} for "
        "what is left, counted as mprm train --dry-run does, from "
        f"{run.prompts_read:,} prompts; a judged solution as a third of a trained "
        "rollout.",
        _WIDTH,
    )
    if whole.seconds is not None:
        return f"{priced(whole, left, part)}\n\n{counted}"
    header = ("", "cells", "updates", "rollouts", "tokens", "FLOPs", "time")
    names = ("whole grid", "left to do" if part is None else f"left in shard {part}")
    lines = [
        (
            name,
            f"{price.cells:,}",
            f"{price.updates:,}",
            f"{price.rollouts:,}",
            f"{price.tokens:,}",
            f"{of.flops(price):.2e}",
            duration(price.seconds or 0.0),
        )
        for name, price in zip(names, map(of.completed, (whole, left)), strict=True)
    ]
    hours = [
        (price.seconds or 0.0) / 3600 for price in map(of.completed, (whole, left))
    ]
    devices = "1 device" if run.devices == 1 else f"{run.devices} devices"
    expected = textwrap.fill(
        f"{hours[0]:,.3g} hours for the whole grid, {hours[1]:,.3g} for what is left, "
        f"at {run.mfu:.0%} of {run.peak_tflops:,g} TFLOP/s on each of {devices}: an "
        "estimate, since no cell has been measured. Loading, compilation and reranking "
        "are not counted.",
        _WIDTH,
    )
    return f"{format_table(header, lines)}\n\n{expected}\n\n{counted}"
