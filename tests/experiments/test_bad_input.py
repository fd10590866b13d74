"""Bad input, each with the message a user gets: one line, the place, the way out."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from tests.cli import run
from tests.raw_files import line, record, step, without, write_corpus

GOOD = [record(number=i) for i in range(8)]


def with_step(**fields):
    """A record whose second step has other fields."""
    return line(record(steps_with_score=[step(), step(**fields)]))


def raw_score(text):
    """A record whose second score is the given JSON text."""
    return with_step(score="@").replace('"@"', text)


def other(**fields):
    """A record with other fields."""
    return line(record(**fields))


GIVEN = line(record())
DEEP = other(extra=0).replace('"extra": 0', '"extra": ' + "[" * 100_000)
DUPLICATE = with_step().replace('"score": 0.5', '"score": 0.5, "score": 0.75')
HUGE = with_step(score=1, num_mc_correct=10**30, num_mc_total=10**30)
MARKED = with_step(text="so <prm> it is")
NO_SCORE = other(steps_with_score=[without(step(), "score")])
OUTSIDE = "score outside [0, 1]: step 2"
TYPED = "not a raw record: "
# (the line, what is said of it): a user's words, in this table only.
BAD_LINES = [
    (GIVEN[:-30], "truncated line: it ends inside the record"),
    (GIVEN * 2, "two records on one line: the second begins at column"),
    (GIVEN + ",", "not JSON: text after the record, from column"),
    ("steps: none", "not JSON: 'steps: none': one record per line is expected"),
    (GIVEN.replace(", ", ",\r", 1), "carriage return inside a record: text readers"),
    ("null", TYPED + "Expected `object`, got `null`"),
    ("[1, 2]", TYPED + "Expected `object`, got `array`"),
    (DEEP, "nested too deeply"),
    (raw_score("NaN"), OUTSIDE + " has score nan"),
    (raw_score("Infinity"), OUTSIDE + " has score inf"),
    (raw_score("13"), OUTSIDE),
    (raw_score("-1"), OUTSIDE),
    (raw_score("true"), TYPED + "Expected `float`, got `bool` - at `$.steps_with_"),
    (raw_score('"0.5"'), TYPED + "Expected `float`, got `str`"),
    (raw_score("null"), TYPED + "Expected `float`, got `null`"),
    (NO_SCORE, TYPED + "Object missing required field `score`"),
    (with_step(score=0.25), "score is not correct/total: step 2 has score 0.25 with 8"),
    (DUPLICATE, "score is not correct/total: step 1 has score 0.75 with 8/16"),
    (with_step(score=1.0, num_mc_correct=17), "more correct than sampled: step 2"),
    (with_step(k=0, n=0), "step never sampled: step 2 has no continuation (N = 0)"),
    (with_step(num_mc_total=16.5), TYPED + "Expected `int`, got `float`"),
    (with_step(num_mc_correct=-8), "num_mc_correct outside [0, 65535]: step 2"),
    (HUGE, "num_mc_correct outside [0, 65535]: step 2"),
    (with_step(text=" \t"), "empty step: step 2 has no text"),
    (with_step(text=5), TYPED + "Expected `str`, got `int`"),
    (MARKED, "step marker in text: step 2 contains the literal <prm>"),
    (MARKED.replace("<prm>", "\\u003cprm>"), "step marker in text: step 2"),
    (with_step(text="half").replace("half", "\\ud83d"), "lone surrogate: step 2"),
    (other(steps_with_score=[]), "no steps"),
    (line(without(record(), "steps_with_score")), "no steps"),
    (line(without(record(), "image")), "image missing: a text-only rollout says"),
    (other(image=""), "image empty"),
    (other(image=[]), "image empty: the list of images is empty"),
    (other(image=[1]), "image is no path"),
    (other(image=7), "image is no path"),
    (other(image=None, images=[{"bytes": "x"}]), "picture inside the record"),
    (other(image=None, image_url="a.png"), "pictures under another key: 'image_url'"),
    (other(images=["b.png"]), "two keys name pictures"),
    (other(image="a/../../etc/passwd"), "unsafe image path"),
    (other(image="https://a/b.png"), "unsafe image path"),
    (other(image="a\0b"), "unsafe image path"),
    (line(without(record(), "question")), "question missing"),
    (other(question="  "), "question missing"),
    (other(question=3), TYPED + "Expected `str | null`, got `int`"),
]


@pytest.mark.parametrize(("bad", "said"), BAD_LINES)
def test_a_bad_line_is_refused_with_its_place_and_the_way_out(
    bad, said, tmp_path, capsys
):
    lines = [line(value) for value in GOOD]
    lines[4:4] = [bad]
    folder = write_corpus(
        tmp_path / "corpus", {"a.jsonl": ("\n".join(lines) + "\n").encode()}
    )
    output = tmp_path / "out.jsonl"
    arguments = ["select", folder, "--output", output, "--keep-ratio", "0.5"]

    refused = run(capsys, *arguments)
    assert refused.status == 1
    assert not output.exists()
    assert "--max-bad" in refused.err
    assert "Traceback" not in refused.err

    allowed = run(capsys, *arguments, "--max-bad", "1", "--json")
    assert allowed.status == 0
    (row,) = allowed.json["bad_lines"]
    assert f"{row['reason']}: {row['detail']}".startswith(said)
    assert row["first"] == f"{folder}/a.jsonl:5"
    for err in (refused.err, allowed.err):
        (shown,) = [text for text in err.splitlines() if row["reason"] in text]
        assert row["first"] in shown
        assert row["detail"] in shown
    assert len(output.read_text().splitlines()) == 4  # half of the eight good ones


def test_bytes_that_are_no_text_are_refused(tmp_path, capsys):
    good = line(GOOD[0]).encode()
    for number, (bad, reason) in enumerate(
        [
            (good.replace(b"Because", b"Bec\xffuse"), "invalid UTF-8"),
            (good.replace(b"How many", b"H\xc0\x80w"), "invalid UTF-8"),
            (b"\xef\xbb\xbf" + good, "byte order mark"),
        ]
    ):
        folder = write_corpus(
            tmp_path / str(number), {"a.jsonl": b"\n".join([bad, good]) + b"\n"}
        )
        refused = run(capsys, "stats", folder)
        assert refused.status == 1
        assert f"{reason}" in refused.err
        assert "a.jsonl:1" in refused.err


def test_pretty_printed_json_says_what_to_do(tmp_path, capsys):
    pretty = json.dumps(GOOD[0], indent=2) + "\n"
    folder = write_corpus(tmp_path, {"a.jsonl": [GOOD[1]], "b.jsonl": pretty.encode()})
    refused = run(capsys, "stats", folder)
    assert refused.status == 1
    assert "b.jsonl:1" in refused.err
    assert "jq -c ." in refused.err


def test_counts_and_the_first_line_of_each_reason_are_listed(tmp_path, capsys):
    lines = [line(value) for value in GOOD]
    lines[2:2] = [raw_score("7"), "{", raw_score("-1")]
    folder = write_corpus(tmp_path, {"a.jsonl": "\n".join(lines).encode()})
    err = run(capsys, "stats", folder).err.splitlines()
    assert [row.split()[0] for row in err[1:3]] == ["2", "1"]
    assert "a.jsonl:3" in err[1]
    assert "a.jsonl:4" in err[2]
    assert "3 bad lines refused (allowed: 0)" in err[-1]
    assert run(capsys, "stats", folder, "--max-bad", "2").status == 1
    assert run(capsys, "stats", folder, "--max-bad", "3").status == 0


def test_a_long_path_is_neither_wrapped_nor_shortened(tmp_path, capsys):
    deep = tmp_path / ("very-long-folder-name-" * 5) / ("another-" * 12)
    folder = write_corpus(deep, {"a.jsonl": b"null\n"})
    assert f"{folder}/a.jsonl:1" in run(capsys, "stats", folder).err


def test_blank_lines_are_counted_never_bad(tmp_path, capsys):
    text = "\n\n".join(line(value) for value in GOOD) + "\n \n"
    folder = write_corpus(tmp_path, {"a.jsonl": text.encode()})
    result = run(capsys, "stats", folder, "--json")
    assert result.status == 0
    assert result.json["counts"]["blank"] == 8
    assert result.json["counts"]["lines"] == 16


def test_duplicate_records_are_counted_and_kept(tmp_path, capsys):
    folder = write_corpus(tmp_path, {"a.jsonl": [*GOOD, GOOD[0], GOOD[0]]})
    result = run(capsys, "stats", folder, "--json").json
    assert result["counts"]["duplicates"] == 2
    assert result["overall"]["rollouts"] == 10


def test_of_duplicate_keys_the_last_counts_as_everywhere_in_python(tmp_path, capsys):
    text = with_step().replace('"step": ', '"step": "first", "step": ')
    folder = write_corpus(tmp_path / "c", {"a.jsonl": text.encode()})
    for form in ("prm", "trl"):
        output = tmp_path / f"{form}.jsonl"
        arguments = ["--format", form, "--output", output]
        assert run(capsys, "select", folder, *arguments).status == 0
        assert "first" not in output.read_text()
        converted = ["--format", form, "--output", tmp_path / form]
        assert run(capsys, "convert", folder, *converted).status == 0
        assert "first" not in (tmp_path / form / "a.jsonl").read_text()


def test_empty_files_and_missing_folders_say_so(tmp_path, capsys):
    empty = write_corpus(tmp_path / "e", {"a.jsonl": b""})
    for arguments, message in [
        ([tmp_path / "none"], "none: no such file or folder"),
        ([empty], "a.jsonl: the file is empty"),
        ([write_corpus(tmp_path / "f", {"a.txt": b"x"})], "holds no *.jsonl"),
        ([write_corpus(tmp_path / "b", {"a.jsonl": b"\n\n"})], "the file is empty"),
    ]:
        failed = run(capsys, "stats", *arguments)
        assert failed.status == 1
        assert message in failed.err
        assert len(failed.err.splitlines()) == 1
    both = write_corpus(tmp_path / "two", {"a.jsonl": GOOD, "b.jsonl": b""})
    failed = run(capsys, "stats", both)
    assert failed.status == 1
    assert "empty file" in failed.err
    assert f"{both}/b.jsonl" in failed.err
    assert run(capsys, "stats", both, "--max-bad", "1").status == 0


def test_a_gz_that_is_none_is_named(tmp_path, capsys):
    whole = gzip.compress("\n".join(map(line, GOOD)).encode())
    for name, content in [
        ("text", line(GOOD[0]).encode()),
        ("cut", whole[:-20]),
        ("bent", whole[:40] + b"\0\0\0\0" + whole[44:]),
    ]:
        folder = write_corpus(tmp_path / name, {"a.jsonl.gz": content})
        failed = run(capsys, "stats", folder)
        assert failed.status == 1
        assert "a.jsonl.gz: damaged gzip file" in failed.err
        assert len(failed.err.splitlines()) == 1
    folder = write_corpus(tmp_path / "good", {"a.jsonl.gz": whole})
    assert run(capsys, "stats", folder).status == 0


def test_missing_images_and_links_out_of_the_root_are_named(tmp_path, capsys):
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    for i in range(8):
        (root / "images" / f"{i}.png").write_bytes(b"x")
    folder = write_corpus(tmp_path / "corpus", {"a.jsonl": GOOD})
    arguments = ["select", folder, "--keep-ratio", "1", "--images", root]
    arguments += ["--output", tmp_path / "o.jsonl"]
    assert run(capsys, *arguments).status == 0
    (root / "images" / "3.png").unlink()
    failed = run(capsys, *arguments)
    assert (failed.status, "a.jsonl:4: 'images/3.png'" in failed.err) == (1, True)
    (tmp_path / "secret.png").write_bytes(b"x")
    os.symlink(tmp_path / "secret.png", root / "images" / "3.png")
    failed = run(capsys, *arguments)
    assert failed.status == 1
    assert "unsafe image path" in failed.err
    assert "a.jsonl:4: " in failed.err


@pytest.mark.parametrize("command", ["select", "convert"])
def test_a_record_on_several_lines_of_an_array_becomes_one_line(
    command, tmp_path, capsys
):
    whole = json.dumps(GOOD, indent=1).encode()
    folder = write_corpus(tmp_path / "corpus", {"a.json": whole})
    output = tmp_path / "out" / "a.jsonl"
    options = ["--keep-ratio", "1"] if command == "select" else []
    named = output if command == "select" else output.parent
    written = run(
        capsys, command, folder, "--format", "raw", *options, "--output", named
    )
    assert written.status == 0
    assert [json.loads(text) for text in output.read_text().splitlines()] == GOOD


def test_no_old_file_stays_in_place_of_one_that_is_not_written(tmp_path, capsys):
    folder = write_corpus(tmp_path / "corpus", {"a.jsonl": GOOD, "b.jsonl": GOOD})
    arguments = ["convert", folder, "--output", tmp_path / "out", "--format", "prm"]
    assert run(capsys, *arguments).status == 0
    old = (tmp_path / "out" / "a.jsonl").read_bytes()
    inside = [record(steps_with_score=[step(text="so <image>")]) for _ in range(2)]
    write_corpus(folder, {"a.jsonl": GOOD[:3], "b.jsonl": inside})
    failed = run(capsys, *arguments, "--max-bad", "2")
    assert (failed.status, "out/b.jsonl: " in failed.err) == (1, True)
    assert (tmp_path / "out" / "a.jsonl").read_bytes() == old


def test_data_beside_what_is_read_are_named(tmp_path, capsys):
    one = line(GOOD[0]).encode()
    folder = tmp_path / "corpus"
    write_corpus(folder / "data", {"a.jsonl": one, "b.zip": b"PK", "c.csv": b"x"})
    (folder / "generations.json.gz").write_text("x")
    (folder / "data" / "config.json").write_text("{}")
    (folder / "data" / "pictures").mkdir()
    notes = run(capsys, "stats", folder, "--json").json["notes"]
    assert [note["count"] for note in notes] == [3]
    write_corpus(folder / "data" / "more", {"d.parquet": b"PAR1"})
    notes = run(capsys, "stats", folder / "data", "--json").json["notes"]
    counts = {note["count"]: note["first"] for note in notes}
    assert counts == {2: f"{folder}/data/b.zip", 1: f"{folder}/data/more"}
    files = {"generation_1.json": b"[%b]" % one, "generation_config.json": b"{}"}
    folder = write_corpus(tmp_path / "other", files)
    assert run(capsys, "stats", folder, "--json").json["counts"]["lines"] == 1


DISK_FULL = """
import resource, signal, sys
from experiments.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_line_and_leaves_the_old_output_whole(tmp_path):
    many = [record(number=i, answer="x" * 500) for i in range(50)]
    folder = write_corpus(tmp_path / "corpus", {"a.jsonl": many})
    output = tmp_path / "out" / "subset.jsonl"
    output.parent.mkdir()
    output.write_text("the old subset\n")
    # A limit on the size of a file stands for the full disk.
    options = ["--format", "raw", "--keep-ratio", "1", "--output", output]
    command = [sys.executable, "-c", DISK_FULL, "select", folder, *options]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("mprm select: ")
    assert "File too large" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert output.read_text() == "the old subset\n"
    assert [p.name for p in output.parent.iterdir()] == ["subset.jsonl"]


