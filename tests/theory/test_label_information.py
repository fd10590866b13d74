import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.beta_binomial import class_conditional_counts, class_conditional_rates
from theory.label_noise import (
    count_information,
    information_retention,
    joint_label_probs,
    noisy_fisher_weight,
    noisy_positive_prob,
    predictive_values,
)

probability = st.floats(0, 1, allow_subnormal=False)
interior = st.floats(1e-3, 1 - 1e-3)


def log_probability(logit, pmf_negative, pmf_positive):
    q = jax.nn.sigmoid(logit)
    return jnp.log(q * pmf_positive + (1 - q) * pmf_negative)


@jax.jit
def jax_information(logit, pmf_negative, pmf_positive):
    """Fisher information about the logit, as E (d log p)^2 and as -E d^2 log p."""
    slope = jax.jacfwd(log_probability)
    at = logit, pmf_negative, pmf_positive
    weights = jnp.exp(log_probability(*at))
    return weights @ slope(*at) ** 2, -weights @ jax.jacfwd(slope)(*at)


def autodiff_information(q, pmf_negative, pmf_positive):
    with jax.enable_x64(True):
        logit = np.log(q) - np.log1p(-q)
        both = jax_information(logit, np.array(pmf_negative), np.array(pmf_positive))
        return [float(x) for x in both]


# --- information of a noisy label -----------------------------------------------------


