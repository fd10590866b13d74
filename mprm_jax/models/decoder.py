"""The language model of every backbone: Qwen2, Qwen3, Llama, InternLM2 are one."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mprm_jax.models import layers as nn
from mprm_jax.models.layers import AttentionUse, Compute, Init, Params
from mprm_jax.models.rope import Rope, angles, rotate, rotation


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder.

    Attributes:
        vocabulary: rows of the embedding.
        width: residual stream, D.
        layers: how many.
        heads: query heads.
        kv_heads: key and value heads; divides ``heads``.
        head_width: of each head.
        hidden: width of the feed-forward.
        norm_eps: of every RMSNorm.
        rope: positions.
        qkv_bias: queries, keys and values have a bias (Qwen2).
        tied: the output rows are the input embedding.
        context: most tokens of a prompt.
        qk_norm: each head's queries and keys pass an RMSNorm of their own (Qwen3).
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    norm_eps: float
    rope: Rope
    qkv_bias: bool
    tied: bool
    context: int = 32768
    qk_norm: bool = False


def init(config: DecoderConfig, key: jax.Array) -> Params:
    """Random parameters, float32; layers stacked along the leading axis."""
    one, many = Init(key), Init(key, (config.layers,))
    width, inner = config.width, config.heads * config.head_width
    kv, bias = config.kv_heads * config.head_width, config.qkv_bias
    params: Params = {
        "embedding": one.normal("embedding", config.vocabulary, width),
        "layers": {
            "attention_norm": many.ones(width),
            "query": many.linear("query", width, inner, bias),
            "key": many.linear("key", width, kv, bias),
            "value": many.linear("value", width, kv, bias),
            "output": many.linear("output", inner, width, False),
            "mlp_norm": many.ones(width),
            "gate": many.linear("gate", width, config.hidden, False),
            "up": many.linear("up", width, config.hidden, False),
            "down": many.linear("down", config.hidden, width, False),
        },
        "norm": one.ones(width),
    }
    if config.qk_norm:
        for name in ("query_norm", "key_norm"):
            params["layers"][name] = many.ones(config.head_width)
    if not config.tied:
        params["lm_head"] = one.normal("lm_head", config.vocabulary, width)
    return params


def embed(params: Params, tokens_BxL: jax.Array, compute: Compute) -> jax.Array:
    """Rows of the embedding [B, L, D]."""
    rows = jnp.take(params["embedding"], tokens_BxL, axis=0)
    return compute.constrain_rows(rows.astype(compute.dtype))


def decode(
    config: DecoderConfig,
    params: Params,
    embedded_BxLxD: jax.Array,
    positions_3xBxL: jax.Array,
    compute: Compute,
    place_BxKxL: jax.Array | None = None,
) -> jax.Array:
    """Residual stream after the last layer [B, L, D], before the final norm.

    Prompts are padded at the end, so causality alone keeps real tokens from padding.

    Args:
        config: of the decoder.
        params: of it.
        embedded_BxLxD: tokens and features of images.
        positions_3xBxL: on the axes of ``config.rope``.
        compute: precision, rematerialisation and attention.
        place_BxKxL: of packed rows, see :func:`layers.attend_documents`; None: a row is
            one prompt.
    """
    turn = rotation(angles(config.rope, config.head_width, positions_3xBxL))

    def step(x_BxLxD: jax.Array, stored: Params) -> jax.Array:
        layer = nn.cast(stored, compute.dtype)
        y = nn.rms_norm(layer["attention_norm"], x_BxLxD, config.norm_eps)
        query = nn.split_heads(nn.linear(layer["query"], y), config.heads)
        key = nn.split_heads(nn.linear(layer["key"], y), config.kv_heads)
        value = nn.split_heads(nn.linear(layer["value"], y), config.kv_heads)
        if config.qk_norm:
            query = nn.rms_norm(layer["query_norm"], query, config.norm_eps)
            key = nn.rms_norm(layer["key_norm"], key, config.norm_eps)
        query, key = rotate(query, turn), rotate(key, turn)
        if place_BxKxL is None:
            mixed = nn.attend(query, key, value, compute.attention, causal=True)
        else:
            mixed = nn.attend_documents(
                query, key, value, place_BxKxL, compute.attention
            )
        x_BxLxD += nn.linear(layer["output"], nn.join_heads(mixed))
        y = nn.rms_norm(layer["mlp_norm"], x_BxLxD, config.norm_eps)
        return x_BxLxD + nn.swiglu(layer, y)

    return nn.scan_layers(step, embedded_BxLxD, params["layers"], compute)


def attention(config: DecoderConfig, dtype: str) -> AttentionUse:
    """What :func:`decode` asks of attention."""
    heads = config.heads, config.kv_heads, config.head_width
    return AttentionUse(*heads, 64, dtype, causal=True, trained=True)


def gather_positions(x_BxLxD: jax.Array, at_BxS: jax.Array) -> jax.Array:
    """The rows of x at chosen tokens [B, S, D]."""
    return jnp.take_along_axis(x_BxLxD, at_BxS[:, :, None], axis=1)


def insert_features(
    embedded_BxLxD: jax.Array, is_image_BxL: jax.Array, features_BxUxD: jax.Array
) -> jax.Array:
    """The embedding with its i-th image token replaced by the i-th feature."""
    index = jnp.maximum(jnp.cumsum(is_image_BxL, axis=1) - 1, 0)
    rows = gather_positions(features_BxUxD, index)
    rows = rows.astype(embedded_BxLxD.dtype)
    return jnp.where(is_image_BxL[..., None], rows, embedded_BxLxD)


def final_norm(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """What the output rows read."""
    return nn.rms_norm(params["norm"], x, config.norm_eps)


def output_rows(params: Params) -> jax.Array:
    """The language-model head [V, D]: its own, or the embedding where tied."""
    return params.get("lm_head", params["embedding"])


def text_positions(tokens_BxL: jax.Array) -> jax.Array:
    """0, 1, 2, ... on all three axes [3, B, L]."""
    count = jnp.arange(tokens_BxL.shape[1], dtype=jnp.int32)
    return jnp.broadcast_to(count, (3, *tokens_BxL.shape))


def restart(positions_3xBxL: jax.Array, place_BxKxL: jax.Array) -> jax.Array:
    """Positions that count from 0 again in every document of a packed row [3, B, L].

    Documents stand one after another; see :func:`layers.attend_documents`.
    """
    count_1x1xL = jnp.arange(positions_3xBxL.shape[2], dtype=jnp.int32)[None, None]
    first_BxKx1 = place_BxKxL[:, :, :1]
    begun_BxKxL = jnp.where(first_BxKx1 <= count_1x1xL, first_BxKx1, 0)
    first_BxL = jnp.max(begun_BxKxL, axis=1)
    return positions_3xBxL - jnp.take_along_axis(
        positions_3xBxL, first_BxL[None], axis=2
    )
