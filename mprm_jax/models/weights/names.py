"""Where each tensor of a checkpoint lies in the parameters, for each layout.

A layout is a list of entries: a name and shape on disk, the leaves it fills, and the
pair of functions between the two. Loading, checking and saving read the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.internvl import InternViTConfig, InternVLConfig
from mprm_jax.models.qwen import QwenVisionConfig
from mprm_jax.models.weights.config import INTERNVL, INTERNVL_CHAT_FUSED, QWEN

Path = tuple[str, ...]
Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Form:
    """How one tensor on disk turns into leaves, and back."""

    read: Callable[[np.ndarray], Arrays]
    write: Callable[[Arrays], np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One tensor on disk.

    Attributes:
        name: as the newest files of the layout call it.
        shape: on disk.
        targets: the leaves it fills, in the order of ``form``.
        form: the conversion.
        layer: index along the leading axis of stacked leaves; None for single ones.
    """

    name: str
    shape: tuple[int, ...]
    targets: tuple[Path, ...]
    form: Form
    layer: int | None = None


PLAIN = Form(lambda array: (array,), lambda arrays: arrays[0])
LINEAR = Form(lambda array: (array.T,), lambda arrays: arrays[0].T)


def _reshaped(inner: tuple[int, ...], outer: tuple[int, ...]) -> Form:
    return Form(
        lambda array: (array.reshape(inner),), lambda arrays: arrays[0].reshape(outer)
    )


def _convolution(shape: tuple[int, ...]) -> Form:
    """Kernel [out, channel, ...] of a convolution whose stride is its size."""
    return Form(
        lambda array: (array.reshape(shape[0], -1).T,),
        lambda arrays: arrays[0].T.reshape(shape),
    )


def _thirds() -> Form:
    """Queries, keys and values stacked: kernels [3 F, D], or biases [3 F]."""
    return Form(
        lambda array: tuple(part.T for part in np.split(array, 3)),
        lambda arrays: np.concatenate([part.T for part in arrays]),
    )


def _grouped(config: DecoderConfig) -> Form:
    """InternLM2's wqkv: for each key head its query rows, then its key, its value."""
    kv, width = config.kv_heads, config.head_width
    group = config.heads // kv

    def read(array: np.ndarray) -> Arrays:
        rows = array.reshape(kv, group + 2, width, -1)
        parts = rows[:, :group], rows[:, group], rows[:, group + 1]
        return tuple(part.reshape(-1, array.shape[1]).T for part in parts)

    def write(arrays: Arrays) -> np.ndarray:
        query, key, value = (a.T.reshape(kv, -1, width, a.shape[0]) for a in arrays)
        joined = np.concatenate([query, key, value], axis=1)
        return joined.reshape(-1, joined.shape[-1])

    return Form(read, write)


def _dense(
    name: str, path: Path, inner: int, outer: int, layer: int | None, bias: bool = True
) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", (outer, inner), ((*path, "kernel"),), LINEAR, layer)
    if bias:
        yield Entry(f"{name}.bias", (outer,), ((*path, "bias"),), PLAIN, layer)


def _norm(name: str, path: Path, width: int, layer: int | None) -> Iterator[Entry]:
    for ending, leaf in (("weight", "scale"), ("bias", "bias")):
        yield Entry(f"{name}.{ending}", (width,), ((*path, leaf),), PLAIN, layer)


def _decoder(config: DecoderConfig, body: str, head: str) -> Iterator[Entry]:
    """Qwen2 and Llama, as transformers names them."""
    root, width = ("language",), config.width
    inner, kv = config.heads * config.head_width, config.kv_heads * config.head_width
    rows, bias = (config.vocabulary, width), config.qkv_bias
    yield Entry(f"{body}.embed_tokens.weight", rows, ((*root, "embedding"),), PLAIN)
    yield Entry(f"{body}.norm.weight", (width,), ((*root, "norm"),), PLAIN)
    if not config.tied:
        yield Entry(f"{head}.weight", rows, ((*root, "lm_head"),), PLAIN)
    for i in range(config.layers):
        at, to = f"{body}.layers.{i}", (*root, "layers")
        for norm, leaf in (
            ("input_layernorm", "attention_norm"),
            ("post_attention_layernorm", "mlp_norm"),
        ):
            yield Entry(f"{at}.{norm}.weight", (width,), ((*to, leaf),), PLAIN, i)
        attention, mlp, hidden = f"{at}.self_attn", f"{at}.mlp", config.hidden
        yield from _dense(f"{attention}.q_proj", (*to, "query"), width, inner, i, bias)
        yield from _dense(f"{attention}.k_proj", (*to, "key"), width, kv, i, bias)
        yield from _dense(f"{attention}.v_proj", (*to, "value"), width, kv, i, bias)
        yield from _dense(
            f"{attention}.o_proj", (*to, "output"), inner, width, i, False
        )
        yield from _dense(f"{mlp}.gate_proj", (*to, "gate"), width, hidden, i, False)
        yield from _dense(f"{mlp}.up_proj", (*to, "up"), width, hidden, i, False)
        yield from _dense(f"{mlp}.down_proj", (*to, "down"), hidden, width, i, False)


