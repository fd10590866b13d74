"""Which attention a model uses on the devices here, and why not the fused one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.models import families
from mprm_jax.models.backbone import from_description
from mprm_jax.models.layers import (
    AttentionChoice,
    AttentionUse,
    Compute,
    attend,
    attend_runs,
    choose_attention,
)
from mprm_jax.records.problems import DataError
from tests.mprm_jax.backbone_shapes import full_config
from tests.mprm_jax.tiny_backbones import loaded as loaded

USE = AttentionUse(
    4, 2, 8, 16, causal=True, masked=False, trained=True, dtype="float32"
)


@pytest.mark.parametrize("kind", [NotImplementedError, ValueError, RuntimeError])
def test_what_cannot_be_had_says_why(kind):
    def probe(use):
        raise kind(f"{use.head_width} is no width\nsecond line")

    assert choose_attention(USE, probe) == AttentionChoice("xla", "8 is no width")


def test_a_fault_of_the_probe_itself_is_not_swallowed():
    def probe(use):
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        choose_attention(USE, probe)


def test_what_can_be_had_is_used_and_each_use_is_asked_once():
    asked = []
    choices = [choose_attention(USE, asked.append) for _ in range(2)]
    assert choices == [AttentionChoice("cudnn")] * 2
    assert asked == [USE]


def test_a_card_that_no_library_knows_falls_back(monkeypatch):
    here = choose_attention(dataclasses.replace(USE, length=18))
    assert here.implementation == "xla"
    assert here.reason
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = choose_attention(dataclasses.replace(USE, length=20))
    assert there.implementation == "xla"
    assert there.reason not in ("", here.reason)


def test_each_part_asks_for_its_own_shapes(monkeypatch):
    """The decoder for causal attention with gradients, the frozen towers without."""
    asked = {}

    def choose(use):
        asked[use.head_width, use.causal, use.masked, use.trained] = use.length
        return AttentionChoice("xla" if use.masked else "cudnn", "masks" * use.masked)

    monkeypatch.setattr(families, "choose_attention", choose)
    qwen, internvl = (
        families.compute_here(full_config(name, toy=False), Compute())
        for name in ("qwen2.5-vl-7b", "internvl2.5-8b")
    )
    assert (qwen.attention, qwen.tower_attention) == ("cudnn", "xla")
    assert (internvl.attention, internvl.tower_attention) == ("cudnn", "cudnn")
    assert set(asked) == {
        (128, True, False, True),
        (80, False, True, False),
        (64, False, False, False),
    }
    # With the class token: an odd length.
    assert asked[64, False, False, False] == 32 * 32 + 1


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_its_formula(masked):
    """In float64, head by head; two query heads share one of keys and values."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 5, 4, 3))
    key, value = rng.normal(size=(2, 2, 5, 2, 3))
    mask = rng.random((2, 1, 5, 5)) < 0.5
    mask |= np.eye(5, dtype=bool)
    seen = mask if masked else np.tril(np.ones((2, 1, 5, 5), bool))
    expected = np.zeros_like(query)
    for row, head in np.ndindex(2, 4):
        scores = query[row, :, head] @ key[row, :, head // 2].T / np.sqrt(3)
        weight = np.where(seen[row, 0], np.exp(scores), 0)
        weight /= weight.sum(-1, keepdims=True)
        expected[row, :, head] = weight @ value[row, :, head // 2]
    arrays = map(jnp.asarray, (query, key, value))
    shown = jnp.asarray(mask) if masked else None
    found = attend(*arrays, implementation="xla", causal=not masked, mask=shown)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("count", [5, 8, 21])
def test_neighbours_of_one_label_attend_as_under_a_mask_of_all_pairs(count):
    """Runs of one to four, wherever the blocks of four begin; a half-empty last one."""
    rng = np.random.default_rng(count)
    lengths = rng.integers(1, 5, (2, count))
    label = np.stack([np.repeat(np.arange(count), row)[:count] for row in lengths])
    query, key, value = jnp.asarray(rng.normal(size=(3, 2, count, 2, 3)), jnp.float32)
    mask = jnp.asarray(label[:, None, :, None] == label[:, None, None])
    expected = attend(query, key, value, "xla", mask=mask)
    found = attend_runs(query, key, value, jnp.asarray(label), 4, "xla")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("written", "read"), [(True, "all"), (False, "none"), ("dots", "dots")]
)
def test_descriptions_of_old_say_true_or_false(loaded, tmp_path, written, read):
    model, _ = loaded
    for name, data in model.assets().items():
        (tmp_path / name).write_bytes(data)
    values = json.loads(json.dumps(model.description() | {"remat": written}))
    again = from_description(model.name, values, tmp_path)
    assert again.compute == dataclasses.replace(model.compute, remat=read)
    with pytest.raises(DataError):
        from_description(model.name, values | {"remat": "some"}, tmp_path)
