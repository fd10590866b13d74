"""Qwen2.5-VL (Bai et al. 2025): vision tower, merger, Qwen2 decoder with M-RoPE."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mprm_jax.models import decoder, qwen_vision
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.layers import Compute, Params
from mprm_jax.models.merging import insert_features
from mprm_jax.models.qwen_vision import QwenVisionConfig, unpack_places


@dataclass(frozen=True)
class QwenVLConfig:
    """The two parts and the tokens that join them.

    Attributes:
        language: the decoder; its rope has three sections.
        vision: the tower; its output is the decoder's width.
        image_token: id that each image token stands for.
        vision_start: id before the tokens of an image.
        vision_end: id after them.
    """

    language: DecoderConfig
    vision: QwenVisionConfig
    image_token: int = 151655
    vision_start: int = 151652
    vision_end: int = 151653


def init(config: QwenVLConfig, key: jax.Array) -> Params:
    """Random parameters, float32."""
    language, vision = jax.random.split(key)
    return {
        "vision": qwen_vision.init(config.vision, vision),
        "language": decoder.init(config.language, language),
    }


def rope_positions(
    config: QwenVLConfig, tokens_BxL: jax.Array, place_BxPx3: jax.Array
) -> jax.Array:
    """Time, row and column position of every token [3, B, L] (M-RoPE).

    Text counts on all three axes. The tokens of an image of H x W blocks share the
    count c at which it begins: (c, c + row, c + column); after it the count is
    c + max(H, W).
    """
    is_image_BxL = tokens_BxL == config.image_token
    # The first patch of a block holds its place, in patches.
    unit_BxUx3 = place_BxPx3[:, :: config.vision.merge**2]
    image_BxU, cell_BxUx2 = unit_BxUx3[..., 0], unit_BxUx3[..., 1:]
    cell_BxUx2 = cell_BxUx2 // config.vision.merge
    following = jnp.pad(image_BxU[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    # The last block is the lower right one: its place is (H - 1, W - 1).
    span_BxU = jnp.where(image_BxU != following, jnp.max(cell_BxUx2, axis=-1) + 1, 0)
    index_BxL = jnp.maximum(jnp.cumsum(is_image_BxL, axis=1) - 1, 0)
    span_BxL = jnp.take_along_axis(span_BxU, index_BxL, axis=1)
    advance_BxL = jnp.where(is_image_BxL, span_BxL, 1)
    count_BxL = jnp.cumsum(advance_BxL, axis=1) - advance_BxL
    cell_BxLx2 = decoder.gather_positions(cell_BxUx2, index_BxL)
    cell_BxLx2 = jnp.where(is_image_BxL[..., None], cell_BxLx2, 0)
    rows, columns = cell_BxLx2[..., 0], cell_BxLx2[..., 1]
    return jnp.stack([count_BxL, count_BxL + rows, count_BxL + columns])


def hidden_from_states(
    config: QwenVLConfig,
    params: Params,
    tokens_BxL: jax.Array,
    states_BxPxM: jax.Array,
    place_BxPx3: jax.Array,
    compute: Compute,
) -> jax.Array:
    """``hidden_states`` of patches that the tower has seen already."""
    vision = config.vision
    features = qwen_vision.merge(vision, params["vision"], states_BxPxM, compute)
    embedded = decoder.embed(params["language"], tokens_BxL, compute)
    is_image_BxL = tokens_BxL == config.image_token
    embedded = insert_features(embedded, is_image_BxL, features)
    positions = rope_positions(config, tokens_BxL, place_BxPx3)
    return decoder.decode(
        config.language, params["language"], embedded, positions, compute
    )


def hidden_states(
    config: QwenVLConfig,
    params: Params,
    tokens_BxL: jax.Array,
    images_BxPxD: jax.Array,
    compute: Compute,
) -> jax.Array:
    """Residual stream of the decoder [B, L, D], before its final norm."""
    language = params["language"]
    if not images_BxPxD.shape[1]:
        embedded = decoder.embed(language, tokens_BxL, compute)
        positions = decoder.text_positions(tokens_BxL)
        return decoder.decode(config.language, language, embedded, positions, compute)
    tower = params["vision"]
    states = qwen_vision.tower_states(config.vision, tower, images_BxPxD, compute)
    place = unpack_places(images_BxPxD)
    return hidden_from_states(config, params, tokens_BxL, states, place, compute)
