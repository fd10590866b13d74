"""`mprm run selection --dry-run`: what a grid costs before any cell was run."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.tables import format_table
from experiments.console.training import price_run
from experiments.grid.plan import PASSES_PER_ROLLOUT, Price
from experiments.grid.tables import duration, priced

if TYPE_CHECKING:
    from experiments.grid.inputs import Inputs
    from experiments.grid.options import Options
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.train.optimizer import Budget

_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Rates:
    """What updates and evaluations of a grid cost, from shapes alone.

    Attributes:
        tokens_per_rollout: real ones, on average over a sample of the corpus.
        flops_per_update: as :mod:`mprm_jax.train.price` counts them.
        flops_per_evaluation: of the benchmark, whose solutions are taken to be as long
            as the corpus's rollouts: a forward pass, a third of a trained one.
        seconds_per_flop: of all devices together, at the utilisation and peak given.
        prompts_read: in the sample.
        devices: of the mesh.
        mfu: share of the peak that is reached.
        peak_tflops: of one device.
    """

    tokens_per_rollout: float
    flops_per_update: float
    flops_per_evaluation: float
    seconds_per_flop: float
    prompts_read: int
    devices: int
    mfu: float
    peak_tflops: float

    def flops(self, of: Price) -> float:
        """Of training and judging."""
        return (
            of.updates * self.flops_per_update
            + of.evaluations * self.flops_per_evaluation
        )

    def completed(self, of: Price) -> Price:
        """A price whose tokens and seconds were measured, or else are these."""
        tokens, seconds = of.tokens, of.seconds
        if tokens is None:
            tokens = round(of.rollouts * self.tokens_per_rollout)
        if seconds is None:
            seconds = self.flops(of) * self.seconds_per_flop
        return dataclasses.replace(of, tokens=tokens, seconds=seconds)


def rates(options: Options, inputs: Inputs, budget: Budget) -> Rates:
    """Price an update, with nothing allocated; the devices need not be here.

    Args:
        options: of the grid.
        inputs: corpus and benchmark.
        budget: of all rollouts.

    Raises:
        UsageError: a setting of the model, the mesh or the price is out of range.
        DataError: there is no such model, or a prompt of the sample cannot be read.
    """
    lengths = inputs.usable.rollouts.lengths

    def source_for(encode: Any) -> CorpusExamples:
        from mprm_jax.data.loader import CorpusExamples

        every = np.arange(len(lengths))
        return CorpusExamples(inputs.usable, every, encode, inputs.images)

    run = price_run(
        options.training(), options.cost, source_for, int(lengths.max()), budget
    )
    found = run.price
    forward = found.flops_per_update / budget.batch_size / PASSES_PER_ROLLOUT
    return Rates(
        tokens_per_rollout=run.load.tokens,
        flops_per_update=found.flops_per_update,
        flops_per_evaluation=forward * len(inputs.solutions),
        seconds_per_flop=3600 * found.hours / (found.updates * found.flops_per_update),
        prompts_read=run.prompts,
        devices=found.devices,
        mfu=options.cost.mfu,
        peak_tflops=run.peak_tflops,
    )


def as_json(whole: Price, left: Price, of: Rates) -> dict[str, Any]:
    """Both prices, and what they go by; where ``measured`` is 0, estimates."""
    return {
        name: dataclasses.asdict(of.completed(price)) | {"flops": of.flops(price)}
        for name, price in (("grid", whole), ("left", left))
    } | {"rates": dataclasses.asdict(of)}


def as_text(whole: Price, left: Price, part: str | None, of: Rates) -> str:
    """The table of what was measured, or else of what is to be expected."""
    counted = textwrap.fill(
        f"FLOPs: {of.flops(whole):.3g} for the whole grid, {of.flops(left):.3g} for "
        f"what is left, counted as mprm train --dry-run does, from {of.prompts_read:,} "
        "prompts; a judged solution as a third of a trained rollout.",
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
    devices = "1 device" if of.devices == 1 else f"{of.devices} devices"
    expected = textwrap.fill(
        f"{hours[0]:,.3g} hours for the whole grid, {hours[1]:,.3g} for what is left, "
        f"at {of.mfu:.0%} of {of.peak_tflops:,g} TFLOP/s on each of {devices}: an "
        "estimate, since no cell has been measured. Loading, compilation and reranking "
        "are not counted.",
        _WIDTH,
    )
    return f"{format_table(header, lines)}\n\n{expected}\n\n{counted}"
