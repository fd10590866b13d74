"""What simulated students learn: the paper's Figures 1 and 2, rules, alpha, N, the map
and what one formula says of it.

All data here are synthetic. The paper's numbers are drawn as marks beside them. They
are of 8B models on VisualProcessBench, so no level of theirs means anything here: marks
stand at differences to full data, in points, on an axis of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from paper_figures.style import (
    COLOURS,
    CURVE_HEADER,
    GREY,
    HATCHES,
    MARKERS,
    Drawing,
    curve,
    curve_rows,
    label_panels,
    legend_below,
    named_ticks,
    new_figure,
    points,
)
from theory import paper
from theory.gain import auroc_of_estimate, fit_constant, predicted_auroc
from theory.intervals import mean_and_half_width, t_half_width, tell_apart

Cell = Mapping[str, Any]
Cells = Sequence[Cell]

SYNTHETIC = "synthetic data: simulated students"

AXIS_LABEL = "paper: micro-F1 less full data's, points"
HEADER = (*CURVE_HEADER, "source", "published_micro_f1_percent")

# Dark enough on white, and lighter than the curves.
_MARK_GREY = "#6E6E6E"
# The paper's two models, as marks name them.
_BACKBONES = ("InternVL", "Qwen")


def arms_of(cells: Cells, world: str, **settings: Any) -> list[Cell]:
    """Cells of a world whose arm has these settings, in the order of the store."""
    return [
        cell
        for cell in cells
        if cell["config"].get("world", {}).get("name") == world
        and "arm" in cell["config"]
        and all(cell["config"]["arm"][name] == v for name, v in settings.items())
    ]


def _worlds(cells: Cells, most: int) -> list[str]:
    """Names of the first worlds of the store, less what follows a comma."""
    names = [cell["config"]["world"]["name"].split(",")[0] for cell in cells]
    return list(dict.fromkeys(names))[:most]


class Marks(NamedTuple):
    """Published values of one series.

    Attributes:
        name: of the series, for the legend.
        backbone: index into ``paper.BACKBONES``; the second one's marks are half
            filled.
        marker: shape of the marks.
        points: (keep ratio, micro-F1 in %).
    """

    name: str
    backbone: int
    marker: str
    points: tuple[tuple[float, float], ...]


def _of_both(
    name: str, marker: str, table: Mapping[float, Sequence[float]], *keeps: float
) -> list[Marks]:
    """Marks of a table by keep ratio, one series per backbone."""
    return [
        Marks(name, i, marker, tuple((keep, table[keep][i]) for keep in keeps))
        for i in range(len(_BACKBONES))
    ]


# Full data of both backbones, the zero of the paper's axis.
_FULL_DATA = _of_both("all data", "o", {1.0: paper.FULL}, 1.0)


def _draw_marks(axis: Axes, panel: str, level: float, marks: Sequence[Marks]) -> list:
    """Grey marks at ``level`` + (value - full data) / 100, at the paper's own updates.

    Args:
        axis: of simulated micro-F1 over updates.
        panel: its name in the CSV.
        level: simulated micro-F1 of all data, where the paper's full data is put.
        marks: what to draw.

    Returns:
        rows of the CSV, as wide as ``HEADER``.
    """
    rows: list = []
    for name, backbone, marker, values in marks:
        series = f"paper: {name}, {_BACKBONES[backbone]}"
        x = [paper.updates(keep) for keep, _ in values]
        y = [level + (value - paper.FULL[backbone]) / 100 for _, value in values]
        # A backbone's marks stand beside the other's, not on them; the CSV has x.
        beside = [(0.96, 1.04)[backbone] * a for a in x]
        axis.plot(
            beside, y, marker, label=series, color=_MARK_GREY, markersize=5.5,
            zorder=4, fillstyle="bottom" if backbone else "full",
            markerfacecolor=_MARK_GREY if backbone else "white",
            markerfacecoloralt="white", markeredgecolor=_MARK_GREY,
        )  # fmt: skip
        rows += [
            (*row, "paper", value)
            for row, (_, value) in zip(
                curve_rows(panel, series, x, y), values, strict=True
            )
        ]
    return rows


def _paper_axis(axis: Axes, level: float) -> None:
    """Differences to the paper's full data in points, zero at ``level``."""
    right = axis.secondary_yaxis(
        "right",
        functions=(
            lambda y: 100 * (np.asarray(y) - level),
            lambda gap: level + np.asarray(gap) / 100,
        ),
    )
    right.set_ylabel(AXIS_LABEL, color=_MARK_GREY)
    right.tick_params(colors=_MARK_GREY)
    right.spines["right"].set_visible(True)
    right.spines["right"].set_color(_MARK_GREY)


