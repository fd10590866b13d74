"""Prices against the products that the traced update makes, and against arithmetic."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.data.batches import Bucket, Buckets
from mprm_jax.models.lora import TARGETS, LoraConfig, base_of
from mprm_jax.train import update
from mprm_jax.train.loop import TrainConfig, TrainingJob
from mprm_jax.train.objective import Objective
from mprm_jax.train.open_backbone import Opening, open_for_training, planned_model
from mprm_jax.train.optimizer import OptimizerConfig
from mprm_jax.train.price import (
    Load,
    Throughput,
    flops_per_rollout,
    load_of,
    price,
    sample_load,
)
from mprm_jax.train.sharding import MeshShape, abstract_mesh
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder, tokenizer
from tests.mprm_jax.sharding_worker import random_batch
from tests.mprm_jax.stub_model import StubModel, stub_examples
from tests.mprm_jax.test_weights_full_size import internvl_8b, qwen_7b

FOLDERS = {"qwen": qwen_folder, "internvl": internvl_folder}
LADDER = Buckets((Bucket(16, 2), Bucket(32, 4)), 3)
PLAIN = Opening("float32", remat="none")


def priced(model, shapes, load, sizes=(1, 1, 1), of=(512, 64), **settings):
    """The price of one run on a mesh."""
    job = TrainingJob(model, [], plan(*of), LADDER, TrainConfig(**settings))
    mesh = abstract_mesh(MeshShape(*sizes))
    return price(job, shapes, load, mesh, Throughput(peak_tflops=989.0))


def products(jaxpr):
    """Operations of all matrix products of a traced function, loops unrolled."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(eqn.outvars[0].aval.shape)
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        if eqn.primitive.name == "cond":
            # Of the tower's two layers here, one is of each kind.
            times = 1 / len(eqn.params["branches"])
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * products(inner)
    return total


def traced(model, params, batch):
    optimizer = OptimizerConfig()
    state, frozen = update.initial_state(model, params, plan(80, 8), optimizer, 1e-3)

    rule = update.UpdateRule(model, optimizer, Objective())

    def step(state, frozen, batch):
        return update.train_step(state, frozen, batch, 1.0, rule)

    closed = jax.make_jaxpr(step)(state, frozen, batch)
    return products(closed.jaxpr)


@pytest.mark.parametrize("family", FOLDERS)
@pytest.mark.parametrize("rank", [None, 1, 5])
def test_operations_are_those_of_the_traced_update(family, rank, tmp_path):
    lora = None if rank is None else LoraConfig(rank)
    folder = FOLDERS[family](tmp_path)
    opening = dataclasses.replace(PLAIN, lora=lora)
    model, params = open_for_training(folder, opening)
    batch = random_batch(np.random.default_rng(0), base_of(model))
    load = Load(24, 24, batch.images_BxPxD.shape[1])
    shapes = jax.eval_shape(lambda: params)
    counted = 8 * sum(flops_per_rollout(model, shapes, load).values())
    # Rotary angles and rewards are the small rest.
    assert counted == pytest.approx(traced(model, params, batch), rel=0.06)
    assert counted < traced(model, params, batch)


def test_a_trained_decoder_costs_six_per_weight_and_token(tmp_path):
    model, shapes = planned_model(qwen_folder(tmp_path), Opening())
    found = flops_per_rollout(model, shapes, Load(10, 100, 0))
    layer = shapes["language"]["layers"]
    kernels = sum(layer[name]["kernel"].size for name in TARGETS)
    assert found["language"] == 6 * kernels * 100
    # 12 L H Q T per token, of 2 layers and 4 heads of 8.
    assert found["attention"] == 12 * 2 * 4 * 8 * 100 * 100
    assert found["projector"] == found["vision"] == 0


def full_size(folder, family):
    """config.json and tokenizer.json of a released model, no weights."""
    if family == "qwen":
        value, special = qwen_7b(), {3: "<|vision_start|>", 4: "<|vision_end|>",
                                     5: "<|image_pad|>"}  # fmt: skip
        value |= {"image_token_id": 5}
    else:
        value, special = internvl_8b(), {7: "<IMG_CONTEXT>", 8: "<img>", 9: "</img>"}
    (folder / "config.json").write_text(json.dumps(value))
    (folder / "added_tokens.json").write_text('{"<IMG_CONTEXT>": 7}')
    tokenizer(special, 120).save(str(folder / "tokenizer.json"))
    return folder


# Of the released files, FACTS; the rows of the head come on top, and are trained.
SIZES = {"qwen": (8_292_166_656, 3 * 3584), "internvl": (8_075_365_376, 3 * 4096)}


@pytest.mark.parametrize("family", SIZES)
def test_the_released_models_are_priced_without_weights(family, tmp_path):
    model, shapes = planned_model(full_size(tmp_path, family), Opening())
    load = Load(1000, 1024, 1024 if family == "qwen" else 8)
    found = priced(model, shapes, load, (1, 8, 1), (56_509, 512), accumulate=64)
    released, head = SIZES[family]
    assert found.parameters == released + head
    assert found.updates == 111
    assert found.tokens_per_update == 512_000
    assert found.padded_tokens_per_update == 512 * 1024
    held = found.bytes_per_device
    # Nearly everything is split in eight: 4 bytes a master, 8 of moments, 4 of
    # gradient and as much of their sum, 2 of what is frozen.
    masters = held["trained weights (float32 masters)"]
    assert masters == pytest.approx(found.trained * 4 / 8, rel=0.01)
    assert held["optimiser state"] == pytest.approx(2 * masters, rel=1e-6)
    assert held["gradients"] == 2 * masters
    frozen = found.parameters - found.trained
    assert held["frozen weights"] == pytest.approx(frozen * 2 / 8, rel=0.02)
    assert 0 < held["activations"] < 8 * 2**30
    # All of it but embedding, head and tower is 6 per weight and token.
    roughly = 6 * 6.5e9 * found.padded_tokens_per_update
    assert roughly < found.flops_per_update < 1.4 * roughly
    seconds = 111 * found.flops_per_update / (8 * 989e12 * 0.4)
    assert found.hours == pytest.approx(seconds / 3600)


