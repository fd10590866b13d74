"""`mprm rerank` as a user meets it."""

import re
import sys

import pytest

from tests.cli import run
from tests.raw_files import write_lines, write_pictures

SCORED = [
    {
        "data_source": "ab"[i % 2],
        "candidates": [
            {"correct": k == 0, "prm_scores": [0.9 if k == i % 3 else 0.2, 0.5]}
            for k in range(4)
        ],
    }
    for i in range(12)
]


def test_scores_of_any_model_can_be_judged(tmp_path, capsys):
    path = write_lines(tmp_path / "c.jsonl", *SCORED)
    value = run(capsys, "rerank", "--predictions", path, "--json").json
    # The right one has the best mean in every third problem; the last steps all tie.
    assert value["mean"] == pytest.approx(1 / 3)
    assert value["last"] == value["random"] == pytest.approx(1 / 4)
    assert value["pass_at_n"] == 1
    assert (value["problems"], value["candidates"]) == (12, [4, 4])
    assert value["tied"]["last"] == 12
    assert value["repeated"] == 0
    write_lines(path, *SCORED, *(problem | {"id": 0} for problem in SCORED))
    value = run(capsys, "rerank", "--predictions", path, "--json").json
    assert (value["repeated"], len(value["notes"])) == (11, 3)


def test_the_threshold_and_the_seed_are_those_that_are_given(tmp_path, capsys):
    late, early = [0.6, 0.6, 0.1], [0.4, 0.4, 0.9]
    some = [{"correct": False, "prm_scores": late}, {"correct": True}]
    some[1] |= {"prm_scores": early}
    path = write_lines(tmp_path / "c.jsonl", {"candidates": some}, *SCORED)
    given = "--predictions", path, "--json", "--replicates=9"
    usual = run(capsys, "rerank", *given).json
    other = run(capsys, "rerank", *given, "--threshold=.05", "--seed=1").json
    assert other["first_error"] == pytest.approx(usual["first_error"] + 1 / 13)
    assert other["mean"] == usual["mean"]
    ends = [value["intervals"]["curve"]["mean"] for value in (usual, other)]
    assert ends[0] != ends[1]


def test_the_table_fits_80_columns(tmp_path, capsys):
    path = write_lines(tmp_path / "c.jsonl", *SCORED)
    done = run(capsys, "rerank", "--predictions", path)
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert "in up to 12 problems (by best last)" in " ".join(done.out.split())
    # Of more than eight numbers of candidates, the last eight.
    many = {"candidates": SCORED[0]["candidates"] * 33}
    done = run(capsys, "rerank", "--predictions", write_lines(path, many))
    assert "N =      2      4 " in done.out
    assert "132\n" in done.out


def test_a_checkpoint_scores_candidates(stub, tmp_path, capsys):
    write_pictures(tmp_path / "images", 1)
    problems = [
        {
            "question": f"what is {i}?",
            "image": "0.png",
            "answer": "7",
            "candidates": [
                {"steps": [f"so {k}", f"it is {j}" * k], "answer": ["7", "8", None][j]}
                for j, k in enumerate((1, 2, 3))
            ],
        }
        for i in range(4, 10)
    ]
    path = write_lines(tmp_path / "c.jsonl", *problems)
    output = tmp_path / "out" / "scored.jsonl"
    given = f"--checkpoint={tmp_path}", f"--candidates={path}", f"--output={output}"
    page = tmp_path / "p.html"
    done = run(capsys, "rerank", *given, "--adaptive", f"--page={page}", "--json")
    assert done.status == 0, done.err
    value = done.json
    # The stub is of no update; a method of what tells so is no update either.
    judged = re.search("Judged:.*parameters", page.read_text())
    assert judged is not None
    assert "update" not in judged[0]
    assert value.pop("page") == str(page)
    assert value["random"] == pytest.approx(1 / 3)
    assert value["unanswered"] == 6
    assert value.pop("predictions") == str(output)
    assert value.pop("judged")["folder"] == str(tmp_path)
    assert value["adaptive"]["unit"] == "words"
    again = run(capsys, "rerank", "--predictions", output, "--adaptive", "--json")
    assert again.json == value


@pytest.mark.parametrize("blank", [{"answer": None}, {"answer": " "}, {}])
def test_a_candidate_without_an_answer_is_wrong_and_counted(blank, tmp_path, capsys):
    right = {"steps": ["a"], "answer": "4", "prm_scores": [0.9]}
    none = {"steps": ["c"], "prm_scores": [0.3]} | blank
    problem = {"question": "q", "answer": "4", "candidates": [right, none]}
    path = write_lines(tmp_path / "d.jsonl", problem)
    done = run(capsys, "rerank", "--predictions", path, "--json")
    assert done.status == 0, done.err
    assert (done.json["mean"], done.json["random"]) == (1, 0.5)
    assert done.json["unanswered"] == 1
    assert "without an answer" in run(capsys, "rerank", "--predictions", path).out
    # Nobody can be told right or wrong by a problem that has no answer.
    for nothing in ({"answer": None}, {"answer": ""}):
        write_lines(path, problem | nothing)
        failed = run(capsys, "rerank", "--predictions", path)
        assert (failed.status, f"{path}:1: " in failed.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--predictions=nowhere"], "nowhere: no such file"),
        (["--checkpoint=c", "--candidates=nowhere"], "nowhere: no such file"),
    ],
)
def test_failures_are_one_line(arguments, words, capsys):
    failed = run(capsys, "rerank", *arguments)
    assert failed.status == 1
    assert words in failed.err
    assert failed.err.count("\n") == 1


