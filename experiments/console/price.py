"""What a run costs, and the mesh and micro-batches that its price chooses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Optional

from experiments.console.errors import UsageError
from experiments.console.options import OptionalInt, check_least, given, wrong_usage
from experiments.console.progress import progress
from experiments.console.tables import format_table
from experiments.console.text import count_of, duration, size
from experiments.console.training import TrainingOptions
from mprm_jax.records.problems import DataError
from mprm_jax.train.update_plan import UpdatePlan

if TYPE_CHECKING:
    from mprm_jax.data.batches import Sizes
    from mprm_jax.data.loader import Encode, Source
    from mprm_jax.train.loop import TrainingJob
    from mprm_jax.train.price import Devices, Planned, Price, Throughput
    from mprm_jax.train.sharding import MeshShape

_GIB = 1 << 30

# Adapters of the size that LOG.md's full-depth measurements have.
_LORA_RANK = 16

# Machines beyond so many devices are not proposed.
_MOST_DEVICES = 1024


@dataclasses.dataclass(frozen=True)
class PriceOptions:
    """What it would cost.

    Attributes:
        dry_run: Say whether it fits and what it takes, and do nothing: parameters,
            bytes per device, updates, tokens, FLOPs, and hours where a device's peak is
            known; the devices need not be here, nor a backbone's weights: its
            config.json and tokenizer.json are enough.
        devices: With --dry-run: how many, if not those here nor those of --mesh.
        memory: With --dry-run: of each device in GiB, if they are not here.
        mfu: With --dry-run: share of the devices' peak that will be reached.
        peak_tflops: With --dry-run: peak of one device in TFLOP/s, from which hours
            follow (in bfloat16 989 for an H100, 312 for an A100; by default that of
            the GPU here).
    """

    dry_run: bool = False
    devices: OptionalInt = None
    memory: Optional[float] = None  # noqa: UP045
    mfu: float = 0.4
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for name in given(self):
            if not self.dry_run:
                raise UsageError(f"{name} needs --dry-run")
        check_least(self, devices=1)
        if self.memory is not None and not 0 < self.memory * _GIB < float("inf"):
            raise UsageError(f"--memory must be finite and positive, not {self.memory}")

    def throughput(self) -> Throughput:
        """How fast the devices compute.

        Raises:
            UsageError: a number is out of range, or a share is given of no peak.
        """
        from mprm_jax.train.price import Throughput, peak_here

        peak = peak_here() if self.peak_tflops is None else self.peak_tflops
        with wrong_usage():
            found = Throughput(self.mfu, peak)
        if peak is None and "--mfu" in given(self):
            raise UsageError(
                "--mfu needs --peak-tflops: the peak of this device is unknown"
            )
        return found

    def given_devices(self, mesh: MeshShape | None) -> Devices:
        """The devices that were asked for, else those that are here.

        Raises:
            UsageError: --devices and --mesh disagree.
        """
        import math

        import jax

        from mprm_jax.train.price import Devices, device_memory
        from mprm_jax.train.sharding import abstract_mesh

        count = self.devices or jax.device_count()
        if mesh is not None:
            with wrong_usage("--mesh"):
                count = math.prod(abstract_mesh(mesh).shape.values())
            if self.devices not in (None, count):
                raise UsageError(f"--devices {self.devices}, but --mesh has {count}")
        if self.memory is not None:
            return Devices(count, int(self.memory * _GIB))
        # Of a GPU more of the same can be had; a CPU stands for nothing.
        here = count == jax.device_count() or jax.default_backend() != "cpu"
        return Devices(count, device_memory() if here else None)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Attributes:
        source_for: from a model's ``encode`` to the rollouts.
        longest: steps of a rollout.
        plan: of the run.
        sizes: of the rollouts; None: they were not measured.
    """

    source_for: Callable[[Any], Source]
    longest: int
    plan: UpdatePlan
    sizes: Sizes | None = None


def planned_job(options: TrainingOptions, on: TrainingData) -> tuple[TrainingJob, Any]:
    """A run before its model has weights, and the shapes of these.

    Raises:
        UsageError: a setting of the model is out of range.
        DataError: there is no such model.
    """
    import jax

    from mprm_jax.data.batches import open_ladder
    from mprm_jax.train import open_model as models
    from mprm_jax.train.loop import TrainingJob
    from mprm_jax.train.open_backbone import planned_model

    folder = options.backbone_folder()
    if folder is not None:
        model, shapes = planned_model(folder, options.backbone.opening())
    else:
        model, params = models.open_model(options.model)
        shapes = jax.eval_shape(lambda: params)
    source, ladder = on.source_for(model.encode), open_ladder(on.longest)
    job = TrainingJob(model, source, on.plan, ladder, options.config(), on.sizes)
    return job, shapes


