"""Best-of-N: aggregates, expectation over ties, exact bounds, candidate files."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from mprm_jax.data.answers import same_answer
from mprm_jax.data.scored import read_candidates
from mprm_jax.evaluate import Scoring, score_candidates
from mprm_jax.records.problems import DataError
from mprm_jax.records.record import image_root
from mprm_jax.rerank import (
    AGGREGATES,
    Choosing,
    aggregate,
    best_of_n,
    encode_scored,
    replicate_accuracy,
)
from tests.mprm_jax.stub_model import StubModel
from tests.raw_files import png
from tests.raw_files import write_lines as write

PARAMS = StubModel().init(jax.random.key(0))


def scored(*candidates, **fields):
    """A problem whose candidates are (correct, scores)."""
    return {
        "candidates": [{"correct": c, "prm_scores": list(s)} for c, s in candidates]
    } | fields


def result(path, *problems, **options):
    sets = read_candidates(write(path, *problems), scored=True)
    return best_of_n(sets, Choosing(**options))


def test_aggregates_by_hand():
    scores = (0.5, 0.25, 0.75)
    assert aggregate(scores, "mean") == (0.5,)
    assert aggregate(scores, "min") == (0.25,)
    assert aggregate(scores, "last") == (0.75,)
    assert math.exp(aggregate(scores, "product")[0]) == pytest.approx(0.09375)
    assert aggregate((0.5, 0.0), "product") == (-math.inf,)
    assert aggregate(scores, "first_error") == (1 / 3, 0.5)
    assert aggregate(scores, "first_error", 0.25) == (1, 0.5)
    assert aggregate((-3.0, 2.0), "first_error", 0.0) == (0, -0.5)
    with pytest.raises(ValueError, match="outside"):
        aggregate((0.5, 1.5), "product")


@pytest.mark.parametrize("how", ["mean", "min", "product"])
def test_the_order_of_steps_makes_no_tie_of_equals_and_no_winner_of_ties(how):
    scores = (0.1, 0.7, 0.3, 0.9, 0.2)
    assert len({aggregate(p, how) for p in itertools.permutations(scores)}) == 1


def test_a_product_of_many_steps_does_not_underflow():
    assert aggregate([0.1] * 400, "product") > aggregate([0.1] * 401, "product")


def test_each_aggregate_chooses_its_own_candidate(tmp_path):
    value = result(
        tmp_path / "c",
        scored(
            (True, [1.0, 0.25, 1.0, 0.75]),  # best mean, with the third
            (False, [0.625, 0.625]),  # best at nothing
            (False, [0.75]),  # best mean, min and product
            (False, [0.78125, 0.78125, 0.625]),  # best at nothing either
            (True, [0.125, 0.875]),  # best last
        ),
        replicates=0,
    )
    # First error: all but the second pass half of their steps at .5; then the mean.
    assert [value.accuracy[how] for how in AGGREGATES] == [0.5, 0.0, 0.0, 1.0, 0.0]
    assert value.tied == dict.fromkeys(AGGREGATES, 0) | {"mean": 1}
    assert (value.accuracy["random"], value.accuracy["pass_at_n"]) == (0.4, 1.0)


def test_random_and_pass_at_n_are_what_enumeration_gives(tmp_path):
    rng = np.random.default_rng(0)
    problems = [
        scored(*((bool(rng.random() < 0.3), [0.5]) for _ in range(n)))
        for n in rng.integers(1, 9, 60)
    ]
    value = result(tmp_path / "c", *problems, replicates=0)
    right = [[one["correct"] for one in of["candidates"]] for of in problems]
    chance = np.mean([np.mean(of) for of in right])
    assert value.accuracy["random"] == pytest.approx(chance)
    assert value.accuracy["pass_at_n"] == np.mean([any(of) for of in right])
    # All scores equal: choosing is chance, whatever the aggregate.
    for how in AGGREGATES:
        assert value.accuracy[how] == pytest.approx(chance)
        assert value.gain[how] == pytest.approx(0)
        assert value.tied[how] == sum(0 < sum(of) < len(of) for of in right)
    assert value.candidates == (1, 8)


def test_intervals_resample_problems_within_their_sources(tmp_path):
    # Source a is always right, b a coin: only b's problems vary.
    a = [scored((True, [0.9]), data_source="a") for _ in range(100)]
    b = [scored((i % 2 == 0, [0.9]), data_source="b") for i in range(100)]
    value = result(tmp_path / "c", *a, *b, replicates=2000)
    assert value.intervals is not None
    error = 0.5 * (0.25 / 100) ** 0.5
    assert value.intervals.accuracy["mean"] == pytest.approx(
        (0.75 - 1.96 * error, 0.75 + 1.96 * error), abs=0.01
    )
    assert value.intervals.gain["mean"] == pytest.approx((0, 0), abs=1e-12)
    of_a, of_b = value.per_source["a"], value.per_source["b"]
    assert (of_a[0]["mean"], of_a[1], of_b[1]) == (1, 100, 100)
    assert set(of_b[0].values()) == {0.5}


def test_logits_have_no_product(tmp_path):
    value = result(tmp_path / "c", scored((True, [3.0]), (False, [-2.0])))
    assert "product" not in value.accuracy | value.tied | value.gain
    assert "weighted_majority" not in value.accuracy
    told = json.loads(json.dumps(value.as_json(), allow_nan=False))
    assert (told["product"], told["mean"]) == (None, 1)
    assert "product" not in told["intervals"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (" B", "b ", True),
        ("0.50", ".5", True),
        ("1e2", "100", True),
        ("12", "1 2", False),
        ("1/2", "0.5", False),
        ("nan", "NaN", True),
        ("snan", "1", False),
        ("inf", "infinity", False),
        ("1e999999999", "2e999999999", False),
    ],
)
def test_answers_are_the_same_text_or_number(one, other, same):
    assert same_answer(one, other) is same


def test_votes_by_hand(tmp_path):
    """Two of three votes are for 7; the right 8 weighs more than both; one is silent,
    and it is the best.
    """
    candidates = [
        {"answer": "7", "prm_scores": [0.2]},
        {"answer": "8", "prm_scores": [1.0, 0.6]},
        {"answer": "7.0", "prm_scores": [0.5]},
        {"answer": None, "prm_scores": [1.0]},
    ]
    # Who is told to be right is not counted as wrong for want of an answer.
    told = {"candidates": [candidates[3] | {"correct": True}]}
    assert result(tmp_path / "c", told, replicates=0).unanswered == 0
    value = result(tmp_path / "c", {"answer": 8, "candidates": candidates})
    assert value.accuracy["majority"] == 0
    assert value.accuracy["weighted_majority"] == 1
    assert (value.accuracy["mean"], value.accuracy["random"]) == (0, 0.25)
    assert (value.unanswered, value.answers_unknown) == (1, 0)
    assert value.gain_over_majority["weighted_majority"] == 1
    # Of two: 8 wins its pair with each 7 by weight, and with the silent one alone.
    assert value.sizes == [1, 2, 4]
    assert value.curve["weighted_majority"] == pytest.approx([1 / 4, 3 / 6, 1])
    assert value.curve["majority"] == pytest.approx([1 / 4, (1 + 2 / 2) / 6, 0])
    assert value.curve["pass_at_n"] == pytest.approx([1 / 4, 1 / 2, 1])


def test_who_is_only_told_right_or_wrong_does_not_vote(tmp_path):
    value = result(tmp_path / "c", scored((True, [0.9]), (False, [0.2])))
    assert value.answers_unknown == 2
    assert not {"majority", "weighted_majority"} & value.accuracy.keys()
    assert value.gain_over_majority == {}
    assert value.as_json()["majority"] is None


def test_a_curve_ends_at_the_choice_among_all(tmp_path):
    rng = np.random.default_rng(1)
    problems = [
        {
            "answer": "0",
            "candidates": [
                {"answer": str(rng.integers(3)), "prm_scores": list(rng.random(2))}
                for _ in range(rng.integers(3, 7))
            ],
        }
        for _ in range(20)
    ]
    sets = read_candidates(write(tmp_path / "c", *problems), scored=True)
    found = best_of_n(sets, Choosing(replicates=50))
    assert (found.candidates, found.sizes) == ((3, 6), [1, 2, 4, 6])
    for how, accuracy in found.accuracy.items():
        assert found.curve[how][-1] == accuracy
        assert found.curve[how][0] == pytest.approx(found.accuracy["random"])
    assert found.intervals is not None
    assert found.intervals.curve["mean"][-1] == found.intervals.accuracy["mean"]
    alone = best_of_n(sets, Choosing(curve=False, replicates=0))
    assert (alone.sizes, alone.accuracy) == ([6], found.accuracy)
    other = best_of_n(sets, Choosing(replicates=50, seed=1))
    assert other.intervals != found.intervals
    drawn = replicate_accuracy(sets, "mean", 50)
    assert drawn.mean() == pytest.approx(found.accuracy["mean"], abs=0.05)
    assert len(set(drawn)) > 10


def test_mathematics_decides_what_is_right_and_who_votes_together(tmp_path):
    pytest.importorskip("math_verify")
    candidates = [{"answer": of, "prm_scores": [0.5]} for of in ("1/2", "0.5", "2")]
    problem = {"answer": r"\frac12", "candidates": candidates}
    path = write(tmp_path / "c", problem)
    (text,) = read_candidates(path, scored=True)
    (math_rule,) = read_candidates(path, scored=True, answers="math")
    assert [one.correct for one in text.candidates] == [False] * 3
    assert [one.correct for one in math_rule.candidates] == [True, True, False]
    assert math_rule.classes == (0, 0, 1)


def test_answers_decide_where_correct_does_not(tmp_path):
    problem = {
        "question": "?",
        "answer": 3,
        "candidates": [
            {"steps": ["x"], "answer": "3.0"},
            {"steps": ["x"], "answer": "4"},
            {"steps": ["x"], "answer": "4", "correct": True},
            {"steps": ["x"], "answer": "3", "correct": 0},
        ],
    }
    (found,) = read_candidates(write(tmp_path / "c", problem), scored=False)
    assert [one.correct for one in found.candidates] == [True, False, True, False]


TEXT = {"steps": ["x"], "correct": True}


def beliefs(scores, concentrations, **fields):
    one = {"prm_scores": scores, "prm_concentrations": concentrations}
    return {"candidates": [TEXT | one | fields]}


@pytest.mark.parametrize("key", ["image", "images", "image_path", "image_paths"])
def test_pictures_of_candidates_are_read_under_every_key(key, tmp_path):
    problem = {"question": "<image>\n?", "candidates": [TEXT | {"rewards": [0.5]}]}
    path = write(tmp_path / "c", problem | {key: ["0.png"]})
    for scored_too in (False, True):
        (found,) = read_candidates(path, scored=scored_too)
        assert (found.question, found.images) == ("?", ("0.png",))
    assert found.candidates[0].scores == (0.5,)


@pytest.mark.parametrize(
    ("problem", "has_scores", "words"),
    [
        (scored(), True, "no candidates"),
        (scored((True, [])), True, "no scores: candidate 1"),
        (scored((True, [0.5]), (True, [math.nan])), True, "score is not finite"),
        ({"candidates": [{"prm_scores": [1]}]}, True, "the problem has"),
        ({"candidates": [{"prm_scores": [1], "answer": 1}]}, True, "the problem has"),
        ({"candidates": [{"prm_scores": [1], "correct": 2}]}, True, "true or false"),
        ({"candidates": [{**TEXT, "prm_scores": [1, 2]}]}, True, "1 steps, 2 scores"),
        ({"candidates": [TEXT]}, False, "question missing"),
        ({"question": "?", "candidates": [{"correct": True}]}, False, "no steps: cand"),
        ({"question": "?", "candidates": [TEXT | {"steps": [" "]}]}, False, "empty st"),
        ({"question": "?", "candidates": [TEXT | {"steps": ["<prm>"]}]}, False, "mark"),
        ({"question": "?", "image": "../x", "candidates": [TEXT]}, False, "unsafe"),
        ({"question": "?", "candidates": 7}, False, "not a candidates record"),
        ({"question": "?", "img": "0.png", "candidates": [TEXT]}, False, "'img' is"),
        ({"candidates": [TEXT | {"scores": [[1], [2]]}]}, True, "not one list"),
        (beliefs([0.5], [1, 2]), True, "1 scores, 2 prm_concentrations"),
        (beliefs([0.5], [0]), True, "not positive and finite: candidate 1"),
        (beliefs([0.5], [math.inf]), True, "not positive and finite"),
        (beliefs([1.5], [2]), True, r"outside \[0, 1\]"),
        (beliefs([0.5], [2], tokens=-1), True, "not a candidates record"),
        (beliefs([0.5], [2], truncated=-1), True, "not a candidates record"),
    ],
)
def test_bad_candidates_are_refused_by_record(problem, has_scores, words, tmp_path):
    good = {"question": "?", "candidates": [{**TEXT, "prm_scores": [1]}]}
    path = write(tmp_path / "c.jsonl", good, problem)
    with pytest.raises(DataError, match=words) as error:
        read_candidates(path, scored=has_scores)
    assert str(error.value).startswith(f"{path}:2: record 2: ")


def test_a_model_scores_every_candidate_in_its_place(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    problems = [
        {
            "question": f"question {i}",
            "image": "0.png",
            "data_source": "a",
            "candidates": [
                {"steps": [f"step {j} of {k}" for j in range(1 + k)], "correct": k == i}
                for k in range(3)
            ],
        }
        for i in range(3)
    ]
    path = write(tmp_path / "c.jsonl", *problems)
    sets = read_candidates(path, scored=False)
    root = image_root(path, sets[0].images)
    found = score_candidates(StubModel(), PARAMS, sets, root, Scoring(2))
    assert [[len(one.scores or ()) for one in of.candidates] for of in found] == [
        [1, 2, 3]
    ] * 3
    (alone,) = score_candidates(StubModel(), PARAMS, sets[2:], root, Scoring(2))
    for one, other in zip(found[2].candidates, alone.candidates, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
        assert one.correct == other.correct
    # The stub's row of the log concentration is not zero.
    for one, steps in zip(found[2].candidates, (1, 2, 3), strict=True):
        assert len(one.concentrations or ()) == steps
        assert min(one.concentrations or ()) > 0
    # What is written gives the same result when it is read again.
    (tmp_path / "s.jsonl").write_bytes(b"".join(map(encode_scored, found)))
    again = read_candidates(tmp_path / "s.jsonl", scored=True)
    assert best_of_n(again) == best_of_n(found)
    for of, same in zip(again, found, strict=True):
        assert (of.id, of.classes) == (same.id, same.classes)
        for one, other in zip(of.candidates, same.candidates, strict=True):
            assert (one.scores, one.words) == (other.scores, other.words)
            assert one.concentrations == other.concentrations


def test_what_is_written_of_a_candidate_is_read_again(tmp_path):
    given = {"prm_concentrations": [2.0], "tokens": 7, "words": 3, "truncated": 2}
    some = [{"answer": "1", "prm_scores": [0.5]} | given, {"prm_scores": [0.25]}]
    problem = {"id": "p", "data_source": "s", "answer": "1", "candidates": some}
    (one,) = read_candidates(write(tmp_path / "c", problem), scored=True)
    # Texts may be there of the steps that did not fit, too.
    some[0] |= {"steps": ["a", "b", "c"]}
    (texts,) = read_candidates(write(tmp_path / "c", problem), scored=True)
    assert texts.candidates[0].scores == one.candidates[0].scores
    (tmp_path / "s").write_bytes(encode_scored(one))
    (again,) = read_candidates(tmp_path / "s", scored=True)
    assert again.candidates == one.candidates
    assert (again.id, again.source, again.classes) == (one.id, one.source, one.classes)


def test_a_row_that_was_never_trained_gives_no_concentrations(tmp_path):
    head = PARAMS["head"]
    silent = PARAMS | {"head": head | {"kernel": head["kernel"].at[:, 2].set(0)}}
    (tmp_path / "0.png").write_bytes(png())
    problem = {"question": "?", "image": "0.png", "candidates": [TEXT]}
    sets = read_candidates(write(tmp_path / "c", problem), scored=False)
    (found,) = score_candidates(StubModel(), silent, sets, tmp_path, Scoring(2))
    assert found.candidates[0].concentrations is None
    assert b"concentrations" not in encode_scored(found)


def test_a_long_candidate_is_judged_by_what_fits(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    candidate = {"steps": ["a step of thirty-odd letters, or so"] * 3, "correct": True}
    problem = {"question": "?", "image": "0.png", "candidates": [candidate]}
    path = write(tmp_path / "c", problem)
    sets = read_candidates(path, scored=False)
    found = score_candidates(
        StubModel(max_length=80), PARAMS, sets, tmp_path, Scoring(2)
    )
    assert len(found[0].candidates[0].scores or ()) == 2
    assert best_of_n(found).steps_truncated == 1
    with pytest.raises(DataError, match="candidate 1: not one step fits the model"):
        score_candidates(StubModel(max_length=10), PARAMS, sets, tmp_path, Scoring(2))
