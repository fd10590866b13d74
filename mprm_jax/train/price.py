"""What a training run will cost, from shapes alone: bytes, operations, hours.

Operations are those of the matrix products, two per multiply-add, as Chowdhery et al.
2022 (PaLM, App. B) count them for model-FLOPs utilisation: nothing for recomputation
(remat), and no discount for the half of the scores that causality hides.

- A kernel of n numbers that reads t vectors costs 2 n t forward, 2 n t for the gradient
  of its input, and 2 n t for its own gradient: 6 n t if trained, the well-known 6 N per
  token. The last is spared where it is frozen, both are spared in a frozen vision
  tower, below which nothing is trained: 2 n t. The two matrices of an adapter count
  like trained kernels.
- Attention of t vectors, each to s, in heads of width w together costs 4 t s w forward
  and 8 t s w backward: 12 L H Q T per token in PaLM's letters.
- Embeddings are looked up, and reward rows are read at markers only: neither counts.

The bytes decide what nobody asked for: how the model lies on the devices, and how many
micro-batches an update takes (:func:`choose`).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from mprm_jax.data.batches import (
    Batch,
    Bucket,
    Buckets,
    Sizes,
    plan_micro_batches,
    sizes_of,
)
from mprm_jax.data.loader import BatchOrder
from mprm_jax.data.packing import plan_rows, row_shape
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.families import part_of
from mprm_jax.models.lora import ADAPTERS
from mprm_jax.models.model import Model, Params
from mprm_jax.train.config import OptimizerConfig
from mprm_jax.train.features import backbone_of
from mprm_jax.train.loop import TrainingJob, first_places
from mprm_jax.train.optimizer import split, transformation
from mprm_jax.train.sharding import (
    MeshShape,
    abstract_mesh,
    batch_parts,
    bytes_per_device,
    check_rows,
    gather_bytes,
    moment_shardings,
)

# Dense bfloat16, TFLOP/s, by what a device's kind holds (NVIDIA's data sheets, which
# state twice as much, with sparsity).
PEAKS = {"H100 80GB HBM3": 989.0, "H200": 989.0, "A100": 312.0}

_OF_STEPS = [name for name in Batch._fields if name.endswith("_BxS")]

# Of the activations; at full size the estimate was at most 13 % below what XLA's
# compiler planned (LOG.md, what --dry-run says of the memory).
_MARGIN = 1.13


@dataclasses.dataclass(frozen=True)
class Throughput:
    """How fast devices compute.

    Attributes:
        mfu: share of a device's peak that is reached, in (0, 1].
        peak_tflops: peak of one device, TFLOP/s, finite and > 0; None: not known.

    Raises:
        ValueError: a number is out of range.
    """

    mfu: float = 0.4
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mfu <= 1:
            raise ValueError(f"mfu must lie in (0, 1], not {self.mfu}")
        if self.peak_tflops is not None and not 0 < self.peak_tflops < math.inf:
            raise ValueError(
                f"peak_tflops must be finite and positive, not {self.peak_tflops}"
            )

    def hours(self, flops: float, devices: int) -> float | None:
        """That devices take for so many operations; None without a peak."""
        if self.peak_tflops is None:
            return None
        return flops / (devices * self.peak_tflops * 1e12 * self.mfu) / 3600


def peak_here() -> float | None:
    """Peak of the devices that are here, TFLOP/s; None where it is not known, as of a
    CPU.
    """
    kind = jax.devices()[0].device_kind
    return next((peak for name, peak in PEAKS.items() if name in kind), None)


def device_memory() -> int:
    """Bytes that a device here can give, the least of all; of a CPU its share of the
    machine's. Every host must ask.
    """
    local = jax.local_devices()
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = ((device.memory_stats() or {}).get("bytes_limit") for device in local)
    least = min(limit or machine // len(local) for limit in limits)
    return min(map(int, gather_bytes(str(least).encode())))


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """What is known of the prompts of a run.

    Attributes:
        first: sizes of those of the first batches, in order.
        largest: of the one with most tokens, and of the one with most image rows.
        tokens: of a prompt, on average.
        row_bytes: of a row of the images.
        count: that were read.
    """

    first: Sizes
    largest: Sizes
    tokens: float
    row_bytes: int
    count: int


def alike(size: Bucket, count: int, row_bytes: int = 0) -> Prompts:
    """Prompts of one size."""
    columns = [np.full(count, of) for of in (size.tokens, size.patches, 0, 0, 0)]
    return _known(Sizes(*columns), Sizes(*columns), row_bytes)


def prompts_of(job: TrainingJob, sizes: Sizes) -> Prompts:
    """What is known where every rollout was measured.

    Raises:
        DataError: the rollout with most image rows cannot be read.
    """
    most = int(sizes.patches.argmax())
    example = job.source[most] if sizes.patches[most] else None
    row_bytes = 0 if example is None else example.images_PxD[:1].nbytes
    return _known(sizes.take(first_places(job)), sizes, row_bytes)


def sample_prompts(
    job: TrainingJob, tick: Callable[[int], None] = lambda done: None
) -> Prompts:
    """Read the rollouts of the first batches of a run.

    Raises:
        DataError: a prompt of them cannot be read.
    """

    def size(place: int) -> tuple[Sizes, int]:
        example = job.source[place]
        return sizes_of([example]), example.images_PxD[:1].nbytes

    found = []
    with ThreadPoolExecutor(max(job.config.threads, 1)) as pool:
        places = first_places(job).tolist()
        for done, one in enumerate(pool.map(size, places), 1):
            found.append(one)
            tick(done)
    every, row_bytes = zip(*found, strict=True)
    sizes = Sizes.joined(every)
    return _known(sizes, sizes, max(row_bytes))


def _known(first: Sizes, every: Sizes, row_bytes: int) -> Prompts:
    places = np.array([every.tokens.argmax(), every.patches.argmax()])
    tokens = float(every.tokens.mean())
    return Prompts(first, every.take(places), tokens, row_bytes, len(every.tokens))


@dataclasses.dataclass(frozen=True)
class Load:
    """The padded batches of a run.

    Attributes:
        rows: of a micro-batch.
        shapes: of the micro-batches of each of its first updates.
        largest: of those of an update with the largest prompts.
    """

    rows: int
    shapes: tuple[tuple[Bucket, ...], ...]
    largest: tuple[Bucket, ...]

    @property
    def padded_tokens(self) -> float:
        """That the devices compute in an update, on average."""
        return self.per_update(lambda shape: shape.tokens)

    @property
    def every_shape(self) -> set[Bucket]:
        """Those that occur."""
        return {*self.largest, *chain.from_iterable(self.shapes)}

    def per_update(self, of_rollout: Callable[[Bucket], float]) -> float:
        """What padded rollouts come to in an update, on average."""
        times = Counter(chain.from_iterable(self.shapes))
        total = sum(many * of_rollout(shape) for shape, many in times.items())
        return self.rows * total / len(self.shapes)


def load_of(
    prompts: Prompts, batch_size: int, accumulate: int, buckets: Buckets
) -> Load:
    """The batches that the loader makes.

    Args:
        prompts: of the run.
        batch_size: B.
        accumulate: micro-batches of an update, a divisor of B.
        buckets: shapes that batches are padded to.
    """
    rows = batch_size // accumulate

    def plan(sizes: Sizes) -> tuple[Bucket, ...]:
        parts = plan_micro_batches(sizes, buckets, accumulate, rows)
        return tuple(part.shape for part in parts)

    updates = prompts.first.batches(batch_size)
    # Two of the first update give way to the largest.
    largest = Sizes.joined([updates[0].take(slice(2, None)), prompts.largest])
    largest = largest.take(slice(-batch_size, None))
    return Load(rows, tuple(map(plan, updates)), plan(largest))


def packed_load(run: Planned, parts: int) -> Load:
    """The packed rows that the loader makes, one for each part of a mesh. Attention is
    reckoned over the whole row, of which each rollout sees its own part.

    Raises:
        ValueError: the longest rollout that was read does not fit a row.
    """
    job, prompts = run.job, run.prompts
    known = Sizes.joined([prompts.first, prompts.largest])
    shape = row_shape(prompts.first, known, job.config.pack, job.buckets.steps)
    updates = prompts.first.batches(job.plan.batch_size)
    rows = [len(plan_rows(sizes, shape)) for sizes in updates]
    shapes = tuple((shape.row,) * -(-many // parts) for many in rows)
    return Load(parts, shapes, (shape.row,))


@dataclasses.dataclass(frozen=True)
class Price:
    """The cost of a run, and what it is reckoned from.

    Attributes:
        parameters: in all.
        trained: of them.
        devices: of the mesh.
        mesh: devices along each axis.
        accumulate: micro-batches of an update.
        bytes_per_device: by what they hold; ``activations`` is an estimate.
        host_bytes: of padded batches, those read ahead too, on all hosts together.
        memory: bytes that a device has; None: not known.
        updates: T.
        tokens_per_update: real ones.
        padded_tokens_per_update: that the devices compute.
        flops_per_update: model FLOPs on the padded tokens; see the module.
        hours: at the utilisation and peak that were given; None without a peak.
        rollouts: in the training set.
        batch_size: B.
        prompts_read: to know how long prompts are.
        prompts_sampled: whether these were not all.
        mfu: share of the peak that is reached.
        peak_tflops: of one device; None: not known.
        tokens_per_rollout: real ones.
    """

    parameters: int
    trained: int
    devices: int
    mesh: dict[str, int]
    accumulate: int
    bytes_per_device: dict[str, int]
    host_bytes: int
    memory: int | None
    updates: int
    tokens_per_update: int
    padded_tokens_per_update: int
    flops_per_update: float
    hours: float | None
    rollouts: int
    batch_size: int
    prompts_read: int
    prompts_sampled: bool
    mfu: float
    peak_tflops: float | None
    tokens_per_rollout: float

    @property
    def seconds_per_flop(self) -> float | None:
        """Of all devices together; None without a peak."""
        if self.hours is None:
            return None
        return 3600 * self.hours / (self.updates * self.flops_per_update)

    @property
    def bytes_needed(self) -> int:
        """Of a device, with room for what the estimate may be too little by."""
        spare = (_MARGIN - 1) * self.bytes_per_device["activations"]
        return sum(self.bytes_per_device.values()) + math.ceil(spare)

    @property
    def fits(self) -> bool | None:
        """Whether a device has the memory; None: that is not known."""
        return None if self.memory is None else self.bytes_needed <= self.memory


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run is given.

    Attributes:
        count: of all hosts.
        memory: bytes of each; None: not known, and taken to be enough.
    """

    count: int
    memory: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
    """A run before anything is allocated.

    Attributes:
        job: model and settings, but for the number of micro-batches.
        shapes: of the parameters, as they are kept.
        prompts: of its rollouts.
    """

    job: TrainingJob
    shapes: Params
    prompts: Prompts


