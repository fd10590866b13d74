"""Intervals: SciPy, tables, coverage by simulation; Holm by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from theory.agreement import Confusion, combined_f1
from theory.intervals import (
    Estimate,
    Score,
    basic_interval,
    draw_weights,
    holm,
    mean_and_half_width,
    mean_over_seeds,
    paired_interval,
    percentile_interval,
    resampled_difference,
    t_half_width,
    tell_apart,
    weight_chunks,
)

RNG = np.random.default_rng(0)
A, B = RNG.normal(0.3, 1, 25), RNG.normal(0, 1, 25)


def test_interval_is_the_paired_t_test_s():
    found = paired_interval(A, B)
    test = stats.ttest_rel(A, B)
    low, high = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.mean, found.n) == (pytest.approx(np.mean(A - B)), 25)


def test_equal_arms_differ_by_nothing():
    assert paired_interval([1.0, 2.0], [1.0, 2.0]) == (0, 0, 0, 1.0, 2)
    with pytest.raises(ValueError, match="two pairs"):
        paired_interval([1.0], [2.0])


@pytest.mark.parametrize("n", [2, 3, 20])
def test_one_difference_in_all_pairs_shows_no_spread(n):
    """Its t statistic is x/0; on a coarse benchmark that is no certainty."""
    baseline = np.linspace(0.1, 0.7, n)
    found = paired_interval(baseline + 0.02, baseline)
    assert found == (pytest.approx(0.02), None, None, 1.0, n)
    seeds = mean_over_seeds([Score(d) for d in np.full(n, 0.02)])
    assert (seeds.half_width, seeds.p) == (None, None)


def test_a_mean_of_one_has_no_interval():
    assert mean_and_half_width([0.4]) == (0.4, pytest.approx(np.nan, nan_ok=True))
    assert np.isnan(t_half_width([0.1, 0.2], 1)).all()
    # t of 19 degrees at .975 from a table.
    assert t_half_width([1.0, 2.0], 20) == pytest.approx([2.093, 4.186], rel=1e-4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """Closure: the largest Bonferroni p of all the sets that hold the hypothesis."""
    n = len(p_values)
    expected = [0.0] * n
    for members in range(1, 2**n):
        inside = [i for i in range(n) if members >> i & 1]
        joint = min(1.0, len(inside) * min(p_values[i] for i in inside))
        for i in inside:
            expected[i] = max(expected[i], joint)
    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_every_source_keeps_its_number_of_rollouts():
    source = np.array([2, 0, 0, 2, 2, 0, 3])
    weights = draw_weights(source, 500, np.random.default_rng(0))
    for i, size in ((0, 3), (2, 3), (3, 1)):
        assert (weights[:, source == i].sum(axis=1) == size).all()
    # Multinomial: mean 1, variance 1 - 1/n, and only whole numbers.
    assert weights[:, 1].mean() == pytest.approx(1, abs=0.12)
    assert weights[:, 1].var() == pytest.approx(2 / 3, abs=0.12)
    assert (weights == np.floor(weights)).all()


def test_the_draws_do_not_depend_on_how_many_are_asked_for_at_a_time():
    source = np.arange(6000) % 3
    whole = draw_weights(source, 60, np.random.default_rng(4))
    parts = list(weight_chunks(source, 60, np.random.default_rng(4), width=20_000))
    assert len(parts) > 3
    assert np.array_equal(np.concatenate(parts), whole)


def test_an_interval_needs_half_of_its_replicates():
    values = np.append(np.arange(100.0), np.full(99, np.nan))
    assert percentile_interval(values) == pytest.approx(
        np.quantile(np.arange(100.0), [0.025, 0.975])
    )
    assert percentile_interval(np.append(values, [np.nan] * 2)) is None
    assert percentile_interval(np.array([])) is None


def test_the_basic_interval_covers_micro_f1_where_the_percentile_one_does_not():
    """Five sources of ten solutions of unequal ease; the truth is that of 300,000."""
    rng, sources, each = np.random.default_rng(1), 5, 10

    def drawn(solutions):
        """Counts of a solution of six steps by judgement and prediction, ``[4, n]``."""
        ease = np.sqrt(0.5) * rng.standard_normal((solutions, 1))
        right = rng.random((solutions, 6)) < stats.norm.cdf(1.0 + ease)
        high = rng.normal(size=(solutions, 6)) + 1.5 * right + ease > 0.5
        cells = right & high, ~right & high, right & ~high, ~right & ~high
        return np.stack([of.sum(axis=1) for of in cells]).astype(float)

    def micro_f1(counts_4xRxSxE):
        by_source = np.moveaxis(counts_4xRxSxE.sum(axis=-1), -1, 0)
        return combined_f1(Confusion(*of) for of in by_source).micro_f1

    truth = micro_f1(drawn(300_000)[:, None, None])[0]
    stratum, tries, basic, percentile = np.repeat(np.arange(sources), each), 600, 0, 0
    for _ in range(tries):
        data = drawn(sources * each)[:, None]
        split = (4, -1, sources, each)
        weighted = data * draw_weights(stratum, 300, rng)
        replicates = micro_f1(weighted.reshape(split))
        found = basic_interval(micro_f1(data.reshape(split))[0], replicates)
        basic += found is not None and found.low <= truth <= found.high
        found = percentile_interval(replicates)
        percentile += found is not None and found.low <= truth <= found.high
    # Standard errors are .011 and .014.
    assert basic / tries > 0.91
    assert percentile / tries < 0.9


def test_the_basic_interval_is_mirrored_and_stays_in_its_range():
    values = np.append(np.linspace(0.5, 0.9, 401), np.nan)
    # Of the quantiles .51 and .89.
    assert basic_interval(0.6, values) == pytest.approx((0.31, 0.69))
    assert basic_interval(0.9, values) == pytest.approx((0.91, 1))
    assert basic_interval(0.4, values) == pytest.approx((0, 0.29))
    assert basic_interval(0.6, np.full(4, np.nan)) is None


def scores(values, replicates=None):
    rows = replicates if replicates is not None else [()] * len(values)
    return [Score(v, tuple(r)) for v, r in zip(values, rows, strict=True)]


def half_width(estimate):
    assert estimate.half_width is not None
    return estimate.half_width


def test_seeds_alone_give_students_interval():
    # Standard deviation .01; t of 2 degrees at .975 from a table: 4.302653.
    estimate = mean_over_seeds(scores([0.50, 0.51, 0.52]))
    assert estimate.mean == pytest.approx(0.51)
    assert estimate.half_width == pytest.approx(4.302653 * 0.01 / math.sqrt(3), 1e-6)
    assert (estimate.seeds, estimate.covers) == (3, "seeds")
    assert estimate.low == pytest.approx(0.51 - half_width(estimate))
    assert estimate.high == pytest.approx(0.51 + half_width(estimate))


def test_rollouts_alone_give_the_normal_interval():
    estimate = mean_over_seeds(scores([0.5], [[0.48, 0.50, 0.52]]))
    assert estimate.half_width == pytest.approx(1.959964 * 0.02, 1e-6)
    assert estimate.covers == "rollouts"


def test_the_squares_of_both_half_widths_add():
    shift = np.array([-0.03, 0.0, 0.03])
    estimate = mean_over_seeds(scores([0.50, 0.52], [0.50 + shift, 0.52 + shift]))
    # t of 1 degree at .975 from a table: 12.7062.
    expected = math.hypot(12.7062 * math.sqrt(0.0002 / 2), 1.959964 * 0.03)
    assert estimate.half_width == pytest.approx(expected, 1e-5)
    assert estimate.covers == "seeds and rollouts"


def test_the_rollout_part_is_of_the_mean_over_seeds():
    # Opposite in the two seeds, the rollouts' part of the mean vanishes.
    shift = np.array([-0.03, 0.0, 0.03])
    cancels = mean_over_seeds(scores([0.50, 0.52], [0.50 + shift, 0.52 - shift]))
    assert cancels.half_width == pytest.approx(
        mean_over_seeds(scores([0.50, 0.52])).half_width
    )


def test_replicates_that_are_missing_or_undefined_are_not_made_up():
    half = (0.4, 0.6)
    one_without = [Score(0.5, half), Score(0.6)]
    assert mean_over_seeds(one_without).covers == "seeds"
    gaps = (math.nan, math.nan, 0.6, math.nan, 0.4)
    undefined = [Score(0.5, gaps), Score(0.6, gaps)]
    assert mean_over_seeds(undefined).covers == "seeds"
    mostly = Score(0.5, (math.nan, 0.6, 0.4))
    assert mean_over_seeds([mostly]).covers == "rollouts"
    assert mean_over_seeds([Score(0.5)]) == Estimate(0.5, None, 1, "nothing")
    with pytest.raises(ValueError, match="at least one"):
        mean_over_seeds([])


def test_the_p_value_is_where_the_interval_reaches_zero():
    both = scores([0.02, 0.05, 0.06], np.outer([1, 2, 3], [-0.01, 0.0, 0.02]))
    found = mean_over_seeds(both)
    assert found.p is not None
    assert 0.05 < found.p < 0.9
    at = mean_over_seeds(both, level=1 - found.p)
    assert at.half_width == pytest.approx(found.mean)
    # Seeds alone: the t test.
    alone = mean_over_seeds(scores([0.02, 0.05, 0.06])).p
    _, expected = stats.ttest_1samp([0.02, 0.05, 0.06], 0)
    assert alone == pytest.approx(expected)
    assert mean_over_seeds(scores([0.1, -0.1])).p == 1
    assert mean_over_seeds(scores([0.1])).p is None


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_equal_values_do_not_show_how_seeds_vary(seeds):
    """A t interval would have no width, and call any difference certain."""
    nothing = mean_over_seeds(scores([0.05] * seeds))
    assert nothing == Estimate(nothing.mean, None, seeds, "nothing", None)
    assert not nothing.excludes_zero
    narrow = [0.049, 0.05, 0.051]
    rollouts = mean_over_seeds(scores([0.05] * seeds, [narrow] * seeds))
    assert rollouts.half_width == pytest.approx(1.959964 * 0.001, 1e-6)
    assert (rollouts.covers, rollouts.p) == ("rollouts", None)
    # What differs beyond rounding counts.
    assert mean_over_seeds(scores([0.05, 0.05 + 1e-6])).p is not None


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(
    ("sigma_seed", "sigma_rollout"), [(1, 0), (1, 0.25), (1, 1), (0.1, 1)]
)
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(
    sigma_seed, sigma_rollout, seeds
):
    """With Satterthwaite's degrees it was .87 for two seeds in the second case."""
    rng = np.random.default_rng(4)
    hits, tries = 0, 600
    for _ in range(tries):
        benchmark = sigma_rollout * rng.standard_normal()
        values = benchmark + sigma_seed * rng.standard_normal(seeds)
        resampled = sigma_rollout * rng.standard_normal(200)
        found = mean_over_seeds(scores(values, values[:, None] + resampled))
        hits += abs(found.mean) <= half_width(found)
    assert 0.93 < hits / tries < 0.995


