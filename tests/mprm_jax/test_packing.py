import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm_jax.data.batches import buckets_for, collate
from mprm_jax.data.images import number_images, patches_per_image
from mprm_jax.data.packing import PackedShape, fit_shape, pack, plan_rows, sizes_of
from mprm_jax.train.features import cached
from mprm_jax.train.objective import Objective, loss_sum
from tests.mprm_jax.backbone_folder import picture
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.tiny_backbones import example
from tests.mprm_jax.tiny_backbones import loaded as loaded

sizes = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 60), st.integers(0, 5)), min_size=1
).map(np.array)


@given(sizes, st.integers(40, 100), st.integers(1, 6))
def test_every_rollout_stands_in_one_row_that_has_room(sizes, tokens, documents):
    shape = PackedShape(0, tokens, documents, 40, 60, 7)
    plan = plan_rows(sizes, shape)
    assert sorted(itertools.chain(*plan)) == list(range(len(sizes)))
    for row in plan:
        assert len(row) <= documents
        assert (sizes[row].sum(axis=0) <= (tokens, 60, 7)).all()
        assert (np.diff(sizes[row, 0]) <= 0).all()
    # First fit: whoever opens a row had room in none before it.
    for number, row in enumerate(plan[1:], 1):
        first = sizes[row[0]]
        for before in plan[:number]:
            ahead = [p for p in before if (-sizes[p, 0], p) < (-first[0], row[0])]
            room = (tokens, 60, 7) - sizes[ahead].sum(axis=0)
            assert len(ahead) == documents or (first > room).any()


@given(sizes)
def test_a_fitted_shape_needs_no_more_rows_and_is_filled_by_some(sizes):
    tokens = 80
    shape = fit_shape(sizes, tokens)
    plan = plan_rows(sizes, shape)
    free = dataclasses.replace(shape, documents=10**6, patches=10**6, steps=10**6)
    assert len(plan) == len(plan_rows(sizes, free)) == shape.rows
    assert max(map(len, plan)) <= shape.documents
    most = np.max([sizes[row].sum(axis=0) for row in plan], axis=0)
    assert (most[1], most[2]) <= (shape.patches, shape.steps)
    assert most[2] == shape.steps


@pytest.mark.parametrize("tokens", [2048, 8192])
def test_rows_are_nearly_full(tokens):
    """A batch of 512 rollouts of 5.6 steps, with pictures of mixed sizes."""
    rng = np.random.default_rng(0)
    steps = 2 + rng.poisson(3.6, 512)
    blocks = np.minimum(rng.lognormal(np.log(400), 0.5, 512), 1024).astype(int)
    blocks[rng.random(512) < 0.1] = 0
    text = (60 + steps * rng.gamma(4, 10, 512)).astype(int)
    sizes = np.stack([text + blocks, 4 * blocks, steps], axis=1)
    shape = fit_shape(sizes, tokens)
    assert sizes[:, 0].sum() / (shape.rows * tokens) > 0.95
    assert sizes[:, 1].sum() / (shape.rows * shape.patches) > 0.75


def test_what_fits_no_row_is_refused():
    sizes = np.array([[10, 0, 1], [30, 4, 2]])
    with pytest.raises(ValueError, match="30"):
        fit_shape(sizes, 20)
    shape = fit_shape(sizes, 40)
    for less in ({"document_tokens": 29}, {"patches": 3}, {"steps": 1}):
        with pytest.raises(ValueError, match="fits no row"):
            plan_rows(sizes, dataclasses.replace(shape, **less))


def test_images_are_numbered_on():
    rows = np.zeros((5, 10), np.uint8)
    rows[:, 4] = 1, 1, 2, 3, 3
    on = number_images(rows, 255)
    assert on[:, 4:6].tolist() == [[255, 0]] * 2 + [[0, 1]] + [[1, 1]] * 2
    assert patches_per_image(number_images(on)) == [2, 1, 2]
    with pytest.raises(ValueError, match="65536"):
        number_images(rows, 2**16 - 2)


