"""Charts: what is drawn is what was given, at the height it has."""

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from experiments.grid.answer import Estimate
from experiments.page.charts import (
    WIDTH,
    Difference,
    Series,
    block_means,
    count_bar,
    difference_chart,
    distribution_chart,
    line_chart,
    log_ticks,
    series_class,
    spread,
    step_strip,
    ticks,
)
from experiments.page.corpus import Bin

HOSTILE = '<script>alert("x")</script>&\'"'


def parsed(chart):
    assert isinstance(chart, Markup)
    return ElementTree.fromstring(str(chart))


def texts(root):
    """Every text; the lines of one label together."""
    return ["".join(element.itertext()) for element in root.iter("text")]


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def labels(root):
    """By row of a difference chart: its lines, with their place."""
    return [
        [(e.text or "", float(e.get("x", "")), float(e.get("y", ""))) for e in text]
        for text in root.iter("text")
        if text.get("text-anchor") == "end" and text.get("class") == "name"
    ]


def of_class(root, kind):
    return [e for e in root.iter() if kind in e.get("class", "").split()]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low, width, count):
    values = ticks(low, low + width, count)
    assert len(values) <= count + 1
    tolerance = 1e-6 * max(width, abs(low))
    assert all(low - tolerance <= v <= low + width + tolerance for v in values)
    steps = [b - a for a, b in pairwise(values)]
    if steps:
        digits = float(f"{steps[0]:.3e}".split("e")[0])
        assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 0.01


def test_ticks_by_hand():
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.2, 0.19, 6) == [-0.2, -0.1, 0.0, 0.1]
    assert ticks(3, 3) == [3]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_spread_keeps_order_distance_and_room(wanted):
    placed = spread(wanted, 10, 0, 100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    ordered = [placed[i] for i in order]
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(ordered))
    assert min(placed) >= -1e-9
    assert max(placed) <= 100 + 1e-9


def test_spread_moves_nothing_without_need():
    assert spread([50, 10, 90], 10, 0, 100) == [50, 10, 90]


def test_block_means_keep_the_mean_and_the_limit():
    points = [(float(x), float(x * x)) for x in range(100)]
    blocks = block_means(points, 40)
    assert len(blocks) == 34
    assert blocks[0] == (1.0, (0 + 1 + 4) / 3)
    assert blocks[-1] == (99.0, 99.0**2)
    assert block_means(points[:40], 40) == points[:40]
    assert block_means([], 40) == []


def test_lines_go_through_their_points():
    chart = line_chart(
        [
            Series("BIS", "bis", [(0, 0.5), (10, 0.7)]),
            Series("Random", "random", [(0, 0.5), (10, 0.6)]),
            Series("empty", "base", []),
        ],
        "AUROC",
        "updates",
        "AUROC",
    )
    root = parsed(chart)
    lines = {
        line.get("class"): [
            tuple(map(float, p.split(","))) for p in line.get("points", "").split()
        ]
        for line in root.iter("polyline")
    }
    bis, random = lines["series s-bis"], lines["series s-random"]
    assert len(lines) == 2
    assert bis[0] == random[0]
    # Twice the rise is twice the height (SVG's y points down).
    rise = bis[0][1] - bis[1][1]
    assert rise == pytest.approx(2 * (random[0][1] - random[1][1]), abs=0.3)
    assert rise > 0
    assert {"BIS", "Random"} <= set(texts(root))
    assert "BIS ends at 0.700" in root.get("aria-label", "")


