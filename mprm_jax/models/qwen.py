"""Qwen2.5-VL (Bai et al. 2025): vision tower, merger, and the positions of M-RoPE.

The tower attends within windows, with rotary positions on two axes; the merger, its
projector, makes one token of every block of patches for the decoder, a Qwen2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from mprm_jax.data.images import CLIP_MEAN, CLIP_STD, PLACE_BYTES
from mprm_jax.models import decoder
from mprm_jax.models import layers as nn
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.layers import AttentionUse, Compute, Init, Params
from mprm_jax.models.rope import Rope, frequencies, rotate, rotation

# How the projector is called among the parameters of the tower, where the released
# tensors have it too.
MERGER = "merger"

# Fixed in the reference, not in its configuration.
_EPS = 1e-6


@dataclass(frozen=True)
class QwenVisionConfig:
    """Shape of the tower.

    Attributes:
        width: residual stream.
        layers: how many.
        heads: attention heads.
        hidden: width of the feed-forward.
        output: width of an image token, the decoder's.
        patch: side of a patch, pixels.
        merge: patches along a side of the block that becomes one token.
        frames: frames in a patch; an image is repeated to fill them.
        window: side of an attention window, pixels.
        full_layers: layers that attend to the whole image instead.
        theta: base of the rotary frequencies.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    output: int
    patch: int = 14
    merge: int = 2
    frames: int = 2
    window: int = 112
    full_layers: tuple[int, ...] = (7, 15, 23, 31)
    theta: float = 10000.0

    @property
    def window_patches(self) -> int:
        """Side of a window in patches, whole blocks only."""
        return self.window // self.merge // self.patch * self.merge


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
        "vision": init_tower(config.vision, vision),
        "language": decoder.init(config.language, language),
    }


def init_tower(config: QwenVisionConfig, key: jax.Array) -> Params:
    """Random parameters, float32; layers stacked along the leading axis."""
    one, many = Init(key), Init(key, (config.layers,))
    width, merged = config.width, config.width * config.merge**2
    return {
        "patch": one.linear("patch", 3 * config.frames * config.patch**2, width, False),
        "layers": {
            "attention_norm": many.ones(width),
            "query": many.linear("query", width, width, True),
            "key": many.linear("key", width, width, True),
            "value": many.linear("value", width, width, True),
            "output": many.linear("output", width, width, True),
            "mlp_norm": many.ones(width),
            "gate": many.linear("gate", width, config.hidden, True),
            "up": many.linear("up", width, config.hidden, True),
            "down": many.linear("down", config.hidden, width, True),
        },
        "merger_norm": one.ones(width),
        "merger_in": one.linear("merger_in", merged, merged, True),
        "merger_out": one.linear("merger_out", merged, config.output, True),
    }


