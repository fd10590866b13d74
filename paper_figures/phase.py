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
from matplotlib.patches import Rectangle

from paper_figures.style import COLOURS, MUTED, SETTINGS, Drawing, new_figure
from theory import paper
from theory.intervals import Verdict, tell_apart

Cells = Sequence[Mapping[str, Any]]

# By sign; where it cannot be told a cell stays empty.
_COLOURS = {1: COLOURS[1], -1: COLOURS[2]}
# Points of AUROC at which a colour is full.
_FULL_COLOUR = 4.0

KNOWLEDGE = {
    "students": "start, times the truth",
    "probes": "updates of pretraining",
    "nets": "updates of pretraining",
}
# What a reader knows them by, where it is not their name.
PLACEMENTS = {"order 0": "unordered", "hard": "as they are"}
HEADER = (
    "world", "keep_ratio", "rate", "knowledge", "placement", "position_auroc",
    "gain_auroc_points", "low", "high", "adjusted_p", "sign", "gain_micro_f1_points",
)  # fmt: skip


class Shown(NamedTuple):
    """One cell.

    Attributes:
        verdict: of the gain in AUROC, in points, Holm over the diagram of the world.
        micro_f1: mean gain, in points.
        position_auroc: how far errors follow position; None: there are none.
    """

    verdict: Verdict
    micro_f1: float
    position_auroc: float | None


class Panel(NamedTuple):
    """The cells of a world at a keep ratio and a rate.

    Attributes:
        world: name.
        keep_ratio: rho.
        rate: of training; None: the students' own.
        cells: by knowledge and placement of errors.
    """

    world: str
    keep_ratio: float
    rate: float | None
    cells: Mapping[tuple[float, str], Shown]

    @property
    def title(self) -> str:
        """Short."""
        rate = "" if self.rate is None else f", rate {self.rate:g}"
        return f"{self.world}, {100 * self.keep_ratio:g} % kept{rate}"

    @property
    def knowledge(self) -> list[float]:
        """Its rows, the least first."""
        return sorted({level for level, _ in self.cells})

    @property
    def placements(self) -> list[str]:
        """Its columns."""
        return list(dict.fromkeys(placement for _, placement in self.cells))

    @property
    def follows(self) -> dict[str, float]:
        """How far errors follow position, of the placements that have any."""
        return {
            placement: shown.position_auroc
            for (_, placement), shown in self.cells.items()
            if shown.position_auroc is not None
        }

    def column(self, position_auroc: float) -> float:
        """Where errors that follow position so far are, between the columns."""
        at = sorted((x, self.placements.index(of)) for of, x in self.follows.items())
        return float(np.interp(position_auroc, [x for x, _ in at], [i for _, i in at]))


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


def panels(cells: Cells) -> list[Panel]:
    """Of a small and a full run the full one's."""
    most = _units(cells)
    cells = [cell for cell in cells if cell["config"]["cell"]["units"] == most]
    found: dict[tuple[str, float, float | None], dict[tuple[float, str], Shown]] = {}
    for world in dict.fromkeys(cell["config"]["cell"]["world"] for cell in cells):
        ours = [cell for cell in cells if cell["config"]["cell"]["world"] == world]
        verdicts = tell_apart([_gains(cell, "auroc") for cell in ours])
        for cell, verdict in zip(ours, verdicts, strict=True):
            place = cell["config"]["cell"]
            placed = cell["metrics"]["position_auroc"]
            of = found.setdefault((world, place["keep_ratio"], place["rate"]), {})
            of[place["knowledge"], place["placement"]] = Shown(
                verdict,
                float(_gains(cell, "micro_f1").mean()),
                placed and float(np.mean(placed)),
            )
    return [Panel(*at, of) for at, of in found.items()]


def _units(cells: Cells) -> int:
    return max(cell["config"]["cell"]["units"] for cell in cells)


