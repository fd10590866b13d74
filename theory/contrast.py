"""What a selection keeps of the contrast between right and wrong steps of a rollout.

A rollout x has labels y~_j = 1[K_j > 0] and truths z_j for its n measured steps, of
which n_pos are positive; bars are means over them. Its contrast and its variation are

    C_x = sum_j (y~_j - y~bar) (z_j - zbar)
    V_x = sum_j (y~_j - y~bar)^2 = n p (1 - p),    p = n_pos / n

Let features be phi_j = (anything the rollout's steps share) + delta z_j + N(0, I_d).
Given labels and truths, the score of within-rollout contrasts,
``T = sum_x w_x sum_j (y~_j - y~bar) phi_j``, is exactly ``N(delta sum_x w_x C_x,
sum_x w_x^2 V_x I_d)``: what steps share cancels, whatever its law. Its squared signal
to noise is |delta|^2 G.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from theory.beta_binomial import predictive_excess
from theory.domain import check_count, check_finite, check_nonnegative
from theory.rollouts import Rollouts
from theory.scores import label_mixture

# Subsets whose efficiency differs by less than this, relatively, count as equally good.
_TOLERANCE = 1e-12


class BestSubset(NamedTuple):
    """A most efficient subset.

    Attributes:
        rows: its rollouts, ascending int64.
        ratio: J = sum C / sum V over it, at least 0.
    """

    rows: np.ndarray
    ratio: float


def contrast_counts(
    rollouts: Rollouts, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Contrast and variation of each rollout's labels and truths.

    ``C_x = n_pos,right - n_pos n_right / n`` and ``V_x = n_pos n_neg / n``, both 0 for
    a pure rollout.

    Args:
        rollouts: the corpus.
        right: the truth of each step, boolean ``[n_steps]``; that of a step never
            sampled is not read.

    Returns:
        C in [-n/4, n/4] and V in [0, n/4], float64 ``[n_rollouts]`` each.

    Raises:
        ValueError: ``right`` is not boolean, or not one for each step, or a rollout has
            no measured step.

    Example:
        >>> corpus = Rollouts.from_scores(np.array([1, 0.5, 0, 0]), 2, np.array([0, 4]))
        >>> contrast_counts(corpus, np.array([True, False, False, False]))
        (array([0.5]), array([1.]))
    """
    variation = rollouts.n_measured * label_mixture(rollouts)
    n, n_pos, n_right, hits = _step_counts(rollouts, right)
    return (n * hits - n_pos * n_right) / n, variation


