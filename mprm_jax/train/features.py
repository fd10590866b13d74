"""What the frozen vision tower makes of images, on disk: it runs once per image.

A folder holds ``features.json``, which says whose features they are, and one file per
image, named by the hash of the pixels that the tower reads, after resizing and cutting.
So a renamed image is found again, a changed one never, and other limits on pixels or
tiles are no other cache: they only ask for other images of it.

States are kept in the precision in which the tower computes them, unless told
otherwise, so they are what it would compute again; only the order of sums may differ,
because images are seen in shapes of their own. These depend on nothing but the image:
however many are seen together, its states are the same. Of an image of N rows (patches
or tiles) a file has N M bytes, twice or four times the numbers: 2.6 MB for 1,024
patches of Qwen2.5-VL-7B, 2 MiB per tile of InternVL2.5-8B, in bfloat16.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches numpy what bfloat16 is)
import msgspec
import numpy as np
import xxhash
from jax.sharding import NamedSharding, PartitionSpec
from PIL.Image import Image

from mprm_jax.data.batches import Batch
from mprm_jax.data.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from mprm_jax.data.outputs import OutputSet, replace_file, sweep
from mprm_jax.models import families, reward_head
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.families import BackboneConfig, family_of
from mprm_jax.models.layers import Compute, Params
from mprm_jax.models.lora import base_of
from mprm_jax.models.model import Model
from mprm_jax.records.problems import DataError, faults_of

DESCRIPTION = "features.json"
SCHEMA = "mprm-features/1"
FeatureDtype = Literal["bfloat16", "float32"]

_DIGEST_BYTES = 16
# Where files grow, in the folder, before they have their names.
_SCRATCH = ".partial"

# Rows of a product of matrices that keep a large accelerator busy: two tiles of 128 x
# 128 for each of an H100's 132 multiprocessors at Qwen2.5-VL's tower width of 1,280 are
# 2 x 132 / 10 x 128 = 3,379; the next power of two.
_BUSY_ROWS = 4096


def _say(message: str) -> None:
    print(message, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class CachedBackbone:
    """A backbone whose images are features already: see ``models.model.Model``.

    A row of ``images_PxD`` holds the tower's state of one patch or tile as bytes, then
    its place. Everything else, and what is saved, is the backbone's.

    Attributes:
        backbone: the model.
        dtype: precision of the features.
        store: where they are.
    """

    backbone: Backbone
    dtype: FeatureDtype
    store: FeatureStore = dataclasses.field(compare=False)

    @property
    def name(self) -> str:
        """Which backbone."""
        return self.backbone.name

    def init(self, key: jax.Array) -> Params:
        """Random parameters."""
        return self.backbone.init(key)

    def trainable(self, params: Params) -> Params:
        """Which parameters are trained."""
        return self.backbone.trainable(params)

    def description(self) -> dict[str, Any]:
        """Shape of the backbone; the features' precision too, for it changes bits."""
        return self.backbone.description() | {"cached_features": self.dtype}

    def assets(self) -> dict[str, bytes]:
        """The backbone's."""
        return self.backbone.assets()

    def encode(
        self, question: str, steps: Sequence[str], images: tuple[Image, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """tokens_L, features as images_PxD, marker_S and the steps cut off.

        Raises:
            BadRecord: a text or an image that the model cannot read.
            DataError: the cache cannot be read or written.
        """
        pixels_PxD, rows = self.backbone.cut(images)
        tokens_L, marker_S, truncated = self.backbone.encode_text(question, steps, rows)
        places = self.backbone.family.place_bytes
        parts = [
            self.store.states(self.backbone.family.alone(part_PxD))
            for part_PxD in np.split(pixels_PxD, np.cumsum(rows)[:-1])
            if len(part_PxD)
        ]
        nothing = np.zeros((0, self.store.row_bytes), np.uint8)
        place_PxK = pixels_PxD[:, pixels_PxD.shape[1] - places :]
        features_PxD = np.hstack([np.concatenate([*parts, nothing]), place_PxK])
        return tokens_L, features_PxD, marker_S, truncated

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Yes, No and log concentration at every marker [B, S, 3], float32.

        The tower's parameters are not read.
        """
        hidden_BxLxD = self._hidden(params, batch)
        return self.backbone.rewards(params, hidden_BxLxD, batch.marker_BxS)

    def marker_states(self, params: Params, batch: Batch) -> jax.Array:
        """What the head reads at every marker [B, S, D]."""
        hidden_BxLxD, config = self._hidden(params, batch), self.backbone.config
        return reward_head.marker_states(
            config.language, params, hidden_BxLxD, batch.marker_BxS
        )

    def _hidden(self, params: Params, batch: Batch) -> jax.Array:
        model, rows_BxPxD, seen = self.backbone, batch.images_BxPxD, None
        if rows_BxPxD.shape[1]:
            states, place_BxPxK = jnp.split(rows_BxPxD, [self.store.row_bytes], axis=-1)
            states_BxPxM = unpack_states(states, np.dtype(self.dtype))
            seen = families.SeenImages(states_BxPxM, place_BxPxK)
        inputs = batch.tokens_BxL, seen, model.compute, batch.place_BxKxL
        return families.hidden_from_states(model.config, params, *inputs)


def backbone_of(model: Model) -> Backbone | None:
    """The backbone below adapters and cached features; None: it is another model."""
    base = base_of(model)
    base = base.backbone if isinstance(base, CachedBackbone) else base
    return base if isinstance(base, Backbone) else None


def unpack_states(bytes_BxPxN: jax.Array, dtype: np.dtype) -> jax.Array:
    """Numbers [B, P, M] of bytes [B, P, M itemsize], as they lie in memory."""
    grouped = bytes_BxPxN.reshape(*bytes_BxPxN.shape[:-1], -1, dtype.itemsize)
    return jax.lax.bitcast_convert_type(grouped, dtype)


@dataclasses.dataclass(eq=False)
class _Wanted:
    """An image that a thread waits for; ``made``: by the tower, not found in a file."""

    path: Path
    rows_PxD: np.ndarray
    states: np.ndarray | None = None
    made: bool = False


class FeatureStore:
    """Features by image, made where they are missing. Threads may share it.

    One thread at a time has the tower, which then sees what others wait for, too, as
    far as it has the same padded shape; files are read and written outside of that.

    Attributes:
        folder: of the files.
        row_bytes: of the state of one patch or tile.
        made: images that the tower has seen, rather than the cache known.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, str],
        together: Callable[[int], int],
        see: Callable[[list[np.ndarray]], list[np.ndarray]],
        row_bytes: int,
        report: Callable[[str], None] = _say,
    ) -> None:
        self.folder, self.row_bytes, self.made = folder, row_bytes, 0
        self._together, self._see, self._report = together, see, report
        self._tower, self._wanted = threading.Lock(), list[_Wanted]()
        self._salt = msgspec.json.encode(facts, order="sorted")
        _begin(folder, facts)

    def states(self, rows_PxD: np.ndarray) -> np.ndarray:
        """The tower's states of one image, as bytes [P, row_bytes].

        Raises:
            DataError: a file cannot be read or written.
        """
        rows_PxD = np.ascontiguousarray(rows_PxD)
        # A collision would have to be made on purpose, by whoever owns the images.
        key = xxhash.xxh3_128_hexdigest(rows_PxD.tobytes())
        path = self.folder / key[:2] / key
        found = self._read(path, len(rows_PxD))
        if found is not None:
            return found
        wanted = _Wanted(path, rows_PxD)
        self._wanted.append(wanted)
        try:
            with self._tower:
                if wanted.states is None:
                    self._make(wanted)
            assert wanted.states is not None
            if wanted.made:
                data = wanted.states.tobytes()
                with faults_of(path):
                    whole = self._digest(path, data), data
                    replace_file(path, *whole, scratch=self.folder / _SCRATCH)
        finally:
            # From here on others find the file.
            self._wanted.remove(wanted)
        return wanted.states

    def _make(self, first: _Wanted) -> None:
        """States of an image, and of like ones that other threads wait for."""
        shape = _power_of_two(len(first.rows_PxD))
        waiting = list(self._wanted)
        known = {one.path: one.states for one in waiting if one.states is not None}
        group: dict[Path, _Wanted] = {}
        for one in (first, *waiting):
            alike = _power_of_two(len(one.rows_PxD)) == shape
            if one.states is not None or one.path in group or not alike:
                continue
            # Another thread may have made it meanwhile, written or not.
            one.states = known.get(one.path)
            if one.states is None:
                one.states = self._read(one.path, len(one.rows_PxD))
            if one.states is None:
                group[one.path] = one
            if len(group) == self._together(shape):
                break
        try:
            seen = self._see([one.rows_PxD for one in group.values()]) if group else []
        except Exception:
            if len(group) == 1:
                raise
            # Whichever is at fault shall fail alone, when it is the first.
            group = {first.path: first} if first.states is None else {}
            seen = self._see([first.rows_PxD]) if group else []
        for one, states in zip(group.values(), seen, strict=True):
            assert states.shape == (len(one.rows_PxD), self.row_bytes)
            one.states, one.made = states, True
        self.made += len(group)

    def _digest(self, path: Path, data: bytes) -> bytes:
        # With the name and the tower, so that no file can stand for another.
        digest = xxhash.xxh3_128(self._salt + path.name.encode())
        digest.update(data)
        return digest.digest()

    def _read(self, path: Path, rows: int) -> np.ndarray | None:
        with faults_of(path):
            try:
                stored = path.read_bytes()
            except FileNotFoundError:
                return None
        digest, data = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if len(data) != rows * self.row_bytes or digest != self._digest(path, data):
            self._report(f"{path}: damaged; the features are made anew")
            path.unlink(missing_ok=True)
            return None
        return np.frombuffer(data, np.uint8).reshape(rows, self.row_bytes)


