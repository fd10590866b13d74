"""Everything that is said about one model on one benchmark, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mprm_jax.data.problems import DataError
from mprm_jax.metrics import (
    F1,
    StepScores,
    ThresholdChoice,
    best_threshold,
    f1_at,
    first_error_f1,
    held_out,
    macro_f1_per_source,
)
from mprm_jax.metrics_bootstrap import LEVEL, REPLICATES, interval, replicate
from mprm_jax.metrics_calibration import calibration
from mprm_jax.metrics_ranking import (
    auroc,
    average_precision,
    position_auroc,
    prior_auroc,
    within_position_auroc,
)


@dataclass(frozen=True)
class Decision:
    """A decision threshold and where it comes from.

    Attributes:
        threshold: a step is predicted correct iff its score is at least this.
        chosen_on: "held-out": best micro-F1 on rollouts that are then left out;
            "fixed": given; "test": best micro-F1 on the evaluated steps themselves,
            which flatters.
        rollouts: on which it was chosen; 0 if fixed.
        steps: on which it was chosen; 0 if fixed.
    """

    threshold: float
    chosen_on: ThresholdChoice
    rollouts: int = 0
    steps: int = 0


def decide(
    steps: StepScores, chosen_on: ThresholdChoice, fixed: float = 0.5
) -> tuple[Decision, np.ndarray]:
    """The decision threshold, and the rows of the rollouts that are left to evaluate.

    Raises:
        DataError: there is no counted step, or none on one side of the split.
    """
    every = np.arange(steps.n_rollouts)
    if not steps.n_steps:
        raise DataError(
            "no counted steps: every label is 0 (neutral), or there is none"
        )
    if chosen_on == "fixed":
        return Decision(fixed, "fixed"), every
    if chosen_on == "test":
        counts = steps.n_rollouts, steps.n_steps
        return Decision(best_threshold(steps), "test", *counts), every
    out = held_out(steps)
    split = steps.take(np.flatnonzero(out))
    if split.n_steps in (0, steps.n_steps):
        raise DataError(
            f"{steps.n_rollouts} rollouts are too few to hold some out for the "
            "decision threshold; give one (--threshold 0.5)"
        )
    counts = split.n_rollouts, split.n_steps
    return Decision(best_threshold(split), "held-out", *counts), np.flatnonzero(~out)


def evaluation(
    steps: StepScores,
    decision: Decision,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    prior: np.ndarray | None = None,
) -> dict[str, Any]:
    """All metrics of the given steps as JSON values; None where one is undefined.

    Args:
        steps: to evaluate, at least one counted.
        decision: the threshold.
        replicates: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
        prior: float64 ``[n_steps]``, known beforehand (see ``prior_auroc``).
    """
    at = f1_at(steps, decision.threshold)
    calibrated = calibration(steps.scores, steps.correct)
    first = first_error_f1(steps, decision.threshold)
    value: dict[str, Any] = {name: float(of) for name, of in at._asdict().items()}
    value |= {
        "steps": steps.n_steps,
        "per_source": macro_f1_per_source(steps, decision.threshold),
        "auroc": auroc(steps.scores, steps.correct),
        "within_position_auroc": within_position_auroc(steps),
        "position_auroc": position_auroc(steps),
        "average_precision": average_precision(steps.scores, steps.correct),
        "average_precision_wrong": average_precision(-steps.scores, ~steps.correct),
        "first_error": first._asdict(),
        "ece": calibrated and calibrated.ece,
        "brier": calibrated and calibrated.brier,
        "reliability": [of._asdict() for of in calibrated.curve] if calibrated else [],
        "rollouts": len(np.unique(steps.rollout)),
        "steps_wrong": int(np.count_nonzero(~steps.correct)),
        "threshold": asdict(decision),
        "sources": _sources(steps),
    }
    if prior is not None:
        value["prior"] = prior_auroc(steps, prior)._asdict()
    if replicates:
        _add_intervals(value, steps, decision, replicates, seed)
    return value


def _sources(steps: StepScores) -> dict[str, dict[str, Any]]:
    """Size and ranking quality of every source that has counted steps."""
    described = {}
    for i, name in enumerate(steps.source_names):
        part = steps.take(np.flatnonzero(steps.source == i))
        if part.n_steps:
            described[name] = {
                "rollouts": len(np.unique(part.rollout)),
                "steps": part.n_steps,
                "steps_wrong": int(np.count_nonzero(~part.correct)),
                "auroc": auroc(part.scores, part.correct),
                "within_position_auroc": within_position_auroc(part),
            }
    return described


def _add_intervals(
    value: dict[str, Any],
    steps: StepScores,
    decision: Decision,
    replicates: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    drawn = replicate(steps, decision.threshold, replicates, rng)
    value["intervals"] = {
        **{name: interval(drawn.f1[i]) for i, name in enumerate(F1._fields)},
        "auroc": interval(drawn.auroc),
        "within_position_auroc": interval(drawn.within_position_auroc),
        "level": LEVEL,
        "replicates": replicates,
    }
    for name, described in value["sources"].items():
        i = steps.source_names.index(name)
        described["intervals"] = {
            "macro_f1": interval(drawn.source_macro_f1[i]),
            "auroc": interval(drawn.source_auroc[i]),
            "within_position_auroc": interval(drawn.source_within_position[i]),
        }
