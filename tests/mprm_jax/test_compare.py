"""Two models on the same steps: what matches, and whether intervals cover."""

import math

import numpy as np
import pytest

from mprm_jax.compare import Scores, Unmatched, compare, decide_both, match
from mprm_jax.data.scored import Prediction, columns
from mprm_jax.decision import Decision, ThresholdChoice, decide
from mprm_jax.records.problems import DataError
from mprm_jax.summary import evaluation
from tests.judged_steps import random_steps
from theory.intervals import holm


def predictions(rows, name="id {}"):
    """One a record."""
    return [
        Prediction(source, tuple(labels), tuple(scores), name.format(i), i)
        for i, (source, labels, scores, _) in enumerate(zip(*rows, strict=True), 1)
    ]


def other_scores(rows, rng):
    """Another model's of the same."""
    return (*rows[:2], [rng.normal(size=len(of)).tolist() for of in rows[2]], rows[3])


RNG = np.random.default_rng(0)
ROWS = random_steps(RNG, 120)
ONE, OTHER = predictions(ROWS), predictions(other_scores(ROWS, RNG))


def found(one, other, chosen_on: ThresholdChoice = "held-out", replicates=100):
    matched = match(Scores("A", one), Scores("B", other))
    return matched, compare(decide_both(matched, chosen_on), replicates)


def test_metrics_are_those_of_each_evaluation_and_differences_theirs():
    order = RNG.permutation(len(OTHER)).tolist()
    matched, compared = found(ONE, [OTHER[i] for i in order])
    assert (matched.by, len(matched.first)) == ("id", 120)
    evaluated = []
    for rows in (ONE, OTHER):
        steps = columns(rows)
        decision, left = decide(steps, "held-out")
        evaluated.append(evaluation(steps.take(left), decision, replicates=0))
    for name, of in compared.metrics.items():
        expected = [
            one.processbench.f1 if name == "processbench_f1" else getattr(one, name)
            for one in evaluated
        ]
        assert [of.first, of.second] == pytest.approx(expected)
        assert of.difference == pytest.approx(expected[1] - expected[0])
        low, high = of.interval or (0, 0)
        assert low < expected[1] - expected[0] < high
    ps = [of.p for of in compared.metrics.values() if of.p is not None]
    adjusted = [of.adjusted_p for of in compared.metrics.values()]
    assert adjusted == holm(ps)
    by_source = compared.sources["b"]
    assert by_source["micro_f1"].second == pytest.approx(evaluated[1].per_source["b"])
    every = [of for source in compared.sources.values() for of in source.values()]
    known = [of for of in every if of.p is not None]
    assert [of.adjusted_p for of in known] == holm([of.p or 0.0 for of in known])
    assert len(known) > 15


def test_prm_scores_are_compared_over_all_classes_of_error():
    names = {"a": "circular", "b": "confidence", "c": "deception"}
    pair = [
        [changed(row, data_source=names[row.data_source]) for row in rows]
        for rows in (ONE, OTHER)
    ]
    compared = found(pair[0], pair[1], "fixed")[1]
    expected = evaluation(columns(pair[1]), Decision(0.5, "fixed"), replicates=0)
    assert expected.prmbench is not None
    assert compared.metrics["prm_score"].second == expected.prmbench["prm_score"]
    assert "prm_score" not in compared.sources["circular"]
    assert "prm_score" not in found(ONE, OTHER, "fixed")[1].metrics


def test_a_model_does_not_differ_from_itself():
    _, compared = found(ONE, ONE, "test")
    of_sources = [of for one in compared.sources.values() for of in one.values()]
    for of in (*compared.metrics.values(), *of_sources):
        assert of.difference == 0
        assert of.interval == (0, 0)
        assert of.adjusted_p == 1


