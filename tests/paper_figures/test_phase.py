"""Phase diagrams and the map's summary: what is told apart, and where marks stand."""

from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from scipy import stats

from paper_figures import learning, phase

UNITS = 8
RNG = np.random.default_rng(0)


def cell(knowledge, placement, gain, placed, units=UNITS, keep=0.1):
    """One whose units differ by .003 times a standard normal, two seeds a unit."""
    base = RNG.normal(0.8, 0.05, 2 * units)
    bis = base + gain + RNG.normal(0, 0.003, 2 * units)
    place = {
        "diagram": "probes", "world": "w", "knowledge": knowledge,
        "placement": placement, "keep_ratio": keep, "units": units, "seeds": 2,
        "rate": None,
    }  # fmt: skip
    arms = {"random": base, "bis": bis}
    return {
        "config": {"cell": place},
        "metrics": {
            "position_auroc": placed and [placed] * units,
            "arms": {rule: {"auroc": x, "micro_f1": x} for rule, x in arms.items()},
        },
    }


CELLS = [
    cell(level, placement, gain - 0.02 * level, placed)
    for level in (0, 1)
    for placement, gain, placed in (
        ("blind", 0.02, 0.5),
        ("hard", 0.0, 0.8),
        ("clean", 0.03, None),
    )
]
JUDGED = {"a": {"position_auroc": 0.65}, "b": {"position_auroc": 0.93}}
JUDGES = [{"metrics": {"by_position": JUDGED}}]


def test_cells_are_told_apart_by_paired_tests_over_corpora_with_holm():
    rows = phase.probes(CELLS, JUDGES).rows
    found = {
        (row[3], row[4]): dict(zip(phase.HEADER, row, strict=True)) for row in rows
    }
    p_values = {}
    for one in CELLS:
        arms, place = one["metrics"]["arms"], one["config"]["cell"]
        gaps = (arms["bis"]["auroc"] - arms["random"]["auroc"]).reshape(UNITS, 2)
        means = 100 * gaps.mean(axis=1)
        test: Any = stats.ttest_1samp(means, 0)
        at = found[place["knowledge"], place["placement"]]
        low, high = test.confidence_interval(0.95)
        assert at["gain_auroc_points"] == pytest.approx(means.mean())
        assert (at["low"], at["high"]) == pytest.approx((low, high))
        p_values[place["knowledge"], place["placement"]] = test.pvalue
    for key, p in p_values.items():
        # Of six: the largest, over all that are no larger, of p times those left.
        ranked = sorted(p_values.values())
        holm = max((6 - i) * q for i, q in enumerate(ranked) if q <= p)
        assert found[key]["adjusted_p"] == pytest.approx(min(holm, 1))
    signs = {key: row["sign"] for key, row in found.items()}
    assert signs == {
        (0, "blind"): 1, (0, "hard"): 0, (0, "clean"): 1,
        (1, "blind"): 0, (1, "hard"): -1, (1, "clean"): 1,
    }  # fmt: skip


def test_losses_are_hatched_and_judges_stand_between_the_columns():
    axis = phase.probes(CELLS, JUDGES).figure.axes[0]
    cells = [p for p in axis.patches if isinstance(p, Rectangle)]
    hatched = [p.get_xy() for p in cells if p.get_hatch()]
    # "hard" is the second column, 1 the upper row.
    assert hatched == [(0.5, 0.5)]
    texts: Any = axis.texts
    marks = [text.xy[0] for text in texts if text.get_text() == "\u25bc"]
    # .65 lies in the middle of .5 and .8; beyond the last column is at it.
    assert marks == [pytest.approx(0.5), pytest.approx(1.0)]


def test_of_a_small_and_a_full_run_the_full_one_is_drawn():
    small = [cell(0, "blind", -0.5, 0.5, units=3)]
    assert len(phase.probes([*small, *CELLS], JUDGES).rows) == len(CELLS)


def test_the_map_counts_worlds_by_every_axis():
    """Eight worlds of two keep ratios, whose gain is told by one other axis alone."""
    cells = []
    for index in range(8):
        noisy = index % 2
        arms = {name: RNG.normal(0.7, 0.02, 20) for name in ("random", "mixed", "full")}
        gain = (0.05, -0.05)[noisy] + RNG.normal(0, 0.002, 20)
        arms["bis"] = arms["random"] + gain
        axes = {"keep_ratio": (0.1, 0.5)[index // 4], "noise": [0.1 * noisy, 0.0]}
        cells.append(
            {
                "config": {"index": index, "axes": axes},
                "metrics": {"arms": {n: {"micro_f1": x} for n, x in arms.items()}},
            }
        )
    labels = {"keep_ratio": "keep ratio", "noise": "noise"}
    rows = learning.regime_map(cells, labels).rows
    # Panel, level, worlds; gains, open, loses.
    assert ("BIS less Random, by keep ratio", "10 %", 4, 2, 0, 2) in rows
    assert [row[1:] for row in rows if row[0] == "BIS less Random, by noise"] == [
        ("0 / 0", 4, 4, 0, 0),
        ("0.1 / 0", 4, 0, 0, 4),
    ]


def test_signs_are_counted_where_they_are_told_apart():
    """Of four worlds two gain for sure, and one of them is predicted to lose."""
    noise = RNG.normal(0, 1e-3, 20)
    worlds = [
        {"design": "regimes", "seeds": gain + noise - noise.mean()}
        | dict.fromkeys(("counts", "both", "both, stated"), predicted)
        for gain, predicted in ((0.03, 0.01), (0.02, -0.01), (0.0, 0.01), (1e-5, 0.02))
    ]
    worlds[1] |= {"both, stated": 0.02}
    drawing = learning.judged(worlds)
    assert [row[2:4] for row in drawing.rows[:2]] == [
        pytest.approx((1.0, 3.0)),
        pytest.approx((-1.0, 2.0)),
    ]
    assert [row[-1] for row in drawing.rows] == 3 * [1, 1, 0, 0]
    shares = [axis.texts[0].get_text() for axis in drawing.figure.axes]
    assert [text.split("map ")[1] for text in shares] == [
        *("0.50 of 2", "0.50 of 2", "1.00 of 2"),
    ]
