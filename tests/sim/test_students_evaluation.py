"""Rows are judged one by one as theory.agreement does; excess risk by a grid."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from sim.students.evaluation import (
    Split,
    auroc,
    excess_risk,
    micro_f1,
    sweep_thresholds,
)
from theory import agreement

RNG = np.random.default_rng(4)
N = 90
SPLIT = Split(RNG.random(N) < 0.7, RNG.integers(0, 3, N))
# The last row has many ties.
SCORES = np.stack(
    [RNG.normal(size=N), RNG.normal(size=N) + SPLIT.right_S, RNG.integers(0, 4, N)]
)


def test_rows_are_judged_one_by_one():
    thresholds = np.array([0.1, 0.5, 2.0])
    found = micro_f1(SCORES, SPLIT, thresholds), auroc(SCORES, SPLIT.right_S)
    for i, row in enumerate(SCORES):
        steps = agreement.JudgedSteps(row, *SPLIT)
        assert found[0][i] == agreement.f1_at(steps, thresholds[i]).micro_f1
        assert found[1][i] == agreement.auroc(row, SPLIT.right_S)
    assert np.isnan(auroc(SCORES, np.ones(N, bool))).all()


def test_the_sweep_takes_the_highest_of_the_best_scores():
    found = sweep_thresholds(SCORES.astype(np.float32), SPLIT)
    assert found.threshold_A.dtype == np.float32
    for row, threshold, best in zip(SCORES.astype(np.float32), *found, strict=True):
        steps = agreement.JudgedSteps(row, *SPLIT)
        cuts = [*np.unique(row), np.float32(np.inf)]
        values = {t: agreement.f1_at(steps, t).micro_f1 for t in cuts}
        assert best == pytest.approx(max(values.values()), rel=1e-12)
        assert threshold == max(t for t, v in values.items() if v >= best - 1e-12)
    with pytest.raises(ValueError, match="steps"):
        sweep_thresholds(SCORES[:, :0], Split(SPLIT.right_S[:0], SPLIT.source_S[:0]))


def test_the_sweep_may_call_nothing_right():
    split = Split(np.arange(10) == 0, np.zeros(10, np.int64))
    scores = np.arange(10, dtype=np.float32)[None] / 7
    found = sweep_thresholds(scores, split)
    # The one right step has the lowest score: F1 of the wrong ones is 18/19, halved.
    assert found.micro_f1_A == pytest.approx(9 / 19)
    assert found.threshold_A > scores.max()
    assert micro_f1(scores, split, found.threshold_A) == found.micro_f1_A


def test_excess_risk_forgives_a_shift_and_nothing_else():
    bayes = SCORES[1] * 1.5
    loss = log_loss(SPLIT.right_S, 1 / (1 + np.exp(-bayes)))
    z = bayes + np.linspace(-4, 4, 4001)[:, None]
    best = (np.logaddexp(0, z) - SPLIT.right_S * z).mean(axis=1).min()
    for shift in (-3.0, 0.0, 50.0):
        found = excess_risk(bayes[None] + shift, SPLIT.right_S, bayes)
        assert found[0] == pytest.approx(best - loss, abs=1e-6)
    assert excess_risk(SCORES[:1], SPLIT.right_S, bayes)[0] > 0.01
