"""Simulations of :mod:`theory.clusters`."""

from __future__ import annotations

import numpy as np

from theory import clusters
from theory.logistic import logistic_gradient, logistic_hessian
from theory.simulate.draw import DRAWS, twin


@twin(clusters.clustered_covariance)
def clustered_covariance(scores, information, offsets, *, rng, draws=DRAWS):
    """Covariance where each rollout's score gets a sign by a fair coin (the wild
    bootstrap), times G / (G - 1).
    """
    rollouts = np.split(np.asarray(scores, float), offsets[1:-1])
    total = np.array([rollout.sum(axis=0) for rollout in rollouts])
    signs = rng.choice([-1.0, 1.0], (draws, len(total)))
    moved = signs @ total @ np.linalg.inv(information).T
    count = np.count_nonzero(np.diff(offsets))
    return count / (count - 1) * moved[:, :, None] * moved[:, None, :]


@twin(clusters.clustered_sandwich)
def clustered_sandwich(w, phi, y, offsets, *, rng, draws=DRAWS):
    """The same of the gradients of the logistic loss."""
    information = logistic_hessian(w, phi).sum(axis=0)
    scores = logistic_gradient(w, phi, y)
    return clustered_covariance(scores, information, offsets, rng=rng, draws=draws)


@twin(clusters.design_effect)
def design_effect(n, icc, feature_icc=1.0, *, rng, draws=DRAWS):
    """Mean squared sum of products of exchangeable labels and features, both of mean 0
    and variance 1, over that of independent ones.
    """
    y, psi = (_exchangeable(n, r, rng, draws) for r in (icc, feature_icc))
    return (y * psi).sum(axis=-1) ** 2 / n


def _exchangeable(n, icc, rng, draws):
    """Normal numbers ``[draws, n]`` of any correlation that n numbers can have."""
    own, shared = rng.standard_normal((draws, n)), rng.standard_normal((draws, 1))
    own -= own.mean(axis=-1, keepdims=True)
    # At a correlation that is the least there is, rounding makes this negative.
    level = max(1 + (n - 1) * icc, 0) / n
    return np.sqrt(1 - icc) * own + np.sqrt(level) * shared
