"""What models learned from what rules kept: `mprm run selection`, real or synthetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from paper_figures.style import (
    CURVE_HEADER,
    GREY,
    MARKERS,
    Drawing,
    curve,
    curve_rows,
    label_panels,
    named_ticks,
    new_figure,
    points,
)
from theory.intervals import mean_and_half_width

Cell = Mapping[str, Any]

# An arm less its keep ratio: what one curve over keep ratios shows.
_Series = tuple[str, float | None]

_ORDER = ("random", "bis", "mixed", "low-mc", "reliable")
_NAMES = {"random": "Random", "bis": "BIS", "mixed": "Mixed", "low-mc": "Low-MC"}
_NAMES |= {"reliable": "Reliable", "full": "full data", "base": "untrained"}

# More curves than that cannot be told apart; all of them are in the CSV.
_MOST = 5
# Rows of panels: corpora and kinds of labels.
_MOST_ROWS = 4


def selection(cells: Sequence[Cell]) -> Drawing:
    """Micro-F1 over the keep ratio, less Random's, and over updates (Fig. 1 and 2).

    One row of panels per corpus and kind of labels.
    """
    groups = _groups(cells)
    shown = list(groups.items())[:_MOST_ROWS]
    figure, axes = new_figure(3, len(shown), 2.6 * len(shown) + 0.3)
    rows: list[tuple[Any, ...]] = []
    for i, (title, of) in enumerate(shown):
        levels, gaps, curves = axes[i]
        rows += _levels(levels, of, title)
        rows += _gaps(gaps, of, title)
        rows += _curves(curves, of, title)
        levels.set_title(title, fontsize=8)
        levels.set_ylabel("micro-F1")
    label_panels(axes.ravel().tolist())
    return Drawing(figure, CURVE_HEADER, rows)


def _groups(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by corpus and labels; the untrained model belongs to every kind of label.

    Raises:
        KeyError: a cell is none of a selection grid.
    """
    found: dict[str, list[Cell]] = {}
    kinds = {_labels(cell) for cell in cells if cell["config"]["arm"]["labels"]}
    for cell in cells:
        world = cell["config"]["world"]
        kind = "synthetic" if world["synthetic"] else "real corpus"
        trained = cell["config"]["arm"]["labels"] is not None
        for labels in [_labels(cell)] if trained else sorted(kinds) or [""]:
            name = f"{str(world['name'])[:24]} ({kind})"
            # Of one kind of labels nothing needs to be said.
            title = f"{name}\n{labels}" if len(kinds) > 1 else name
            found.setdefault(title, []).append(cell)
    return found


def _labels(cell: Cell) -> str:
    arm = cell["config"]["arm"]
    if arm["labels"] == "hard":
        return f"labels K/N > {arm['label_threshold']:g}"
    return f"{arm['labels']} labels"


def _by_series(cells: Sequence[Cell]) -> dict[_Series, dict[float, dict[Any, Cell]]]:
    """Series -> keep ratio -> seed -> cell, the paper's rules first."""
    found: dict[_Series, dict[float, dict[Any, Cell]]] = {}
    for cell in cells:
        arm = cell["config"]["arm"]
        if arm["rule"] in ("full", "base"):
            continue
        of = found.setdefault((arm["rule"], arm["alpha"]), {})
        of.setdefault(arm["keep_ratio"], {})[cell["seed"]] = cell

    def place(series: _Series) -> tuple[int, str, float]:
        rule, alpha = series
        known = _ORDER.index(rule) if rule in _ORDER else len(_ORDER)
        return known, rule, alpha or 0.0

    return {
        series: dict(sorted(found[series].items()))
        for series in sorted(found, key=place)
    }


def _name(series: _Series, every: Sequence[_Series]) -> str:
    rule, alpha = series
    several = sum(other == rule for other, _ in every) > 1
    name = _NAMES.get(rule, rule)
    return f"{name}, alpha {alpha:g}" if several else name


def _micro_f1(cells: Mapping[Any, Cell], seeds: Iterable[Any]) -> list[float]:
    return [cells[seed]["metrics"]["micro_f1"] for seed in seeds]


def _levels(axis: Axes, cells: Sequence[Cell], panel: str) -> list[tuple[Any, ...]]:
    """Micro-F1 of each rule, and of the references as lines."""
    rows: list[tuple[Any, ...]] = []
    series = _by_series(cells)
    for i, (one, by_keep) in enumerate(series.items()):
        marks = [mean_and_half_width(_micro_f1(of, of)) for of in by_keep.values()]
        x, name = [100 * keep for keep in by_keep], _name(one, list(series))
        rows += curve_rows(panel, name, x, [mean for mean, _ in marks])
        if i < _MOST:
            beside(axis, i, name, x, marks)
    ends = [100 * keep for by_keep in series.values() for keep in by_keep] or [1, 100]
    for rule in ("full", "base"):
        of = [c for c in cells if c["config"]["arm"]["rule"] == rule]
        if not of:
            continue
        mean, half = mean_and_half_width([c["metrics"]["micro_f1"] for c in of])
        rows += curve_rows(panel, _NAMES[rule], [min(ends), max(ends)], [mean, mean])
        if rule == "base":
            # Far below, it would flatten what is compared.
            axis.plot([], [], " ", label=f"{_NAMES[rule]}: {mean:.3f}")
            continue
        axis.axhline(mean, color=GREY, label=_NAMES[rule])
        # A wide one must not set the scale either.
        low, high = axis.get_ylim()
        if np.isfinite(half):
            axis.axhspan(mean - half, mean + half, color=GREY, alpha=0.15, linewidth=0)
        axis.set_ylim(low, high)
    keep_axis(axis, ends)
    axis.legend(fontsize=6.5, loc="best")
    return rows


