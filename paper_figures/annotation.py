"""Where continuations go: wrong labels and kept selection over what an arm costs.

Synthetic data: simulated scenes whose truth is known (``mprm run annotate``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from paper_figures.style import (
    COLOURS,
    DASHES,
    GREY,
    MARKERS,
    Drawing,
    legend_below,
    named_ticks,
    new_figure,
)
from theory.intervals import mean_and_half_width

Cells = Sequence[Mapping[str, Any]]

_FULL = ("uniform", "16")
# What a panel shows: reading and metric.
_ROWS = {
    "wrong by $K > 0$, %": ("positive", "error"),
    r"wrong by $r \geq 1/2$, %": ("reliable", "error"),
    "BIS-10 % kept, %": ("positive", "bis"),
}
_MARKERS = (*MARKERS, "P", "X", "*")
HEADER = ("world", "panel", "arm", "budget", "cost", "mean", "half_width")


def annotation(cells: Cells) -> Drawing:
    """Every arm at every budget; of a small and a full run the full one."""
    most = max(cell["config"]["rollouts"] for cell in cells)
    cells = [cell for cell in cells if cell["config"]["rollouts"] == most]
    worlds = list(dict.fromkeys(cell["config"]["world"] for cell in cells))
    figure, axes = new_figure(len(worlds), len(_ROWS), 5.6, sharex=True)
    rows: list[tuple[Any, ...]] = []
    for axes_of, world in zip(axes.T, worlds, strict=True):
        of_world = [c["metrics"] for c in cells if c["config"]["world"] == world]
        axes_of[0].set_title(world)
        for axis, (panel, of) in zip(axes_of, _ROWS.items(), strict=True):
            rows += [(world, panel, *row) for row in _draw(axis, of_world, *of)]
    for axis, panel in zip(axes[:, 0], _ROWS, strict=True):
        axis.set_ylabel(panel)
    title = (
        "over continuations a step; grey: full annotation (N = 16); kept: by another "
        "full annotation"
    )
    legend_below(figure, axes[0, 0], 4, title=title, title_fontsize=7)
    return Drawing(figure, HEADER, rows)


def _draw(axis: Axes, cells: Cells, reading: str, metric: str) -> list[tuple[Any, ...]]:
    def at(arm: str, level: str) -> tuple[float, float, float]:
        """Cost; mean in per cent, and half its interval."""
        of = [cell["arms"][arm][level] for cell in cells]
        mean, half = mean_and_half_width([100 * x[reading][metric] for x in of])
        return float(np.mean([x["cost"] for x in of])), mean, half

    rows = []
    _, level, half = at(*_FULL)
    axis.axhspan(level - half, level + half, color=GREY, alpha=0.35, linewidth=0)
    arms = {
        arm: levels
        for arm, levels in cells[0]["arms"].items()
        if len(levels) > 1 and not arm.startswith("checker")
    }
    for i, (arm, levels) in enumerate(arms.items()):
        points = [at(arm, of) for of in levels]
        cost, mean, half = np.transpose(points)
        look: dict[str, Any] = {"marker": _MARKERS[i], "markersize": 3.2}
        # More arms than colours: the last ones go through them backwards, hollow.
        colour = COLOURS[i] if i < len(COLOURS) else COLOURS[len(COLOURS) - 1 - i]
        if i >= len(COLOURS):
            look |= {"markerfacecolor": "white", "markersize": 4.5, "zorder": 3}
        look |= {"color": colour, "linestyle": DASHES[i % len(DASHES)]}
        look |= {"linewidth": 1.0, "elinewidth": 0.6, "markeredgewidth": 0.8}
        axis.errorbar(cost, mean, np.nan_to_num(half), label=arm, **look)
        rows += [(arm, of, *point) for of, point in zip(levels, points, strict=True)]
    named_ticks(axis, [2, 4, 8, 16], ["2", "4", "8", "16"])
    axis.grid(visible=True)
    axis.tick_params(labelsize=6.5)
    return rows
