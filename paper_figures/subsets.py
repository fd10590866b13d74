"""What each selection rule keeps: composition, wrong labels, and picks made by ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paper_figures.style import Drawing, new_figure

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


def subsets(cells: Sequence[Mapping[str, Any]]) -> Drawing:
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
            y,
            share,
            left=start,
            label=label,
            color=colour,
            hatch=hatch,
            edgecolor="black",
            linewidth=0.5,
        )
        start += share
        rows += [(rule, label, float(x)) for rule, x in zip(rules, share, strict=True)]
    for key, label, marker, colour in _MARKS:
        share = 100 * np.array([result["rules"][rule][key] for rule in rules])
        right.plot(
            share,
            y,
            marker,
            label=label,
            markerfacecolor=colour,
            markeredgecolor="black",
        )
        rows += [(rule, label, float(x)) for rule, x in zip(rules, share, strict=True)]
    left.set_yticks(y, rules)
    left.set_xlabel("% of the rollouts kept")
    right.set_xlabel("% of the picks, or of the positive steps")
    right.grid(axis="x")
    for axis in (left, right):
        axis.set_xlim(-2 if axis is right else 0, 102 if axis is right else 100)
        axis.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3 if axis is left else 1,
            columnspacing=1.2,
            handlelength=1.6,
        )
    return Drawing(figure, ("rule", "share", "per_cent"), rows)