def _internlm2(config: DecoderConfig) -> Iterator[Entry]:
    """InternLM2, as InternVL's remote code names it."""
    root, width, body = ("language",), config.width, "language_model.model"
    rows, inner = (config.vocabulary, width), config.heads * config.head_width
    yield Entry(f"{body}.tok_embeddings.weight", rows, ((*root, "embedding"),), PLAIN)
    yield Entry(f"{body}.norm.weight", (width,), ((*root, "norm"),), PLAIN)
    if not config.tied:
        yield Entry("language_model.output.weight", rows, ((*root, "lm_head"),), PLAIN)
    fused = inner + 2 * config.kv_heads * config.head_width
    for i in range(config.layers):
        at, to = f"{body}.layers.{i}", (*root, "layers")
        for norm in ("attention_norm", "ffn_norm"):
            leaf = {"ffn_norm": "mlp_norm"}.get(norm, norm)
            yield Entry(f"{at}.{norm}.weight", (width,), ((*to, leaf),), PLAIN, i)
        yield Entry(
            f"{at}.attention.wqkv.weight",
            (fused, width),
            tuple((*to, leaf, "kernel") for leaf in ("query", "key", "value")),
            _grouped(config),
            i,
        )
        yield from _dense(f"{at}.attention.wo", (*to, "output"), inner, width, i, False)
        mlp, hidden = f"{at}.feed_forward", config.hidden
        yield from _dense(f"{mlp}.w1", (*to, "gate"), width, hidden, i, False)
        yield from _dense(f"{mlp}.w3", (*to, "up"), width, hidden, i, False)
        yield from _dense(f"{mlp}.w2", (*to, "down"), hidden, width, i, False)


def _fused_qkv(at: str, to: Path, width: int, i: int, bias: bool) -> Iterator[Entry]:
    for ending, leaf, shape in (
        ("weight", "kernel", (3 * width, width)),
        ("bias", "bias", (3 * width,)),
    )[: 1 + bias]:
        targets = tuple((*to, name, leaf) for name in ("query", "key", "value"))
        yield Entry(f"{at}.qkv.{ending}", shape, targets, _thirds(), i)


def _qwen_vision(config: QwenVisionConfig) -> Iterator[Entry]:
    root, width = ("vision",), config.width
    shape = (width, 3, config.frames, config.patch, config.patch)
    yield Entry(
        "visual.patch_embed.proj.weight",
        shape,
        ((*root, "patch", "kernel"),),
        _convolution(shape),
    )
    for i in range(config.layers):
        at, to, hidden = f"visual.blocks.{i}", (*root, "layers"), config.hidden
        for norm, leaf in (("norm1", "attention_norm"), ("norm2", "mlp_norm")):
            yield Entry(f"{at}.{norm}.weight", (width,), ((*to, leaf),), PLAIN, i)
        yield from _fused_qkv(f"{at}.attn", to, width, i, True)
        yield from _dense(f"{at}.attn.proj", (*to, "output"), width, width, i)
        yield from _dense(f"{at}.mlp.gate_proj", (*to, "gate"), width, hidden, i)
        yield from _dense(f"{at}.mlp.up_proj", (*to, "up"), width, hidden, i)
        yield from _dense(f"{at}.mlp.down_proj", (*to, "down"), hidden, width, i)
    merged, merger = width * config.merge**2, "visual.merger"
    yield Entry(f"{merger}.ln_q.weight", (width,), ((*root, "merger_norm"),), PLAIN)
    yield from _dense(f"{merger}.mlp.0", (*root, "merger_in"), merged, merged, None)
    yield from _dense(
        f"{merger}.mlp.2", (*root, "merger_out"), merged, config.output, None
    )


