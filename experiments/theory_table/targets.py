"""Statements about training targets made from K, and about how many trials to make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import mpmath as mp
import numpy as np
from scipy.special import betaincc, ndtri

from experiments.theory_table.statement import Statement, both, label_information
from theory import confidence, continuations, label_noise
from theory.beta_binomial_fit import fit_from_mean_and_zero_rate
from theory.continuations import JUDGED, Counts, one_beta, two_rates
from theory.paper import FULL_DATA, LABELS, TRIALS

# --- what a target is worth -----------------------------------------------------------

# The prior of Table 1, and steps that are right from r = tau on.
_PRIOR = fit_from_mean_and_zero_rate(
    FULL_DATA.mean_mc, FULL_DATA.error_step_ratio, TRIALS
)
_A, _B = map(float, _PRIOR)


def _from(tau: float) -> tuple[float, Counts]:
    return float(betaincc(_A, _B, tau)), one_beta(_A, _B, tau)


# name -> Pr(Y = 1), laws of K, and what our students say (mprm run labels).
_WORLDS: dict[str, tuple[float, Counts, str]] = {
    "judged, q .85": (
        0.85,
        JUDGED,
        "Table 2's order asks for blind noise as judged and for mostly right steps",
    ),
    "judged, q .5": (
        0.5,
        JUDGED,
        "at q = 1/2 the same labels rank the other way round",
    ),
    "r >= .5": (*_from(0.5), "so do the students of the world `scarce` (r >= .5)"),
    "r >= .1": (
        *_from(0.1),
        "the students of `lenient` (r >= .1) rank so too, but for K > 0, which is "
        "level with K > 1 there",
    ),
}

_K = np.arange(TRIALS + 1)
_TARGETS = {f"K > {c}": np.float64(c < _K) for c in range(3)} | {"soft": _K / TRIALS}


def _squared_correlation(q: float, t: Any, wrong: Any, right: Any) -> float:
    """Of truth and target, over all pairs of truth and count."""
    cases = [
        (share * p, y, x)
        for y, share, pmf in ((0, 1 - q, wrong), (1, q, right))
        for p, x in zip(pmf, t, strict=True)
    ]
    mean = math.fsum(p * x for p, _, x in cases)
    variance = math.fsum(p * (x - mean) ** 2 for p, _, x in cases)
    covariance = math.fsum(p * (y - q) * (x - mean) for p, y, x in cases)
    return covariance**2 / (variance * q * (1 - q))


def _shares(world: str) -> Iterator[Statement]:
    """Share of the information that each label of Table 2 keeps; the claim is that the
    order of the shares is the table's.
    """
    q, counts, note = _WORLDS[world]
    laws = counts(TRIALS)
    shares = label_noise.shares_kept(q, q, *laws)
    ordered = [float(shares[name]) for name in LABELS]
    for name, scores in LABELS.items():
        arguments = q, _TARGETS[name], *laws
        yield Statement(
            f"share kept by {name}, {world}",
            f"{world}: kept by {name}",
            "enumeration",
            exact=lambda name=name: shares[name],
            oracle=lambda arguments=arguments: _squared_correlation(*arguments),
            simulate=both(
                "target_information", *arguments, part=lambda kept: kept / (q * (1 - q))
            )["simulate"],
            paper=f"F1 {scores[0]:g}",
            # Once for all four, where the last of them stands.
            claim=(lambda _: ordered == sorted(ordered, reverse=True))
            if name == list(LABELS)[-1]
            else None,
            otherwise="counterexample",
            note=note if name == list(LABELS)[-1] else "",
        )


# --- how many continuations -----------------------------------------------------------

_Q, _RATIO = 0.85, 10.0
_R0, _R1 = 0.05, 0.8
_RARE, _NEAR = 0.02, (0.3, 0.6)


def _by_hand(q: float, trials: int, counts: Counts, hard: bool) -> float:
    """Information of K, or of 1[K > 0], by autodiff."""
    laws = counts(trials)
    if hard:
        laws = [np.array([pmf[0], pmf[1:].sum()]) for pmf in laws]
    return label_information(q, *laws)


def _searched(q: float, counts: Counts, ratio: float, hard: bool, most: int) -> int:
    every = range(1, most + 1)
    return max(every, key=lambda n: _by_hand(q, n, counts, hard) / (ratio + n))


def _turn_of_youden() -> Any:
    """Where the slope of (1 - r0)^N - (1 - r1)^N is 0."""
    low, high = 1 - mp.mpf(_R0), 1 - mp.mpf(_R1)
    return mp.findroot(
        lambda n: mp.log(low) * low**n - mp.log(high) * high**n,
        (1, 4),
        solver="anderson",
    )


def _root_of_costs() -> Any:
    """sqrt(c0 / c1 E[r (1 - r)] / Var(r)) from the moments of two Beta laws."""
    first = second = mp.mpf(0)
    for share, (a, b) in ((1 - _Q, (0.13, 1.0)), (_Q, (0.73, 0.30))):
        mean = mp.mpf(a) / (mp.mpf(a) + mp.mpf(b))
        first += share * mean
        second += share * mean * (mp.mpf(a) + 1) / (mp.mpf(a) + mp.mpf(b) + 1)
    return mp.sqrt(_RATIO * (first - second) / (second - first**2))


def _best(target: Any, hard: bool) -> Statement:
    return Statement(
        f"continuations_for_{target}",
        f"judged, c0/c1 10: N*, {target}",
        "enumeration",
        exact=lambda: continuations.continuations_per_step(_Q, JUDGED, _RATIO, target),
        oracle=lambda: _searched(_Q, JUDGED, _RATIO, hard, 24),
    )


def _most_telling(tau: float, note: str) -> Statement:
    """The N at which 1[K > 0] of a step tells most, whatever continuations cost."""
    q, counts = _from(tau)
    return Statement(
        f"most_telling_trials_{tau:g}",
        f"r >= {tau:g}: N* of K > 0, c1 0".replace("0.", "."),
        "enumeration",
        exact=lambda: continuations.continuations_per_step(q, counts, 1e12, "hard", 32),
        oracle=lambda: _searched(q, counts, 1e12, True, 32),
        note=note,
    )


def _bend(information: Any) -> float:
    one, two, three = (information(n) for n in (1, 2, 3))
    return float(three - 2 * two + one)


# --- where the next ones go, and when to stop ----------------------------------------

_STEP = 4, TRIALS, TRIALS, _A, _B
_FAIR, _LOOKS = 0.5, 12


def _spread_of_posteriors() -> Any:
    """Variance of Pr(r >= 1/2) over the next counts of a step."""
    k, n, more, a, b = _STEP
    shape = mp.mpf(a) + k, mp.mpf(b) + n - k

    def variance(right: Any) -> Any:
        return right * (1 - right)

    left = mp.mpf(0)
    for j in range(more + 1):
        after = shape[0] + j, shape[1] + more - j
        weight = mp.binomial(more, j) * mp.beta(*after) / mp.beta(*shape)
        left += weight * variance(mp.betainc(*after, 0.5, 1, regularized=True))
    return variance(mp.betainc(*shape, 0.5, 1, regularized=True)) - left


def _on_one_side(interval: Any) -> Any:
    """Stops once the interval leaves 1/2, after four trials at least."""

    def stop(k: Any, n: int) -> Any:
        low, high = interval(k, n)
        return (n >= 4) & ((low > _FAIR) | (high < _FAIR))

    return stop


def _covered_by_paths(holds: Any) -> float:
    """Share of the paths of fair trials that hold 1/2 up to, and at, their stop: what
    does not hold it stops.
    """
    paths = itertools.product((0, 1), repeat=_LOOKS)
    return sum(
        all(holds(sum(path[:n]), n) for n in range(4, _LOOKS + 1)) for path in paths
    ) / (2**_LOOKS)


def _wilson_holds(k: int, n: int) -> bool:
    return (k / n - _FAIR) ** 2 <= ndtri(0.025) ** 2 * _FAIR * (1 - _FAIR) / n


def _sequence_holds(k: int, n: int) -> bool:
    mixed = mp.beta(k + 0.5, n - k + 0.5) / mp.pi
    return mixed * mp.mpf(2) ** n < 20


def _stopped(name: str, interval: Any, holds: Any, note: str) -> Statement:
    return Statement(
        f"stopped_{name}",
        f"{name}, stopped at a verdict",
        "enumeration",
        **both(
            "coverage_under_stopping",
            interval,
            _on_one_side(interval),
            _FAIR,
            _LOOKS,
            part=0,
        ),
        oracle=lambda: _covered_by_paths(holds),
        note=note,
    )


STATEMENTS: tuple[Statement, ...] = (
    *(statement for world in _WORLDS for statement in _shares(world)),
    Statement(
        "information_of_the_posterior",
        "judged, q .85: G of Pr(Y=1|K)",
        "autodiff",
        **both(
            "target_information",
            _Q,
            _Q
            * JUDGED(TRIALS)[1]
            / (np.array([1 - _Q, _Q]) @ np.stack(JUDGED(TRIALS))),
            *JUDGED(TRIALS),
        ),
        oracle=lambda: _by_hand(_Q, TRIALS, JUDGED, hard=False),
        note="equal to I_K: no target of K tells more, and only those affine in the "
        "posterior as much",
    ),
    Statement(
        "hard_labels_tell_less_of_more_trials",
        "r >= .5: I of K > 0 at N 16",
        "autodiff",
        **both("trials_information", _from(0.5)[0], TRIALS, _from(0.5)[1], "hard"),
        oracle=lambda: _by_hand(_from(0.5)[0], TRIALS, _from(0.5)[1], hard=True),
    ),
    _most_telling(
        0.5,
        "equal numbers of random rollouts, hard labels (mprm run mc_budget): students "
        "of `scarce` (r >= .5) get worse with N; information is at its best at N = 2",
    ),
    _most_telling(
        0.1,
        "likewise `lenient` (r >= .1): best at N = 8 of 2, 4, ..., 32 (N = 16 and 32 "
        "within the error), worse at 2 and 4",
    ),
    Statement(
        "sharpest_continuations",
        "r .05, .8: N of the largest J",
        "mpmath",
        exact=lambda: continuations.sharpest_continuations(_R0, _R1),
        oracle=_turn_of_youden,
        note="beyond it more continuations make false positives of K > 0 faster than "
        "they find right steps",
    ),
    _best("hard", hard=True),
    _best("count", hard=False),
    Statement(
        "continuations_for_soft",
        "the same, soft: real N*",
        "mpmath",
        exact=lambda: continuations.soft_continuations(_Q, JUDGED, _RATIO),
        oracle=_root_of_costs,
    ),
    Statement(
        "information_is_not_concave",
        "r .3, .6, q .02: bend of I_N",
        "autodiff",
        exact=lambda: _bend(
            lambda n: continuations.trials_information(_RARE, n, two_rates(*_NEAR))
        ),
        oracle=lambda: _bend(lambda n: _by_hand(_RARE, n, two_rates(*_NEAR), False)),
        tolerance=1e-12,
        note="I_N grows with N but need not be concave: where a class is rare a step "
        "without cost of its own may deserve many continuations (here 20)",
    ),
    Statement(
        "flip_of_a_negative",
        "K 0 of 16: flips in 16 more",
        "mpmath",
        **both("flip_probability", 0, TRIALS, TRIALS, _A, _B),
        oracle=lambda: (
            1 - mp.beta(_A, mp.mpf(_B) + 2 * TRIALS) / mp.beta(_A, mp.mpf(_B) + TRIALS)
        ),
    ),
    Statement(
        "information_of_the_next_continuations",
        "K 4 of 16: gained by 16 more",
        "mpmath",
        **both("information_gain", *_STEP),
        oracle=_spread_of_posteriors,
    ),
    _stopped(
        "Wilson",
        confidence.wilson_interval,
        _wilson_holds,
        "a 95 % interval for a fixed N, looked at after each of 12 trials at r = 1/2",
    ),
    _stopped(
        "sequence",
        confidence.confidence_sequence,
        _sequence_holds,
        "at least .95 at all N together, whatever stops",
    ),
)
