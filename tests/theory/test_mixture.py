"""Lemma 2 and its neighbours against enumeration, 60-digit mpmath and simulation."""

from fractions import Fraction
from itertools import product

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from theory import mixture, scores
from theory.label_noise import noisy_positive_prob
from theory.rollouts import Rollouts

PROBABILITY = st.floats(0, 1)
LABEL_PROBS = st.integers(1, 8).flatmap(
    lambda n: arrays(float, n, elements=PROBABILITY)
)
TWO_OR_MORE = st.integers(2, 8).flatmap(
    lambda n: arrays(float, n, elements=st.floats(0.001, 0.999))
)
UNCERTAINTY = st.floats(0, 0.25)


def all_labels(q):
    """Every label vector of a rollout ``[2^n, n]`` and its probability ``[2^n]``."""
    y = np.array(list(product([0, 1], repeat=len(q))))
    return y, np.prod(np.where(y == 1, q, 1 - np.asarray(q)), axis=1)


def as_rollouts(y):
    """One rollout per row of labels, one continuation per step."""
    n = y.shape[1]
    return Rollouts(
        y.ravel(),
        np.ones(y.size, np.int64),
        np.arange(len(y) + 1, dtype=np.int64) * n,
        np.zeros(len(y), np.int64),
        ("enumerated",),
    )


def assert_within_4_se(samples, truth):
    error = samples.mean(axis=0) - truth
    assert np.all(np.abs(error) <= 4 * samples.std(axis=0) / np.sqrt(len(samples)))


@given(LABEL_PROBS)
def test_expected_mixture_is_that_of_all_label_vectors(q):
    y, probability = all_labels(q)
    p = y.mean(axis=1)
    moments = mixture.label_mixture_moments(q)
    assert moments.expected_mixture == pytest.approx(
        probability @ (p * (1 - p)), rel=1e-9, abs=1e-15
    )


@given(LABEL_PROBS)
def test_moments_are_ordered_and_their_distance_is_the_variance_of_q(q):
    information, theta, expected = mixture.label_mixture_moments(q)
    assert 0 <= information <= theta + 1e-15
    assert theta <= 0.25
    assert theta - information == pytest.approx(np.var(q), abs=1e-15)
    lower, upper = mixture.mixture_bounds(theta, len(q))
    assert lower - 1e-15 <= expected <= upper + 1e-15
    flipped = mixture.label_mixture_moments(1 - q)
    assert flipped == pytest.approx((information, theta, expected), abs=1e-15)


@given(st.lists(PROBABILITY, min_size=16, max_size=16))
def test_only_the_lower_bound_of_eq_9_needs_independent_labels(weights):
    """E[p (1 - p)] = qbar (1 - qbar) - Var(p) for any law of the labels."""
    y, _ = all_labels(np.full(4, 0.5))
    law = (np.array(weights) + 1e-9) / (sum(weights) + 16e-9)
    p = y.mean(axis=1)
    expected = law @ (p * (1 - p))
    mean = law @ p
    spread = law @ (p - mean) ** 2
    assert expected == pytest.approx(mean * (1 - mean) - spread, abs=1e-15)
    theta = mixture.label_mixture_moments(law @ y).uncertainty
    assert expected <= mixture.mixture_bounds(theta, 4).upper + 1e-15
    # Four labels that are all equal: the lower bound fails by all of itself.
    assert mixture.mixture_bounds(0.25, 4).lower > 0.18


def test_the_bounds_of_eq_9_are_met_by_equal_and_by_certain_labels():
    equal = mixture.label_mixture_moments(np.full(7, 0.3))
    lower, upper = mixture.mixture_bounds(equal.uncertainty, 7)
    assert lower == pytest.approx(0.21 * 6 / 7)
    assert equal.expected_mixture == pytest.approx(lower)
    certain = mixture.label_mixture_moments([1, 1, 0, 0, 0, 0, 0])
    assert certain.uncertainty == pytest.approx(10 / 49)
    assert certain.expected_mixture == pytest.approx(certain.uncertainty)
    assert upper == pytest.approx(0.21)


def test_a_single_step_shows_no_mixture():
    information, theta, expected = mixture.label_mixture_moments([0.3])
    assert information == theta == pytest.approx(0.21)
    assert expected == 0
    assert mixture.mixture_bounds(theta, 1).lower == 0
    assert mixture.mixed_share([0.3]) == 0


def test_uncertainty_bounding_information_shows_headroom_only():
    """A <= theta does not make theta informative: here theta is maximal and A is 0."""
    information, theta, expected = mixture.label_mixture_moments([1, 1, 0, 0])
    assert information == 0
    assert theta == expected == 0.25