def test_runs_of_unequal_length_share_a_logarithmic_axis():
    short = Series("BIS", "bis", [(1, 0.5), (10, 0.7)])
    long = Series("full", "full", [(1, 0.5), (100, 0.9)])

    def drawn(series):
        root = parsed(line_chart(series, "AUROC", "updates", "AUROC"))
        return root, {
            line.get("class", "").split()[-1]: [
                float(p.split(",")[0]) for p in line.get("points", "").split()
            ]
            for line in root.iter("polyline")
        }

    root, x = drawn([short, long])
    assert "updates, logarithmic" in texts(root)
    assert {"1", "10", "100"} <= set(texts(root))
    start, end = x["s-full"]
    assert x["s-bis"] == pytest.approx([start, (start + end) / 2], abs=0.1)
    zero = Series("full", "full", [(0, 0.5), (100, 0.9)])
    root, x = drawn([short, zero])
    assert "updates" in texts(root)
    (start, end), inner = x["s-full"], x["s-bis"]
    assert inner[1] == pytest.approx(start + (end - start) / 10, abs=0.1)


def test_logarithmic_ticks():
    assert log_ticks(1, 500) == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert log_ticks(0.3, 6) == [0.5, 1, 2, 5]


def test_a_curve_of_one_point_or_none_is_drawn_without_dividing_by_zero():
    for points in ([], [(0.0, 0.5)]):
        parsed(line_chart([Series("x", "bis", points)], "t", "updates", "loss"))


def test_distribution_bars_are_shares_and_coverage():
    bins = [
        Bin("exactly 0", 0, 0, total=30, kept=0),
        Bin("low", 0, 0.5, total=60, kept=3),
        Bin("high", 0.5, 1, total=10, kept=6),
        Bin("none", 1, 1.5, total=0, kept=0),
    ]
    root = parsed(distribution_chart(bins, "t", "x", "BIS 10 %"))

    def heights(kind):
        # The first of each is the legend's.
        skip = 0 if kind == "coverage" else 1
        return [float(e.get("height", "")) for e in of_class(root, kind)[skip:]]

    everything, kept, coverage = map(heights, ("all", "kept", "coverage"))
    tallest = max(everything + kept)
    assert [h / tallest for h in everything] == pytest.approx(
        [0.3 / (6 / 9), 0.6 / (6 / 9), 0.1 / (6 / 9), 0], abs=0.002
    )
    assert [h / tallest for h in kept] == pytest.approx([0, 0.5, 1, 0], abs=0.002)
    assert coverage == pytest.approx([0, 70 * 0.05, 70 * 0.6, 0], abs=0.06)
    values = [e.text for e in of_class(root, "value")]
    assert values == ["0", "5", "60", "–"]
    assert "high: 6 of 10" in root.get("aria-label", "")


def test_difference_marks_lie_on_their_side_of_zero_and_show_certainty():
    rows = [
        Difference("ahead", Estimate(0.05, 0.02, 3, "seeds")),
        Difference("open", Estimate(-0.01, 0.02, 3, "seeds")),
        Difference("bare", Estimate(-0.03, None, 1, "nothing")),
        Difference("none", None),
    ]
    root = parsed(difference_chart(rows, "t", "x"))
    zero = float(of_class(root, "zero")[0].get("x1", ""))
    marks = list(root.iter("circle"))
    ahead, open_, bare = (float(mark.get("cx", "")) for mark in marks)
    assert ahead > zero > open_ > bare
    assert (ahead - zero) / (zero - bare) == pytest.approx(5 / 3, abs=0.02)
    assert [m.get("class") for m in marks] == ["mark sure", "mark", "mark"]
    whiskers = of_class(root, "whisker")
    assert len(whiskers) == 2
    assert float(whiskers[0].get("x1", "")) > zero
    assert float(whiskers[1].get("x2", "")) > zero
    assert {"+0.050", "−0.010", "−0.030", "–"} <= set(texts(root))


NAMES = [
    "BIS 20 %",
    "Low-MC 25 %",
    *(
        f"{rule} {keep:g} %, alpha {alpha:g}, labels K/N > {threshold:g}"
        for rule in ("BIS", "step-matched-random")
        for keep in (12.5, 20)
        for alpha in (0.05, 0.2)
        for threshold in (0, 0.0625)
    ),
]


