"""What simulated students learn: the paper's Figures 1 and 2, rules, alpha, N.

All data here are synthetic. The paper's numbers are drawn as marks beside them, at a
level of their own: students are not 8B models, so only differences and orders can be
compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from paper_figures import published
from paper_figures.style import (
    CURVE_HEADER,
    GREY,
    MARKERS,
    Drawing,
    curve,
    curve_rows,
    label_panels,
    new_figure,
)

Cells = Sequence[Mapping[str, Any]]

SYNTHETIC = "synthetic data: simulated students"

# Half the width of a 95 % interval of a mean of 20, in standard errors.
_T19 = 2.093


def arms_of(cells: Cells, world: str, **settings: Any) -> list[Mapping[str, Any]]:
    """Cells of a world whose arm has these settings, in the order of the store."""
    return [
        cell
        for cell in cells
        if cell["config"].get("world", {}).get("name") == world
        and "arm" in cell["config"]
        and all(cell["config"]["arm"][name] == v for name, v in settings.items())
    ]


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    x = np.asarray(values, float)
    return float(x.mean()), float(_T19 * x.std(ddof=1) / np.sqrt(len(x)))


def all_data_best(cells: Cells) -> float | None:
    """Micro-F1 of the best checkpoint of all data; None where it was not run."""
    for cell in arms_of(cells, "scarce", rule="full", labels="hard-0"):
        return max(cell["metrics"]["curve"]["micro_f1"])
    return None


def figure_1(cells: Cells) -> Drawing:
    """Micro-F1 over updates: all data against subsets (Fig. 1), beside the paper's."""
    figure, axes = new_figure(1, 1, 3.4)
    axis = axes[0, 0]
    rows: list = []
    plain = {"labels": "hard-0", "matched": False}
    listed = (
        ("all data", {"rule": "full"} | plain),
        ("Random 25 %", {"rule": "random", "keep_ratio": 0.25} | plain),
        ("BIS 25 %", {"rule": "bis", "keep_ratio": 0.25} | plain),
        ("BIS 10 %", {"rule": "bis", "keep_ratio": 0.1} | plain),
    )
    for i, (name, settings) in enumerate(listed):
        for cell in arms_of(cells, "scarce", **settings):
            rows += _learning_curve(axis, i, name, cell)
    rows = published.simulated(rows)
    if (level := all_data_best(cells)) is not None:
        marks = published.full_data()
        marks += published.of_both("Random 25 %", MARKERS[1], published.RANDOM, (25,))
        marks += published.of_both("BIS 25 %", MARKERS[2], published.BIS, (25,))
        marks += published.of_both("BIS 10 %", MARKERS[3], published.BIS, (10,))
        rows += published.draw(axis, "", level, marks)
        published.right_axis(axis, level)
    axis.set_xscale("log")
    axis.set_xlabel("updates")
    axis.set_ylabel("micro-F1 (5 sources)")
    axis.set_title(f"scarce world ({SYNTHETIC}); grey marks: the paper's models")
    axis.grid(axis="y")
    _legends([axis])
    return Drawing(figure, published.HEADER, rows)


def figure_2(cells: Cells) -> Drawing:
    """Random in a single pass and at matched updates, rules at 25 %; the paper's.

    Of the matched runs the paper's text has full data only.
    """
    figure, axes = new_figure(3, 1, 3.7, sharey=True)
    single, matched, rules = axes[0]
    rows: list = []
    keeps = (0.05, 0.1, 0.25, 0.5)
    for i, keep in enumerate(keeps):
        settings = {"rule": "random", "keep_ratio": keep, "matched": False}
        for cell in arms_of(cells, "scarce", **settings):
            rows += _learning_curve(single, i, f"{100 * keep:g} %", cell, "a")
    level = all_data_best(cells)
    for cell in arms_of(cells, "scarce", rule="full", labels="hard-0"):
        rows += _learning_curve(single, 4, "all", cell, "a")
        rows += _learning_curve(matched, 4, "all", cell, "b")
    if level is not None:
        rules.axhline(level, color=GREY, linestyle=":", label="all data, best")
        rows += curve_rows("c", "all data, best", [0, 1250], [level, level])
    for i, keep in enumerate(keeps):
        settings = {"rule": "random", "keep_ratio": keep, "matched": True}
        for cell in arms_of(cells, "scarce", **settings):
            rows += _learning_curve(matched, i, f"{100 * keep:g} %", cell, "b")
    listed = ("random", "low-mc", "mixed", "bis", "reliable")
    for i, rule in enumerate(listed):
        settings = {"rule": rule, "keep_ratio": 0.25, "matched": False}
        for cell in arms_of(cells, "scarce", **settings):
            rows += _learning_curve(rules, i, rule, cell, "c")
    rows = published.simulated(rows)
    if level is not None:
        full = published.full_data()
        random = published.of_both("Random", "s", published.RANDOM, (5, 10, 25, 50))
        at_25 = [
            published.Marks(f"{rule} 25 %", 0, marker, ((25, published.RULES[rule]),))
            for rule, marker in zip(listed, ("s", "^", "D", "P", "v"), strict=True)
        ]
        rows += published.draw(single, "a", level, [*full, *random])
        rows += published.draw(matched, "b", level, full)
        rows += published.draw(rules, "c", level, at_25)
        published.right_axis(rules, level)
    for axis, title in (
        (single, "Random, single pass"),
        (matched, "Random, matched updates"),
        (rules, "rules at 25 %"),
    ):
        axis.set_xscale("log")
        axis.set_xlabel("updates")
        axis.set_title(title)
        axis.grid(axis="y")
    single.set_ylabel(f"micro-F1 ({SYNTHETIC})")
    # What happens before the intercept has settled is not learning.
    single.set_ylim(bottom=0.6)
    label_panels(axes[0])
    _legends(axes[0])
    return Drawing(figure, published.HEADER, rows)


