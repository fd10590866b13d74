"""What every simulation of a closed form needs: its estimate, its error, its labels."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

# Random draws where the caller names no number.
DRAWS = 200_000


class Estimate(NamedTuple):
    """A simulated value.

    Attributes:
        value: of the shape that the closed form has.
        standard_error: likewise.
    """

    value: Any
    standard_error: Any


class Check(NamedTuple):
    """A closed form beside its simulation.

    Attributes:
        closed_form: its value.
        estimate: the simulated one.
        standard_error: of the estimate.
        z: ``(estimate - closed_form) / standard_error``, 0 where they differ by no more
            than rounding.
    """

    closed_form: Any
    estimate: Any
    standard_error: Any
    z: Any


class Twin(Protocol):
    """A simulation, which knows its closed form."""

    closed_form: Callable[..., Any]

    def __call__(
        self, *args: Any, rng: np.random.Generator, draws: int = DRAWS, **named: Any
    ) -> Estimate:
        """Value and standard error."""
        ...


def twin(closed_form: Callable[..., Any]) -> Callable[[Callable[..., Any]], Twin]:
    """Make a function that draws the simulation of ``closed_form``.

    It takes the same arguments and, by keyword, ``rng`` and ``draws``, and returns
    independent values whose mean is the quantity (``[draws, ...]``), or an
    :class:`Estimate`, or a tuple of these where the closed form returns a tuple.
    """

    def decorate(draw: Callable[..., Any]) -> Twin:
        @functools.wraps(draw)
        def simulation(*args: Any, rng: Any, draws: int = DRAWS, **named: Any):
            if draws < 2:
                raise ValueError(f"draws must be at least 2, not {draws}")
            exact = closed_form(*args, **named)  # refuses bad arguments, for both
            return _estimate(draw(*args, **named, rng=rng, draws=draws), like=exact)

        known = cast(Twin, simulation)
        known.closed_form = closed_form
        return known

    return decorate


def check(
    name: str, *args: Any, seed: int = 0, draws: int = DRAWS, **named: Any
) -> Check:
    """A closed form and its simulation on one's own arguments, in one line.

    z is standard normal where no event that the simulation counts is rare.

    Args:
        name: of the closed form, one of those in :mod:`theory.simulate`.
        args: of the closed form, scalars where it broadcasts.
        seed: of the simulation.
        draws: of the simulation.
        named: arguments of the closed form by name.

    Raises:
        ValueError: no simulation has this name, or the closed form refuses an argument.

    Example:
        >>> from theory import simulate
        >>> bool(abs(simulate.check("noisy_fisher_weight", 0.3, 0.1, 0.05).z) < 4)
        True
    """
    home = importlib.import_module("theory.simulate")
    if name == "check" or name not in home.__all__:
        raise ValueError(
            f"name must be of a closed form that is simulated, not {name!r}"
        )
    simulation = getattr(home, name)
    exact = simulation.closed_form(*args, **named)
    rng = np.random.default_rng(seed)
    value, se = simulation(*args, **named, rng=rng, draws=draws)
    return Check(exact, value, se, _z(exact, value, se))


def mean_and_se(values: np.ndarray) -> Estimate:
    """Mean of independent values ``[draws, ...]`` and its standard error; of a bool at
    least 1 / draws: where no draw, or every draw, is a hit the spread shows nothing.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("draws must be more: none of them met the condition")
    se = np.std(values, axis=0) / np.sqrt(len(values))
    least = 1 / len(values) * (values.dtype == bool)
    mean, se = np.mean(values, axis=0), np.maximum(se, least)
    return Estimate(mean, se) if np.ndim(mean) else Estimate(float(mean), float(se))


def squared_snr(values: np.ndarray) -> Estimate:
    """Squared mean over variance of independent values; 0 where all are 0."""
    m, v = values.mean(), values.var()
    if v == 0 == m:
        return Estimate(0.0, 0.0)
    # The delta method for m^2 / v; the square of the error in m is the second order.
    influence = 2 * m / v * values - (m / v) ** 2 * (values - m) ** 2
    se = mean_and_se(influence).standard_error + 1 / len(values)
    return Estimate(float(m**2 / v), se)


def bernoulli(p: Any, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Independent draws, bool ``[draws, *p.shape]``."""
    return rng.random((draws, *np.shape(p))) < p


def flip(rng: np.random.Generator, truth: np.ndarray, fpr: Any, fnr: Any) -> np.ndarray:
    """Labels of truths (bool, any shape) through the noise channel."""
    wrong = rng.random(truth.shape) < np.where(truth, fnr, fpr)
    return truth ^ wrong


def noisy_labels(
    q: Any, fpr: Any, fnr: Any, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Labels of truths that are positive with probability q, bool ``[draws, ...]``."""
    return flip(rng, bernoulli(q, rng, draws), fpr, fnr)


def _estimate(drawn: Any, like: Any) -> Estimate:
    if isinstance(drawn, Estimate):
        return drawn
    if isinstance(drawn, tuple):
        parts = map(_estimate, drawn, like)
        return Estimate(*(_as(like, column) for column in zip(*parts, strict=True)))
    return mean_and_se(drawn)


def _as(like: tuple, parts: Any) -> tuple:
    return getattr(type(like), "_make", tuple)(parts)


def _z(exact: Any, value: Any, se: Any) -> Any:
    if isinstance(exact, tuple):
        return _as(exact, map(_z, exact, value, se))
    same = np.isclose(value, exact, rtol=1e-12, atol=1e-15)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(same, 0.0, (value - exact) / np.asarray(se))[()]