A, B, C = picture(56, 84, 1), picture(28, 28, 2), picture(84, 56, 3)
PROMPTS = [
    ("two apples", ["so two", "two"], (A,), [3, 0]),
    ("apples", ["so"], (), [16]),
    ("so", ["a", "b", "two"], (B, A, C), [9, 1, 2]),
    ("two", ["so", "a b"], (C,), [16, 4]),
    ("apples", ["b"] * 3, (), [1, 16, 0]),
]


def packed(model, examples):
    """(batch, plan): two rows, both with more than one rollout, and an empty row."""
    sizes = sizes_of(examples)
    shape = fit_shape(sizes, int(sizes[:, 0].sum() * 0.6))
    plan = plan_rows(sizes, shape)
    assert min(map(len, plan)) > 1
    shape = dataclasses.replace(
        shape, rows=len(plan) + 1, documents=shape.documents + 1
    )
    numbered = model.family.place_bytes > 0
    return pack(examples, plan, shape, numbered=numbered), plan


def document_logits(logits, batch, plan, examples):
    """The logits of each rollout [S, 3], in their order."""
    found = {}
    for row, chosen in enumerate(plan):
        ends = np.cumsum([len(examples[place].marker_S) for place in chosen])
        parts = np.split(np.asarray(logits[row, : ends[-1]]), ends[:-1])
        found |= dict(zip(chosen, parts, strict=True))
    return [found[place] for place in range(len(examples))]


def test_a_packed_rollout_is_scored_as_it_is_alone(loaded, tmp_path):
    """With several pictures, one, and none in a row; the loss too, and from a cache."""
    model, params = loaded
    rows = [example(model, *prompt) for prompt in PROMPTS]
    batch, plan = packed(model, rows)
    apart = collate(rows, buckets_for(rows, 1), len(rows))
    logits_of = jax.jit(model.reward_logits)
    alone, logits = logits_of(params, apart), logits_of(params, batch)
    together = document_logits(logits, batch, plan, rows)
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)
    assert np.ptp(np.concatenate(together)[:, 0]) > 0.01
    for objective in (Objective(), Objective("soft")):
        whole = float(loss_sum(alone, apart, objective))
        assert float(loss_sum(logits, batch, objective)) == pytest.approx(whole, 1e-6)

    quick = cached(model, params, tmp_path / "features")
    kept = [example(quick, *prompt) for prompt in PROMPTS]
    numbered = model.family.place_bytes > 0
    shape = fit_shape(sizes_of(kept), batch.tokens_BxL.shape[1])
    seen = pack(kept, plan, shape, numbered=numbered)
    again = jax.jit(quick.reward_logits)(params, seen)
    np.testing.assert_allclose(again[:2], logits[:2, : again.shape[1]], atol=1e-5)


def test_no_rollout_of_a_row_sees_the_pictures_of_another(loaded):
    model, params = loaded
    rows = [example(model, *prompt) for prompt in PROMPTS]
    batch, plan = packed(model, rows)
    pixels = jnp.asarray(batch.images_BxPxD, jnp.float32)

    @jax.jit
    @jax.grad
    def influence(pixels, weight):
        logits = model.reward_logits(params, batch._replace(images_BxPxD=pixels))
        return (weight[..., None] * logits).sum()

    for row, chosen in enumerate(plan):
        step = patch = 0
        for place in chosen:
            weight = np.zeros(batch.marker_BxS.shape, np.float32)
            weight[row, step : step + len(rows[place].marker_S)] = 1
            expected = np.zeros(pixels.shape[:2], bool)
            expected[row, patch : patch + len(rows[place].images_PxD)] = True
            found = np.asarray(influence(pixels, weight)).any(axis=-1)
            np.testing.assert_array_equal(found, expected)
            step += len(rows[place].marker_S)
            patch += len(rows[place].images_PxD)
