"""Somebody's own rule: found by name, called with care, and its faults told briefly."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xxhash

from mprm_jax.records.problems import DataError
from theory.rollouts import Rollouts
from theory.selection import RULE_NAMES

RuleFunction = Callable[[Rollouts], Any]


class OwnRule(str):
    """The name of a rule that is a function, in the place of a shipped rule's.

    The function is given the counts of a corpus and returns what the rule ranks by: a
    finite number for each rollout, array_like ``[n_rollouts]``, the largest kept first.
    Budgets and ties are as for any rule.

    ``rollouts.successes`` and ``.trials`` hold K and N of every step; steps
    ``offsets[i]:offsets[i + 1]`` are rollout i's. ``.lengths``, ``.n_measured``,
    ``.n_positive`` and ``.source`` hold a number for each rollout; ``.total(column)``
    sums a column of steps over each rollout. See :class:`theory.rollouts.Rollouts`.
    """

    function: RuleFunction

    def __deepcopy__(self, memo: Any) -> OwnRule:
        # dataclasses.asdict copies; a function may hold what cannot be copied.
        return self

    def scores(self, rollouts: Rollouts) -> np.ndarray:
        """What the rule ranks by, float64 ``[n_rollouts]``.

        Raises:
            DataError: the function fails, or does not give one finite number for each.
        """
        # A copy: what the function does to its columns must not reach the labels.
        given = rollouts.take(np.arange(rollouts.n_rollouts))
        try:
            value = self.function(given)
        except Exception as error:
            raise DataError(f"rule {self}: {last_frame(error)}") from error
        try:
            scores = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise DataError(
                f"rule {self}: gives {kind}, not an array of numbers"
            ) from None
        if scores.shape != (rollouts.n_rollouts,):
            raise DataError(
                f"rule {self}: gives shape {scores.shape}, not one number for each of "
                f"{rollouts.n_rollouts} rollouts"
            )
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            i = int(wrong[0])
            of = slice(rollouts.offsets[i], rollouts.offsets[i + 1])
            counts = zip(rollouts.successes[of], rollouts.trials[of], strict=True)
            shown = ", ".join(f"{k}/{n}" for k, n in counts)
            raise DataError(
                f"rule {self}: gives {scores[i]} for rollout {i} (K/N: {shown:.60}), "
                f"and no finite number for {len(wrong)} of {rollouts.n_rollouts}"
            )
        return scores


def own_rule(function: RuleFunction, name: str | None = None) -> OwnRule:
    """A function as a rule.

    Raises:
        ValueError: it cannot be called, or has the name of a shipped rule.
    """
    if not callable(function):
        raise ValueError(f"a rule is a name or a function, not {function!r}")
    rule = OwnRule(name or getattr(function, "__name__", type(function).__name__))
    if rule in RULE_NAMES:
        raise ValueError(f"{rule} is a shipped rule: call your function something else")
    rule.function = function
    return rule


def load_rules(named: Sequence[str]) -> list[OwnRule]:
    """The rules ``module:function``, several of them separated by commas, of installed
    modules or of modules in the current folder.

    Each is called after its function and a hash of its module's file, so that results
    of a rule that was changed since are never taken for its own.

    Raises:
        ValueError: there is no such function.
        DataError: the module fails.
    """
    found: dict[str, OwnRule] = {}
    for name in (name for names in named for name in names.split(",")):
        place, colon, path = name.partition(":")
        if not (colon and place and path):
            raise ValueError(f"{name!r} is no module:function")
        module = _module(place.removesuffix(".py"))
        function: Any = module
        for part in path.split("."):
            function = getattr(function, part, None)
        if not callable(function):
            raise ValueError(f"{name}: {module.__file__} has no function {path}")
        source = Path(module.__file__).read_bytes() if module.__file__ else b""
        rule = own_rule(function, f"{path}@{xxhash.xxh3_64_hexdigest(source)[:8]}")
        found[rule] = rule
    return list(found.values())


def _module(name: str) -> ModuleType:
    # Last, so that no file in the current folder takes a package's place.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"no module {name} in {here}, nor installed") from None
        raise DataError(f"{name}: {last_frame(error)}") from error
    except (Exception, SystemExit) as error:
        raise DataError(f"{name}: {last_frame(error)}") from error


def last_frame(error: BaseException) -> str:
    """An error of somebody's own code in one line: what it is and where it was raised,
    by the last line outside of installed packages.
    """
    said = " ".join(str(error).split())
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{what} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if not _installed(frame.filename)]
    if not frames:
        return what
    frame = (own or frames)[-1]
    line = f": {frame.line}" if frame.line else ""
    return f"{what} ({frame.filename}:{frame.lineno}, in {frame.name}{line})"


def _installed(filename: str) -> bool:
    return "site-packages" in filename or filename.startswith(
        ("<frozen", sys.base_prefix)
    )
