"""`mprm train --dry-run`: what a run would cost, before anything is allocated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.cli import shared
from experiments.cli.tables import format_table
from experiments.cli.train_settings import (
    TINY,
    SizeArguments,
    as_options,
    mesh_shape,
    opening,
)

if TYPE_CHECKING:
    from mprm_jax.data.batches import Buckets
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.models.base import Model, Params
    from mprm_jax.optimizer import Budget
    from mprm_jax.pricing import Load, Price
    from mprm_jax.trainer import TrainConfig

# Prompts that are encoded to learn how long they are.
_SAMPLE = 256


def planned(options: SizeArguments) -> tuple[Model, Params]:
    """The model, and the shapes of its parameters as they would be kept."""
    import jax

    from mprm_jax.models import base
    from mprm_jax.opening import is_backbone, planned_model

    folder = Path(options.model)
    if options.model == TINY or not folder.is_dir() or not is_backbone(folder):
        model, params = base.open_model(options.model)
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
    import jax

    from mprm_jax.pricing import H100_PEAK, price
    from mprm_jax.sharding import MeshShape, abstract_mesh, check_rows

    shape = mesh_shape(options, budget)
    load, read = load_of_corpus(source, buckets, budget, options.seed)
    try:
        mesh = abstract_mesh(shape or MeshShape(jax.device_count(), 1))
        check_rows(mesh, budget.batch_size, config.accumulate)
        found = price(
            model,
            shapes,
            budget,
            config.optimizer,
            config.accumulate,
            mesh,
            load,
            mfu,
            H100_PEAK if peak_tflops is None else peak_tflops * 1e12,
        )
    except ValueError as error:
        raise shared.UsageError(as_options(str(error))) from None
    device = "an H100's bfloat16" if peak_tflops is None else "given"
    peak = H100_PEAK / 1e12 if peak_tflops is None else peak_tflops
    value = {
        **dataclasses.asdict(found),
        "rollouts": budget.rollouts,
        "batch_size": budget.batch_size,
        "prompts_read": read,
        "prompts_sampled": read < budget.rollouts,
        "mfu": mfu,
        "peak_tflops": peak,
        "mesh": dict(mesh.shape),
    }
    if options.json:
        shared.print_json(value)
    else:
        _print(found, value, device)


def load_of_corpus(
    source: CorpusExamples, buckets: Buckets, budget: Budget, seed: int
) -> tuple[Load, int]:
    """The load of a seeded sample of a corpus's prompts, and the sample's size.

    Raises:
        DataError: a prompt of the sample cannot be read.
    """
    from mprm_jax.pricing import load_of

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
