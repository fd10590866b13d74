"""Trains a tiny backbone on eight fake devices in every way; prints what came out."""

import contextlib
import dataclasses
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mprm_jax.data.batches import Batch, Bucket, Buckets, Example, buckets_for
from mprm_jax.evaluate import Scoring, score_prompts
from mprm_jax.models.families import Prompting
from mprm_jax.models.layers import Compute
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.train import sharding, update
from mprm_jax.train.config import Precision
from mprm_jax.train.loop import TrainConfig, TrainingJob, train
from mprm_jax.train.objective import Objective, StepLabeller
from mprm_jax.train.open_backbone import OpeningToScore
from mprm_jax.train.optimizer import OptimizerConfig
from mprm_jax.train.run_files import RunFolder, read_metrics
from mprm_jax.train.sharding import MeshShape
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder
from tests.mprm_jax.stub_model import StubModel, stub_examples

UPDATES = 3
LOAD = {"prompting": Prompting(max_length=64), "compute": Compute("float32", "none")}


COMPILATIONS = []


def count_compilation(event: str, duration_secs: float, **_: Any) -> None:
    """Notes whatever XLA compiles."""
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILATIONS.append(duration_secs)


def random_examples(rng, model, count):
    """As many prompts, without labels that mean anything, and their buckets."""
    rows = []
    for _ in range(0, count, 8):
        batch = random_batch(rng, model)
        rows += [Example(*(leaf[i] for leaf in (
            batch.tokens_BxL, batch.images_BxPxD, batch.marker_BxS,
            batch.successes_BxS, batch.trials_BxS,
        ))) for i in range(8)]  # fmt: skip
    shape = Bucket(len(rows[0].tokens_L), len(rows[0].images_PxD))
    return rows, Buckets((shape,), len(rows[0].marker_S))


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
    targets = StepLabeller(Objective("soft"))(successes, trials)
    label, weight = (part.astype(np.float32) for part in targets)
    return Batch(tokens, images, marker, successes, trials, label, weight)


def run(model, params, batch, mesh=None, accumulate=1):
    """Loss of each update, the last parameters, and how often it was compiled."""
    settings = OptimizerConfig()
    if mesh is not None:
        residual = sharding.residual_sharding(mesh)
        compute = dataclasses.replace(model.compute, residual=residual)
        model = dataclasses.replace(model, compute=compute)
    state, frozen = update.initial_state(
        model, params, plan(80, 8), settings, 1e-3, mesh
    )
    pinned, weight = None, float(batch.weight_BxS.sum())
    parts = [
        jax.tree.map(lambda x, i=i: x[i::accumulate], batch) for i in range(accumulate)
    ]
    if mesh is not None:
        parts = [sharding.place_batch(mesh, part) for part in parts]
        pinned = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
    rule = update.UpdateRule(model, settings, Objective("soft"), pinned)
    losses, compiled = [], []
    jax.monitoring.register_event_duration_secs_listener(count_compilation)
    for _ in range(UPDATES):
        given = jax.tree.leaves(state.trained)
        before = len(COMPILATIONS)
        state, metrics = update.update(state, frozen, parts, weight, rule)
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


class Killed(Exception):
    """Stands for a machine that goes away."""


def elastic():
    """Losses of a run that moves to another mesh, and of one that stays."""
    model, examples = StubModel(16, 8), stub_examples(32)
    params = model.init(jax.random.key(0))
    settings = TrainConfig(learning_rate=0.01, checkpoint_every=2)
    buckets = buckets_for(examples, 1)
    job = TrainingJob(model, examples, plan(32, 8), buckets, settings)

    def stop(done):
        if done.number > 2:
            raise Killed

    with tempfile.TemporaryDirectory() as moving, tempfile.TemporaryDirectory() as home:
        first, second = (
            sharding.make_mesh(shape)
            for shape in (MeshShape(2, 2, 2), MeshShape(1, 8, 1))
        )
        begun, again = (RunFolder(Path(moving), resume) for resume in (False, True))
        with contextlib.suppress(Killed):
            train(job, params, begun, mesh=first, on_update=stop)
        last = train(job, params, again, mesh=second)
        alone = jax.sharding.Mesh(
            np.array(jax.devices()[:1]).reshape(1, 1, 1), first.axis_names
        )
        one = train(job, params, RunFolder(Path(home)), mesh=alone)
        pairs = zip(*map(jax.tree.leaves, (last, one)), strict=True)
        moved, stayed = (
            [line["loss"] for line in read_metrics(Path(folder))]
            for folder in (moving, home)
        )
        apart = max(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs)
        embedding = last["blocks"][0]["embedding"]
        return {
            "moved": moved,
            "stayed": stayed,
            "params": apart,
            "held": embedding.addressable_shards[0].data.size / embedding.size,
        }


def scores(folder, shape=None, compute: Precision = "float32"):
    """Of sixteen prompts, by a model that lies on a mesh of this shape."""

    def mesh_for(*_):
        return shape and sharding.make_mesh(shape)

    model, params = OpeningToScore(compute, mesh_for).released(folder)
    examples, _ = random_examples(np.random.default_rng(0), model, 16)
    # Five at a time: eight on eight devices.
    how = Scoring(5, threads=0 if shape is None else 3)
    found = score_prompts(model, params, examples, how)
    assert [len(of) for of in found] == [len(one.marker_S) for one in examples]
    return np.concatenate(found)


def scored(folder, shape, *precisions):
    """How far scores are from those of one device in float32, and how far they vary."""
    alone = scores(folder)
    apart = {of: np.abs(scores(folder, shape, of) - alone).max() for of in precisions}
    return apart | {"spread": np.std(alone)}


def main():
    """One line of JSON: for each way the differences from one device."""
    jax.config.update("jax_disable_most_optimizations", True)
    assert jax.device_count() == 8
    found, judged = {}, {}
    # A compilation takes seconds: every way once.
    ways = {
        "qwen": ("fsdp, recomputed", MeshShape(), 1, "all"),
        "internvl": ("hsdp x tensor, accumulated", MeshShape(2, 2, 2), 2, "none"),
    }
    judging = {
        "qwen": (MeshShape(8, 1), "float32"),
        "internvl": (MeshShape(1, 8), "float32", "bfloat16"),
    }
    for family, make in (("qwen", qwen_folder), ("internvl", internvl_folder)):
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder))
            model, params = load_backbone(path, **LOAD)
            mesh = sharding.make_mesh(MeshShape(data=2, tensor=2))
            rule = partial(sharding.parameter_shardings, mesh)
            split = load_backbone(path, sharding=rule, **LOAD)[1]
            judged[family] = scored(path, *judging[family])
        jax.tree.map(np.testing.assert_array_equal, split, params)
        batch = random_batch(np.random.default_rng(0), model)
        alone = run(model, params, batch)
        name, shape, accumulate, again = ways[family]
        remat = dataclasses.replace(model.compute, remat=again)
        other = dataclasses.replace(model, compute=remat)
        made = run(other, params, batch, sharding.make_mesh(shape), accumulate)
        pairs = zip(*map(jax.tree.leaves, (made[1], alone[1])), strict=True)
        found[f"{family} {name}"] = {
            "loss": max(abs(np.array(made[0]) - alone[0])),
            "params": max(float(np.abs(a - b).max()) for a, b in pairs),
            "compiled": made[2],
            "learned": alone[0][0] - alone[0][-1],
        }
    json.dump({"ways": found, "elastic": elastic(), "judged": judged}, sys.stdout)


if __name__ == "__main__":
    main()
