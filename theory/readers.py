"""Error rates of two readings of the truth that nobody knows.

Reader 0 is the MC label, reader 1 an independent judge. Given the truth Z their errors
are independent, and both have the same rates in all sources s; only the prevalence
``pi_s = Pr(Z = 1)`` differs (Hui and Walter 1980):

    ``Pr(i, j | s) = pi_s Pr(i | 1) Pr(j | 1) + (1 - pi_s) Pr(i | 0) Pr(j | 0)``.

S sources give 3 S frequencies for S + 4 unknowns. Exchanging right and wrong leaves all
of them as they are, so of the two solutions the one is meant in which the judge is
better than chance, ``J = 1 - fpr - fnr > 0``; the label's J is then > 0 too iff the two
agree beyond chance.

Three sources or more test one assumption, that the rates are the same in all
(:attr:`TwoReaders.deviance`), and no number of sources tests the other: whatever the
two laws given Z, the sources' tables lie on the line between them, and a line meets the
surface of independence, ``Pr(0, 0) Pr(1, 1) = Pr(0, 1) Pr(1, 0)``, in two points, which
are what is fitted. Errors with a shared cause (position, difficulty) make both readers
look better than they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit, xlogy

from theory.domain import check_nonnegative

# Shares of positives that differ by less are equal: they differ by rounding.
_EQUAL = 1e-9

# A probability this near to 0 or 1 is there: its logit runs off to infinity.
_AT_BOUND = 1e-6

# Probabilities where the search begins are at least this far from 0 and 1.
_START = 0.02


@dataclass(frozen=True, eq=False)
class TwoReaders:
    """Prevalences and error rates of two readers, by maximum likelihood.

    Attributes:
        prevalence: pi_s, ``[S]``.
        fpr: Pr(reader says 1 | Z = 0) of label and judge, ``[2]``.
        fnr: Pr(reader says 0 | Z = 1) of label and judge, ``[2]``.
        covariance: of (prevalence, fpr, fnr), ``[S + 4, S + 4]``: the inverse observed
            information; steps are taken for independent. Estimates at 0 or 1 are held
            there: their rows are 0, and say nothing of how sure they are.
        at_bound: which of (prevalence, fpr, fnr) are at 0 or 1, bool ``[S + 4]``.
        log_likelihood: in nats, without the multinomial coefficients.
        deviance: twice what a free multinomial in each source has more, >= 0; about
            chi-squared with 2 S - 4 degrees of freedom if the rates are the same in all
            sources, so 0 at S = 2 unless an estimate is at its bound.
    """

    prevalence: np.ndarray
    fpr: np.ndarray
    fnr: np.ndarray
    covariance: np.ndarray
    at_bound: np.ndarray
    log_likelihood: float
    deviance: float

    @property
    def standard_errors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of prevalence, fpr and fnr; 0 where ``at_bound``."""
        errors = np.sqrt(np.diag(self.covariance))
        return errors[:-4], errors[-4:-2], errors[-2:]


