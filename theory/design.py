"""The subset one would choose if the truth were known: optimal design over rollouts.

The oracle knows each step's features and true label probability, so it can choose
rollouts by the information their labels will carry about w. Its designs bound from
above what a score made of counts may reach.

Fisher matrices of few steps are singular; every gain is therefore taken on top of a
``precision`` matrix: the prior precision plus the information already in hand. It is
an explicit argument (``ridge * np.eye(d)`` is the usual start).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from theory.domain import check_count, check_finite, check_offsets
from theory.label_noise import noisy_fisher_weight

Criterion = Literal["D", "A", "V"]

# Rounding of the d products in a Gram matrix leaves this much asymmetry or negative
# curvature at most, relative to its largest entry.
_ROUNDING = 1e-10

# A precision whose axis is explained by the others to this much is singular: what
# float64 leaves of it is rounding, and gains along it would be noise.
_SINGULAR = 1e-13


def rollout_information(
    phi: ArrayLike,
    q: ArrayLike,
    offsets: ArrayLike,
    fpr: ArrayLike = 0.0,
    fnr: ArrayLike = 0.0,
) -> np.ndarray:
    """Fisher information of each rollout's labels about w at the truth.

    ``I_x = sum_{j in x} I(q_j, fpr, fnr) phi_j phi_j^T``, with the weight I that
    survives noise (:func:`theory.label_noise.noisy_fisher_weight`); labels independent
    given the features.

    Args:
        phi: features ``[n_steps, d]``.
        q: Pr(Y = 1) under the teacher, ``[n_steps]``.
        offsets: int ``[n_rollouts + 1]`` from 0 to n_steps; rollout i owns steps
            ``offsets[i]:offsets[i + 1]``, possibly none.
        fpr: Pr(Y~=1 | Y=0) in [0, 1], broadcast to ``[n_steps]``.
        fnr: Pr(Y~=0 | Y=1) in [0, 1], broadcast to ``[n_steps]``.

    Returns:
        symmetric positive semi-definite ``[n_rollouts, d, d]``.

    Raises:
        ValueError: an argument is outside its range or has the wrong shape.
    """
    phi = check_finite("phi", phi)
    if phi.ndim != 2:
        raise ValueError("phi must have shape [n_steps, d]")
    n_steps, d = phi.shape
    offsets = check_offsets(offsets, n_steps)
    weight = noisy_fisher_weight(q, fpr, fnr)
    if weight.shape != (n_steps,):
        raise ValueError(f"q, fpr and fnr must broadcast to [n_steps = {n_steps}]")
    # The square root on both sides keeps each matrix symmetric to the last bit.
    scaled = np.sqrt(weight)[:, None] * phi
    information = np.empty((len(offsets) - 1, d, d))
    for i, (start, stop) in enumerate(pairwise(offsets)):
        information[i] = scaled[start:stop].T @ scaled[start:stop]
    return information


def design_gain(
    information: ArrayLike,
    precision: ArrayLike,
    criterion: Criterion = "D",
    target: ArrayLike | None = None,
) -> np.ndarray:
    """What adding ``information`` I to ``precision`` P gains, float64 ``[...]``, >= 0.

    - "D": ``ln det(P + I) - ln det P``, twice the entropy that w loses, in nats.
    - "A": ``tr P^-1 - tr (P + I)^-1``, the fall of the summed variance of w.
    - "V": ``tr M P^-1 - tr M (P + I)^-1``, the fall of the variance of the predictor
      <w, phi> averaged over targets, M = E[phi phi^T]; with M the Hessian of the loss,
      twice the fall of the expected excess risk.

    Gains of several rollouts together: pass the sum of their matrices. (Atkinson,
    Donev and Tobias 2007, ch. 10.)

    Args:
        information: symmetric positive semi-definite ``[..., d, d]``.
        precision: symmetric positive definite ``[d, d]``.
        criterion: which of the three.
        target: M, symmetric positive semi-definite ``[d, d]``; for "V" and only there.

    Raises:
        ValueError: a matrix has the wrong shape, is not finite, symmetric and
            (semi-)definite, or ``criterion`` and ``target`` do not fit.
    """
    roots, moment = _whiten(*_check(information, precision, criterion, target))
    return _gain(roots, np.eye(roots.shape[-2]), moment)


def top_selection(
    information: ArrayLike,
    size: int,
    precision: ArrayLike,
    criterion: Criterion = "D",
    target: ArrayLike | None = None,
) -> np.ndarray:
    """The rollouts with the largest gains taken one by one, best first.

    Blind to overlap: two copies of the best rollout are both taken. Under "D", which
    is submodular, the sum of these gains bounds the joint gain of every set of that
    size.

    Args:
        information: ``[n_rollouts, d, d]``; the rest as for :func:`design_gain`.
        size: rollouts to take, in [0, n_rollouts].

    Returns:
        int64 ``[size]``, equal gains in row order; sort it to use it as a subset.

    Raises:
        ValueError: as :func:`design_gain`, or ``size`` is outside its range.
    """
    gain = design_gain(information, precision, criterion, target)
    size = _check_size(size, gain)
    return np.argsort(-gain, kind="stable")[:size]


def greedy_selection(
    information: ArrayLike,
    size: int,
    precision: ArrayLike,
    criterion: Criterion = "D",
    target: ArrayLike | None = None,
) -> np.ndarray:
    """The rollouts taken one after the other, each with the largest gain on top of
    those before, in that order.

    Every prefix is the greedy set of its size. Under "D" its gain is at least
    ``1 - 1/e`` of the best set's (Nemhauser, Wolsey and Fisher 1978); "A" and "V" are
    not submodular and have no such guarantee.

    Arguments, order and errors as for :func:`top_selection`.
    """
    roots, moment = _whiten(*_check(information, precision, criterion, target))
    upper, chosen = np.eye(roots.shape[-2]), []
    for _ in range(_check_size(size, roots[..., 0, 0])):
        gain = _gain(roots, solve_triangular(upper, np.eye(len(upper))), moment)
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        # R^T R is the precision held; QR never forms it, so no digits are squared away.
        upper = np.linalg.qr(np.concatenate([upper, roots[best].T]), mode="r")
    return np.array(chosen, np.int64)


def _whiten(
    information: np.ndarray, precision: np.ndarray, moment: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Roots B with L^-1 I L^-T = B B^T, ``[..., d, rank]``, and L^-1 M L^-T.

    In the coordinates L^T w, P = L L^T, the precision is the identity.
    """
    lower = _cholesky(precision)
    inverse = solve_triangular(lower, np.eye(len(lower)), lower=True)
    values, vectors = np.linalg.eigh(inverse @ information @ inverse.T)
    # A rollout has few steps: what is left of its other directions is rounding.
    floor = len(lower) * np.finfo(float).eps * values[..., -1:]
    values = np.where(values > floor, values, 0.0)
    rank = int(np.max(np.count_nonzero(values, axis=-1), initial=1))
    roots = vectors[..., -rank:] * np.sqrt(values[..., None, -rank:])
    return roots, None if moment is None else inverse @ moment @ inverse.T


