"""What is said of one model: splits, first errors, ranking by position, bootstrap."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score

from mprm_jax.data.formats.prmbench import DIMENSIONS
from mprm_jax.decision import (
    Decision,
    FirstError,
    decide,
    first_error_sweep,
    held_out,
    processbench_metrics,
    second_half,
)
from mprm_jax.records.problems import DataError
from mprm_jax.summary import (
    Metrics,
    auroc_metrics,
    calibration,
    evaluation,
    fitted_auroc,
    group_metrics,
    joined,
    model_metrics,
    of_each_source,
    position_auroc,
    position_starts,
    prior_auroc,
    replicate,
    under,
    within_position_auroc,
)
from tests.judged_steps import picked_steps, random_steps
from theory.agreement import (
    Confusion,
    auroc,
    best_threshold,
    confusion,
    decision_thresholds,
    f1_at,
    macro_f1,
    step_scores,
)
from theory.intervals import basic_interval, draw_weights, percentile_interval


def test_the_held_out_split_depends_on_ids_alone():
    n = 4000
    ids = [f"solution {i}" for i in range(n)]
    steps = step_scores(["a"] * n, [[1]] * n, [[0.5]] * n, ids)
    out = held_out(steps)
    assert abs(out.mean() - 0.2) < 0.03
    order = np.random.default_rng(0).permutation(n)
    other = step_scores(["b"] * n, [[-1]] * n, [[7.0]] * n, [ids[i] for i in order])
    assert np.array_equal(held_out(other), out[order])


def first_error_f1(steps, threshold):
    """Of all sources as one."""
    one = replace(steps, source=np.zeros_like(steps.source), source_names=("all",))
    found = at_once(processbench_metrics(one, Decision(threshold, "fixed")), one)
    return FirstError(*(None if np.isnan(x) else float(x) for x in found.values()))


def plain_first_error(rows, threshold):
    """ProcessBench's F1 with loops."""
    hits = {True: [], False: []}
    for _, labels, scores, _ in zip(*rows, strict=True):
        pairs = [
            (j, a, b) for j, (a, b) in enumerate(zip(labels, scores, strict=True)) if a
        ]
        if pairs:
            truth = next((j for j, a, _ in pairs if a == -1), -1)
            found = next((j for j, _, b in pairs if b < threshold), -1)
            hits[truth >= 0].append(truth == found)
    one, other = (np.mean(hits[key]) for key in (True, False))
    return 2 * one * other / (one + other)


@pytest.mark.parametrize("seed", range(4))
def test_first_error_f1_is_that_of_a_plain_loop(seed):
    rows = random_steps(np.random.default_rng(seed), 200)
    found = first_error_f1(step_scores(*rows), 0.0)
    assert found.f1 == pytest.approx(plain_first_error(rows, 0.0))


def test_first_errors_by_hand():
    labels = [[1, -1, -1], [1, 0, -1], [1, 1], [1, 0], [0, 0]]
    scores = [[0.9, 0.1, 0.9], [0.2, 0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0, 0]]
    # Found at 2; false alarm at 1; passed; passed (the low step is neutral); no judge.
    found = first_error_f1(
        step_scores(["a"] * 5, labels, scores, list("vwxyz")), threshold=0.5
    )
    assert found == FirstError(2 / 3, 0.5, 1.0)
    none = first_error_f1(step_scores(["a"], [[1]], [[0.9]], ["x"]), 0.5)
    assert none == FirstError(None, None, 1.0)


def test_processbench_averages_over_sources_at_a_threshold_of_its_own():
    rows = random_steps(np.random.default_rng(3), 300)
    steps = step_scores(*rows)
    thresholds = decision_thresholds(steps)
    parts = [steps.take(np.flatnonzero(steps.source == i)) for i in range(3)]
    every = [[first_error_f1(part, t).f1 or 0 for part in parts] for t in thresholds]
    assert first_error_sweep(steps, thresholds) == pytest.approx(np.mean(every, axis=1))
    decision, left = decide(steps, "source", source="a")
    assert len(left) == 300
    assert decision.threshold == best_threshold(parts[0])
    chosen = decision.first_error
    assert chosen is not None
    of_a = [t for t in thresholds if t in parts[0].scores]
    assert chosen.threshold == max(
        of_a, key=lambda t: first_error_f1(parts[0], t).f1 or 0
    )
    assert (chosen.source, chosen.rollouts) == ("a", parts[0].n_rollouts)
    found = evaluation(steps, decision, replicates=200)
    of = [first_error_f1(part, chosen.threshold) for part in parts]
    assert list(found.processbench.sources.values()) == of
    assert found.processbench.f1 == pytest.approx(np.mean([one.f1 or 0 for one in of]))
    value = found.as_json()
    assert value["processbench_f1"] == found.processbench.f1
    low, high = value["intervals"]["processbench_f1"]
    assert low < value["processbench_f1"] < high
    with pytest.raises(DataError, match="there are: 'a', 'b', 'c'"):
        decide(steps, "source", source="d")


