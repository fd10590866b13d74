"""Every number of the paper (arXiv 2602.04145v2), each once, with its table.

The paper: "Training Data Efficiency in Multimodal Process Reward Models". Shares are in
[0, 1]; micro-F1 and accuracies are in %, as printed, one training run each. Nothing is
imported but the standard library, so that every command can read them.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import NamedTuple

# The two models that the paper trains, in the order of its tables; every pair of
# results below is of these two.
BACKBONES = ("InternVL2.5-8B", "Qwen2.5-VL-7B")


class Corpus(NamedTuple):
    """Statistics of a corpus.

    Attributes:
        rollouts: number of them.
        steps: number of them.
        steps_per_rollout: mean, as printed.
        words_per_step: mean.
        error_step_ratio: share of steps with K = 0.
        mean_mc: mean MC score of the steps.
        mixed_share: share of rollouts with both labels.
    """

    rollouts: int
    steps: int
    steps_per_rollout: float
    words_per_step: float
    error_step_ratio: float
    mean_mc: float
    mixed_share: float


# Table 1, row "full data", of VisualPRM400K-v1.1; words per step from the text.
FULL_DATA = Corpus(
    rollouts=565_096,
    steps=3_174_394,
    steps_per_rollout=5.62,
    words_per_step=27.8,
    error_step_ratio=0.0357,
    mean_mc=0.8566,
    mixed_share=0.0767,
)

# Continuations of each step of the corpus, N (Section 3), and candidates of a problem
# (Table 3).
TRIALS = 16
CANDIDATES = 16


# Table 8: source, mean MC score, steps, rollouts. Its columns sum to 53 rollouts and 98
# steps more than Table 1 has, with a step-weighted mean MC of 0.860; the paper does not
# explain the difference.
SOURCES = (
    ("AI2D", 0.9409, 146_419, 28_147),
    ("ChartQA", 0.9078, 136_655, 28_049),
    ("CLEVR", 0.9106, 109_317, 24_004),
    ("COCO-ReM (Y/N)", 0.8933, 55_628, 18_450),
    ("DocVQA", 0.8663, 85_589, 21_049),
    ("DVQA", 0.9453, 177_352, 35_367),
    ("FigureQA", 0.7615, 57_601, 12_345),
    ("Geo170K", 0.9023, 61_314, 8_205),
    ("Geometry3K", 0.9243, 94_624, 11_756),
    ("Geometry3K (Open)", 0.8707, 58_569, 7_090),
    ("GeomVerse", 0.6819, 38_156, 7_765),
    ("GeoQA+ (Open)", 0.5720, 45_287, 7_025),
    ("GeoQA+ (MC)", 0.8486, 67_715, 9_216),
    ("GEOS", 0.9061, 16_847, 1_827),
    ("GEOS (Open)", 0.8217, 1_563, 178),
    ("IconQA", 0.8908, 121_873, 25_811),
    ("InfographicVQA", 0.7645, 78_408, 17_996),
    ("KonIQ-10k", 0.8822, 72_430, 13_337),
    ("M3CoT", 0.8811, 115_649, 19_476),
    ("MAPQA-SUV", 0.7260, 48_368, 12_366),
    ("MathV360K", 0.8759, 107_503, 20_132),
    ("MAVIS-Abs", 0.8104, 166_756, 16_530),
    ("MAVIS-Cos", 0.8057, 86_393, 9_174),
    ("MAVIS-Log", 0.7357, 162_713, 15_422),
    ("MAVIS-Poly", 0.8836, 206_293, 23_461),
    ("MAVIS-Sin", 0.8231, 88_130, 9_675),
    ("MAVIS-Tan", 0.8027, 60_391, 6_180),
    ("MAVIS-Geo-0", 0.9280, 78_764, 13_149),
    ("MAVIS-Geo-1", 0.8765, 37_760, 6_728),
    ("MAVIS-Geo-2", 0.7990, 25_851, 4_801),
    ("MAVIS-Geo-3", 0.7719, 19_080, 3_706),
    ("NLVR2", 0.9672, 96_072, 26_439),
    ("ScienceQA", 0.9723, 186_894, 34_523),
    ("SROIE", 0.8708, 83_389, 18_074),
    ("Super-CLEVR (Int)", 0.7325, 37_279, 12_070),
    ("Super-CLEVR (Y/N)", 0.7713, 33_171, 10_440),
    ("UniGeo", 0.6015, 41_523, 6_299),
    ("VQAv2", 0.8253, 67_166, 18_887),
)

# BIS (Section 4): the default of alpha, and the two worked examples there, as counts of
# 16 and the score.
ALPHA = 0.05
WORKED_EXAMPLES = (
    ((14, 14, 15, 14, 0, 0, 0, 0, 0, 0), 0.25828125),
    ((9, 11, 11, 1, 0, 0, 0, 0), 0.15),
)


class Training(NamedTuple):
    """Settings of all trainings.

    Attributes:
        batch_size: rollouts per update, B.
        learning_rate: highest of the schedule.
        weight_decay: of AdamW, decoupled.
        betas: of AdamW's moments.
        epsilon: of AdamW.
        warmup: share of the updates with linear warm-up; cosine to zero after it.
        clip_norm: of the gradient's global norm.
        max_tokens: of a prompt, cut at its end.
        tile_pixels: side of InternVL2.5's tiles.
        max_tiles: of an image in InternVL2.5, the thumbnail not counted.
        min_pixels: of an image in Qwen2.5-VL.
        max_pixels: likewise.
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    warmup: float
    clip_norm: float
    max_tokens: int
    tile_pixels: int
    max_tiles: int
    min_pixels: int
    max_pixels: int


