"""What a grid makes of its cells: gaps, verdicts, tables and figure."""

import csv
import io

import msgspec
import numpy as np
import pytest
from scipy import stats

from experiments.grid import results
from experiments.grid.results import arm_name, rows, sentences
from experiments.grid.tables import told
from experiments.store.results import Result
from mprm_jax.records.problems import DataError
from paper_figures import style
from paper_figures.selection import selection

SETTINGS = {
    "world": {"name": "<b>corpus</b>", "synthetic": False},
    "model": "m",
    "training": {},
}

GATE = {"source": "bars", "within_position_auroc": 0.9, "low": 0.8}
GATE |= {"permuted_images": 0.5}
TEN = "10\N{NO-BREAK SPACE}%"

MICRO_F1 = {
    ("random", 0.1): (0.60, 0.61, 0.62, 0.60),
    ("random", 0.3): (0.62, 0.63, 0.64, 0.62),
    ("bis", 0.1): (0.65, 0.66, 0.67, 0.652),
    ("bis", 0.3): (0.62, 0.64, 0.63, 0.62),
    ("mixed", 0.1): (0.55, 0.57, 0.56, 0.56),
    ("full", 1.0): (0.66, 0.66, 0.67, 0.65),
}


def gather(cells):
    """The only world of the cells."""
    (outcome,) = results.gather(cells)
    return outcome


def words(outcome):
    """What is printed, without its line breaks."""
    return " ".join(told([outcome]).split())


def arm(rule, keep_ratio, threshold: float | None = 0.0):
    alpha = 0.05 if rule == "bis" else None
    value = {"rule": rule, "keep_ratio": keep_ratio, "alpha": alpha}
    return value | {"labels": "hard", "label_threshold": threshold}


def cell(rule, keep_ratio, seed, micro_f1, **changes):
    metrics = {
        "rollouts": 100,
        "updates": 8,
        "micro_f1": micro_f1,
        "auroc": micro_f1 + 0.1,
        "per_source": {"a": micro_f1, "b": None},
        "best_of_n": {"mean": 0.5, "random": 0.3, "pass_at_n": 0.9, "n": 16},
        "f1_curve": [[4, 0.5], [8, micro_f1]],
        "eval_curve": [[4, 0.6], [8, None]],
        "curve": [[4, 0.7], [8, 0.3]],
        "subset": {"steps": 500, "mixed_share": 0.2, "tied_share": 0.4},
    }
    config = SETTINGS | {"arm": arm(rule, keep_ratio)}
    return Result("selection", config, seed, metrics | changes)


def resampled(one, width=0.001):
    drawn = one.metrics["micro_f1"] + width * np.linspace(-1, 1, 50)
    one.metrics["bootstrap"] = {"micro_f1": drawn.tolist()}
    return one


def base_cell():
    config = SETTINGS | {"arm": dict.fromkeys(arm("base", None))}
    config["arm"]["rule"] = "base"
    metrics = {"rollouts": 0, "updates": 0, "micro_f1": 0.3, "auroc": None}
    return Result("selection", config, None, metrics)


@pytest.fixture
def cells():
    trained = [
        cell(rule, keep, seed, value)
        for (rule, keep), values in MICRO_F1.items()
        for seed, value in enumerate(values)
    ]
    return [base_cell(), *trained]


