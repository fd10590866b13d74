"""Rollouts that a format cannot hold are told all at once, and chosen again without."""

import json

import numpy as np
import pytest

from tests.cli import run
from tests.raw_files import (
    random_records,
    read_lines,
    record,
    write_corpus,
    write_lines,
    write_pictures,
)

BAD = (3, 11, 12, 30)


@pytest.fixture
def corpus(tmp_path):
    """Forty rollouts in two files, of which four say <image> in a step."""
    records = random_records(np.random.default_rng(3), 40)
    for row in BAD:
        records[row]["steps_with_score"][0]["step"] = "as <image> shows"
    files = {"a.jsonl": records[:20], "b.jsonl": records[20:]}
    return write_corpus(tmp_path / "corpus", files)


def select(capsys, corpus, *options):
    given = ("--keep-ratio", 1, "--output", corpus.parent / "subset.jsonl", "--json")
    return run(capsys, "select", corpus, *given, *options)


@pytest.mark.parametrize("form", ["prm", "visualprm", "trl"])
def test_all_of_them_are_told_at_once(corpus, capsys, form):
    for command in ("select", "convert"):
        output = corpus.parent / "out"
        given = ("--format", form, "--output", output, "--json", "--max-bad", 3)
        kept = ("--keep-ratio", 1) if command == "select" else ()
        done = run(capsys, command, corpus, *given, *kept)
        assert done.status == 1
        assert "\n      4  image placeholder in text" in done.err
        assert not output.is_file()
        assert not (output.is_dir() and list(output.iterdir()))


def test_the_budget_is_met_without_them_and_verified(corpus, capsys, tmp_path):
    done = select(capsys, corpus, "--max-bad", 4, "--keep-ratio", 0.9)
    assert done.status == 0
    refused = np.array(done.json["input"]["refused"])
    assert set(refused) <= set(BAD)
    left = [20 - np.sum(refused < 20), 20 - np.sum(refused >= 20)]
    kept = sum(int(0.9 * n) for n in left)
    assert done.json["written"]["rollouts"] == kept
    rows = read_lines(corpus.parent / "subset.jsonl")
    assert not any("<image> shows" in json.dumps(row) for row in rows)
    assert len(rows) == kept
    assert done.json["counts"]["bad"] == len(refused) > 1
    subset = corpus.parent / "subset.jsonl"
    assert run(capsys, "verify", subset).status == 0
    assert run(capsys, "stats", subset).status == 0


def test_conversion_leaves_them_out_and_counts_them(corpus, capsys, tmp_path):
    output = tmp_path / "out"
    done = run(capsys, "convert", corpus, "--output", output, "--max-bad", 4, "--json")
    assert done.status == 0
    assert sum(file["rollouts"] for file in done.json["files"]) == 36
    assert sum(len(read_lines(output / f"{n}.jsonl")) for n in "ab") == 36
    (told,) = done.json["bad_lines"]
    assert (told["count"], told["first"].rsplit("/")[-1]) == (4, "a.jsonl:4")
    # Read, and said, whatever is done with them.
    (noted,) = run(capsys, "stats", corpus, "--json").json["notes"]
    assert noted["count"] == 4


def test_a_source_of_which_nothing_is_left_has_no_file(tmp_path, capsys):
    bad = record(number=1)
    bad["steps_with_score"][0]["step"] = "as <image> shows"
    corpus = write_corpus(
        tmp_path / "corpus", {"a.jsonl": [bad], "b.jsonl": [record(number=2)]}
    )
    done = run(capsys, "convert", corpus, "--output", tmp_path / "out", "--max-bad", 1)
    assert done.status == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"b.jsonl", "b.meta.json", "manifest.json"}


@pytest.mark.parametrize("inner", ["images", "."])
def test_meta_files_lead_to_the_pictures(tmp_path, capsys, inner, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [record(number=i, image=f"{i}.png") for i in range(3)]
    write_corpus(tmp_path / "corpus" / "annotations", {"a.jsonl": records})
    write_pictures(tmp_path / "corpus" / inner, 3)
    run(capsys, "select", "corpus", "--keep-ratio", 1, "--output", "out/s.jsonl")
    run(capsys, "convert", "corpus", "--output", "all")
    for meta in (tmp_path / "out" / "s.meta.json", tmp_path / "all" / "a.meta.json"):
        ((_, of),) = json.loads(meta.read_text()).items()
        rows = read_lines(tmp_path / of["annotation"])
        assert of["annotation"].startswith("/")
        assert len(rows) == of["length"] == 3
        for row in rows:
            assert (tmp_path / of["root"] / row["image"]).is_file()


def test_pictures_that_are_not_there_are_said(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", {"a.jsonl": [record()]})
    done = run(
        capsys, "select", corpus, "--keep-ratio", 1, "--output", tmp_path / "s.jsonl"
    )
    assert done.status == 0
    assert "images/0.png" in done.err


def test_scores_without_n_go_through_all_but_the_rules_that_need_n(tmp_path, capsys):
    turns = "Question: q\nProcess: a<prm>\n\nb<prm>"
    scores = ([13 / 15, 0.0], [0.875, 1.0], [0.123456789, 0.5])
    rows = [
        {"conversations": [{"from": "human", "value": turns},
                           {"from": "gpt", "value": pair}]}
        for pair in scores
    ]  # fmt: skip
    (tmp_path / "corpus").mkdir()
    write_lines(tmp_path / "corpus" / "a.jsonl", *rows)
    subset = tmp_path / "s.jsonl"
    given = ("select", tmp_path / "corpus", "--keep-ratio", 1, "--output", subset)
    assert run(capsys, *given, "--labels", "soft").status == 0
    assert [row["conversations"][1]["value"] for row in read_lines(subset)] == [
        list(pair) for pair in scores
    ]
    for rule in ("posterior-fisher", "shrunken-bis", "contrast"):
        failed = run(capsys, *given, "--rule", rule)
        assert failed.status == 1
        assert "a.jsonl:1: " in failed.err
    counted = ("--trials", 1_000, "--max-bad", 2)
    assert run(capsys, *given, "--rule", "shrunken-bis", *counted).status == 0


@pytest.mark.parametrize("key", ["image_2", "left", "image_url"])
def test_a_second_picture_under_another_key_is_said(tmp_path, capsys, key):
    records = [record(number=0), record(number=1) | {key: "images/9.png"}]
    corpus = write_corpus(tmp_path / "corpus", {"a.jsonl": records})
    done = run(capsys, "stats", corpus, "--json")
    assert done.json["overall"]["rollouts"] == 2
    (noted,) = done.json["notes"]
    assert (noted["count"], noted["first"].rsplit("/")[-1]) == (1, "a.jsonl:2")
    assert "9.png" in noted["detail"]
