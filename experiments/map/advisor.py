"""Predicts what a selection gains from what a corpus's counts say.

Ridge regression on the inputs of :mod:`experiments.map.features`, their squares and
products with the keep ratio; the penalty by leave-one-out error. Most axes of the map
(what features encode, how labels err) cannot be seen in counts: worlds that look alike
gain differently, and the intervals are as wide as that, by conformal prediction from
leave-one-out residuals (Barber et al. 2021), scaled by a fit of their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.map.features import NAMES, inputs
from experiments.map.run import ARMS, gains
from experiments.store.results import Result

LEVEL = 0.9
_PENALTIES = tuple(10.0**k for k in range(-1, 5))
_KEEP = NAMES.index("log keep ratio")

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
    """A predicted difference of micro-F1.

    Attributes:
        gain: predicted mean over seeds.
        low: lower end of the 90 % interval.
        high: upper end.
    """

    gain: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class _Ridge:
    center: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    size: np.ndarray
    quantile: float
    floor: float


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
    models: dict[tuple[str, str], _Ridge]
    majority: dict[tuple[str, str], int]
    reach: float

    def distance(self, x: np.ndarray) -> float:
        """Distance to the nearest simulated world, in standard deviations of the
        worlds, root mean square over the inputs; at most ``reach`` is inside.
        """
        scale = self.seen.std(axis=0)
        return float(_distances(x[None], self.seen, scale).min())

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
        model = self.models[target]
        z = _expand((x[None] - model.center) / model.scale)
        gain = float((z @ model.coefficients)[0])
        half = model.quantile * float(_size(z, model.size, model.floor)[0])
        return Prediction(gain, gain - half, gain + half)

    def drivers(
        self, target: tuple[str, str], x: np.ndarray
    ) -> list[tuple[str, float]]:
        """What each input adds to the gain compared with its mean over the worlds, the
        largest first.
        """
        at = self.predict(target, x).gain
        parts = []
        for i, name in enumerate(NAMES):
            average = x.copy()
            average[i] = self.seen[:, i].mean()
            parts.append((name, at - self.predict(target, average).gain))
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
    if len(worlds) < 20:
        raise ValueError(f"an advisor needs at least 20 worlds, not {len(worlds)}")
    x = np.stack([world_inputs(world) for world in worlds])
    means = {
        target: np.array([gains(world, *target).mean() for world in worlds])
        for target in TARGETS
    }
    models = {target: _fit(x, y) for target, y in means.items()}
    majority = {
        target: 1 if np.sign(y).sum() >= 0 else -1 for target, y in means.items()
    }
    between = _distances(x, x, x.std(axis=0))
    np.fill_diagonal(between, np.inf)
    return Advisor(x, models, majority, _REACH * float(between.min(axis=1).max()))


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
    rows = []
    for world in held_out:
        prediction = advisor.predict(target, world_inputs(world))
        true = float(gains(world, *target).mean())
        rows.append((*prediction, true))
    gain, low, high, true = np.array(rows).T
    return {
        "worlds": len(rows),
        "coverage": float(np.mean((low <= true) & (true <= high))),
        "sign_right": float(np.mean(np.sign(gain) == np.sign(true))),
        "majority": float(np.mean(np.sign(true) == advisor.majority[target])),
        "rmse": float(np.sqrt(np.mean((gain - true) ** 2))),
        "spread": float(true.std()),
        "width": float(np.mean(high - low)),
    }


def _fit(x: np.ndarray, y: np.ndarray) -> _Ridge:
    center, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    z = _expand((x - center) / scale)
    fits = [_leave_one_out(z, y, penalty) for penalty in _PENALTIES]
    coefficients, residuals = min(fits, key=lambda fit: float(np.mean(fit[1] ** 2)))
    absolute = np.abs(residuals)
    # A strong penalty: sizes are noisy, and only their trend is wanted.
    size, size_errors = _leave_one_out(z, absolute, len(y))
    # Where every world has the same gain nothing is left to scale.
    floor = max(float(0.5 * absolute.mean()), np.finfo(float).tiny)
    # Each world's size by the fit to the others, as a new world will have it.
    ratio = np.sort(absolute / np.maximum(absolute - size_errors, floor))
    rank = min(int(np.ceil(LEVEL * (len(y) + 1))), len(y)) - 1
    return _Ridge(center, scale, coefficients, size, float(ratio[rank]), floor)


def _expand(z: np.ndarray) -> np.ndarray:
    """1, the inputs, their squares, and their products with the keep ratio."""
    others = np.delete(z, _KEEP, axis=1)
    return np.hstack([np.ones((len(z), 1)), z, z**2 - 1, others * z[:, [_KEEP]]])


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


def _size(z: np.ndarray, size: np.ndarray, floor: float) -> np.ndarray:
    return np.maximum(z @ size, floor)


def _distances(x: np.ndarray, seen: np.ndarray, scale: np.ndarray) -> np.ndarray:
    gaps = (x[:, None] - seen) / np.maximum(scale, 1e-9)
    return np.sqrt((gaps**2).mean(axis=-1))
