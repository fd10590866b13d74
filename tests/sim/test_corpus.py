"""Sampled corpora against the expectations of their models."""

import numpy as np
import pytest

from sim.corpus.calibrate import PAPER_MODELS
from sim.corpus.draw import early_stop, expected, sample, sample_with_latent
from sim.corpus.laws import HierarchicalBeta, Martingale, WithAllNegative
from sim.corpus.sources import PAPER_SOURCES, Source
from theory.rollouts import Rollouts

SOURCES = (
    Source("easy", 0.95, 60_000, 15_000),
    Source("hard", 0.60, 105_000, 15_000),
    Source("long", 0.80, 90_000, 9_000),
)
MODELS = {
    **PAPER_MODELS,
    "moving": Martingale(2.0, 6.0),
    "hopeless": WithAllNegative(PAPER_MODELS["hierarchical"], 0.02),
}


def ratio_z(values, sizes, expectation):
    """z-score of sum(values) / sum(sizes), rollouts independent."""
    residual = values - expectation * sizes
    return residual.sum() / (np.sqrt(len(values)) * residual.std())


@pytest.mark.parametrize("name", MODELS)
def test_samples_agree_with_exact_expectations(name):
    model = MODELS[name]
    corpus = sample(model, SOURCES, np.random.default_rng(7))
    n, positive = corpus.lengths, corpus.n_positive
    assert len(n) == 39_000
    for i, source in enumerate(SOURCES):
        of = corpus.source == i
        law = source.length_law
        labels = model.labels(source.mean_mc, law, 16)
        ones = np.ones(of.sum())
        scores = corpus.total(corpus.successes.astype(np.int64))[of] / 16
        all_negative, all_positive = positive[of] == 0, positive[of] == n[of]
        z = {
            "steps": ratio_z(n[of], ones, law.mean),
            "mean MC": ratio_z(scores, n[of], source.mean_mc),
            "negative steps": ratio_z((n - positive)[of], ones, labels.negative_steps),
            "all positive": ratio_z(all_positive, ones, labels.all_positive),
        }
        if labels.all_negative * len(ones) > 20:
            z["all negative"] = ratio_z(all_negative, ones, labels.all_negative)
        assert max(map(abs, z.values())) < 4, (source.name, z)


def test_expected_summary_weighs_steps_and_rollouts():
    model = PAPER_MODELS["hierarchical"]
    found = expected(model, SOURCES)
    labels = [model.labels(s.mean_mc, s.length_law, 16) for s in SOURCES]
    assert found.mean_mc == pytest.approx(
        (0.95 * 60 + 0.6 * 105 + 0.8 * 90) / (60 + 105 + 90)
    )
    assert found.steps_per_rollout == pytest.approx(255 / 39)
    weight = np.array([15, 15, 9])
    assert found.error_step_ratio == pytest.approx(
        weight @ [label.negative_steps for label in labels] / 255
    )
    assert found.all_negative_share == pytest.approx(
        weight @ [label.all_negative for label in labels] / 39
    )
    assert found.mixed_share + found.all_negative_share == pytest.approx(
        1 - weight @ [label.all_positive for label in labels] / 39
    )


@pytest.mark.parametrize("name", MODELS)
def test_counts_are_binomial_given_the_latent_r(name):
    simulation = sample_with_latent(
        MODELS[name], SOURCES, np.random.default_rng(3), scale=0.3
    )
    r, k = simulation.r, simulation.rollouts.successes.astype(float)
    assert r.shape == k.shape
    assert not np.isnan(r).any()
    assert np.all((r >= 0) & (r <= 1))
    variance = 16 * r * (1 - r)
    assert np.all(k[r == 0] == 0)
    assert np.all(k[r == 1] == 16)
    # Kept away from 0 and 1, where z has heavy tails.
    usable = variance > 0.5
    z = (k - 16 * r)[usable] / np.sqrt(variance[usable])
    steps = len(z)
    assert abs(z.mean()) < 4 / np.sqrt(steps)
    assert abs(np.mean(z**2) - 1) < 4 * np.std(z**2) / np.sqrt(steps)


