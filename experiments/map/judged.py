"""What some rollouts whose steps were judged say of a corpus: how labels err in a
subset, and what the formula of :mod:`theory.gain` makes of it.

Steps alike in the bin of K/N, the third of the rollout, and whether the rollout is
mixed, are a cell. Judged steps give the share of right ones in each cell, counts give
how many steps of each cell a subset has. A cell of few judged steps is drawn to its bin
and kind of rollout, that to its bin, and that to its own MC score, each with the
weight of :data:`_PRIOR_STEPS` steps.

The formula then needs what features show, which neither judges nor counts say: it is
assumed (:class:`Assumed`). A step's features are normal with unit variance around

    S (Z - 1/2) e_t + a g e_d + b (t - 1/2) e_p,

g the standardised mean MC score of the rollout, t the step's relative position. Prior
knowledge c is a start at ``c S (e_t + u)``, u a random direction across e_t and as
long: so far from the truth the students of the map start. Of the start a share of
:data:`_RETAINED` is left in the weights after training, and the labels' own minimiser,
with its error, makes up the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from experiments.map.design import KNOWLEDGE_NOISE
from theory.continuations import JUDGED, Counts
from theory.domain import check_nonnegative, check_positive, check_probability
from theory.gain import (
    Cells,
    auroc_of_estimate,
    cells_auroc,
    noisy_minimiser,
    relative_error,
)
from theory.placement import noise_by_position, part_of_rollout, relative_position
from theory.rollouts import Rollouts

# Upper ends of the bins of K/N between none and all.
_SCORES = np.array([0, 2.5, 5.5, 10.5, 16]) / 16
THIRDS = 3
_EASES = 5
CELLS = (len(_SCORES) + 1, THIRDS, 2)

# Of the start in the trained weights: by how well the formula told the gains of worlds
# of the second design that are not held out; from .2 to .5 it hardly matters.
_RETAINED = 0.3

# Steps that what a cell is drawn to weighs.
_PRIOR_STEPS = 8.0


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What neither counts nor judged rollouts show.

    Attributes:
        separation: S, distance of right from wrong steps in features: clean labels
            without end give AUROC Phi(S / sqrt 2).
        ease: a, how strongly features show the rollout's ease.
        position: b, how strongly they show the position.
        dimension: d of the features, at least 4.
        knowledge: c, length of the start along the truth, in units of the best weights.

    Raises:
        ValueError: a value is negative, or the dimension below 4.
    """

    separation: float = 1.3416
    ease: float = 0.7
    position: float = 1.0
    dimension: int = 32
    knowledge: float = 0.0

    def __post_init__(self) -> None:
        for name in ("separation", "ease", "position", "knowledge"):
            check_nonnegative(name, getattr(self, name))
        if self.dimension < 4:
            raise ValueError(f"dimension must be at least 4, not {self.dimension}")


class ShownSteps(NamedTuple):
    """Features of the steps of some rollouts, and what they may show.

    Attributes:
        features_SxD: of any scale.
        right_S: the truth.
        ease_S: mean MC score of each step's rollout.
        position_S: relative, in [0, 1].
    """

    features_SxD: np.ndarray
    right_S: np.ndarray
    ease_S: np.ndarray
    position_S: np.ndarray

    def regressors(self) -> np.ndarray:
        """1, Z - 1/2, g and t - 1/2 of each step, ``[S, 4]``."""
        ease = (self.ease_S - self.ease_S.mean()) / (self.ease_S.std() or 1.0)
        ones = np.ones(len(ease))
        return np.stack([ones, self.right_S - 0.5, ease, self.position_S - 0.5], axis=1)


def strengths(one: ShownSteps, other: ShownSteps) -> np.ndarray:
    """How strongly features show truth, ease and position, each with the others held:
    S, a and b of :class:`Assumed`, float64 ``[3]``.

    Features are regressed on ``(1, Z - 1/2, g, t - 1/2)``. The best direction for a
    coefficient beta is ``Sigma^-1 beta``, Sigma the covariance of the residuals, drawn
    to its mean variance by ``D / n``: directions of one part, and how far the features
    of the other shift along them, in standard deviations of the residuals there. Both
    ways, averaged; so no dimension is too many, and noise alone shows nothing.

    Raises:
        ValueError: ease, position or truth is the same in all steps.
    """
    found = [
        _shift_along(_directions(of), at) for of, at in ((one, other), (other, one))
    ]
    return np.maximum(np.mean(found, axis=0), 0.0)


