"""Did one rule beat another here? Means over seeds, their intervals, and the sentence.

A trained model varies with its seed, and its score with the rollouts it is tested on.
Both enter the interval; where a rule is compared with another, both models of a seed
are tested on the same rollouts, so their difference is taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from experiments.console.text import number, percent, signed
from theory.intervals import LEVEL, Estimate, Score, mean_over_seeds

Seed = int | None
Verdict = Literal["ahead", "behind", "open"]

# Of a score in a sentence.
_DIGITS = 3


def paired_difference(
    arm: Mapping[Seed, Score], other: Mapping[Seed, Score]
) -> Estimate | None:
    """Mean of ``arm - other`` over the seeds that both have; None if they share none.

    An arm whose only seed is None has nothing random in it (the untrained base): it is
    set against every seed of the other.
    """
    if set(arm) == {None}:
        arm = dict.fromkeys(other, arm[None])
    elif set(other) == {None}:
        other = dict.fromkeys(arm, other[None])
    found = differences(arm, other)
    return mean_over_seeds(list(found.values())) if found else None


def differences(
    arm: Mapping[Seed, Score], other: Mapping[Seed, Score]
) -> dict[Seed, Score]:
    """``arm - other`` by seed, of those that both have."""
    return {seed: _minus(arm[seed], other[seed]) for seed in arm if seed in other}


def _minus(a: Score, b: Score) -> Score:
    if len(a.replicates) != len(b.replicates):
        return Score(a.value - b.value)
    pairs = zip(a.replicates, b.replicates, strict=True)
    return Score(a.value - b.value, tuple(x - y for x, y in pairs))


def verdict(difference: Estimate | None, adjusted_p: float | None = None) -> Verdict:
    """What may be said of a difference: ahead or behind iff p, corrected for what else
    was asked, is below 5 %, or where nothing was corrected the interval excludes zero.

    One seed decides nothing, whatever the rollouts say; nor do several that all give
    the same difference, because they do not show how seeds vary.
    """
    if difference is None or difference.seeds < 2 or "seeds" not in difference.covers:
        return "open"
    sure = difference.excludes_zero if adjusted_p is None else adjusted_p < 1 - LEVEL
    if not sure:
        return "open"
    return "ahead" if difference.mean > 0 else "behind"


def answer_sentence(
    difference: Estimate | None,
    arm: str,
    *,
    where: str = "",
    adjusted_p: float | None = None,
) -> str:
    """The answer, plainly: who was ahead, by how much, how surely.

    Args:
        difference: of micro-F1, arm - Random; None if they share no seed.
        arm: name of the rule in question.
        where: begins the sentence, such as "In the world “scarce”, ".
        adjusted_p: Holm's, where several differences were tested together.
    """
    text = where + _said(difference, arm, adjusted_p)
    return text[0].upper() + text[1:]


def _said(difference: Estimate | None, arm: str, adjusted_p: float | None) -> str:
    if difference is None:
        return (
            f"there is no answer: {arm} and Random were not both trained with a "
            "common seed."
        )
    by = f"{number(abs(difference.mean), _DIGITS)} micro-F1"
    mean = f"{signed(difference.mean, _DIGITS)} micro-F1"
    if difference.seeds < 2:
        lead = "level with" if difference.mean == 0 else "ahead of"
        if difference.mean < 0:
            lead = "behind"
        return (
            f"{arm} ended {lead} Random by {by} in the one seed that was run; "
            "that decides nothing."
        )
    if "seeds" not in difference.covers:
        return (
            f"it is not decided whether {arm} beats Random: the difference is {mean} "
            f"in each of {difference.seeds} seeds, which does not show how seeds vary."
        )
    seeds = f"mean of {difference.seeds} seeds, paired"
    evidence = _evidence(difference, adjusted_p)
    match verdict(difference, adjusted_p):
        case "ahead":
            return f"{arm} beat Random by {by} ({seeds}); {evidence}."
        case "behind":
            return f"{arm} did not beat Random: it lost by {by} ({seeds}); {evidence}."
    return (
        f"it is not decided whether {arm} beats Random: the difference is "
        f"{mean} ({seeds}), and {evidence}."
    )


def _evidence(difference: Estimate, adjusted_p: float | None) -> str:
    ends = " to ".join(
        signed(end, _DIGITS)
        for end in (difference.low, difference.high)
        if end is not None
    )
    holds = "excludes zero" if difference.excludes_zero else "includes zero"
    interval = f"the {percent(LEVEL)} interval over {difference.covers}, {ends}"
    if adjusted_p is None:
        return f"{interval}, {holds}"
    return f"{interval}, {holds} before correction; Holm’s p is {adjusted_p:.2g}"
