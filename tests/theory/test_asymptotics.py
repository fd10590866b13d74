"""Rates: Eq. 4 beside the exact 1/n, and Lemma 1's constant put to the test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import rel_entr

from theory import asymptotics

POSITIVE = st.floats(1e-3, 1e6)


@given(POSITIVE, POSITIVE, POSITIVE, POSITIVE, st.floats(1e-3, 1))
def test_inflation_is_what_a_fraction_of_the_data_does_to_the_bound(
    n, updates, c_data, c_opt, gamma
):
    bound = asymptotics.scaling_bound
    single = asymptotics.gamma_inflation(gamma, matched_updates=False)
    matched = asymptotics.gamma_inflation(gamma, matched_updates=True)
    data, optimisation = bound(n, updates, c_data, 0), bound(n, updates, 0, c_opt)
    assert bound(gamma * n, gamma * updates, c_data, c_opt) == pytest.approx(
        single.data * data + single.optimisation * optimisation, rel=1e-12
    )
    assert bound(gamma * n, updates, c_data, c_opt) == pytest.approx(
        matched.data * data + matched.optimisation * optimisation, rel=1e-12
    )
    assert 1 == matched.optimisation <= matched.data == single.data


def test_inflation_of_a_quarter_is_a_factor_of_two():
    data, optimisation = asymptotics.gamma_inflation([0.25, 1.0], False)
    np.testing.assert_allclose(data, [2, 1])
    np.testing.assert_allclose(optimisation, [2, 1])
    assert asymptotics.gamma_inflation([0.25, 1.0], True).optimisation.shape == (2,)
    assert asymptotics.scaling_bound(100, 400, 3, 5) == pytest.approx(0.55)
    np.testing.assert_allclose(
        asymptotics.scaling_bound([4, 16], [[1], [4]], 1, 1), [[1.5, 1.25], [1, 0.75]]
    )


def smoothed_excess(n, q):
    """E KL(q || (K + 1/2) / (n + 1)), K ~ Binomial(n, q): one parameter, all counts."""
    k = np.arange(n + 1)
    fit = (k + 0.5) / (n + 1)
    return stats.binom.pmf(k, n, q) @ (rel_entr(q, fit) + rel_entr(1 - q, 1 - fit))


def test_eq_4_half_powers_are_upper_bounds_while_the_exact_rate_is_one_over_n():
    n = np.array([500, 2_000, 8_000])
    exact = np.array([smoothed_excess(x, 0.8) for x in n])
    np.testing.assert_allclose(
        exact, asymptotics.leading_mle_excess_risk(n, 1), rtol=0.005
    )
    assert np.diff(np.log(exact)) / np.diff(np.log(n)) == pytest.approx(-1, abs=0.005)
    # A bound that is tight at n = 500 is twice, then four times the truth.
    c_data = exact[0] * np.sqrt(500)
    bound = asymptotics.scaling_bound(n, 1, c_data, 0)
    np.testing.assert_allclose(bound / exact, [1, 2, 4], rtol=0.01)
    # So a quarter of the data costs a factor of four, not two.
    data = asymptotics.gamma_inflation(0.25, matched_updates=False).data
    assert data == 2
    assert exact[0] / exact[1] == pytest.approx(4, rel=0.01)


def test_the_expected_risk_of_maximum_likelihood_is_infinite_at_every_n():
    """All labels may be equal; without that event the leading term is near at once."""
    n, q = 200, 0.3
    k = np.arange(n + 1)
    risk = rel_entr(q, k / n) + rel_entr(1 - q, 1 - k / n)
    weight = stats.binom.pmf(k, n, q)
    assert weight @ risk == np.inf
    inner = slice(1, n)
    assert weight[inner] @ risk[inner] == pytest.approx(
        asymptotics.leading_mle_excess_risk(n, 1), rel=0.02
    )


def test_maximum_likelihood_risk_is_half_a_nat_per_parameter_and_example():
    assert asymptotics.leading_mle_excess_risk(50, 3) == pytest.approx(0.03)
    np.testing.assert_allclose(
        asymptotics.leading_mle_excess_risk([[10], [20]], [1, 2]),
        [[0.05, 0.1], [0.025, 0.05]],
    )


def worst_case(c, C, d1, last):
    """Largest D_T the recursion allows for D_t >= 0, T = 1..last: ``[..., last]``."""
    c, C, d = np.broadcast_arrays(
        np.asarray(c, float), np.asarray(C, float), np.asarray(d1, float)
    )
    path = [d]
    for t in range(1, last):
        # Where the factor is negative, D_t = 0 is the worst.
        d = np.maximum(1 - c / np.sqrt(t), 0) * d + C / t
        path.append(d)
    return np.stack(path, axis=-1)


@given(st.floats(0.02, 6), st.floats(0, 10), st.floats(0, 10))
def test_lemma_1_is_never_exceeded(c, C, d1):
    constant = asymptotics.sgd_recursion_constant(c, C, d1)
    scaled = worst_case(c, C, d1, 600) * np.sqrt(np.arange(1, 601))
    assert np.all(scaled <= constant * (1 + 1e-12))


def test_lemma_1_holds_over_long_runs_and_random_slack():
    c = np.geomspace(0.02, 4, 12)[:, None]
    C = np.array([0, 0.1, 1, 10])
    constant = asymptotics.sgd_recursion_constant(c, C, 2.0)
    assert constant.shape == (12, 4)
    roots = np.sqrt(np.arange(1, 20_001))
    assert np.all(worst_case(c, C, 2.0, 20_000) * roots <= constant[..., None] + 1e-9)
    rng = np.random.default_rng(0)
    d = np.full(c.shape, 2.0) * rng.random((12, 4))
    for t in range(1, 3_000):
        assert np.all(d * np.sqrt(t) <= constant)
        allowed = (1 - c / np.sqrt(t)) * d + C / t
        d = np.maximum(allowed * rng.random(d.shape), 0)


def test_lemma_1_constant_by_hand():
    constant = asymptotics.sgd_recursion_constant
    # t0 = 4: the sum of early noise rules, then the stationary term, then sqrt(2) C.
    assert constant(0.5, 1, 3) == pytest.approx(2 * (3 + 1 + np.log(4)))
    assert constant(0.9, 2, 0) == pytest.approx(np.sqrt(2) * 2 * (1 + np.log(2)))
    assert constant(1, 3, 1) == pytest.approx(6)
    assert constant(2, 3, 0.5) == pytest.approx(3 * np.sqrt(2))
    assert constant(2, 0, 0.5) == 0.5
    assert constant(1.4, 1, 0) == pytest.approx(2 / 1.4)


def test_no_smaller_constant_will_do_for_lemma_1():
    """Two of the three terms are attained; the third cannot fall below half of it."""
    roots = np.sqrt(np.arange(1, 30_001))
    # sqrt(2) C at T = 2, where the first step forgets D_1.
    at_two = asymptotics.sgd_recursion_constant(2, 3, 0)
    assert (worst_case(2, 3, 0, 2) * roots[:2])[1] == pytest.approx(at_two)
    # sqrt(t0) d1 at T = 1.
    assert worst_case(1, 0, 5, 1)[0] == asymptotics.sgd_recursion_constant(1, 0, 5)
    # 2 C / c against the limit C / c.
    last = worst_case(1.2, 1, 0, 30_000)[-1] * roots[-1]
    assert last == pytest.approx(1 / 1.2, rel=5e-3)
    assert asymptotics.sgd_recursion_constant(1.2, 1, 0) == pytest.approx(2 / 1.2)


def test_rates_refuse_zeros_and_a_contraction_too_small_for_float64():
    for n, d, name in ((-1, 1, "n"), (np.nan, 1, "n"), (1, -1, "d"), (1, np.inf, "d")):
        with pytest.raises(ValueError, match=f"^{name} must be in "):
            asymptotics.leading_mle_excess_risk(n, d)
    assert asymptotics.scaling_bound(1, 1, 0, 0) == 0
    with pytest.raises(ValueError, match=r"^c must be in"):
        asymptotics.sgd_recursion_constant([1.0, 1e-160], 0, 0)
    smallest = asymptotics.sgd_recursion_constant(1e-150, 0, 1)
    assert smallest == pytest.approx(1e150)
    assert smallest.dtype == np.float64
