"""The decision threshold of a model's scores, and how well it finds the first error.

A threshold is chosen for micro-F1, and another for ProcessBench's F1, on rollouts that
are then left out, on the other half, on one source as ProcessBench does on GSM8K, or is
given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from mprm_jax.records.problems import DataError
from theory.agreement import (
    StepScores,
    best_threshold,
    decision_thresholds,
    ratio,
)

ThresholdChoice = Literal["held-out", "cross-fitted", "source", "fixed", "test"]

# A fifth: some 570 of the benchmark's solutions, about 5,000 steps for one number.
HELD_OUT_SHARE = 0.2


def held_out(steps: StepScores) -> np.ndarray:
    """Which rollouts the hash of the rollout holds out, bool ``[n_rollouts]``."""
    # The high bits decide here, the low ones in the folds of a fit: independent.
    return (steps.keys >> np.uint64(11)) * 2.0**-53 < HELD_OUT_SHARE


def second_half(steps: StepScores) -> np.ndarray:
    """Which rollouts the hash of the rollout puts into the second of two halves, bool
    ``[n_rollouts]``.
    """
    return steps.keys >> np.uint64(63) == 1


@dataclass(frozen=True)
class Decision:
    """A decision threshold and where it comes from.

    Attributes:
        threshold: a step is predicted correct iff its score is at least this; where
            ``halves`` are given, their mean.
        chosen_on: "held-out": best micro-F1 on rollouts that are then left out;
            "cross-fitted": best micro-F1 on the half of the rollouts that a step is not
            in; "source": best micro-F1 on one source, as ProcessBench chooses on GSM8K;
            "fixed": given; "test": best micro-F1 on the evaluated steps themselves,
            which flatters.
        rollouts: on which it was chosen; 0 if fixed.
        steps: on which it was chosen; 0 if fixed.
        halves: thresholds of the rollouts of the first and of the second half.
        source: on which it was chosen, if on one.
        first_error: the threshold of ProcessBench's F1, chosen on the same rollouts for
            that F1; None if fixed, or if no rollouts there have an error, or all have.
    """

    threshold: float
    chosen_on: ThresholdChoice
    rollouts: int = 0
    steps: int = 0
    halves: tuple[float, float] | None = None
    source: str | None = None
    first_error: Decision | None = None

    @property
    def of_first_errors(self) -> Decision | None:
        """The threshold of ProcessBench's F1; None: it could not be chosen."""
        return self if self.chosen_on == "fixed" else self.first_error

    def at(self, steps: StepScores) -> np.ndarray | float:
        """The threshold of each step, ``[n_steps]``, or the one of all."""
        if self.halves is None:
            return self.threshold
        return np.where(second_half(steps)[steps.rollout], *self.halves[::-1])


def decide(
    steps: StepScores,
    chosen_on: ThresholdChoice,
    fixed: float = 0.5,
    source: str | None = None,
) -> tuple[Decision, np.ndarray]:
    """The decision threshold, and the rows of the rollouts that are left to evaluate.

    What a fifth held out leaves to chance, its small number and the four fifths left,
    is less when cross-fitted: every rollout is judged, none by a threshold that it
    helped to choose.

    Args:
        steps: all there are.
        chosen_on: see :class:`Decision`.
        fixed: the threshold, if fixed.
        source: name of the source to choose on, if on one; it is evaluated, too.

    Raises:
        DataError: there is no counted step, or none where the threshold is chosen or
            evaluated.
    """
    left = np.arange(steps.n_rollouts)
    if not steps.n_steps:
        raise DataError(
            "no counted steps: every label is 0 (neutral), or there is none"
        )
    lacking, of_source = "choose a decision threshold", None
    match chosen_on:
        case "fixed":
            return Decision(fixed, "fixed"), left
        case "test":
            parts = [steps]
        case "cross-fitted":
            second = second_half(steps)
            parts = [steps.take(np.flatnonzero(of)) for of in (second, ~second)]
            lacking = "choose the decision threshold of each half on the other"
        case "source":
            names, of_source = steps.source_names, source
            if source not in names:
                known = ", ".join(f"{name[:40]!r}" for name in names[:12])
                raise DataError(f"no source {source!r}; there are: {known}")
            parts = [steps.take(np.flatnonzero(steps.source == names.index(source)))]
            lacking = f"choose the decision threshold on {source!r}"
        case "held-out":
            out = held_out(steps)
            parts, left = [steps.take(np.flatnonzero(out))], np.flatnonzero(~out)
            lacking = "hold some out for the decision threshold"
            if parts[0].n_steps == steps.n_steps:
                parts = [steps.take(left)]
    if not all(part.n_steps for part in parts):
        raise DataError(
            f"too few rollouts ({steps.n_rollouts}) to {lacking}; give one "
            "(--threshold 0.5)"
        )
    decision = _chosen(parts, best_threshold, chosen_on, of_source)
    assert decision is not None
    first_error = _chosen(parts, best_first_error_threshold, chosen_on, of_source)
    return replace(decision, first_error=first_error), left


