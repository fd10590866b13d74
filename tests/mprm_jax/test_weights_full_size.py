"""The released models by shape alone: nothing of them is allocated."""

import dataclasses
import json

import numpy as np
import pytest

from mprm_jax.models.weights import tensors
from mprm_jax.models.weights.config import config_json, read_config
from mprm_jax.models.weights.names import entries
from tests.mprm_jax.random_weights import internvl_chat_config, qwen_config, text_config


def qwen_7b():
    config = qwen_config(
        image_token_id=151655, vision_start_token_id=151652, vision_end_token_id=151653
    )
    config["text_config"] |= {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    config["vision_config"] |= {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return config


def internvl_8b():
    config = internvl_chat_config()
    config["llm_config"] |= {
        "vocab_size": 92553,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
    }
    config["vision_config"] |= {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": 448,
    }
    return config


def internvl3_8b():
    """As its config.json differs: Qwen2.5's decoder and vocabulary."""
    config = internvl_8b()
    config["llm_config"] = {
        **config["llm_config"],
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 151674,
        **dict(zip(_SIZES, (3584, 18944, 28, 28, 4), strict=True)),
    }
    return config


_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip


def text(kind, vocabulary, *sizes, tied=False):
    """A text model; its heads are as wide as its kind makes them."""
    config = text_config(kind, vocab_size=vocabulary, tie_word_embeddings=tied)
    del config["head_dim"]
    return config | dict(zip(_SIZES, sizes, strict=True))


QWEN25_MATH_7B = text("qwen2", 152064, 3584, 18944, 28, 28, 4)
QWEN3_8B = text("qwen3", 151936, 4096, 12288, 36, 32, 8)
LLAMA31_8B = text("llama", 128256, 4096, 14336, 32, 32, 8)
SMOLLM2_135M = text("llama", 49152, 576, 1536, 30, 9, 3, tied=True)


def read(folder, value):
    (folder / "config.json").write_text(json.dumps(value))
    (folder / "added_tokens.json").write_text('{"<IMG_CONTEXT>": 92546}')
    return read_config(folder)


# As published: of the first two from the headers of the released files, of the others
# from memory.
@pytest.mark.parametrize(
    ("value", "count"),
    [
        (qwen_7b(), 8_292_166_656),
        (internvl_8b(), 8_075_365_376),
        (internvl3_8b(), 7_944_373_760),
        (QWEN25_MATH_7B, 7_615_616_512),
        (QWEN3_8B, 8_190_735_360),
        (LLAMA31_8B, 8_030_261_248),
        (SMOLLM2_135M, 134_515_008),
    ],
)
def test_the_released_models_have_their_number_of_parameters(value, count, tmp_path):
    kind, config = read(tmp_path, value)
    assert tensors.parameter_count(config) == count
    assert sum(int(np.prod(e.shape)) for e in entries(kind, config)) == count


@pytest.mark.parametrize(
    "value", [qwen_7b(), internvl_8b(), QWEN25_MATH_7B, QWEN3_8B, LLAMA31_8B]
)
def test_a_configuration_survives_being_saved(value, tmp_path):
    _, config = read(tmp_path, value)
    assert read(tmp_path, config_json(config, "bfloat16"))[1] == config
    tied = dataclasses.replace(config.language, tied=True)
    config = dataclasses.replace(config, language=tied)
    assert read(tmp_path, config_json(config, "bfloat16"))[1] == config