def _all_data_best(cells: Cells) -> float | None:
    """Micro-F1 of the best checkpoint of all data; None where it was not run."""
    for cell in arms_of(cells, "scarce", rule="full", labels="hard-0"):
        return max(cell["metrics"]["curve"]["micro_f1"])
    return None


def _learning_curves(
    axis: Axes, cells: Cells, index: int, name: str, panel: str = "", **arm: Any
) -> list:
    """Draw an arm's curve with its band up to its last update; returns its CSV rows."""
    rows: list = []
    for cell in arms_of(cells, "scarce", **arm):
        values = cell["metrics"]["curve"]
        last = cell["metrics"]["subset"]["updates"]
        updates = np.minimum(cell["config"]["checkpoints"], last)
        updates, first = np.unique(updates, return_index=True)
        y = np.asarray(values["micro_f1"])[first]
        error = np.asarray(values["micro_f1_se"])[first]
        half = t_half_width(error, cell["config"]["seeds"])
        style = curve(index)
        axis.plot(updates, y, label=name, **style)
        axis.fill_between(
            updates, y - half, y + half, color=style["color"], alpha=0.15, linewidth=0
        )
        rows += [(*row, "simulated", "") for row in curve_rows(panel, name, updates, y)]
    return rows


def figure_1(cells: Cells) -> Drawing:
    """Micro-F1 over updates: all data against subsets (Fig. 1), beside the paper's."""
    figure, axes = new_figure(1, 1, 3.4)
    axis = axes[0, 0]
    plain = {"labels": "hard-0", "matched": False}
    rows = _learning_curves(axis, cells, 0, "all data", rule="full", **plain)
    subsets = (
        ("Random 25 %", "random", 0.25, paper.RANDOM),
        ("BIS 25 %", "bis", 0.25, paper.BIS),
        ("BIS 10 %", "bis", 0.1, paper.BIS),
    )
    marks = list(_FULL_DATA)
    for i, (name, rule, keep, published) in enumerate(subsets, 1):
        arm = {"rule": rule, "keep_ratio": keep} | plain
        rows += _learning_curves(axis, cells, i, name, **arm)
        marks += _of_both(name, MARKERS[i], published, keep)
    if (level := _all_data_best(cells)) is not None:
        rows += _draw_marks(axis, "", level, marks)
        _paper_axis(axis, level)
    axis.set_ylabel("micro-F1 (5 sources)")
    title = f"scarce world ({SYNTHETIC}); grey marks: the paper's models"
    _over_updates([(axis, title)])
    return Drawing(figure, HEADER, rows)


def figure_2(cells: Cells) -> Drawing:
    """Random in a single pass and at matched updates, rules at 25 %; the paper's.

    Of the matched runs the paper's text has full data only.
    """
    figure, axes = new_figure(3, 1, 3.7, sharey=True)
    single, matched, rules = axes[0]
    rows: list = []
    level = _all_data_best(cells)
    if level is not None:
        rules.axhline(level, color=GREY, linestyle=":", label="all data, best")
        line = curve_rows("c", "all data, best", [0, 1250], [level, level])
        rows += [(*row, "simulated", "") for row in line]
    keeps = (0.05, 0.1, 0.25, 0.5)
    listed = ("random", "low-mc", "mixed", "bis", "reliable")
    full = {"rule": "full", "labels": "hard-0"}
    one_pass, repeated = (
        [
            (i, f"{100 * keep:g} %", {"rule": "random", "keep_ratio": keep} | matching)
            for i, keep in enumerate(keeps)
        ]
        for matching in ({"matched": False}, {"matched": True})
    )
    at_25 = [
        (i, rule, {"rule": rule, "keep_ratio": 0.25, "matched": False})
        for i, rule in enumerate(listed)
    ]
    for axis, panel, curves in (
        (single, "a", [*one_pass, (4, "all", full)]),
        (matched, "b", [(4, "all", full), *repeated]),
        (rules, "c", at_25),
    ):
        for i, name, arm in curves:
            rows += _learning_curves(axis, cells, i, name, panel, **arm)
    if level is not None:
        random = _of_both("Random", "s", paper.RANDOM, *keeps)
        rivals = [
            Marks(f"{rule} 25 %", 0, marker, ((0.25, paper.RULES[rule]),))
            for rule, marker in zip(listed, ("s", "^", "D", "P", "v"), strict=True)
        ]
        rows += _draw_marks(single, "a", level, [*_FULL_DATA, *random])
        rows += _draw_marks(matched, "b", level, _FULL_DATA)
        rows += _draw_marks(rules, "c", level, rivals)
        _paper_axis(rules, level)
    single.set_ylabel(f"micro-F1 ({SYNTHETIC})")
    _over_updates(
        [
            (single, "Random, single pass"),
            (matched, "Random, matched updates"),
            (rules, "rules at 25 %"),
        ]
    )
    # What happens before the intercept has settled is not learning.
    single.set_ylim(bottom=0.6)
    label_panels(axes[0])
    return Drawing(figure, HEADER, rows)


