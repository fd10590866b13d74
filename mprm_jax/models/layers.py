"""Layers that the decoder and both vision towers share, on plain dictionaries."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

from mprm_jax.models.remat import Remat

Params = dict[str, Any]

# XLA's makes all scores of a sequence, cuDNN's none of them.
Implementation = Literal["xla", "cudnn"]

# What a linear layer gives, to the policy that keeps it.
_LINEAR = "linear"


@dataclass(frozen=True)
class Compute:
    """How a forward pass computes; the parameters keep their own precision.

    Attributes:
        dtype: precision of activations and of the weights as they are used.
        remat: what of each layer is kept for the backward pass.
        residual: sharding of the residual stream [B, L, D]; None leaves it to XLA.
        attention: of the decoder.
        tower_attention: of the vision tower.
        image_rows: most rows (patches or tiles) of an image; None: not known.
    """

    dtype: str = "bfloat16"
    remat: Remat = "all"
    residual: NamedSharding | None = None
    attention: Implementation = "xla"
    tower_attention: Implementation = "xla"
    image_rows: int | None = None

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


@dataclass(frozen=True)
class AttentionUse:
    """What a part of a model asks of attention.

    Attributes:
        heads: of the queries.
        kv_heads: of keys and values.
        head_width: of each.
        length: of a sequence, or one like it in all that matters to a kernel.
        dtype: of queries, keys and values.
        causal: a token sees none after it.
        masked: any pair of tokens may be hidden.
        trained: there is a backward pass.
    """

    heads: int
    kv_heads: int
    head_width: int
    length: int
    dtype: str
    causal: bool = False
    masked: bool = False
    trained: bool = False

    def __str__(self) -> str:
        form = "causal" if self.causal else "masked" if self.masked else "full"
        heads = f"{self.heads}/{self.kv_heads} heads of {self.head_width}"
        return f"{form}, {heads}, {self.length} tokens, {self.dtype}"


@dataclass(frozen=True)
class AttentionChoice:
    """Which implementation a part of a model uses here.

    Attributes:
        implementation: the fused one, or XLA's where that cannot be had.
        reason: why the fused one cannot be had, one line; "" where it is used.
    """

    implementation: Implementation
    reason: str = ""


def compile_fused(use: AttentionUse) -> None:
    """Compile the fused attention of a use for the devices here.

    Raises:
        NotImplementedError: there is no GPU, or JAX refuses the shapes.
        ValueError: JAX refuses them in another way.
        RuntimeError: cuDNN is missing, or XLA fails.
    """
    if (backend := jax.default_backend()) != "gpu":
        raise NotImplementedError(f"no GPU here, but {backend}")
    query, key = (
        jax.ShapeDtypeStruct((1, use.length, heads, use.head_width), use.dtype)
        for heads in (use.heads, use.kv_heads)
    )
    mask = jax.ShapeDtypeStruct((1, 1, use.length, use.length), jnp.bool_)

    def total(query: jax.Array, key: jax.Array, mask: jax.Array | None) -> jax.Array:
        out = attend(query, key, key, "cudnn", causal=use.causal, mask=mask)
        return out.astype(jnp.float32).sum()

    made = jax.grad(total, argnums=(0, 1)) if use.trained else total
    jax.jit(made).lower(query, key, mask if use.masked else None).compile()


@functools.cache
def choose_attention(
    use: AttentionUse, probe: Callable[[AttentionUse], None] = compile_fused
) -> AttentionChoice:
    """cuDNN's attention where the devices here can run a use of it, else XLA's.

    Args:
        use: by shapes and precision.
        probe: raises where the fused implementation cannot be had. It needs a card and
            a library of some age: asking is simpler than knowing.
    """
    try:
        probe(use)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return AttentionChoice("xla", first)
    return AttentionChoice("cudnn")


def attend(
    query_BxLxHxW: jax.Array,
    key_BxLxGxW: jax.Array,
    value_BxLxGxW: jax.Array,
    implementation: Implementation,
    *,
    causal: bool = False,
    mask: jax.Array | None = None,
) -> jax.Array:
    """softmax(Q K^T / sqrt(W)) V for every head [B, L, H, W].

    Args:
        query_BxLxHxW: H heads.
        key_BxLxGxW: G heads, each shared by H / G of the queries'.
        value_BxLxGxW: likewise.
        implementation: that makes it; see :func:`choose_attention`.
        causal: a token sees none after it.
        mask: pairs of tokens that see each other [B, 1, L, L]; None: all.
    """
    return jax.nn.dot_product_attention(
        query_BxLxHxW,
        key_BxLxGxW,
        value_BxLxGxW,
        mask=mask,
        is_causal=causal,
        implementation=implementation,
    )


def attend_documents(
    query_BxLxHxW: jax.Array,
    key_BxLxGxW: jax.Array,
    value_BxLxGxW: jax.Array,
    place_BxKxL: jax.Array,
    implementation: Implementation,
) -> jax.Array:
    """Causal :func:`attend` within each document of packed rows; 0 outside of them.

    The tokens of a document are gathered into a sequence of its own, so no other
    document is there to be seen, whatever implementation attends. The k-th longest of a
    row of L tokens has at most L / k, and its sequence no more.

    Args:
        query_BxLxHxW: of the rows.
        key_BxLxGxW: likewise.
        value_BxLxGxW: likewise.
        place_BxKxL: where in its row each token of a document stands, in order; -1
            behind its last one. The longest document of a row comes first, and so on;
            no token is in two.
        implementation: see :func:`attend`.
    """
    length, documents = query_BxLxHxW.shape[1], place_BxKxL.shape[1]
    attended = jnp.zeros_like(query_BxLxHxW)
    first = 0
    while first < documents:
        # One sequence length for as many documents as came before, and one.
        last = min(2 * first + 1, documents)
        place = place_BxKxL[:, first:last, : length // (first + 1)]
        flat_BxN = place.reshape(len(place), -1)
        # Beyond the row, each elsewhere: then the indices are unique, and a scatter
        # needs no atomics.
        beyond = length + jnp.arange(flat_BxN.shape[1], dtype=flat_BxN.dtype)
        at_BxN = jnp.where(flat_BxN < 0, beyond, flat_BxN)
        query, key, value = (
            _take(x, at_BxN).reshape(-1, place.shape[2], *x.shape[2:])
            for x in (query_BxLxHxW, key_BxLxGxW, value_BxLxGxW)
        )
        some = attend(query, key, value, implementation, causal=True)
        some = some.reshape(*at_BxN.shape, *some.shape[2:])
        attended = _put(attended, at_BxN, some)
        first = last
    return attended


def attend_runs(
    query_BxPxHxW: jax.Array,
    key_BxPxHxW: jax.Array,
    value_BxPxHxW: jax.Array,
    label_BxP: jax.Array,
    longest: int,
    implementation: Implementation,
) -> jax.Array:
    """:func:`attend` among neighbours of one label [B, P, H, W], in blocks.

    A block of ``longest`` queries sees its own keys and those of the blocks beside it,
    where all of its labels end: 3 P ``longest`` scores instead of P^2.

    Args:
        query_BxPxHxW: in the order of their labels.
        key_BxPxHxW: likewise.
        value_BxPxHxW: likewise.
        label_BxP: at least 0, equal ones side by side.
        longest: a label occurs no more often; of one that does, some keys are not seen.
        implementation: see :func:`attend`.
    """
    batch, patches = label_BxP.shape
    blocks = -(-patches // longest)
    tail = blocks * longest - patches

    def block(x_BxPx: jax.Array, fill: int = 0) -> jax.Array:
        widths = ((0, 0), (0, tail), *[(0, 0)] * (x_BxPx.ndim - 2))
        padded = jnp.pad(x_BxPx, widths, constant_values=fill)
        return padded.reshape(batch, blocks, longest, *x_BxPx.shape[2:])

    def beside(x_BxNxPx: jax.Array, fill: int = 0) -> jax.Array:
        widths = ((0, 0), (1, 1), *[(0, 0)] * (x_BxNxPx.ndim - 2))
        outer = jnp.pad(x_BxNxPx, widths, constant_values=fill)
        whole = [outer[:, :-2], x_BxNxPx, outer[:, 2:]]
        joined = jnp.concatenate(whole, axis=2)
        return joined.reshape(batch * blocks, 3 * longest, *x_BxNxPx.shape[3:])

    label = block(label_BxP, -1)
    mask = label.reshape(-1, longest, 1) == beside(label, -2)[:, None]
    query = block(query_BxPxHxW).reshape(
        batch * blocks, longest, *query_BxPxHxW.shape[2:]
    )
    key, value = beside(block(key_BxPxHxW)), beside(block(value_BxPxHxW))
    attended = attend(query, key, value, implementation, mask=mask[:, None])
    return attended.reshape(batch, -1, *query.shape[2:])[:, :patches]


@jax.vmap
def _take(x_LxHxW: jax.Array, at_N: jax.Array) -> jax.Array:
    return x_LxHxW.at[at_N].get(mode="fill", fill_value=0, unique_indices=True)


@jax.vmap
def _put(x_LxHxW: jax.Array, at_N: jax.Array, new_NxHxW: jax.Array) -> jax.Array:
    return x_LxHxW.at[at_N].set(new_NxHxW, mode="drop", unique_indices=True)


def cast(params: Params, dtype: Any) -> Params:
    """The same parameters in another precision."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def scan_layers(step: Any, x: jax.Array, stacked: Any, compute: Compute) -> jax.Array:
    """x after every layer: x_{i+1} = step(x_i, layer_i), compiled once.

    ``stacked`` holds the layers along the leading axis of every leaf.
    """

    def body(carry: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        return compute.constrain(step(carry, layer)), None

    if compute.remat != "none":
        kept = [_LINEAR] if compute.remat == "dots" else []
        policy = jax.checkpoint_policies.save_only_these_names(*kept)
        # Inside a scan the common-subexpression barrier only costs time.
        body = jax.checkpoint(body, prevent_cse=False, policy=policy)
    return jax.lax.scan(body, x, stacked)[0]


def linear(params: Params, x: jax.Array) -> jax.Array:
    """x W + b, with W as [in, out]; b is optional, and so is an adapter (x A) B."""
    y = jnp.einsum("...d,df->...f", x, params["kernel"])
    if "adapter" in params:
        thin = jnp.einsum("...d,dr->...r", x, params["adapter"]["a"])
        y += jnp.einsum("...r,rf->...f", thin, params["adapter"]["b"])
    if "bias" in params:
        y += jnp.broadcast_to(params["bias"], y.shape)
    return checkpoint_name(y, _LINEAR)


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
