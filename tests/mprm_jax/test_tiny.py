"""The tiny model: what a score may depend on, and what training may change."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.corpora.scene_text import questions, step_texts
from mprm_jax.data.batches import Bucket, Buckets, Example, collate
from mprm_jax.data.prompt import render
from mprm_jax.models.tiny import MAX_TOKENS, TinyModel, patchify, pretrained
from mprm_jax.models.tokenizer import UNKNOWN, build_tokenizer
from mprm_jax.records.problems import BadRecord
from mprm_jax.train.objective import Objective
from mprm_jax.train.optimizer import OptimizerConfig, join
from mprm_jax.train.update import UpdateRule, compiled_step, initial_state
from mprm_jax.train.update_plan import plan
from sim.scenes.grammar import BENCHMARK_SOURCES, TRAINING_SOURCES, vocabulary
from sim.scenes.policy import Care
from sim.scenes.solutions import sample_problems, solve
from tests.mprm_jax.tiny_case import examples_of, random_params, small_model
from tests.scene_reader import words

MODEL = small_model()
PARAMS = random_params(MODEL)
FORWARD = jax.jit(MODEL.reward_logits)
# One shape for most tests: each shape is a compilation.
SHAPE = Buckets((Bucket(112, 16),), 12)
ROWS = 2


def padded(*examples):
    return collate(examples, SHAPE, ROWS)


def logits_of(example, batch):
    """Logits at the example's own steps, which are row 0 of the batch."""
    return np.asarray(FORWARD(PARAMS, batch))[0, : len(example.marker_S)]


