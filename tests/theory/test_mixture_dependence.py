"""Dependence within a rollout: exchangeable labels, and labels given their number."""

from itertools import product

import jax
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from theory import mixture
from theory.paper import FULL_DATA

MEAN = st.floats(0, 1)
ICC = st.floats(0, 1)
STEPS = st.integers(1, 12)
# Up to 7 steps in up to 3 dimensions: all label vectors can be listed.
DESIGNS = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 3))


def draw_design(seed, n, d):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=d), int(rng.integers(0, n + 1))


def subsets(n, n_pos):
    y = np.array(list(product([0, 1], repeat=n)))
    return y[y.sum(axis=1) == n_pos]


def enumerated_covariance(n_pos, psi, beta):
    y = subsets(len(psi), n_pos)
    total = y @ psi
    logit = total @ beta
    weight = np.exp(logit - logit.max())
    weight /= weight.sum()
    centred = total - weight @ total
    return centred.T @ (weight[:, None] * centred)


def assert_close(actual, wanted, rtol=1e-9):
    np.testing.assert_allclose(
        actual, wanted, rtol=0, atol=rtol * np.max(np.abs(wanted)) + 1e-15
    )


@given(DESIGNS)
def test_closed_form_is_the_covariance_over_all_label_vectors(design):
    psi, beta, n_pos = draw_design(*design)
    information = mixture.conditional_logistic_information(n_pos, psi)
    assert_close(information, enumerated_covariance(n_pos, psi, 0 * beta))
    at_zero = mixture.conditional_logistic_information(n_pos, psi, 0 * beta)
    assert_close(at_zero, information)


@given(DESIGNS)
def test_recursion_is_the_covariance_over_all_label_vectors(design):
    psi, beta, n_pos = draw_design(*design)
    information = mixture.conditional_logistic_information(n_pos, psi, 3 * beta)
    assert_close(information, enumerated_covariance(n_pos, psi, 3 * beta))
    assert np.array_equal(information, information.T)
    assert np.linalg.eigvalsh(information)[0] >= -1e-12


@jax.jit
def log_normaliser_hessian(beta, totals):
    return jax.hessian(lambda b: jax.scipy.special.logsumexp(totals @ b))(beta)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 5))
def test_information_is_the_hessian_of_the_conditional_likelihood(seed, scale):
    psi, beta, _ = draw_design(seed, 6, 3)
    beta = scale * beta
    with jax.enable_x64(True):
        hessian = np.asarray(log_normaliser_hessian(beta, subsets(6, 2) @ psi))
    assert_close(mixture.conditional_logistic_information(2, psi, beta), hessian)


@given(DESIGNS, st.floats(-100, 100))
def test_a_constant_in_the_features_and_the_order_of_steps_do_not_matter(design, level):
    psi, beta, n_pos = draw_design(*design)
    wanted = mixture.conditional_logistic_information(n_pos, psi, beta)
    moved = mixture.conditional_logistic_information(n_pos, psi[::-1] + level, beta)
    assert_close(moved, wanted, 1e-10)


@given(DESIGNS)
def test_negatives_count_as_positives_of_the_opposite_model(design):
    psi, beta, n_pos = draw_design(*design)
    assert_close(
        mixture.conditional_logistic_information(len(psi) - n_pos, psi, -beta),
        mixture.conditional_logistic_information(n_pos, psi, beta),
    )


def test_pure_rollouts_carry_nothing():
    """However uncertain its steps, a rollout without contrast says nothing of beta."""
    psi = np.random.default_rng(0).normal(size=(6, 2))
    for beta in (None, [2.0, -1.0]):
        for n_pos in (0, 6):
            pure = mixture.conditional_logistic_information(n_pos, psi, beta)
            assert np.all(pure == 0)
    assert mixture.conditional_logistic_information(1, psi[:1]) == pytest.approx(0)
    assert np.all(mixture.conditional_logistic_information(3, psi).diagonal() > 0.1)


def test_conditioning_costs_nothing_when_labels_are_equally_likely():
    """Averaged over n_pos it is q(1-q) times the scatter: all there is about beta once
    the rollout's intercept is unknown; by Lemma 2, since n/(n-1) E[p(1-p)] = q(1-q)."""
    psi, q, n = np.random.default_rng(1).normal(size=(5, 2)), 0.8, 5
    counts = np.arange(n + 1)
    average = np.tensordot(
        stats.binom.pmf(counts, n, q),
        mixture.conditional_logistic_information(counts, psi),
        axes=1,
    )
    centred = psi - psi.mean(axis=0)
    assert_close(average, q * (1 - q) * centred.T @ centred)


