"""Simulations of :mod:`theory.logistic`."""

from __future__ import annotations

from theory import logistic
from theory.simulate.draw import DRAWS, Estimate, mean_and_se, noisy_labels, twin


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
    m, v = g.mean(), g.var()
    if v == 0:
        raise ValueError("draws must hold both labels for a ratio to their noise")
    # The delta method for m^2 / v; the square of the error in m is the second order.
    influence = 2 * m / v * g - (m / v) ** 2 * (g - m) ** 2
    se = mean_and_se(influence).standard_error + 1 / draws
    return Estimate(float(m**2 / v), se), g * (q_student - q)
