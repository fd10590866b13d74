"""The commands as a user meets them: what they write, print and promise."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.cli import COMMANDS
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import ReadOptions
from tests.cli import run
from tests.raw_files import record, write_corpus
from theory.selection import RULE_NAMES


def bis(steps, alpha):
    """BIS of a raw record's steps, from its definition."""
    s = [step["num_mc_correct"] / step["num_mc_total"] for step in steps]
    positive = [x for x in s if x > 0]
    p = len(positive) / len(s)
    r = sum(positive) / len(positive) if positive else 1
    return (p * (1 - p) + alpha) * r


def test_select_writes_the_best_of_each_source(corpus, tmp_path, capsys):
    output = tmp_path / "subset.jsonl"
    done = run(
        capsys,
        "select",
        corpus,
        "--rule",
        "bis",
        "--keep-ratio",
        "0.25",
        "--alpha",
        "0.2",
        "--format",
        "raw",
        "--output",
        output,
    )
    assert done.status == 0
    kept = [json.loads(text) for text in output.read_text().splitlines()]
    sources = {
        "AI2D": ["AI2D-00000-of-00002.jsonl", "AI2D-00001-of-00002.jsonl"],
        "ChartQA": ["ChartQA.jsonl"],
    }
    lines = {
        name: [t for f in files for t in (corpus / f).read_text().splitlines()]
        for name, files in sources.items()
    }
    lines["NLVR2"] = (
        gzip.decompress((corpus / "NLVR2.jsonl.gz").read_bytes()).decode().splitlines()
    )
    everything = [text for of in lines.values() for text in of]
    written = output.read_text().splitlines()
    assert [text for text in everything if text in set(written)] == written
    for of in lines.values():
        values = sorted(bis(json.loads(t)["steps_with_score"], 0.2) for t in of)
        chosen = [json.loads(t) for t in of if t in set(written)]
        assert len(chosen) == len(of) // 4
        cut = values[-len(chosen)]
        assert all(bis(r["steps_with_score"], 0.2) >= cut - 1e-12 for r in chosen)
    assert len(kept) == 63 // 4 + 37 // 4 + 50 // 4


def test_the_manifest_says_what_was_done(corpus, tmp_path, capsys):
    output = tmp_path / "subset.jsonl"
    result = run(capsys, "select", corpus, "--output", output, "--json").json
    manifest = json.loads((tmp_path / "subset.jsonl.manifest.json").read_text())
    assert manifest["counts"]["rollouts"] == 150
    assert len(manifest["rows"]) == manifest["output"]["rollouts"] == 6 + 3 + 5
    assert manifest["selection"]["keep_ratio"] == 0.1
    assert [item["file"] for item in manifest["inputs"]] == sorted(
        path.name for path in corpus.iterdir() if path.is_file()
    )
    assert {"mprm", "python", "numpy"} <= set(manifest["versions"])
    assert result["tied_share"] == manifest["tied_share"]
    assert "rows" not in result
    meta = json.loads((tmp_path / "subset.meta.json").read_text())
    assert meta["subset"]["length"] == 14 == len(output.read_text().splitlines())


def test_the_same_command_writes_the_same_bytes(corpus, tmp_path, capsys):
    outputs = []
    for number, extra in enumerate([[], ["--no-cache"], ["--workers", "1"]]):
        output = tmp_path / str(number) / "subset.jsonl"
        assert run(capsys, "select", corpus, *extra, "--output", output).status == 0
        manifest = (output.parent / "subset.jsonl.manifest.json").read_bytes()
        outputs.append((output.read_bytes(), manifest))
    assert outputs[0] == outputs[1] == outputs[2]


def test_shuffling_lines_and_resharding_keeps_the_subset(corpus, tmp_path, capsys):
    output = tmp_path / "a.jsonl"
    run(capsys, "select", corpus, "--keep-ratio", "0.3", "--output", output)
    texts = []
    for name in ("AI2D-00000-of-00002.jsonl", "AI2D-00001-of-00002.jsonl"):
        texts += (corpus / name).read_text().splitlines()
    np.random.default_rng(0).shuffle(texts)
    other = write_corpus(
        tmp_path / "other",
        {
            "AI2D.jsonl": "\n".join(texts).encode(),
            "ChartQA.jsonl": (corpus / "ChartQA.jsonl").read_bytes(),
            "NLVR2.jsonl": gzip.decompress((corpus / "NLVR2.jsonl.gz").read_bytes()),
        },
    )
    again = tmp_path / "b.jsonl"
    run(capsys, "select", other, "--keep-ratio", "0.3", "--output", again)
    assert sorted(output.read_text().splitlines()) == sorted(
        again.read_text().splitlines()
    )


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_every_rule_runs_from_the_command_line(rule, corpus, tmp_path, capsys):
    output = tmp_path / "o.jsonl"
    done = run(
        capsys,
        "select",
        corpus,
        "--rule",
        rule,
        "--keep-ratio",
        "0.2",
        "--output",
        output,
    )
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "o.jsonl.manifest.json").read_text())["rows"]
    if rule != "step-matched-random":
        assert len(rows) == 12 + 7 + 10
    assert len(output.read_text().splitlines()) == len(rows)


