"""The folder of a training run: what determines it, its metrics, a bad batch."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xxhash

from mprm_jax.data.loader import Loaded, Source, where
from mprm_jax.data.outputs import OutputSet
from mprm_jax.models.model import Model
from mprm_jax.models.registry import model_files
from mprm_jax.records.problems import DataError, faults_of
from mprm_jax.train.checkpoint import updates_kept
from mprm_jax.train.config import Precision

RUN = "run.json"
BASE = "base.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


@dataclasses.dataclass(frozen=True)
class Base:
    """Where the parameters lie that a run does not train.

    Attributes:
        folder: released weights, or a run's.
        dtype: precision in which they are kept while training.
    """

    folder: Path
    dtype: Precision

    def write(self, run: Path) -> None:
        """Say so in a run's folder, by the whole path and by that from there.

        Raises:
            DataError: the file cannot be written.
        """
        whole = os.path.realpath(self.folder)
        beside = os.path.relpath(whole, os.path.realpath(run))
        found = _BaseFile(whole, beside, self.dtype)
        with OutputSet() as outputs:
            data = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
            outputs.add(run / BASE).write(data)


class _BaseFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    folder: str
    from_here: str
    dtype: Precision


def read_base(run: Path) -> Base:
    """The base of a run, whether or not the run or the base was moved.

    Raises:
        DataError: the run names none, or there is no folder where it says, or that has
            the run for its own base.
    """
    found = _named_base(run)
    below, at = {os.path.realpath(run)}, found.folder
    while (at / BASE).is_file():
        if (place := os.path.realpath(at)) in below:
            raise DataError(
                f"{run / BASE}: names a folder that has the run for its own base; "
                "write there which model the run was trained from (folder)"
            )
        below.add(place)
        at = _named_base(at).folder
    return found


def _named_base(run: Path) -> Base:
    path = run / BASE
    with faults_of(path, "names no base"):
        try:
            named = msgspec.json.decode(path.read_bytes(), type=_BaseFile)
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; the checkpoints beside it hold trained "
                "parameters alone, and it says where the others lie"
            ) from None
    places = Path(named.folder), Path(os.path.normpath(run / named.from_here))
    for place in places:
        if place.is_dir():
            return Base(place, named.dtype)
    raise DataError(
        f"{run}: was trained from {places[0]}, which is gone; put that model there or "
        f"at {places[1]}, or write where it lies into {path} (folder)"
    )


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where the files of a run go.

    Attributes:
        path: of the folder.
        resume: go on from the newest whole checkpoint in it, if there is one.
        identity: whatever determines the run beside the job (the data, the initial
            parameters); JSON values. A run is only gone on with by one that has the
            same.
        report: told of checkpoints passed over and of where a run goes on.
        base: where the parameters that are not trained lie, so that no checkpoint need
            hold them; None: every checkpoint does.
    """

    path: Path
    resume: bool = False
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    report: Callable[[str], None] = lambda message: None
    base: Base | None = None


def begin(
    folder: RunFolder, model: Model, settings: dict[str, Any], first: bool
) -> str:
    """Write what determines a run, or find that it is the one that lies here.

    One that made no checkpoint cannot be gone on with, and gives way to any other.

    Args:
        folder: of the run.
        model: written beside the run.
        settings: what determines the run, JSON values.
        first: this is the first host; others find what it has written.

    Returns:
        the run's identity, a hash of the settings.

    Raises:
        DataError: the folder holds a run and is not to be resumed, or it holds another
            run, or one that goes on at this moment; or a file cannot be written.
    """
    path = folder.path
    canonical = msgspec.json.encode(settings, order="deterministic")
    there, kept = (path / RUN).exists(), updates_kept(path)
    if first:
        with contextlib.suppress(FileNotFoundError), open(path / METRICS, "rb") as file:
            _alone(file, path)
    if not there and (kept or (path / METRICS).exists()):
        what = "checkpoints" if kept else METRICS
        raise DataError(f"{path}: holds {what}, but no {RUN}; go elsewhere")
    if kept and first and not folder.resume:
        raise DataError(f"{path}: holds a run already; resume it, or go elsewhere")
    if there and (kept or not first):
        _check_same(path / RUN, msgspec.json.decode(canonical))
    elif there:
        folder.report(f"{path}: a run ended here before its first checkpoint; anew")
    files = model_files(model)
    # The model first: whoever finds a run finds a model beside it.
    files[RUN] = msgspec.json.format(canonical, indent=2) + b"\n"
    with OutputSet() as outputs:
        for name, data in files.items():
            outputs.add(path / name).write(data)
    return xxhash.xxh3_128_hexdigest(canonical)


