"""The policy's closed forms against path enumeration and against the policy itself."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from scipy.stats import chisquare

from sim.scenes.grammar import Source
from sim.scenes.policy import (
    Care,
    Problems,
    State,
    check_answer,
    correct_probability,
    read_cell,
    read_law,
    success_probability,
    transition,
)
from sim.scenes.solutions import FINAL, READ, sample_problems, solve
from tests.scene_reader import combine, running

RATES = {
    "items": (2, 3),
    "misread": 0.2,
    "slip": 0.15,
    "repair": (0.3, 0.1),
    "check": (0.4, 0.05),
}
SOURCES = (
    Source("s", "tally", "sum", **RATES),
    Source("m", "bars", "max", **RATES),
    Source("n", "dial", "min", **RATES),
    Source("c", "shapes", "count", **RATES),
)
BY_OPERATION = pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.operation)
VALUES = {"tally": range(1, 6), "bars": range(1, 10), "dial": range(8)}
VALUES |= {"shapes": range(4)}
CARE = Care(0.7)


def problems_of(source, n=4, seed=0, spread=0.8):
    return sample_problems(source, n, spread, np.random.default_rng(seed))


class Enumerated:
    """One problem, path by path, from the words of the policy's description."""

    def __init__(self, problems, row, care):
        source = problems.source
        cells = [cell for cell in problems.cells[row].tolist() if cell >= 0]
        self.source, self.operation = source, source.operation
        self.target = int(problems.target[row])
        self.shown = [int(problems.values[row, cell]) for cell in cells]
        self.right = running(self.operation, self.shown, self.target)
        difficulty = float(np.exp(problems.log_difficulty[row]))
        self.h = min(0.5, care.factor * difficulty * source.misread)
        self.a = min(0.5, care.factor * difficulty * source.slip)
        self.values = list(VALUES[source.kind])
        self.results = {
            "sum": range(10),
            "count": range(source.items[1] + 1),
        }.get(self.operation, self.values)

    def moves(self, item, stated, misread_before):
        """(probability, value read, result, whether a wrong result is a misreading).

        ``stated`` is the result before, None at the start.
        """
        before = self.right[item - 1] if item else None
        wrong = stated != before
        repair = self.source.repair[int(misread_before)] if wrong else 0.0
        for start, still_wrong, p in (
            (before, False, repair),
            (stated, wrong, 1 - repair),
        ):
            for read in self.values if p else ():
                missed = read != self.shown[item]
                q = p * (self.h / (len(self.values) - 1) if missed else 1 - self.h)
                result = combine(self.operation, start, read, self.target)
                old = still_wrong and not missed
                yield q * (1 - self.a), read, result, misread_before if old else missed
                # One of equally likely others; from a count beyond all, the smaller.
                others = [r for r in self.results if r != result]
                others = others[: len(self.results) - 1]
                for other in others:
                    yield q * self.a / len(others), read, other, missed

    @cache  # noqa: B019 - lives as long as a test
    def success(self, item, stated, misread):
        """r once ``item`` cells are read."""
        if item == len(self.shown):
            check = self.source.check[int(misread)]
            return 1.0 if stated == self.right[-1] else check
        return sum(
            p * self.success(item + 1, result, later)
            for p, _, result, later in self.moves(item, stated, misread)
        )


@BY_OPERATION
def test_success_probability_is_that_of_all_paths(source):
    problems = problems_of(source, 6)
    assert set(problems.n_items.tolist()) == {2, 3}
    r = success_probability(problems, CARE, problems.true_results())
    assert r.shape == (4, 6, 2, 10)
    for row, n_items in enumerate(problems.n_items.tolist()):
        paths = Enumerated(problems, row, CARE)
        for item in range(1, n_items + 1):
            for stated in paths.results:
                for misread in (False, True):
                    assert r[item, row, int(misread), stated] == pytest.approx(
                        paths.success(item, stated, misread), abs=1e-12
                    )
        start = source.start()
        assert r[0, row, 0, start] == pytest.approx(paths.success(0, None, False))
        # A rollout of fewer cells has nothing more to read.
        np.testing.assert_array_equal(
            r[n_items:, row], r[[n_items], row].repeat(4 - n_items, 0)
        )