def test_global_and_step_budgets(corpus, tmp_path, capsys):
    arguments = ["select", corpus, "--keep-ratio", "0.2", "--json"]
    arguments += ["--format", "rows", "--output", tmp_path / "o"]
    whole = run(capsys, *arguments, "--global").json
    assert [cut["group"] for cut in whole["cuts"]] == ["all"]
    assert whole["output"] == str(tmp_path / "o")
    assert whole["written"]["rollouts"] == 30
    steps = run(capsys, *arguments, "--budget", "steps").json
    assert all(cut["kept_steps"] <= cut["budget"] for cut in steps["cuts"])
    assert not (tmp_path / "o").exists()
    assert (tmp_path / "o.manifest.json").exists()


def test_stats_describes_the_corpus_and_what_a_rule_keeps(corpus, capsys):
    result = run(capsys, "stats", corpus, "--rule", "bis", "--json").json
    whole, kept = result["corpus"]["overall"], result["overall"]
    assert (whole["rollouts"], kept["rollouts"]) == (150, 14)
    assert whole["tied_share"] is None
    assert 0 <= kept["tied_share"] <= 1
    assert set(result["per_source"]) == {"AI2D", "ChartQA", "NLVR2"}
    keys = {
        "rollouts",
        "steps",
        "steps_per_rollout",
        "error_step_ratio",
        "mean_mc",
        "mixed_share",
        "all_negative_share",
        "tied_share",
    }
    assert keys <= set(kept)
    assert all(keys <= set(row) for row in result["per_source"].values())
    assert whole["words_per_step"] == pytest.approx(4.0)  # "step 0 of 12"
    for part in (result, result["corpus"]):
        for key in ("rollouts", "steps"):
            rows = part["per_source"].values()
            assert sum(row[key] for row in rows) == part["overall"][key]


def test_stats_equals_a_plain_count_of_the_raw_files(corpus, capsys):
    result = run(capsys, "stats", corpus, "--json").json
    assert "corpus" not in result
    texts = (corpus / "ChartQA.jsonl").read_text().splitlines()
    rollouts = [
        [(s["num_mc_correct"], s["num_mc_total"]) for s in r["steps_with_score"]]
        for r in map(json.loads, texts)
    ]
    steps = [step for rollout in rollouts for step in rollout]
    positive = [sum(k > 0 for k, _ in rollout) for rollout in rollouts]
    chart = result["per_source"]["ChartQA"]
    assert chart["rollouts"] == 37
    assert chart["steps"] == len(steps)
    assert chart["error_step_ratio"] == pytest.approx(
        sum(k == 0 for k, _ in steps) / len(steps)
    )
    assert chart["mean_mc"] == pytest.approx(sum(k / n for k, n in steps) / len(steps))
    assert chart["mixed_share"] == pytest.approx(
        sum(0 < p < len(r) for p, r in zip(positive, rollouts, strict=True)) / 37
    )
    assert chart["all_negative_share"] == pytest.approx(positive.count(0) / 37)


def test_tables_fit_a_terminal(corpus, tmp_path, capsys):
    for arguments in (
        ["stats", corpus, "--rule", "bis"],
        ["select", corpus, "--output", tmp_path / "o.jsonl"],
        ["doctor"],
    ):
        done = run(capsys, *arguments)
        assert done.status == 0, done.err
        wide = [t for t in done.out.splitlines() if len(t) > 80 and "/" not in t]
        assert not wide


