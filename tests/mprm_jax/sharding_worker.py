"""Trains a tiny backbone on eight fake devices in every way; prints what came out."""

import dataclasses
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mprm_jax import sharding, update
from mprm_jax.data.batches import Batch
from mprm_jax.models.backbone import Prompting, load_backbone
from mprm_jax.models.layers import Compute
from mprm_jax.objective import Objective
from mprm_jax.optimizer import OptimizerConfig, plan
from mprm_jax.sharding import MeshShape
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder

UPDATES = 3
LOAD = {"prompting": Prompting(max_length=64), "compute": Compute("float32", False)}


COMPILATIONS = []


def count_compilation(event: str, duration_secs: float, **_: Any) -> None:
    """Notes whatever XLA compiles."""
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILATIONS.append(duration_secs)


def random_batch(rng, model):
    """Eight rows of different lengths; the last has no image, and one no step."""
    qwen = model.name == "qwen2.5-vl"
    image_token, per_row = model.config.image_token, 4
    tokens = rng.integers(10, 40, (8, 24)).astype(np.int32)
    width = 594 if qwen else 3 * 56 * 56
    images = rng.integers(0, 256, (8, 4 if qwen else 1, width)).astype(np.uint8)
    if qwen:
        place = np.array([[1, i, j] for i in (0, 1) for j in (0, 1)], "<u2")
        images[:, :, -6:] = place.view(np.uint8)
        per_row = 1
    tokens[:7, 2 : 2 + per_row] = image_token
    images[7] = 0
    marker = np.sort(rng.integers(8, 24, (8, 3)), axis=1).astype(np.int32)
    trials = rng.integers(0, 2, (8, 3)).astype(np.int32) * 16
    trials[3] = 0
    successes = np.minimum(rng.integers(0, 17, (8, 3)), trials).astype(np.int32)
    lengths = np.full(8, 24, np.int32)
    return Batch(tokens, lengths, images, marker, successes, trials)


def run(model, params, batch, mesh=None, accumulate=1):
    """Loss of each update, the last parameters, and how often it was compiled."""
    settings = OptimizerConfig()
    place = sharding.placement(mesh) if mesh is not None else None
    if mesh is not None:
        residual = sharding.residual_sharding(mesh)
        compute = dataclasses.replace(model.compute, residual=residual)
        model = dataclasses.replace(model, compute=compute)
    state, frozen = update.initial_state(
        model, params, plan(80, 8), settings, 1e-3, place
    )
    pinned = None
    if place is not None:
        batch = place.batch(batch)
        pinned = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
    step = jax.jit(
        update.train_step,
        static_argnames=("model", "optimizer", "objective", "accumulate", "shardings"),
        donate_argnames=("state",),
    )
    losses, compiled = [], []
    jax.monitoring.register_event_duration_secs_listener(count_compilation)
    for _ in range(UPDATES):
        given = jax.tree.leaves(state.trained)
        before = len(COMPILATIONS)
        state, metrics = step(
            state, frozen, batch, model=model, optimizer=settings,
            objective=Objective("soft"), accumulate=accumulate, shardings=pinned,
        )  # fmt: skip
        losses.append(float(metrics["loss"]))
        compiled.append(len(COMPILATIONS) - before)
        assert all(leaf.is_deleted() for leaf in given), "the state was not donated"
    jax.monitoring.unregister_event_duration_listener(count_compilation)
    if pinned is not None and mesh is not None:
        for leaf, place in zip(jax.tree.leaves(state), pinned, strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim), leaf.sharding
        kernel = state.trained["language"]["layers"]["up"]["kernel"]
        held = kernel.addressable_shards[0].data.size * 8 // mesh.shape["data"]
        assert held == kernel.size, "the kernel is not split over all devices"
    return losses, jax.tree.map(np.asarray, state.trained), compiled


def main():
    """One line of JSON: for each way the differences from one device."""
    jax.config.update("jax_disable_most_optimizations", True)
    assert jax.device_count() == 8
    found = {}
    ways = {
        "fsdp": (MeshShape(), 1),
        "hsdp": (MeshShape(data=2), 1),
        "fsdp x tensor, accumulated": (MeshShape(tensor=2), 2),
    }
    for family, make in (("qwen", qwen_folder), ("internvl", internvl_folder)):
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder))
            model, params = load_backbone(path, **LOAD)
            mesh = sharding.make_mesh(MeshShape(data=2, tensor=2))
            rule = partial(sharding.parameter_shardings, mesh)
            split = load_backbone(path, sharding=rule, **LOAD)[1]
        jax.tree.map(np.testing.assert_array_equal, split, params)
        batch = random_batch(np.random.default_rng(0), model)
        alone = run(model, params, batch)
        chosen = ways if family == "qwen" else dict(list(ways.items())[2:])
        for name, (shape, accumulate) in chosen.items():
            remat = dataclasses.replace(model.compute, remat=name == "hsdp")
            other = dataclasses.replace(model, compute=remat)
            made = run(other, params, batch, sharding.make_mesh(shape), accumulate)
            pairs = zip(*map(jax.tree.leaves, (made[1], alone[1])), strict=True)
            found[f"{family} {name}"] = {
                "loss": max(abs(np.array(made[0]) - alone[0])),
                "params": max(float(np.abs(a - b).max()) for a, b in pairs),
                "compiled": made[2],
                "learned": alone[0][0] - alone[0][-1],
            }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
