"""Corpus models whose steps have an order: a martingale, and good/bad chains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy.optimize import root_scalar

from sim.corpus.laws import (
    CONCENTRATIONS,
    HierarchicalBeta,
    LabelExpectation,
    Latent,
    check_concentration,
    draw_beta,
)
from sim.corpus.quadrature import beta_rule
from sim.corpus.sources import LengthLaw
from theory.domain import check_probability

# Functions of r are kept by their values at so many Chebyshev nodes. They are
# polynomials no steeper than a few times (1 - r)^N, so that 64 are enough (tested).
_GRID = 64


@dataclass(frozen=True)
class Martingale:
    """r_0 ~ Beta(k0 mu, k0 (1 - mu)); r_j | r_{j-1} ~ Beta(k r_{j-1}, k (1 - r_{j-1})).

    What on-policy continuations force, E[r_j | r_{j-1}] = r_{j-1}, and no more; the
    last step does not yet reveal whether the answer is right.

    Attributes:
        k0: concentration between rollouts, > 0 or inf.
        k: concentration of a step's change, > 0; inf makes r constant over a rollout.

    Raises:
        ValueError: a concentration is not positive.
    """

    k0: float
    k: float

    def __post_init__(self) -> None:
        check_concentration("k0", self.k0)
        check_concentration("k", self.k)

    def draw(
        self,
        mean_mc: float,
        law: LengthLaw,
        lengths: np.ndarray,
        rng: np.random.Generator,
    ) -> Latent:
        """Position after position; see :class:`CorpusModel`."""
        first = np.cumsum(lengths) - lengths
        r = np.empty(int(lengths.sum()))
        now = draw_beta(np.full(len(lengths), mean_mc), self.k0, rng)
        for j in range(int(lengths.max(initial=0))):
            alive = lengths > j
            now[alive] = draw_beta(now[alive], self.k, rng)
            r[first[alive] + j] = now[alive]
        return Latent(r, None)

    def labels(self, mean_mc: float, law: LengthLaw, trials: int) -> LabelExpectation:
        """By backward recursion over the steps left, on a grid of r."""
        if np.isinf(self.k):
            return HierarchicalBeta(self.k0, self.k).labels(mean_mc, law, trials)
        pmf = law.pmf()
        r0, weight = beta_rule(mean_mc, self.k0)
        # One table serves all sources: lengths are rounded up to a multiple of 64.
        counts = _martingale_counts(self.k, trials, -(-len(pmf) // 64) * 64)
        start = weight @ _interpolation(r0)
        return LabelExpectation(*(float(pmf @ (c[: len(pmf)] @ start)) for c in counts))

    def free(self, lowest_mean: float) -> tuple[tuple[float, float], ...]:
        """The concentrations that are finite."""
        return HierarchicalBeta(self.k0, self.k).free(lowest_mean)

    def at(self, values: tuple[float, ...]) -> Martingale:
        """See :class:`CorpusModel`; a concentration at inf stays there."""
        moved = HierarchicalBeta(self.k0, self.k).at(values)
        return Martingale(moved.k0, moved.k)


@dataclass(frozen=True)
class TwoStateChain:
    """Good until a slip; r is the chance to end right from where the rollout stands.

    Each step slips with h from good, h solved from the source's mean. A rollout's
    difficulty is its chance v ~ Beta(spread c, spread (1 - c)) to recover from error:

    - ``repairs=False``: an error is absorbing; a chain that ends bad still hits the
      answer with v. The last step holds the answer in all but name: there r is 1 or v.
    - ``repairs=True``: each step returns from bad to good with v; the answer follows
      one unseen step after the last, else every rollout would end with r in {0, 1} and
      the mixed share would be near 1 - mean MC whatever the parameters.

    The rollout and its continuations obey one law, so r is a martingale.

    Attributes:
        recovery: c, mean chance to recover, in (0, 1).
        spread: concentration of v between rollouts, > 0; inf makes them alike.
        repairs: whether single steps repair.

    Raises:
        ValueError: a value is outside its range.
    """

    recovery: float
    spread: float
    repairs: bool

    def __post_init__(self) -> None:
        check_probability("recovery", self.recovery)
        if self.recovery in (0, 1):
            raise ValueError(f"recovery must be in (0, 1), not {self.recovery}")
        check_concentration("spread", self.spread)

    def chance(
        self, slip: np.ndarray | float, v: np.ndarray, left: np.ndarray | int
    ) -> tuple[np.ndarray, np.ndarray]:
        """r from good and from bad with ``left`` visible steps to go, broadcast.

        ``Pr(end good | good, m) = pi + (1 - pi) t^m`` and ``pi (1 - t^m)`` from bad, of
        the two-state chain with pi = c / (h + c) and t = 1 - h - c.
        """
        if not self.repairs:
            return v + (1 - v) * (1 - slip) ** left, np.broadcast_arrays(v, left)[0]
        # A chain that cannot move needs no long run: 0 serves for its 0/0.
        long_run = v / np.maximum(slip + v, np.finfo(float).tiny)
        memory = (1 - slip - v) ** (left + 1)
        return long_run + (1 - long_run) * memory, long_run * (1 - memory)

    def slip(self, mean_mc: float, law: LengthLaw) -> float:
        """h, the slip rate that gives a source this mean MC.

        r is a martingale, so every step of a rollout has the mean of its start, and
        ``E[n r_start] / E[n]`` takes :meth:`chance` with t^m replaced by the
        step-weighted generating function of n.

        Raises:
            ValueError: even a slip at every step leaves the mean above ``mean_mc``.
        """
        v, weight = beta_rule(self.recovery, self.spread)

        def excess(h: float) -> float:
            if self.repairs:
                t = 1 - h - v
                long_run = v / (h + v)
                start = long_run + (1 - long_run) * t * law.step_weighted_pgf(t)
            else:
                start = v + (1 - v) * law.step_weighted_pgf(np.full_like(v, 1 - h))
            return float(weight @ start) - mean_mc

        if mean_mc == 1:
            return 0.0
        if excess(1.0) > 0:
            raise ValueError(
                f"{self} cannot have a mean MC as low as {mean_mc:.4g}: "
                f"a slip at every step gives {excess(1.0) + mean_mc:.4g}"
            )
        return root_scalar(excess, bracket=(0.0, 1.0), xtol=1e-15).root

    def draw(
        self,
        mean_mc: float,
        law: LengthLaw,
        lengths: np.ndarray,
        rng: np.random.Generator,
    ) -> Latent:
        """Position after position; see :class:`CorpusModel`."""
        h = self.slip(mean_mc, law)
        v = draw_beta(np.full(len(lengths), self.recovery), self.spread, rng)
        first = np.cumsum(lengths) - lengths
        r = np.empty(int(lengths.sum()))
        good = np.empty(len(r), np.bool_)
        now = np.ones(len(lengths), np.bool_)
        for j in range(int(lengths.max(initial=0))):
            alive = np.flatnonzero(lengths > j)
            back = v[alive] if self.repairs else 0.0
            now[alive] ^= rng.random(len(alive)) < np.where(now[alive], h, back)
            if_good, if_bad = self.chance(h, v[alive], lengths[alive] - j - 1)
            good[first[alive] + j] = now[alive]
            r[first[alive] + j] = np.where(now[alive], if_good, if_bad)
        return Latent(r, good)

    def labels(self, mean_mc: float, law: LengthLaw, trials: int) -> LabelExpectation:
        """By backward recursion over the steps left, given v."""
        h = self.slip(mean_mc, law)
        v, weight = beta_rule(self.recovery, self.spread)
        pmf = law.pmf()
        r = np.stack(self.chance(h, v, np.arange(len(pmf) - 1)[:, None]), axis=-1)
        transition = np.empty((len(v), 2, 2))
        transition[:, 0] = 1 - h, h
        transition[:, 1, 0] = v if self.repairs else 0.0
        transition[:, 1, 1] = 1 - transition[:, 1, 0]
        counts = label_recursion(transition, (1 - r) ** trials)
        # Good before the first step.
        return LabelExpectation(*(float(pmf @ (x[..., 0] @ weight)) for x in counts))

    def free(self, lowest_mean: float) -> tuple[tuple[float, float], ...]:
        """The spread if finite, then the recovery.

        A rollout that slips at every step ends right with at most c.
        """
        spread = (CONCENTRATIONS,) if np.isfinite(self.spread) else ()
        return (*spread, (1e-3, 0.99 * lowest_mean))

    def at(self, values: tuple[float, ...]) -> TwoStateChain:
        """See :class:`CorpusModel`; a spread at inf stays there."""
        spread = values[0] if np.isfinite(self.spread) else self.spread
        return TwoStateChain(values[-1], spread, self.repairs)


def label_recursion(
    transition: np.ndarray, zero: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected labels of rollouts of 0, 1, ..., M steps, from each state before them.

    With z_m(s) = Pr(K = 0 | state s, m steps left) and T the transition of one step:
    ``C_{m+1} = T (z_m + C_m)``, ``A_{m+1} = T (z_m A_m)``, ``B_{m+1} = T ((1 - z_m)
    B_m)``, from 0, 1 and 1: negatives, Pr(all negative), Pr(all positive).

    Args:
        transition: T, rows sum to 1, ``[..., S, S]``.
        zero: z, ``[M, ..., S]``.

    Returns:
        C, A, B as :class:`LabelExpectation` orders them, ``[M + 1, ..., S]`` each.
    """

    after = np.zeros((len(zero) + 1, *zero.shape[1:], 3))
    after[0, ..., 1:] = 1.0
    for m, z in enumerate(zero):
        negatives, all_negative, all_positive = np.moveaxis(after[m], -1, 0)
        here = z + negatives, z * all_negative, (1 - z) * all_positive
        after[m + 1] = transition @ np.stack(here, axis=-1)
    return after[..., 0], after[..., 1], after[..., 2]