def _over_updates(panels: Sequence[tuple[Axes, str]]) -> None:
    """Axes and titles, with curves' names inside each panel, and the paper's marks of
    all panels together below.
    """
    marks: dict[str, Any] = {}
    for axis, title in panels:
        axis.set_xscale("log")
        axis.set_xlabel("updates")
        axis.set_title(title)
        axis.grid(axis="y")
        curves = {}
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            (marks if label.startswith("paper: ") else curves)[label] = handle
        axis.legend(curves.values(), curves.keys(), loc="lower right")
    if marks:
        panels[0][0].figure.legend(
            marks.values(), marks.keys(), loc="outside lower center", ncols=3,
            handlelength=1.2, columnspacing=1.6,
        )  # fmt: skip


def _gap(treated: Cell, baseline: Cell) -> tuple[float, float]:
    """Mean and half-width of the difference in micro-F1, in points."""
    gap = np.subtract(treated["micro_f1"], baseline["micro_f1"])
    return mean_and_half_width(100 * gap)


def rules(cells: Cells) -> Drawing:
    """Micro-F1 less Random's over the keep ratio, paired, per world; the paper's."""
    worlds = _worlds(cells, 3)
    figure, axes = new_figure(len(worlds) + 1, 1, 2.9)
    rows: list = []
    shown = ("bis", "mixed", "low-mc", "reliable", "posterior-fisher")
    for axis, world in zip(axes[0], worlds, strict=False):
        axis.axhline(0, color=GREY, linewidth=0.8)
        baselines = {
            cell["config"]["arm"]["keep_ratio"]: cell["metrics"]
            for cell in arms_of(cells, world, rule="random", unit="rollouts")
        }
        for i, rule in enumerate(shown):
            gaps = {
                100 * keep: _gap(cell["metrics"], baselines[keep])
                for cell in arms_of(cells, world, rule=rule, unit="rollouts")
                if (keep := cell["config"]["arm"]["keep_ratio"]) in baselines
            }
            points(axis, i, rule, list(gaps), list(gaps.values()))
            means = [mean for mean, _ in gaps.values()]
            rows += curve_rows(world, rule, list(gaps), means)
        axis.set_title(f"{world}, synthetic")
        # Failures far below would flatten what is compared; they are in the CSV.
        axis.set_ylim(-4, 6)
    axes[0, 0].set_ylabel("micro-F1 less Random's, points")
    legend_below(figure, axes[0, 0], 5)
    published = axes[0, -1]
    published.axhline(0, color=GREY, linewidth=0.8)
    for i, name in enumerate(paper.BACKBONES):
        x = [100 * keep for keep in paper.BIS]
        y = [paper.BIS[keep][i] - paper.RANDOM[keep][i] for keep in paper.BIS]
        published.plot(
            x, y, MARKERS[i], label=f"BIS, {name}", color=curve(i)["color"],
            markerfacecolor="white",
        )  # fmt: skip
        rows += curve_rows("paper", f"BIS, {name}", x, y)
    published.set_title("published, one run each")
    published.set_ylim(-1, 15)
    published.legend(loc="upper right")
    for axis in axes[0]:
        named_ticks(axis, [2, 5, 10, 25, 50], ["2", "5", "10", "25", "50"])
        axis.set_xlabel("keep ratio, %")
        axis.grid(axis="y")
    label_panels(axes[0])
    return Drawing(figure, CURVE_HEADER, rows)