def test_a_rollout_cut_before_its_error_is_left_out_of_processbench():
    labels, scores = [[1, -1], [1, 1], [1]], [[0.9, 0.1], [0.9, 0.9], [0.9]]
    cut = [False, True, True]
    steps = step_scores(["a"] * 3, labels, scores, list("xyz"), cut)
    found = evaluation(steps, Decision(0.5, "fixed"), replicates=0).processbench
    assert (found.f1, found.wrong_found, found.right_passed) == (None, 1.0, None)
    assert found.rollouts_cut == 2
    assert first_error_f1(steps.take(np.array([0])), 0.5).wrong_found == 1


def at_once(metrics: Metrics, steps):
    """The metrics of the data set itself."""
    found = metrics(np.ones((steps.n_rollouts, 1)))
    return {key: of[..., 0] for key, of in found.items()}


PROCESSBENCH = ("processbench_f1", "wrong_found", "right_passed")


def metrics_of_all(steps):
    """Everything that is resampled, of a data set and of its sources."""
    decision = Decision(0.2, "fixed")
    whole = model_metrics(steps, decision)
    groups = group_metrics(steps, 0.2, np.minimum(steps.position, 3))
    parts = of_each_source(steps, lambda part: model_metrics(part, decision))
    return joined(under("all", whole), under("groups", groups), parts)


def test_a_replicate_is_the_data_set_with_rollouts_repeated():
    rows = random_steps(np.random.default_rng(1), 90, levels=6)
    steps = step_scores(*rows, [i % 13 == 0 for i in range(90)])
    weights = draw_weights(steps.source, 7, np.random.default_rng(9))
    drawn = replicate(metrics_of_all(steps), steps, 7, np.random.default_rng(9))
    assert len(drawn) > 80
    for r in range(7):
        picked = np.repeat(np.arange(90), weights[r].astype(int))
        data = picked_steps(rows, picked, [i % 13 == 0 for i in picked])
        for key, expected in at_once(metrics_of_all(data), data).items():
            value = drawn[key][..., r]
            # Means over sources need all of them.
            if key[1] not in PROCESSBENCH or np.isfinite(value):
                assert value == pytest.approx(expected, nan_ok=True), key
    assert np.nansum(drawn["all", "processbench_f1"]) > 0


def plain_rollouts(rows):
    """Labels and scores of each rollout."""
    return list(zip(*rows[1:3], strict=True))


def auroc_of(right, wrong):
    """Share of pairs that are in order, ties half."""
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    return np.mean(pairs) if pairs else np.nan


def test_rates_and_errors_by_their_definitions():
    rows = random_steps(np.random.default_rng(4), 60, levels=5)
    found = evaluation(step_scores(*rows), Decision(0.4, "fixed"), replicates=0)
    pairs = [p for of in plain_rollouts(rows) for p in zip(*of, strict=True)]
    wrong, right = ([b for a, b in pairs if a == kind] for kind in (-1, 1))
    assert found.false_positive_rate == np.mean([b >= 0.4 for b in wrong])
    assert found.false_negative_rate == np.mean([b < 0.4 for b in right])
    before, first, later = [], [], []
    for labels, scores in plain_rollouts(rows):
        at = labels.index(-1) if -1 in labels else len(labels)
        before += [b for a, b in zip(labels[:at], scores, strict=False) if a == 1]
        first += scores[at : at + 1]
        behind = zip(labels[at + 1 :], scores[at + 1 :], strict=True)
        later += [b for a, b in behind if a == -1]
    assert found.first_error_auroc == pytest.approx(auroc_of(before, first))
    assert found.later_error_auroc == pytest.approx(auroc_of(before, later))
    assert sum(of.first_errors for of in found.thirds) == len(first)


