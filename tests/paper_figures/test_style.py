"""Figures that survive greyscale, colour blindness and being made twice."""

import csv
import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from paper_figures import style


def luminance(colour):
    """Relative luminance of sRGB (IEC 61966-2-1), in [0, 1]."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_colours_rise_in_luminance_and_stay_visible_on_white():
    levels = [luminance(colour) for colour in style.COLOURS]
    assert levels == sorted(levels)
    assert levels[-1] < 0.5
    # Neighbours that are close in greyscale differ by their dashes and marks.
    assert len({str(dash) for dash in style.DASHES}) == len(style.COLOURS)
    assert len(set(style.MARKERS)) == len(style.COLOURS)
    assert len(set(style.HATCHES)) == len(style.COLOURS)


def test_curves_cycle_through_colours_and_dashes_together():
    looks = [style.curve(i) for i in range(len(style.COLOURS) + 1)]
    assert [look["color"] for look in looks[:-1]] == list(style.COLOURS)
    assert looks[-1] == looks[0]


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_picture_is_the_same_bytes_every_time_and_undated(kind):
    def picture():
        with mpl.rc_context(style.SETTINGS):
            figure, axes = style.new_figure(columns=2)
            axes[0, 0].plot([0, 1], [0, 1], **style.curve(1))
            axes[0, 0].set_title("one")
            axes[0, 1].set_title("two")
            style.label_panels(list(axes[0]))
            return figure, style.image_bytes(figure, kind)

    figure, first = picture()
    assert picture()[1] == first
    assert b"Matplotlib" not in first
    assert b"CreationDate" not in first
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title.split() for title in titles] == [["a", "one"], ["b", "two"]]
    assert figure.get_size_inches()[0] == style.PAGE_WIDTH


def test_numbers_are_written_to_ten_digits_and_text_is_quoted():
    figure, _ = style.new_figure()
    rows = [("a, b", 1 / 3), ("c", 2.0), ("d", 7)]
    data = style.csv_bytes(style.Drawing(figure, ("name", "value"), rows))
    assert b"\r" not in data
    table = list(csv.reader(io.StringIO(data.decode())))
    assert table == [
        ["name", "value"],
        ["a, b", "0.3333333333"],
        ["c", "2"],
        ["d", "7"],
    ]


def test_points_of_a_curve_become_rows_and_must_match():
    rows = style.curve_rows("p", "s", [0, 1], np.array([2.0, 3.0]))
    assert rows == [("p", "s", 0.0, 2.0), ("p", "s", 1.0, 3.0)]
    assert style.curve_rows("p", "s", 1, 2) == [("p", "s", 1.0, 2.0)]
    with pytest.raises(ValueError, match="shorter"):
        style.curve_rows("p", "s", [0, 1], [2])
