"""Contrasts against definitions, enumeration, and the law of the score simulated."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.corpora import as_table, corpora
from theory import scores
from theory.beta_binomial import posterior_fisher
from theory.contrast import (
    best_subset,
    contrast_counts,
    expected_contrast,
    one_step_auroc,
    pooled_efficiency,
    selection_efficiency,
    weighted_efficiency,
)
from theory.rollouts import Rollouts
from theory.selection import rule_key, select

A, B = 0.73, 0.30
N = 12
SUBSETS = {m: np.array(list(itertools.combinations(range(N), m))) for m in range(1, 13)}

measured = corpora(min_rollouts=1, min_steps=1, unmeasured=False)


def labelled(rng, rollouts, most=9, trials=8):
    """Dependent steps: a corpus, and truths that its labels mostly tell."""
    lengths = rng.integers(1, most, rollouts)
    ease = np.repeat(rng.beta(1, 0.6, rollouts), lengths)
    r = rng.beta(2 * ease + 0.05, 2 * (1 - ease) + 0.05)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    corpus = Rollouts(
        rng.binomial(trials, r),
        np.full(len(r), trials),
        offsets,
        np.arange(rollouts) % 3,
        ("a", "b", "c"),
    )
    return corpus, rng.random(len(r)) < np.where(r > 0.4, 0.9, 0.2)


def by_definition(labels, truths):
    y, z = np.asarray(labels, float), np.asarray(truths, float)
    u = y - y.mean()
    return u @ (z - z.mean()), u @ u


@given(corpora(min_rollouts=1, min_steps=1), st.randoms(use_true_random=False))
def test_counts_are_their_definition_over_measured_steps(rollouts, random):
    right = np.array([random.random() < 0.5 for _ in range(rollouts.n_steps)], bool)
    if not np.all(rollouts.n_measured):
        with pytest.raises(ValueError, match="no measured step"):
            contrast_counts(rollouts, right)
        return
    truths = iter(right)
    for (c, v), steps in zip(
        np.transpose(contrast_counts(rollouts, right)), as_table(rollouts), strict=True
    ):
        kept = [(k > 0, z) for (k, n), z in zip(steps, truths, strict=False) if n > 0]
        np.testing.assert_allclose(
            (c, v), by_definition(*np.transpose(kept)), atol=1e-12
        )


@given(measured, st.floats(0.1, 9), st.floats(0.1, 9), st.floats(0, 1))
def test_the_expected_contrast_is_the_mean_over_all_truths(rollouts, a, b, tau):
    contrast, variation = expected_contrast(rollouts, a, b, tau)
    means, _ = expected_contrast(rollouts, a, b, None)
    for i, steps in enumerate(as_table(rollouts)):
        labels = [k > 0 for k, _ in steps]
        posterior = [stats.beta(a + k, b + n - k) for k, n in steps]
        right = [law.sf(tau) for law in posterior]
        expected = 0.0
        for truths in itertools.product((0, 1), repeat=len(steps)):
            probability = np.prod(np.where(truths, right, 1 - np.array(right)))
            expected += probability * by_definition(labels, truths)[0]
        # Fixed point rounds each posterior at 2^-41.
        assert contrast[i] == pytest.approx(expected, abs=1e-11)
        mean_r = [law.mean() for law in posterior]
        c, v = by_definition(labels, mean_r)
        assert (means[i], variation[i]) == pytest.approx((c, v), abs=1e-11)


@given(measured)
def test_the_posterior_fisher_score_is_the_squared_ratio_times_the_mixture(rollouts):
    contrast, variation = expected_contrast(rollouts, A, B)
    mixed = variation > 0
    ratio = np.divide(contrast, variation, out=np.zeros(len(mixed)), where=mixed)
    fisher = scores.label_mixture(rollouts) * ratio**2
    np.testing.assert_allclose(posterior_fisher(rollouts, A, B), fisher, rtol=1e-12)


def test_the_score_has_its_law_whatever_steps_share():
    rng = np.random.default_rng(7)
    rollouts, right = labelled(rng, 7)
    runs, d, delta = 40_000, 3, np.array([1.5, 0.0, -0.5])
    weights = rng.normal(1, 0.5, 7)
    u = (rollouts.successes > 0) - np.repeat(
        rollouts.n_positive / rollouts.lengths, rollouts.lengths
    )
    u = u * np.repeat(weights, rollouts.lengths)
    own = right[:, None] * delta + rng.standard_normal((runs, rollouts.n_steps, d))
    t = np.einsum("s,rsd->rd", u, own)
    contrast, variation = contrast_counts(rollouts, right)
    mean, variance = delta * (weights @ contrast), weights**2 @ variation
    assert np.all(np.abs(t.mean(0) - mean) < 4.5 * np.sqrt(variance / runs))
    covariance = np.cov(t.T)
    # Variances of a sample's (co)variance: 2 and 1 variance^2 / runs.
    assert np.all(
        np.abs(covariance - variance * np.eye(d)) < 4.5 * variance * np.sqrt(2 / runs)
    )
    efficiency = selection_efficiency(contrast, variation, weights)
    assert mean @ mean / variance == pytest.approx(delta @ delta * efficiency)
    # A common mean, offsets of source and rollout, and ease: heavy tails, no change.
    shared = rng.standard_cauchy((7, d))[np.repeat(range(7), rollouts.lengths)]
    np.testing.assert_allclose(u @ (own[0] + 9.0 + shared), t[0], rtol=1e-9)


def brute_force(contrast, variation, size):
    """Largest signed efficiency of all subsets of a size."""
    c, v = contrast[SUBSETS[size]].sum(1), variation[SUBSETS[size]].sum(1)
    return np.max(np.sign(c) * c**2 / np.maximum(v, 1e-300))


@pytest.mark.parametrize("kind", ["counts", "any"])
def test_the_best_subset_is_the_best_of_all_subsets(kind):
    rng = np.random.default_rng(3)
    local = 0
    for _ in range(300):
        contrast, variation = contrast_counts(*labelled(rng, N))
        if kind == "any":
            variation = rng.exponential(size=N)
            contrast = variation * rng.normal(0.5, 0.5, N)
        every = {m: brute_force(contrast, variation, m) for m in SUBSETS}
        for size, best in every.items():
            rows, ratio = best_subset(contrast, variation, size)
            assert len(set(rows.tolist())) == size
            c, v = contrast[rows].sum(), variation[rows].sum()
            if best <= 1e-12:
                # Nothing to gain at this size: the largest sum, and no ratio.
                assert c == pytest.approx(np.sort(contrast)[-size:].sum(), abs=1e-12)
                assert ratio == pytest.approx(0, abs=1e-12)
                continue
            assert selection_efficiency(contrast[rows], variation[rows]) >= best * (
                1 - 1e-9
            )
            assert ratio == pytest.approx(c / v, rel=1e-12)
            # Best at its own ratio; nothing left out is worth more than what is kept.
            key = 2 * contrast - ratio * variation
            left = np.setdiff1d(np.arange(N), rows)
            assert size == N or key[rows].min() >= key[left].max() - 1e-9
            local += first_fixed_point(contrast, variation, size) < best * (1 - 1e-9)
        rows, ratio = best_subset(contrast, variation)
        assert selection_efficiency(contrast[rows], variation[rows]) == pytest.approx(
            max(*every.values(), 0.0), rel=1e-9
        )
        # All whose ratio is more than half of the subset's, and no others.
        gain = 2 * contrast - ratio * variation
        assert np.all(gain[rows] > -1e-9)
        assert np.all(np.delete(gain, rows) < 1e-9)
    # Dinkelbach's iteration alone would have stopped short of some of them.
    assert local > 50


def first_fixed_point(contrast, variation, size):
    """Efficiency where Dinkelbach's iteration from J of all rollouts ends."""
    ratio = contrast.sum() / max(variation.sum(), 1e-300)
    rows = np.arange(size)
    for _ in range(20):
        rows = np.argsort(ratio * variation - 2 * contrast, kind="stable")[:size]
        ratio = contrast[rows].sum() / max(variation[rows].sum(), 1e-300)
    return selection_efficiency(contrast[rows], variation[rows])