def test_how_often_the_least_score_is_the_last():
    labels = [[1, 0, 1], [1, -1], [1, 0], [1], [1, 1, 1], [1, 1]]
    scores = [[3, 2, 1], [1, 1], [1, 2], [1], [1, 5, 1], [2, 1]]
    # 1; 1/2 of two that tie; 0; one step does not count; 1/2; cut: nobody knows.
    cut = [False] * 5 + [True]
    steps = step_scores(["a"] * 6, labels, scores, list("uvwxyz"), cut)
    found = evaluation(steps, Decision(1.5, "fixed"), replicates=0).last_minimum
    assert found["all"] == (0.5, pytest.approx((2 / 3 + 1) / 4), 4)
    assert found["wrong"] == (0.5, 0.5, 1)
    assert found["right"] == (0.5, pytest.approx((2 / 3 + 1 / 2) / 3), 3)


def test_a_step_belongs_to_the_third_that_its_middle_is_in():
    for n, parts in ((1, [1]), (2, [0, 2]), (3, [0, 1, 2]), (4, [0, 1, 1, 2])):
        steps = step_scores(["a"], [[1] * n], [[1.0] * n], ["x"])
        found = evaluation(steps, Decision(0.5, "fixed"), replicates=0).thirds
        names = ["first third", "middle third", "last third"]
        counts = {names[i]: parts.count(i) for i in sorted({*parts})}
        assert {of.name: of.steps for of in found} == counts


def test_positions_are_taken_together_until_both_kinds_are_many():
    rng = np.random.default_rng(6)
    lengths = rng.integers(1, 12, 300)
    labels = [rng.choice([1, 1, 1, -1], n).tolist() for n in lengths]
    scores = [rng.normal(size=n).tolist() for n in lengths]
    steps = step_scores(["a"] * 300, labels, scores, [str(i) for i in range(300)])
    starts = position_starts(steps).tolist()
    assert starts[0] == 0
    assert len(starts) > 3
    for start, end in zip(starts, [*starts[1:], 99], strict=True):
        of = steps.correct[(steps.position >= start) & (steps.position < end)]
        assert min(of.sum(), (~of).sum()) >= 25
        short = steps.correct[(steps.position >= start) & (steps.position < end - 1)]
        assert end == 99 or min(short.sum(), (~short).sum()) < 25
    found = evaluation(steps, Decision(0.0, "fixed"), replicates=50)
    last = steps.take(np.arange(300))
    of = last.position >= starts[-1]
    assert found.positions[-1].name == f"{starts[-1] + 1} on"
    expected = roc_auc_score(last.correct[of], last.scores[of])
    assert found.positions[-1].auroc == pytest.approx(expected)
    assert sum(one.steps for one in found.positions) == steps.n_steps
    few = step_scores(["a"], [[1, -1]], [[1.0, 2.0]], ["x"])
    assert position_starts(few).tolist() == [0]
    # As many of both kinds as it takes, at every position.
    ids = [str(i) for i in range(50)]
    labels, scores = [[1] * 3] * 25 + [[-1] * 3] * 25, [[0.0] * 3] * 50
    enough = step_scores(["a"] * 50, labels, scores, ids)
    assert position_starts(enough).tolist() == [0, 1, 2]


def test_prm_scores_as_the_benchmark_counts_them():
    rng = np.random.default_rng(2)
    names = ["redundency", "circular", "confidence", "multi_solutions", "correct"]
    rows = random_steps(rng, 150, sources=[n for n in names if n not in names[3:]])
    for name in names[3:]:
        rows[0].extend([name] * 20)
        rows[1].extend([[1, 1, 1]] * 20)
        rows[2].extend(rng.normal(size=(20, 3)).tolist())
        rows[3].extend(f"{name} {i}" for i in range(20))
    # A class of which nothing is judged does not count.
    unjudged = (["deception"], [[0]], [[1.0]], ["none"])
    rows = [[*column, *more] for column, more in zip(rows, unjudged, strict=True)]
    found = evaluation(step_scores(*rows), Decision(0.0, "fixed"), replicates=50)

    def both(*of):
        y, z = [], []
        for name, labels, scores, _ in zip(*rows, strict=True):
            if name in of:
                y += [a for a in labels if a]
                pairs = zip(labels, scores, strict=True)
                z += [1 if b >= 0 else -1 for a, b in pairs if a]
        return [f1_score(y, z, pos_label=kind) for kind in (1, -1)]

    assert found.prmbench == {
        "prm_score": pytest.approx(np.mean(both(*names[:4]))),
        "simplicity": pytest.approx(np.mean([both(of) for of in names[:2]])),
        "soundness": pytest.approx(np.mean(both("confidence"))),
        "sensitivity": pytest.approx(both("multi_solutions")[0]),
    }
    assert found.intervals is not None
    assert found.intervals["simplicity"] is not None
    other = step_scores(*random_steps(rng, 30, sources=["circular", "b", "c"]))
    assert evaluation(other, Decision(0.0, "fixed"), replicates=0).prmbench is None


