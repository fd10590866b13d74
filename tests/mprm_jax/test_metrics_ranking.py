"""AUROC whole, in groups and weighted; average precision; position and priors."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from mprm_jax.metrics import step_scores
from mprm_jax.metrics_ranking import (
    auroc,
    average_precision,
    count_pairs,
    fitted_auroc,
    pair_plan,
    position_auroc,
    prior_auroc,
    within_position_auroc,
)
from tests.mprm_jax.test_metrics import random_steps


def enumerated(scores, correct, group):
    """(wins, pairs) by looking at every pair of one group."""
    wins = pairs = 0.0
    for i, j in itertools.product(range(len(scores)), repeat=2):
        if correct[i] and not correct[j] and group[i] == group[j]:
            pairs += 1
            wins += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    return wins, pairs


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("seed", range(4))
def test_auroc_is_scikit_learns_ties_half(seed, levels):
    rng = np.random.default_rng(seed)
    correct = rng.random(60) < 0.7
    scores = rng.integers(0, levels, 60) * 1.0 if levels else rng.normal(size=60)
    assert auroc(scores, correct) == pytest.approx(roc_auc_score(correct, scores))


def test_one_class_has_no_auroc():
    assert auroc(np.array([0.1, 0.2]), np.array([True, True])) is None
    assert auroc(np.array([0.1]), np.array([False])) is None
    assert auroc(np.array([]), np.array([], bool)) is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6))
def test_pairs_in_groups_are_those_of_an_enumeration(seed, levels, groups):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    scores = rng.integers(0, levels, n) * 1.0
    correct, group = rng.random(n) < 0.5, rng.integers(0, groups, n)
    wins, pairs = enumerated(scores, correct, group)
    found = auroc(scores, correct, group)
    assert found == (pytest.approx(wins / pairs) if pairs else None)


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_counts_a_unit_as_often(seed):
    rng = np.random.default_rng(seed)
    n, units = 50, 12
    scores, correct = rng.integers(0, 6, n) * 1.0, rng.random(n) < 0.6
    group, unit = rng.integers(0, 4, n), rng.integers(0, units, n)
    weights = rng.integers(0, 4, (units, 3))
    plan = pair_plan(scores, correct, group, unit)
    wins, pairs = count_pairs(plan, weights * 1.0)
    for w in range(3):
        repeated = np.repeat(np.arange(n), weights[unit, w])
        for g, name in enumerate(plan.groups):
            rows = repeated[group[repeated] == name]
            expected = enumerated(scores[rows], correct[rows], group[rows])
            assert (wins[g, w], pairs[g, w]) == expected


def test_groups_without_pairs_are_left_out_of_the_plan():
    plan = pair_plan(
        np.arange(5.0), np.array([1, 1, 0, 0, 1], bool), np.array([0, 0, 1, 2, 2])
    )
    assert plan.groups.tolist() == [2]
    nothing = pair_plan(np.arange(2.0), np.array([True, True]))
    wins, pairs = count_pairs(nothing, np.ones((2, 3)))
    assert wins.shape == pairs.shape == (0, 3)


@pytest.mark.parametrize("seed", range(3))
def test_within_position_auroc_compares_equal_positions_only(seed):
    steps = step_scores(*random_steps(np.random.default_rng(seed), 30, 7))
    wins, pairs = enumerated(steps.scores, steps.correct, steps.position)
    assert within_position_auroc(steps) == pytest.approx(wins / pairs)


def test_a_score_of_position_alone_is_worth_nothing_within_positions():
    rng = np.random.default_rng(0)
    labels = [
        np.where(rng.random(6) < np.linspace(0.95, 0.3, 6), 1, -1) for _ in "x" * 300
    ]
    scores = [[-float(j) for j in range(6)] for _ in labels]
    n = len(labels)
    ids = [str(i) for i in range(n)]
    steps = step_scores(["a"] * n, [of.tolist() for of in labels], scores, ids)
    assert within_position_auroc(steps) == 0.5
    plain = auroc(steps.scores, steps.correct)
    assert plain is not None
    assert plain > 0.75
    # The fit finds what this score says: P(correct) falls with the position.
    assert position_auroc(steps) == pytest.approx(plain, abs=0.01)


def test_a_fit_of_nothing_scores_a_half_on_average():
    # Scored across folds it would be below a half; on its own data, above.
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = [rng.choice([1, 1, 1, -1], 5).tolist() for _ in range(60)]
        ids = [f"{seed} {i}" for i in range(60)]
        steps = step_scores(["a"] * 60, labels, labels, ids)
        values.append(position_auroc(steps))
    assert np.mean(values) == pytest.approx(0.5, abs=3 * np.std(values) / 60**0.5)


def test_the_fit_is_the_share_of_correct_steps_in_the_other_folds():
    rng = np.random.default_rng(5)
    steps = step_scores(*random_steps(rng, 80))
    fold = (steps.keys % np.uint64(5)).astype(int)[steps.rollout]
    score = []
    for f, c in zip(fold, steps.position, strict=True):
        others = steps.correct[fold != f]
        cell = steps.correct[(fold != f) & (steps.position == c)]
        score.append((cell.sum() + others.mean()) / (len(cell) + 1))
    wins, pairs = enumerated(score, steps.correct, fold)
    assert fitted_auroc(steps, steps.position) == pytest.approx(wins / pairs)


def test_a_prior_is_judged_in_its_better_direction():
    rng = np.random.default_rng(1)
    n = 400
    slip = rng.random(n)
    labels = [[1 if rng.random() > h else -1 for _ in range(4)] for h in slip]
    steps = step_scores(["a"] * n, labels, labels, [str(i) for i in range(n)])
    column = slip[steps.rollout]
    found = prior_auroc(steps, column)
    assert found.higher_is == "wrong"
    assert found.auroc == pytest.approx(roc_auc_score(steps.correct, -column))
    assert found.with_position == pytest.approx(found.auroc, abs=0.02)
    assert prior_auroc(steps, -column).higher_is == "correct"
    assert prior_auroc(steps, -column).auroc == pytest.approx(found.auroc)


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_scikit_learns(seed, levels):
    rng = np.random.default_rng(seed)
    correct = rng.random(50) < 0.4
    scores = rng.integers(0, levels, 50) * 1.0 if levels else rng.normal(size=50)
    expected = average_precision_score(correct, scores)
    assert average_precision(scores, correct) == pytest.approx(expected)


def test_average_precision_needs_a_correct_step():
    assert average_precision(np.array([0.3]), np.array([False])) is None
