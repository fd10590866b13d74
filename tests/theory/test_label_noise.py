import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theory.label_noise import (
    count_information,
    joint_label_probs,
    noisy_fisher_weight,
    noisy_positive_prob,
    paper_signal,
    predictive_values,
    small_noise_fisher_weight,
)
from theory.paper import FULL_DATA

probability = st.floats(0, 1, allow_subnormal=False)
interior = st.floats(1e-3, 1 - 1e-3)


# --- channel --------------------------------------------------------------------------


@given(probability, probability, probability)
def test_the_channel_splits_the_truth_into_four_cells(q, fpr, fnr):
    tp, fn, fp, tn = joint_label_probs(q, fpr, fnr)
    assert min(tp, fn, fp, tn) >= 0
    np.testing.assert_allclose(
        [tp + fn, fp + tn, tp + fp + fn + tn], [q, 1 - q, 1], atol=1e-15
    )
    np.testing.assert_allclose([fn, fp], [q * fnr, (1 - q) * fpr], rtol=1e-15)
    assert noisy_positive_prob(q, fpr, fnr) == tp + fp
    np.testing.assert_allclose(tp + fp, q * (1 - fnr) + (1 - q) * fpr, rtol=1e-15)


@given(probability, probability)
def test_symmetric_flips_give_equation_10(q, eta):
    np.testing.assert_allclose(
        noisy_positive_prob(q, eta, eta), (1 - 2 * eta) * q + eta, atol=1e-15
    )


@given(interior, interior, interior)
def test_predictive_values_are_bayes(q, fpr, fnr):
    ppv, npv = predictive_values(q, fpr, fnr)
    prior_odds = q / (1 - q)
    np.testing.assert_allclose(ppv / (1 - ppv), prior_odds * (1 - fnr) / fpr, rtol=1e-9)
    np.testing.assert_allclose(npv / (1 - npv), (1 - fpr) / fnr / prior_odds, rtol=1e-9)
    assert 0 <= ppv <= 1
    assert 0 <= npv <= 1


def test_predictive_values_of_a_certain_truth_are_their_limits():
    # PPV at q = 0 and at q = 1, with and without the noise that could touch it.
    ppv, npv = predictive_values([0, 0, 1, 1], [0, 0.2, 0, 0.2], [0.3, 0.3, 0.3, 1.0])
    assert ppv.tolist() == [1, 0, 1, 0]
    assert npv.tolist() == [1, 1, 0, 0]
    ppv, npv = predictive_values([1, 0, 0], [0.3, 1.0, 0.3], [0, 0.2, 0])
    assert npv.tolist() == [1, 0, 1]
    assert ppv.tolist() == [1, 0, 0]
    for rates in [(0, 0.3), (0.2, 0.3), (1, 0.3), (0.2, 1)]:
        near = predictive_values(1e-250, *rates)
        np.testing.assert_allclose(predictive_values(0, *rates), near, atol=1e-200)


@pytest.mark.parametrize("rates", [(0, 1), (1, 0)])
def test_predictive_value_of_a_label_that_never_occurs_is_refused(rates):
    with pytest.raises(ValueError, match=r"^fpr and fnr must not be 0 and 1"):
        predictive_values(0.5, *np.transpose([(0.1, 0.2), rates]))


# --- expansion and the paper's factor -------------------------------------------------


@given(st.floats(0.05, 0.95), st.floats(0.1, 1), st.floats(0.1, 1))
def test_the_expansion_errs_at_second_order(q, fpr, fnr):
    def error(scale):
        rates = scale * fpr, scale * fnr
        exact = noisy_fisher_weight(q, *rates)
        return exact - small_noise_fisher_weight(q, *rates)

    scale = 1e-4
    assert error(scale) > 0
    assert abs(error(scale) / error(scale / 2) - 4) < 0.02


@given(probability, probability, probability)
def test_the_expansion_is_additive_in_the_noise(q, fpr, fnr):
    np.testing.assert_allclose(
        small_noise_fisher_weight(q, fpr, fnr),
        q * (1 - q) - fpr * (1 - q) - fnr * q,
        atol=1e-15,
    )


