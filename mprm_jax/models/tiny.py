"""A process reward model small enough to pretrain and fine-tune on a laptop's CPU.

Patches of a picture go through a small vision transformer and a projector into a causal
decoder, before the tokens of the prompt. At every step marker a head of three rows is
read: Yes, No, and the log concentration of a Beta-Binomial likelihood.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mprm_jax.data.batches import Batch

# Rows of the head.
YES, NO, LOG_CONCENTRATION = 0, 1, 2
HEAD_ROWS = 3

# Files that describe a larger model are damaged or hostile; it would not fit memory.
_MAX_SIZE, _MAX_LAYERS = 1 << 14, 64


@dataclasses.dataclass(frozen=True)
class TinyConfig:
    """Shape of the model.

    Attributes:
        vocab_size: V, tokens.
        cell_tokens: token that names the place of each patch; the patch carries its
            embedding as position, so that text which names a place finds it.
        patch_dim: values per patch (12 x 12 pixels x 3 colours).
        width: D.
        heads: H of each attention.
        vision_layers: blocks over patches alone, attending both ways.
        layers: blocks over patches and tokens, causal.
        mlp_ratio: hidden width of an MLP over D.
        rotary_heads: heads of each causal attention that know positions; the others
            match content alone, wherever it is.

    Raises:
        ValueError: no model of this kind has such a shape.
    """

    vocab_size: int
    cell_tokens: tuple[int, ...]
    patch_dim: int = 432
    width: int = 64
    heads: int = 4
    vision_layers: int = 1
    layers: int = 3
    mlp_ratio: int = 4
    rotary_heads: int = 2

    def __post_init__(self) -> None:
        sizes = {k: v for k, v in vars(self).items() if k != "cell_tokens"}
        for name, size in sizes.items():
            least = 0 if name in ("vision_layers", "layers", "rotary_heads") else 1
            if not least <= size <= _MAX_SIZE:
                raise ValueError(f"{name} = {size} is no size of a tiny model")
        if self.layers + self.vision_layers > _MAX_LAYERS:
            raise ValueError(f"more than {_MAX_LAYERS} blocks are no tiny model")
        if self.width % (2 * self.heads) or self.rotary_heads > self.heads:
            raise ValueError("the heads do not divide the width into pairs")
        if not all(0 <= token < self.vocab_size for token in self.cell_tokens):
            raise ValueError("a cell's token is not in the vocabulary")


def patchify(pixels_NxHxWxC: np.ndarray, side: int = 12) -> np.ndarray:
    """Square patches in reading order, [N, P, side * side * C].

    Raises:
        ValueError: the picture is no whole number of patches.
    """
    n, height, width, colours = pixels_NxHxWxC.shape
    if height % side or width % side:
        raise ValueError(f"a picture of {width} x {height} has no {side}-pixel patches")
    rows, columns = height // side, width // side
    grid = pixels_NxHxWxC.reshape(n, rows, side, columns, side, colours)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * columns, -1)


def rotate(x_BxLxHxE: jax.Array, heads: int) -> jax.Array:
    """Rotary position embedding of the first ``heads`` heads.

    Pairs (x_i, x_{i+E/2}) turn by angle l * 10000^(-2i/E) (Su et al. 2021). The other
    heads see no position and match content alone.
    """
    length, half = x_BxLxHxE.shape[1], x_BxLxHxE.shape[3] // 2
    frequency = 10_000.0 ** (-jnp.arange(half) / half)
    angle_Lxm = jnp.arange(length)[:, None] * frequency[None]
    cos, sin = jnp.cos(angle_Lxm)[None, :, None], jnp.sin(angle_Lxm)[None, :, None]
    turned, rest = x_BxLxHxE[:, :, :heads], x_BxLxHxE[:, :, heads:]
    a, b = turned[..., :half], turned[..., half:]
    turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return jnp.concatenate([turned, rest], axis=2)


def attend(
    q_BxLxHxE: jax.Array, k_BxLxHxE: jax.Array, v_BxLxHxE: jax.Array, causal: bool
) -> jax.Array:
    """Attention softmax(q k / sqrt(E)) v of each head, [B, L, H, E].

    Heads go before positions: XLA's products on a CPU then run in under two thirds of
    the time that jax.nn.dot_product_attention takes, gradients included.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q_BxLxHxE, k_BxLxHxE, v_BxLxHxE))
    scores_BxHxQxK = q @ k.swapaxes(2, 3) * q.shape[-1] ** -0.5
    if causal:
        length = q.shape[2]
        seen_QxK = jnp.tril(jnp.ones((length, length), bool))
        scores_BxHxQxK = jnp.where(seen_QxK[None, None], scores_BxHxQxK, -1e30)
    return (jax.nn.softmax(scores_BxHxQxK) @ v).swapaxes(1, 2)