def choose(
    run: Planned,
    devices: Devices,
    mesh: MeshShape | None = None,
    accumulate: int | None = None,
    throughput: Throughput = Throughput(),
) -> Price:
    """The price of the mesh and the number of micro-batches that suit the devices.

    A copy of the model on each device where one fits beside the activations, else one
    copy in as many parts as there are devices (FSDP); a layer's work is not shared
    unless that is asked for. Of micro-batches as few as fit.

    Args:
        run: to be priced.
        devices: that it is given.
        mesh: asked for; None: to be chosen.
        accumulate: asked for; None: to be chosen.
        throughput: of the devices.

    Returns:
        the first that fits; if none does, the one that needs least.

    Raises:
        ValueError: the devices cannot share a batch evenly.
    """
    count, batch_size = devices.count, run.job.plan.batch_size
    meshes = [MeshShape(count, 1), MeshShape(1, count)] if mesh is None else [mesh]
    found: list[Price] = []
    for shape in dict.fromkeys(meshes):
        laid = abstract_mesh(shape)
        asked = [accumulate] if accumulate else range(1, batch_size + 1)
        if run.job.config.pack:
            asked = [1]
        parts = batch_parts(laid)
        shared = [m for m in asked if batch_size % (m * parts) == 0]
        if not shared:
            check_rows(laid, batch_size, accumulate or 1)
        for micro in shared:
            found.append(price(run, laid, micro, devices.memory, throughput))
            if found[-1].fits is not False:
                return found[-1]
    return min(found, key=lambda one: one.bytes_needed)


