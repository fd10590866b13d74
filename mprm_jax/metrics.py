"""Judged steps, their F1 at one decision threshold, and at all of them by one sort.

A step is predicted correct ("positive") iff its score is at least the decision
threshold. Neutral steps are never counted. F1 is 0 where its denominator is 0. A source
without counted steps is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import xxhash

ThresholdChoice = Literal["held-out", "fixed", "test"]

# A fifth: 573 of the benchmark's 2,866 solutions, some 5,000 steps for one number.
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class StepScores:
    """Scores of judged steps; neutral and unscored steps are not in here.

    Attributes:
        scores: float64 ``[n_steps]``, finite; larger means more likely correct.
        correct: bool ``[n_steps]``, the judgement.
        rollout: int64 ``[n_steps]``, ascending.
        position: int64 ``[n_steps]``, index of the step in its rollout from 0, neutral
            steps counted in.
        source: int64 ``[n_rollouts]``, index into ``source_names``.
        source_names: sorted.
        keys: uint64 ``[n_rollouts]``, hash of what identifies the rollout; every split
            is made by it, so it does not depend on the order of the rollouts.
    """

    scores: np.ndarray
    correct: np.ndarray
    rollout: np.ndarray
    position: np.ndarray
    source: np.ndarray
    source_names: tuple[str, ...]
    keys: np.ndarray

    @property
    def n_steps(self) -> int:
        """Counted steps."""
        return len(self.scores)

    @property
    def n_rollouts(self) -> int:
        """Rollouts, those without counted steps included."""
        return len(self.source)

    @property
    def step_source(self) -> np.ndarray:
        """Source of each step, int64 ``[n_steps]``."""
        return self.source[self.rollout]

    def take(self, rows: np.ndarray) -> StepScores:
        """The rollouts with these ascending row numbers (int ``[k]``)."""
        new = np.full(self.n_rollouts, -1, np.int64)
        new[rows] = np.arange(len(rows))
        kept = new[self.rollout] >= 0
        return StepScores(
            self.scores[kept],
            self.correct[kept],
            new[self.rollout[kept]],
            self.position[kept],
            self.source[rows],
            self.source_names,
            self.keys[rows],
        )


def step_scores(
    sources: Sequence[str],
    labels: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
    ids: Sequence[str],
) -> StepScores:
    """Columns of rollouts given one by one.

    Args:
        sources: name of each rollout's source.
        labels: 1 correct, -1 wrong, 0 neutral, per step of each rollout.
        scores: as many per rollout as labels.
        ids: what identifies each rollout, whichever model scored it.

    Raises:
        ValueError: a rollout has more labels than scores or fewer.
    """
    names = tuple(sorted(set(sources)))
    index = {name: i for i, name in enumerate(names)}
    lengths = np.array([len(of) for of in labels], np.int64)
    if lengths.tolist() != [len(of) for of in scores]:
        raise ValueError("labels and scores differ in number")
    label = np.array([one for of in labels for one in of], np.int64)
    counted = label != 0
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return StepScores(
        np.array([one for of in scores for one in of], np.float64)[counted],
        label[counted] > 0,
        np.repeat(np.arange(len(lengths)), lengths)[counted],
        (np.arange(len(label)) - starts)[counted],
        np.array([index[name] for name in sources], np.int64),
        names,
        np.array([xxhash.xxh3_64_intdigest(one.encode()) for one in ids], np.uint64),
    )


class Confusion(NamedTuple):
    """Steps by judgement and prediction; four arrays of one shape."""

    true_positive: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray
    true_negative: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """All four together."""
        return sum(self, start=np.zeros_like(self.true_positive))


class F1(NamedTuple):
    """What F1 says of several sources together, each in [0, 1] and of one shape.

    Attributes:
        micro_f1: mean of the sources' macro-F1, weighted by their counted steps (the
            benchmark's "micro-F1").
        macro_f1_pooled: macro-F1 of all steps as one source.
        f1_positive: F1 of the correct steps, pooled.
        f1_negative: F1 of the wrong steps, pooled.
    """

    micro_f1: np.ndarray
    macro_f1_pooled: np.ndarray
    f1_positive: np.ndarray
    f1_negative: np.ndarray


def f1(hits: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """F1 = 2 hits / (2 hits + wrong + missed), 0 where that is 0/0."""
    denominator = 2 * hits + wrong + missed
    return 2 * hits / np.maximum(denominator, 1)


def f1_by_class(counts: Confusion) -> tuple[np.ndarray, np.ndarray]:
    """(F1 of the correct steps, F1 of the wrong steps)."""
    return (
        f1(counts.true_positive, counts.false_positive, counts.false_negative),
        f1(counts.true_negative, counts.false_negative, counts.false_positive),
    )


def macro_f1(counts: Confusion) -> np.ndarray:
    """Mean of the two classes' F1."""
    positive, negative = f1_by_class(counts)
    return (positive + negative) / 2


def combined_f1(by_source: Iterable[Confusion]) -> F1:
    """F1 over the sources, taken one at a time (they may be long)."""
    pooled, weighted = None, None
    for counts in by_source:
        term = counts.steps * macro_f1(counts)
        weighted = term if weighted is None else weighted + term
        pooled = (
            counts
            if pooled is None
            else Confusion(*(a + b for a, b in zip(pooled, counts, strict=True)))
        )
    if pooled is None or weighted is None:
        raise ValueError("no source")
    positive, negative = f1_by_class(pooled)
    return F1(
        weighted / np.maximum(pooled.steps, 1),
        (positive + negative) / 2,
        positive,
        negative,
    )


