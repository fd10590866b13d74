import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.data.batches import buckets_for, collate
from mprm_jax.models.backbone import from_description
from mprm_jax.models.families import Prompting
from mprm_jax.models.layers import Compute
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.train import update
from mprm_jax.train.objective import Objective, StepLabeller
from mprm_jax.train.optimizer import OptimizerConfig
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.backbone_folder import picture, qwen_folder
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.tiny_backbones import PLAIN, SHORT, example
from tests.mprm_jax.tiny_backbones import loaded as loaded


def three_examples(model):
    return [
        example(model, "two apples", ["so two", "two"], (picture(56, 84),), [3, 0]),
        example(model, "apples", ["so"], (), [16]),
        example(
            model,
            "so",
            ["a", "b", "two"],
            (picture(28, 28), picture(84, 56)),
            [9, 1, 2],
        ),
    ]


def test_the_tokens_of_a_prompt(loaded):
    model, _ = loaded
    image = model.config.image_token
    steps = ["two apples", "so two"]
    tokens, pixels, marker, truncated = model.encode("so", steps, (picture(56, 84),))
    text = model.tokenizer.decode(tokens.tolist(), skip_special_tokens=False).split()
    assert truncated == 0
    assert [text[at] for at in marker] == ["<prm>", "<prm>"]
    assert marker[-1] == len(tokens) - 1
    after_images = " ".join(text[np.flatnonzero(tokens == image)[-1] + 1 :])
    assert after_images.endswith(
        "Question : so Process : two apples <prm> so two <prm>"
    )
    count = (tokens == image).sum()
    if model.name == "qwen2.5-vl":
        assert count == 2 * 3
        assert len(pixels) == 4 * 6
    else:
        # 56 x 84 pixels: 2 x 3 tiles would be seven with the thumbnail, so 1 x 2 or
        # 1 x 1; 1.5 is as far from either, and the larger is more than half filled.
        assert count == 4 * len(pixels)
        assert len(pixels) == 3


def test_text_with_control_tokens_is_refused(loaded):
    model, _ = loaded
    placeholder = model.template.image_token
    with pytest.raises(BadRecord, match="control token in text"):
        model.encode(f"what is {placeholder}?", ["so"], ())
    with pytest.raises(BadRecord, match="step marker in text"):
        model.encode("so", ["two <prm>"], ())


def test_steps_beyond_the_length_are_cut_and_counted_but_never_images(loaded):
    model, _ = loaded
    whole, _, marker, _ = model.encode("so", ["two"] * 5, (picture(28, 28),))
    limits = dataclasses.replace(SHORT, max_length=int(marker[2]) + 1)
    short = dataclasses.replace(model, prompting=limits)
    tokens, _, kept, truncated = short.encode("so", ["two"] * 5, (picture(28, 28),))
    assert (len(kept), truncated) == (3, 2)
    np.testing.assert_array_equal(tokens, whole[: len(tokens)])
    tiny = dataclasses.replace(SHORT, max_length=4)
    with pytest.raises(BadRecord, match="prompt longer than the context"):
        dataclasses.replace(model, prompting=tiny).encode(
            "so", ["two"], (picture(28, 28),)
        )


def test_a_score_depends_on_neither_batch_nor_padding(loaded):
    model, params = loaded
    rows = three_examples(model)
    together = collate(rows, buckets_for(rows), 4)
    logits_of = jax.jit(model.reward_logits)
    logits = logits_of(params, together)
    assert logits.shape == (4, 3, 3)
    assert jnp.isfinite(logits).all()
    # The second has no picture, and its own batch none either.
    for number in (1, 2):
        row = rows[number]
        alone = logits_of(params, collate([row], buckets_for([row]), 1))
        steps = len(row.marker_S)
        np.testing.assert_allclose(
            logits[number, :steps], alone[0, :steps], rtol=1e-4, atol=1e-4
        )


def test_the_marker_has_a_row_and_rewards_come_from_yes_and_no(loaded):
    model, params = loaded
    marker = model.tokenizer.token_to_id("<prm>")
    assert marker < model.config.language.vocabulary
    assert len(params["language"]["embedding"]) == model.config.language.vocabulary
    yes, no = (model.tokenizer.token_to_id(word) for word in ("Yes", "No"))
    rows = np.asarray(params["language"]["lm_head"])[[yes, no]]
    np.testing.assert_array_equal(params["head"]["answers"], rows)
    np.testing.assert_array_equal(params["head"]["concentration"], 0)


def test_other_reward_tokens_and_none(tmp_path):
    folder = qwen_folder(tmp_path)
    model, params = load_backbone(folder, answers=("+", "-"), compute=PLAIN,
                                  prompting=SHORT)  # fmt: skip
    plus = model.tokenizer.token_to_id("+")
    rows = np.asarray(params["language"]["lm_head"])
    np.testing.assert_array_equal(params["head"]["answers"][0], rows[plus])
    _, params = load_backbone(folder, answers=None, compute=PLAIN, prompting=SHORT)
    assert not (rows == np.asarray(params["head"]["answers"][:1])).all(axis=1).any()
    with pytest.raises(DataError, match="no token 'Maybe'"):
        load_backbone(folder, answers=("Maybe", "No"), prompting=SHORT)


def test_a_description_makes_the_same_model(loaded, tmp_path):
    model, _ = loaded
    for name, data in model.assets().items():
        (tmp_path / name).write_bytes(data)
    values = json.loads(json.dumps(model.description()))
    again = from_description(model.name, values, tmp_path)
    assert again == model
    assert hash(again) == hash(model)
    a, b = (m.encode("so", ["two"], (picture(30, 40),)) for m in (again, model))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(DataError, match="no description"):
        from_description(model.name, {"config": {}}, tmp_path)


def test_a_context_too_short_or_a_wrong_tokenizer_is_refused(tmp_path):
    folder = qwen_folder(tmp_path)
    with pytest.raises(DataError, match="max_length 8192 is beyond"):
        load_backbone(folder, prompting=Prompting())
    # Who asks for nothing gets what the context holds.
    assert load_backbone(folder)[0].prompting == Prompting(max_length=512)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="no tokenizer"):
        load_backbone(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: not found"):
        load_backbone(folder)


def test_an_update_lowers_the_loss_and_leaves_the_tower(loaded):
    model, params = loaded
    rows = three_examples(model)
    batch = collate(rows, buckets_for(rows), 4, StepLabeller(Objective()))
    optimizer = OptimizerConfig()
    state, frozen = update.initial_state(model, params, plan(80, 4), optimizer, 1e-3)
    rule, weight = update.UpdateRule(model, optimizer, Objective()), 1.0
    before = jax.tree.map(np.asarray, frozen)
    losses = []
    for _ in range(6):
        state, metrics = update.update(state, frozen, [batch], weight, rule)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_bfloat16_scores_are_near_those_of_float32(loaded):
    model, params = loaded
    rows = three_examples(model)
    batch = collate(rows, buckets_for(rows), 4)
    exact = jax.jit(model.reward_logits)(params, batch)
    half = dataclasses.replace(model, compute=Compute("bfloat16", remat="none"))
    rounded = jax.jit(half.reward_logits)(params, batch)
    error = jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 0.05
