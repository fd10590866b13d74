"""Outputs that are whole or absent, and the manifest that says how each was made.

No file system replaces two files at once. So a set of several first writes all of them
under partial names, then, into its lock file, what belongs where; from there on it is
decided. What describes the others (a manifest, a meta file) is removed, the others take
their places, then what describes them. A run killed at any point leaves the old files
together, or files without their manifest: never a file beside the manifest of
another. Whoever next writes there, or reads the manifest, puts the rest into place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from mprm_jax.data.framing import check_path
from mprm_jax.records.problems import DataError, faults_of

# Of a file that is being written; only a killed process leaves one behind, and the next
# run that writes the same output removes it.
PARTIAL_SUFFIX = ".partial"

MANIFEST_SUFFIX = ".manifest.json"
# A subset can be verified and trained on; other outputs only say how they were made.
SUBSET_SCHEMA = "mprm-subset/1"
OUTPUT_SCHEMA = "mprm-output/1"

# Seconds after which a partial file of a cache belongs to nobody.
_ABANDONED = 3600

# Of a set of any number of files so many are open at a time.
_OPEN_FILES = 32
# One for each of the runs that write the same files at a time.
_SLOTS = tuple("01234567")


class Output:
    """A file being written under a temporary name, hashed as it goes.

    Attributes:
        path: the final name.
        partial: the temporary one.
        describes: it says something of the other files of its set.
        sha256: hash so far.
        size: bytes so far.
    """

    def __init__(
        self, path: Path, partial: Path, describes: bool, files: _OpenFiles
    ) -> None:
        self.path, self.partial, self.describes = path, partial, describes
        self._files = files
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            DataError: they cannot be written.
        """
        try:
            self._files.append(self.partial, data)
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from error
        self.sha256.update(data)
        self.size += len(data)

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the file, written so far."""
        hashed = self.sha256.hexdigest()
        return {"file": self.path.name, "bytes": self.size, "sha256": hashed}


def replace_file(path: Path, *parts: bytes, scratch: Path | None = None) -> None:
    """Write a file whole or not at all, without waiting for the disk.

    For what can be made again and is checked by its hash when it is read; a user's own
    outputs are an :class:`OutputSet`.

    Args:
        path: of the file.
        parts: of its content.
        scratch: folder on the same disk where it grows; None: its own.

    Raises:
        OSError: it cannot be written.
    """
    scratch = scratch or path.parent
    for folder in (scratch, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=scratch, suffix=PARTIAL_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def sweep(scratch: Path) -> None:
    """Remove what killed runs left of :func:`replace_file`, which never takes long."""
    for partial in scratch.glob(f"tmp*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                partial.unlink(missing_ok=True)


class _OpenFiles:
    """Appends to any number of files, of which few are open at a time."""

    def __init__(self) -> None:
        self._open: dict[Path, IO[bytes]] = {}

    def append(self, path: Path, data: bytes) -> None:
        # Taken out and put back: the first is the one that waited longest.
        file = self._open.pop(path, None)
        if file is None:
            if len(self._open) == _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            file = open(path, "ab")  # noqa: SIM115 (closed with the set)
        self._open[path] = file
        file.write(data)

    def close(self) -> None:
        # All of them, whatever closing one of them raises.
        with contextlib.ExitStack() as stack:
            for file in self._open.values():
                stack.callback(file.close)
            self._open.clear()


class OutputSet:
    """Files that appear together: all are renamed into place when the block ends well.

    Whatever goes wrong before that, the old files stay whole and no part of a new one
    is left. Use as a context manager.

    Raises:
        DataError: a file cannot be written (disk full, no permission, a folder in its
            place).
    """

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._files = _OpenFiles()
        self._partial: list[Path] = []
        # Slot -> descriptor of its lock file, beside the first output. The first slot
        # is this set's, others were of killed runs.
        self._locks: dict[str, int] = {}
        self._first = Path()
        self._dropped: list[Path] = []

    def __enter__(self) -> OutputSet:
        return self

    def add(self, path: Path, describes: bool = False) -> Output:
        """Begin a file that will appear as ``path``.

        Args:
            path: its name.
            describes: it says something of the others: it is gone before they are
                replaced, and is back after them.
        """
        check_path(path)
        if path.is_symlink():
            # As /dev/stdout is: the link would be replaced, not what it leads to.
            raise DataError(f"{path}: is a link; name the file itself")
        if path.is_dir():
            raise DataError(f"{path}: is a folder; name a file")
        if path.exists() and not path.is_file():
            # A device or a pipe would be replaced by the file.
            raise DataError(f"{path}: is no regular file; name another")
        with faults_of(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise DataError(f"{path}: {path.parent} is no folder") from None
            if not self._locks:
                self._lock(path)
            own, *_ = partial = [
                _partial(self._first, slot, path) for slot in self._locks
            ]
            # Noted before it exists, so that no signal comes in between.
            self._partial += partial
            for left in partial:
                left.unlink(missing_ok=True)
            open(own, "xb").close()
        self._outputs.append(Output(path, own, describes, self._files))
        return self._outputs[-1]

    def add_manifest(
        self, path: Path, manifest: dict[str, Any], schema: str = OUTPUT_SCHEMA
    ) -> None:
        """Write a manifest, whole, that will appear as ``path``."""
        self.add(path, describes=True).write(manifest_bytes(manifest, schema))

    def drop(self, path: Path) -> None:
        """Remove, when the others appear, a file that described those before them."""
        self._dropped.append(path)

    def _lock(self, first: Path) -> None:
        """Take a slot, and those of killed runs, whose work is finished or undone."""
        self._first = first
        with _signals_held():
            for slot in _SLOTS:
                held = _hold(_partial(first, slot))
                if held is not None:
                    self._locks[slot] = held
                    _finish(first, slot, held)
                    os.ftruncate(held, 0)
            for slot in (*_SLOTS, secrets.token_hex(8)):
                if not self._locks:
                    held = _hold(_partial(first, slot), os.O_CREAT | os.O_EXCL)
                    self._locks |= {} if held is None else {slot: held}
            # Of files, too, that this run does not write.
            for left in first.parent.glob(f".*{PARTIAL_SUFFIX}"):
                path = first.with_name(left.name[1:].rsplit(".", 2)[0] or "_")
                if any(_partial(first, slot, path) == left for slot in self._locks):
                    left.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._outputs:
                self._commit()
            elif isinstance(error, OSError):
                raise self._cannot_write(error) from error
        finally:
            with contextlib.suppress(OSError):
                self._files.close()
            self._partial += [_partial(self._first, slot) for slot in self._locks]
            for partial in self._partial:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
            for held in self._locks.values():
                os.close(held)

    def _commit(self) -> None:
        try:
            self._files.close()
            for output in self._outputs:
                with open(output.partial, "rb") as file:
                    os.fsync(file.fileno())
            # Between two renames no signal may end the run.
            with alone(self._first.parent), _signals_held():
                if len(self._outputs) == 1 and not self._dropped:
                    os.replace(self._outputs[0].partial, self._outputs[0].path)
                else:
                    self._decide()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _decide(self) -> None:
        """Write down what belongs where, and put it there."""
        folder = self._first.parent
        names: dict[bool, list[str]] = {False: [], True: []}
        for output in self._outputs:
            names[output.describes].append(os.path.relpath(output.path, folder))
        dropped = [os.path.relpath(path, folder) for path in self._dropped]
        plan = _Plan(names[False], names[True], dropped)
        before = [output for output in self._outputs if output.path.exists()]
        slot, held = next(iter(self._locks.items()))
        with open(held, "wb", closefd=False) as file:
            file.write(msgspec.json.encode(plan))
            file.flush()
            os.fsync(held)
        try:
            _put_into_place(self._first, slot, plan)
        except OSError:
            whole = all(output.partial.exists() for output in self._outputs)
            if not (whole and all(output.path.exists() for output in before)):
                # Too late to go back: the next run goes on with it.
                self._partial.clear()
                os.close(self._locks.pop(slot))
            raise

    def _cannot_write(self, error: OSError) -> DataError:
        name = error.filename2 or error.filename or self._first.parent
        return DataError(f"{name}: {error.strerror or error}")


class _Plan(msgspec.Struct, frozen=True):
    """Names in the folder of a set's first file: of its files, of those that describe
    them, and of what described those before them.
    """

    files: list[str]
    describing: list[str]
    dropped: list[str]


def _partial(first: Path, slot: str, path: Path | None = None) -> Path:
    """The partial file of ``path`` in a set that begins with ``first``; the set's lock
    without it.
    """
    key = "" if path is None else os.path.relpath(first, path.parent)
    path = first if path is None else path
    digest = hashlib.sha256(os.fsencode(f"{slot}\0{key}\0{path.name}")).hexdigest()
    return path.with_name(f".{path.name[:40]}.{digest[:16]}{PARTIAL_SUFFIX}")


def _hold(lock: Path, create: int = 0, wait: bool = False) -> int | None:
    """Descriptor of a lock file, held; None: there is none, or a living run has it."""
    try:
        held = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | create, 0o600)
    except OSError as error:
        if create and not isinstance(error, FileExistsError):
            raise
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # Another run may have removed it in between; and only our own is ours to end.
        found = os.fstat(held)
        ours = found.st_nlink > 0 and found.st_uid == os.geteuid()
    except OSError as error:
        # Where nothing can be locked, a new one is ours, and none is ever removed.
        ours = bool(create) and not isinstance(error, BlockingIOError)
    if not ours:
        os.close(held)
        return None
    return held


def _finish(first: Path, slot: str, held: int) -> bool:
    """Put into place what a killed run had decided on; whether it had.

    Raises:
        OSError: a file cannot be renamed.
    """
    try:
        with open(held, "rb", closefd=False) as file:
            file.seek(0)
            plan = msgspec.json.decode(file.read(), type=_Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    # A plan that came with a folder from elsewhere reaches nothing outside it.
    folder = Path(os.path.realpath(first.parent))
    for name in map(Path, (*plan.files, *plan.describing, *plan.dropped)):
        place = os.path.realpath(folder / name.parent)
        if not (name.name.isprintable() and Path(place).is_relative_to(folder)):
            return False
    with alone(first.parent):
        _put_into_place(first, slot, plan)
    return True


def _put_into_place(first: Path, slot: str, plan: _Plan) -> None:
    """Rename what has not been renamed yet."""

    def left(names: list[str]) -> list[tuple[Path, Path]]:
        paths = [first.parent / name for name in names]
        moves = [(_partial(first, slot, path), path) for path in paths]
        return [move for move in moves if move[0].is_file()]

    files, describing = left(plan.files), left(plan.describing)
    for path in (
        *(to for _, to in describing),
        *map(first.parent.joinpath, plan.dropped),
    ):
        path.unlink(missing_ok=True)
    for partial, path in (*files, *describing):
        os.replace(partial, path)


def finish_interrupted(first: Path) -> None:
    """Put into place the set of files that begins with ``first``, if the run that wrote
    it was killed while it did so; a living one is waited for.

    Raises:
        DataError: it cannot be done.
    """
    for slot in _SLOTS:
        lock = _partial(first, slot)
        with faults_of(first):
            if not lock.is_file() or not lock.stat().st_size:
                continue
            held = _hold(lock, wait=True)
            if held is None:
                continue
            try:
                if _finish(first, slot, held):
                    lock.unlink(missing_ok=True)
            finally:
                os.close(held)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other set is put into place in the folder meanwhile."""
    held = os.open(folder, os.O_RDONLY)
    try:
        # Some file systems lock no folders.
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def manifest_path(output: Path) -> Path:
    """Where the manifest of an output lies: beside it."""
    return output.with_name(output.name + MANIFEST_SUFFIX)


def manifest_bytes(manifest: dict[str, Any], schema: str) -> bytes:
    """JSON with one line per top-level key: readable, though the rows are many."""
    lines = (
        f"{msgspec.json.encode(key).decode()}: {msgspec.json.encode(value).decode()}"
        for key, value in ({"schema": schema} | manifest).items()
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_manifest(output: Path) -> dict[str, Any]:
    """The manifest beside an output.

    Raises:
        DataError: there is none, or it is not one.
    """
    finish_interrupted(output)
    path = manifest_path(output)
    with faults_of(path, "no manifest"):
        try:
            value = msgspec.json.decode(path.read_bytes())
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; what mprm select wrote has its manifest "
                "beside it"
            ) from None
    if not isinstance(value, dict) or value.get("schema") != SUBSET_SCHEMA:
        raise DataError(f"{path}: no manifest of schema {SUBSET_SCHEMA}")
    return value