def confusion_per_rollout(steps: StepScores, threshold: float) -> Confusion:
    """Counts of each rollout at one decision threshold, float64 ``[n_rollouts]``."""
    positive = steps.scores >= threshold

    def count(of: np.ndarray) -> np.ndarray:
        return np.bincount(steps.rollout[of], minlength=steps.n_rollouts).astype(float)

    return Confusion(
        count(steps.correct & positive),
        count(~steps.correct & positive),
        count(steps.correct & ~positive),
        count(~steps.correct & ~positive),
    )


def confusion_per_source(steps: StepScores, threshold: float) -> Confusion:
    """Counts of each source at one decision threshold, float64 ``[n_sources]``."""
    return Confusion(
        *(
            np.bincount(steps.source, of, len(steps.source_names))
            for of in confusion_per_rollout(steps, threshold)
        )
    )


def f1_at(steps: StepScores, threshold: float) -> F1:
    """F1 at one decision threshold, scalars."""
    return combined_f1(_rows(confusion_per_source(steps, threshold)))


def macro_f1_per_source(steps: StepScores, threshold: float) -> dict[str, float]:
    """Macro-F1 of every source that has counted steps."""
    counts = confusion_per_source(steps, threshold)
    named = zip(steps.source_names, macro_f1(counts), counts.steps, strict=True)
    return {name: float(value) for name, value, n in named if n}


def _rows(counts: Confusion) -> Iterator[Confusion]:
    return (Confusion(*row) for row in np.stack(counts, axis=-1))


class Sweep(NamedTuple):
    """F1 at every decision threshold that makes a difference.

    Attributes:
        thresholds: float64 ``[n_distinct + 1]``, ascending: every distinct score, and
            last the next number above the largest, at which no step is positive.
        f1: at each of them.
    """

    thresholds: np.ndarray
    f1: F1


def sweep(steps: StepScores) -> Sweep:
    """F1 at all decision thresholds, by one sort and cumulative sums.

    Raises:
        ValueError: there is no counted step.
    """
    if not steps.n_steps:
        raise ValueError("no counted steps")
    order = np.argsort(steps.scores)
    ordered = steps.scores[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    thresholds = np.append(ordered[first], np.nextafter(ordered[-1], np.inf))
    # Before these places of the order lies what each threshold calls wrong.
    cut = np.append(first, len(ordered))
    correct, source = steps.correct[order], steps.step_source[order]

    def below(of: np.ndarray) -> np.ndarray:
        return np.append(0, np.cumsum(of))[cut]

    def by_source() -> Iterator[Confusion]:
        for i in range(len(steps.source_names)):
            member = source == i
            positive, negative = below(member & correct), below(member & ~correct)
            yield Confusion(
                positive[-1] - positive, negative[-1] - negative, positive, negative
            )

    return Sweep(thresholds, combined_f1(by_source()))


def best_threshold(steps: StepScores) -> float:
    """The decision threshold of the largest micro-F1, the lowest of equal ones.

    Raises:
        ValueError: there is no counted step.
    """
    swept = sweep(steps)
    return float(swept.thresholds[np.argmax(swept.f1.micro_f1)])


def held_out(steps: StepScores, share: float = HELD_OUT_SHARE) -> np.ndarray:
    """Which rollouts the hash of the rollout holds out, bool ``[n_rollouts]``.

    Args:
        steps: the rollouts.
        share: held out on average, in (0, 1).
    """
    # The high bits decide here, the low ones in the folds of a fit: independent.
    return (steps.keys >> np.uint64(11)) * 2.0**-53 < share


class FirstError(NamedTuple):
    """How well the first wrong step is found (ProcessBench).

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


def first_error_f1(steps: StepScores, threshold: float) -> FirstError:
    """F1 of finding the first wrong step, over rollouts with counted steps.

    A neutral step is neither the first wrong one nor a false alarm. ProcessBench
    (Zheng et al. 2024): harmonic mean of the two accuracies.
    """
    judged = np.bincount(steps.rollout, minlength=steps.n_rollouts) > 0
    truth = _first(steps, ~steps.correct)[judged]
    found = _first(steps, steps.scores < threshold)[judged]
    wrong, hit = truth >= 0, truth == found
    shares = [float(hit[of].mean()) if of.any() else None for of in (wrong, ~wrong)]
    wrong_found, right_passed = shares
    if wrong_found is None or right_passed is None:
        return FirstError(None, wrong_found, right_passed)
    both = wrong_found + right_passed
    mean = 2 * wrong_found * right_passed / both if both else 0.0
    return FirstError(mean, wrong_found, right_passed)


def _first(steps: StepScores, of: np.ndarray) -> np.ndarray:
    """Position of each rollout's first step in ``of``, -1 where there is none."""
    none = np.iinfo(np.int64).max
    first = np.full(steps.n_rollouts, none)
    np.minimum.at(first, steps.rollout[of], steps.position[of])
    return np.where(first == none, -1, first)
