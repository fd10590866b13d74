"""Rollouts kept because mixed: moments, likelihood, and a fit that undoes selection."""

from itertools import pairwise, product

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from theory import mixed
from theory.asymptotics import noisy_minimizer_and_sandwich
from theory.mixture import mixed_selection_logit_shift, mixed_share
from theory.rollouts import Rollouts
from theory.selection import select

DESIGNS = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(0, 8))
W = np.array([2.2, 1.0, -0.6])


def draw_design(seed, n, scale, d=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), expit(scale * rng.normal(size=n))


def mixed_law(q):
    """All mixed label vectors and their probabilities given "mixed"."""
    labels = np.array(list(product([0, 1], repeat=len(q))))[1:-1]
    weight = np.prod(np.where(labels == 1, q, 1 - q), axis=1)
    return labels, weight / weight.sum()


def corpus(rng, rollouts, low=2, high=7):
    """Features of steps, with an intercept and one of the rollout, and their labels."""
    lengths = rng.integers(low, high, rollouts)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    of_rollout = np.repeat(rng.normal(size=rollouts), lengths)
    phi = np.stack(
        [np.ones(offsets[-1]), rng.normal(size=offsets[-1]), of_rollout], axis=1
    )
    return phi, (rng.random(offsets[-1]) < expit(phi @ W)).astype(float), offsets


def take(rows, phi, y, offsets):
    steps = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in rows])
    lengths = np.diff(offsets)[rows]
    return phi[steps], y[steps], np.concatenate([[0], np.cumsum(lengths)])


def kept(phi, y, offsets):
    share = np.add.reduceat(y, offsets[:-1]) / np.diff(offsets)
    return take(np.flatnonzero((share > 0) & (share < 1)), phi, y, offsets)


def distance(fit):
    """Squared standardised distance from the truth: chi-squared, d = 3."""
    return (fit.w - W) @ np.linalg.solve(fit.covariance, fit.w - W)


# --- information ----------------------------------------------------------------------


@given(DESIGNS)
def test_information_is_the_covariance_over_all_mixed_labellings(design):
    phi, q = draw_design(*design)
    labels, weight = mixed_law(q)
    centred = labels @ phi - weight @ labels @ phi
    np.testing.assert_allclose(
        mixed.mixed_information(phi, q),
        centred.T @ (weight[:, None] * centred),
        rtol=1e-9,
        atol=1e-11,
    )


@given(DESIGNS)
def test_selection_never_adds_to_what_all_rollouts_tell(design):
    phi, q = draw_design(*design)
    full = phi.T @ ((q * (1 - q))[:, None] * phi)
    lost = full - mixed_share(q) * mixed.mixed_information(phi, q)
    assert np.linalg.eigvalsh(lost)[0] > -1e-12 * np.trace(full) - 1e-15


@given(st.integers(2, 40), st.floats(0.001, 0.999), st.integers(0, 2**32 - 1))
def test_at_equal_q_contrasts_gain_one_over_m_and_the_level_loses(n, q, seed):
    psi = np.random.default_rng(seed).normal(size=(n, 1))
    psi -= psi.mean()
    q = np.full(n, q)
    clean = q[0] * (1 - q[0])
    gain = mixed.mixed_information(psi, q) / (clean * psi.T @ psi)
    np.testing.assert_allclose(gain, 1 / mixed_share(q), rtol=1e-9)
    level = mixed.mixed_information(np.ones((n, 1)), q)[0, 0] / (n * clean)
    # Once pure rollouts are too rare for float64 nothing is lost.
    assert level < 1 if 1 - mixed_share(q) > 1e-9 else level < 1 + 1e-9
    assert n > 2 or abs(level) < 1e-9 / clean


def test_information_broadcasts_over_rollouts():
    rng = np.random.default_rng(0)
    phi, q = rng.normal(size=(2, 3, 4, 2)), rng.random((2, 3, 4))
    got = mixed.mixed_information(phi, q)
    assert got.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(
        got[1, 2], mixed.mixed_information(phi[1, 2], q[1, 2]), rtol=1e-12
    )