def _panels_of_worlds(cells: Cells, **options: Any) -> tuple[Any, Iterator]:
    """A figure of micro-F1, one panel for each of the first two worlds."""
    worlds = _worlds(cells, 2)
    figure, axes = new_figure(len(worlds), 1, 2.8, **options)
    for axis, world in zip(axes[0], worlds, strict=True):
        axis.set_title(f"{world} world (synthetic)")
        axis.grid(axis="y")
    axes[0, 0].set_ylabel("micro-F1")
    label_panels(axes[0])
    return figure, zip(axes[0], worlds, strict=True)


def alpha(cells: Cells) -> Drawing:
    """Micro-F1 over alpha at several keep ratios; the paper's three at 25 %."""
    figure, panels = _panels_of_worlds(cells)
    rows: list = []
    for axis, world in panels:
        for i, keep in enumerate((0.02, 0.05, 0.1, 0.25, 0.5)):
            chosen = arms_of(cells, world, rule="bis", keep_ratio=keep)
            if not chosen:
                raise LookupError(f"no BIS at keep ratio {keep:g} in {world}")
            x = [cell["config"]["arm"]["alpha"] for cell in chosen]
            marks = [mean_and_half_width(c["metrics"]["micro_f1"]) for c in chosen]
            points(axis, i, f"{100 * keep:g} %", x, marks, elinewidth=0.7)
            rows += curve_rows(world, f"keep {keep:g}", x, [y for y, _ in marks])
        if world == "scarce":
            at = arms_of(cells, world, rule="bis", keep_ratio=0.25, alpha=paper.ALPHA)
            level = np.mean(at[0]["metrics"]["micro_f1"])
            x = list(paper.ALPHAS)
            default = paper.ALPHAS[paper.ALPHA]
            y = [level + (value - default) / 100 for value in paper.ALPHAS.values()]
            axis.plot(
                x, y, "*", color="black", markersize=7, markerfacecolor="white",
                label="published, 25 %, shifted",
            )  # fmt: skip
            rows += curve_rows(world, "published, shifted", x, y)
        ticks = [0, 0.02, 0.05, 0.1, 0.2, 0.5]
        names = ["0", ".02", ".05", ".1", ".2", ".5"]
        named_ticks(axis, ticks, names, value="symlog", linthresh=0.02)
        axis.set_xlabel("alpha")
    legend_below(figure, figure.axes[0], 6)
    return Drawing(figure, CURVE_HEADER, rows)


def mc_budget(cells: Cells) -> Drawing:
    """Micro-F1 over N at a fixed total of continuations."""
    figure, panels = _panels_of_worlds(cells)
    rows: list = []
    listed = (
        ("all, 1[K > 0]", {"rule": "full", "labels": "hard-0"}),
        ("all, K and N", {"rule": "full", "labels": "counts"}),
        ("all, clean labels", {"rule": "full", "labels": "clean"}),
        ("BIS, 1,250 rollouts", {"rule": "bis"}),
        ("Random, 1,250 rollouts", {"rule": "random"}),
    )
    every = (2, 4, 8, 16, 32)
    for axis, world in panels:
        for i, (name, settings) in enumerate(listed):
            marks = {
                trials: mean_and_half_width(cell["metrics"]["micro_f1"])
                for trials in every
                for cell in arms_of(cells, f"{world}, N = {trials}", **settings)
            }
            points(axis, i, name, list(marks), list(marks.values()), elinewidth=0.7)
            rows += curve_rows(world, name, list(marks), [y for y, _ in marks.values()])
        named_ticks(axis, every, [str(trials) for trials in every], base=2)
        axis.set_xlabel("continuations per step, N (rollouts = 80,000 / N)")
    legend_below(figure, figure.axes[0], 5)
    return Drawing(figure, CURVE_HEADER, rows)


# How a world's difference can come out, and how a bar's part of such worlds looks.
_OUTCOMES: dict[str, tuple[int, dict[str, Any]]] = {
    "gains": (1, {"color": COLOURS[1]}),
    "open": (0, {"facecolor": "white", "edgecolor": GREY}),
    "loses": (-1, {"facecolor": COLOURS[2], "hatch": HATCHES[1], "edgecolor": "white"}),
}


