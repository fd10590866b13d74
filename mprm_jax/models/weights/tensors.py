"""Released weights in, trained weights out: safetensors as transformers has them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from mprm_jax.data.outputs import OutputSet
from mprm_jax.models import families
from mprm_jax.models.families import BackboneConfig, family_of, with_language
from mprm_jax.models.layers import Params
from mprm_jax.models.weights.config import config_json, read_config
from mprm_jax.models.weights.files import Tensors
from mprm_jax.models.weights.names import Entry, entries

# A pytree of shardings, made from the shapes of the parameters.
ShardingRule = Callable[[Params], Any]
_SHARD_BYTES = 4 * 2**30


def parameter_shapes(
    config: BackboneConfig, dtype: Any = jnp.float32, frozen_dtype: Any = None
) -> Params:
    """Shape and precision of every parameter, with nothing allocated."""
    shapes = jax.eval_shape(functools.partial(families.init, config), jax.random.key(0))
    frozen_dtype = dtype if frozen_dtype is None else frozen_dtype
    return jax.tree.map(
        lambda leaf, trained: jax.ShapeDtypeStruct(
            leaf.shape, dtype if trained else frozen_dtype
        ),
        shapes,
        families.trainable(shapes),
    )


def parameter_count(config: BackboneConfig) -> int:
    """Parameters of vision, projector and language together."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(config)))


def load_pretrained(
    directory: Path,
    dtype: Any,
    sharding: ShardingRule | None = None,
    *,
    frozen_dtype: Any = None,
    wanted: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> tuple[BackboneConfig, Params]:
    """The model of a folder in any of the layouts.

    Names, shapes and dtypes are all checked before anything is allocated; then one
    tensor at a time is read and placed, so the host never holds more than one.

    Args:
        directory: holds config.json and model.safetensors or its shards and index.
        dtype: of every parameter once placed.
        sharding: gives each parameter its sharding; None puts all on one device.
        frozen_dtype: of those that ``trainable`` freezes; None: the same.
        wanted: by paths joined with dots, the only parameters to read, each in its own
            precision and sharding; the others are None. None: all of them.

    Raises:
        DataError: the folder, its configuration or its weights cannot be used.
    """
    config, tensors, listed = stored_layout(directory)
    shapes = parameter_shapes(config, dtype, frozen_dtype)
    shardings = sharding(shapes) if sharding is not None else None
    if wanted is not None:
        listed = [e for e in listed if any(".".join(t) in wanted for t in e.targets)]
        shapes, shardings = _only(shapes, wanted)
    params = _allocate(shapes, shardings)
    for entry, array in tensors.read(listed):
        for path, part in zip(entry.targets, entry.form.read(array), strict=True):
            _place(params, path, entry.layer, part)
    return config, params


def stored_layout(directory: Path) -> tuple[BackboneConfig, Tensors, list[Entry]]:
    """The model of a folder as its files hold it, with their tensors, all checked.

    A file that has both the embedding and the language-model head means both: they may
    differ, whatever config.json says of them.

    Raises:
        DataError: the folder, its configuration or its weights cannot be used.
    """
    layout, config = read_config(directory)
    tensors = Tensors(directory, layout)
    untied = with_language(config, tied=False)
    listed, separate = entries(layout, config), entries(layout, untied)
    known = {entry.name for entry in listed}
    if any(entry.name in tensors for entry in separate if entry.name not in known):
        config, listed = untied, separate
    tensors.check(listed)
    return config, tensors, listed


def _only(shapes: Params, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Any:
    """(shapes, shardings) with None for what is not wanted."""

    def one(path: tuple, leaf: Any) -> Any:
        of = wanted.get(jax.tree_util.keystr(path, simple=True, separator="."))
        return of and jax.ShapeDtypeStruct(leaf.shape, of.dtype, sharding=of.sharding)

    chosen = jax.tree_util.tree_map_with_path(one, shapes)
    return chosen, jax.tree.map(lambda leaf: leaf.sharding, chosen)


def _allocate(shapes: Params, shardings: Any) -> Params:
    if shardings is None:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.tree.map(
        lambda leaf, place: jnp.zeros(leaf.shape, leaf.dtype, device=place),
        shapes,
        shardings,
    )


@functools.partial(jax.jit, donate_argnums=0)
def _set_layer(stacked: jax.Array, layer: jax.Array, value: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stacked, value, layer, 0)


def _place(
    params: Params, path: tuple[str, ...], layer: int | None, array: np.ndarray
) -> None:
    holder = params
    for name in path[:-1]:
        holder = holder[name]
    leaf = holder[path[-1]]
    array = np.ascontiguousarray(array.astype(leaf.dtype))
    if layer is None:
        holder[path[-1]] = _put(array, leaf.sharding)
        return
    place = leaf.sharding
    if isinstance(place, jax.sharding.NamedSharding):
        # Layers lie whole on every device: scan slices them off.
        assert not place.spec or place.spec[0] is None, place
        rest = jax.sharding.PartitionSpec(*place.spec[1:])
        place = jax.sharding.NamedSharding(place.mesh, rest)
    holder[path[-1]] = _set_layer(leaf, jnp.int32(layer), _put(array, place))


def _put(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    # Each host hands over only the parts its own devices hold.
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])


def save_pretrained(
    directory: Path,
    config: BackboneConfig,
    params: Params,
    dtype: Any = jnp.float32,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write the model in transformers' own layout, in shards of at most 4 GiB.

    InternLM2 is written as Llama, whose mathematics it is. All files appear together
    or not at all.

    Args:
        directory: for the files.
        config: of the model.
        params: without the reward head.
        dtype: of every tensor.
        beside: other files of the folder, by name.

    Raises:
        DataError: a file cannot be written.
    """
    dtype = np.dtype(dtype)
    listed = entries(family_of(config).layout, config)
    shards = _split(listed, dtype.itemsize)
    single = len(shards) == 1
    index: dict[str, str] = {}
    with OutputSet() as outputs:
        for number, shard in enumerate(shards, 1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            name = "model.safetensors" if single else name
            arrays = {entry.name: _gathered(params, entry, dtype) for entry in shard}
            index |= dict.fromkeys(arrays, name)
            outputs.add(directory / name).write(save(arrays, {"format": "pt"}))
        written = config_json(config, dtype.name)
        config_path = directory / "config.json"
        outputs.add(config_path, describes=True).write(_json(written))
        for name, data in beside.items():
            outputs.add(directory / name).write(data)
        if not single:
            size = sum(int(np.prod(e.shape)) for e in listed) * dtype.itemsize
            value = {"metadata": {"total_size": size}, "weight_map": index}
            path = directory / "model.safetensors.index.json"
            outputs.add(path, describes=True).write(_json(value))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _split(listed: list[Entry], itemsize: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in listed:
        taken = int(np.prod(entry.shape)) * itemsize
        if shards[-1] and size + taken > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += taken
    return shards


def _gathered(params: Params, entry: Entry, dtype: np.dtype) -> np.ndarray:
    arrays = []
    for path in entry.targets:
        leaf: Any = params
        for name in path:
            leaf = leaf[name]
        arrays.append(np.asarray(leaf if entry.layer is None else leaf[entry.layer]))
    return np.ascontiguousarray(entry.form.write(tuple(arrays)).astype(dtype))
