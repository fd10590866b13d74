"""Tiny random Qwen2.5-VL models of ``transformers``, and batches for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)

from mprm_jax.data.images import PatchGrid, patch_images, patches_per_image
from mprm_jax.models.weights.config import QWEN
from tests.parity.references import (
    VOCABULARY,
    Case,
    language_fields,
    pad_rows,
    random_image,
    random_rows,
    randomise,
)

IMAGE, START, END = 5, 3, 4


@dataclass(frozen=True)
class Shape:
    """One tiny configuration, and the sizes (height, width) of each row's images."""

    seed: int
    heads: int
    kv_heads: int
    sections: tuple[int, int, int]
    window: int
    full: tuple[int, ...]
    tied: bool
    images: tuple[tuple[tuple[int, int], ...], ...]
    vocabulary: int = VOCABULARY


# Windows with odd remainders, several images of several sizes, rows without an image.
SHAPES = {
    "one image": Shape(0, 4, 2, (2, 3, 3), 112, (1, 3), False, (((140, 196),),)),
    "many images": Shape(
        1, 6, 1, (4, 2, 2), 56, (2,), False,
        (((84, 84), (28, 252)), (), ((120, 61),)),
    ),
    "tied": Shape(
        2, 4, 4, (2, 3, 3), 112, (0,), True, (((230, 118), (56, 56), (57, 300)), ()),
    ),
    "text only": Shape(3, 4, 2, (2, 3, 3), 112, (3,), True, ((), ())),
}  # fmt: skip


def qwen_config(shape: Shape) -> Any:
    width = shape.heads * 16
    text = language_fields(shape) | {
        "rms_norm_eps": 1e-6,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": list(shape.sections),
        },
    }
    vision = {
        "depth": 4,
        "hidden_size": 48,
        "intermediate_size": 44,
        "num_heads": 3,
        "out_hidden_size": width,
        "window_size": shape.window,
        "fullatt_block_indexes": list(shape.full),
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=shape.tied,
        image_token_id=IMAGE,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )


def save_qwen(shape: Shape, folder: Path) -> Any:
    """Save a random model of this shape into the folder."""
    model: Any = Qwen2_5_VLForConditionalGeneration(qwen_config(shape)).eval()
    model.set_attn_implementation("eager")
    randomise(model, QWEN, shape.seed)
    model.save_pretrained(folder)
    return model


def make_qwen(name: str, folder: Path) -> Case:
    """Save the model into the folder and draw a batch."""
    shape, grid = SHAPES[name], PatchGrid()
    rng = np.random.default_rng(shape.seed)
    model = save_qwen(shape, folder)
    pictures = [
        tuple(random_image(rng, *size) for size in sizes) for sizes in shape.images
    ]
    patches = [patch_images(row, grid) for row in pictures]
    counts = [[n // grid.merge**2 for n in patches_per_image(row)] for row in patches]
    rows = random_rows(rng, counts, START, IMAGE, END)
    tokens, lengths, images = pad_rows(rows, patches)
    flat = [picture for row in pictures for picture in row]
    size = {"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels}
    processor = Qwen2VLImageProcessorPil(size=size)
    made = processor(flat, return_tensors="pt") if flat else {}
    pixels, grid_thw = made.get("pixel_values"), made.get("image_grid_thw")
    ids = torch.as_tensor(tokens).long()
    real = np.arange(tokens.shape[1])[None] < lengths[:, None]

    def run() -> Any:
        return model(
            input_ids=ids,
            attention_mask=torch.as_tensor(real).long(),
            pixel_values=pixels,
            image_grid_thw=grid_thw,
            # Without it the reference falls back to one position per token.
            mm_token_type_ids=(ids == IMAGE).int(),
        ).logits

    def see() -> Any:
        if not flat:
            return torch.zeros(0, 1)
        return torch.cat(model.get_image_features(pixels, grid_thw).pooler_output)

    labels = rng.integers(0, 2, int((tokens == 13).sum()))
    return Case(
        model,
        QWEN,
        shape.seed,
        run,
        see,
        tokens,
        lengths,
        images,
        [sum(c) for c in counts],
        labels,
    )
