"""One row of the table of the theory: a statement, four numbers and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Oracle = Literal["autodiff", "enumeration", "mpmath"]
Verdict = Literal["holds", "corrected", "counterexample", "FAILS"]

# A right formula leaves this many standard errors about once in 16,000 simulations.
_STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Row:
    """A statement at one point, four ways.

    Attributes:
        text: the statement, at most 30 characters.
        exact: from the functions of ``theory``.
        oracle: the same quantity from code that shares nothing with them.
        kind: what the oracle is.
        paper: the number of the paper's formula or tables at this point; a short text
            for a claim that is no number; None where the paper says nothing.
        simulation: the same quantity in a seeded simulation, or None.
        se: its standard error.
        agrees: whether the paper's claim holds here; where it is left out, whether the
            paper's number equals the exact one.
        otherwise: what to call a claim that does not hold: "corrected" if the exact
            number takes the place of the paper's, "counterexample" if a general
            statement fails here.
        tolerance: of exact against oracle, relative above 1 and absolute below.
        bound: ``exact`` is an upper bound of the oracle and of the simulation.
        note: what to know about it; printed below the table.
    """

    text: str
    exact: float
    oracle: float
    kind: Oracle
    paper: float | str | None = None
    simulation: float | None = None
    se: float | None = None
    agrees: bool | None = None
    otherwise: Literal["corrected", "counterexample"] = "corrected"
    tolerance: float = 1e-9
    bound: bool = False
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """What the numbers say; "FAILS" if ours disagree among themselves."""
        if not (self._oracle_confirms() and self._simulation_confirms()):
            return "FAILS"
        if self.agrees is not None:
            return "holds" if self.agrees else self.otherwise
        if isinstance(self.paper, float):
            return "holds" if _close(self.paper, self.exact, 1e-9) else self.otherwise
        return "holds"

    def _oracle_confirms(self) -> bool:
        if self.bound:
            return self.oracle <= self.exact * (1 + self.tolerance)
        return _close(self.oracle, self.exact, self.tolerance)

    def _simulation_confirms(self) -> bool:
        if self.simulation is None:
            return True
        if self.bound:
            return self.simulation <= self.exact * (1 + self.tolerance)
        allowed = _STANDARD_ERRORS * (self.se or 0.0) + 1e-12
        return abs(self.simulation - self.exact) <= allowed

    def metrics(self) -> dict[str, Any]:
        """The row as the results store keeps it."""
        return {
            "statement": self.text,
            "paper": self.paper,
            "exact": self.exact,
            "oracle": self.oracle,
            "oracle_kind": self.kind,
            "simulation": self.simulation,
            "standard_error": self.se,
            "verdict": self.verdict,
            "note": self.note,
        }


# Given a generator and a number of draws, the row.
Statement = Callable[[np.random.Generator, int], Row]


def _close(x: float, y: float, tolerance: float) -> bool:
    # NaN is close to nothing.
    return abs(x - y) <= tolerance * max(1.0, abs(y))


def mean_and_se(values: np.ndarray) -> tuple[float, float]:
    """Mean of independent values ``[draws]`` and its standard error."""
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))


def share_and_se(hits: np.ndarray) -> tuple[float, float]:
    """Share of a bool ``[draws]`` and its standard error, at least 1 / draws: where no
    draw, or every draw, is a hit the spread shows nothing.
    """
    share, se = mean_and_se(hits)
    return share, max(se, 1 / len(hits))


def flip(
    rng: np.random.Generator, truth: np.ndarray, fpr: float, fnr: float
) -> np.ndarray:
    """Labels of truths (bool, any shape) through the noise channel."""
    wrong = rng.random(truth.shape) < np.where(truth, fnr, fpr)
    return truth ^ wrong


def autodiff_gradient(function: Callable[[Any], Any], at: Any) -> np.ndarray:
    """``jax.grad`` in float64."""
    import jax

    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.grad(function))(np.asarray(at, np.float64)))


def autodiff_hessian(function: Callable[[Any], Any], at: Any) -> np.ndarray:
    """``jax.hessian`` in float64."""
    import jax

    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.hessian(function))(np.asarray(at, np.float64)))
