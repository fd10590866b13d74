"""Checkpoints that are whole or refused, and the model of a run.

A checkpoint is a folder ``DIR/checkpoints/<update>``: arrays written by orbax, and a
manifest with the size and hash of every file. It is made under another name, the
manifest last, and renamed into place, so a run killed at any moment leaves only whole
ones behind; one that is damaged later is refused by its hashes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import orbax.checkpoint as ocp

from mprm_jax.data.outputs import OutputSet
from mprm_jax.data.problems import DataError
from mprm_jax.models.model import Model
from mprm_jax.models.registry import model_files, read_model
from mprm_jax.train.file_hashes import Damaged, seal, verify

FOLDER = "checkpoints"
SCHEMA = "mprm-checkpoint/1"

# The two trees of a checkpoint: what is evaluated, and what training goes on from.
PARAMS, TRAINING = "params", "training"

_PARTIAL = ".partial-"


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
    """All that the manifest keeps: the shape of each array of each tree too."""

    progress: Progress
    shapes: dict[str, dict[str, list[int]]]
    schema: str = SCHEMA


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
    first = jax.process_index() == 0
    try:
        if first:
            _clear(root)
            partial.mkdir(parents=True)
        _barrier(f"begin {progress.update}")
        with ocp.StandardCheckpointer() as checkpointer:
            for name, arrays in trees.items():
                checkpointer.save(partial.absolute() / name, arrays)
        _barrier(f"written {progress.update}")
        if first:
            shapes = {name: _shapes(arrays) for name, arrays in trees.items()}
            seal(partial, msgspec.to_builtins(_Facts(progress, shapes)))
            # A damaged checkpoint of the same update, from before a resumption.
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            for old in updates_kept(output)[keep:]:
                shutil.rmtree(root / str(old), ignore_errors=True)
        _barrier(f"renamed {progress.update}")
    except (OSError, ValueError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(f"{final}: cannot be written: {_one_line(error)}") from error


def _clear(root: Path) -> None:
    """Remove what killed runs left unfinished."""
    for path in root.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


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
            is put where the template's lies, on whatever mesh it was written. None:
            nothing.
        training: template of what else to restore, None: nothing.
        run: identity that the checkpoints must have.
        report: told of every damaged checkpoint that is passed over.

    Raises:
        Damaged: there are checkpoints, and none of them is whole.
        DataError: the newest whole one is of another model.
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
    wanted = {PARAMS: params, TRAINING: training}
    parts = tuple(name for name, template in wanted.items() if template is not None)
    try:
        facts = msgspec.convert(verify(folder, parts), _Facts)
    except msgspec.ValidationError as error:
        raise Damaged(folder, f"no checkpoint ({error})") from error
    progress = facts.progress
    if facts.schema != SCHEMA or str(progress.update) != folder.name:
        raise Damaged(folder, f"it is the checkpoint {progress.update}, {facts.schema}")
    if run is not None and progress.run != run:
        raise Damaged(folder, "it is a checkpoint of another run")
    found = {name: _read_tree(folder, name, wanted[name], facts) for name in parts}
    return Restored(progress, found.get(PARAMS), found.get(TRAINING))


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
    try:
        names = os.listdir(output / FOLDER)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{output / FOLDER}: {error.strerror or error}") from error
    return sorted((int(n) for n in names if n.isascii() and n.isdigit()), reverse=True)


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"checkpoint: {name}")


def write_model(output: Path, model: Model) -> None:
    """``model.json`` and whatever else the model needs beside its parameters.

    Raises:
        DataError: a file cannot be written.
    """
    with OutputSet() as outputs:
        for name, data in model_files(model).items():
            outputs.add(output / name).write(data)


def load_model(
    folder: Path,
    *,
    read: Callable[[Path], Model] = read_model,
    place: Callable[[Model, Any], Any] = lambda model, shapes: shapes,
    report: Callable[[str], None] = lambda message: None,
) -> tuple[Model, Any]:
    """(model, parameters) of a run's newest whole checkpoint.

    Args:
        folder: that ``mprm train`` or ``mprm pretrain`` wrote.
        read: the model of a folder, without its parameters.
        place: gives the parameters' shapes the precision and sharding to read them in;
            by default float32 on one device.
        report: told of damaged checkpoints, and of a run that is not finished.

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
    if progress.update < progress.updates:
        report(f"{folder}: unfinished: {progress.update} of {progress.updates} updates")
    return model, restored.params
