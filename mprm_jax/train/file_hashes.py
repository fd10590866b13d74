"""Folders whose every file is vouched for by a manifest of sizes and hashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from mprm_jax.data.problems import DataError

MANIFEST = "manifest.json"

_BUFFER = 1 << 20


class Damaged(DataError):
    """A folder that is not what was written; the message names it and the file."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(f"{folder}: damaged: {what}")


class _File(msgspec.Struct, frozen=True):
    bytes: int
    xxh3_128: str


class _Contents(msgspec.Struct, frozen=True):
    facts: dict[str, Any]
    files: dict[str, _File]


class _Sealed(msgspec.Struct, frozen=True):
    """Contents, and the hash of their bytes."""

    contents: _Contents
    xxh3_128: str


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of all files that lie in a folder.

    Args:
        folder: with its files, written and closed.
        facts: JSON values to keep with them.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    files = {
        name: _File(path.stat().st_size, _hash(path)) for name, path in _files(folder)
    }
    with open(folder / MANIFEST, "wb") as file:
        file.write(_encode(_Contents(facts, files)))
        file.flush()
        os.fsync(file.fileno())


def verify(folder: Path, parts: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The facts of a folder whose files are those that were sealed.

    Args:
        folder: that was sealed.
        parts: subfolders to look at; None: all. No file may be there that the manifest
            does not name, whatever the parts.

    Raises:
        Damaged: naming the first file that is missing, too many or changed.
    """
    contents = _read(folder)
    try:
        found = dict(_files(folder))
        del found[MANIFEST]
        if extra := sorted(found.keys() - contents.files.keys()):
            raise Damaged(folder, f"{extra[0]} does not belong to it")
        for name, file in contents.files.items():
            if parts is not None and name.partition("/")[0] not in parts:
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
    return msgspec.json.encode(_Sealed(contents, digest))


def _read(folder: Path) -> _Contents:
    try:
        data = (folder / MANIFEST).read_bytes()
        contents = msgspec.json.decode(data, type=_Sealed).contents
    except OSError as error:
        raise Damaged(folder, f"{MANIFEST}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(folder, f"{MANIFEST} cannot be read ({error})") from error
    # Every byte counts: what decodes to the same but is written otherwise was changed.
    if _encode(contents) != data:
        raise Damaged(folder, f"{MANIFEST} has another hash")
    return contents
