"""Where more continuations of a step are worth most, and a plan that spends a budget.

A step has K successes in N continuations and ``r ~ Beta(a, b)``, so its next m
continuations succeed k' times by the predictive law ``BetaBinomial(m; a + K, b + N -
K)``. Three values of those m are exact sums over it:

- ``flip``: the chance that the hard label ``1[K/N > t]`` becomes another;
- ``information``: the expected rise of the information that the count holds about the
  truth ``1[r >= tau]``;
- ``cut``: the chance that the step's rollout enters or leaves a rule's subset.

Steps are valued one at a time: what the rollout's other steps may get does not count.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincc

from theory import paper, selection
from theory.beta_binomial import count_pmf
from theory.domain import check_count, check_positive, check_probability
from theory.rollouts import Rollouts
from theory.scores import DEFAULT_ALPHA, check_alpha, moment_prior
from theory.selection import RuleName, mix_hash

Criterion = Literal["flip", "information", "cut"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

# Steps of the altered rollouts that are scored at a time: some tens of MB.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PlanOptions:
    """What a plan values, and how finely it may spend.

    Attributes:
        criterion: What a continuation is worth: the chance that it flips the hard
            label, what it tells of the truth, or the chance that it moves the rollout
            across a rule's cut.
        block: Continuations are given in multiples of it.
        most: Continuations that a step may have in all; twice the paper's N.
        label_threshold: Threshold of hard labels, in [0, 1); for flip.
        tau: Reliability threshold, in [0, 1]: steps are right if r >= tau; for
            information.
        rule: Whose subset counts; any that ranks; for cut.
        keep_ratio: Of that subset.
        alpha: BIS's alpha.
        per_source: Whether each source has a budget of its own.
        seed: Of the order of ties, of rollouts and of steps.

    Raises:
        ValueError: a value is outside its range.
    """

    criterion: Criterion = "information"
    block: int = 4
    most: int = 2 * paper.TRIALS
    label_threshold: float = 0.0
    tau: float = 0.5
    rule: RuleName = "bis"
    keep_ratio: float = 0.25
    alpha: float = DEFAULT_ALPHA
    per_source: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {CRITERIA}")
        check_count("block", self.block, low=1)
        check_count("most", self.most, low=1)
        check_probability("tau", self.tau)
        if not 0 <= self.label_threshold < 1:
            raise ValueError(
                f"label_threshold must be in [0, 1), not {self.label_threshold}"
            )
        selection.budget(1, self.keep_ratio)
        check_alpha(self.alpha)
        if self.rule in selection.UNRANKED or self.rule == "ccs":
            raise ValueError(f"rule {self.rule} has no cut that counts could cross")


def flip_probability(
    k: ArrayLike,
    n: ArrayLike,
    more: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    label_threshold: float = 0.0,
) -> np.ndarray:
    """Chance that the hard label of a step is another after ``more`` continuations.

    ``sum_k' Pr(k' | K) 1[1[(K + k') / (N + m) > t] != 1[K/N > t]]``; at t = 0 it is
    ``1 - B(a, b + N + m) / B(a, b + N)`` for K = 0, which rises with m, and 0 for a
    positive. A step never sampled has no label, and gets one with its first.

    Args:
        k: successes K so far, integer in [0, n].
        n: continuations N so far, integer >= 0.
        more: m, integer >= 0.
        a: of the prior, > 0.
        b: of the prior, > 0.
        label_threshold: t in [0, 1).

    Returns:
        in [0, 1], of the broadcast shape.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> flip_probability([0, 0, 1], [4, 16, 16], 4, 1.0, 1.0).round(3)
        array([0.444, 0.19 , 0.   ])
    """
    pmf, successes, trials = _outcomes(k, n, more, a, b)
    k, n = np.asarray(k), np.asarray(n)
    label = k / np.maximum(n, 1) > label_threshold
    changed = successes / np.maximum(trials, 1) > label_threshold
    changed = np.where((n == 0)[..., None], trials > 0, changed != label[..., None])
    return np.minimum((pmf * changed).sum(axis=-1), 1.0)


def information_gain(
    k: ArrayLike,
    n: ArrayLike,
    more: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    tau: float = 0.5,
) -> np.ndarray:
    """Expected rise of the information that a step's count holds about its truth.

    With ``Z = 1[r >= tau]`` and the Fisher information ``q (1 - q) - E Var(Z | count)``
    of :func:`theory.label_noise.count_information`,

        ``Var(Z | K) - E[Var(Z | K + k') | K] = Var(Pr(Z = 1 | K + k') | K)``

    (law of total variance). It never falls with m, as ``Pr(Z = 1 | K + k')`` is a
    martingale in m, and need not be concave. The mean over a first N of counts, from
    ``k = n = 0``, is ``count_information``. The posterior probability as the training
    target keeps all of it; a hard label ``1[K > 0]`` keeps less, and may lose by more
    continuations (:func:`theory.continuations.trials_information`).

    Args:
        k: as in :func:`flip_probability`; so are n, more, a and b.
        tau: reliability threshold in [0, 1].

    Returns:
        in [0, 1/4], of the broadcast shape.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> information_gain([0, 2, 4], 4, [4, 4, 4], 1.0, 1.0).round(3)
        array([0.005, 0.069, 0.005])
    """
    tau = float(check_probability("tau", tau))
    pmf, successes, trials = _outcomes(k, n, more, a, b)
    a, b = np.asarray(a)[..., None], np.asarray(b)[..., None]
    right = betaincc(a + successes, b + np.maximum(trials - successes, 0), tau)
    # The mean, exactly: where nothing can be learnt the gain is 0, not rounding.
    k, n = np.asarray(k)[..., None], np.asarray(n)[..., None]
    today = betaincc(a + k, b + (n - k), tau)
    return (pmf * (right - today) ** 2).sum(axis=-1)


def _outcomes(
    k: ArrayLike, n: ArrayLike, more: ArrayLike, a: ArrayLike, b: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability, successes and trials of each outcome, ``[..., max m + 1]``."""
    k, n, more = check_count("k", k), check_count("n", n), check_count("more", more)
    if np.any(k > n):
        raise ValueError("k must be an integer in [0, n]")
    a, b = check_positive("a", a), check_positive("b", b)
    drawn = np.arange(np.max(more, initial=0) + 1)
    pmf = count_pmf(a + k, b + (n - k), np.maximum(more, 1))[..., : len(drawn)]
    none = np.broadcast_to((more == 0)[..., None], pmf.shape)
    pmf = np.where(none, drawn == 0, pmf)
    successes = k[..., None] + np.minimum(drawn, more[..., None])
    return pmf, successes, (n + more)[..., None]


def cut_change(
    rollouts: Rollouts,
    more: int,
    options: PlanOptions,
    content: np.ndarray | None = None,
    prior: tuple[ArrayLike, ArrayLike] | None = None,
) -> np.ndarray:
    """Chance that ``more`` continuations of a step move its rollout across the cut.

    ``sum_k' Pr(k' | K) 1[membership with (K + k', N + m) != membership today]``. All
    other rollouts stay as they are, so one that is kept leaves if it ranks behind the
    best that is left out, and one left out enters if it ranks before the worst kept;
    equal keys rank by the order that :func:`theory.selection.select` gives them.

    Args:
        rollouts: the corpus, each with a measured step.
        more: m >= 0, of every step in turn.
        options: rule, keep ratio, alpha, budgets and seed of the subset.
        content: uint64 ``[n_rollouts]``, hashes that order ties; None: row numbers.
        prior: a and b of r, scalars or ``[n_steps]``; None:
            :func:`theory.scores.moment_prior` of the corpus, which rules that have a
            prior use in any case.

    Returns:
        float64 ``[n_steps]`` in [0, 1].

    Raises:
        ValueError: an argument is outside its range, or the rule or a prior is
            undefined on this corpus.
    """
    a, b = moment_prior(rollouts) if prior is None else prior
    score = selection.fitted_key(
        options.rule, rollouts, options.alpha, options.keep_ratio
    )
    boundary = _boundary(rollouts, score(rollouts), options, content)
    k, n = (x.astype(np.int64) for x in (rollouts.successes, rollouts.trials))
    pmf, successes, _ = _outcomes(k, n, more, a, b)
    row, position = rollouts.rollout, rollouts.position
    work = np.cumsum(rollouts.lengths[row] * (more + 1))
    chance = np.empty(rollouts.n_steps)
    start = 0
    while start < rollouts.n_steps:
        done = work[start - 1] if start else 0
        stop = int(np.searchsorted(work, done + _CHUNK, side="right"))
        steps = np.arange(start, max(stop, start + 1))
        rows = np.repeat(row[steps], more + 1)
        altered = rollouts.take(rows)
        at = altered.offsets[:-1] + np.repeat(position[steps], more + 1)
        new_k = altered.successes.astype(np.int64)
        new_n = altered.trials.astype(np.int64)
        new_k[at] = successes[steps].ravel()
        new_n[at] += more
        altered = Rollouts(
            new_k, new_n, altered.offsets, altered.source, altered.source_names
        )
        moved = boundary.crossed(rows, score(altered)).reshape(len(steps), more + 1)
        chance[steps] = (pmf[steps] * moved).sum(axis=-1)
        start = int(steps[-1]) + 1
    return np.minimum(chance, 1.0)


class _Boundary(NamedTuple):
    """Of each rollout: whether it is kept, its place among equals, and the key and
    place of the rollout that it would have to pass.
    """

    kept: np.ndarray
    order: np.ndarray
    key: np.ndarray
    rival: np.ndarray

    def crossed(self, rows: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Whether rollouts change sides with these keys."""
        tied = (key == self.key[rows]) & (self.order[rows] < self.rival[rows])
        before = (key > self.key[rows]) | tied
        return before != self.kept[rows]


def _boundary(
    rollouts: Rollouts,
    key: np.ndarray,
    options: PlanOptions,
    content: np.ndarray | None,
) -> _Boundary:
    count = rollouts.n_rollouts
    content = np.arange(count, dtype=np.uint64) if content is None else content
    subset = selection.select(
        rollouts,
        key,
        options.keep_ratio,
        content,
        per_source=options.per_source,
        seed=options.seed,
    )
    kept = np.zeros(count, bool)
    kept[subset.rows] = True
    order = mix_hash(content, options.seed)
    group = rollouts.source if options.per_source else np.zeros(count, np.int64)
    ranked = np.lexsort((order, -key, group))
    start = 0
    rival_key, rival = np.full(count, -np.inf), np.zeros(count, np.uint64)
    for cut in subset.cuts:
        members = ranked[start : start + cut.available]
        start += cut.available
        inside, outside = members[: cut.kept], members[cut.kept :]
        if len(outside):
            rival_key[inside], rival[inside] = key[outside[0]], order[outside[0]]
            rival_key[outside], rival[outside] = key[inside[-1]], order[inside[-1]]
    return _Boundary(kept, order, rival_key, rival)


# Shares of success beside a step, up to which each band reaches; perfect neighbours are
# the last.
_BANDS = (0.0, 0.25, 0.5, 0.75, np.nextafter(1.0, 0.0))

# Of 100 steps with r ~ Beta(1.2, .2) and N = 16 the moments give a + b to within a
# quarter, two times in three; a band of fewer takes the corpus's law.
_LEAST = 100


def neighbour_prior(
    rollouts: Rollouts, only: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Beta(a, b) of each step given how the steps beside it fared.

    Steps of a rollout are alike, so that one without success among perfect neighbours
    is another than one among failures. Steps are banded by the share of success of the
    step before and the step after, both pooled, and each band has its own
    :func:`theory.scores.moment_prior` (empirical Bayes: a step's own count does not say
    to which band it belongs).

    Args:
        rollouts: the corpus.
        only: the steps whose law is fitted, bool ``[n_steps]``; None: all.

    Returns:
        a and b, float64 ``[n_steps]`` each; that of all steps in a band of under 100
        steps or without a fit, and of a step without measured neighbours.

    Raises:
        ValueError: all these steps have no Beta prior.
    """
    k, n = (x.astype(np.int64) for x in (rollouts.successes, rollouts.trials))
    fitted = (np.ones(len(k), bool) if only is None else only) & (n >= 2)
    row = rollouts.rollout
    beside = np.zeros((2, len(k)), np.int64)
    same = row[1:] == row[:-1]
    for total, column in zip(beside, (k, n), strict=True):
        total[1:] += np.where(same, column[:-1], 0)
        total[:-1] += np.where(same, column[1:], 0)
    band = np.searchsorted(_BANDS, beside[0] / np.maximum(beside[1], 1))
    band[beside[1] == 0] = -1

    def prior(steps: np.ndarray) -> tuple[float, float]:
        offsets = np.array([0, np.count_nonzero(steps)])
        only_source = np.zeros(1, np.int64), ("steps",)
        return moment_prior(Rollouts(k[steps], n[steps], offsets, *only_source))

    a, b = (np.full(len(k), value) for value in prior(fitted))
    for number in range(len(_BANDS) + 1):
        steps = fitted & (band == number)
        if np.count_nonzero(steps) >= _LEAST:
            with contextlib.suppress(ValueError):
                a[band == number], b[band == number] = prior(steps)
    return a, b


def plan_continuations(
    rollouts: Rollouts,
    budget: float,
    options: PlanOptions | None = None,
    *,
    prior: tuple[ArrayLike, ArrayLike] | None = None,
    content: np.ndarray | None = None,
    cost: ArrayLike = 1.0,
    only: np.ndarray | None = None,
) -> np.ndarray:
    """How many more continuations each step gets.

    Of every step the value v(m) is known for ``m = block, 2 block, ...``. Its
    increments need not fall, so blocks are joined along the concave majorant of v, and
    the parts with the largest value per cost are bought until the budget is spent: the
    best plan for the sum of values, up to the last parts, which are cut short. What is
    worth nothing is not bought, so that some budget may be left.

    Args:
        rollouts: the corpus.
        budget: what may be spent, in units of ``cost``.
        options: criterion, block, most and what the criterion asks; None: the defaults.
        prior: a and b of r, scalars or ``[n_steps]``; None:
            :func:`theory.scores.moment_prior` of the corpus.
        content: uint64 ``[n_rollouts]``, hashes that order ties; None: row numbers.
        cost: of a continuation, > 0, a scalar or ``[n_steps]``.
        only: the steps that may be continued, bool ``[n_steps]`` (nothing is left to
            continue behind a final answer); None: all.

    Returns:
        int64 ``[n_steps]``, multiples of the block; no step has more than ``most`` with
        what it has.

    Raises:
        ValueError: the budget buys no block, no step can gain anything, a value is
            outside its range, or no prior fits.

    Example:
        >>> corpus = Rollouts.from_scores(
        ...     np.array([1, 0.5, 0, 1, 1, 1]), 4, np.array([0, 3, 6])
        ... )
        >>> plan_continuations(corpus, 8)
        array([0, 8, 0, 0, 0, 0])
        >>> plan_continuations(corpus, 8, PlanOptions("flip"))
        array([0, 0, 8, 0, 0, 0])
    """
    options = PlanOptions() if options is None else options
    a, b = moment_prior(rollouts) if prior is None else prior
    price = np.broadcast_to(check_positive("cost", cost), rollouts.n_steps)
    price = price * options.block
    values, state = _values(rollouts, options, (a, b), content)
    room = np.empty(len(values), np.int64)
    room[state] = np.maximum(options.most - rollouts.trials.astype(np.int64), 0)
    cheapest = np.min(price, initial=np.inf)
    if not budget >= cheapest:
        raise ValueError(
            f"a budget of {budget:g} buys nothing: a block costs {cheapest:g}"
        )
    parts = _majorant(values, room // options.block)
    allowed = np.ones(rollouts.n_steps, bool) if only is None else only
    if not (parts and np.any((parts[0][0][state] > 0) & allowed)):
        raise ValueError("the budget buys nothing: no step can gain by continuations")
    content = np.arange(rollouts.n_rollouts) if content is None else content
    # The rollout's hash, then the step's: neither follows the order of the file.
    own = mix_hash(content, options.seed)[rollouts.rollout]
    tie = mix_hash(own + rollouts.position.astype(np.uint64), options.seed)
    step, rate, blocks = (
        np.concatenate(column)
        for column in zip(
            *(
                (at, gain[state[at]] / price[at], part[state[at]])
                for gain, part in parts
                for at in [np.flatnonzero((gain[state] > 0) & allowed)]
            ),
            strict=True,
        )
    )
    # Parts of a step come in order, as its rates fall and the sort is stable.
    best = np.lexsort((tie[step], -rate))
    more = _bought(step[best], blocks[best], (values, state), budget, price)
    if not more.any():
        raise ValueError(f"a budget of {budget:g} buys nothing: too small for a gain")
    return more * options.block


def _bought(
    step: np.ndarray,
    blocks: np.ndarray,
    worth: tuple[np.ndarray, np.ndarray],
    budget: float,
    price: np.ndarray,
) -> np.ndarray:
    """Blocks of each step, the parts being bought in their order while they last; what
    is left buys the beginning of later ones, where that is worth anything.
    """
    values, state = worth
    spent = np.cumsum(blocks * price[step])
    whole = int(np.searchsorted(spent, budget, side="right"))
    more = np.bincount(step[:whole], blocks[:whole], len(price)).astype(np.int64)
    left = budget - (spent[whole - 1] if whole else 0)
    cheapest, passed = price.min(), set()
    for at, most in zip(step[whole:].tolist(), blocks[whole:].tolist(), strict=True):
        if left < cheapest:
            break
        if at in passed:
            continue
        fit = min(most, int(left // price[at]))
        worth_now, worth_then = values[state[at], [more[at], more[at] + fit]]
        if worth_then > worth_now:
            more[at] += fit
            left -= fit * price[at]
        if worth_then <= worth_now or fit < most:
            passed.add(at)
    return more


def expected_gain(
    rollouts: Rollouts,
    more: ArrayLike,
    options: PlanOptions | None = None,
    *,
    prior: tuple[ArrayLike, ArrayLike] | None = None,
    content: np.ndarray | None = None,
) -> np.ndarray:
    """What a plan is worth, step by step: the criterion's value of ``more``.

    Args:
        rollouts: the corpus.
        more: continuations, integer >= 0, a scalar or ``[n_steps]``; of the criterion
            cut a scalar.
        options: as in :func:`plan_continuations`; so are prior and content.

    Returns:
        float64 ``[n_steps]``.

    Raises:
        ValueError: as :func:`plan_continuations`.
    """
    options = PlanOptions() if options is None else options
    prior = moment_prior(rollouts) if prior is None else prior
    if options.criterion == "cut":
        return cut_change(rollouts, int(np.asarray(more)), options, content, prior)
    (k, n, a, b, more), state = _states(rollouts, prior, more)
    return _gain(options, k, n, more, a, b)[state]


def _gain(
    options: PlanOptions, k: ArrayLike, n: ArrayLike, more: ArrayLike, *prior: ArrayLike
) -> np.ndarray:
    a, b = prior
    if options.criterion == "flip":
        return flip_probability(k, n, more, a, b, options.label_threshold)
    return information_gain(k, n, more, a, b, options.tau)


def _states(
    rollouts: Rollouts, prior: tuple[ArrayLike, ArrayLike], more: ArrayLike = 0
) -> tuple[list[np.ndarray], np.ndarray]:
    """K, N, a, b and more of each distinct set of these, and which each step has."""
    a, b = (check_positive(*item) for item in zip("ab", prior, strict=True))
    k, n = (x.astype(np.int64) for x in (rollouts.successes, rollouts.trials))
    # N is at most 2^20.
    code = np.zeros((), np.int64)
    for column in (a + 1j * b, np.asarray(more), n << 21 | k):
        values, place = np.unique(column, return_inverse=True)
        code = code * len(values) + place.reshape(column.shape)
    _, first, state = np.unique(code, return_index=True, return_inverse=True)
    columns = (k, n, a, b, more)
    return [np.broadcast_to(x, rollouts.n_steps)[first] for x in columns], state


def _values(
    rollouts: Rollouts,
    options: PlanOptions,
    prior: tuple[ArrayLike, ArrayLike],
    content: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Value of 0, 1, ... blocks in each state, and the state of each step."""
    # Counts of a corpus may be of a type that does not hold options.most.
    least = int(np.min(rollouts.trials.astype(np.int64), initial=options.most))
    every = range(options.block, options.most - least + 1, options.block)
    if options.criterion == "cut":
        state = np.arange(rollouts.n_steps)
        gains = [cut_change(rollouts, m, options, content, prior) for m in every]
        return np.stack([np.zeros(len(state)), *gains], axis=-1), state
    (k, n, a, b, _), state = _states(rollouts, prior)
    gains = [_gain(options, k, n, m, a, b) for m in every]
    return np.stack([np.zeros(len(k)), *gains], axis=-1), state


def _majorant(
    values: np.ndarray, room: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(value per block, blocks) of the successive parts of each state's least concave
    majorant over ``0 ... room`` blocks; rate 0 where it has ended.
    """
    states, most = np.arange(len(values)), values.shape[1] - 1
    at, last = np.zeros(len(values), np.int64), np.full(len(values), np.inf)
    parts = []
    for _ in range(most):
        ahead = np.arange(most + 1) - at[:, None]
        rise = (values - values[states, at][:, None]) / np.maximum(ahead, 1)
        rise = np.where((ahead > 0) & (ahead <= (room - at)[:, None]), rise, 0.0)
        # The farthest of equals; rounding must not make a later rate the larger.
        to = most - np.argmax(rise[:, ::-1], axis=1)
        rate = np.minimum(rise[states, to], last)
        last = rate
        gains = rate > 0
        if not gains.any():
            break
        parts.append((rate, np.where(gains, to - at, 0)))
        at = np.where(gains, to, at)
    return parts
