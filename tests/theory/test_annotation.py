"""What more continuations of a step are worth, and the plan, against enumeration."""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln
from scipy.stats import beta

from theory.annotation import (
    CRITERIA,
    PlanOptions,
    cut_change,
    flip_probability,
    information_gain,
    neighbour_prior,
    plan_continuations,
)
from theory.beta_binomial import class_conditional_counts
from theory.label_noise import count_information
from theory.rollouts import Rollouts
from theory.scores import moment_prior
from theory.selection import fitted_key, select

A, B = 0.7, 0.3


def corpus(rng, rollouts=12, longest=4, trials=(2, 4)):
    lengths = rng.integers(1, longest + 1, rollouts)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = rng.choice(trials, offsets[-1])
    k = rng.binomial(n, rng.beta(A, B, len(n)))
    return Rollouts(k, n, offsets, np.arange(rollouts) % 2, ("a", "b"))


def rising(x, n):
    """Pochhammer symbol, exact."""
    product = Fraction(1)
    for i in range(n):
        product *= x + i
    return product


def exact_pmf(k, m, a, b):
    return comb(m, k) * rising(a, k) * rising(b, m - k) / rising(a + b, m)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5])
def test_flip_probability_is_the_enumerated_sum_in_fractions(threshold):
    a, b = Fraction(7, 10), Fraction(3, 10)
    for n, m in itertools.product((0, 1, 4), (0, 1, 3, 4)):
        for k in range(n + 1):
            flips = [
                m > 0
                if n == 0
                else (Fraction(k + j, n + m) > threshold)
                != (Fraction(k, n) > threshold)
                for j in range(m + 1)
            ]
            exact = sum(
                exact_pmf(j, m, a + k, b + n - k) for j in range(m + 1) if flips[j]
            )
            found = flip_probability(k, n, m, A, B, threshold)
            assert found == pytest.approx(float(exact), abs=1e-14)


@given(
    n=st.integers(0, 8),
    more=st.integers(0, 6),
    share=st.floats(0, 1),
    tau=st.floats(0.05, 0.95),
    a=st.floats(0.2, 5),
)
@settings(max_examples=50)
def test_information_gain_never_falls_with_more(n, more, share, tau, a):
    k = round(share * n)
    gain = information_gain(k, n, np.array([0, more, more + 1]), a, B, tau)
    assert gain[0] == 0
    assert gain[1] <= gain[2] + 1e-12
    assert gain[2] <= 0.25


def test_what_can_tell_nothing_is_worth_exactly_nothing():
    """A rounding of it would be bought like anything else."""
    k = np.array([0, 1, 3])
    for tau in (0.0, 1.0):
        assert not information_gain(k, 4, np.array([[3], [28]]), A, B, tau).any()
    assert information_gain(k, 4, 28, A, B, 0.5).min() > 1e-3
    x = corpus(np.random.default_rng(0))
    with pytest.raises(ValueError, match="buys nothing"):
        plan_continuations(x, 40, PlanOptions(tau=0), prior=(A, B))


def test_a_cap_above_the_type_of_the_counts():
    k, n = np.array([0, 1], np.uint8), np.array([2, 2], np.uint8)
    x = Rollouts(k, n, np.array([0, 2]), np.zeros(1, int), ("a",))
    plan = plan_continuations(
        x, 320, PlanOptions("flip", block=160, most=400), prior=(A, B)
    )
    assert plan.tolist() == [320, 0]