def expected_contrast(
    rollouts: Rollouts, a: float, b: float, tau: float | None = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Expected contrast given the counts, and the variation, of each rollout.

    ``E[C_x | K] = n p (1 - p) (PPV_x + NPV_x - 1)`` with the rollout's own PPV and NPV
    under the prior r ~ Beta(a, b): ``V_x`` times
    :func:`theory.beta_binomial.predictive_excess`.

    Returns:
        float64 ``[n_rollouts]`` each, equal to the last bit for equal counts in any
        order.

    Raises:
        ValueError: a parameter is outside its range, or a rollout has no measured step.
    """
    variation = rollouts.n_measured * label_mixture(rollouts)
    return variation * predictive_excess(rollouts, a, b, tau), variation


def selection_efficiency(
    contrast: ArrayLike, variation: ArrayLike, weights: ArrayLike = 1.0
) -> float:
    """Efficiency ``G(w) = (sum_x w_x C_x)^2 / sum_x w_x^2 V_x``; 0 where w V = 0.

    Args:
        contrast: C, ``[n]``.
        variation: V >= 0, ``[n]``; C is 0 where V is.
        weights: w, ``[n]`` or one number; 1 of a kept rollout and 0 of any other make w
            a selection.

    Raises:
        ValueError: an argument is not finite, V is negative, or V is 0 where C is not.

    Example: two of three rollouts are worth more than all.
        >>> selection_efficiency([1.0, 1.0, 0.0], [1.0, 1.0, 2.0])
        1.0
        >>> selection_efficiency([1.0, 1.0, 0.0], [1.0, 1.0, 2.0], [1, 1, 0])
        2.0
    """
    contrast, variation = _pairs(contrast, variation)
    weights = check_finite("weights", weights)
    return _efficiency((weights * contrast).sum(), (weights**2 * variation).sum())


def weighted_efficiency(contrast: ArrayLike, variation: ArrayLike) -> float:
    """Largest efficiency that any weights have, ``sum_x C_x^2 / V_x``.

    By Cauchy and Schwarz; ``w_x = C_x / V_x`` attains it, so that no selection beats
    weighting. Arguments and errors as for :func:`selection_efficiency`.
    """
    contrast, variation = _pairs(contrast, variation)
    mixed = variation > 0
    return float((contrast[mixed] ** 2 / variation[mixed]).sum())


def best_subset(
    contrast: ArrayLike, variation: ArrayLike, size: int | None = None
) -> BestSubset:
    """The most efficient subset: that with the largest ``sum C / sqrt(sum V)``.

    ``G(S) = max_J J (2 C(S) - J V(S))``, attained at J = C(S) / V(S). So the best
    subset of a size are the largest values of ``2 C_x - J V_x`` at its own J; without a
    size, all with C_x / V_x > J / 2: a rollout of a smaller ratio takes more than it
    gives.

    Alternating between J and its subset (Dinkelbach 1967) can end in a subset that is
    best at its own J and yet not best. The largest ``sum 2 C - J V`` is convex and
    piecewise linear in J: pieces are found by intersecting known ones (Eisner and
    Severance 1976), as far as the chord between two leaves room for a better subset.

    Args:
        contrast: this and variation as for :func:`selection_efficiency`.
        size: how many rollouts, integer in [1, n]; None: as many as are best.

    Returns:
        If no subset of the size has a positive sum of C, that with the largest (without
        a size, none); J is 0.

    Raises:
        ValueError: as :func:`selection_efficiency`, or ``size`` is out of range.
    """
    contrast, variation = _pairs(contrast, variation)
    # One order whatever the rows' own, so that sums are equal to the last bit.
    order = np.lexsort((variation, contrast))[::-1]
    c, v = contrast[order], variation[order]
    if size is None:
        chosen = _best_of_any_size(c, v)
    else:
        size = int(check_count("size", size, low=1))
        if size > len(c):
            raise ValueError(f"size must be at most {len(c)}, not {size}")
        chosen = _best_of_size(c, v, size)
    a, b = c[chosen].sum(), v[chosen].sum()
    return BestSubset(np.sort(order[chosen]), float(a / b) if a > 0 else 0.0)


def _best_of_any_size(c: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A prefix of the order by falling C / V; where no C is positive, none."""
    useful = np.flatnonzero(c > 0)
    ranked = useful[np.argsort(-c[useful] / v[useful], kind="stable")]
    a, b = np.cumsum(c[ranked]), np.cumsum(v[ranked])
    return ranked[: 1 + np.argmax(a / np.sqrt(b))] if len(ranked) else ranked


class _Piece(NamedTuple):
    """A subset that is best at one J; there its value is ``2 a - J b``."""

    chosen: np.ndarray
    a: float
    b: float
    at: float

    def value(self, ratio: float) -> float:
        return 2 * self.a - ratio * self.b

    @property
    def efficiency(self) -> float:
        return np.sign(self.a) * _efficiency(self.a, self.b)


def _best_of_size(c: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    def best_at(ratio: float) -> _Piece:
        chosen = np.argsort(ratio * v - 2 * c, kind="stable")[:size]
        return _Piece(chosen, float(c[chosen].sum()), float(v[chosen].sum()), ratio)

    mixed = v > 0
    low, high = best_at(0.0), best_at(np.max(c[mixed] / v[mixed], initial=0.0))
    if low.a <= 0:
        return low.chosen
    best = max(low, high, key=lambda piece: piece.efficiency)
    spans = [(low, high)]
    while spans:
        low, high = spans.pop()
        room = _most_below_chord(low, high) > best.efficiency * (1 + _TOLERANCE)
        if not room or low.b - high.b <= _TOLERANCE * low.b:
            continue
        between = best_at(2 * (low.a - high.a) / (low.b - high.b))
        slack = _TOLERANCE * (2 * low.a + between.at * low.b)
        if between.value(between.at) <= low.value(between.at) + slack:
            continue
        best = max(best, between, key=lambda piece: piece.efficiency)
        spans += [(low, between), (between, high)]
    return best.chosen


def _most_below_chord(low: _Piece, high: _Piece) -> float:
    """Largest ``J (chord at J)`` for J between two pieces: no subset that is best there
    is more efficient.
    """
    slope = (low.value(low.at) - high.value(high.at)) / (high.at - low.at)
    top = low.value(low.at) + slope * low.at
    at = np.clip(top / (2 * slope), low.at, high.at) if slope > 0 else high.at
    return at * (top - slope * at)


def pooled_efficiency(
    rollouts: Rollouts,
    right: np.ndarray,
    nuisance: float = 0.0,
    source_shift: float = 0.0,
) -> float:
    """Efficiency of the contrasts of all steps, between rollouts too.

    The score of a student with one intercept, at weights 0, is ``sum_j u_j phi_j`` with
    ``u_j = y~_j`` less the share of positives of all steps. What the steps of a rollout
    or a source share then stays, and is noise that grows with ``U``, the sum of u over
    the rollout or the source:

        G = (sum_j u_j z_j)^2
            / (sum_j u_j^2 + nuisance^2 sum_x U_x^2 + source_shift^2 sum_s U_s^2)

    Args:
        rollouts: the subset.
        right: the truth of each step, boolean ``[n_steps]``.
        nuisance: standard deviation, per coordinate, of what a rollout's steps share,
            in units of a step's own noise, >= 0.
        source_shift: likewise of what a source's steps share.

    Raises:
        ValueError: ``right`` is not boolean, or not one for each step, a standard
            deviation is negative, or no step is measured.
    """
    nuisance = float(check_nonnegative("nuisance", nuisance))
    source_shift = float(check_nonnegative("source_shift", source_shift))
    n, n_pos, n_right, hits = _step_counts(rollouts, right)
    if not n.any():
        raise ValueError("a subset needs at least one measured step")
    p = n_pos.sum() / n.sum()
    contrast = hits.sum() - p * n_right.sum()
    excess = n_pos - p * n
    by_source = np.bincount(rollouts.source, excess)
    shared = nuisance**2 * (excess**2).sum() + source_shift**2 * (by_source**2).sum()
    return _efficiency(contrast, n.sum() * p * (1 - p) + shared)


def one_step_auroc(
    efficiency: ArrayLike, signal: ArrayLike, dimension: ArrayLike, nuisance: ArrayLike
) -> np.ndarray:
    """AUROC of a linear student whose weights are the score T, after one step from 0.

    ``Phi(signal cos / sqrt(2 (1 + nuisance^2)))``, ``cos^2 = signal^2 G / (signal^2 G +
    d)``: cos is the mean of T along the truth over the root of T's mean square length.
    The mean AUROC over T is a little smaller; by at most .005 where signal <= 1.5 and
    d >= 16 (tested).

    Args:
        efficiency: G >= 0, of :func:`selection_efficiency` for contrasts within
            rollouts, of :func:`pooled_efficiency` for a student with one intercept.
        signal: distance of right from wrong steps in standard deviations of a step's
            own noise, >= 0.
        dimension: d of the features, integer >= 1.
        nuisance: standard deviation, per coordinate, of what a step to be judged shares
            with its rollout and its source, >= 0.

    Returns:
        In [1/2, 1).

    Raises:
        ValueError: an argument is outside its range.

    Example: much data, and what no data can mend.
        >>> one_step_auroc([10, 1000], 1.5, 32, 0.5).round(3)
        array([0.729, 0.827])
    """
    power = check_nonnegative("efficiency", efficiency)
    signal = check_nonnegative("signal", signal)
    power = signal**2 * power
    cosine = np.sqrt(power / (power + check_count("dimension", dimension, low=1)))
    spread = 1 + check_nonnegative("nuisance", nuisance) ** 2
    return ndtr(signal * cosine / np.sqrt(2 * spread))


def _step_counts(
    rollouts: Rollouts, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measured, positive, right, and positive and right steps of each rollout."""
    right = np.asarray(right)
    if right.dtype != np.bool_:
        raise ValueError(f"right must be boolean, not {right.dtype}")
    hits = rollouts.total(right & (rollouts.successes > 0))
    n_right = rollouts.total(right & rollouts.measured)
    return rollouts.n_measured, rollouts.n_positive, n_right, hits


def _efficiency(a: float, b: float) -> float:
    return float(a**2 / b) if b > 0 else 0.0


def _pairs(contrast: ArrayLike, variation: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    contrast = check_finite("contrast", contrast)
    variation = check_nonnegative("variation", variation)
    if contrast.ndim != 1 or contrast.shape != variation.shape:
        raise ValueError(
            f"contrast {contrast.shape} and variation {variation.shape} must be [n]"
        )
    if np.any((variation == 0) & (contrast != 0)):
        raise ValueError("contrast must be 0 where variation is")
    return contrast, variation
