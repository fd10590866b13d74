"""Simulations of :mod:`theory.mixture`."""

from __future__ import annotations

import numpy as np

from theory import mixture
from theory.simulate.draw import DRAWS, Estimate, bernoulli, flip, mean_and_se, twin


@twin(mixture.label_mixture_moments)
def label_mixture_moments(q, *, rng, draws=DRAWS):
    """Half the share of unlike labels where a step is labelled twice, the same of two
    steps drawn at random, and mean p (1 - p).
    """
    first, second = bernoulli(q, rng, draws), bernoulli(q, rng, draws)
    same = np.mean(first ^ second, axis=-1) / 2
    return same, _unlike(q, rng, draws), _mixture(first)


@twin(mixture.flipped_uncertainty)
def flipped_uncertainty(theta, eta, *, rng, draws=DRAWS):
    """Half the share of unlike pairs of flipped labels."""
    first, second = _pairs(theta, rng, draws)
    return (flip(rng, first, eta, eta) ^ flip(rng, second, eta, eta)) / 2


@twin(mixture.flip_gap)
def flip_gap(theta, eta, *, rng, draws=DRAWS):
    """The same less that of the labels before."""
    first, second = _pairs(theta, rng, draws)
    after = flip(rng, first, eta, eta) ^ flip(rng, second, eta, eta)
    return (after * 1.0 - (first ^ second)) / 2


@twin(mixture.unbiased_mixture)
def unbiased_mixture(q, *, rng, draws=DRAWS):
    """Mean ``n_pos n_neg / (n (n - 1))``, and less that of two unlike labels of steps
    drawn at random.
    """
    labels, n = bernoulli(q, rng, draws), len(q)
    found = _mixture(labels) * n / max(n - 1, 1)
    theta = _unlike(q, rng, draws)
    return found, found - theta


@twin(mixture.mixed_share)
def mixed_share(q, *, rng, draws=DRAWS):
    """Share of rollouts with both labels."""
    return is_mixed(bernoulli(q, rng, draws))


@twin(mixture.mixed_selection_logit_shift)
def mixed_selection_logit_shift(q, *, rng, draws=DRAWS):
    """Logits of the share of positive labels in the mixed rollouts, less those of q."""
    labels, q = bernoulli(q, rng, draws), np.asarray(q, float)
    p, se = mean_and_se(1.0 * labels[is_mixed(labels)])
    if not np.all((p > 0) & (p < 1)):
        raise ValueError("draws must hold mixed rollouts with both labels of each step")
    shift = np.log(p / (1 - p)) - np.log(q / (1 - q))
    return Estimate(shift, se / (p * (1 - p)))


@twin(mixture.exchangeable_mixed_share)
def exchangeable_mixed_share(q, n, icc, *, rng, draws=DRAWS):
    """Share of rollouts with both labels."""
    return is_mixed(_exchangeable(q, n, icc, rng, draws))


@twin(mixture.exchangeable_expected_mixture)
def exchangeable_expected_mixture(q, n, icc, *, rng, draws=DRAWS):
    """Mean p (1 - p)."""
    return _mixture(_exchangeable(q, n, icc, rng, draws))


@twin(mixture.conditional_logistic_information)
def conditional_logistic_information(n_pos, psi, beta=None, *, rng, draws=DRAWS):
    """Half the mean squared difference of two sums ``sum_j y_j psi_j`` with n_pos
    positives, of labels with log odds ``<beta, psi_j>`` and a constant.
    """
    psi = np.asarray(psi, float) - np.mean(psi, axis=0)
    tilt = np.zeros(len(psi)) if beta is None else psi @ np.asarray(beta, float)
    # Any constant gives the same law; this one makes n_pos positives likely.
    with np.errstate(divide="ignore", over="ignore"):
        odds_against = np.divide(len(psi) - n_pos, n_pos) * np.exp(-tilt)
    labels = bernoulli(1 / (1 + odds_against), rng, draws)
    sums = labels[labels.sum(axis=-1) == n_pos] @ psi
    half = len(sums) // 2
    off = sums[:half] - sums[half : 2 * half]
    return off[:, :, None] * off[:, None, :] / 2


def _mixture(labels):
    p = labels.mean(axis=-1)
    return p * (1 - p)


def is_mixed(labels):
    """Whether rollouts ``[..., n_steps]`` have both labels."""
    return labels.any(axis=-1) & ~labels.all(axis=-1)


def _unlike(q, rng, draws):
    """Half whether labels of two steps drawn at random with replacement differ."""
    one, other = np.asarray(q)[rng.integers(len(q), size=(2, draws))]
    return ((rng.random(draws) < one) ^ (rng.random(draws) < other)) / 2


def _pairs(theta, rng, draws):
    """Two labels with the probability qbar <= 1/2 that has this theta."""
    mean = (1 - np.sqrt(1 - 4 * theta)) / 2
    return bernoulli(mean, rng, draws), bernoulli(mean, rng, draws)


def _exchangeable(q, n, icc, rng, draws):
    """Labels by Polya's urn: each copies an earlier one or is drawn anew."""
    labels = bernoulli(np.full(n, q), rng, draws)
    for t in range(1, n):
        copied = rng.random(draws) < t * icc / (1 - icc + t * icc)
        labels[copied, t] = labels[copied, rng.integers(t, size=copied.sum())]
    return labels
