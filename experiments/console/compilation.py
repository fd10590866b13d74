"""Compiled code, kept for the next run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

_PLACE = "JAX_COMPILATION_CACHE_DIR"


def compiled_folder() -> Path:
    """Where JAX keeps what it compiled: where it was told to, else in the user's cache
    folder. A CPU's code is that CPU's alone, which JAX's keys do not tell, so machines
    that share a home have a folder each.
    """
    if told := os.environ.get(_PLACE):
        return Path(told)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    features = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = (line for line in file if line.startswith(("flags", "Features")))
            features = next(lines, features)
    except OSError:
        pass
    of = hashlib.sha256(features.encode()).hexdigest()[:8]
    return Path(home) / "mprm" / "compiled" / f"{platform.machine()}-{of}"


def compiling() -> str:
    """What JAX does before the first update, or solution, is done."""
    kept = os.environ.get(_PLACE)
    return f"compiling (kept for later runs in {kept})" if kept else "compiling"


def keep_compiled(asked: bool = True) -> None:
    """Have JAX, which is to be imported yet, keep what takes it a second to compile, or
    keep nothing.

    Where the folder cannot be written nothing is changed, and that is said.
    """
    if "jax" in sys.modules:
        return
    if not asked:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        return
    if _PLACE in os.environ:
        return
    folder = compiled_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        os.environ[_PLACE] = str(folder)
    else:
        told = f"mprm: compiled code is not kept: cannot write {folder}"
        print(told, file=sys.stderr)
