"""`mprm overlap` as a user meets it."""

import gzip
import json
import sys

import pytest

from tests.raw_files import line, png, record, solution, write_corpus, write_lines

LONG = (
    "A ladder of 13 m leans against a wall, and its foot stands 5 m away from it. How "
    "high does the ladder reach?"
)

# (line of the benchmark, line of the corpus) of what they share.
PAIRS = [(1, "1"), (4, "1"), (3, "2"), (1, "3")]


@pytest.fixture
def places(tmp_path):
    """Two rollouts with planted duplicates, one without, one with a damaged picture."""
    images = tmp_path / "c" / "images"
    images.mkdir(parents=True)
    for number in range(3):
        (images / f"{number}.png").write_bytes(png(number, (32, 32)))
    (images / "3.png").write_bytes(png(3)[:60])
    rollouts = [
        record(question=LONG, image="0.png"),
        record(question="Find y.", image="1.png"),
        record(question=LONG.upper(), image="2.png"),
        record(question="Nothing of the kind", image="3.png"),
    ]
    write_corpus(tmp_path / "c" / "annotations", {"s.jsonl": rollouts})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(0, (32, 32)))
    path = write_lines(
        tmp_path / "test.jsonl",
        solution(0, 2, question=LONG.replace("13", "10"), image=["0.png"]),
        solution(2, 2, question=LONG.replace("13", "10"), image=["0.png"]),
        solution(1, 2, question="find  y", image=["none.png"]),
        solution(3, 2, question="What else is there?", image=["0.png"]),
    )
    return tmp_path / "c", path


def test_planted_duplicates_are_counted_and_written_with_both_places(places, mprm):
    corpus, path = places
    output = path.parent / "pairs.jsonl"
    done = mprm("overlap", corpus, path, "--json --output", output)
    assert done.status == 0
    value = done.json
    assert value["pictures"] == "near"
    assert value["overall"] == {
        "solutions": 4,
        "question_same": 1,
        "question_near": 2,
        "picture_same": 3,
        "picture_near": 0,
        "problem": 2,
    }
    assert value["per_source"]["b"]["solutions"] == 2
    assert value["corpus"] | {"pictures_read": 3} == value["corpus"]
    # Never a traceback, never silent: the damaged and the missing one, by place.
    firsts = {row["first"] for row in value["unreadable"]}
    assert firsts == {f"{corpus}/annotations/s.jsonl:4", f"{path}:3"}
    assert all(first in done.err for first in firsts)
    pairs = [json.loads(one) for one in output.read_text().splitlines()]
    told = [(one["benchmark"], one["corpus"].rsplit(":")[-1]) for one in pairs]
    assert told == [(f"{path}:{i}", row) for i, row in PAIRS]
    assert [one["question"] for one in pairs] == ["near", None, "same", "near"]
    assert [one["picture"] for one in pairs] == ["same", "same", None, None]
    assert pairs[0]["solutions"] == 2
    assert value["worst"][0] == pairs[0]


def test_the_text_fits_a_terminal_and_shows_the_places(places, mprm):
    corpus, path = places
    done = mprm("overlap", corpus, path)
    assert done.status == 0
    lines = done.out.splitlines()
    assert f"    {path}:1" in lines
    assert f"    {corpus}/annotations/s.jsonl:1" in lines
    assert all(len(one) <= 80 for one in lines if str(path.parent) not in one)
    (row,) = [one.split() for one in lines if one.startswith("all")]
    assert row == ["all", "4", "1", "2", "3", "0", "2"]


def test_without_the_library_for_near_pictures_it_says_so(places, mprm, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    done = mprm("overlap", *places, "--json")
    assert (done.status, done.json["pictures"]) == (0, "same")
    assert done.json["overall"]["picture_same"] == 3
    assert "mprm-jax[overlap]" in mprm("overlap", *places).out


def test_pictures_that_are_not_compared_have_no_counts(places, mprm):
    value = mprm("overlap", *places, "--json --pictures none").json
    assert value["pictures"] is None
    assert value["overall"]["picture_same"] is None
    assert value["overall"]["problem"] is None
    assert value["overall"]["question_near"] == 2


def test_links_out_of_the_root_are_followed_on_request_alone(places, mprm):
    corpus, path = places
    outside = path.parent / "outside.png"
    (corpus / "images" / "0.png").rename(outside)
    (corpus / "images" / "0.png").symlink_to(outside)
    found = [
        mprm("overlap", *places, "--json", more).json["overall"]["picture_same"]
        for more in ("", "--follow-links")
    ]
    assert found == [0, 3]


def test_many_rollouts_of_a_compressed_corpus_and_a_bad_line(tmp_path, mprm):
    lines = [line(record(question=LONG, image=None))] * 5000 + ["{"]
    packed = gzip.compress("\n".join(lines).encode())
    corpus = write_corpus(tmp_path / "c", {"s.jsonl.gz": packed})
    path = write_lines(tmp_path / "t.jsonl", solution(0, 1, question=LONG))
    assert mprm("overlap", corpus, path).status == 1
    value = mprm("overlap", corpus, path, "--json --max-bad 1").json
    assert value["corpus"]["questions"] == 1
    assert value["overall"]["question_same"] == 1
    assert value["bad_lines"][0]["first"] == f"{corpus}/s.jsonl.gz:5001"


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("--share 1.5", 2),
        ("--ngram 1", 2),
        ("--output o.csv", 2),
        ("--images {corpus}/nowhere", 1),
        ("--output {corpus}/annotations/s.jsonl", 1),
        ("--output {path}", 1),
    ],
)
def test_wrong_values_and_places_are_refused(more, status, places, mprm):
    corpus, path = places
    before = path.read_bytes()
    done = mprm("overlap", corpus, path, more.format(corpus=corpus, path=path))
    assert (done.status, done.out) == (status, "")
    assert path.read_bytes() == before


def test_what_is_no_benchmark_is_refused_with_its_place(places, mprm):
    corpus, path = places
    path.write_text('{"question": 1}\n')
    done = mprm("overlap", corpus, path)
    assert done.status == 1
    assert f"{path}:1" in done.err
