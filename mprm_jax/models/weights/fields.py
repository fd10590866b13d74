"""Checked reading of a JSON object that somebody else wrote: a miss is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mprm_jax.data.problems import DataError

# Counts and ids are int32 in the compiled model.
_WHOLE = 2**31
# What float32 holds with all its digits; a released model has nothing near either end.
_LEAST, _MOST = 2.0**-126, 2.0**127


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: no JSON ({error})") from error


class Fields:
    """A JSON object whose values are taken by name and kind.

    Args:
        where: begins every message: the file, and the part of it.
        values: what the file has there.

    Raises:
        DataError: it is no object; and, of every method, the field is missing, of
            another kind, or out of its range.
    """

    def __init__(self, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{where}: expected an object, found {_shown(values)}")
        self.where, self.values = where, values

    def problem(self, reason: str) -> DataError:
        """A refusal that says where."""
        return DataError(f"{self.where}: {reason}")

    def part(self, *names: str) -> Fields:
        """The object of the first of these names that is there."""
        for name in names:
            if name in self.values:
                return Fields(f"{self.where}: {name}", self.values[name])
        raise self.problem(f"lacks {' or '.join(names)}")

    def given(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self.values.get(name) is not None

    def positive(self, name: str, default: Any = None) -> float:
        """A number > 0 that float32 holds; a list of equal ones counts as one."""
        value = self._one(name, default)
        if not _is_number(value):
            raise self.problem(f"lacks {name}, or it is no number")
        if not _LEAST <= value <= _MOST:
            raise self.problem(f"{name} must be positive and finite, not {value}")
        # JAX takes no integer beyond 64 bits.
        return float(value)

    def count(self, name: str, default: Any = None) -> int:
        """A whole number from 1; a list of equal ones counts as one."""
        value = self._one(name, default)
        if value is None:
            raise self.problem(f"lacks {name}")
        if not _is_whole(value) or value < 1:
            raise self.problem(
                f"{name} must be a positive integer, not {_shown(value)}"
            )
        return int(value)

    def token(self, name: str, vocabulary: int, default: Any = None) -> int:
        """An id in [0, vocabulary)."""
        value = self.values.get(name, default)
        if value is None:
            raise self.problem(f"lacks {name}")
        if not _is_whole(value) or not 0 <= value < vocabulary:
            raise self.problem(
                f"{name} must be a token in [0, {vocabulary}), the vocabulary, not "
                f"{_shown(value)}"
            )
        return int(value)

    def wholes(self, name: str, default: Any = None) -> tuple[int, ...]:
        """A list of whole numbers from 0."""
        values = self.values.get(name, default)
        if not isinstance(values, list) or not all(
            _is_whole(value) and value >= 0 for value in values
        ):
            raise self.problem(
                f"{name} must be a list of integers from 0, not {_shown(values)}"
            )
        return tuple(map(int, values))

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.problem(f"{name} must be true or false, not {_shown(value)}")
        return value

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuse what this package does not compute; absent means the first."""
        value = self.values.get(name, allowed[0])
        if value not in allowed:
            raise self.problem(
                f"{name} is {_shown(value)}; only {' or '.join(map(repr, allowed))} is "
                "supported"
            )

    def _one(self, name: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            return value[0]
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    # Compared first: int(infinity) raises.
    return _is_number(value) and abs(value) < _WHOLE and value == int(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
