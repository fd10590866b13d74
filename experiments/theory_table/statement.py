"""A statement of the theory at one point: four numbers and what they say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np

from theory import simulate
from theory.simulate.draw import mean_and_se

Oracle = Literal["autodiff", "enumeration", "mpmath"]
Verdict = Literal["holds", "corrected", "counterexample", "FAILS"]

# Given rng and draws by name: independent values whose mean is the quantity, or an
# estimate of it and its standard error.
Simulation = Callable[..., np.ndarray | tuple[float, float | None]]

# A right formula leaves this many standard errors about once in 16,000 simulations.
_STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Statement:
    """A statement at one point, four ways.

    Attributes:
        name: in the results store; it also seeds the simulation.
        text: the statement, at most 30 characters.
        kind: what the oracle is.
        exact: from the functions of ``theory``.
        oracle: the same quantity from code that shares nothing with them; one of
            mpmath is called with 50 digits.
        simulate: the same quantity in a seeded simulation, or None.
        paper: the number of the paper's formula or tables at this point; a short text
            for a claim that is no number; None where the paper says nothing.
        claim: whether the paper's claim holds, given the exact number; where it is
            left out, the claim is that the paper's number equals the exact one.
        otherwise: what to call a claim that does not hold: "corrected" if the exact
            number takes the place of the paper's, "counterexample" if a general
            statement fails here.
        tolerance: of exact against oracle, relative above 1 and absolute below.
        bound: ``exact`` is an upper bound of the oracle and of the simulation.
        note: what to know about it; printed below the table.
    """

    name: str
    text: str
    kind: Oracle
    exact: Callable[[], Any]
    oracle: Callable[[], Any]
    simulate: Simulation | None = None
    paper: float | str | None = None
    claim: Callable[[float], bool] | None = None
    otherwise: Literal["corrected", "counterexample"] = "corrected"
    tolerance: float = 1e-9
    bound: bool = False
    note: str = ""

    def row(self, rng: np.random.Generator, draws: int) -> dict[str, Any]:
        """The four numbers and the verdict, as the results store keeps them."""
        drawn = self.simulate(rng=rng, draws=draws) if self.simulate else (None, None)
        simulation, se = drawn if isinstance(drawn, tuple) else mean_and_se(drawn)
        exact = float(self.exact())
        with mp.workdps(50):
            oracle = float(self.oracle())
        return {
            "statement": self.text,
            "paper": self.paper,
            "exact": exact,
            "oracle": oracle,
            "oracle_kind": self.kind,
            "simulation": simulation,
            "standard_error": se,
            "verdict": self.verdict(exact, oracle, simulation, se),
            "note": self.note,
        }

    def verdict(
        self,
        exact: float,
        oracle: float,
        simulation: float | None = None,
        se: float | None = None,
    ) -> Verdict:
        """What the numbers say; "FAILS" if ours disagree among themselves."""
        if self.bound:
            top = exact * (1 + self.tolerance)
            agree = oracle <= top and (simulation is None or simulation <= top)
        else:
            allowed = _STANDARD_ERRORS * (se or 0.0) + 1e-12
            agree = _close(oracle, exact, self.tolerance) and (
                simulation is None or abs(simulation - exact) <= allowed
            )
        if not agree:
            return "FAILS"
        if self.claim is not None:
            return "holds" if self.claim(exact) else self.otherwise
        if isinstance(self.paper, float) and not _close(self.paper, exact, 1e-9):
            return self.otherwise
        return "holds"


def _close(x: float, y: float, tolerance: float) -> bool:
    # NaN is close to nothing.
    return abs(x - y) <= tolerance * max(1.0, abs(y))


def positive_share(q: Any, fpr: float, fnr: float) -> Any:
    """Pr(label positive) of truths that are positive with probability ``q``."""
    return (1 - fnr) * q + fpr * (1 - q)


def both(
    name: str, *arguments: Any, part: int | Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    """``exact`` and ``simulate`` of a closed form in :mod:`theory.simulate`; ``part``
    is what to take of its value: a component, or a sum of components, whose standard
    error is at most the sum of theirs.
    """
    twin = getattr(simulate, name)

    def taken(value: Any) -> Any:
        if part is None:
            return value
        return value[part] if isinstance(part, int) else part(value)

    def drawn(rng: np.random.Generator, draws: int) -> tuple[float, float]:
        value, se = twin(*arguments, rng=rng, draws=draws)
        return float(taken(value)), float(taken(se))

    return {"exact": lambda: taken(twin.closed_form(*arguments)), "simulate": drawn}


def autodiff_gradient(function: Callable[[Any], Any], at: Any) -> np.ndarray:
    """``jax.grad`` in float64."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.grad(function))(np.asarray(at, np.float64)))


def autodiff_hessian(function: Callable[[Any], Any], at: Any) -> np.ndarray:
    """``jax.hessian`` in float64."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.hessian(function))(np.asarray(at, np.float64)))


def half_mean_squared_difference(values: Any) -> float:
    """Variance of the values (population), from all pairs of them."""
    pairs = [(x - y) ** 2 for x in values for y in values]
    return float(sum(pairs) / (2 * len(values) ** 2))


def label_information(q: float, wrong: Any, right: Any) -> float:
    """Information of a label on the logit of ``q``, the probability of its truth: the
    curvature of the expected log-likelihood, by autodiff.

    Args:
        q: in (0, 1).
        wrong: distribution of the label where the truth is 0, ``[values]``.
        right: likewise where it is 1.
    """
    wrong, right = np.asarray(wrong), np.asarray(right)
    marginal = q * right + (1 - q) * wrong

    def negative_log_likelihood(z):
        truth = 1 / (1 + jnp.exp(-z))
        return -jnp.sum(marginal * jnp.log(truth * right + (1 - truth) * wrong))

    return float(autodiff_hessian(negative_log_likelihood, np.log(q / (1 - q))))