def _begin(folder: Path, facts: dict[str, str]) -> None:
    """Say whose features a folder holds, or find that they are those."""
    path = folder / DESCRIPTION
    with faults_of(path, "describes no features"):
        try:
            before = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise DataError(
                    f"{folder}: holds other things than features; name a new folder"
                ) from None
            with OutputSet() as outputs:
                data = msgspec.json.format(msgspec.json.encode(facts)) + b"\n"
                outputs.add(path).write(data)
            return
    changed = [name for name in facts if before.get(name) != facts[name]]
    if changed:
        raise DataError(
            f"{folder}: holds the features of another model ({', '.join(changed)} "
            "differ); name another folder, or remove this one"
        )
    sweep(folder / _SCRATCH)


def cached(
    model: Model,
    params: Params,
    folder: Path,
    *,
    dtype: FeatureDtype | None = None,
    tower_rows: int | None = None,
    report: Callable[[str], None] = _say,
) -> CachedBackbone:
    """The same model, with the features of its images kept in a folder.

    Scores and gradients are those of the model, up to the order of sums (and to
    ``dtype``, where that is narrower than the computation).

    Args:
        model: a backbone.
        params: of it; the tower's are read here and never again.
        folder: new, or one that this tower's features were kept in before.
        dtype: of the features; None: the precision that the model computes in.
        tower_rows: tokens that the tower sees at a time, whatever images they are of;
            None: as many as keep an accelerator busy; on a CPU those of one image.
        report: told of damaged files, which are made anew.

    Raises:
        DataError: the model has no frozen tower, or the folder holds the features of
            another one, or something else.
    """
    if not isinstance(model, Backbone) or model.config.vision is None:
        raise DataError(f"{model.name}: has no vision tower whose features to keep")
    if any(jax.tree.leaves(families.tower_params(model.trainable(params)))):
        raise DataError(f"{model.name}: its vision tower is trained: nothing to keep")
    if dtype is None:
        dtype = "float32" if model.compute.dtype == "float32" else "bfloat16"
    tower = _on_one_device(families.tower_params(params))
    facts = {
        "schema": SCHEMA,
        "model": model.name,
        "tower": tower_hash(model.config, tower),
        "computed_in": model.compute.dtype,
        "dtype": dtype,
    }
    if tower_rows is None:
        tower_rows = 1 if jax.default_backend() == "cpu" else _BUSY_ROWS
    together = functools.partial(_together, model.config, tower_rows)
    see = functools.partial(
        _see_images,
        tower,
        together,
        config=model.config,
        compute=dataclasses.replace(model.compute, residual=None),
        dtype=dtype,
    )
    row_bytes = model.family.state_width(model.config) * np.dtype(dtype).itemsize
    return CachedBackbone(
        model, dtype, FeatureStore(folder, facts, together, see, row_bytes, report)
    )


