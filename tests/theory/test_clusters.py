"""Dependent steps: the clustered covariance, the sandwich of a fit, design effects."""

from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln, expit

from theory.asymptotics import noisy_minimizer_and_sandwich
from theory.clusters import clustered_covariance, clustered_sandwich, design_effect
from theory.mixed import mixed_information
from theory.mixture import mixed_share


def ragged(rng, rollouts, low=1, high=6):
    return np.concatenate([[0], np.cumsum(rng.integers(low, high, rollouts))])


def test_the_sandwich_is_autodiff_summed_rollout_by_rollout():
    rng = np.random.default_rng(0)
    # Some rollouts are empty, and do not count.
    offsets = ragged(rng, 30, low=0)
    steps = offsets[-1]
    phi, y = rng.normal(size=(steps, 3)), rng.random(steps)
    w = noisy_minimizer_and_sandwich(phi, y, 0, 0).w

    def losses(w):
        z = phi @ w
        return jnp.logaddexp(0, z) - y * z

    with jax.enable_x64(True):
        of_steps = np.asarray(jax.jacobian(losses)(w))
        hessian = np.asarray(jax.hessian(lambda w: jnp.sum(losses(w)))(w))
    inverse = np.linalg.inv(hessian)
    gradients = [
        of_steps[start:stop].sum(axis=0)
        for start, stop in pairwise(offsets)
        if stop > start
    ]
    assert len(gradients) < 30
    count = len(gradients)
    meat = sum(np.outer(g, g) for g in gradients) * count / (count - 1)
    np.testing.assert_allclose(
        clustered_sandwich(w, phi, y, offsets), inverse @ meat @ inverse, rtol=1e-8
    )


def test_a_repeated_step_adds_nothing_and_single_steps_are_whites_sandwich():
    rng = np.random.default_rng(1)
    phi, y = rng.normal(size=(200, 2)), (rng.random(200) < 0.6).astype(float)
    of_population = noisy_minimizer_and_sandwich(phi, y, 0, 0)
    once = clustered_sandwich(of_population.w, phi, y, np.arange(201))
    np.testing.assert_allclose(once, of_population.cov / 199, rtol=1e-10)
    repeated = clustered_sandwich(
        of_population.w, np.repeat(phi, 4, 0), np.repeat(y, 4), 4 * np.arange(201)
    )
    np.testing.assert_allclose(repeated, once, rtol=1e-12)


def test_clustered_intervals_of_a_fit_cover_and_those_of_steps_do_not():
    rng, replicates, w = np.random.default_rng(2), 400, np.array([1.0, 0.7, -0.5])
    covered = {"steps": [], "rollouts": []}
    for _ in range(replicates):
        offsets = 5 * np.arange(201)
        of_rollout = np.repeat(rng.normal(size=200), 5)
        phi = np.stack([np.ones(1000), of_rollout, rng.normal(size=1000)], axis=1)
        # Seven in ten steps share their rollout's draw: the marginals stay logistic.
        shared = np.where(
            rng.random(1000) < 0.7, np.repeat(rng.random(200), 5), rng.random(1000)
        )
        y = (shared < expit(phi @ w)).astype(float)
        fit = noisy_minimizer_and_sandwich(phi, y, 0, 0)
        by_rollout = clustered_sandwich(fit.w, phi, y, offsets)
        for name, cov in (("steps", fit.cov / 1000), ("rollouts", by_rollout)):
            inside = np.abs(fit.w - w) < 1.96 * np.sqrt(np.diag(cov))
            covered[name].append(inside)
    steps = np.mean(covered["steps"], axis=0)
    allowed = 4 * np.sqrt(0.95 * 0.05 / replicates)
    assert np.all(np.abs(np.mean(covered["rollouts"], axis=0) - 0.95) < allowed)
    assert np.all(steps[:2] < 0.85)


# --- design effects -------------------------------------------------------------------


def exchangeable_law(n, q, icc):
    """Label vectors and probabilities of Bernoulli(Q), Q ~ Beta with this icc."""
    labels = np.array(list(product([0, 1], repeat=n)))
    a, b = q * (1 / icc - 1), (1 - q) * (1 / icc - 1)
    k = labels.sum(axis=1)
    return labels, np.exp(betaln(a + k, b + n - k) - betaln(a, b))


