"""Predictions for visual worlds: what they are made of; nothing is refitted."""

import msgspec
import numpy as np
import pytest

from experiments.map.advisor import NAMES as COUNTS
from experiments.map.judged import NAMES, Assumed
from experiments.map.judged_map import fit_judged, read_judged_worlds
from experiments.phase import prediction, probes, trial
from experiments.phase.cells import Cell
from experiments.phase.design import HARD, Nets, Probes
from experiments.store.results import REFERENCE, read_results
from mprm_jax.records.problems import DataError
from sim.scenes.world import WORLDS
from tests.cli import run

SAMPLES, DRAWS = len(prediction.SAMPLES), prediction.DRAWS


@pytest.fixture(scope="module")
def worlds():
    return read_judged_worlds(REFERENCE, [REFERENCE])


def made_up(worlds, rng):
    """Cells that look like worlds of the map, one corpus as the other."""
    found = []
    for i, world in enumerate(worlds):
        cell = Cell("probes", "w", i, HARD, 0.1, DRAWS)
        look = world.inputs(True, "100")
        counts, rest = np.split(look, [len(COUNTS)])
        known, told = np.split(rest, [len(NAMES)])
        said = {"assumed": told.tolist(), "counts": [counts.tolist()] * DRAWS}
        said |= dict.fromkeys(
            ("inputs", "stated"), [[known.tolist()] * SAMPLES] * DRAWS
        )
        found.append(prediction.JudgedScene(cell, rng.normal(0, 1, 8), said))
    return found


@pytest.mark.parametrize("sign", [1, -1])
def test_predictors_are_those_of_the_map_whatever_was_measured(sign, worlds):
    """Gains that follow the map's predictor are told; the opposite ones are not."""
    rng = np.random.default_rng(0)
    scenes = made_up(worlds[::20], rng)
    model = fit_judged(worlds, "100", True)
    told = [model.predict(of.look("both, stated", "100", 0)).gain for of in scenes]
    scenes = [
        of._replace(gain_U=sign * gain + rng.normal(0, 1e-5, 8))
        for of, gain in zip(scenes, told, strict=True)
    ]
    found = prediction.judge_scenes(scenes, worlds, "100")["all"]["both, stated"]
    assert found["worlds"] == len(scenes)
    assert (found["explained"] > 0.99) is (sign == 1)
    assert found["sure_right"] == (sign == 1)
    assert found["slope"] == pytest.approx(sign, abs=0.01)
    if sign == 1:
        assert found["coverage"] == 1


def test_signs_are_told_apart_within_a_family(worlds):
    """p = .04 is told apart alone, and not among twenty."""
    scenes = made_up(worlds[:40:2], np.random.default_rng(1))
    gains = np.array([-1.2, 0.4, 1.5, 1.3, 0.9, 1.6, 0.7, 1.8])
    nets = scenes[0]._replace(
        cell=scenes[0].cell._replace(diagram="nets"), gain_U=gains
    )
    noise = [of._replace(gain_U=gains * (-1) ** np.arange(8)) for of in scenes]
    signs = prediction._signs([nets, *noise])
    assert signs.tolist() == [1] + [0] * len(noise)
    among = [noise[0]._replace(gain_U=gains), *noise[1:]]
    assert not prediction._signs(among).any()


def test_trials_are_judged_by_the_samples_of_the_others_and_never_see_them(monkeypatch):
    scenes = probes.drawn(WORLDS["scarce"], 400, 20, 10_000)
    whole, seen = scenes.rollouts, {}

    def spy(rollouts, hidden, judges, keep_ratios, seed):
        seen.update(rollouts=rollouts, hidden=hidden, judges=judges)
        return [[None]] * len(judges)

    monkeypatch.setattr(trial, "try_rules", spy)
    sizes = np.concatenate([np.diff(of.offsets) for of in scenes.solutions])
    # The hidden state of a step is its rollout: so its place is seen.
    hidden = np.repeat(np.arange(len(sizes)), sizes)[:, None].astype(float)
    prediction.try_scenes(scenes, hidden, [0.1], 10_000)
    order = prediction._order(scenes, 10_000)[1]
    kept = np.sort(order[200:])
    steps = np.repeat(kept, whole.lengths[kept])
    np.testing.assert_array_equal(seen["hidden"][:, 0], steps)
    np.testing.assert_array_equal(
        seen["rollouts"].successes, whole.take(kept).successes
    )
    few, many, benchmark = seen["judges"]
    for by, size in ((few, 100), (many, 200)):
        rows = np.sort(order[:size])
        np.testing.assert_array_equal(rows[by.rollout_S], by.hidden_SxD[:, 0])
        of = np.isin(np.repeat(np.arange(400), whole.lengths), rows)
        np.testing.assert_array_equal(by.right_S, scenes.right_S[of])
    assert benchmark.hidden_SxD.min() >= 400
    assert len(benchmark.right_S) == len(scenes.judged)


