"""Laws of the one-shot success probabilities r of a rollout's steps.

Every model has a few numbers for the whole corpus and takes from a source only its
mean MC score and its lengths; the annotator then draws K | r ~ Binomial(N, r). All
expectations are exact up to quadrature (:mod:`sim.corpus.quadrature`): no simulation.

| model | r of a step | free |
|---|---|---|
| ``HierarchicalBeta(inf, k)`` | independent Beta(k mu, k (1 - mu)) | k |
| ``HierarchicalBeta(k0, inf)`` | one per rollout, u ~ Beta(k0 mu, k0 (1 - mu)) | k0 |
| ``HierarchicalBeta(k0, k)`` | Beta(k u, k (1 - u)) around the rollout's u | k0, k |
| ``Martingale(k0, k)`` | Beta(k r', k (1 - r')) around the r' one step before | k0, k |
| ``TwoStateChain(c, spread, False)`` | difficulty and absorbing error | c, spread |
| ``TwoStateChain(c, spread, True)`` | difficulty, good/bad with repair | c, spread |
| ``WithAllNegative(model, share)`` | 0 in a share of the rollouts | of the model |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.polynomial import chebyshev
from scipy.optimize import root_scalar

from sim.corpus.quadrature import beta_rule
from sim.corpus.sources import LengthLaw
from theory.beta_binomial import positive_label_prob
from theory.domain import check_probability

# What a corpus can tell of a concentration: below, r is 0 or 1; above, constant.
CONCENTRATIONS = (1e-2, 1e4)

# Functions of r are kept by their values at so many Chebyshev nodes. They are
# polynomials no steeper than a few times (1 - r)^N, so that 64 are enough (tested).
_GRID = 64

Range = tuple[float, float]


class LabelExpectation(NamedTuple):
    """Expected hard labels y = 1[K > 0] of a source.

    Attributes:
        negative_steps: negative steps per rollout.
        all_negative: share of rollouts whose steps are all negative.
        all_positive: share of rollouts whose steps are all positive.
    """

    negative_steps: float
    all_negative: float
    all_positive: float


class Latent(NamedTuple):
    """What lies behind the counts.

    Attributes:
        r: one-shot success probability of each step, float64 ``[n_steps]``.
        good: whether the chain is still right after the step, boolean ``[n_steps]``;
            None for models without a state.
    """

    r: np.ndarray
    good: np.ndarray | None


class CorpusModel(Protocol):
    """A law of r within rollouts, given a source's mean MC and lengths."""

    def draw(
        self,
        mean_mc: float,
        law: LengthLaw,
        lengths: np.ndarray,
        rng: np.random.Generator,
    ) -> Latent:
        """Latent steps of rollouts with these lengths, rollout after rollout.

        Raises:
            ValueError: the model has no parameter of the source with this mean MC.
        """
        ...

    def labels(self, mean_mc: float, law: LengthLaw, trials: int) -> LabelExpectation:
        """Expected labels of a source annotated with ``trials`` continuations.

        Raises:
            ValueError: the model has no parameter of the source with this mean MC.
        """
        ...

    def free(self, lowest_mean: float) -> dict[str, Range]:
        """Range of each parameter that calibration may move; one at inf stays there.

        Args:
            lowest_mean: smallest mean MC of a source; every value in the ranges can
                reach it.
        """
        ...

    def at(self, values: Mapping[str, float]) -> Self:
        """The model with these values of free parameters."""
        return replace(self, **values)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Concentrated(CorpusModel):
    """A law of two concentrations, between rollouts and within one.

    Raises:
        ValueError: a concentration is not positive.
    """

    k0: float
    k: float

    def __post_init__(self) -> None:
        check_concentration("k0", self.k0)
        check_concentration("k", self.k)

    def free(self, lowest_mean: float) -> dict[str, Range]:
        """The concentrations that are finite."""
        finite = (name for name in ("k0", "k") if np.isfinite(getattr(self, name)))
        return dict.fromkeys(finite, CONCENTRATIONS)


class HierarchicalBeta(_Concentrated):
    """Rollout difficulty u_x ~ Beta(k0 mu, k0 (1 - mu)); r_j | u_x ~ Beta(k u_x,
    k (1 - u_x)) independently: steps of a rollout are exchangeable.

    The default: with two numbers the simplest that meets both shares of the paper's
    corpus. Its steps have no order, so it says nothing about position.

    Attributes:
        k0: concentration between rollouts, > 0; inf makes the steps independent.
        k: concentration within a rollout, > 0; inf makes r constant over a rollout.
    """

    def draw(
        self,
        mean_mc: float,
        law: LengthLaw,
        lengths: np.ndarray,
        rng: np.random.Generator,
    ) -> Latent:
        """One u per rollout, then one r per step; see :class:`CorpusModel`."""
        u = draw_beta(np.full(len(lengths), mean_mc), self.k0, rng)
        return Latent(draw_beta(np.repeat(u, lengths), self.k, rng), None)

    def labels(self, mean_mc: float, law: LengthLaw, trials: int) -> LabelExpectation:
        """With z(u) = Pr(K = 0 | u) and G the generating function of n: E[n] E[z],
        E[G(z)] and E[G(1 - z)], the expectations over u.
        """
        u, weight = beta_rule(mean_mc, self.k0)
        z = zero_probability(u, self.k, trials)
        return LabelExpectation(
            negative_steps=float(law.mean * (weight @ z)),
            all_negative=float(weight @ law.pgf(z)),
            all_positive=float(weight @ law.pgf(1 - z)),
        )


