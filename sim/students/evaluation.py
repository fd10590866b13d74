"""Evaluation of many students at once, as the benchmark does it.

Rows are trainings. A step is called right if its score is at least the threshold.
Micro-F1 is the paper's: the macro-F1 of each source (mean of the F1 of right and of
wrong steps), weighted by the source's steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Trainings per block: [block, sources, steps] temporaries stay in cache-friendly size.
_BLOCK = 16

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
    """The threshold with the largest micro-F1 among all that separate two scores.

    Raises:
        ValueError: the split has no step.
    """
    if len(split.right_S) == 0:
        raise ValueError("a threshold needs steps")
    thresholds, best = [], []
    for rows in _blocks(scores_AxS):
        order = np.argsort(-rows, axis=1, kind="stable")
        ranked = np.take_along_axis(rows, order, axis=1)
        f1 = np.zeros(rows.shape)
        for source in np.unique(split.source_S):
            of = split.source_S == source
            called = np.cumsum(of[order], axis=1, dtype=np.int32)
            hits = np.cumsum((of & split.right_S)[order], axis=1, dtype=np.int32)
            f1 += of.mean() * macro_f1(
                hits, called, int((of & split.right_S).sum()), int(of.sum())
            )
        # A threshold cannot part equal scores.
        f1[:, :-1][ranked[:, :-1] == ranked[:, 1:]] = -1.0
        at = f1.argmax(axis=1)[:, None]
        thresholds.append(np.take_along_axis(ranked, at, axis=1)[:, 0])
        best.append(np.take_along_axis(f1, at, axis=1)[:, 0])
    return BestThresholds(np.concatenate(thresholds), np.concatenate(best))


def macro_f1(
    hits: np.ndarray, called: np.ndarray, right: int, steps: int
) -> np.ndarray:
    """Mean F1 of the right and of the wrong steps, in [0, 1]; a class that neither
    occurs nor is called has F1 0.

    Args:
        hits: right steps that are called right.
        called: steps that are called right.
        right: right steps.
        steps: all steps.
    """
    f1_right = 2 * hits / np.maximum(called + right, 1)
    rejected = steps - called
    true_wrong = rejected - (right - hits)
    f1_wrong = 2 * true_wrong / np.maximum(rejected + steps - right, 1)
    return (f1_right + f1_wrong) / 2


def micro_f1(
    scores_AxS: np.ndarray, split: Split, threshold_A: np.ndarray
) -> np.ndarray:
    """Step-weighted mean of the sources' macro-F1 at given thresholds, ``[A]``."""
    called = scores_AxS >= threshold_A[:, None]
    total = np.zeros(len(scores_AxS))
    for source in np.unique(split.source_S):
        of = split.source_S == source
        right = of & split.right_S
        total += of.mean() * macro_f1(
            called[:, right].sum(axis=1),
            called[:, of].sum(axis=1),
            int(right.sum()),
            int(of.sum()),
        )
    return total


def auroc(scores_AxS: np.ndarray, right_S: np.ndarray) -> np.ndarray:
    """Pr(a right step scores higher than a wrong one), ties counted half, ``[A]``.

    NaN where one class is empty.
    """
    n_right = int(right_S.sum())
    pairs = n_right * (len(right_S) - n_right)
    if pairs == 0:
        return np.full(len(scores_AxS), np.nan)
    areas = []
    for rows in _blocks(scores_AxS):
        order = np.argsort(-rows, axis=1, kind="stable")
        ranked = np.take_along_axis(rows, order, axis=1)
        hits = np.cumsum(right_S[order], axis=1, dtype=np.float64)
        misses = np.arange(1, rows.shape[1] + 1) - hits
        # Among equal scores only the last point lies on the curve.
        last = np.ones(rows.shape, bool)
        last[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
        x, y = (
            np.maximum.accumulate(np.where(last, c, 0.0), axis=1)
            for c in (misses, hits)
        )
        area = np.trapezoid(y, x, axis=1)
        # The way from (0, 0) to the first point is the triangle below it.
        areas.append(area + x[:, 0] * y[:, 0] / 2)
    return np.concatenate(areas) / pairs


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


def _blocks(scores_AxS: np.ndarray):
    for begin in range(0, len(scores_AxS), _BLOCK):
        yield scores_AxS[begin : begin + _BLOCK]
