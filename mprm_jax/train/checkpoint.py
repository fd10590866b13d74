"""Checkpoints that are whole or refused, written while training goes on.

A checkpoint is a folder ``DIR/checkpoints/<update>``: arrays written by orbax, and a
manifest with the size and hash of every file. It is made under another name, the
manifest last, and renamed into place, so a run killed at any moment leaves only whole
ones behind; one that is damaged later is refused by its hashes. (Orbax itself restores
arrays with flipped bits, and a folder under another update's name, without a word.)

Parameters that are not trained may lie elsewhere: the checkpoint then holds their
fingerprint in their stead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import orbax.checkpoint as ocp
import xxhash

from mprm_jax.models.model import Params
from mprm_jax.records.problems import DataError, faults_of
from mprm_jax.train.optimizer import join
from mprm_jax.train.sharding import FIRST_HOST, barrier
from mprm_jax.train.update import TrainState

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
# Of a checkpoint with all parameters, and of one with the trained ones.
WHOLE, TRAINED = "mprm-checkpoint/1", "mprm-checkpoint/2"

# The two trees of a checkpoint: what is evaluated, and what training goes on from.
PARAMS, TRAINING = "params", "training"

_PARTIAL = ".partial-"
_BUFFER = 1 << 20
# Seconds of waiting for a checkpoint that are worth a line.
_NOTICED = 1.0


class Damaged(DataError):
    """A checkpoint that is not what was written; the message names it and the file."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(f"{folder}: damaged: {what}")


class Best(msgspec.Struct, frozen=True):
    """The update that an evaluation found best, and what it found."""

    update: int
    value: float


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a checkpoint says beside its arrays.

    Attributes:
        update: updates made; also the folder's name.
        updates: T of the run.
        run: identity of the run.
        loader: state of the iterator over batches, ``update`` batches taken.
        totals: running sums that metrics go on from.
        best: of the updates up to this one, whose checkpoint stays; None: none was
            evaluated.
    """

    update: int
    updates: int
    run: str
    loader: dict[str, Any]
    totals: dict[str, int]
    best: Best | None = None


class _Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Progress, and the shape of each array of each tree; ``frozen`` is the fingerprint
    of the parameters that are not among them.
    """

    progress: Progress
    shapes: dict[str, dict[str, list[int]]]
    schema: str
    frozen: str | None = None


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
        params: parameters, of the template's form; None in the place of each that lies
            elsewhere.
        training: what else the run needs, of the template's form; None if not asked.
        frozen: fingerprint of the parameters that lie elsewhere; None: there are none.
    """

    progress: Progress
    params: Any
    training: Any
    frozen: str | None = None


class CheckpointWriter:
    """Writes a run's checkpoints, one at a time, while the run goes on.

    A context manager: it is left when everything is on disk. On several hosts every one
    makes the same calls; the first seals and renames what all have written.

    Args:
        output: folder of the run.
        keep: checkpoints that stay, the newest; the best, as the newest of them names
            it, stays beside them.
        frozen: fingerprint of the parameters that are not trained and lie elsewhere;
            None: checkpoints hold all parameters.
        report: told, once, if a checkpoint has to wait for the one before.
    """

    def __init__(
        self,
        output: Path,
        keep: int,
        *,
        frozen: str | None = None,
        report: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._output, self._keep, self._frozen = output, keep, frozen
        self._report: Callable[[str], None] | None = report
        self._first = jax.process_index() == FIRST_HOST
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._begun: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._background.shutdown(wait=False)
        if kind is None:
            self.settle()
        elif self._begun is not None:
            # What ended the run is told, not what its last checkpoint died of; and not
            # every host may have come as far.
            self._begun.exception()

    def save(self, progress: Progress, state: TrainState, frozen: Params) -> None:
        """Begin to write ``output/checkpoints/<update>``.

        Returns when the arrays have been copied from the devices, whose memory the next
        update takes.

        Raises:
            DataError: it, or the one before, cannot be written; nothing of it is left.
        """
        params = state.trained
        if self._frozen is None:
            params = join(params, frozen)
        self.write(progress, params, state._replace(trained=None))

    def write(self, progress: Progress, params: Any, training: Any) -> None:
        """As :meth:`save`, of any two trees."""
        self._wait_for_the_one_before()
        trees = {PARAMS: by_path(params), TRAINING: by_path(training)}
        schema = WHOLE if self._frozen is None else TRAINED
        shapes = {name: _shapes(arrays) for name, arrays in trees.items()}
        # As it is now, whatever the run does to it while this is written.
        progress = msgspec.convert(msgspec.to_builtins(progress), Progress)
        facts = _Facts(progress, shapes, schema, self._frozen)
        partial = self._output / FOLDER / f"{_PARTIAL}{progress.update}"
        begun: list[ocp.StandardCheckpointer] = []
        quiet = contextlib.ExitStack()
        with self._failing(partial, quiet):
            if self._first:
                # What killed runs left unfinished.
                for path in partial.parent.glob(f"{_PARTIAL}*"):
                    shutil.rmtree(path, ignore_errors=True)
                partial.mkdir(parents=True)
            barrier(f"checkpoint: begin {progress.update}")
            quiet.enter_context(_in_silence())
            try:
                for name, arrays in trees.items():
                    begun.append(ocp.StandardCheckpointer())
                    begun[-1].save(partial.absolute() / name, arrays)
            except BaseException:
                _close(begun, suppress=True)
                raise
        self._begun = self._background.submit(
            self._finish, partial, facts, begun, quiet
        )

    def settle(self) -> None:
        """Wait until everything is on disk.

        Raises:
            DataError: a checkpoint cannot be written; nothing of it is left.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return
        begun.result()
        barrier("checkpoint: in place")

    def _wait_for_the_one_before(self) -> None:
        began = time.perf_counter()
        self.settle()
        seconds = time.perf_counter() - began
        if seconds > _NOTICED and self._report is not None:
            self._report(
                f"{self._output / FOLDER}: writing one takes longer than the updates "
                f"between two; waited {seconds:.1f} s, and will again"
            )
            self._report = None

    def _finish(
        self,
        partial: Path,
        facts: _Facts,
        begun: list[ocp.StandardCheckpointer],
        quiet: contextlib.ExitStack,
    ) -> None:
        """Wait for the arrays, seal them, and put the checkpoint into its place."""
        final = partial.with_name(str(facts.progress.update))
        with self._failing(partial, quiet):
            _close(begun)
            quiet.close()
            if not self._first:
                return
            _seal(partial, facts)
            # A damaged checkpoint of the same update, from before a resumption.
            _remove(final)
            os.rename(partial, final)
            best = facts.progress.best
            for old in updates_kept(self._output)[self._keep :]:
                if best is None or old != best.update:
                    _remove(partial.with_name(str(old)))

    @contextlib.contextmanager
    def _failing(self, partial: Path, quiet: contextlib.ExitStack) -> Iterator[None]:
        """Nothing is left of what cannot be written, and one line says so."""
        final = partial.with_name(partial.name.removeprefix(_PARTIAL))
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            quiet.__exit__(type(error), error, error.__traceback__)
            # Other threads may still be writing into it.
            for _ in range(20):
                shutil.rmtree(partial, ignore_errors=True)
                if not partial.exists():
                    break
                time.sleep(0.1)
            raise DataError(
                f"{final}: cannot be written: {_one_line(error)}"
            ) from error