def encoder(options: TrainingOptions, on: TrainingData) -> Encode:
    """What reads the prompts of a run, before any weights; whatever else is cheap to
    find wrong is found.

    Raises:
        UsageError: the devices cannot share a batch.
        DataError: there is no such model, or its weights or devices are not here.
    """
    from mprm_jax.models.folder import DESCRIPTION
    from mprm_jax.models.weights import tensors
    from mprm_jax.train.sharding import check_rows, make_mesh

    job, _ = planned_job(options, on)
    folder, shape = options.backbone_folder(), options.mesh_shape()
    if folder is not None and not (folder / DESCRIPTION).is_file():
        tensors.stored_layout(folder)
    if shape is not None:
        with wrong_usage("--mesh"):
            check_rows(make_mesh(shape), on.plan.batch_size, options.accumulate or 1)
    return job.model.encode


def planned_run(options: TrainingOptions, on: TrainingData) -> Planned:
    """A run with what is known of its prompts: of all if they were measured, else of a
    sample that is read.

    Raises:
        UsageError: a setting of the model is out of range, or a rollout longer than a
            packed row.
        DataError: there is no such model, or a prompt cannot be read.
    """
    from mprm_jax.train.loop import first_places
    from mprm_jax.train.price import Planned, prompts_of, sample_prompts

    job, shapes = planned_job(options, on)
    if on.sizes is not None:
        prompts = prompts_of(job, on.sizes)
    else:
        with progress("reading", len(first_places(job)), "prompts") as tick:
            prompts = sample_prompts(job, tick)
    pack, longest = options.loop.pack, int(prompts.largest.tokens.max())
    if 0 < pack < longest:
        raise UsageError(
            f"--pack {pack}: a rollout has {longest} tokens; give rows at least as "
            "many, or prompts fewer (--max-length)"
        )
    return Planned(job, shapes, prompts)


def price_run(
    options: TrainingOptions, asked: PriceOptions, on: TrainingData
) -> tuple[Price, str]:
    """Price a run, with nothing allocated; the devices need not be here.

    Returns:
        its price, and what would fit if it does not.

    Raises:
        UsageError: a setting of the model, the mesh or the price is out of range.
        DataError: as :func:`planned_run`.
    """
    from mprm_jax.train.price import choose

    mesh, throughput = options.mesh_shape(), asked.throughput()
    devices = asked.given_devices(mesh)
    run = planned_run(options, on)
    accumulate = options.accumulate
    if options.backbone_folder() is None:
        accumulate = accumulate or 1
    with wrong_usage(_who_shares(mesh)):
        found = choose(run, devices, mesh, accumulate, throughput)
    would = _what_would(options, run, devices) if found.fits is False else ""
    return found, would


def _who_shares(mesh: MeshShape | None) -> str:
    """The option to name where devices cannot share a batch."""
    return "--batch-size" if mesh is None else "--mesh"


def fitted(
    options: TrainingOptions, on: TrainingData
) -> tuple[TrainingOptions, Price | None]:
    """The options with the mesh and the micro-batches that fit the devices here, where
    the user named none, and the price that chose them; None: nothing was left to
    choose. Nothing is allocated.

    Raises:
        UsageError: the devices cannot share a batch.
        DataError: nothing fits, with what would; or as :func:`planned_run`.
    """
    import jax

    from mprm_jax.train.price import Devices, choose, device_memory

    mesh, folder = options.mesh_shape(), options.backbone_folder()
    if folder is None or (mesh is not None and options.accumulate is not None):
        return options, None
    run = planned_run(options, on)
    devices = Devices(jax.device_count(), device_memory())
    with wrong_usage(_who_shares(mesh)):
        found = choose(run, devices, mesh, options.accumulate)
    if not found.fits:
        raise DataError(f"{verdict(found)}; {_what_would(options, run, devices)}")
    sizes = "x".join(map(str, found.mesh.values()))
    backbone = dataclasses.replace(options.backbone, mesh=sizes)
    # Packed rows make their own micro-batches.
    parts = None if options.loop.pack else found.accumulate
    return dataclasses.replace(options, backbone=backbone, accumulate=parts), found


