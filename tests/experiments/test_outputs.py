"""What commands write and print must not mislead, whatever the corpus is called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mprm_jax.data.corpus import read_corpus
from tests.cli import run
from tests.raw_files import line, record, write_corpus
from theory.scores import bis

ROOT = Path(__file__).parents[2]


def test_statistics_of_bis_are_of_the_alpha_that_is_named(corpus, tmp_path, capsys):
    rollouts = read_corpus(corpus).rollouts
    for alpha in ("0.05", "0.9"):
        told = run(capsys, "stats", corpus, "--alpha", alpha, "--json", "--no-words")
        median = np.median(bis(rollouts, float(alpha)))
        found = told.json["overall"]["bis_quantiles"][2]
        assert found == pytest.approx(median)
    output = tmp_path / "s.jsonl"
    done = run(capsys, "select", corpus, "--alpha", "0.9", "--output", output)
    manifest = json.loads((tmp_path / "s.jsonl.manifest.json").read_text())
    kept = rollouts.take(np.array(manifest["rows"]))
    median = np.median(bis(kept, 0.9))
    assert manifest["subset"]["bis_quantiles"][2] == pytest.approx(median)
    assert f"{median:.4f}" in done.out
    assert run(capsys, "verify", output).status == 0


def test_an_output_never_falls_among_links_to_a_corpus(corpus, tmp_path, capsys):
    links = tmp_path / "links"
    links.mkdir()
    for file in corpus.iterdir():
        if file.is_file():
            (links / file.name).symlink_to(file)
    for command in (
        ["select", links, "--format", "raw", "--output", links / "sub.jsonl"],
        ["select", links, "--output", corpus / "sub.jsonl"],
        ["score", links, "--output", links / "scores.jsonl"],
        ["convert", links, "--format", "raw", "--output", links],
    ):
        failed = run(capsys, *command)
        assert failed.status == 1, command
        assert "own folder" in failed.err
    assert len(list(links.glob("*.jsonl*"))) == 4


def test_the_meta_file_replaces_no_other(tmp_path, capsys):
    corpus = tmp_path / "s.meta.json"
    write_corpus(tmp_path, {corpus.name: [record(number=i) for i in range(20)]})
    before = corpus.read_bytes()
    failed = run(capsys, "select", corpus, "--output", tmp_path / "s.jsonl")
    assert (failed.status, corpus.read_bytes()) == (1, before)
    assert "s.meta.json: is an input" in failed.err
    for ratio in ("0.1", "0.25"):
        chosen = ["--keep-ratio", ratio, "--output", tmp_path / f"bis{ratio}"]
        assert run(capsys, "select", corpus, *chosen).status == 0
    for ratio, length in (("0.1", 2), ("0.25", 5)):
        meta = json.loads((tmp_path / f"bis{ratio}.meta.json").read_text())
        assert meta == {
            f"bis{ratio}": {
                "root": str(tmp_path),
                "annotation": str(tmp_path / f"bis{ratio}"),
                "data_augment": False,
                "repeat_time": 1,
                "length": length,
            }
        }


def test_a_meta_file_goes_with_what_it_describes(corpus, tmp_path, capsys):
    output, meta = tmp_path / "out" / "s.jsonl", tmp_path / "out" / "s.meta.json"
    select = ["select", corpus, "--output", output]
    for other in (["--format", "trl"], ["--compat", "official"]):
        assert run(capsys, *select).status == 0
        assert meta.exists()
        assert run(capsys, *select, *other).status == 0
        assert not meta.exists()
    convert = ["convert", corpus, "--output", tmp_path / "all"]
    assert run(capsys, *convert).status == 0
    assert len(list((tmp_path / "all").glob("*.meta.json"))) == 3
    assert run(capsys, *convert, "--format", "trl").status == 0
    assert not list((tmp_path / "all").glob("*.meta.json"))
    # Somebody's own file of that name stays.
    meta.write_text('{"s": {"annotation": "elsewhere"}}')
    assert run(capsys, *select, "--format", "trl").status == 0
    assert meta.exists()


def never_sampled(number):
    return record([(16, 16), (0, 0), (0, 0)], number)


@pytest.mark.parametrize("policy", ["drop", "negative"])
def test_steps_never_sampled_are_counted_by_source(policy, tmp_path, capsys):
    corpus = write_corpus(
        tmp_path / "c",
        {
            "a.jsonl": [never_sampled(0), never_sampled(1), record(number=2)],
            "b.jsonl": [record(number=3), record(number=4)],
        },
    )
    reading = ["stats", corpus, "--unmeasured", policy, "--json", "--no-words"]
    whole = run(capsys, *reading).json
    assert whole["overall"]["unmeasured_steps"] == 4
    by_source = {n: s["unmeasured_steps"] for n, s in whole["per_source"].items()}
    assert by_source == {"a": 4, "b": 0}
    kept = run(capsys, *reading, "--rule", "bis", "--keep-ratio", "1").json
    assert kept["overall"]["unmeasured_steps"] == 4
    output = tmp_path / "s.jsonl"
    options = ["--unmeasured", policy, "--keep-ratio", "1", "--output", output]
    assert run(capsys, "select", corpus, *options).status == 0
    manifest = json.loads((tmp_path / "s.jsonl.manifest.json").read_text())
    assert manifest["subset"]["unmeasured_steps"] == 4
    assert run(capsys, "verify", output).status == 0


def test_compat_counts_every_line(tmp_path, capsys):
    lines = [line(record(number=0)), "{}", "", "not json", line(record(number=1)), ""]
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": "\n".join(lines).encode()})
    output = tmp_path / "o.jsonl"
    chosen = ["--compat", "official", "--keep-ratio", "1", "--output", output]
    done = run(capsys, "select", corpus, *chosen, "--json")
    expected = {"lines": 5, "blank": 1, "refused": 1, "unscored": 1, "rollouts": 2}
    assert done.json["counts"] == expected
    manifest = json.loads((tmp_path / "o.jsonl.manifest.json").read_text())
    assert manifest["counts"] == expected
    assert (
        "1 records without a score passed over."
        in run(capsys, "select", corpus, *chosen).out
    )
    assert run(capsys, "verify", output).status == 0


def test_a_source_s_name_orders_a_terminal_nothing(tmp_path, capsys):
    names = ["a\nb", "\x1b[31mred", "x" * 30 + "1", "x" * 30 + "2"]
    rows = [record(number=i, src=name) for i, name in enumerate(names)]
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": rows})
    done = run(capsys, "stats", corpus, "--source-from", "src")
    assert done.status == 0
    assert "\x1b" not in done.out
    shown = [row.split("  ")[0] for row in done.out.splitlines()]
    assert {"a?b", "?[31mred", "x" * 11 + "…" + "x" * 9 + "1"} <= set(shown)
    assert "x" * 11 + "…" + "x" * 9 + "2" in shown


def test_a_conversion_leaves_no_stranger_in_its_folder(corpus, tmp_path, capsys):
    output = tmp_path / "out"
    command = ["convert", corpus, "--format", "trl", "--output", output]
    for _ in range(2):
        assert run(capsys, *command).status == 0
    (output / "old.jsonl").write_text("{}\n")
    failed = run(capsys, *command)
    assert failed.status == 1
    assert "old.jsonl: was there before" in failed.err


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_traceback(redirection, tmp_path):
    corpus = write_corpus(tmp_path / "c", {"ñ 🙂.jsonl": [record()]})
    code = "import sys; from experiments.cli import main; sys.exit(main(sys.argv[1:]))"
    command = f'"$0" -c "$1" stats "$2" --no-cache {redirection}'
    for encoding in ("utf-8", "latin-1", "ascii"):
        done = subprocess.run(
            ["sh", "-c", command, sys.executable, code, corpus],
            cwd=ROOT,
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr


def test_sources_need_not_be_fewer_than_files_that_may_be_open(tmp_path, capsys):
    """Of each of 150 sources one file is read and two are written."""
    rows = {f"s{i:03}.jsonl": [record(number=i)] * (1 + i // 100) for i in range(150)}
    corpus, output = write_corpus(tmp_path / "c", rows), tmp_path / "out"
    code = """
import resource, sys
from experiments.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "convert", corpus, "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    # A line or two, not one for each source.
    assert done.stdout.count(b"\n") < 3
    assert len(list(output.iterdir())) == 301
    lines = [path.read_bytes().count(b"\n") for path in output.glob("*.jsonl")]
    assert sorted(lines) == [1] * 100 + [2] * 50
    told = run(capsys, "stats", corpus, "--no-words")
    assert "s100" in told.out
    assert "s000" not in told.out
    # Those that are not listed have all others of the 200 rollouts.
    assert "together 120." in told.out
    assert len(told.out.splitlines()) < 70
    sources = run(capsys, "stats", corpus, "--no-words", "--json").json["per_source"]
    assert len(sources) == 150
