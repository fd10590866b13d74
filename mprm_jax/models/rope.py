"""Rotary position embedding (Su et al. 2021): one axis, three axes, longer contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Rope:
    """How positions turn into angles.

    Attributes:
        theta: base of the frequencies.
        sections: frequencies turned by the time, row and column position (M-RoPE of
            Qwen2-VL); empty for one position per token.
        kind: "default"; "dynamic" (equal to it up to ``context``, beyond which this
            package does not go); "llama3" (Llama 3.1's slowed low frequencies).
        factor: llama3: how much the lowest frequencies are slowed.
        low: llama3: full turns within ``context`` below which a frequency is low.
        high: llama3: turns above which a frequency is left alone.
        context: llama3: tokens of the original context; others: of the context.
    """

    theta: float
    sections: tuple[int, ...] = ()
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    context: int = 32768


def frequencies(rope: Rope, head_width: int) -> np.ndarray:
    """theta^(-2i / head_width), i = 0 .. head_width/2 - 1, in radians per position."""
    # float32 throughout, as the references compute them: the last bits matter at
    # positions in the thousands.
    exponent = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    base = (1.0 / np.float32(rope.theta) ** exponent).astype(np.float32)
    if rope.kind != "llama3":
        return base
    turns = rope.context * base / (2 * math.pi)
    smooth = np.clip((turns - rope.low) / (rope.high - rope.low), 0.0, 1.0)
    return (base * (smooth + (1 - smooth) / rope.factor)).astype(np.float32)


def angles(rope: Rope, head_width: int, positions_3xBxL: jax.Array) -> jax.Array:
    """Angle of each frequency [B, L, head_width / 2], float32.

    Frequency i turns with the axis that owns its section; without sections all turn
    with the first axis.
    """
    frequency = jnp.asarray(frequencies(rope, head_width))
    sections = rope.sections or (head_width // 2,)
    axis = np.repeat(np.arange(len(sections)) % 3, sections)
    chosen_BxLxW = jnp.moveaxis(positions_3xBxL[axis], 0, -1).astype(jnp.float32)
    return chosen_BxLxW * jnp.broadcast_to(frequency, chosen_BxLxW.shape)


def rotation(angles_BxLxW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the angles [B, L, 1, W], once for all heads and layers."""
    return jnp.cos(angles_BxLxW)[:, :, None], jnp.sin(angles_BxLxW)[:, :, None]


def rotate(x_BxLxHxW: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x turned by a rotation: pairs are (i, i + width/2), in float32."""
    cos, sin = turn
    first, second = jnp.split(x_BxLxHxW.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x_BxLxHxW.dtype)