def test_each_rule_is_paired_with_random_at_its_own_ratio(cells):
    outcome = gather(cells)
    gaps = {(gap.arm.rule, gap.arm.keep_ratio or 0.0): gap for gap in outcome.gaps}
    assert list(gaps) == [("bis", 0.1), ("mixed", 0.1), ("bis", 0.3)]
    p = {}
    for key, gap in gaps.items():
        mine, other = MICRO_F1[key], MICRO_F1["random", key[1]]
        test = stats.ttest_rel(mine, other)
        p[key] = test.pvalue
        low, high = test.confidence_interval(0.95)
        of = gap.difference
        assert of is not None
        assert (of.mean, of.low, of.high, of.p) == pytest.approx(
            (np.mean(np.subtract(mine, other)), low, high, test.pvalue)
        )
        assert (of.seeds, of.covers) == (4, "seeds")
    ranked = sorted(p, key=p.__getitem__)
    adjusted = np.maximum.accumulate([p[key] * (3 - i) for i, key in enumerate(ranked)])
    for key, expected in zip(ranked, adjusted, strict=True):
        assert gaps[key].adjusted_p == pytest.approx(min(expected, 1))
    verdicts = {key: gap.verdict for key, gap in gaps.items()}
    assert verdicts == {
        ("bis", 0.1): "ahead",
        ("mixed", 0.1): "behind",
        ("bis", 0.3): "open",
    }
    first, second = sentences(outcome)
    assert f"BIS {TEN} beat Random by 0.051 micro-F1 (mean of 4 seeds" in first
    assert f"Holm’s p is {gaps['bis', 0.1].adjusted_p:.2g}." in first
    assert "not decided" in second
    # Of a cell that was run again the later result counts.
    lost = (0.55, 0.561, 0.57, 0.55)
    again = [cell("bis", 0.1, seed, value) for seed, value in enumerate(lost)]
    outcome = gather([*cells, *again])
    assert outcome.gaps[0].verdict == "behind"
    assert "did not beat Random: it lost by 0.050" in sentences(outcome)[0]


def test_only_shared_seeds_are_paired_and_one_decides_nothing(cells):
    few = [
        cell("random", 0.1, 0, 0.5),
        cell("random", 0.1, 1, 0.6),
        cell("bis", 0.1, 1, 0.7),
        cell("bis", 0.1, 2, 0.1),
        cell("bis", 0.5, 1, 0.4),
    ]
    # Whatever the rollouts say.
    outcome = gather([resampled(one) for one in few])
    first, second = outcome.gaps
    assert first.difference is not None
    assert first.difference.mean == pytest.approx(0.1)
    assert (first.difference.seeds, first.difference.covers) == (1, "rollouts")
    assert (first.adjusted_p, first.verdict) == (None, "open")
    assert second.difference is None
    one, none = sentences(outcome)
    assert "ended ahead of Random by 0.100 micro-F1 in the one seed" in one
    assert "decides nothing" in one
    assert "no answer" in none
    assert "BIS was not run" in sentences(gather(cells[:1]))[0]
    assert "0.700" in words(gather(few[2:3]))


def test_intervals_hold_the_rollouts_where_resamples_are_stored(cells):
    """Both models of a seed see the same resamples, so what they share cancels."""
    rng = np.random.default_rng(0)
    shared = 0.05 * rng.standard_normal(200)
    own = {"random": 0.0 * shared, "bis": 0.01 * rng.standard_normal(200)}
    both = []
    for one in cells[1:]:
        if (rule := one.config["arm"]["rule"]) in own:
            drawn = one.metrics["micro_f1"] + shared + own[rule]
            one.metrics["bootstrap"] = {"micro_f1": drawn.tolist()}
            both.append(one)
    outcome = gather(both)
    assert outcome.level_covers == outcome.gap_covers == "seeds and rollouts"
    gap = outcome.gaps[0].difference
    assert gap is not None
    difference = np.subtract(MICRO_F1["bis", 0.1], MICRO_F1["random", 0.1])
    seeds, rollouts = difference.var(ddof=1) / 4, own["bis"].var(ddof=1)
    half = np.hypot(3.182446 * np.sqrt(seeds), 1.959964 * np.sqrt(rollouts))
    assert gap.half_width == pytest.approx(half)
    level = outcome.arms[0].estimate("micro_f1")
    assert level is not None
    assert level.half_width is not None
    assert level.half_width > 1.9 * 0.04 > half
    assert "interval over seeds and rollouts" in words(outcome)


