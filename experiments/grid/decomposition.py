"""Why BIS - Random is what it is: which rollouts were kept, and which labels are wrong.

    BIS - Random  = composition + noise of BIS - noise of Random
    composition   = BIS - Random, both with clean labels
    noise of rule = hard - clean labels = blind part + placement
    blind part    = blind - clean labels: as many wrong labels, anywhere
    placement     = hard - blind labels: that they stand where they stand

All terms are paired by seed and by resample of the benchmark's rollouts, so that the
sums hold in every replicate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.console.text import number, signed
from experiments.grid.answer import Seed, differences, paired_difference
from experiments.grid.plan import BIS, BLIND, CLEAN, CONTROLS, RANDOM, Arm
from experiments.grid.results import NAMES, Outcome, estimate_row
from theory.intervals import Estimate, Score, mean_over_seeds

HARD = "hard"

METRICS = ("micro_f1", "auroc")

Scores = Mapping[Seed, Score]


@dataclass(frozen=True)
class Level:
    """Both rules under one kind of labels; None where it was not run.

    Attributes:
        labels: :data:`HARD` or a control.
        random: of Random.
        bis: of BIS.
        difference: BIS - Random.
    """

    labels: str
    random: Estimate | None
    bis: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class Part:
    """One term; None where no seed has all that it is made of.

    Attributes:
        name: such as ``noise of BIS``, or ``noise of BIS: placement`` of a part of it.
        of: what less what.
        difference: paired.
    """

    name: str
    of: str
    difference: Estimate | None

    @property
    def within(self) -> str | None:
        """Its name within the term that it is a part of; None: it is a term."""
        return self.name.partition(": ")[2] or None


@dataclass(frozen=True)
class Decomposition:
    """Of one arm of BIS.

    Attributes:
        arm: with hard labels.
        levels: by labels, those of the arm first.
        parts: BIS - Random first, then what it is the sum of, then the noise of BIS
            less that of Random, whose sum with the composition it is.
    """

    arm: Arm
    levels: tuple[Level, ...]
    parts: tuple[Part, ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("random", "bis", "difference")
        return {
            "keep_ratio": self.arm.keep_ratio,
            "levels": [
                {"labels": of.labels}
                | {name: estimate_row(getattr(of, name)) for name in names}
                for of in self.levels
            ],
            "parts": [
                {
                    "name": of.name,
                    "of": of.of,
                    "difference": estimate_row(of.difference),
                }
                for of in self.parts
            ],
        }


def decompositions(outcome: Outcome, metric: str = "micro_f1") -> list[Decomposition]:
    """Of every arm of BIS with labels K > 0 that was trained on clean labels, too."""
    found = []
    scores = {one.arm: one.scores(metric) for one in outcome.arms}
    for arm in scores:
        if (arm.rule, arm.labels, arm.label_threshold) != (BIS, HARD, 0.0):
            continue
        of = {
            (rule, labels): scores.get(_arm(arm, rule, labels), {})
            for rule in (RANDOM, BIS)
            for labels in (HARD, *CONTROLS)
        }
        if of[BIS, CLEAN] or of[RANDOM, CLEAN]:
            found.append(Decomposition(arm, _levels(of), _parts(of)))
    return found


def why(found: Decomposition) -> str:
    """The terms in a sentence, with their intervals."""
    terms = {part.name: part.difference for part in found.parts}

    def said(name: str) -> str:
        of = terms[name]
        if of is None:
            return "unknown"
        if of.half_width is None:
            return signed(of.mean, 3)
        return f"{signed(of.mean, 3)} ± {number(of.half_width, 3)}"

    return (
        f"Why: with true labels BIS − Random is {said('composition')} micro-F1; wrong "
        f"labels change BIS by {said('noise of BIS')} and Random by "
        f"{said('noise of Random')}."
    )


def _arm(like: Arm, rule: str, labels: str) -> Arm:
    alpha = like.alpha if rule == BIS else None
    threshold = 0.0 if labels == HARD else None
    return Arm(rule, like.keep_ratio, alpha, labels, threshold)


def _mean(scores: Scores) -> Estimate | None:
    return mean_over_seeds(list(scores.values())) if scores else None


def _levels(of: Mapping[tuple[str, str], Scores]) -> tuple[Level, ...]:
    return tuple(
        Level(
            labels,
            _mean(of[RANDOM, labels]),
            _mean(of[BIS, labels]),
            paired_difference(of[BIS, labels], of[RANDOM, labels]),
        )
        for labels in (HARD, *CONTROLS)
        if of[RANDOM, labels] or of[BIS, labels]
    )


# Of noise and of its parts: labels less labels.
_NOISE = {
    "": (HARD, CLEAN),
    ": blind part": (BLIND, CLEAN),
    ": placement": (HARD, BLIND),
}


def _parts(of: Mapping[tuple[str, str], Scores]) -> tuple[Part, ...]:
    def gap(labels: str) -> Estimate | None:
        return paired_difference(of[BIS, labels], of[RANDOM, labels])

    parts = [
        Part("BIS − Random", "hard labels", gap(HARD)),
        Part("composition", "BIS − Random, clean labels", gap(CLEAN)),
    ]
    for part, (labels, other) in _NOISE.items():
        noise = {}
        for rule in (BIS, RANDOM):
            noise[rule] = differences(of[rule, labels], of[rule, other])
            name, less = f"noise of {NAMES[rule]}{part}", f"{labels} − {other} labels"
            parts.append(Part(name, less, _mean(noise[rule])))
        net = differences(noise[BIS], noise[RANDOM])
        parts.append(Part(f"noise, BIS − Random{part}", "BIS’s − Random’s", _mean(net)))
    order = {part.name.partition(":")[0]: i for i, part in enumerate(parts[:5])}
    return tuple(sorted(parts, key=lambda part: order[part.name.partition(":")[0]]))