def test_two_steps_are_one_logistic_regression_on_the_difference():
    psi, beta = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([0.3, 0.1])
    gap = psi[0] - psi[1]
    s = 1 / (1 + np.exp(-gap @ beta))
    assert_close(
        mixture.conditional_logistic_information(1, psi, beta),
        s * (1 - s) * np.outer(gap, gap),
    )


@pytest.mark.parametrize("n_pos", [1, 2, 3])
def test_recursion_keeps_its_digits_at_extreme_logits(n_pos):
    """Logits of +-700, and a contrast whose information is 1e-300."""
    psi = np.array([[700.0], [-700.0], [0.0], [690.0]])
    information = mixture.conditional_logistic_information(n_pos, psi, [1.0])
    with mpmath.workdps(400):
        totals = [mpmath.mpf(int(t)) for t in (subsets(4, n_pos) @ psi)[:, 0]]
        weights = [mpmath.exp(t) for t in totals]
        norm = mpmath.fsum(weights)
        mean = mpmath.fdot(weights, totals) / norm
        exact = mpmath.fdot(weights, [(t - mean) ** 2 for t in totals]) / norm
    assert 0 < information[0, 0] == pytest.approx(float(exact), rel=1e-9)


def test_long_rollouts_agree_with_poisson_binomial_simulation():
    rng = np.random.default_rng(5)
    psi, beta, n_pos = rng.normal(size=(12, 2)), np.array([0.8, -0.5]), 7
    q = 1 / (1 + np.exp(-psi @ beta))
    y = rng.random((120_000, 12)) < q
    total = y[y.sum(axis=1) == n_pos] @ psi
    centred = total - total.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.mean(axis=0) - mixture.conditional_logistic_information(
        n_pos, psi, beta
    )
    assert np.all(np.abs(error) <= 4 * products.std(axis=0) / np.sqrt(len(total)))


def test_leading_axes_broadcast():
    rng = np.random.default_rng(3)
    psi, beta = rng.normal(size=(4, 1, 5, 2)), rng.normal(size=(3, 2))
    n_pos = np.array([[1], [2], [3], [5]])
    many = mixture.conditional_logistic_information(n_pos, psi, beta)
    assert many.shape == (4, 3, 2, 2)
    plain = mixture.conditional_logistic_information(n_pos, psi)
    assert plain.shape == (4, 1, 2, 2)
    for i, j in product(range(4), range(3)):
        count, features = int(n_pos[i, 0]), psi[i, 0]
        assert_close(
            many[i, j],
            mixture.conditional_logistic_information(count, features, beta[j]),
        )
        assert_close(
            plain[i, 0], mixture.conditional_logistic_information(count, features)
        )


def test_conditional_information_names_what_is_wrong():
    information = mixture.conditional_logistic_information
    psi = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"^n_pos must be an integer in \[0, n = 3\]"):
        information([0, 4], psi)
    with pytest.raises(ValueError, match=r"^n_pos must be an integer"):
        information(-1, psi)
    for shape in ((3,), (0, 2)):
        with pytest.raises(ValueError, match=r"^psi must have shape \[\.\.\., n, d\]"):
            information(0, np.ones(shape))
    with pytest.raises(ValueError, match=r"^psi must be finite"):
        information(1, [[np.nan]])
    for beta in (1.0, [1.0, 2.0, 3.0]):
        with pytest.raises(
            ValueError, match=r"^beta must have shape \[\.\.\., d = 2\]"
        ):
            information(1, psi, beta)
    with pytest.raises(ValueError, match=r"^beta must be finite"):
        information(1, psi, [np.inf, 0])
    with pytest.raises(ValueError, match=r"^<beta, psi> must be finite"):
        information(1, [[1e200], [-1e200]], [1e200])


def pure_probability(q, n, icc):
    """Both pure counts of a beta-binomial, from scipy."""
    a, b = q * (1 / icc - 1), (1 - q) * (1 / icc - 1)
    return stats.betabinom.pmf(0, n, a, b) + stats.betabinom.pmf(n, n, a, b)


@given(st.floats(0.01, 0.99), STEPS.filter(lambda n: n > 1), st.floats(0.01, 0.99))
def test_exchangeable_mixed_share_is_that_of_the_beta_binomial(q, n, icc):
    assert mixture.exchangeable_mixed_share(q, n, icc) == pytest.approx(
        1 - pure_probability(q, n, icc), abs=1e-11
    )


