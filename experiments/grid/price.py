"""`mprm run selection --dry-run`: what a grid costs before any cell was run."""

from __future__ import annotations

import dataclasses
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.price import TrainingData, price_run
from experiments.console.tables import format_table
from experiments.console.text import count_of, duration
from experiments.grid.inputs import Inputs
from experiments.grid.options import Options
from experiments.grid.plan import PASSES_PER_ROLLOUT, Planned
from experiments.store.results import Result
from mprm_jax.data.loader import CorpusExamples
from mprm_jax.train.update_plan import UpdatePlan

if TYPE_CHECKING:
    from mprm_jax.train.price import Price as RunPrice

_WIDTH = 80

# What of a run's price holds for every cell.
_RATES = (
    *("tokens_per_rollout", "flops_per_update", "seconds_per_flop", "prompts_read"),
    *("devices", "mfu", "peak_tflops"),
)


@dataclasses.dataclass(frozen=True)
class Price:
    """What cells take; None where nothing was measured yet.

    Attributes:
        cells: models.
        updates: of all.
        rollouts: presented.
        evaluations: of the benchmark.
        tokens: presented, from the mean of the cells that were measured.
        seconds: of updates and evaluations, from those that were measured.
        measured: cells behind ``seconds``.
    """

    cells: int
    updates: int
    rollouts: int
    evaluations: int
    tokens: int | None
    seconds: float | None
    measured: int


def price(
    planned: Sequence[Planned], found: Sequence[Result], eval_every: int
) -> Price:
    """What cells take, going by cells of the same settings that were run before."""
    updates = sum(one.updates for one in planned)
    rollouts = sum(one.presentations for one in planned)
    evaluations = sum(one.evaluations(eval_every) for one in planned)
    per_update = _measured(found, "seconds_per_update")
    per_evaluation = _measured(found, "evaluation_seconds")
    per_rollout = [
        result.metrics["tokens"] / result.metrics["rollouts"]
        for result in found
        if result.metrics.get("tokens")
    ]
    seconds = None
    if per_update and per_evaluation:
        seconds = updates * statistics.median(per_update)
        seconds += evaluations * statistics.median(per_evaluation)
    return Price(
        cells=len(planned),
        updates=updates,
        rollouts=rollouts,
        evaluations=evaluations,
        tokens=round(rollouts * statistics.mean(per_rollout)) if per_rollout else None,
        seconds=seconds,
        measured=len(per_update),
    )


def _measured(found: Sequence[Result], name: str) -> list[float]:
    values = [result.metrics.get(name) for result in found]
    return [value for value in values if value is not None]


@dataclasses.dataclass(frozen=True)
class Rates:
    """What updates and evaluations of a grid cost, from shapes alone.

    Attributes:
        run: of training on all rollouts.
        flops_per_evaluation: of the benchmark, whose solutions are taken to be as long
            as the corpus's rollouts: a forward pass, a third of a trained one.
    """

    run: RunPrice
    flops_per_evaluation: float

    def flops(self, of: Price) -> float:
        """Of training and judging."""
        return (
            of.updates * self.run.flops_per_update
            + of.evaluations * self.flops_per_evaluation
        )

    def completed(self, of: Price) -> Price:
        """A price whose tokens and seconds were measured, or else are these; seconds
        stay None where no device's peak is known.
        """
        tokens, seconds = of.tokens, of.seconds
        if tokens is None:
            tokens = round(of.rollouts * self.run.tokens_per_rollout)
        if seconds is None and (rate := self.run.seconds_per_flop) is not None:
            seconds = self.flops(of) * rate
        return dataclasses.replace(of, tokens=tokens, seconds=seconds)


def every_rollout(inputs: Inputs, plan: UpdatePlan) -> TrainingData:
    """The largest training set of a grid."""
    lengths = inputs.usable.rollouts.lengths

    def source_for(encode: Any) -> CorpusExamples:
        every = np.arange(len(lengths))
        return CorpusExamples(inputs.usable, every, encode, inputs.images)

    return TrainingData(source_for, int(lengths.max()), plan)


def rates(options: Options, inputs: Inputs, plan: UpdatePlan) -> Rates:
    """Price an update, with nothing allocated; the devices need not be here.

    Raises:
        UsageError: a setting of the model, the mesh or the price is out of range.
        DataError: there is no such model, or a prompt of the sample cannot be read.
    """
    run, _ = price_run(options.training(), options.cost, every_rollout(inputs, plan))
    forward = run.flops_per_update / run.batch_size / PASSES_PER_ROLLOUT
    return Rates(run, forward * len(inputs.solutions))


def as_json(whole: Price, left: Price, of: Rates) -> dict[str, Any]:
    """Both prices, and what they go by; where ``measured`` is 0, estimates."""
    rates = {name: getattr(of.run, name) for name in _RATES}
    return {
        name: dataclasses.asdict(of.completed(price)) | {"flops": of.flops(price)}
        for name, price in (("grid", whole), ("left", left))
    } | {"rates": rates | {"flops_per_evaluation": of.flops_per_evaluation}}


def as_text(whole: Price, left: Price, part: str | None, of: Rates) -> str:
    """The table of what was measured, or else of what is to be expected.

    Args:
        whole: price of the grid.
        left: of the cells still to be run.
        part: shard that ``left`` is of; None: of all.
        of: completes both.
    """
    header = ("", "cells", "updates", "rollouts", "tokens", "FLOPs", "time")
    names = ("whole grid", "left to do" if part is None else f"left in shard {part}")
    prices = [of.completed(price) for price in (whole, left)]
    lines = [
        (
            name,
            f"{price.cells:,}",
            f"{price.updates:,}",
            f"{price.rollouts:,}",
            f"{price.tokens:,}",
            f"{of.flops(price):.2e}",
            "-" if price.seconds is None else duration(price.seconds),
        )
        for name, price in zip(names, prices, strict=True)
    ]
    if whole.seconds is None and of.run.seconds_per_flop is None:
        basis = (
            "No time: no cell has been measured, and no device's peak is known; "
            "give it with --peak-tflops (989 for an H100 in bfloat16)."
        )
    elif whole.seconds is None:
        hours = [(price.seconds or 0.0) / 3600 for price in prices]
        run = of.run
        devices = count_of(run.devices, "device")
        basis = (
            f"{hours[0]:,.3g} hours for the whole grid, {hours[1]:,.3g} for what is "
            f"left, at {run.mfu:.0%} of {run.peak_tflops:,g} TFLOP/s on each of "
            f"{devices}: an estimate, since no cell has been measured. Loading, "
            "compilation and reranking are not counted."
        )
    else:
        basis = (
            f"Tokens and time from {count_of(whole.measured, 'measured cell')} of "
            "this store; "
            "loading, compilation and reranking not counted."
        )
    counted = (
        f"FLOPs: {of.flops(whole):.3g} for the whole grid, {of.flops(left):.3g} for "
        f"what is left, counted as mprm train --dry-run does, from "
        f"{count_of(of.run.prompts_read, 'prompt')}; a judged solution as a third of "
        "a trained rollout."
    )
    texts = (textwrap.fill(text, _WIDTH) for text in (basis, counted))
    return "\n\n".join((format_table(header, lines), *texts))
