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


def tower_states(
    config: InternVLConfig, params: Params, images_BxTxD: jax.Array, compute: Compute
) -> jax.Array:
    """What the tower makes of every tile, before the projector [B, T, tile_tokens M].

    M = shuffle^2 width is what becomes one image token.
    """
    batch, tiles, bytes_per_tile = images_BxTxD.shape
    flat = images_BxTxD.reshape(batch * tiles, bytes_per_tile)
    states = internvit.vision_states(config.vision, params["vision"], flat, compute)
    return pixel_shuffle(states, config.shuffle).reshape(batch, tiles, -1)


def project(
    config: InternVLConfig, params: Params, states_BxTxM: jax.Array, compute: Compute
) -> jax.Array:
    """Image tokens [B, T tile_tokens, D] of the tower's states."""
    batch, tiles = states_BxTxM.shape[:2]
    x = states_BxTxM.astype(compute.dtype)
    x = x.reshape(batch, tiles * config.tile_tokens, -1)
    projector = nn.cast(params["projector"], compute.dtype)
    x = nn.layer_norm(projector["norm"], x, _PROJECTOR_EPS)
    return nn.linear(projector["out"], nn.gelu(nn.linear(projector["in"], x)))


def vision_features(
    config: InternVLConfig, params: Params, images_BxTxD: jax.Array, compute: Compute
) -> jax.Array:
    """Image tokens [B, T tile_tokens, D] of a prompt's tiles, in their order."""
    states = tower_states(config, params, images_BxTxD, compute)
    return project(config, params, states, compute)


def hidden_from_states(
    config: InternVLConfig,
    params: Params,
    tokens_BxL: jax.Array,
    states_BxTxM: jax.Array,
    compute: Compute,
) -> jax.Array:
    """``hidden_states`` of tiles that the tower has seen already."""
    features = project(config, params, states_BxTxM, compute)
    return _decode(config, params, tokens_BxL, features, compute)


def hidden_states(
    config: InternVLConfig,
    params: Params,
    tokens_BxL: jax.Array,
    images_BxTxD: jax.Array,
    compute: Compute,
) -> jax.Array:
    """Residual stream of the decoder [B, L, D], before its final norm."""
    if not images_BxTxD.shape[1]:
        return _decode(config, params, tokens_BxL, None, compute)
    features = vision_features(config, params, images_BxTxD, compute)
    return _decode(config, params, tokens_BxL, features, compute)


def _decode(
    config: InternVLConfig,
    params: Params,
    tokens_BxL: jax.Array,
    features_BxUxD: jax.Array | None,
    compute: Compute,
) -> jax.Array:
    embedded = decoder.embed(params["language"], tokens_BxL, compute)
    if features_BxUxD is not None:
        is_image_BxL = tokens_BxL == config.image_token
        embedded = insert_features(embedded, is_image_BxL, features_BxUxD)
    positions = decoder.text_positions(tokens_BxL)
    return decoder.decode(
        config.language, params["language"], embedded, positions, compute
    )
