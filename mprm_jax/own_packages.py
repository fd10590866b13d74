"""The packages that are installed beside this one, when somebody else has their names.

A research project may well have a folder ``experiments`` or a file ``sim.py`` of its
own, and whatever comes first on ``sys.path`` is imported. The command must work there
all the same, so it looks for these names beside this package first. A library must not
choose for its user: it refuses in one line that names both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("theory", "sim", "experiments", "paper_figures")


class _Beside(MetaPathFinder):
    """Finds the names of this distribution beside this package, before ``sys.path``."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname in NAMES:
            return PathFinder.find_spec(fullname, [str(ROOT)])
        return None


def take_precedence() -> None:
    """Let ``import theory`` and its like mean the packages beside this one, in this
    process. For commands, which own their process.
    """
    if not any(isinstance(finder, _Beside) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Beside())


def require(*names: str) -> None:
    """Refuse to go on with a foreign package of one of these names.

    Raises:
        ImportError: a name means something else here, or nothing.
    """
    for name in names:
        found = _origin(name)
        if found is None or not found.is_relative_to(ROOT / name):
            raise ImportError(
                f"mprm_jax needs its own package {name!r}, {ROOT / name}, but "
                f"{found or 'nothing'} is imported by that name: rename it, or put "
                f"{ROOT} before it on sys.path"
            )


def _origin(name: str) -> Path | None:
    module = sys.modules.get(name)
    spec = module.__spec__ if module is not None else find_spec(name)
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin).resolve()
    places = list(spec.submodule_search_locations or ())
    return Path(places[0]).resolve() if places else None