def beside(
    axis: Axes,
    index: int,
    name: str,
    x: Sequence[float],
    marks: Sequence[tuple[float, float]],
    **look: Any,
) -> None:
    """Marks a little beside those of other curves, that no interval covers another."""
    shifted = [value * 1.03 ** (index - 1) for value in x]
    points(axis, index, name, shifted, marks, capsize=1.5, **look)


def _gaps(axis: Axes, cells: Sequence[Cell], panel: str) -> list[tuple[Any, ...]]:
    """Micro-F1 less Random's at the same keep ratio, paired by seed, in points."""
    rows: list[tuple[Any, ...]] = []
    series = _by_series(cells)
    random = series.get(("random", None), {})
    ends: list[float] = []
    for i, (one, by_keep) in enumerate(series.items()):
        if one[0] == "random":
            continue
        gaps = {}
        for keep, of in by_keep.items():
            base = random.get(keep, {})
            shared = [seed for seed in of if seed in base]
            treated, baseline = _micro_f1(of, shared), _micro_f1(base, shared)
            if shared:
                gap = 100 * np.subtract(treated, baseline)
                gaps[100 * keep] = mean_and_half_width(gap)
        x, marks, name = list(gaps), list(gaps.values()), _name(one, list(series))
        rows += curve_rows(f"{panel}, less Random", name, x, [m for m, _ in marks])
        ends += x
        if i < _MOST and x:
            beside(axis, i, name, x, marks)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set_ylabel("less Random, points")
    axis.set_title("paired by seed")
    keep_axis(axis, ends or [1, 100])
    return rows


def keep_axis(axis: Axes, percents: Sequence[float]) -> None:
    """Logarithmic, with a tick at every keep ratio."""
    ticks = sorted(set(percents))
    named_ticks(axis, ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlim(min(ticks) / 1.25, max(ticks) * 1.25)
    axis.set_xlabel("keep ratio, %")
    axis.grid(axis="y")


def _curves(axis: Axes, cells: Sequence[Cell], panel: str) -> list[tuple[Any, ...]]:
    """Micro-F1 over updates at the keep ratio that is nearest 10 %, and of all data."""
    rows: list[tuple[Any, ...]] = []
    series = _by_series(cells)
    keeps = sorted({keep for by_keep in series.values() for keep in by_keep})
    keep = min(keeps, key=lambda value: abs(value - 0.1)) if keeps else None
    listed = [
        (_name(one, list(series)), list(by_keep[keep].values()))
        for one, by_keep in series.items()
        if keep in by_keep
    ][: _MOST - 1]
    full = [cell for cell in cells if cell["config"]["arm"]["rule"] == "full"]
    longest: list[float] = []
    for i, (name, of) in enumerate([*listed, (_NAMES["full"], full)]):
        x, y = _mean_curve(of)
        rows += curve_rows(f"{panel}, over updates", name, x, y)
        look: dict[str, Any] = {"color": GREY} if name == _NAMES["full"] else curve(i)
        if x:
            axis.plot(x, y, label=name, marker=MARKERS[i], markersize=2.5, **look)
        longest = max(longest, x, key=len)
    axis.set_xlabel("updates")
    axis.set_title(f"while learning, keep {100 * (keep or 1):g} %")
    axis.grid(axis="y")
    if len(longest) > 1:
        update_axis(axis, max(longest))
        axis.legend(fontsize=6.5, loc="best")
    else:
        axis.text(
            0.5, 0.5, "no curves were recorded\n(--eval-every)", ha="center",
            va="center", transform=axis.transAxes, color=GREY,
        )  # fmt: skip
    return rows


def update_axis(axis: Axes, last: float) -> None:
    """Logarithmic, with ticks at 1, 2 and 5 x 10^k updates."""
    ticks = [m * 10**k for k in range(9) for m in (1, 2, 5) if m * 10**k <= last]
    first = axis.dataLim.xmin
    shown = [tick for tick in ticks if tick >= 0.8 * first]
    named_ticks(axis, shown, [f"{tick:,}" for tick in shown])


def _mean_curve(cells: Sequence[Cell]) -> tuple[list[float], list[float]]:
    """Updates that all seeds share, and the mean over seeds there."""
    curves = [dict(cell["metrics"]["f1_curve"]) for cell in cells]
    if not curves:
        return [], []
    shared = sorted(set.intersection(*(set(of) for of in curves)))
    return shared, [float(np.mean([of[x] for of in curves])) for x in shared]
