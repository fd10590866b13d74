"""Memory of one LoRA update of each backbone at full depth: said, compiled, seen.

    uv run python -m experiments.benchmarks.full_depth

InternVL2.5-8B and Qwen2.5-VL-7B by shape, weights random, one image per rollout. Three
figures for each: what ``mprm train --dry-run`` says before anything is allocated; what
the compiler of this machine's device says of the update; and, on a GPU, the peak that
the device saw over a few updates, with what it was before the first: weights are drawn
one by one, so that drawing them takes less than an update. Without a GPU nothing is
allocated and the first two are told, in float32: in bfloat16 the CPU's compiler counts
copies of all weights. A JSON line each, then a table.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import zlib
from typing import Any

import numpy as np
import tyro

from experiments.benchmarks.worker import run_worker
from experiments.console.tables import format_table
from mprm_jax.models.remat import Remat
from tests.mprm_jax.backbone_shapes import BACKBONES, BackboneName, full_config

# 672 x 448 pixels: 7 tiles (6 and the thumbnail), or 364 x 532 after Qwen's resize.
_IMAGE = (672, 448)

# Standard deviation of drawn weights, as both families' own initialisation has it.
_NEAR = 0.02


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the memory of a LoRA update at full depth.

    Attributes:
        rank: Of the adapters.
        batch_size: Rollouts per update.
        tokens: Of every rollout, those of its image included.
        steps: Of every rollout.
        updates: Timed, after one that is not; on a GPU only.
        remat: What the backward pass computes again of each layer.
        toy: A toy of each backbone, allocated and run on the CPU.
        worker: For the script itself: the backbone that a process of it measures.
    """

    rank: int = 16
    batch_size: int = 1
    tokens: int = 4096
    steps: int = 8
    updates: int = 5
    remat: Remat = "all"
    toy: bool = False
    worker: BackboneName | None = None


def make_model(options: Options, name: BackboneName) -> Any:
    """The backbone with its adapters, computing as this machine can."""
    import jax
    from tokenizers import Tokenizer, models

    from mprm_jax.models.backbone import Backbone
    from mprm_jax.models.families import Prompting, compute_here
    from mprm_jax.models.layers import Compute
    from mprm_jax.models.lora import LoraConfig, LoraModel
    from mprm_jax.models.reward_head import RewardHead

    gpu = jax.default_backend() == "gpu"
    config, head = full_config(name, options.toy), RewardHead((11, 12), tied=False)
    compute = Compute("bfloat16" if gpu else "float32", options.remat)
    compute = compute_here(config, compute)
    prompting = Prompting(options.tokens)
    backbone = Backbone(config, head, prompting, compute, Tokenizer(models.BPE()))
    return LoraModel(backbone, LoraConfig(options.rank))


def make_batch(options: Options, backbone: Any) -> Any:
    """One image per rollout, then random text."""
    from PIL import Image

    from mprm_jax.data.batches import Batch

    pixels_PxD, rows = backbone.cut((Image.new("RGB", _IMAGE, (90, 120, 150)),))
    image = int(rows[0] * backbone.family.tokens_per_row(backbone.config))
    if image + 2 + options.steps > options.tokens:
        raise SystemExit(f"full_depth: the image alone has {image} tokens")
    rng, shape = np.random.default_rng(0), (options.batch_size, options.tokens)
    tokens = rng.integers(20, backbone.config.language.vocabulary, shape)
    tokens[:, 0], tokens[:, image + 1] = 3, 4
    tokens[:, 1 : image + 1] = 5
    marker = np.linspace(image + 2, options.tokens - 1, options.steps).astype(np.int32)
    labels = rng.integers(0, 2, (options.batch_size, options.steps)).astype(np.int32)
    return Batch(
        tokens.astype(np.int32),
        np.tile(pixels_PxD, (options.batch_size, 1, 1)),
        np.tile(marker, (options.batch_size, 1)),
        labels,
        np.ones_like(labels),
        labels.astype(np.float32),
        np.ones(labels.shape, np.float32),
    )


def parameters(model: Any, key: Any) -> Any:
    """Random parameters with adapters; all but the head as they are computed with."""
    import jax

    from mprm_jax.models.lora import attach
    from mprm_jax.models.model import HEAD

    made = {
        part: tree
        if part == HEAD
        else jax.tree.map(lambda leaf: leaf.astype(model.base.compute.dtype), tree)
        for part, tree in model.base.init(key).items()
    }
    return attach(made, model.config, key)


