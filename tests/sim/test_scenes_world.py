"""Worlds: near the real corpus where they claim to be, and the same from one seed."""

import numpy as np
import pytest

from sim.corpus.calibrate import PAPER_TARGETS
from sim.scenes.grammar import BENCHMARK_SOURCES, TRAINING_SOURCES
from sim.scenes.solutions import FINAL
from sim.scenes.world import (
    DIFFICULT,
    FORGIVING,
    PLENTIFUL,
    SCARCE,
    WORLDS,
    sample_benchmark,
    sample_candidates,
    sample_corpus,
)
from theory.paper import FULL_DATA
from theory.rollouts import Rollouts
from theory.summary import summarise

ROLLOUTS = 2_500


def rollouts_of(corpus, trials=16):
    steps = np.concatenate([np.diff(part.solutions.offsets) for part in corpus])
    k = np.concatenate([part.successes for part in corpus])
    return Rollouts(
        k,
        np.full_like(k, trials),
        np.concatenate([[0], np.cumsum(steps)]),
        np.repeat(
            np.arange(len(corpus)), [len(part.solutions.problems) for part in corpus]
        ),
        tuple(part.solutions.problems.source.name for part in corpus),
    )


@pytest.fixture(scope="module")
def corpora():
    return {
        name: sample_corpus(world, ROLLOUTS, np.random.default_rng(0))
        for name, world in WORLDS.items()
    }


def wrong_steps(corpus):
    """Successes at the wrong steps."""
    return np.concatenate(
        [part.successes[part.solutions.correct() == -1] for part in corpus]
    )


def test_scarce_is_near_the_real_corpus(corpora):
    """Tolerances: three standard errors of 2,500 rollouts and what was aimed for."""
    summary = summarise(rollouts_of(corpora["scarce"]))
    assert summary.mixed_share == pytest.approx(PAPER_TARGETS.mixed_share, abs=0.018)
    assert summary.error_step_ratio == pytest.approx(
        PAPER_TARGETS.error_step_ratio, abs=0.01
    )
    assert summary.mean_mc == pytest.approx(FULL_DATA.mean_mc, abs=0.02)
    assert summary.steps_per_rollout == pytest.approx(
        FULL_DATA.steps_per_rollout, abs=0.3
    )
    # Step 0 can be wrong: some rollouts have no positive step at all.
    assert 0 < summary.all_negative_share < 0.01
    wrong = wrong_steps(corpora["scarce"])
    assert 0.5 < np.mean(wrong == 0) < 0.7
    assert 0.1 < np.mean(wrong / 16) < 0.18


def test_the_other_worlds_are_what_they_say(corpora):
    plentiful = summarise(rollouts_of(corpora["plentiful"]))
    assert 0.22 < plentiful.mixed_share < 0.32
    forgiving = summarise(rollouts_of(corpora["forgiving"]))
    assert forgiving.mixed_share == pytest.approx(PAPER_TARGETS.mixed_share, abs=0.02)
    of_forgiving = np.mean(wrong_steps(corpora["forgiving"]) > 0)
    assert 0.5 < of_forgiving < 0.65
    assert of_forgiving > np.mean(wrong_steps(corpora["scarce"]) > 0) + 0.08
    # Few successes: wrong in scarce, hard in difficult.
    assert wrong_among_few(corpora["scarce"]) > 0.8
    assert 0.09 < wrong_among_few(corpora["difficult"]) < 0.23
    difficult = summarise(rollouts_of(corpora["difficult"]))
    assert difficult.mixed_share == pytest.approx(PAPER_TARGETS.mixed_share, abs=0.02)


def wrong_among_few(corpus):
    """P(wrong | K = 1 or 2) of the steps that are not neutral."""
    k = np.concatenate([part.successes for part in corpus])
    correct = np.concatenate([part.solutions.correct() for part in corpus])
    few = (k >= 1) & (k <= 2) & (correct != 0)
    return np.mean(correct[few] == -1)


