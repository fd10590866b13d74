"""Wrong usage exits with 2, failures are one JSON object, inputs stay as they are."""

import pytest

from tests.cli import run
from tests.raw_files import line, record, write_corpus

GOOD = [record(number=i) for i in range(8)]


@pytest.mark.parametrize("ratio", ["0", "-0.5", "25", "nan", "inf"])
def test_keep_ratios_without_meaning_are_wrong_usage(ratio, tmp_path, capsys):
    folder = write_corpus(tmp_path, {"a.jsonl": GOOD})
    for extra in ([], ["--compat", "official"]):
        failed = run(
            capsys,
            "select",
            folder,
            f"--keep-ratio={ratio}",
            *extra,
            "--output",
            tmp_path / "o.jsonl",
        )
        assert failed.status == 2
        assert "--keep-ratio must lie in (0, 1]" in failed.err
        assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--alpha=nan", "--alpha must be finite"),
        ("--alpha=-0.1", "--alpha must be finite"),
        ("--alpha=inf", "--alpha must be finite"),
        ("--max-bad=-1", "--max-bad must be at least 0"),
        ("--workers=0", "--workers must be at least 1"),
        ("--trials=0", "--trials must lie in [1, 65535]"),
        ("--label-threshold=1", "--label-threshold must lie in [0, 1)"),
        ("--rule=best", "invalid choice"),
        ("--format=csv", "invalid choice"),
        ("--keep-ratio=x", "--keep-ratio"),
        ("--unknown=1", "--unknown"),
    ],
)
def test_other_wrong_usage_exits_with_2(option, message, tmp_path, capsys):
    folder = write_corpus(tmp_path, {"a.jsonl": GOOD})
    failed = run(capsys, "select", folder, option, "--output", tmp_path / "o.jsonl")
    assert failed.status == 2
    assert message in failed.err
    assert not (tmp_path / "o.jsonl").exists()


def test_an_empty_argument_is_no_name_for_the_current_folder(capsys):
    for arguments in ([""], ["corpus", "--output", ""]):
        failed = run(capsys, "select", *arguments)
        assert (failed.status, failed.err.count("\n")) == (2, 1)
        assert "an empty argument" in failed.err


def test_verify_takes_the_subset_or_its_manifest_and_no_folder(tmp_path, capsys):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": GOOD})
    output = tmp_path / "o.jsonl"
    assert run(capsys, "select", folder, "--output", output).status == 0
    assert run(capsys, "verify", output).status == 0
    assert run(capsys, "verify", f"{output}.manifest.json").status == 0
    for wrong, message in [
        (".", "is a folder"),
        ("/", "is a folder"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / ".manifest.json", "no such file"),
    ]:
        failed = run(capsys, "verify", wrong)
        assert (failed.status, failed.err.count("\n")) == (1, 1)
        assert message in failed.err


def test_global_and_per_source_exclude_each_other(tmp_path, capsys):
    folder = write_corpus(tmp_path, {"a.jsonl": GOOD})
    failed = run(capsys, "select", folder, "--global", "--per-source")
    assert (failed.status, "exclude each other" in failed.err) == (2, True)


def test_json_failures_are_one_object_too(tmp_path, capsys):
    folder = write_corpus(tmp_path, {"a.jsonl": b"null\n" + line(GOOD[0]).encode()})
    failed = run(capsys, "stats", folder, "--json")
    assert failed.status == 1
    assert failed.json["bad_lines"][0]["count"] == 1
    assert "1 bad line refused" in failed.json["error"]
    failed = run(capsys, "stats", tmp_path / "none", "--json")
    assert "no such file" in failed.json["error"]


def test_an_output_among_the_inputs_is_refused(tmp_path, capsys):
    folder = write_corpus(tmp_path, {"a.jsonl": GOOD})
    before = (folder / "a.jsonl").read_bytes()
    for name, message in [
        ("a.jsonl", "is a file of the corpus"),
        ("b.jsonl", "would be read as a part"),
    ]:
        failed = run(capsys, "select", folder, "--output", folder / name)
        assert (failed.status, message in failed.err) == (1, True)
    failed = run(capsys, "convert", folder, "--output", folder)
    assert (failed.status, "the corpus's own folder" in failed.err) == (1, True)
    assert (folder / "a.jsonl").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["a.jsonl"]


@pytest.mark.parametrize("named", [["--corpus", "{}"], ["--corpus={}"]])
def test_the_corpus_may_be_named(named, tmp_path, capsys):
    folder = write_corpus(tmp_path, {"a.jsonl": GOOD})
    words = [word.format(folder) for word in named]
    by_name = run(capsys, "stats", "--rule", "random", *words, "--json")
    by_place = run(capsys, "stats", folder, "--rule", "random", "--json")
    assert by_name.status == by_place.status == 0
    assert by_name.json == by_place.json
    assert run(capsys, "stats", "--corpus").status == 2
