"""How a command fails: one line and a status, and a table of refused lines."""

from __future__ import annotations

import sys
from typing import Any

from mprm_jax.own_packages import NAMES
from mprm_jax.records.problems import BadLines


class UsageError(Exception):
    """Option values that make no sense; exit status 2."""


class AlreadyReported(Exception):
    """A failure whose evidence stdout already has; one line to stderr, status 1."""


# Library -> the extra of this distribution that brings it.
_EXTRAS = {
    "pandas": "pandas",
    "pyarrow": "parquet",
    "dask": "dask",
    "distributed": "dask",
    "transformers": "hub",
    "huggingface_hub": "hub",
    "imagehash": "overlap",
    "math_verify": "math",
}


def missing_library(error: ModuleNotFoundError) -> str:
    """What to install, in one line.

    Raises:
        ModuleNotFoundError: the error itself, where a package of this distribution is
            missing: a fault, and not the user's.
    """
    library = (error.name or "").partition(".")[0]
    if library in ("", "mprm_jax", *NAMES):
        raise error
    extra = _EXTRAS.get(library)
    package = f"'mprm-jax[{extra}]'" if extra else library
    return f"needs {library}, which is not installed: pip install {package}"


# What this command has said of damaged files; its object says it, too.
SAID: list[str] = []


def say_once(message: str) -> None:
    """Say on stderr what a command goes on without, however often it is met."""
    if message not in SAID:
        SAID.append(message)
        print(message, file=sys.stderr)


def bad_line_rows(problems: BadLines | None) -> list[dict[str, Any]]:
    """One object per reason: count, and the first line that shows it."""
    if problems is None:
        return []
    return [
        {
            "reason": reason,
            "count": count,
            "first": problems.first[reason].where,
            "detail": problems.first[reason].detail,
        }
        for reason, count in problems.counts.items()
    ]


def print_bad_lines(problems: BadLines) -> None:
    """The table of refused lines, to stderr; a ``file:line`` is never broken."""
    if not problems:
        return
    rows = bad_line_rows(problems)
    width = max(len(row["reason"]) for row in rows)
    print(f"{'lines':>7}  {'reason':<{width}}  first", file=sys.stderr)
    for row in rows:
        detail = f": {row['detail']}" if row["detail"] else ""
        print(
            f"{row['count']:>7}  {row['reason']:<{width}}  {row['first']}{detail}",
            file=sys.stderr,
        )
