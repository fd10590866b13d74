"""What made an output: versions, for manifests and for `mprm doctor`."""

from __future__ import annotations

import importlib.metadata
import platform


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
