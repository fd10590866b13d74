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


@pytest.mark.parametrize("width", [0, 0.01, 1, 30, 1e3, 1e6])
def test_the_best_shift_is_found_whatever_the_width_of_the_scores(width):
    """Newton's method with at most twenty steps of at most 2 stopped 40 away."""
    bayes = SCORES[1]
    rows = width * np.stack([SCORES[1], SCORES[0], SCORES[0] ** 3 - 40]) + 1e3
    found = excess_risk(rows.astype(np.float32), SPLIT.right_S, bayes)
    loss = log_loss(SPLIT.right_S, 1 / (1 + np.exp(-bayes)))
    for z, excess in zip(rows.astype(np.float32).astype(float), found, strict=True):

        def risk(shift, z=z):
            return (np.logaddexp(0, z + shift) - SPLIT.right_S * (z + shift)).mean()

        # Convex, and steep only at the scores: the best is near minus one of them.
        at = -np.unique(z)[:, None] + np.linspace(-8, 8, 161)
        best = min(risk(shift) for shift in at.ravel())
        slack = 1e-12 * (1 + width)
        assert best - loss - 5e-4 * max(1, best) < excess < best - loss + slack


def test_steps_of_one_class_have_no_loss_beyond_the_rule_s():
    bayes = SCORES[1]
    for right in (np.ones(N, bool), np.zeros(N, bool)):
        risk = np.logaddexp(0, -bayes if right[0] else bayes).mean()
        assert excess_risk(SCORES, right, bayes) == pytest.approx(-risk)


def test_an_excess_risk_needs_finite_scores_of_some_steps():
    with pytest.raises(ValueError, match="finite"):
        excess_risk(np.full((1, N), np.nan), SPLIT.right_S, SCORES[1])
    with pytest.raises(ValueError, match="steps"):
        excess_risk(SCORES[:, :0], SPLIT.right_S[:0], SCORES[1][:0])
