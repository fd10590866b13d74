"""Checkpoints that are whole or refused, and the model of a run.

A checkpoint is a folder ``DIR/checkpoints/<update>``: arrays written by orbax, and a
manifest with the size and hash of every file. It is made under another name, the
manifest last, and renamed into place, so a run killed at any moment leaves only whole
ones behind; one that is damaged later is refused by its hashes. (Orbax itself restores
arrays with flipped bits, and a folder under another update's name, without a word.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import orbax.checkpoint as ocp
import xxhash

from mprm_jax.models.model import Model
from mprm_jax.models.registry import read_model
from mprm_jax.records.problems import DataError, faults_of
from mprm_jax.train.sharding import FIRST_HOST, barrier

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
SCHEMA = "mprm-checkpoint/1"

# The two trees of a checkpoint: what is evaluated, and what training goes on from.
PARAMS, TRAINING = "params", "training"

_PARTIAL = ".partial-"
_BUFFER = 1 << 20


class Damaged(DataError):
    """A checkpoint that is not what was written; the message names it and the file."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(f"{folder}: damaged: {what}")


class Progress(msgspec.Struct, frozen=True):
    """What a checkpoint says beside its arrays.

    Attributes:
        update: updates made; also the folder's name.
        updates: T of the run.
        run: identity of the run.
        loader: state of the iterator over batches, ``update`` batches taken.
        totals: running sums that metrics go on from.
    """

    update: int
    updates: int
    run: str
    loader: dict[str, Any]
    totals: dict[str, int]


class _Facts(msgspec.Struct, frozen=True):
    """Progress, and the shape of each array of each tree."""

    progress: Progress
    shapes: dict[str, dict[str, list[int]]]
    schema: str = SCHEMA


class _File(msgspec.Struct, frozen=True):
    bytes: int
    xxh3_128: str


class _Contents(msgspec.Struct, frozen=True):
    facts: _Facts
    files: dict[str, _File]


class _Manifest(msgspec.Struct, frozen=True):
    """Contents, and the hash of their bytes."""

    contents: _Contents
    xxh3_128: str


class Restored(NamedTuple):
    """A whole checkpoint.

    Attributes:
        progress: what it says beside its arrays.
        params: parameters, of the template's form; None if not asked.
        training: what else the run needs, of the template's form; None if not asked.
    """

    progress: Progress
    params: Any
    training: Any


