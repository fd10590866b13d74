"""Statements about one step: its gradient, its noisy label, its information."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.theory_table.statement import (
    Statement,
    autodiff_gradient,
    both,
    label_information,
    positive_share,
)
from theory import label_noise, logistic
from theory.simulate.draw import noisy_labels

# A teacher and the features of one step; what they are does not matter.
_W = np.array([0.4, -0.3, 0.7])
_PHI = np.array([1.0, 0.5, 2.0])
_SQ_NORM = float(_PHI @ _PHI)
_Q = float(1 / (1 + np.exp(-_W @ _PHI)))
_VARIANCE = _Q * (1 - _Q)

# A student's probability, away from the teacher's.
_STUDENT = 0.75


def _gradients(w: Any, phi: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the step's loss in ``w`` for Y = 0 and Y = 1, by autodiff."""

    def loss(w, y):
        z = jnp.sum(w * phi)
        return jnp.logaddexp(0.0, z) - y * z

    return (
        autodiff_gradient(lambda w: loss(w, 0.0), w),
        autodiff_gradient(lambda w: loss(w, 1.0), w),
    )


def _moments(share: float, at_student: bool = False) -> tuple[np.ndarray, float]:
    """Mean and second moment of the gradient at the teacher, or of that in the
    student's logit, where a share of the labels is positive.
    """
    logit = np.log([_STUDENT / (1 - _STUDENT)])
    at = (logit, np.ones(1)) if at_student else (_W, _PHI)
    negative, positive = _gradients(*at)
    second = float(share * (positive @ positive) + (1 - share) * (negative @ negative))
    return share * positive + (1 - share) * negative, second


def _second_moment(
    name: str, text: str, fpr: float, fnr: float, paper: float | None
) -> Statement:
    """E|g|^2 at the teacher under label noise."""
    return Statement(
        name,
        text,
        "autodiff",
        **both("gradient_second_moment", _Q, fpr, fnr, _SQ_NORM),
        oracle=lambda: _moments(positive_share(_Q, fpr, fnr))[1],
        paper=paper,
    )


def _squared_snr_oracle() -> float:
    (mean,), second = _moments(positive_share(0.9, 0.1, 0.05), at_student=True)
    return mean**2 / (second - mean**2)


def _curvature(q: float, fpr: float, fnr: float) -> float:
    return label_information(q, [1 - fpr, fpr], [fnr, 1 - fnr])


def _flipped(name: str, q: float, eta: float, **rest) -> Statement:
    """Information under symmetric flips, beside the paper's (1 - 4 eta) q (1 - q)."""
    return Statement(
        name,
        f"information, q {q:g}, flips {eta:g}",
        rest.pop("kind", "autodiff"),
        **both("noisy_fisher_weight", q, eta, eta),
        oracle=rest.pop("oracle", lambda: _curvature(q, eta, eta)),
        paper=float(label_noise.paper_signal(q, eta)),
        **rest,
    )


def _information_after(eta):
    noisy = (1 - 2 * eta) * 0.9 + eta
    return ((1 - 2 * eta) * 0.9 * (1 - 0.9)) ** 2 / (noisy * (1 - noisy))


def _mixture_and_squared_reliability() -> float:
    share = label_noise.noisy_positive_prob(0.6, 0.25, 0.0)
    ppv, _ = label_noise.predictive_values(0.6, 0.25, 0.0)
    return float(share * (1 - share) * ppv**2)


def _complete_less_missing(q: float, fpr: float, fnr: float) -> float:
    """Louis's form of the information: q (1 - q) less the expected variance of Y given
    the label.
    """
    missing = 0.0
    for hit, false in ((1 - fnr, fpr), (fnr, 1 - fpr)):
        share = q * hit + (1 - q) * false
        missing += share * (q * hit / share) * (1 - q * hit / share)
    return q * (1 - q) - missing