def tower_hash(config: BackboneConfig, tower: Params) -> str:
    """Hash of all that the tower makes of pixels: its shape, weights, normalisation."""
    shape = {k: v for k, v in dataclasses.asdict(config).items() if k != "language"}
    scales = CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
    digest = xxhash.xxh3_128(msgspec.json.encode([shape, scales], order="sorted"))
    for path, leaf in jax.tree_util.tree_flatten_with_path(tower)[0]:
        array = np.ascontiguousarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        digest.update(name.encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def _on_one_device(tower: Params) -> Params:
    """Images are seen by threads of their own, which must not wait for other devices.

    Where the tower is split over hosts, all of them call this.
    """
    sharding = jax.tree.leaves(tower)[0].sharding
    if isinstance(sharding, NamedSharding):
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        tower = jax.jit(lambda tree: tree, out_shardings=whole)(tower)
        tower = jax.tree.map(lambda leaf: leaf.addressable_data(0), tower)
    return jax.device_put(tower, jax.local_devices()[0])


def _together(config: BackboneConfig, tower_rows: int, rows: int) -> int:
    """How many images of so many rows each the tower sees at a time: a power of two."""
    sequences, length = family_of(config).sequences(config, rows)
    return 1 << max(0, int(tower_rows / (sequences * length)).bit_length() - 1)


def _see_images(
    tower: Params,
    together: Callable[[int], int],
    images: list[np.ndarray],
    *,
    config: BackboneConfig,
    compute: Compute,
    dtype: FeatureDtype,
) -> list[np.ndarray]:
    """States of the rows of like images, as bytes.

    However few they are, the shape is that of as many as are ever seen together: so few
    shapes are compiled, and which images met by chance changes no bit of any.
    """
    rows = _power_of_two(max(map(len, images)))
    shape = together(rows), rows, images[0].shape[1]
    padded_BxPxD = np.zeros(shape, np.uint8)
    for padded_PxD, rows_PxD in zip(padded_BxPxD, images, strict=False):
        padded_PxD[: len(rows_PxD)] = rows_PxD
    states = _states(tower, padded_BxPxD, config=config, compute=compute, dtype=dtype)
    return [
        np.ascontiguousarray(states_PxM[: len(rows_PxD)]).view(np.uint8)
        for states_PxM, rows_PxD in zip(np.asarray(states), images, strict=False)
    ]


@functools.partial(jax.jit, static_argnames=("config", "compute", "dtype"))
def _states(
    tower: Params,
    rows_BxPxD: jax.Array,
    *,
    config: BackboneConfig,
    compute: Compute,
    dtype: FeatureDtype,
) -> jax.Array:
    see = family_of(config).tower_states
    return see(config, tower, rows_BxPxD, compute).astype(dtype)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