def test_a_slip_beyond_all_counts_keeps_its_probability():
    """Counts that slipped to the top go on growing: their law must not leak."""
    source = dataclasses.replace(SOURCES[3], items=(3, 3))
    problems = problems_of(source, 40)
    r = success_probability(problems, CARE, problems.true_results())
    seen = 0
    for row in range(40):
        paths = Enumerated(problems, row, CARE)
        if paths.shown[1] == paths.target:
            seen += 1
            assert r[1, row, 0, 3] == pytest.approx(paths.success(1, 3, False))
            assert r[2, row, 0, 4] == pytest.approx(paths.success(2, 4, False))
    assert seen


@BY_OPERATION
def test_correct_probability_is_that_of_all_paths(source):
    problems = problems_of(source, 5)
    found = correct_probability(problems, CARE, problems.true_results())
    for row, n_items in enumerate(problems.n_items.tolist()):
        paths = Enumerated(problems, row, CARE)
        law = {(None, False): 1.0}
        for item in range(n_items):
            after, correct = {}, 0.0
            for (stated, misread), p in law.items():
                for q, read, result, later in paths.moves(item, stated, misread):
                    after[result, later] = after.get((result, later), 0.0) + p * q
                    if read == paths.shown[item] and result == paths.right[item]:
                        correct += p * q
            law = after
            assert found[row, item] == pytest.approx(correct, abs=1e-12)
            assert sum(law.values()) == pytest.approx(1)
        answer = sum(
            p * paths.success(n_items, stated, misread)
            for (stated, misread), p in law.items()
        )
        assert found[row, -1] == pytest.approx(answer, abs=1e-12)
        assert answer == pytest.approx(paths.success(0, None, False))


@BY_OPERATION
def test_transitions_are_laws_and_linear_in_what_is_read(source):
    problems = problems_of(source, 5)
    true = problems.true_results()
    read = read_law(problems, 1, CARE)
    np.testing.assert_allclose(read.sum(axis=1), 1)
    law = transition(problems, 1, CARE, true, read)
    assert law.min() >= 0
    np.testing.assert_allclose(law.sum(axis=(3, 4)), 1)
    parts = np.random.default_rng(0).random(read.shape)
    some, rest = (
        transition(problems, 1, CARE, true, part)
        for part in (parts * read, (1 - parts) * read)
    )
    np.testing.assert_allclose(some + rest, law, atol=1e-15)
    of_some = (parts * read).sum(axis=1)[:, None, None]
    np.testing.assert_allclose(
        some.sum(axis=(3, 4)), np.broadcast_to(of_some, (5, 2, 10))
    )


