"""Prices against the products that the traced update makes, and against arithmetic."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.data.batches import Bucket, Buckets, open_ladder, sizes_of
from mprm_jax.data.loader import Batches, BatchOrder, Feed, shuffled
from mprm_jax.data.packing import Packing, row_shape
from mprm_jax.models.lora import TARGETS, LoraConfig, base_of
from mprm_jax.train import update
from mprm_jax.train.loop import TrainConfig, TrainingJob
from mprm_jax.train.objective import Objective
from mprm_jax.train.open_backbone import Opening, open_for_training, planned_model
from mprm_jax.train.optimizer import OptimizerConfig
from mprm_jax.train.price import (
    Devices,
    Planned,
    Throughput,
    alike,
    choose,
    flops_per_rollout,
    load_of,
    price,
    prompts_of,
    sample_prompts,
    scoring_mesh,
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


ROOFLINE = Throughput(peak_tflops=989.0)


def run_of(model, shapes, padded, of=(512, 64), **settings):
    """A run of prompts that are all alike; each fills its shape but for 24 tokens."""
    buckets = Buckets((padded,), 3)
    job = TrainingJob(model, [], plan(*of), buckets, TrainConfig(**settings))
    size = Bucket(padded.tokens - 24, padded.patches)
    return Planned(job, shapes, alike(size, of[1], 1176))


def priced(model, shapes, padded, sizes=(1, 1, 1), accumulate=1, **settings):
    """The price of one run on a mesh."""
    run, mesh = run_of(model, shapes, padded, **settings), MeshShape(*sizes)
    return price(run, abstract_mesh(mesh), accumulate, None, ROOFLINE)


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
    padded = Bucket(24, batch.images_BxPxD.shape[1])
    shapes = jax.eval_shape(lambda: params)
    counted = 8 * sum(flops_per_rollout(model, shapes, padded).values())
    # Rotary angles and rewards are the small rest.
    assert counted == pytest.approx(traced(model, params, batch), rel=0.06)
    assert counted < traced(model, params, batch)


def test_a_trained_decoder_costs_six_per_weight_and_token(tmp_path):
    model, shapes = planned_model(qwen_folder(tmp_path), Opening())
    found = flops_per_rollout(model, shapes, Bucket(100, 0))
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
    padded = Bucket(1024, 1024 if family == "qwen" else 8)
    found = priced(model, shapes, padded, (1, 8, 1), 64, of=(56_509, 512))
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

    def held(optimizer=OptimizerConfig(), **changes):  # noqa: B008  (frozen)
        model, shapes = planned_model(folder, Opening(**changes))
        found = priced(
            model, shapes, Bucket(1024, 1024), accumulate=8, optimizer=optimizer
        )
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
        found = priced(model, shapes, Bucket(1024, 8), sizes)
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


GIB = 2**30

# (family, adapters), devices, GiB of each, (data, fsdp), fits.
CHOICES = [
    ("internvl", True, 1, 80, (1, 1), True),
    ("internvl", True, 8, 80, (8, 1), True),
    ("qwen", True, 1, 24, (1, 1), True),
    ("qwen", True, 1, 16, (1, 1), False),
    ("qwen", True, 4, 16, (1, 4), True),
    ("qwen", False, 1, 80, (1, 1), False),
    ("qwen", False, 8, 80, (1, 8), True),
    ("internvl", False, 1, 24, (1, 1), False),
]


@pytest.mark.parametrize(("family", "lora", "count", "memory", "mesh", "fits"), CHOICES)
def test_the_devices_choose_mesh_and_micro_batches(
    family, lora, count, memory, mesh, fits, tmp_path
):
    opening = Opening(lora=LoraConfig(16) if lora else None)
    model, shapes = planned_model(full_size(tmp_path, family), opening)
    padded = Bucket(2048, 1024 if family == "qwen" else 8)
    run = run_of(model, shapes, padded, (5120, 512))
    devices = Devices(count, memory * GIB)
    found = choose(run, devices)
    assert (found.mesh["data"], found.mesh["fsdp"]) == mesh
    assert (found.mesh["tensor"], found.fits) == (1, fits)

    def needs(micro, sizes=mesh):
        at = abstract_mesh(MeshShape(*sizes))
        return price(run, at, micro).bytes_needed

    parts = 512 // count
    possible = [m for m in range(1, parts + 1) if parts % m == 0]
    fitting = [m for m in possible if needs(m) <= memory * GIB]
    if fits:
        assert found.accumulate == fitting[0]
    else:
        assert not fitting
        assert found.accumulate == min(possible, key=needs)
    if count > 1 and mesh[0] == 1:
        # Copies were no choice.
        assert all(needs(m, (count, 1)) > memory * GIB for m in possible)
    # What the user says is taken, whether it fits or not.
    asked = choose(run, devices, MeshShape(count, 1), 2)
    assert (asked.mesh["data"], asked.accumulate) == (count, 2)


def test_devices_that_cannot_share_a_batch_are_refused():
    shapes = jax.eval_shape(StubModel().init, jax.random.key(0))
    run = run_of(StubModel(), shapes, Bucket(32, 0))
    with pytest.raises(ValueError, match="cannot share a batch of 64"):
        choose(run, Devices(3, GIB))
    with pytest.raises(ValueError, match="cannot share a batch of 64"):
        choose(run, Devices(2, GIB), accumulate=5)
    # Of unknown memory there is enough.
    assert choose(run, Devices(2)).fits is None


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


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_price_s_batches_are_the_loader_s(accumulate):
    """On the same corpus and seed, known beforehand or read."""
    examples = stub_examples(60)
    config = TrainConfig(accumulate=accumulate, seed=3, threads=1)
    ladder = open_ladder(4, 64, 8)
    job = TrainingJob(StubModel(), examples, plan(60, 8), ladder, config)
    order = BatchOrder(8, 60, 3, accumulate)
    made = list(Batches(examples, ladder, order).from_first())
    for known in (sample_prompts(job), prompts_of(job, sizes_of(examples))):
        load = load_of(known, 8, accumulate, ladder)
        assert load.padded_tokens == np.mean([batch.padded for batch in made])
        shapes = {batch.tokens_BxL.shape for of in made for batch in of.batches}
        assert shapes <= {(load.rows, shape.tokens) for shape in load.every_shape}
        assert known.tokens == np.mean([len(one.tokens_L) for one in examples])
        shapes_of = jax.eval_shape(StubModel().init, jax.random.key(0))
        run = Planned(job, shapes_of, known)
        found = price(run, abstract_mesh(MeshShape(2, 1)), accumulate)
        # Two updates on two devices; the batches that threads keep are on the host.
        numbers = [
            sum(leaf.nbytes for b in of.batches for leaf in b[:7]) for of in made
        ]
        sent = math.ceil(np.mean(numbers))
        assert found.bytes_per_device["pixels and tokens"] == sent
        # Those that wait, the next, the one that is computed and the one before it.
        assert found.host_bytes == (BatchOrder.ahead + 3) * sent


@pytest.mark.parametrize("parts", [1, 2])
def test_packed_rows_are_priced_as_the_loader_makes_them(parts):
    examples = stub_examples(60)
    sizes, config = sizes_of(examples), TrainConfig(seed=3, pack=20)
    ladder = open_ladder(4, 64, 8)
    job = TrainingJob(StubModel(), examples, plan(60, 8), ladder, config)
    known = prompts_of(job, sizes)
    shape = row_shape(known.first, sizes, 20, ladder.steps)
    order = BatchOrder(8, 60, 3, feed=Feed(parts, tuple(range(parts))))
    packing = Packing(shape, numbered=False)
    made = Batches(examples, ladder, order, sizes=sizes, packing=packing).from_first()
    counts, padded = zip(*((len(of.batches), of.padded) for of in made), strict=True)
    shapes = jax.eval_shape(StubModel().init, jax.random.key(0))
    run = Planned(job, shapes, known)
    found = price(run, abstract_mesh(MeshShape(parts, 1)), 1)
    assert found.accumulate == max(counts) > 1
    assert found.padded_tokens_per_update == round(np.mean(padded))


def test_a_model_that_scores_is_copied_where_a_copy_has_room(tmp_path):
    model, shapes = planned_model(full_size(tmp_path, "qwen"), Opening())
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    # Scores of one layer of a prompt as long as the context, in bfloat16, take more.
    for memory, copies in ((3 * weights, 8), (weights, 1), (weights // 2, 1)):
        found = scoring_mesh(model, shapes, 8, Devices(8, memory))
        assert found == MeshShape(copies, 8 // copies)


def test_whole_batches_are_sampled_and_the_largest_prompts_never_missed():
    examples = stub_examples(700)
    for batch_size, read in ((8, 256), (100, 300), (512, 512), (1000, 700)):
        told = []
        steps = plan(700, batch_size)
        job = TrainingJob(StubModel(), examples, steps, open_ladder(4, 64, 8))
        assert sample_prompts(job, told.append).count == read
        assert told == list(range(1, read + 1))
    long = examples[0]._replace(tokens_L=np.zeros(5000, np.int32))
    # Shown last, so in none of the batches that are looked at.
    source = [*examples]
    source[shuffled(700, 0)[699]] = long
    job = dataclasses.replace(job, source=source, plan=plan(700, 8))
    known = prompts_of(job, sizes_of(source))
    assert known.count == 700
    assert known.first.tokens.max() < 100
    load = load_of(known, 8, 2, open_ladder(4))
    assert max(shape.tokens for shape in load.every_shape) >= 5000


def test_a_utilisation_is_a_share():
    for mfu in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="mfu must lie in"):
            Throughput(mfu)
    with pytest.raises(ValueError, match="peak_tflops"):
        Throughput(0.4, -1.0)
    shapes = jax.eval_shape(StubModel().init, jax.random.key(0))
    run, mesh = run_of(StubModel(), shapes, Bucket(32, 0), (8, 8)), MeshShape(2, 1)
    unknown = price(run, abstract_mesh(mesh), 1)
    assert (unknown.hours, unknown.seconds_per_flop) == (None, None)
    assert unknown.flops_per_update > 0
    slow, fast = (
        price(run, abstract_mesh(mesh), 1, None, of)
        for of in (Throughput(0.4, 1.0), Throughput(0.4, 2.0))
    )
    assert slow.hours is not None
    assert fast.hours == slow.hours / 2
    assert slow.seconds_per_flop == pytest.approx(1 / (2 * 1e12 * 0.4))