def _legends(axes: Sequence[Axes]) -> None:
    """Curves inside each panel; the paper's marks of all panels together, below."""
    paper: dict[str, Any] = {}
    for axis in axes:
        curves = {}
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            (paper if label.startswith("paper: ") else curves)[label] = handle
        axis.legend(curves.values(), curves.keys(), loc="lower right")
    if paper:
        axes[0].figure.legend(
            paper.values(), paper.keys(), loc="outside lower center", ncols=3,
            handlelength=1.2, columnspacing=1.6,
        )  # fmt: skip


def _learning_curve(
    axis: Axes, index: int, name: str, cell: Mapping[str, Any], panel: str = ""
) -> list:
    """Draw a curve with its band up to the arm's last update; returns its CSV rows."""
    points = cell["metrics"]["curve"]
    last = cell["metrics"]["subset"]["updates"]
    updates = np.minimum(cell["config"]["checkpoints"], last)
    updates, first = np.unique(updates, return_index=True)
    y = np.asarray(points["micro_f1"])[first]
    half = _T19 * np.asarray(points["micro_f1_se"])[first]
    style = curve(index)
    axis.plot(updates, y, label=name, **style)
    axis.fill_between(
        updates, y - half, y + half, color=style["color"], alpha=0.15, linewidth=0
    )
    return curve_rows(panel, name, updates, y)


def rules(cells: Cells) -> Drawing:
    """Micro-F1 less Random's over the keep ratio, paired, per world; the paper's."""
    worlds = list(dict.fromkeys(cell["config"]["world"]["name"] for cell in cells))[:3]
    figure, axes = new_figure(len(worlds) + 1, 1, 2.9)
    rows: list = []
    shown = ("bis", "mixed", "low-mc", "reliable", "posterior-fisher")
    for axis, world in zip(axes[0], worlds, strict=False):
        axis.axhline(0, color=GREY, linewidth=0.8)
        for i, rule in enumerate(shown):
            x, y, half = [], [], []
            for cell in arms_of(cells, world, rule=rule, unit="rollouts"):
                keep = cell["config"]["arm"]["keep_ratio"]
                for base in arms_of(
                    cells, world, rule="random", unit="rollouts", keep_ratio=keep
                ):
                    gap = np.subtract(
                        cell["metrics"]["micro_f1"], base["metrics"]["micro_f1"]
                    )
                    mean, width = mean_and_half(100 * gap)
                    x.append(100 * keep)
                    y.append(mean)
                    half.append(width)
            axis.errorbar(
                x, y, half, label=rule, marker=MARKERS[i], elinewidth=0.8, **curve(i)
            )
            rows += curve_rows(world, rule, x, y)
        axis.set_title(f"{world}, synthetic")
        # Failures far below would flatten what is compared; they are in the CSV.
        axis.set_ylim(-4, 6)
    axes[0, 0].set_ylabel("micro-F1 less Random's, points")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    paper = axes[0, -1]
    paper.axhline(0, color=GREY, linewidth=0.8)
    for i, name in enumerate(("InternVL2.5-8B", "Qwen2.5-VL-7B")):
        x = list(published.BIS)
        y = [published.BIS[k][i] - published.RANDOM[k][i] for k in x]
        paper.plot(
            x, y, MARKERS[i], label=f"BIS, {name}", color=curve(i)["color"],
            markerfacecolor="white",
        )  # fmt: skip
        rows += curve_rows("paper", f"BIS, {name}", x, y)
    paper.set_title("published, one run each")
    paper.set_ylim(-1, 15)
    paper.legend(loc="upper right")
    for axis in axes[0]:
        axis.set_xscale("log")
        axis.set_xticks([2, 5, 10, 25, 50], ["2", "5", "10", "25", "50"])
        axis.minorticks_off()
        axis.set_xlabel("keep ratio, %")
        axis.grid(axis="y")
    label_panels(axes[0])
    return Drawing(figure, CURVE_HEADER, rows)


