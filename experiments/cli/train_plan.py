"""`mprm train --dry-run`: what a run would cost, before anything is allocated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
    from jax.sharding import AbstractMesh

    from mprm_jax.data.batches import Buckets
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.models.model import Model, Params
    from mprm_jax.train.loop import TrainConfig
    from mprm_jax.train.optimizer import Budget
    from mprm_jax.train.price import Load, Price

# Prompts that are encoded to learn how long they are.
_SAMPLE = 256


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


def show_plan(
    options: SizeArguments,
    model: Model,
    shapes: Params,
    source: CorpusExamples,
    buckets: Buckets,
    budget: Budget,
    config: TrainConfig,
    mfu: float,
    peak_tflops: float | None,
) -> None:
    """Price the run, and print it.

    Raises:
        UsageError: a number is out of range.
        DataError: a prompt of the sample cannot be read.
    """
    mesh = planned_mesh(options, budget, config)
    load, read = load_of_corpus(source, buckets, budget, options.seed)
    peak = peak_of(peak_tflops)
    found = price_of(model, shapes, budget, config, mesh, load, mfu, peak)
    device = "an H100's bfloat16" if peak_tflops is None else "given"
    value = {
        **dataclasses.asdict(found),
        "rollouts": budget.rollouts,
        "batch_size": budget.batch_size,
        "prompts_read": read,
        "prompts_sampled": read < budget.rollouts,
        "mfu": mfu,
        "peak_tflops": peak / 1e12,
        "mesh": dict(mesh.shape),
    }
    if options.json:
        shared.print_json(value)
    else:
        _print(found, value, device)


def planned_mesh(
    options: SizeArguments, budget: Budget, config: TrainConfig
) -> AbstractMesh:
    """The mesh that was asked for, else a copy on every device here.

    Raises:
        UsageError: it is none, or cannot share a micro-batch.
    """
    import jax

    from mprm_jax.train.sharding import MeshShape, abstract_mesh, check_rows

    shape = mesh_shape(options, budget)
    try:
        mesh = abstract_mesh(shape or MeshShape(jax.device_count(), 1))
        check_rows(mesh, budget.batch_size, config.accumulate)
    except ValueError as error:
        raise shared.UsageError(as_options(str(error))) from None
    return mesh


def peak_of(peak_tflops: float | None) -> float:
    """Peak of one device, FLOP/s: as given, or an H100's."""
    from mprm_jax.train.price import H100_PEAK

    return H100_PEAK if peak_tflops is None else peak_tflops * 1e12


def price_of(
    model: Model,
    shapes: Params,
    budget: Budget,
    config: TrainConfig,
    mesh: AbstractMesh,
    load: Load,
    mfu: float,
    peak: float,
) -> Price:
    """As :func:`mprm_jax.train.price.price`, of a run with these settings.

    Raises:
        UsageError: the utilisation or the peak is out of range.
    """
    from mprm_jax.train.price import price

    optimizer, accumulate = config.optimizer, config.accumulate
    try:
        return price(
            model, shapes, budget, optimizer, accumulate, mesh, load, mfu, peak
        )
    except ValueError as error:
        raise shared.UsageError(as_options(str(error))) from None


def load_of_corpus(
    source: CorpusExamples, buckets: Buckets, budget: Budget, seed: int
) -> tuple[Load, int]:
    """The load of a seeded sample of a corpus's prompts, and the sample's size.

    Raises:
        DataError: a prompt of the sample cannot be read.
    """
    from mprm_jax.train.price import load_of

    rng = np.random.default_rng(seed)
    count = min(_SAMPLE, len(source))
    places = rng.permutation(len(source))[:count]
    sizes = []
    with shared.progress("reading", count, "prompts") as tick:
        for done, place in enumerate(places.tolist(), 1):
            example = source[place]
            sizes.append((len(example.tokens_L), len(example.images_PxD)))
            tick(done)
    tokens, rows = np.array(sizes).T
    return load_of(tokens, rows, budget.batch_size, buckets), count


def _print(found: Price, value: dict[str, Any], device: str) -> None:
    total = sum(found.bytes_per_device.values())
    rows = [(what, _size(held)) for what, held in found.bytes_per_device.items()]
    rows = [
        (f"{what} (estimate)" if what == "activations" else what, held)
        for what, held in rows
    ]
    axes = " x ".join(f"{size} {name}" for name, size in value["mesh"].items())
    print(f"{found.parameters:,} parameters, {found.trained:,} of them trained")
    print(f"devices: {found.devices} ({axes})\n")
    print(format_table(("bytes per device", ""), [*rows, ("together", _size(total))]))
    read = "all prompts" if not value["prompts_sampled"] else (
        f"a sample of {value['prompts_read']:,} prompts"
    )  # fmt: skip
    print()
    print(f"{found.updates:,} updates of {value['batch_size']:,} rollouts")
    print(
        f"{found.tokens_per_update:,} tokens per update, "
        f"{found.padded_tokens_per_update:,} with padding (from {read})"
    )
    print(
        f"{found.flops_per_update:.3g} FLOPs per update: 6 per trained weight and "
        "token, 2 in a frozen tower,"
    )
    print("12 L H Q T for attention; recomputation does not count (PaLM, App. B)")
    print(
        f"{found.hours:,.3g} hours at {value['mfu']:.0%} of {value['peak_tflops']:,g} "
        f"TFLOP/s per device ({device})"
    )
    print("\nnothing was allocated or written")


def _size(count: float) -> str:
    if count < 2**27:
        return f"{count / 2**20:,.2f} MiB"
    return f"{count / 2**30:,.2f} GiB"
