"""The Gauss rule of a Beta law against its closed-form moments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special

from sim.corpus.quadrature import beta_rule


@given(
    mean=st.floats(0.01, 0.99),
    concentration=st.floats(0.02, 5e3),
    power=st.integers(0, 95),
)
def test_polynomials_are_integrated_exactly(mean, concentration, power):
    a, b = mean * concentration, (1 - mean) * concentration
    x, w = beta_rule(mean, concentration)
    moment = np.exp(special.betaln(a + power, b) - special.betaln(a, b))
    assert w @ x**power == pytest.approx(moment, rel=1e-8, abs=1e-12)
    assert np.all((x >= 0) & (x <= 1) & (w >= 0))


def test_one_and_two_are_no_special_concentrations():
    # The recurrence's general terms are 0/0 at k = 1 and lose a factor at k = 2.
    for concentration in (1.0, 2.0):
        x, w = beta_rule(0.5, concentration, nodes=5)
        exact, _ = integrate.quad(
            lambda phi, k=concentration: (
                np.cos(np.sin(phi / 2) ** 2)
                * (np.sin(phi / 2) * np.cos(phi / 2)) ** (k - 1)
            ),
            0,
            np.pi,
        )
        total = special.beta(concentration / 2, concentration / 2)
        assert w @ np.cos(x) == pytest.approx(exact / total, rel=1e-8)


@pytest.mark.parametrize(
    ("mean", "concentration"), [(0.3, np.inf), (0.0, 2.0), (1.0, 2.0)]
)
def test_degenerate_laws_are_points(mean, concentration):
    x, w = beta_rule(mean, concentration)
    assert x.tolist() == [mean]
    assert w.tolist() == [1.0]