@pytest.mark.parametrize("first", ["{}", "null", "[1, 2]", "[", "5", '"text"'])
def test_a_bad_first_line_is_a_bad_line_like_any_other(first, tmp_path, capsys):
    text = "\n".join([first, *map(line, GOOD)])
    folder = write_corpus(tmp_path, {"a.jsonl": text.encode()})
    refused = run(capsys, "stats", folder)
    assert refused.status == 1
    assert f"{folder}/a.jsonl:1" in refused.err
    allowed = run(capsys, "stats", folder, "--max-bad", "1", "--json")
    assert allowed.json["overall"]["rollouts"] == 8


def test_a_link_to_nowhere_is_named_not_passed_over(tmp_path, capsys):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": GOOD})
    os.symlink(tmp_path / "gone.jsonl", folder / "b.jsonl")
    for extra in ([], ["--compat", "official", "--output", tmp_path / "o.jsonl"]):
        failed = run(capsys, "select" if extra else "stats", folder, *extra)
        assert (failed.status, "b.jsonl: is no file" in failed.err) == (1, True)


@pytest.mark.parametrize("rule", ["shrunken-bis", "posterior-fisher"])
def test_a_rule_that_needs_counts_says_so_on_binary_labels(rule, tmp_path, capsys):
    steps = [step(k, 1, f"s{k}") for k in (1, 0)]
    folder = write_corpus(tmp_path, {"a.jsonl": [record(steps_with_score=steps)]})
    failed = run(capsys, "stats", folder, "--rule", rule, "--json")
    assert failed.status == 1
    assert "at least two continuations" in failed.json["error"]


def test_dropping_steps_keeps_the_bytes_of_the_other_fields(tmp_path, capsys):
    text = line(record([(8, 16), (0, 0)], ratio=0, note="half \ud83d", huge=0)).replace(
        '"ratio": 0', '"ratio": 1.10e0'
    )
    text = text.replace("\ud83d", "x").replace('"huge": 0', '"huge": ' + "7" * 4000)
    folder = write_corpus(tmp_path / "c", {"a.jsonl": text.encode()})
    output = tmp_path / "o.jsonl"
    options = ["--unmeasured", "drop", "--format", "raw", "--output", output]
    done = run(capsys, "select", folder, *options)
    assert done.status == 0, done.err
    assert "1.10e0" in output.read_text()
    assert "7" * 4000 in output.read_text()
    assert len(json.loads(output.read_text())["steps_with_score"]) == 1
