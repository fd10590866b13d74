"""Intervals: rollouts are drawn with replacement within their sources.

Steps of one rollout stand or fall together, so rollouts are resampled, not steps; the
sources are the benchmark's own and keep their sizes. Intervals are percentiles. The
decision threshold stays what it is in every replicate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mprm_jax.metrics import (
    F1,
    Confusion,
    StepScores,
    combined_f1,
    confusion_per_rollout,
    macro_f1,
)
from mprm_jax.metrics_ranking import PairPlan, count_pairs, pair_plan

REPLICATES = 1000
LEVEL = 0.95

# Numbers in one array of weighted steps: small enough for the cache of a core.
_CHUNK = 1 << 18


class Interval(NamedTuple):
    """Ends of a 95 % interval."""

    low: float
    high: float


class Replicates(NamedTuple):
    """Metrics of R resampled data sets; NaN where a replicate does not define one.

    Attributes:
        f1: of all sources together, each ``[R]``.
        auroc: ``[R]``.
        within_position_auroc: ``[R]``.
        source_macro_f1: of each source, ``[n_sources, R]``.
        source_auroc: likewise.
        source_within_position: likewise, of pairs within the source only.
    """

    f1: F1
    auroc: np.ndarray
    within_position_auroc: np.ndarray
    source_macro_f1: np.ndarray
    source_auroc: np.ndarray
    source_within_position: np.ndarray


def draw_weights(
    source: np.ndarray, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each rollout is drawn, float64 ``[replicates, n_rollouts]``.

    As many rollouts of each source as it has. Row by row the draws follow one stream,
    so the same ``source`` and seed give the same rows however many are asked for at a
    time: replicates of two models on the same rollouts are paired.
    """
    n = len(source)
    order = np.argsort(source, kind="stable")
    size = np.bincount(source)
    start = np.cumsum(size) - size
    slot = source[order]
    pick = start[slot] + np.floor(rng.random((replicates, n)) * size[slot])
    drawn = order[pick.astype(np.int64)] + n * np.arange(replicates)[:, None]
    return np.bincount(drawn.ravel(), minlength=replicates * n).reshape(-1, n) * 1.0


def weight_chunks(
    source: np.ndarray, replicates: int, rng: np.random.Generator, width: int
) -> Iterator[np.ndarray]:
    """:func:`draw_weights` a few rows at a time, for work on ``width`` columns."""
    rows = max(1, _CHUNK // max(width, len(source), 1))
    for done in range(0, replicates, rows):
        yield draw_weights(source, min(rows, replicates - done), rng)


def replicate(
    steps: StepScores, threshold: float, replicates: int, rng: np.random.Generator
) -> Replicates:
    """Metrics of resampled data sets.

    Raises:
        ValueError: there is no counted step.
    """
    if not steps.n_steps:
        raise ValueError("no counted steps")
    counts_Nx4 = np.stack(confusion_per_rollout(steps, threshold), axis=1)
    n_sources = len(steps.source_names)
    rows = [np.flatnonzero(steps.source == i) for i in range(n_sources)]
    step_source = steps.step_source
    n_positions = int(steps.position.max()) + 1
    cell = step_source * n_positions + steps.position
    everything, at_position, in_source, in_cell = (
        pair_plan(steps.scores, steps.correct, group, steps.rollout)
        for group in (None, steps.position, step_source, cell)
    )
    parts = []
    for weights_WxN in weight_chunks(steps.source, replicates, rng, steps.n_steps):
        by_source = [Confusion(*(weights_WxN[:, of] @ counts_Nx4[of]).T) for of in rows]
        weights_NxW = np.ascontiguousarray(weights_WxN.T)
        parts.append(
            Replicates(
                combined_f1(by_source),
                _auroc(everything, weights_NxW),
                _auroc(at_position, weights_NxW),
                np.stack([macro_f1(counts) for counts in by_source]),
                _merged_auroc(in_source, weights_NxW, in_source.groups, n_sources),
                _merged_auroc(
                    in_cell, weights_NxW, in_cell.groups // n_positions, n_sources
                ),
            )
        )

    def join(of: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(of, axis=-1)

    return Replicates(
        F1(*map(join, zip(*(part.f1 for part in parts), strict=True))),
        *map(join, zip(*(part[1:] for part in parts), strict=True)),
    )


def _auroc(plan: PairPlan, weights_NxW: np.ndarray) -> np.ndarray:
    """AUROC over the pairs of all groups, ``[W]``."""
    return _merged_auroc(plan, weights_NxW, np.zeros_like(plan.groups), 1)[0]


def _merged_auroc(
    plan: PairPlan, weights_NxW: np.ndarray, into: np.ndarray, n: int
) -> np.ndarray:
    """AUROC over the pairs of the groups that go ``into`` each of n, ``[n, W]``."""
    wins, pairs = count_pairs(plan, weights_NxW)
    member = np.arange(n)[:, None] == into
    with np.errstate(invalid="ignore"):
        return (member @ wins) / (member @ pairs)


def interval(values_R: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Percentile interval; None if under half of the replicates define the metric."""
    defined = values_R[np.isfinite(values_R)]
    if 2 * len(defined) < len(values_R) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