# --- likelihood -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_likelihood_is_that_of_the_listed_labellings_with_autodiff(scale):
    phi, y, offsets = kept(*corpus(np.random.default_rng(1), 25))
    w = scale * W
    spans = list(pairwise(offsets))

    def log_likelihood(w):
        total = jnp.float64(0.0)
        for start, stop in spans:
            labels = np.array(list(product([0, 1], repeat=int(stop - start))))[1:-1]
            z = phi[start:stop] @ w
            total += y[start:stop] @ z - jax.scipy.special.logsumexp(labels @ z)
        return total

    with jax.enable_x64(True):
        value = float(log_likelihood(jnp.asarray(w)))
        gradient = np.asarray(jax.grad(log_likelihood)(jnp.asarray(w)))
        hessian = np.asarray(jax.hessian(log_likelihood)(jnp.asarray(w)))
    got = mixed.mixed_log_likelihood(w, phi, y, offsets)
    np.testing.assert_allclose(got.value, value, rtol=1e-11)
    np.testing.assert_allclose(got.gradient, gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.information, -hessian, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "z", [[30, 32], [-300, -301, -302], [699, 698, 699.5], [650, -2, 3], [600, -690]]
)
def test_digits_are_kept_where_the_mixed_share_is_tiny(z):
    y, z = np.arange(len(z)) == 0, np.asarray(z, float)
    got = mixed.mixed_log_likelihood(z, np.eye(len(z)), y, [0, len(z)])
    with mp.workdps(700):
        labels = list(product([0, 1], repeat=len(z)))[1:-1]
        weight = [mp.exp(mp.fdot(one, z)) for one in labels]
        total = mp.fsum(weight)
        value = mp.mpf(z[0]) - mp.log(total)
        mean = [mp.fdot(weight, x) / total for x in zip(*labels, strict=True)]
    np.testing.assert_allclose(got.value, float(value), rtol=1e-12, atol=1e-12)
    # A logit of 700 has an absolute error of 1e-13.
    np.testing.assert_allclose(
        got.gradient, y - np.array(mean, float), rtol=1e-11, atol=1e-15
    )
    variance = [float(x * (1 - x)) for x in mean]
    np.testing.assert_allclose(
        np.diag(got.information), variance, rtol=1e-10, atol=1e-14
    )


def test_long_rollouts_are_as_good_as_unselected():
    rng = np.random.default_rng(2)
    phi = rng.normal(size=(200_000, 2))
    y = (rng.random(200_000) < expit(phi[:, 0])).astype(float)
    offsets = [0, 100_000, 200_000]
    got = mixed.mixed_log_likelihood([1.0, 0.0], phi, y, offsets)
    q = expit(phi[:, 0])
    np.testing.assert_allclose(
        got.value, np.log(np.where(y == 1, q, 1 - q)).sum(), rtol=1e-12
    )
    np.testing.assert_allclose(got.gradient, (y - q) @ phi, rtol=1e-9)
    np.testing.assert_allclose(
        got.information, phi.T @ ((q * (1 - q))[:, None] * phi), rtol=1e-9, atol=1e-9
    )


def test_conditional_means_are_the_shifted_logits():
    z = np.array([2.0, -1.0, 0.5, 3.0])
    y = np.arange(4) == 0
    got = mixed.mixed_log_likelihood(z, np.eye(4), y, [0, 4])
    shifted = expit(z + mixed_selection_logit_shift(expit(z)))
    np.testing.assert_allclose(y - got.gradient, shifted, rtol=1e-10)


# --- the fit --------------------------------------------------------------------------


def test_the_fit_undoes_a_selection_that_misleads_a_plain_one():
    rng, replicates = np.random.default_rng(4), 150
    corrected, plain = [], []
    for _ in range(replicates):
        phi, y, offsets = kept(*corpus(rng, 1500))
        corrected.append(distance(mixed.fit_mixed(phi, y, offsets)))
        naive = noisy_minimizer_and_sandwich(phi, y, 0, 0)
        plain.append(distance(mixed.MixedFit(naive.w, naive.cov / len(y))))
    # Chi-squared with three degrees of freedom has the variance 6.
    assert abs(np.mean(corrected) - 3) < 4 * np.sqrt(6 / replicates)
    assert np.min(plain) > 200


def test_the_maximum_has_no_slope_and_the_inverse_information():
    phi, y, offsets = kept(*corpus(np.random.default_rng(5), 400))
    fit = mixed.fit_mixed(phi, y, offsets)
    there = mixed.mixed_log_likelihood(fit.w, phi, y, offsets)
    np.testing.assert_allclose(there.gradient, 0, atol=1e-9 * len(y))
    np.testing.assert_allclose(fit.covariance @ there.information, np.eye(3), atol=1e-7)
    # A corpus in other units has the same fit in those units, far start or not.
    scaled = mixed.fit_mixed(phi * [1, 1e-3, 30], y, offsets)
    np.testing.assert_allclose(scaled.w * [1, 1e-3, 30], fit.w, rtol=1e-7)


