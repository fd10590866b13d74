import dataclasses
import re

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from theory.beta_binomial import (
    class_conditional_rates,
    count_pmf,
    positive_label_prob,
)
from theory.beta_binomial_fit import fit_beta_binomial, fit_from_mean_and_zero_rate
from theory.paper import FULL_DATA

PLANTED = [(0.73, 0.30), (0.13, 1.0), (2.0, 5.0), (40.0, 20.0)]


def simulate(rng, a, b, trials, size=None):
    return rng.binomial(trials, rng.beta(a, b, size))


# --- from the mean and the error-step ratio -------------------------------------------


@given(st.floats(0.01, 0.99), st.floats(-3, 4), st.integers(2, 32))
def test_the_fit_from_two_statistics_reproduces_them(mean, log_s, trials):
    s = np.exp(log_s)
    zero_rate = count_pmf(mean * s, (1 - mean) * s, trials)[0]
    a, b = fit_from_mean_and_zero_rate(mean, zero_rate, trials)
    np.testing.assert_allclose(a / (a + b), mean, rtol=1e-14)
    np.testing.assert_allclose(count_pmf(a, b, trials)[0], zero_rate, rtol=1e-12)
    np.testing.assert_allclose(a + b, s, rtol=1e-6)


def test_the_paper_corpus_needs_a_u_shaped_prior():
    # Table 1: mean MC .8566, error-step ratio 3.57 %, N = 16.
    a, b = fit_from_mean_and_zero_rate(
        FULL_DATA.mean_mc, FULL_DATA.error_step_ratio, 16
    )
    with mp.workdps(60):
        exact = mp.findroot(
            lambda s: (
                mp.beta(FULL_DATA.mean_mc * s, (1 - mp.mpf(FULL_DATA.mean_mc)) * s + 16)
                / mp.beta(FULL_DATA.mean_mc * s, (1 - mp.mpf(FULL_DATA.mean_mc)) * s)
                - mp.mpf(FULL_DATA.error_step_ratio)
            ),
            0.5,
        )
    np.testing.assert_allclose(a + b, float(exact), rtol=1e-12)
    np.testing.assert_allclose(a / (a + b), FULL_DATA.mean_mc, rtol=1e-14)
    assert max(a, b) < 1


def test_the_fit_from_two_statistics_broadcasts():
    a, b = fit_from_mean_and_zero_rate([[0.5], [0.8]], [0.1, 0.15], [4, 16])
    assert a.shape == b.shape == (2, 2)
    assert a.dtype == np.float64
    assert (a[1, 0], b[1, 0]) == fit_from_mean_and_zero_rate(0.8, 0.1, 4)


@pytest.mark.parametrize(
    ("mean", "zero_rate", "trials", "message"),
    [
        (0.0, 0.1, 4, r"^mean must be in \(0, 1\)"),
        (1.0, 0.1, 4, r"^mean must be in \(0, 1\)"),
        (np.nan, 0.1, 4, r"^mean must be in"),
        (1.5, 0.1, 4, r"^mean must be in"),
        (0.5, 0.5, 4, r"^zero_rate must be in \(\(1 - mean\)\^trials, 1 - mean\)"),
        (0.5, 0.5**4, 4, r"^zero_rate must be in"),
        (0.5, 0.05, 4, r"^zero_rate must be in"),
        (0.5, -0.1, 4, r"^zero_rate must be in"),
        (0.5, np.nan, 4, r"^zero_rate must be in"),
        (0.5, 0.3, 1, r"^trials must be an integer in \[2, "),
    ],
)
def test_statistics_no_prior_has_are_refused(mean, zero_rate, trials, message):
    with pytest.raises(ValueError, match=message):
        fit_from_mean_and_zero_rate([0.5, mean], [0.3, zero_rate], [2, trials])


# --- maximum likelihood ---------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), PLANTED)
def test_planted_parameters_are_recovered_within_four_standard_errors(a, b):
    k = simulate(np.random.default_rng(0), a, b, 16, 20_000)
    fit = fit_beta_binomial(k, 16)
    assert abs(fit.a - a) < 4 * fit.se_a < 0.4 * a
    assert abs(fit.b - b) < 4 * fit.se_b < 0.4 * b
    assert fit.n_steps == 20_000


