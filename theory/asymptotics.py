"""How fast excess risk falls with data and updates, and the floor that noise leaves.

The paper bounds it by powers 1/2 (Eq. 4). For logistic regression the exact rate is
1/n, and class-conditional noise moves the minimiser, which no amount of data undoes.

Populations are finite: features ``phi`` ``[m, d]`` drawn with probabilities ``weights``
(uniform by default), true label probability ``q`` ``[m]``, observed label flipped by
``fpr`` = Pr(Y~=1 | Y=0) and ``fnr`` = Pr(Y~=0 | Y=1), which may depend on the feature.
Risk is the clean expected logistic loss, in nats per step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from theory.domain import (
    check_count,
    check_finite,
    check_nonnegative,
    check_positive,
    check_probability,
)
from theory.label_noise import noisy_positive_prob
from theory.logistic import logistic_gradient, logistic_hessian

# Newton stops once no logit moves by more than this (relative to the largest logit);
# its convergence is quadratic, so the error left behind is the square. On separable
# labels logits move by about 1 for ever, or until the Hessian underflows.
_LOGIT_TOLERANCE = 1e-8
_MAX_NEWTON_STEPS = 100

# By how much rounding may lift a variance above mean (1 - mean).
_VARIANCE_SLACK = 1e-12

# Below this c, t0 = 1/c^2 overflows.
_SMALLEST_C = 1e-150


class Inflation(NamedTuple):
    """Factors by which the two terms of Eq. 4 grow on a random fraction gamma."""

    data: np.ndarray
    optimisation: np.ndarray


class NoisyMinimizer(NamedTuple):
    """Where logistic regression on noisy labels goes, and how it gets there.

    Attributes:
        w: minimiser of the noisy population loss, ``[d]``.
        cov: limit of n Cov(w_n) for the empirical minimiser w_n, ``[d, d]``.
        excess_floor: L(w) - min L in the clean loss L, nats per step, >= 0.
    """

    w: np.ndarray
    cov: np.ndarray
    excess_floor: float


def scaling_bound(
    n_eff: ArrayLike, updates: ArrayLike, c_data: ArrayLike, c_opt: ArrayLike
) -> np.ndarray:
    """The paper's bound on excess risk: ``c_data n_eff^(-1/2) + c_opt T^(-1/2)``
    (Eq. 4, App. F.1).

    An upper bound only: under the same assumptions the risk of the fitted minimiser
    falls as 1/n (:func:`leading_excess_risk`).

    Args:
        n_eff: effective number of independent labels, > 0.
        updates: T, > 0.
        c_data: constant of the data term, >= 0.
        c_opt: constant of the optimisation term, >= 0; all four broadcast.

    Raises:
        ValueError: an argument is outside its range.
    """
    n_eff = check_positive("n_eff", n_eff)
    updates = check_positive("updates", updates)
    c_data = check_nonnegative("c_data", c_data)
    c_opt = check_nonnegative("c_opt", c_opt)
    return c_data / np.sqrt(n_eff) + c_opt / np.sqrt(updates)


def gamma_inflation(gamma: ArrayLike, matched_updates: bool) -> Inflation:
    """Growth of Eq. 4's terms on a random fraction gamma of the data (App. F.1).

    A single pass shortens data and updates together: both factors are
    ``gamma^(-1/2)``. Matched updates keep T: the optimisation factor is 1.

    Args:
        gamma: fraction kept, in (0, 1].
        matched_updates: whether T is that of the full data.

    Returns:
        two arrays of the shape of ``gamma``, >= 1.

    Raises:
        ValueError: ``gamma`` is outside (0, 1].
    """
    gamma = check_positive("gamma", gamma)
    if np.any(gamma > 1):
        raise ValueError(f"gamma must be in (0, 1], not {gamma.max()}")
    factor = 1 / np.sqrt(gamma)
    return Inflation(factor, np.ones_like(factor) if matched_updates else factor)


def sgd_recursion_constant(c: ArrayLike, C: ArrayLike, d1: ArrayLike) -> np.ndarray:
    """Lemma 1's constant: C' with ``D_T <= C' / sqrt(T)`` for every T >= 1.

    For any D_t >= 0 with ``D_{t+1} <= (1 - c / sqrt(t)) D_t + C / t``:
    ``C' = max{2 C / c, sqrt(2) C, sqrt(t0) (d1 + C (1 + ln t0))}``,
    ``t0 = ceil(1 / c^2)``. (Up to t0 the sum of C/t; beyond it induction, where
    sqrt(2) C serves the t < c^2 whose factor is negative. In the limit
    sqrt(T) D_T -> C / c, so the first term is within a factor 2 of necessary.)

    Args:
        c: contraction, >= 1e-150.
        C: noise, >= 0.
        d1: D_1, >= 0; all three broadcast.

    Raises:
        ValueError: an argument is outside its range.
    """
    c = check_positive("c", c)
    if np.any(c < _SMALLEST_C):
        raise ValueError(f"c must be in [{_SMALLEST_C}, inf), not {c.min()}")
    C = check_nonnegative("C", C)
    d1 = check_nonnegative("d1", d1)
    t0 = np.ceil((1 / c) ** 2)
    early = np.sqrt(t0) * (d1 + C * (1 + np.log(t0)))
    return np.maximum(np.maximum(2 * C / c, np.sqrt(2) * C), early)


def leading_mle_excess_risk(n: ArrayLike, d: ArrayLike) -> np.ndarray:
    """Leading term of a well-specified maximum-likelihood fit's excess risk,
    ``d / (2 n)``.

    Nats per example, with n clean examples and d parameters (Wilks 1938): the rate 1/n
    beside Eq. 4's n^(-1/2). The mean of the limit law, not the limit of the means: at
    every n labels may be separable, and the fit's expected risk is infinite.

    Raises:
        ValueError: ``n`` or ``d`` is not a positive number.
    """
    return check_positive("d", d) / (2 * check_positive("n", n))


def noisy_minimizer_and_sandwich(
    phi: ArrayLike,
    q: ArrayLike,
    fpr: ArrayLike,
    fnr: ArrayLike,
    weights: ArrayLike | None = None,
) -> NoisyMinimizer:
    """Minimiser of the noisy loss, its sandwich covariance and its excess floor.

    ``w~ = argmin E[softplus(z) - q~ z]``, z = <w, phi>, by Newton's method;
    ``V = H~^-1 Sigma~ H~^-1`` with ``H~ = E[s (1 - s) phi phi^T]``, s = sigma(z~), and
    ``Sigma~ = E[(q~ (1 - q~) + (s - q~)^2) phi phi^T]`` (Huber 1967; White 1982). The
    floor ``L(w~) - L(w*)`` is what more data does not lower; for small noise it is
    ``b' H b / 2`` with b from :func:`first_order_bias`.

    Args:
        phi: features ``[m, d]``, of full column rank.
        q: Pr(Y = 1 | phi), ``[m]``; need not be of the form sigma(<w*, phi>).
        fpr: Pr(Y~=1 | Y=0) in [0, 1], broadcast to ``[m]``.
        fnr: Pr(Y~=0 | Y=1) in [0, 1], broadcast to ``[m]``.
        weights: probabilities of the features up to a factor, ``[m]``, >= 0.

    Raises:
        ValueError: an argument is outside its range or has the wrong shape, the
            features do not span R^d, or clean or noisy labels are separable (or within
            1e-10 of it), so that no finite minimiser is found.
    """
    phi, q, (noisy,), weights = _channel_population(phi, q, fpr, fnr, weights)
    return target_minimizer_and_sandwich(phi, q, noisy, noisy * (1 - noisy), weights)


def target_minimizer_and_sandwich(
    phi: ArrayLike,
    q: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    weights: ArrayLike | None = None,
) -> NoisyMinimizer:
    """Where plain cross-entropy to a soft target t goes: bias, covariance and floor.

    ``w~ = argmin E[softplus(z) - t z]``, z = <w, phi>, depends on ``E[t | phi]`` alone;
    ``V = H~^-1 E[(Var(t | phi) + (s - E[t | phi])^2) phi phi^T] H~^-1``, s = sigma(z~)
    (Huber 1967; White 1982). For a label through a channel mean and variance are q~ and
    ``q~ (1 - q~)``: :func:`noisy_minimizer_and_sandwich`. For a target made from K they
    are :func:`theory.label_noise.target_moments`.

    Args:
        phi: features ``[m, d]``, of full column rank.
        q: Pr(Y = 1 | phi), ``[m]``.
        mean: E[t | phi] in [0, 1], broadcast to ``[m]``.
        variance: Var(t | phi), ``[m]``: in [0, mean (1 - mean)], as t lies in [0, 1].
        weights: probabilities of the features up to a factor, ``[m]``, >= 0.

    Raises:
        ValueError: as :func:`noisy_minimizer_and_sandwich`, or the variance is larger
            than that of any target in [0, 1] with this mean.

    Example:
        >>> phi = [[1.0]]
        >>> fit = target_minimizer_and_sandwich(phi, [0.5], [0.5], [0.1])
        >>> float(fit.w[0]), round(float(fit.cov[0, 0]), 3), fit.excess_floor
        (0.0, 1.6, 0.0)
    """
    phi, q, (mean, variance), weights = _population(
        phi, q, {"mean": mean, "variance": variance}, weights
    )
    if np.any(variance > mean * (1 - mean) + _VARIANCE_SLACK):
        raise ValueError("variance must be at most mean (1 - mean)")
    w, clean = _minimize(phi, mean, weights), _minimize(phi, q, weights)
    inverse = np.linalg.inv(_hessian(w, phi, weights))
    square = variance + (expit(phi @ w) - mean) ** 2
    sigma = phi.T @ ((weights * square)[:, None] * phi)
    floor = weights @ _bregman(phi @ clean, phi @ (w - clean))
    return NoisyMinimizer(w, inverse @ sigma @ inverse, float(floor))


def first_order_bias(
    phi: ArrayLike,
    q: ArrayLike,
    fpr: ArrayLike,
    fnr: ArrayLike,
    weights: ArrayLike | None = None,
) -> np.ndarray:
    """Shift w~ - w* of the minimiser to first order in the noise, ``[d]``.

    ``H^-1 E[(fpr (1 - q) - fnr q) phi]`` with the Hessian H at the clean minimiser.

    Arguments and errors as for :func:`noisy_minimizer_and_sandwich`.
    """
    phi, q, (noisy,), weights = _channel_population(phi, q, fpr, fnr, weights)
    hessian = _hessian(_minimize(phi, q, weights), phi, weights)
    return np.linalg.solve(hessian, phi.T @ (weights * (noisy - q)))


def excess_coefficient(
    phi: ArrayLike,
    q: ArrayLike,
    fpr: ArrayLike,
    fnr: ArrayLike,
    weights: ArrayLike | None = None,
) -> float:
    """Coefficient of 1/n in the excess risk of the noisy fit
    (:func:`leading_excess_risk`).

    ``tr(H~ V) / 2 + g' B``: the variance, and the gradient ``g = E[(q~ - q) phi]`` of
    the clean loss at w~ times the fit's own small-sample bias
    ``B = H~^-1 E[s (1 - s) ((phi' H~^-1 phi) (s - q~) - (1 - 2 s) (phi' V phi) / 2)
    phi]`` (Cox and Snell 1968). A well-specified fit without noise has d / 2 and g = 0;
    to first order in the noise the sum is ``tr(H V) / 2`` with H at the clean
    minimiser; heavy noise may make it negative.

    Arguments and errors as for :func:`noisy_minimizer_and_sandwich`.
    """
    w, cov, _ = noisy_minimizer_and_sandwich(phi, q, fpr, fnr, weights)
    phi, q, (noisy,), weights = _channel_population(phi, q, fpr, fnr, weights)
    s = expit(phi @ w)
    hessian = _hessian(w, phi, weights)
    leverage = np.einsum("md,md->m", phi, np.linalg.solve(hessian, phi.T).T)
    variance = np.einsum("md,de,me->m", phi, cov, phi)
    pull = s * (1 - s) * (leverage * (s - noisy) - (1 - 2 * s) * variance / 2)
    bias = np.linalg.solve(hessian, phi.T @ (weights * pull))
    gradient = phi.T @ (weights * (noisy - q))
    return float(np.trace(hessian @ cov) / 2 + gradient @ bias)


def leading_excess_risk(
    n: ArrayLike,
    phi: ArrayLike,
    q: ArrayLike,
    fpr: ArrayLike,
    fnr: ArrayLike,
    weights: ArrayLike | None = None,
) -> np.ndarray:
    """Leading terms of the excess risk of a fit to n noisy labels, nats per step.

    ``floor + coefficient / n`` from :func:`noisy_minimizer_and_sandwich` and
    :func:`excess_coefficient`; the rest is O(n^-2) unless the labels are separable,
    which has a probability falling exponentially in n, yet makes the expected risk of
    the fit infinite at every n. A single pass of averaged SGD over T = n labels has the
    same floor and variance part (Polyak and Juditsky 1992).

    Args:
        n: independent labels, integer >= 1, any shape, that of the result; the other
            arguments and errors as for :func:`noisy_minimizer_and_sandwich`.
    """
    n = check_count("n", n, low=1)
    floor = noisy_minimizer_and_sandwich(phi, q, fpr, fnr, weights).excess_floor
    return floor + excess_coefficient(phi, q, fpr, fnr, weights) / n


def noise_floor_crossover(
    phi: ArrayLike,
    q: ArrayLike,
    fpr: ArrayLike,
    fnr: ArrayLike,
    weights: ArrayLike | None = None,
) -> float:
    """Sample size beyond which the noise floor exceeds the 1/n term.

    ``max(coefficient, 0) / floor``: about there more labels stop paying and cleaner
    ones start to.

    Returns:
        a number of labels >= 0; inf where noise leaves no floor.

    Arguments and errors as for :func:`noisy_minimizer_and_sandwich`.
    """
    floor = noisy_minimizer_and_sandwich(phi, q, fpr, fnr, weights).excess_floor
    coefficient = excess_coefficient(phi, q, fpr, fnr, weights)
    return max(coefficient, 0.0) / floor if floor > 0 else np.inf


def _channel_population(
    phi: ArrayLike,
    q: ArrayLike,
    fpr: ArrayLike,
    fnr: ArrayLike,
    weights: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """:func:`_population` with the one column q~."""
    noisy = noisy_positive_prob(q, fpr, fnr)
    return _population(phi, q, {"fpr and fnr": noisy}, weights)


def _population(
    phi: ArrayLike,
    q: ArrayLike,
    columns: dict[str, ArrayLike],
    weights: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """(phi, q, columns, weights summing to 1) over the features that occur; a column
    is of probabilities, one or ``[m]``.
    """
    phi = check_finite("phi", phi)
    if phi.ndim != 2 or phi.size == 0:
        raise ValueError("phi must have shape [m, d] with m, d >= 1")
    m = len(phi)
    q = check_probability("q", q)
    weights = check_nonnegative("weights", np.ones(m) if weights is None else weights)
    for name, column in (("q", q), ("weights", weights)):
        if column.shape != (m,):
            raise ValueError(f"{name} must have shape [m = {m}], not {column.shape}")
    if not np.any(weights > 0):
        raise ValueError("weights must be >= 0 with at least one > 0")
    occurs = weights > 0
    kept = []
    for name, value in columns.items():
        column = check_probability(name, value)
        if column.shape not in ((), (m,)):
            raise ValueError(f"{name} must broadcast to shape [m = {m}]")
        kept.append(np.broadcast_to(column, (m,))[occurs])
    phi, weights = phi[occurs], weights[occurs]
    if np.linalg.matrix_rank(phi) < phi.shape[1]:
        raise ValueError("phi must have full column rank where weights > 0")
    return phi, q[occurs], kept, weights / np.sum(weights)


def _minimize(phi: np.ndarray, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """argmin_w E[softplus(z) - q z], z = <w, phi>, by damped Newton steps."""
    w = np.zeros(phi.shape[1])
    for _ in range(_MAX_NEWTON_STEPS):
        z = phi @ w
        gradient = weights @ logistic_gradient(w, phi, q)
        try:
            step = np.linalg.solve(_hessian(w, phi, weights), -gradient)
        except np.linalg.LinAlgError:
            break
        move = phi @ step
        if np.max(np.abs(move)) <= _LOGIT_TOLERANCE * max(1.0, np.max(np.abs(z))):
            return w + step
        slope, length = gradient @ step, 1.0
        if slope >= 0:
            break
        # Armijo's rule with 1/4: loss(w + length step) - loss(w) is the left side
        # plus length * slope.
        while weights @ _bregman(z, length * move) > -0.75 * length * slope:
            length /= 2
        w = w + length * step
    raise ValueError(
        "q, fpr and fnr must leave labels that no hyperplane separates: the logistic "
        "loss has no finite minimiser, or none within reach of float64"
    )


def _hessian(w: np.ndarray, phi: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Hessian of the expected loss; labels do not enter it."""
    return np.tensordot(weights, logistic_hessian(w, phi), axes=1)


def _bregman(z: np.ndarray, move: np.ndarray) -> np.ndarray:
    """softplus(z + move) - softplus(z) - sigma(z) move >= 0, without its cancellation.

    With a = -|move| and s = sigma(-sign(move) z) it is log(1 - s + s e^a) - s a.
    """
    u = -np.sign(move) * z
    a, s = -np.abs(move), expit(u)
    near = a > -1
    close = np.log1p(s * np.expm1(np.where(near, a, 0.0)))
    return np.where(near, close, np.log(expit(-u) + s * np.exp(a))) - s * a
