"""Solutions: their truth as a reader of the texts finds it, and their labels."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from experiments.corpora.scene_text import questions, step_texts
from sim.scenes.grammar import BENCHMARK_SOURCES, TRAINING_SOURCES, vocabulary
from sim.scenes.policy import MISREAD, SLIP, Care
from sim.scenes.solutions import (
    FINAL,
    NEUTRAL,
    READ,
    rerun,
    sample_problems,
    solve,
    step_prior,
    step_success_probability,
)
from sim.scenes.world import SCARCE, World
from tests.scene_reader import cell_index, judge, words

ALL = TRAINING_SOURCES + BENCHMARK_SOURCES
BY_SOURCE = pytest.mark.parametrize("source", ALL, ids=lambda s: s.name)


def erring(source):
    """Errors, repairs and checks often enough to be met in a small sample."""
    return dataclasses.replace(
        source, misread=0.15, slip=0.15, repair=(0.4, 0.3), check=(0.4, 0.3)
    )


def solved(source, n=250, seed=0, care=1.0, spread=0.5):
    rng = np.random.default_rng(seed)
    return solve(sample_problems(erring(source), n, spread, rng), Care(care), 0.15, rng)


@BY_SOURCE
def test_truth_is_what_a_reader_of_texts_and_pictures_finds(source):
    solutions = solved(source)
    found = []
    for asked, steps, shown in zip(
        questions(solutions),
        step_texts(solutions),
        solutions.problems.values.tolist(),
        strict=True,
    ):
        found += judge(words(asked), [words(step) for step in steps], shown)
    truth, follows = np.array(found).T
    np.testing.assert_array_equal(solutions.correct(), truth)
    np.testing.assert_array_equal(solutions.locally_valid(), follows.astype(bool))
    # All kinds of step are there, and truth and validity differ both ways.
    for action in (READ, NEUTRAL, FINAL):
        assert (solutions.action == action).any()
    valid = solutions.locally_valid()
    assert (valid & (truth == -1)).any()
    assert (~valid & (truth == -1)).any()
    assert (solutions.repaired & (truth == 1)).any()
    first = solutions.offsets[:-1]
    assert (truth[first] == -1).any()
    assert (truth[first] == 1).any()


@BY_SOURCE
def test_questions_name_distinct_cells_of_the_picture(source):
    solutions = solved(source, 200)
    least, most = source.items
    counts = set()
    for asked, cells in zip(
        questions(solutions), solutions.problems.cells, strict=True
    ):
        assert asked.endswith("?")
        named = [
            cell_index(w) for w in words(asked) if w[-1] in "1234" and w[0] in "abcd"
        ]
        assert named == cells[cells >= 0].tolist()
        assert len(set(named)) == len(named)
        counts.add(len(named))
    assert counts == set(range(least, most + 1))


def test_every_word_is_known():
    known = set(vocabulary())
    assert len(vocabulary()) == len(known)
    said = set()
    for source in ALL:
        solutions = solved(source, 60)
        said |= {word for asked in questions(solutions) for word in words(asked)}
        for steps in step_texts(solutions):
            said |= {word for step in steps for word in words(step)}
    assert said <= known
    assert known <= said, "words that are never said"


def test_steps_are_laid_out_solution_by_solution():
    solutions = solved(ALL[0])
    per_rollout = [solutions.action[a:b] for a, b in pairwise(solutions.offsets)]
    for actions, n_items in zip(per_rollout, solutions.problems.n_items, strict=True):
        assert actions[-1] == FINAL
        assert (actions == FINAL).sum() == 1
        assert (actions == READ).sum() == n_items
        assert actions[0] == READ
    assert solutions.offsets[-1] == len(solutions.action) == len(solutions.rollout)
    assert [len(steps) for steps in step_texts(solutions)] == [*map(len, per_rollout)]


def test_neutral_steps_are_as_frequent_as_asked():
    solutions = solved(ALL[0], 8_000)
    neutral = (solutions.action == NEUTRAL).sum()
    chances = (solutions.problems.n_items - 1).sum()
    assert abs(neutral - 0.15 * chances) < 4 * np.sqrt(0.15 * 0.85 * chances)
    assert (solutions.correct()[solutions.action == NEUTRAL] == 0).all()
    none = solve(solutions.problems, Care(1.0), 0.0, np.random.default_rng(0))
    assert (none.action != NEUTRAL).all()


def z_scores(successes, r, trials):
    """(z, variance of z squared) of binomial counts; only where r is not 0 or 1."""
    open_ = (r > 0) & (r < 1)
    p, k = r[open_], successes[open_]
    spread = trials * p * (1 - p)
    excess = (1 - 6 * p * (1 - p)) / spread
    return (k - trials * p) / np.sqrt(spread), 2 + excess


@pytest.mark.parametrize(
    "source", [ALL[0], ALL[1], ALL[2], ALL[4]], ids=lambda s: s.name
)
def test_labels_are_binomial_in_the_exact_success_probability(source):
    trials, annotator = 16, Care(0.8)
    solutions = solved(source, 1_500, seed=1)
    r = step_success_probability(solutions, annotator)
    successes = rerun(solutions, annotator, trials, np.random.default_rng(2))
    final = solutions.action == FINAL
    assert set(r[final].tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(r[final] == 1, solutions.correct()[final] == 1)
    np.testing.assert_array_equal(successes[final], trials * r[final])
    assert (r[~final] > 0).all()
    right = solutions.result_is_right()
    groups = {
        "all": ~final,
        "neutral": solutions.action == NEUTRAL,
        "right": right & ~final,
        "slipped": ~right & ~final & (solutions.origin == SLIP),
        "misread": ~right & ~final & (solutions.origin == MISREAD),
    }
    for name, group in groups.items():
        z, spread = z_scores(successes[group], r[group], trials)
        assert len(z) > 100, name
        assert abs(z.mean()) < 4 / np.sqrt(len(z)), name
        error = np.sqrt(spread.mean() / len(z))
        assert abs((z**2).mean() - 1) < 4 * error, name


def test_a_right_result_is_more_likely_to_end_well():
    solutions = solved(ALL[0], 800)
    r = step_success_probability(solutions, Care(1.0))
    right, going = solutions.result_is_right(), solutions.action == READ
    assert r[going & right].mean() > r[going & ~right].mean() + 0.2
    # More careful continuations do better from a right result.
    careful = step_success_probability(solutions, Care(0.2))
    more = solutions.cells_read < solutions.problems.n_items[solutions.rollout]
    assert (careful[going & right & more] > r[going & right & more]).all()
    assert (r[going & right & ~more] == 1).all()


def test_the_prior_is_the_share_of_correct_steps_at_their_place():
    source = erring(ALL[0])
    rng = np.random.default_rng(5)
    problems = sample_problems(source, 2_500, 0.0, rng)
    solutions = solve(problems, Care(0.5), 0.2, rng)
    prior = step_prior(solutions, Care(0.5))
    correct = solutions.correct() == 1
    for item in range(7):
        for action in (READ, FINAL):
            at = (solutions.item == item) & (solutions.action == action)
            if at.any():
                error = np.sqrt(prior[at].mean() * (1 - prior[at].mean()) / at.sum())
                assert abs(correct[at].mean() - prior[at].mean()) < 4 * error
    for a, b in pairwise(range(len(prior))):
        if solutions.action[b] == NEUTRAL:
            assert prior[b] == prior[a]


def test_forgiveness_repairs_slips_but_not_misreadings():
    source = dataclasses.replace(ALL[0], repair=(0.1, 0.02), check=(0.3, 0.04))
    world = World("w", "w", forgiveness=5.0)
    assert world.source(source).repair == (0.5, 0.02)
    assert world.source(source).check == (1.0, 0.04)
    assert SCARCE.source(source) == source
    rng = np.random.default_rng(0)
    problems = sample_problems(source, 500, 0.5, rng)
    solutions = solve(problems, Care(4.0), 0.0, rng)
    kind = {}
    for name, of in (("strict", SCARCE), ("forgiving", world)):
        there = dataclasses.replace(problems, source=of.source(source))
        kind[name] = step_success_probability(
            dataclasses.replace(solutions, problems=there), Care(0.0)
        )
    wrong = ~solutions.result_is_right() & (solutions.action == READ)
    slipped, misread = (wrong & (solutions.origin == o) for o in (SLIP, MISREAD))
    assert (kind["forgiving"][slipped] > kind["strict"][slipped]).all()
    np.testing.assert_array_equal(kind["forgiving"][misread], kind["strict"][misread])