def test_means_are_told_apart_after_holm_s_correction():
    rng = np.random.default_rng(1)
    means = np.array([0.0, 0.3, -0.3, 0.9, -0.9])
    values = means[:, None] + rng.normal(0, 1, (5, 30))
    found = tell_apart(list(values), level=0.9)
    tests: list[Any] = [stats.ttest_1samp(row, 0) for row in values]
    adjusted = holm([test.pvalue for test in tests])
    assert [v.adjusted_p for v in found] == pytest.approx(adjusted)
    assert [v.sign for v in found] == [
        int(np.sign(row.mean())) * (p < 0.1)
        for row, p in zip(values, adjusted, strict=True)
    ]
    assert {v.sign for v in found} == {-1, 0, 1}
    low, high = tests[1].confidence_interval(0.9)
    assert found[1].interval[1:3] == pytest.approx((low, high))


def test_a_resampled_difference_reaches_zero_at_its_p_value():
    replicates = np.random.default_rng(0).normal(0.3, 0.2, 400)
    interval, p = resampled_difference(0.25, replicates)
    at_p, _ = resampled_difference(0.25, replicates, level=1 - p)
    assert interval is not None
    assert at_p is not None
    assert at_p.low == pytest.approx(0, abs=1e-9)
    # The data's own difference is the centre, wherever the replicates lie.
    assert sum(interval) == pytest.approx(0.5)
    s = replicates.std(ddof=1)
    assert interval.high == pytest.approx(0.25 + stats.norm.isf(0.025) * s)


def test_a_difference_that_never_varies_is_nothing_or_not_known():
    assert resampled_difference(0.0, np.zeros(9)) == ((0, 0), 1)
    for values in (np.full(9, 0.1), np.full(9, np.nan), np.array([0.1])):
        assert resampled_difference(0.1, values) == (None, 1)
    assert resampled_difference(0.0, np.full(9, 0.1)) == (None, 1)
