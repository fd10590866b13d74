import itertools

import mpmath as mp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st

from theory import scores
from theory.beta_binomial import (
    class_conditional_counts,
    class_conditional_rates,
    count_pmf,
    expected_bis,
    expected_reliability,
    positive_label_prob,
    pseudo_positive_rate,
    success_posterior,
    unreliability_posterior,
)
from theory.label_noise import noisy_positive_prob, predictive_values
from theory.rollouts import Rollouts

shape = st.floats(0.05, 50)
trial_count = st.integers(1, 20)
threshold = st.floats(0.05, 0.95)
PRIORS = [(0.73, 0.30), (0.13, 1.0), (1.0, 1.0), (12.0, 3.0), (1e-8, 0.5)]


def mp_below(a, b, tau):
    """Pr(r < tau) for r ~ Beta(a, b)."""
    return mp.betainc(a, b, 0, tau, regularized=True)


def mp_pmf(k, a, b, trials):
    # In exact arithmetic: in floats (1e-9 + 16) - 16 is not 1e-9.
    posterior = mp.mpf(a) + k, mp.mpf(b) + trials - k
    return mp.binomial(trials, k) * mp.beta(*posterior) / mp.beta(a, b)


def simulate(rng, a, b, trials, size):
    r = rng.beta(a, b, size)
    return r, rng.binomial(trials, r)


# --- posterior ----------------------------------------------------------------------


@given(shape, shape, trial_count, st.data())
def test_the_posterior_adds_successes_and_failures(a, b, trials, data):
    k = data.draw(st.integers(0, trials))
    assert success_posterior(k, a, b, trials) == (a + k, b + (trials - k))


# --- distribution of K ----------------------------------------------------------------


@pytest.mark.parametrize("a", [1e-12, 0.13, 5.0, 1e8])
@pytest.mark.parametrize("b", [1e-9, 0.3, 1e7])
@pytest.mark.parametrize("trials", [1, 2, 16, 300])
def test_positive_label_prob_keeps_its_digits(a, b, trials):
    with mp.workdps(60):
        zero = mp.beta(a, b + trials) / mp.beta(a, b)
        np.testing.assert_allclose(
            positive_label_prob(a, b, trials), float(1 - zero), rtol=2e-13
        )
        np.testing.assert_allclose(
            count_pmf(a, b, trials)[0], float(zero), rtol=1e-12, atol=1e-300
        )


def test_priors_at_the_ends_of_float64_neither_overflow_nor_warn():
    assert positive_label_prob(1e300, 1e-300, 3) == 1
    np.testing.assert_allclose(positive_label_prob(1e-300, 1.0, 2), 1.5e-300)
    np.testing.assert_allclose(count_pmf(1e300, 1e-300, 3), [0, 0, 0, 1], atol=1e-300)


@pytest.mark.parametrize(("a", "b"), [*PRIORS, (1e8, 3e7), (0.5, 1e-9)])
def test_count_pmf_equals_the_beta_binomial_at_60_digits(a, b):
    with mp.workdps(60):
        exact = [float(mp_pmf(k, a, b, 16)) for k in range(17)]
    np.testing.assert_allclose(count_pmf(a, b, 16), exact, rtol=1e-11)


