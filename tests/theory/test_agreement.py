"""F1 at one threshold and at all, AUROC, average precision: scikit-learn, loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from tests.judged_steps import picked_steps, random_steps
from theory.agreement import (
    JudgedSteps,
    auroc,
    average_precision,
    best_threshold,
    confusion,
    count_pairs,
    count_ranks,
    error_rates,
    f1_at,
    pair_plan,
    rank_plan,
    risk_at_coverage,
    risk_coverage_area,
    step_scores,
    sweep,
)


def counted(rows, source=None):
    """(judgements, scores) of the counted steps, by plain loops."""
    pairs = [
        (label == 1, score)
        for name, labels, scores, _ in zip(*rows, strict=True)
        for label, score in zip(labels, scores, strict=True)
        if label != 0 and source in (None, name)
    ]
    return [y for y, _ in pairs], [s for _, s in pairs]


def f1_score_of(y, predicted, positive):
    return f1_score(
        y,
        predicted,
        pos_label=positive,
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )


def sklearn_macro(y, s, threshold):
    predicted = [one >= threshold for one in s]
    classes = (f1_score_of(y, predicted, positive) for positive in (False, True))
    return sum(classes) / 2


def sklearn_micro(rows, threshold):
    """The benchmark's "micro-F1": macro-F1 of each source, weighted by its steps."""
    weighted, total = 0.0, 0
    for source in set(rows[0]):
        y, s = counted(rows, source)
        if y:
            weighted += len(y) * sklearn_macro(y, s, threshold)
            total += len(y)
    return weighted / total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [-9.0, 0.0, 0.4, 9.0])
