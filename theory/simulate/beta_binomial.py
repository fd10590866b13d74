"""Simulations of :mod:`theory.beta_binomial`."""

from __future__ import annotations

import numpy as np

from theory import beta_binomial
from theory.simulate.draw import DRAWS, twin


def annotate(a, b, trials, rng, draws):
    """r and K of steps, ``[draws]`` or of the shape ``draws``."""
    r = rng.beta(a, b, draws)
    return r, rng.binomial(trials, r)


@twin(beta_binomial.unreliability_posterior)
def unreliability_posterior(k, a, b, trials, tau, *, rng, draws=DRAWS):
    """Share of steps with r < tau among those with K = k."""
    r, count = annotate(a, b, trials, rng, draws)
    return r[count == k] < tau


@twin(beta_binomial.positive_label_prob)
def positive_label_prob(a, b, trials, *, rng, draws=DRAWS):
    """Share of steps with K > 0."""
    return annotate(a, b, trials, rng, draws)[1] > 0


@twin(beta_binomial.count_pmf)
def count_pmf(a, b, trials, *, rng, draws=DRAWS):
    """Share of steps with each K."""
    _, count = annotate(a, b, trials, rng, draws)
    return count[:, None] == np.arange(trials + 1)


@twin(beta_binomial.class_conditional_rates)
def class_conditional_rates(a, b, trials, tau, *, rng, draws=DRAWS):
    """Shares of wrong labels among steps with r < tau, and among the others."""
    r, count = annotate(a, b, trials, rng, draws)
    return count[r < tau] > 0, count[r >= tau] == 0


@twin(beta_binomial.pseudo_positive_rate)
def pseudo_positive_rate(a, b, trials, tau, *, rng, draws=DRAWS):
    """Share of steps with r < tau among those with K > 0."""
    r, count = annotate(a, b, trials, rng, draws)
    return r[count > 0] < tau


@twin(beta_binomial.expected_reliability)
def expected_reliability(a, b, trials, n, *, rng, draws=DRAWS):
    """Mean R of rollouts."""
    return _mixture_and_reliability(a, b, trials, n, rng, draws)[1]


@twin(beta_binomial.expected_bis)
def expected_bis(a, b, trials, n, alpha, *, rng, draws=DRAWS):
    """Mean BIS of rollouts."""
    mixture, reliability = _mixture_and_reliability(a, b, trials, n, rng, draws)
    return (mixture + alpha) * reliability


def _mixture_and_reliability(a, b, trials, n, rng, draws):
    _, count = annotate(a, b, trials, rng, (draws, n))
    positives = (count > 0).sum(axis=-1)
    p = positives / n
    scores = count.sum(axis=-1) / (trials * np.maximum(positives, 1))
    return p * (1 - p), np.where(positives > 0, scores, 1.0)