STATEMENTS: tuple[Statement, ...] = (
    _second_moment("equation_5", "Eq. 5: E|g|^2 at w*", 0.0, 0.0, _VARIANCE * _SQ_NORM),
    _second_moment(
        "equation_6",
        "Eq. 6: E|g|^2, flips .1",
        0.1,
        0.1,
        ((1 - 4 * 0.1) * _Q * (1 - _Q) + 0.1) * _SQ_NORM,
    ),
    _second_moment(
        "equation_6_half", "Eq. 6 at eta = 1/2", 0.5, 0.5, (0.5 - _VARIANCE) * _SQ_NORM
    ),
    # Eq. 6 for the noise that Monte-Carlo labels have.
    _second_moment(
        "one_sided_second_moment", "E|g|^2, fpr .2, fnr .05", 0.2, 0.05, None
    ),
    Statement(
        "second_moment_is_not_signal",
        "signal <E g, phi> at w*",
        "autodiff",
        exact=lambda: (
            np.sqrt(logistic.gradient_snr(_Q, _Q, 0.0, 0.0)[0] * _VARIANCE) * _SQ_NORM
        ),
        oracle=lambda: _moments(_Q)[0] @ _PHI,
        simulate=lambda rng, draws: (
            (_Q - noisy_labels(_Q, 0.0, 0.0, rng, draws)) * _SQ_NORM
        ),
        paper=_VARIANCE * _SQ_NORM,
        otherwise="counterexample",
        note="the paper takes E|g|^2 of Eq. 5 for signal; at w* it is the variance of "
        "a gradient of mean zero, and flips raise it by eta (1 - 2q)^2",
    ),
    Statement(
        "signal_to_noise",
        "SNR^2 of a step, q_w .75, q .9",
        "autodiff",
        **both("gradient_snr", _STUDENT, 0.9, 0.1, 0.05, part=0),
        oracle=_squared_snr_oracle,
    ),
    # A student between the truth and the label is driven away from the truth.
    Statement(
        "harmful_alignment",
        "alignment, q~ .63 < q_w < q .9",
        "autodiff",
        **both("gradient_snr", _STUDENT, 0.9, 0.0, 0.3, part=1),
        oracle=lambda: (
            _moments(positive_share(0.9, 0.0, 0.3), True)[0] @ _moments(0.9, True)[0]
        ),
        note="negative: such a step teaches the opposite, which no score of |g| shows",
    ),
    _flipped(
        "information_at_one_half",
        0.5,
        0.1,
        note="(1 - 4 eta) is (1 - 2 eta)^2 to first order, and only at q = 1/2",
    ),
    _flipped(
        "information_elsewhere",
        0.9,
        0.1,
        otherwise="counterexample",
        note="the loss is additive, eta (1 - q) + eta q, not a factor of q (1 - q)",
    ),
    _flipped(
        "information_under_heavy_noise",
        0.7,
        0.35,
        otherwise="counterexample",
        note="information cannot be negative; (1 - 4 eta) is above eta = 1/4",
    ),
    Statement(
        "slope_of_the_information",
        "d info / d eta at 0, q .9",
        "autodiff",
        # The expansion is linear in the rates.
        exact=lambda: (
            label_noise.small_noise_fisher_weight(0.9, 1.0, 1.0)
            - label_noise.small_noise_fisher_weight(0.9, 0.0, 0.0)
        ),
        oracle=lambda: autodiff_gradient(_information_after, 0.0),
        paper=-4 * 0.9 * (1 - 0.9),
        note="-1 at every q: noise costs most, in proportion, where q (1 - q) is small",
    ),
    # The edge q = 1: nothing to learn, noise or not.
    _flipped(
        "information_of_a_certain_truth",
        1.0,
        0.1,
        kind="enumeration",
        oracle=lambda: _complete_less_missing(1.0, 0.1, 0.1),
    ),
    # What one-sided noise leaves: the form that BIS resembles.
    Statement(
        "mixture_times_squared_reliability",
        "fpr only: q~ (1 - q~) PPV^2",
        "autodiff",
        exact=_mixture_and_squared_reliability,
        oracle=lambda: _curvature(0.6, 0.25, 0.0),
        simulate=both("noisy_fisher_weight", 0.6, 0.25, 0.0)["simulate"],
        note="mixture times the square of reliability, where BIS has its first power",
    ),
    Statement(
        "complete_minus_missing",
        "q(1-q) MCC^2, fpr .2, fnr .1",
        "enumeration",
        **both("noisy_fisher_weight", 0.6, 0.2, 0.1),
        oracle=lambda: _complete_less_missing(0.6, 0.2, 0.1),
    ),
)