@pytest.mark.parametrize("q", [0.01, 0.5, 0.93])
@pytest.mark.parametrize("fpr", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("fnr", [0.02, 0.4, 0.9])
def test_fisher_weight_equals_autodiff(q, fpr, fnr):
    by_score, by_curvature = autodiff_information(q, [1 - fpr, fpr], [fnr, 1 - fnr])
    weight = noisy_fisher_weight(q, fpr, fnr)
    np.testing.assert_allclose(weight, by_score, rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(weight, by_curvature, rtol=1e-9, atol=1e-15)


@given(interior, interior, interior)
def test_the_four_forms_of_the_fisher_weight_are_equal(q, fpr, fnr):
    weight = noisy_fisher_weight(q, fpr, fnr)
    noisy = noisy_positive_prob(q, fpr, fnr)
    ppv, npv = predictive_values(q, fpr, fnr)
    variance = noisy * (1 - noisy)
    missing = noisy * ppv * (1 - ppv) + (1 - noisy) * npv * (1 - npv)
    covariance = q * (1 - fnr) - q * noisy
    mcc = covariance / np.sqrt(q * (1 - q) * variance)
    forms = [
        (1 - fpr - fnr) ** 2 * (q * (1 - q)) ** 2 / variance,
        variance * (ppv + npv - 1) ** 2,
        q * (1 - q) * mcc**2,
        q * (1 - q) - missing,
    ]
    np.testing.assert_allclose(forms, weight, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(
        information_retention(q, fpr, fnr), mcc**2, rtol=1e-9, atol=1e-13
    )


@given(interior, interior)
def test_false_positives_alone_leave_mixture_times_squared_reliability(q, fpr):
    tp, _, fp, tn = joint_label_probs(q, fpr, 0)
    ppv, npv = predictive_values(q, fpr, 0)
    assert npv == 1
    np.testing.assert_allclose(
        noisy_fisher_weight(q, fpr, 0), (tp + fp) * tn * ppv**2, rtol=1e-12
    )


@given(probability, probability, probability)
def test_noise_only_destroys_and_inverting_labels_changes_nothing(q, fpr, fnr):
    weight = noisy_fisher_weight(q, fpr, fnr)
    assert 0 <= information_retention(q, fpr, fnr) <= 1
    assert 0 <= weight <= q * (1 - q)
    np.testing.assert_allclose(
        weight, noisy_fisher_weight(q, 1 - fpr, 1 - fnr), rtol=1e-9, atol=1e-14
    )
    np.testing.assert_allclose(
        weight, noisy_fisher_weight(1 - q, fnr, fpr), rtol=1e-9, atol=1e-14
    )
    assert noisy_fisher_weight(q, fpr, 1 - fpr) <= 1e-15


@given(interior, interior, interior, st.floats(0, 1))
def test_more_noise_of_one_kind_never_helps_while_the_label_is_right_way_up(
    q, fpr, fnr, more
):
    if fpr + fnr < 1:
        worse_fpr = fpr + more * (1 - fnr - fpr)
        worse_fnr = fnr + more * (1 - fpr - fnr)
        weight = noisy_fisher_weight(q, fpr, fnr) + 1e-15
        assert noisy_fisher_weight(q, worse_fpr, fnr) <= weight
        assert noisy_fisher_weight(q, fpr, worse_fnr) <= weight


def test_labels_worse_than_chance_carry_information():
    assert information_retention(0.3, 1, 1) == 1
    assert noisy_fisher_weight(0.5, 0.9, 0.8) > noisy_fisher_weight(0.5, 0.6, 0.5) > 0


def test_retention_at_a_certain_truth_is_its_limit():
    rates = np.array([0.0, 0.25, 1.0])
    fpr, fnr = rates[:, None], rates[None, :]
    # Rows: fpr 0, 1/4, 1. Columns: fnr 0, 1/4, 1.
    at_zero = [[1, 0.75, 0], [0, 0, 0], [0, 0.25, 1]]
    np.testing.assert_array_equal(information_retention(0, fpr, fnr), at_zero)
    np.testing.assert_allclose(
        information_retention(1e-250, fpr, fnr), at_zero, atol=1e-200
    )
    np.testing.assert_array_equal(
        information_retention(1, fpr, fnr), np.transpose(at_zero)
    )
    np.testing.assert_array_equal(noisy_fisher_weight([[[0]], [[1]]], fpr, fnr), 0)
    # A channel that always gives the same label, whatever the truth.
    q = np.linspace(0, 1, 11)
    for constant in [(0, 1), (1, 0)]:
        np.testing.assert_array_equal(information_retention(q, *constant), 0)


def test_fisher_weight_keeps_its_digits_for_rare_truths():
    for q in (1e-300, 1e-20, 1e-6):
        with mp.workdps(60):
            truth, fpr, fnr = mp.mpf(q), mp.mpf(1e-6), mp.mpf(0.5)
            noisy = truth * (1 - fnr) + (1 - truth) * fpr
            exact = (1 - fpr - fnr) ** 2 * (truth * (1 - truth)) ** 2
            exact /= noisy * (1 - noisy)
            # q = 1e-300 leaves 1e-594, which float64 does not hold.
            np.testing.assert_allclose(
                noisy_fisher_weight(q, 1e-6, 0.5), float(exact), rtol=1e-14
            )
            np.testing.assert_allclose(
                noisy_fisher_weight(q, 0, 0.5), float(truth / 2), rtol=2 * q + 1e-15
            )


def test_fisher_weight_keeps_its_digits_where_the_label_is_almost_worthless():
    # J = -1e-20, which 1 - (fpr + fnr) would round to 0.
    with mp.workdps(60):
        fpr, half = mp.mpf(1e-20), mp.mpf(1) / 2
        exact = fpr**2 / 16 / (half * fpr * (1 - half * fpr))
    for rates in [(1e-20, 1), (1, 1e-20)]:
        np.testing.assert_allclose(
            noisy_fisher_weight(0.5, *rates), float(exact), rtol=1e-14
        )


def test_no_extreme_of_float64_overflows_or_warns():
    ends = np.array([0, 5e-324, 1e-310, 1e-300, 0.5, 1 - 2**-53, 1])
    retention = information_retention(ends[:, None, None], ends[:, None], ends[None, :])
    assert np.all((retention >= 0) & (retention <= 1))


# --- information of the count ---------------------------------------------------------


def random_pmfs(seed, counts=6):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(counts)), rng.dirichlet(np.ones(counts))


@pytest.mark.parametrize("q", [0.02, 0.5, 0.9])
def test_count_information_equals_autodiff_and_louis(q):
    for seed in range(3):
        f0, f1 = random_pmfs(seed)
        by_score, by_curvature = autodiff_information(q, f0, f1)
        information = count_information(q, f0, f1)
        np.testing.assert_allclose(information, by_score, rtol=1e-9)
        np.testing.assert_allclose(information, by_curvature, rtol=1e-9)
        marginal = q * f1 + (1 - q) * f0
        posterior = q * f1 / marginal
        louis = q * (1 - q) - marginal @ (posterior * (1 - posterior))
        np.testing.assert_allclose(information, louis, rtol=1e-9)


@given(probability, probability, probability)
def test_a_binary_count_is_a_label(q, fpr, fnr):
    np.testing.assert_allclose(
        count_information(q, [1 - fpr, fpr], [fnr, 1 - fnr]),
        noisy_fisher_weight(q, fpr, fnr),
        rtol=1e-9,
        atol=1e-14,
    )


@given(
    probability,
    st.floats(0.05, 20),
    st.floats(0.05, 20),
    st.integers(1, 16),
    st.floats(0.2, 0.8),
)
def test_the_count_tells_at_least_what_its_threshold_tells(q, a, b, trials, tau):
    negative, positive = class_conditional_counts(a, b, trials, tau)
    information = count_information(q, negative, positive)
    fpr, fnr = class_conditional_rates(a, b, trials, tau)
    slack = 1e-14
    assert noisy_fisher_weight(q, fpr, fnr) <= information + slack
    assert information <= q * (1 - q)


def test_counts_that_separate_the_classes_keep_everything():
    q = np.array([0.0, 1e-300, 0.1, 0.5, 1.0])
    information = count_information(q, [0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75])
    np.testing.assert_allclose(information, q * (1 - q), rtol=1e-15)
    np.testing.assert_array_equal(count_information(q, [0.5, 0.5], [0.5, 0.5]), 0)


def test_count_information_broadcasts():
    f0, f1 = np.stack([random_pmfs(s) for s in range(4)], axis=1)
    q = np.array([[0.1], [0.7]])
    information = count_information(q, f0, f1)
    assert information.shape == (2, 4)
    assert information[1, 2] == count_information(0.7, f0[2], f1[2])
