"""One self-contained page of `mprm run selection`: gathers, renders, writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from experiments.console.text import page_template
from experiments.grid.plan import FULL, SELECTION, Arm
from experiments.grid.results import (
    NAMES,
    ArmResults,
    Outcome,
    arm_name,
    labels_name,
    read_grid,
    sentences,
)
from experiments.page import charts
from experiments.store.manifests import RunManifest
from experiments.store.provenance import file_sha256, versions
from experiments.store.results import store_path
from mprm_jax.data.outputs import (
    OUTPUT_SCHEMA,
    OutputSet,
    manifest_bytes,
    manifest_path,
)

EXPERIMENT = SELECTION


@dataclass(frozen=True)
class Chart:
    """A chart with what stands above it."""

    title: str
    markup: Markup


@dataclass(frozen=True, eq=False)
class SelectionPage:
    """Everything that the page shows."""

    run: RunManifest
    outcome: Outcome
    answers: tuple[str, ...]
    differences: Markup
    levels: tuple[Chart, ...]
    curves: tuple[Chart, ...]
    sha256: str


def is_selection_run(folder: Path) -> bool:
    """Whether a folder holds results of ``mprm run selection``."""
    return store_path(folder / "results", EXPERIMENT).is_file()


def gather_page(folder: Path) -> SelectionPage:
    """Read a run's folder.

    Raises:
        DataError: something is missing or does not fit; the message says what.
    """
    run = read_grid(folder)
    (outcome,) = run.outcomes
    rows = [
        charts.Difference(arm_name(gap.arm, outcome), gap.difference)
        for gap in outcome.gaps
    ]
    return SelectionPage(
        run=run.manifest,
        outcome=outcome,
        answers=tuple(sentences(outcome)),
        differences=charts.difference_chart(
            rows, "Difference to Random", "micro-F1 less Random’s"
        ),
        levels=tuple(_levels(outcome)),
        curves=tuple(_curves(outcome)),
        sha256=file_sha256(run.store),
    )


def _series_name(arm: Arm, arms: Sequence[ArmResults]) -> str:
    """A rule, with its alpha where several were run; lines have room for no more."""
    name = NAMES.get(arm.rule, arm.rule)
    alphas = {one.arm.alpha for one in arms if one.arm.rule == arm.rule}
    return f"{name} {arm.alpha:g}" if len(alphas) > 1 else name


def _levels(outcome: Outcome) -> list[Chart]:
    """Micro-F1 over the keep ratio, one chart for each kind of labels."""
    drawn = []
    for labels in outcome.labels:
        arms = [one for one in outcome.of_labels(labels) if one.arm.is_rule]
        points: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for one in arms:
            mean = one.estimate("micro_f1")
            if mean is not None and one.arm.keep_ratio is not None:
                name = _series_name(one.arm, arms)
                at = (100 * one.arm.keep_ratio, mean.mean)
                points.setdefault((name, one.arm.rule), []).append(at)
        series = [charts.Series(*names, of) for names, of in points.items()]
        if any(len(one.points) > 1 for one in series):
            title = f"micro-F1 over the keep ratio, {labels_name(*labels)}"
            markup = charts.line_chart(series, title, "keep ratio, %", "micro-F1")
            drawn.append(Chart(title, markup))
    return drawn


_CURVES = (
    ("f1_curve", "micro-F1"),
    ("eval_curve", "AUROC"),
    ("curve", "training loss"),
)


def _curves(outcome: Outcome) -> list[Chart]:
    """Curves at the keep ratio nearest 10 % and of full data, by kind of labels."""
    drawn = []
    keeps = {one.arm.keep_ratio for one in outcome.arms if one.arm.is_rule} - {None}
    keep = min(keeps, key=lambda ratio: abs((ratio or 0) - 0.1), default=None)
    for labels in outcome.labels:
        arms = [
            one
            for one in outcome.of_labels(labels)
            if one.arm.rule == FULL or (one.arm.is_rule and one.arm.keep_ratio == keep)
        ]
        for name, y_label in _CURVES:
            series = [
                charts.Series(_series_name(one.arm, arms), one.arm.rule, points)
                for one in arms
                # One point, that of the end, is no curve.
                if len(points := one.curve(name)) > 1
            ]
            if series:
                title = f"{y_label} over updates, {labels_name(*labels)}"
                markup = charts.line_chart(series, title, "updates", y_label)
                drawn.append(Chart(title, markup))
    return drawn


def render(page: SelectionPage) -> str:
    """The page as HTML; the same results give the same text."""
    return page_template("selection.html.j2").render(
        page=page,
        name=lambda arm: arm_name(arm, page.outcome),
        series_class=charts.series_class,
    )


def write_selection_report(folder: Path, output: Path) -> Sequence[str]:
    """Write the page of a run and its manifest; returns the answers.

    Raises:
        DataError: as :func:`gather_page`, or the page cannot be written.
    """
    page = gather_page(folder)
    text = render(page).encode()
    manifest = {
        "versions": versions(),
        "inputs": {f"results/{EXPERIMENT}.jsonl": page.sha256},
        "output": {
            "file": output.name,
            "bytes": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
        },
        "answers": list(page.answers),
    }
    with OutputSet() as outputs:
        outputs.add(output).write(text)
        outputs.add(manifest_path(output)).write(
            manifest_bytes(manifest, OUTPUT_SCHEMA)
        )
    return page.answers
