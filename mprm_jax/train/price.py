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
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from mprm_jax.data.batches import Buckets
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.families import part_of
from mprm_jax.models.lora import ADAPTERS, base_of
from mprm_jax.models.model import Model, Params
from mprm_jax.train.config import OptimizerConfig
from mprm_jax.train.loop import TrainingJob
from mprm_jax.train.optimizer import split, transformation
from mprm_jax.train.sharding import batch_parts, bytes_per_device, moment_shardings

# Dense bfloat16, TFLOP/s, by what a device's kind holds (NVIDIA's data sheets, which
# state twice as much, with sparsity).
PEAKS = {"H100 80GB HBM3": 989.0, "H200": 989.0, "A100": 312.0}

# Prompts that are encoded to learn how long they are.
SAMPLE = 256


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


def peak_here() -> float | None:
    """Peak of the devices that are here, TFLOP/s; None where it is not known, as of a
    CPU.
    """
    kind = jax.devices()[0].device_kind
    return next((peak for name, peak in PEAKS.items() if name in kind), None)


@dataclasses.dataclass(frozen=True)
class Load:
    """What one rollout brings, on average over batches.

    Attributes:
        tokens: real ones.
        padded_tokens: L of its batch.
        padded_rows: P of its batch: patches (Qwen2.5-VL) or tiles (InternVL2.5).
        prompts: that were read to know it.
    """

    tokens: float
    padded_tokens: float
    padded_rows: float
    prompts: int = 0


def load_of(
    tokens: np.ndarray, rows: np.ndarray, batch_size: int, buckets: Buckets
) -> Load:
    """The load of prompts of these lengths, in batches of the order given.

    Of fewer prompts than a batch holds, one batch is made: as long as the longest.

    Args:
        tokens: of each prompt.
        rows: of each prompt's images.
        batch_size: B.
        buckets: shapes that batches are padded to.
    """
    shapes = [
        buckets.choose(
            int(tokens[start : start + batch_size].max()),
            int(rows[start : start + batch_size].max()),
        )
        for start in range(0, max(1, len(tokens) - batch_size + 1), batch_size)
    ]
    return Load(
        float(tokens.mean()),
        float(np.mean([shape.tokens for shape in shapes])),
        float(np.mean([shape.patches for shape in shapes])),
        len(tokens),
    )


def sample_load(
    job: TrainingJob, tick: Callable[[int], None] = lambda done: None
) -> Load:
    """The load of a seeded sample of a job's rollouts.

    Raises:
        DataError: a prompt of the sample cannot be read.
    """
    order = np.random.default_rng(job.config.seed).permutation(len(job.source))
    places = order[:SAMPLE].tolist()
    sizes = []
    for done, place in enumerate(places, 1):
        example = job.source[place]
        sizes.append((len(example.tokens_L), len(example.images_PxD)))
        tick(done)
    tokens, rows = np.array(sizes).T
    return load_of(tokens, rows, job.plan.batch_size, job.buckets)


@dataclasses.dataclass(frozen=True)
class Price:
    """The cost of a run, and what it is reckoned from.

    Attributes:
        parameters: in all.
        trained: of them.
        devices: of the mesh.
        bytes_per_device: by what they hold; ``activations`` is an estimate.
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
        mesh: devices along each axis.
        tokens_per_rollout: real ones.
    """

    parameters: int
    trained: int
    devices: int
    bytes_per_device: dict[str, int]
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
    mesh: dict[str, int]
    tokens_per_rollout: float

    @property
    def seconds_per_flop(self) -> float | None:
        """Of all devices together; None without a peak."""
        if self.hours is None:
            return None
        return 3600 * self.hours / (self.updates * self.flops_per_update)


def price(
    job: TrainingJob,
    shapes: Params,
    load: Load,
    mesh: AbstractMesh,
    throughput: Throughput = Throughput(),
) -> Price:
    """The cost of a run on a mesh, with nothing allocated.

    Args:
        job: model and settings.
        shapes: of the parameters, as they are kept.
        load: of the rollouts.
        mesh: of devices that need not be here.
        throughput: of the devices.
    """
    model, plan, accumulate = job.model, job.plan, job.config.accumulate
    trained, frozen = split(shapes, model.trainable(shapes))
    devices = math.prod(mesh.shape.values())
    work = plan.batch_size * sum(flops_per_rollout(model, shapes, load).values())
    rows = plan.batch_size / accumulate / batch_parts(mesh)
    masters = bytes_per_device(mesh, trained)
    hours = None
    if throughput.peak_tflops is not None:
        reached = devices * throughput.peak_tflops * 1e12 * throughput.mfu
        hours = plan.updates * work / reached / 3600
    return Price(
        parameters=_count(shapes),
        trained=_count(trained),
        devices=devices,
        bytes_per_device={
            "frozen weights": bytes_per_device(mesh, frozen),
            "trained weights (float32 masters)": masters,
            "optimiser state": _moment_bytes(job.config.optimizer, trained, mesh),
            # The sum so far and the one being added to it.
            "gradients": masters * (1 if accumulate == 1 else 2),
            "activations": activation_bytes(model, load, rows, mesh),
        },
        updates=plan.updates,
        tokens_per_update=round(plan.batch_size * load.tokens),
        padded_tokens_per_update=round(plan.batch_size * load.padded_tokens),
        flops_per_update=work,
        hours=hours,
        rollouts=plan.rollouts,
        batch_size=plan.batch_size,
        prompts_read=load.prompts,
        prompts_sampled=load.prompts < plan.rollouts,
        mfu=throughput.mfu,
        peak_tflops=throughput.peak_tflops,
        mesh=dict(mesh.shape),
        tokens_per_rollout=load.tokens,
    )


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


