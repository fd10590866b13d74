"""Simulations of :mod:`theory.label_noise`."""

from __future__ import annotations

import numpy as np

from theory import label_noise
from theory.simulate.draw import DRAWS, bernoulli, flip, noisy_labels, twin


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
    truth = bernoulli(q, rng, draws)
    f0, f1 = np.asarray(pmf_negative, float), np.asarray(pmf_positive, float)
    k = np.where(truth, _draw_from(f1, rng, draws), _draw_from(f0, rng, draws))
    return _score(q, f1[k], f0[k]) ** 2


def _score(q, if_right, if_wrong):
    """Pr(Y = 1 | observation) - q, from its likelihoods under both truths."""
    right, wrong = q * if_right, (1 - q) * if_wrong
    return right / (right + wrong) - q


def _draw_from(pmf, rng, draws):
    return rng.choice(len(pmf), p=pmf / pmf.sum(), size=draws)
