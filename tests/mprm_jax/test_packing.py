import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm_jax.data.batches import (
    Bucket,
    Sizes,
    buckets_for,
    collate,
    sizes_of,
    unlabelled,
)
from mprm_jax.data.images import number_images, patches_per_image
from mprm_jax.data.packing import PackedShape, fit_shape, pack, plan_rows, row_shape
from mprm_jax.train.config import Objective
from mprm_jax.train.features import cached
from mprm_jax.train.objective import StepLabeller, loss_sum
from tests.mprm_jax.backbone_folder import picture
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.tiny_backbones import example
from tests.mprm_jax.tiny_backbones import loaded as loaded


def sizes(tokens, patches):
    """Of rollouts of two steps each."""
    columns = (np.asarray(column, np.int64) for column in (tokens, patches))
    tokens, patches = columns
    return Sizes(tokens, patches, 0 * tokens + 2, 2.0 * tokens, 0 * tokens)


rollouts = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1).map(
    lambda pairs: sizes(*zip(*pairs, strict=True))
)


@given(rollouts, st.integers(40, 100), st.integers(1, 6))
def test_every_rollout_stands_in_one_row_that_has_room(sizes, tokens, documents):
    plan = plan_rows(sizes, PackedShape(0, Bucket(tokens, 60), documents, 40, 0))
    assert sorted(itertools.chain(*plan)) == list(range(len(sizes.tokens)))

    def room(chosen):
        left = documents - len(chosen), tokens - sizes.tokens[chosen].sum()
        return np.array([*left, 60 - sizes.patches[chosen].sum()])

    for number, row in enumerate(plan):
        assert (room(row) >= 0).all()
        assert (np.diff(sizes.tokens[row]) <= 0).all()
        # First fit: whoever opens a row had room in none before it.
        first = row[0]
        need = [1, sizes.tokens[first], sizes.patches[first]]
        for before in plan[:number]:
            earlier = [
                place
                for place in before
                if (-sizes.tokens[place], place) < (-sizes.tokens[first], first)
            ]
            assert (room(earlier) < need).any()


@given(rollouts)
def test_a_fitted_shape_needs_no_more_rows(sizes):
    shape = fit_shape(sizes, 80, 2)
    plan = plan_rows(sizes, shape)
    free = dataclasses.replace(shape, documents=10**6, row=Bucket(80, 10**6))
    assert len(plan) == len(plan_rows(sizes, free)) == shape.rows
    assert max(map(len, plan)) == shape.documents
    assert shape.steps == 2 * shape.documents


def test_one_row_serves_the_batches_that_come_later():
    """Whose longest rollout, or pictures, are more than any of the first batches."""
    first, later = sizes([10, 9, 8], [0, 2, 1]), sizes([38, 5], [0, 50])
    every = Sizes(*map(np.concatenate, zip(first, later, strict=True)))
    shape = row_shape(first, every, 40, 2)
    assert (shape.rows, shape.row.tokens, shape.document_tokens) == (1, 40, 38)
    assert plan_rows(first, shape) == [[0, 1, 2]]
    assert plan_rows(later, shape) == [[0], [1]]
    with pytest.raises(ValueError, match="longest rollout, of 38"):
        row_shape(first, every, 37, 2)


@pytest.mark.parametrize("tokens", [2048, 8192])
def test_rows_are_nearly_full(tokens):
    """A batch of 512 rollouts of 5.6 steps, with pictures of mixed sizes."""
    rng = np.random.default_rng(0)
    steps = 2 + rng.poisson(3.6, 512)
    blocks = np.minimum(rng.lognormal(np.log(400), 0.5, 512), 1024).astype(int)
    blocks[rng.random(512) < 0.1] = 0
    text = (60 + steps * rng.gamma(4, 10, 512)).astype(int)
    batch = sizes(text + blocks, 4 * blocks)
    shape = fit_shape(batch, tokens, int(steps.max()))
    assert batch.tokens.sum() / (shape.rows * tokens) > 0.95
    assert batch.patches.sum() / (shape.rows * shape.row.patches) > 0.75


def test_what_fits_no_row_is_refused():
    batch = sizes([10, 30], [0, 4])
    with pytest.raises(ValueError, match="30 tokens"):
        fit_shape(batch, 20, 2)
    shape = fit_shape(batch, 40, 2)
    for less in ({"document_tokens": 29}, {"row": Bucket(40, 3)}):
        with pytest.raises(ValueError, match="no room"):
            plan_rows(batch, dataclasses.replace(shape, **less))


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


def packed(model, examples, labeller=unlabelled):
    """(batch, plan): two rows, both with more than one rollout, and an empty row."""
    of = sizes_of(examples)
    shape = fit_shape(of, int(of.tokens.sum() * 0.6), 3)
    plan = plan_rows(of, shape)
    assert len(plan) == 2
    assert min(map(len, plan)) > 1
    shape = dataclasses.replace(shape, rows=3)
    numbered = model.family.place_bytes > 0
    return pack(examples, plan, shape, labeller, numbered=numbered), plan


def test_another_order_than_the_plan_s_is_refused(loaded):
    model, _ = loaded
    rows = [example(model, *prompt) for prompt in PROMPTS[:2]]
    shape = fit_shape(sizes_of(rows), 200, 3)
    pack(rows, [[0, 1]], shape, numbered=False)
    with pytest.raises(ValueError, match="row 0"):
        pack(rows, [[1, 0]], shape, numbered=False)
    with pytest.raises(ValueError, match="2 rows"):
        pack(rows, [[0], [1]], shape, numbered=False)


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
    # Masked labels look at the whole rollout, and at no more.
    for labels in ("hard", "soft", "masked"):
        objective = Objective(labels)
        labeller = StepLabeller(objective)
        apart = collate(rows, buckets_for(rows, 1), len(rows), labeller)
        batch, _ = packed(model, rows, labeller)
        whole = float(loss_sum(alone, apart, objective))
        assert float(loss_sum(logits, batch, objective)) == pytest.approx(whole, 1e-6)
        assert batch.weight_BxS.sum() == apart.weight_BxS.sum()

    quick = cached(model, params, tmp_path / "features")
    kept, same_plan = packed(model, [example(quick, *prompt) for prompt in PROMPTS])
    assert same_plan == plan
    again = jax.jit(quick.reward_logits)(params, kept)
    np.testing.assert_allclose(again, logits, atol=1e-5)


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
