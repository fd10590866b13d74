"""Models of r against closed forms, enumeration and independent integration."""

import itertools

import numpy as np
import pytest
from scipy import integrate, special, stats

from sim.corpus.laws import (
    HierarchicalBeta,
    Martingale,
    TwoStateChain,
    WithAllNegative,
    label_recursion,
)
from sim.corpus.sources import LengthLaw

INF = np.inf
LAW = LengthLaw.of_mean(4.5)


def fixed(n):
    return LengthLaw(n, 0.0)


def draw(model, mean, lengths, seed=0):
    return model.draw(mean, LAW, np.asarray(lengths), np.random.default_rng(seed))


def within(values, expected, sigmas=4.0):
    """Whether a mean of independent values agrees with its expectation."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < sigmas * error, (np.mean(values), error)


# Hierarchical Beta and its limits


def test_independent_beta_has_the_beta_binomial_s_labels():
    k, mean, trials = 2.0, 0.8, 16
    a, b = k * mean, k * (1 - mean)
    zero = special.beta(a, b + trials) / special.beta(a, b)
    found = HierarchicalBeta(INF, k).labels(mean, fixed(3), trials)
    assert found.negative_steps == pytest.approx(3 * zero, rel=1e-12)
    assert found.all_negative == pytest.approx(zero**3, rel=1e-10)
    assert found.all_positive == pytest.approx((1 - zero) ** 3, rel=1e-12)


def test_constant_r_makes_one_long_binomial_of_a_rollout():
    k0, mean, trials, n = 0.6, 0.86, 16, 4
    a, b = k0 * mean, k0 * (1 - mean)
    found = HierarchicalBeta(k0, INF).labels(mean, fixed(n), trials)
    for steps, value in ((1, found.negative_steps / n), (n, found.all_negative)):
        zero = special.beta(a, b + steps * trials) / special.beta(a, b)
        assert value == pytest.approx(zero, rel=1e-10)


def test_independent_and_constant_steps_share_their_marginal():
    independent = HierarchicalBeta(INF, 0.7).labels(0.9, LAW, 16)
    constant = HierarchicalBeta(0.7, INF).labels(0.9, LAW, 16)
    assert independent.negative_steps == pytest.approx(constant.negative_steps)
    assert independent.all_negative < constant.all_negative


def test_hierarchical_labels_by_adaptive_integration_over_u():
    model, mean, trials = HierarchicalBeta(5.0, 2.0), 0.6, 16
    pmf = LAW.pmf()
    n = np.arange(len(pmf))

    def zero(u):
        return special.beta(2 * u, 2 * (1 - u) + trials) / special.beta(
            2 * u, 2 * (1 - u)
        )

    def average(f):
        def integrand(u):
            return stats.beta.pdf(u, 5 * mean, 5 * (1 - mean)) * f(zero(u))

        return integrate.quad(integrand, 0, 1)[0]

    found = model.labels(mean, LAW, trials)
    assert found.negative_steps == pytest.approx(4.5 * average(lambda z: z), rel=1e-6)
    assert found.all_negative == pytest.approx(average(lambda z: pmf @ z**n), rel=1e-6)
    assert found.all_positive == pytest.approx(
        average(lambda z: pmf @ (1 - z) ** n), rel=1e-6
    )


@pytest.mark.parametrize(("k0", "k"), [(1.3, 2.1), (INF, 0.6), (0.6, INF), (8.0, 0.4)])
def test_hierarchical_draws_have_the_two_variances(k0, k):
    mean = 0.85
    r = draw(HierarchicalBeta(k0, k), mean, np.full(40_000, 2)).r.reshape(-1, 2)
    between = mean * (1 - mean) / (k0 + 1)
    spread = between + (mean * (1 - mean) - between) / (k + 1)
    within(r[:, 0], mean)
    within((r[:, 0] - mean) ** 2, spread)
    if np.isfinite(k0):
        within((r[:, 0] - mean) * (r[:, 1] - mean), between)
    assert np.array_equal(r[:, 0], r[:, 1]) == np.isinf(k)


def test_extreme_concentrations_and_means_give_probabilities():
    for k0, k, mean in [(1e-2, 1e-2, 0.999), (1e-2, 1e4, 0.001), (1e4, 1e-2, 0.5)]:
        for model in (HierarchicalBeta(k0, k), Martingale(k0, k)):
            r = draw(model, mean, np.full(500, 7)).r
            assert np.all((r >= 0) & (r <= 1))
            found = model.labels(mean, LAW, 16)
            assert found.all_negative + found.all_positive <= 1 + 1e-9
            assert min(found) >= 0
    for model in (HierarchicalBeta(1.0, 1.0), Martingale(1.0, 1.0)):
        assert draw(model, 1.0, [2, 3]).r == pytest.approx(1.0)
        assert model.labels(1.0, LAW, 16) == pytest.approx((0.0, 0.0, 1.0), abs=1e-12)
        assert model.labels(0.0, LAW, 16) == pytest.approx((4.5, 1.0, 0.0), abs=1e-12)


# Martingale


def test_martingale_spreads_by_a_factor_per_step():
    model, mean, n = Martingale(3.0, 5.0), 0.7, 6
    r = draw(model, mean, np.full(40_000, n)).r.reshape(-1, n)
    for j in range(n):
        left = mean * (1 - mean) * (3 / 4) * (5 / 6) ** (j + 1)
        within(r[:, j] * (1 - r[:, j]), left)
    # E[r_j | r_{j-1}] = r_{j-1}: the change is uncorrelated with what was before.
    for j in range(1, n):
        within((r[:, j] - r[:, j - 1]) * r[:, j - 1], 0.0)


def test_martingale_labels_with_one_and_two_continuations():
    model, mean = Martingale(3.0, 5.0), 0.7
    one = model.labels(mean, fixed(2), 1)
    rest = mean * (1 - mean) * (3 / 4) * (5 / 6)
    assert one.negative_steps == pytest.approx(2 * (1 - mean), rel=1e-10)
    # E[(1 - r_1)(1 - r_2)] = E[(1 - r_1)^2], as r is a martingale.
    assert one.all_negative == pytest.approx(1 - mean - rest, rel=1e-10)
    assert one.all_positive == pytest.approx(mean - rest, rel=1e-10)
    two = model.labels(mean, fixed(2), 2)
    assert two.negative_steps == pytest.approx(
        2 * (1 - mean) - rest - rest * 5 / 6, rel=1e-10
    )


def test_martingale_that_does_not_move_is_constant():
    constant = HierarchicalBeta(1.3, INF)
    assert Martingale(1.3, INF).labels(0.8, LAW, 16) == constant.labels(0.8, LAW, 16)
    nearly = Martingale(1.3, 1e7).labels(0.8, LAW, 16)
    assert nearly == pytest.approx(constant.labels(0.8, LAW, 16), rel=1e-4)


# Good/bad chains


def paths(h, c, steps, good=True):
    """Every sequence of states with its probability, written out."""
    for states in itertools.product((True, False), repeat=steps):
        probability, now = 1.0, good
        for after in states:
            move = h if now else c
            probability *= move if after != now else 1 - move
            now = after
        yield states, probability


def brute_force_r(h, v, repairs, left, good):
    end_good = sum(
        p * (states[-1] if states else good)
        for states, p in paths(h, v if repairs else 0.0, left + repairs, good)
    )
    return end_good if repairs else end_good + (1 - end_good) * v


@pytest.mark.parametrize("repairs", [False, True])
@pytest.mark.parametrize(("h", "v"), [(0.1, 0.3), (0.7, 0.6), (1.0, 0.2), (0.0, 0.4)])
def test_chain_s_r_is_the_enumerated_chance_to_end_right(h, v, repairs):
    chain = TwoStateChain(0.3, INF, repairs)
    for left in range(6):
        found = chain.chance(h, np.array([v]), left)
        for good, value in zip((True, False), found, strict=True):
            expected = brute_force_r(h, v, repairs, left, good)
            assert float(value[0]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("repairs", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_chain_s_labels_and_mean_by_enumeration(repairs, n):
    v, mean, trials = 0.15, 0.8, 16
    chain = TwoStateChain(v, INF, repairs)
    h = chain.slip(mean, fixed(n))
    expected = np.zeros(3)
    total_r = 0.0
    for states, p in paths(h, v if repairs else 0.0, n):
        r = np.array(
            [
                brute_force_r(h, v, repairs, n - 1 - j, good)
                for j, good in enumerate(states)
            ]
        )
        zero = (1 - r) ** trials
        expected += p * np.array([zero.sum(), zero.prod(), (1 - zero).prod()])
        total_r += p * r.sum()
    assert total_r / n == pytest.approx(mean, abs=1e-12)
    assert chain.labels(mean, fixed(n), trials) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("repairs", [False, True])
def test_chain_draws_follow_state_and_law(repairs):
    chain = TwoStateChain(0.1, 5.0, repairs)
    n = LAW.draw(30_000, np.random.default_rng(1))
    latent = draw(chain, 0.85, n)
    first = np.cumsum(n) - n
    assert latent.good is not None
    assert len(latent.r) == len(latent.good) == n.sum()
    within(latent.good[first], 1 - chain.slip(0.85, LAW))
    after_error = np.flatnonzero(~latent.good)
    after_error = after_error[~np.isin(after_error + 1, [*first, n.sum()])] + 1
    if repairs:
        # Who errs longer recovers less: the next step is good less often than v.
        assert 0.02 < latent.good[after_error].mean() < 0.1
    else:
        assert not latent.good[after_error].any()
        last = latent.r[np.cumsum(n) - 1]
        assert np.all(last[latent.good[np.cumsum(n) - 1]] == 1)


def test_chain_without_slips_and_with_a_hopeless_mean():
    for repairs in (False, True):
        chain = TwoStateChain(0.3, 2.0, repairs)
        assert draw(chain, 1.0, [3, 2]).r == pytest.approx(1.0)
        assert chain.labels(1.0, LAW, 16) == pytest.approx((0.0, 0.0, 1.0), abs=1e-12)
        with pytest.raises(ValueError, match=r"cannot have a mean MC as low as 0\.1"):
            chain.labels(0.1, LAW, 16)


def test_label_recursion_of_a_chain_that_always_moves():
    # From state 0 to 1 and back; state 1 is negative for sure, state 0 never.
    transition = np.array([[0.0, 1.0], [1.0, 0.0]])
    zero = np.broadcast_to(np.array([0.0, 1.0]), (3, 2))
    negatives, all_negative, all_positive = label_recursion(transition, zero)
    assert negatives[:, 0].tolist() == [0, 1, 1, 2]
    assert all_negative[:, 0].tolist() == [1, 1, 0, 0]
    assert all_positive[:, 1].tolist() == [1, 1, 0, 0]


# A share of all-negative rollouts


def test_all_negative_share_is_added_and_the_mean_kept():
    base = HierarchicalBeta(1.3, 2.1)
    model = WithAllNegative(base, 0.1)
    rest = base.labels(0.8 / 0.9, LAW, 16)
    found = model.labels(0.8, LAW, 16)
    assert found.negative_steps == pytest.approx(0.45 + 0.9 * rest.negative_steps)
    assert found.all_negative == pytest.approx(0.1 + 0.9 * rest.all_negative)
    assert found.all_positive == pytest.approx(0.9 * rest.all_positive)
    r = draw(model, 0.8, np.full(30_000, 3)).r.reshape(-1, 3)
    within(r.mean(axis=1), 0.8)
    within(np.all(r == 0, axis=1), 0.1)


def test_hopeless_rollouts_of_a_chain_are_bad():
    latent = draw(WithAllNegative(TwoStateChain(0.1, INF, True), 0.2), 0.7, [3] * 2_000)
    assert latent.good is not None
    assert not np.any(latent.good[latent.r == 0])
    assert np.any(latent.good)


def test_no_room_for_the_all_negative_share():
    with pytest.raises(ValueError, match="no room"):
        draw(WithAllNegative(HierarchicalBeta(1, 1), 0.1), 0.95, [2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: HierarchicalBeta(0.0, 1.0),
        lambda: HierarchicalBeta(1.0, np.nan),
        lambda: Martingale(-1.0, 1.0),
        lambda: TwoStateChain(0.1, 0.0, True),
        lambda: TwoStateChain(0.0, 1.0, True),
        lambda: TwoStateChain(1.0, 1.0, False),
        lambda: TwoStateChain(np.nan, 1.0, False),
        lambda: WithAllNegative(HierarchicalBeta(1.0, 1.0), 1.0),
        lambda: WithAllNegative(HierarchicalBeta(1.0, 1.0), -0.1),
    ],
)
def test_parameters_outside_their_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize(
    ("model", "free"),
    [
        (HierarchicalBeta(INF, 1.0), {"k"}),
        (HierarchicalBeta(1.0, INF), {"k0"}),
        (Martingale(1.0, 1.0), {"k0", "k"}),
        (TwoStateChain(0.1, 1.0, True), {"spread", "recovery"}),
        (TwoStateChain(0.1, INF, False), {"recovery"}),
    ],
)
def test_parameters_at_a_limit_stay_there(model, free):
    assert model.free(0.5).keys() == free
    mixed = WithAllNegative(model, 0.1)
    assert mixed.free(0.5).keys() == free
    values = dict.fromkeys(free, 0.3)
    moved = model.at(values)
    assert vars(moved) == vars(model) | values
    assert mixed.at(values) == WithAllNegative(moved, 0.1)
