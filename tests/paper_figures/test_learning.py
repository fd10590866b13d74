"""Figures 1 and 2: the paper's numbers beside the students', told apart from them."""

import pytest

from paper_figures import learning

CHECKPOINTS = [8, 64, 1250]


def cell(rule, keep, best, matched=False):
    """An arm of the scarce world whose curve ends at its best."""
    arm = {"rule": rule, "keep_ratio": keep, "matched": matched, "labels": "hard-0"}
    curve = {"micro_f1": [0.6, 0.7, best], "micro_f1_se": [0.01] * 3}
    return {
        "config": {
            "world": {"name": "scarce"},
            "arm": arm,
            "checkpoints": CHECKPOINTS,
            "seeds": 20,
        },
        "metrics": {"curve": curve, "subset": {"updates": 1250 * keep}},
    }


CELLS = [
    cell("full", 1.0, 0.75),
    *(cell("random", keep, 0.72) for keep in (0.05, 0.1, 0.25, 0.5)),
    *(cell("random", keep, 0.72, True) for keep in (0.05, 0.1, 0.25, 0.5)),
    cell("bis", 0.1, 0.74),
    *(cell(rule, 0.25, 0.74) for rule in ("bis", "mixed", "low-mc", "reliable")),
]


def of_paper(drawing):
    """{(panel, series without "paper: ", x): (y, published)}."""
    return {
        (panel, series.removeprefix("paper: "), x): (y, value)
        for panel, series, x, y, source, value in drawing.rows
        if source == "paper"
    }


def test_figure_1_has_full_data_and_its_three_subsets_of_both_models():
    marks = of_paper(learning.figure_1(CELLS))
    # ceil of 565,096 rollouts, a quarter and a tenth of them, over 512.
    wanted = {
        ("", "all data, InternVL", 1104.0): (0.0, 65.12),
        ("", "all data, Qwen", 1104.0): (0.0, 65.57),
        ("", "Random 25 %, InternVL", 276.0): (-1.75, 63.37),
        ("", "Random 25 %, Qwen", 276.0): (-1.13, 64.44),
        ("", "BIS 25 %, InternVL", 276.0): (0.34, 65.46),
        ("", "BIS 25 %, Qwen", 276.0): (-0.04, 65.53),
        ("", "BIS 10 %, InternVL", 111.0): (0.34, 65.46),
        ("", "BIS 10 %, Qwen", 111.0): (-0.94, 64.63),
    }
    assert marks.keys() == wanted.keys()
    for key, (points, value) in wanted.items():
        assert marks[key] == (pytest.approx(0.75 + points / 100), value)


def test_figure_2_has_random_full_data_and_the_rules_at_a_quarter():
    marks = of_paper(learning.figure_2(CELLS))
    panels = {p: {k[1:]: v for k, v in marks.items() if k[0] == p} for p in "abc"}
    random = {
        x: value
        for (name, x), (_, value) in panels["a"].items()
        if name == "Random, Qwen"
    }
    assert random == {56.0: 53.54, 111.0: 61.99, 276.0: 64.44, 552.0: 64.54}
    assert panels["a"]["Random, Qwen", 56.0][0] == pytest.approx(0.75 - 0.1203)
    assert {v for _, v in panels["b"].values()} == {65.12, 65.57}
    assert {key[0]: value for key, (_, value) in panels["c"].items()} == {
        "random 25 %, InternVL": 63.37,
        "low-mc 25 %, InternVL": 64.18,
        "mixed 25 %, InternVL": 64.70,
        "bis 25 %, InternVL": 65.46,
        "reliable 25 %, InternVL": 62.75,
    }
    assert {x for _, x in panels["c"]} == {276.0}


@pytest.mark.parametrize("draw", [learning.figure_1, learning.figure_2])
def test_marks_of_the_paper_are_open_grey_and_named_in_a_legend_of_their_own(draw):
    figure = draw(CELLS).figure
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    drawn = set()
    for axis in figure.axes:
        inside = {text.get_text() for text in axis.get_legend().get_texts()}
        assert not any(name.startswith("paper") for name in inside)
        for line in axis.lines:
            if not str(line.get_label()).startswith("paper: "):
                continue
            drawn.add(line.get_label())
            assert line.get_linestyle() == "None"
            grey = str(line.get_color())
            assert grey[1:3] == grey[3:5] == grey[5:7]
            # Half of a mark at least is open.
            face, other = line.get_markerfacecolor(), line.get_markerfacecoloralt()
            assert "white" in (face, other)
    assert named == drawn
    secondary = [child for axis in figure.axes for child in axis.child_axes]
    assert [child.get_ylabel() for child in secondary] == [learning.AXIS_LABEL]


def test_the_right_axis_is_in_points_from_the_best_of_all_data():
    figure = learning.figure_1(CELLS).figure
    figure.draw_without_rendering()
    (left,) = figure.axes
    (right,) = left.child_axes
    low, high = left.get_ylim()
    assert right.get_ylim() == pytest.approx(
        (100 * (low - 0.75), 100 * (high - 0.75)), abs=1e-9
    )


def test_without_all_data_there_is_no_level_to_put_the_paper_at():
    for draw in (learning.figure_1, learning.figure_2):
        drawing = draw(CELLS[1:])
        assert drawing.rows
        assert not of_paper(drawing)
        assert not drawing.figure.legends
