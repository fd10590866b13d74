"""A process reward model small enough to pretrain and fine-tune on a laptop's CPU.

Patches of a picture go through a small vision transformer and a projector into a causal
decoder, before the tokens of the prompt. At every step marker a head of three rows is
read: Yes, No, and the log concentration of a Beta-Binomial likelihood.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tokenizers import Tokenizer

from mprm_jax.data.batches import Batch
from mprm_jax.data.prompt import encode_prompt, marker_id
from mprm_jax.models import layers as nn
from mprm_jax.models.decoder import gather_positions
from mprm_jax.models.layers import Params
from mprm_jax.models.rope import Rope, frequencies, rotate, rotation
from mprm_jax.models.tokenizer import TOKENIZER, parse_tokenizer, read_tokenizer
from mprm_jax.records.problems import BadRecord, DataError, faults_of

NAME = "tiny"
# The shipped backbone that was pretrained in full; others have a name of their own.
FULL = "full"

# Side of the pictures that the patch embedding was trained on.
IMAGE_PX = 48
# Longer prompts than the world writes; beyond it steps are cut off and counted.
MAX_TOKENS = 192

# Rows of the head: Yes, No, log concentration.
_HEAD_ROWS = 3
_EPS, _THETA = 1e-6, 10_000.0

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


def init(config: TinyConfig, key: jax.Array) -> Params:
    """Random parameters, float32: kernels N(0, 1 / in) cut off, biases zero."""
    d = config.width
    # One key per array, in this order: so were the shipped weights begun.
    keys = (jax.random.fold_in(key, number) for number in itertools.count())
    embedding = jax.random.normal(next(keys), (config.vocab_size, d))
    return {
        "embed": {"embedding": embedding},
        "stem1": _linear(keys, config.patch_dim, 2 * d),
        "stem2": _linear(keys, 2 * d, d),
        "vision": [_block(keys, config) for _ in range(config.vision_layers)],
        "projector": _linear(keys, d, d),
        "blocks": [_block(keys, config) for _ in range(config.layers)],
        "norm": _norm(keys, d),
        "head": _linear(keys, d, _HEAD_ROWS),
    }


def _linear(
    keys: Iterator[jax.Array], inner: int, outer: int, bias: bool = True
) -> Params:
    kernel = jax.nn.initializers.lecun_normal()(next(keys), (inner, outer))
    if not bias:
        return {"kernel": kernel}
    next(keys)
    return {"kernel": kernel, "bias": jnp.zeros(outer)}


def _norm(keys: Iterator[jax.Array], width: int) -> Params:
    next(keys)
    return {"scale": jnp.ones(width)}


def _block(keys: Iterator[jax.Array], config: TinyConfig) -> Params:
    d, hidden = config.width, config.mlp_ratio * config.width
    made = {"norm1": _norm(keys, d)}
    made |= {name: _linear(keys, d, d, bias=False) for name in _ATTENTION}
    # Equal at the start, so that a token attends to what is like it: the name of a
    # cell to the patch that lies there.
    made["query"] = {"kernel": made["key"]["kernel"]}
    return made | {
        "norm2": _norm(keys, d),
        "up": _linear(keys, d, hidden),
        "down": _linear(keys, hidden, d),
    }


_ATTENTION = ("query", "key", "value", "out")


def attend(
    q_BxLxHxE: jax.Array,
    k_BxLxHxE: jax.Array,
    v_BxLxHxE: jax.Array,
    causal: bool,
    there_BxL: jax.Array | None = None,
) -> jax.Array:
    """Attention softmax(q k / sqrt(E)) v of each head, [B, L, H, E].

    Heads go before positions: XLA's products on a CPU then run in under two thirds of
    the time that jax.nn.dot_product_attention takes, gradients included. What is not
    there is attended to by nothing; None: all is there.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q_BxLxHxE, k_BxLxHxE, v_BxLxHxE))
    scores_BxHxQxK = q @ k.swapaxes(2, 3) * q.shape[-1] ** -0.5
    if causal:
        length = q.shape[2]
        seen_QxK = jnp.tril(jnp.ones((length, length), bool))
        seen = seen_QxK[None, None]
        if there_BxL is not None:
            seen = seen & there_BxL[:, None, None]
        scores_BxHxQxK = jnp.where(seen, scores_BxHxQxK, -1e30)
    return (jax.nn.softmax(scores_BxHxQxK) @ v).swapaxes(1, 2)


def _gelu(x: jax.Array) -> jax.Array:
    # By tanh: cheaper on a CPU, and what the shipped weights were trained with.
    return jax.nn.gelu(x, approximate=True)


