"""Adapters beside the kernels of a backbone, and their merging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.models.families import Prompting
from mprm_jax.models.layers import Compute
from mprm_jax.models.lora import (
    TARGETS,
    LoraConfig,
    LoraModel,
    attach,
    base_of,
    merged,
)
from mprm_jax.models.registry import DESCRIPTION
from mprm_jax.models.reward_head import answer_rows
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.records.problems import DataError
from mprm_jax.train.checkpoint import restore_latest
from mprm_jax.train.loop import TrainConfig, TrainingJob, train
from mprm_jax.train.objective import Objective, loss_sum
from mprm_jax.train.open_model import load_model
from mprm_jax.train.optimizer import split
from mprm_jax.train.run_files import Base, RunFolder
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.backbone_folder import qwen_folder
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.sharding_worker import random_batch, random_examples
from tests.mprm_jax.stub_model import StubModel

CONFIG = LoraConfig(rank=3, alpha=12.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return qwen_folder(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def loaded(weights):
    """(backbone, its parameters, a batch)."""
    model, params = load_backbone(
        weights, prompting=Prompting(max_length=64), compute=Compute("float32", "none")
    )
    return model, params, random_batch(np.random.default_rng(0), model)


@pytest.fixture(scope="module")
def moved(loaded):
    """Adapters that have left zero, with the backbone."""
    params = attach(loaded[1], CONFIG, jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), 7))
    for layer in params["adapters"]["layers"].values():
        layer["b"] = 0.3 * jax.random.normal(next(keys), layer["b"].shape)
    return params


def test_adapters_change_nothing_before_the_first_update(loaded):
    model, params, batch = loaded
    adapted = attach(params, CONFIG, jax.random.key(1))
    assert set(adapted["adapters"]["layers"]) == set(TARGETS)
    up = adapted["adapters"]["layers"]["up"]
    assert (up["a"].shape, up["b"].shape) == ((2, 32, 3), (2, 3, 48))
    # U(-1, 1) / sqrt(in) has this deviation; every layer and target its own draw.
    a = np.asarray(up["a"])
    assert a.std() == pytest.approx((3 * 32) ** -0.5, rel=0.2)
    gate = np.asarray(adapted["adapters"]["layers"]["gate"]["a"])
    assert np.abs(a[0] - a[1]).min() > 0
    assert np.abs(a - gate).min() > 0
    merged_kernel = merged(adapted, CONFIG)["language"]["layers"]["up"]["kernel"]
    before = params["language"]["layers"]["up"]["kernel"]
    np.testing.assert_array_equal(merged_kernel, before)
    wrapped = LoraModel(model, CONFIG)
    np.testing.assert_allclose(
        jax.jit(wrapped.reward_logits)(adapted, batch),
        jax.jit(model.reward_logits)(params, batch),
        rtol=1e-5,
        atol=1e-6,
    )


def test_adapted_and_merged_are_w_plus_the_scaled_product(loaded, moved):
    model, params, batch = loaded
    wrapped = LoraModel(model, CONFIG)
    assert base_of(wrapped) is model
    made = jax.jit(merged, static_argnums=1)(moved, CONFIG)
    assert "adapters" not in made
    layers = jax.tree.map(np.float64, params["language"]["layers"])
    for target in TARGETS:
        adapter = moved["adapters"]["layers"][target]
        for layer in range(2):
            a, b = (np.asarray(adapter[name][layer], float) for name in "ab")
            expected = layers[target]["kernel"][layer] + 12 / 3 * a @ b
            found = made["language"]["layers"][target]["kernel"][layer]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # All else is the backbone's.
    rest = made["language"]["layers"]["query"]["bias"]
    np.testing.assert_array_equal(rest, layers["query"]["bias"])
    logits_of = jax.jit(model.reward_logits)
    logits = jax.jit(wrapped.reward_logits)(moved, batch)
    np.testing.assert_allclose(logits, logits_of(made, batch), rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(logits - logits_of(params, batch))).max() > 0.01
    # What the head reads is adapted, too.
    states = jax.jit(wrapped.marker_states)(moved, batch)
    yes_no = states @ answer_rows(model.head, moved).T
    np.testing.assert_allclose(yes_no, logits[..., :2], rtol=1e-4, atol=1e-5)


def test_merged_kernels_keep_what_bfloat16_would_round_away(loaded, moved):
    """As a short run at a learning rate of 1e-5 leaves them."""
    model, params, batch = loaded
    logits_of = jax.jit(model.reward_logits)

    def to(dtype, tree):
        return jax.tree.map(lambda x: x.astype(dtype), tree)

    narrow = to(jnp.bfloat16, params)
    adapters = {
        name: {"a": layer["a"], "b": 1e-4 * layer["b"]}
        for name, layer in moved["adapters"]["layers"].items()
    }
    trained = {**narrow, "adapters": {"layers": adapters}}
    made = merged(trained, CONFIG)["language"]["layers"]["up"]["kernel"]
    assert made.dtype == jnp.float32
    stored = narrow["language"]["layers"]["up"]["kernel"]
    assert np.mean(made.astype(jnp.bfloat16) == stored) > 0.9
    before = logits_of(to(jnp.float32, narrow), batch)
    logits = jax.jit(LoraModel(model, CONFIG).reward_logits)(
        to(jnp.float32, trained), batch
    )
    moved_by = np.abs(np.asarray(logits - before)).max()
    assert moved_by > 1e-5
    kept = logits_of(to(jnp.float32, merged(trained, CONFIG)), batch)
    assert np.abs(np.asarray(kept - logits)).max() < 0.1 * moved_by


def test_only_adapters_and_head_have_gradients(loaded, moved):
    """And theirs follow from that of the kernel: s dW B^T and s A^T dW."""
    model, _, batch = loaded
    wrapped = LoraModel(model, CONFIG)
    trained, frozen = split(moved, wrapped.trainable(moved))
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(trained)}
    assert names == {
        *(f"['adapters']['layers']['{t}']['{ab}']" for t in TARGETS for ab in "ab"),
        "['head']['answers']",
        "['head']['concentration']",
    }
    assert jax.tree.leaves(frozen["adapters"]) == []

    def loss_of(of, params):
        return loss_sum(of.reward_logits(params, batch), batch, Objective("soft"))

    ours = jax.jit(jax.grad(lambda p: loss_of(wrapped, p)))(moved)
    dense = jax.jit(jax.grad(lambda p: loss_of(model, p)))(merged(moved, CONFIG))
    for target in ("query", "down"):
        adapter = moved["adapters"]["layers"][target]
        kernel = dense["language"]["layers"][target]["kernel"]
        found = ours["adapters"]["layers"][target]
        for layer in range(2):
            dw = np.asarray(kernel[layer], float)
            a, b = (np.asarray(adapter[name][layer], float) for name in "ab")
            scale = np.abs(dw).max()
            np.testing.assert_allclose(
                found["a"][layer], 4 * dw @ b.T, rtol=1e-4, atol=1e-4 * scale
            )
            np.testing.assert_allclose(
                found["b"][layer], 4 * a.T @ dw, rtol=1e-4, atol=1e-4 * scale
            )


class Killed(Exception):
    """Stands for a process that ends between two checkpoints."""


def test_a_run_saves_its_adapters_and_goes_on_with_them(loaded, weights, tmp_path):
    model, params, batch = loaded
    config = LoraConfig(2, targets=("query", "up"))
    wrapped = LoraModel(model, config)
    start = attach(params, config, jax.random.key(3))
    examples, buckets = random_examples(np.random.default_rng(4), model, 32)
    settings = TrainConfig(learning_rate=0.01, checkpoint_every=2)
    job = TrainingJob(wrapped, examples, plan(32, 8), buckets, settings)

    def stop(update):
        if update.number == 3:
            raise Killed

    whole = train(job, start)
    with pytest.raises(Killed):
        train(job, start, RunFolder(tmp_path), on_update=stop)
    # Begun with checkpoints of all parameters, it goes on with those of what it trains.
    folder = RunFolder(tmp_path, resume=True, base=Base(weights, "float32"))
    found = train(job, start, folder)
    jax.tree.map(np.testing.assert_array_equal, found, whole)
    read, saved = load_model(tmp_path)
    assert read == wrapped
    jax.tree.map(np.testing.assert_array_equal, saved, whole)
    np.testing.assert_array_equal(found["language"]["norm"], params["language"]["norm"])
    assert np.abs(whole["adapters"]["layers"]["up"]["b"]).max() > 0.001
    plain = merged(saved, config)
    np.testing.assert_allclose(
        jax.jit(model.reward_logits)(plain, batch),
        jax.jit(read.reward_logits)(saved, batch),
        rtol=1e-4,
        atol=1e-4,
    )
    again = train(job, start, folder)
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    norm = {"norm": start["language"]["norm"] + 1}
    other = {**start, "language": start["language"] | norm}
    with pytest.raises(DataError, match="begun with other frozen parameters"):
        train(job, other, folder)
    restored = restore_latest(tmp_path, saved)
    assert restored is not None
    assert restored.params["language"]["norm"] is None
    assert jax.tree.leaves(restored.params["vision"]) == []
    np.testing.assert_array_equal(
        restored.params["head"]["answers"], whole["head"]["answers"]
    )
    with pytest.raises(DataError, match="is of another model"):
        restore_latest(tmp_path, params)
    described = tmp_path / DESCRIPTION
    described.write_text(described.read_text().replace('"rank": 2', '"rank": 0'))
    with pytest.raises(DataError, match=r"no description of adapters .*lora_rank"):
        load_model(tmp_path)


def test_what_has_no_such_kernels_is_refused():
    with pytest.raises(DataError, match="LoRA needs a backbone with stacked layers"):
        attach(StubModel().init(jax.random.key(0)), CONFIG, jax.random.key(0))


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 0},
        {"rank": 1, "alpha": 0.0},
        {"rank": 1, "alpha": float("inf")},
        {"rank": 1, "targets": ("query", "norm")},
        {"rank": 1, "targets": ()},
        {"rank": 1, "targets": ("up", "up")},
    ],
)
def test_settings_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match=r"rank|alpha|targets"):
        LoraConfig(**values)
