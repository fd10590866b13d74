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

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import numpy as np

from sim.corpus.quadrature import beta_rule
from sim.corpus.sources import LengthLaw
from theory.beta_binomial import positive_label_prob
from theory.domain import check_probability

# What a corpus can tell of a concentration: below, r is 0 or 1; above, constant.
CONCENTRATIONS = (1e-2, 1e4)


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

    def free(self, lowest_mean: float) -> tuple[tuple[float, float], ...]:
        """Range of each parameter that calibration may move, in the order of ``at``.

        Args:
            lowest_mean: smallest mean MC of a source; every value in the ranges can
                reach it.
        """
        ...

    def at(self, values: tuple[float, ...]) -> Self:
        """The model with these free parameters."""
        ...


@dataclass(frozen=True)
class HierarchicalBeta:
    """Rollout difficulty u_x ~ Beta(k0 mu, k0 (1 - mu)); r_j | u_x ~ Beta(k u_x,
    k (1 - u_x)) independently: steps of a rollout are exchangeable.

    The default: with two numbers the simplest that meets both shares of the paper's
    corpus. Its steps have no order, so it says nothing about position.

    Attributes:
        k0: concentration between rollouts, > 0; inf makes the steps independent.
        k: concentration within a rollout, > 0; inf makes r constant over a rollout.

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

    def free(self, lowest_mean: float) -> tuple[tuple[float, float], ...]:
        """The concentrations that are finite."""
        return (CONCENTRATIONS,) * sum(map(np.isfinite, (self.k0, self.k)))

    def at(self, values: tuple[float, ...]) -> HierarchicalBeta:
        """See :class:`CorpusModel`; a concentration at inf stays there."""
        rest = iter(values)
        return HierarchicalBeta(
            *(next(rest) if np.isfinite(old) else old for old in (self.k0, self.k))
        )


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

    def free(self, lowest_mean: float) -> tuple[tuple[float, float], ...]:
        """The free parameters of the base; the share stays."""
        return self.base.free(self._rest(lowest_mean))

    def at(self, values: tuple[float, ...]) -> WithAllNegative:
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
