"""How many continuations a step deserves: closed forms, search, data processing."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from theory.continuations import (
    JUDGED,
    continuations_per_step,
    one_beta,
    sharpest_continuations,
    soft_continuations,
    trials_information,
    two_betas,
    two_rates,
)
from theory.label_noise import noisy_fisher_weight

interior = st.floats(0.02, 0.98)
rate = st.floats(0, 1)
shape = st.floats(0.05, 5)
LAWS = st.one_of(
    st.tuples(rate, rate).map(lambda r: two_rates(*r)),
    st.tuples(*[st.tuples(shape, shape)] * 2).map(lambda ab: two_betas(*ab)),
    st.tuples(shape, shape, st.floats(0.3, 0.7)).map(lambda p: one_beta(*p)),
)


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_laws_are_binomial_and_beta_binomial(n):
    k = np.arange(n + 1)
    for r0, r1 in ((0.0, 1.0), (0.3, 0.999)):
        for pmf, r in zip(two_rates(r0, r1)(n), (r0, r1), strict=True):
            np.testing.assert_allclose(pmf, binom.pmf(k, n, r), rtol=1e-10, atol=1e-280)
    for pmf, ab in zip(JUDGED(n), ((0.13, 1.0), (0.73, 0.30)), strict=True):
        np.testing.assert_allclose(pmf, betabinom.pmf(k, n, *ab), rtol=1e-9)


@given(interior, LAWS, st.integers(1, 12))
def test_more_continuations_never_tell_less_and_no_label_tells_more(q, counts, n):
    information = trials_information(q, n, counts)
    assert information <= trials_information(q, n + 1, counts) * (1 + 1e-9) + 1e-15
    for target in ("hard", "soft"):
        label = trials_information(q, n, counts, target)
        assert label <= information * (1 + 1e-9) + 1e-15
        if n == 1:
            assert label == pytest.approx(float(information), rel=1e-9, abs=1e-15)


@given(interior, rate, rate, st.integers(1, 9))
def test_information_of_two_rates_by_hand(q, r0, r1, n):
    hard = trials_information(q, n, two_rates(r0, r1), "hard")
    channel = noisy_fisher_weight(q, 1 - (1 - r0) ** n, (1 - r1) ** n)
    np.testing.assert_allclose(hard, channel, rtol=1e-7, atol=1e-14)
    soft = trials_information(q, n, two_rates(r0, r1), "soft")
    mean = q * r1 + (1 - q) * r0
    within = q * r1 * (1 - r1) + (1 - q) * r0 * (1 - r0)
    between = q * (r1 - mean) ** 2 + (1 - q) * (r0 - mean) ** 2
    if within + between > 0:
        kept = (q * (1 - q) * (r1 - r0)) ** 2 / (between + within / n)
        np.testing.assert_allclose(soft, kept, rtol=1e-7, atol=1e-14)


@settings(max_examples=40)
@given(interior, LAWS, st.floats(0, 20), st.sampled_from(["count", "hard", "soft"]))
def test_the_best_number_beats_every_other(q, counts, ratio, target):
    best = int(continuations_per_step(q, counts, ratio, target, most=12))
    gain = [
        trials_information(q, n, counts, target) / (ratio + n) for n in range(1, 13)
    ]
    assert best == 1 + gain.index(max(gain))


def test_information_is_not_concave_so_that_a_step_without_cost_may_deserve_many():
    counts = two_rates(0.3, 0.6)
    information = [trials_information(0.02, n, counts) for n in (1, 2, 3, 20)]
    assert information[2] - information[1] > information[1] - information[0]
    assert information[3] > 20 * information[0]
    assert continuations_per_step(0.02, counts, 0.0) == 20
    # The count of a rare class is worth its chi-squared divergence, which multiplies.
    chi = (0.6**2 / 0.3 + 0.4**2 / 0.7) - 1
    tiny = 1e-9
    for n in (1, 5):
        assert trials_information(tiny, n, counts) / tiny**2 == pytest.approx(
            (1 + chi) ** n - 1, rel=1e-6
        )


def test_best_numbers_broadcast_over_the_truth_and_stop_at_most():
    q = np.array([[0.5], [0.95]])
    best = continuations_per_step(q, JUDGED, 20.0, "hard")
    np.testing.assert_array_equal(best, [[2], [9]])
    assert continuations_per_step(0.95, JUDGED, 20.0, "hard", most=5) == 5
    assert continuations_per_step(0.5, two_rates(0.4, 0.4), 3.0) == 1


@settings(max_examples=30)
@given(interior, LAWS, st.floats(0, 30))
def test_the_best_number_for_soft_labels_is_beside_its_closed_form(q, counts, ratio):
    if trials_information(q, 1, counts, "soft") < 1e-6:
        return
    n = float(soft_continuations(q, counts, ratio))
    if n < 50:
        best = int(continuations_per_step(q, counts, ratio, "soft", most=60))
        assert max(n, 1) - 1 - 1e-6 < best < max(n, 1) + 1 + 1e-6


def test_soft_labels_by_the_variances_of_the_rate():
    q = np.array([0.3, 0.85])
    (a0, b0), (a1, b1) = (0.13, 1.0), (0.73, 0.30)
    first = q * a1 / (a1 + b1) + (1 - q) * a0 / (a0 + b0)
    second = q * a1 * (a1 + 1) / ((a1 + b1) * (a1 + b1 + 1)) + (1 - q) * a0 * (
        a0 + 1
    ) / ((a0 + b0) * (a0 + b0 + 1))
    np.testing.assert_allclose(
        soft_continuations(q, JUDGED, 7.0),
        np.sqrt(7 * (first - second) / (second - first**2)),
    )


@given(st.floats(1e-6, 0.999), st.floats(1e-6, 0.999))
def test_sharpest_hard_labels(one, other):
    r0, r1 = sorted((one, other))
    if r1 - r0 < 1e-9:
        return
    n = float(sharpest_continuations(r0, r1))

    def youden(trials):
        return (1 - r0) ** trials - (1 - r1) ** trials

    # Of all n, in tenths about it, and in whole numbers the neighbours.
    assert all(youden(n) >= youden(n * x) - 1e-15 for x in np.linspace(0.1, 3, 30))
    whole = max(1, math.floor(n))
    around = range(max(1, whole - 3), whole + 5)
    best = max(map(youden, around))
    assert max(youden(whole), youden(whole + 1)) >= best - 1e-15
    low, high = -np.log1p(-r0), -np.log1p(-r1)
    assert 1 / high <= n * (1 + 1e-9)
    assert n <= (1 + 1e-9) / low


def test_edges_of_the_sharpest_number():
    np.testing.assert_array_equal(
        sharpest_continuations([0, 0, 0.2], [0.5, 1, 1]), [np.inf, np.inf, 0]
    )
    # Rates that nearly agree: 1 / -ln(1 - r) to first order.
    near = 0.3 * (1 + 4e-16)
    assert near > 0.3
    assert sharpest_continuations(0.3, near) == pytest.approx(-1 / math.log(0.7))
    assert sharpest_continuations(0.05, 0.8) == pytest.approx(
        math.log(math.log(0.2) / math.log(0.95)) / math.log(0.95 / 0.2), rel=1e-14
    )


def test_arguments_outside_their_ranges_are_named():
    for message, call in {
        "r0 must be in": lambda: two_rates(-0.1, 0.5),
        "r1 must be in": lambda: two_rates(0.1, 1.5),
        "a must be in": lambda: two_betas((0.0, 1.0), (1.0, 1.0))(2),
        "q must be in": lambda: trials_information(2.0, 1, JUDGED),
        "trials must be": lambda: trials_information(0.5, 0, JUDGED),
        "target must be": lambda: trials_information(0.5, 1, JUDGED, "best"),  # pyright: ignore[reportArgumentType]
        "cost_ratio must be": lambda: continuations_per_step(0.5, JUDGED, -1.0),
        "most must be": lambda: continuations_per_step(0.5, JUDGED, 1.0, most=0),
        "q must be in (0, 1), and": lambda: soft_continuations(1.0, JUDGED, 1.0),
        "cost_ratio must be in": lambda: soft_continuations(0.5, JUDGED, np.nan),
        "r0 must be below": lambda: sharpest_continuations(0.5, 0.5),
    }.items():
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            call()
