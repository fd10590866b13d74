"""Bootstrap, calibration and the summary that the command prints."""

import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from mprm_jax.data.problems import DataError
from mprm_jax.metrics import best_threshold, f1_at, held_out, step_scores
from mprm_jax.metrics_bootstrap import (
    draw_weights,
    interval,
    replicate,
    weight_chunks,
)
from mprm_jax.metrics_calibration import calibration
from mprm_jax.metrics_ranking import auroc, within_position_auroc
from mprm_jax.metrics_summary import Decision, decide, evaluation
from tests.mprm_jax.test_metrics import picked_steps, random_steps


def test_every_source_keeps_its_number_of_rollouts():
    source = np.array([2, 0, 0, 2, 2, 0, 3])
    weights = draw_weights(source, 500, np.random.default_rng(0))
    for i, size in ((0, 3), (2, 3), (3, 1)):
        assert (weights[:, source == i].sum(axis=1) == size).all()
    # Multinomial: mean 1, variance 1 - 1/n, and only whole numbers.
    assert weights[:, 1].mean() == pytest.approx(1, abs=0.12)
    assert weights[:, 1].var() == pytest.approx(2 / 3, abs=0.12)
    assert (weights == np.floor(weights)).all()


def test_the_draws_do_not_depend_on_how_many_are_asked_for_at_a_time():
    source = np.arange(6000) % 3
    whole = draw_weights(source, 60, np.random.default_rng(4))
    parts = list(weight_chunks(source, 60, np.random.default_rng(4), width=20_000))
    assert len(parts) > 3
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_replicate_is_the_data_set_with_rollouts_repeated():
    rows = random_steps(np.random.default_rng(1), 30, levels=6)
    steps = step_scores(*rows)
    weights = draw_weights(steps.source, 7, np.random.default_rng(9))
    drawn = replicate(steps, 0.4, 7, np.random.default_rng(9))
    for r in range(7):
        picked = np.repeat(np.arange(30), weights[r].astype(int))
        data = picked_steps(rows, picked)
        for name, value in f1_at(data, 0.4)._asdict().items():
            assert getattr(drawn.f1, name)[r] == pytest.approx(value)
        assert drawn.auroc[r] == pytest.approx(auroc(data.scores, data.correct))
        assert drawn.within_position_auroc[r] == pytest.approx(
            within_position_auroc(data)
        )
        for i, name in enumerate(steps.source_names):
            of = np.flatnonzero(data.source == data.source_names.index(name))
            part = data.take(of)
            assert drawn.source_macro_f1[i, r] == pytest.approx(
                f1_at(part, 0.4).micro_f1
            )
            for values, expected in (
                (drawn.source_auroc, auroc(part.scores, part.correct)),
                (drawn.source_within_position, within_position_auroc(part)),
            ):
                assert values[i, r] == pytest.approx(
                    np.nan if expected is None else expected, nan_ok=True
                )


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Rollout effects: steps alone would give an interval of half the width.
    covered, truth = 0, 0.76024  # Phi(1 / sqrt 2): N(1, 1) over N(0, 1)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        correct = rng.random(150) < 0.5
        scores = np.where(correct, 1.0, 0.0) + rng.normal(size=150)
        labels = [[1 if one else -1] * 4 for one in correct]
        steps = step_scores(
            ["a"] * 150,
            labels,
            [[one] * 4 for one in scores],
            [str(i) for i in range(150)],
        )
        drawn = replicate(steps, 0.5, 200, rng)
        ends = interval(drawn.auroc)
        assert ends is not None
        covered += ends.low <= truth <= ends.high
    assert 51 <= covered <= 60


def test_an_interval_needs_half_of_its_replicates():
    values = np.append(np.arange(100.0), np.full(99, np.nan))
    assert interval(values) == pytest.approx(
        np.quantile(np.arange(100.0), [0.025, 0.975])
    )
    assert interval(np.append(values, [np.nan] * 2)) is None
    assert interval(np.array([])) is None


def test_calibration_by_loops():
    rng = np.random.default_rng(3)
    scores, correct = rng.random(500), rng.random(500) < 0.6
    scores[:2] = 0.0, 1.0
    found = calibration(scores, correct)
    assert found is not None
    assert found.brier == pytest.approx(brier_score_loss(correct, scores))
    ece = 0.0
    for b in range(15):
        low, high = b / 15, (b + 1) / 15
        inside = (scores >= low) & ((scores < high) | ((b == 14) & (scores == 1)))
        assert found.curve[b].steps == inside.sum()
        assert found.curve[b].share_correct == pytest.approx(correct[inside].mean())
        ece += inside.sum() * abs(correct[inside].mean() - scores[inside].mean())
    assert found.ece == pytest.approx(ece / 500)


def test_calibrated_scores_have_no_error_and_logits_have_none_at_all():
    scores = np.repeat([0.25, 0.75], 4)
    found = calibration(scores, np.array([1, 0, 0, 0, 1, 1, 1, 0], bool))
    assert found is not None
    assert found.ece == 0
    assert [of.steps for of in found.curve] == [4, 4]
    assert calibration(np.array([0.5, 1.5]), np.array([True, False])) is None
    assert calibration(np.array([]), np.array([], bool)) is None


def test_the_default_threshold_is_chosen_where_nothing_is_evaluated():
    steps = step_scores(*random_steps(np.random.default_rng(0), 300))
    decision, left = decide(steps, "held-out")
    out = np.flatnonzero(held_out(steps))
    assert decision.threshold == best_threshold(steps.take(out))
    assert sorted([*left, *out]) == list(range(300))
    assert (decision.chosen_on, decision.rollouts) == ("held-out", len(out))
    test, everything = decide(steps, "test")
    assert test.threshold == best_threshold(steps)
    assert test.chosen_on == "test"
    fixed, also_everything = decide(steps, "fixed", 0.3)
    assert fixed == Decision(0.3, "fixed")
    assert len(everything) == len(also_everything) == 300


def test_a_threshold_needs_steps_on_both_sides():
    one = step_scores(["a"], [[1, -1]], [[0.9, 0.1]], ["x"])
    with pytest.raises(DataError, match=r"too few to hold some out.*--threshold"):
        decide(one, "held-out")
    neutral = step_scores(["a"], [[0]], [[0.9]], ["x"])
    for chosen_on in ("held-out", "fixed", "test"):
        with pytest.raises(DataError, match="no counted steps"):
            decide(neutral, chosen_on)


def test_the_summary_is_json_and_agrees_with_its_parts():
    steps = step_scores(*random_steps(np.random.default_rng(8), 120))
    value = evaluation(steps, Decision(0.0, "fixed"), replicates=200)
    assert json.loads(json.dumps(value, allow_nan=False))["steps"] == steps.n_steps
    assert value["auroc"] == pytest.approx(roc_auc_score(steps.correct, steps.scores))
    assert value["micro_f1"] == f1_at(steps, 0.0).micro_f1
    assert value["ece"] is None
    for name in ("micro_f1", "auroc", "within_position_auroc", "f1_negative"):
        low, high = value["intervals"][name]
        assert low < value[name] < high
    for name, of in value["sources"].items():
        low, high = of["intervals"]["macro_f1"]
        assert low < value["per_source"][name] < high
    assert sum(of["steps"] for of in value["sources"].values()) == steps.n_steps
    assert evaluation(steps, Decision(0.0, "fixed"), replicates=200) == value