def price(
    run: Planned,
    mesh: AbstractMesh,
    accumulate: int,
    memory: int | None = None,
    throughput: Throughput = Throughput(),
) -> Price:
    """The cost of a run on a mesh, with nothing allocated.

    Args:
        run: to be priced.
        mesh: of devices that need not be here.
        accumulate: micro-batches of an update.
        memory: bytes of a device; None: not known.
        throughput: of the devices.
    """
    job, shapes = run.job, run.shapes
    model, plan = job.model, job.plan
    if job.config.pack:
        load = packed_load(run, batch_parts(mesh))
        accumulate = max(map(len, load.shapes))
    else:
        load = load_of(run.prompts, plan.batch_size, accumulate, job.buckets)
    trained, frozen = split(shapes, model.trainable(shapes))
    devices = math.prod(mesh.shape.values())
    work = load.per_update(
        lambda shape: sum(flops_per_rollout(model, shapes, shape).values())
    )
    rows = load.rows / batch_parts(mesh)
    masters = bytes_per_device(mesh, trained)
    sent = math.ceil(
        load.per_update(lambda shape: _bytes_of(shape, run.prompts, job.buckets))
    )
    ahead = BatchOrder.ahead if job.config.threads else 0
    filled = min(plan.batch_size, plan.presentations)
    return Price(
        parameters=_count(shapes),
        trained=_count(trained),
        devices=devices,
        mesh=dict(mesh.shape),
        accumulate=accumulate,
        bytes_per_device={
            "frozen weights": bytes_per_device(mesh, frozen),
            "trained weights (float32 masters)": masters,
            "optimiser state": _moment_bytes(job.config.optimizer, trained, mesh),
            # The sum so far and the one being added to it.
            "gradients": masters * (1 if accumulate == 1 else 2),
            "activations": max(
                activation_bytes(model, shape, rows, mesh) for shape in load.every_shape
            ),
            # The next update's are sent while this one is computed.
            "pixels and tokens": math.ceil(2 * sent / batch_parts(mesh)),
        },
        # Beside those read ahead: the next, the one under way, and the one before it.
        host_bytes=(ahead + 3) * sent,
        memory=memory,
        updates=plan.updates,
        tokens_per_update=round(filled * run.prompts.tokens),
        padded_tokens_per_update=round(load.padded_tokens),
        flops_per_update=work,
        hours=throughput.hours(plan.updates * work, devices),
        rollouts=plan.rollouts,
        batch_size=plan.batch_size,
        prompts_read=run.prompts.count,
        prompts_sampled=run.prompts.count < plan.rollouts,
        mfu=throughput.mfu,
        peak_tflops=throughput.peak_tflops,
        tokens_per_rollout=run.prompts.tokens,
    )