def test_an_open_trial_is_no_answer_and_the_others_are_counted():
    measured, sign = np.array([-1.0, -2.0, 0.5]), np.array([-1, -1, 0])
    gain = np.array([[-3.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    half = np.array([[1, 0.5, 2], [2, 2, 0.5]])
    found = prediction._judged(
        measured, sign, np.array([gain, gain - half, gain + half])
    )
    # First corpus: right, wrong and open; second: open, open, and right where the gain
    # is not told apart. Of six intervals those of the open ones and of 0.5 hold it.
    assert (found["open"], found["right_if_sure"]) == (1.5, 0.5)
    assert found["right_if_sure_of_all"] == pytest.approx(2 / 3)
    assert found["losses_found"] == 1.5
    assert found["coverage"] == pytest.approx(4 / 6)


@pytest.fixture
def small(monkeypatch):
    """Few rollouts and one stage, which ships."""
    stages = {"stages": (2400,), "rollouts": 300, "judged": 40}
    probes, nets = Probes(("scarce",), **stages), Nets(rates=(5e-4,), **stages)
    monkeypatch.setattr(prediction, "PROBES", {"small": probes})
    monkeypatch.setattr(prediction, "NETS", {"small": nets})


def test_the_command_judges_each_cell_once(small, tmp_path, capsys):
    asked = "run", "judged_scenes", "--output", tmp_path, "--json"
    found = run(capsys, *asked)
    assert found.status == 0, found.err
    assert (found.json["cells"], found.json["ran"]) == (5, 9)
    of = found.json["samples"]["100"]
    assert {name: x["both"]["worlds"] for name, x in of.items()}["all"] == 5
    assert run(capsys, *asked).json == found.json | {"ran": 0}
    assert "stated" in run(capsys, *asked[:-1]).out
    # What is stated is that of the stage: the clean AUROC of probes at 50 %, and more
    # updates for the same subset where batches are smaller.
    cells = read_results(tmp_path, prediction.NAME)
    (nets,) = (c for c in cells if c.config["cell"]["diagram"] == "nets")
    probes = [c for c in cells if c is not nets]
    assert len({tuple(c.metrics["assumed"]) for c in probes}) == 1
    assert nets.metrics["assumed"][1:] == probes[0].metrics["assumed"][1:]
    assert nets.metrics["dimension"] == 64 != Assumed().dimension
    updates = COUNTS.index("log updates on the subset")
    same = next(c for c in probes if c.config["cell"]["keep_ratio"] == 0.1)
    ratio = same.metrics["counts"][0][updates] - nets.metrics["counts"][0][updates]
    assert np.exp(ratio) == pytest.approx(np.ceil(30 / 8) / np.ceil(30 / 16))
    assert same.metrics["inputs"] == nets.metrics["inputs"]
    assert same.metrics["inputs"] != same.metrics["stated"]
    # Nets are predicted by the trial of the probes of their stage.
    tried = read_results(tmp_path, prediction.TRIALS)
    measured = prediction.read_measured([REFERENCE])
    by_keep = {c.config["cell"]["keep_ratio"]: c.metrics["trial"] for c in tried}
    for scene in prediction.judged_scenes(cells, measured, tried):
        of_probes = by_keep[scene.cell.keep_ratio]
        # Five rollouts have hardly labels of both kinds: there is no trial then.
        if None in np.ravel(np.array(of_probes, object)):
            assert scene.trial is None
        else:
            assert scene.trial is not None
            assert scene.trial.tolist() == of_probes
    # A cell that is damaged is refused by its number.
    damaged = msgspec.structs.replace(cells[1], metrics={"assumed": []})
    with pytest.raises(DataError, match=f"cell 2 of {prediction.NAME}"):
        prediction.judged_scenes([cells[0], damaged], {})
