"""Sources of a corpus: what is known of each, and how many steps its rollouts have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from theory import paper
from theory.domain import check_count, check_probability
from theory.rollouts import Rollouts
from theory.summary import by_source, summarise


@dataclass(frozen=True)
class Source:
    """Size and mean MC score of one source.

    Attributes:
        name: as in the corpus.
        mean_mc: mean MC score of its steps, in [0, 1].
        steps: number of steps, at least one per rollout.
        rollouts: number of rollouts, at least 1.

    Raises:
        ValueError: a value is outside its range.
    """

    name: str
    mean_mc: float
    steps: int
    rollouts: int

    def __post_init__(self) -> None:
        check_probability(f"mean_mc of {self.name}", self.mean_mc)
        check_count(f"rollouts of {self.name}", self.rollouts, 1)
        check_count(f"steps of {self.name}", self.steps, self.rollouts)

    @property
    def mean_steps(self) -> float:
        """Steps per rollout, at least 1."""
        return self.steps / self.rollouts

    @property
    def length_law(self) -> LengthLaw:
        """Law of the number of steps of its rollouts."""
        return LengthLaw.of_mean(self.mean_steps)


@dataclass(frozen=True)
class LengthLaw:
    """Steps per rollout: ``n = minimum + Poisson(rate)``.

    An assumption: the paper gives only the mean of each source.

    Attributes:
        minimum: fewest steps.
        rate: mean number of steps beyond the minimum, at least 0.
    """

    minimum: int
    rate: float

    @classmethod
    def of_mean(cls, mean: float) -> LengthLaw:
        """The law with this mean: at least two steps (a thought and the final answer)
        where the mean allows it, else at least one.

        Raises:
            ValueError: the mean is below 1 or not finite.
        """
        if not 1 <= mean < np.inf:
            raise ValueError(f"mean steps per rollout must be at least 1, not {mean}")
        minimum = 2 if mean >= 2 else 1
        return cls(minimum, mean - minimum)

    @property
    def mean(self) -> float:
        """Mean number of steps."""
        return self.minimum + self.rate

    def draw(self, rollouts: int, rng: np.random.Generator) -> np.ndarray:
        """Lengths of so many rollouts, int64 ``[rollouts]``."""
        return self.minimum + rng.poisson(self.rate, rollouts)

    def pmf(self) -> np.ndarray:
        """``Pr(n)`` for n = 0, 1, ... until less than 1e-14 is left, float64."""
        last = int(stats.poisson.isf(1e-14, self.rate))
        beyond = stats.poisson.pmf(np.arange(last + 1), self.rate)
        return np.concatenate([np.zeros(self.minimum), beyond])

    def pgf(self, t: np.ndarray) -> np.ndarray:
        """``E[t^n] = t^minimum exp(rate (t - 1))``, elementwise."""
        return t**self.minimum * np.exp(self.rate * (t - 1))

    def step_weighted_pgf(self, t: np.ndarray) -> np.ndarray:
        """``E[n t^n] / E[n]``, elementwise: the mean over steps of ``t^n``."""
        return self.pgf(t) * (self.minimum + self.rate * t) / self.mean


def sources_of(rollouts: Rollouts) -> tuple[Source, ...]:
    """Mean MC (of the measured steps) and size of each source that has rollouts.

    Raises:
        ValueError: a source has no measured step.
    """
    summaries = {
        name: summarise(rollouts.take(rows))
        for name, rows in by_source(rollouts).items()
    }
    return tuple(
        Source(name, summary.mean_mc, summary.steps, summary.rollouts)
        for name, summary in summaries.items()
    )


# Table 8.
PAPER_SOURCES = tuple(Source(*row) for row in paper.SOURCES)