def scoring_mesh(
    model: Model, shapes: Params, batch_size: int, devices: Devices
) -> MeshShape:
    """Where a model lies that scores: a copy on each device where one fits beside a
    layer's activations of the longest prompts, else in as many parts as devices.

    Args:
        model: whose parameters are only read.
        shapes: of these, as they are kept.
        batch_size: prompts scored at a time, on all devices together.
        devices: that are here, of known memory.
    """
    copies = MeshShape(devices.count, 1)
    mesh, needed = abstract_mesh(copies), _bytes(shapes)
    if (backbone := backbone_of(model)) is not None:
        longest = Bucket(backbone.prompting.max_length, 0)
        rows = math.ceil(batch_size / devices.count)
        needed += _MARGIN * _decoder_layer(backbone, longest, rows, mesh).computed
    assert devices.memory is not None
    return copies if needed <= devices.memory else MeshShape(1, devices.count)


def _bytes_of(padded: Bucket, prompts: Prompts, buckets: Buckets) -> int:
    """Of a padded rollout: rows of images, tokens, and the numbers of every step."""
    numbers = padded.tokens + len(_OF_STEPS) * buckets.steps
    return padded.patches * prompts.row_bytes + 4 * numbers


def _bytes(shapes: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _count(shapes: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _moment_bytes(
    optimizer: OptimizerConfig, trained: Params, mesh: AbstractMesh
) -> int:
    masters = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), trained
    )
    moments = jax.eval_shape(transformation(optimizer).init, masters)
    shardings = moment_shardings(mesh, moments, masters)
    return bytes_per_device(mesh, moments, shardings)


def flops_per_rollout(model: Model, shapes: Params, padded: Bucket) -> dict[str, float]:
    """Operations of one padded rollout, forward and backward, by part of the model.

    Of a model that is no backbone, attention is left out and every parameter counts
    as a kernel that reads every token.
    """
    backbone = backbone_of(model)
    is_trained = model.trainable(shapes)
    if backbone is None:
        trained = _count(split(shapes, is_trained)[0])
        total = padded.tokens * (2 * _count(shapes) + 4 * trained)
        return {"all parameters": total}
    trained_leaves = jax.tree.leaves(is_trained)
    flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
    found = {"language": 0.0, "projector": 0.0, "vision": 0.0}
    projector_is_trained = any(
        train and _part(_names(path)) == "projector"
        for (path, _), train in zip(flat, trained_leaves, strict=True)
    )
    for (path, leaf), train in zip(flat, trained_leaves, strict=True):
        names = _names(path)
        if names[-1] != "kernel" and names[0] != ADAPTERS:
            continue
        part = _part(names)
        passes = part == "language" or (part == "projector" and projector_is_trained)
        times = 2 * (1 + passes + train)
        found[part] += times * leaf.size * _vectors(backbone, part, names, padded)
    found["attention"] = sum(_attention(backbone, padded))
    return found