class Block(nnx.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, config: TinyConfig, causal: bool, rngs: nnx.Rngs) -> None:
        d, hidden = config.width, config.mlp_ratio * config.width
        self.norm1 = nnx.RMSNorm(d, rngs=rngs)
        self.query = nnx.Linear(d, d, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(d, d, use_bias=False, rngs=rngs)
        # Equal at the start, so that a token attends to what is like it: the name of a
        # cell to the patch that lies there.
        self.query.kernel[...] = self.key.kernel[...]
        self.value = nnx.Linear(d, d, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(d, d, use_bias=False, rngs=rngs)
        self.norm2 = nnx.RMSNorm(d, rngs=rngs)
        self.up = nnx.Linear(d, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, d, rngs=rngs)
        self.heads, self.rotary = config.heads, config.rotary_heads
        self.causal = causal

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """One more look at the others, and one more thought, [B, L, D]."""
        b, length, _ = x_BxLxD.shape
        h = self.norm1(x_BxLxD)
        split = (b, length, self.heads, -1)
        q, k, v = (f(h).reshape(split) for f in (self.query, self.key, self.value))
        if self.causal:
            q, k = rotate(q, self.rotary), rotate(k, self.rotary)
        mixed = attend(q, k, v, self.causal)
        x_BxLxD = x_BxLxD + self.out(mixed.reshape(x_BxLxD.shape))
        return x_BxLxD + self.down(nnx.gelu(self.up(self.norm2(x_BxLxD))))


class TinyModule(nnx.Module):
    """The parameters and the forward pass."""

    def __init__(self, config: TinyConfig, rngs: nnx.Rngs) -> None:
        d = config.width
        unit = nnx.initializers.normal(1.0)
        self.embed = nnx.Embed(config.vocab_size, d, embedding_init=unit, rngs=rngs)
        self.stem1 = nnx.Linear(config.patch_dim, 2 * d, rngs=rngs)
        self.stem2 = nnx.Linear(2 * d, d, rngs=rngs)
        self.vision = nnx.List(
            [Block(config, False, rngs) for _ in range(config.vision_layers)]
        )
        self.projector = nnx.Linear(d, d, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, True, rngs) for _ in range(config.layers)]
        )
        self.norm = nnx.RMSNorm(d, rngs=rngs)
        self.head = nnx.Linear(d, HEAD_ROWS, rngs=rngs)
        self.cell_tokens = config.cell_tokens

    def see(self, images_BxPxD: jax.Array) -> jax.Array:
        """What the vision tower and the projector make of each patch, [B, P, D]."""
        pixels = images_BxPxD.astype(jnp.float32) / 127.5 - 1
        patches = self.stem2(nnx.gelu(self.stem1(pixels)))
        for block in self.vision:
            patches = block(patches)
        return self.projector(patches)

    def hidden(self, tokens_BxL: jax.Array, seen_BxPxD: jax.Array) -> jax.Array:
        """Last hidden states at the tokens, [B, L, D], after what was seen."""
        place_PxD = self.embed(jnp.array(self.cell_tokens))
        # The place counts for more than the content, so that its name finds the patch.
        patches = 0.5 * seen_BxPxD + place_PxD[None]
        x = jnp.concatenate([patches, self.embed(tokens_BxL)], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, patches.shape[1] :])

    def token_logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """Next-token logits by the tied embedding, [B, L, V]."""
        scale = hidden_BxLxD.shape[-1] ** -0.5
        return self.embed.attend(hidden_BxLxD) * scale

    def reward_logits(self, batch: Batch) -> jax.Array:
        """Yes, No and log concentration at every step marker, [B, S, 3]."""
        hidden = self.hidden(batch.tokens_BxL, self.see(batch.images_BxPxD))
        at_marker = jnp.take_along_axis(hidden, batch.marker_BxS[..., None], axis=1)
        return self.head(at_marker)


def split_module(config: TinyConfig, key: jax.Array) -> tuple[Any, dict]:
    """Graph definition and initial parameters, a nested dict of float32 arrays."""
    module = TinyModule(config, nnx.Rngs(key))
    graph, state = nnx.split(module)
    return graph, nnx.to_pure_dict(state)


def merge_module(graph: Any, params: dict) -> TinyModule:
    """The module with these parameters; free at run time under jit."""
    return nnx.merge(graph, params)
