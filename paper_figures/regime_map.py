"""The map: gain of BIS in every simulated world, over what can be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paper_figures.style import GREY, MARKERS, Drawing, label_panels, new_figure

Cells = Sequence[Mapping[str, Any]]

_BASELINES = (("random", "Random"), ("mixed", "Mixed"), ("full", "all data"))
_KEEPS = (0.05, 0.1, 0.25, 0.5)
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#E69F00")
_T19 = 2.093


def regime_map(cells: Cells) -> Drawing:
    """BIS less Random, Mixed and all data over the mixed share, one mark per world."""
    figure, axes = new_figure(3, 1, 3.0)
    rows: list = []
    for axis, (baseline, name) in zip(axes[0], _BASELINES, strict=True):
        axis.axhline(0, color=GREY, linewidth=0.8)
        for i, keep in enumerate(_KEEPS):
            x, y, half = [], [], []
            for cell in cells:
                if cell["config"]["axes"]["keep_ratio"] != keep:
                    continue
                arms = cell["metrics"]["arms"]
                gap = 100 * np.subtract(
                    arms["bis"]["micro_f1"], arms[baseline]["micro_f1"]
                )
                x.append(cell["metrics"]["measures"]["mixed_share"])
                y.append(float(gap.mean()))
                half.append(float(_T19 * gap.std(ddof=1) / np.sqrt(len(gap))))
                rows.append(
                    (name, cell["config"]["index"], keep, x[-1], y[-1], half[-1])
                )
            # Worlds share few mixed shares: keep ratios stand beside each other.
            beside = np.array(x) * 1.08 ** (i - 1.5)
            axis.errorbar(
                beside, y, half, fmt=MARKERS[i], color=_COLOURS[i], elinewidth=0.6,
                label=f"keep {100 * keep:g} %",
                markerfacecolor="white" if i % 2 else None,
            )  # fmt: skip
        axis.set_xscale("log")
        ticks = (0.04, 0.08, 0.16, 0.32, 0.5)
        axis.set_xticks(ticks, [f"{100 * t:g}" for t in ticks])
        axis.minorticks_off()
        axis.set_xlabel("mixed rollouts, %")
        axis.set_title(f"BIS less {name}")
        axis.grid(axis="y")
    axes[0, 0].set_ylabel("micro-F1, points (synthetic worlds)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    label_panels(axes[0])
    header = (
        "panel",
        "world",
        "keep_ratio",
        "mixed_share",
        "gain_points",
        "half_width",
    )
    return Drawing(figure, header, rows)