def save(
    output: Path, progress: Progress, params: Any, training: Any, keep: int
) -> None:
    """Write ``output/checkpoints/<update>``, then remove all but the last ``keep``.

    On several hosts every one calls it; the first seals and renames.

    Raises:
        DataError: it cannot be written; nothing of it is left.
    """
    root = output / FOLDER
    final = root / str(progress.update)
    partial = root / f"{_PARTIAL}{progress.update}"
    trees = {PARAMS: _by_path(params), TRAINING: _by_path(training)}
    first = jax.process_index() == FIRST_HOST
    try:
        if first:
            # What killed runs left unfinished.
            for path in root.glob(f"{_PARTIAL}*"):
                shutil.rmtree(path, ignore_errors=True)
            partial.mkdir(parents=True)
        barrier(f"checkpoint: begin {progress.update}")
        with _in_silence(), ocp.StandardCheckpointer() as checkpointer:
            for name, arrays in trees.items():
                checkpointer.save(partial.absolute() / name, arrays)
        barrier(f"checkpoint: written {progress.update}")
        if first:
            shapes = {name: _shapes(arrays) for name, arrays in trees.items()}
            _seal(partial, _Facts(progress, shapes))
            # A damaged checkpoint of the same update, from before a resumption.
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            for old in updates_kept(output)[keep:]:
                shutil.rmtree(root / str(old), ignore_errors=True)
        barrier(f"checkpoint: renamed {progress.update}")
    except (OSError, ValueError, RuntimeError) as error:
        # Other threads may still be writing into it.
        for _ in range(20):
            shutil.rmtree(partial, ignore_errors=True)
            if not partial.exists():
                break
            time.sleep(0.1)
        raise DataError(f"{final}: cannot be written: {_one_line(error)}") from error


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Without the tracebacks that orbax's threads print of a write that fails: what the
    caller is raised says all.
    """
    log, before = logging.getLogger("absl"), sys.unraisablehook

    def silent(_: Any) -> bool:
        return False

    def unraisable(error: Any) -> None:
        # Other writes of the same checkpoint end when nobody waits for them any more.
        if "loop is closed" not in str(error.exc_value):
            before(error)

    sys.unraisablehook = unraisable
    log.addFilter(silent)
    try:
        yield
        # After a failure it stays: they may end at any time.
        sys.unraisablehook = before
    finally:
        log.removeFilter(silent)


def _seal(folder: Path, facts: _Facts) -> None:
    """Write the manifest of all files in a folder, which are written and closed."""
    files = {
        name: _File(path.stat().st_size, _hash(path)) for name, path in _files(folder)
    }
    with open(folder / MANIFEST, "wb") as file:
        file.write(_encode(_Contents(facts, files)))
        file.flush()
        os.fsync(file.fileno())


def _one_line(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    return " ".join(str(said).split())[:200]


def restore_latest(
    output: Path,
    params: Any,
    training: Any = None,
    *,
    run: str | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> Restored | None:
    """The newest whole checkpoint of a run, or None if it never made one.

    Args:
        output: folder of the run.
        params: template: a pytree of arrays, or of ``jax.ShapeDtypeStruct``; each array
            is put where the template's lies, on whatever mesh it was written.
        training: template of what else to restore, None: nothing.
        run: identity that the checkpoints must have.
        report: told of every damaged checkpoint that is passed over.

    Raises:
        DataError: there are checkpoints, and none of them is whole, or the newest whole
            one is of another model.
    """
    refused: list[str] = []
    for number in updates_kept(output):
        folder = output / FOLDER / str(number)
        try:
            restored = restore(folder, params, training, run=run)
        except Damaged as error:
            refused.append(str(error))
            continue
        for message in refused:
            report(f"{message}; {folder} is whole and is used instead")
        return restored
    if refused:
        raise DataError(f"{refused[0]}; no earlier checkpoint is whole")
    return None


def restore(
    folder: Path, params: Any, training: Any = None, *, run: str | None = None
) -> Restored:
    """One checkpoint, after every file that is read has been proven whole.

    Raises:
        Damaged: a file is missing, too many, or not what was written, or the folder is
            another checkpoint than its name says, or one of another run.
        DataError: its arrays are not those of the templates.
    """
    wanted = {PARAMS: params} | ({} if training is None else {TRAINING: training})
    facts = _verify(folder, tuple(wanted))
    progress = facts.progress
    if facts.schema != SCHEMA or str(progress.update) != folder.name:
        raise Damaged(folder, f"it is the checkpoint {progress.update}, {facts.schema}")
    if run is not None and progress.run != run:
        raise Damaged(folder, "it is a checkpoint of another run")
    found = {
        name: _read_tree(folder, name, template, facts)
        for name, template in wanted.items()
    }
    return Restored(progress, found[PARAMS], found.get(TRAINING))


def _verify(folder: Path, parts: tuple[str, ...]) -> _Facts:
    """The facts of a folder whose files are those its manifest names.

    Of subfolders that are not among ``parts`` the files are not read; but no file may
    be anywhere that the manifest does not name.

    Raises:
        Damaged: naming the first file that is missing, too many or changed.
    """
    contents = _read_manifest(folder)
    try:
        found = dict(_files(folder))
        del found[MANIFEST]
        if extra := sorted(found.keys() - contents.files.keys()):
            raise Damaged(folder, f"{extra[0]} does not belong to it")
        for name, file in contents.files.items():
            if name.partition("/")[0] not in parts:
                continue
            if name not in found:
                raise Damaged(folder, f"{name} is missing")
            if (size := found[name].stat().st_size) != file.bytes:
                raise Damaged(folder, f"{name} has {size} bytes, not {file.bytes}")
            if _hash(found[name]) != file.xxh3_128:
                raise Damaged(folder, f"{name} has another hash")
    except OSError as error:
        raise Damaged(folder, str(error.strerror or error)) from error
    return contents.facts


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(path in the folder, path) of every file below it."""
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(place) / name
            yield path.relative_to(folder).as_posix(), path