def test_the_risk_coverage_curve_ends_at_the_share_misjudged():
    steps = step_scores(*random_steps(np.random.default_rng(7), 90, levels=8))
    found = evaluation(steps, Decision(0.4, "fixed"), replicates=0)
    misjudged = (steps.scores >= 0.4) != steps.correct
    sure = np.abs(steps.scores - 0.4)
    share, risk = found.risk_coverage[-1]
    assert (share, risk) == (1, pytest.approx(misjudged.mean()))
    # At the end of a tie nothing is left to expectation.
    known = dict(found.risk_coverage)
    ends = {np.mean(sure >= c): misjudged[sure >= c].mean() for c in np.unique(sure)}
    both = [(known[at], ends[at]) for at in known.keys() & ends.keys()]
    assert len(both) >= 1
    for value, expected in both:
        assert value == pytest.approx(expected)


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
        drawn = replicate(auroc_metrics(steps), steps, 200, rng)
        ends = percentile_interval(drawn["auroc"])
        assert ends is not None
        covered += ends.low <= truth <= ends.high
    assert 51 <= covered <= 60


def test_a_score_of_position_alone_is_worth_nothing_within_positions():
    rng = np.random.default_rng(0)
    labels = [
        np.where(rng.random(6) < np.linspace(0.95, 0.3, 6), 1, -1) for _ in "x" * 300
    ]
    scores = [[-float(j) for j in range(6)] for _ in labels]
    n = len(labels)
    ids = [str(i) for i in range(n)]
    steps = step_scores(["a"] * n, [of.tolist() for of in labels], scores, ids)
    assert within_position_auroc(steps) == 0.5
    plain = auroc(steps.scores, steps.correct)
    assert plain is not None
    assert plain > 0.75
    # The fit finds what this score says: P(correct) falls with the position.
    assert position_auroc(steps) == pytest.approx(plain, abs=0.01)


def test_a_fit_of_nothing_scores_a_half_on_average():
    # Scored across folds it would be below a half; on its own data, above.
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = [rng.choice([1, 1, 1, -1], 5).tolist() for _ in range(60)]
        ids = [f"{seed} {i}" for i in range(60)]
        steps = step_scores(["a"] * 60, labels, labels, ids)
        values.append(position_auroc(steps))
    assert np.mean(values) == pytest.approx(0.5, abs=3 * np.std(values) / 60**0.5)


def test_the_fit_is_the_share_of_correct_steps_in_the_other_folds():
    rng = np.random.default_rng(5)
    steps = step_scores(*random_steps(rng, 80))
    fold = (steps.keys % np.uint64(5)).astype(int)[steps.rollout]
    score = []
    for f, c in zip(fold, steps.position, strict=True):
        others = steps.correct[fold != f]
        cell = steps.correct[(fold != f) & (steps.position == c)]
        score.append((cell.sum() + others.mean()) / (len(cell) + 1))
    expected = auroc(np.array(score), steps.correct, fold)
    assert fitted_auroc(steps, steps.position) == pytest.approx(expected)


def test_a_prior_is_judged_in_its_better_direction():
    rng = np.random.default_rng(1)
    n = 400
    slip = rng.random(n)
    labels = [[1 if rng.random() > h else -1 for _ in range(4)] for h in slip]
    steps = step_scores(["a"] * n, labels, labels, [str(i) for i in range(n)])
    column = slip[steps.rollout]
    found = prior_auroc(steps, column)
    assert found.higher_is == "wrong"
    assert found.auroc == pytest.approx(roc_auc_score(steps.correct, -column))
    assert found.with_position == pytest.approx(found.auroc, abs=0.02)
    assert prior_auroc(steps, -column).higher_is == "correct"
    assert prior_auroc(steps, -column).auroc == pytest.approx(found.auroc)


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


