"""What each rule keeps of a corpus, and what BIS-25 % covers (the paper's Fig. 3, 10).

All counts are synthetic; these histograms of the paper have no published numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from paper_figures.style import (
    COLOURS,
    GREY,
    HATCHES,
    MARKERS,
    Drawing,
    curve,
    label_panels,
    legend_below,
    new_figure,
)
from theory.paper import FULL_DATA

Cells = Sequence[Mapping[str, Any]]

_KINDS = (("coverage_R", "reliability R"), ("coverage_mixture", "mixture p(1-p)"))
# Six models: one more than the style has.
_MARKERS, _COLOURS = (*MARKERS, "X"), (*COLOURS, GREY)

_HEADER = ("panel", "model", "bin", "all", "selected", "coverage")


def _bins(edges: Sequence[float]) -> list[str]:
    """Names of the bins (a, b], and of the value at the top edge, which is alone."""
    inner = [f"{a:g}-{b:g}" for a, b in pairwise(edges)]
    return [*inner, f"{edges[-1]:g}"]


def latest(cells: Cells) -> dict[str, Mapping[str, Any]]:
    """Metrics of each model at the largest scale that was run."""
    found: dict[str, Mapping[str, Any]] = {}
    for cell in sorted(cells, key=lambda cell: cell["config"]["scale"]):
        found[cell["config"]["model"]] = cell["metrics"]
    return found


def figure_3(cells: Cells) -> Drawing:
    """All rollouts and BIS-25 % over R and p(1-p), with coverage, default model."""
    metrics = latest(cells)["hierarchical"]
    figure, axes = new_figure(2, 1, 2.8)
    rows: list = []
    for axis, (key, name) in zip(axes[0], _KINDS, strict=True):
        table = metrics[key]
        bins = _bins(table["edges"])
        every, kept = np.array(table["all"]), np.array(table["selected"])
        coverage_panel(axis, bins, every, kept, "BIS-25 %")
        axis.set_xlabel(name)
        axis.set_title("hierarchical model (synthetic data)")
        columns = (bins, table["all"], table["selected"], table["coverage"])
        rows += [(name, "hierarchical", *row) for row in zip(*columns, strict=True)]
    legend_below(figure, axes[0, 0], 2, loc="outside upper right")
    label_panels(axes[0])
    return Drawing(figure, _HEADER, rows)


def coverage_panel(
    axis: Axes, bins: Sequence[str], every: np.ndarray, kept: np.ndarray, name: str
) -> Axes:
    """Shares of all rollouts by bin, and of those of a subset, with its coverage.

    Args:
        axis: to draw on.
        bins: names of the bins.
        every: rollouts in each, ``[n_bins]``.
        kept: of those, in the subset, ``[n_bins]``.
        name: of the subset.

    Returns:
        the axis of the coverage, kept / every where there is a rollout, to the right.
    """
    x, total = np.arange(len(bins)), every.sum()
    axis.bar(x, every / total, color="white", edgecolor="black", label="all rollouts")
    axis.bar(
        x, kept / total, color="#56B4E9", edgecolor="black", hatch=HATCHES[1],
        label=name,
    )  # fmt: skip
    axis.set_yscale("log")
    axis.set_ylabel("share of all rollouts")
    axis.set_xticks(x, bins, rotation=60)
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    share = kept[every > 0] / every[every > 0]
    right.plot(x[every > 0], share, "o-", color="#D55E00", label="coverage")
    right.set_ylim(0, 1.05)
    right.set_ylabel("coverage: selected / all")
    return right


def coverage(cells: Cells) -> Drawing:
    """Coverage of BIS-25 % over R and p(1-p) by every model (Fig. 3, 10)."""
    models = latest(cells)
    figure, axes = new_figure(2, 1, 3.0, sharey=True)
    rows: list = []
    for axis, (key, name) in zip(axes[0], _KINDS, strict=True):
        bins: list[str] = []
        for i, (model, metrics) in enumerate(models.items()):
            table = metrics[key]
            bins = _bins(table["edges"])
            x = np.arange(len(bins))
            seen = np.array(table["all"]) > 0
            style = curve(i) | {"color": _COLOURS[i]}
            y = np.array(table["coverage"])[seen]
            axis.plot(x[seen], y, label=model, marker=_MARKERS[i], **style)
            columns = (bins, table["all"], table["selected"], table["coverage"])
            rows += [(name, model, *row) for row in zip(*columns, strict=True)]
        axis.set_xticks(np.arange(len(bins)), bins, rotation=60)
        axis.set_xlabel(name)
        axis.grid(axis="y")
    axes[0, 0].set_ylabel("coverage of BIS-25 % (synthetic data)")
    axes[0, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    label_panels(axes[0])
    return Drawing(figure, _HEADER, rows)


# Of each score: name, lower edges of its bins; the last bin is the top value alone.
_SCORES = (
    ("BIS", "BIS (alpha .05)", (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)),
    ("R", "reliability R", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
    ("mixture", "mixture p(1-p)", (0, 0.05, 0.1, 0.15, 0.2, 0.25)),
)


def figure_10(cells: Cells) -> Drawing:
    """Every source's rollouts over BIS, R and p(1-p) (Fig. 10-12), default model."""
    sources = latest(cells)["hierarchical"]["per_source"]
    ordered = sorted(sources, key=lambda name: sources[name]["mean_mc"])
    figure, axes = new_figure(3, 1, 5.6, sharey=True)
    rows: list = []
    shades = []
    for axis, (key, name, edges) in zip(axes[0], _SCORES, strict=True):
        counts = np.array([sources[source][key] for source in ordered], float)
        share = counts / counts.sum(axis=1, keepdims=True)
        # An empty bin is white, as is less than one rollout in a thousand.
        image = axis.imshow(
            np.log10(np.maximum(share, 1e-3)), cmap="Greys", vmin=-3, vmax=0,
            aspect="auto", interpolation="nearest",
        )  # fmt: skip
        shades.append(image)
        bins = _bins(edges)
        axis.set_xticks(np.arange(len(bins)), bins, rotation=60)
        axis.set_xlabel(name)
        for source, of, part in zip(ordered, counts, share, strict=True):
            for bin_, count, value in zip(bins, of, part, strict=True):
                rows.append((name, source, bin_, int(count), value))
    axes[0, 0].set_yticks(np.arange(len(ordered)), ordered, fontsize=6)
    axes[0, 0].set_ylabel("sources, by mean MC score (synthetic data)")
    every = axes[0].tolist()
    bar = figure.colorbar(shades[0], ax=every, shrink=0.6, ticks=(-3, -2, -1, 0))
    bar.ax.set_yticklabels(("0.1 % or less", "1 %", "10 %", "all"))
    bar.set_label("share of the source's rollouts")
    label_panels(axes[0])
    return Drawing(figure, ("panel", "source", "bin", "rollouts", "share"), rows)


