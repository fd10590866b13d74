"""What made an output: versions, for manifests and for `mprm doctor`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path

from mprm_jax.data.framing import CHUNK_BYTES
from mprm_jax.data.problems import DataError


def package_version(name: str = "mprm-jax") -> str:
    """Installed version of a distribution, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """The versions on which a selection depends."""
    return {
        "mprm": package_version(),
        "python": platform.python_version(),
        "numpy": package_version("numpy"),
        "msgspec": package_version("msgspec"),
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(CHUNK_BYTES):
                digest.update(data)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return digest.hexdigest()