def _alone(file: Any, folder: Path) -> None:
    """Take a run's metrics for this run alone, as long as they are open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(
            f"{folder}: another run is writing there at this moment"
        ) from None
    except OSError:
        # Some file systems lock nothing.
        return


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    with faults_of(path, "describes no run"):
        before = msgspec.json.decode(path.read_bytes(), type=dict)
    keys = before.keys() | settings.keys()
    changed = [k for k in sorted(keys) if before.get(k) != settings.get(k)]
    if changed:
        raise DataError(
            f"{path.parent}: holds another run: {', '.join(changed)} differ; choose "
            "another folder, or the settings of that run"
        )


def not_finite(
    update: int,
    metrics: dict[str, float],
    loaded: Loaded,
    source: Source,
    folder: Path | None,
) -> DataError:
    """The error for an update whose metrics are not finite; saves its batch.

    Args:
        update: its number, from 1.
        metrics: of the update.
        loaded: the batch, saved as ``not-finite-<update>.npz`` with the places of its
            rollouts; of several micro-batches the arrays are numbered.
        source: names the rollouts, if it has a function ``where``.
        folder: to save to, None: nowhere.
    """
    named = ", ".join(f"{name} {value}" for name, value in metrics.items())
    first = "no rollout"
    if len(loaded.places):
        first = where(source, int(loaded.places[0]))
    message = f"update {update}: not finite ({named}); its batch begins with {first}"
    if folder is None:
        return DataError(message)
    buffer = io.BytesIO()
    arrays = {
        name if len(loaded.batches) == 1 else f"{name}_{number}": array
        for number, batch in enumerate(loaded.batches)
        for name, array in batch._asdict().items()
        if array is not None
    }
    np.savez_compressed(buffer, places=loaded.places, **arrays)
    path = folder / f"not-finite-{update}.npz"
    with OutputSet() as outputs:
        outputs.add(path).write(buffer.getvalue())
    return DataError(f"{message} and is saved to {path}")


class RunLog:
    """Writes metrics as they come; a context manager.

    Args:
        output: folder of the run.
        after: updates whose lines stay; later ones, and one that a killed run left
            unfinished, are cut off, because these updates are made again.
        tensorboard: write ``tensorboard/`` too.
        tracker: tell this package too, of which wandb's functions are used (``init``,
            ``log`` and ``finish``, which trackio has as well); "none": none.

    Raises:
        DataError: a file cannot be written, or the tracker is not installed.
    """

    def __init__(
        self, output: Path, after: int, tensorboard: bool, tracker: str = "none"
    ) -> None:
        self._tracker = None if tracker == "none" else _begin_tracker(tracker, output)
        self._path = output / METRICS
        with faults_of(self._path):
            output.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab+", buffering=0)  # noqa: SIM115
            _alone(self._file, output)
            self._file.truncate(_end_of(self._file, after))
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(
                str(output / TENSORBOARD), purge_step=after + 1, flush_secs=10
            )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.finish()

    def write(self, update: int, metrics: dict[str, Any]) -> None:
        """Append one update's metrics; ``update`` counts from 1."""
        with faults_of(self._path):
            line = msgspec.json.encode({"update": update} | metrics) + b"\n"
            self._file.write(line)
            if self._board is not None:
                for name, value in metrics.items():
                    self._board.add_scalar(name, value, update)
        if self._tracker is not None:
            self._tracker.log(metrics, step=update)


def _begin_tracker(name: str, output: Path) -> Any:
    """A tracker's package, with a run begun that is named as the folder."""
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError:
        raise DataError(
            f"the tracker {name} is not installed: pip install {name}"
        ) from None
    package.init(project="mprm", name=output.name)
    return package


def _end_of(file: Any, after: int) -> int:
    """Where the lines of the updates up to ``after`` end; a damaged one between them
    costs none of the others.
    """
    file.seek(0)
    end = place = 0
    for line in file:
        place += len(line)
        try:
            if not line.endswith(b"\n") or msgspec.json.decode(line)["update"] > after:
                break
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            continue
        end = place
    file.seek(0, os.SEEK_END)
    return end


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one dict per update, in order.

    Raises:
        DataError: there are none, or a whole line is no JSON object.
    """
    path = output / METRICS
    with faults_of(path):
        lines = path.read_bytes().split(b"\n")[:-1]
    found = []
    for number, line in enumerate(lines, 1):
        with faults_of(f"{path}:{number}"):
            found.append(msgspec.json.decode(line, type=dict))
    return found


_STARTS = 0x9E3779B9, 0x7F4A7C15
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def fingerprint(params: Any) -> str:
    """A hash of every leaf's path, shape, dtype and bits.

    Of each leaf two sums of h(bits_i xor h(c + i)) are made, modulo 2^32, for two c,
    with h mixing 32 bits. Such sums do not depend on their order, so the hash is the
    same on any mesh. It tells runs apart; it is no seal.

    Args:
        params: pytree of arrays of at most four bytes a number.
    """
    digest = xxhash.xxh3_128()
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    for path, leaf in flat:
        name = f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}"
        digest.update(name.encode())
        digest.update(np.asarray(_sums(jnp.asarray(leaf)), "<u4").tobytes())
    return digest.hexdigest()


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])
    bits = bits.astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        place = place * jnp.uint32(size) + index
    sums = [
        jnp.sum(_mix(bits ^ _mix(place + jnp.uint32(start))), dtype=jnp.uint32)
        for start in _STARTS
    ]
    return jnp.stack(sums)


def _mix(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3: one to one, and every bit depends on all."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