def predictions(cells: Cells) -> Drawing:
    """Columns of Table 1 that the models were not fitted to, side by side."""
    models = latest(cells)
    columns = ("error_step_ratio", "mean_mc", "steps_per_rollout", "mixed_share")
    figure, axes = new_figure(4, 1, 2.8)
    rows: list = []
    subsets = ("full", "low-mc 25 %", "mixed 25 %")
    for axis, column in zip(axes[0], columns, strict=True):
        for i, (model, metrics) in enumerate(models.items()):
            values = [metrics["table"][subset][column] for subset in subsets]
            place = np.arange(len(subsets)) + 0.1 * (i - 2.5)
            axis.plot(place, values, _MARKERS[i], color=_COLOURS[i], label=model)
            rows += [
                (column, model, subset, value)
                for subset, value in zip(subsets, values, strict=True)
            ]
        for i, subset in enumerate(subsets):
            # What calibration knows, or could.
            if subset == "full":
                published = getattr(FULL_DATA, column)
                ends = [i - 0.4, i + 0.4]
                axis.plot(ends, [published] * 2, color="black", linewidth=1)
                rows.append((column, "published", subset, published))
        axis.set_xticks(np.arange(len(subsets)), subsets, rotation=30)
        axis.set_title(column.replace("_", " "))
        axis.grid(axis="y")
    title = "synthetic corpora; bar: published, full data"
    legend_below(figure, axes[0, 0], 6, title=title)
    label_panels(axes[0])
    return Drawing(figure, ("column", "model", "subset", "value"), rows)


# Grey levels far apart, so that the picture survives a black-and-white printer.
_PARTS = (
    ("mixed_share", "mixed: both labels", "#1f5a94", ""),
    ("all_positive_share", "all positive", "#c9d7e6", ""),
    ("all_negative_share", "all negative", "#8a8a8a", "////"),
)
_MARKS = (
    ("tied_share", "chosen among equal scores", "o", "white"),
    ("false_positive_share", "positive labels that are wrong", "s", "black"),
)


def subsets(cells: Cells) -> Drawing:
    """The subsets of the largest corpus of ``mprm run kept``, in per cent of each."""
    largest = max(cells, key=lambda cell: cell["config"]["scale"])
    result = largest["metrics"]
    rules = list(result["rules"])
    y = np.arange(len(rules))[::-1]
    figure, axes = new_figure(columns=2, height=2.6, sharey=True, width_ratios=(3, 2))
    left, right = axes[0]
    start = np.zeros(len(rules))
    rows = []
    for key, label, colour, hatch in _PARTS:
        share = 100 * np.array([result["rules"][rule][key] for rule in rules])
        left.barh(
            y, share, left=start, label=label, color=colour, hatch=hatch,
            edgecolor="black", linewidth=0.5,
        )  # fmt: skip
        start += share
        rows += [(rule, label, float(x)) for rule, x in zip(rules, share, strict=True)]
    for key, label, marker, colour in _MARKS:
        share = 100 * np.array([result["rules"][rule][key] for rule in rules])
        look = {"markerfacecolor": colour, "markeredgecolor": "black"}
        right.plot(share, y, marker, label=label, **look)
        rows += [(rule, label, float(x)) for rule, x in zip(rules, share, strict=True)]
    left.set_yticks(y, rules)
    left.set_xlabel("% of the rollouts kept")
    right.set_xlabel("% of the picks, or of the positive steps")
    right.grid(axis="x")
    for axis in (left, right):
        axis.set_xlim(-2 if axis is right else 0, 102 if axis is right else 100)
        axis.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.2,
            handlelength=1.6, ncols=3 if axis is left else 1,
        )  # fmt: skip
    return Drawing(figure, ("rule", "share", "per_cent"), rows)
