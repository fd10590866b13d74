"""Evaluation of many students at once, as the benchmark does it.

Rows are trainings, each judged as :mod:`theory.agreement` judges one model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from theory import agreement
from theory.agreement import JudgedSteps

_NEWTON_STEPS = 20


class Split(NamedTuple):
    """Steps of known truth.

    Attributes:
        right_S: boolean.
        source_S: index of the step's source, integer.
    """

    right_S: np.ndarray
    source_S: np.ndarray


class BestThresholds(NamedTuple):
    """The best threshold of each row and what it gives.

    Attributes:
        threshold_A: lowest score that counts as right.
        micro_f1_A: step-weighted mean of the sources' macro-F1, in [0, 1].
    """

    threshold_A: np.ndarray
    micro_f1_A: np.ndarray


def sweep_thresholds(scores_AxS: np.ndarray, split: Split) -> BestThresholds:
    """The threshold with the largest micro-F1, the highest of equals.

    Among the scores, and the next number above them, at which no step counts as right.

    Raises:
        ValueError: the split has no step.
    """
    found = []
    for scores_S in scores_AxS:
        swept = agreement.sweep(JudgedSteps(scores_S, *split))
        f1 = swept.f1.micro_f1[::-1]
        at = int(np.argmax(f1))
        found.append((swept.thresholds[::-1][at], f1[at]))
    threshold_A, micro_f1_A = np.array(found).reshape(-1, 2).T
    return BestThresholds(threshold_A.astype(scores_AxS.dtype), micro_f1_A)


def micro_f1(
    scores_AxS: np.ndarray, split: Split, threshold_A: np.ndarray
) -> np.ndarray:
    """Step-weighted mean of the sources' macro-F1 at given thresholds, ``[A]``."""
    rows = zip(scores_AxS, threshold_A, strict=True)
    return np.array(
        [agreement.f1_at(JudgedSteps(s, *split), t).micro_f1 for s, t in rows]
    )


def auroc(scores_AxS: np.ndarray, right_S: np.ndarray) -> np.ndarray:
    """Pr(a right step scores higher than a wrong one), ties counted half, ``[A]``.

    NaN where one class is empty.
    """
    rows = (agreement.auroc(scores_S, right_S) for scores_S in scores_AxS)
    return np.array([np.nan if area is None else area for area in rows])


def excess_risk(
    scores_AxS: np.ndarray, right_S: np.ndarray, bayes_S: np.ndarray
) -> np.ndarray:
    """Log loss above the Bayes rule's in nats per step, after the best shift, ``[A]``.

    A shift of all scores is forgiven: subsets differ in their share of right steps,
    and the benchmark chooses its threshold anyway.
    """
    y = right_S.astype(np.float64)
    z = scores_AxS.astype(np.float64)
    z -= z.mean(axis=1, keepdims=True)
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
        slope = np.maximum((p * (1 - p)).mean(axis=1), 1e-12)
        # Clipped: far from the optimum Newton's step would overshoot.
        step = np.clip((y.mean() - p.mean(axis=1)) / slope, -2.0, 2.0)
        z += step[:, None]
        if np.max(np.abs(step), initial=0.0) < 1e-9:
            break
    return _log_loss(z, y) - _log_loss(bayes_S[None], y)


def _log_loss(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.logaddexp(0.0, z) - y * z).mean(axis=1)
