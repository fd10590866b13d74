"""What a student is trained on: an arm of an experiment. Imported by every --help."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from theory.placement import blind_noise, noise_placed_by_position
from theory.scores import DEFAULT_ALPHA

LabelKind = Literal[
    "hard-0", "hard-1", "hard-2", "soft", "counts", "clean", "blind", "all-positive",
    "half-blind", "by-position", "half-by-position",
    "masked", "banded", "falling", "weighted", "conditional",
]  # fmt: skip


class Moved(NamedTuple):
    """Where the wrong labels of a subset are put.

    Attributes:
        share: of the steps of each kind whose labels change places; by position, of the
            wrong steps whose labels are sorted.
        by_position: else blindly.
    """

    share: float
    by_position: bool = False

    def place(
        self,
        label: np.ndarray,
        truth: np.ndarray,
        position: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The labels, moved."""
        if self.by_position:
            where = truth, position, rng, self.share
            return noise_placed_by_position(label, *where)
        return blind_noise(label, truth, rng, self.share)


# By position about as far as judges say of real labels (position_auroc .88 and .93).
MOVED = {
    "blind": Moved(1.0),
    "half-blind": Moved(0.5),
    "by-position": Moved(0.8, by_position=True),
    "half-by-position": Moved(0.4, by_position=True),
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """A subset, its labels, and how long a student is trained on them.

    Attributes:
        rule: of :mod:`theory.selection`, or one of :data:`experiments.students.runs.
            VARIANTS`, or an :class:`experiments.students.own_rule.OwnRule`; "full"
            keeps everything; "bayes" is no student, but the best rule there is;
            "start" is the student before it is trained.
        keep_ratio: rho.
        alpha: BIS's alpha.
        labels: "hard-i": 1[K > i]; "soft": K/N; "counts": K and N, by the
            beta-binomial likelihood. Controls: "clean": the truth; "blind": as many
            wrong labels of each kind as 1[K > 0] has in the arm's own subset, placed at
            random, and the others of :data:`MOVED`; "all-positive". Those of
            :mod:`theory.labelling`. "conditional": 1[K > 0], by the likelihood given
            that a rollout is mixed or pure (:mod:`theory.mixed`), which undoes what
            keeping mixed ones does to labels.
        unit: of the budget.
        ties: how equal scores are ordered.
        matched: train for as many updates as on all data.
    """

    rule: str
    keep_ratio: float = 1.0
    alpha: float = DEFAULT_ALPHA
    labels: LabelKind = "hard-0"
    unit: Literal["rollouts", "steps"] = "rollouts"
    ties: Literal["content", "file"] = "content"
    matched: bool = False

    @property
    def selection(self) -> Arm:
        """What the arm shares with all that keep the same rollouts."""
        return dataclasses.replace(self, labels="hard-0", matched=False)

    @property
    def name(self) -> str:
        """Short, and unique within an experiment."""
        parts = [f"{self.rule}-{100 * self.keep_ratio:g}%"]
        forms = {"alpha": "alpha={}", "ties": "ties={}", "matched": "matched"}
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(forms.get(field.name, "{}").format(value))
        return " ".join(parts)


# Candidates that may beat BIS, each a rule with a kind of labels. Written down before
# any was run; :mod:`experiments.map.candidates` says how one is chosen and judged.
# Random has every kind of labels too, so that what one gains can be told apart: by what
# it keeps, or by how it labels. Keep ratios are the worlds'.
CANDIDATES = {
    "contrast": Arm("contrast"),
    "bis masked": Arm("bis", labels="masked"),
    "random masked": Arm("random", labels="masked"),
    "contrast masked": Arm("contrast", labels="masked"),
    "bis falling": Arm("bis", labels="falling"),
    "random falling": Arm("random", labels="falling"),
    "bis weighted": Arm("bis", labels="weighted"),
    "random weighted": Arm("random", labels="weighted"),
    "bis conditional": Arm("bis", labels="conditional"),
    "random conditional": Arm("random", labels="conditional"),
}
