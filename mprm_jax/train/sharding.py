"""Where parameters, batches and activations lie on many devices: one mesh, one rule.

The mesh has three axes. ``data`` holds copies of the parameters, ``fsdp`` splits them
and gathers them as they are used, ``tensor`` splits the work of a layer. FSDP is
(1, n, 1), hybrid (HSDP) (m, n, 1) with a copy per node, tensor parallelism (1, n, t).
A batch is split over ``data`` and ``fsdp`` together. Of several hosts each runs its own
process and holds its own rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as Spec

from mprm_jax.data.batches import Batch
from mprm_jax.records.problems import DataError

# Rules need the sizes of the axes only, not the devices.
AnyMesh = Mesh | AbstractMesh

# The host that writes files.
FIRST_HOST = 0

DATA_AXIS, FSDP_AXIS, TENSOR_AXIS = "data", "fsdp", "tensor"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)

# Kernels [in, out] whose output is split by heads or hidden units, and those that take
# such an input: a pair needs one sum over the tensor axis.
_COLUMNS = ("query", "key", "value", "gate", "up")
_ROWS = ("output", "down")
# [vocabulary, width]
_VOCABULARY = ("embedding", "lm_head")
_STACK = "layers"


@dataclass(frozen=True)
class MeshShape:
    """Devices along each axis.

    Attributes:
        data: copies of the parameters.
        fsdp: parts of each copy; None: as many as the devices leave.
        tensor: devices that share each layer's work.

    Raises:
        ValueError: a number is below 1.
    """

    data: int = 1
    fsdp: int | None = None
    tensor: int = 1

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


def parse_mesh(text: str) -> MeshShape:
    """``DATAxFSDPxTENSOR`` as ``2x4x1``.

    Raises:
        ValueError: it is none.
    """
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError(f"a mesh is written DATAxFSDPxTENSOR, as 2x4x1, not {text!r}")
    data, fsdp, tensor = map(int, parts)
    return MeshShape(data, fsdp, tensor)


def make_mesh(shape: MeshShape) -> Mesh:
    """The mesh over all devices of all hosts.

    Raises:
        DataError: the axes do not multiply to the number of devices.
    """
    count = jax.device_count()
    fsdp = shape.fsdp or max(1, count // (shape.data * shape.tensor))
    sizes = shape.data, fsdp, shape.tensor
    if math.prod(sizes) != count:
        raise DataError(
            f"a mesh of {shape.data} x {fsdp} x {shape.tensor} (data, fsdp, tensor) "
            f"does not use {count} devices"
        )
    return jax.make_mesh(
        sizes, (DATA_AXIS, FSDP_AXIS, TENSOR_AXIS), axis_types=(AxisType.Auto,) * 3
    )


def default_mesh() -> Mesh | None:
    """All devices with the whole model on each, or None if there is only one."""
    devices = jax.device_count()
    return make_mesh(MeshShape(devices, 1)) if devices > 1 else None


def abstract_mesh(shape: MeshShape) -> AbstractMesh:
    """A mesh of devices that need not be here.

    Raises:
        ValueError: the shape leaves a size open.
    """
    if shape.fsdp is None:
        raise ValueError("how many devices has the axis fsdp?")
    sizes = shape.data, shape.fsdp, shape.tensor
    return AbstractMesh(sizes, (DATA_AXIS, FSDP_AXIS, TENSOR_AXIS))


def check_rows(mesh: AnyMesh, batch_size: int, accumulate: int) -> None:
    """Refuse a batch that the parts of a mesh cannot share.

    Raises:
        ValueError: they cannot.
    """
    parts = batch_parts(mesh)
    if batch_size % (accumulate * parts):
        raise ValueError(
            f"{parts} parts of the mesh cannot share a batch of {batch_size} in "
            f"{accumulate} micro-batches evenly: give a multiple of "
            f"{accumulate * parts}"
        )


def batch_parts(mesh: AnyMesh) -> int:
    """Parts into which the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def parameter_spec(
    mesh: AnyMesh, path: tuple[str, ...], shape: tuple[int, ...]
) -> Spec:
    """How one parameter is split, from its name and shape alone.

    Kernels of attention and feed-forward: one side over ``tensor``, the other over
    ``fsdp``. Other matrices: their longest side over ``fsdp``. Vectors, the reward
    rows and the leading axis of stacked layers: not at all. A side that does not
    divide evenly is left whole.
    """
    stack = 1 if _STACK in path else 0
    sides: list[str | None] = [None] * len(shape)
    if len(shape) - stack == 2 and "head" not in path:
        role = path[-2] if path[-1] == "kernel" else path[-1]
        first, second = stack, stack + 1
        if role in _COLUMNS and stack:
            sides[first], sides[second] = FSDP_AXIS, TENSOR_AXIS
        elif role in _ROWS and stack:
            sides[first], sides[second] = TENSOR_AXIS, FSDP_AXIS
        elif role in _VOCABULARY:
            # Split by width, so that looking a token up needs no other device's rows.
            sides[second] = FSDP_AXIS
        else:
            sides[first if shape[first] >= shape[second] else second] = FSDP_AXIS
    for axis, name in enumerate(sides):
        parts = 1 if name is None else mesh.shape[name]
        if parts == 1 or shape[axis] % parts:
            sides[axis] = None
    # As XLA writes it: what comes out of an update then equals what went in.
    while sides and sides[-1] is None:
        sides.pop()
    return Spec(*sides)


