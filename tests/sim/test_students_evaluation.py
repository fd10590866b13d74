"""Evaluation against scikit-learn and brute force over thresholds."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from sim.students.evaluation import (
    Split,
    auroc,
    excess_risk,
    micro_f1,
    sweep_thresholds,
)

RNG = np.random.default_rng(4)
N = 90
SPLIT = Split(RNG.random(N) < 0.7, RNG.integers(0, 3, N))
# The last row has many ties.
SCORES = np.stack(
    [RNG.normal(size=N), RNG.normal(size=N) + SPLIT.right_S, RNG.integers(0, 4, N)]
)


def oracle(scores, threshold):
    total = 0.0
    for source in range(3):
        of = SPLIT.source_S == source
        called = scores[of] >= threshold
        total += of.sum() * f1_score(
            SPLIT.right_S[of],
            called,
            average="macro",
            zero_division=0,  # pyright: ignore[reportArgumentType]
        )
    return total / N


def test_micro_f1_is_the_step_weighted_mean_of_the_sources_macro_f1():
    thresholds = np.array([0.1, 0.5, 2.0])
    found = micro_f1(SCORES, SPLIT, thresholds)
    expected = [oracle(s, t) for s, t in zip(SCORES, thresholds, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_sweep_finds_the_best_of_all_thresholds():
    found = sweep_thresholds(SCORES, SPLIT)
    for row, threshold, best in zip(SCORES, *found, strict=True):
        values = [oracle(row, t) for t in np.unique(row)]
        assert best == pytest.approx(max(values), rel=1e-12)
        assert oracle(row, threshold) == pytest.approx(best, rel=1e-12)


def test_more_rows_than_a_block_are_all_evaluated():
    many = np.repeat(SCORES, 7, axis=0)
    np.testing.assert_array_equal(
        sweep_thresholds(many, SPLIT).micro_f1_A[::7],
        sweep_thresholds(SCORES, SPLIT).micro_f1_A,
    )
    assert len(auroc(many, SPLIT.right_S)) == 21


def test_auroc_with_and_without_ties_is_scikit_learn_s():
    expected = [roc_auc_score(SPLIT.right_S, row) for row in SCORES]
    np.testing.assert_allclose(auroc(SCORES, SPLIT.right_S), expected, rtol=1e-12)
    constant = np.zeros((1, N))
    assert auroc(constant, SPLIT.right_S)[0] == 0.5
    assert np.isnan(auroc(SCORES, np.ones(N, bool))).all()


def test_excess_risk_forgives_a_shift_and_nothing_else():
    bayes = SCORES[1] * 1.5
    loss = log_loss(SPLIT.right_S, 1 / (1 + np.exp(-bayes)))
    z = bayes + np.linspace(-4, 4, 4001)[:, None]
    best = (np.logaddexp(0, z) - SPLIT.right_S * z).mean(axis=1).min()
    for shift in (-3.0, 0.0, 50.0):
        found = excess_risk(bayes[None] + shift, SPLIT.right_S, bayes)
        assert found[0] == pytest.approx(best - loss, abs=1e-6)
    assert excess_risk(SCORES[:1], SPLIT.right_S, bayes)[0] > 0.01
