"""Effective noise eta_eff(k): Bayes at 60 digits, Lemma 3, and what it does not say."""

import itertools

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.beta_binomial import unreliability_posterior

shape = st.floats(0.05, 50)
trial_count = st.integers(1, 20)
threshold = st.floats(0.05, 0.95)
PRIORS = [(0.73, 0.30), (0.13, 1.0), (1.0, 1.0), (12.0, 3.0), (1e-8, 0.5)]


def mp_below(a, b, tau):
    """Pr(r < tau) for r ~ Beta(a, b)."""
    return mp.betainc(a, b, 0, tau, regularized=True)


@pytest.mark.parametrize(("a", "b"), PRIORS)
@pytest.mark.parametrize("trials", [1, 16])
def test_eta_eff_equals_bayes_rule_at_60_digits(a, b, trials):
    with mp.workdps(60):
        for k, tau in itertools.product({0, 1, trials}, (0.1, 0.5, 0.97)):

            def weight(r, a=a, b=b, k=k):
                return r ** (a + k - 1) * (1 - r) ** (b + trials - k - 1)

            exact = mp_below(a + k, b + (trials - k), tau)
            ours = unreliability_posterior(k, a, b, trials, tau)
            np.testing.assert_allclose(ours, float(exact), rtol=1e-12)
            if a + k >= 1 and b + trials - k >= 1:
                whole = mp.quad(weight, [0, tau, 1])
                share = mp.fdiv(mp.quad(weight, [0, tau]), whole)
                assert isinstance(share, mp.mpf)
                np.testing.assert_allclose(ours, float(share))


@given(shape, shape, trial_count, threshold)
def test_eta_eff_falls_with_successes_and_rises_with_the_threshold(a, b, trials, tau):
    eta = unreliability_posterior(np.arange(trials + 1), a, b, trials, tau)
    assert np.all((eta >= 0) & (eta <= 1))
    assert np.all(np.diff(eta) <= 1e-14)
    higher = unreliability_posterior(np.arange(trials + 1), a, b, trials, tau + 0.04)
    assert np.all(higher >= eta - 1e-14)
    # Exchanging success and failure mirrors the threshold.
    mirrored = unreliability_posterior(np.arange(trials + 1), b, a, trials, 1 - tau)
    np.testing.assert_allclose(eta, 1 - mirrored[::-1], atol=1e-12)


def test_eta_eff_at_the_ends_of_the_threshold():
    k = np.arange(5)
    assert unreliability_posterior(k, 0.7, 0.3, 4, 0).tolist() == [0] * 5
    assert unreliability_posterior(k, 0.7, 0.3, 4, 1).tolist() == [1] * 5


def test_lemma_3_is_strict_in_exact_arithmetic_and_ties_in_float64():
    a, b, trials, tau = 1, 1, 200, 0.5
    with mp.workdps(120):
        exact = [mp_below(a + k, b + trials - k, tau) for k in range(trials + 1)]
        for k, (here, after) in enumerate(itertools.pairwise(exact)):
            drop = mp.mpf(tau) ** (a + k) * mp.mpf(1 - tau) ** (b + trials - k - 1)
            drop /= (a + k) * mp.beta(a + k, b + trials - k)
            assert here > after
            assert abs((here - after) / drop - 1) < mp.mpf(10) ** -50
    ours = unreliability_posterior(np.arange(trials + 1), a, b, trials, tau)
    assert ours[0] == ours[1] == 1.0
    np.testing.assert_allclose(ours, [float(x) for x in exact], rtol=1e-11)
    # N = 16 is already enough where the threshold is low.
    tied = unreliability_posterior([5, 6], 0.5, 0.5, 16, 1 - 1e-3)
    assert tied[0] == tied[1]


def test_mean_score_does_not_order_mean_effective_noise():
    """K = (8, 8) has the lower mean score than (16, 1), and the lower mean eta_eff."""
    balanced, extreme = np.array([8, 8]), np.array([16, 1])
    assert balanced.mean() < extreme.mean()
    for a, b, tau in [(2, 1, 0.5), (1, 1, 0.3)]:
        noise = [
            unreliability_posterior(k, a, b, 16, tau).mean()
            for k in (balanced, extreme)
        ]
        assert noise[0] < noise[1] - 0.05
    # Within one step the order does hold (Lemma 3).
    one_step = unreliability_posterior([8, 9], 2, 1, 16, 0.5)
    assert one_step[0] > one_step[1]
