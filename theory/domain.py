"""Domains of arguments: every public function of the theory refuses what lies outside.

Each check returns the argument as an array of the type the formulas use, or raises
ValueError naming the argument and its range; NaN lies in no range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def check_probability(name: str, value: ArrayLike) -> np.ndarray:
    """``value`` as float64, each entry in [0, 1].

    Raises:
        ValueError: an entry is NaN or outside [0, 1].
    """
    array = _as_float(name, value, "in [0, 1]")
    return _refuse(name, array, (array >= 0) & (array <= 1), "in [0, 1]")


def check_positive(name: str, value: ArrayLike) -> np.ndarray:
    """``value`` as float64, each entry finite and > 0.

    Raises:
        ValueError: an entry is NaN, infinite or <= 0.
    """
    array = _as_float(name, value, "in (0, inf)")
    return _refuse(name, array, (array > 0) & (array < np.inf), "in (0, inf)")


def check_nonnegative(name: str, value: ArrayLike) -> np.ndarray:
    """``value`` as float64, each entry finite and >= 0.

    Raises:
        ValueError: an entry is NaN, infinite or < 0.
    """
    array = _as_float(name, value, "in [0, inf)")
    return _refuse(name, array, (array >= 0) & (array < np.inf), "in [0, inf)")


def check_finite(name: str, value: ArrayLike) -> np.ndarray:
    """``value`` as float64, each entry finite.

    Raises:
        ValueError: an entry is NaN or infinite.
    """
    array = _as_float(name, value, "finite")
    return _refuse(name, array, np.isfinite(array), "finite")


def check_count(name: str, value: ArrayLike, low: int = 0) -> np.ndarray:
    """``value`` as int64, each entry an integer >= ``low`` (an integral float counts).

    Raises:
        ValueError: an entry is NaN, not an integer, below ``low`` or above 2^53 (beyond
            which float64 cannot tell integers apart).
    """
    expected = f"an integer in [{low}, 2^53]"
    array = _as_float(name, value, expected)
    inside = (array >= low) & (array <= 2**53) & (array == np.floor(array))
    return _refuse(name, array, inside, expected).astype(np.int64)


def check_offsets(offsets: ArrayLike, n_steps: int) -> np.ndarray:
    """``offsets`` as int64 ``[n_rollouts + 1]``, rising from 0 to ``n_steps``; equal
    neighbours are a rollout without steps.

    Raises:
        ValueError: an entry is no such integer, or the order or an end is another.
    """
    array = check_count("offsets", offsets)
    if (
        array.ndim != 1
        or array.size == 0
        or array[0] != 0
        or array[-1] != n_steps
        or np.any(np.diff(array) < 0)
    ):
        raise ValueError(f"offsets must rise from 0 to n_steps = {n_steps}")
    return array


def _as_float(name: str, value: ArrayLike, expected: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be {expected}, not of type {array.dtype}")
    return array.astype(np.float64)


def _refuse(
    name: str, array: np.ndarray, inside: np.ndarray, expected: str
) -> np.ndarray:
    if not np.all(inside):
        raise ValueError(f"{name} must be {expected}, not {array[~inside].flat[0]}")
    return array
