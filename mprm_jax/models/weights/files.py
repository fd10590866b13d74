"""The safetensors files of a folder: found, checked and read without trusting them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import ml_dtypes  # noqa: F401  (teaches numpy what bfloat16 is)
import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from mprm_jax.models.folder import no_safetensors
from mprm_jax.models.weights.config import read_json
from mprm_jax.models.weights.names import Entry, canonical_name
from mprm_jax.records.problems import DataError, faults_of

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = ("F32", "BF16", "F16")
# Names listed of those missing or unexpected; the rest are counted.
_LISTED = 8


class _Index(msgspec.Struct):
    weight_map: Annotated[dict[str, str], msgspec.Meta(min_length=1)]


class Tensors:
    """Every tensor of a checkpoint's files: where it is, its shape and its dtype.

    Only headers are read. The safetensors library refuses a header whose shapes,
    dtypes and offsets do not cover the file exactly.

    Raises:
        DataError: no weights, pickled ones only, a shard that is missing or damaged, or
            a tensor in two shards.
    """

    def __init__(self, directory: Path, layout: str) -> None:
        self.directory = directory
        self._place: dict[str, tuple[Path, str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for path in _shards(directory):
            with _open(path) as file:
                for stored in file.keys():  # noqa: SIM118  (no mapping)
                    name, piece = canonical_name(layout, stored), file.get_slice(stored)
                    if name in self._place:
                        raise DataError(f"{path}: {stored} is already in another file")
                    self._place[name] = path, stored
                    self.shapes[name] = tuple(piece.get_shape())
                    self.dtypes[name] = piece.get_dtype()

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def check(self, entries: list[Entry]) -> None:
        """Compare every name, shape and dtype with what the model needs.

        Raises:
            DataError: the first few names that are missing or unexpected, or the first
                tensor of another shape or of a dtype that is no float.
        """
        wanted = {entry.name: entry.shape for entry in entries}
        missing = [name for name in wanted if name not in self]
        # Buffers that old versions saved; they hold no parameter.
        extra = [
            name
            for name in self._place
            if name not in wanted and not name.endswith("rotary_emb.inv_freq")
        ]
        if missing or extra:
            faults = [_listed("missing", missing), _listed("unexpected", extra)]
            raise DataError(
                f"{self.directory}: weights do not fit config.json: "
                + "; ".join(filter(None, faults))
            )
        for name, shape in wanted.items():
            where = f"{self._place[name][0]}: {name}"
            if self.shapes[name] != shape:
                raise DataError(
                    f"{where} has shape {list(self.shapes[name])}, "
                    f"config.json asks for {list(shape)}"
                )
            if self.dtypes[name] not in _DTYPES:
                raise DataError(
                    f"{where} is stored as {self.dtypes[name]}; only "
                    f"{', '.join(_DTYPES)} are supported (no quantised weights)"
                )

    def read(self, entries: list[Entry]) -> Iterator[tuple[Entry, np.ndarray]]:
        """Each tensor in turn, file by file: one file open, one tensor in memory."""
        by_file: dict[Path, list[Entry]] = {}
        for entry in entries:
            by_file.setdefault(self._place[entry.name][0], []).append(entry)
        for path, contained in by_file.items():
            with _open(path) as file:
                for entry in contained:
                    try:
                        yield entry, file.get_tensor(self._place[entry.name][1])
                    except SafetensorError as error:
                        raise DataError(f"{path}: {entry.name}: {error}") from error


def _listed(what: str, names: list[str]) -> str:
    return f"{what} {_named(names)}" if names else ""


def _named(names: list[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{rest}"


def _open(path: Path) -> safe_open:
    with faults_of(path):
        try:
            return safe_open(path, framework="np")
        except SafetensorError as error:
            raise DataError(f"{path}: no whole safetensors file ({error})") from error


def _shards(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if index.is_file():
        files = sorted(set(read_json(index, _Index).weight_map.values()))
        for name in files:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise DataError(f"{index}: {name!r} is no safetensors file beside it")
        if gone := [name for name in files if not (directory / name).is_file()]:
            raise DataError(
                f"{directory}: {len(gone)} of {len(files)} files that {_INDEX} names "
                f"are missing; fetch them: {_named(gone)}"
            )
        return [directory / name for name in files]
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    raise no_safetensors(directory, f"no {_SINGLE} and no {_INDEX}")