def _chosen(
    parts: Sequence[StepScores],
    best: Callable[[StepScores], float | None],
    chosen_on: ThresholdChoice,
    source: str | None,
) -> Decision | None:
    """What is best on the one part, or on each of two halves for the other."""
    found = [threshold for part in parts if (threshold := best(part)) is not None]
    if len(found) < len(parts):
        return None
    return Decision(
        sum(found) / len(found),
        chosen_on,
        sum(part.n_rollouts for part in parts),
        sum(part.n_steps for part in parts),
        (found[0], found[1]) if len(found) == 2 else None,
        source,
    )


@dataclass(frozen=True)
class FirstError:
    """How well the first wrong step is found (ProcessBench, Zheng et al. 2024).

    A neutral step is neither the first wrong one nor a false alarm. The first step with
    a score below the threshold is the prediction; the benchmark leaves ties open.

    Attributes:
        f1: harmonic mean of the other two; None where one is missing.
        wrong_found: share of the rollouts with a wrong step whose first wrong step is
            the first one predicted wrong; None without such rollouts.
        right_passed: share of the rollouts without a wrong step of which no step is
            predicted wrong; None without such rollouts.
    """

    f1: float | None
    wrong_found: float | None
    right_passed: float | None


@dataclass(frozen=True)
class ProcessBench(FirstError):
    """The same of all sources: each attribute is the mean over those that have it, as
    ProcessBench averages over its subsets (a script for TRL's models weights these by
    their problems); of one source they are its own.

    Attributes:
        threshold: of the decision, chosen for this F1; None: it could not be chosen.
        sources: of each source, at that threshold.
        rollouts_cut: rollouts left out because their first wrong step may be among
            those without a score.
    """

    threshold: Decision | None
    sources: dict[str, FirstError]
    rollouts_cut: int


# Behind every position.
NONE_WRONG = np.iinfo(np.int64).max


def first_wrong(steps: StepScores) -> np.ndarray:
    """Position of each rollout's first wrong step, int64 ``[n_rollouts]``; NONE_WRONG
    without any.
    """
    first, of = np.full(steps.n_rollouts, NONE_WRONG), ~steps.correct
    np.minimum.at(first, steps.rollout[of], steps.position[of])
    return first


class _Verdicts(NamedTuple):
    """At which decision thresholds each judged rollout's first wrong step is found, or
    all its steps pass if none is wrong: low < threshold <= high.
    """

    rollout: np.ndarray
    wrong: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _verdicts(steps: StepScores) -> _Verdicts:
    # Steps before the first wrong one must pass, and that one must not.
    n, first = steps.n_rollouts, first_wrong(steps)
    before = steps.position < first[steps.rollout]
    high, low = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(high, steps.rollout[before], steps.scores[before])
    at = steps.position == first[steps.rollout]
    low[steps.rollout[at]] = steps.scores[at]
    judged = np.bincount(steps.rollout, minlength=n) > 0
    rows = np.flatnonzero(judged & ~first_wrong_unknown(steps))
    return _Verdicts(rows, first[rows] < NONE_WRONG, low[rows], high[rows])


