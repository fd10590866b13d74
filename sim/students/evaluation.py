"""Evaluation of many students at once, as the benchmark does it.

Rows are trainings, each judged as :mod:`theory.agreement` judges one model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize.elementwise import find_root
from scipy.special import expit, logit

from theory import agreement
from theory.agreement import JudgedSteps


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
    and the benchmark chooses its threshold anyway. The best one makes the mean
    probability the share of right steps, whatever the width of the scores; if all
    steps are of one class the loss itself falls to 0.

    Raises:
        ValueError: a score is not finite, or there is no step.
    """
    if not right_S.size or not np.isfinite(scores_AxS).all():
        raise ValueError("an excess risk needs steps, all with finite scores")
    y = right_S.astype(np.float64)
    z_AxS = scores_AxS.astype(np.float64)
    z_AxS -= z_AxS.mean(axis=1, keepdims=True)
    share = y.mean()
    if share in (0, 1):
        return np.zeros(len(z_AxS)) - _log_loss(bayes_S[None], y)
    # At these shifts all probabilities are at most, or at least, the share.
    ends_2xA = logit(share) - np.stack([z_AxS.max(axis=1), z_AxS.min(axis=1)])
    ends_2xA += [[-1e-6], [1e-6]]

    def excess(shift: np.ndarray, row: np.ndarray) -> np.ndarray:
        return expit(z_AxS[row] + shift[:, None]).mean(axis=1) - share

    rows = np.arange(len(z_AxS))
    shift_A = find_root(excess, tuple(ends_2xA), args=(rows,)).x
    return _log_loss(z_AxS + shift_A[:, None], y) - _log_loss(bayes_S[None], y)


def _log_loss(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.logaddexp(0.0, z) - y * z).mean(axis=1)
