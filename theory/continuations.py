"""How many continuations a step deserves: information per unit of cost.

A step costs c0 (its rollout, its place in training) and each of its N continuations
c1. The laws of K in the two classes come as a function ``counts(N)`` that gives
``Pr(K = k | Y = 0)`` and ``Pr(K = k | Y = 1)``: :func:`two_rates`,
:func:`two_betas`, :func:`one_beta`, or another. Noise is blind: given Y, K does not
depend on the features. ``q`` is ``Pr(Y = 1)`` in [0, 1], ``[...]``; ``cost_ratio`` is
c0 / c1 >= 0, a step's cost in continuations, and broadcasts with q.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlog1py, xlogy

from theory.beta_binomial import class_conditional_counts, count_pmf
from theory.domain import check_count, check_nonnegative, check_probability
from theory.label_noise import count_information, target_information

Counts = Callable[[int], tuple[np.ndarray, np.ndarray]]
Target = Literal["count", "hard", "soft"]


def two_rates(r0: float, r1: float) -> Counts:
    """Counts of wrong steps that all succeed at the rate r0, and of right ones at r1.

    Raises:
        ValueError: a rate is not in [0, 1].

    Example:
        >>> wrong, right = two_rates(0.0, 0.5)(2)
        >>> wrong.tolist(), right.round(3).tolist()
        ([1.0, 0.0, 0.0], [0.25, 0.5, 0.25])
    """
    check_probability("r0", r0)
    check_probability("r1", r1)
    return lambda trials: (_binomial(trials, r0), _binomial(trials, r1))


def two_betas(wrong: tuple[float, float], right: tuple[float, float]) -> Counts:
    """Counts of steps whose rates vary as ``Beta(a, b)`` within each class.

    Args:
        wrong: a and b of the wrong steps, > 0.
        right: a and b of the right steps, > 0.

    Raises:
        ValueError: a parameter is not in (0, inf), once counts are asked for.
    """
    return lambda trials: (count_pmf(*wrong, trials), count_pmf(*right, trials))


# As fitted to small public corpora (N = 16) whose steps an independent judge called
# right or wrong.
JUDGED = two_betas((0.13, 1.0), (0.73, 0.30))


def one_beta(a: float, b: float, tau: float) -> Counts:
    """Counts where r ~ Beta(a, b) and a step is right iff r >= tau, as
    :func:`theory.beta_binomial.class_conditional_counts`.

    Raises:
        ValueError: as there, once counts are asked for.
    """
    return lambda trials: class_conditional_counts(a, b, trials, tau)


def trials_information(
    q: ArrayLike, trials: int, counts: Counts, target: Target = "count"
) -> np.ndarray:
    """Information I_N(q) about the logit of q that N continuations of a step give.

    Args:
        trials: N, integer >= 1.
        target: "count": that of K itself, as
            :func:`theory.label_noise.count_information`; "hard": of ``1[K > 0]``, and
            "soft": of K/N, as :func:`theory.label_noise.target_information`.

    Returns:
        ``[...]``, in [0, q (1 - q)]. That of the count never falls with N, as N + 1
        continuations hold N (data processing); it need not be concave: two rates and a
        rare class start convex. That of a hard label may fall.

    Raises:
        ValueError: an argument is outside its range, or the target is another.

    Example:
        >>> [round(float(trials_information(0.85, n, two_rates(0.1, 0.7), "hard")), 3)
        ...  for n in (1, 2, 4, 16)]
        [0.025, 0.053, 0.072, 0.021]
    """
    trials = int(check_count("trials", trials, low=1))
    f0, f1 = counts(trials)
    if target == "count":
        return count_information(q, f0, f1)
    k = np.arange(trials + 1)
    if target == "hard":
        return target_information(q, k > 0, f0, f1)
    if target == "soft":
        return target_information(q, k, f0, f1)
    raise ValueError(f"target must be count, hard or soft, not {target}")


def continuations_per_step(
    q: ArrayLike,
    counts: Counts,
    cost_ratio: ArrayLike,
    target: Target = "count",
    most: int = 256,
) -> np.ndarray:
    """N* = argmax I_N(q) / (c0 + c1 N) over N = 1 ... most, the least of equals.

    For soft labels :func:`soft_continuations` is the same without a search.

    Args:
        target: what is made of K, as in :func:`trials_information`.
        most: continuations searched, integer >= 1; N* = most says that more may be
            better still.

    Returns:
        integers ``[...]`` in [1, most]; 1 where no N tells anything.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> continuations_per_step(0.85, JUDGED, [0, 10, 100], "hard").tolist()
        [1, 4, 12]
    """
    ratio = check_nonnegative("cost_ratio", cost_ratio)
    every = range(1, int(check_count("most", most, low=1)) + 1)
    gain = [trials_information(q, n, counts, target) / (ratio + n) for n in every]
    return 1 + np.argmax(gain, axis=0)


def soft_continuations(
    q: ArrayLike, counts: Counts, cost_ratio: ArrayLike
) -> np.ndarray:
    """The real N at which K/N tells most per cost, ``sqrt(c0/c1 E[r(1-r)] / Var(r))``.

    ``q^2 (1-q)^2 / I_N = (Var(r) + E[r(1-r)] / N) / (E1 r - E0 r)^2`` for soft labels
    (the law of r over both classes), linear in 1/N: the best number of repeats of a
    measurement (Cochran, 1977). The best whole N is one of its neighbours; without a
    cost of the step, one continuation.

    Returns:
        ``[...]``, >= 0.

    Raises:
        ValueError: an argument is outside its range, q is 0 or 1, or K/N tells nothing,
            as the classes' mean rates are equal.

    Example:
        >>> soft_continuations(0.85, JUDGED, [0, 10, 100]).round(2).tolist()
        [0.0, 2.65, 8.37]
    """
    one, two = (trials_information(q, n, counts, "soft") for n in (1, 2))
    if np.any(one == 0):
        raise ValueError("q must be in (0, 1), and the mean rates of counts differ")
    within = 2 * (1 / one - 1 / two)
    return np.sqrt(
        check_nonnegative("cost_ratio", cost_ratio) * within / (1 / one - within)
    )


def sharpest_continuations(r0: ArrayLike, r1: ArrayLike) -> np.ndarray:
    """The N at which J = 1 - fpr - fnr of ``1[K > 0]`` is largest, a real number.

    ``J(N) = (1 - r0)^N - (1 - r1)^N`` rises up to
    ``N = ln[ln(1 - r1) / ln(1 - r0)] / ln[(1 - r0) / (1 - r1)]`` and falls beyond it:
    more continuations then make false positives faster than they find right steps. The
    best whole N is one of its neighbours (1 if it is below 1). It is the reciprocal of
    the logarithmic mean of ``-ln(1 - r0)`` and ``-ln(1 - r1)``.

    Args:
        r0: one-shot success probability of a wrong step, in [0, r1).
        r1: of a right step, in (r0, 1]; both broadcast.

    Returns:
        in [0, inf]: inf at ``r0 = 0``, where no wrong step succeeds, else 0 at
        ``r1 = 1``, where one continuation finds every right step.

    Raises:
        ValueError: a rate is not in [0, 1], or r0 is not below r1.

    Example:
        >>> sharpest_continuations([0.05, 0.1, 0.3], 0.8).round(2).tolist()
        [2.21, 1.81, 1.2]
    """
    r0, r1 = check_probability("r0", r0), check_probability("r1", r1)
    if np.any(r0 >= r1):
        raise ValueError("r0 must be below r1")
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = -np.log1p(-r0), -np.log1p(-r1)
        # Where the rates are near, the errors of the difference cancel.
        n = np.log1p((high - low) / low) / (high - low)
    return np.where(r0 == 0, np.inf, np.where(r1 == 1, 0.0, n))


def _binomial(trials: int, r: float) -> np.ndarray:
    k = np.arange(trials + 1)
    ways = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    return np.exp(ways + xlogy(k, r) + xlog1py(trials - k, -r))