def test_what_a_budget_keeps_decides_whether_the_likelihood_is_right():
    """With one continuation a step, BIS ranks by p (1 - p). At the mixed share its
    subset is the mixed rollouts, pure ones at probability 0: no weights bring them
    back, the likelihood does. A budget half as large prefers the balanced ones, which
    "mixed" alone does not describe.
    """
    rng, replicates = np.random.default_rng(6), 40
    found = {1.0: [], 0.5: []}
    for _ in range(replicates):
        phi, y, offsets = corpus(rng, 3000, 5, 6)
        counts = Rollouts.from_scores(y, 1, offsets)
        share = np.add.reduceat(y, offsets[:-1]) / 5
        of_mixed = float(np.mean((share > 0) & (share < 1)))
        for part, distances in found.items():
            content = rng.integers(0, 2**63, 3000).astype(np.uint64)
            rows = select(counts, "bis", part * of_mixed, content).rows
            assert np.all((share[rows] > 0) & (share[rows] < 1))
            fit = mixed.fit_mixed(*take(rows, phi, y, offsets))
            distances.append(distance(fit))
    assert abs(np.mean(found[1.0]) - 3) < 4 * np.sqrt(6 / replicates)
    assert np.mean(found[0.5]) > 20


def test_pairs_are_the_conditional_logit_of_their_difference():
    rng = np.random.default_rng(7)
    phi, w = rng.normal(size=(400, 2)), np.array([1.0, -2.0])
    y = np.empty(400)
    difference = phi[::2] - phi[1::2]
    y[::2] = rng.random(200) < expit(difference @ w)
    y[1::2] = 1 - y[::2]
    fit = mixed.fit_mixed(phi, y, np.arange(0, 401, 2))
    pairs = noisy_minimizer_and_sandwich(difference, y[::2], 0, 0)
    np.testing.assert_allclose(fit.w, pairs.w, rtol=1e-9)
    # What two steps have in common is lost.
    with pytest.raises(ValueError, match=r"^phi must identify"):
        mixed.fit_mixed(np.hstack([phi, np.ones((400, 1))]), y, np.arange(0, 401, 2))


@pytest.mark.parametrize(
    ("y", "offsets", "message"),
    [
        ([0, 1, 1, 1], [0, 2, 4], "^y must be 0 or 1, and both in each rollout"),
        ([0, 1, 0, 0], [0, 2, 4], "^y must be 0 or 1, and both"),
        ([0, 0.5, 0, 1], [0, 2, 4], "^y must be 0 or 1, and both"),
        ([0, 1, 0, 1], [0, 2, 2, 4], "^y must be 0 or 1, and both"),
        ([0, 1, 0, 1], [0, 2], "^offsets must rise from 0 to n_steps = 4"),
        ([0, 1, 0], [0, 3], "^phi and y must have shapes"),
        ([0, 1, 0, 1], [0, 2, 4], "^y must not be separable within rollouts"),
    ],
)
def test_rollouts_the_fit_cannot_use_are_refused(y, offsets, message):
    with pytest.raises(ValueError, match=message):
        mixed.fit_mixed([[0.0], [1.0], [0.0], [2.0]], y, offsets)


def test_arguments_outside_their_range_are_refused():
    for phi, q, message in [
        ([[1.0], [2.0]], [0.5, 1.0], r"^q must be in \(0, 1\)"),
        ([[1.0], [2.0]], [0.0, 0.5], r"^q must be in \(0, 1\)"),
        ([[1.0]], [0.5], "^phi and q must have shapes"),
        ([[1.0], [2.0]], [0.5, 0.5, 0.5], "^phi and q must have shapes"),
        ([[1.0]], 0.5, "^phi and q must have shapes"),
    ]:
        with pytest.raises(ValueError, match=message):
            mixed.mixed_information(phi, q)
    for w, message in [([701.0], r"^<w, phi> must be in \+-700"), ([1, 2], "^w must")]:
        with pytest.raises(ValueError, match=message):
            mixed.mixed_log_likelihood(w, [[1.0], [-1.0]], [0, 1], [0, 2])