def _gain(roots: np.ndarray, half: np.ndarray, moment: np.ndarray | None) -> np.ndarray:
    """Gain of information B B^T over a covariance C C^T, C = ``half``: sums of
    non-negative terms from the singular values of C^T B.

    ``moment`` is None for "D", otherwise the M of "V" (of the identity for "A").
    """
    left, values, _ = np.linalg.svd(half.T @ roots, full_matrices=False)
    if moment is None:
        return np.sum(np.log1p(values**2), axis=-1)
    axes = half @ (left * values[..., None, :])
    fall = np.sum(axes * (moment @ axes), axis=-2)
    return np.sum(fall / (1 + values**2), axis=-1)


def _cholesky(precision: np.ndarray) -> np.ndarray:
    singular = "precision must be positive definite; add a ridge to a singular one"
    try:
        lower = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        raise ValueError(singular) from None
    # Each squared pivot over its diagonal entry is 1 - R^2 on the axes before it.
    if np.any(np.diag(lower) ** 2 <= _SINGULAR * np.diag(precision)):
        raise ValueError(singular)
    return lower


def _check(
    information: ArrayLike,
    precision: ArrayLike,
    criterion: Criterion,
    target: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    precision = _check_semidefinite("precision", precision)
    if precision.ndim != 2:
        raise ValueError("precision must have shape [d, d]")
    information = _check_semidefinite("information", information)
    if information.shape[-1] != len(precision):
        raise ValueError(f"information must have shape [..., {len(precision)}, same]")
    if criterion not in ("D", "A", "V"):
        raise ValueError(f'criterion must be "D", "A" or "V", not {criterion!r}')
    if (criterion == "V") != (target is not None):
        raise ValueError('target must be given for criterion "V" and only for it')
    if criterion == "D":
        return information, precision, None
    if target is None:
        return information, precision, np.eye(len(precision))
    target = _check_semidefinite("target", target)
    if target.shape != precision.shape:
        raise ValueError(f"target must have the shape of precision {precision.shape}")
    return information, precision, target


def _check_semidefinite(name: str, value: ArrayLike) -> np.ndarray:
    matrix = check_finite(name, value)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.shape[-1]:
        raise ValueError(f"{name} must have shape [..., d, d] with d >= 1")
    slack = _ROUNDING * np.max(np.abs(matrix), axis=(-2, -1))
    asymmetry = np.max(np.abs(matrix - np.swapaxes(matrix, -1, -2)), axis=(-2, -1))
    if np.any(asymmetry > slack) or np.any(
        np.linalg.eigvalsh(matrix)[..., 0] < -slack * matrix.shape[-1]
    ):
        raise ValueError(f"{name} must be symmetric and positive semi-definite")
    return matrix


def _check_size(size: int, rollouts: np.ndarray) -> int:
    if rollouts.ndim != 1:
        raise ValueError("information must have shape [n_rollouts, d, d]")
    checked = int(check_count("size", size))
    if checked > len(rollouts):
        raise ValueError(f"size must be in [0, n_rollouts = {len(rollouts)}]")
    return checked