def test_a_subset_can_beat_all_data_and_weights_beat_every_subset():
    rng = np.random.default_rng(5)
    gains = []
    for _ in range(100):
        contrast, variation = contrast_counts(*labelled(rng, N))
        everything = selection_efficiency(contrast, variation)
        rows = best_subset(contrast, variation).rows
        best = selection_efficiency(contrast[rows], variation[rows])
        bound = weighted_efficiency(contrast, variation)
        assert contrast.sum() <= 0 or everything <= best * (1 + 1e-12)
        assert best <= bound * (1 + 1e-12)
        weights = np.where(variation > 0, contrast / np.maximum(variation, 1e-9), 5.0)
        attained = selection_efficiency(contrast, variation, weights)
        assert attained == pytest.approx(bound)
        some = selection_efficiency(contrast, variation, rng.normal(size=N))
        assert some <= bound * (1 + 1e-12)
        gains.append(best > everything * (1 + 1e-9))
    assert sum(gains) > 0
    # Pure rollouts are worth nothing and cost nothing.
    assert selection_efficiency([1.0, 0.0], [2.0, 0.0]) == 0.5
    assert best_subset([0.0, 0.0], [0.0, 0.0]) == (pytest.approx([]), 0.0)
    assert selection_efficiency([0.0], [0.0]) == 0.0


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_the_rule_keeps_the_best_expected_subset(keep):
    rng = np.random.default_rng(11)
    for _ in range(40):
        rollouts, _ = labelled(rng, N, trials=4)
        prior = scores.moment_prior(rollouts)
        contrast, variation = expected_contrast(rollouts, *prior)
        content = rng.integers(0, 2**63, N).astype(np.uint64)
        rows = select(rollouts, "contrast", keep, content, per_source=False).rows
        kept = selection_efficiency(contrast[rows], variation[rows])
        best = brute_force(contrast, variation, max(1, int(keep * N)))
        assert kept == pytest.approx(best, rel=1e-9)
        rows = np.flatnonzero(rule_key("contrast", rollouts) > 1e-12)
        kept = selection_efficiency(contrast[rows], variation[rows])
        best = max(brute_force(contrast, variation, m) for m in SUBSETS)
        assert kept == pytest.approx(best, rel=1e-9)