def parameter_shardings(mesh: AnyMesh, params: Any) -> Any:
    """A tree of shardings like the tree of parameters (or of their shapes)."""

    def one(path: tuple, leaf: Any) -> NamedSharding:
        names = tuple(str(getattr(key, "key", key)) for key in path)
        return NamedSharding(mesh, parameter_spec(mesh, names, leaf.shape))

    return jax.tree_util.tree_map_with_path(one, params)


def place_parameters(mesh: Mesh, params: Any) -> Any:
    """A tree of parameters where :func:`parameter_spec` says."""
    return jax.tree.map(put, params, parameter_shardings(mesh, params))


def parts_here(mesh: Mesh) -> tuple[int, ...]:
    """The parts of a batch whose rows this host's devices need, ascending.

    Hosts that share a part, along ``tensor``, both feed its rows.
    """
    parts = batch_parts(mesh)
    sharding = NamedSharding(mesh, Spec(BATCH_AXES))
    held = sharding.addressable_devices_indices_map((parts,)).values()
    return tuple(sorted({index[0].start or 0 for index in held if index is not None}))


def place_batch(mesh: Mesh, local: Batch) -> Batch:
    """This host's rows, those of its :func:`parts_here`, in the global batch."""
    sharding = NamedSharding(mesh, Spec(BATCH_AXES))
    parts, here = batch_parts(mesh), parts_here(mesh)

    def place(rows: np.ndarray) -> jax.Array:
        size = len(rows) // len(here)

        def of(index: Any) -> np.ndarray:
            at = here.index((index[0].start or 0) // size) * size
            return rows[at : at + size]

        shape = (size * parts, *rows.shape[1:])
        return jax.make_array_from_callback(shape, sharding, of)

    return jax.tree.map(place, local)


def put(leaf: Any, sharding: Sharding) -> jax.Array:
    """The array where it belongs; of several hosts each has all of it at first."""
    if jax.process_count() == 1 or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda at: whole[at])


def on_all(mesh: AnyMesh) -> NamedSharding:
    """Of what every device has whole."""
    return NamedSharding(mesh, Spec())


def moment_shardings(mesh: AnyMesh, moments: Any, trained: Any) -> Any:
    """Where the optimiser's state lies: a moment where its parameter does.

    Means over rows and columns (Adafactor's) and counts are on every device: they are
    a thousandth of the parameters.
    """
    form, whole = jax.tree.structure(trained), on_all(mesh)
    shardings = parameter_shardings(mesh, trained)

    def is_params(node: Any) -> bool:
        return jax.tree.structure(node) == form

    def one(node: Any) -> Any:
        if not is_params(node):
            return whole
        return jax.tree.map(
            lambda moment, weight, place: (
                place if moment.shape == weight.shape else whole
            ),
            node,
            trained,
            shardings,
        )

    return jax.tree.map(one, moments, is_leaf=is_params)


def residual_sharding(mesh: Mesh) -> NamedSharding:
    """Of the residual stream [B, L, D]: rows split as the batch is, the rest whole."""
    return NamedSharding(mesh, Spec(BATCH_AXES, None, None))


def bytes_per_device(mesh: AnyMesh, shapes: Any, shardings: Any = None) -> int:
    """Bytes on the fullest device, from shapes alone.

    Args:
        mesh: of the devices.
        shapes: pytree of arrays or shapes.
        shardings: of each; None: they are parameters.
    """
    if shardings is None:
        shardings = parameter_shardings(mesh, shapes)

    def one(leaf: Any, sharding: NamedSharding) -> int:
        part = sharding.shard_shape(leaf.shape)
        return math.prod(part) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, shapes, shardings)))


def start_hosts(
    coordinator: str | None = None, hosts: int | None = None, host: int | None = None
) -> None:
    """Join the other hosts of a run, before anything else of JAX is used.

    On TPU pods, Slurm and Open MPI nothing needs to be given; elsewhere every host
    names the same coordinator. Each host then reads its own rows of every batch.

    Args:
        coordinator: ``address:port`` of the first host.
        hosts: how many.
        host: number of this one, from 0.

    Raises:
        DataError: the others cannot be reached.
    """
    try:
        jax.distributed.initialize(coordinator, hosts, host)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot join the other hosts: {reason}") from error


def in_turn() -> Iterator[bool]:
    """Yields once: on the first host at once, on the others when it is done there.

    The value says whether this is the first. An error on the first host ends the
    others' wait, because its process ends.
    """
    first = jax.process_index() == FIRST_HOST
    if first:
        yield True
    barrier("the first host's turn")
    if not first:
        yield False


def on_any_host(mesh: Mesh | None, here: np.ndarray) -> jax.Array | np.ndarray:
    """Which flags are set on any host, to be read when the devices are done.

    Every host must ask, with a bool array of the same size; nothing is waited for.
    """
    if mesh is None or jax.process_count() == 1:
        return here
    local = np.tile(here, (len(mesh.local_devices), 1))
    everywhere = NamedSharding(mesh, Spec(mesh.axis_names))
    flags = jax.make_array_from_process_local_data(everywhere, local)
    return _any(flags, on_all(mesh))


@partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, place: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(flags.any(axis=0), place)


def gather_bytes(here: bytes) -> list[bytes]:
    """What every host says, host by host; every host must ask, and waits."""
    if jax.process_count() == 1:
        return [here]
    size = np.array(len(here), np.int32)
    sizes = multihost_utils.process_allgather(size).tolist()
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(here)] = np.frombuffer(here, np.uint8)
    said = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:n].tobytes() for row, n in zip(said, sizes, strict=True)]


def barrier(name: str) -> None:
    """Wait until every host is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