@given(shape, shape, trial_count)
def test_count_pmf_has_the_moments_of_the_beta_binomial(a, b, trials):
    pmf, k = count_pmf(a, b, trials), np.arange(trials + 1)
    mean = a / (a + b)
    second = mean * (a + 1) / (a + b + 1)
    np.testing.assert_allclose(pmf.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(pmf @ k, trials * mean, rtol=1e-11)
    np.testing.assert_allclose(
        pmf @ (k * (k - 1)), trials * (trials - 1) * second, rtol=1e-11
    )
    np.testing.assert_allclose(pmf, count_pmf(b, a, trials)[::-1], rtol=1e-10)


def test_distributions_of_unequal_trials_are_padded_with_zeros():
    pmf = count_pmf([[0.7], [2.0]], 0.5, [1, 4, 2])
    assert pmf.shape == (2, 3, 5)
    for i, j in itertools.product(range(2), range(3)):
        trials = (1, 4, 2)[j]
        alone = count_pmf((0.7, 2.0)[i], 0.5, trials)
        np.testing.assert_allclose(pmf[i, j, : trials + 1], alone, rtol=1e-14)
        assert not pmf[i, j, trials + 1 :].any()
    for i in (0, 1):
        conditional = class_conditional_counts(0.7, 0.5, [1, 4, 2], 0.5)[i]
        for j, trials in enumerate((1, 4, 2)):
            alone = class_conditional_counts(0.7, 0.5, trials, 0.5)[i]
            np.testing.assert_allclose(conditional[j, : trials + 1], alone, rtol=1e-14)
            assert not conditional[j, trials + 1 :].any()


def test_empty_arrays_stay_empty():
    assert positive_label_prob([], 0.5, 4).shape == (0,)
    assert count_pmf([], 0.5, []).shape == (0, 2)


def test_counts_agree_with_simulation():
    rng = np.random.default_rng(0)
    a, b, trials, draws, tau = 0.73, 0.3, 8, 400_000, 0.5
    r, k = simulate(rng, a, b, trials, draws)
    below, above = class_conditional_counts(a, b, trials, tau)
    for counts, expected in [
        (k, count_pmf(a, b, trials)),
        (k[r < tau], below),
        (k[r >= tau], above),
    ]:
        observed = np.bincount(counts, minlength=trials + 1)
        p_value = scipy.stats.chisquare(observed, expected * len(counts)).pvalue
        assert p_value > 1e-4
    p = positive_label_prob(a, b, trials)
    assert abs((k > 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / draws)
    rate = pseudo_positive_rate(a, b, trials, tau)
    positives = r[k > 0]
    error = (positives < tau).mean() - rate
    assert abs(error) < 4 * np.sqrt(rate * (1 - rate) / len(positives))


# --- class-conditional rates ----------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), PRIORS)
@pytest.mark.parametrize("trials", [1, 16])
@pytest.mark.parametrize("tau", [0.02, 0.5, 0.9])
def test_rates_and_conditional_counts_equal_bayes_at_60_digits(a, b, trials, tau):
    with mp.workdps(60):
        below = mp_below(a, b, tau)
        joint = [
            mp_pmf(k, a, b, trials) * mp_below(a + k, b + (trials - k), tau)
            for k in range(trials + 1)
        ]
        marginal = [mp_pmf(k, a, b, trials) for k in range(trials + 1)]
        negative = [float(x / below) for x in joint]
        positive = [
            float((m - x) / (1 - below)) for m, x in zip(marginal, joint, strict=True)
        ]
        fpr = float(1 - joint[0] / below)
    counts = class_conditional_counts(a, b, trials, tau)
    np.testing.assert_allclose(counts[0], negative, rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(counts[1], positive, rtol=1e-10, atol=1e-300)
    rates = class_conditional_rates(a, b, trials, tau)
    np.testing.assert_allclose(rates, [fpr, positive[0]], rtol=1e-10)


@given(shape, shape, trial_count, threshold)
# Here 1 - fpr is 3e-11, of which a float next to 1 keeps five digits only.
@example(37.0, 1.0, 20, 0.75)
def test_rates_form_the_channel_that_gives_the_marginal_label(a, b, trials, tau):
    reliable = scipy.stats.beta(a, b).sf(tau)
    unreliable = scipy.stats.beta(a, b).cdf(tau)
    if reliable > 1e-9 and unreliable > 1e-9:
        fpr, fnr = class_conditional_rates(a, b, trials, tau)
        assert 0 <= fpr <= 1
        assert 0 <= fnr <= 1
        # A higher success rate makes K = 0 less likely, so the label is never inverted.
        assert fpr + fnr <= 1 + 1e-12
        p = positive_label_prob(a, b, trials)
        np.testing.assert_allclose(
            noisy_positive_prob(reliable, fpr, fnr), p, rtol=1e-9
        )
        ppv, npv = predictive_values(reliable, fpr, fnr)
        np.testing.assert_allclose(
            pseudo_positive_rate(a, b, trials, tau), 1 - ppv, atol=1e-9
        )
        eta = unreliability_posterior(0, a, b, trials, tau)
        if fpr < 1 - 1e-5:
            np.testing.assert_allclose(eta, npv, atol=1e-9)
        # Bayes with Pr(K = 0) of both classes themselves keeps all digits everywhere.
        negative, positive = class_conditional_counts(a, b, trials, tau)
        tn, fn = unreliable * negative[0], reliable * positive[0]
        np.testing.assert_allclose(eta, tn / (tn + fn), rtol=1e-9)


@given(shape, shape, st.integers(1, 19))
def test_more_trials_trade_false_negatives_for_false_positives(a, b, trials):
    fpr, fnr = class_conditional_rates(a, b, [trials, trials + 1], 0.5)
    assert fpr[1] >= fpr[0] - 1e-13
    assert fnr[1] <= fnr[0] + 1e-13


def test_rates_at_the_ends_of_the_threshold_are_their_limits():
    a, b, trials = 2.0, 3.0, 4
    p = positive_label_prob(a, b, trials)
    counts = class_conditional_counts(a, b, trials, [0.0, 1.0])
    marginal = count_pmf(a, b, trials)
    np.testing.assert_array_equal(counts[0][0], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(counts[0][1], marginal, rtol=1e-14)
    np.testing.assert_allclose(counts[1][0], marginal, rtol=1e-14)
    np.testing.assert_array_equal(counts[1][1], [0, 0, 0, 0, 1])
    fpr, fnr = class_conditional_rates(a, b, trials, [0.0, 1e-9, 1 - 1e-6, 1.0])
    np.testing.assert_allclose(fpr, p * np.array([0, 0, 1, 1]), atol=1e-7)
    np.testing.assert_allclose(fnr, (1 - p) * np.array([1, 1, 0, 0]), atol=1e-7)
    np.testing.assert_array_equal(
        pseudo_positive_rate(a, b, trials, [0.0, 1.0]), [0, 1]
    )


def test_a_rate_is_a_probability_even_where_its_sum_rounds_above_one():
    a = np.linspace(100, 200, 101)
    fpr, _ = class_conditional_rates(a, 1.0, 300, 0.9)
    assert np.all(fpr <= 1)
    assert np.any(class_conditional_counts(a, 1.0, 300, 0.9)[0][:, 1:].sum(-1) > 1)


def test_a_class_too_rare_for_float64_is_refused():
    for a, b, tau in [(50, 1, 1e-10), (1, 50, 1 - 1e-10)]:
        with pytest.raises(ValueError, match=r"^tau must leave both classes"):
            class_conditional_rates(a, b, 4, [0.5, tau])


# --- expected reliability and BIS -----------------------------------------------------


def all_rollouts(trials, n):
    """Every rollout of n steps with N = trials, one each."""
    counts = np.array(list(itertools.product(range(trials + 1), repeat=n)))
    steps = counts.size
    return counts, Rollouts(
        counts.ravel(),
        np.full(steps, trials),
        np.arange(0, steps + 1, n),
        np.zeros(len(counts), np.int64),
        ("all",),
    )


@pytest.mark.parametrize(("a", "b"), [(0.73, 0.30), (0.2, 4.0)])
@pytest.mark.parametrize(("trials", "n"), [(1, 8), (2, 1), (3, 4), (2, 6)])
def test_expected_scores_equal_enumeration(a, b, trials, n):
    counts, rollouts = all_rollouts(trials, n)
    probability = count_pmf(a, b, trials)[counts].prod(axis=1)
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(
        expected_reliability(a, b, trials, n),
        probability @ scores.reliability(rollouts),
        rtol=1e-12,
    )
    for alpha in (0.0, 0.05, 0.7):
        np.testing.assert_allclose(
            expected_bis(a, b, trials, n, alpha),
            probability @ scores.bis(rollouts, alpha),
            rtol=1e-12,
        )


@given(shape, shape, trial_count, st.integers(1, 30), st.floats(0, 2))
def test_expected_scores_stay_in_the_range_of_the_scores(a, b, trials, n, alpha):
    reliability = expected_reliability(a, b, trials, n)
    assert 1 / trials - 1e-12 <= reliability <= 1
    expected = expected_bis(a, b, trials, n, alpha)
    assert 0 <= expected <= alpha + 0.25
    if n == 1:
        # A single step is never mixed.
        np.testing.assert_allclose(expected, alpha * reliability, atol=1e-14)
    if trials == 1:
        # Positives then have s = 1.
        np.testing.assert_allclose(reliability, 1, rtol=1e-12)


# --- domains --------------------------------------------------------------------------


def test_more_successes_than_trials_are_refused():
    with pytest.raises(ValueError, match=r"^k must be an integer in \[0, trials\]"):
        success_posterior([1, 3], 1, 1, [4, 2])