def draw(model: Any, key: Any) -> Any:
    """Parameters of that form, drawn one by one, for at once they would take more
    memory than an update: gains of norms near 1, all else near 0.
    """
    import jax
    import jax.numpy as jnp

    @functools.partial(jax.jit, static_argnames=("shape", "dtype"))
    def near(mean: float, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        drawn = jax.random.normal(key, shape, dtype)
        return jnp.asarray(mean, dtype) + jnp.asarray(_NEAR, dtype) * drawn

    def one(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return near(float("norm" in name), own, leaf.shape, leaf.dtype)

    shapes = jax.eval_shape(functools.partial(parameters, model), key)
    return jax.tree_util.tree_map_with_path(one, shapes)


def measure(options: Options, name: BackboneName) -> dict[str, Any]:
    """What is said, compiled and seen of one backbone."""
    import jax

    from experiments.benchmarks.updates import compile_update, peak_bytes, time_updates
    from mprm_jax.data.batches import Bucket, Buckets
    from mprm_jax.train.loop import TrainConfig, TrainingJob
    from mprm_jax.train.objective import Objective
    from mprm_jax.train.optimizer import OptimizerConfig
    from mprm_jax.train.price import Planned, alike, price
    from mprm_jax.train.sharding import MeshShape, abstract_mesh
    from mprm_jax.train.update import UpdateRule, initial_state
    from mprm_jax.train.update_plan import plan

    model = make_model(options, name)
    batch = make_batch(options, model.base)
    settings, budget = OptimizerConfig(), plan(options.batch_size, options.batch_size)

    def beginning(made: Any) -> Any:
        return initial_state(model, made, budget, settings, 1e-5, consume=True)

    key = jax.random.key(0)
    shapes = jax.eval_shape(functools.partial(parameters, model), key)
    images_BxPxD = batch.images_BxPxD
    shape = Bucket(options.tokens, images_BxPxD.shape[1])
    prompts = alike(shape, options.batch_size, images_BxPxD[0, :1].nbytes)
    mesh = abstract_mesh(MeshShape(1, 1, 1))
    buckets, config = Buckets((shape,), 1), TrainConfig(optimizer=settings)
    job = TrainingJob(model, [], budget, buckets, config)
    said = price(Planned(job, shapes, prompts), mesh, 1)
    allocate = options.toy or jax.default_backend() == "gpu"
    if allocate:
        start = beginning(draw(model, key))
    else:
        start = jax.eval_shape(beginning, shapes)
    made = compile_update(start, batch, UpdateRule(model, settings, Objective()))
    compiled = made.step.memory_analysis()
    assert compiled is not None
    before, count = peak_bytes(), options.updates + 1 if allocate else 0
    timed = time_updates(made, start, batch, count)
    if not np.isfinite(timed.losses).all():
        raise SystemExit(f"full_depth: {name}: the loss is not finite")
    return {
        "name": name,
        "device": jax.local_devices()[0].device_kind,
        "dtype": model.base.compute.dtype,
        "parameters": said.parameters,
        "trained": said.trained,
        "said": said.bytes_per_device,
        "compiled": {
            "kept": compiled.argument_size_in_bytes,
            "temporary": compiled.temp_size_in_bytes,
        },
        "compile_seconds": made.seconds,
        "seconds": timed.seconds[1:],
        "peak_bytes_before": before,
        "peak_bytes": peak_bytes(),
    }


def main(options: Options) -> None:
    """A process for each backbone, whose device memory ends with it."""
    if options.worker is not None:
        print(json.dumps(measure(options, options.worker)))
        return
    rows, device = [], ""
    for name in BACKBONES:
        try:
            found = run_worker("full_depth", dataclasses.replace(options, worker=name))
        except SystemExit as error:
            print(json.dumps({"name": name, "error": str(error)}), flush=True)
            continue
        print(json.dumps(found), flush=True)
        device = f"{found['device']}, {found['dtype']}"
        rows.append(_row(found, 2**20 if options.toy else 2**30))
    print(
        format_table(
            ("", "parameters", "trained", "kept, said", "compiled", "temporary, said",
             "compiled", "peak", "ms", "compile s"),
            rows,
        )
    )  # fmt: skip
    print(
        f"{'MiB' if options.toy else 'GiB'}; rank {options.rank}, "
        f"{options.batch_size} x {options.tokens} tokens, one image each; {device}"
    )


def _row(found: dict[str, Any], unit: int) -> tuple[str, ...]:
    said, compiled = found["said"], found["compiled"]
    temporary = said["gradients"] + said["activations"]
    sizes = (
        sum(said.values()) - temporary,
        compiled["kept"],
        temporary,
        compiled["temporary"],
        found["peak_bytes"],
    )
    seconds = found["seconds"]
    return (
        found["name"],
        f"{found['parameters']:,}",
        f"{found['trained']:,}",
        *("-" if size is None else f"{size / unit:.3g}" for size in sizes),
        f"{1e3 * statistics.median(seconds):,.0f}" if seconds else "-",
        f"{found['compile_seconds']:.0f}",
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
