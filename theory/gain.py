"""How well a student ranks steps after so many noisy labels: AUROC in closed form.

A linear score ``<w_n, phi>`` fitted to n labels is ``w + e``: w, where infinitely many
labels lead, and an error e of covariance ``V / n``. Let the features of right and wrong
steps be Gaussian with means ``delta`` apart and one covariance C. Then (Bamber 1975)

    AUROC(w) = Phi(<w, delta> / sqrt(2 w'C w)).

Where w is the best direction, ``C^-1 delta`` up to a factor, the gradient of AUROC
vanishes, errors along w change nothing, and to first order in 1/n

    E AUROC(w_n) = Phi(z) - z pdf(z) nu^2 / (2 n),     z = <w, delta> / sqrt(2 w'C w),
    nu^2 = (tr(C V) - w'C V C w / w'C w) / w'C w,

the squared error across w relative to w. ``Phi(z / sqrt(1 + nu^2 / n))`` has the same
first order and the right limits, Phi(z) with all labels in the world and 1/2 with none.
Class-conditional flips keep the best direction (labelled classes are mixtures of the
two), so z is the clean one, while w shrinks by about ``PPV + NPV - 1`` and V is about
``C^-1 / (q~ (1 - q~))``. Hence ``nu^2 = k d / (J z^2)`` with ``J = q~ (1 - q~)
(PPV + NPV - 1)^2`` (:func:`theory.label_noise.noisy_fisher_weight`) and k = 1/2 (for d
large and classes close; :func:`gaussian_constant` has the exact value): two subsets
compare by the ``J n z^2`` that they keep, and by their z.

Elsewhere k is not 1/2: the labels of a rollout are dependent and so are its features
(k is multiplied by the design effect), and few updates shrink e and w alike. Where what
features show goes with the noise, as a rollout's ease does, J misjudges the error by a
factor that differs between subsets: then nu^2 is to be taken from the sandwich itself
(:func:`relative_error`), which on the simulated map predicts gains that are right in
size; by J and one k the signs are right, and the gains too large. If noise follows the
features, w is not the best direction either: its AUROC is below the best one, and terms
of the same order, the curvature's along w and the bias of w_n, are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr, ndtri

from theory.asymptotics import noisy_minimizer_and_sandwich
from theory.domain import (
    check_count,
    check_finite,
    check_nonnegative,
    check_positive,
    check_probability,
)
from theory.label_noise import noisy_fisher_weight

# k of close Gaussian classes and independent labels in many dimensions.
LEADING_CONSTANT = 0.5

# Gauss-Hermite nodes per class; 32 give the same ten digits.
_NODES = 64

# Beyond it the normal distribution is 1 in float64.
_LARGEST_Z = 40.0

# Gauss-Hermite nodes of a cell's noise.
_NOISE_NODES = 15

_NEWTON_STEPS, _LARGEST_STEP, _TOLERANCE = 60, 2.0, 1e-9

# Decades of k that a fit searches.
_DECADES = (-6.0, 6.0)


def auroc_of_estimate(minimiser_auroc: ArrayLike, alignment: ArrayLike) -> np.ndarray:
    """AUROC of a score at an angle to the best one it aims at, ``Phi(z cos)``.

    Args:
        minimiser_auroc: Phi(z), in [0, 1]; 1 counts as z = 40.
        alignment: squared cosine of the angle in the metric of C, in [0, 1];
            ``1 / (1 + nu^2 / n)``.

    Raises:
        ValueError: an argument is not in [0, 1].
    """
    z = _z(minimiser_auroc)
    return ndtr(z * np.sqrt(check_probability("alignment", alignment)))


def _z(minimiser_auroc: ArrayLike) -> np.ndarray:
    # Finite, so that no labels are a guess whatever they would lead to.
    return np.clip(
        ndtri(check_probability("minimiser_auroc", minimiser_auroc)),
        -_LARGEST_Z,
        _LARGEST_Z,
    )


def predicted_auroc(
    steps: ArrayLike,
    information: ArrayLike,
    dimension: ArrayLike,
    minimiser_auroc: ArrayLike,
    k: ArrayLike = LEADING_CONSTANT,
) -> np.ndarray:
    """AUROC of a linear student of a subset, ``Phi(z / sqrt(1 + k d / (J n z^2)))``.

    ``z = Phi^-1(AUROC of the noisy minimiser)``. Assumes Gaussian features of one
    covariance per class, an error of the fit with no direction of its own, and one k
    for all subsets: neither dependent labels nor the length of the training have a
    place in it.

    Args:
        steps: n, labels of the subset, >= 0.
        information: J, mean Fisher information of a label, in [0, 1/4].
        dimension: d of the features, > 0.
        minimiser_auroc: of the fit to infinitely many labels of the subset, in [0, 1].
        k: > 0; all five broadcast.

    Returns:
        in [0, 1]; 1/2 where labels say nothing.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> bool(predicted_auroc(2000, 0.05, 32, 0.85) > 0.83)
        True
        >>> round(float(predicted_auroc(2000, 0.005, 32, 0.85)), 2)
        0.74
    """
    steps = check_nonnegative("steps", steps)
    information = check_nonnegative("information", information)
    if np.any(information > 0.25):
        raise ValueError(f"information must be in [0, 1/4], not {information.max()}")
    dimension, k = check_positive("dimension", dimension), check_positive("k", k)
    signal = steps * information * _z(minimiser_auroc) ** 2
    return auroc_of_estimate(minimiser_auroc, signal / (signal + k * dimension))


def fit_constant(
    auroc: ArrayLike,
    steps: ArrayLike,
    information: ArrayLike,
    dimension: ArrayLike,
    minimiser_auroc: ArrayLike,
) -> float:
    """k of least squared error of :func:`predicted_auroc` against measured levels.

    Args:
        auroc: measured, in [0, 1], any shape.
        steps: this and the rest as for :func:`predicted_auroc`; they broadcast to the
            shape of ``auroc``.

    Returns:
        k in [1e-6, 1e6], to about six digits.

    Raises:
        ValueError: an argument is outside its range.
    """
    from scipy.optimize import minimize_scalar

    auroc = check_probability("auroc", auroc)

    def error(decade: float) -> float:
        k = 10**decade
        found = predicted_auroc(steps, information, dimension, minimiser_auroc, k)
        return float(np.sum((found - auroc) ** 2))

    # The sum of errors need not be convex in log k: first a grid, then its best gap.
    grid = np.linspace(*_DECADES, 49)
    best = int(np.argmin([error(decade) for decade in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        error, bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    return float(10**found.x)


def estimated_score_auroc(
    n: ArrayLike, w: ArrayLike, cov: ArrayLike, delta: ArrayLike, within: ArrayLike
) -> np.ndarray:
    """Mean AUROC of a linear score fitted to n labels, ``Phi(z / sqrt(1 + nu^2/n))``.

    Exact to first order in 1/n where w is along ``C^-1 delta``.

    Args:
        n: labels, > 0, any shape.
        w: minimiser, not 0, ``[d]``.
        cov: V, limit of n Cov(w_n), as :func:`theory.asymptotics.
            noisy_minimizer_and_sandwich` gives it, ``[d, d]``.
        delta: mean of right less mean of wrong steps, ``[d]``.
        within: C, covariance of the features given the truth, ``[d, d]``.

    Returns:
        the shape of ``n``, in [0, 1].

    Raises:
        ValueError: an argument is outside its range, or ``w'C w`` is not positive.

    Example:
        >>> import numpy as np
        >>> unit = np.eye(2)
        >>> estimated_score_auroc([8, 1e9], [1, 0], unit, [2, 0], unit).round(2)
        array([0.91, 0.92])
    """
    n = check_positive("n", n)
    w, within = check_finite("w", w), check_finite("within", within)
    z = w @ check_finite("delta", delta) / np.sqrt(2 * _squared(w, within))
    return auroc_of_estimate(ndtr(z), 1 / (1 + relative_error(w, cov, within) / n))


def relative_error(w: ArrayLike, cov: ArrayLike, within: ArrayLike) -> float:
    """Squared error across w of a fit, relative to w, times its number of labels:
    ``nu^2 = (tr(C V) - w'C V C w / w'C w) / w'C w``.

    Arguments as for :func:`estimated_score_auroc`; >= 0 for covariances.

    Raises:
        ValueError: an argument is not finite, or ``w'C w`` is not positive.
    """
    w, cov = check_finite("w", w), check_finite("cov", cov)
    within = check_finite("within", within)
    length = _squared(w, within)
    along = w @ within @ cov @ within @ w / length
    return float((np.trace(within @ cov) - along) / length)


def _squared(w: np.ndarray, within: np.ndarray) -> float:
    return float(check_positive("w'C w", w @ within @ w))


def gaussian_constant(
    q: float, fpr: float, fnr: float, separation: float, dimension: int
) -> float:
    """k for a logistic fit to independent labels of two Gaussian classes.

    ``k = (d - 1)/d J S^2 V / (2 a^2)``: a is the minimiser's weight of the only
    coordinate in which classes differ (by S; its z is S / sqrt 2), V the variance of
    each other weight, both from :func:`theory.asymptotics.
    noisy_minimizer_and_sandwich`. As S -> 0 it tends to ``(d - 1) / (2 d)``.

    Args:
        q: share of right steps, in (0, 1).
        fpr: Pr(Y~=1 | Y=0), in [0, 1].
        fnr: Pr(Y~=0 | Y=1), in [0, 1]; the two must not sum to 1.
        separation: Mahalanobis distance S of the classes' means, > 0.
        dimension: d, integer >= 2.

    Raises:
        ValueError: an argument is outside its range, or the classes are so far apart
            that labels are separable.

    Example:
        >>> round(gaussian_constant(0.5, 0.0, 0.0, 0.01, 32), 3)
        0.484
        >>> round(gaussian_constant(0.5, 0.0, 0.0, 1.5, 32), 3)
        0.782
    """
    q = float(check_probability("q", q))
    separation = float(check_positive("separation", separation))
    across = int(check_count("dimension", dimension, low=2)) - 1
    information = noisy_fisher_weight(q, fpr, fnr)
    if not information > 0:
        raise ValueError("labels must say something: q in (0, 1), fpr + fnr not 1")
    node, weight = np.polynomial.hermite_e.hermegauss(_NODES)
    weight = weight / weight.sum()
    along = np.concatenate([node - separation / 2, node + separation / 2])
    weights = np.concatenate([(1 - q) * weight, q * weight])
    # One coordinate across stands for all: of mean 0 and variance 1.
    phi = np.array([(1, x, side) for side in (-1.0, 1.0) for x in along])
    found = noisy_minimizer_and_sandwich(
        phi, expit(logit(q) + separation * phi[:, 1]), fpr, fnr, np.tile(weights, 2)
    )
    relative = found.cov[2, 2] * (separation / found.w[1]) ** 2
    return float(across / dimension * information * relative / 2)


# --- where labels of cells lead -------------------------------------------------------


class Cells(NamedTuple):
    """Steps alike in all that the law of their features and labels depends on.

    Attributes:
        mean_CxD: of their features, without what all steps share, finite.
        label_C: 0 or 1.
        weight_C: share of the subset's steps, > 0, summing to 1.
    """

    mean_CxD: np.ndarray
    label_C: np.ndarray
    weight_C: np.ndarray


class Minimiser(NamedTuple):
    """Where logistic regression on many labels of a subset goes.

    Attributes:
        w_D: its weights.
        cov_DxD: limit of n times the covariance of a fit to n independent labels, by
            the sandwich.
    """

    w_D: np.ndarray
    cov_DxD: np.ndarray


def noisy_minimiser(cells: Cells, variance: float) -> Minimiser:
    """What minimises the expected logistic loss of a population, by Newton's method.

    Of features normal around their cell's mean with this variance of each coordinate;
    there is an intercept, too. Along w the noise is integrated by Gauss-Hermite, across
    w it enters the curvature only.

    Args:
        cells: of the population.
        variance: of each coordinate within a cell, > 0.

    Raises:
        ValueError: the labels are all equal, or the variance is not positive.

    Example:
        >>> import numpy as np
        >>> cells = Cells(np.array([[-1.0], [1.0]]), np.array([0, 1]), np.full(2, 0.5))
        >>> noisy_minimiser(cells, 1.0).w_D.round(2)
        array([2.])
    """
    node, weight = np.polynomial.hermite_e.hermegauss(_NOISE_NODES)
    weight = cells.weight_C[:, None] * weight / weight.sum()
    variance = float(check_positive("variance", variance))
    label_Cx1 = cells.label_C[:, None]
    share = float(cells.weight_C @ cells.label_C)
    if not 0 < share < 1:
        raise ValueError("labels that are all equal have no minimiser")
    phi = np.hstack([np.ones((len(label_Cx1), 1)), cells.mean_CxD])
    spread = np.sqrt(variance)
    beta = np.zeros(phi.shape[1])
    beta[0] = logit(share)

    def moment(of: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Sum of ``of phi phi'`` over cells and noise."""
        mixed = spread * np.outer(phi.T @ (of @ node), unit)
        along = (of @ (node**2 - 1)).sum() * np.outer(unit, unit)
        across = of.sum() * np.diag(np.append(0.0, np.ones(len(unit) - 1)))
        means = phi.T @ (of.sum(axis=1)[:, None] * phi)
        return means + mixed + mixed.T + variance * (along + across)

    def at(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities at cells and nodes, and the direction of the weights."""
        length = float(np.linalg.norm(beta[1:]))
        logits = (phi @ beta)[:, None] + spread * length * node
        return expit(logits), np.append(0.0, beta[1:]) / (length or 1.0)

    for _ in range(_NEWTON_STEPS):
        s, unit = at(beta)
        residual = weight * (s - label_Cx1)
        gradient = phi.T @ residual.sum(axis=1)
        gradient += spread * (residual @ node).sum() * unit
        step = np.linalg.solve(moment(weight * s * (1 - s), unit), -gradient)
        largest = np.abs(phi @ step).max() + spread * np.linalg.norm(step[1:])
        beta += step * (_LARGEST_STEP / max(largest, _LARGEST_STEP))
        if largest < _TOLERANCE:
            break
    s, unit = at(beta)
    inverse = np.linalg.inv(moment(weight * s * (1 - s), unit))
    cov = inverse @ moment(weight * (s - label_Cx1) ** 2, unit) @ inverse
    return Minimiser(beta[1:], cov[1:, 1:])


def cells_auroc(
    w_D: ArrayLike,
    mean_CxD: ArrayLike,
    right_C: ArrayLike,
    weight_C: ArrayLike,
    variance: float,
) -> float:
    """AUROC of a linear score on steps that are normal around their cell's mean,
    ``sum_ij a_i b_j Phi(<w, m_i - m_j> / (|w| sqrt(2 variance)))`` over right cells i
    and wrong cells j, a and b their shares of each class (Bamber 1975).

    Args:
        w_D: weights, not 0.
        mean_CxD: of the features of each cell.
        right_C: whether its steps are right.
        weight_C: of its steps, >= 0.
        variance: of each coordinate within a cell, > 0.

    Raises:
        ValueError: there is no right or no wrong step, or an argument is outside its
            range.

    Example:
        >>> round(cells_auroc([1, 0], [[1, 0], [0, 5]], [True, False], [1, 1], 0.5), 3)
        0.841
    """
    w, weight = check_finite("w_D", w_D), check_nonnegative("weight_C", weight_C)
    score = check_finite("mean_CxD", mean_CxD) @ w
    right = np.asarray(right_C, bool)
    classes = check_positive(
        "weight of a class", [weight[right].sum(), weight[~right].sum()]
    )
    spread = np.sqrt(2 * check_positive("variance", variance) * (w @ w))
    won = ndtr(
        np.subtract.outer(score[right], score[~right]) / check_positive("|w|", spread)
    )
    return float(weight[right] @ won @ weight[~right] / classes.prod())