@given(st.floats(0.01, 0.99), STEPS, st.floats(0.01, 0.99))
def test_exchangeable_expected_mixture_is_that_of_the_beta_binomial(q, n, icc):
    a, b = q * (1 / icc - 1), (1 - q) * (1 / icc - 1)
    p = np.arange(n + 1) / n
    wanted = stats.betabinom.pmf(np.arange(n + 1), n, a, b) @ (p * (1 - p))
    assert mixture.exchangeable_expected_mixture(q, n, icc) == pytest.approx(
        wanted, abs=1e-11
    )


@given(MEAN, STEPS)
def test_no_correlation_is_independence_and_full_correlation_is_purity(q, n):
    same = np.full(n, q)
    assert mixture.exchangeable_mixed_share(q, n, 0) == pytest.approx(
        mixture.mixed_share(same), rel=1e-12
    )
    assert mixture.exchangeable_expected_mixture(q, n, 0) == pytest.approx(
        mixture.label_mixture_moments(same).expected_mixture, abs=1e-15
    )
    assert mixture.exchangeable_mixed_share(q, n, 1) == 0
    assert mixture.exchangeable_expected_mixture(q, n, 1) == 0


@given(MEAN, STEPS, ICC, ICC)
def test_mixing_falls_with_correlation_and_grows_with_length(q, n, one, other):
    low, high = sorted([one, other])
    share = mixture.exchangeable_mixed_share
    assert share(q, n, high) <= share(q, n, low) + 1e-14
    assert 0 <= share(q, n, high) <= share(q, n + 1, high) + 1e-15 <= 1 + 2e-15
    assert share(1 - q, n, high) == pytest.approx(share(q, n, high), abs=1e-14)
    # Two labels differ with probability 2 q (1 - q) (1 - icc), whatever the model.
    assert share(q, 2, high) == pytest.approx(2 * q * (1 - q) * (1 - high), abs=1e-15)


def test_exchangeable_shares_broadcast_and_keep_small_digits():
    n = np.array([1, 2, 3, 7])
    q = np.array([[0.3], [0.9]])
    shares = mixture.exchangeable_mixed_share(q, n, 0.25)
    assert shares.shape == (2, 4)
    for i, j in product(range(2), range(4)):
        one = mixture.exchangeable_mixed_share(q[i, 0], n[j], 0.25)
        assert shares[i, j] == pytest.approx(one, rel=1e-14)
    # As icc -> 1 only the first two labels can differ in more than rounding.
    tiny = mixture.exchangeable_mixed_share(0.3, 3, 1 - 2.0**-40)
    with mpmath.workdps(60):
        rho, q0 = 1 - mpmath.mpf(2) ** -40, mpmath.mpf(0.3)
        third = [
            x * (x * (1 - rho) + rho) * (x * (1 - rho) + 2 * rho) / (1 + rho)
            for x in (q0, 1 - q0)
        ]
        assert tiny == pytest.approx(float(1 - sum(third)), rel=1e-12)


@pytest.mark.parametrize(("sure", "low", "high"), [(1, 0.41, 0.43), (0, 0.59, 0.6)])
def test_the_correlation_that_table_1_asks_for_depends_on_the_law(sure, low, high):
    """Some rollouts certain, the others of one difficulty; a Beta law asks for .49."""
    q, n = 1 - FULL_DATA.error_step_ratio, FULL_DATA.steps_per_rollout
    longer = n - 5

    def law(x):
        certain = (q - x) / (sure - x)
        share = sum(
            part * mixture.mixed_share(np.full(steps, x))
            for steps, part in ((5, 1 - longer), (6, longer))
        )
        spread = certain * (sure - q) ** 2 + (1 - certain) * (x - q) ** 2
        return (1 - certain) * share - FULL_DATA.mixed_share, spread / (q * (1 - q))

    x = optimize.brentq(lambda x: law(x)[0], *((0.05, 0.9) if sure else (q, 1)))
    assert low < law(x)[1] < high


def test_lemma_2_needs_independent_labels():
    """Eq. 9's lower bound fails under dependence; the corpus's 7.67 % mixed rollouts at
    3.57 % error steps are far below what independence gives."""
    theta, n = 0.25, 6
    lower = mixture.mixture_bounds(theta, n).lower
    dependent = mixture.exchangeable_expected_mixture(0.5, n, 0.5)
    assert dependent == pytest.approx(lower / 2)
    independent = mixture.exchangeable_mixed_share(
        1 - FULL_DATA.error_step_ratio, [5, 6], 0
    )
    assert np.all(independent > 0.16)
    correlated = mixture.exchangeable_mixed_share(
        1 - FULL_DATA.error_step_ratio, [5, 6], 0.5
    )
    assert correlated[0] < FULL_DATA.mixed_share < correlated[1]
