"""A store that holds several seeds: every report describes the one it was asked for."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from experiments.map import run as regimes
from experiments.map.design import ORDERED, design
from experiments.map.report import advisor_tests, by_level, sign_counts, verdicts
from experiments.map.worlds import gains, read_worlds
from experiments.store.results import Result, read_results
from experiments.students import runs
from tests.cli import run
from tests.experiments.map_worlds import measures

SUBSET = {"mixed_share": 0.1, "wrong_positives": 0.1, "updates": 10.0, "steps": 50.0}


def made_up_arms(world, arms, seeds, *rest):
    """The first seed's thousands decide which of two arms wins."""
    sign = 1 if seeds[0] < 1000 else -1
    rng = np.random.default_rng(seeds[0])
    found = []
    for i, _ in enumerate(arms):
        f1 = 0.5 + 0.01 * sign * i + rng.normal(0, 1e-4, len(seeds))
        lists = dict.fromkeys(("micro_f1", "auroc", "excess_risk"), f1.tolist())
        found.append(lists | {"subset": SUBSET | {"steps": 50.0 + 7 * i}})
    return found


@pytest.mark.parametrize("name", ["labels", "mc_budget", "plateau"])
def test_an_experiment_s_report_is_of_its_seed(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runs, "run_arms", made_up_arms)

    def report(folder, seed):
        asked = ["run", name, "--output", folder, "--seed", seed]
        found = run(capsys, *asked, "--json")
        assert found.status == 0, found.err
        return found.json | {"ran": 0}, run(capsys, *asked).out

    alone = {seed: report(tmp_path / f"{seed}", seed) for seed in (0, 1)}
    report(tmp_path / "both", 0)
    for seed in (1, 0):
        found, page = report(tmp_path / "both", seed)
        assert (found["seed"], found) == (seed, alone[seed][0])
        assert page == alone[seed][1].replace(
            str(tmp_path / f"{seed}"), str(tmp_path / "both")
        )
    assert alone[0][0]["comparisons"] != alone[1][0]["comparisons"]
    cells = [r for r in read_results(tmp_path / "both", name) if "arm" in r.config]
    assert len(cells) == 2 * alone[0][0]["cells"]


def made_up_world(regime, seed, seeds, of):
    rng = np.random.default_rng([regime.index, seed])
    axes = regime.axes
    base = rng.normal(0.7, 0.01, seeds)
    arms = {
        name: {"micro_f1": (base + (0.01 - 0.03 * seed) * i).tolist()}
        for i, name in enumerate(of.arms)
    }
    looks = measures(rng, axes["mixed_share"], rng.uniform(0.1, 0.3))
    updates = 1000 * axes["keep_ratio"]
    return {"measures": looks, "updates": updates, "arms": arms}


def test_the_ordered_map_has_a_store_and_tables_of_its_own(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(regimes, "run_world", made_up_world)
    asked = ["run", "regimes", "--output", tmp_path]
    run(capsys, *asked)
    before = (tmp_path / "regimes.jsonl").read_bytes()
    found = run(capsys, *asked, "--design", "ordered", "--json").json
    assert (tmp_path / "regimes.jsonl").read_bytes() == before
    worlds = read_worlds(tmp_path, design=ORDERED)
    assert [w.config["index"] for w in worlds] == list(range(regimes.SMALL_WORLDS))
    assert found["worlds"] == 40
    assert set(found["signs"]) == {" - ".join(pair) for pair in ORDERED.compared}
    everything = found["levels"]["all"]
    mean = np.mean([gains(world, "bis", "random").mean() for world in worlds])
    assert everything["gain"] == pytest.approx(mean)
    parts = [everything[f"noise_{rule}"] for rule in ("bis", "random")]
    assert everything["composition"] + parts[0] - parts[1] == pytest.approx(mean)
    for axes in ORDERED.tabled:
        levels: Any = by_level(worlds, axes)
        assert levels.items() <= found["levels"].items()
        assert sum(level["worlds"] for level in levels.values()) == 40
        pooled = sum(level["worlds"] * level["gain"] for level in levels.values())
        assert pooled == pytest.approx(40 * mean)
    assert found["expected"] == verdicts(worlds)
    page = run(capsys, *asked, "--design", "ordered").out
    assert all(level in page for level in found["levels"])


@pytest.mark.parametrize("holds", [True, False])
def test_a_verdict_is_what_was_planted(holds):
    """BIS loses by placed noise in ordered worlds that show position, by knowledge, and
    by less where the signal is strong; or just the other way round."""
    rng, sign, worlds = np.random.default_rng(0), 1 if holds else -1, []
    for regime in design(ORDERED):
        axes, metrics = regime.axes, {}
        placed = 0.05 * (axes["order"] == 1 and axes["position"] == 4)
        known = 0.01 * axes["knowledge"]
        gain = 0.02 - sign * (placed + known + 0.01 * (axes["signal"] == 3) - 0.02)
        clean = gain if holds and not placed else -0.05 + placed
        for name in ORDERED.arms:
            f1 = 0.7 + (name == "bis") * gain + (name == "bis, clean") * clean
            f1 += (name == "bis, blind") * (gain + sign * placed)
            metrics[name] = {"micro_f1": f1 + rng.normal(0, 1e-4, 20)}
        config = dataclasses.asdict(regime)
        worlds.append(Result("x", config, 0, {"arms": metrics}, {}))
    found = verdicts(worlds)
    assert list(found) == sorted(found)
    refuted = {claim[0]: of["refuted"] for claim, of in found.items()}
    assert refuted == dict.fromkeys("12345", not holds)


def test_the_map_is_of_its_seed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(regimes, "run_world", made_up_world)
    asked = ["run", "regimes", "--output", tmp_path]
    first = run(capsys, *asked, "--json").json
    second = run(capsys, *asked, "--seed", "1", "--json").json
    again = run(capsys, *asked, "--json").json
    assert again == first | {"ran": 0}
    assert len(read_results(tmp_path, "regimes")) == 2 * regimes.SMALL_WORLDS
    for seed, found in ((0, first), (1, second)):
        worlds = read_worlds(tmp_path, seed)
        assert {world.seed for world in worlds} == {seed}
        assert (found["seed"], found["worlds"], found["ran"]) == (seed, 40, 40)
        keep = design()[0].axes["keep_ratio"]
        of_keep = [w for w in worlds if w.config["axes"]["keep_ratio"] == keep]
        counts = found["signs"]["bis - random"][f"{keep:g}"]
        assert counts == sign_counts(of_keep, "bis", "random")
        assert sum(counts.values()) == len(of_keep)
        assert found["advisor"] == advisor_tests(worlds)
        assert {of["worlds"] for of in found["cross_validation"].values()} == {40}
        assert {of["majority"] for of in found["advisor"].values()} == {1.0}
    page = run(capsys, *asked, "--seed", "1").out
    assert "0 worlds run, 40 of seed 1 in the store" in page