def test_a_cross_fitted_threshold_is_chosen_on_the_half_that_it_does_not_judge():
    steps = step_scores(*random_steps(np.random.default_rng(0), 300))
    decision, left = decide(steps, "cross-fitted")
    assert len(left) == decision.rollouts == 300
    assert decision.steps == steps.n_steps
    second = second_half(steps)
    # Of like size, within a fold of a fit, too.
    for other in (second | True, steps.keys % np.uint64(5) == 0):
        assert abs(second[other].mean() - 0.5) < 4 * 0.5 / np.sqrt(other.sum())
    assert decision.halves is not None
    parts = [steps.take(np.flatnonzero(of)) for of in (~second, second)]
    assert decision.halves == tuple(map(best_threshold, parts[::-1]))
    # Judged half by half: counts of the two add up to those of both.
    found = evaluation(steps, decision, replicates=50)
    counts = [
        confusion(part, threshold, part.step_source, len(steps.source_names))
        for part, threshold in zip(parts, decision.halves, strict=True)
    ]
    together = Confusion(*(a + b for a, b in zip(*counts, strict=True)))
    expected = macro_f1(together)
    assert list(found.per_source.values()) == pytest.approx(expected.tolist())
    weights = together.steps / found.steps
    assert found.micro_f1 == pytest.approx(expected @ weights)
    assert found.intervals is not None
    interval = found.intervals["micro_f1"]
    assert interval is not None
    assert interval.low < found.micro_f1 < interval.high


def test_a_threshold_needs_steps_on_both_sides():
    one = step_scores(["a"], [[1, -1]], [[0.9, 0.1]], ["x"])
    with pytest.raises(DataError, match=r"too few .* to hold some out.*--threshold"):
        decide(one, "held-out")
    with pytest.raises(DataError, match=r"too few .* to choose.*--threshold"):
        decide(one, "cross-fitted")
    neutral = step_scores(["a"], [[0]], [[0.9]], ["x"])
    for chosen_on in ("held-out", "cross-fitted", "fixed", "test"):
        with pytest.raises(DataError, match="no counted steps"):
            decide(neutral, chosen_on)


def test_means_over_sources_have_the_basic_interval_and_others_the_percentile():
    classes = DIMENSIONS["soundness"]
    steps = step_scores(*random_steps(np.random.default_rng(8), 120, None, classes))
    decision = Decision(0.0, "fixed")
    found = evaluation(steps, decision, replicates=100)
    whole = model_metrics(steps, decision)
    drawn = replicate(whole, steps, 100, np.random.default_rng(0))
    assert found.intervals is not None
    for name in ("micro_f1", "source_mean_f1"):
        expected = basic_interval(getattr(found, name), drawn[name])
        assert found.intervals[name] == pytest.approx(expected)
    assert found.prmbench is not None
    assert found.intervals["soundness"] == pytest.approx(
        basic_interval(found.prmbench["soundness"], drawn["soundness"])
    )
    for name in ("macro_f1_pooled", "prm_score", "aurc", "false_positive_rate"):
        assert found.intervals[name] == percentile_interval(drawn[name])


def test_draws_without_a_counted_step_are_no_failure():
    scores = [[0.9], [0.2], [0.9, 0.1], [0.4]]
    steps = step_scores(["a"] * 4, [[0], [1], [0, 0], [-1]], scores, list("wxyz"))
    found = evaluation(steps, Decision(0.3, "fixed"), replicates=200)
    assert (found.false_positive_rate, found.false_negative_rate) == (1, 1)
    assert found.intervals is not None
    assert found.intervals["false_positive_rate"] == (1, 1)


def test_the_summary_is_json_and_agrees_with_its_parts():
    steps = step_scores(*random_steps(np.random.default_rng(8), 120))
    found = evaluation(steps, Decision(0.0, "fixed"), replicates=200)
    value = found.as_json()
    assert json.loads(json.dumps(value, allow_nan=False))["steps"] == steps.n_steps
    assert found.auroc == pytest.approx(roc_auc_score(steps.correct, steps.scores))
    assert found.micro_f1 == f1_at(steps, 0.0).micro_f1
    assert found.ece is None
    for name in ("micro_f1", "auroc", "within_position_auroc", "f1_negative"):
        low, high = value["intervals"][name]
        assert low < value[name] < high
    for i, (name, of) in enumerate(value["sources"].items()):
        low, high = of["intervals"]["macro_f1"]
        assert low < value["per_source"][name] < high
        part = steps.take(np.flatnonzero(steps.source == i))
        expected = f1_at(part, 0.0).macro_f1_pooled
        assert value["per_source"][name] == pytest.approx(expected)
    assert sum(of["steps"] for of in value["sources"].values()) == steps.n_steps
    assert evaluation(steps, Decision(0.0, "fixed"), replicates=200) == found
    without = evaluation(steps, Decision(0.0, "fixed"), replicates=0).as_json()
    assert not {"intervals", "prior"} & without.keys()
    assert "intervals" not in without["sources"]["a"]
