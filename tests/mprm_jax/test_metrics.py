"""F1 at a threshold and at all, splits, first errors: scikit-learn and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from mprm_jax.metrics import (
    best_threshold,
    f1_at,
    first_error_f1,
    held_out,
    macro_f1_per_source,
    step_scores,
    sweep,
)

SOURCES = ("a", "b", "c")


def random_steps(rng, rollouts=40, levels=None, sources=SOURCES):
    """Rollouts of three sources with neutral steps; few score levels make ties."""
    lengths = rng.integers(0, 7, rollouts)
    labels = [rng.choice([1, 1, -1, 0], n).tolist() for n in lengths]
    scores = [
        (rng.integers(0, levels, n) / levels if levels else rng.normal(size=n)).tolist()
        for n in lengths
    ]
    names = [sources[i] for i in rng.integers(0, len(sources), rollouts)]
    return names, labels, scores, [f"id {i}" for i in range(rollouts)]


def picked_steps(rows, picked):
    """The columns of some of the rollouts, in the given order."""
    names, labels, scores, ids = ([column[i] for i in picked] for column in rows)
    return step_scores(names, labels, scores, ids)


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
    for source, value in macro_f1_per_source(steps, threshold).items():
        expected = sklearn_macro(*counted(rows, source), threshold)
        assert value == pytest.approx(expected, abs=1e-12)


def test_the_benchmarks_micro_f1_is_weighted_by_steps_and_not_pooled():
    # Source a: 3 steps, all right (macro 1). Source b: 1 step, wrong, called right (0).
    steps = step_scores(
        ["a", "b"], [[1, -1, 1], [-1]], [[0.9, 0.1, 0.8], [0.7]], ["x", "y"]
    )
    found = f1_at(steps, 0.5)
    assert found.micro_f1 == pytest.approx(0.75)
    # Pooled: TP 2, FP 1, TN 1, FN 0.
    assert found.f1_positive == pytest.approx(4 / 5)
    assert found.f1_negative == pytest.approx(2 / 3)
    assert found.macro_f1_pooled == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_a_score_equal_to_the_threshold_is_positive():
    steps = step_scores(["a"], [[1, -1]], [[0.5, np.nextafter(0.5, 0)]], ["x"])
    assert f1_at(steps, 0.5).micro_f1 == 1


def test_a_source_of_one_class_scores_a_half_at_best():
    # Its other class has F1 0/0, which counts as 0.
    steps = step_scores(["a"], [[1, 1]], [[0.9, 0.8]], ["x"])
    assert f1_at(steps, 0.5).micro_f1 == pytest.approx(0.5)


def test_sources_without_counted_steps_are_left_out():
    steps = step_scores(["a", "b"], [[1, -1], [0, 0]], [[0.9, 0.1], [0, 1]], ["x", "y"])
    assert macro_f1_per_source(steps, 0.5) == {"a": 1.0}
    assert f1_at(steps, 0.5).micro_f1 == 1


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


def test_the_held_out_split_depends_on_ids_alone():
    n = 4000
    ids = [f"solution {i}" for i in range(n)]
    steps = step_scores(["a"] * n, [[1]] * n, [[0.5]] * n, ids)
    out = held_out(steps)
    assert abs(out.mean() - 0.2) < 0.03
    order = np.random.default_rng(0).permutation(n)
    other = step_scores(["b"] * n, [[-1]] * n, [[7.0]] * n, [ids[i] for i in order])
    assert np.array_equal(held_out(other), out[order])


def plain_first_error(rows, threshold):
    """ProcessBench's F1 with loops."""
    hits = {True: [], False: []}
    for _, labels, scores, _ in zip(*rows, strict=True):
        pairs = [
            (j, a, b) for j, (a, b) in enumerate(zip(labels, scores, strict=True)) if a
        ]
        if pairs:
            truth = next((j for j, a, _ in pairs if a == -1), -1)
            found = next((j for j, _, b in pairs if b < threshold), -1)
            hits[truth >= 0].append(truth == found)
    one, other = (np.mean(hits[key]) for key in (True, False))
    return 2 * one * other / (one + other)


@pytest.mark.parametrize("seed", range(4))
def test_first_error_f1_is_that_of_a_plain_loop(seed):
    rows = random_steps(np.random.default_rng(seed), 200)
    found = first_error_f1(step_scores(*rows), 0.0)
    assert found.f1 == pytest.approx(plain_first_error(rows, 0.0))


def test_first_errors_by_hand():
    labels = [[1, -1, -1], [1, 0, -1], [1, 1], [1, 0], [0, 0]]
    scores = [[0.9, 0.1, 0.9], [0.2, 0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0, 0]]
    # Found at 2; false alarm at 1; passed; passed (the low step is neutral); no judge.
    found = first_error_f1(
        step_scores(["a"] * 5, labels, scores, list("vwxyz")), threshold=0.5
    )
    assert found == (pytest.approx(2 / 3), 0.5, 1.0)
    none = first_error_f1(step_scores(["a"], [[1]], [[0.9]], ["x"]), 0.5)
    assert none == (None, None, 1.0)


def test_a_sweep_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no counted steps"):
        sweep(step_scores(["a"], [[0]], [[0.5]], ["x"]))