@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES])
def test_labels_of_differences_stand_in_full_and_inside_the_frame(names):
    some = Estimate(0.0123, 0.04, 3, "seeds")
    rows = [Difference(name, some if i else None) for i, name in enumerate(names)]
    root = parsed(difference_chart(rows, "t", "x"))
    height = float(root.get("viewBox", "").split()[3])
    drawn = labels(root)
    found = [[plain(line) for line, _, _ in lines] for lines in drawn]
    assert [" ".join(lines) for lines in found] == names
    # Lines end where a name's parts do, but for a part that is itself too long.
    ends = {line for lines in found for line in lines[:-1]}
    assert all(line.endswith(",") or line == "step-matched-random" for line in ends)
    assert not any("…" in text for text in texts(root))
    grid = [float(e.get("x1", "")) for e in of_class(root, "grid")]
    below = 0.0
    for lines in drawn:
        for line, x, y in lines:
            # Arial's and DejaVu's letters take .5 and .6 of their size of 10.5 px.
            assert x - 0.6 * 10.5 * len(line) >= 0
            assert x < min(grid)
            assert WIDTH - 56 - x > 150
            assert y - below >= 11
            below = y
    assert below < height - 30
    # Ticks stand clear of each other.
    assert all(b - a >= 28 for a, b in pairwise(grid))
    # Marks stand at the height of their labels' middle.
    for mark, lines in zip(root.iter("circle"), drawn[1:], strict=True):
        middle = (lines[0][2] + lines[-1][2]) / 2
        assert float(mark.get("cy", "")) == pytest.approx(middle - 3.5, abs=0.11)
    titles = [e.text or "" for e in root.iter("title")]
    for name, title in zip(names, titles, strict=True):
        assert title.startswith(f"{name} ")
        assert title in root.get("aria-label", "")


def test_labels_at_the_ends_of_lines_have_room():
    name = "step-matched-random"
    curve = [(0.0, 0.5), (9.0, 0.6)]
    root = parsed(line_chart([Series(name, "x", curve)], "t", "x", "y"))
    (label,) = (e for e in root.iter("text") if e.text == name)
    assert float(label.get("x", "")) + 0.6 * 10.5 * len(name) <= WIDTH


def test_hostile_names_stay_text():
    charts = [
        line_chart([Series(HOSTILE, HOSTILE, [(0, 0.5)])], HOSTILE, HOSTILE, HOSTILE),
        difference_chart([Difference(HOSTILE, None)], HOSTILE, HOSTILE),
        distribution_chart([Bin(HOSTILE, 0, 1, 1, 1)], HOSTILE, HOSTILE, HOSTILE),
    ]
    for chart in charts:
        root = parsed(chart)
        assert not list(root.iter("script"))
        assert HOSTILE in texts(root)
        assert set(root.attrib) == {"class", "role", "viewBox", "aria-label"}
    assert series_class(HOSTILE) == "s-other"
    assert series_class("bis") == "s-bis"


def test_everything_is_drawn_inside_the_frame():
    chart = distribution_chart(
        [Bin(f"{k}", k / 10, (k + 1) / 10, 10, k) for k in range(10)]
        + [Bin("exactly 1", 1, 1, 10, 10)],
        "t",
        "x",
        "BIS",
    )
    for bar in parsed(chart).iter("rect"):
        right = float(bar.get("x", "")) + float(bar.get("width", ""))
        assert right <= WIDTH


def test_bars_of_counts():
    widths = [r.get("width") for r in parsed(count_bar(4, 16)).iter("rect")]
    assert widths == ["100", "25"]
    assert parsed(count_bar(0, 0)) is not None
    root = parsed(step_strip([(16, 16, 1), (4, 16, -1), (0, 16, 0), (0, 0, 1)]))
    assert [float(e.get("height", "")) for e in of_class(root, "kept")] == [20, 5, 0, 0]
    assert len(of_class(root, "wrong")) == 1