@given(probability)
def test_paper_factor_agrees_to_first_order_at_one_half_only(eta):
    exact = noisy_fisher_weight(0.5, eta, eta)
    np.testing.assert_allclose(exact, (1 - 2 * eta) ** 2 / 4, atol=1e-15)
    np.testing.assert_allclose(exact - paper_signal(0.5, eta), eta**2, atol=1e-15)
    # Elsewhere the loss is eta itself, not 4 q (1 - q) eta.
    for q in (0.05, 0.2, 0.9):
        small = 1e-7
        loss = q * (1 - q) - noisy_fisher_weight(q, small, small)
        claimed = q * (1 - q) - paper_signal(q, small)
        np.testing.assert_allclose(loss / small, 1, rtol=1e-4)
        np.testing.assert_allclose(claimed / small, 4 * q * (1 - q), rtol=1e-7)


@given(interior, st.floats(1e-3, 1))
@example(0.4, 0.1)
@example(0.5, 0.01)
def test_paper_signal_is_too_large_where_its_docstring_says(q, eta):
    exact, paper = noisy_fisher_weight(q, eta, eta), paper_signal(q, eta)
    limit = (1 - 4 * eta) * (1 - eta) / (4 * max((1 - 2 * eta) ** 2, 1e-12))
    if abs(q * (1 - q) - limit) > 1e-9:
        assert (paper > exact) == (eta < 0.25 and q * (1 - q) < limit)


def test_paper_factor_1_minus_4_eta_overstates_and_turns_negative():
    """At the paper's error rate (q = 1 - .0357) and 10 % flips: 3 times too much."""
    q = 1 - FULL_DATA.error_step_ratio
    assert paper_signal(q, 0.1) > 3 * noisy_fisher_weight(q, 0.1, 0.1)
    # So it reverses orders: more flips on a balanced step, fewer on a lopsided one.
    assert paper_signal(0.5, 0.21) < paper_signal(0.1, 0.05)
    assert noisy_fisher_weight(0.5, 0.21, 0.21) > noisy_fisher_weight(0.1, 0.05, 0.05)
    assert paper_signal(0.5, 0.3) < 0 < noisy_fisher_weight(0.5, 0.3, 0.3)
    assert paper_signal(0.5, 0.25) == 0


# --- domains --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan])
def test_other_arguments_outside_their_range_are_named(bad):
    with pytest.raises(ValueError, match=r"^q must be in \[0, 1\]"):
        count_information(bad, [1.0], [1.0])
    with pytest.raises(ValueError, match=r"^pmf_negative must be in \[0, 1\]"):
        count_information(0.5, [bad, 1 - bad], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"^pmf_positive must be in \[0, 1\]"):
        count_information(0.5, [0.5, 0.5], [bad, 1 - bad])


def test_distributions_that_do_not_sum_to_one_are_refused():
    for bad in ([0.5, 0.5 + 2e-9], [[0.5, 0.5], [0.5, 0.25]], 1.0):
        with pytest.raises(ValueError, match=r"^pmf_negative must sum to 1"):
            count_information(0.5, bad, [0.5, 0.5])
        with pytest.raises(ValueError, match=r"^pmf_positive must sum to 1"):
            count_information(0.5, [0.5, 0.5], bad)
    # Within rounding they pass, and still tell no more than the truth itself would.
    above, below = [0.5, 0.5 + 5e-10, 0, 0], [0, 0, 0.5, 0.5 - 5e-10]
    assert count_information(0.5, above, below[::-1]) <= 0.25
    assert count_information(0.5, above, above[::-1]) == 0.25
    with pytest.raises(
        ValueError,
        match=r"^pmf_negative and pmf_positive must cover the same counts, not 1 and 2",
    ):
        count_information(0.5, np.ones((3, 4, 1)), np.full((3, 4, 2), 0.5))
