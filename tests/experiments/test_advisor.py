"""The advisor on synthetic worlds of known gain, and what it must refuse."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.map import run as map_run
from experiments.map.advisor import (
    TARGETS,
    between_share,
    corpus_measures,
    fit_advisor,
    inputs,
    validate,
    world_inputs,
)
from experiments.map.design import (
    ARMS,
    AXES,
    ORDERED,
    RegimeWorld,
    design,
    design_json,
)
from experiments.map.report import advisor_tests, cross_validation
from experiments.map.run import world_of
from experiments.map.worlds import gains, read_worlds
from sim.corpus.draw import sample_with_latent
from sim.corpus.sources import Source
from sim.students.features import relative_position
from sim.students.problem import from_moments
from tests.experiments.map_worlds import world
from theory.rollouts import Rollouts
from theory.summary import summarise

REFERENCE = Path(__file__).parents[2] / "experiments" / "results"


@pytest.fixture(scope="module")
def worlds():
    """Their known gain is larger at small keep ratios, and where few are mixed."""
    rng = np.random.default_rng(1)
    return [
        world(i, rng, lambda keep, mixed: -0.01 * np.log(keep) - 0.005 * np.log(mixed))
        for i in range(250)
    ]


@pytest.fixture(scope="module")
def advisor(worlds):
    return fit_advisor([w for w in worlds if not w.config["held_out"]])


def test_intervals_cover_held_out_worlds_as_often_as_they_say(worlds, advisor):
    test = [w for w in worlds if w.config["held_out"]]
    found = validate(advisor, test, ("bis", "random"))
    assert 0.8 <= found["coverage"] <= 0.97
    assert found["rmse"] < 0.007 < found["spread"]
    assert found["sign_right"] > 0.95
    # The made-up gain is positive wherever noise does not turn it.
    positive = [gains(w, "bis", "random").mean() > 0 for w in test]
    assert found["majority"] == np.mean(positive)
    # 90 % of a normal of standard deviation .005 lie within 1.645 of them.
    assert found["width"] == pytest.approx(2 * 1.645 * 0.005, rel=0.3)


def test_drivers_are_the_inputs_that_move_the_gain(worlds, advisor):
    few = [w for w in worlds if w.config["axes"]["keep_ratio"] == 0.05]
    names = {
        name
        for w in few[:10]
        for name, _ in advisor.drivers(("bis", "random"), world_inputs(w))[:3]
    }
    assert names & {"log keep ratio", "keep ratio over mixed share, log"}


def test_a_corpus_unlike_all_worlds_is_outside_and_says_how(worlds, advisor):
    inside = world_inputs(worlds[0])
    assert advisor.outside(inside) == []
    assert advisor.distance(inside) == pytest.approx(0, abs=1e-12)
    far = inside.copy()
    far[0] -= 5
    assert advisor.outside(far) == ["log mixed share"]
    # Each input has been seen, but the keep ratio never with so many updates.
    odd = inside.copy()
    odd[6], odd[8] = np.log(0.05), advisor.seen[:, 8].max()
    assert advisor.distance(odd) > advisor.distance(inside)


def test_too_few_worlds_make_no_advisor(worlds):
    with pytest.raises(ValueError, match="at least 20 worlds, not 19"):
        fit_advisor(worlds[:19])


def test_variance_between_rollouts_is_the_model_s():
    model = from_moments(0.6, 0.7)
    source = Source("a", 0.7, 50_000, 10_000)
    corpus = sample_with_latent(model, (source,), np.random.default_rng(0))
    assert between_share(corpus.rollouts) == pytest.approx(0.7, abs=0.02)


def test_measures_are_those_of_the_summary():
    counts = np.array([16, 0, 2, 16, 16, 8])
    rollouts = Rollouts(
        counts, np.full(6, 16), np.array([0, 3, 5, 6]), np.zeros(3, int), ("s",)
    )
    found = corpus_measures(rollouts)
    summary = summarise(rollouts)
    assert found["mixed_share"] == summary.mixed_share == pytest.approx(1 / 3)
    assert found["error_step_ratio"] == pytest.approx(1 / 6)
    assert found["low_positive_share"] == pytest.approx(1 / 5)
    assert found["mixed_reliability"] == pytest.approx((1 + 1 / 8) / 2)
    x = inputs(found, 0.25, 100)
    assert x[7] == pytest.approx(np.log(0.75))
    with pytest.raises(ValueError, match="no rollout is mixed"):
        corpus_measures(rollouts.take(np.array([1, 2])))


def test_the_committed_design_is_the_one_that_runs():
    committed = (REFERENCE / "regimes_design.json").read_text(encoding="utf-8")
    assert committed == design_json()
    written = json.loads(committed)["worlds"]
    later = [world["index"] for world in written if world.get("added")]
    assert later == list(range(256, 384))
    assert all(w.held_out for w in design()[256:])
    worlds = design()[:256]
    assert sum(w.held_out for w in worlds) == 51
    for name, levels in AXES.items():
        counts = [sum(w.axes[name] == level for w in worlds) for level in levels]
        # A Sobol design in a power of two is balanced up to rounding of the levels.
        assert max(counts) - min(counts) <= 3


def test_the_committed_ordered_design_is_the_one_that_runs():
    path = REFERENCE / "regimes_ordered_design.json"
    assert path.read_text(encoding="utf-8") == design_json(ORDERED)
    worlds = design(ORDERED)
    assert (len(worlds), sum(w.held_out for w in worlds)) == (256, 51)
    assert set(AXES) < set(ORDERED.axes)
    assert set(ARMS) < set(ORDERED.arms)
    for name, levels in ORDERED.axes.items():
        counts = [sum(w.axes[name] == level for w in worlds) for level in levels]
        assert max(counts) - min(counts) <= 3
    pairs = {(treated, base) for treated, base in ORDERED.compared}
    assert {name for pair in pairs for name in pair} <= set(ORDERED.arms)


def test_an_ordered_regime_s_world_is_what_its_axes_say():
    wanted = {"order": 1.0, "position": 4.0, "noise": (0.05, 0.1, -1.0)}
    regimes = [w for w in design(ORDERED) if wanted.items() <= w.axes.items()]
    knows = {regime.axes["knowledge"] > 0: regime for regime in regimes}
    for known, regime in knows.items():
        built, axes = world_of(regime), regime.axes
        corpus = built.law.draw(np.random.default_rng(0))
        within = np.diff(relative_position(corpus)) > 0
        assert np.all(np.diff(corpus.r)[within] <= 0)
        features = built.features
        assert (features.position, features.signal) == (4.0, axes["signal"])
        assert (features.right_below, features.wrong_above, features.late) == (
            axes["noise"]
        )
        assert (built.knowledge, built.knowledge_noise) == (axes["knowledge"], known)
    assert set(knows) == {False, True}


def test_an_ordered_world_runs_with_every_arm(monkeypatch):
    """As the command runs it, but for fewer rollouts and seeds."""
    monkeypatch.setattr(map_run, "ROLLOUTS", 500)
    wanted = {"order": 1.0, "knowledge": 2.0, "signal": 3.0}
    regime = next(w for w in design(ORDERED) if wanted.items() <= w.axes.items())
    found = map_run.run_world(regime, 0, 2, ORDERED)
    assert list(found["arms"]) == list(ORDERED.arms)
    values = [x for arm in found["arms"].values() for of in arm.values() for x in of]
    assert values == [round(x, 4) for x in values]
    assert found["position_auroc"] > 0.52
    # Phi(3 / sqrt(2 (1 + 1) (1 + 1/4 + 1/4))) = .89 with the largest source shift.
    assert min(found["arms"]["start"]["auroc"]) > 0.75
    blind = found["arms"]["bis, blind"], found["arms"]["bis, clean"]
    assert blind[0] != blind[1]


def test_a_regime_s_world_is_what_its_axes_say():
    wanted = {"mixed_share": 0.16, "between": 0.7}
    regime = next(w for w in design() if wanted.items() <= w.axes.items())
    built = world_of(regime)
    corpus = built.law.draw(np.random.default_rng(0))
    assert summarise(corpus.rollouts).mixed_share == pytest.approx(0.16, abs=0.02)
    features = built.features
    assert features.common_mean == regime.axes["common_mean"]
    assert (features.right_below, features.wrong_above) == regime.axes["noise"]
    assert built.passes == regime.axes["passes"]


@pytest.fixture(scope="module")
def committed():
    return read_worlds(REFERENCE)


def test_the_committed_worlds_test_the_advisor_as_reported(committed):
    tests = advisor_tests(committed)
    for name in ("bis - random", "bis - mixed", "bis - full"):
        assert tests[name]["worlds"] == 179
        assert 0.80 <= tests[name]["coverage"] <= 0.97


def test_majority_is_that_of_the_worlds_the_advisor_has_seen(committed):
    tests, turns = advisor_tests(committed), cross_validation(committed)
    held_out = np.array([w.config["held_out"] for w in committed])
    for target in TARGETS:
        name = " - ".join(target)
        positive = np.array([gains(w, *target).mean() > 0 for w in committed])
        seen = positive[~held_out].mean() > 0.5
        right = np.mean(positive[held_out] == seen)
        assert tests[name]["majority"] == pytest.approx(right)
        assert 0 < turns[name]["majority"] <= 1


def test_a_held_out_world_simulated_anew_looks_as_it_was_stored(committed):
    """The measures stored are means over three corpora."""
    stored, other = [
        next(w for w in committed if w.config["held_out"] and w.config["index"] >= i)
        for i in (100, 130)
    ]
    law = world_of(RegimeWorld(0, True, stored.config["axes"])).law
    fresh = [
        corpus_measures(law.draw(np.random.default_rng([7, i])).rollouts)
        for i in range(8)
    ]
    drawn = np.array([list(measures.values()) for measures in fresh])
    error = drawn.std(axis=0, ddof=1) * np.sqrt(1 / 3 + 1 / len(drawn))

    def largest_gap(world):
        measured = [world.metrics["measures"][name] for name in fresh[0]]
        return np.max(np.abs(drawn.mean(axis=0) - measured) / error)

    # Student's t with 7 degrees of freedom leaves 0.1 % beyond 5.4.
    assert largest_gap(stored) < 5.4 < 20 < largest_gap(other)
