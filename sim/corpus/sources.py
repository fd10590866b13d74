"""Sources of a corpus: what is known of each, and how many steps its rollouts have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

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


# Table 8 of the paper (arXiv 2602.04145v2). Its columns sum to 3,174,492 steps and
# 565,149 rollouts with a step-weighted mean MC of 0.860, where Table 1 gives 3,174,394,
# 565,096 and 0.8566; the paper does not explain the difference.
PAPER_SOURCES: tuple[Source, ...] = (
    Source("AI2D", 0.9409, 146_419, 28_147),
    Source("ChartQA", 0.9078, 136_655, 28_049),
    Source("CLEVR", 0.9106, 109_317, 24_004),
    Source("COCO-ReM (Y/N)", 0.8933, 55_628, 18_450),
    Source("DocVQA", 0.8663, 85_589, 21_049),
    Source("DVQA", 0.9453, 177_352, 35_367),
    Source("FigureQA", 0.7615, 57_601, 12_345),
    Source("Geo170K", 0.9023, 61_314, 8_205),
    Source("Geometry3K", 0.9243, 94_624, 11_756),
    Source("Geometry3K (Open)", 0.8707, 58_569, 7_090),
    Source("GeomVerse", 0.6819, 38_156, 7_765),
    Source("GeoQA+ (Open)", 0.5720, 45_287, 7_025),
    Source("GeoQA+ (MC)", 0.8486, 67_715, 9_216),
    Source("GEOS", 0.9061, 16_847, 1_827),
    Source("GEOS (Open)", 0.8217, 1_563, 178),
    Source("IconQA", 0.8908, 121_873, 25_811),
    Source("InfographicVQA", 0.7645, 78_408, 17_996),
    Source("KonIQ-10k", 0.8822, 72_430, 13_337),
    Source("M3CoT", 0.8811, 115_649, 19_476),
    Source("MAPQA-SUV", 0.7260, 48_368, 12_366),
    Source("MathV360K", 0.8759, 107_503, 20_132),
    Source("MAVIS-Abs", 0.8104, 166_756, 16_530),
    Source("MAVIS-Cos", 0.8057, 86_393, 9_174),
    Source("MAVIS-Log", 0.7357, 162_713, 15_422),
    Source("MAVIS-Poly", 0.8836, 206_293, 23_461),
    Source("MAVIS-Sin", 0.8231, 88_130, 9_675),
    Source("MAVIS-Tan", 0.8027, 60_391, 6_180),
    Source("MAVIS-Geo-0", 0.9280, 78_764, 13_149),
    Source("MAVIS-Geo-1", 0.8765, 37_760, 6_728),
    Source("MAVIS-Geo-2", 0.7990, 25_851, 4_801),
    Source("MAVIS-Geo-3", 0.7719, 19_080, 3_706),
    Source("NLVR2", 0.9672, 96_072, 26_439),
    Source("ScienceQA", 0.9723, 186_894, 34_523),
    Source("SROIE", 0.8708, 83_389, 18_074),
    Source("Super-CLEVR (Int)", 0.7325, 37_279, 12_070),
    Source("Super-CLEVR (Y/N)", 0.7713, 33_171, 10_440),
    Source("UniGeo", 0.6015, 41_523, 6_299),
    Source("VQAv2", 0.8253, 67_166, 18_887),
)