def test_texts_alone_are_no_scores(tmp_path, capsys):
    problem = {"question": "?", "candidates": [{"steps": ["x"], "correct": True}]}
    path = write_lines(tmp_path / "c.jsonl", problem)
    failed = run(capsys, "rerank", "--predictions", path, "--json")
    assert failed.status == 1
    assert "c.jsonl:1: record 1: no scores" in failed.json["error"]


def answered(n, **fields):
    """Problems whose right answer is 4; the second candidate scores highest."""
    for i in range(n):
        yield {
            "id": i,
            "answer": "4",
            "candidates": [
                {
                    "answer": of,
                    "prm_scores": [score, 0.5],
                    "tokens": 10 + k,
                    "prm_concentrations": [8.0, 2.0],
                }
                | fields
                for k, (of, score) in enumerate((("5", 0.3), ("4", 0.9), ("8/2", 0.6)))
            ],
        }


def test_answers_are_compared_by_the_rule_that_is_named(tmp_path, capsys):
    pytest.importorskip("math_verify")
    given = "--predictions", write_lines(tmp_path / "c.jsonl", *answered(2)), "--json"
    text = run(capsys, "rerank", *given).json
    assert (text["random"], text["majority"]) == (pytest.approx(1 / 3),) * 2
    value = run(capsys, "rerank", *given, "--answers=math").json
    assert (value["random"], value["majority"]) == (pytest.approx(2 / 3), 1)
    assert value["undecided"] == 0


def test_mathematics_without_its_library_says_how_to_get_it(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    given = "--predictions", write_lines(tmp_path / "c.jsonl", *answered(1))
    failed = run(capsys, "rerank", *given, "--answers=math")
    assert failed.status == 1
    assert "pip install 'mprm-jax[math]'" in failed.err
    assert run(capsys, "rerank", *given).status == 0
    texts = {"question": "?", "answer": "4"}
    texts |= {"candidates": [{"steps": ["a"], "answer": "8/2"}]}
    path = write_lines(tmp_path / "t.jsonl", texts)
    given = "--checkpoint=nowhere", f"--candidates={path}", "--answers=math"
    assert "pip install" in run(capsys, "rerank", *given).err


def test_stopping_early_and_the_page(tmp_path, capsys):
    path = write_lines(tmp_path / "c.jsonl", *answered(8))
    given = "--predictions", path, "--adaptive", f"--page={tmp_path / 'p.html'}"
    done = run(capsys, "rerank", *given, "--json")
    assert done.status == 0, done.err
    early = done.json["adaptive"]
    # The best of all is right; it is drawn second of three on average.
    assert (early["unit"], early["accuracy"]) == ("tokens", 1)
    for rule, cost in (("fixed", 1), ("score", 2 / 3), ("posterior", 2 / 3)):
        assert early["rules"][rule]["accuracy"] == pytest.approx(1)
        assert early["rules"][rule]["cost"] == pytest.approx(cost, abs=0.01)
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 3
    assert "Stopping early" in page
    assert str(path) in page
    shown = run(capsys, "rerank", *given)
    assert max(map(len, shown.out.splitlines())) <= 80
    # A page does not overwrite what it tells of.
    refused = run(capsys, "rerank", "--predictions", path, f"--page={path}")
    assert (refused.status, path.read_text().count("\n")) == (1, 8)


@pytest.mark.parametrize(
    "fields",
    [
        {"prm_concentrations": [1.0]},
        {"prm_concentrations": [1.0, 0]},
        {"prm_scores": [0.5]},
        {"prm_scores": []},
        {"steps": ["one"]},
    ],
)
def test_what_does_not_fit_is_refused_where_it_stands(fields, tmp_path, capsys):
    path = write_lines(tmp_path / "c.jsonl", *answered(1), *answered(1, **fields))
    failed = run(capsys, "rerank", "--predictions", path, "--adaptive")
    assert (failed.status, failed.err.count("\n")) == (1, 1)
    assert f"{path}:2: record 2: " in failed.err


@pytest.mark.parametrize("wrong", ["--answers=numbers", "--threshold=nan"])
def test_options_that_make_no_sense_are_wrong_usage(wrong, capsys):
    assert run(capsys, "rerank", "--predictions=x", wrong).status == 2
