import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.models import decoder, families, reward_head
from mprm_jax.models.layers import Compute
from mprm_jax.models.qwen import QwenVLConfig
from mprm_jax.models.reward_head import RewardHead
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.test_models_decoder import language_logits
from tests.mprm_jax.test_models_vision import LANGUAGE, VISION

PLAIN = Compute("float32", remat="none")
UNTIED = dataclasses.replace(LANGUAGE, tied=False)
KEY = jax.random.key(0)


def model(language):
    config = QwenVLConfig(language, VISION, image_token=5)
    return config, families.init(config, KEY)


@pytest.mark.parametrize("language", [LANGUAGE, UNTIED])
def test_its_logits_are_those_of_the_whole_head_at_the_markers(language):
    _, params = model(language)
    head = RewardHead((11, 4), language.tied)
    tokens = jnp.asarray([[6, 7, 8, 9, 10, 1], [3, 2, 1, 1, 9, 8]])
    marker = jnp.asarray([[2, 5], [0, 3]])
    hidden = decoder.decode(
        language,
        params["language"],
        decoder.embed(params["language"], tokens, PLAIN),
        decoder.text_positions(tokens),
        PLAIN,
    )
    whole = language_logits(language, params["language"], tokens, PLAIN)
    params = reward_head.attach(head, params)
    concentration = jax.random.normal(KEY, (1, language.width))
    params["head"]["concentration"] = concentration
    found = reward_head.reward_logits(head, language, params, hidden, marker)
    for b, s in np.ndindex(2, 2):
        expected = whole[b, marker[b, s], jnp.asarray([11, 4])]
        np.testing.assert_allclose(found[b, s, :2], expected, rtol=1e-5, atol=1e-6)
    states = decoder.final_norm(language, params["language"], hidden)
    third = (states[1, 3] * concentration[0]).sum()
    assert found[1, 1, 2] == pytest.approx(float(third), rel=1e-5)
    assert found.dtype == jnp.float32


def test_trained_rows_return_to_the_language_model():
    _, params = model(UNTIED)
    head = RewardHead((11, 4), tied=False)
    attached = reward_head.attach(head, params)
    attached["head"]["answers"] = attached["head"]["answers"] + 1
    back = reward_head.detach(head, attached)
    assert back.keys() == params.keys()
    before = np.asarray(params["language"]["lm_head"])
    expected = before.copy()
    expected[[11, 4]] += 1
    np.testing.assert_array_equal(back["language"]["lm_head"], expected)
    # The source is as it was.
    np.testing.assert_array_equal(params["language"]["lm_head"], before)


def test_new_rows_are_no_rows_of_the_vocabulary():
    for language in (LANGUAGE, UNTIED):
        _, params = model(language)
        head = RewardHead(None, language.tied)
        attached = reward_head.attach(head, params)
        assert attached["head"]["answers"].shape == (2, language.width)
        # They begin at zero: every step is scored 1/2.
        assert not attached["head"]["answers"].any()
        back = reward_head.detach(head, attached)
        jax.tree.map(np.testing.assert_array_equal, back, params)


def test_what_is_trained():
    _, params = model(UNTIED)
    params = reward_head.attach(RewardHead((11, 4), False), params)
    flags = families.trainable(params)
    assert flags["head"] == {"answers": True, "concentration": True}
    assert not flags["language"]["lm_head"]
    assert flags["language"]["embedding"]
    assert all(jax.tree.leaves(flags["language"]["layers"]))
    assert not any(jax.tree.leaves(flags["vision"]["layers"]))
    assert all(jax.tree.leaves(flags["vision"]["merger_in"]))


def test_new_tokens_begin_at_the_mean_of_the_old():
    config, params = model(UNTIED)
    grown_config, grown = reward_head.grow_vocabulary(config, params, 32)
    assert grown_config.language.vocabulary == 32
    for name in ("embedding", "lm_head"):
        old = np.asarray(params["language"][name])
        new = np.asarray(grown["language"][name])
        np.testing.assert_array_equal(new[:30], old)
        np.testing.assert_allclose(new[30:], [old.mean(0)] * 2, atol=1e-7)
    same_config, same = reward_head.grow_vocabulary(config, params, 30)
    assert same_config == config
    assert same is params