def _names(path: tuple) -> list[str]:
    return [str(getattr(key, "key", key)) for key in path]


def _part(names: list[str]) -> str:
    return "language" if names[0] == ADAPTERS else part_of(names)


def _vectors(model: Backbone, part: str, names: list[str], padded: Bucket) -> float:
    """How many vectors of a padded rollout a kernel of a part of the model reads."""
    family, config, rows = model.family, model.config, padded.patches
    if part == "language":
        return padded.tokens
    if part == "projector":
        return float(rows * family.tokens_per_row(config))
    if names[1] == "patch":
        return family.patch_reads(config, rows)
    return math.prod(family.sequences(config, rows))


def _attention(model: Backbone, padded: Bucket) -> Iterator[float]:
    """Operations of the scores and their use, in decoder and tower."""
    config, rows = model.config, padded.patches
    language, vision = config.language, config.vision
    inner = language.heads * language.head_width
    yield 12 * language.layers * inner * padded.tokens**2
    if vision is None:
        return
    yield 4 * vision.width * model.family.scores(config, rows)


def activation_bytes(
    model: Model, padded: Bucket, rows: float, mesh: AbstractMesh
) -> int:
    """An estimate of what lies between forward and backward pass, per device.

    Kept per layer: its input (remat all), that and what its linear layers give (dots),
    or (none) the roughly 4 D + 2 Q + 4 KV + 6 F
    numbers of a token that JAX saves for the backward pass (D width, Q and KV width of
    queries and of keys, F of the feed-forward: gate, three of silu, up, product). One
    layer more is being computed, values and gradients, with 3 F after fusion. XLA's
    attention adds scores and weights, float32; cuDNN's none. The frozen tower keeps
    nothing: one layer of it is counted where that is more.

    Args:
        model: to train.
        padded: shape of the micro-batch.
        rows: rollouts of a micro-batch on one device.
        mesh: whose axis ``tensor`` splits a layer's inside.
    """
    backbone = backbone_of(model)
    if backbone is None:
        return 0
    config, compute = backbone.config, backbone.compute
    layer = _decoder_layer(backbone, padded, rows, mesh)
    carried = {"all": layer.entering, "dots": layer.entering + layer.linear}
    carried = carried.get(compute.remat, layer.saved)
    decoder = config.language.layers * carried + 2 * layer.computed
    if (vision := config.vision) is None:
        return round(decoder)
    size = jnp.dtype(compute.dtype).itemsize
    count, seen = backbone.family.sequences(config, padded.patches)
    states = rows * count * seen
    tower = states * (8 * vision.width + 3 * vision.hidden) * size
    if compute.tower_attention == "xla":
        tower += 2 * 4 * states * seen * vision.heads
    return round(max(decoder, tower))


class _Layer(NamedTuple):
    """Bytes of a decoder layer: its input, what its linear layers give, all that the
    backward pass reads, and what there is at most while it is computed.
    """

    entering: float
    linear: float
    saved: float
    computed: float


def _decoder_layer(
    model: Backbone, padded: Bucket, rows: float, mesh: AbstractMesh
) -> _Layer:
    language, compute = model.config.language, model.compute
    tensor, size = mesh.shape["tensor"], jnp.dtype(compute.dtype).itemsize
    tokens = rows * padded.tokens
    queries = language.heads * language.head_width
    keys = language.kv_heads * language.head_width
    inside = (2 * queries + 4 * keys + 3 * language.hidden) / tensor
    computed = tokens * (4 * language.width + inside) * size
    saved = computed + tokens * 3 * language.hidden / tensor * size
    if compute.attention == "xla":
        scores = 2 * 4 * tokens * padded.tokens * language.heads / tensor
        computed, saved = computed + scores, saved + scores
    linear = (queries + 2 * keys + 2 * language.hidden) / tensor + language.width
    entering = tokens * language.width * size
    return _Layer(entering, tokens * linear * size, saved, computed)
