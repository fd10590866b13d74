"""Predictions files: what is read, and what is refused in which words."""

import gzip
import json

import numpy as np
import pytest

from mprm_jax.data.scored import (
    Scored,
    columns,
    encode_prediction,
    read_benchmark,
    read_predictions,
    read_prior,
)
from mprm_jax.records.problems import DataError
from tests.raw_files import without
from tests.raw_files import write_lines as write

GOOD = {"data_source": "a", "labels_per_step": [1, -1, 0], "prm_scores": [0.9, 0.2, 0]}


def nested(labels, scores, **fields):
    judged = {"labels_per_step": labels, "prm_scores": scores}
    return {"data_source": "b"} | judged | fields


def test_lines_and_a_list_are_the_same_file(tmp_path):
    records = [GOOD, nested([1], [7], id="x"), nested([[1, 0], [-1]], [[1, 2], [3]])]
    lines = write(tmp_path / "p.jsonl", *records)
    whole = tmp_path / "p.json"
    whole.write_text("\n " + json.dumps(records, indent=1))
    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    rows = read_predictions(lines)
    assert rows == read_predictions(whole) == read_predictions(packed)
    assert [row.record for row in rows] == [1, 2, 3, 3]
    assert [row.id for row in rows] == ["record 1", "x", "record 3", "record 3"]
    steps = columns(rows)
    assert steps.scores.tolist() == [0.9, 0.2, 7, 1, 3]
    assert steps.correct.tolist() == [True, False, True, True, False]
    assert steps.rollout.tolist() == [0, 0, 1, 2, 3]


def test_one_nested_list_needs_no_nested_labels(tmp_path):
    row = read_predictions(write(tmp_path / "p", nested([1, -1], [[0.5, 0.25]])))
    assert (row[0].labels, row[0].scores) == ((1, -1), (0.5, 0.25))


def test_what_is_written_is_read_back(tmp_path):
    rows = read_predictions(write(tmp_path / "p", {**GOOD, "truncated": 2, "id": "é"}))
    assert rows[0].truncated == 2
    (tmp_path / "q").write_bytes(b"".join(map(encode_prediction, rows)))
    assert read_predictions(tmp_path / "q") == rows


FIRST = {"id": "gsm8k-7", "problem": "q", "steps": ["a", "b", "c"], "label": 1}
PAIR = {
    "modified_process": ["a", "c"],
    "original_process": ["a", "b", "d"],
    "error_steps": [2],
    "question": "q",
    "classification": "circular",
}


@pytest.mark.parametrize("name", Scored.__struct_fields__)
def test_scores_beside_a_benchmark_are_read_under_every_name(name, tmp_path):
    (row,) = read_predictions(write(tmp_path / "p", FIRST | {name: [0.5, 0.25, 2]}))
    assert (row.data_source, row.labels) == ("gsm8k", (1, -1, 0))
    assert (row.scores, row.truncated) == ((0.5, 0.25, 2), 0)
    renamed = {name: GOOD["prm_scores"]} | without(GOOD, "prm_scores")
    first, again = read_predictions(write(tmp_path / "q", GOOD, renamed))
    assert first.scores == again.scores
    # A single score is none of its steps; the first name goes before all others.
    write(tmp_path / "r", GOOD | {"prm_score": 0.5, "rewards": [1], "scores": None})
    assert read_predictions(tmp_path / "r")[0].scores == first.scores


def test_scores_are_those_of_the_first_solution_or_of_all(tmp_path):
    inside = {"scores": {"step_level_validity_scores": [1, 2], "other": 3}}
    lists = {"scores": [[1, 2], [3, 4, 5]]}
    path = write(tmp_path / "p.jsonl", PAIR | inside, PAIR | lists)
    rows = read_predictions(path)
    assert [(row.data_source, row.scores, row.truncated) for row in rows] == [
        ("circular", (1, 2), 0),
        ("correct", (), 3),
        ("circular", (1, 2), 0),
        ("correct", (3, 4, 5), 0),
    ]
    # The id is that of what was judged, as a checkpoint's scores have it.
    assert [row.id for row in rows] == [one.id for one in read_benchmark(path)]


def test_a_folder_is_one_file(tmp_path):
    write(tmp_path / "b.jsonl", without(FIRST, "id") | {"scores": [1, 2, 3]})
    write(tmp_path / "a.jsonl", GOOD, GOOD)
    rows = read_predictions(tmp_path)
    assert [(row.record, row.data_source) for row in rows] == [
        (1, "a"),
        (2, "a"),
        (3, "b"),
    ]