def _regressed(shown_SxP: np.ndarray, y_SxK: np.ndarray) -> tuple[np.ndarray, ...]:
    """Coefficients of all but the constant, and residuals."""
    if np.linalg.matrix_rank(shown_SxP) < shown_SxP.shape[1]:
        raise ValueError("truth, ease and position must differ between steps")
    found_PxK = np.linalg.lstsq(shown_SxP, y_SxK)[0]
    return found_PxK[1:], y_SxK - shown_SxP @ found_PxK


def _directions(of: ShownSteps) -> np.ndarray:
    """Best direction for each, ``[D, 3]``."""
    beta_3xD, rest_SxD = _regressed(of.regressors(), of.features_SxD)
    n, d = rest_SxD.shape
    within, drawn = rest_SxD.T @ rest_SxD / n, d / (n + d)
    within = (1 - drawn) * within + drawn * np.trace(within) / d * np.eye(d)
    return np.linalg.solve(within, beta_3xD.T)


def _shift_along(directions_Dx3: np.ndarray, at: ShownSteps) -> np.ndarray:
    shift_3x3, rest_Sx3 = _regressed(at.regressors(), at.features_SxD @ directions_Dx3)
    return np.diag(shift_3x3) / rest_Sx3.std(axis=0)


class Steps(NamedTuple):
    """The cell of every step, and its label 1[K > 0].

    Attributes:
        cell_S: index into :data:`CELLS`, flat.
        label_S: boolean.
        ease_S: bin of the rollout's mean MC score.
        row_S: rollout of each step.
    """

    cell_S: np.ndarray
    label_S: np.ndarray
    ease_S: np.ndarray
    row_S: np.ndarray


def steps_of(rollouts: Rollouts) -> Steps:
    """The cells of a corpus's steps.

    Raises:
        ValueError: a step was never sampled.
    """
    if not rollouts.measured.all():
        raise ValueError("every step must be measured")
    n = rollouts.n_rollouts
    row = np.repeat(np.arange(n), rollouts.lengths)
    score = rollouts.successes / rollouts.trials
    # 0 alone is below the first end, and 1 alone above the last.
    score_bin = np.searchsorted(_SCORES, score, "left")
    score_bin[score == 1] = len(_SCORES)
    mixed = (rollouts.n_positive > 0) & (rollouts.n_positive < rollouts.lengths)
    mean = np.bincount(row, score, n) / np.maximum(rollouts.lengths, 1)
    third = part_of_rollout(relative_position(rollouts), THIRDS)
    cell = np.ravel_multi_index((score_bin, third, mixed[row].astype(int)), CELLS)
    ease = np.minimum((mean * _EASES).astype(int), _EASES - 1)
    return Steps(cell, rollouts.successes > 0, ease[row], row)


def composition(steps: Steps, rows: np.ndarray | None = None) -> np.ndarray:
    """Steps of a subset by cell and ease, ``[cells, eases]``; of all without rows."""
    place = steps.cell_S * _EASES + steps.ease_S
    if rows is not None:
        place = place[np.isin(steps.row_S, rows)]
    size = int(np.prod(CELLS)) * _EASES
    return np.bincount(place, minlength=size).reshape(-1, _EASES).astype(float)


# --- what counts say if wrong steps behave as elsewhere -------------------------------

# Counts do not say how many steps are wrong: between these shares.
WRONG_SHARES = (0.05, 0.1, 0.2)


def right_by_law(
    rollouts: Rollouts, wrong_share: float, law: Counts = JUDGED
) -> np.ndarray:
    """``Pr(right | K)`` of every step where K has this law, ``[n_steps]``.

    Args:
        rollouts: every step measured.
        wrong_share: of the steps, before K is known, in [0, 1].
        law: of K of wrong and of right steps; that which judges found elsewhere.

    Raises:
        ValueError: a step was never sampled, or the share is outside its range.
    """
    if not rollouts.measured.all():
        raise ValueError("every step must be measured")
    q = 1 - float(check_probability("wrong_share", wrong_share))
    right = np.empty(rollouts.n_steps)
    for n in np.unique(rollouts.trials).tolist():
        f0, f1 = law(n)
        of = rollouts.trials == n
        posterior = q * f1 / (q * f1 + (1 - q) * f0)
        right[of] = posterior[rollouts.successes[of]]
    return right


