"""Charts of a run's page: what is drawn is what was given, and what can be styled."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from paper_figures import page
from paper_figures.page import Curve, Term

HOSTILE = '<script>alert("x")</script>&\'"$x_{1}$'
NO_BREAK = "\N{NO-BREAK SPACE}"
KINDS = ("learning", "levels", "differences", "distribution", "terms")
NAMES = [
    "BIS 20 %",
    *(
        f"{rule} {keep:g} %, alpha {alpha:g}, labels K/N > {threshold:g}"
        for rule in ("BIS", "step-matched-random")
        for keep in (12.5, 20)
        for alpha in (0.05, 0.2)
        for threshold in (0, 0.0625)
    ),
]


@pytest.fixture(autouse=True)
def _settings():
    with mpl.rc_context(page.SETTINGS):
        yield


def curve(name, *points, look=0):
    x, y = zip(*points, strict=True)
    return Curve(name, x, y, [float("nan")] * len(x), look)


def distribution(bins, subset="BIS"):
    labels, total, kept = zip(*bins, strict=True)
    return page.distribution(labels, np.array(total), np.array(kept), "R", subset)


def charts(name="BIS"):
    """One of each kind."""
    return {
        "learning": page.learning([curve(name, (0, 0.5), (10, 0.7))], name),
        "levels": page.levels(
            [Curve(name, [10, 30], [0.6, 0.7], [0.1, float("nan")])], name
        ),
        "differences": page.differences([Term(name, "–", None, None)], name),
        "distribution": distribution([("[0, 1)", 4, 2)], name),
        "terms": page.terms(
            [Term(name, "+.1", 0.1, None, look) for look in range(3)]
            + [Term(name, "–", None, None, 1)],
            name,
        ),
    }


def parsed(figure, key="c", description="d"):
    return ElementTree.fromstring(page.inline_svg(figure, key, description))


def texts(root):
    return [element.text for element in root.iter("text")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_is_styled_by_the_page_and_shares_it_with_others(kind):
    figures = [charts()[kind] for _ in range(2)]
    first, second = (page.inline_svg(figure, "a", "told") for figure in figures)
    assert first == second
    root = ElementTree.fromstring(first)
    assert root.attrib == root.attrib | {"class": "chart", "role": "img"}
    assert root.get("aria-label") == "told"
    assert "BIS" in "".join(filter(None, texts(root)))
    # No colour and no font of its own, and nothing that styles others.
    assert not re.search("#[0-9a-f]{6}|font-family|font:|<style|<metadata", first)
    # Every id is of this chart, and every reference has its target.
    ids = re.findall(' id="([^"]*)"', first)
    assert len(ids) == len(set(ids))
    assert all(of.startswith("a-") for of in ids)
    used = re.findall(r'(?:href="|url\()#([^")]*)', first)
    assert set(used) <= set(ids)
    assert "http" not in first.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_stay_text(kind):
    root = parsed(charts(HOSTILE)[kind], description=HOSTILE)
    assert not list(root.iter("script"))
    # Labels may be broken into lines.
    shown = "".join(filter(None, texts(root))).replace(NO_BREAK, " ")
    assert HOSTILE.replace(" ", "") in shown.replace(" ", "")
    assert root.get("aria-label") == HOSTILE


def test_letters_that_no_font_here_has_are_left_to_the_page():
    assert "\U00012000" in texts(parsed(charts("\U00012000")["learning"]))


def test_curves_go_through_their_points():
    figure = page.learning(
        [curve("BIS", (0, 0.5), (10, 0.7)), curve("R", (0, 0.5), (10, 0.6), look=1)],
        "AUROC",
    )
    first, second = figure.axes[0].lines
    assert np.asarray(first.get_ydata()).tolist() == [0.5, 0.7]
    assert np.asarray(second.get_ydata()).tolist() == [0.5, 0.6]
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()


@pytest.mark.parametrize(
    ("start", "last", "scale"), [(1, 100, "log"), (0, 100, "linear"), (1, 40, "linear")]
)
def test_runs_of_unequal_length_share_a_logarithmic_axis(start, last, scale):
    short, long = curve("a", (1, 0.5), (10, 0.7)), curve("b", (start, 0.5), (last, 0.9))
    axis = page.learning([short, long], "AUROC").axes[0]
    assert axis.get_xscale() == scale
    if scale == "log":
        shown = [label.get_text() for label in axis.get_xticklabels()]
        assert shown == ["1", "2", "5", "10", "20", "50", "100"]


def test_no_two_of_many_curves_look_alike():
    looks = [curve("x", (0, 0), look=i).settings for i in range(25)]
    assert len({(str(of["linestyle"]), of["color"]) for of in looks}) == 25


def test_distribution_bars_are_shares_and_coverage():
    bins = [("0", 30, 0), ("(0, 0.5]", 60, 3), ("(0.5, 1]", 10, 6), ("more", 0, 0)]
    axis, right = distribution(bins).axes
    every, kept = axis.containers
    assert [bar.get_height() for bar in every] == pytest.approx([0.3, 0.6, 0.1, 0])
    assert [bar.get_height() for bar in kept] == pytest.approx([0, 0.03, 0.06, 0])
    (line,) = right.lines
    # Of nothing there is no share.
    assert np.asarray(line.get_xdata()).tolist() == [0, 1, 2]
    assert np.asarray(line.get_ydata()) == pytest.approx([0, 0.05, 0.6])
    shown = [label.get_text() for label in axis.get_xticklabels()]
    assert shown == [label for label, *_ in bins]


def test_difference_marks_lie_on_their_side_of_zero_and_show_certainty():
    rows = [
        Term("ahead", "+0.050", 0.05, 0.02),
        Term("open", "−0.010", -0.01, 0.02),
        Term("bare", "−0.030", -0.03, None),
        Term("none", "–", None, None),
    ]
    figure = page.differences(rows, "x")
    (axis,) = figure.axes
    marks = [of[0] for of in axis.containers]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [0.05, -0.01, -0.03]
    filled = [mark.get_markerfacecolor() != "white" for mark in marks]
    assert filled == [True, False, False]
    # From above to below.
    heights = [mark.get_ydata()[0] for mark in marks]
    assert heights == sorted(heights)
    assert axis.yaxis_inverted()
    assert {row.told for row in rows} <= set(texts(parsed(figure)))


@pytest.mark.parametrize("names", [NAMES[:1], NAMES])
def test_labels_of_differences_stand_in_full_and_inside_the_frame(names):
    rows = [Term(name, "+0.012", 0.0123, 0.04) for name in names]
    figure = page.differences(rows, "x")
    root = parsed(figure)
    lines = [of for of in root.iter("text") if "end" in of.get("style", "")]
    found = " ".join(of.text or "" for of in lines).replace(NO_BREAK, " ")
    assert found == " ".join(names)
    # Lines end where a name's parts do, but for a part that is itself too long.
    for of in lines:
        text = of.text or ""
        ends = text.endswith((",", "step-matched-random")) or any(
            name.endswith(text.replace(NO_BREAK, " ")) for name in names
        )
        assert ends, text
    at = [float(of.get("y", "")) for of in lines]
    assert min(np.diff(at), default=9) >= 8.5
    assert max(at) < float(root.get("viewBox", "").split()[3]) - 20