def regime_map(cells: Cells, labels: Mapping[str, str]) -> Drawing:
    """Shares of the worlds in which BIS gains, is open or loses: against three arms by
    keep ratio, and against Random by the level of every other axis.
    """
    by_keep: dict[float, list[Cell]] = {}
    for cell in cells:
        by_keep.setdefault(cell["config"]["axes"]["keep_ratio"], []).append(cell)
    bars: dict[str, dict[str, list[int]]] = {}
    by_level: dict[str, dict[Any, list[int]]] = {}
    for baseline, name in (
        ("random", "Random"),
        ("mixed", "Mixed"),
        ("full", "all data"),
    ):
        signs = bars.setdefault(f"BIS less {name}, by\n{labels['keep_ratio']}", {})
        for keep, worlds in sorted(by_keep.items()):
            arms = [world["metrics"]["arms"] for world in worlds]
            found = tell_apart(
                [
                    np.subtract(of["bis"]["micro_f1"], of[baseline]["micro_f1"])
                    for of in arms
                ]
            )
            signs[f"{100 * keep:g} %"] = [verdict.sign for verdict in found]
            if baseline == "random":
                for world, verdict in zip(worlds, found, strict=True):
                    for axis, level in world["config"]["axes"].items():
                        level = tuple(level) if isinstance(level, list) else level
                        of = by_level.setdefault(axis, {})
                        of.setdefault(level, []).append(verdict.sign)
    for axis, levels in by_level.items():
        if axis != "keep_ratio":
            bars[f"BIS less Random, by\n{labels[axis]}"] = {
                _level(level): levels[level] for level in sorted(levels)
            }
    columns = 3
    rows_of_panels = -(-len(bars) // columns)
    figure, axes = new_figure(columns, rows_of_panels, 1.2 * rows_of_panels + 0.4)
    rows = []
    for axis, (title, levels) in zip(axes.flat, bars.items(), strict=False):
        rows += _outcome_bars(axis, title, levels)
    for axis in axes.flat[len(bars) :]:
        axis.set_visible(False)
    shown = "% of the worlds (synthetic); their number in brackets"
    legend_below(figure, axes[0, 0], 3, title=shown, title_fontsize=7)
    return Drawing(figure, ("panel", "level", "worlds", *_OUTCOMES), rows)


# The families that a rule with a kind of labels is tried in, and their main metrics.
_FAMILIES = {
    "first map": ("micro_f1", "micro-F1"),
    "second map": ("micro_f1", "micro-F1"),
    "probes": ("auroc", "AUROC"),
    "nets": ("auroc", "AUROC"),
}


def candidates(first: Cells, second: Cells, scenes: Cells) -> Drawing:
    """Shares of the worlds in which a rule with a kind of labels gains over Random with
    hard ones, is open or loses.

    Args:
        first: of `better_rule`.
        second: of `regimes_ordered`.
        scenes: of `better_rule_scenes`: probes on frozen states, and trained nets.
    """
    families = {"first map": first, "second map": second}
    for kind in ("probes", "nets"):
        of_kind = [c for c in scenes if c["config"]["cell"]["diagram"] == kind]
        # Of a small and a full run the full one.
        most = max((c["config"]["cell"]["units"] for c in of_kind), default=0)
        families[kind] = [c for c in of_kind if c["config"]["cell"]["units"] == most]
    names = [name for name in first[0]["metrics"]["arms"] if name != "random"]
    figure, axes = new_figure(len(_FAMILIES), 1, 2.4, sharey=True)
    rows = []
    for axis, (family, (metric, shown)) in zip(axes[0], _FAMILIES.items(), strict=True):
        cells = families[family]
        signs = {name: _signs(cells, name, metric) for name in names}
        rows += _outcome_bars(axis, f"{family} ({len(cells)}), {shown}", signs)
    axes[0, 0].set_yticks(range(len(names)), [_named(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    shown = "less Random with hard labels: % of the worlds (synthetic); their number in"
    shown += " brackets. Holm over a keep ratio of a map, or a visual world"
    legend_below(figure, axes[0, 0], 3, title=shown, title_fontsize=7)
    return Drawing(figure, ("panel", "arm", "worlds", *_OUTCOMES), rows)


def _named(arm: str) -> str:
    rule, _, labels = arm.partition(" ")
    rule = {"bis": "BIS", "random": "Random"}.get(rule, rule)
    return f"{rule}, {labels or 'hard'}"


def _signs(cells: Cells, name: str, metric: str) -> list[int]:
    """Of an arm less Random, over seeds or corpora, Holm over what shares a keep ratio
    of a map, or a visual world; none where it was not tried.
    """
    groups: dict[Any, list[np.ndarray]] = {}
    for cell in cells:
        place = cell["config"].get("cell") or cell["config"]["axes"]
        arms = cell["metrics"]["arms"]
        if name not in arms:
            return []
        gap = np.subtract(arms[name][metric], arms["random"][metric])
        gap = gap.reshape(place.get("units", len(gap)), -1).mean(axis=1)
        group = place["world"] if "world" in place else place["keep_ratio"]
        groups.setdefault(group, []).append(gap)
    return [verdict.sign for of in groups.values() for verdict in tell_apart(of)]


def _level(level: Any) -> str:
    """Of an axis; of noise the rates of right steps below and wrong ones above."""
    if isinstance(level, tuple):
        return " / ".join(f"{of:g}" for of in level)
    return f"{level:g}"


def _outcome_bars(
    axis: Axes, title: str, levels: Mapping[str, Sequence[int]]
) -> list[tuple[Any, ...]]:
    """One bar a level, in per cent of its worlds; returns the CSV's rows."""
    rows: list[tuple[Any, ...]] = []
    y = np.arange(len(levels))
    left = np.zeros(len(levels))
    for name, (sign, look) in _OUTCOMES.items():
        counts = np.array([list(of).count(sign) for of in levels.values()])
        share = 100 * counts / [max(len(of), 1) for of in levels.values()]
        axis.barh(y, share, 0.75, left, label=name, linewidth=0.5, **look)
        left += share
        rows.append(tuple(counts.tolist()))
    names = [f"{level} ({len(of)})" for level, of in levels.items()]
    axis.set_yticks(y, names, fontsize=6.5)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_title(title, fontsize=7)
    axis.tick_params(axis="x", labelsize=6.5)
    found = zip(*rows, strict=True)
    return [
        (title.replace("\n", " "), level, len(of), *counts)
        for (level, of), counts in zip(levels.items(), found, strict=True)
    ]


def gain(laws: Cells, cells: Cells) -> Drawing:
    """Predicted against measured AUROC: levels of the arms, and BIS less Random, by one
    k fitted to the levels of the worlds of even index and by the sandwich, unfitted.
    """
    names = ("random", "bis", "mixed", "reliable", "full")
    measured = {cell["config"]["index"]: cell["metrics"]["arms"] for cell in cells}
    by_index = {cell["config"]["index"]: cell["metrics"]["arms"] for cell in laws}
    index = np.array(sorted(measured.keys() & by_index.keys()))
    odd = index % 2 == 1
    asked = ("steps", "information", "minimiser_auroc", "relative_error")
    law = {
        key: np.array([[by_index[i][name][key] for name in names] for i in index])
        for key in asked
    }
    relative = 1 + law.pop("relative_error") / law["steps"]
    law["dimension"] = np.full_like(relative, 32.0)
    auroc = np.array([[measured[i][name]["auroc"] for name in names] for i in index])
    level = auroc.mean(axis=2)
    k = fit_constant(level[~odd], **{key: x[~odd] for key, x in law.items()})
    by_k = predicted_auroc(**law, k=k)
    by_sandwich = auroc_of_estimate(law["minimiser_auroc"], 1 / relative)
    figure, axes = new_figure(3, 1, 2.9)
    rows: list = []
    levels, *differences = axes[0]
    for i, name in enumerate(names):
        x, y = by_sandwich[odd, i], level[odd, i]
        levels.plot(
            x, y, MARKERS[i], color=COLOURS[i], markersize=2.5, label=name,
            markerfacecolor="white" if i % 2 else None, markeredgewidth=0.6,
        )  # fmt: skip
        rows += curve_rows("levels, sandwich", name, x, y)
    levels.set_title("levels, odd worlds, sandwich")
    seeds = 100 * (auroc[:, 1] - auroc[:, 0])
    shown = (("gains, one k", by_k), ("gains, sandwich", by_sandwich))
    for axis, (panel, found) in zip(differences, shown, strict=True):
        x = 100 * (found[:, 1] - found[:, 0])
        for i, (name, of) in enumerate((("even worlds", ~odd), ("odd worlds", odd))):
            marks = [mean_and_half_width(row) for row in seeds[of]]
            points(
                axis, i, name, x[of].tolist(), marks, color=COLOURS[1 + i],
                linestyle="none", elinewidth=0.5, markersize=2.5,
                markeredgewidth=0.6, markerfacecolor="white",
            )  # fmt: skip
            rows += curve_rows(panel, name, x[of], [mean for mean, _ in marks])
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.axvline(0, color=GREY, linewidth=0.6)
        axis.set_title(panel)
    for axis in axes[0]:
        axis.axline((0.5, 0.5), slope=1, color=GREY, linewidth=0.8, linestyle="--")
        axis.legend(loc="lower right", handletextpad=0.2, borderaxespad=0.2)
        axis.set_xlabel("predicted")
    levels.set_ylabel("measured AUROC (synthetic worlds)")
    differences[0].set_ylabel("measured BIS less Random, points")
    label_panels(axes[0])
    return Drawing(figure, CURVE_HEADER, rows)


_DESIGNS = {"regimes": "first map", "regimes_ordered": "second map"}

# Predictors of :func:`judged`, and how a panel is named.
_PREDICTORS = {
    "counts": "counts alone",
    "both": "counts, 100 judged rollouts",
    "both, stated": "the same; features and\nknowledge stated",
}


def judged(worlds: Sequence[Mapping[str, Any]]) -> Drawing:
    """BIS less Random in AUROC, measured over predicted, in held-out worlds.

    Args:
        worlds: of each its ``design``, the measured gain by ``seeds``, and predictions.
    """
    figure, axes = new_figure(len(_PREDICTORS), 1, 3.3, sharex=True, sharey=True)
    header = ("predictor", "design", "predicted", "measured", "half_width", "sign")
    rows: list[tuple[Any, ...]] = []
    designs = sorted({world["design"] for world in worlds})
    shown = [[np.mean(of["seeds"]), *(of[key] for key in _PREDICTORS)] for of in worlds]
    end = 105 * np.abs(shown).max()
    for axis, (key, title) in zip(axes[0], _PREDICTORS.items(), strict=True):
        shares = []
        for i, design in enumerate(designs):
            ours = [world for world in worlds if world["design"] == design]
            seeds = [100 * np.array(world["seeds"]) for world in ours]
            x = 100 * np.array([world[key] for world in ours])
            y, half = np.transpose([mean_and_half_width(of) for of in seeds])
            sign = np.array([verdict.sign for verdict in tell_apart(seeds)])
            name, sure = _DESIGNS[design], sign != 0
            for told, of in (("told apart from 0", sure), ("open", ~sure)):
                axis.plot(
                    x[of], y[of], MARKERS[i], color=COLOURS[1 + i], markersize=3,
                    label=f"{name}, {told}", markeredgewidth=0.6, alpha=0.8,
                    markerfacecolor="white" if told == "open" else None,
                )  # fmt: skip
            right = np.sum(((x > 0) == (y > 0)) & sure) / max(sure.sum(), 1)
            shares.append(f"{name} {right:.2f} of {sure.sum()}")
            of_world = zip(x, y, half, sign.tolist(), strict=True)
            rows += [(key, design, *map(float, of[:3]), of[3]) for of in of_world]
        axis.text(
            0.02, 0.98, "sign right, told apart:\n" + "\n".join(shares), va="top",
            transform=axis.transAxes, fontsize=6.5,
        )  # fmt: skip
        axis.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle="--")
        for side in (-1, 1):
            # Where the sign is wrong.
            axis.fill_between((0, side * end), -side * end, color="#EFEFEF", zorder=0)
        axis.set(xlim=(-end, end), ylim=(-end, end), box_aspect=1)
        axis.set_title(title)
        axis.set_xlabel("predicted, points")
    axes[0, 0].set_ylabel("measured BIS less Random, points of AUROC")
    title = "held-out worlds of both maps (synthetic)"
    legend_below(figure, axes[0, 0], 4, title=title, title_fontsize=7)
    label_panels(axes[0])
    return Drawing(figure, header, rows)
