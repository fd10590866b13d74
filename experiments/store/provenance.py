"""What made an output: versions, for manifests and for `mprm doctor`."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from mprm_jax.data.framing import CHUNK_BYTES
from mprm_jax.records.problems import faults_of

# Beside those of versions(): they train, schedule and fit.
_OF_RESULTS = ("jax", "optax", "scipy")


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


def result_versions() -> dict[str, str]:
    """What a result depends on: also what trains and fits, and the git revision,
    which is left out where the package does not run from a checkout.
    """
    found = _packages_of_results()
    revision = git_revision()
    return found | ({} if revision is None else {"git": revision})


# Looked up on disk, which thousands of results would notice.
@functools.cache
def _packages_of_results() -> dict[str, str]:
    return versions() | {name: package_version(name) for name in _OF_RESULTS}


@functools.cache
def git_revision(root: Path = Path(__file__).parents[2]) -> str | None:
    """Commit of the checkout that the package runs from, with "+" where tracked Python
    files differ from it; None where there is no checkout or git cannot say.
    """
    import subprocess

    # Installed into a repository of something else, that one's commit says nothing.
    if not (root / ".git").exists():
        return None
    # A git hook's variables would point at the repository that it runs for.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    # Asking must not write into the index that another git may hold.
    environment["GIT_OPTIONAL_LOCKS"] = "0"

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
            check=True,
        )
        return done.stdout.decode("utf-8", "replace").strip()

    try:
        commit = ask("rev-parse", "HEAD")
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed else commit


def file_sha256(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    with faults_of(path), open(path, "rb") as file:
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()
