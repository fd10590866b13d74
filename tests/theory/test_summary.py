"""The statistics of Tables 1 and 8 against counts by hand."""

import numpy as np
import pytest

from theory.rollouts import Rollouts
from theory.scores import bis
from theory.summary import QUANTILES, by_source, summarise


def corpus():
    """Perfect, mixed with K = 2 and K = 3, all-negative, and partly never sampled."""
    steps = [[16, 16], [2, 3, 0], [0, 0], [8, 0]]
    trials = [[16, 16], [16, 16, 16], [16, 16], [16, 0]]
    return Rollouts(
        np.concatenate(steps),
        np.concatenate(trials),
        np.array([0, 2, 5, 7, 9]),
        np.array([1, 0, 1, 2]),
        ("a", "b", "c", "unused"),
    )


def test_one_positive_and_one_negative_step_make_a_rollout_mixed():
    counts = np.array([5, 0, 0, 0, 7, 0, 0, 1, 0])
    rollouts = Rollouts(
        counts, np.full(9, 16), np.array([0, 3, 5, 7, 9]), np.zeros(4, int), ("a",)
    )
    found = summarise(rollouts)
    assert found.mixed_share == 3 / 4
    assert found.all_negative_share == 1 / 4
    assert found.all_positive_share == 0


def test_every_statistic_is_the_count_it_names():
    found = summarise(corpus(), alpha=0.2)
    assert (found.rollouts, found.steps, found.unmeasured_steps) == (4, 9, 1)
    assert found.steps_per_rollout == 9 / 4
    assert found.error_step_ratio == 3 / 8
    assert found.mean_mc == pytest.approx((1 + 1 + 2 / 16 + 3 / 16 + 8 / 16) / 8)
    assert found.mixed_share == 1 / 4
    assert found.all_negative_share == 1 / 4
    assert found.all_positive_share == 2 / 4
    assert found.low_mc_positive_share == 1 / 5
    r = [1, (2 + 3) / 32, 1, 0.5]
    np.testing.assert_allclose(found.reliability_quantiles, np.quantile(r, QUANTILES))
    np.testing.assert_allclose(
        found.bis_quantiles, np.quantile(bis(corpus(), 0.2), QUANTILES)
    )


def test_rollouts_without_a_measured_step_enter_no_share():
    whole = corpus()
    with_empty = Rollouts(
        np.append(whole.successes, [0, 0]),
        np.append(whole.trials, [0, 0]),
        np.append(whole.offsets, 11),
        np.append(whole.source, 0),
        whole.source_names,
    )
    found, before = summarise(with_empty), summarise(whole)
    assert (found.rollouts, found.steps, found.unmeasured_steps) == (5, 11, 3)
    for name in ("mixed_share", "mean_mc", "error_step_ratio", "all_negative_share"):
        assert getattr(found, name) == getattr(before, name)
    with pytest.raises(ValueError, match="no measured step"):
        summarise(with_empty.take(np.array([4])))


def test_low_counts_say_nothing_of_binary_labels():
    binary = Rollouts(
        np.array([1, 0, 1, 2]),
        np.array([1, 1, 2, 2]),
        np.array([0, 2, 4]),
        np.array([0, 0]),
        ("a",),
    )
    assert summarise(binary).low_mc_positive_share is None
    both = Rollouts.concat([corpus(), binary])
    assert summarise(both).low_mc_positive_share == 1 / 5


def test_sources_without_rollouts_are_left_out():
    groups = by_source(corpus())
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "a": [1],
        "b": [0, 2],
        "c": [3],
    }