def test_gaps_and_levels_each_tell_what_their_own_intervals_hold(cells):
    # Random without resamples: no difference has any, while BIS's levels do.
    bis = [resampled(c) for c in cells[1:] if c.config["arm"]["rule"] == "bis"]
    outcome = gather([*cells[:1], *bis])
    assert (outcome.level_covers, outcome.gap_covers) == ("seeds and rollouts", "seeds")
    random = [c for c in cells[1:] if c.config["arm"]["rule"] == "random"]
    outcome = gather([*bis, *random])
    assert outcome.gap_covers == "seeds"
    assert outcome.level_covers == "seeds and rollouts, as far as known"
    assert gather(cells[:1]).level_covers == "seeds"


def test_equal_differences_have_no_verdict_and_still_count_in_the_correction(cells):
    tied = [
        cell("bis", 0.1, seed, value + 0.05)
        for seed, value in enumerate(MICRO_F1["random", 0.1])
    ]
    before = {gap.arm: gap.adjusted_p for gap in gather(cells).gaps}
    outcome = gather([*cells, *tied])
    (gap,) = (g for g in outcome.gaps if (g.arm.rule, g.arm.keep_ratio) == ("bis", 0.1))
    assert gap.difference is not None
    assert (gap.difference.half_width, gap.difference.p) == (None, None)
    assert (gap.adjusted_p, gap.verdict) == (None, "open")
    assert "not decided" in sentences(outcome)[0]
    assert "+0.050 micro-F1 in each of 4 seeds" in words(outcome)
    (mixed,) = (g for g in outcome.gaps if g.arm.rule == "mixed")
    unadjusted = mixed.difference and mixed.difference.p
    assert unadjusted is not None
    assert mixed.adjusted_p == pytest.approx(3 * unadjusted)
    assert before[gap.arm] is not None


def test_tables_and_json_name_every_arm(cells):
    outcome = gather(cells)
    text = told([outcome])
    assert max(map(len, text.splitlines())) <= 80
    assert "0.608 ± 0.015" in text
    assert outcome.seeds == [0, 1, 2, 3]
    value = rows(outcome)
    assert len(value["arms"]) == 7
    assert value["arms"][-1]["rule"] == "base"
    thresholds = [cell("bis", 0.1, 0, 0.5), cell("bis", 0.1, 0, 0.4)]
    thresholds[1].config["arm"]["label_threshold"] = 0.0625
    outcome = gather(thresholds)
    assert len({arm_name(one.arm, outcome) for one in outcome.arms}) == 2
    assert "labels K/N > 0.0625" in told([outcome])


def test_the_widest_table_fits_a_terminal():
    wide = []
    for keep, alpha in ((0.125, 0.05), (0.125, 0.125), (0.5, 0.05)):
        wide += [cell("step-matched-random", keep, s, 0.6 + s / 99) for s in (0, 1)]
        for one in wide[-2:]:
            one.config["arm"]["alpha"] = alpha
            one.metrics.update(rollouts=565_096, updates=35_319)
    text = told([gather(wide)])
    assert max(map(len, text.splitlines())) <= 80
    assert "12.5%  0.125" in text


def of_demo(cells, world):
    of_world = {"name": world, "synthetic": True, "size": "small", "corpora": 1}
    config = {"world": of_world, "corpus": "one"}
    return [
        msgspec.structs.replace(c, experiment="demo", config=c.config | config)
        for c in cells
    ]


