"""Do scores mean what they say? Brier score, calibration error, reliability curve."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 15


class ReliabilityBin(NamedTuple):
    """Steps whose score lies in [low, high), the last bin with its end.

    Attributes:
        low: lower end.
        high: upper end.
        steps: how many.
        mean_score: of them.
        share_correct: of them.
    """

    low: float
    high: float
    steps: int
    mean_score: float
    share_correct: float


class Calibration(NamedTuple):
    """Agreement of scores, read as probabilities, with judgements.

    Attributes:
        ece: expected calibration error, sum over bins of n_b/n |share_correct_b -
            mean_score_b|, 15 equal bins; in [0, 1].
        brier: mean of (score - correct)^2; in [0, 1].
        curve: the bins that hold steps.
    """

    ece: float
    brier: float
    curve: tuple[ReliabilityBin, ...]


def calibration(
    scores: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> Calibration | None:
    """Calibration of scores in [0, 1]; None if one lies outside (a logit, say).

    Source: Guo et al. 2017, Eq. 3 (ECE); Brier 1950.
    """
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    edges = np.arange(bins + 1) / bins
    which = np.searchsorted(edges[1:-1], scores, side="right")
    size = np.bincount(which, minlength=bins)
    n = np.maximum(size, 1)
    mean = np.bincount(which, scores, bins) / n
    share = np.bincount(which, correct, bins) / n
    return Calibration(
        float(np.sum(size * np.abs(share - mean)) / len(scores)),
        float(np.mean((scores - correct) ** 2)),
        tuple(
            ReliabilityBin(
                float(edges[b]),
                float(edges[b + 1]),
                int(size[b]),
                float(mean[b]),
                float(share[b]),
            )
            for b in np.flatnonzero(size)
        ),
    )