@BY_OPERATION
def test_the_policy_follows_its_law(source):
    """From every state, right or wrong, reachable or not."""
    draws, item = 4_000, 1
    problems = problems_of(source, 2, seed=3)
    true = problems.true_results()
    law = transition(problems, item, CARE, true, read_law(problems, item, CARE))
    origin, result = np.divmod(np.arange(20).repeat(draws), 10)
    shape = (2, 20 * draws)
    state = State(np.broadcast_to(result, shape), np.broadcast_to(origin, shape))
    rng = np.random.default_rng(1)
    after = read_cell(problems, item, state, CARE, rng, true).state
    for row in range(2):
        for start in range(20):
            of = slice(start * draws, (start + 1) * draws)
            cell = 10 * after.origin[row, of] + after.result[row, of]
            seen = np.bincount(cell, minlength=20)
            expected = law[row, start // 10, start % 10].ravel() * draws
            assert not seen[expected == 0].any()
            some = expected > 5
            observed, mean = (
                np.append(x[some], x[~some].sum() + 1e-9) for x in (seen, expected)
            )
            assert chisquare(observed, mean, sum_check=False).pvalue > 1e-5


@BY_OPERATION
def test_misreadings_are_uniform_over_the_other_values(source):
    draws = 60_000
    problems = problems_of(source, 1, seed=5)
    state = State(np.full((1, draws), source.start()), np.zeros((1, draws), int))
    rng = np.random.default_rng(2)
    true = problems.true_results()
    move = read_cell(problems, 0, state, CARE, rng, true)
    assert not move.repaired.any()
    shown, h = problems.item_values[0, 0], CARE.misread(problems)[0]
    for value in VALUES[source.kind]:
        p = 1 - h if value == shown else h / (len(VALUES[source.kind]) - 1)
        error = np.sqrt(p * (1 - p) / draws)
        assert abs(np.mean(move.read == value) - p) < 4 * error


def test_a_repair_puts_right_what_the_step_builds_on():
    source = dataclasses.replace(SOURCES[0], repair=(1.0, 0.0), check=(1.0, 0.0))
    problems = problems_of(source, 1)
    true = problems.true_results()
    wrong = (true[:, [1]] + np.arange(1, 10)) % 10
    for origin, put_right in ((0, True), (1, False)):
        state = State(wrong, np.full_like(wrong, origin))
        rng = np.random.default_rng(0)
        move = read_cell(problems, 1, state, Care(0.0), rng, true)
        assert (move.repaired == put_right).all()
        shown = problems.item_values[0, 1]
        right = move.state.result == true[:, [2]]
        assert (right == put_right).all()
        if not put_right:
            np.testing.assert_array_equal(move.state.result, (wrong + shown) % 10)
            assert (move.state.origin == origin).all()
        answer, checked = check_answer(problems, state, rng, true[:, 1])
        assert (checked == put_right).all()
        assert ((answer == true[:, [1]]) == put_right).all()


@BY_OPERATION
def test_solutions_are_right_as_often_as_predicted(source):
    copies = 12_000
    problems = problems_of(source, 3, seed=2)
    predicted = correct_probability(problems, CARE, problems.true_results())
    many = problems.take(np.repeat(np.arange(3), copies))
    solutions = solve(many, CARE, 0.0, np.random.default_rng(4))
    correct = solutions.correct() == 1
    row, place = solutions.rollout // copies, solutions.item
    for i in range(3):
        for item in range(problems.n_items[i] + 1):
            final = item == problems.n_items[i]
            at = (row == i) & (place == item)
            assert at.sum() == copies
            assert (solutions.action[at] == (FINAL if final else READ)).all()
            p = predicted[i, -1 if final else item]
            error = np.sqrt(p * (1 - p) / copies)
            assert abs(correct[at].mean() - p) < 4 * error


def test_right_results_fold_the_named_cells_in_order():
    for source in SOURCES:
        problems = problems_of(source, 30)
        true = problems.true_results()
        for row, n_items in enumerate(problems.n_items.tolist()):
            paths = Enumerated(problems, row, CARE)
            assert true[row, 1 : n_items + 1].tolist() == paths.right
            assert (true[row, n_items:] == paths.right[-1]).all()


def test_care_scales_every_error_up_to_one_half():
    source = dataclasses.replace(SOURCES[0], misread=0.1, slip=0.04)
    problems = dataclasses.replace(
        problems_of(source, 3), log_difficulty=np.log([0.5, 1.0, 8.0])
    )
    assert isinstance(problems, Problems)
    np.testing.assert_allclose(Care(2.0).misread(problems), [0.1, 0.2, 0.5])
    np.testing.assert_allclose(Care(2.0).slip(problems), [0.04, 0.08, 0.5])
    np.testing.assert_allclose(Care(1.0).slip(problems), [0.02, 0.04, 0.32])
    np.testing.assert_array_equal(Care(0.0).misread(problems), 0)
    careful = solve(problems, Care(0.0), 0.3, np.random.default_rng(0))
    assert (careful.correct() >= 0).all()


def test_difficulty_has_mean_one():
    problems = problems_of(SOURCES[0], 200_000, spread=0.7)
    difficulty = np.exp(problems.log_difficulty)
    error = np.sqrt(np.expm1(0.7**2) / len(problems))
    assert abs(difficulty.mean() - 1) < 4 * error
    np.testing.assert_array_equal(problems_of(SOURCES[0], spread=0.0).log_difficulty, 0)