def test_a_score_has_no_gradient_from_later_tokens():
    """Every token has an embedding of its own: its row gets exactly no gradient."""
    (example,) = examples_of(MODEL, 1)
    free = np.setdiff1d(
        np.arange(MODEL.config.vocab_size), [0, *MODEL.config.cell_tokens]
    )
    length = min(len(free), len(example.tokens_L))
    example = example._replace(
        tokens_L=free[:length].astype(np.int32),
        marker_S=np.array([length // 3, length // 2], np.int32),
        successes_S=np.zeros(2, np.int32),
        trials_S=np.ones(2, np.int32),
    )
    model = small_model(layers=2)
    params = random_params(model)
    batch = collate([example], Buckets((Bucket(112, 16),), 2), 1)

    def logits(embedding):
        changed = params | {"embed": {"embedding": embedding}}
        return model.reward_logits(changed, batch)[0]

    gradient = jax.jit(jax.jacrev(logits))(params["embed"]["embedding"])
    size_Sx3xV = np.abs(np.asarray(gradient)).max(axis=3)
    for size_3xV, marker in zip(size_Sx3xV, example.marker_S.tolist(), strict=True):
        later, until = free[marker + 1 : length], free[: marker + 1]
        assert len(later) > 5
        np.testing.assert_array_equal(size_3xV[:, later], 0)
        assert (size_3xV[:, until] > 0).all()
        # Padding is a token too, and not read either; places are.
        np.testing.assert_array_equal(size_3xV[:, 0], 0)
        assert (size_3xV[:, list(MODEL.config.cell_tokens)] > 0).all()


def test_all_patches_and_their_places_count():
    (example,) = examples_of(MODEL, 1)
    before = logits_of(example, padded(example))
    for place in (0, 7, 15):
        patches = example.images_PxD.copy()
        patches[place] = 255 - patches[place]
        changed = example._replace(images_PxD=patches)
        assert np.abs(logits_of(changed, padded(changed)) - before).max() > 1e-6
    swapped = example._replace(images_PxD=example.images_PxD[::-1].copy())
    assert np.abs(logits_of(swapped, padded(swapped)) - before).max() > 1e-6


def test_padding_and_neighbours_do_not_change_scores():
    example, *others = examples_of(MODEL, 3)
    exact = Buckets((Bucket(len(example.tokens_L), 16),), len(example.marker_S))
    alone = logits_of(example, collate([example], exact, 1))
    assert alone.shape == (len(example.marker_S), 3)
    for batch in (padded(example), padded(example, others[0])):
        np.testing.assert_allclose(logits_of(example, batch), alone, atol=2e-5)
    # What stands where the padding was is not read either.
    tokens = batch.tokens_BxL.copy()
    tokens[0, len(example.tokens_L) :] = 7
    filled = batch._replace(tokens_BxL=tokens)
    np.testing.assert_allclose(logits_of(example, filled), alone, atol=2e-5)


def test_scores_are_read_at_their_markers():
    (example,) = examples_of(MODEL, 1)
    whole = logits_of(example, padded(example))
    assert len(np.unique(whole[:, 0])) == len(whole)
    backward = example._replace(marker_S=example.marker_S[::-1].copy())
    found = logits_of(backward, padded(backward))
    np.testing.assert_array_equal(found, whole[::-1])
    short = example._replace(
        tokens_L=example.tokens_L[: example.marker_S[1] + 1],
        marker_S=example.marker_S[:2],
        successes_S=example.successes_S[:2],
        trials_S=example.trials_S[:2],
    )
    found = logits_of(short, padded(short))
    np.testing.assert_allclose(found, whole[:2], atol=2e-5)


def test_an_update_leaves_the_vision_tower_bitwise_alone():
    batch = padded(*examples_of(MODEL, 2))
    optimizer = OptimizerConfig(weight_decay=0.5)
    state, frozen = initial_state(MODEL, PARAMS, plan(20, 2), optimizer, 1e-2)
    assert {"stem1", "stem2", "vision"}.isdisjoint(
        name for name, part in state.trained.items() if jax.tree.leaves(part)
    )
    before = jax.tree.map(np.array, PARAMS)
    metrics, rule = {}, UpdateRule(MODEL, optimizer, Objective())
    for _ in range(2):
        state, metrics = compiled_step(state, frozen, batch, 1.0, rule=rule)
    assert float(metrics["gradient_norm"]) > 0
    after = join(state.trained, frozen)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for name, part in after.items():
        same = jax.tree.map(np.array_equal, part, before[name])
        if name in ("stem1", "stem2", "vision"):
            assert all(jax.tree.leaves(same)), name
        else:
            assert not any(jax.tree.leaves(same)), name


def test_prompts_name_every_step_once():
    model = MODEL
    image = Image.new("RGB", (48, 48))
    tokens, patches, marker, truncated = model.encode(
        "Largest of the dice at a1 b2?",
        ["a1: 3, largest 3", "b2: 5, largest 5"],
        (image,),
    )
    text = [model.tokenizer.id_to_token(i) or "" for i in tokens.tolist()]
    assert " ".join(text) == (
        "question largest of the dice at a1 b2 process a1 3 largest 3 <prm> "
        "b2 5 largest 5 <prm>"
    )
    assert [text[i] for i in marker] == ["<prm>"] * 2
    assert patches.shape == (16, 432)
    assert truncated == 0


def test_pictures_of_any_size_and_mode_are_read():
    steps = ["a1: 3, largest 3"]
    for image in (
        Image.new("RGB", (96, 20), "red"),
        Image.new("L", (48, 48), 128),
        Image.new("RGBA", (7, 7)),
        Image.new("P", (48, 48)),
    ):
        _, patches, _, _ = MODEL.encode("Largest at a1?", steps, (image,))
        assert (patches.shape, patches.dtype) == ((16, 432), np.uint8)
    with pytest.raises(BadRecord, match="several images"):
        MODEL.encode("Largest at a1?", steps, (image, image))


def test_text_alone_scores_alike_beside_pictures_and_without():
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    ones = np.ones(1, np.int32)
    examples = [
        Example(tokens, patches, marker, ones, ones, cut)
        for images in ((), (Image.fromarray(noise),))
        for tokens, patches, marker, cut in (
            MODEL.encode("Largest at a1?", ["a1: 3, largest 3"], images),
        )
    ]
    assert [one.images_PxD.shape for one in examples] == [(0, 432), (16, 432)]
    text, shown = np.asarray(FORWARD(PARAMS, padded(*examples)))[:, 0]
    alone = collate(examples[:1], Buckets((Bucket(112, 0),), 12), ROWS)
    assert text == pytest.approx(np.asarray(FORWARD(PARAMS, alone))[0, 0], abs=1e-5)
    assert not np.allclose(text, shown, atol=1e-3)


def test_long_prompts_lose_their_last_steps_and_say_so():
    steps = [f"a1: {i % 10}, largest {i % 10}" for i in range(60)]
    image = Image.new("RGB", (48, 48))
    tokens, _, marker, truncated = MODEL.encode("Largest at a1?", steps, (image,))
    assert len(tokens) <= MAX_TOKENS
    assert truncated == 60 - len(marker) > 0
    assert marker[-1] == len(tokens) - 1


def test_patches_lie_in_reading_order():
    pixels = np.arange(48 * 48 * 3).reshape(1, 48, 48, 3)
    patches = patchify(pixels)
    assert patches.shape == (1, 16, 432)
    for place in (0, 1, 4, 15):
        row, column = 12 * (place // 4), 12 * (place % 4)
        cell = pixels[0, row : row + 12, column : column + 12]
        np.testing.assert_array_equal(patches[0, place], cell.ravel())
    with pytest.raises(ValueError, match="50 x 48"):
        patchify(np.zeros((1, 48, 50, 3)))


def test_the_shipped_backbone_has_no_opinion_of_steps_yet():
    """Its head is zero, so every score is 1/2; the rest is there and finite."""
    model, params = pretrained()
    assert isinstance(model, TinyModel)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(params["head"]))
    for name in params.keys() - {"head"}:
        for leaf in jax.tree.leaves(params[name]):
            assert leaf.dtype == np.float32
            assert np.isfinite(leaf).all()
            assert np.any(leaf)


def prompts(per_source):
    rng = np.random.default_rng(0)
    for source in TRAINING_SOURCES + BENCHMARK_SOURCES:
        erring = dataclasses.replace(source, repair=(0.5, 0.5), check=(0.5, 0.5))
        problems = sample_problems(erring, per_source, 0.0, rng)
        solutions = solve(problems, Care(5.0), 0.3, rng)
        yield from map(render, questions(solutions), step_texts(solutions))


@pytest.mark.parametrize("shipped", [True, False])
def test_no_text_of_the_world_has_an_unknown_word(shipped):
    tokenizer = pretrained()[0].tokenizer if shipped else build_tokenizer(vocabulary())
    texts = list(prompts(300))
    unknown = tokenizer.token_to_id(UNKNOWN)
    for text, encoded in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert unknown not in encoded.ids, text
        assert encoded.tokens == words(text.replace("<prm>", " <prm> "))
        assert len(encoded.ids) < MAX_TOKENS


def test_ids_are_distinct_and_the_first_ones_fixed():
    tokenizer = build_tokenizer(["a1", "red", "a1", "question"])
    ids = tokenizer.get_vocab()
    assert [ids[word] for word in ("<pad>", "<unk>", "<prm>")] == [0, 1, 2]
    assert sorted(ids.values()) == list(range(7))
    assert tokenizer.encode("Purple RED?").ids == [1, ids["red"]]