def flops_per_rollout(model: Model, shapes: Params, load: Load) -> dict[str, float]:
    """Operations of one padded rollout, forward and backward, by part of the model.

    Of a model that is no backbone, attention is left out and every parameter counts
    as a kernel that reads every token.
    """
    backbone = _backbone(model)
    is_trained = model.trainable(shapes)
    if backbone is None:
        trained = _count(split(shapes, is_trained)[0])
        total = load.padded_tokens * (2 * _count(shapes) + 4 * trained)
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
        found[part] += times * leaf.size * _vectors(backbone, part, names, load)
    found["attention"] = sum(_attention(backbone, load))
    return found


def _names(path: tuple) -> list[str]:
    return [str(getattr(key, "key", key)) for key in path]


def _part(names: list[str]) -> str:
    return "language" if names[0] == ADAPTERS else part_of(names)


def _vectors(model: Backbone, part: str, names: list[str], load: Load) -> float:
    """How many vectors of a padded rollout a kernel of a part of the model reads."""
    family, config, rows = model.family, model.config, load.padded_rows
    if part == "language":
        return load.padded_tokens
    if part == "projector":
        return rows * family.tokens_per_row(config)
    if names[1] == "patch":
        return family.patch_reads(config, rows)
    return math.prod(family.sequences(config, rows))


def _attention(model: Backbone, load: Load) -> Iterator[float]:
    """Operations of the scores and their use, in decoder and tower."""
    config, rows = model.config, load.padded_rows
    language, vision = config.language, config.vision
    inner = language.heads * language.head_width
    yield 12 * language.layers * inner * load.padded_tokens**2
    if vision is None:
        return
    yield 4 * vision.width * model.family.scores(config, rows)


def activation_bytes(model: Model, load: Load, rows: float, mesh: AbstractMesh) -> int:
    """An estimate of what lies between forward and backward pass, per device.

    Kept per layer: its input (with remat), or the roughly 4 D + 2 Q + 4 KV + 6 F
    numbers of a token that JAX saves for the backward pass (D width, Q and KV width of
    queries and of keys, F of the feed-forward: gate, three of silu, up, product). One
    layer more is being computed, values and gradients, with 3 F after fusion. XLA's
    attention adds scores and weights, float32; cuDNN's none. The frozen tower keeps
    nothing: one layer of it is counted where that is more.

    Args:
        model: to train.
        load: of the corpus.
        rows: rollouts of a micro-batch on one device.
        mesh: whose axis ``tensor`` splits a layer's inside.
    """
    backbone = _backbone(model)
    if backbone is None:
        return 0
    config, compute, tensor = backbone.config, backbone.compute, mesh.shape["tensor"]
    language, vision = config.language, config.vision
    size = jnp.dtype(compute.dtype).itemsize
    tokens = rows * load.padded_tokens
    queries = language.heads * language.head_width
    keys = language.kv_heads * language.head_width
    inside = (2 * queries + 4 * keys + 3 * language.hidden) / tensor
    layer = tokens * (4 * language.width + inside) * size
    saved = layer + tokens * 3 * language.hidden / tensor * size
    if compute.attention == "xla":
        scores = 2 * 4 * tokens * load.padded_tokens * language.heads / tensor
        layer, saved = layer + scores, saved + scores
    entering = tokens * language.width * size
    linear = (queries + 2 * keys + 2 * language.hidden) / tensor + language.width
    carried = {"all": entering, "dots": entering + tokens * linear * size}
    carried = carried.get(compute.remat, saved)
    decoder = language.layers * carried + 2 * layer
    if vision is None:
        return round(decoder)
    count, seen = backbone.family.sequences(config, load.padded_rows)
    states = rows * count * seen
    tower = states * (8 * vision.width + 3 * vision.hidden) * size
    tower += 2 * 4 * states * seen * vision.heads
    return round(max(decoder, tower))


def _backbone(model: Model) -> Backbone | None:
    base = base_of(model)
    return base if isinstance(base, Backbone) else None
