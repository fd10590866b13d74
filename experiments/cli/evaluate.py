"""`mprm evaluate`: every metric of a model's step scores against human judgements."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console.command import answer
from experiments.console.compilation import compiling
from experiments.console.errors import UsageError
from experiments.console.progress import progress
from experiments.console.tables import format_table, percent_cell, printable
from experiments.console.text import count_of
from experiments.store.judging import (
    METRIC_NAMES,
    PROCESSBENCH_SUBSETS,
    ThresholdOptions,
    all_metrics,
    origin,
    page_inputs,
)
from experiments.store.manifests import command_of
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
from mprm_jax.decision import decide
from mprm_jax.records.problems import DataError
from mprm_jax.summary import evaluation
from theory.agreement import StepScores


@dataclasses.dataclass(frozen=True)
class Options(ThresholdOptions, ScoringOptions):
    """How well does a model, or anyone's scores, find wrong steps?

    Scores the solutions of a benchmark (VisualProcessBench, ProcessBench, PRMBench,
    VLRMBench, told by their records) with a checkpoint, or reads scores: JSON lines, or
    one JSON list, of a benchmark's records with "scores" beside, one per step, or of
    records {"data_source", "labels_per_step": [1, -1, 0], "prm_scores": [...]}. A step
    is predicted correct iff its score is at least the decision threshold; neutral steps
    are left out. "micro-F1" is the mean of the sources' macro-F1 weighted by steps, as
    VisualProcessBench defines it. "ProcessBench F1" is the harmonic mean of how often
    the first wrong step is found and of how often a solution without one passes,
    averaged over sources, at a threshold of its own. Of PRMBench's classes of error
    there are its PRMScores. Rates of both mistakes, how well confidence tells where
    the scores err, and where in a solution they err are told, too.

    Thresholds are by default chosen on a fifth of the rollouts, drawn by the hash of
    their id (or of their number in the file), which are then left out of every metric.

    Example: mprm evaluate --predictions scores.jsonl --threshold 0.5 --json

    Attributes:
        benchmark: File of judged solutions that --checkpoint scores, or a folder of
            such files.
        page: Where a page of the result goes (one HTML file): curves of
            thresholds, calibration, confidence and position, sources; by default
            beside the scores of --checkpoint.
        prior: Field that holds something known beforehand, such as slip_rate, a number
            or one per step; its own AUROC is reported.
        prior_file: File of that field, a record for each record of the scores; by
            default the file that is evaluated.
    """

    benchmark: Path | None = None
    page: Path | None = None
    prior: str | None = None
    prior_file: Path | None = None

    SCORED = "benchmark"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_file is not None and self.prior is None:
            raise UsageError("--prior-file needs --prior FIELD")


OPTIONS = Options


def run(options: Options) -> None:
    """Score if need be, judge, and write the page."""
    page, file = options.page, options.predictions
    if file is not None:
        value, steps = _judge(options, read_predictions(file), file)
    else:
        assert options.checkpoint is not None
        assert options.benchmark is not None
        file = options.benchmark
        rows, repeats, judged = _predict(options, options.checkpoint, file)
        output = options.output or Path("runs/predictions.jsonl")
        page = page or output.with_suffix(".html")
        lines = map(encode_prediction, rows)
        try:
            value, steps = _judge(options, rows, file, repeats)
        except DataError:
            # What the model said took long to make: it is kept all the same.
            write_scored(output, options, file, lines, None, judged)
            raise
        value |= {"predictions": str(output), "judged": judged}
        write_scored(output, options, file, lines, value, judged)
    if page is not None:
        from experiments.page.evaluation import write_evaluation
        from experiments.page.html import Made

        read = value.get("predictions", file), options.prior_file or file
        made = Made(
            command_of("mprm evaluate", options), page_inputs(page, [file], *read)
        )
        write_evaluation(page, value, steps, file, made)
        value["page"] = str(page)
    answer(options.json, value, lambda: _text(value))


def _predict(
    options: Options, checkpoint: Path, benchmark: Path
) -> tuple[list[Prediction], int, dict[str, Any]]:
    """The scores, how many solutions were left out because they are repeats, and the
    facts of the checkpoint.
    """
    from mprm_jax.data.scored import read_benchmark, solutions_root, without_repeats
    from mprm_jax.evaluate import Scoring, predict

    read = read_benchmark(benchmark)
    solutions = without_repeats(read)
    root = options.root or solutions_root(benchmark, solutions)
    model, params, facts = load_checkpoint(checkpoint, options.opening())
    with progress("scoring", len(solutions), "solutions", compiling()) as tick:
        how = Scoring(options.batch_size, options.threads, tick)
        rows = predict(model, params, solutions, root, how)
    return rows, len(read) - len(solutions), facts


def _judge(
    options: Options, rows: list[Prediction], file: Path, repeats: int = 0
) -> tuple[dict[str, Any], StepScores]:
    steps = columns(rows)
    try:
        decision, left = decide(steps, *options.protocol())
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    prior = None
    if options.prior is not None:
        prior = read_prior(options.prior_file or file, options.prior, rows)
        prior = prior[np.isin(steps.rollout, left)]
    evaluated = steps.take(left)
    with progress("judging", None):
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
    if repeats:
        value["repeats"] = repeats
    if options.prior is not None:
        value["prior"] |= {"field": options.prior}
    value["notes"] = _notes(value, evaluated)
    return value, evaluated


def _notes(value: dict[str, Any], steps: StepScores) -> list[str]:
    """What a reader of the numbers must know, a sentence each."""
    notes = []
    if value["threshold"]["chosen_on"] == "test":
        notes.append("The decision threshold was chosen on the test set: F1 flatters.")
    if (source := value["threshold"]["source"]) is not None:
        notes.append(
            f"Thresholds were chosen on the source {printable(source, 24)}: its own F1 "
            "flatters."
        )
    elif {"gsm8k"} <= {*value["sources"]} <= PROCESSBENCH_SUBSETS:
        notes.append(
            "ProcessBench's paper chooses the threshold on GSM8K: --threshold-source "
            "gsm8k."
        )
    if value["steps_truncated"]:
        notes.append(
            f"{count_of(value['steps_truncated'], 'step')} without a score, not "
            "counted (too long for the model, or none is given)."
        )
    if cut := value["processbench"]["rollouts_cut"]:
        notes.append(
            f"ProcessBench's F1 leaves out {count_of(cut, 'rollout')} whose first "
            "wrong step may be one without a score."
        )
    if repeats := value.get("repeats"):
        notes.append(f"{count_of(repeats, 'record')} left out: repeats of a solution.")
    if value["processbench"]["threshold"] is None:
        notes.append(
            "No threshold could be chosen for ProcessBench's F1: that takes rollouts "
            "with and without a wrong step."
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
    threshold, first = value["threshold"], value["processbench"]["threshold"]
    lines = [
        f"decision threshold {threshold['threshold']:.4g}: {origin(threshold)}",
        *(
            [f"for ProcessBench F1 {first['threshold']:.4g}, by the same rollouts"]
            if first is not None and threshold["chosen_on"] != "fixed"
            else []
        ),
        f"{count_of(value['steps'], 'step')} of "
        f"{count_of(value['rollouts'], 'rollout')}, "
        f"{percent_cell(value['steps_wrong'] / value['steps'], 1)} wrong; "
        f"{value['steps_neutral']:,} neutral or unjudged not counted.",
        "",
        _source_table(value),
        "",
        _rate_table(value),
        "",
        *_processbench_table(value),
        _metric_table(value),
        "",
        _third_table(value),
        "",
        *_EXPLAINED,
    ]
    page = value.get("page")
    lines.append(f"wrote {page}" if page else "With --page FILE all this is a page.")
    return "\n".join([*lines, *closing(value)])


def _source_table(value: dict[str, Any]) -> str:
    header = ("source", "rollouts", "steps", "wrong", "mac-F1", "95 %", "AUROC")
    rows = [
        (
            printable(name, 14),
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


def _processbench_table(value: dict[str, Any]) -> list[str]:
    """ProcessBench's F1 by source, where there are several."""
    sources = value["processbench"]["sources"]
    if len(sources) < 2 or value["processbench_f1"] is None:
        return []
    names = ("f1", "wrong_found", "right_passed")
    rows = [
        (printable(name, 24), *(number(of[key]) for key in names))
        for name, of in sources.items()
    ]
    header = ("source", "ProcessBench F1", "found", "passed")
    return [format_table(header, rows), ""]


