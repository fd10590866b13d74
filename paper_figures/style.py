"""One look for every figure: readable in print, in greyscale and by the colour-blind.

A figure function returns a :class:`Drawing`, the picture and the numbers behind it;
``mprm figures`` gives it the style, and saves both.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

# Of the palette of Okabe and Ito (2008), five colours in the order of their luminance,
# so that neighbouring curves differ in greyscale too.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#56B4E9", "#E69F00")
GREY = "#8A8A8A"
# Of text that stands back.
MUTED = "#555e66"

# Each curve of an axis gets its own dashes: colour is never the only difference.
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1.2, 1, 1.2, 1, 1.2)),
)
MARKERS = ("o", "s", "^", "D", "v")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx")

# Width in inches of a page's text, of which a figure takes all.
PAGE_WIDTH = 7.0

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#D9D9D9",
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 2.6,
    "hatch.linewidth": 0.5,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    # Text stays text, and can be searched, in the PDF.
    "pdf.fonttype": 42,
}

# What a drawing library would add to a file by itself: the time, and its own version.
_NO_METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


class Drawing(NamedTuple):
    """A figure and the numbers it shows.

    Attributes:
        figure: the picture.
        header: names of the columns of the CSV.
        rows: one row per mark or point of a curve, as wide as the header.
    """

    figure: Figure
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def new_figure(
    columns: int = 1, rows: int = 1, height: float = 2.6, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of page width and its axes ``[rows, columns]``, without global state.

    Args:
        columns: axes side by side.
        rows: axes above each other.
        height: of the figure, in inches.
        options: for ``Figure.subplots``.
    """
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curve(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th curve of an axis."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def label_panels(axes: Sequence[Axes]) -> None:
    """Letters a, b, ... before the titles, in the order given."""
    for letter, axis in zip("abcdefgh", axes, strict=False):
        axis.set_title(f"{letter}   {axis.get_title(loc='left')}", loc="left")


def curve_rows(
    panel: str, series: str, x: ArrayLike, y: ArrayLike
) -> list[tuple[str, str, float, float]]:
    """CSV rows (panel, series, x, y) of one curve."""
    points = zip(np.ravel(x), np.ravel(y), strict=True)
    return [(panel, series, float(a), float(b)) for a, b in points]


CURVE_HEADER = ("panel", "series", "x", "y")


def plot(
    rows: list[tuple[Any, ...]],
    axis: Axes,
    panel: str,
    series: str,
    x: ArrayLike,
    y: ArrayLike,
    **look: Any,
) -> None:
    """Draw a curve, and add it to the rows of the CSV.

    Args:
        rows: of the drawing.
        axis: to draw on.
        panel: its name in the CSV.
        series: name of the curve there.
        x: of each point.
        y: of each point.
        look: for ``Axes.plot``.
    """
    axis.plot(np.ravel(x), np.ravel(y), **look)
    rows += curve_rows(panel, series, x, y)


def points(
    axis: Axes,
    index: int,
    name: str,
    x: Sequence[float],
    marks: Sequence[tuple[float, float]],
    **look: Any,
) -> None:
    """Marks with their intervals, as the index-th curve of an axis.

    Args:
        axis: to draw on.
        index: of the curve.
        name: in the legend.
        x: of each mark.
        marks: (y, half the width of its interval, NaN for none) of each.
        look: for ``Axes.errorbar``, over the curve's own.
    """
    y, half = zip(*marks, strict=True) if marks else ((), ())
    look = {"marker": MARKERS[index], "elinewidth": 0.8} | curve(index) | look
    axis.errorbar(x, y, np.nan_to_num(half), label=name, **look)


def named_ticks(
    axis: Axes, ticks: Sequence[float], names: Sequence[str], **scale: Any
) -> None:
    """These ticks of x and no others.

    Args:
        axis: whose x axis is meant.
        ticks: where.
        names: of each.
        scale: for ``Axes.set_xscale``; logarithmic if empty.
    """
    axis.set_xscale(**{"value": "log"} | scale)
    axis.set_xticks(ticks, names)
    axis.minorticks_off()


def legend_below(figure: Figure, axis: Axes, columns: int, **options: Any) -> None:
    """One legend of an axis's curves for the whole figure, below it.

    Args:
        figure: of the axis.
        axis: whose curves are named.
        columns: of the legend.
        options: for ``Figure.legend``.
    """
    options = {"loc": "outside lower center", "ncols": columns} | options
    figure.legend(*axis.get_legend_handles_labels(), **options)


def image_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as "png" or "pdf", the same bytes whenever it is drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=_NO_METADATA[kind])
    return buffer.getvalue()


def csv_bytes(drawing: Drawing) -> bytes:
    """The numbers as CSV, floats to ten digits (the last ones differ by machine)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(drawing.header)
    for row in drawing.rows:
        writer.writerow(
            [f"{cell:.10g}" if isinstance(cell, float) else cell for cell in row]
        )
    return text.getvalue().encode()
