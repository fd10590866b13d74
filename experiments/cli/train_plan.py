"""`mprm train --dry-run`: what a run would cost, before anything is allocated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.train_settings import (
    TINY,
    SizeArguments,
    as_options,
    mesh_shape,
    opening,
)
from experiments.console import shared
from experiments.console.tables import format_table

if TYPE_CHECKING:
    from mprm_jax.models.model import Model, Params
    from mprm_jax.train.loop import TrainingJob
    from mprm_jax.train.price import Price


def planned(options: SizeArguments) -> tuple[Model, Params]:
    """The model, and the shapes of its parameters as they would be kept."""
    import jax

    from mprm_jax.train import open_model
    from mprm_jax.train.open_backbone import is_backbone, planned_model

    folder = Path(options.model)
    if options.model == TINY or not folder.is_dir() or not is_backbone(folder):
        model, params = open_model.open_model(options.model)
        return model, jax.eval_shape(lambda: params)
    return planned_model(folder, opening(options))


def price_of(
    options: SizeArguments,
    job: TrainingJob,
    shapes: Params,
    mfu: float,
    peak_tflops: float | None,
) -> Price:
    """The price of a run on the mesh that was asked for.

    Raises:
        UsageError: a number is out of range, or the mesh cannot share a micro-batch.
        DataError: a prompt of the sample cannot be read.
    """
    from mprm_jax.train.price import (
        H100_PEAK,
        SAMPLE,
        Throughput,
        planned_mesh,
        price,
        sample_load,
    )

    peak = H100_PEAK if peak_tflops is None else peak_tflops
    try:
        throughput = Throughput(mfu, peak)
        mesh = planned_mesh(mesh_shape(options, job.plan), job)
    except ValueError as error:
        raise shared.UsageError(as_options(str(error))) from None
    count = min(SAMPLE, len(job.source))
    with shared.progress("reading", count, "prompts") as tick:
        load = sample_load(job, tick)
    return price(job, shapes, load, mesh, throughput)


def show_price(found: Price, given_peak: bool, as_json: bool) -> None:
    """Print the price of a run."""
    if as_json:
        shared.print_json(dataclasses.asdict(found))
        return
    total = sum(found.bytes_per_device.values())
    rows = [
        (f"{what} (estimate)" if what == "activations" else what, _size(held))
        for what, held in found.bytes_per_device.items()
    ]
    axes = " x ".join(f"{size} {name}" for name, size in found.mesh.items())
    print(f"{found.parameters:,} parameters, {found.trained:,} of them trained")
    print(f"devices: {found.devices} ({axes})\n")
    print(format_table(("bytes per device", ""), [*rows, ("together", _size(total))]))
    read = "all prompts"
    if found.prompts_sampled:
        read = f"a sample of {found.prompts_read:,} prompts"
    print()
    print(f"{found.updates:,} updates of {found.batch_size:,} rollouts")
    print(
        f"{found.tokens_per_update:,} tokens per update, "
        f"{found.padded_tokens_per_update:,} with padding (from {read})"
    )
    print(
        f"{found.flops_per_update:.3g} FLOPs per update: 6 per trained weight and "
        "token, 2 in a frozen tower,"
    )
    print("12 L H Q T for attention; recomputation does not count (PaLM, App. B)")
    device = "given" if given_peak else "an H100's bfloat16"
    print(
        f"{found.hours:,.3g} hours at {found.mfu:.0%} of {found.peak_tflops:,g} "
        f"TFLOP/s per device ({device})"
    )
    print("\nnothing was allocated or written")


def _size(count: float) -> str:
    if count < 2**27:
        return f"{count / 2**20:,.2f} MiB"
    return f"{count / 2**30:,.2f} GiB"