def alpha(cells: Cells) -> Drawing:
    """Micro-F1 over alpha at several keep ratios; the paper's three at 25 %."""
    worlds = list(dict.fromkeys(cell["config"]["world"]["name"] for cell in cells))[:2]
    figure, axes = new_figure(len(worlds), 1, 2.8, sharey=False)
    rows: list = []
    for axis, world in zip(axes[0], worlds, strict=True):
        for i, keep in enumerate((0.02, 0.05, 0.1, 0.25, 0.5)):
            chosen = arms_of(cells, world, rule="bis", keep_ratio=keep)
            x = [cell["config"]["arm"]["alpha"] for cell in chosen]
            points = [mean_and_half(c["metrics"]["micro_f1"]) for c in chosen]
            y, half = zip(*points, strict=True)
            axis.errorbar(
                x, y, half, label=f"{100 * keep:g} %", marker=MARKERS[i],
                elinewidth=0.7, **curve(i),
            )  # fmt: skip
            rows += curve_rows(world, f"keep {keep:g}", x, y)
        if world == "scarce":
            at = arms_of(cells, world, rule="bis", keep_ratio=0.25, alpha=0.05)
            level = np.mean(at[0]["metrics"]["micro_f1"])
            y = [
                level + (v - published.ALPHA[0.05]) / 100
                for v in published.ALPHA.values()
            ]
            axis.plot(
                list(published.ALPHA), y, "*", color="black", markersize=7,
                markerfacecolor="white", label="published, 25 %, shifted",
            )  # fmt: skip
            rows += curve_rows(world, "published, shifted", list(published.ALPHA), y)
        axis.set_xscale("symlog", linthresh=0.02)
        axis.set_xticks(
            [0, 0.02, 0.05, 0.1, 0.2, 0.5], ["0", ".02", ".05", ".1", ".2", ".5"]
        )
        axis.minorticks_off()
        axis.set_xlabel("alpha")
        axis.set_title(f"{world} world (synthetic)")
        axis.grid(axis="y")
    axes[0, 0].set_ylabel("micro-F1")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    label_panels(axes[0])
    return Drawing(figure, CURVE_HEADER, rows)


def mc_budget(cells: Cells) -> Drawing:
    """Micro-F1 over N at a fixed total of continuations."""
    names = [cell["config"]["world"]["name"] for cell in cells]
    worlds = list(dict.fromkeys(name.split(",")[0] for name in names))[:2]
    figure, axes = new_figure(len(worlds), 1, 2.8)
    rows: list = []
    listed = (
        ("all, 1[K > 0]", {"rule": "full", "labels": "hard-0"}),
        ("all, K and N", {"rule": "full", "labels": "counts"}),
        ("all, clean labels", {"rule": "full", "labels": "clean"}),
        ("BIS, 1,250 rollouts", {"rule": "bis"}),
        ("Random, 1,250 rollouts", {"rule": "random"}),
    )
    for axis, world in zip(axes[0], worlds, strict=True):
        for i, (name, settings) in enumerate(listed):
            x, y, half = [], [], []
            for trials in (2, 4, 8, 16, 32):
                for cell in arms_of(cells, f"{world}, N = {trials}", **settings):
                    mean, width = mean_and_half(cell["metrics"]["micro_f1"])
                    x.append(trials)
                    y.append(mean)
                    half.append(width)
            axis.errorbar(
                x, y, half, label=name, marker=MARKERS[i], elinewidth=0.7, **curve(i)
            )
            rows += curve_rows(world, name, x, y)
        axis.set_xscale("log", base=2)
        axis.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
        axis.minorticks_off()
        axis.set_xlabel("continuations per step, N (rollouts = 80,000 / N)")
        axis.set_title(f"{world} world (synthetic)")
        axis.grid(axis="y")
    axes[0, 0].set_ylabel("micro-F1")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    label_panels(axes[0])
    return Drawing(figure, CURVE_HEADER, rows)
