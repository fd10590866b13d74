"""Intervals of a success rate r from K successes in N trials, and what stopping does.

``level`` = 1 - alpha is in (0, 1); counts broadcast; an argument outside its range
raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, ndtri, xlog1py, xlogy

from theory.domain import check_count, check_probability
from theory.intervals import LEVEL

# K and N to the ends of an interval.
Ends = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

# K and N to whether one stops there.
Stop = Callable[[np.ndarray, int], np.ndarray]

# The mixture Beta(1/2, 1/2) (Krichevsky and Trofimov 1981: least regret, up to a
# constant): narrower than the uniform one where K is near 0 or N, as most counts of
# rollouts are (K = N = 16: from .73, not .69), a little wider at K = N/2.
_SHAPE = 0.5

# Halvings of (0, 1) after which float64 has no number between.
_HALVINGS = 64


def confidence_sequence(
    successes: ArrayLike, trials: ArrayLike, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of intervals that hold r at all N at once with probability >= level.

    All r with ``B(1/2 + K, 1/2 + N - K) / (B(1/2, 1/2) r^K (1 - r)^(N-K)) < 1/alpha``:
    the ratio is a nonnegative martingale of mean 1 at the true r (Robbins 1970), which
    ever reaches 1/alpha with probability at most alpha (Ville 1939). So one may look
    after every trial and stop when one likes, and may intersect the intervals of a path
    (``np.maximum.accumulate`` of the lower ends, ``np.minimum`` of the upper).

    Args:
        successes: K, integer in [0, N].
        trials: N, integer >= 0.
        level: of the whole sequence.

    Returns:
        lower and upper end, in [0, 1]; 0 and 1 at N = 0.

    Example:
        >>> [end.round(3).tolist() for end in confidence_sequence([0, 8, 16], 16)]
        [[0.0, 0.169, 0.733], [0.267, 0.831, 1.0]]
    """
    k, n, alpha = _checked(successes, trials, level)
    limit = betaln(_SHAPE + k, _SHAPE + n - k) - betaln(_SHAPE, _SHAPE) + np.log(alpha)

    def inside(r: np.ndarray) -> np.ndarray:
        return xlogy(k, r) + xlog1py(n - k, -r) > limit

    best = k / np.maximum(n, 1)
    low = _bisect(inside, best, np.zeros_like(best))
    high = _bisect(inside, best, np.ones_like(best))
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def _bisect(
    inside: Callable[[np.ndarray], np.ndarray], within: np.ndarray, beyond: np.ndarray
) -> np.ndarray:
    """Where ``inside`` ends between a point within and one beyond."""
    for _ in range(_HALVINGS):
        middle = (within + beyond) / 2
        is_in = inside(middle)
        within, beyond = (
            np.where(is_in, middle, within),
            np.where(is_in, beyond, middle),
        )
    return beyond


def wilson_interval(
    successes: ArrayLike, trials: ArrayLike, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the score interval of a rate (Wilson 1927), for an N fixed beforehand.

    ``(K + z^2/2 -+ z sqrt(K (N - K) / N + z^2/4)) / (N + z^2)``. Where N depends on the
    counts it holds r less often (:func:`coverage_under_stopping`); there
    :func:`confidence_sequence` is the one to use.

    Args:
        successes: K, integer in [0, N].
        trials: N, integer >= 0.
        level: of the interval.

    Returns:
        lower and upper end, in [0, 1]; 0 and 1 at N = 0.

    Example:
        >>> [end.round(3).tolist() for end in wilson_interval([0, 8, 16], 16)]
        [[0.0, 0.28, 0.806], [0.194, 0.72, 1.0]]
    """
    k, n, alpha = _checked(successes, trials, level)
    z2 = ndtri(alpha / 2) ** 2
    spread = np.sqrt(z2 * (k * (n - k) / np.maximum(n, 1) + z2 / 4))
    low, high = ((k + z2 / 2 + sign * spread) / (n + z2) for sign in (-1, 1))
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def _checked(
    successes: ArrayLike, trials: ArrayLike, level: float
) -> tuple[np.ndarray, np.ndarray, float]:
    k, n = np.broadcast_arrays(
        check_count("successes", successes), check_count("trials", trials)
    )
    if np.any(k > n):
        raise ValueError("successes must be an integer in [0, trials]")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), not {level}")
    return k, n, 1 - level


class Coverage(NamedTuple):
    """How often an interval holds the rate.

    Attributes:
        at_stop: where one stops.
        always: at every N up to the last, whether one would stop or not.
        trials: mean N at the stop.
    """

    at_stop: np.ndarray
    always: np.ndarray
    trials: np.ndarray


def coverage_under_stopping(
    interval: Ends, stop: Stop, r: ArrayLike, most: int
) -> Coverage:
    """Exact coverage of an interval where the counts say when to stop.

    One trial after the other is made until ``stop(K, N)`` holds or N = most. The law of
    K among the paths still running is carried from N to N + 1.

    Of Wilson's 95 % interval: stopped once it lies on one side of 1/2, N >= 4 and at
    most 128, it holds r = 1/2 with probability .62, where the confidence sequence so
    stopped holds it with .97. Stopped once its half-width is at most .1 it holds r =
    .007 with .89 and r = .78 with .93, on the mean over r .954: too little, but no less
    than at a fixed N = 62, which costs the same (.88 at r = .002).

    Args:
        interval: as :func:`confidence_sequence`.
        stop: K, an array of 0 ... N, and N to whether one stops, for N = 1 ... most.
        r: true rates in [0, 1].
        most: trials at which one stops in any case, >= 1.

    Returns:
        each of the shape of r.

    Example:
        >>> found = coverage_under_stopping(
        ...     confidence_sequence, lambda k, n: k == 3, [0.5], 20
        ... )
        >>> [value.round(3).tolist() for value in found]
        [[0.999], [0.978], [6.0]]
    """
    r = check_probability("r", r)
    rate = r.reshape(-1, 1)
    most = int(check_count("most", most, low=1))
    running, covered = np.ones((r.size, 1)), np.ones((r.size, 1))
    at_stop, trials = np.zeros((2, r.size))
    for n in range(1, most + 1):
        running, covered = (_next_trial(law, rate) for law in (running, covered))
        k = np.arange(n + 1)
        low, high = interval(k, n)
        holds = (low <= rate) & (rate <= high)
        covered = covered * holds
        ends = np.ones(n + 1, bool) if n == most else np.asarray(stop(k, n))
        at_stop += (running * holds * ends).sum(axis=1)
        trials += n * (running * ends).sum(axis=1)
        running = running * ~ends
    always = covered.sum(axis=1)
    return Coverage(*(x.reshape(r.shape) for x in (at_stop, always, trials)))


def _next_trial(law: np.ndarray, rate: np.ndarray) -> np.ndarray:
    after = np.zeros((len(law), law.shape[1] + 1))
    after[:, :-1] = law * (1 - rate)
    after[:, 1:] += law * rate
    return after
