"""BIS as a covariance and as a family of lines, against direct counts and fractions."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import score_identities as identities
from theory import scores
from theory.rollouts import Rollouts

STEP = st.integers(1, 20).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CORPORA = st.lists(st.lists(STEP, min_size=1, max_size=7), min_size=1, max_size=8)
# Shares and reliabilities as counts make them.
SHARE = st.integers(1, 9).flatmap(
    lambda n: st.integers(0, n).map(lambda k: Fraction(k, n))
)
RELIABILITY = st.integers(1, 9).flatmap(
    lambda n: st.integers(1, 16 * n).map(lambda k: Fraction(k, 16 * n))
)
LINES = st.lists(st.tuples(SHARE, RELIABILITY), min_size=0, max_size=9)


def corpus(steps):
    k, n = np.array([step for rollout in steps for step in rollout]).T
    offsets = np.cumsum([0] + [len(rollout) for rollout in steps])
    return Rollouts(
        k, n, offsets.astype(np.int64), np.zeros(len(steps), np.int64), ("all",)
    )


@settings(max_examples=40)
@given(CORPORA)
def test_bis_at_alpha_0_is_the_covariance_of_hard_label_and_score(steps):
    rollouts = corpus(steps)
    wanted = []
    for rollout in steps:
        s = np.array([k / n for k, n in rollout])
        wanted.append(np.cov(s > 0, s, ddof=0)[0, 1])
    covariance = identities.bis_covariance(rollouts)
    np.testing.assert_allclose(covariance, wanted, atol=1e-15)
    np.testing.assert_allclose(scores.bis(rollouts, alpha=0), covariance, atol=1e-15)
    assert np.all((covariance >= 0) & (covariance <= 0.25))


@settings(max_examples=40)
@given(CORPORA)
def test_score_variance_splits_by_the_hard_label(steps):
    rollouts = corpus(steps)
    between, within = identities.mc_variance_parts(rollouts)
    for i, rollout in enumerate(steps):
        s = np.array([k / n for k, n in rollout])
        positive = s[s > 0]
        assert between[i] == pytest.approx(
            np.var(np.where(s > 0, np.mean(positive) if len(positive) else 0, 0)),
            abs=1e-15,
        )
        spread = np.var(positive) * len(positive) / len(s) if len(positive) else 0
        assert within[i] == pytest.approx(spread, abs=1e-15)
    assert np.all(within >= 0)
    np.testing.assert_allclose(
        between + within, scores.mc_variance(rollouts), atol=1e-15
    )


def test_the_paper_worked_examples_without_alpha():
    examples = [[14, 14, 15, 14, 0, 0, 0, 0, 0, 0], [9, 11, 11, 1, 0, 0, 0, 0]]
    rollouts = corpus([[(k, 16) for k in example] for example in examples])
    np.testing.assert_allclose(
        identities.bis_covariance(rollouts),
        [0.25828125 - 0.05 * 0.890625, 0.15 - 0.05 * 0.5],
        rtol=1e-12,
    )


def test_steps_never_sampled_do_not_count():
    steps = [(8, 16), (0, 16), (0, 0)]
    assert identities.bis_covariance(corpus([steps])) == pytest.approx(0.125)
    assert identities.bis_covariance(corpus([steps[:2]])) == pytest.approx(0.125)
    with pytest.raises(ValueError, match="rollout 0 has no measured step"):
        identities.bis_covariance(corpus([[(0, 0)]]))


@given(SHARE, RELIABILITY, st.integers(0, 100).map(lambda k: Fraction(k, 100)))
def test_a_mixed_rollout_outranks_a_perfect_one_iff_above_break_even(p, r, alpha):
    """Decided by exact fractions; at equality only rounding could tell."""
    mixture = p * (1 - p)
    break_even = float(identities.break_even_reliability(float(p), float(alpha)))
    exact = alpha / (alpha + mixture) if mixture else Fraction(1)
    assert break_even == pytest.approx(float(exact), rel=1e-14)
    if r != exact:
        assert ((mixture + alpha) * r > alpha) == (float(r) > break_even)


def test_break_even_reliability_at_the_default_alpha():
    """A rollout with one wrong step in ten needs R > .36 to beat a perfect one."""
    reliability = identities.break_even_reliability([0.9, 0.5, 0, 1], 0.05)
    np.testing.assert_allclose(reliability, [5 / 14, 1 / 6, 1, 1])
    np.testing.assert_array_equal(
        identities.break_even_reliability([[0.9], [1.0]], [0, 0]), [[0, 0], [1, 1]]
    )


def order(lines, alpha):
    return [[(p * (1 - p) + alpha) * r for p, r in lines]]


@given(LINES)
def test_breakpoints_are_the_exact_crossings_of_the_lines(lines):
    wanted = {}
    for i, j in combinations(range(len(lines)), 2):
        (p, r), (p2, r2) = lines[i], lines[j]
        gap = p * (1 - p) * r - p2 * (1 - p2) * r2
        if r != r2 and gap / (r2 - r) > 0:
            pair = (i, j) if r < r2 else (j, i)
            wanted[pair] = gap / (r2 - r)
    p, r = np.array(lines, float).reshape(-1, 2).T
    alpha, overtaken, overtaking = identities.alpha_breakpoints(p, r)
    found = dict(zip(zip(overtaken, overtaking, strict=True), alpha, strict=True))
    assert found.keys() == wanted.keys()
    for pair, value in wanted.items():
        assert found[pair] == pytest.approx(float(value), rel=1e-9)
    assert np.all(np.diff(alpha) >= 0)


@given(LINES, st.floats(0.001, 3))
def test_swapping_the_breakpoints_below_alpha_gives_the_order_at_alpha(lines, alpha):
    p, r = np.array(lines, float).reshape(-1, 2).T
    swaps = identities.alpha_breakpoints(p, r)
    mixture = p * (1 - p)
    at_zero, at_alpha = mixture * r, (mixture + alpha) * r
    passed = set(
        zip(
            swaps.overtaken[swaps.alpha < alpha],
            swaps.overtaking[swaps.alpha < alpha],
            strict=True,
        )
    )
    for i in range(len(lines)):
        for j in range(len(lines)):
            # Ties at either end are no order to compare.
            if at_zero[i] > at_zero[j] + 1e-9 and abs(at_alpha[i] - at_alpha[j]) > 1e-9:
                assert ((i, j) in passed) == (at_alpha[j] > at_alpha[i])


def test_breakpoint_of_a_mixed_and_a_perfect_rollout_is_break_even():
    p, r = np.array([0.8, 1.0, 0.5]), np.array([0.6, 1.0, 0.2])
    swaps = identities.alpha_breakpoints(p, r)
    np.testing.assert_allclose(swaps.alpha, [0.05 / 0.8, 0.16 * 0.6 / 0.4])
    np.testing.assert_array_equal(swaps.overtaken, [2, 0])
    np.testing.assert_array_equal(swaps.overtaking, [1, 1])
    np.testing.assert_allclose(
        identities.break_even_reliability(p[swaps.overtaken], swaps.alpha),
        r[swaps.overtaken],
    )
    assert swaps.overtaken.dtype == np.int64


def test_only_the_pairs_asked_for_are_compared():
    p, r = np.array([0.8, 1.0, 0.5]), np.array([0.6, 1.0, 0.2])
    swaps = identities.alpha_breakpoints(p, r, pairs=[[1, 0], [0, 2]])
    np.testing.assert_allclose(swaps.alpha, [0.24])
    assert (swaps.overtaken[0], swaps.overtaking[0]) == (0, 1)
    assert len(identities.alpha_breakpoints(p, r, np.zeros((0, 2))).alpha) == 0
    assert len(identities.alpha_breakpoints([], []).alpha) == 0


def test_swaps_at_the_same_alpha_come_in_the_order_of_the_pairs():
    p, r = np.tile([0.5, 0.8, 0.9], 30), np.tile([0.4, 0.6, 0.95], 30)
    swaps = identities.alpha_breakpoints(p, r)
    pairs = np.sort(np.stack([swaps.overtaken, swaps.overtaking], axis=1), axis=1)
    assert len(set(swaps.alpha)) == 3
    for alpha in set(swaps.alpha):
        tied = [tuple(pair) for pair in pairs[swaps.alpha == alpha]]
        assert len(tied) == 900
        assert tied == sorted(tied)


def test_equal_scores_that_rounding_has_split_do_not_swap():
    """R = 1/3 once as 20/12 over five steps and once as 4/12 of one."""
    split = [20 / 12 / 5, 4 / 12]
    assert split[0] != split[1]
    for p in ([0.5, 0.8], [0.8, 0.5]):
        assert len(identities.alpha_breakpoints(p, split).alpha) == 0
    # Equal at alpha = 0, so the one with the larger R leads from there on.
    assert 0.1 * 0.9 * 0.8 != 0.8 * 0.2 * 0.45
    for rows in ([0, 1], [1, 0]):
        p, r = np.array([0.1, 0.8])[rows], np.array([0.8, 0.45])[rows]
        assert len(identities.alpha_breakpoints(p, r).alpha) == 0


def test_breakpoints_name_a_wrong_shape():
    breakpoints = identities.alpha_breakpoints
    for p, r in ((0.5, 0.5), ([0.5], [0.5, 0.6]), ([[0.5]], [[0.5]])):
        with pytest.raises(ValueError, match="must both have shape"):
            breakpoints(p, r)
    for pairs in ([0, 1], [[0, 1, 1]]):
        with pytest.raises(ValueError, match=r"^pairs must have shape \[n_pairs, 2\]"):
            breakpoints([0.5, 0.6], [0.5, 0.6], pairs)
    with pytest.raises(ValueError, match=r"^pairs must be rows in \[0, 1\]"):
        breakpoints([0.5, 0.6], [0.5, 0.6], [[0, 2]])
    with pytest.raises(ValueError, match=r"^pairs must be an integer"):
        breakpoints([0.5, 0.6], [0.5, 0.6], [[0, -1]])