def test_the_rule_reads_counts_alone_to_the_last_bit():
    rng = np.random.default_rng(2)
    rollouts, _ = labelled(rng, 300, most=5, trials=3)
    shuffled = rng.permutation(300)
    moved = rollouts.take(shuffled)
    # Steps in another order within each rollout.
    place = np.concatenate(
        [rng.permutation(np.arange(*moved.offsets[i : i + 2])) for i in range(300)]
    )
    columns = moved.successes[place], moved.trials[place], moved.offsets
    moved = Rollouts(*columns, moved.source, moved.source_names)
    counts = [tuple(sorted(steps)) for steps in as_table(rollouts)]
    assert len(set(counts)) < 150
    for keep in (None, 0.02, 0.1, 0.5):
        key = rule_key("contrast", rollouts, keep_ratio=keep)
        again = rule_key("contrast", moved, keep_ratio=keep)
        np.testing.assert_array_equal(again, key[shuffled])
        assert len(set(zip(counts, key.tolist(), strict=True))) == len(set(counts))


def test_pooled_contrasts_are_the_student_s_own_score():
    rng = np.random.default_rng(4)
    rollouts, right = labelled(rng, 30)
    rollouts.trials[3] = rollouts.successes[3] = 0  # never sampled
    nuisance, shift = 0.7, 0.4
    use = rollouts.trials > 0
    u = np.where(
        use, (rollouts.successes > 0) - (rollouts.successes > 0)[use].mean(), 0
    )
    shared = np.repeat(np.eye(30), rollouts.lengths, axis=0)
    source = np.repeat(np.eye(3)[rollouts.source], rollouts.lengths, axis=0)
    noise = np.hstack([np.eye(len(u)), nuisance * shared, shift * source])
    expected = (u @ right) ** 2 / np.sum((u @ noise) ** 2)
    found = pooled_efficiency(rollouts, right, nuisance, shift)
    assert found == pytest.approx(expected)
    assert pooled_efficiency(rollouts, right) == pytest.approx(
        (u @ right) ** 2 / (u @ u)
    )
    pure = rollouts.take(np.flatnonzero(rollouts.n_positive == rollouts.n_measured))
    assert pooled_efficiency(pure, np.ones(pure.n_steps, bool)) == 0.0