def _grid() -> np.ndarray:
    """Chebyshev nodes of the first kind on (0, 1), ``[_GRID]``."""
    return (1 + chebyshev.chebpts1(_GRID)) / 2


@lru_cache(maxsize=1)
def _to_coefficients() -> np.ndarray:
    return np.linalg.inv(chebyshev.chebvander(2 * _grid() - 1, _GRID - 1))


def _interpolation(r: np.ndarray) -> np.ndarray:
    """Matrix from values on the grid to values at r, ``[len(r), _GRID]``."""
    return chebyshev.chebvander(2 * r - 1, _GRID - 1) @ _to_coefficients()


@lru_cache(maxsize=64)
def _martingale_counts(
    k: float, trials: int, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`label_recursion` of the martingale on the grid, ``[longest + 1, _GRID]``.

    The transition takes the expectation over r' ~ Beta(k r, k (1 - r)) of the
    interpolant: a matrix, since E is linear in the values on the grid.
    """
    grid = _grid()
    # Exact for the interpolant, whose degree is below _GRID.
    rules = (beta_rule(r, k, _GRID // 2) for r in grid)
    transition = np.stack([weight @ _interpolation(x) for x, weight in rules])
    zero = np.broadcast_to((1 - grid) ** trials, (longest, _GRID))
    return label_recursion(transition, zero)