BAD = {
    "too few beside": (FIRST | {"scores": [1, 2]}, "3 steps, 2 scores"),
    "none beside": (FIRST, "no scores: no list under any of prm_scores, scores, "),
    "two names": (
        FIRST | {"scores": [1, 2, 3], "rewards": [1, 2, 4]},
        "two keys hold scores: scores and rewards",
    ),
    "three for two": (PAIR | {"scores": [[1, 2], [1], [1]]}, "2 solutions, scores of"),
    "text beside": (FIRST | {"scores": ["1", 2, 3]}, "got `str` - at `$.scores[0]`"),
    "null beside": (FIRST | {"rewards": [1, None, 3]}, "`$.rewards[1]`"),
    "object beside": (
        FIRST | {"scores": {"step_level_validity_scores": ["x", 1, 1]}},
        "`$.scores[0]`",
    ),
    "one picture key": (FIRST | {"scores": [1, 2, 3], "image_url": "a"}, "image_url"),
    "fewer scores": (
        nested([1, -1, 0], [0.9, 0.2]),
        "labels and scores differ in number: 3 labels_per_step, 2 prm_scores",
    ),
    "fewer responses": (
        nested([1, -1], [[0.9], [0.2]]),
        "labels of 1 responses, scores of 2",
    ),
    "NaN": (nested([1, 1], [0.5, float("nan")]), "score is not finite: step 2 has nan"),
    "infinity": (nested([1], [float("inf")]), "score is not finite: step 1 has inf"),
    "label 2": (nested([1, 2], [0, 0]), "label is not 1, -1 or 0: step 2 has 2"),
    "label 0.5": (nested([0.5], [0]), "label is not 1, -1 or 0: step 1 has 0.5"),
    "label true": (nested([True], [0]), "got `bool` - at `$.labels_per_step[0]`"),
    "score null": (nested([1], [None]), "got `null` - at `$.prm_scores[0]`"),
    "score text": (nested([1], ["0.5"]), "got `str` - at `$.prm_scores[0]`"),
    "no source": ({**GOOD, "data_source": None}, "`$.data_source`"),
    "no labels": ({"data_source": "a", "prm_scores": [1]}, "no labels_per_step and"),
    "mixed": (nested([1, [1]], [0, 0]), "give one list per response"),
    "deep": (nested([1], [[[1]]]), "got `array`"),
    "truncated": (json.dumps(GOOD)[:-9], "truncated line"),
    "number": ("17", "got `int`"),
    "surrogate": ({**GOOD, "data_source": "\ud800"}, "lone surrogate"),
    "huge": (json.dumps(nested([1], [0])).replace("[0]", "[1e999]"), "out of range"),
    "two": (json.dumps(GOOD) * 2, "two records on one line"),
    "hostile depth": ("[" * 3, "neither JSON lines nor a JSON array"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_refused_by_its_number(name, tmp_path):
    record, words = BAD[name]
    before = [] if name == "hostile depth" else [GOOD, ""]
    path = write(tmp_path / "p.jsonl", *before, record)
    with pytest.raises(DataError) as error:
        read_predictions(path)
    message = str(error.value)
    assert words in message
    assert "\n" not in message
    assert message.startswith(f"{path}:3: record 2: " if before else f"{path}: ")


def test_a_record_of_a_list_is_named_too(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([GOOD, GOOD, nested([1], [])]))
    with pytest.raises(DataError, match="record 3: labels and scores differ"):
        read_predictions(path)


@pytest.mark.parametrize("content", ["", "\n \n", "[]", " [ ] "])
def test_an_empty_file_is_refused(content, tmp_path):
    (tmp_path / "p").write_text(content)
    with pytest.raises(DataError, match="holds no record"):
        read_predictions(tmp_path / "p")


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_predictions(tmp_path / "p")
    with pytest.raises(DataError, match="holds no"):
        read_predictions(tmp_path)


def test_a_prior_goes_to_the_judged_steps_of_its_record(tmp_path):
    rows = read_predictions(
        write(tmp_path / "p", GOOD, nested([[1], [0, -1]], [[0], [0, 0]]), GOOD)
    )
    truth = write(tmp_path / "t", {"h": 0.25}, {"h": 2}, {"h": [5, 6, 7]})
    assert read_prior(truth, "h", rows).tolist() == [0.25, 0.25, 2, 2, 5, 6]
    assert read_prior(truth, "h", rows).dtype == np.float64


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([{"h": 1}], "1 records where the scores have 2"),
        ([{"h": 1}] * 3, "3 records where the scores have 2"),
        ([{"h": 1}, {"g": 1}], "record 2: no usable field 'h'"),
        (['{"h": 1}', '{"h": NaN}'], "record 2: no usable field 'h'"),
        ([{"h": 1}, {"h": [1, 2]}], "record 2: 'h' is neither a number nor one for"),
        ([{"h": "low"}, {"h": 1}], "record 1: 'h' is neither a number"),
        ([{"h": True}, {"h": 1}], "record 1: 'h' is neither a number"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused(records, words, tmp_path):
    rows = read_predictions(write(tmp_path / "p", GOOD, GOOD))
    with pytest.raises(DataError, match=words):
        read_prior(write(tmp_path / "t", *records), "h", rows)
