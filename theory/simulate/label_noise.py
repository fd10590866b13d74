"""Simulations of :mod:`theory.label_noise`."""

from __future__ import annotations

import numpy as np

from theory import label_noise
from theory.simulate.draw import (
    DRAWS,
    Estimate,
    bernoulli,
    flip,
    mean_and_se,
    noisy_labels,
    twin,
)


@twin(label_noise.noisy_positive_prob)
def noisy_positive_prob(q, fpr, fnr, *, rng, draws=DRAWS):
    """Share of positive labels."""
    return noisy_labels(q, fpr, fnr, rng, draws)


@twin(label_noise.predictive_values)
def predictive_values(q, fpr, fnr, *, rng, draws=DRAWS):
    """Shares of right labels among the positive and among the negative ones."""
    truth = bernoulli(q, rng, draws)
    label = flip(rng, truth, fpr, fnr)
    return truth[label], ~truth[~label]


@twin(label_noise.noisy_fisher_weight)
def noisy_fisher_weight(q, fpr, fnr, *, rng, draws=DRAWS):
    """Mean square of the score, the slope in the logit of q of a label's likelihood."""
    label = noisy_labels(q, fpr, fnr, rng, draws)
    positive = np.where(label, 1 - fnr, fnr), np.where(label, fpr, 1 - fpr)
    return _score(q, *positive) ** 2


@twin(label_noise.count_information)
def count_information(q, pmf_negative, pmf_positive, *, rng, draws=DRAWS):
    """The same of a count."""
    f0, f1 = np.asarray(pmf_negative, float), np.asarray(pmf_positive, float)
    _, k = _truth_and_count(q, f0, f1, rng, draws)
    return _score(q, f1[k], f0[k]) ** 2


@twin(label_noise.target_moments)
def target_moments(q, targets, pmf_negative, pmf_positive, *, rng, draws=DRAWS):
    """Mean of the target and mean square about it."""
    _, k = _truth_and_count(q, pmf_negative, pmf_positive, rng, draws)
    t = np.asarray(targets, float)[k]
    return t, (t - t.mean()) ** 2


@twin(label_noise.target_information)
def target_information(q, targets, pmf_negative, pmf_positive, *, rng, draws=DRAWS):
    """q (1 - q) times the squared correlation of truth and target."""
    truth, k = _truth_and_count(q, pmf_negative, pmf_positive, rng, draws)
    y, t = truth - truth.mean(), np.asarray(targets, float)[k]
    t = t - t.mean()
    if not (y.any() and t.any()):
        raise ValueError("draws must hold both truths and two values of the target")
    y, t = y / y.std(), t / t.std()
    r = np.mean(y * t)
    # The delta method for r^2; the square of the error in r is the second order.
    influence = 2 * r * (y * t - r * (y**2 + t**2) / 2)
    se = mean_and_se(influence).standard_error + 1 / draws
    return Estimate(float(q * (1 - q) * r**2), float(q * (1 - q) * se))


def _score(q, if_right, if_wrong):
    """Pr(Y = 1 | observation) - q, from its likelihoods under both truths."""
    right, wrong = q * if_right, (1 - q) * if_wrong
    return right / (right + wrong) - q


def _truth_and_count(q, pmf_negative, pmf_positive, rng, draws):
    truth = bernoulli(q, rng, draws)
    of_both = [
        rng.choice(len(pmf), p=np.asarray(pmf) / np.sum(pmf), size=draws)
        for pmf in (pmf_positive, pmf_negative)
    ]
    return truth, np.where(truth, *of_both)