def test_standard_errors_are_the_spread_of_the_estimates():
    rng, replicates = np.random.default_rng(1), 300
    truth = [0.73, 0.30]
    z = []
    for _ in range(replicates):
        fit = fit_beta_binomial(simulate(rng, 0.73, 0.30, 16, 1000), 16)
        offset = np.subtract([fit.a, fit.b], truth)
        z.append(offset @ np.linalg.solve(fit.covariance, offset))
    # Mahalanobis distances of two estimates: chi-squared with 2 degrees of freedom.
    assert abs(np.mean(z) - 2) < 4 * 2 / np.sqrt(replicates)
    assert scipy.stats.kstest(z, scipy.stats.chi2(2).cdf).pvalue > 1e-3


def hierarchical(rng, rollouts, mean=0.85, k0=1.3, k=2.1, trials=16):
    """Counts and offsets where a rollout draws its level, its steps r around that."""
    lengths = 2 + rng.poisson(3.6, rollouts)
    level = np.repeat(rng.beta(k0 * mean, k0 * (1 - mean), rollouts), lengths)
    # Beta needs both parameters positive.
    level = np.clip(level, 1e-9, 1 - 1e-9)
    counts = rng.binomial(trials, rng.beta(k * level, k * (1 - level)))
    return counts, np.concatenate([[0], np.cumsum(lengths)])


def test_intervals_clustered_by_rollout_cover_and_those_of_steps_do_not():
    # The Beta-binomial nearest to this law of K, from its pmf by quadrature over the
    # level's quantiles.
    nodes, weights = np.polynomial.legendre.leggauss(400)
    level = scipy.stats.beta(1.3 * 0.85, 1.3 * 0.15).ppf((nodes + 1) / 2)
    level = np.clip(level, 1e-9, 1 - 1e-9)
    pmf = (weights / 2) @ count_pmf(2.1 * level, 2.1 * (1 - level), 16)
    np.testing.assert_allclose(pmf.sum(), 1, rtol=1e-9)
    nearest = fit_beta_binomial(np.repeat(np.arange(17), (1e6 * pmf).astype(int)), 16)
    truth = [nearest.a, nearest.b]

    rng, replicates = np.random.default_rng(6), 400
    covered = {"steps": [], "rollouts": []}
    for _ in range(replicates):
        k, offsets = hierarchical(rng, 300)
        for name, of in (("steps", None), ("rollouts", offsets)):
            fit = fit_beta_binomial(k, 16, of)
            z = np.subtract([fit.a, fit.b], truth) / [fit.se_a, fit.se_b]
            covered[name].append(np.abs(z) < 1.96)
    # Four standard errors of a share of 400; a few hundred rollouts cost about .01.
    allowed = 4 * np.sqrt(0.95 * 0.05 / replicates)
    assert np.all(np.abs(np.mean(covered["rollouts"], axis=0) - 0.95) < allowed)
    assert np.all(np.mean(covered["steps"], axis=0) < 0.82)


def test_a_step_measured_twice_is_no_new_evidence():
    rng = np.random.default_rng(7)
    trials = np.where(rng.random(300) < 0.2, 0, 16)
    k = simulate(rng, 0.73, 0.30, trials, 300)
    once = fit_beta_binomial(k, trials, np.arange(301))
    thrice = fit_beta_binomial(
        np.repeat(k, 3), np.repeat(trials, 3), 3 * np.arange(301)
    )
    np.testing.assert_allclose(thrice.covariance, once.covariance, rtol=1e-5)
    # Steps never sampled are left out, rollouts of nothing else too.
    measured = trials > 0
    without = fit_beta_binomial(k[measured], 16, np.arange(measured.sum() + 1))
    np.testing.assert_allclose(without.covariance, once.covariance, rtol=1e-12)
    # Where steps are independent and the law holds, it is the inverse information.
    k = simulate(rng, 2.0, 3.0, 16, 40_000)
    of_rollouts = fit_beta_binomial(k, 16, np.arange(0, 40_001, 4)).covariance
    np.testing.assert_allclose(
        of_rollouts, fit_beta_binomial(k, 16).covariance, rtol=0.08
    )


