from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from theory.beta_binomial import (
    class_conditional_rates,
    posterior_fisher,
    unreliability_posterior,
)
from theory.label_noise import noisy_fisher_weight
from theory.rollouts import Rollouts

A, B = 0.73, 0.30


def corpus(*rollouts):
    """Rollouts given as lists of (K, N)."""
    steps = [step for rollout in rollouts for step in rollout]
    return Rollouts(
        np.array([k for k, _ in steps], np.int64),
        np.array([n for _, n in steps], np.int64),
        np.cumsum([0, *map(len, rollouts)]),
        np.zeros(len(rollouts), np.int64),
        ("corpus",),
    )


def by_definition(rollout, a, b, tau):
    measured = [(k, n) for k, n in rollout if n > 0]
    eta = {(k, n): betainc(a + k, b + n - k, tau) for k, n in measured}
    positive = [1 - eta[step] for step in measured if step[0] > 0]
    negative = [eta[step] for step in measured if step[0] == 0]
    p = Fraction(len(positive), len(measured))
    if p in (0, 1):
        return 0.0
    ppv, npv = np.mean(positive), np.mean(negative)
    return float(p * (1 - p)) * (ppv + npv - 1) ** 2


step = st.sampled_from([1, 2, 16]).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)
rollout = st.lists(step, min_size=1, max_size=8)


@given(
    st.lists(rollout, min_size=1, max_size=5),
    st.floats(0.1, 20),
    st.floats(0.1, 20),
    st.floats(0, 1),
)
def test_the_score_is_its_definition(rollouts, a, b, tau):
    score = posterior_fisher(corpus(*rollouts), a, b, tau)
    expected = np.array([by_definition(r, a, b, tau) for r in rollouts])
    # Fixed point rounds PPV and NPV at 2^-41 each.
    np.testing.assert_allclose(score, expected, rtol=1e-9, atol=2**-40)
    assert score.dtype == np.float64
    assert np.all((score >= 0) & (score <= 0.25))


def test_half_is_the_default_threshold():
    rollouts = corpus([(8, 16), (0, 16), (1, 2)])
    assert posterior_fisher(rollouts, A, B) == posterior_fisher(rollouts, A, B, 0.5)
    assert posterior_fisher(rollouts, A, B) != posterior_fisher(rollouts, A, B, 0.4)


@given(st.lists(rollout, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_equal_counts_tie_to_the_last_bit_wherever_they_stand(rollouts, random):
    subject = rollouts[0]
    alone = posterior_fisher(corpus(subject), A, B)[0]
    shuffled = random.sample(subject, len(subject))
    # Steps in another order, a never-sampled step, every step doubled and tripled:
    # the same proportions of counts.
    variants = [subject, shuffled, [(0, 0), *subject], subject * 2, subject * 3]
    others = [*rollouts[1:], *variants]
    random.shuffle(others)
    scores = posterior_fisher(corpus(*others), A, B)
    for variant in variants:
        assert scores[others.index(variant)] == alone


def test_a_rollout_with_one_kind_of_label_carries_nothing():
    scores = posterior_fisher(
        corpus([(1, 16)], [(0, 16), (0, 1)], [(0, 0), (16, 16)], [(0, 16), (1, 16)]),
        A,
        B,
    )
    assert scores[:3].tolist() == [0, 0, 0]
    assert scores[3] > 0


def test_trustworthy_positives_rank_above_lucky_ones():
    lucky, fair, sure = posterior_fisher(
        corpus(*[[(k, 16), (0, 16)] for k in (1, 8, 16)]), A, B
    )
    assert lucky < fair < sure < 0.25
    # Certain labels: the clean Fisher information of the mixture itself.
    np.testing.assert_allclose(
        posterior_fisher(corpus([(10**4, 10**4), (0, 10**4)]), A, B), 0.25, rtol=1e-9
    )


@pytest.mark.parametrize("tau", [0, 1])
def test_thresholds_that_make_the_truth_certain_leave_no_information(tau):
    # PPV + NPV = 1: the label then tells nothing that was not known.
    score = posterior_fisher(corpus([(8, 16), (3, 16), (0, 16)]), A, B, tau)
    assert score.tolist() == [0]


def test_one_long_rollout_of_the_annotator_has_the_fisher_weight_of_its_channel():
    rng = np.random.default_rng(0)
    steps, trials, tau = 400_000, 4, 0.5
    a, b = 1.0, 2.0
    k = rng.binomial(trials, rng.beta(a, b, steps))
    rollouts = Rollouts(
        k,
        np.full(steps, trials),
        np.array([0, steps]),
        np.zeros(1, np.int64),
        ("one",),
    )
    reliable = 1 - betainc(a, b, tau)
    weight = noisy_fisher_weight(reliable, *class_conditional_rates(a, b, trials, tau))
    # Errors of PPV (spread at most 1/2) and of p, by the delta method.
    positive = k > 0
    p = positive.mean()
    j = np.sqrt(weight / (p * (1 - p)))
    spread = (1 - unreliability_posterior(k, a, b, trials, tau))[positive].std()
    by_ppv = 2 * p * (1 - p) * j * spread / np.sqrt(positive.sum())
    by_p = abs(1 - 2 * p) * j**2 * np.sqrt(p * (1 - p) / steps)
    error = posterior_fisher(rollouts, a, b, tau)[0] - weight
    assert abs(error) < 4 * np.hypot(by_ppv, by_p)


def test_narrow_and_unsigned_columns_are_read_alike():
    wide = corpus([(8, 16), (0, 16)], [(1, 2), (0, 16), (0, 2)])
    narrow = Rollouts(
        wide.successes.astype(np.uint8),
        wide.trials.astype(np.uint64),
        wide.offsets,
        wide.source,
        wide.source_names,
    )
    np.testing.assert_array_equal(
        posterior_fisher(narrow, A, B), posterior_fisher(wide, A, B)
    )


def test_bad_arguments_are_named():
    rollouts = corpus([(1, 2), (0, 2)])
    with pytest.raises(ValueError, match=r"^a must be in \(0, inf\)"):
        posterior_fisher(rollouts, 0, B)
    with pytest.raises(ValueError, match=r"^b must be in \(0, inf\)"):
        posterior_fisher(rollouts, A, np.nan)
    with pytest.raises(ValueError, match=r"^tau must be in \[0, 1\]"):
        posterior_fisher(rollouts, A, B, 1.1)
    with pytest.raises(ValueError, match="rollout 1 has no measured step"):
        posterior_fisher(corpus([(1, 2)], [(0, 0)]), A, B)
    with pytest.raises(ValueError, match="rollout 0 has no measured step"):
        posterior_fisher(corpus([]), A, B)