# --- what judged steps say ------------------------------------------------------------


class Judged(NamedTuple):
    """Steps whose truth is known, of rollouts whose counts are.

    Attributes:
        cell_S: as :class:`Steps` has it.
        label_S: 1[K > 0].
        right_S: the truth.
        position_S: relative, in [0, 1].
        row_S: number of the judged rollout, below ``rollouts``.
        rollouts: how many there are.
    """

    cell_S: np.ndarray
    label_S: np.ndarray
    right_S: np.ndarray
    position_S: np.ndarray
    row_S: np.ndarray
    rollouts: int

    def noise(self, weight_X: np.ndarray | None = None) -> float:
        """How far position tells wrong steps labelled 1 from the others, in [0, 1];
        1/2 where there is no such pair. A rollout counts as often as its weight says.
        """
        times = np.ones(self.rollouts) if weight_X is None else weight_X
        of = np.repeat(np.arange(len(self.row_S)), times[self.row_S].astype(int))
        told = noise_by_position(
            self.label_S[of], self.right_S[of], self.position_S[of]
        )
        return float(np.nan_to_num(told.position_auroc, nan=0.5))


def judged_steps(
    rollouts: Rollouts, truth: np.ndarray, known: np.ndarray | None = None
) -> Judged:
    """The judged steps of some rollouts.

    Args:
        rollouts: the counts, every step measured.
        truth: whether each step is right, ``[n_steps]``.
        known: which steps were judged; all if None.

    Raises:
        ValueError: a step was never sampled, or none was judged.
    """
    steps = steps_of(rollouts)
    known = np.ones(len(truth), bool) if known is None else known
    if not known.any():
        raise ValueError("no step was judged")
    return Judged(
        steps.cell_S[known],
        steps.label_S[known],
        np.asarray(truth, bool)[known],
        relative_position(rollouts)[known],
        steps.row_S[known],
        rollouts.n_rollouts,
    )


def right_share(judged: Judged, weight_X: np.ndarray | None = None) -> np.ndarray:
    """Share of right steps of each cell, shrunk, in (0, 1), ``[cells]``; a rollout
    counts as often as its weight says.
    """
    weight = 1.0 if weight_X is None else weight_X[judged.row_S]
    weight = np.broadcast_to(weight, judged.cell_S.shape)
    size = int(np.prod(CELLS))
    steps, right = (
        np.bincount(judged.cell_S, of, size).reshape(CELLS)
        for of in (weight, weight * judged.right_S)
    )
    # The middle of the bins, never 0 or 1.
    edges = np.concatenate([[0], _SCORES, [1]])
    prior = ((edges[:-1] + edges[1:]) / 2).clip(1 / 32, 31 / 32)[:, None, None]
    for axes in ((1, 2), (1,), ()):
        of, hits = (x.sum(axis=axes, keepdims=True) for x in (steps, right))
        prior = (hits + _PRIOR_STEPS * prior) / (of + _PRIOR_STEPS)
    return np.broadcast_to(prior, CELLS).ravel()


class Values(NamedTuple):
    """What a label of a subset is worth.

    Attributes:
        ppv: Pr(right | K > 0).
        npv: Pr(wrong | K = 0).
        positive: share of positives.
    """

    ppv: float
    npv: float
    positive: float

    @property
    def information(self) -> float:
        """J of a label, ``q~ (1 - q~) (PPV + NPV - 1)^2``
        (:func:`theory.label_noise.noisy_fisher_weight`).
        """
        return self.positive * (1 - self.positive) * (self.ppv + self.npv - 1) ** 2


def predictive_values(subset: np.ndarray, right: np.ndarray) -> Values:
    """PPV and NPV of a subset's :func:`composition` where the shares of right steps are
    those of :func:`right_share`; NaN of a label that it lacks.
    """
    steps, positive = subset.sum(axis=1), _positive()
    ppv, npv = (
        float(steps[of] @ share[of] / total) if (total := steps[of].sum()) else np.nan
        for of, share in ((positive, right), (~positive, 1 - right))
    )
    return Values(ppv, npv, float(steps[positive].sum() / steps.sum()))


