"""Arms of `mprm run annotate`: what they spend, see and say; the command and figure."""

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.page.figures import draw_all
from experiments.phase import allocations, annotation, pay_off
from experiments.phase.allocations import CAPPED, PLANNED, Outcomes, plan, read, spend
from experiments.phase.annotation_design import FULL, MOST, Annotation
from sim.scenes.grammar import TRAINING_SOURCES
from sim.scenes.world import UNREPAIRED, sample_corpus
from tests.cli import run
from theory.labelling import DOUBTFUL
from theory.rollouts import Rollouts


def outcomes(r, lengths, seed=0):
    """Continuations of rollouts of these lengths, whose steps succeed at rates r."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    empty = np.zeros(offsets[-1], int)
    of = Rollouts(empty, empty, offsets, np.zeros(len(lengths), int), ("a",))
    return Outcomes.draw(of, np.asarray(r, float), np.random.default_rng(seed))


def capped(arm, of, cap):
    return CAPPED[arm][0](of, np.full(of.rollouts.n_steps, cap))


def labels(of, allocation, reading="positive"):
    return read(of, allocation, reading).successes > 0


@pytest.fixture(scope="module")
def mixed():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, 300)
    n = lengths.sum()
    right = np.where(rng.random(n) < 0.2, rng.beta(0.3, 3, n), rng.beta(4, 1, n))
    return outcomes(right, lengths)


# Rollouts that go wrong at a step and stay so: a first error in every place, or none.
LENGTHS = np.repeat(np.arange(1, 9), np.arange(2, 10))
FIRST_ERROR = np.concatenate([np.arange(n + 1) for n in range(1, 9)])
CHAIN = np.concatenate(
    [np.arange(n) < first for n, first in zip(LENGTHS, FIRST_ERROR, strict=True)]
)


@pytest.mark.parametrize("arm", CAPPED)
@pytest.mark.parametrize("level", [2, 4, 8])
def test_budgets_are_equal_to_within_a_rollout(mixed, arm, level):
    budget = level * mixed.rollouts.n_steps
    spent = spend(arm, mixed, budget)
    assert spent.trials.sum() <= budget
    if arm == "first-success" and level > 2:
        # It is done: a larger cap is not its own.
        np.testing.assert_array_equal(spent.trials, capped(arm, mixed, FULL).trials)
    else:
        assert spent.trials.sum() > budget - 8 * MOST


@pytest.mark.parametrize("arm", PLANNED)
def test_plans_keep_to_their_budget_and_start(mixed, arm):
    content = np.arange(mixed.rollouts.n_rollouts, dtype=np.uint64)
    spent = plan(arm, mixed, 6 * mixed.rollouts.n_steps, content)
    assert spent.trials.sum() <= 6 * mixed.rollouts.n_steps
    assert spent.trials.min() == allocations.PLAN_START
    assert FULL < spent.trials.max() <= PLANNED[arm].most
    np.testing.assert_array_equal(spent.successes, mixed.after(spent.trials))


def test_the_first_success_says_what_sixteen_continuations_say(mixed):
    full, first = (capped(arm, mixed, FULL) for arm in ("uniform", "first-success"))
    np.testing.assert_array_equal(labels(mixed, first), labels(mixed, full))
    assert first.trials.sum() < full.trials.sum() / 4
    # Nothing was drawn beyond it, and nothing succeeded before it.
    assert not mixed.after(first.trials - 1).any()
    stopped = first.trials < FULL
    assert (first.successes[stopped] == 1).all()


def test_early_stop_sees_all_up_to_the_first_failure(mixed):
    full, early = (capped(arm, mixed, 4) for arm in ("uniform", "early-stop"))
    for begin, end in itertools.pairwise(mixed.rollouts.offsets):
        failures = np.flatnonzero(full.successes[begin:end] == 0)
        seen = begin + (failures[0] + 1 if len(failures) else end - begin)
        assert (early.trials[begin:seen] == 4).all()
        assert not early.trials[seen:end].any()
        assert not labels(mixed, early)[seen:end].any()
    seen = early.trials > 0
    np.testing.assert_array_equal(early.successes[seen], full.successes[seen])


@pytest.mark.parametrize("arm", ["binary-search", "early-stop"])
def test_without_repairs_the_first_error_is_all_there_is_to_find(arm):
    of = outcomes(CHAIN, LENGTHS)
    found = capped(arm, of, 1)
    np.testing.assert_array_equal(labels(of, found), CHAIN)
    if arm == "binary-search":
        probes = of.rollouts.total(found.trials)
        assert (probes <= np.ceil(np.log2(LENGTHS + 1))).all()


def test_binary_search_takes_a_repaired_step_for_a_right_one():
    # Two wrong steps that succeed at r = .2: the second is probed, the first only if it
    # fails; both count as right if it does not.
    r, cap, n = 0.2, 4, 4000
    of = outcomes(np.full(2 * n, r), np.full(n, 2))
    found = labels(of, capped("binary-search", of, cap)).reshape(n, 2)
    p = 1 - (1 - r) ** cap
    expected = np.array([p + (1 - p) * p, p])
    error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(found.mean(axis=0) - expected) < 4 * error).all()


def test_confidence_is_reached_where_the_mixture_martingale_says():
    """``prod_{i <= n} (i - 1/2) / i >= 20 t^n``, K = n; of failures 1 - t for t."""
    of = outcomes([0.0, 1.0], [2])
    ends = []
    for rate in (1 - DOUBTFUL, DOUBTFUL):
        n, wealth = 0, 1.0
        while wealth < 20:
            n += 1
            wealth *= (n - 0.5) / n / rate
        ends.append(n)
    assert capped("confidence", of, MOST).trials.tolist() == ends


def test_confidence_is_wrong_in_no_more_than_one_of_twenty():
    n = 4000
    of = outcomes(np.full(n, DOUBTFUL), np.full(n, 1))
    stopped = capped("confidence", of, MOST).trials < MOST
    assert 0 < stopped.mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)


def test_reliability_is_read_from_the_posterior_however_the_steps_were_drawn(mixed):
    a, b = mixed.prior
    for arm in ("uniform", "first-success", "confidence"):
        of = spend(arm, mixed, 4 * mixed.rollouts.n_steps)
        oracle = stats.beta.sf(0.5, a + of.successes, b + of.trials - of.successes)
        np.testing.assert_array_equal(labels(mixed, of, "reliable"), oracle >= 0.5)


@pytest.mark.parametrize("counts", ["wrong", "skipped"])
def test_exceptions_bias_counts_by_their_closed_form(counts):
    r, e, n = 0.7, 0.1, 5000
    of = outcomes(np.full(n, r), np.full(n, 1))
    found = allocations.checked(of, e, counts, np.random.default_rng(3))
    share = found.successes / found.trials
    expected = r * (1 - e) / (1 if counts == "wrong" else 1 - r * e)
    assert abs(share.mean() - expected) < 4 * share.std() / np.sqrt(n)
    assert (found.trials < FULL).any() == (counts == "skipped")


def test_continuations_needed_lie_between_budgets_in_the_logarithm():
    cost = np.array([2.0, 8, 4])
    error = 4 - np.log2(cost)
    assert annotation.needed(cost, error, 1.5) == pytest.approx(2**2.5)
    assert annotation.needed(cost, error, 3.0) == 2
    assert annotation.needed(cost, error, 0.5) is None


def test_the_unrepaired_world_repairs_nothing_and_its_r_is_exact():
    for source in map(UNREPAIRED.source, TRAINING_SOURCES):
        assert (source.repair, source.check) == ((0, 0), (0, 0))
    parts = sample_corpus(UNREPAIRED, 1000, np.random.default_rng(0))
    assert not any(part.solutions.repaired.any() for part in parts)
    k, r = (
        np.concatenate([getattr(x, name) for x in parts]) for name in ("successes", "r")
    )
    z = (k - UNREPAIRED.trials * r).sum() / np.sqrt(
        (UNREPAIRED.trials * r * (1 - r)).sum()
    )
    assert abs(z) < 4


def seen(model, params, scenes):
    """Noise in place of hidden states."""
    steps = sum(len(of.action) for of in scenes.solutions)
    return np.random.default_rng(0).normal(size=(steps, 4))


def test_the_command_runs_resumes_and_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(annotation, "SIZES", {"small": Annotation(2, 60, 40)})
    monkeypatch.setattr(annotation, "WORLDS", ("unrepaired",))
    # What a student sees is tested with the probes.
    monkeypatch.setattr(pay_off, "prompts_of", lambda model, scenes, seed: scenes)
    monkeypatch.setattr(pay_off, "hidden_states", seen)
    command = ("run", "annotate", "--output", str(tmp_path), "--seed", "10")
    told = run(capsys, *command, "--json").json
    assert told["ran"] == 2
    for of in told["worlds"].values():
        # Full annotation is compared with itself.
        full = of["arms"]["uniform"]["16"]
        assert (full["cost"], full["positive"]["differs"]) == (16, 0)
        assert 0 < full["positive"]["bis"] < 1
        first = of["arms"]["first-success"]["16"]
        assert first["positive"]["differs"] == 0
        assert first["bias"] > full["bias"]
    sizes = {name: len(of) for name, of in told["contrasts"].items()}
    assert sizes == {"half": 14, "equal": 14, "kept": 7, "student": 14, "fewer": 2}
    again = run(capsys, *command)
    *table, ran = again.out.splitlines()
    assert ran.startswith("0 corpora annotated")
    assert max(map(len, table)) <= 80
    drawn, left_out = draw_all(["annotation"], tmp_path, tmp_path / "figures")
    assert (len(drawn), left_out) == (3, {})
