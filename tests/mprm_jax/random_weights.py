"""Random weights that any framework can draw: by name, from a frozen generator."""

import json
import zlib

import numpy as np
from safetensors.numpy import save_file

from mprm_jax.models.weights.config import read_config
from mprm_jax.models.weights.names import entries


def random_tensor(name, shape, seed):
    """Of the size that trained weights have, so that every part of a model matters.

    ``RandomState`` rather than ``Generator``: its stream never changes.
    """
    noise = np.random.RandomState(zlib.crc32(name.encode()) ^ seed).standard_normal(
        shape
    )
    if any(part in name for part in ("embed", "token", "position", "class")):
        value = 0.3 * noise
    elif len(shape) >= 2:
        value = noise * np.prod(shape[1:]) ** -0.5
    elif name.endswith("bias"):
        value = 0.3 * noise
    else:
        value = 1 + 0.2 * noise
    return value.astype(np.float32)


def write_checkpoint(folder, config, seed, added_tokens=None):
    """A checkpoint of random weights for the contents of a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if added_tokens:
        (folder / "added_tokens.json").write_text(json.dumps(added_tokens))
    kind, shape = read_config(folder)
    tensors = {
        entry.name: random_tensor(entry.name, entry.shape, seed)
        for entry in entries(kind, shape)
    }
    save_file(tensors, folder / "model.safetensors")
    return kind, shape, tensors


TEXT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}
INTERNVIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
}


def qwen_config(**changes):
    """A tiny Qwen2.5-VL as transformers writes its config.json."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {
        "model_type": "qwen2_5_vl_vision",
        "depth": 2,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "hidden_act": "silu",
    }
    return {
        "model_type": "qwen2_5_vl",
        "image_token_id": 5,
        "vision_start_token_id": 3,
        "vision_end_token_id": 4,
        "tie_word_embeddings": False,
        "text_config": TEXT
        | {"model_type": "qwen2_5_vl_text", "rope_parameters": rope},
        "vision_config": vision,
    } | changes


def text_config(kind="qwen3", **changes):
    """A tiny text model as transformers writes its config.json."""
    return TEXT | {"model_type": kind, "rope_theta": 1e4, "head_dim": 8} | changes


def internvl_config(**changes):
    """A tiny InternVL2.5 as transformers writes its config.json."""
    rope = {"rope_type": "default", "rope_theta": 1e6}
    vision = INTERNVIT | {
        "model_type": "internvl_vision",
        "attention_bias": True,
        "image_size": [56, 56],
        "patch_size": [14, 14],
        "use_qk_norm": False,
    }
    return {
        "model_type": "internvl",
        "image_token_id": 7,
        "image_seq_length": 4,
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": True,
        "text_config": TEXT | {"model_type": "qwen2", "rope_parameters": rope},
        "vision_config": vision,
    } | changes


def internvl_chat_config(family="InternLM2ForCausalLM", **changes):
    """A tiny InternVL2.5 as its remote code writes its config.json."""
    language = TEXT | {
        "architectures": [family],
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "bias": False,
        "tie_word_embeddings": False,
    }
    return {
        "model_type": "internvl_chat",
        "ps_version": "v2",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "llm_config": language,
        "vision_config": INTERNVIT
        | {"image_size": 56, "patch_size": 14, "qkv_bias": True},
    } | changes
