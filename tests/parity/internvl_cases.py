"""Tiny random InternVL models in both layouts, and batches for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from mprm_jax.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Tiling,
    tile_images,
)
from mprm_jax.models.weights.config import (
    INTERNVL,
    INTERNVL_CHAT,
    INTERNVL_CHAT_FUSED,
)
from tests.parity import remote_torch
from tests.parity.references import (
    VOCABULARY,
    Case,
    language_fields,
    pad_rows,
    random_image,
    random_rows,
    randomise,
)

IMAGE, START, END, SIDE = 7, 8, 9, 56


@dataclass(frozen=True)
class Shape:
    """One tiny configuration, and the sizes (height, width) of each row's images."""

    seed: int
    family: str
    kind: str
    heads: int
    kv_heads: int
    tied: bool
    images: tuple[tuple[tuple[int, int], ...], ...]
    vision_bias: bool = True
    vocabulary: int = VOCABULARY


SHAPES = {
    "native qwen2": Shape(
        0, "qwen2", INTERNVL, 4, 2, True, (((90, 140),), ((50, 50), (120, 60)))
    ),
    "native llama": Shape(
        1, "llama", INTERNVL, 6, 1, False, (((60, 200),), ()), vision_bias=False
    ),
    "remote internlm2": Shape(
        2, "internlm2", INTERNVL_CHAT_FUSED, 6, 2, False,
        (((90, 140),), ((50, 50), (120, 60)), ()),
    ),
    "remote qwen2": Shape(
        3, "qwen2", INTERNVL_CHAT, 4, 4, False, (((140, 90),),)
    ),
    "native qwen3": Shape(4, "qwen3", INTERNVL, 4, 2, False, (((90, 60),), ())),
    "text only": Shape(5, "llama", INTERNVL, 4, 2, False, ((), ())),
}  # fmt: skip


def text_fields(shape: Shape) -> dict[str, Any]:
    return (
        language_fields(shape)
        | {
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "max_position_embeddings": 512,
            "tie_word_embeddings": shape.tied,
        }
        | ({"head_dim": 32} if shape.family == "qwen3" else {})
    )


def vision_fields(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 80,
        "layer_norm_eps": 1e-6,
    }


def _native(shape: Shape, folder: Path) -> tuple[Any, Any, Any]:
    config = transformers.InternVLConfig(
        text_config=text_fields(shape) | {"model_type": shape.family},
        vision_config=vision_fields(shape)
        | {"image_size": [SIDE, SIDE], "attention_bias": shape.vision_bias},
        image_token_id=IMAGE,
        image_seq_length=4,
        tie_word_embeddings=shape.tied,
    )
    model: Any = transformers.InternVLForConditionalGeneration(config).eval()
    model.set_attn_implementation("eager")
    randomise(model, shape.kind, shape.seed)
    model.save_pretrained(folder)

    def run(tokens: Any, mask: Any, pixels: Any) -> Any:
        return model(input_ids=tokens, attention_mask=mask, pixel_values=pixels).logits

    return model, run, lambda pixels: model.get_image_features(pixels).pooler_output


def _remote(shape: Shape, folder: Path) -> tuple[Any, Any, Any]:
    fields, width = text_fields(shape), shape.heads * 16
    vision = remote_torch.InternViT(48, 2, 3, 80, SIDE, shape.vision_bias)
    if shape.family == "internlm2":
        sizes = (shape.heads, shape.kv_heads, 3 * width // 2)
        language: Any = remote_torch.InternLM2(shape.vocabulary, width, 3, *sizes)
        architecture = "InternLM2ForCausalLM"
        fields |= {"bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    else:
        language = transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(**text_fields(shape))
        )
        language.set_attn_implementation("eager")
        architecture = "Qwen2ForCausalLM"
    model: Any = remote_torch.InternVLChat(vision, language, width, IMAGE).eval()
    randomise(model, shape.kind, shape.seed)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "model_type": "internvl_chat",
        "ps_version": "v2",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "llm_config": fields | {"architectures": [architecture], "hidden_act": "silu"},
        "vision_config": vision_fields(shape)
        | {"image_size": SIDE, "patch_size": 14, "qkv_bias": shape.vision_bias},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps({"<IMG_CONTEXT>": IMAGE}))
    return model, model, model.see


def save_internvl(shape: Shape, folder: Path) -> tuple[Any, Any, Any]:
    """Save a random model of this shape; it, its logits and its image tokens."""
    return (_native if shape.kind == INTERNVL else _remote)(shape, folder)


def make_internvl(name: str, folder: Path) -> Case:
    """Save the model into the folder and draw a batch."""
    shape = SHAPES[name]
    rng = np.random.default_rng(shape.seed)
    model, run, see = save_internvl(shape, folder)
    pictures = [
        tuple(random_image(rng, *size) for size in sizes) for sizes in shape.images
    ]
    made = [tile_images(row, Tiling(SIDE, 4)) for row in pictures]
    counts = [[4 * count for count in tiles] for _, tiles in made]
    rows = random_rows(rng, counts, START, IMAGE, END)
    tokens, lengths, images = pad_rows(rows, [tiles for tiles, _ in made])
    flat = np.concatenate([tiles for tiles, _ in made]).reshape(-1, SIDE, SIDE, 3)
    scaled = (flat / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    pixels = torch.as_tensor(scaled.transpose(0, 3, 1, 2).copy()).float()
    ids = torch.as_tensor(tokens).long()
    mask = torch.as_tensor(np.arange(tokens.shape[1])[None] < lengths[:, None]).long()
    labels = rng.integers(0, 2, int((tokens == 13).sum()))

    def logits() -> Any:
        given = pixels.to(next(model.parameters()).dtype) if len(pixels) else None
        return run(ids, mask, given)

    return Case(
        model,
        shape.kind,
        shape.seed,
        logits,
        lambda: see(pixels).flatten(0, 1),
        tokens,
        lengths,
        images,
        [sum(row) for row in counts],
        labels,
    )
