"""Scores against exact rational arithmetic, and the properties the paper states."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import as_table, corpora
from theory import rollouts as module
from theory import score_identities, scores
from theory.beta_binomial import count_pmf, posterior_fisher
from theory.rollouts import Rollouts

labelled = corpora(min_rollouts=1, min_steps=1, unmeasured=False)
ALPHA = Fraction(1, 20)


def rollout(steps, trials=16):
    """One rollout from its successes."""
    k = np.array(steps)
    return Rollouts(
        k, np.full(len(k), trials), np.array([0, len(k)]), np.array([0]), ("a",)
    )


# The oracle: each score once more, in exact fractions, from its definition.
def exact(steps):
    s = [Fraction(k, n) for k, n in steps if n]
    positive = [x for x in s if x > 0]
    p = Fraction(len(positive), len(s))
    mean = sum(s) / len(s)
    r = sum(positive) / len(positive) if positive else Fraction(1)
    pairs = [
        (x > 0) != (y > 0) for i, x in enumerate(s) for j, y in enumerate(s) if i != j
    ]
    return {
        "label_mixture": p * (1 - p),
        "unbiased_mixture": Fraction(sum(pairs), 2 * len(pairs)) if pairs else 0,
        "reliability": r,
        "bis": (p * (1 - p) + ALPHA) * r,
        "mean_mc": mean,
        "mc_variance": sum((x - mean) ** 2 for x in s) / len(s),
        "mc_uncertainty": sum(4 * x * (1 - x) for x in s) / len(s),
        "max_drop": max([x - y for x, y in pairwise(s)] + [Fraction(0)]),
        "negative_count": sum(x == 0 for x in s),
    }


NAMES = list(exact([(1, 2)]))


@given(labelled)
def test_every_score_is_its_definition_in_exact_arithmetic(rollouts):
    wanted = [exact(steps) for steps in as_table(rollouts)]
    for name in NAMES:
        computed = getattr(scores, name)(rollouts)
        assert computed.dtype == np.float64
        np.testing.assert_allclose(
            computed,
            [float(row[name]) for row in wanted],
            rtol=1e-14,
            atol=1e-15,
            err_msg=name,
        )


@given(corpora(min_rollouts=1, min_steps=1))
def test_steps_never_sampled_do_not_count(rollouts):
    measured = np.flatnonzero(rollouts.n_measured > 0)
    rollouts = rollouts.take(measured)
    if len(measured) == 0:
        return
    kept = rollouts.trials > 0
    without = Rollouts(
        rollouts.successes[kept],
        rollouts.trials[kept],
        np.concatenate([[0], np.cumsum(rollouts.n_measured)]),
        rollouts.source,
        rollouts.source_names,
    )
    for name in NAMES:
        score = getattr(scores, name)
        assert np.array_equal(score(rollouts), score(without)), name


def test_a_rollout_without_measured_steps_is_refused():
    rollouts = Rollouts(
        np.array([1, 0]),
        np.array([2, 0]),
        np.array([0, 1, 2]),
        np.array([0, 0]),
        ("a",),
    )
    for name in NAMES:
        with pytest.raises(ValueError, match="rollout 1 has no measured step"):
            getattr(scores, name)(rollouts)


def test_a_corpus_without_rollouts_has_no_scores():
    empty = rollout([1]).take(np.zeros(0, int))
    for score in (
        *(getattr(scores, name) for name in NAMES),
        lambda x: scores.shrunken_bis(x, 1.0, 1.0),
        lambda x: posterior_fisher(x, 1.0, 1.0),
        score_identities.bis_covariance,
        lambda x: np.concatenate(score_identities.mc_variance_parts(x)),
    ):
        found = score(empty)
        assert (found.shape, found.dtype) == ((0,), np.float64)
    with pytest.raises(ValueError, match="a prior needs steps"):
        scores.moment_prior(empty)


@pytest.mark.parametrize(
    ("mc", "wanted"),
    [
        ([14, 14, 15, 14, 0, 0, 0, 0, 0, 0], 0.25828125),
        ([9, 11, 11, 1, 0, 0, 0, 0], 0.15),
    ],
)
def test_the_papers_worked_examples_to_one_ulp(mc, wanted):
    value = scores.bis(rollout(mc), 0.05)[0]
    assert abs(value - wanted) <= np.spacing(wanted)


def test_pure_rollouts_score_exactly_alpha():
    for alpha in (0.02, 0.05, 0.2):
        assert scores.bis(rollout([16, 16, 16]), alpha)[0] == alpha
        assert scores.bis(rollout([0, 0, 0]), alpha)[0] == alpha


@given(labelled, st.floats(0, 1))
def test_bis_is_bounded_and_positive_with_alpha(rollouts, alpha):
    value = scores.bis(rollouts, alpha)
    assert np.all(value <= (alpha + 0.25) * (1 + 1e-15))
    assert np.all(value >= 0)
    assert np.all((value > 0) | (alpha == 0))


@given(labelled)
def test_label_mixture_is_bitwise_symmetric_in_the_classes(rollouts):
    swapped = Rollouts(
        (rollouts.successes == 0).astype(np.int64),
        np.ones_like(rollouts.trials),
        rollouts.offsets,
        rollouts.source,
        rollouts.source_names,
    )
    mixture = scores.label_mixture(rollouts)
    assert np.array_equal(mixture, scores.label_mixture(swapped))
    assert np.all(mixture <= 0.25)


def test_the_floating_point_form_of_the_release_is_not_symmetric():
    # Why label_mixture is computed from integers and the compatible path is not.
    assert 0.1 * (1 - 0.1) != 0.9 * (1 - 0.9)


@given(labelled, st.integers(0, 100))
def test_bis_increases_with_the_success_of_a_positive_step(rollouts, pick):
    step = pick % rollouts.n_steps
    k, n = rollouts.successes[step], rollouts.trials[step]
    if k == 0 or k == n:
        return
    raised = rollouts.successes.copy()
    raised[step] += 1
    better = Rollouts(
        raised,
        rollouts.trials,
        rollouts.offsets,
        rollouts.source,
        rollouts.source_names,
    )
    row = np.searchsorted(rollouts.offsets, step, side="right") - 1
    before, after = scores.bis(rollouts), scores.bis(better)
    assert after[row] > before[row]
    others = np.arange(rollouts.n_rollouts) != row
    assert np.array_equal(before[others], after[others])


@given(labelled, st.randoms(use_true_random=False))
def test_equal_rollouts_score_equal_bits_wherever_they_stand(rollouts, random):
    order = list(range(rollouts.n_rollouts))
    random.shuffle(order)
    moved = rollouts.take(np.array(order))
    for name in NAMES:
        score = getattr(scores, name)
        assert np.array_equal(score(moved), score(rollouts)[order])


def test_all_negative_rollouts_take_the_convention_that_is_asked_for():
    assert scores.reliability(rollout([0, 0]))[0] == 1.0
    assert scores.reliability(rollout([0, 0]), all_negative=0.0)[0] == 0.0
    assert scores.reliability(rollout([8, 0]), all_negative=0.0)[0] == 0.5


@pytest.mark.parametrize("alpha", [-0.01, np.nan, np.inf])
def test_alpha_outside_its_range_is_refused(alpha):
    for score in (scores.bis, lambda r, alpha: scores.shrunken_bis(r, 1, 1, alpha)):
        with pytest.raises(ValueError, match="alpha must be finite and at least 0"):
            score(rollout([1, 0]), alpha)


@given(labelled, st.floats(0.1, 9), st.floats(0.1, 9))
def test_shrunken_bis_replaces_scores_by_posterior_means(rollouts, a, b):
    computed = scores.shrunken_bis(rollouts, a, b)
    for value, steps in zip(computed, as_table(rollouts), strict=True):
        positive = [(a + k) / (a + b + n) for k, n in steps if k]
        r = sum(positive) / len(positive) if positive else 1.0
        p = len(positive) / len(steps)
        assert value == pytest.approx((p * (1 - p) + 0.05) * r, rel=1e-12)


def test_a_flat_prior_that_vanishes_gives_bis_back():
    rollouts = rollout([3, 0, 16, 1])
    shrunk = scores.shrunken_bis(rollouts, 1e-12, 1e-12)
    assert shrunk[0] == pytest.approx(scores.bis(rollouts)[0], rel=1e-10)
    for a, b in ((0, 1), (1, 0), (-1, 1), (np.nan, 1), (np.inf, 1)):
        with pytest.raises(ValueError, match="a and b must be positive"):
            scores.shrunken_bis(rollouts, a, b)


def test_the_moment_prior_recovers_planted_parameters():
    rng = np.random.default_rng(7)
    a, b, steps = 2.0, 0.7, 200_000
    for trials in (16, rng.integers(2, 40, steps)):
        k = rng.binomial(trials, rng.beta(a, b, steps))
        rollouts = Rollouts(
            k,
            np.broadcast_to(trials, (steps,)).copy(),
            np.arange(0, steps + 1, 4),
            np.zeros(steps // 4, np.int64),
            ("a",),
        )
        np.testing.assert_allclose(scores.moment_prior(rollouts), (a, b), rtol=0.03)


def test_two_continuations_are_enough_for_the_moment_prior():
    # Two parameters for two frequencies: the fit gives them back.
    prior = scores.moment_prior(rollout([0, 1, 2, 2], trials=2))
    np.testing.assert_allclose(count_pmf(*prior, 2), [0.25, 0.25, 0.5])


def test_the_moment_prior_refuses_what_no_beta_fits():
    with pytest.raises(ValueError, match="at least two continuations"):
        scores.moment_prior(rollout([1, 0], trials=1))
    with pytest.raises(ValueError, match="do not vary"):
        scores.moment_prior(rollout([8, 8, 8, 8]))
    with pytest.raises(ValueError, match="do not vary"):
        scores.moment_prior(rollout([16, 16]))


@pytest.mark.parametrize("trials", [3, 10, 16, 20, 24])
def test_equal_scores_tie_exactly_whatever_n_and_the_length_are(trials):
    # K/N is rounded where N is no power of two; the tie rule must still see ties.
    for k in range(1, trials + 1):
        rollouts = [rollout([k] * length, trials) for length in range(1, 12)]
        together = Rollouts.concat(rollouts)
        for name in ("reliability", "bis", "mean_mc", "mc_uncertainty"):
            assert len(np.unique(getattr(scores, name)(together))) == 1, (name, k)
        assert not np.any(scores.mc_variance(together))
    falls = [rollout([k + 2, k], trials) for k in range(trials - 1)]
    assert len(np.unique(scores.max_drop(Rollouts.concat(falls)))) == 1


def test_trials_without_a_small_common_denominator_still_score():
    trials = np.arange(1, 41)
    rollouts = Rollouts(
        trials // 2, trials, np.array([0, 20, 40]), np.zeros(2, int), ("a",)
    )
    wanted = [exact(steps) for steps in as_table(rollouts)]
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(scores, name)(rollouts),
            [float(w[name]) for w in wanted],
            rtol=1e-13,
            atol=1e-15,
        )


@pytest.mark.parametrize("trials", [(16, 20), (97, 101, 103, 107)])
def test_bis_does_not_depend_on_the_block_a_rollout_is_in(trials, monkeypatch):
    rng = np.random.default_rng(4)
    parts = [
        rollout(rng.integers(0, n + 1, 5), n) for n in rng.choice(trials, 7).tolist()
    ]
    corpus = Rollouts.concat([*parts, *parts])
    whole = scores.bis(corpus)
    for block in (1, 2, 3, 5):
        monkeypatch.setattr(module, "_BLOCK", block)
        assert scores.bis(corpus).tolist() == whole.tolist()
    assert whole[:7].tolist() == whole[7:].tolist()
    with pytest.raises(ValueError, match="rollout 14 has no measured step"):
        scores.bis(Rollouts.concat([corpus, rollout([0], 0)]))


@given(labelled, st.randoms(use_true_random=False))
def test_the_moment_prior_does_not_depend_on_the_order_of_the_lines(rollouts, random):
    order = list(range(rollouts.n_rollouts))
    random.shuffle(order)
    try:
        prior = scores.moment_prior(rollouts)
    except ValueError:
        return
    assert scores.moment_prior(rollouts.take(np.array(order))) == prior


def test_a_very_long_rollout_does_not_overflow():
    steps = 5000
    rollouts = Rollouts(
        np.tile([720_719, 1], steps // 2),
        np.full(steps, 720_720),
        np.array([0, steps]),
        np.array([0]),
        ("a",),
    )
    spread = (1 / 2 - 1 / 720_720) ** 2
    assert scores.mc_variance(rollouts)[0] == pytest.approx(spread, rel=1e-9)