# Table 7.
TRAINING = Training(
    batch_size=512,
    learning_rate=1e-5,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    epsilon=1e-8,
    warmup=0.05,
    clip_norm=1.0,
    max_tokens=8192,
    tile_pixels=448,
    max_tiles=6,
    min_pixels=784,
    max_pixels=200_704,
)


def updates(keep_ratio: float) -> int:
    """T = ceil(rho N / B) of the paper's single pass over a share of the rollouts."""
    return math.ceil(keep_ratio * FULL_DATA.rollouts / TRAINING.batch_size)


class Benchmark(NamedTuple):
    """What VisualProcessBench holds.

    Attributes:
        solutions: of each source.
        correct: steps that people judged correct.
        incorrect: steps that they judged wrong.
        neutral: steps that they judged neither, which do not count.
        steps_per_solution: mean, as printed.
    """

    solutions: MappingProxyType[str, int]
    correct: int
    incorrect: int
    neutral: int
    steps_per_solution: float

    @property
    def steps(self) -> int:
        """Judged steps, the neutral ones included."""
        return self.correct + self.incorrect + self.neutral

    @property
    def correct_share(self) -> float:
        """Share of the correct steps among those that count."""
        return self.correct / (self.correct + self.incorrect)


VISUAL_PROCESS_BENCH = Benchmark(
    solutions=MappingProxyType(
        {
            "MMMU": 267,
            "MathVision": 712,
            "MathVerse": 1026,
            "DynaMath": 570,
            "WeMath": 291,
        }
    ),
    correct=16_585,
    incorrect=7_691,
    neutral=2_674,
    steps_per_solution=9.4,
)

# Overall micro-F1 of Random and of BIS: keep ratio -> (InternVL2.5, Qwen2.5-VL).
RANDOM = MappingProxyType(
    {
        0.05: (63.34, 53.54),
        0.1: (62.86, 61.99),
        0.15: (63.27, 59.82),
        0.25: (63.37, 64.44),
        0.35: (63.52, 64.77),
        0.5: (64.02, 64.54),
    }
)
BIS = MappingProxyType(
    {
        0.05: (64.51, 64.42),
        0.1: (65.46, 64.63),
        0.15: (64.98, 65.29),
        0.25: (65.46, 65.53),
        0.35: (64.98, 65.69),
        0.5: (65.00, 65.02),
    }
)

# Micro-F1 of all data by kind of label (Table 2), and of the untrained base.
LABELS = MappingProxyType(
    {
        "K > 0": (65.12, 65.57),
        "K > 1": (64.26, 65.27),
        "K > 2": (63.02, 62.72),
        "soft": (61.54, 62.23),
    }
)
FULL = LABELS["K > 0"]
BASE = (52.28, 49.68)

# Micro-F1 at 25 %, InternVL2.5: by rule (Table 4), and of BIS by alpha (Table 5).
RULES = MappingProxyType(
    {
        "random": RANDOM[0.25][0],
        "low-mc": 64.18,
        "mixed": 64.70,
        "bis": BIS[0.25][0],
        "reliable": 62.75,
    }
)
ALPHAS = MappingProxyType({0.02: 64.84, ALPHA: BIS[0.25][0], 0.08: 64.86})