def test_labels_are_those_of_the_world(corpora):
    """Of all steps of the corpus, K is on average N r, and no more spread."""
    for corpus in corpora.values():
        k, r = (
            np.concatenate([getattr(part, name) for part in corpus])
            for name in ("successes", "r")
        )
        open_ = (r > 0) & (r < 1)
        residual, spread = (k - 16 * r)[open_], (16 * r * (1 - r))[open_]
        assert abs(residual.sum()) < 4 * np.sqrt(spread.sum())
        assert np.sum(residual**2) == pytest.approx(spread.sum(), rel=0.05)


def test_one_seed_makes_one_world():
    first, again, other = (
        sample_corpus(SCARCE, 60, np.random.default_rng(seed)) for seed in (7, 7, 8)
    )
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.successes, same.successes)
        np.testing.assert_array_equal(one.r, same.r)
        for name in ("offsets", "action", "read", "result", "repaired"):
            np.testing.assert_array_equal(
                getattr(one.solutions, name), getattr(same.solutions, name)
            )
        for name in ("values", "cells", "target", "log_difficulty"):
            np.testing.assert_array_equal(
                getattr(one.solutions.problems, name),
                getattr(same.solutions.problems, name),
            )
    assert any(
        not np.array_equal(a.solutions.problems.values, b.solutions.problems.values)
        for a, b in zip(first, other, strict=True)
    )


def test_what_is_shown_and_asked_does_not_depend_on_the_policy():
    """Same seed, other error rates: the same problems, so the same pictures."""
    for world in (PLENTIFUL, FORGIVING, DIFFICULT):
        assert world.spread == SCARCE.spread
        pairs = zip(
            *(sample_corpus(w, 50, np.random.default_rng(3)) for w in (SCARCE, world)),
            strict=True,
        )
        for one, other in pairs:
            for name in ("values", "cells", "target"):
                np.testing.assert_array_equal(
                    getattr(one.solutions.problems, name),
                    getattr(other.solutions.problems, name),
                )


def test_rollouts_are_shared_out_evenly():
    corpus = sample_corpus(SCARCE, 23, np.random.default_rng(0))
    assert [len(part.solutions.problems) for part in corpus] == [5, 5, 5, 4, 4]
    names = [part.solutions.problems.source.name for part in corpus]
    assert names == [source.name for source in TRAINING_SOURCES]
    with pytest.raises(ValueError, match="at least 5"):
        sample_corpus(SCARCE, 4, np.random.default_rng(0))


def test_the_benchmark_has_other_sources_at_one_error_rate():
    judged = sample_benchmark(400, np.random.default_rng(0))
    sources = [part.solutions.problems.source for part in judged]
    assert tuple(sources) == BENCHMARK_SOURCES
    assert not {s.name for s in sources} & {s.name for s in TRAINING_SOURCES}
    assert len({(s.misread, s.slip) for s in sources}) == 1
    for part in judged:
        solutions = part.solutions
        assert (solutions.problems.log_difficulty == 0).all()
        assert len(part.prior) == len(solutions.action)
        # The prior knows the place alone.
        place = list(zip(solutions.cells_read, solutions.action, strict=True))
        seen = dict(zip(place, part.prior.tolist(), strict=True))
        assert [seen[p] for p in place] == part.prior.tolist()
        assert len(set(part.prior.tolist())) > 3
        assert {-1, 0, 1} == set(solutions.correct().tolist())


def test_candidates_of_a_problem_differ_in_their_solutions_only():
    sets = sample_candidates(10, 16, np.random.default_rng(0))
    assert [len(s.problems) for s in sets] == [32] * 5
    some_differ = False
    for solutions in sets:
        problems = solutions.problems
        for name in ("values", "cells", "target", "n_items"):
            column = getattr(problems, name)
            for first in (0, 16):
                rows = column[first : first + 16]
                assert (rows == rows[0]).all()
        answers = solutions.result[solutions.action == FINAL].reshape(2, 16)
        some_differ |= any(len(set(row)) > 1 for row in answers.tolist())
    assert some_differ
