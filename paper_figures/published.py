"""The paper's numbers, and how a figure of simulated students shows them.

They are of 8B models on VisualProcessBench, so no level of theirs means anything here:
marks stand at differences to full data, in points, on an axis of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

# InternVL2.5-8B and Qwen2.5-VL-7B.
BACKBONES = ("InternVL", "Qwen")

# Overall micro-F1 in %, one run each, of the backbones in this order. The main results
# by keep ratio in %, and full data (Table 2, hard labels with tau = 0).
RANDOM = {
    5: (63.34, 53.54),
    10: (62.86, 61.99),
    15: (63.27, 59.82),
    25: (63.37, 64.44),
    35: (63.52, 64.77),
    50: (64.02, 64.54),
}
BIS = {
    5: (64.51, 64.42),
    10: (65.46, 64.63),
    15: (64.98, 65.29),
    25: (65.46, 65.53),
    35: (64.98, 65.69),
    50: (65.00, 65.02),
}
FULL = (65.12, 65.57)
# Rules at 25 %, InternVL2.5-8B (Table 4).
RULES = {
    "random": 63.37,
    "low-mc": 64.18,
    "mixed": 64.70,
    "bis": 65.46,
    "reliable": 62.75,
}
# BIS at 25 %, InternVL2.5-8B: alpha -> micro-F1 (Table 5).
ALPHA = {0.02: 64.84, 0.05: 65.46, 0.08: 64.86}

# Full data (Table 1), and the global batch (Table 7).
ROLLOUTS, BATCH = 565_096, 512

AXIS_LABEL = "paper: micro-F1 less full data's, points"
HEADER = ("panel", "series", "x", "y", "source", "published_micro_f1_percent")

# Dark enough on white, and lighter than the curves.
_GREY = "#6E6E6E"


def updates(keep_percent: float) -> int:
    """T = ceil(N / 512) of the paper's single pass over a share of the rollouts."""
    return math.ceil(keep_percent / 100 * ROLLOUTS / BATCH)


class Marks(NamedTuple):
    """Published values of one series.

    Attributes:
        name: of the series, for the legend.
        backbone: index into ``BACKBONES``; the second one's marks are half filled.
        marker: shape of the marks.
        points: (keep ratio in %, micro-F1 in %).
    """

    name: str
    backbone: int
    marker: str
    points: tuple[tuple[float, float], ...]


def of_both(
    name: str, marker: str, table: dict[int, tuple[float, float]], keeps: Sequence[int]
) -> list[Marks]:
    """Marks of a table by keep ratio, one series per backbone."""
    return [
        Marks(name, i, marker, tuple((keep, table[keep][i]) for keep in keeps))
        for i in range(len(BACKBONES))
    ]


def full_data() -> list[Marks]:
    """Full data of both backbones, the zero of the paper's axis."""
    return of_both("all data", "o", {100: FULL}, (100,))


def draw(axis: Axes, panel: str, level: float, marks: Sequence[Marks]) -> list:
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
    for name, backbone, marker, points in marks:
        series = f"paper: {name}, {BACKBONES[backbone]}"
        x = [updates(keep) for keep, _ in points]
        y = [level + (value - FULL[backbone]) / 100 for _, value in points]
        # A backbone's marks stand beside the other's, not on them; the CSV has x.
        beside = [(0.96, 1.04)[backbone] * a for a in x]
        axis.plot(
            beside, y, marker, label=series, color=_GREY, markersize=5.5, zorder=4,
            fillstyle="bottom" if backbone else "full",
            markerfacecolor=_GREY if backbone else "white",
            markerfacecoloralt="white", markeredgecolor=_GREY,
        )  # fmt: skip
        rows += [
            (panel, series, float(a), float(b), "paper", value)
            for a, b, (_, value) in zip(x, y, points, strict=True)
        ]
    return rows


def right_axis(axis: Axes, level: float) -> None:
    """Differences to the paper's full data in points, zero at ``level``."""
    right = axis.secondary_yaxis(
        "right",
        functions=(
            lambda y: 100 * (np.asarray(y) - level),
            lambda points: level + np.asarray(points) / 100,
        ),
    )
    right.set_ylabel(AXIS_LABEL, color=_GREY)
    right.tick_params(colors=_GREY)
    right.spines["right"].set_visible(True)
    right.spines["right"].set_color(_GREY)


def simulated(rows: Sequence[tuple[Any, ...]]) -> list:
    """Rows of curves of simulated students, as wide as ``HEADER``."""
    return [(*row, "simulated", "") for row in rows]