def read_best(output: Path) -> Best | None:
    """The best update of a run, as the newest readable of its checkpoints names it;
    None: none does, or that one's checkpoint is gone.
    """
    kept = updates_kept(output)
    for number in kept:
        with contextlib.suppress(Damaged):
            best = _read_manifest(output / FOLDER / str(number)).facts.progress.best
            return best if best is not None and best.update in kept else None
    return None


def _close(begun: list[ocp.StandardCheckpointer], suppress: bool = False) -> None:
    """Wait for all, and raise the first error."""
    errors = []
    for one in begun:
        try:
            one.close()
        except Exception as error:
            errors.append(error)
    if errors and not suppress:
        raise errors[0]


def _remove(folder: Path) -> None:
    """Remove a checkpoint; killed in its midst, none is left of that name."""
    gone = folder.with_name(f"{_PARTIAL}{folder.name}-removed")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


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
    first: int | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> Restored | None:
    """The newest whole checkpoint of a run, or None if it never made one.

    Args:
        output: folder of the run.
        params: template: a pytree of arrays, or of ``jax.ShapeDtypeStruct``; each array
            is put where the template's lies, on whatever mesh it was written.
        training: template of what else to restore, None: nothing.
        run: identity that the checkpoints must have.
        first: update whose checkpoint is tried before the newest.
        report: told of every damaged checkpoint that is passed over.

    Raises:
        DataError: there are checkpoints, and none of them is whole, or the newest whole
            one is of another model.
    """
    refused: list[str] = []
    numbers = updates_kept(output)
    if first is not None:
        numbers = [first, *(number for number in numbers if number != first)]
    for number in numbers:
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
    progress, frozen = facts.progress, facts.frozen
    schema = WHOLE if frozen is None else TRAINED
    if facts.schema != schema or str(progress.update) != folder.name:
        raise Damaged(folder, f"it is the checkpoint {progress.update}, {facts.schema}")
    if run is not None and progress.run != run:
        raise Damaged(folder, "it is a checkpoint of another run")
    found = {
        name: _read_tree(folder, name, template, facts)
        for name, template in wanted.items()
    }
    return Restored(progress, found[PARAMS], found.get(TRAINING), frozen)


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
    wanted = by_path(template)
    here, there = _shapes(wanted), facts.shapes.get(name, {})
    elsewhere = set()
    if name == PARAMS and facts.frozen is not None:
        elsewhere = here.keys() - there.keys()
    for path in sorted((here.keys() | there.keys()) - elsewhere):
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
        if path not in elsewhere
    }
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(folder.absolute() / name, placed)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Damaged(folder, f"{name} cannot be read: {_one_line(error)}") from error
    leaves = [arrays.get(path) for path in wanted]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def by_path(tree: Any) -> dict[str, Any]:
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
