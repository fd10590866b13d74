"""Choosing a candidate on one half of the worlds and judging it on the other."""

import dataclasses

import numpy as np
import pytest

from experiments.map import candidates
from experiments.map.candidates import (
    ARMS,
    KEEP_RATIOS,
    CandidateWorld,
    candidate_table,
    named_worlds,
)
from experiments.store.results import Result, append_results
from experiments.students.arms import CANDIDATES, Arm
from experiments.students.runs import run_arms
from experiments.students.worlds import worlds
from tests.cli import run
from tests.experiments.test_student_runs import TINY

RULES = {
    "safe": Arm("bis", labels="masked"),
    "bold": Arm("bis", labels="falling"),
    "random masked": Arm("random", labels="masked"),
}


def planted(index, gains, family="a"):
    """A world where the arms' means differ from Random's by the given amounts."""
    rng = np.random.default_rng(index)
    base = rng.normal(0.7, 0.05, 20)
    noise = rng.normal(0, 0.005, (len(gains), 20))
    noise -= noise.mean(axis=1, keepdims=True)
    arms = {
        name: (base + gain + own).tolist()
        for (name, gain), own in zip(gains.items(), noise, strict=True)
    }
    return CandidateWorld(family, index, arms | {"random": base.tolist()})


def test_the_even_worlds_choose_and_the_odd_ones_judge():
    gains = {"bis": 0.02, "safe": 0.03, "bold": 0.08, "random masked": 0.01}
    losing = gains | {"bold": -0.02}
    # Of eight even worlds "bold" loses one, and gains more than "safe" in the others.
    some = [planted(i, losing if i == 4 else gains) for i in range(16)]
    some[5] = planted(5, gains | {"safe": -0.03}, "b")
    some[7] = planted(7, gains | {"safe": 0.01}, "b")
    table = candidate_table(some, RULES)
    assert table.chosen == "safe"
    assert (table.even["bold"].below, table.even["bold"].above) == (1, 7)
    assert table.odd["bold"].below == 0
    safe = table.odd["safe"]
    assert (safe.worlds, safe.below, safe.above, safe.beats_bis) == (8, 1, 7, 6)
    assert not table.reached
    mean = (6 * 0.03 - 0.03 + 0.01) / 8
    assert safe.over_random == pytest.approx(mean)
    assert safe.over_bis == pytest.approx(mean - 0.02)
    assert safe.by_labels == pytest.approx(0.01)
    assert safe.by_rule == pytest.approx(mean - 0.01)
    assert [table.families[f].below for f in ("a", "b")] == [0, 1]
    some[5] = planted(5, gains)
    assert candidate_table(some, RULES).reached
    # Nothing of the odd worlds moves the choice, and no loss makes "bold" the better.
    assert candidate_table([planted(0, gains), *some[1::2]], RULES).chosen == "bold"


def test_a_world_without_an_arm_and_a_missing_half_are_refused():
    whole = [planted(i, dict.fromkeys(["bis", *RULES], 0.0)) for i in range(2)]
    less = {k: v for k, v in whole[1].values.items() if k != "bold"}
    lacking = dataclasses.replace(whole[1], values=less)
    with pytest.raises(ValueError, match="bold"):
        candidate_table([whole[0], lacking], RULES)
    with pytest.raises(ValueError, match="odd"):
        candidate_table(whole[:1], RULES)


def test_a_named_world_is_in_one_half_at_all_keep_ratios():
    names = list(worlds())[1:4]
    cells = [
        Result(
            "rules",
            {"world": {"name": name}, "arm": dataclasses.asdict(of)},
            0,
            {"micro_f1": [keep, i]},
        )
        for name in names
        for keep in (*KEEP_RATIOS, 0.35)
        for i, arm in enumerate(ARMS.values())
        for of in [dataclasses.replace(arm, keep_ratio=keep)]
        if (name, arm.rule) != (names[2], "random")
    ]
    found = named_worlds(cells)
    assert [w.index for w in found] == [1] * 4 + [2] * 4
    assert found[5].values == {n: [0.1, i] for i, n in enumerate(ARMS)}


def test_the_command_runs_its_worlds_once_and_reads_those_of_the_other_stores(
    tmp_path, monkeypatch, capsys
):
    regimes = candidates.design()[:2]
    monkeypatch.setattr(candidates, "design", lambda: regimes)
    monkeypatch.setattr(candidates, "world_of", lambda regime: TINY)
    arms = {name: {"micro_f1": [0.5, 0.6, 0.8]} for name in ARMS}
    ordered = [
        Result("regimes_ordered", {"index": i}, 0, {"arms": arms}) for i in range(3)
    ]
    append_results(tmp_path, ordered)
    command = "run", "better_rule", "--output", tmp_path, "--json"
    report = run(capsys, *command).json
    assert (report["ran"], report["worlds"]) == (2, 5)
    assert report["chosen"] in CANDIDATES
    assert report["families"]["regimes_ordered"]["worlds"] == 1
    keep = regimes[1].axes["keep_ratio"]
    pair = [Arm("bis", keep, labels="masked"), Arm("random", keep)]
    masked, random = run_arms(TINY, pair, range(20), excess=False)
    expected = np.mean(masked["micro_f1"]) - np.mean(random["micro_f1"])
    alone = report["odd"]["bis masked"]["over_random"] * 2
    assert alone == pytest.approx(expected, abs=2e-4)
    assert run(capsys, *command).json["ran"] == 0
    assert run(capsys, *command[:-1]).status == 0
