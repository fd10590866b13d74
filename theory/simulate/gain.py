"""Simulations of :mod:`theory.gain`."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from theory import gain
from theory.simulate.asymptotics import logistic_fits
from theory.simulate.draw import DRAWS, Estimate, mean_and_se, twin

# An AUROC of 0 or 1 counts as that of classes so far apart.
_FARTHEST = 40.0
# Parts of a sample whose spread gives its standard error, and labels in each at least.
_PARTS, _LEAST = 50, 100


@twin(gain.auroc_of_estimate)
def auroc_of_estimate(minimiser_auroc, alignment, *, rng, draws=DRAWS):
    """Share of pairs in which a score at this angle puts the right step above."""
    along, across = np.sqrt(alignment), np.sqrt(1 - alignment)
    return _right_above(minimiser_auroc, along, across, rng, draws)


@twin(gain.predicted_auroc)
def predicted_auroc(
    steps, information, dimension, minimiser_auroc, k=0.5, *, rng, draws=DRAWS
):
    """The same of a score with a squared error of k d across for J n z^2 along."""
    along = np.sqrt(steps * information) * abs(_z(minimiser_auroc))
    across = np.sqrt(k * dimension)
    return _right_above(minimiser_auroc, along, across, rng, draws)


@twin(gain.estimated_score_auroc)
def estimated_score_auroc(n, w, cov, delta, within, *, rng, draws=DRAWS):
    """Mean AUROC of scores with drawn errors and with their opposites; w must be along
    ``C^-1 delta``, and the rest is O(n^-2).
    """
    delta = np.asarray(delta, float)
    error = rng.multivariate_normal(np.zeros(len(delta)), np.asarray(cov) / n, draws)
    both = np.asarray(w) + np.stack([error, -error])
    return ndtr(both @ delta / np.sqrt(2 * _square(both, within))).mean(axis=0)


@twin(gain.relative_error)
def relative_error(w, cov, within, *, rng, draws=DRAWS):
    """Mean squared length of drawn errors less their part along w, relative to w's."""
    w, length = np.asarray(w, float), _square(np.asarray(w, float), within)
    error = rng.multivariate_normal(np.zeros(len(w)), cov, draws)
    across = error - (error @ within @ w / length)[:, None] * w
    return _square(across, within) / length


@twin(gain.gaussian_constant)
def gaussian_constant(q, fpr, fnr, separation, dimension, *, rng, draws=DRAWS):
    """Fit to labels of drawn features, and what is left of them, tell the error of a
    weight in which the classes do not differ.
    """
    if draws < _PARTS * _LEAST:
        raise ValueError(f"draws must be at least {_PARTS * _LEAST}, not {draws}")
    truth = rng.random(draws) < q
    label = truth ^ (rng.random(draws) < np.where(truth, fnr, fpr))
    x = rng.standard_normal(draws) + separation * (truth - 0.5)

    def constant(part: slice) -> float:
        y, phi = label[part], np.column_stack([np.ones(len(x[part])), x[part]])
        w = logistic_fits(phi, np.ones((1, len(y))), y[None], np.zeros(2))[0]
        s = 1 / (1 + np.exp(-phi @ w))
        variance = np.mean((s - y) ** 2) / np.mean(s * (1 - s)) ** 2
        information = np.cov(truth[part], y)[0, 1] ** 2 / y.var()
        return information * variance * (separation / w[1]) ** 2

    each = draws // _PARTS
    parts = [constant(slice(i * each, (i + 1) * each)) for i in range(_PARTS)]
    share = (dimension - 1) / dimension / 2
    se = share * mean_and_se(np.array(parts)).standard_error
    return Estimate(float(share * constant(slice(None))), float(se))


def _right_above(minimiser_auroc, along, across, rng, draws):
    """Of a score with these weights of the best coordinate, in which right steps are
    ``sqrt(2) z`` above wrong ones, and of one in which they are not.
    """
    right, wrong = rng.standard_normal((2, draws, 2)) @ [along, across]
    return right + along * np.sqrt(2) * _z(minimiser_auroc) > wrong


def _z(minimiser_auroc):
    return np.clip(ndtri(minimiser_auroc), -_FARTHEST, _FARTHEST)


def _square(v, within):
    return np.sum((v @ np.asarray(within, float)) * v, axis=-1)
