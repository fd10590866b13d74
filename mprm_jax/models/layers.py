"""Layers that the decoder and both vision towers share, on plain dictionaries."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

Params = dict[str, Any]


@dataclass(frozen=True)
class Compute:
    """How a forward pass computes; the parameters keep their own precision.

    Attributes:
        dtype: precision of activations and of the weights as they are used.
        remat: recompute each layer in the backward pass instead of storing it.
        residual: sharding of the residual stream [B, L, D]; None leaves it to XLA.
        attention: of the decoder. XLA's makes all L x L scores, cuDNN's none of them.
    """

    dtype: str = "bfloat16"
    remat: bool = True
    residual: NamedSharding | None = None
    attention: Literal["xla", "cudnn"] = "xla"

    def constrain(self, x_BxLxD: jax.Array) -> jax.Array:
        """The same array, pinned to ``residual`` where that is set."""
        if self.residual is None:
            return x_BxLxD
        return jax.lax.with_sharding_constraint(x_BxLxD, self.residual)

    def constrain_rows(self, rows_BxLxD: jax.Array) -> jax.Array:
        """Rows looked up in a table split by width, brought to ``residual``.

        In two moves, each within one axis of the mesh: going from a split width to a
        batch split over two axes at once, XLA would copy the array to every device.
        """
        if self.residual is None:
            return rows_BxLxD
        *outer, inner = self.residual.spec[0]
        between = NamedSharding(
            self.residual.mesh, PartitionSpec(tuple(outer), None, inner)
        )
        return self.constrain(jax.lax.with_sharding_constraint(rows_BxLxD, between))


@functools.cache
def fused_attention() -> Literal["xla", "cudnn"]:
    """``cudnn`` where the devices here can train with it, else ``xla``."""
    if jax.default_backend() != "gpu":
        return "xla"

    def attend(x: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(
            x, x, x, is_causal=True, implementation="cudnn"
        ).sum()

    # It needs a card and a library of some age: asking is simpler than knowing. JAX
    # refuses with the first two, XLA with the third or its own kind of it.
    try:
        heads = jax.ShapeDtypeStruct((1, 64, 2, 128), jnp.bfloat16)
        jax.jit(jax.grad(attend)).lower(heads).compile()
    except (NotImplementedError, ValueError, RuntimeError):
        return "xla"
    return "cudnn"


def cast(params: Params, dtype: Any) -> Params:
    """The same parameters in another precision."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def scan_layers(step: Any, x: jax.Array, stacked: Any, compute: Compute) -> jax.Array:
    """x after every layer: x_{i+1} = step(x_i, layer_i), compiled once.

    ``stacked`` holds the layers along the leading axis of every leaf.
    """

    def body(carry: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        return compute.constrain(step(carry, layer)), None

    # Inside a scan the common-subexpression barrier only costs time.
    body = jax.checkpoint(body, prevent_cse=False) if compute.remat else body
    return jax.lax.scan(body, x, stacked)[0]


def linear(params: Params, x: jax.Array) -> jax.Array:
    """x W + b, with W as [in, out]; b is optional, and so is an adapter (x A) B."""
    y = jnp.einsum("...d,df->...f", x, params["kernel"])
    if "adapter" in params:
        thin = jnp.einsum("...d,dr->...r", x, params["adapter"]["a"])
        y += jnp.einsum("...r,rf->...f", thin, params["adapter"]["b"])
    return y + jnp.broadcast_to(params["bias"], y.shape) if "bias" in params else y


def rms_norm(weight: jax.Array, x: jax.Array, eps: float) -> jax.Array:
    """w x / sqrt(mean(x^2) + eps), in float32 whatever x is."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * scale * jnp.broadcast_to(weight, x.shape)).astype(x.dtype)


def layer_norm(params: Params, x: jax.Array, eps: float) -> jax.Array:
    """w (x - mean) / sqrt(var + eps) + b, in float32 whatever x is."""
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    scaled = wide * scale * jnp.broadcast_to(params["scale"], x.shape)
    return (scaled + jnp.broadcast_to(params["bias"], x.shape)).astype(x.dtype)


def swiglu(params: Params, x: jax.Array) -> jax.Array:
    """(silu(x G) * x U) D: the feed-forward of Llama and Qwen (Shazeer 2020)."""
    gate = jax.nn.silu(linear(params["gate"], x))
    return linear(params["down"], gate * linear(params["up"], x))


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), the exact form, in float32 whatever x is."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def split_heads(x_BxLxF: jax.Array, heads: int) -> jax.Array:
    """[B, L, H * width] as [B, L, H, width]."""
    return x_BxLxF.reshape(*x_BxLxF.shape[:-1], heads, -1)


def join_heads(x_BxLxHxW: jax.Array) -> jax.Array:
    """[B, L, H, width] as [B, L, H * width]."""
    return x_BxLxHxW.reshape(*x_BxLxHxW.shape[:-2], -1)


@dataclass(frozen=True)
class Init:
    """Random parameters as the references draw them: N(0, 0.02^2), biases zero.

    Attributes:
        key: the source of randomness.
        stack: layers of the stack being made; () for a single one.
    """

    key: jax.Array
    stack: tuple[int, ...] = ()

    def normal(self, name: str, *shape: int) -> jax.Array:
        """N(0, 0.02^2), a different draw for each name."""
        key = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
        return 0.02 * jax.random.normal(key, (*self.stack, *shape), jnp.float32)

    def linear(self, name: str, inner: int, outer: int, bias: bool) -> Params:
        """A linear layer [inner, outer]."""
        made: Params = {"kernel": self.normal(name, inner, outer)}
        if bias:
            made["bias"] = self.zeros(outer)
        return made

    def ones(self, *shape: int) -> jax.Array:
        """A scale that does nothing yet."""
        return jnp.ones((*self.stack, *shape), jnp.float32)

    def zeros(self, *shape: int) -> jax.Array:
        """A shift that does nothing yet."""
        return jnp.zeros((*self.stack, *shape), jnp.float32)

    def layer_norm(self, width: int) -> Params:
        """Scale one, bias zero."""
        return {"scale": self.ones(width), "bias": self.zeros(width)}