def test_information_of_two_stages_is_that_of_all_continuations():
    # From no count: the whole of count_information; then in two stages the gains add.
    k = np.arange(5)
    pmf = [float(exact_pmf(j, 4, Fraction(7, 10), Fraction(3, 10))) for j in k]
    wrong, right = class_conditional_counts(A, B, 4, 0.4)
    prior = beta.sf(0.4, A, B)
    first = information_gain(0, 0, 4, A, B, 0.4)
    assert first == pytest.approx(count_information(prior, wrong, right), rel=1e-10)
    second = np.dot(pmf, information_gain(k, 4, 5, A, B, 0.4))
    whole = information_gain(0, 0, 9, A, B, 0.4)
    assert first + second == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize(
    "rule", ["bis", "max-drop", "mixed", "posterior-fisher", "contrast"]
)
def test_cut_change_is_what_selecting_again_finds(rule, monkeypatch):
    """Each outcome of each step is put into the corpus, and all of it selected anew."""
    rng = np.random.default_rng(1)
    x = corpus(rng)
    content = rng.integers(0, 2**63, x.n_rollouts).astype(np.uint64)
    options = PlanOptions("cut", rule=rule, keep_ratio=0.4, seed=3)
    found = cut_change(x, 3, options, content, (A, B))
    score = fitted_key(rule, x, options.alpha, 0.4)

    def members(counts):
        rows = select(counts, score(counts), 0.4, content, seed=3).rows
        return np.isin(np.arange(x.n_rollouts), rows)

    today = members(x)
    for step in range(x.n_steps):
        row = np.searchsorted(x.offsets, step, side="right") - 1
        exact = 0.0
        for j in range(4):
            k, n = x.successes.copy(), x.trials.copy()
            k[step] += j
            n[step] += 3
            now = members(Rollouts(k, n, x.offsets, x.source, x.source_names))
            a, b = A + x.successes[step], B + x.trials[step] - x.successes[step]
            weight = comb(3, j) * np.exp(betaln(a + j, b + 3 - j) - betaln(a, b))
            exact += weight * (now[row] != today[row])
        assert found[step] == pytest.approx(exact, abs=1e-12), step
    # A few steps at a time.
    monkeypatch.setattr("theory.annotation._CHUNK", 30)
    again = cut_change(x, 3, options, content, (A, B))
    np.testing.assert_array_equal(again, found)
    if rule in ("bis", "posterior-fisher"):
        assert found.max() > 0.1


@pytest.mark.parametrize("criterion", ["flip", "information"])
def test_a_plan_is_the_best_of_all_plans_of_its_cost(criterion):
    k, n = np.array([0, 1, 2, 3]), np.array([2, 4, 4, 4])
    x = Rollouts(k, n, np.array([0, 2, 4]), np.zeros(2, int), ("a",))
    threshold = 0.3
    options = PlanOptions(criterion, block=2, most=8, label_threshold=threshold)

    def value(more):
        if criterion == "flip":
            return flip_probability(k, n, more, A, B, threshold).sum()
        return information_gain(k, n, more, A, B).sum()

    every = [
        np.array(plan) * 2
        for plan in itertools.product(range(4), repeat=4)
        if np.all(np.array(plan) * 2 + n <= 8)
    ]
    for budget in (4, 8, 12):
        plan = plan_continuations(x, budget, options, prior=(A, B))
        spent = plan.sum()
        assert spent <= budget
        assert np.all(plan % 2 == 0)
        assert np.all(plan + n <= 8)
        best = max(value(p) for p in every if p.sum() <= budget)
        # The majorant bounds what the last part, cut short, can lose.
        part = max(value(p) for p in every if np.count_nonzero(p) == 1)
        assert best - part < value(plan) <= best + 1e-12
        if criterion == "information":
            assert spent == budget
            assert value(plan) > 0.9 * best


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_plan_does_not_depend_on_the_order_of_the_rollouts(criterion):
    rng = np.random.default_rng(2)
    x = corpus(rng, rollouts=30)
    content = rng.integers(0, 2**63, 30).astype(np.uint64)
    options = PlanOptions(criterion, block=2, most=8, keep_ratio=0.3, seed=5)
    plan = plan_continuations(x, 40, options, content=content)
    assert 0 < plan.sum() <= 40
    order = rng.permutation(30)
    steps = np.concatenate([np.arange(*x.offsets[i : i + 2].tolist()) for i in order])
    again = plan_continuations(x.take(order), 40, options, content=content[order])
    np.testing.assert_array_equal(again, plan[steps])


def test_a_part_that_does_not_fit_is_cut_short_where_that_is_worth_anything():
    """At t = .3 the first step needs 2 successes at once (1/5, then 2/6), and 3 parts
    of a block join; the second flips with the first.
    """
    x = Rollouts(
        np.array([0, 1]), np.array([4, 4]), np.array([0, 2]), np.zeros(1, int), ("a",)
    )
    options = PlanOptions("flip", block=1, most=8, label_threshold=0.3)
    values = [flip_probability([0, 1], 4, m, A, B, 0.3) for m in range(5)]
    assert values[1][0] == 0 < values[2][0]

    def bought(budget, only=None):
        return plan_continuations(x, budget, options, prior=(A, B), only=only).tolist()

    first, second = np.array([True, False]), np.array([False, True])
    assert bought(1) == [0, 1]
    assert bought(2, first) == [2, 0]
    assert bought(2, second)[1] in (1, 2)
    with pytest.raises(ValueError, match="buys nothing"):
        bought(1, first)
    # A rare truth: what m tells is convex, all of the room is one part.
    rare = PlanOptions("information", block=1, most=8, tau=0.9)
    three = Rollouts(
        np.zeros(3, int), np.full(3, 4), np.array([0, 3]), np.zeros(1, int), ("a",)
    )
    told = information_gain(0, 4, np.arange(5), A, B, 0.9)
    assert np.all(np.diff(told, 2) > 0)
    for budget, parts in ((3, [0, 0, 3]), (6, [0, 2, 4]), (11, [3, 4, 4])):
        plan = plan_continuations(three, budget, rare, prior=(A, B))
        assert sorted(plan) == parts


