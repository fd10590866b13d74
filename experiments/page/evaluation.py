"""The page of an evaluation: metrics, calibration, thresholds, sources, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.page.html import (
    Chart,
    Made,
    Table,
    chart_of,
    count,
    ends_of,
    num,
    share,
    tabulate,
    text,
    write_page,
)
from experiments.store.judging import METRIC_NAMES, all_metrics
from mprm_jax.decision import first_error_sweep
from theory.agreement import StepScores, decision_thresholds, sweep
from theory.intervals import normal_half_width

# Points of a threshold curve: more than its pixels.
_POINTS = 400

# Scores beyond overflow where an axis is laid out.
_LARGEST = 1e100


def write_evaluation(
    output: Path, value: dict[str, Any], steps: StepScores, file: Path, made: Made
) -> None:
    """Write the page of an evaluation; as :func:`experiments.page.html.write_page`.

    Args:
        output: of the page.
        value: the JSON object of the command.
        steps: that were evaluated.
        file: the scores or the benchmark.
        made: by which command, of what.
    """
    models = {"": value}

    def charts() -> dict[str, Chart | None]:
        return {
            "thresholds": _threshold_curve(value, steps),
            "calibration": _reliability(value["reliability"]),
            "risk": risk_chart(models),
            "positions": position_chart(models, "auroc", "first_error_auroc"),
            "errors": position_chart(
                models, "false_positive_rate", "false_negative_rate"
            ),
        }

    write_page(
        output,
        "evaluation.html.j2",
        charts,
        made,
        value=value,
        file=file,
        metrics=_metrics(value),
        sources=_sources(value),
        places=_places(value),
    )


def _metrics(value: dict[str, Any]) -> Table:
    intervals, metrics = value.get("intervals", {}), all_metrics(value)
    items = [
        # An indent that a page keeps.
        {
            "name": name.replace("  ", "\N{NO-BREAK SPACE}" * 3),
            "value": metrics[key],
            "ends": ends_of(intervals.get(key)),
        }
        for key, name in METRIC_NAMES.items()
        if key in metrics
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
            "ends": ends_of(of.get("intervals", {}).get("macro_f1")),
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
        ("F1, correct", "f1_positive", num),
        ("F1, wrong", "f1_negative", num),
        ("false positives", "false_positive_rate", share, 1),
        ("false negatives", "false_negative_rate", share, 1),
        ("AUROC", "auroc", num),
        ("AUROC at position", "within_position_auroc", num),
        ("ProcessBench F1", "f1", num),
        ("first error found", "wrong_found", share, 1),
        ("no error passed", "right_passed", share, 1),
    )
    return tabulate("By source.", items, columns, "macro-F1")


_GROUP_NAMES = {
    "auroc": "AUROC",
    "first_error_auroc": "AUROC of first errors",
    "false_positive_rate": "wrong steps called correct",
    "false_negative_rate": "correct steps called wrong",
}


def _places(value: dict[str, Any]) -> Table:
    """Metrics by position, where there are groups of them, and by third."""
    positions = value["positions"] if len(value["positions"]) > 1 else []
    items = [
        of | {"wrong": of["steps_wrong"] / of["steps"]}
        for of in (*positions, *value["thirds"])
    ]
    columns = (
        ("position", "name", text),
        ("steps", "steps", count),
        ("wrong steps", "wrong", share, 1),
        ("first errors", "first_errors", count),
        ("AUROC", "auroc", num),
        ("AUROC of first errors", "first_error_auroc", num),
        ("false positives", "false_positive_rate", share, 1),
        ("false negatives", "false_negative_rate", share, 1),
    )
    return tabulate("By place in the solution.", items, columns, "AUROC")


def risk_chart(models: dict[str, dict[str, Any]]) -> Chart:
    """Risk-coverage curves of evaluations as JSON, by the name of the model."""
    from paper_figures import page

    curves, told = [], []
    for look, (name, value) in enumerate(models.items()):
        covered, risk = zip(*value["risk_coverage"], strict=True)
        none = [np.nan] * len(risk)
        curves.append(page.Curve(name or "misjudged", covered, risk, none, look))
        area = f"area {num(value['aurc'])}, {share(risk[-1], 1)} misjudged in all"
        told.append(f"{name}: {area}" if name else area)
    top = max(max(of.y) for of in curves)
    figure = page.lines(
        curves, "share of steps covered, most confident first", "share misjudged",
        top=1.1 * top or 1.0,
    )  # fmt: skip
    said = "; ".join(told)
    chart = chart_of("risk", "Risk against coverage", figure, said)
    return replace(chart, note=f"{said[:1].upper()}{said[1:]}.")


def position_chart(models: dict[str, dict[str, Any]], *keys: str) -> Chart | None:
    """Metrics by the position of the step, of evaluations as JSON by the name of the
    model; None where positions are not told apart.
    """
    from paper_figures import page

    curves = []
    for name, value in models.items():
        for key in keys:
            known = [of for of in value["positions"] if of[key] is not None]
            ends = [of.get("intervals", {}).get(key) or [of[key]] * 2 for of in known]
            y = np.array([of[key] for of in known])
            half = np.abs(np.reshape(ends, (-1, 2)).T - y)
            x = [int(of["name"].split()[0]) for of in known]
            shown = f"{name}: {_GROUP_NAMES[key]}" if name else _GROUP_NAMES[key]
            curves.append(page.Curve(shown, x, y.tolist(), half, len(curves)))
    if max(len(of.x) for of in curves) < 2:
        return None
    y_label = "AUROC" if "auroc" in keys else "share of steps"
    figure = page.lines(curves, "position of the step, from 1", y_label)
    title = " and ".join(_GROUP_NAMES[key] for key in keys)
    title = f"{title[:1].upper()}{title[1:]}, by position"
    return chart_of(f"position-{keys[0]}", title, figure, title)


def _threshold_curve(value: dict[str, Any], steps: StepScores) -> Chart | None:
    from paper_figures import page

    thresholds = decision_thresholds(steps)
    if np.abs(thresholds).max() > _LARGEST:
        return None
    picked = np.unique(np.linspace(0, len(thresholds) - 1, _POINTS).astype(int))
    found = {"micro-F1": sweep(steps).f1.micro_f1[picked]}
    first = first_error_sweep(steps, thresholds[picked])
    if first is not None:
        found["ProcessBench F1"] = first
    x = thresholds[picked]
    none = [np.nan] * len(x)
    curves = [
        page.Curve(name, x.tolist(), of.tolist(), none, look)
        for look, (name, of) in enumerate(found.items())
    ]
    chosen = (value["threshold"], value["processbench"]["threshold"])
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
    mean, y, n = (
        np.array([of[key] for of in bins])
        for key in ("mean_score", "share_correct", "steps")
    )
    half = normal_half_width(np.sqrt(y * (1 - y) / n))  # binomial, for the eye
    curve = page.Curve("share correct", mean.tolist(), y.tolist(), half)
    figure = page.lines([curve], "mean score of the bin", "share correct", ideal=True)
    told = "; ".join(
        f"score {num(of['mean_score'], 2)}: {share(of['share_correct'])} correct"
        for of in bins
    )
    numbers = tabulate("Steps in bins of their score.", bins, columns)
    title = "Share of correct steps against their score"
    return chart_of("reliability", title, figure, told, numbers)
