"""Simulations of :mod:`theory.logistic`."""

from __future__ import annotations

from theory import logistic
from theory.simulate.draw import DRAWS, noisy_labels, squared_snr, twin


@twin(logistic.gradient_second_moment)
def gradient_second_moment(q, fpr, fnr, sq_norm, *, rng, draws=DRAWS):
    """Mean squared norm of the gradients at the teacher."""
    return (q - noisy_labels(q, fpr, fnr, rng, draws)) ** 2 * sq_norm


@twin(logistic.gradient_snr)
def gradient_snr(q_student, q, fpr, fnr, *, rng, draws=DRAWS):
    """Squared mean over variance of the gradients, and their product with the mean
    gradient of a clean label.
    """
    g = q_student - noisy_labels(q, fpr, fnr, rng, draws)
    if g.var() == 0:
        raise ValueError("draws must hold both labels for a ratio to their noise")
    return squared_snr(g), g * (q_student - q)
