"""Logistic loss of one step: gradients, their second moment, and signal against noise.

Student ``q_w = sigma(<w, phi>)``, loss ``-y log q_w - (1 - y) log(1 - q_w)``, truth
``Y ~ Bernoulli(q)``, label Y~ through the channel of :mod:`theory.label_noise`.
Weights w and features phi are ``[..., D]``, a label y, soft or not, is ``[...]`` in
[0, 1], as are q and ``q_student``, q_w; ``sq_norm`` is ``||phi||^2`` >= 0. All forms
keep their relative precision at any logit (|<w, phi>| = 700 included). Arguments
broadcast; results are float64; an argument outside its range or NaN raises ValueError.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from theory.domain import check_finite, check_nonnegative, check_probability
from theory.label_noise import joint_label_probs


def logistic_loss(w: ArrayLike, phi: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Logistic loss ``y log(1 + e^-z) + (1 - y) log(1 + e^z)`` with ``z = <w, phi>``.

    Returns:
        ``[...]``, nats per step, >= 0.

    Raises:
        ValueError: ``w``, ``phi`` or ``<w, phi>`` is not finite, their last axes
            differ, or ``y`` is not in [0, 1].
    """
    logit, _ = _logit_and_features(w, phi)
    y = check_probability("y", y)
    return y * np.logaddexp(0, -logit) + (1 - y) * np.logaddexp(0, logit)


def logistic_gradient(w: ArrayLike, phi: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Gradient of :func:`logistic_loss` in w, ``(q_w - y) phi``.

    Returns:
        ``[..., D]``.

    Raises:
        ValueError: as :func:`logistic_loss`.
    """
    logit, phi = _logit_and_features(w, phi)
    y = check_probability("y", y)
    # q_w - y would lose every digit of 1 - q_w once q_w rounds to 1.
    residual = (1 - y) * expit(logit) - y * expit(-logit)
    return residual[..., None] * phi


def logistic_hessian(w: ArrayLike, phi: ArrayLike) -> np.ndarray:
    """Hessian of :func:`logistic_loss` in w, ``q_w (1 - q_w) phi phi^T``, for any y.

    Also the Fisher information of a clean label. Symmetric to the last bit.

    Returns:
        ``[..., D, D]``, positive semidefinite of rank one.

    Raises:
        ValueError: ``w``, ``phi`` or ``<w, phi>`` is not finite, or their last axes
            differ.
    """
    logit, phi = _logit_and_features(w, phi)
    root = np.sqrt(expit(logit) * expit(-logit))[..., None] * phi
    return root[..., :, None] * root[..., None, :]


def gradient_second_moment(
    q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike, sq_norm: ArrayLike
) -> np.ndarray:
    """Second moment of the gradient at the teacher, ``E ||(q - Y~) phi||^2``.

    ``(q~ (1 - q)^2 + (1 - q~) q^2) ||phi||^2``, which is
    ``(q (1 - q) + (fpr (1 - q) - fnr q) (1 - 2q)) ||phi||^2``; Eq. 5 without noise,
    Eq. 6, ``((1 - 4 eta) q (1 - q) + eta) ||phi||^2``, at ``fpr = fnr = eta``.

    It is not signal: without noise the gradient it measures has mean zero, and flips
    only raise it (by ``eta (1 - 2q)^2``) while they destroy information. See
    :func:`gradient_snr` and :func:`theory.label_noise.noisy_fisher_weight`.
    """
    tp, fn, fp, tn = joint_label_probs(q, fpr, fnr)
    q = np.asarray(q, np.float64)
    per_unit = (tp + fp) * (1 - q) ** 2 + (tn + fn) * q**2
    return per_unit * check_nonnegative("sq_norm", sq_norm)


def gradient_snr(
    q_student: ArrayLike, q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Squared signal-to-noise ratio of a step's gradient, and its use to the truth.

    With ``g~ = (q_w - Y~) phi`` and g the gradient of a clean label:

    - ``snr2 = ||E g~||^2 / E ||g~ - E g~||^2 = (q_w - q~)^2 / (q~ (1 - q~))``, in
      [0, inf]; where the label is certain, inf, or 0 if the gradient vanishes;
    - ``alignment = <E g~, E g> / ||phi||^2 = (q_w - q~) (q_w - q)``, in [-1/4, 1];
      negative, so that the label drives the student away from the truth, exactly where
      q_w lies between q and q~.
    """
    q_student = check_probability("q_student", q_student)
    tp, fn, fp, tn = joint_label_probs(q, fpr, fnr)
    mean = q_student - (tp + fp)
    variance = (tp + fp) * (tn + fn)
    certain = variance == 0
    with np.errstate(over="ignore"):
        snr2 = (mean / np.sqrt(np.where(certain, 1.0, variance))) ** 2
    snr2 = np.where(certain & (mean != 0), np.inf, snr2)
    return snr2, mean * (q_student - np.asarray(q, np.float64))


def _logit_and_features(w: ArrayLike, phi: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    w, phi = check_finite("w", w), check_finite("phi", phi)
    if w.ndim == 0 or phi.ndim == 0 or w.shape[-1] != phi.shape[-1]:
        raise ValueError(
            f"w and phi must end in the same axis D, not {w.shape} and {phi.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        logit = (w * phi).sum(axis=-1)
    return check_finite("<w, phi>", logit), phi
