"""Outputs that are whole or absent, and the manifest that says how each was made."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from mprm_jax.data.framing import check_path
from mprm_jax.records.problems import DataError, faults_of

# Of a file that is being written; only a killed process leaves one behind.
PARTIAL_SUFFIX = ".partial"

MANIFEST_SUFFIX = ".manifest.json"
# A subset can be verified and trained on; other outputs only say how they were made.
SUBSET_SCHEMA = "mprm-subset/1"
OUTPUT_SCHEMA = "mprm-output/1"


class Output:
    """A file being written under a temporary name, hashed as it goes.

    Attributes:
        path: the final name.
        sha256: hash so far.
        size: bytes so far.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self.sha256.update(data)
        self.size += len(data)

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the file, written so far."""
        hashed = self.sha256.hexdigest()
        return {"file": self.path.name, "bytes": self.size, "sha256": hashed}


class OutputSet:
    """Files that appear together: all are renamed into place when the block ends well.

    Whatever goes wrong before that, the old files stay whole and no part of a new one
    is left. Use as a context manager.

    Raises:
        DataError: a file cannot be written (disk full, no permission, a folder in its
            place).
    """

    def __init__(self) -> None:
        self._open: list[tuple[Output, IO[bytes], Path]] = []
        self._partial: list[Path] = []

    def __enter__(self) -> OutputSet:
        return self

    def add(self, path: Path) -> Output:
        """Begin a file that will appear as ``path``."""
        check_path(path)
        if path.is_symlink():
            # As /dev/stdout is: the link would be replaced, not what it leads to.
            raise DataError(f"{path}: is a link; name the file itself")
        if path.is_dir():
            raise DataError(f"{path}: is a folder; name a file")
        if path.exists() and not path.is_file():
            # A device or a pipe would be replaced by the file.
            raise DataError(f"{path}: is no regular file; name another")
        name = f".{path.name[:40]}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
        partial = path.with_name(name)
        # Noted before it exists, so that no signal comes in between.
        self._partial.append(partial)
        with faults_of(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise DataError(f"{path}: {path.parent} is no folder") from None
            file = open(partial, "xb")  # noqa: SIM115 (closed on leaving the block)
        output = Output(path, file)
        self._open.append((output, file, partial))
        return output

    def add_manifest(
        self, path: Path, manifest: dict[str, Any], schema: str = OUTPUT_SCHEMA
    ) -> None:
        """Write a manifest, whole, that will appear as ``path``."""
        self.add(path).write(manifest_bytes(manifest, schema))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._commit()
            elif isinstance(error, OSError):
                raise _cannot_write(self._open, error) from error
        finally:
            for _, file, _ in self._open:
                with contextlib.suppress(OSError):
                    file.close()
            for partial in self._partial:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _commit(self) -> None:
        try:
            for _, file, _ in self._open:
                file.flush()
                os.fsync(file.fileno())
            # Between two renames no signal may end the run.
            with _signals_held():
                for output, _, partial in self._open:
                    os.replace(partial, output.path)
        except OSError as error:
            raise _cannot_write(self._open, error) from error


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cannot_write(files: list, error: OSError) -> DataError:
    name = error.filename or ", ".join(str(output.path) for output, _, _ in files)
    return DataError(f"{name}: {error.strerror or error}")


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