def unpack_patches(images_BxPxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalised pixels [B, P, 3 patch^2], float32, and places [B, P, 3], int32."""
    pixels = images_BxPxD[..., :-PLACE_BYTES]
    area = pixels.shape[-1] // 3
    mean = jnp.repeat(jnp.asarray(CLIP_MEAN, jnp.float32), area)
    std = jnp.repeat(jnp.asarray(CLIP_STD, jnp.float32), area)
    scaled = pixels.astype(jnp.float32) / 255.0
    shifted = scaled - jnp.broadcast_to(mean, scaled.shape)
    return shifted / jnp.broadcast_to(std, scaled.shape), unpack_places(images_BxPxD)


def unpack_places(rows_BxPxD: jax.Array) -> jax.Array:
    """Places [B, P, 3], int32, that the last bytes of every row hold."""
    place = rows_BxPxD[..., -PLACE_BYTES:].astype(jnp.int32)
    return place[..., 0::2] + 256 * place[..., 1::2]


def _windows(
    vision: QwenVisionConfig, place_BxPx3: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Order of patches in which windows are whole, and their numbers in it [B, P]."""
    image_BxPx1, row_column_BxPx2 = jnp.split(place_BxPx3, [1], axis=-1)
    parts = [image_BxPx1, row_column_BxPx2 // vision.window_patches]
    window_BxPx3 = jnp.concatenate(parts, axis=-1)
    image, row, column = jnp.moveaxis(window_BxPx3, -1, 0)
    order_BxP = jnp.lexsort((column, row, image), axis=1)
    sorted_BxPx3 = decoder.gather_positions(window_BxPx3, order_BxP)
    begins = jnp.any(sorted_BxPx3[:, 1:] != sorted_BxPx3[:, :-1], axis=-1)
    return order_BxP, jnp.pad(jnp.cumsum(begins, axis=1), ((0, 0), (1, 0)))


def tower_states(
    config: QwenVLConfig, params: Params, images_BxPxD: jax.Array, compute: Compute
) -> jax.Array:
    """What the tower makes of every packed patch, before the merger [B, P, width].

    As in the reference, patches are brought into the order of their windows, so that
    those of a window are neighbours, and back at the end.
    """
    vision, tower = config.vision, params["vision"]
    order_BxP, window_BxP = _windows(vision, unpack_places(images_BxPxD))
    images_BxPxD = decoder.gather_positions(images_BxPxD, order_BxP)
    pixels_BxPxC, place_BxPx3 = unpack_patches(images_BxPxD)
    # An image fills every frame of a patch alike, so the frames' weights add up.
    kernel = tower["patch"]["kernel"].astype(jnp.float32)
    kernel = kernel.reshape(3, vision.frames, -1, vision.width).sum(axis=1)
    kernel = kernel.reshape(-1, vision.width).astype(compute.dtype)
    x_BxPxD = jnp.einsum("bpc,cd->bpd", pixels_BxPxC.astype(compute.dtype), kernel)

    image_BxP, row_column_BxPx2 = place_BxPx3[..., 0], place_BxPx3[..., 1:]
    # Of many images in a row, as packed rows have, nearly all pairs are of two images.
    longest = compute.image_rows
    head_width = vision.width // vision.heads
    frequency = frequencies(Rope(vision.theta), head_width // 2)
    angles_BxPxW = jnp.einsum(
        "bpa,f->bpaf", row_column_BxPx2.astype(jnp.float32), jnp.asarray(frequency)
    ).reshape(*place_BxPx3.shape[:2], -1)
    turn = rotation(angles_BxPxW)
    full = jnp.asarray([i in vision.full_layers for i in range(vision.layers)])

    def within_images(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        how = compute.tower_attention
        if longest is not None and 3 * longest < image_BxP.shape[1]:
            return nn.attend_runs(q, k, v, image_BxP, longest, how)
        in_image = (image_BxP[:, :, None] == image_BxP[:, None])[:, None]
        return nn.attend(q, k, v, how, mask=in_image)

    def step(x: jax.Array, stored: tuple[Params, jax.Array]) -> jax.Array:
        layer, is_full = nn.cast(stored[0], compute.dtype), stored[1]
        y = nn.rms_norm(layer["attention_norm"], x, _EPS)
        query, key, value = (
            nn.split_heads(nn.linear(layer[name], y), vision.heads)
            for name in ("query", "key", "value")
        )
        heads = rotate(query, turn), rotate(key, turn), value
        attended = jax.lax.cond(
            is_full,
            partial(within_images, *heads),
            lambda: nn.attend_runs(
                *heads,
                window_BxP,
                vision.window_patches**2,
                compute.tower_attention,
            ),
        )
        x += nn.linear(layer["output"], nn.join_heads(attended))
        return x + nn.swiglu(layer, nn.rms_norm(layer["mlp_norm"], x, _EPS))

    x_BxPxD = nn.scan_layers(step, x_BxPxD, (tower["layers"], full), compute)
    return decoder.gather_positions(x_BxPxD, jnp.argsort(order_BxP, axis=1))


def scores(config: QwenVLConfig, rows: float) -> float:
    """Pairs of patches that the layers of the tower score, of a row of the images."""
    vision, window = config.vision, config.vision.window_patches**2
    full = sum(layer in vision.full_layers for layer in range(vision.layers))
    blocks = math.ceil(rows / window)
    return full * rows**2 + (vision.layers - full) * 3 * blocks * window**2


def tower_attention(config: QwenVLConfig, dtype: str) -> AttentionUse:
    """What the tower, which is frozen, asks of attention."""
    vision = config.vision
    heads = vision.heads, vision.heads, vision.width // vision.heads
    return AttentionUse(*heads, vision.window_patches**2, dtype, masked=True)


def project(
    config: QwenVLConfig, params: Params, states_BxPxD: jax.Array, compute: Compute
) -> jax.Array:
    """Image tokens [B, P / merge^2, output] of the tower's states."""
    vision, tower = config.vision, params["vision"]
    outer = nn.cast(
        {name: tower[name] for name in ("merger_norm", "merger_in", "merger_out")},
        compute.dtype,
    )
    x_BxPxD = states_BxPxD.astype(compute.dtype)
    x_BxPxD = nn.rms_norm(outer["merger_norm"], x_BxPxD, _EPS)
    blocks = x_BxPxD.reshape(x_BxPxD.shape[0], -1, vision.width * vision.merge**2)
    return nn.linear(
        outer["merger_out"], nn.gelu(nn.linear(outer["merger_in"], blocks))
    )


def rope_positions(
    config: QwenVLConfig, tokens_BxL: jax.Array, place_BxPxK: jax.Array
) -> jax.Array:
    """Time, row and column position of every token [3, B, L] (M-RoPE).

    The last bytes of ``place_BxPxK`` say where every patch lies.

    Text counts on all three axes. The tokens of an image of H x W blocks share the
    count c at which it begins: (c, c + row, c + column); after it the count is
    c + max(H, W).
    """
    is_image_BxL = tokens_BxL == config.image_token
    place_BxPx3 = unpack_places(place_BxPxK)
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
