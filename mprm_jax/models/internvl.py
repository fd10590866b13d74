"""InternVL2.5 (Chen et al. 2024): InternViT-300M, pixel shuffle, and a projector.

The tower is a plain vision transformer with layer scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mprm_jax.data.images import IMAGENET_MEAN, IMAGENET_STD
from mprm_jax.models import decoder
from mprm_jax.models import layers as nn
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.layers import AttentionUse, Compute, Init, Params

# nn.LayerNorm's default, fixed in the reference.
_PROJECTOR_EPS = 1e-5


@dataclass(frozen=True)
class InternViTConfig:
    """Shape of the tower.

    Attributes:
        width: residual stream.
        layers: how many.
        heads: attention heads.
        hidden: width of the feed-forward.
        image: side of a tile, pixels.
        patch: side of a patch, pixels.
        norm_eps: of every LayerNorm.
        qkv_bias: queries, keys and values have a bias.
        layer_scale: initial gain of each branch; random models only.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    image: int = 448
    patch: int = 14
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    layer_scale: float = 0.1

    @property
    def side(self) -> int:
        """Patches along a side of a tile."""
        return self.image // self.patch


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
        "vision": init_tower(config.vision, vision),
        "projector": {
            "norm": one.layer_norm(merged),
            "in": one.linear("in", merged, width, True),
            "out": one.linear("out", width, width, True),
        },
        "language": decoder.init(config.language, language),
    }


def init_tower(config: InternViTConfig, key: jax.Array) -> Params:
    """Random parameters, float32; layers stacked along the leading axis."""
    one, many = Init(key), Init(key, (config.layers,))
    width, bias = config.width, config.qkv_bias
    return {
        "class_token": one.normal("class_token", width),
        "positions": one.normal("positions", config.side**2 + 1, width),
        "patch": one.linear("patch", 3 * config.patch**2, width, True),
        "layers": {
            "attention_norm": many.layer_norm(width),
            "query": many.linear("query", width, width, bias),
            "key": many.linear("key", width, width, bias),
            "value": many.linear("value", width, width, bias),
            "output": many.linear("output", width, width, True),
            "attention_scale": config.layer_scale * many.ones(width),
            "mlp_norm": many.layer_norm(width),
            "up": many.linear("up", width, config.hidden, True),
            "down": many.linear("down", config.hidden, width, True),
            "mlp_scale": config.layer_scale * many.ones(width),
        },
    }


def normalise(tiles_TxD: jax.Array, image: int) -> jax.Array:
    """Bytes of tiles as [T, row, column, channel], ImageNet's mean and deviation."""
    scaled = tiles_TxD.reshape(-1, image, image, 3).astype(jnp.float32) / 255.0
    shifted = scaled - jnp.broadcast_to(
        jnp.asarray(IMAGENET_MEAN, jnp.float32), scaled.shape
    )
    return shifted / jnp.broadcast_to(
        jnp.asarray(IMAGENET_STD, jnp.float32), scaled.shape
    )


def vision_states(
    config: InternViTConfig, params: Params, tiles_TxD: jax.Array, compute: Compute
) -> jax.Array:
    """Patch states after the last layer, class token dropped [T, side, side, width]."""
    side, patch = config.side, config.patch
    pixels = normalise(tiles_TxD, config.image).astype(compute.dtype)
    pixels = pixels.reshape(-1, side, patch, side, patch, 3)
    patches_TxPxC = pixels.transpose(0, 1, 3, 5, 2, 4).reshape(len(pixels), side**2, -1)
    outer = nn.cast(
        {name: params[name] for name in ("class_token", "positions", "patch")},
        compute.dtype,
    )
    x_TxPxD = nn.linear(outer["patch"], patches_TxPxC)
    first = jnp.broadcast_to(outer["class_token"], (len(pixels), 1, config.width))
    x_TxPxD = jnp.concatenate([first, x_TxPxD], axis=1)
    x_TxPxD += jnp.broadcast_to(outer["positions"], x_TxPxD.shape)

    def step(x: jax.Array, stored: Params) -> jax.Array:
        layer = nn.cast(stored, compute.dtype)
        y = nn.layer_norm(layer["attention_norm"], x, config.norm_eps)
        query, key, value = (
            nn.split_heads(nn.linear(layer[name], y), config.heads)
            for name in ("query", "key", "value")
        )
        attended = nn.attend(query, key, value, compute.tower_attention)
        attended = nn.linear(layer["output"], nn.join_heads(attended))
        x += attended * jnp.broadcast_to(layer["attention_scale"], x.shape)
        y = nn.layer_norm(layer["mlp_norm"], x, config.norm_eps)
        y = nn.linear(layer["down"], nn.gelu(nn.linear(layer["up"], y)))
        return x + y * jnp.broadcast_to(layer["mlp_scale"], x.shape)

    x_TxPxD = nn.scan_layers(step, x_TxPxD, params["layers"], compute)
    return x_TxPxD[:, 1:].reshape(-1, side, side, config.width)


def tower_attention(config: InternVLConfig, dtype: str) -> AttentionUse:
    """What the tower, which is frozen, asks of attention."""
    vision = config.vision
    heads = vision.heads, vision.heads, vision.width // vision.heads
    # With the class token.
    return AttentionUse(*heads, vision.side**2 + 1, dtype)


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
    states = vision_states(config.vision, params["vision"], flat, compute)
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