@given(
    st.integers(2, 6),
    st.floats(0.05, 0.95),
    st.floats(0.01, 0.95),
    st.integers(0, 2**32 - 1),
)
def test_design_effect_is_the_variance_over_all_labellings(n, q, icc, seed):
    labels, weight = exchangeable_law(n, q, icc)
    # Features of two rollouts, centred over both; their own intraclass correlation.
    phi = np.random.default_rng(seed).normal(size=(2, n))
    phi -= phi.mean()
    pairs = np.sum(phi.sum(axis=1) ** 2) - np.sum(phi**2)
    feature_icc = pairs / ((n - 1) * np.sum(phi**2))
    scores = (labels - q) @ phi.T
    dependent = weight @ scores**2
    independent = q * (1 - q) * np.sum(phi**2)
    np.testing.assert_allclose(
        design_effect(n, icc, feature_icc), dependent.sum() / independent, rtol=1e-8
    )


def test_level_and_contrasts_are_the_two_ends():
    n, icc = np.arange(2, 9), 0.49
    np.testing.assert_allclose(design_effect(n, icc), 1 + (n - 1) * icc, rtol=1e-14)
    contrast = design_effect(n, icc, -1 / (n - 1))
    np.testing.assert_allclose(contrast, 1 - icc, rtol=1e-14)
    # What dependence does to the n directions of a rollout leaves their sum alone.
    np.testing.assert_allclose(
        design_effect(n, icc) + (n - 1) * contrast, n, rtol=1e-14
    )
    np.testing.assert_array_equal(design_effect(1, [0.3, -5.0], 1.0), 1)


def test_mixed_rollouts_are_negatively_correlated_steps():
    """Kept because mixed, labels of equal probability stay exchangeable, with icc < 0:
    their information is that of independent ones times the design effect.
    """
    n, q = 5, np.full(5, 0.8)
    a = q[0] ** n
    kept = mixed_share(q)
    mean, both = (q[0] - a) / kept, (q[0] ** 2 - a) / kept
    icc = (both - mean**2) / (mean * (1 - mean))
    assert icc < 0
    psi = np.array([[1.0, 2.0], [1.0, -1.0], [1.0, 0.0], [1.0, -2.0], [1.0, 1.0]])
    independent = mean * (1 - mean) * np.sum(psi**2, axis=0)
    np.testing.assert_allclose(
        np.diag(mixed_information(psi, q)),
        independent * design_effect(n, icc, [1, -1 / 4]),
        rtol=1e-10,
    )


# --- arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "information", "offsets", "message"),
    [
        (np.ones((4, 2)), np.eye(3), [0, 2, 4], "^scores and information must have"),
        (np.ones(4), np.eye(1), [0, 2, 4], "^scores and information must have"),
        (np.ones((4, 1)), np.eye(1), [0, 4, 4], "^offsets must hold at least two"),
        (np.ones((4, 1)), np.eye(1), [0, 2, 3], "^offsets must rise from 0"),
        (np.ones((4, 2)), np.ones((2, 2)), [0, 2, 4], "^information must not be sing"),
        (np.full((4, 1), np.nan), np.eye(1), [0, 2, 4], "^scores must be finite"),
    ],
)
def test_scores_without_a_covariance_are_refused(scores, information, offsets, message):
    with pytest.raises(ValueError, match=message):
        clustered_covariance(scores, information, offsets)


@pytest.mark.parametrize(
    ("n", "icc", "feature_icc", "message"),
    [
        (5, [0.5, 1.01], 1, r"^icc must be in \[-1/\(n - 1\), 1\]"),
        (5, [0.5, -0.26], 1, r"^icc must be in"),
        (5, 0.5, -0.26, r"^feature_icc must be in"),
        (0, 0.5, 1, "^n must be an integer in"),
        (5, np.nan, 1, "^icc must be finite"),
    ],
)
def test_correlations_no_rollout_has_are_refused(n, icc, feature_icc, message):
    with pytest.raises(ValueError, match=message):
        design_effect(n, icc, feature_icc)
