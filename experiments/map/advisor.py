"""Predicts what a selection gains from what a corpus's counts say.

Ridge regression on :data:`NAMES`, their squares and products with the keep ratio; the
penalty by leave-one-out error. Most axes of the map (what features encode, how labels
err) cannot be seen in counts: worlds that look alike gain differently, and the
intervals are as wide as that, by conformal prediction from leave-one-out residuals
(Barber et al. 2021), scaled by a fit of their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.map.design import ARMS
from experiments.map.worlds import gains
from experiments.store.results import Result
from theory.rollouts import Rollouts
from theory.scores import reliability
from theory.summary import summarise

# --- what counts say ------------------------------------------------------------------

# A positive with at most this share of successes is in doubt (K <= 2 of 16).
_LOW_SCORE = 1 / 8

# Inputs of the predictor, in order, each of a corpus, a keep ratio and a training.
NAMES = (
    "log mixed share",
    "log error-step ratio",
    "mean MC score",
    "share of Var(MC) between rollouts",
    "positives with K/N <= 1/8",
    "reliability of mixed rollouts",
    "log keep ratio",
    "keep ratio over mixed share, log",
    "log updates on the subset",
)


def corpus_measures(rollouts: Rollouts) -> dict[str, float]:
    """The corpus's part of the inputs, before logarithms.

    Raises:
        ValueError: there is no measured step, no mixed rollout, or no negative step:
            then there is nothing for BIS to rank.
    """
    summary = summarise(rollouts)
    if summary.mixed_share == 0:
        raise ValueError("no rollout is mixed: BIS has nothing to rank")
    measured = rollouts.measured
    scores = rollouts.successes[measured] / rollouts.trials[measured]
    positive = scores > 0
    n, n_positive = rollouts.n_measured, rollouts.n_positive
    mixed = (n_positive > 0) & (n_positive < n)
    return {
        "mixed_share": summary.mixed_share,
        "error_step_ratio": summary.error_step_ratio,
        "mean_mc": summary.mean_mc,
        "between_share": between_share(rollouts),
        "low_positive_share": float(np.mean(scores[positive] <= _LOW_SCORE)),
        "mixed_reliability": float(
            reliability(rollouts.take(np.flatnonzero(mixed))).mean()
        ),
    }


def between_share(rollouts: Rollouts) -> float:
    """Share of the variance of the MC score that lies between rollouts, in [0, 1].

    Of the law of r that moments give: variance between rollouts by the products of
    different steps of a rollout, variance within less the binomial's.
    """
    measured = rollouts.measured
    trials = rollouts.trials[measured].astype(np.float64)
    s = rollouts.successes[measured] / trials
    n = rollouts.n_measured
    row = np.repeat(np.arange(len(n)), n)
    total, squares = (np.bincount(row, x, len(n)) for x in (s, s**2))
    pairs = n * (n - 1)
    if pairs.sum() == 0:
        return 0.0
    mean = s.mean()
    between = (total**2 - squares).sum() / pairs.sum() - mean**2
    several = trials > 1
    # E[s^2] = E[r^2] + E[r (1 - r)] / N.
    second = (trials * s**2 - s)[several] / (trials - 1)[several]
    spread = (second.mean() if several.any() else (s**2).mean()) - mean**2
    return float(np.clip(between / spread, 0.0, 1.0)) if spread > 0 else 0.0


def inputs(
    measures: Mapping[str, float], keep_ratio: float, updates: float
) -> np.ndarray:
    """Inputs of the predictor, float64 ``[len(NAMES)]``.

    Args:
        measures: from :func:`corpus_measures`.
        keep_ratio: rho.
        updates: on the subset.
    """
    return np.array(
        [
            np.log(measures["mixed_share"]),
            np.log(measures["error_step_ratio"]),
            measures["mean_mc"],
            measures["between_share"],
            measures["low_positive_share"],
            measures["mixed_reliability"],
            np.log(keep_ratio),
            np.log(keep_ratio / measures["mixed_share"]),
            np.log(updates),
        ]
    )


# --- what is predicted ----------------------------------------------------------------

LEVEL = 0.9
MIN_WORLDS = 20
_PENALTIES = tuple(10.0**k for k in range(-1, 5))
_KEEP = NAMES.index("log keep ratio")
_FARTHEST = 3.0

# What is predicted: differences of micro-F1.
TARGETS = (
    ("bis", "random"),
    ("bis", "mixed"),
    *((name, "full") for name in ARMS if name != "full"),
)

# Farther from every simulated world than this many times the largest distance that
# one has to its nearest neighbour is outside.
_REACH = 1.25


class Prediction(NamedTuple):
    """A predicted difference.

    Attributes:
        gain: predicted mean over seeds.
        low: lower end of the 90 % interval.
        high: upper end.
    """

    gain: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class GainModel:
    """Ridge regression of a gain on inputs of worlds, with its conformal interval.

    Attributes:
        center: of the inputs.
        scale: of the inputs.
        coefficients: of the expanded inputs.
        size: of the residuals' sizes, on the same.
        quantile: of residuals over their sizes.
        floor: least size.
        prior: which input is a prediction, to which the regression adds; None: 0.
    """

    center: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    size: np.ndarray
    quantile: float
    floor: float
    prior: int | None = None

    def predict(self, x: np.ndarray) -> Prediction:
        """Gain of one world of this look with its 90 % interval."""
        z = _expand((x[None] - self.center) / self.scale)
        gain = float((z @ self.coefficients)[0])
        gain += 0.0 if self.prior is None else float(x[self.prior])
        half = self.quantile * max(float((z @ self.size)[0]), self.floor)
        return Prediction(gain, gain - half, gain + half)


@dataclass(frozen=True, eq=False)
class Advisor:
    """Fitted predictors, one per target.

    Attributes:
        seen: inputs of the worlds it was fitted to, ``[n, len(NAMES)]``.
        models: by (treated, baseline).
        majority: the more frequent sign of each target's gain among those worlds, 1
            where both are as frequent.
        reach: distance beyond which a corpus is outside.
    """

    seen: np.ndarray
    models: dict[tuple[str, str], GainModel]
    majority: dict[tuple[str, str], int]
    reach: float

    def distance(self, x: np.ndarray) -> float:
        """Distance to the nearest simulated world, in standard deviations of the
        worlds, root mean square over the inputs; at most ``reach`` is inside.
        """
        return float(_distances(x[None], self.seen).min())

    def outside(self, x: np.ndarray) -> list[str]:
        """Names of the inputs that lie beyond every simulated world; "all together"
        if each is inside its range but their combination is far from all worlds.
        """
        low, high = self.seen.min(axis=0), self.seen.max(axis=0)
        margin = 0.05 * (high - low)
        beyond = [
            name
            for name, value, a, b in zip(
                NAMES, x, low - margin, high + margin, strict=True
            )
            if not a <= value <= b
        ]
        if not beyond and self.distance(x) > self.reach:
            return ["all together"]
        return beyond

    def predict(self, target: tuple[str, str], x: np.ndarray) -> Prediction:
        """Gain of a target with its 90 % interval, for one world of this look."""
        return self.models[target].predict(x)

    def drivers(
        self, target: tuple[str, str], x: np.ndarray
    ) -> list[tuple[str, float]]:
        """What each input adds to the gain compared with its mean over the worlds, the
        largest first.
        """
        at, mean = self.predict(target, x).gain, self.seen.mean(axis=0)
        parts = [
            (name, at - self.predict(target, np.where(one, mean, x)).gain)
            for name, one in zip(NAMES, np.eye(len(NAMES), dtype=bool), strict=True)
        ]
        return sorted(parts, key=lambda part: -abs(part[1]))


def world_inputs(result: Result) -> np.ndarray:
    """Inputs of a simulated world."""
    return inputs(
        result.metrics["measures"],
        result.config["axes"]["keep_ratio"],
        result.metrics["updates"],
    )


def fit_advisor(worlds: Sequence[Result]) -> Advisor:
    """Fit every target on the given worlds.

    Raises:
        ValueError: there are fewer than 20 worlds.
    """
    if len(worlds) < MIN_WORLDS:
        raise ValueError(
            f"an advisor needs at least {MIN_WORLDS} worlds, not {len(worlds)}"
        )
    x = np.stack([world_inputs(world) for world in worlds])
    means = {
        target: np.array([gains(world, *target).mean() for world in worlds])
        for target in TARGETS
    }
    between = _distances(x, x)
    np.fill_diagonal(between, np.inf)
    return Advisor(
        x,
        {target: fit_gain(x, y) for target, y in means.items()},
        {target: 1 if np.sign(y).sum() >= 0 else -1 for target, y in means.items()},
        _REACH * float(between.min(axis=1).max()),
    )


def validate(
    advisor: Advisor, held_out: Sequence[Result], target: tuple[str, str]
) -> dict[str, Any]:
    """How the intervals and signs do on worlds that the advisor has not seen.

    Returns:
        ``coverage`` of the intervals; ``sign_right``, the share of signs predicted
        right, beside ``majority``, the share that always naming the advisor's more
        frequent sign gets right; ``rmse`` and ``spread``, errors of the predictions and
        of the mean gain; ``width`` of the intervals.
    """
    predicted = [advisor.predict(target, world_inputs(world)) for world in held_out]
    gain, low, high = np.array(predicted).T
    true = np.array([gains(world, *target).mean() for world in held_out])
    return {
        "worlds": len(true),
        "coverage": float(np.mean((low <= true) & (true <= high))),
        "sign_right": float(np.mean(np.sign(gain) == np.sign(true))),
        "majority": float(np.mean(np.sign(true) == advisor.majority[target])),
        "rmse": float(np.sqrt(np.mean((gain - true) ** 2))),
        "spread": float(true.std()),
        "width": float(np.mean(high - low)),
    }


def fit_gain(x: np.ndarray, y: np.ndarray, prior: int | None = None) -> GainModel:
    """The ridge regression of least leave-one-out error.

    Args:
        x: inputs of the worlds, those of :data:`NAMES` first, ``[n, inputs]``.
        y: their gains, ``[n]``.
        prior: which input is itself a prediction of the gain: what it misses is what is
            regressed, so that a strong penalty leaves it as it is. None: the gain is.
    """
    center, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    z = _expand((x - center) / scale)
    missed = y if prior is None else y - x[:, prior]
    fits = [_leave_one_out(z, missed, penalty) for penalty in _PENALTIES]
    coefficients, residuals = min(fits, key=lambda fit: float(np.mean(fit[1] ** 2)))
    absolute = np.abs(residuals)
    # A strong penalty: sizes are noisy, and only their trend is wanted.
    size, size_errors = _leave_one_out(z, absolute, len(y))
    # Where every world has the same gain nothing is left to scale.
    floor = max(float(0.5 * absolute.mean()), np.finfo(float).tiny)
    # Each world's size by the fit to the others, as a new world will have it.
    ratio = np.sort(absolute / np.maximum(absolute - size_errors, floor))
    rank = min(int(np.ceil(LEVEL * (len(y) + 1))), len(y)) - 1
    quantile = float(ratio[rank])
    return GainModel(center, scale, coefficients, size, quantile, floor, prior)


def _expand(z: np.ndarray) -> np.ndarray:
    """1, the inputs of counts, their squares, and their products with the keep ratio;
    what else there is as it is, but within three standard deviations.
    """
    z, more = z[:, : len(NAMES)], z[:, len(NAMES) :]
    others = np.delete(z, _KEEP, axis=1)
    parts = [np.ones((len(z), 1)), z, z**2 - 1, others * z[:, [_KEEP]]]
    return np.hstack([*parts, np.clip(more, -_FARTHEST, _FARTHEST)])


def _leave_one_out(
    z: np.ndarray, y: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge coefficients and the residual of each point by the fit to the others."""
    penalties = np.full(z.shape[1], penalty)
    penalties[0] = 0.0
    inverse = np.linalg.inv(z.T @ z + np.diag(penalties))
    coefficients = inverse @ (z.T @ y)
    leverage = np.einsum("ni,ij,nj->n", z, inverse, z)
    return coefficients, (y - z @ coefficients) / np.maximum(1 - leverage, 1e-6)


def _distances(x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    gaps = (x[:, None] - seen) / np.maximum(seen.std(axis=0), 1e-9)
    return np.sqrt((gaps**2).mean(axis=-1))
