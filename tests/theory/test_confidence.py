"""Confidence sequences hold the rate at every N, whatever stops them."""

import itertools

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from theory.confidence import (
    confidence_sequence,
    coverage_under_stopping,
    wilson_interval,
)

RATES = np.array([0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.77, 0.9, 0.97, 0.99, 0.997])


def never(k, n):
    return np.zeros(len(k), bool)


def on_one_side(interval, tau=0.5):
    def stop(k, n):
        low, high = interval(k, n)
        return (n >= 4) & ((low > tau) | (high < tau))

    return stop


def narrow(interval, half_width):
    def stop(k, n):
        low, high = interval(k, n)
        return (high - low) / 2 <= half_width

    return stop


@given(st.integers(0, 300), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_ends_of_a_confidence_sequence_solve_its_equation(n, share, level):
    k = round(share * n)
    low, high = confidence_sequence(k, n, level)
    assert 0 <= low <= high <= 1
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)
    with mp.workdps(40):
        mixture = mp.beta(k + 0.5, n - k + 0.5) / mp.beta(0.5, 0.5)
        for end in (float(low), float(high)):
            if 0 < end < 1:
                r = mp.mpf(end)
                ratio = mp.log(mixture) - k * mp.log(r) - (n - k) * mp.log(1 - r)
                slope = abs((n * r - k) / (r * (1 - r)))
                # As an error of the end itself.
                assert abs(ratio + mp.log(1 - mp.mpf(level))) <= 1e-12 * (slope + 1e-3)


def test_without_a_failure_the_end_is_known_in_closed_form():
    n = np.arange(1, 200)
    low, _ = confidence_sequence(n, n)
    exact = [
        float((mp.mpf("0.05") * mp.beta(i + 0.5, 0.5) / mp.pi) ** (mp.mpf(1) / int(i)))
        for i in n
    ]
    np.testing.assert_allclose(low, exact, rtol=0, atol=1e-12)
    assert confidence_sequence(0, 0) == (0, 1)


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.8, 0.95]))
def test_wilsons_interval_is_scipys(k, n, level):
    k = min(k, n)
    exact = binomtest(k, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(wilson_interval(k, n, level), exact, atol=1e-12)


def test_coverage_is_that_of_all_paths_one_by_one():
    most, rate = 8, 0.3

    def stop(k, n):
        return (k == 2) | ((n >= 3) & (k == 0))

    at_stop = always = trials = 0.0
    for path in itertools.product((0, 1), repeat=most):
        weight = rate ** sum(path) * (1 - rate) ** (most - sum(path))
        k = np.cumsum(path)
        ends = [wilson_interval(k[n - 1], n, 0.7) for n in range(1, most + 1)]
        holds = [low <= rate <= high for low, high in ends]
        halted = next(n for n in range(1, most + 1) if n == most or stop(k[n - 1], n))
        at_stop += weight * holds[halted - 1]
        always += weight * all(holds)
        trials += weight * halted
    found = coverage_under_stopping(
        lambda k, n: wilson_interval(k, n, 0.7), stop, rate, most
    )
    exact = np.array([at_stop, always, trials], float)
    np.testing.assert_allclose(np.array(found), exact, rtol=1e-12)
    assert at_stop < 0.9 < found.trials


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_confidence_sequence_holds_at_all_times_at_once(level):
    def interval(k, n):
        return confidence_sequence(k, n, level)

    found = coverage_under_stopping(interval, never, RATES, 200)
    assert np.all(found.always >= level)
    # Not by being endless: some rate is missed half as often as allowed.
    assert found.always.min() < 1 - (1 - level) / 2
    worst = coverage_under_stopping(interval, on_one_side(interval), RATES, 200)
    assert np.all(worst.at_stop >= level)


def test_wilsons_interval_stopped_at_a_verdict_is_wrong_four_times_in_ten():
    stop = on_one_side(wilson_interval)
    found = coverage_under_stopping(wilson_interval, stop, 0.5, 128)
    assert found.at_stop == pytest.approx(0.618, abs=5e-4)
    held = coverage_under_stopping(
        confidence_sequence, on_one_side(confidence_sequence), 0.5, 128
    )
    assert held.at_stop == pytest.approx(0.968, abs=5e-4)


def test_wilsons_interval_stopped_at_a_half_width_errs_as_at_a_fixed_number():
    """What the rule costs is less than its name suggests: K decides little of when an
    interval is narrow, and a fixed N errs as much.
    """
    rates = np.array([0.002, 0.007, 0.78])
    stopped = coverage_under_stopping(
        wilson_interval, narrow(wilson_interval, 0.1), rates, 256
    )
    np.testing.assert_allclose(stopped.at_stop[1:], [0.894, 0.928], atol=5e-4)
    fixed = coverage_under_stopping(wilson_interval, never, rates, 62)
    assert fixed.at_stop[0] == pytest.approx(0.883, abs=5e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: confidence_sequence(2, 1),
        lambda: confidence_sequence(1, 2, 1.0),
        lambda: wilson_interval(-1, 2),
        lambda: wilson_interval(1, 2, 0.0),
        lambda: coverage_under_stopping(wilson_interval, never, 1.2, 4),
        lambda: coverage_under_stopping(wilson_interval, never, 0.2, 0),
    ],
)
def test_arguments_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        wrong()