def test_records_without_ids_are_matched_by_their_number():
    nameless = predictions(ROWS, "record {}")
    matched, _ = found(nameless, OTHER)
    assert matched.by == "number"
    assert matched.second[5].scores == OTHER[5].scores
    # The same are held out for both, whatever the one's ids are.
    compared = found(nameless, ONE)[1]
    assert compared.thresholds[0] == compared.thresholds[1]
    assert all(of.interval == (0, 0) for of in compared.metrics.values())
    # Sources are the first's, whatever the other calls them.
    renamed = [changed(row, data_source="z") for row in OTHER]
    assert found(ONE, renamed)[1] == found(ONE, OTHER)[1]


def changed(row, **values):
    return Prediction(**{f: getattr(row, f) for f in row.__struct_fields__} | values)


FIRST = changed(ONE[0], labels=(1,) * len(ONE[0].labels))


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ([*ONE[:2], changed(ONE[2], id="id 1"), *ONE[3:]], "B: record 3: "),
        ([changed(ONE[0], labels=(0,) * len(ONE[0].labels)), *ONE[1:]], "B: record 1"),
        ([*ONE, changed(ONE[0], scores=ONE[1].scores, labels=(), record=121)], "121"),
        ([FIRST, *ONE[1:9], changed(ONE[9], truncated=1), *ONE[10:]], "B: record 10: "),
        ([changed(row, id=f"other {i}") for i, row in enumerate(ONE)], "A: record 1: "),
    ],
)
def test_what_does_not_match_is_refused_with_its_place(other, where):
    one = [FIRST, *ONE[1:]]
    with pytest.raises(DataError, match=where):
        match(Scores("A", one), Scores("B", other))


def test_what_one_lacks_is_refused_or_left_out():
    cut = changed(ONE[9], labels=ONE[9].labels[:1], scores=ONE[9].scores[:1])
    n = len(ONE[9].labels)
    assert n > 1
    fewer = [*ONE[5:9], changed(cut, truncated=n - 1), *ONE[10:]]
    for pair in ((ONE, fewer), (fewer, ONE), ([ONE[9]], [fewer[4]])):
        with pytest.raises(Unmatched, match=r"[AB]: record "):
            match(Scores("A", pair[0]), Scores("B", pair[1]))
    matched = match(Scores("A", ONE), Scores("B", fewer), common=True)
    assert (matched.only_first, matched.only_second) == (5, 0)
    assert matched.steps_cut == n - 1
    assert [row.labels for row in matched.first] == [row.labels for row in fewer]
    assert matched.first[4].truncated == n - 1
    with pytest.raises(DataError, match="no response in common"):
        match(Scores("A", ONE[:3]), Scores("B", ONE[3:]), common=True)


def test_records_that_say_the_same_twice_count_once():
    again = changed(OTHER[0], record=121)
    matched = match(Scores("A", ONE), Scores("B", [*OTHER, again]))
    assert (matched.repeats, len(matched.second)) == (1, 120)


def test_the_paired_interval_covers_the_difference():
    # Both models see the step and a term of the rollout that they share. N(1, 3/2)
    # over N(0, 3/2) has AUROC Phi(1 / sqrt 3), N(1, 5/4) over N(0, 5/4) another.
    truth = _phi(1 / 2.5**0.5) - _phi(1 / 3**0.5)
    covered, widths = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        correct = rng.random((100, 4)) < 0.5
        shared = rng.normal(size=(100, 1)) * 0.5**0.5
        models = [
            correct + shared + rng.normal(size=(100, 4)) * noise**0.5
            for noise in (1.0, 0.75)
        ]
        pair = [
            predictions(
                (
                    ["a"] * 100,
                    np.where(correct, 1, -1).tolist(),
                    scores.tolist(),
                    [str(i) for i in range(100)],
                )
            )
            for scores in models
        ]
        of = found(pair[0], pair[1], "fixed", replicates=150)[1].metrics["auroc"]
        assert of.interval is not None
        covered += of.interval.low <= truth <= of.interval.high
        widths.append(of.interval.high - of.interval.low)
    assert 53 <= covered <= 60
    assert np.mean(widths) < 0.12


def _phi(x):
    return (1 + math.erf(x / 2**0.5)) / 2