class Martingale(_Concentrated):
    """r_0 ~ Beta(k0 mu, k0 (1 - mu)); r_j | r_{j-1} ~ Beta(k r_{j-1}, k (1 - r_{j-1})).

    What on-policy continuations force, E[r_j | r_{j-1}] = r_{j-1}, and no more; the
    last step does not yet reveal whether the answer is right.

    Attributes:
        k0: concentration between rollouts, > 0 or inf.
        k: concentration of a step's change, > 0; inf makes r constant over a rollout.
    """

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


@dataclass(frozen=True)
class TwoStateChain(CorpusModel):
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

    def free(self, lowest_mean: float) -> dict[str, Range]:
        """The spread if finite, then the recovery.

        A rollout that slips at every step ends right with at most c.
        """
        spread = {"spread": CONCENTRATIONS} if np.isfinite(self.spread) else {}
        return spread | {"recovery": (1e-3, 0.99 * lowest_mean)}


@dataclass(frozen=True)
class WithAllNegative:
    """r = 0 throughout a share of the rollouts, another model in the rest.

    The rest has mean MC ``mean / (1 - share)``, so that the source keeps its mean.

    Attributes:
        base: model of the other rollouts.
        share: in [0, 1).

    Raises:
        ValueError: the share is outside its range.
    """

    base: CorpusModel
    share: float

    def __post_init__(self) -> None:
        check_probability("share", self.share)
        if self.share == 1:
            raise ValueError("share must be below 1")

    def draw(
        self,
        mean_mc: float,
        law: LengthLaw,
        lengths: np.ndarray,
        rng: np.random.Generator,
    ) -> Latent:
        """See :class:`CorpusModel`; steps of a hopeless rollout are bad."""
        r, good = self.base.draw(self._rest(mean_mc), law, lengths, rng)
        hope = np.repeat(rng.random(len(lengths)) >= self.share, lengths)
        return Latent(r * hope, None if good is None else good & hope)

    def labels(self, mean_mc: float, law: LengthLaw, trials: int) -> LabelExpectation:
        """The mixture of both kinds of rollouts."""
        base = self.base.labels(self._rest(mean_mc), law, trials)
        rest = 1 - self.share
        return LabelExpectation(
            negative_steps=self.share * law.mean + rest * base.negative_steps,
            all_negative=self.share + rest * base.all_negative,
            all_positive=rest * base.all_positive,
        )

    def free(self, lowest_mean: float) -> dict[str, Range]:
        """The free parameters of the base; the share stays."""
        return self.base.free(self._rest(lowest_mean))

    def at(self, values: Mapping[str, float]) -> WithAllNegative:
        """See :class:`CorpusModel`."""
        return replace(self, base=self.base.at(values))

    def _rest(self, mean_mc: float) -> float:
        rest = mean_mc / (1 - self.share)
        if rest > 1:
            raise ValueError(
                f"a mean MC of {mean_mc:.4g} leaves no room for a share of "
                f"{self.share:.4g} all-negative rollouts"
            )
        return rest


def draw_beta(
    mean: np.ndarray, concentration: float, rng: np.random.Generator
) -> np.ndarray:
    """Beta(k m, k (1 - m)) for each mean m; m itself for k = inf."""
    if np.isinf(concentration):
        return mean.copy()
    return rng.beta(*_shapes(mean, concentration))


def zero_probability(mean: np.ndarray, concentration: float, trials: int) -> np.ndarray:
    """Pr(K = 0) of N continuations, r ~ Beta(k m, k (1 - m)), for each mean m.

    The beta-binomial's; ``(1 - m)^N`` for k = inf.
    """
    if np.isinf(concentration):
        return (1 - mean) ** trials
    return 1 - positive_label_prob(*_shapes(mean, concentration), trials)


def _shapes(mean: np.ndarray, concentration: float) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of the Beta law; a mean that underflowed to 0 or 1 would have none, and
    this near to it no count can tell.
    """
    inside = np.clip(mean, 1e-16, 1 - 2.0**-53)
    return concentration * inside, concentration * (1 - inside)


def check_concentration(name: str, value: float) -> None:
    """Refuse a concentration that is not in (0, inf].

    Raises:
        ValueError: it is not positive.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive or inf, not {value}")


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