def test_f1_at_a_threshold_is_scikit_learns(seed, threshold):
    rows = random_steps(np.random.default_rng(seed), levels=(None, 5)[seed % 2])
    steps = step_scores(*rows)
    y, s = counted(rows)
    predicted = [one >= threshold for one in s]
    found = f1_at(steps, threshold)
    assert found.micro_f1 == pytest.approx(sklearn_micro(rows, threshold), abs=1e-12)
    assert found.macro_f1_pooled == pytest.approx(sklearn_macro(y, s, threshold))
    for positive, value in ((True, found.f1_positive), (False, found.f1_negative)):
        expected = f1_score_of(y, predicted, positive)
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("sources", "labels", "scores", "expected"),
    [
        # A score equal to the threshold is positive, the next one below is not.
        ("a", [[1, -1]], [[0.5, np.nextafter(0.5, 0)]], 1),
        # The class that is not there has F1 0/0, which counts as 0.
        ("a", [[1, 1]], [[0.9, 0.8]], 0.5),
        # A source without counted steps is left out.
        ("ab", [[1, -1], [0, 0]], [[0.9, 0.1], [0, 1]], 1),
        # Weighted by steps: a has 3 steps, all right; b one wrong step, called right.
        ("ab", [[1, -1, 1], [-1]], [[0.9, 0.1, 0.8], [0.7]], 0.75),
    ],
)
def test_micro_f1_by_hand(sources, labels, scores, expected):
    steps = step_scores(sources, labels, scores, sources)
    assert f1_at(steps, 0.5).micro_f1 == pytest.approx(expected)
    rollouts_do_not_matter = JudgedSteps(steps.scores, steps.correct, steps.step_source)
    assert f1_at(rollouts_do_not_matter, 0.5) == f1_at(steps, 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_the_sweep_holds_every_threshold_of_a_naive_loop(seed):
    rows = random_steps(np.random.default_rng(seed), 10, (None, 6)[seed % 2])
    steps = step_scores(*rows)
    swept = sweep(steps)
    _, s = counted(rows)
    assert swept.thresholds[:-1].tolist() == sorted(set(s))
    assert swept.thresholds[-1] > max(s)
    assert np.isfinite(swept.thresholds[-1])
    for i, threshold in enumerate(swept.thresholds):
        expected = f1_at(steps, threshold)
        for name in expected._fields:
            value = getattr(swept.f1, name)[i]
            assert value == pytest.approx(getattr(expected, name), abs=1e-12)
        assert expected.micro_f1 == pytest.approx(
            sklearn_micro(rows, threshold), abs=1e-12
        )


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_no_threshold_at_all_beats_the_best_one(seed, levels):
    rng = np.random.default_rng(seed)
    steps = step_scores(*random_steps(rng, 12, levels))
    if not steps.n_steps:
        return
    best = best_threshold(steps)
    reached = f1_at(steps, best).micro_f1
    grid = np.concatenate([steps.scores, rng.uniform(-1, 2, 20)])
    values = [f1_at(steps, threshold).micro_f1 for threshold in grid]
    assert reached >= max(values) - 1e-12
    equal = grid[np.abs(np.array(values) - reached) < 1e-12]
    assert not np.isin(equal, steps.scores[steps.scores < best]).any()


def test_steps_keep_their_position_though_neutral_ones_are_left_out():
    steps = step_scores(["a"], [[0, 1, 0, -1]], [[0.1, 0.2, 0.3, 0.4]], ["x"])
    assert steps.position.tolist() == [1, 3]
    assert steps.scores.tolist() == [0.2, 0.4]
    assert steps.correct.tolist() == [True, False]


def test_labels_and_scores_of_different_number_are_refused():
    with pytest.raises(ValueError, match="differ in number"):
        step_scores(["a", "a"], [[1, -1], [1]], [[0.1], [0.2, 0.3]], ["x", "y"])


def test_taking_rollouts_takes_their_steps_and_no_others():
    rows = random_steps(np.random.default_rng(3))
    steps = step_scores(*rows)
    picked = [2, 7, 8, 31]
    expected = picked_steps(rows, picked)
    part = steps.take(np.array(picked))
    for name in ("scores", "correct", "rollout", "position", "keys"):
        assert np.array_equal(getattr(part, name), getattr(expected, name)), name
    names = [part.source_names[i] for i in part.source]
    assert names == [rows[0][i] for i in picked]


def test_a_sweep_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no counted steps"):
        sweep(step_scores(["a"], [[0]], [[0.5]], ["x"]))


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


def test_the_area_under_the_risk_coverage_curve_is_its_mean_over_orders_of_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = int(rng.integers(1, 7))
        sure, misjudged = rng.integers(0, 3, n) / 4, rng.random(n) < 0.4
        areas, risks = [], []
        for order in itertools.permutations(range(n)):
            if all(sure[a] >= sure[b] for a, b in itertools.pairwise(order)):
                risk = np.cumsum(misjudged[list(order)]) / np.arange(1, n + 1)
                risks.append(risk)
                areas.append(risk.mean())
        ranks = count_ranks(rank_plan(sure, misjudged), np.ones((n, 1)))
        assert risk_coverage_area(ranks)[0] == pytest.approx(np.mean(areas))
        curve = risk_at_coverage(ranks, np.arange(1, n + 1))
        assert curve == pytest.approx(np.mean(risks, axis=0))


def test_useless_confidence_has_the_share_misjudged_for_area():
    misjudged = np.array([True, False, False, True, False])
    ranks = count_ranks(rank_plan(np.ones(5), misjudged), np.ones((5, 1)))
    assert risk_coverage_area(ranks)[0] == pytest.approx(0.4)


def test_rates_are_misses_of_recall():
    rng = np.random.default_rng(3)
    y, z = rng.random((2, 200)) < 0.6
    counts = confusion(JudgedSteps(z * 1.0, y, np.zeros(200, int)), 0.5)
    wrong, missed = error_rates(counts)
    assert wrong[0] == pytest.approx(1 - recall_score(y, z, pos_label=False))
    assert missed[0] == pytest.approx(1 - recall_score(y, z))
    none = confusion(JudgedSteps(np.ones(1), np.ones(1, bool), np.zeros(1, int)), 0.5)
    assert np.isnan(error_rates(none)[0][0])


def test_a_source_without_steps_does_not_count_in_the_mean_of_sources():
    steps = step_scores(*random_steps(np.random.default_rng(1), 60))
    expected = [
        f1_score(steps.correct[of], steps.scores[of] >= 0, average="macro")
        for of in (steps.step_source == i for i in range(3))
    ]
    of_all = f1_at(steps, 0.0).source_mean_f1
    assert of_all == pytest.approx(np.mean(expected))
    two = steps.take(np.flatnonzero(steps.source != 1))
    assert f1_at(two, 0.0).source_mean_f1 == pytest.approx(np.mean(expected[::2]))