@pytest.mark.parametrize("efficiency", [0.1, 1, 4, 16, 64, 1000])
@pytest.mark.parametrize(("dimension", "nuisance"), [(16, 0.0), (32, 0.5), (128, 1.0)])
def test_the_auroc_of_one_step_is_that_of_students_drawn(
    efficiency, dimension, nuisance
):
    rng = np.random.default_rng(dimension)
    students, pairs, signal = 4000, 200, 1.5
    w = rng.standard_normal((students, dimension))
    w[:, 0] += signal * np.sqrt(efficiency)
    # A right step less a wrong one, seen along the student.
    gap = signal * w[:, :1] + np.linalg.norm(w, axis=1)[:, None] * np.sqrt(
        2 * (1 + nuisance**2)
    ) * rng.standard_normal((students, pairs))
    aurocs = (gap > 0).mean(1)
    error = one_step_auroc(efficiency, signal, dimension, nuisance) - aurocs.mean()
    # Its cosine is a ratio of means: off by no more than this.
    assert abs(error) < 0.005 + 4.5 * aurocs.std() / np.sqrt(students)


def test_one_step_has_its_limits():
    chance = one_step_auroc([0, 5], [1.5, 0], 32, 0.5)
    np.testing.assert_array_equal(chance, 0.5)
    bayes = stats.norm.cdf(1.5 / np.sqrt(2 * 1.25))
    assert one_step_auroc(1e12, 1.5, 32, 0.5) == pytest.approx(bayes)
    # Half of the squared length is the truth's where signal^2 G = d.
    half = stats.norm.cdf(2 / np.sqrt(2 * 2) / np.sqrt(2))
    assert one_step_auroc(8, 2, 32, 1) == pytest.approx(half)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_subset([1.0], [1.0], 2), "size must be at most 1"),
        (lambda: best_subset([1.0], [1.0], 0), r"size must be an integer in \[1"),
        (lambda: best_subset([1.0], [0.0]), "contrast must be 0 where"),
        (lambda: selection_efficiency([1.0], [-1.0]), "variation must be in"),
        (lambda: selection_efficiency([np.nan], [1.0]), "contrast must be finite"),
        (lambda: selection_efficiency([1.0], [1.0], np.inf), "weights must be finite"),
        (lambda: weighted_efficiency([1.0], [1.0, 2.0]), r"must be \[n\]"),
        (lambda: weighted_efficiency(1.0, 1.0), r"must be \[n\]"),
        (lambda: one_step_auroc(-1, 1, 2, 0), "efficiency must be in"),
        (lambda: one_step_auroc(1, -1, 2, 0), "signal must be in"),
        (lambda: one_step_auroc(1, 1, 0, 0), "dimension must be"),
        (lambda: one_step_auroc(1, 1, 2, -1), "nuisance must be in"),
    ],
)
def test_bad_numbers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_corpora_are_named():
    corpus, right = labelled(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match="right must be boolean"):
        contrast_counts(corpus, right.astype(int))
    with pytest.raises(ValueError, match="shape"):
        contrast_counts(corpus, np.append(right, True))
    for name in ("nuisance", "source_shift"):
        with pytest.raises(ValueError, match=f"{name} must be in"):
            pooled_efficiency(corpus, right, **{name: -1.0})
    empty = corpus.take(np.array([], np.int64))
    with pytest.raises(ValueError, match="at least one measured step"):
        pooled_efficiency(empty, np.zeros(0, bool))
    with pytest.raises(ValueError, match="tau"):
        expected_contrast(corpus, A, B, 1.5)