def test_rollouts_stand_on_the_last_axis():
    q = np.random.default_rng(0).random((2, 3, 4))
    moments = mixture.label_mixture_moments(q)
    unbiased = mixture.unbiased_mixture(q)
    shift = mixture.mixed_selection_logit_shift(q)
    share = mixture.mixed_share(q)
    assert shift.shape == q.shape
    for i, j in product(range(2), range(3)):
        row = mixture.label_mixture_moments(q[i, j])
        assert [m[i, j] for m in moments] == pytest.approx(list(row), rel=1e-14)
        row = mixture.unbiased_mixture(q[i, j])
        assert [m[i, j] for m in unbiased] == pytest.approx(list(row), rel=1e-14)
        np.testing.assert_allclose(
            shift[i, j], mixture.mixed_selection_logit_shift(q[i, j]), rtol=1e-14
        )
        assert share[i, j] == pytest.approx(mixture.mixed_share(q[i, j]), rel=1e-14)


@given(LABEL_PROBS, PROBABILITY)
def test_flipped_uncertainty_is_the_uncertainty_of_flipped_labels(q, eta):
    theta = mixture.label_mixture_moments(q).uncertainty
    flipped = mixture.label_mixture_moments(noisy_positive_prob(q, eta, eta))
    assert mixture.flipped_uncertainty(theta, eta) == pytest.approx(
        flipped.uncertainty, abs=1e-15
    )


@given(UNCERTAINTY | st.floats(1e-300, 1e-9), PROBABILITY)
@example(0.25, 0.1)
@example(1e-20, 0.0)
def test_flipped_uncertainty_keeps_its_range_and_its_digits(theta, eta):
    flipped = mixture.flipped_uncertainty(theta, eta)
    assert theta <= flipped <= 0.25
    exact = Fraction(theta) + Fraction(eta) * (1 - Fraction(eta)) * (
        1 - 4 * Fraction(theta)
    )
    assert flipped == pytest.approx(float(exact), rel=1e-14)


@given(UNCERTAINTY, PROBABILITY)
def test_the_gap_of_flips_is_exact_nonnegative_and_symmetric(theta, eta):
    gap = mixture.flip_gap(theta, eta)
    assert mixture.flipped_uncertainty(theta, eta) - theta == pytest.approx(
        gap, abs=1e-15
    )
    assert 0 <= gap <= 0.25
    assert gap == pytest.approx(mixture.flip_gap(theta, 1 - eta), abs=1e-15)


@given(LABEL_PROBS, PROBABILITY)
def test_the_gap_of_flips_is_that_of_the_mean_label(q, eta):
    theta = mixture.label_mixture_moments(q).uncertainty
    assert mixture.flip_gap(theta, eta) == pytest.approx(
        eta * (1 - eta) * (1 - 2 * q.mean()) ** 2, abs=1e-15
    )


@given(UNCERTAINTY, PROBABILITY)
def test_eq_24_is_at_least_twice_the_gap(theta, eta):
    assert 2 * mixture.flip_gap(theta, eta) <= 2 * eta


def test_eq_24_has_slack_without_limit():
    """|theta~ - theta| <= 2 eta: the gap is 0 for balanced labels, and at eta = 1."""
    assert mixture.flip_gap(0.25, 0.3) == 0
    assert mixture.flip_gap(0.1, 1.0) == 0
    # Where it is tightest (pure rollouts, rare flips) it is still twice the gap.
    assert mixture.flip_gap(0.0, 1e-6) / 2e-6 == pytest.approx(0.5, rel=1e-5)


@given(LABEL_PROBS)
def test_unbiased_mixture_is_the_expectation_of_the_score(q):
    y, probability = all_labels(q)
    expectation, bias = mixture.unbiased_mixture(q)
    theta = mixture.label_mixture_moments(q).uncertainty
    scored = probability @ scores.unbiased_mixture(as_rollouts(y))
    assert expectation == pytest.approx(scored, abs=1e-14)
    assert bias == pytest.approx(scored - theta, abs=1e-14)


def test_the_unbiased_mixture_is_biased_when_q_varies():
    """Unbiased for equal q_j only: two certain, different labels score 1/2."""
    assert mixture.unbiased_mixture([0.3, 0.3, 0.3]).bias == pytest.approx(0, abs=1e-16)
    expectation, bias = mixture.unbiased_mixture([1, 0])
    assert expectation == 0.5
    assert bias == 0.25
    # For information A = 0 the bias is the whole of it.
    information, _, _ = mixture.label_mixture_moments([1, 0])
    assert information == 0


@given(LABEL_PROBS)
def test_mixed_share_is_that_of_all_label_vectors(q):
    y, probability = all_labels(q)
    mixed = (y.min(axis=1) == 0) & (y.max(axis=1) == 1)
    assert mixture.mixed_share(q) == pytest.approx(
        probability[mixed].sum(), rel=1e-12, abs=1e-300
    )