def test_the_demo_tests_bis_alone_in_each_world(cells):
    """What it says of BIS does not hang on the other rules that it shows."""
    of_10 = [c for c in cells if c.config["arm"]["keep_ratio"] in (0.1, 1.0, None)]
    clean = cell("random", 0.1, 0, 0.9, learnability=[GATE])
    clean.config["arm"] |= {"labels": "clean", "label_threshold": None}
    worlds = (*of_demo([*of_10, clean], "scarce"), *of_demo(of_10[:5], "difficult"))
    outcome, other = results.gather(worlds)
    assert [o.world for o in (outcome, other)] == ["scarce", "difficult"]
    bis, mixed = outcome.gaps
    assert bis.difference is not None
    assert (bis.adjusted_p, mixed.adjusted_p) == (bis.difference.p, None)
    assert (bis.verdict, mixed.verdict) == ("ahead", "behind")
    assert [arm_name(one.arm, outcome) for one in outcome.arms][-3:] == [
        "Random, clean labels",
        "full data",
        "untrained base",
    ]
    # Clean labels are another question.
    assert outcome.labels == [("hard", 0.0)]
    less = {
        one.arm.rule: outcome.less_random(one)
        for one in outcome.arms
        if not one.arm.is_control
    }
    assert less["random"] is None
    for name, mean in (("full", 0.66), ("base", 0.3)):
        of = less[name]
        assert of is not None
        assert of.mean == pytest.approx(mean - 0.6075)
    assert [gate.source for gate in outcome.gate] == ["bars"]
    assert "keeping 10" in sentences(outcome)[0]
    mixed_up = [*worlds, *of_demo([cell("bis", 0.1, 9, 0.5)], "scarce")]
    mixed_up[-1].config["world"]["size"] = "large"
    earlier = of_demo(of_10[:1], "scarce")
    del earlier[0].config["world"]["corpora"]
    for bad in (mixed_up, of_demo(of_10, "../other"), earlier):
        with pytest.raises(DataError):
            results.gather(bad)


def test_a_foreign_cell_is_refused():
    for config, metrics in (
        ({"arm": "bis"}, {}),
        (SETTINGS | {"arm": arm("bis", 1.5)}, cell("bis", 0.1, 0, 0.5).metrics),
        ({"world": "scarce"}, {}),
        (SETTINGS | {"arm": arm("bis", 0.1)}, {"rollouts": 1}),
    ):
        with pytest.raises(DataError, match="no cell of a grid"):
            gather([Result("selection", config, 0, metrics)])


def read_csv(drawing):
    lines = csv.DictReader(io.StringIO(style.csv_bytes(drawing).decode()))
    return {
        (line["panel"], line["series"], float(line["x"])): float(line["y"])
        for line in lines
    }


def test_the_figure_shows_means_and_paired_differences(cells):
    plain = [{"config": c.config, "seed": c.seed, "metrics": c.metrics} for c in cells]
    drawing = selection(plain)
    found = read_csv(drawing)
    panel = "<b>corpus</b> (real corpus)"
    for (rule, keep), values in MICRO_F1.items():
        if rule != "full":
            name = {"random": "Random", "bis": "BIS", "mixed": "Mixed"}[rule]
            assert found[panel, name, 100 * keep] == pytest.approx(np.mean(values))
    assert found[panel, "full data", 10] == pytest.approx(0.66)
    assert found[panel, "untrained", 10] == pytest.approx(0.3)
    less = f"{panel}, less Random"
    assert found[less, "BIS", 10] == pytest.approx(5.05)
    assert found[less, "Mixed", 10] == pytest.approx(-4.75)
    assert (less, "Random", 10) not in found
    over = f"{panel}, over updates"
    assert found[over, "BIS", 4] == pytest.approx(0.5)
    assert found[over, "BIS", 8] == pytest.approx(0.658)
    assert style.image_bytes(drawing.figure, "png")


def test_the_figure_needs_neither_references_nor_curves_nor_random():
    few = [cell("bis", 0.1, 0, 0.5, f1_curve=[]), cell("bis", 0.1, 0, 0.4)]
    few[1].config["arm"] |= {"alpha": 0.2}
    for chosen in (few, few[:1]):
        plain = [
            {"config": c.config, "seed": c.seed, "metrics": c.metrics} for c in chosen
        ]
        drawing = selection(plain)
        assert style.image_bytes(drawing.figure, "pdf")
    with pytest.raises(KeyError):
        selection([{"config": {"arm": {}}, "seed": 0, "metrics": {}}])
