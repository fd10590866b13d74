"""Option groups: frozen dataclasses, nested in the options of a command, whose fields
are the options, whose docstrings the help, and whose ``__post_init__`` has the ranges.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional, TypeVar

import tyro

from experiments.console.errors import UsageError
from mprm_jax.records.record import ImageRoot

T = TypeVar("T")

# With `X | None`, tyro imports typeguard and all that hangs on it: a fifth of start-up.
OptionalInt = Optional[int]  # noqa: UP045
OptionalStr = Optional[str]  # noqa: UP045
OptionalPath = Optional[Path]  # noqa: UP045

# A field of a record that is no option of the command.
Hidden = Annotated[T, tyro.conf.Fixed, tyro.conf.Suppress]

# Fields as the library names them: keep_ratio, and alpha before "must".
_FIELD = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|^[a-z]+(?= must\b)")


def option(field: str) -> str:
    """A field of an option record as it is typed: ``--keep-ratio``."""
    return "--" + field.strip("_").replace("_", "-")


@dataclasses.dataclass(frozen=True)
class JsonOption:
    """What every command has.

    Attributes:
        json: Print one JSON object to stdout, everything else to stderr.
    """

    json: bool = dataclasses.field(default=False, kw_only=True)


@dataclasses.dataclass(frozen=True)
class SeedOption(JsonOption):
    """What commands that draw have.

    Attributes:
        seed: Of every random choice.
    """

    seed: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_least(self, seed=0)


@dataclasses.dataclass(frozen=True)
class CompileOption:
    """What commands that compile have.

    Attributes:
        compile_cache: Keep no compiled code. Without it what takes long to compile is
            kept for later runs where mprm doctor says, in the user's cache folder;
            JAX_COMPILATION_CACHE_DIR names another.
    """

    compile_cache: bool = dataclasses.field(default=True, kw_only=True)


def given(options: Any, usual: Any = None) -> dict[str, Any]:
    """Options that differ from their defaults, by name as typed, those of nested groups
    included, but not what has its place; ``usual`` has the defaults if they are not
    those of the class.
    """
    hints = typing.get_type_hints(type(options), include_extras=True)
    found = {}
    for field in dataclasses.fields(options):
        value, marks = getattr(options, field.name), _marks(hints[field.name])
        default: Any = field.default
        if usual is not None:
            default = getattr(usual, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(value):
            found |= given(value, default)
        elif tyro.conf.Fixed in marks or tyro.conf.Positional in marks:
            continue
        elif value != default:
            names = [getattr(mark, "name", None) for mark in marks]
            found[option(next(filter(None, names), field.name))] = value
    return found


def _marks(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


@contextlib.contextmanager
def wrong_usage(name: str = "") -> Iterator[None]:
    """Turn the library's refusal of a value into one of the option: the one named, or
    else the field's.

    Raises:
        UsageError: in place of a ValueError.
    """
    try:
        yield
    except ValueError as error:
        if name:
            raise UsageError(f"{name}: {error}") from None
        # What was given stays as it was typed.
        rule, but, given = str(error).partition(", not ")
        rule = _FIELD.sub(lambda match: option(match[0]), rule)
        raise UsageError(f"{rule}{but}{given}") from None


class Checked:
    """Before a record of the library in the bases of an option group: what the record
    refuses is wrong usage.
    """

    def __post_init__(self) -> None:
        with wrong_usage():
            super().__post_init__()  # pyright: ignore[reportAttributeAccessIssue]


def check_least(options: Any, **bounds: float) -> None:
    """Refuse fields below their least value; None passes.

    Raises:
        UsageError: naming the option and its range.
    """
    for field, least in bounds.items():
        value = getattr(options, field)
        if value is not None and not least <= value < math.inf:
            raise UsageError(f"{option(field)} must be at least {least}, not {value}")


@dataclasses.dataclass(frozen=True)
class PictureOptions:
    """Where pictures lie.

    Attributes:
        images: Root of the image paths. Commands that write subsets then demand that
            every chosen picture is there; others look in images/ beside the corpus, or
            beside the file that names them, if this is not given.
        follow_links: Follow symbolic links that lead out of --images.
    """

    images: OptionalPath = None
    follow_links: bool = False

    @property
    def root(self) -> ImageRoot | None:
        """Where pictures lie, if that was said."""
        return self.images and ImageRoot(self.images, self.follow_links)
