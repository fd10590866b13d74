"""Simulation-based calibration of the annotator's posteriors (Talts et al., 2018).

If r is drawn from the prior and K from r, then the rank of r among draws from its
posterior given K is uniform, and so is the posterior's distribution function at r.
"""

import itertools

import numpy as np
import pytest
import scipy.stats

from theory.beta_binomial import success_posterior, unreliability_posterior

A, B, TRIALS, REPLICATES, POSTERIOR_DRAWS = 0.73, 0.30, 16, 4000, 99


def simulated(seed):
    rng = np.random.default_rng(seed)
    r = rng.beta(A, B, REPLICATES)
    return rng, r, rng.binomial(TRIALS, r)


def rank_p_value(posterior, seed=0):
    """Uniformity of the rank of the true r among posterior draws."""
    rng, r, k = simulated(seed)
    draws = rng.beta(*posterior(k), size=(POSTERIOR_DRAWS, REPLICATES))
    ranks = (draws < r).sum(axis=0)
    counts = np.bincount(ranks, minlength=POSTERIOR_DRAWS + 1)
    return scipy.stats.chisquare(counts.reshape(20, -1).sum(axis=1)).pvalue


def distribution_p_value(eta, seed=1):
    """Uniformity of eta_eff(K) at the threshold tau = r."""
    _, r, k = simulated(seed)
    return scipy.stats.kstest(eta(k, r), "uniform").pvalue


def worst_z(eta, seed=2):
    """Largest |z|, over k and tau, of the share of r < tau against eta_eff(k)."""
    _, r, k = simulated(seed)
    scores = []
    for count, tau in itertools.product(range(TRIALS + 1), (0.2, 0.5, 0.9)):
        among = r[k == count] < tau
        claimed = eta(count, tau)
        spread = np.sqrt(max(claimed * (1 - claimed), 1e-6) / len(among))
        scores.append(abs(among.mean() - claimed) / spread)
    return max(scores)


def test_success_posterior_is_calibrated():
    assert rank_p_value(lambda k: success_posterior(k, A, B, TRIALS)) > 1e-3


@pytest.mark.parametrize(
    "planted",
    [
        lambda k: (A + k, B + TRIALS),  # the successes are counted as failures too
        lambda k: (1 + k, 1 + TRIALS - k),  # another prior
        lambda k: (A + k + 1, B + TRIALS - k),  # off by one
        lambda k: (A + TRIALS - k, B + k),  # exchanged
    ],
)
def test_calibration_finds_a_planted_bug_in_the_success_posterior(planted):
    assert rank_p_value(planted) < 1e-6


def test_unreliability_posterior_is_calibrated():
    def eta(k, tau):
        return unreliability_posterior(k, A, B, TRIALS, tau)

    assert distribution_p_value(eta) > 1e-3
    assert worst_z(eta) < 4


def test_calibration_finds_a_planted_bug_in_the_unreliability_posterior():
    def another_prior(k, tau):
        return unreliability_posterior(k, 1, 1, TRIALS, tau)

    def off_by_one(k, tau):
        return unreliability_posterior(np.minimum(k + 1, TRIALS), A, B, TRIALS, tau)

    def complement(k, tau):
        return 1 - unreliability_posterior(k, A, B, TRIALS, tau)

    for planted in (another_prior, off_by_one):
        assert distribution_p_value(planted) < 1e-6
        assert worst_z(planted) > 6
    # Uniform as well, so that ranks alone would not find it.
    assert worst_z(complement) > 6
