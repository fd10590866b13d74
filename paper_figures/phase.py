"""Phase diagrams: BIS less Random over knowledge and over where wrong labels stand.

Synthetic data throughout: simulated students, and the tiny backbone on simulated
scenes. Marked beside the axes is where real annotations and published models stand; the
latter is an argument, not a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from paper_figures.style import COLOURS, GREY, Drawing, new_figure
from theory import paper
from theory.intervals import Verdict, tell_apart

Cells = Sequence[Mapping[str, Any]]

# From Random's side to BIS's; where the sign cannot be told a cell stays white.
LOSS, WIN = COLOURS[2], COLOURS[1]
_COLOURS = LinearSegmentedColormap.from_list("gain", [LOSS, "white", WIN])
# Points of AUROC at which the colours end.
_FULL_COLOUR = 4.0

_KNOWLEDGE = {
    "students": "start, times the truth",
    "probes": "updates of pretraining",
    "nets": "updates of pretraining",
}
# What a reader knows them by, where it is not their name.
_PLACEMENTS = {"order 0": "unordered", "hard": "as they are"}
HEADER = (
    "world", "keep_ratio", "rate", "knowledge", "placement", "position_auroc",
    "gain_auroc_points", "low", "high", "adjusted_p", "sign", "gain_micro_f1_points",
)  # fmt: skip


class _Panel(NamedTuple):
    """What one panel shows: the cells of a world at a keep ratio and a rate."""

    world: str
    keep_ratio: float
    rate: float | None

    @property
    def title(self) -> str:
        """Short."""
        rate = "" if self.rate is None else f", rate {self.rate:g}"
        return f"{self.world}, {100 * self.keep_ratio:g} % kept{rate}"


class _Shown(NamedTuple):
    """One cell.

    Attributes:
        verdict: of the gain in AUROC, Holm over the diagram of the world.
        micro_f1: mean gain.
        position_auroc: how far errors follow position; None: there are none.
    """

    verdict: Verdict
    micro_f1: float
    position_auroc: float | None


def students(cells: Cells, judges: Cells) -> Drawing:
    """Linear students that start at c times the truth."""
    return _diagram(cells, judges)


def probes(cells: Cells, judges: Cells) -> Drawing:
    """Linear probes on frozen hidden states of the tiny backbone."""
    return _diagram(cells, judges)


def nets(cells: Cells, judges: Cells) -> Drawing:
    """The tiny backbone trained whole."""
    return _diagram(cells, judges)


def _gains(cell: Mapping[str, Any], metric: str) -> np.ndarray:
    """BIS less Random of each unit, in points."""
    place, arms = cell["config"]["cell"], cell["metrics"]["arms"]
    gap = np.subtract(arms["bis"][metric], arms["random"][metric])
    return 100 * gap.reshape(place["units"], place["seeds"]).mean(axis=1)


def _judged(cells: Cells) -> dict[_Panel, dict[tuple[float, str], _Shown]]:
    """Panel -> (knowledge, placement) -> what is shown."""
    panels: dict[_Panel, dict[tuple[float, str], _Shown]] = {}
    for world in dict.fromkeys(cell["config"]["cell"]["world"] for cell in cells):
        ours = [cell for cell in cells if cell["config"]["cell"]["world"] == world]
        found = tell_apart([_gains(cell, "auroc") for cell in ours])
        for cell, verdict in zip(ours, found, strict=True):
            place = cell["config"]["cell"]
            panel = _Panel(world, place["keep_ratio"], place["rate"])
            placed = cell["metrics"]["position_auroc"]
            panels.setdefault(panel, {})[place["knowledge"], place["placement"]] = (
                _Shown(
                    verdict,
                    float(_gains(cell, "micro_f1").mean()),
                    placed and float(np.mean(placed)),
                )
            )
    return panels


def _diagram(cells: Cells, judges: Cells) -> Drawing:
    most = max(cell["config"]["cell"]["units"] for cell in cells)
    # Of a small and a full run the full one.
    cells = [cell for cell in cells if cell["config"]["cell"]["units"] == most]
    kind = cells[0]["config"]["cell"]["diagram"]
    panels = _judged(cells)
    worlds = list(dict.fromkeys(panel.world for panel in panels))
    columns = len(panels) // len(worlds)
    levels = len({knowledge for of in panels.values() for knowledge, _ in of})
    height = 1.5 + len(worlds) * (0.5 + 0.18 * levels)
    figure, axes = new_figure(columns, len(worlds), height, sharey=True, sharex=True)
    rows: list = []
    for axis, (panel, of) in zip(axes.flat, panels.items(), strict=True):
        rows += _draw(axis, panel, of)
        for judged in judges[0]["metrics"]["by_position"].values():
            _mark_judge(axis, of, judged["position_auroc"])
    for axis in axes[:, 0]:
        axis.set_ylabel(_KNOWLEDGE[kind], fontsize=7)
    figure.supxlabel(_legend(most), fontsize=6.5)
    return Drawing(figure, HEADER, rows)


def _legend(units: int) -> str:
    """What colours and marks mean."""
    base, full = (
        " and ".join(f"{value:.1f}" for value in of) for of in (paper.BASE, paper.FULL)
    )
    return (
        f"BIS less Random, points of AUROC over {units} corpora (synthetic data). "
        "Coloured: told apart from 0, Holm over a world; hatched: BIS loses.\n"
        "Above the columns: how far wrong labels follow position (AUROC). "
        "\N{BLACK DOWN-POINTING TRIANGLE} real annotations, by two judges.\n"
        "\N{BLACK LEFT-POINTING TRIANGLE} where published models start, an argument "
        f"and no result: micro-F1 {base} % untrained, {full} % on all data."
    )


def _draw(
    axis: Axes, panel: _Panel, of: Mapping[tuple[float, str], _Shown]
) -> list[tuple[Any, ...]]:
    """Draw a panel; returns its rows of the CSV."""
    knowledge = sorted({level for level, _ in of})
    placements = list(dict.fromkeys(placement for _, placement in of))
    rows = []
    for (level, placement), shown in of.items():
        x, y = placements.index(placement), knowledge.index(level)
        interval, p, sign = shown.verdict
        strength = np.clip(interval.mean / _FULL_COLOUR, -1, 1) if sign else 0.0
        axis.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5), 1, 1, facecolor=_COLOURS(0.5 + strength / 2),
                edgecolor="#5A5A5A" if sign < 0 else "#D9D9D9", linewidth=0.4,
                hatch="//////" if sign < 0 else None,
            )
        )  # fmt: skip
        axis.text(
            x, y, f"{interval.mean:+.1f}", ha="center", va="center", fontsize=5.5,
            color="white" if strength > 0.7 else "black" if sign else GREY,
            bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.6, "linewidth": 0}
            if sign < 0
            else None,
        )  # fmt: skip
        rows.append(
            (
                *panel, level, placement, shown.position_auroc, interval.mean,
                interval.low, interval.high, p, sign, shown.micro_f1,
            )
        )  # fmt: skip
        if shown.position_auroc is not None and y == 0:
            _above(axis, x, f"{shown.position_auroc:.2f}".lstrip("0"), 2, GREY)
    axis.plot(
        len(placements) - 0.35, 0, "<", color="black", markersize=3, clip_on=False
    )
    names = [_PLACEMENTS.get(placement, placement) for placement in placements]
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(knowledge)), [f"{level:g}" for level in knowledge])
    axis.tick_params(length=0, labelsize=6)
    axis.set_xlim(-0.5, len(placements) - 0.5)
    axis.set_ylim(-0.5, len(knowledge) - 0.5)
    axis.spines[:].set_visible(False)
    axis.set_title(panel.title, fontsize=6.5, pad=17)
    return rows


def _mark_judge(
    axis: Axes, of: Mapping[tuple[float, str], _Shown], position_auroc: float
) -> None:
    """A mark above the columns, where errors that follow position so far would be."""
    placements = list(dict.fromkeys(placement for _, placement in of))
    measured = {
        shown.position_auroc: placements.index(placement)
        for (_, placement), shown in of.items()
        if shown.position_auroc is not None
    }
    at = sorted(measured)
    x = np.interp(position_auroc, at, [measured[value] for value in at])
    _above(axis, float(x), "\N{BLACK DOWN-POINTING TRIANGLE}", 9, "black")


def _above(axis: Axes, x: float, text: str, points: float, colour: str) -> None:
    axis.annotate(
        text, (x, 1), (0, points), xycoords=axis.get_xaxis_transform(),
        textcoords="offset points", ha="center", fontsize=5.5, color=colour,
    )  # fmt: skip
