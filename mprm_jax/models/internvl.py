"""InternVL2.5 (Chen et al. 2024): InternViT, pixel shuffle, MLP and a decoder."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from mprm_jax.models import decoder, internvit
from mprm_jax.models import layers as nn
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.internvit import InternViTConfig
from mprm_jax.models.layers import Compute, Init, Params
from mprm_jax.models.merging import insert_features

# nn.LayerNorm's default, fixed in the reference.
_PROJECTOR_EPS = 1e-5


@dataclass(frozen=True)
class InternVLConfig:
    """The two parts and the token that joins them.

    Attributes:
        language: the decoder (InternLM2, Qwen2 or Llama).
        vision: the tower.
        image_token: id that each image token stands for.
        shuffle: patches along a side of the square that becomes one token.
    """

    language: DecoderConfig
    vision: InternViTConfig
    image_token: int
    shuffle: int = 2

    @property
    def tile_tokens(self) -> int:
        """Image tokens of a tile: (448 / 14 / 2)^2 = 256."""
        return (self.vision.side // self.shuffle) ** 2


def init(config: InternVLConfig, key: jax.Array) -> Params:
    """Random parameters, float32."""
    language, vision, projector = jax.random.split(key, 3)
    one, width = Init(projector), config.language.width
    merged = config.vision.width * config.shuffle**2
    return {
        "vision": internvit.init(config.vision, vision),
        "projector": {
            "norm": one.layer_norm(merged),
            "in": one.linear("in", merged, width, True),
            "out": one.linear("out", width, width, True),
        },
        "language": decoder.init(config.language, language),
    }


def pixel_shuffle(x_TxRxCxD: jax.Array, factor: int) -> jax.Array:
    """Squares of factor x factor patches as one [T, R C / factor^2, factor^2 D] (v2).

    Within a square: row, column, channel.
    """
    tiles, rows, columns, width = x_TxRxCxD.shape
    squares = x_TxRxCxD.reshape(
        tiles, rows // factor, factor, columns // factor, factor, width
    )
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(tiles, -1, factor**2 * width)


def vision_features(
    config: InternVLConfig, params: Params, images_BxTxD: jax.Array, compute: Compute
) -> jax.Array:
    """Image tokens [B, T tile_tokens, D] of a prompt's tiles, in their order."""
    batch, tiles, bytes_per_tile = images_BxTxD.shape
    flat = images_BxTxD.reshape(batch * tiles, bytes_per_tile)
    states = internvit.vision_states(config.vision, params["vision"], flat, compute)
    x = pixel_shuffle(states, config.shuffle)
    projector = nn.cast(params["projector"], compute.dtype)
    x = nn.layer_norm(projector["norm"], x, _PROJECTOR_EPS)
    x = nn.linear(projector["out"], nn.gelu(nn.linear(projector["in"], x)))
    return x.reshape(batch, tiles * config.tile_tokens, -1)


def hidden_states(
    config: InternVLConfig,
    params: Params,
    tokens_BxL: jax.Array,
    images_BxTxD: jax.Array,
    compute: Compute,
) -> jax.Array:
    """Residual stream of the decoder [B, L, D], before its final norm."""
    embedded = decoder.embed(params["language"], tokens_BxL, compute)
    if images_BxTxD.shape[1]:
        features = vision_features(config, params, images_BxTxD, compute)
        is_image_BxL = tokens_BxL == config.image_token
        embedded = insert_features(embedded, is_image_BxL, features)
    positions = decoder.text_positions(tokens_BxL)
    return decoder.decode(
        config.language, params["language"], embedded, positions, compute
    )