def verdict(price: Price) -> str:
    """Does it fit? One line."""
    needed = f"{size(price.bytes_needed)} on each of {_mesh(price)}"
    parts = count_of(price.accumulate, "micro-batch", "micro-batches")
    rows = f"in {parts} of {count_of(price.batch_size // price.accumulate, 'rollout')}"
    if price.fits is None:
        return f"needs {needed}, {rows}; --memory GIB tells whether it fits"
    if price.fits:
        return f"fits: {needed}, of {size(price.memory or 0)}, {rows}"
    return f"does not fit: {needed}, of {size(price.memory or 0)}, even {rows}"


def _mesh(price: Price) -> str:
    return f"{count_of(price.devices, 'device')} ({_axes(price)})"


def _axes(price: Price) -> str:
    return " x ".join(f"{many} {name}" for name, many in price.mesh.items())


def _what_would(options: TrainingOptions, run: Planned, devices: Devices) -> str:
    """What would fit instead."""
    found = list(_alternatives(options, run, devices))
    return f"would fit: {', '.join(found)}" if found else "nor does any other setting"


def _alternatives(
    options: TrainingOptions, run: Planned, devices: Devices
) -> Iterator[str]:
    from mprm_jax.models.lora import LoraConfig
    from mprm_jax.train.open_backbone import planned_model
    from mprm_jax.train.price import Devices, Planned, choose

    def fits(run: Planned, count: int = devices.count) -> bool:
        try:
            return choose(run, Devices(count, devices.memory)).fits is True
        except ValueError:
            return False

    count = devices.count
    while (count := 2 * count) <= _MOST_DEVICES:
        if fits(run, count):
            yield f"{count} devices"
            break
    optimizer = dataclasses.replace(
        run.job.config.optimizer, kind="adafactor", first_moment="float32"
    )
    config = dataclasses.replace(run.job.config, optimizer=optimizer)
    job = dataclasses.replace(run.job, config=config)
    if fits(Planned(job, run.shapes, run.prompts)):
        yield "--optimizer adafactor"
    if (folder := options.backbone_folder()) and options.backbone.lora_rank is None:
        opening = dataclasses.replace(
            options.backbone.opening(), lora=LoraConfig(_LORA_RANK)
        )
        model, shapes = planned_model(folder, opening)
        job = dataclasses.replace(run.job, model=model)
        if fits(Planned(job, shapes, run.prompts)):
            yield f"--lora-rank {_LORA_RANK}"


def price_text(price: Price, asked: PriceOptions, would: str = "") -> str:
    """The price as a page of text; whether it fits, or what would, comes first."""
    rows = [
        (what + " (estimate)" * (what == "activations"), size(held))
        for what, held in price.bytes_per_device.items()
    ]
    rows.append(("together", size(sum(price.bytes_per_device.values()))))
    rows.append(("with room for the estimate's error", size(price.bytes_needed)))
    read = "all prompts"
    if price.prompts_sampled:
        read = f"a sample of {price.prompts_read:,} prompts"
    hours = "no hours: they follow from a device's peak, --peak-tflops"
    if price.hours is not None:
        whose = "given" if asked.peak_tflops else "of the device here"
        hours = (
            f"{duration(3600 * price.hours)} at {price.mfu:.0%} of "
            f"{price.peak_tflops:,g} TFLOP/s per device ({whose})"
        )
    return f"""\
{"; ".join(filter(None, (verdict(price), would)))}

{price.parameters:,} parameters, {price.trained:,} of them trained
devices: {price.devices} ({_axes(price)})

{format_table(("bytes per device", ""), rows)}

{size(price.host_bytes)} of batches read ahead, on all hosts together
{count_of(price.updates, "update")} of up to {count_of(price.batch_size, "rollout")}, \
{price.rollouts:,} to train on
{price.tokens_per_update:,} tokens per update, \
{price.padded_tokens_per_update:,} with padding (from {read})
{price.flops_per_update:.3g} FLOPs per update: 6 per trained weight and token, \
2 in a frozen tower,
12 L H Q T for attention; recomputation does not count (PaLM, App. B)
{hours}

nothing was allocated or written"""
