"""The charts of a run's page, as SVG that takes its colours from the page.

Each chart is as wide as a phone; :func:`inline_svg` turns it into markup whose colours
are variables of the page's style sheet, so that one picture suits light, dark and
print. Draw inside ``rc_context(SETTINGS)``.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from paper_figures import phase, style
from paper_figures.corpus import coverage_panel
from paper_figures.selection import beside, keep_axis, named_ticks, update_axis
from paper_figures.style import DASHES, GREY, MARKERS, MUTED

# Inches; with fonts of 8 points, text keeps 10 px on a phone 360 px wide.
_WIDTH = 3.6
_LONGEST_LABEL = 21

_FILL = "#1f5a8c"

SETTINGS: dict[Any, Any] = style.SETTINGS | {
    "svg.fonttype": "none",
    # Texts come from results: a dollar sign is one.
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.labelcolor": MUTED,
    "ytick.major.size": 0,
}

# Colour of a drawing -> variable of the page's style sheet.
_VARIABLES = {
    colour.lower(): f"var(--{name})"
    for colour, name in (
        *((colour, f"curve-{i}") for i, colour in enumerate(style.COLOURS)),
        (GREY, "soft"),
        (style.SETTINGS["grid.color"], "line"),
        ("#ffffff", "paper"),
        (MUTED, "muted"),
        (_FILL, "fill"),
    )
}


class Term(NamedTuple):
    """One row of :func:`differences` or :func:`terms`.

    Attributes:
        label: what it is, or is compared.
        told: it in words.
        mean: of it; None where it is not known.
        half: half the width of its interval; None where nothing gives one.
        look: of terms 0 for what is explained, 1 for its terms, 2 for parts of the last
            term.
    """

    label: str
    told: str
    mean: float | None
    half: float | None
    look: int = 0


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axis = figure.subplots()
    figure.patch.set_visible(False)
    axis.patch.set_visible(False)
    axis.spines["left"].set_visible(False)
    return figure, axis


def _legend(figure: Figure, *axes: Axes) -> None:
    """Above the axes, in as many columns as the longest name leaves room for."""
    found = [axis.get_legend_handles_labels() for axis in axes]
    handles = [handle for of, _ in found for handle in of]
    names = [name for _, of in found for name in of]
    longest = max(map(len, names), default=0)
    columns = 3 if longest <= 9 else 2 if longest <= 20 else 1
    figure.legend(
        handles, names, loc="outside upper left", ncols=columns, columnspacing=1.2,
        borderpad=0,
    )  # fmt: skip


class Curve(NamedTuple):
    """One line of a chart.

    Attributes:
        name: in the legend.
        x: ascending.
        y: at each x.
        half: half the width of the interval at each x, NaN for none; or what lies below
            y, and what above, ``[2, n]``.
        look: which curve of the style.
        grey: for reference only.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float] | np.ndarray
    look: int = 0
    grey: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Colour, dashes and marker; beyond five looks they are combined anew."""
        index = self.look % len(MARKERS)
        if self.grey:
            return {"color": GREY, "marker": MARKERS[index]}
        dashes = DASHES[(self.look + self.look // len(DASHES)) % len(DASHES)]
        return style.curve(index) | {"linestyle": dashes, "marker": MARKERS[index]}


def levels(curves: Sequence[Curve], y_label: str) -> Figure:
    """A metric over keep ratios in per cent, with intervals."""
    figure, axis = _figure(2.6)
    for one in curves:
        marks = list(zip(one.y, one.half, strict=True))
        index = one.look % len(MARKERS)
        beside(axis, index, one.name, one.x, marks, **one.settings)
    keep_axis(axis, [x for one in curves for x in one.x])
    axis.set_ylabel(y_label)
    _legend(figure, axis)
    return figure


def learning(curves: Sequence[Curve], y_label: str) -> Figure:
    """A metric over updates, logarithmic where the longest curve is over four times as
    long as the shortest, so that the short ones can be read, too.
    """
    figure, axis = _figure(2.6)
    for one in curves:
        every = 1 + len(one.x) // 8
        axis.plot(
            one.x, one.y, label=one.name, markersize=2.5, markevery=every,
            **one.settings,
        )  # fmt: skip
    lasts = [one.x[-1] for one in curves]
    if min(one.x[0] for one in curves) > 0 and max(lasts) > 4 * min(lasts):
        update_axis(axis, max(lasts))
    axis.set_xlabel("updates")
    axis.set_ylabel(y_label)
    axis.grid(axis="y")
    _legend(figure, axis)
    return figure


class Mark(NamedTuple):
    """A named place on the x axis of :func:`lines`, in the look of a curve."""

    name: str
    x: float
    look: int


def lines(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    ideal: bool = False,
    top: float = 1.02,
) -> Figure:
    """Curves over a common axis with their intervals, y from 0.

    Args:
        curves: NaN in ``half`` for no interval there; markers where they are few.
        x_label: name of x.
        y_label: name of y.
        marks: vertical lines.
        ideal: whether to draw y = x, which is then named so.
        top: where the y axis ends.
    """
    figure, axis = _figure(2.8)
    if ideal:
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, label="ideal")
    for one in curves:
        look: dict[str, Any] = one.settings
        look |= {} if len(one.x) <= 40 else {"marker": ""}
        look |= {"label": one.name, "markersize": 4}
        if np.isnan(one.half).all():
            axis.plot(one.x, one.y, **look)
        else:
            half = np.nan_to_num(one.half)
            axis.errorbar(one.x, one.y, yerr=half, elinewidth=0.9, **look)
    for mark in marks:
        axis.axvline(mark.x, label=mark.name, linewidth=0.9, **style.curve(mark.look))
    axis.set_ylim(0, top)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(axis="y")
    _legend(figure, axis)
    return figure


def by_doublings(figure: Figure, x: Sequence[int]) -> Figure:
    """Curves of :func:`lines` with a doubling of x as wide wherever it is.

    Args:
        figure: of the curves.
        x: named on the axis.
    """
    axis = figure.axes[0]
    axis.set_xscale("log", base=2)
    named_ticks(axis, x, [f"{of:,}" for of in x])
    return figure


def differences(rows: Sequence[Term], x_label: str) -> Figure:
    """Differences with their intervals about a line at zero; a filled mark where the
    interval excludes zero. Labels stand in full, in as many lines as they need.
    """
    labels = [_broken(row.label) for row in rows]
    # One unit of y is a line of text, so every line is a text that ends at its place.
    heights = [len(lines) + 0.6 for lines in labels]
    figure, axis = _figure(0.5 + 0.135 * sum(heights))
    beside = axis.get_yaxis_transform()
    axis.axvline(0, color="black", linewidth=0.9)
    below = 0.0
    for row, lines, height in zip(rows, labels, heights, strict=True):
        y, below = below + height / 2, below + height
        for i, line in enumerate(lines):
            at = y + i - (len(lines) - 1) / 2
            axis.text(-0.03, at, line, ha="right", va="center", transform=beside)
        axis.text(1.03, y, row.told, va="center", transform=beside)
        if row.mean is not None:
            sure = row.half is not None and abs(row.mean) > row.half
            axis.errorbar(
                row.mean, y, xerr=row.half, fmt="o", color=_FILL, elinewidth=1.5,
                markersize=5.5, markerfacecolor=_FILL if sure else "white",
            )  # fmt: skip
    axis.set_ylim(below, 0)
    axis.set_yticks(())
    axis.grid(axis="x")
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel(x_label)
    return figure


def terms(rows: Sequence[Term], x_label: str) -> Figure:
    """A difference and what it is the sum of, as bars with their intervals.

    What is explained is filled, its terms are light, and the parts of a term are
    hatched, thinner and further in: told apart without colour.
    """
    looks = (
        {"color": _FILL, "height": 0.62},
        {"color": style.SETTINGS["grid.color"], "edgecolor": MUTED, "height": 0.62},
        {"color": "white", "edgecolor": MUTED, "hatch": "////", "height": 0.4},
    )
    figure, axis = _figure(0.5 + 0.19 * len(rows))
    beside = axis.get_yaxis_transform()
    axis.axvline(0, color="black", linewidth=0.9)
    for y, row in enumerate(rows):
        colour = MUTED if row.look == 2 else "black"
        named = {"va": "center", "transform": beside, "color": colour}
        axis.text(-0.03, y, row.label, ha="right", **named)
        axis.text(1.03, y, row.told, **named)
        if row.mean is not None:
            axis.barh(y, row.mean, linewidth=0.8, **looks[row.look])
            axis.errorbar(
                row.mean, y, xerr=row.half, fmt="none", ecolor="black", elinewidth=1.1,
                capsize=2,
            )  # fmt: skip
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_yticks(())
    axis.grid(axis="x")
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel(x_label)
    return figure


def diagram(
    panel: phase.Panel,
    marks: Sequence[tuple[str, str, float]],
    framed: tuple[float, str] | None,
) -> Figure:
    """A panel of a phase diagram, with a run's place in it.

    Args:
        panel: of probes or nets.
        marks: of the run's wrong labels, the lowest first: shape, name, and how far
            they follow position.
        framed: knowledge and placement of the cell that is next to the run.
    """
    figure, axis = _figure(1.1 + 0.25 * len(panel.knowledge))
    phase.draw(axis, panel, 7.5, boxed=True)
    for i, (shape, name, follows) in enumerate(marks):
        x, y = panel.column(follows), 11 + 10 * i
        phase.above(axis, x, shape, y)
        phase.above(axis, x + 0.12, name, y, ha="left")
    if framed is not None:
        x, y = panel.placements.index(framed[1]), panel.knowledge.index(framed[0])
        frame = {"facecolor": "none", "edgecolor": "black", "clip_on": False}
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, linewidth=2, **frame))
    axis.set_ylabel(phase.KNOWLEDGE["probes"])
    axis.set_xlabel("where wrong labels stand")
    return figure


def _broken(label: str) -> list[str]:
    """In lines short enough to stand beside a chart, broken after a comma where that is
    enough.
    """
    whole = ", ".join(
        part.replace(" ", "\N{NO-BREAK SPACE}") if len(part) < _LONGEST_LABEL else part
        for part in label.split(", ")
    )
    return textwrap.wrap(whole, _LONGEST_LABEL, break_on_hyphens=False) or [""]


def distribution(
    bins: Sequence[str], every: np.ndarray, kept: np.ndarray, x_label: str, name: str
) -> Figure:
    """All rollouts and a subset by bin, with its coverage (as the paper's Fig. 3).

    Args:
        bins: names of the bins.
        every: rollouts in each, ``[n_bins]``.
        kept: of those, in the subset, ``[n_bins]``.
        x_label: name of the quantity.
        name: of the subset.
    """
    figure, axis = _figure(3.0)
    right = coverage_panel(axis, bins, every, kept, name)
    # No powers of ten: texts are not set as formulae here.
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    right.patch.set_visible(False)
    right.spines["left"].set_visible(False)
    axis.set_xlabel(x_label)
    _legend(figure, axis, right)
    return figure


def inline_svg(figure: Figure, key: str, description: str) -> str:
    """The figure as an SVG element of a page, the same text whenever it is drawn.

    Args:
        figure: drawn inside ``rc_context(SETTINGS)``.
        key: letters, figures and hyphens; unique in the page, begins all ids.
        description: for those who do not see it.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": key}):
        # A letter that the measuring font lacks is drawn by the page's.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, key)
    named = {"class": "chart", "role": "img", "viewBox": root.get("viewBox", "")}
    root.attrib = named | {"aria-label": description}
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, key: str) -> None:
    """Leave shapes and texts only: no metadata, style sheet, fonts, or idle ids."""
    element.tag = element.tag.rpartition("}")[2]
    attributes, element.attrib = element.attrib, {}
    for name, value in attributes.items():
        plain = name.rpartition("}")[2]
        if (plain == "id" and element.tag == "g") or re.match(r"rotate\(-?0 ", value):
            continue
        if plain == "id":
            value = f"{key}-{value}"
        elif plain in ("fill", "stroke"):
            plain, value = "style", f"{plain}: {value}"
        elif plain in ("d", "x", "y", "transform"):
            value = re.sub(r"\d+\.\d+", lambda of: f"{float(of[0]):.2f}", value)
        if plain == "style":
            value = _styled(value)
        element.set(plain, re.sub(r"^#|(?<=url\()#", f"#{key}-", value))
    if element.tag != "text":
        element.text = None
    element.tail = None
    for child in list(element):
        if child.tag.endswith(("}metadata", "}style")):
            element.remove(child)
        else:
            _clean(child, key)


def _styled(text: str) -> str:
    """Colours as variables of the page; sizes of fonts, but not their families."""
    text = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;]*;? ?", "", text)
    return re.sub("#[0-9a-f]{6}", lambda of: _VARIABLES.get(of[0], of[0]), text)