def test_only_chains_have_a_state():
    rng = np.random.default_rng(0)
    for name, model in MODELS.items():
        good = sample_with_latent(model, SOURCES, rng, scale=0.01).good
        assert (good is not None) == (name in ("absorbing", "repair"))


def test_equal_generators_give_equal_corpora():
    model = PAPER_MODELS["hierarchical"]
    first = sample(model, SOURCES, np.random.default_rng(5), scale=0.02)
    latent = sample_with_latent(model, SOURCES, np.random.default_rng(5), scale=0.02)
    other = sample(model, SOURCES, np.random.default_rng(6), scale=0.02)
    for column in ("successes", "trials", "offsets", "source"):
        expected_column = getattr(first, column)
        assert np.array_equal(expected_column, getattr(latent.rollouts, column))
    assert not np.array_equal(first.lengths, other.lengths)


def test_columns_are_grouped_by_source_and_small():
    corpus = sample(
        PAPER_MODELS["hierarchical"], PAPER_SOURCES, np.random.default_rng(0), 1e-2
    )
    assert corpus.successes.dtype == corpus.trials.dtype == np.uint8
    assert np.all(corpus.trials == 16)
    assert np.all(np.diff(corpus.source) >= 0)
    assert corpus.source_names == tuple(s.name for s in PAPER_SOURCES)
    assert corpus.lengths.min() >= 2
    per_source = np.bincount(corpus.source)
    assert per_source.tolist() == [
        max(1, round(s.rollouts / 100)) for s in PAPER_SOURCES
    ]


def test_scale_keeps_at_least_one_rollout_of_each_source():
    model = PAPER_MODELS["hierarchical"]
    tiny = sample(model, SOURCES, np.random.default_rng(0), scale=1e-9)
    assert tiny.source.tolist() == [0, 1, 2]
    double = sample(model, SOURCES[:1], np.random.default_rng(0), scale=2)
    assert double.n_rollouts == 30_000


def test_other_numbers_of_continuations():
    corpus = sample(
        PAPER_MODELS["independent"], SOURCES, np.random.default_rng(0), 0.1, trials=2
    )
    assert set(np.unique(corpus.successes)) == {0, 1, 2}
    more = expected(PAPER_MODELS["independent"], SOURCES, trials=32)
    fewer = expected(PAPER_MODELS["independent"], SOURCES, trials=2)
    assert more.error_step_ratio < fewer.error_step_ratio


def test_early_stop_leaves_nothing_after_the_first_failure():
    corpus = Rollouts(
        successes=np.array([4, 0, 0, 3, 0, 1, 2, 2, 0], np.uint8),
        trials=np.array([4, 4, 4, 4, 4, 4, 4, 4, 4], np.uint8),
        offsets=np.array([0, 4, 6, 6, 8, 9]),
        source=np.zeros(5, np.int64),
        source_names=("a",),
    )
    stopped = early_stop(corpus)
    assert stopped.trials.tolist() == [4, 4, 0, 0, 4, 0, 4, 4, 4]
    assert stopped.successes.tolist() == [4, 0, 0, 0, 0, 0, 2, 2, 0]
    assert stopped.trials.dtype == np.uint8
    assert np.array_equal(stopped.offsets, corpus.offsets)
    again = early_stop(stopped)
    assert np.array_equal(again.trials, stopped.trials)


def test_bad_requests_are_refused():
    model, rng = HierarchicalBeta(1.0, 1.0), np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least one source"):
        sample(model, (), rng)
    with pytest.raises(ValueError, match="one name"):
        sample(model, (SOURCES[0], SOURCES[0]), rng)
    with pytest.raises(ValueError, match="scale must be"):
        sample(model, SOURCES, rng, scale=0)
    for trials in (0, 256):
        with pytest.raises(ValueError, match="trials must be"):
            sample(model, SOURCES, rng, trials=trials)
        with pytest.raises(ValueError, match="trials must be"):
            expected(model, SOURCES, trials)
