"""Fits recover what was planted, with intervals that hold it."""

import itertools

import numpy as np
import pytest
from scipy import stats

from sim.corpus.draw import sample
from sim.corpus.fit import Likelihood, fit, share_covariance
from sim.corpus.laws import HierarchicalBeta
from sim.corpus.sources import Source, sources_of
from theory.rollouts import Rollouts

SOURCES = (Source("a", 0.85, 5600, 1000), Source("b", 0.7, 5600, 1000))
PLANTED = HierarchicalBeta(1.5, 3.0)


@pytest.fixture(scope="module")
def corpus():
    return sample(PLANTED, SOURCES, np.random.default_rng(3))


def test_planted_concentrations_lie_in_the_intervals(corpus):
    found = fit(corpus, ["hierarchical", "independent"])
    best = found.models["hierarchical"]
    assert best.method == "likelihood"
    for name, estimate, low, high in zip(
        best.parameters, best.estimate, best.low, best.high, strict=True
    ):
        assert low < getattr(PLANTED, name) < high
        assert low < estimate < high < 1.6 * low
    assert best.log_likelihood > found.models["independent"].log_likelihood + 100
    assert found.trials == 16
    assert [s.name for s in found.sources] == ["a", "b"]


def test_a_thinned_corpus_has_the_intervals_of_what_was_read():
    large = tuple(
        Source(s.name, s.mean_mc, 3 * s.steps, 3 * s.rollouts) for s in SOURCES
    )
    corpus = sample(PLANTED, large, np.random.default_rng(5))
    assert corpus.n_rollouts == 6000
    whole = fit(corpus, ["hierarchical"]).models["hierarchical"]
    read = corpus.take(np.arange(0, 6000, 2))
    alone = fit(read, ["hierarchical"]).models["hierarchical"]
    for low, high, other_low, other_high in zip(
        whole.low, whole.high, alone.low, alone.high, strict=True
    ):
        assert high / low == pytest.approx(other_high / other_low, rel=0.01)


def test_likelihood_of_a_tiny_corpus_by_integration():
    rollouts = Rollouts(
        np.array([2, 0, 1]),
        np.full(3, 2),
        np.array([0, 2, 3]),
        np.zeros(2, int),
        ("s",),
    )
    source = (Source("s", 0.6, 3, 2),)
    u = (np.arange(200_000) + 0.5) / 200_000
    weight = stats.beta.pdf(u, 2.0 * 0.6, 2.0 * 0.4) / len(u)

    def pmf(k):
        return stats.betabinom.pmf(k, 2, 3 * u, 3 * (1 - u))

    expected = np.log(weight @ (pmf(2) * pmf(0))) + np.log(weight @ pmf(1))
    likelihood = Likelihood(rollouts, source)
    found = likelihood(HierarchicalBeta(2.0, 3.0))
    assert found == pytest.approx(expected, abs=1e-4)
    # Rollout-constant r: a binomial given u.
    binomial = stats.binom.pmf
    product = binomial(2, 2, u) * binomial(0, 2, u)
    expected = np.log(weight @ product) + np.log(weight @ binomial(1, 2, u))
    constant = likelihood(HierarchicalBeta(2.0, np.inf))
    assert constant == pytest.approx(expected, abs=1e-4)


def test_moments_of_a_chain_meet_both_shares_with_intervals(corpus):
    found = fit(corpus, ["absorbing"])
    chain = found.models["absorbing"]
    assert (chain.method, chain.misses) == ("moments", "")
    from sim.corpus.draw import expected

    shares = expected(chain.model, found.sources)
    assert shares.error_step_ratio == pytest.approx(found.targets.error_step_ratio)
    assert shares.mixed_share == pytest.approx(found.targets.mixed_share)
    for estimate, low, high in zip(chain.estimate, chain.low, chain.high, strict=True):
        assert low < estimate < high


def test_covariance_of_the_shares_is_that_of_resampled_rollouts(corpus):
    rng = np.random.default_rng(0)
    n, positive = corpus.lengths, corpus.n_positive
    draws = rng.integers(0, len(n), (2000, len(n)))
    errors = (n - positive)[draws].sum(axis=1) / n[draws].sum(axis=1)
    mixed = ((positive > 0) & (positive < n))[draws].mean(axis=1)
    expected = np.cov(errors, mixed)
    np.testing.assert_allclose(share_covariance(corpus), expected, rtol=0.12)


def test_a_ratio_that_every_rollout_has_does_not_vary_with_their_lengths():
    lengths = np.array([2, 4, 10, 30])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    k = np.arange(lengths.sum()) % 2
    rollouts = Rollouts(k, np.full(len(k), 2), offsets, np.zeros(4, int), ("s",))
    np.testing.assert_allclose(share_covariance(rollouts), 0, atol=1e-15)


def test_a_corpus_that_cannot_be_fitted_says_why(corpus):
    def refused(rollouts, message):
        with pytest.raises(ValueError, match=message):
            fit(rollouts)

    refused(corpus.take(np.arange(12)), "12 rollouts are too few")
    perfect = np.flatnonzero(corpus.n_positive == corpus.lengths)
    refused(corpus.take(perfect), "0 steps of the rarer label")
    columns = corpus.offsets, corpus.source, corpus.source_names
    one = Rollouts(
        (corpus.successes > 0).astype(int), np.ones(corpus.n_steps, int), *columns
    )
    refused(one, "N >= 2 for all steps, not 1")
    mixed_n = np.where(np.arange(corpus.n_steps) % 2, 16, 32)
    refused(Rollouts(corpus.successes, mixed_n, *columns), "not 16, 32")
    unmeasured = Rollouts(corpus.successes * 0, corpus.trials * 0, *columns)
    refused(unmeasured, "every step measured")


def test_sources_keep_their_means(corpus):
    for source, of in itertools.zip_longest(sources_of(corpus), range(2)):
        steps = np.repeat(corpus.source == of, corpus.lengths)
        assert source.mean_mc == pytest.approx(corpus.successes[steps].mean() / 16)
