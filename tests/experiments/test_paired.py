"""Intervals against scipy, Holm by hand, contrasts that must single out an arm."""

import numpy as np
import pytest
from scipy import stats

from experiments.store.paired import Contrast, compare
from experiments.store.results import Result
from theory.intervals import holm, paired_interval

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


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def cell(world, rule, keep, values):
    config = {"world": {"name": world}, "arm": {"rule": rule, "keep_ratio": keep}}
    return Result("x", config, 0, {"micro_f1": list(values)})


def test_contrasts_compare_in_every_world_that_has_both_arms():
    results = [
        cell("one", "bis", 0.1, A + 5),
        cell("one", "random", 0.1, A),
        cell("two", "bis", 0.1, A),
        cell("two", "random", 0.1, A + 1 + 0.1 * B),
        cell("three", "bis", 0.1, A),
    ]
    contrast = Contrast("c", {"rule": "bis"}, {"rule": "random"})
    found = compare(results, [contrast])
    assert [(c.world, c.verdict) for c in found] == [("one", "holds"), ("two", "fails")]
    assert found[0].interval.mean == pytest.approx(5)
    results.append(cell("one", "bis", 0.2, A))
    with pytest.raises(ValueError, match="fits 2 arms"):
        compare(results, [contrast])