def _rate_table(value: dict[str, Any]) -> str:
    """What is misjudged at the threshold, by source."""
    rows = []
    for name, of in value["sources"].items():
        ends = of.get("intervals", {})
        rates = (
            cell
            for key in ("false_positive_rate", "false_negative_rate")
            for cell in (number(of[key]), between(ends.get(key)))
        )
        both = (number(of["f1_positive"]), number(of["f1_negative"]))
        rows.append((printable(name, 12), *both, *rates))
    header = ("source", "F1 right", "F1 wrong", "FPR", "95 %", "FNR", "95 %")
    return format_table(header, rows)


def _third_table(value: dict[str, Any]) -> str:
    """Where errors stand, and how they are judged there."""
    rows = [
        (
            of["name"],
            f"{of['steps']:,}",
            percent_cell(of["steps_wrong"] / of["steps"], 1),
            f"{of['first_errors']:,}",
            *(number(of[key]) for key in ("auroc", "first_error_auroc")),
            *(
                number(of[key])
                for key in ("false_positive_rate", "false_negative_rate")
            ),
        )
        for of in value["thirds"]
    ]
    header = ("solution's", "steps", "wrong", "first err.", "AUROC", "of first")
    return format_table((*header, "FPR", "FNR"), rows)


_EXPLAINED = (
    "micro-F1 is the mean of the sources' macro-F1 weighted by their steps; other",
    "papers' tables show their plain mean, or the macro-F1 of all steps pooled.",
    "ProcessBench F1 is the harmonic mean of the next two: the first wrong step is",
    "found; no step is called wrong where none is. Of several sources, their mean.",
    "FPR: wrong steps called correct; FNR: correct ones called wrong. AUROC at",
    "position: pairs of steps of the same position only; of first errors: against the",
    "correct steps before any. AURC: of the k steps farthest from the threshold, the",
    "share misjudged, its mean over all k. Least score is the last: far above chance,",
    "the answer is judged, not the steps.",
)


def _metric_table(value: dict[str, Any]) -> str:
    ends, metrics = value.get("intervals", {}), all_metrics(value)
    rows = [
        (name, number(metrics[key]), between(ends[key]) if key in ends else "")
        for key, name in METRIC_NAMES.items()
        if key in metrics
    ]
    if (expected := value["last_minimum"]["all"]["expected"]) is not None:
        place = [key for key in METRIC_NAMES if key in metrics].index("last_minimum")
        rows.insert(place + 1, ("  by chance", number(expected), ""))
    if prior := value.get("prior"):
        name = f"AUROC of {printable(prior['field'], 24)} alone"
        rows.append((name, number(prior["auroc"]), ""))
        rows.append(("  with position", number(prior["with_position"]), ""))
    return format_table(("metric", "value", "95 %"), rows)
