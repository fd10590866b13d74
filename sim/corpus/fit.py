"""Corpus models estimated from anyone's counts, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, gammaln

from sim.corpus.calibrate import PAPER_MODELS, Targets, UnreachableTargets, calibrate
from sim.corpus.draw import expected
from sim.corpus.laws import CorpusModel, HierarchicalBeta
from sim.corpus.quadrature import beta_rule
from sim.corpus.sources import Source, sources_of
from theory.intervals import normal_half_width
from theory.rollouts import Rollouts

Model = TypeVar("Model", bound=CorpusModel)

# Below these a share has no more than an order of magnitude.
MIN_ROLLOUTS = 30
MIN_NEGATIVES = 5

# Rollouts that the likelihood reads at most; at 4,000 the interval is already narrower
# than the difference between models.
_LIKELIHOOD_ROLLOUTS = 4000

# Step of finite differences, in logarithms of parameters.
_STEP = 1e-3


@dataclass(frozen=True)
class ModelFit:
    """A corpus model fitted to counts.

    Attributes:
        model: the estimate.
        method: "likelihood", or "moments": the error-step ratio and the mixed share.
        parameters: names of the free parameters.
        estimate: their values.
        low: lower ends of 95 % intervals; NaN where there is none.
        high: upper ends.
        log_likelihood: of the rollouts that the likelihood read, in nats; NaN for
            moments.
        misses: what the model cannot reach, in words; empty if it meets both shares
            (moments) or always (likelihood).
    """

    model: CorpusModel
    method: str
    parameters: tuple[str, ...]
    estimate: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    log_likelihood: float
    misses: str


@dataclass(frozen=True, eq=False)
class CorpusFit:
    """Every model fitted to one corpus.

    Attributes:
        sources: mean MC, rollouts and steps of each source, which every model meets.
        trials: N of the corpus.
        targets: its two shares.
        models: by the names of :data:`sim.corpus.calibrate.PAPER_MODELS`.
    """

    sources: tuple[Source, ...]
    trials: int
    targets: Targets
    models: Mapping[str, ModelFit]


def fit(rollouts: Rollouts, names: Sequence[str] = tuple(PAPER_MODELS)) -> CorpusFit:
    """Fit the corpus models: by moments, then by likelihood where there is one.

    The hierarchical Beta and its two limits have a likelihood, by quadrature over the
    rollout's u; chains and the martingale are fitted to the error-step ratio and the
    mixed share alone. Intervals: the inverse observed information of the likelihood of
    the rollouts that it reads (at most 4,000), independent; for moments the delta
    method, with the covariance of the two shares over rollouts.

    Args:
        rollouts: every step measured, all with the same N >= 2.
        names: which models.

    Raises:
        ValueError: the corpus is too small or has no such N; says what it lacks.
    """
    trials = _check(rollouts)
    sources = sources_of(rollouts)
    n, positive = rollouts.n_measured, rollouts.n_positive
    shares = (n - positive).sum() / n.sum(), np.mean((positive > 0) & (positive < n))
    targets = Targets(float(shares[0]), float(shares[1]), trials)
    models = {
        name: _by_likelihood(start, rollouts, sources)
        if isinstance(start, HierarchicalBeta)
        else _by_moments(start, rollouts, sources, targets)
        for name, start in ((name, PAPER_MODELS[name]) for name in names)
    }
    return CorpusFit(sources, trials, targets, MappingProxyType(models))


def _check(rollouts: Rollouts) -> int:
    if not np.all(rollouts.measured):
        raise ValueError("a fit needs every step measured: drop those that are not")
    if np.any(rollouts.lengths == 0):
        raise ValueError("a fit needs rollouts with at least one step each")
    if len(rollouts.distinct_trials) != 1 or rollouts.distinct_trials[0] < 2:
        found = ", ".join(map(str, rollouts.distinct_trials)) or "none"
        raise ValueError(f"a fit needs one N >= 2 for all steps, not {found}")
    if rollouts.n_rollouts < MIN_ROLLOUTS:
        raise ValueError(
            f"{rollouts.n_rollouts} rollouts are too few to fit: "
            f"at least {MIN_ROLLOUTS} are needed"
        )
    negative = rollouts.n_steps - int(rollouts.n_positive.sum())
    rarer = min(negative, rollouts.n_steps - negative)
    if rarer < MIN_NEGATIVES:
        raise ValueError(
            f"{rarer} steps of the rarer label are too few to fit: at least "
            f"{MIN_NEGATIVES} with K = 0 and with K > 0 are needed"
        )
    return rollouts.distinct_trials[0]


class Likelihood:
    """Log probability of the counts, in nats, given the lengths, of any such model.

    ``sum_x log E_u prod_j Pr(K_j | u)``: u ~ Beta(k0 mu, k0 (1 - mu)) with the source's
    mean MC, and K_j beta-binomial with Beta(k u, k (1 - u)), binomial for k = inf.
    """

    def __init__(self, rollouts: Rollouts, sources: Sequence[Source]) -> None:
        """Count once how often each rollout has each K, source by source.

        Args:
            rollouts: all with the same N.
            sources: of the rollouts.
        """
        self.trials = rollouts.distinct_trials[0]
        by_name = {source.name: source.mean_mc for source in sources}
        row = rollouts.rollout
        counts_XxK = np.zeros((rollouts.n_rollouts, self.trials + 1))
        np.add.at(counts_XxK, (row, rollouts.successes.astype(np.int64)), 1.0)
        self.parts = [
            (by_name[name], counts_XxK[of])
            for i, name in enumerate(rollouts.source_names)
            if np.any(of := rollouts.source == i)
        ]

    def __call__(self, model: HierarchicalBeta) -> float:
        """The log probability under a model."""
        total = 0.0
        for mean_mc, counts_NxK in self.parts:
            u, weight = beta_rule(mean_mc, model.k0)
            log_pmf_QxK = _log_count_pmf(u, model.k, self.trials)
            log_joint_NxQ = counts_NxK @ log_pmf_QxK.T
            log_weight = np.log(np.maximum(weight, 1e-300))
            joint_N = np.logaddexp.reduce(log_joint_NxQ + log_weight, axis=1)
            total += float(joint_N.sum())
        return total


def _log_count_pmf(u: np.ndarray, concentration: float, trials: int) -> np.ndarray:
    """log Pr(K | u), ``[len(u), N + 1]``."""
    k = np.arange(trials + 1)
    inside = np.clip(u, 1e-12, 1 - 1e-12)[:, None]
    choose = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    if np.isinf(concentration):
        return choose + k * np.log(inside) + (trials - k) * np.log1p(-inside)
    a, b = concentration * inside, concentration * (1 - inside)
    return choose + betaln(a + k, b + trials - k) - betaln(a, b)


def _by_likelihood(
    start: HierarchicalBeta, rollouts: Rollouts, sources: Sequence[Source]
) -> ModelFit:
    # A deterministic thinning: every rollout has the same chance, whatever the order.
    stride = -(-rollouts.n_rollouts // _LIKELIHOOD_ROLLOUTS)
    sample = rollouts.take(np.arange(0, rollouts.n_rollouts, stride))
    likelihood = Likelihood(sample, sources)
    names = _free(start, sources)

    def loss(log_values: np.ndarray) -> float:
        return -likelihood(_moved(start, names, log_values))

    found = minimize(
        loss,
        np.zeros(len(names)),
        method="Nelder-Mead",
        bounds=[(np.log(1e-2), np.log(1e3))] * len(names),
        options={"xatol": 1e-4, "fatol": 1e-4, "maxiter": 200},
    )
    model = _moved(start, names, found.x)
    # Of what was read: the rest of the corpus told the estimate nothing.
    covariance = _inverse(_hessian(loss, found.x))
    ends = _ends(names, found.x, covariance)
    return ModelFit(model, "likelihood", *ends, -float(found.fun), "")


def _by_moments(
    start: CorpusModel, rollouts: Rollouts, sources: Sequence[Source], targets: Targets
) -> ModelFit:
    misses = ""
    try:
        model = calibrate(start, targets, sources)
    except UnreachableTargets as error:
        model = error.nearest
        misses = "; ".join(
            f"{m.name} {m.wanted:.4g}, nearest {m.nearest:.4g}" for m in error.misses
        )
    names = _free(model, sources)
    log_values = np.log([getattr(model, name) for name in names])

    def shares(x: np.ndarray) -> np.ndarray:
        found = expected(_moved(model, names, x), sources, targets.trials)
        return np.array([found.error_step_ratio, found.mixed_share])

    covariance = np.full((len(names), len(names)), np.nan)
    if not misses:
        jacobian = np.stack(
            [
                (shares(log_values + e) - shares(log_values - e)) / (2 * _STEP)
                for e in _STEP * np.eye(len(names))
            ],
            axis=1,
        )
        inverse = _inverse(jacobian)
        covariance = inverse @ share_covariance(rollouts) @ inverse.T
    ends = _ends(names, log_values, covariance)
    return ModelFit(model, "moments", *ends, np.nan, misses)


def _free(model: CorpusModel, sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(model.free(min(source.mean_mc for source in sources)))


def _moved(model: Model, names: Sequence[str], log_values: np.ndarray) -> Model:
    return model.at(dict(zip(names, np.exp(log_values).tolist(), strict=True)))


def share_covariance(rollouts: Rollouts) -> np.ndarray:
    """Covariance of (error-step ratio, mixed share) over rollouts, ``[2, 2]``.

    Of a ratio of sums by its linearisation; rollouts are independent.
    """
    n, positive = rollouts.n_measured, rollouts.n_positive
    ratio = (n - positive).sum() / n.sum()
    residuals = np.stack(
        [((n - positive) - ratio * n) / n.mean(), (positive > 0) & (positive < n)]
    )
    return np.cov(residuals) / rollouts.n_rollouts


def _hessian(f, x: np.ndarray) -> np.ndarray:
    """Second derivatives by central differences."""
    # Wide steps: the quadrature's error is as smooth as the likelihood is not.
    step = 0.02
    d = len(x)
    hessian = np.empty((d, d))
    for i in range(d):
        for j in range(i + 1):
            a, b = step * np.eye(d)[i], step * np.eye(d)[j]
            corner = f(x + a + b) - f(x + a - b) - f(x - a + b) + f(x - a - b)
            hessian[i, j] = hessian[j, i] = corner / (4 * step**2)
    return hessian


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse; NaN where there is none."""
    try:
        return np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        return np.full(matrix.shape, np.nan)


class _Ends(NamedTuple):
    """The fields of :class:`ModelFit` from parameters to high."""

    parameters: tuple[str, ...]
    estimate: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _ends(
    names: tuple[str, ...], log_values: np.ndarray, covariance: np.ndarray
) -> _Ends:
    """Estimates with 95 % intervals that are symmetric in the logarithm."""
    variance = np.diag(covariance)
    # A variance below 0 is a flat or rising likelihood: no interval.
    half = normal_half_width(np.sqrt(np.where(variance >= 0, variance, np.nan)))
    estimate, low, high = (
        tuple(np.exp(log_values + sign * half).tolist()) for sign in (0, -1, 1)
    )
    return _Ends(names, estimate, low, high)