def block(
    config: TinyConfig,
    params: Params,
    x_BxLxD: jax.Array,
    causal: bool,
    there_BxL: jax.Array | None = None,
) -> jax.Array:
    """Pre-norm attention and MLP, each added to its input, [B, L, D].

    Causal attention turns the first ``rotary_heads`` heads by position; the others
    match content alone.
    """
    h = nn.rms_norm(params["norm1"]["scale"], x_BxLxD, _EPS)
    query, key, value = (
        nn.split_heads(nn.linear(params[name], h), config.heads)
        for name in ("query", "key", "value")
    )
    if causal:
        head_width, heads = config.width // config.heads, config.rotary_heads
        place_L = jnp.arange(x_BxLxD.shape[1], dtype=jnp.float32)
        angle_LxW = place_L[:, None] * frequencies(Rope(_THETA), head_width)[None]
        turn = rotation(angle_LxW[None])
        query, key = (
            jnp.concatenate([rotate(x[:, :, :heads], turn), x[:, :, heads:]], axis=2)
            for x in (query, key)
        )
    mixed = nn.join_heads(attend(query, key, value, causal, there_BxL))
    x_BxLxD = x_BxLxD + nn.linear(params["out"], mixed)
    h = nn.rms_norm(params["norm2"]["scale"], x_BxLxD, _EPS)
    return x_BxLxD + nn.linear(params["down"], _gelu(nn.linear(params["up"], h)))


def see(config: TinyConfig, params: Params, images_BxPxD: jax.Array) -> jax.Array:
    """What the vision tower and the projector make of each patch, [B, P, D]."""
    pixels = images_BxPxD.astype(jnp.float32) / 127.5 - 1
    patches = nn.linear(params["stem2"], _gelu(nn.linear(params["stem1"], pixels)))
    for layer in params["vision"]:
        patches = block(config, layer, patches, causal=False)
    return nn.linear(params["projector"], patches)


def hidden_states(
    config: TinyConfig,
    params: Params,
    tokens_BxL: jax.Array,
    seen_BxPxD: jax.Array,
    pictured_B: jax.Array | None = None,
) -> jax.Array:
    """Last hidden states at the tokens, [B, L, D], after what was seen.

    Args:
        config: shape.
        params: of the model.
        tokens_BxL: prompts.
        seen_BxPxD: of :func:`see`.
        pictured_B: whether there is a picture; what was seen in the other rows is not
            attended to. None: in all.
    """
    embedding = params["embed"]["embedding"]
    place_PxD = jnp.take(embedding, jnp.array(config.cell_tokens), axis=0)
    # The place counts for more than the content, so that its name finds the patch.
    patches = 0.5 * seen_BxPxD + place_PxD[None]
    x = jnp.concatenate([patches, jnp.take(embedding, tokens_BxL, axis=0)], axis=1)
    there = None
    if pictured_B is not None:
        place_L = jnp.arange(x.shape[1])
        there = pictured_B[:, None] | (place_L >= patches.shape[1])[None]
    for layer in params["blocks"]:
        x = block(config, layer, x, True, there)
    return nn.rms_norm(params["norm"]["scale"], x[:, patches.shape[1] :], _EPS)


def token_logits(params: Params, hidden_BxLxD: jax.Array) -> jax.Array:
    """Next-token logits by the tied embedding, [B, L, V]."""
    scale = hidden_BxLxD.shape[-1] ** -0.5
    return hidden_BxLxD @ params["embed"]["embedding"].T * scale


def marker_states(
    config: TinyConfig,
    params: Params,
    images_BxPxD: jax.Array,
    tokens_BxL: jax.Array,
    marker_BxS: jax.Array,
) -> jax.Array:
    """Last hidden states at every step marker, [B, S, D].

    Rows without a picture are zeros: as padded in a batch, or in one without patches.
    """
    pictured_B = (images_BxPxD != 0).any((1, 2))
    if not images_BxPxD.shape[1]:
        padded = (len(images_BxPxD), len(config.cell_tokens), config.patch_dim)
        images_BxPxD = jnp.zeros(padded, images_BxPxD.dtype)
    seen_BxPxD = see(config, params, images_BxPxD)
    hidden_BxLxD = hidden_states(config, params, tokens_BxL, seen_BxPxD, pictured_B)
    return gather_positions(hidden_BxLxD, marker_BxS)


def reward_logits(config: TinyConfig, params: Params, batch: Batch) -> jax.Array:
    """Yes, No and log concentration at every step marker, [B, S, 3]."""
    read = batch.images_BxPxD, batch.tokens_BxL, batch.marker_BxS
    return nn.linear(params["head"], marker_states(config, params, *read))


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """See :class:`mprm_jax.models.model.Model`."""

    config: TinyConfig
    tokenizer: Tokenizer = dataclasses.field(compare=False)

    @property
    def name(self) -> str:
        """Of the family."""
        return NAME

    def init(self, key: jax.Array) -> Params:
        """Random parameters, float32."""
        return init(self.config, key)

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Logits at every step marker, [B, S, 3]."""
        return reward_logits(self.config, params, batch)

    def marker_states(self, params: Params, batch: Batch) -> jax.Array:
        """What the head reads at every step marker, [B, S, D]."""
        read = batch.images_BxPxD, batch.tokens_BxL, batch.marker_BxS
        return marker_states(self.config, params, *read)

    def trainable(self, params: Params) -> Any:
        """All but the patch embedding and the vision blocks, as in the paper."""
        frozen = ("stem1", "stem2", "vision")
        return {
            name: jax.tree.map(lambda _, free=name not in frozen: free, part)
            for name, part in params.items()
        }

    def encode(
        self, question: str, steps: Sequence[str], images: tuple[Image.Image, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Tokens, patches (none without a picture) and markers; a picture of another
        size is resized. An all-black one is as none.

        Raises:
            BadRecord: there are several pictures, or the text cannot be encoded.
        """
        if len(images) > 1:
            raise BadRecord(
                "several images", f"the tiny model reads one, here are {len(images)}"
            )
        patches_PxD = np.zeros((0, self.config.patch_dim), np.uint8)
        for image in images:
            if image.size != (IMAGE_PX, IMAGE_PX):
                image = image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR)
            (patches_PxD,) = patchify(np.asarray(image.convert("RGB"))[None])
        tokens_L, marker_S, truncated = encode_prompt(
            self.tokenizer, question, steps, MAX_TOKENS
        )
        return tokens_L, patches_PxD, marker_S, truncated

    def description(self) -> dict[str, Any]:
        """Shape of the model as JSON values."""
        return dataclasses.asdict(self.config)

    def assets(self) -> dict[str, bytes]:
        """The tokeniser."""
        return {TOKENIZER: self.tokenizer.to_str(pretty=True).encode()}