def _hash(path: Path) -> str:
    # Guards against damage, at the speed of memory. It need not resist a forger: the
    # files hold numbers only, and a forged one does no more than any other weights.
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while data := file.read(_BUFFER):
            digest.update(data)
    return digest.hexdigest()


def _encode(contents: _Contents) -> bytes:
    digest = xxhash.xxh3_128_hexdigest(msgspec.json.encode(contents))
    return msgspec.json.encode(_Manifest(contents, digest))


def _read_manifest(folder: Path) -> _Contents:
    try:
        data = (folder / MANIFEST).read_bytes()
        contents = msgspec.json.decode(data, type=_Manifest).contents
    except OSError as error:
        raise Damaged(folder, f"{MANIFEST}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(folder, f"{MANIFEST} cannot be read ({error})") from error
    # Every byte counts: what decodes to the same but is written otherwise was changed.
    if _encode(contents) != data:
        raise Damaged(folder, f"{MANIFEST} has another hash")
    return contents


def _read_tree(folder: Path, name: str, template: Any, facts: _Facts) -> Any:
    wanted = _by_path(template)
    here, there = _shapes(wanted), facts.shapes.get(name, {})
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            raise DataError(
                f"{folder}: is of another model: {name}.{path} has the shape "
                f"{there.get(path)} there, {here.get(path)} here"
            )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or device
        )
        for path, leaf in wanted.items()
    }
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(folder.absolute() / name, placed)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Damaged(folder, f"{name} cannot be read: {_one_line(error)}") from error
    leaves = [arrays[path] for path in wanted]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _by_path(tree: Any) -> dict[str, Any]:
    """Leaves by their paths, so that no library's idea of a container goes to disk."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    name = partial(jax.tree_util.keystr, simple=True, separator=".")
    return {name(path): leaf for path, leaf in flat}


def _shapes(arrays: dict[str, Any]) -> dict[str, list[int]]:
    return {path: list(leaf.shape) for path, leaf in arrays.items()}


def updates_kept(output: Path) -> list[int]:
    """Updates of the checkpoints that are in place, newest first.

    Raises:
        DataError: the folder cannot be read.
    """
    with faults_of(output / FOLDER):
        try:
            names = os.listdir(output / FOLDER)
        except FileNotFoundError:
            return []
    return sorted((int(n) for n in names if n.isascii() and n.isdigit()), reverse=True)


def load_model(
    folder: Path,
    *,
    read: Callable[[Path], Model] = read_model,
    place: Callable[[Model, Any], Any] = lambda model, shapes: shapes,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    found: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Model, Any]:
    """(model, parameters) of a run's newest whole checkpoint.

    Args:
        folder: that ``mprm train`` or ``mprm pretrain`` wrote.
        read: the model of a folder, without its parameters.
        place: gives the parameters' shapes the precision and sharding to read them in;
            by default float32 on one device.
        report: told of damaged checkpoints, and of a run that is not finished.
        found: told which checkpoint it is.

    Raises:
        DataError: the folder holds no model, one that is not known, or no whole
            checkpoint of it.
    """
    model = read(folder)
    template = place(model, jax.eval_shape(model.init, jax.random.key(0)))
    restored = restore_latest(folder, template, report=report)
    if restored is None:
        raise DataError(f"{folder / FOLDER}: holds no checkpoint")
    progress = restored.progress
    found(progress)
    if progress.update < progress.updates:
        report(f"{folder}: unfinished: {progress.update} of {progress.updates} updates")
    return model, restored.params
