"""Calibration: what it meets, what it recovers, what it says it cannot reach."""

from dataclasses import replace

import numpy as np
import pytest

import sim.corpus.laws
from sim.corpus.calibrate import (
    PAPER_MODELS,
    PAPER_TARGETS,
    Targets,
    UnreachableTargets,
    calibrate,
)
from sim.corpus.draw import expected, sample
from sim.corpus.laws import HierarchicalBeta, Martingale, TwoStateChain, WithAllNegative
from sim.corpus.quadrature import beta_rule
from sim.corpus.sources import PAPER_SOURCES, Source
from theory.paper import FULL_DATA
from theory.summary import summarise

INF = np.inf
FEW = (
    Source("easy", 0.95, 6_000, 1_500),
    Source("hard", 0.60, 10_500, 1_500),
    Source("long", 0.80, 9_000, 900),
)


class WithNothingFree(HierarchicalBeta):
    """A model whose parameters are all given."""

    def free(self, lowest_mean):
        return {}

    def at(self, values):
        return self


def targets_of(model, sources):
    found = expected(model, sources)
    return Targets(found.error_step_ratio, found.mixed_share)


def test_default_model_meets_the_paper_s_shares_and_is_what_calibration_gives():
    fitted = calibrate(HierarchicalBeta(1.0, 1.0))
    found = expected(fitted, PAPER_SOURCES)
    assert found.error_step_ratio == pytest.approx(FULL_DATA.error_step_ratio, rel=1e-6)
    assert found.mixed_share == pytest.approx(FULL_DATA.mixed_share, rel=1e-6)
    kept = PAPER_MODELS["hierarchical"]
    assert isinstance(kept, HierarchicalBeta)
    assert (kept.k0, kept.k) == pytest.approx((fitted.k0, fitted.k), rel=1e-6)


def test_start_of_the_calibration_does_not_matter():
    targets = targets_of(HierarchicalBeta(2.0, 5.0), FEW)
    first = calibrate(HierarchicalBeta(1.0, 1.0), targets, FEW)
    assert first == calibrate(HierarchicalBeta(50.0, 0.1), targets, FEW)


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_kept_models_meet_what_they_can(name):
    mixed = {"independent": 0.168, "constant": 0.0391, "martingale": 0.0587}
    found = expected(PAPER_MODELS[name], PAPER_SOURCES)
    assert found.error_step_ratio == pytest.approx(FULL_DATA.error_step_ratio, rel=1e-6)
    if name in mixed:
        assert found.mixed_share == pytest.approx(mixed[name], rel=0.01)
    else:
        assert found.mixed_share == pytest.approx(FULL_DATA.mixed_share, rel=1e-6)


def test_default_model_meets_its_targets_when_sampled():
    corpus = sample(
        PAPER_MODELS["hierarchical"], PAPER_SOURCES, np.random.default_rng(2), 0.3
    )
    found = summarise(corpus)
    exact = expected(PAPER_MODELS["hierarchical"], PAPER_SOURCES)
    shares = {
        "mixed_share": FULL_DATA.mixed_share,
        "all_negative_share": exact.all_negative_share,
    }
    for name, share in shares.items():
        error = np.sqrt(share * (1 - share) / corpus.n_rollouts)
        assert abs(getattr(found, name) - share) < 4 * error
    negative = corpus.lengths - corpus.n_positive
    residual = negative - FULL_DATA.error_step_ratio * corpus.lengths
    assert abs(residual.sum()) < 4 * np.sqrt(len(residual)) * residual.std()
    scores = corpus.total(corpus.successes.astype(np.int64)) / 16
    residual = scores - exact.mean_mc * corpus.lengths
    assert abs(residual.sum()) < 4 * np.sqrt(len(residual)) * residual.std()


@pytest.mark.parametrize(
    "planted",
    [
        HierarchicalBeta(0.7, 4.0),
        HierarchicalBeta(20.0, 0.5),
        HierarchicalBeta(INF, 0.9),
        HierarchicalBeta(0.9, INF),
        Martingale(2.0, 8.0),
        TwoStateChain(0.1, 4.0, repairs=False),
        TwoStateChain(0.05, 9.0, repairs=True),
        TwoStateChain(0.08, INF, repairs=False),
        WithAllNegative(HierarchicalBeta(1.3, 2.1), 0.01),
    ],
)
def test_planted_parameters_are_recovered(planted):
    # Calibration starts from other values; only what is at a limit is kept.
    free = planted.free(0.6)
    start = planted.at({name: 1.7 * low for name, (low, _) in free.items()})
    fitted = calibrate(start, targets_of(planted, FEW), FEW)
    numbers = [getattr(fitted, "base", fitted), getattr(planted, "base", planted)]
    found, wanted = (list(vars(model).values()) for model in numbers)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_parameters_are_recovered_from_a_sample():
    planted = HierarchicalBeta(1.3, 2.1)
    fits = []
    for seed in range(8):
        sampled = summarise(sample(planted, FEW, np.random.default_rng(seed), scale=4))
        targets = Targets(sampled.error_step_ratio, sampled.mixed_share)
        fitted = calibrate(planted, targets, FEW)
        fits.append((fitted.k0, fitted.k))
    fits = np.log(fits)
    error = fits.std(axis=0, ddof=1) / np.sqrt(len(fits))
    assert np.all(error < 0.1)
    assert np.all(np.abs(fits.mean(axis=0) - np.log([1.3, 2.1])) < 4 * error)


