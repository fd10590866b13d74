"""One's own rule beside the shipped ones: the same students, and faults in one line."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest

import mprm_jax as mprm
from experiments.store.results import read_results
from experiments.students import sweeps, worlds
from experiments.students.arms import Arm
from experiments.students.own_rule import load_rules
from mprm_jax.records.problems import DataError
from sim import CorpusLaw, FeatureWorld, Source
from sim.students.problem import from_moments
from theory.rollouts import Rollouts
from theory.scores import bis

SOURCES = (Source("a", 0.8, 5600, 1000), Source("b", 0.9, 5600, 1000))
LAW = CorpusLaw(from_moments(0.6, 0.7), SOURCES, 400)
TINY = mprm.World("tiny", "fast", LAW, FeatureWorld(dimension=8))

MODULE = """
import numpy as np
import theory.scores

print("imported")

def own_bis(rollouts):
    print("called")
    return theory.scores.bis(rollouts)

def spoils(rollouts):
    scores = theory.scores.bis(rollouts)
    rollouts.successes[:] = 0
    return scores

def raises(rollouts):
    return np.zeros(3)[rollouts.n_rollouts]

def few(rollouts):
    return [1.0]

def words(rollouts):
    return "many"

def nans(rollouts):
    return np.where(rollouts.n_positive > 0, 1.0, np.nan)

number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with somebody's module."""
    (tmp_path / "somebodys.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import numpy\nvalue = {}['x']\n")
    (tmp_path / "lacking.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("somebodys", None)


@pytest.fixture
def small(monkeypatch):
    """mprm run rules with three arms in a tiny world."""
    arms = [Arm(rule, keep) for rule in ("random", "bis") for keep in (0.05, 0.1)]
    rules = replace(sweeps.RULES, arms=arms, contrasts=[], added=[], small=["tiny"])
    monkeypatch.setattr(sweeps, "RULES", rules)
    monkeypatch.setattr(worlds, "worlds", lambda: {"tiny": TINY})
    monkeypatch.setattr(sweeps, "KEEP_RATIOS", (0.05, 0.1))


def test_a_function_that_is_bis_learns_what_bis_learns():
    def untouched(rollouts):
        return bis(rollouts)

    def spoils(rollouts):
        scores = bis(rollouts)
        rollouts.successes[:] = 0
        return scores

    found = mprm.compare_rules([untouched, spoils, "bis"], TINY, 0.2, seeds=2)
    own, spoiled, shipped, random = (result.metrics for result in found.results)
    assert own == spoiled == shipped != random
    for difference in found.differences:
        gain = np.subtract(shipped["micro_f1"], random["micro_f1"]).mean()
        assert difference.interval.mean == pytest.approx(gain)
    for name in ("untouched", "spoils", "bis", "random"):
        assert f"{name}-20%" in str(found)
    assert max(map(len, str(found).splitlines())) <= 80


def test_the_command_runs_it_beside_the_others_and_again_once_it_changed(
    here, small, mprm
):
    def run(*more):
        return mprm("run rules --output runs --json --rule", *more)

    first = run("somebodys:own_bis").json
    assert first["ran"] == first["cells"] == 6
    claims = {c["claim"]: c for c in first["comparisons"]}
    same = claims["own_bis > BIS at 10 %"]
    assert same["mean"] == 0
    assert "own_bis > Random at 5 %" in claims
    both = run("somebodys:own_bis", "--rule", "somebodys.py:spoils")
    assert both.json["ran"] == 2
    assert run("somebodys:own_bis,somebodys:spoils").json["ran"] == 0
    (here / "somebodys.py").write_text(MODULE + "\n# Changed.\n")
    sys.modules.pop("somebodys")
    importlib.invalidate_caches()
    assert run("somebodys:own_bis").json["ran"] == 2
    arms = [cell.config["arm"]["rule"] for cell in read_results(here / "runs", "rules")]
    assert len({name for name in arms if name.startswith("own_bis@")}) == 2
    shown = mprm("run rules --output runs --rule somebodys:own_bis").out
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("rule", "status", "said"),
    [
        ("somebodys:raises", 1, "somebodys.py:17"),
        ("somebodys:few", 1, "(1,)"),
        ("somebodys:words", 1, "str"),
        ("somebodys:nans", 1, "nan for rollout"),
        ("broken:rule", 1, "broken.py:2"),
        ("lacking:rule", 1, "lacking.py:1"),
        ("somebodys:none", 2, "somebodys.py"),
        ("somebodys:number", 2, "number"),
        ("somebodys", 2, "somebodys"),
        ("nowhere:rule", 2, "nowhere"),
        ("nowhere.at.all:rule", 2, "nowhere"),
        (":rule", 2, "rule"),
    ],
)
def test_what_is_wrong_with_it_is_said_in_one_line(
    rule, status, said, here, small, mprm
):
    done = mprm("run rules --output runs --rule", rule)
    assert done.status == status
    (line,) = set(done.err.splitlines()) - {"imported"}
    assert said in line
    assert not (here / "runs").exists()


def test_the_place_of_a_fault_is_somebody_s_own_line(here):
    (here / "deep.py").write_text(
        "import numpy as np\ndef rule(_):\n    return np.linalg.inv(np.zeros((2, 2)))\n"
    )
    importlib.invalidate_caches()
    (rule,) = load_rules(["deep:rule"])
    counts = Rollouts.from_scores(np.array([0.5]), 2, np.array([0, 1]))
    with pytest.raises(DataError, match=r"LinAlgError.*deep\.py:3, in rule"):
        rule.scores(counts)


def test_wrong_arguments_in_python():
    def one(rollouts):
        return rollouts.lengths

    for rules in (["best"], [one, one], [3]):
        with pytest.raises(ValueError, match="rule"):
            mprm.compare_rules(rules, TINY)
    with pytest.raises(ValueError, match="scarce"):
        mprm.compare_rules([one], "nowhere")
    one.__name__ = "bis"
    with pytest.raises(ValueError, match="shipped"):
        mprm.compare_rules([one], TINY)