@dataclass(frozen=True)
class _ViTNames:
    """What transformers and the remote code call the same parts of InternViT."""

    root: str
    class_token: str
    positions: str
    patches: str
    layer: str
    norms: tuple[str, str]
    scales: tuple[str, str]
    output: str


_NATIVE = _ViTNames(
    root="vision_tower",
    class_token="embeddings.cls_token",
    positions="embeddings.position_embeddings",
    patches="embeddings.patch_embeddings.projection",
    layer="encoder.layer",
    norms=("layernorm_before", "layernorm_after"),
    scales=("lambda_1", "lambda_2"),
    output="attention.projection_layer",
)
_REMOTE = _ViTNames(
    root="vision_model",
    class_token="embeddings.class_embedding",
    positions="embeddings.position_embedding",
    patches="embeddings.patch_embedding",
    layer="encoder.layers",
    norms=("norm1", "norm2"),
    scales=("ls1", "ls2"),
    output="attn.proj",
)


def _internvit(config: InternViTConfig, names: _ViTNames) -> Iterator[Entry]:
    root, width, body = ("vision",), config.width, names.root
    count = config.side**2 + 1
    yield Entry(
        f"{body}.{names.class_token}",
        (1, 1, width),
        ((*root, "class_token"),),
        _reshaped((width,), (1, 1, width)),
    )
    yield Entry(
        f"{body}.{names.positions}",
        (1, count, width),
        ((*root, "positions"),),
        _reshaped((count, width), (1, count, width)),
    )
    shape = (width, 3, config.patch, config.patch)
    patch = (*root, "patch")
    yield Entry(
        f"{body}.{names.patches}.weight",
        shape,
        ((*patch, "kernel"),),
        _convolution(shape),
    )
    yield Entry(f"{body}.{names.patches}.bias", (width,), ((*patch, "bias"),), PLAIN)
    for i in range(config.layers):
        at, to, bias = f"{body}.{names.layer}.{i}", (*root, "layers"), config.qkv_bias
        yield from _norm(f"{at}.{names.norms[0]}", (*to, "attention_norm"), width, i)
        yield from _norm(f"{at}.{names.norms[1]}", (*to, "mlp_norm"), width, i)
        for name, leaf in zip(
            names.scales, ("attention_scale", "mlp_scale"), strict=True
        ):
            yield Entry(f"{at}.{name}", (width,), ((*to, leaf),), PLAIN, i)
        if names is _NATIVE:
            for name, leaf in (("q", "query"), ("k", "key"), ("v", "value")):
                projection = f"{at}.attention.{name}_proj"
                yield from _dense(projection, (*to, leaf), width, width, i, bias)
        else:
            yield from _fused_qkv(f"{at}.attn", to, width, i, bias)
        yield from _dense(f"{at}.{names.output}", (*to, "output"), width, width, i)
        yield from _dense(f"{at}.mlp.fc1", (*to, "up"), width, config.hidden, i)
        yield from _dense(f"{at}.mlp.fc2", (*to, "down"), config.hidden, width, i)


def _projector(config: InternVLConfig, names: tuple[str, str, str]) -> Iterator[Entry]:
    norm, first, second = names
    merged, width = config.vision.width * config.shuffle**2, config.language.width
    yield from _norm(norm, ("projector", "norm"), merged, None)
    yield from _dense(first, ("projector", "in"), merged, width, None)
    yield from _dense(second, ("projector", "out"), width, width, None)


def entries(kind: str, config: Any) -> list[Entry]:
    """Every tensor of a checkpoint of one layout."""
    if kind == QWEN:
        text = _decoder(config.language, "model", "lm_head")
        return [*_qwen_vision(config.vision), *text]
    text = _decoder(config.language, "language_model.model", "language_model.lm_head")
    names, vision = ("mlp1.0", "mlp1.1", "mlp1.3"), _REMOTE
    if kind == INTERNVL:
        part, vision = "multi_modal_projector", _NATIVE
        names = (f"{part}.layer_norm", f"{part}.linear_1", f"{part}.linear_2")
    if kind == INTERNVL_CHAT_FUSED:
        text = _internlm2(config.language)
    projector = _projector(config, names)
    return [*_internvit(config.vision, vision), *projector, *text]


# Names that older and newer versions of transformers write for the same tensors.
_RENAMED = {
    QWEN: (
        ("model.visual.", "visual."),
        ("model.language_model.", "model."),
    ),
    INTERNVL: (
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
}


def canonical_name(kind: str, name: str) -> str:
    """The name that ``entries`` uses for a tensor of a file."""
    for old, new in _RENAMED.get(kind, ()):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