@pytest.mark.parametrize(
    ("model", "mixed"),
    [(HierarchicalBeta(INF, 1.0), 0.168), (HierarchicalBeta(1.0, INF), 0.0391)],
)
def test_limits_of_the_hierarchy_say_that_they_miss_the_mixed_share(model, mixed):
    with pytest.raises(UnreachableTargets, match=r"mixed_share 0\.0767") as caught:
        calibrate(model)
    (miss,) = caught.value.misses
    assert miss.name == "mixed_share"
    assert miss.wanted == FULL_DATA.mixed_share
    assert miss.nearest == pytest.approx(mixed, rel=0.01)
    assert miss.distance == pytest.approx(abs(mixed - FULL_DATA.mixed_share), rel=0.01)
    found = expected(caught.value.nearest, PAPER_SOURCES)
    assert found.error_step_ratio == pytest.approx(PAPER_TARGETS.error_step_ratio)


def test_nearest_hierarchical_model_lies_at_a_limit():
    # Less mixed than even constant r: the nearest meets the error ratio first.
    constant = calibrate(
        HierarchicalBeta(1.0, INF),
        targets_of(HierarchicalBeta(0.6, INF), FEW),
        FEW,
    )
    limit = expected(constant, FEW)
    targets = Targets(limit.error_step_ratio, limit.mixed_share / 2)
    with pytest.raises(UnreachableTargets) as caught:
        calibrate(HierarchicalBeta(1.0, 1.0), targets, FEW)
    (miss,) = caught.value.misses
    assert miss.name == "mixed_share"
    assert miss.nearest == pytest.approx(limit.mixed_share, rel=0.01)


def test_an_error_ratio_beyond_every_model_is_named_with_the_mixed_share():
    # More negative steps than 1 - mean MC: no r has that mean.
    with pytest.raises(UnreachableTargets) as caught:
        calibrate(HierarchicalBeta(1.0, 1.0), Targets(0.5, 0.1), FEW)
    assert caught.value.misses[0].name == "error_step_ratio"
    # Steps of mean 0.7529 have at most 24.71 % of r = 0.
    assert 0.24 < caught.value.misses[0].nearest < 0.2472


def test_a_model_without_free_parameters_is_only_checked():
    fixed = HierarchicalBeta(INF, INF)
    found = targets_of(fixed, FEW)
    assert calibrate(fixed, found, FEW) is fixed
    with pytest.raises(UnreachableTargets):
        calibrate(fixed, Targets(0.1, 0.1), FEW)


@pytest.mark.parametrize("missed", ["error_step_ratio", "mixed_share"])
def test_a_target_missed_by_a_hundred_thousandth_is_missed(missed):
    fixed = WithNothingFree(1.3, 2.1)
    targets = targets_of(fixed, FEW)

    def off_by(share):
        value = getattr(targets, missed) * (1 + share)
        return replace(targets, **{missed: value})

    assert calibrate(fixed, off_by(1e-7), FEW) is fixed
    with pytest.raises(UnreachableTargets, match=missed):
        calibrate(fixed, off_by(1e-5), FEW)


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan])
def test_targets_are_shares(share):
    with pytest.raises(ValueError, match="must be"):
        Targets(share, 0.1)
    with pytest.raises(ValueError, match="must be"):
        Targets(0.1, share)


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_finer_quadrature_changes_no_expectation(name, monkeypatch):
    sources = PAPER_SOURCES[::6]
    coarse = expected(PAPER_MODELS[name], sources)

    def fine(mean, concentration, nodes=48):
        return beta_rule(mean, concentration, 2 * nodes)

    monkeypatch.setattr(sim.corpus.laws, "beta_rule", fine)
    monkeypatch.setattr(sim.corpus.laws, "_GRID", 96)
    sim.corpus.laws._to_coefficients.cache_clear()
    sim.corpus.laws._martingale_counts.cache_clear()
    try:
        finer = expected(PAPER_MODELS[name], sources)
    finally:
        sim.corpus.laws._to_coefficients.cache_clear()
        sim.corpus.laws._martingale_counts.cache_clear()
    assert vars(coarse) == pytest.approx(vars(finer), abs=1e-7)