def test_what_saves_memory_shows(tmp_path):
    folder = full_size(tmp_path, "qwen")
    load = Load(1000, 1024, 1024)

    def held(optimizer=OptimizerConfig(), **changes):  # noqa: B008  (frozen)
        model, shapes = planned_model(folder, Opening(**changes))
        found = priced(model, shapes, load, accumulate=8, optimizer=optimizer)
        return found, found.bytes_per_device

    full, plain = held()
    assert plain["optimiser state"] == pytest.approx(8 * full.trained, rel=1e-6)
    _, half = held(OptimizerConfig(first_moment="bfloat16"))
    assert half["optimiser state"] == pytest.approx(6 * full.trained, rel=1e-6)
    _, factored = held(OptimizerConfig(kind="adafactor"))
    assert factored["optimiser state"] < 0.01 * plain["optimiser state"]
    adapted, lora = held(lora=LoraConfig(8, targets=("query", "up")))
    pairs = 28 * 8 * ((3584 + 3584) + (3584 + 18944))
    assert adapted.trained == pairs + 3 * 3584
    assert lora["frozen weights"] == 2 * (full.parameters - 3 * 3584)
    _, some = held(remat="dots")
    assert some["activations"] > 2 * plain["activations"]
    _, stored = held(remat="none")
    assert stored["activations"] > 1.2 * some["activations"]
    assert stored["activations"] > 5 * plain["activations"]
    _, wide = held(compute="float32")
    assert wide["frozen weights"] == 2 * plain["frozen weights"]


def test_a_mesh_shares_rows_and_weights(tmp_path):
    model, shapes = planned_model(full_size(tmp_path, "internvl"), Opening())

    def held(*sizes):
        found = priced(model, shapes, Load(1000, 1024, 8), sizes)
        assert found.hours is not None
        return found.hours, found.bytes_per_device

    (alone, one), (shared, eight), (copied, four) = (
        held(*sizes) for sizes in ((1, 1, 1), (1, 8, 1), (4, 1, 1))
    )
    assert alone / 8 == pytest.approx(shared)
    assert alone / 4 == pytest.approx(copied)
    name = "optimiser state"
    assert four[name] == one[name]
    assert eight[name] == pytest.approx(one[name] / 8, rel=0.01)
    assert eight["activations"] == pytest.approx(one["activations"] / 8, rel=0.01)


def test_the_plan_has_the_shapes_of_what_is_opened(tmp_path):
    """Of an InternVL whose vocabulary has to grow, adapters included."""
    folder = internvl_folder(tmp_path)
    opening = dataclasses.replace(PLAIN, lora=LoraConfig(2), frozen="bfloat16")
    model, params = open_for_training(folder, opening)
    planned, shapes = planned_model(folder, opening)
    assert planned == model
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    asked = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes)
    trained = model.trainable(params)
    # The head's copied rows are made float32 with the state.
    for name in params:
        if name != "head":
            assert found[name] == asked[name], name
    assert shapes["head"]["answers"].dtype == jnp.float32
    assert jax.tree.structure(trained) == jax.tree.structure(shapes)
    (folder / "model.safetensors").unlink()
    assert planned_model(folder, opening)[0] == model


def test_loads_are_of_padded_batches():
    tokens, rows = np.array([3, 10, 20, 7, 9]), np.array([1, 1, 2, 3, 1])
    # Batches of two: 16 x 2, 32 x 4; the fifth prompt fills no batch.
    assert load_of(tokens, rows, 2, LADDER) == Load(9.8, 24, 3, 5)
    assert load_of(tokens, rows, 512, LADDER) == Load(9.8, 32, 4, 5)
    # Of a small corpus every prompt is read, of a large one a seeded sample.
    examples = stub_examples(300)
    for count, read in ((40, 40), (300, 256)):
        told = []
        job = TrainingJob(StubModel(), examples[:count], plan(count, 8), LADDER)
        found = sample_load(job, told.append)
        assert found.prompts == read
        assert told == list(range(1, read + 1))
    lengths = [len(example.tokens_L) for example in examples[:40]]
    small = TrainingJob(StubModel(), examples[:40], plan(40, 8), LADDER)
    assert sample_load(small).tokens == pytest.approx(np.mean(lengths))


def test_a_utilisation_is_a_share():
    for mfu in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="mfu must lie in"):
            Throughput(mfu)
    with pytest.raises(ValueError, match="peak_tflops"):
        Throughput(0.4, -1.0)
    job = TrainingJob(StubModel(), [], plan(8, 8), LADDER)
    shapes = jax.eval_shape(StubModel().init, jax.random.key(0))
    mesh = abstract_mesh(MeshShape(2, 1))
    unknown = price(job, shapes, Load(8, 8, 0), mesh)
    assert (unknown.hours, unknown.seconds_per_flop) == (None, None)
    assert unknown.flops_per_update > 0
    slow, fast = (
        price(job, shapes, Load(8, 8, 0), mesh, of)
        for of in (Throughput(0.4, 1.0), Throughput(0.4, 2.0))
    )
    assert slow.hours is not None
    assert fast.hours == slow.hours / 2
    assert slow.seconds_per_flop == pytest.approx(1 / (2 * 1e12 * 0.4))
