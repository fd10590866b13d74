"""What a student is trained on: an arm of an experiment. Imported by every --help."""

from __future__ import annotations

import dataclasses
from typing import Literal

from theory.scores import DEFAULT_ALPHA

LabelKind = Literal[
    "hard-0", "hard-1", "hard-2", "soft", "counts", "clean", "blind", "all-positive"
]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A subset, its labels, and how long a student is trained on them.

    Attributes:
        rule: of :mod:`theory.selection`, or one of :data:`experiments.students.runs.
            VARIANTS`; "full" keeps everything; "bayes" is no student, but the best
            rule there is.
        keep_ratio: rho.
        alpha: BIS's alpha.
        labels: "hard-i": 1[K > i]; "soft": K/N; "counts": K and N, by the
            beta-binomial likelihood. Controls: "clean": the truth; "blind": as many
            wrong labels of each kind as 1[K > 0] has in the arm's own subset, placed at
            random; "all-positive".
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