def test_score_gives_every_rollout_every_score(corpus, tmp_path, capsys):
    import pyarrow.parquet as pq

    for name in ("scores.jsonl", "scores.parquet"):
        done = run(capsys, "score", corpus, "--output", tmp_path / name, "--json")
        assert done.json["rows"] == 150
    rows = [json.loads(t) for t in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert pq.read_table(tmp_path / "scores.parquet").to_pylist() == rows
    texts = (corpus / "ChartQA.jsonl").read_text().splitlines()
    of_chart = [row for row in rows if row["source"] == "ChartQA"]
    for row, text in zip(of_chart, texts, strict=True):
        steps = json.loads(text)["steps_with_score"]
        assert row["bis"] == pytest.approx(bis(steps, 0.05), rel=1e-12)
        assert row["file"] == "ChartQA.jsonl"
        assert row["n_steps"] == len(steps)
    failed = run(capsys, "score", corpus, "--output", tmp_path / "scores.csv")
    assert (failed.status, ".jsonl or .parquet" in failed.err) == (2, True)


@pytest.mark.parametrize("name", ["prm", "visualprm", "raw", "trl"])
def test_convert_keeps_every_rollout(name, corpus, tmp_path, capsys):
    folder = tmp_path / "out"
    done = run(capsys, "convert", corpus, "--format", name, "--output", folder)
    assert done.status == 0, done.err
    files = sorted(path.name for path in folder.glob("*.jsonl"))
    assert files == ["AI2D.jsonl", "ChartQA.jsonl", "NLVR2.jsonl"]
    form = by_name(name)
    texts = (corpus / "ChartQA.jsonl").read_text().splitlines()
    converted = (folder / "ChartQA.jsonl").read_bytes().splitlines()
    assert len(converted) == len(texts)
    for before, after in zip(texts, converted, strict=True):
        value = json.loads(before)
        again = form.decode(after, ReadOptions())
        assert again.question == value["question"]
        assert again.image == value["image"]
        assert [step.text for step in again.steps] == [
            step["step"] for step in value["steps_with_score"]
        ]
        assert [step.successes > 0 for step in again.steps] == [
            step["num_mc_correct"] > 0 for step in value["steps_with_score"]
        ]
    if name in ("prm", "visualprm"):
        meta = json.loads((folder / "ChartQA.meta.json").read_text())
        assert meta["ChartQA"]["length"] == 37
    # And what was written is itself a corpus of the same labels.
    again = run(capsys, "stats", folder, "--json").json
    before = run(capsys, "stats", corpus, "--json").json
    assert again["overall"]["mixed_share"] == before["overall"]["mixed_share"]


def test_convert_refuses_what_the_format_cannot_hold(corpus, tmp_path, capsys):
    folder = tmp_path / "out"
    soft = run(
        capsys,
        "convert",
        corpus,
        "--format",
        "trl",
        "--labels",
        "soft",
        "--output",
        folder,
    )
    assert (soft.status, "holds no soft labels" in soft.err) == (2, True)
    images = run(
        capsys, "convert", corpus, "--format", "math-shepherd", "--output", folder
    )
    assert images.status == 1
    assert "AI2D-00000-of-00002.jsonl:1: " in images.err
    assert not folder.exists() or not list(folder.iterdir())


def test_soft_labels_and_thresholds_reach_the_output(tmp_path, capsys):
    folder = write_corpus(
        tmp_path / "c", {"a.jsonl": [record([(1, 16), (4, 16), (0, 16)])]}
    )
    for extra, wanted in [
        ([], [1.0, 1.0, 0.0]),
        (["--label-threshold", "0.0625"], [0.0, 1.0, 0.0]),
        (["--labels", "soft"], [0.0625, 0.25, 0.0]),
    ]:
        output = tmp_path / "o.jsonl"
        run(capsys, "select", folder, "--output", output, *extra)
        value = json.loads(output.read_text())["conversations"][1]["value"]
        assert value == wanted


HEAVY = """
import sys
from experiments.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"jax", "jaxlib", "flax", "optax", "scipy", "matplotlib"} & set(sys.modules)
sys.exit(f"imports {heavy}" if heavy else 0)
"""


@pytest.mark.parametrize("command", ["select", "stats", "convert", "help"])
def test_start_up_stays_light(command, corpus, tmp_path):
    arguments = {
        "select": ["select", str(corpus), "--output", str(tmp_path / "o.jsonl")],
        "stats": ["stats", str(corpus), "--rule", "bis"],
        "convert": ["convert", str(corpus), "--output", str(tmp_path / "c")],
        "help": ["select", "--help"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_help_teaches(capsys):
    for arguments in ([], ["--help"]):
        shown = run(capsys, *arguments)
        assert shown.status == (0 if arguments else 2)
        assert all(f"  {name}" in shown.out for name in COMMANDS)
    for name in COMMANDS:
        shown = run(capsys, name, "--help")
        assert shown.status == 0
        assert f"usage: mprm {name}" in shown.out
    unknown = run(capsys, "selct")
    assert (unknown.status, "no command 'selct'" in unknown.err) == (2, True)
    assert run(capsys, "--version").out.startswith("mprm ")


def test_doctor_reports_versions_and_devices(capsys):
    report = run(capsys, "doctor", "--json").json
    assert report["libraries"]["numpy"] == np.__version__
    assert [device["platform"] for device in report["devices"]] == ["cpu", "cpu"]