def two_source_rates(counts: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prevalences and rates that reproduce the tables of two sources exactly.

    With p_s, r_s the shares of positive labels and judgements and c_s their covariance,
    ``X = (p_0 - p_1)(r_0 - r_1)``, ``u = (c_0 - c_1) / X``, ``v = (c_0 + c_1) / X``:
    ``D = pi_0 - pi_1 = +-(1 + u^2 + 2 v)^(-1/2)`` with the sign of ``r_0 - r_1``,
    ``pi_0 + pi_1 = 1 - u D``, ``J = (p_0 - p_1) / D`` and ``(r_0 - r_1) / D``, and fpr
    from ``p_s = fpr + J pi_s`` (Hui and Walter 1980).

    Args:
        counts: as for :func:`two_reader_rates`, with S = 2.

    Returns:
        prevalence ``[2]``, fpr ``[2]``, fnr ``[2]``: the maximum-likelihood estimates
        where they all lie in [0, 1]; sampling may put them outside.

    Raises:
        ValueError: as :func:`two_reader_rates`, or there are not two sources, or no
            real D solves the equations.
    """
    counts = _check_counts(counts)
    if len(counts) != 2:
        raise ValueError(f"counts must have two sources, not {len(counts)}")
    positive = _positive_shares(counts)
    joint = counts[:, 1, 1] / counts.sum(axis=(1, 2))
    c = joint - positive.prod(axis=1)
    gap = positive[0] - positive[1]
    u, v = (c[0] - c[1]) / gap.prod(), (c[0] + c[1]) / gap.prod()
    if not 1 + u**2 + 2 * v > 0:
        raise ValueError("counts must be such that a real pi_0 - pi_1 solves for them")
    d = np.sign(gap[1]) / np.sqrt(1 + u**2 + 2 * v)
    prevalence = (1 - u * d + d * np.array([1, -1])) / 2
    youden = gap / d
    fpr = positive[0] - youden * prevalence[0]
    return prevalence, fpr, 1 - fpr - youden


def two_reader_rates(counts: ArrayLike) -> TwoReaders:
    """Prevalences and both readers' error rates without a truth, by maximum likelihood.

    Maximises ``sum n_sij log Pr(i, j | s)`` from the closed form of the two sources
    that the judge finds most different; with two sources that is the maximum wherever
    it lies in [0, 1] (:func:`two_source_rates`).

    Args:
        counts: steps of source s with label i and judgement j, ``[S, 2, 2]``, >= 0
            (expected counts are allowed).

    Raises:
        ValueError: ``counts`` has another shape, is negative or not finite; there are
            fewer than two sources; a source has no steps; or what they leave
            unidentified: prevalences that do not differ, a label or a judge that
            carries no information about the truth.

    Example:
        Two sources of 1,000 steps, 80 % and 40 % right, fpr (.3, .1), fnr (.1, .2):

        >>> right = np.outer([0.1, 0.9], [0.2, 0.8])
        >>> wrong = np.outer([0.7, 0.3], [0.9, 0.1])
        >>> counts = [1000 * (x * right + (1 - x) * wrong) for x in (0.8, 0.4)]
        >>> fit = two_reader_rates(counts)
        >>> fit.prevalence.round(6), fit.fpr.round(6), fit.fnr.round(6)
        (array([0.8, 0.4]), array([0.3, 0.1]), array([0.1, 0.2]))
    """
    counts = _check_counts(counts)
    total = float(counts.sum())

    def objective(x: np.ndarray) -> float:
        return -float(np.sum(xlogy(counts, _cells(expit(x))))) / total

    def slope(x: np.ndarray) -> np.ndarray:
        score, _ = _derivatives(counts, expit(x))
        return -score * expit(x) * expit(-x) / total

    def curvature(x: np.ndarray) -> np.ndarray:
        theta, rate = expit(x), expit(x) * expit(-x)
        score, information = _derivatives(counts, theta)
        bend = score * rate * (1 - 2 * theta)
        return (information * np.outer(rate, rate) - np.diag(bend)) / total

    found = minimize(
        objective,
        logit(np.clip(_start(counts), _START, 1 - _START)),
        jac=slope,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-10, "maxiter": 1000},
    )
    theta = expit(found.x)
    if theta[-4:].reshape(2, 2).sum(axis=0)[1] > 1:
        # The mirror image, in which the judge's J is negative.
        fpr, fnr = theta[-4:].reshape(2, 2)
        theta = np.concatenate([1 - theta[:-4], 1 - fnr, 1 - fpr])
    at_bound = (theta < _AT_BOUND) | (theta > 1 - _AT_BOUND)
    information = _derivatives(counts, theta)[1][np.ix_(~at_bound, ~at_bound)]
    # In units of its own diagonal, so that the size of a source does not matter.
    scale = np.sqrt(np.maximum(np.diag(information), np.finfo(float).tiny))
    scaled = information / np.outer(scale, scale)
    if np.linalg.eigvalsh(scaled).min(initial=1.0) < _EQUAL:
        raise ValueError(
            "counts must identify all rates: their information is singular"
        )
    covariance = np.zeros((len(theta), len(theta)))
    covariance[np.ix_(~at_bound, ~at_bound)] = np.linalg.inv(scaled) / np.outer(
        scale, scale
    )
    log_likelihood = -total * objective(logit(theta))
    shares = counts / counts.sum(axis=(1, 2), keepdims=True)
    return TwoReaders(
        theta[:-4],
        theta[-4:-2],
        theta[-2:],
        covariance,
        at_bound,
        log_likelihood,
        max(2 * float(np.sum(xlogy(counts, shares)) - log_likelihood), 0.0),
    )


def _cells(theta: np.ndarray) -> np.ndarray:
    """Pr(i, j | s) ``[..., S, 2, 2]`` at theta = (prevalence, fpr, fnr)."""
    prevalence, fpr, fnr = theta[..., :-4], theta[..., -4:-2], theta[..., -2:]
    right = np.stack([fnr, 1 - fnr], axis=-1)
    wrong = np.stack([1 - fpr, fpr], axis=-1)

    def both(reader: np.ndarray) -> np.ndarray:
        product = reader[..., 0, :, None] * reader[..., 1, None, :]
        return product[..., None, :, :]

    share = prevalence[..., None, None]
    return share * both(right) + (1 - share) * both(wrong)


def _derivatives(
    counts: np.ndarray, theta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score and observed information of the log-likelihood in theta.

    A cell is linear in each entry of theta, so its slope in one is its value at 1 less
    that at 0, exactly, and likewise for two.
    """
    d = len(theta)
    at = np.broadcast_to(theta, (2, 2, d, d, d)).copy()
    first, second = np.arange(d)[:, None], np.arange(d)
    for end in (0, 1):
        at[end, :, first, second, first] = end
        at[:, end, first, second, second] = end
    ends = _cells(at)
    mixed = ends[1, 1] - ends[1, 0] - ends[0, 1] + ends[0, 0]
    mixed[np.arange(d), np.arange(d)] = 0
    only = np.broadcast_to(theta, (2, d, d)).copy()
    for end in (0, 1):
        only[end, np.arange(d), np.arange(d)] = end
    slope = np.subtract(*_cells(only)[::-1])
    # A cell nobody is in tells nothing, not even where it has no probability.
    weight = np.divide(counts, _cells(theta), where=counts > 0, out=0 * counts)
    weight2 = np.divide(weight, _cells(theta), where=counts > 0, out=0 * counts)
    score = np.einsum("ksij,sij->k", slope, weight)
    squares = np.einsum("ksij,lsij,sij->kl", slope, slope, weight2)
    return score, squares - np.einsum("klsij,sij->kl", mixed, weight)


def _start(counts: np.ndarray) -> np.ndarray:
    """theta near the maximum: the closed form of two sources, as far as it goes."""
    shares = _positive_shares(counts)
    pair = [np.argmax(shares[:, 1]), np.argmin(shares[:, 1])]
    try:
        _, fpr, fnr = two_source_rates(counts[pair])
    except ValueError:
        fpr, fnr = np.array([0.1, 0.1]), np.array([0.1, 0.1])
    # Prevalences as the judge has them, less its errors.
    prevalence = (shares[:, 1] - fpr[1]) / max(1 - fpr[1] - fnr[1], _START)
    return np.concatenate([prevalence, fpr, fnr])


def _positive_shares(counts: np.ndarray) -> np.ndarray:
    """Shares of steps that label and judge call positive, ``[S, 2]``."""
    positive = np.stack([counts[:, 1].sum(axis=1), counts[:, :, 1].sum(axis=1)], axis=1)
    return positive / counts.sum(axis=(1, 2))[:, None]


def _check_counts(counts: ArrayLike) -> np.ndarray:
    counts = check_nonnegative("counts", counts)
    if counts.ndim != 3 or counts.shape[1:] != (2, 2) or len(counts) < 2:
        raise ValueError(
            f"counts must have shape [S, 2, 2] with S >= 2 sources, not {counts.shape}"
        )
    if np.any(counts.sum(axis=(1, 2)) == 0):
        raise ValueError("counts must hold at least one step of each source")
    same = np.ptp(_positive_shares(counts), axis=0) <= _EQUAL
    if np.all(same):
        raise ValueError(
            "counts must come from sources of different prevalence: both readers find "
            "the same share of positives in all"
        )
    for reader, constant in zip(("label", "judge"), same, strict=True):
        if constant:
            raise ValueError(
                f"counts must have a {reader} that carries information: its share of "
                "positives is the same in all sources while the other's differs"
            )
    return counts
