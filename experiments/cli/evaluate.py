"""`mprm evaluate`: every metric of a model's step scores against human judgements."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console.command import answer
from experiments.console.errors import UsageError
from experiments.console.progress import progress
from experiments.console.tables import format_table, percent_cell, printable
from experiments.store.scoring import (
    ScoringOptions,
    between,
    closing,
    load_checkpoint,
    number,
    write_scored,
)
from mprm_jax.data.scored import (
    Prediction,
    columns,
    encode_prediction,
    read_predictions,
    read_prior,
)
from mprm_jax.records.problems import DataError
from mprm_jax.summary import HELD_OUT_SHARE, ThresholdChoice, decide, evaluation
from theory.agreement import StepScores


@dataclasses.dataclass(frozen=True)
class Options(ScoringOptions):
    """How well does a model, or anyone's scores, find wrong steps?

    Scores the solutions of a benchmark (VisualProcessBench's format) with a checkpoint,
    or reads scores: JSON lines, or one JSON list, of {"data_source", "labels_per_step":
    [1, -1, 0], "prm_scores": [...]}. A step is predicted correct iff its score is at
    least the decision threshold. Neutral steps (0) are left out. "micro-F1" is the mean
    of the sources' macro-F1 weighted by steps, as VisualProcessBench defines it.

    The threshold is by default chosen on a fifth of the rollouts, drawn by the hash of
    their id (or of their number in the file), which are then left out of every metric.

    Example: mprm evaluate --predictions scores.jsonl --threshold 0.5 --json

    Attributes:
        benchmark: File of judged solutions that --checkpoint scores.
        threshold: A fixed decision threshold.
        threshold_on: Where the decision threshold is chosen, by default held-out;
            cross-fitted: of each half of the rollouts on the other, and all are judged;
            on the test set itself it flatters, and the output says so.
        prior: Field that holds something known beforehand, such as slip_rate, a number
            or one per step; its own AUROC is reported.
        prior_file: File of that field, a record for each record of the scores; by
            default the file that is evaluated.
    """

    benchmark: Path | None = None
    threshold: float | None = None
    threshold_on: ThresholdChoice | None = None
    prior: str | None = None
    prior_file: Path | None = None

    SCORED = "benchmark"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None:
            if not math.isfinite(self.threshold):
                raise UsageError(f"--threshold must be finite, not {self.threshold}")
            if self.threshold_on not in (None, "fixed"):
                raise UsageError(
                    f"--threshold and --threshold-on {self.threshold_on} exclude each "
                    "other"
                )
        if self.prior_file is not None and self.prior is None:
            raise UsageError("--prior-file needs --prior FIELD")


OPTIONS = Options


def run(options: Options) -> None:
    """Score if need be, and judge."""
    if options.predictions is not None:
        rows = read_predictions(options.predictions)
        value = _judge(options, rows, options.predictions)
    else:
        assert options.checkpoint is not None
        assert options.benchmark is not None
        rows, judged = _predict(options, options.checkpoint, options.benchmark)
        output = options.output or Path("runs/predictions.jsonl")
        lines = map(encode_prediction, rows)
        try:
            value = _judge(options, rows, options.benchmark)
        except DataError:
            # What the model said took long to make: it is kept all the same.
            write_scored(output, options, options.benchmark, lines, None, judged)
            raise
        value |= {"predictions": str(output), "judged": judged}
        write_scored(output, options, options.benchmark, lines, value, judged)
    answer(options.json, value, lambda: _text(value))


def _predict(
    options: Options, checkpoint: Path, benchmark: Path
) -> tuple[list[Prediction], dict[str, Any]]:
    """The scores, and the facts of the checkpoint."""
    from mprm_jax.evaluate import image_root, predict, read_benchmark

    solutions = read_benchmark(benchmark)
    root = options.images or image_root(benchmark, solutions[0].record.images)
    model, params, facts = load_checkpoint(checkpoint)
    with progress("scoring", len(solutions), "solutions") as tick:
        rows = predict(model, params, solutions, root, options.batch_size, tick)
    return rows, facts


def _judge(options: Options, rows: list[Prediction], file: Path) -> dict[str, Any]:
    steps = columns(rows)
    fixed = options.threshold is not None
    chosen_on = "fixed" if fixed else options.threshold_on or "held-out"
    try:
        decision, left = decide(
            steps, chosen_on, 0.5 if options.threshold is None else options.threshold
        )
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    prior = None
    if options.prior is not None:
        prior = read_prior(options.prior_file or file, options.prior, rows)
        prior = prior[np.isin(steps.rollout, left)]
    evaluated = steps.take(left)
    value = evaluation(
        evaluated,
        decision,
        replicates=options.replicates,
        seed=options.seed,
        prior=prior,
    ).as_json()
    kept = [rows[i] for i in left]
    value["steps_neutral"] = sum(row.labels.count(0) for row in kept)
    value["steps_truncated"] = sum(row.truncated for row in kept)
    if options.prior is not None:
        value["prior"] |= {"field": options.prior}
    value["notes"] = _notes(value, evaluated)
    return value


def _notes(value: dict[str, Any], steps: StepScores) -> list[str]:
    """What a reader of the numbers must know, a sentence each."""
    notes = []
    if value["threshold"]["chosen_on"] == "test":
        notes.append("The decision threshold was chosen on the test set: F1 flatters.")
    if value["steps_truncated"]:
        notes.append(
            f"{value['steps_truncated']:,} steps did not fit the model, have no score "
            "and are not counted."
        )
    if not value["steps_wrong"] or value["steps_wrong"] == steps.n_steps:
        only, other = ("correct", -1) if not value["steps_wrong"] else ("wrong", 1)
        hint = " (0 is neutral, not wrong)" if other == -1 else ""
        notes.append(
            f"Every counted step is {only}: no label is {other}{hint}. AUROC is "
            "undefined, and one of the two F1 is 0."
        )
    if value["ece"] is None:
        notes.append("Scores outside [0, 1] are no probabilities: no calibration.")
    if len(np.unique(steps.scores)) == 1:
        notes.append("Every score is the same.")
    return notes


def _text(value: dict[str, Any]) -> str:
    threshold = value["threshold"]
    origin = {
        "fixed": "given",
        "test": "best micro-F1 ON THE TEST SET",
        "cross-fitted": "for each half best micro-F1 on the other; their mean",
    }.get(
        threshold["chosen_on"],
        f"best micro-F1 on {threshold['rollouts']:,} held-out rollouts "
        f"({HELD_OUT_SHARE:.0%})",
    )
    lines = [
        f"decision threshold {threshold['threshold']:.4g}: {origin}",
        f"{value['steps']:,} steps of {value['rollouts']:,} rollouts, "
        f"{percent_cell(value['steps_wrong'] / value['steps'], 1)} wrong; "
        f"{value['steps_neutral']:,} neutral steps not counted.",
        "",
        _source_table(value),
        "",
        _metric_table(value),
        "",
        "micro-F1 is the mean of the sources' macro-F1, weighted by their steps.",
        "AUROC at position: pairs of steps of the same position only.",
    ]
    return "\n".join([*lines, *closing(value)])


def _source_table(value: dict[str, Any]) -> str:
    header = ("source", "rollouts", "steps", "wrong", "mac-F1", "95 %", "AUROC")
    rows = [
        (
            printable(name, 16),
            f"{of['rollouts']:,}",
            f"{of['steps']:,}",
            percent_cell(of["steps_wrong"] / of["steps"], 1),
            number(value["per_source"][name]),
            between(of.get("intervals", {}).get("macro_f1")),
            number(of["auroc"]),
            number(of["within_position_auroc"]),
        )
        for name, of in value["sources"].items()
    ]
    return format_table((*header, "at pos."), rows)


# Of the evaluation, or of its first_error.
_METRICS = {
    "micro_f1": "micro-F1",
    "macro_f1_pooled": "macro-F1, pooled",
    "f1_positive": "F1 of correct steps",
    "f1_negative": "F1 of wrong steps",
    "auroc": "AUROC",
    "within_position_auroc": "AUROC at position",
    "position_auroc": "AUROC of position alone",
    "average_precision": "average precision, correct",
    "average_precision_wrong": "average precision, wrong",
    "f1": "first error, F1",
    "wrong_found": "  found where one is",
    "right_passed": "  none found where none is",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
}


def _metric_table(value: dict[str, Any]) -> str:
    ends, metrics = value.get("intervals", {}), value["first_error"] | value
    rows = [
        (name, number(metrics[key]), between(ends[key]) if key in ends else "")
        for key, name in _METRICS.items()
    ]
    if prior := value.get("prior"):
        name = f"AUROC of {printable(prior['field'], 24)} alone"
        rows.append((name, number(prior["auroc"]), ""))
        rows.append(("  with position", number(prior["with_position"]), ""))
    return format_table(("metric", "value", "95 %"), rows)