def test_costs_and_priors_of_steps_decide():
    x = Rollouts(
        np.zeros(4, int), np.full(4, 2), np.array([0, 4]), np.zeros(1, int), ("a",)
    )
    options = PlanOptions("flip", block=1, most=4)
    dear = plan_continuations(
        x, 4, options, prior=(A, B), cost=np.array([1.0, 1.0, 3.0, 3.0])
    )
    assert dear.tolist() == [2, 2, 0, 0]
    likely = np.array([A, A, 5.0, 5.0])
    plan = plan_continuations(x, 2, options, prior=(likely, B))
    assert plan[:2].sum() == 0
    assert plan.sum() == 2


def test_a_step_that_was_never_sampled_comes_first_by_flips():
    x = Rollouts(
        np.array([2, 0, 0]),
        np.array([2, 2, 0]),
        np.array([0, 3]),
        np.zeros(1, int),
        ("a",),
    )
    plan = plan_continuations(x, 1, PlanOptions("flip", block=1), prior=(A, B))
    assert plan.tolist() == [0, 0, 1]


def test_the_prior_of_a_step_is_that_of_steps_with_neighbours_alike():
    """Banded one by one; two kinds of rollouts are told apart."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(1, 5, 1500)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    kind = np.repeat(np.arange(1500) % 2, lengths)
    k = rng.binomial(
        8, np.where(kind, rng.beta(6, 1, len(kind)), rng.beta(1, 6, len(kind)))
    )
    sources = np.zeros(1500, int), ("a",)
    x = Rollouts(k, np.full(len(k), 8), offsets, *sources)
    only = rng.random(len(k)) < 0.9
    a, b = neighbour_prior(x, only)
    bands: dict = {}
    for first, end in itertools.pairwise(offsets):
        for j in range(first, end):
            beside = [i for i in (j - 1, j + 1) if first <= i < end]
            share = Fraction(int(k[beside].sum()), 8 * len(beside)) if beside else None
            band = (
                None
                if share is None
                else sum(share > c / 4 for c in range(4)) + (share == 1)
            )
            bands.setdefault(band, []).append(j)
    assert len(bands) == 7
    for band, steps in bands.items():
        fitted = np.flatnonzero(only) if band is None else [j for j in steps if only[j]]
        assert len(fitted) >= 100
        alone = Rollouts(
            k[fitted],
            np.full(len(fitted), 8),
            np.array([0, len(fitted)]),
            *(np.zeros(1, int), ("a",)),
        )
        expected = moment_prior(alone)
        assert {(p, q) for p, q in zip(a[steps], b[steps], strict=True)} == {expected}
    few = x.take(np.arange(20))
    law = {(p, q) for p, q in zip(*neighbour_prior(few), strict=True)}
    assert law == {moment_prior(few)}
    mean = a / (a + b)
    assert mean[bands[5]].min() > 0.8 > 0.2 > mean[bands[0]].max()


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        (3, {}),
        (0, {}),
        (float("nan"), {}),
        (100, {"most": 4}),
    ],
)
def test_budgets_that_buy_nothing_are_refused(budget, named):
    x = corpus(np.random.default_rng(0), trials=(4,))
    with pytest.raises(ValueError, match="buys nothing"):
        plan_continuations(x, budget, PlanOptions(**named), prior=(A, B))


@pytest.mark.parametrize(
    "named",
    [
        {"criterion": "luck"},
        {"block": 0},
        {"most": 0},
        {"tau": 2},
        {"label_threshold": 1},
        {"keep_ratio": 0},
        {"alpha": -1},
        {"rule": "random"},
        {"rule": "ccs"},
    ],
)
def test_options_outside_their_range_are_refused(named):
    with pytest.raises(ValueError, match=r".+"):
        PlanOptions(**named)
