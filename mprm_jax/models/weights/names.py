"""Where each tensor of a checkpoint lies in the parameters, for each layout.

A layout is a table from names on disk to leaves of the parameters. Of it a list of
entries is made: a name and shape on disk, the leaves it fills, and the functions
between the two. Loading, checking and saving read the same list.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mprm_jax.models import families
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.families import BackboneConfig
from mprm_jax.models.weights.config import INTERNVL, INTERNVL_CHAT_FUSED, QWEN, TEXT

Path = tuple[str, ...]
Shape = tuple[int, ...]
Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Form:
    """How one tensor on disk turns into leaves, and back.

    Attributes:
        shape: on disk, of the shapes of the leaves.
        read: leaves of a tensor.
        write: the tensor of its leaves.
    """

    shape: Callable[[tuple[Shape, ...]], Shape]
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
    shape: Shape
    targets: tuple[Path, ...]
    form: Form
    layer: int | None = None


PLAIN = Form(lambda shapes: shapes[0], lambda array: (array,), lambda arrays: arrays[0])
LINEAR = Form(
    lambda shapes: shapes[0][::-1], lambda array: (array.T,), lambda arrays: arrays[0].T
)


def _reshaped(before: Shape) -> Form:
    """A leaf with axes of length 1 before its own."""
    return Form(
        lambda shapes: (*before, *shapes[0]),
        lambda array: (array.reshape(array.shape[len(before) :]),),
        lambda arrays: arrays[0].reshape(*before, *arrays[0].shape),
    )


def _convolution(inner: Shape) -> Form:
    """Kernel [out, *inner] of a convolution whose stride is its size."""
    return Form(
        lambda shapes: (shapes[0][1], *inner),
        lambda array: (array.reshape(len(array), -1).T,),
        lambda arrays: arrays[0].T.reshape(-1, *inner),
    )


# Queries, keys and values stacked: kernels [3 F, D], or biases [3 F].
THIRDS = Form(
    lambda shapes: (3 * shapes[0][-1], *shapes[0][:-1]),
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

    rows = (config.heads + 2 * kv) * width
    return Form(lambda shapes: (rows, shapes[0][0]), read, write)


# Rows of a table: a name on disk, "*" for the number of the layer, and the part of the
# parameters that it fills. ``.weight`` and ``.bias`` follow where the part is a layer
# of the network; a tuple of parts is queries, keys and values in one tensor.
Row = tuple[str, str | tuple[str, ...]]
_QKV = ("query", "key", "value")

_LLAMA: tuple[Row, ...] = (
    ("model.embed_tokens", "embedding"),
    ("model.norm", "norm"),
    ("lm_head", "lm_head"),
    ("model.layers.*.input_layernorm", "attention_norm"),
    ("model.layers.*.post_attention_layernorm", "mlp_norm"),
    *((f"model.layers.*.self_attn.{name[0]}_proj", name) for name in _QKV),
    ("model.layers.*.self_attn.o_proj", "output"),
    # Where the model has them: Qwen3.
    ("model.layers.*.self_attn.q_norm", "query_norm"),
    ("model.layers.*.self_attn.k_norm", "key_norm"),
    *((f"model.layers.*.mlp.{name}_proj", name) for name in ("gate", "up", "down")),
)
_INTERNLM2: tuple[Row, ...] = (
    ("model.tok_embeddings", "embedding"),
    ("model.norm", "norm"),
    ("output", "lm_head"),
    ("model.layers.*.attention_norm", "attention_norm"),
    ("model.layers.*.ffn_norm", "mlp_norm"),
    ("model.layers.*.attention.wqkv", _QKV),
    ("model.layers.*.attention.wo", "output"),
    ("model.layers.*.feed_forward.w1", "gate"),
    ("model.layers.*.feed_forward.w3", "up"),
    ("model.layers.*.feed_forward.w2", "down"),
)
_QWEN_TOWER: tuple[Row, ...] = (
    ("patch_embed.proj", "patch"),
    ("blocks.*.norm1", "attention_norm"),
    ("blocks.*.norm2", "mlp_norm"),
    ("blocks.*.attn.qkv", _QKV),
    ("blocks.*.attn.proj", "output"),
    *((f"blocks.*.mlp.{name}_proj", name) for name in ("gate", "up", "down")),
    ("merger.ln_q", "merger_norm"),
    ("merger.mlp.0", "merger_in"),
    ("merger.mlp.2", "merger_out"),
)
_INTERNVIT: tuple[Row, ...] = (
    ("embeddings.cls_token", "class_token"),
    ("embeddings.position_embeddings", "positions"),
    ("embeddings.patch_embeddings.projection", "patch"),
    ("encoder.layer.*.layernorm_before", "attention_norm"),
    ("encoder.layer.*.layernorm_after", "mlp_norm"),
    ("encoder.layer.*.lambda_1", "attention_scale"),
    ("encoder.layer.*.lambda_2", "mlp_scale"),
    *((f"encoder.layer.*.attention.{name[0]}_proj", name) for name in _QKV),
    ("encoder.layer.*.attention.projection_layer", "output"),
    ("encoder.layer.*.mlp.fc1", "up"),
    ("encoder.layer.*.mlp.fc2", "down"),
)
_INTERNVIT_CHAT: tuple[Row, ...] = (
    ("embeddings.class_embedding", "class_token"),
    ("embeddings.position_embedding", "positions"),
    ("embeddings.patch_embedding", "patch"),
    ("encoder.layers.*.norm1", "attention_norm"),
    ("encoder.layers.*.norm2", "mlp_norm"),
    ("encoder.layers.*.ls1", "attention_scale"),
    ("encoder.layers.*.ls2", "mlp_scale"),
    ("encoder.layers.*.attn.qkv", _QKV),
    ("encoder.layers.*.attn.proj", "output"),
    ("encoder.layers.*.mlp.fc1", "up"),
    ("encoder.layers.*.mlp.fc2", "down"),
)
# Single tensors that are no ``.weight``.
_BARE = ("class_token", "positions", "attention_scale", "mlp_scale")


def _parts(layout: str) -> Iterator[tuple[str, str, tuple[Row, ...]]]:
    """Prefix on disk, part of the parameters, and table, of a layout."""
    if layout in (QWEN, TEXT):
        if layout == QWEN:
            yield "visual.", "vision", _QWEN_TOWER
        yield "", "language", _LLAMA
        return
    native = layout == INTERNVL
    yield (
        "vision_tower." if native else "vision_model.",
        "vision",
        _INTERNVIT if native else _INTERNVIT_CHAT,
    )
    part = "multi_modal_projector" if native else "mlp1"
    names = ("layer_norm", "linear_1", "linear_2") if native else ("0", "1", "3")
    rows = zip(names, ("norm", "in", "out"), strict=True)
    yield f"{part}.", "projector", tuple(rows)
    fused = layout == INTERNVL_CHAT_FUSED
    yield "language_model.", "language", _INTERNLM2 if fused else _LLAMA


@functools.cache
def _shapes(config: BackboneConfig) -> Any:
    return jax.eval_shape(functools.partial(families.init, config), jax.random.key(0))


def entries(layout: str, config: BackboneConfig) -> list[Entry]:
    """Every tensor of a checkpoint of one layout."""
    vision: Any = config.vision
    forms = {"class_token": _reshaped((1, 1)), "positions": _reshaped((1,))}
    # Of the language models only InternLM2 fuses its own.
    fused = {"vision": THIRDS, "language": _grouped(config.language)}
    layers = {"language": config.language.layers}
    if vision is not None:
        frames = (vision.frames,) if layout == QWEN else ()
        forms["patch"] = _convolution((3, *frames, vision.patch, vision.patch))
        layers["vision"] = vision.layers
    found = []
    for prefix, part, table in _parts(layout):
        shapes = _shapes(config)[part]
        for name, targets, layer in _numbered(table, layers.get(part, 0)):
            parts = (targets,) if isinstance(targets, str) else targets
            form = forms.get(parts[0]) if len(parts) == 1 else fused[part]
            root = (part,) if layer is None else (part, "layers")
            of = shapes if layer is None else shapes["layers"]
            found += _tensors(prefix + name, root, parts, of, layer, form)
    return found


def _numbered(
    table: tuple[Row, ...], layers: int
) -> Iterator[tuple[str, str | tuple[str, ...], int | None]]:
    """The rows of a table; those of layers once for each layer, layer by layer."""
    for layered, group in itertools.groupby(table, lambda row: "*" in row[0]):
        rows = list(group)
        for layer in range(layers if layered else 1):
            for name, targets in rows:
                number = layer if layered else None
                yield name.replace("*", str(layer)), targets, number


# What stands at the end of a name on disk, by the leaf of a part; "": of a bare array.
_ENDINGS = {"": "weight", "kernel": "weight", "scale": "weight", "bias": "bias"}


def _tensors(
    name: str,
    root: Path,
    parts: tuple[str, ...],
    shapes: Any,
    layer: int | None,
    form: Form | None,
) -> Iterator[Entry]:
    """The tensors of one row of a table; none where the model has no such part."""
    first = shapes.get(parts[0], {})
    leaves = first if isinstance(first, dict) else {"": first}
    for leaf, ending in _ENDINGS.items():
        if leaf not in leaves:
            continue
        plain = LINEAR if leaf == "kernel" else PLAIN
        # A bias alone is what it is; fused ones are cut as their kernels are.
        alone = leaf == "bias" and len(parts) == 1
        chosen = plain if form is None or alone else form
        held = [shapes[part][leaf] if leaf else shapes[part] for part in parts]
        inner = tuple(x.shape[layer is not None :] for x in held)
        yield Entry(
            name if parts[0] in _BARE else f"{name}.{ending}",
            chosen.shape(inner),
            tuple((*root, part, leaf) if leaf else (*root, part) for part in parts),
            chosen,
            layer,
        )


# Names that older and newer versions of transformers write for the same tensors.
_RENAMED = {
    QWEN: (("model.visual.", "visual."), ("model.language_model.", "model.")),
    INTERNVL: (
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
    # Of a model without its head (AutoModel).
    TEXT: tuple(
        (f"{name}.", f"model.{name}.") for name in ("embed_tokens", "layers", "norm")
    ),
}


def canonical_name(layout: str, name: str) -> str:
    """The name that ``entries`` uses for a tensor of a file."""
    for old, new in _RENAMED.get(layout, ()):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