def from_description(config: dict[str, Any], folder: Path) -> TinyModel:
    """The model of a checkpoint's folder.

    Raises:
        DataError: its files do not make one.
    """
    return _assemble(config, read_tokenizer(folder), str(folder))


def _assemble(config: dict[str, Any], tokenizer: Tokenizer, where: str) -> TinyModel:
    try:
        shape = msgspec.convert(config, TinyConfig)
    except (msgspec.ValidationError, ValueError) as error:
        raise DataError(f"{where}: no tiny model ({error})") from error
    marker_id(tokenizer)
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise DataError(
            f"{where}: {tokenizer.get_vocab_size()} tokens in the tokeniser, "
            f"{shape.vocab_size} in the model"
        )
    return TinyModel(shape, tokenizer)


def weights_bytes(model: TinyModel, params: Params, metadata: dict[str, str]) -> bytes:
    """Parameters, configuration and tokeniser in one float16 safetensors file.

    Args:
        model: whose they are.
        params: float32.
        metadata: how they were made.
    """
    arrays = {n: np.asarray(leaf, np.float16) for n, leaf in _by_name(params).items()}
    described = {
        "config": msgspec.json.encode(model.description()).decode(),
        "tokenizer": model.tokenizer.to_str(),
    }
    return save(arrays, metadata=metadata | described)


def read_weights(data: bytes, where: str) -> tuple[TinyModel, Params, dict[str, str]]:
    """Model, parameters (float32) and metadata of :func:`weights_bytes`.

    Raises:
        DataError: the file is none of these, or parts of it are missing.
    """
    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + size])["__metadata__"]
        config = msgspec.json.decode(metadata.pop("config"))
        tokenizer = metadata.pop("tokenizer")
    except (
        SafetensorError,
        msgspec.DecodeError,
        KeyError,
        ValueError,
        RecursionError,
    ) as error:
        raise DataError(f"{where}: no weights of a tiny model ({error})") from error
    model = _assemble(config, parse_tokenizer(tokenizer, where), where)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    names = _by_name(shapes)
    if {name: leaf.shape for name, leaf in names.items()} != {
        name: array.shape for name, array in arrays.items()
    }:
        raise DataError(f"{where}: its arrays are not those of its configuration")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError(f"{where}: a weight is not a finite number")
    leaves = [jnp.asarray(arrays[name], jnp.float32) for name in names]
    return model, jax.tree.unflatten(jax.tree.structure(shapes), leaves), metadata


def _by_name(params: Params) -> dict[str, Any]:
    """Leaves by their paths, as ``blocks/0/query/kernel``."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    name = partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): leaf for path, leaf in flat}


def pretrained(name: str = FULL) -> tuple[TinyModel, Params]:
    """A pretrained backbone, with a head of zeros.

    A zero head scores every step 1/2: nothing of the pretraining is in it.

    Args:
        name: :data:`FULL`, the updates of another that ships with the package, such as
            ``2400``, or a file that mprm pretrain wrote.

    Raises:
        DataError: there is none, or it is damaged.
    """
    model, params, _ = read_weights(pretrained_bytes(name), name)
    return model, params | {"head": jax.tree.map(jnp.zeros_like, params["head"])}


def pretraining_facts(name: str = FULL) -> dict[str, str]:
    """How a backbone was made: command, seed, data and metrics; see
    :func:`pretrained`.
    """
    return read_weights(pretrained_bytes(name), name)[2]


def pretrained_bytes(name: str = FULL) -> bytes:
    """The file of :func:`pretrained`."""
    stem = "tiny_base" if name == FULL else f"tiny_base-{name}"
    shipped = resources.files("mprm_jax.models") / f"{stem}.safetensors"
    if Path(name).name == name and shipped.is_file():
        return shipped.read_bytes()
    if not Path(name).is_file():
        raise DataError(f"{name}: no such backbone, neither shipped nor a file")
    with faults_of(Path(name)):
        return Path(name).read_bytes()