def first_wrong_unknown(steps: StepScores) -> np.ndarray:
    """Rollouts whose first wrong step may lie behind the last one with a score."""
    cut = np.zeros(steps.n_rollouts, bool) if steps.cut is None else steps.cut
    return cut & (first_wrong(steps) == NONE_WRONG)


def _harmonic(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    both = one + other
    return 2 * one * other / np.where(both == 0, 1, both)


def processbench_metrics(
    steps: StepScores, decision: Decision
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """ProcessBench's F1 and its two shares, as in :class:`ProcessBench`.

    Returns:
        From how often each rollout counts, ``[n_rollouts, W]``, to processbench_f1,
        wrong_found and right_passed, ``[W]`` each: means over the sources that have
        them; NaN where one of these lacks it, or no threshold was chosen.
    """
    chosen, of = decision.of_first_errors, _verdicts(steps)
    threshold_N = np.zeros(steps.n_rollouts)
    threshold_N[steps.rollout] = 0.0 if chosen is None else chosen.at(steps)
    rollout, wrong, at = of.rollout, of.wrong, threshold_N[of.rollout]
    hit, source = (of.low < at) & (at <= of.high), steps.source[rollout]
    pairs = [(wrong & (source == i), ~wrong & (source == i)) for i in np.unique(source)]

    def share(kind: np.ndarray, weights_NxW: np.ndarray) -> np.ndarray:
        weights = weights_NxW[rollout[kind]]
        return ratio(hit[kind] @ weights, weights.sum(axis=0))

    def mean(rows: list[np.ndarray], width: int) -> np.ndarray:
        known = rows if chosen is not None else []
        return np.mean(known, axis=0) if known else np.full(width, np.nan)

    def metrics(weights_NxW: np.ndarray) -> dict[str, np.ndarray]:
        shares = [
            [share(kind, weights_NxW) if kind.any() else None for kind in pair]
            for pair in pairs
        ]
        both = [_harmonic(a, b) for a, b in shares if a is not None and b is not None]
        found, passed = (
            [pair[i] for pair in shares if pair[i] is not None] for i in (0, 1)
        )
        named = {"processbench_f1": both, "wrong_found": found, "right_passed": passed}
        return {k: mean(rows, weights_NxW.shape[1]) for k, rows in named.items()}

    return metrics


def first_error_sweep(steps: StepScores, thresholds: np.ndarray) -> np.ndarray | None:
    """ProcessBench's F1, mean over sources, at ascending decision thresholds.

    Returns:
        float64, as many; None where no source has rollouts with and without an error.
    """
    of = _verdicts(steps)
    source, possible = steps.source[of.rollout], of.low < of.high
    found = []
    for i in np.unique(source):
        kinds = [(source == i) & kind for kind in (of.wrong, ~of.wrong)]
        if not all(kind.any() for kind in kinds):
            continue
        shares = []
        for kind in kinds:
            low, high = (np.sort(end[kind & possible]) for end in (of.low, of.high))
            hits = np.searchsorted(low, thresholds) - np.searchsorted(high, thresholds)
            shares.append(hits / np.count_nonzero(kind))
        found.append(_harmonic(*shares))
    return np.mean(found, axis=0) if found else None


def best_first_error_threshold(steps: StepScores) -> float | None:
    """The decision threshold of the largest ProcessBench F1, the lowest of equal ones;
    None where that F1 is not defined.
    """
    thresholds = decision_thresholds(steps)
    swept = first_error_sweep(steps, thresholds)
    return None if swept is None else float(thresholds[np.argmax(swept)])