def test_a_tiny_mixed_share_keeps_its_digits():
    q = 1 - np.array([1e-18, 3e-17, 2.5e-17]) * 2**5
    with mpmath.workdps(60):
        exact = 1 - mpmath.fprod(map(mpmath.mpf, q))
        exact -= mpmath.fprod(1 - mpmath.mpf(x) for x in q)
        assert mixture.mixed_share(q) == pytest.approx(float(exact), rel=1e-12)


@given(TWO_OR_MORE)
def test_selection_shift_is_that_of_all_label_vectors(q):
    y, probability = all_labels(q)
    mixed = (y.min(axis=1) == 0) & (y.max(axis=1) == 1)
    positive = probability[mixed] @ y[mixed]
    negative = probability[mixed] @ (1 - y[mixed])
    wanted = np.log(positive / negative) - np.log(q / (1 - q))
    np.testing.assert_allclose(
        mixture.mixed_selection_logit_shift(q), wanted, rtol=1e-9, atol=1e-9
    )


@given(TWO_OR_MORE)
def test_selection_shift_is_odd_and_each_step_sees_only_the_others(q):
    shift = mixture.mixed_selection_logit_shift(q)
    np.testing.assert_allclose(
        mixture.mixed_selection_logit_shift(1 - q), -shift, rtol=1e-9, atol=1e-12
    )
    q[0] = 0.5
    assert mixture.mixed_selection_logit_shift(q)[0] == pytest.approx(
        shift[0], rel=1e-12, abs=1e-15
    )


def test_selection_shift_keeps_its_digits_next_to_certainty():
    for q in (
        [1 - 2**-50, 1 - 2**-45, 2**-60, 0.9] + [0.97] * 40,
        [1 - 2**-50, 1 - 3 * 2**-52, 1 - 5 * 2**-51, 1 - 7 * 2**-53],
        [2**-50, 3 * 2**-52, 5 * 2**-51, 7 * 2**-53],
        [0.3] * 100,
        [0.7] * 100,
    ):
        with mpmath.workdps(60):
            for j, shift in enumerate(mixture.mixed_selection_logit_shift(q)):
                others = [mpmath.mpf(x) for i, x in enumerate(q) if i != j]
                exact = mpmath.log(1 - mpmath.fprod(others))
                exact -= mpmath.log(1 - mpmath.fprod(1 - x for x in others))
                assert shift == pytest.approx(float(exact), rel=1e-9, abs=1e-22)
    # Two almost certain steps: log(2^-50) less nothing.
    near = mixture.mixed_selection_logit_shift([1 - 2**-50, 1 - 2**-50])
    np.testing.assert_allclose(near, -50 * np.log(2), rtol=1e-14)


def test_selection_shift_has_its_limits_where_labels_are_certain():
    shift = mixture.mixed_selection_logit_shift([0.3, 1, 1])
    assert shift[0] == -np.inf
    assert shift[1:] == pytest.approx(np.log1p(-0.3))
    shift = mixture.mixed_selection_logit_shift([0.3, 0, 0])
    assert shift[0] == np.inf
    assert shift[1:] == pytest.approx(-np.log(0.3))
    # Others that are balanced shift nothing.
    np.testing.assert_allclose(
        mixture.mixed_selection_logit_shift([0.5] * 5), 0, atol=1e-15
    )
    # A step of either kind among the others makes the rollout mixed whatever y_j is.
    assert mixture.mixed_selection_logit_shift([0.3, 1, 0])[0] == 0


def test_selecting_mixed_rollouts_biases_noiseless_labels():
    """Mostly right steps: the mixed rollouts show each one far too often as wrong."""
    q = np.full(5, 0.9)
    shift = mixture.mixed_selection_logit_shift(q)
    assert np.all(shift < -1)
    rng = np.random.default_rng(2)
    y = rng.random((60_000, 5)) < q
    kept = y[(y.min(axis=1) == 0) & (y.max(axis=1) == 1)]
    biased = 1 / (1 + np.exp(-np.log(9) - shift))
    assert_within_4_se(1.0 * kept, biased)
    assert np.all(np.abs(kept.mean(axis=0) - q) > 0.1)


def test_shapes_and_counts_outside_their_range_are_named():
    for function in (mixture.label_mixture_moments, mixture.mixed_share):
        for empty in (0.5, np.zeros((3, 0))):
            with pytest.raises(ValueError, match=r"^q must have shape \[\.\.\., n\]"):
                function(empty)
    with pytest.raises(ValueError, match=r"^q must have n >= 2 steps"):
        mixture.mixed_selection_logit_shift([0.5])
    with pytest.raises(ValueError, match=r"^n must be an integer in"):
        mixture.mixture_bounds(0.1, 0)
    with pytest.raises(ValueError, match=r"^theta must be in \[0, 1/4\], not 0\.3"):
        mixture.flip_gap([0.1, 0.3], 0.1)
