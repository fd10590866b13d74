"""Where wrong labels stand: rates stay, places do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from theory.placement import (
    blind_noise,
    noise_by_position,
    noise_placed_by_position,
)

FLAGS = st.integers(0, 40).flatmap(
    lambda n: st.tuples(arrays(bool, n), arrays(bool, n))
)


@given(FLAGS, st.floats(0, 1), st.integers(0, 2**32))
def test_both_rates_of_blind_noise_are_those_of_the_labels(flags, share, seed):
    label, truth = flags
    before = label.copy()
    moved = blind_noise(label, truth, np.random.default_rng(seed), share)
    assert moved.dtype == label.dtype
    assert np.array_equal(label, before)
    for kind in (truth, ~truth):
        assert moved[kind].sum() == label[kind].sum()
    changed = (moved != label)[truth].sum()
    assert changed <= round(share * truth.sum())


def test_blind_noise_forgets_position_and_a_share_of_it_does_so_in_part():
    rng = np.random.default_rng(0)
    position = rng.random(60_000)
    truth = rng.random(60_000) < 0.4
    # A wrong step is labelled right with probability 1 - t, a right one wrong with t/5.
    label = np.where(
        truth, rng.random(60_000) > position / 5, rng.random(60_000) > position
    )
    follows = noise_by_position(label, truth, position)
    # Pr(t < t') of densities 2 (1 - t) and 2 t'.
    assert follows.position_auroc == pytest.approx(5 / 6, abs=0.01)
    assert follows.positive_if_wrong_B == pytest.approx([5 / 6, 1 / 2, 1 / 6], abs=0.02)
    assert follows.negative_if_right_B == pytest.approx(
        [1 / 30, 1 / 10, 1 / 6], abs=0.02
    )
    blind = noise_by_position(blind_noise(label, truth, rng), truth, position)
    assert blind.position_auroc == pytest.approx(0.5, abs=0.01)
    assert blind.positive_if_wrong_B == pytest.approx([1 / 2] * 3, abs=0.02)
    half = noise_by_position(blind_noise(label, truth, rng, 0.5), truth, position)
    # Of each class of labels one half keeps its law: the mean of four AUROCs.
    assert half.position_auroc == pytest.approx(
        (5 / 6 + 1 / 2 + 2 * 2 / 3) / 4, abs=0.01
    )


def test_steps_that_are_not_there_have_no_rate():
    found = noise_by_position([1, 1], [True, True], [0.0, 1.0], 2)
    assert np.isnan(found.positive_if_wrong_B).all()
    assert np.isnan(found.position_auroc)
    assert found.negative_if_right_B.tolist() == [0.0, 0.0]
    assert found.right_B.tolist() == [1, 1]
    with pytest.raises(ValueError, match="position"):
        noise_by_position([1], [True], [1.5])
    with pytest.raises(ValueError, match="share"):
        blind_noise([1], [True], np.random.default_rng(0), 1.5)
    with pytest.raises(ValueError, match="bins"):
        noise_by_position([1], [True], [0.5], 0)


@given(FLAGS, st.floats(0, 1), st.integers(0, 2**32))
def test_both_rates_of_placed_noise_are_those_of_the_labels(flags, share, seed):
    label, truth = flags
    rng = np.random.default_rng(seed)
    position = rng.random(len(label))
    moved = noise_placed_by_position(label, truth, position, rng, share)
    assert moved.dtype == label.dtype
    for kind in (truth, ~truth):
        assert moved[kind].sum() == label[kind].sum()
    found = noise_by_position(moved, truth, position).position_auroc
    if share == 1 and not np.isnan(found):
        assert found == 1


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("positive", [0.2, 0.7])
def test_placed_noise_follows_position_as_far_as_its_share(share, positive):
    rng = np.random.default_rng(0)
    n = 20_000
    label, position = rng.random(n) < positive, rng.random(n)
    moved = noise_placed_by_position(label, np.zeros(n, bool), position, rng, share)
    found = noise_by_position(moved, np.zeros(n, bool), position).position_auroc
    # Of an AUROC of 4,000 and 16,000 values the standard error is at most .005.
    assert found == pytest.approx((1 + share) / 2, abs=0.02)
