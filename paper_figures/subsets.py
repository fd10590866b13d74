"""What each selection rule keeps: composition, wrong labels, and picks made by ties.

    python -m paper_figures.subsets [RESULT.json] [OUTPUT.png]

reads what ``mprm demo --json`` prints (the committed reference by default).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "experiments" / "results" / "demo_rules.json"
OUTPUT = ROOT / "paper_figures" / "subsets.png"

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


def draw(result: dict) -> Figure:
    """The figure for one result of ``mprm demo --json``."""
    rules = list(result["rules"])
    y = np.arange(len(rules))[::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 2.9), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    start = np.zeros(len(rules))
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
    left.set_yticks(y, rules)
    left.set_xlabel("% of the rollouts kept")
    right.set_xlabel("% of the picks, or of the positive steps")
    right.grid(axis="x", linewidth=0.4)
    for axes in (left, right):
        axes.set_xlim(-2 if axes is right else 0, 102 if axes is right else 100)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3 if axes is left else 1,
            frameon=False,
            fontsize="small",
        )
    return figure


def main() -> None:
    """Draw from the given result, or from the committed one."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE
    output = Path(sys.argv[2]) if len(sys.argv) > 2 else OUTPUT
    mpl.use("agg")
    figure = draw(json.loads(source.read_text(encoding="utf-8")))
    figure.savefig(output, dpi=150)


if __name__ == "__main__":
    main()
