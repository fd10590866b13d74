"""The page of an evaluation: metrics, calibration, thresholds, sources, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.page.html import (
    Chart,
    Table,
    chart_of,
    count,
    num,
    page_template,
    share,
    tabulate,
    text,
)
from experiments.store.provenance import versions
from mprm_jax.data.outputs import OutputSet
from mprm_jax.decision import first_error_sweep
from theory.agreement import StepScores, decision_thresholds, sweep

# Points of a threshold curve: more than its pixels.
_POINTS = 400

# Scores beyond overflow where an axis is laid out.
_LARGEST = 1e100


@dataclass(frozen=True)
class Judged:
    """What an evaluation said, and of what.

    Attributes:
        value: the JSON object of the command.
        steps: that were evaluated.
        file: the scores or the benchmark.
        command: that made it.
        inputs: SHA-256 of every file read.
    """

    value: dict[str, Any]
    steps: StepScores
    file: Path
    command: str
    inputs: dict[str, str]


def write_evaluation(output: Path, judged: Judged) -> None:
    """Write the page.

    Raises:
        DataError: it cannot be written.
    """
    page = render_evaluation(judged).encode()
    with OutputSet() as outputs:
        outputs.add(output).write(page)


def render_evaluation(judged: Judged) -> str:
    """The page as HTML; the same evaluation gives the same text."""
    import matplotlib as mpl

    from paper_figures.page import SETTINGS

    value = judged.value
    with mpl.rc_context(SETTINGS):
        charts = {
            "thresholds": _threshold_curve(judged),
            "calibration": _reliability(value["reliability"]),
        }
    return page_template("evaluation.html.j2").render(
        judged=judged,
        value=value,
        charts=charts,
        metrics=_metrics(value),
        sources=_sources(value),
        versions=versions(),
    )


_METRICS = (
    ("micro_f1", "micro-F1"),
    ("processbench_f1", "ProcessBench F1"),
    ("auroc", "AUROC"),
    ("within_position_auroc", "AUROC at position"),
    ("position_auroc", "AUROC of position alone"),
    ("macro_f1_pooled", "macro-F1, pooled"),
    ("f1_positive", "F1 of correct steps"),
    ("f1_negative", "F1 of wrong steps"),
    ("average_precision_wrong", "average precision, wrong steps"),
    ("ece", "calibration error (ECE)"),
    ("brier", "Brier score"),
)


def _ends(ends: Sequence[float] | None) -> str | None:
    return None if ends is None else f"{num(ends[0])} to {num(ends[1])}"


def _metrics(value: dict[str, Any]) -> Table:
    intervals = value.get("intervals", {})
    items = [
        {"name": name, "value": value[key], "ends": _ends(intervals.get(key))}
        for key, name in _METRICS
    ]
    columns = (
        ("metric", "name", text),
        ("value", "value", num),
        ("95 %", "ends", text),
    )
    return tabulate("All sources together.", items, columns, "value")


def _sources(value: dict[str, Any]) -> Table:
    first = value["processbench"]["sources"]
    items = [
        of
        | first.get(name, {})
        | {
            "name": name,
            "wrong": of["steps_wrong"] / of["steps"],
            "macro_f1": value["per_source"][name],
            "ends": _ends(of.get("intervals", {}).get("macro_f1")),
        }
        for name, of in value["sources"].items()
    ]
    columns = (
        ("source", "name", text),
        ("rollouts", "rollouts", count),
        ("steps", "steps", count),
        ("wrong steps", "wrong", share, 1),
        ("macro-F1", "macro_f1", num),
        ("95 %", "ends", text),
        ("AUROC", "auroc", num),
        ("AUROC at position", "within_position_auroc", num),
        ("ProcessBench F1", "f1", num),
        ("first error found", "wrong_found", share, 1),
        ("no error passed", "right_passed", share, 1),
    )
    return tabulate("By source.", items, columns, "macro-F1")


def _threshold_curve(judged: Judged) -> Chart | None:
    from paper_figures import page

    thresholds = decision_thresholds(judged.steps)
    if np.abs(thresholds).max() > _LARGEST:
        return None
    picked = np.unique(np.linspace(0, len(thresholds) - 1, _POINTS).astype(int))
    found = {"micro-F1": sweep(judged.steps).f1.micro_f1[picked]}
    first = first_error_sweep(judged.steps, thresholds[picked])
    if first is not None:
        found["ProcessBench F1"] = first
    x = thresholds[picked]
    none = [np.nan] * len(x)
    curves = [
        page.Curve(name, x.tolist(), of.tolist(), none, look)
        for look, (name, of) in enumerate(found.items())
    ]
    chosen = (judged.value["threshold"], judged.value["processbench"]["threshold"])
    marks = [
        page.Mark(f"used for {name}", of["threshold"], look + 2)
        for look, (name, of) in enumerate(zip(found, chosen, strict=False))
        if of is not None
    ]
    if len({mark.x for mark in marks}) == 1:
        marks = [page.Mark("threshold used", marks[0].x, 2)]
    best = ", ".join(
        f"{name} is largest, {num(of.max())}, at {num(x[of.argmax()])}"
        for name, of in found.items()
    )
    figure = page.lines(curves, "decision threshold", "F1", marks)
    title = "F1 against the decision threshold, on the evaluated steps"
    chart = chart_of("thresholds", title, figure, best)
    return replace(chart, note=f"{best[:1].upper()}{best[1:]}.")


def _reliability(bins: Sequence[dict[str, Any]]) -> Chart | None:
    from paper_figures import page

    if not bins:
        return None
    columns = (
        ("score from", "low", num, 2),
        ("to", "high", num, 2),
        ("steps", "steps", count),
        ("mean score", "mean_score", num),
        ("share correct", "share_correct", num),
    )
    # Half a binomial 95 % interval, for the eye.
    half = [
        1.96 * (of["share_correct"] * (1 - of["share_correct"]) / of["steps"]) ** 0.5
        for of in bins
    ]
    curve = page.Curve(
        "share correct",
        [of["mean_score"] for of in bins],
        [of["share_correct"] for of in bins],
        half,
    )
    figure = page.lines([curve], "mean score of the bin", "share correct", ideal=True)
    told = "; ".join(
        f"score {num(of['mean_score'], 2)}: {share(of['share_correct'])} correct"
        for of in bins
    )
    numbers = tabulate("Steps in bins of their score.", bins, columns)
    title = "Share of correct steps against their score"
    return chart_of("reliability", title, figure, told, numbers)