def _positive() -> np.ndarray:
    return np.unravel_index(np.arange(int(np.prod(CELLS))), CELLS)[0] > 0


# --- what the formula makes of it -----------------------------------------------------


class SubsetLaw(NamedTuple):
    """Where labels like a subset's lead a student, and how far it misses that.

    Attributes:
        area: AUROC, on the corpus's own steps, with such labels without end.
        error: squared error across of one label, nu^2
            (:func:`theory.gain.relative_error`).
        astray: squared error across of what the student knew before.
    """

    area: float
    error: float
    astray: float

    def auroc(self, n: ArrayLike) -> np.ndarray:
        """Of a student of n labels, ``Phi(z / sqrt(1 + error / n + astray))``."""
        miss = self.error / check_positive("n", n) + self.astray
        return auroc_of_estimate(self.area, 1 / (1 + miss))


def subset_law(
    subset: np.ndarray, corpus: np.ndarray, right: np.ndarray, assumed: Assumed
) -> SubsetLaw:
    """The law of linear students of a subset.

    Args:
        subset: from :func:`composition`.
        corpus: of all rollouts.
        right: from :func:`right_share`.
        assumed: what features show, and what the student knows already. Labels that are
            all equal teach nothing else.
    """
    truth, means = _means(corpus, assumed)
    third = np.unravel_index(np.arange(len(right)), CELLS)[1]

    def by_truth(table: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Steps by truth, third and ease, ``[2 x 3 x 5]`` flat."""
        found = np.zeros((2, THIRDS, _EASES))
        for z, share in enumerate((1 - right, right)):
            np.add.at(found[z], third[of], table[of] * share[of, None])
        return found.ravel()

    positive, n = _positive(), subset.sum()
    clean = by_truth(corpus, np.ones(len(right), bool))
    steps = np.concatenate([by_truth(subset, of) for of in (~positive, positive)])
    used = np.flatnonzero(steps)
    label = (used >= len(truth)).astype(int)
    w, cov = np.zeros(means.shape[1]), np.zeros((means.shape[1],) * 2)
    if label.min() < label.max():
        cells = Cells(np.tile(means, (2, 1))[used], label, steps[used] / n)
        w, cov = noisy_minimiser(cells, 1.0)
    kept = _RETAINED if assumed.knowledge else 0.0
    start = assumed.knowledge * assumed.separation
    w = (1 - kept) * w
    w[0] += kept * start
    if not w.any():
        return SubsetLaw(0.5, 0.0, 0.0)
    within = np.eye(len(w)) + _within(means, truth, clean)
    length = w @ within @ w
    # The last coordinate shows nothing, and stands for all that do not.
    rest = (assumed.dimension - len(w)) * cov[-1, -1] / length
    return SubsetLaw(
        cells_auroc(w, means, truth, clean, 1.0),
        (1 - kept) ** 2 * (relative_error(w, cov, within) + rest),
        float((kept * start * KNOWLEDGE_NOISE) ** 2 / length),
    )


def subset_auroc(
    subset: np.ndarray, corpus: np.ndarray, right: np.ndarray, assumed: Assumed
) -> float:
    """AUROC, on the corpus's own steps, of a linear student of a subset, in [0, 1].

    The sum of ``subset`` is the number of its labels; arguments as for
    :func:`subset_law`.
    """
    return float(subset_law(subset, corpus, right, assumed).auroc(subset.sum()))


def _means(corpus: np.ndarray, assumed: Assumed) -> tuple[np.ndarray, np.ndarray]:
    """Truth and mean features of steps by truth, third and ease."""
    truth, third, ease = np.indices((2, THIRDS, _EASES)).reshape(3, -1)
    middle = (np.arange(_EASES) + 0.5) / _EASES
    of = corpus.sum(axis=0) / corpus.sum()
    mean = of @ middle
    spread = max(np.sqrt(of @ (middle - mean) ** 2), 1 / (2 * _EASES))
    features = (
        assumed.separation * (truth - 0.5),
        assumed.ease * (middle[ease] - mean) / spread,
        assumed.position * ((third + 0.5) / THIRDS - 0.5),
        np.zeros(len(truth)),
    )
    return truth == 1, np.stack(features, axis=1)


def _within(means: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Covariance of the cells' means given the truth, averaged over the classes."""
    total = 0.0
    for of in (truth, ~truth):
        total = total + np.cov(means[of].T, aweights=weight[of], ddof=0) / 2
    return np.asarray(total)


def predicted_gain(
    subset: np.ndarray,
    baseline: np.ndarray,
    corpus: np.ndarray,
    right: np.ndarray,
    assumed: Assumed,
) -> float:
    """Difference of AUROC of two subsets by the formula."""
    return subset_auroc(subset, corpus, right, assumed) - subset_auroc(
        baseline, corpus, right, assumed
    )


class Resampled(NamedTuple):
    """What judged rollouts say of K subsets of BIS and of Random, on R resamples.

    Attributes:
        gain_RxK: difference of AUROC by the formula.
        bis_RxKx2: PPV and NPV of BIS's subsets.
        random_Rx2: of Random's, whatever its size.
        noise_R: how far position tells wrong steps labelled 1 from the others.
    """

    gain_RxK: np.ndarray
    bis_RxKx2: np.ndarray
    random_Rx2: np.ndarray
    noise_R: np.ndarray


def resample(
    bis: Sequence[np.ndarray], keep_ratios: Sequence[float], corpus: np.ndarray,
    judged: Judged, assumed: Assumed, weight_RxX: np.ndarray,
) -> Resampled:  # fmt: skip
    """The formula's gains and what labels are worth, for each weighting of the judged
    rollouts (:func:`theory.intervals.draw_weights`); arguments as for
    :func:`judged_inputs`.
    """
    gain, values, baseline, noise = [], [], [], []
    for weight in weight_RxX:
        right = right_share(judged, weight)
        law = subset_law(corpus, corpus, right, assumed)
        random = law.auroc(np.multiply(keep_ratios, corpus.sum()))
        gain.append([subset_auroc(of, corpus, right, assumed) for of in bis] - random)
        values.append([predictive_values(of, right)[:2] for of in bis])
        baseline.append(predictive_values(corpus, right)[:2])
        noise.append(judged.noise(weight))
    return Resampled(*map(np.array, (gain, values, baseline, noise)))


# --- inputs of the predictor ----------------------------------------------------------

# What features may show instead.
OTHERWISE = {
    "features blind": {"ease": 0.0, "position": 0.0},
    "ease shown": {"ease": 2.0, "position": 0.0},
    "position shown": {"ease": 0.0, "position": 3.0},
}

NAMES = (
    "formula",
    *(f"formula, {name}" for name in OTHERWISE),
    "log information ratio",
    "PPV of BIS less that of Random",
    "NPV of BIS less that of Random",
    "PPV of Random",
    "NPV of Random",
    "position's AUROC of wrong positives",
)

# Information of a label that a ratio does not fall below.
_LEAST_INFORMATION = 1e-3


def judged_inputs(
    bis: np.ndarray, corpus: np.ndarray, keep_ratio: float, judged: Judged,
    assumed: Assumed,
) -> np.ndarray:  # fmt: skip
    """Inputs of the predictor that judged rollouts give, ``[len(NAMES)]``.

    Args:
        bis: composition of BIS's subset.
        corpus: of all rollouts; Random's subset is ``keep_ratio`` of it.
        keep_ratio: rho.
        judged: the steps.
        assumed: what they do not show; of the formula's gains the first follows it,
            and the others differ from the defaults by :data:`OTHERWISE`.
    """
    right, random = right_share(judged), keep_ratio * corpus
    usual = Assumed(dimension=assumed.dimension)
    others = (dataclasses.replace(usual, **shown) for shown in OTHERWISE.values())
    gains = [
        predicted_gain(bis, random, corpus, right, one) for one in (assumed, *others)
    ]
    treated, baseline = (predictive_values(of, right) for of in (bis, random))
    kept = [
        np.log(max(np.nan_to_num(v.information), _LEAST_INFORMATION) * of.sum())
        for v, of in ((treated, bis), (baseline, random))
    ]
    # A label that a subset lacks errs in no step.
    ppv, npv = (
        [float(np.nan_to_num(getattr(v, name), nan=1.0)) for v in (treated, baseline)]
        for name in ("ppv", "npv")
    )
    return np.array(
        [*gains, kept[0] - kept[1], ppv[0] - ppv[1], npv[0] - npv[1], ppv[1], npv[1],
         judged.noise()]
    )  # fmt: skip