def _diagram(cells: Cells, judges: Cells) -> Drawing:
    kind = cells[0]["config"]["cell"]["diagram"]
    shown = panels(cells)
    worlds = len({panel.world for panel in shown})
    levels = len({level for panel in shown for level in panel.knowledge})
    height = 1.5 + worlds * (0.5 + 0.18 * levels)
    columns = len(shown) // worlds
    figure, axes = new_figure(columns, worlds, height, sharey=True, sharex=True)
    rows: list = []
    for axis, panel in zip(axes.flat, shown, strict=True):
        rows += draw(axis, panel)
        axis.set_title(panel.title, fontsize=6.5, pad=17)
        end = len(panel.placements) - 0.35
        axis.plot(end, 0, "<", color="black", markersize=3, clip_on=False)
        for judged in judges[0]["metrics"]["by_position"].values():
            x = panel.column(judged["position_auroc"])
            above(axis, x, "\N{BLACK DOWN-POINTING TRIANGLE}", 9, fontsize=5.5)
    for axis in axes[:, 0]:
        axis.set_ylabel(KNOWLEDGE[kind], fontsize=7)
    figure.supxlabel(_legend(_units(cells)), fontsize=6.5)
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
        "\N{BLACK DOWN-POINTING TRIANGLE} real annotations, by two judges "
        "(beyond the last column: at it).\n"
        "\N{BLACK LEFT-POINTING TRIANGLE} where published models start, an argument "
        f"and no result: micro-F1 {base} % untrained, {full} % on all data."
    )


def draw(
    axis: Axes, panel: Panel, size: float = 5.5, boxed: bool = False
) -> list[tuple[Any, ...]]:
    """Draw a panel; returns its rows of the CSV.

    Args:
        axis: to draw on.
        panel: what.
        size: of letters.
        boxed: whether all numbers on a colour stand in a box, not only those on a
            hatch: for a page, whose colours change.
    """
    knowledge, placements = panel.knowledge, panel.placements
    rows = []
    for (level, placement), shown in panel.cells.items():
        x, y = placements.index(placement), knowledge.index(level)
        interval, p, sign = shown.verdict
        # What rounds to zero is +0.0, never -0.0.
        told = f"{round(interval.mean, 1) + 0:+.1f}".replace("-", "\N{MINUS SIGN}")
        strength = min(abs(interval.mean) / _FULL_COLOUR, 1)
        looks: list[dict[str, Any]] = [
            {
                "facecolor": (_COLOURS[sign], strength) if sign else "none",
                "edgecolor": SETTINGS["grid.color"],
            }
        ]
        # By itself: in an SVG a hatched face would lose its strength.
        if sign < 0:
            looks.append({"facecolor": "none", "edgecolor": "black", "hatch": "//////"})
        for look in looks:
            corner = x - 0.5, y - 0.5
            axis.add_patch(Rectangle(corner, 1, 1, linewidth=0.4, **look))
        box = None
        if sign < 0 or (sign > 0 and boxed):
            box = {"facecolor": "white", "alpha": 0.8, "pad": 0.6, "linewidth": 0}
        axis.text(
            x, y, told, ha="center", va="center", fontsize=size,
            color=MUTED if not sign else "black" if box or strength <= 0.7 else "white",
            bbox=box,
        )  # fmt: skip
        rows.append(
            (
                *panel[:3], level, placement, shown.position_auroc, interval.mean,
                interval.low, interval.high, p, sign, shown.micro_f1,
            )
        )  # fmt: skip
    for placement, follows in panel.follows.items():
        x, shown = placements.index(placement), f"{follows:.2f}".lstrip("0")
        above(axis, x, shown, 2, fontsize=size, color=MUTED)
    names = [PLACEMENTS.get(placement, placement) for placement in placements]
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(knowledge)), [f"{level:g}" for level in knowledge])
    axis.tick_params(length=0, labelsize=size + 0.5)
    axis.set_xlim(-0.5, len(placements) - 0.5)
    axis.set_ylim(-0.5, len(knowledge) - 0.5)
    axis.spines[:].set_visible(False)
    return rows


def above(axis: Axes, x: float, text: str, points: float, **look: Any) -> None:
    """Text over a place among the columns, so many points above the axes."""
    look = {"ha": "center"} | look
    axis.annotate(
        text, (x, 1), (0, points), xycoords=axis.get_xaxis_transform(),
        textcoords="offset points", **look,
    )  # fmt: skip