def test_offsets_that_are_no_rollouts_are_refused():
    k = [0, 1, 4, 4, 2]
    for offsets, message in [
        ([0, 5], "^offsets must hold at least two rollouts"),
        ([0, 2, 4], "^offsets must rise from 0 to n_steps = 5"),
        ([0, 3, 2, 5], "^offsets must rise from 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_beta_binomial(k, 4, offsets)


def test_the_maximum_and_its_curvature_equal_autodiff():
    rng = np.random.default_rng(2)
    trials = rng.choice([0, 1, 4, 16], 3000)
    k = simulate(rng, 0.7, 0.4, trials, 3000)
    fit = fit_beta_binomial(k, trials)
    measured = trials > 0
    assert fit.n_steps == measured.sum() < 3000

    with jax.enable_x64(True):
        i = jnp.arange(16.0)[:, None]

        def log_rising(x, n):
            """log of x (x + 1) ... (x + n - 1), which is Gamma(x + n) / Gamma(x)."""
            return jnp.sum(jnp.where(i < n[None, :], jnp.log(x + i), 0.0))

        def log_likelihood(prior):
            a, b = prior
            return (
                log_rising(a, k) + log_rising(b, trials - k) - log_rising(a + b, trials)
            )

        estimate = jnp.array([fit.a, fit.b])
        slope = np.asarray(jax.jit(jax.grad(log_likelihood))(estimate))
        information = -np.asarray(jax.jit(jax.hessian(log_likelihood))(estimate))
    np.testing.assert_allclose(np.linalg.inv(information), fit.covariance, rtol=1e-9)
    # In standard errors, how far the maximum still is.
    np.testing.assert_allclose(slope * [fit.se_a, fit.se_b], 0, atol=1e-6)
    np.testing.assert_allclose(
        fit.log_likelihood,
        scipy.stats.betabinom.logpmf(k[measured], trials[measured], fit.a, fit.b).sum(),
        rtol=1e-10,
    )
    assert fit.se_a == np.sqrt(fit.covariance[0, 0])
    assert fit.se_b == np.sqrt(fit.covariance[1, 1])
    # A value that can be kept in a set, not edited.
    assert fit in {fit}
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fit, "a", 1.0)  # noqa: B010


def test_order_and_exchange_of_outcomes_do_not_matter():
    rng = np.random.default_rng(3)
    k = simulate(rng, 2.0, 0.5, 8, 500)
    fit = fit_beta_binomial(k, 8)
    mirrored = fit_beta_binomial(8 - rng.permutation(k), np.full(500, 8))
    np.testing.assert_allclose([mirrored.b, mirrored.a], [fit.a, fit.b], rtol=1e-6)
    np.testing.assert_allclose(mirrored.log_likelihood, fit.log_likelihood, rtol=1e-12)


def test_counts_without_a_finite_maximum_are_refused():
    for k, n, message in [
        ([0, 1, 1], 1, "^trials must be at least 2 on some step"),
        ([0], [0], "^trials must be at least 2 on some step"),
        ([0, 4, 0, 4], 4, "^successes must lie strictly between 0 and trials"),
        ([0, 0, 0], 4, "^successes must lie strictly between 0 and trials"),
        ([2, 2, 2, 2], 4, "^successes must vary more than a binomial's"),
        ([5, 1], 4, r"^successes must be an integer in \[0, trials\]"),
        ([np.nan], 4, "^successes must be an integer in"),
        ([1.0], -1, "^trials must be an integer in"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_beta_binomial(k, n)


def test_the_boundary_of_overdispersion_is_sharp():
    # mean 1/2 of N = 2: a binomial has half its steps at K = 1.
    assert fit_beta_binomial([0, 1, 1, 2, 0, 2], 2).a > 0
    with pytest.raises(ValueError, match="vary more than a binomial's"):
        fit_beta_binomial([0, 1, 1, 2], 2)
    # A slight excess has its maximum far out: e.g. r hardly varies.
    k = np.repeat([0, 1, 2], [101, 198, 101])
    fit = fit_beta_binomial(k, 2)
    # Pr(K = 1) = 2 a b / (s (s + 1)) = s / (2 (s + 1)) must be 198/400.
    np.testing.assert_allclose([fit.a, fit.b], 49.5, rtol=1e-6)
    # N = 2 has as many parameters as outcomes: mean and Pr(K = 1) are met exactly.
    fit = fit_beta_binomial(np.repeat([0, 1, 2], [1, 5, 7]), 2)
    mean = 19 / 26
    ratio = (5 / 13) / (2 * mean * (1 - mean))
    np.testing.assert_allclose(fit.a + fit.b, ratio / (1 - ratio), rtol=1e-6)
    np.testing.assert_allclose(fit.a / (fit.a + fit.b), mean, rtol=1e-9)
    with pytest.raises(ValueError, match="vary more than a binomial's"):
        fit_beta_binomial(np.repeat([0, 1, 2], [99, 202, 99]), 2)


# --- what the counts do not identify --------------------------------------------------


def test_the_fit_says_what_the_counts_do_not_identify():
    rng = np.random.default_rng(4)
    # Some steps with other N: the rates are stated for the commonest one.
    trials = np.repeat([16, 2], [4000, 500])
    fit = fit_beta_binomial(simulate(rng, 0.73, 0.3, trials, 4500), trials)
    (structural,) = fit.warnings
    number = r"([0-9.e+-]+)"
    stated = re.fullmatch(
        "the noise of the labels is not identified by the counts: at N = 16, "
        rf"right steps from Beta\({number}, {number}\) and wrong ones from "
        rf"Beta\({number}, {number}\) \(fpr {number}, fnr {number}\) fit as well as "
        rf"labels that ignore the truth \(fpr {number}, fnr {number}\)",
        structural,
    )
    assert stated is not None
    a, b = fit.a, fit.b
    p = positive_label_prob(a, b, 16)
    fpr = positive_label_prob(a, b + 1, 16)
    fnr = 1 - positive_label_prob(a + 1, b, 16)
    expected = [a + 1, b, a, b + 1, fpr, fnr, p, 1 - p]
    np.testing.assert_allclose([*map(float, stated.groups())], expected, rtol=6e-3)


def test_the_fit_warns_of_parameters_it_hardly_resolves():
    k = np.repeat([0, 1, 2], [101, 198, 101])
    fit = fit_beta_binomial(k, 2)
    assert fit.a < 2 * fit.se_a
    assert len(fit.warnings) == 3
    for name, warning in zip("ab", fit.warnings[1:], strict=True):
        assert warning == (
            f"{name} = 49.5 lies within 2 standard errors ({fit.se_a:.3g}) of 0: "
            "the counts hardly identify it"
        )
    # Seventy of them, with a much larger excess, do resolve it.
    clear = fit_beta_binomial(np.repeat([0, 1, 2], [140, 120, 140]), 2)
    assert clear.a > 2 * clear.se_a
    assert len(clear.warnings) == 1


@given(st.floats(0.05, 20), st.floats(0.05, 20), st.integers(1, 32))
def test_two_noise_models_give_exactly_the_same_histogram(a, b, trials):
    """Beta(a, b) = m Beta(a + 1, b) + (1 - m) Beta(a, b + 1): right and wrong steps
    that differ in r, and labels that ignore the truth, cannot be told apart by K.
    """
    right = a / (a + b)
    of_right, of_wrong = count_pmf(a + 1, b, trials), count_pmf(a, b + 1, trials)
    mixture = right * of_right + (1 - right) * of_wrong
    np.testing.assert_allclose(mixture, count_pmf(a, b, trials), rtol=1e-11)
    # Yet one label is informative and the other is not.
    fpr, fnr = 1 - of_wrong[0], of_right[0]
    assert fpr + fnr < 1
    # A third reading of the same histogram: the truth is r >= 1/2.
    by_threshold = class_conditional_rates(a, b, trials, 0.5)
    assert np.all(np.isfinite(by_threshold))


def test_real_shaped_noise_models_differ_by_less_than_sampling_noise():
    """Mixtures fitted by least divergence to the one measured on real labels (85 %
    right, Beta(.73, .30) and Beta(.13, 1.0), N = 16): on 100,000 steps their
    likelihoods differ by a fraction of a nat, their false positive rates by .45.
    """
    steps, trials = 100_000, 16
    models = [
        (0.75, (0.72772877, 0.3232872), (0.13698422, 0.20415586)),
        (0.85, (0.73, 0.30), (0.13, 1.0)),
        (0.90, (0.66136037, 0.30295461), (0.08693257, 3.4360097)),
    ]
    histograms = [
        share * count_pmf(*right, trials) + (1 - share) * count_pmf(*wrong, trials)
        for share, right, wrong in models
    ]
    truth = histograms[1]
    for histogram in histograms:
        assert steps * (truth @ np.log(truth / histogram)) < 0.3
    fpr = [positive_label_prob(*wrong, trials) for _, _, wrong in models]
    assert fpr[0] > 0.6
    assert fpr[2] < 0.15
    # So a sample cannot tell them apart either.
    counts = np.random.default_rng(5).multinomial(steps, truth)
    log_likelihoods = [counts @ np.log(histogram) for histogram in histograms]
    assert np.ptp(log_likelihoods) < 3
