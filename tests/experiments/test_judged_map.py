"""Judged rollouts of the map's worlds: drawn anew, fitted where planted, as told."""

import json

import numpy as np
import pytest

from experiments.map import judged_map
from experiments.map.advisor import NAMES as COUNTS
from experiments.map.design import FIRST, ORDERED, design
from experiments.map.gain import judge_gains
from experiments.map.judged import NAMES
from experiments.store.results import REFERENCE, Result, append_results, store_path
from mprm_jax.records.problems import DataError
from tests.cli import run
from tests.experiments.map_worlds import world

FORMULA = NAMES.index("formula")


@pytest.fixture(scope="module")
def committed():
    return judged_map.read_judged_worlds(REFERENCE, [REFERENCE])


def test_a_committed_world_is_judged_as_it_was_stored(committed):
    first = next(w for w in committed if w.design == FIRST.name)
    regime = design()[first.measured.config["index"]]
    anew = judged_map.judge_world(FIRST, regime, first.said.seed)
    stored = first.said.metrics
    np.testing.assert_allclose(anew["inputs"], stored["inputs"], atol=6e-3)
    other = judged_map.judge_world(FIRST, regime, first.said.seed + 1)
    assert not np.allclose(other["inputs"], stored["inputs"], atol=2e-2)


def test_what_is_stated_changes_the_formula_alone():
    regime = next(w for w in design(ORDERED) if w.axes["knowledge"] == 1.0)
    found = judged_map.judge_world(ORDERED, regime, 0)
    assert found["assumed"][-1] == 1.0
    assert np.shape(found["inputs"]) == (len(judged_map.SAMPLES), len(NAMES))
    assert found["stated"] != [row[FORMULA] for row in found["inputs"]]


@pytest.mark.parametrize("design", [FIRST.name, ORDERED.name])
def test_the_committed_validation_is_as_reported(design, committed):
    """With what features show and students know stated, 100 judged rollouts beat counts
    in all that was asked for.
    """
    of = judged_map.validate(committed, "100", "auroc")[design]
    counts, both = of["counts"], of["both, stated"]
    assert both["worlds"] == counts["worlds"] == {FIRST.name: 179}.get(design, 51)
    assert both["sure_right"] > max(0.8, counts["sure_right"] + 0.05)
    found = {name: x["losses_found"] / x["losses"] for name, x in of.items()}
    assert found["both, stated"] > 0.6 > 0.5 > found["counts"]
    assert both["explained"] > 0.4 > 0.3 > counts["explained"]
    assert 0.8 < both["coverage"] < 0.97


def test_the_figure_has_the_gains_of_the_validation(committed):
    """Held-out worlds of both designs, whose share of right signs is the report's."""
    found = judged_map.held_out_gains(REFERENCE, REFERENCE)
    for name_of in (FIRST.name, ORDERED.name):
        reported = judged_map.validate(committed, "100", "auroc")[name_of]
        of = [world for world in found if world["design"] == name_of]
        seeds = np.array([world["seeds"] for world in of])
        for name in ("counts", "both", "both, stated"):
            told = judge_gains(seeds, np.array([world[name] for world in of]))
            assert told == {key: reported[name][key] for key in told}


def made_up(count, rng, keep_from_formula):
    """Worlds whose gain is what the formula says, times a factor, and its measures."""
    found = []
    for index in range(count):
        told = rng.normal(0, 0.02)
        measured = world(
            index, rng, lambda keep, mixed, x=told: keep_from_formula * x, noise=0.002
        )
        for arm in measured.metrics["arms"].values():
            arm["auroc"] = (arm["micro_f1"] + rng.normal(0, 0.002, 20)).tolist()
        rows = [[told, *rng.normal(0, 0.02, len(NAMES) - 1).tolist()]]
        samples = len(judged_map.SAMPLES)
        metrics = {"assumed": [1.3, 0.0, 0.0, 0.0]}
        metrics |= {"inputs": rows * samples, "stated": [told] * samples}
        said = Result("judged_map", {"design": "regimes", "index": index}, 0, metrics)
        found.append(judged_map.JudgedWorld("regimes", measured, said))
    return found


@pytest.mark.parametrize(("factor", "formula_explains"), [(1.0, True), (-0.5, False)])
def test_what_the_formula_misses_is_made_up_for(factor, formula_explains):
    worlds = made_up(200, np.random.default_rng(0), factor)
    found = judged_map.validate(worlds, "100", "auroc")["regimes"]
    assert (found["formula"]["explained"] > 0.8) is formula_explains
    assert found["both"]["explained"] > 0.8
    assert found["both"]["sure_right"] > 0.95
    assert found["both"]["losses_found"] > 0
    assert 0.75 < found["both"]["coverage"] <= 1
    assert found["counts"]["explained"] < 0.2
    # 90 % of the errors of the formula are within its half interval.
    half = judged_map.formula_error(worlds, stated=False)
    seen = [w for w in worlds if not w.held_out]
    told = np.array([w.inputs(False, "200")[len(COUNTS) + FORMULA] for w in seen])
    gain = np.array([np.mean(w.measured.metrics["arms"]["bis"]["auroc"]) for w in seen])
    gain -= [np.mean(w.measured.metrics["arms"]["random"]["auroc"]) for w in seen]
    assert np.mean(np.abs(told - gain) <= half) == pytest.approx(0.9, abs=0.01)


def test_nothing_to_fit_is_refused():
    worlds = [w for w in made_up(20, np.random.default_rng(0), 1.0) if w.held_out]
    with pytest.raises(ValueError, match="not held out"):
        judged_map.fit_judged(worlds, "100", False)


def test_the_command_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    few = made_up(60, np.random.default_rng(1), 1.0)
    append_results(tmp_path, [w.measured for w in few] + [w.said for w in few])
    monkeypatch.setattr(judged_map, "SMALL_WORLDS", 60)
    monkeypatch.setattr(judged_map, "DESIGNS", {"first": FIRST})
    # The reference has more worlds than these.
    monkeypatch.setattr(judged_map, "REFERENCE", tmp_path / "none")
    found = run(capsys, "run", "judged_map", "--output", tmp_path, "--json").json
    assert (found["worlds"], found["ran"]) == (60, 0)
    by_metric = found["samples"]["100"]["auroc"]["regimes"]
    assert by_metric["both"]["worlds"] == 12
    assert "12" in run(capsys, "run", "judged_map", "--output", tmp_path).out


@pytest.mark.parametrize("damage", ["inputs", "design", "short"])
def test_damaged_cells_are_refused_by_number(damage, tmp_path):
    few = made_up(8, np.random.default_rng(1), 1.0)
    cells = [
        json.loads(json.dumps({"c": w.said.config, "m": w.said.metrics})) for w in few
    ]
    if damage == "short":
        cells[2]["m"]["inputs"][0].pop()
    else:
        cells[2]["m" if damage == "inputs" else "c"].pop(damage)
    append_results(tmp_path, [Result("judged_map", x["c"], 0, x["m"]) for x in cells])
    with pytest.raises(DataError, match="cell 3 holds no judged rollouts") as error:
        judged_map.read_judged_worlds(tmp_path, [tmp_path])
    assert str(store_path(tmp_path, "judged_map")) in str(error.value)
