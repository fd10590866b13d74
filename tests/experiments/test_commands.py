"""The commands as a user meets them: what they write, print and promise."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.cli import COMMANDS
from experiments.cli.run import EXPERIMENTS, WITH_DATA
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


def lines_of(path):
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    return data.decode().splitlines()


def manifest_of(output):
    return json.loads(output.with_name(f"{output.name}.manifest.json").read_text())


def test_select_writes_the_best_of_each_source(corpus, tmp_path, mprm):
    output = tmp_path / "subset.jsonl"
    chosen = "--rule bis --keep-ratio 0.25 --alpha 0.2 --format raw"
    assert mprm("select", corpus, chosen, "--output", output).status == 0
    shards = [lines_of(path) for path in sorted(corpus.glob("*.jsonl*"))]
    sources = [shards[0] + shards[1], *shards[2:]]
    written = output.read_text().splitlines()
    everything = [text for of in sources for text in of]
    assert [text for text in everything if text in set(written)] == written
    for of in sources:
        values = sorted(bis(json.loads(t)["steps_with_score"], 0.2) for t in of)
        kept = [json.loads(t) for t in of if t in set(written)]
        assert len(kept) == len(of) // 4
        cut = values[-len(kept)]
        assert all(bis(r["steps_with_score"], 0.2) >= cut - 1e-12 for r in kept)
    assert len(written) == 63 // 4 + 37 // 4 + 50 // 4


def test_the_manifest_says_what_was_done(corpus, tmp_path, mprm):
    output = tmp_path / "subset.jsonl"
    result = mprm("select", corpus, "--json --output", output).json
    manifest = manifest_of(output)
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


def test_the_same_command_writes_the_same_bytes(corpus, tmp_path, mprm):
    outputs = set()
    for number, extra in enumerate(["", "--no-cache", "--workers 1"]):
        output = tmp_path / str(number) / "subset.jsonl"
        assert mprm("select", corpus, extra, "--output", output).status == 0
        manifest = (output.parent / "subset.jsonl.manifest.json").read_bytes()
        outputs.add((output.read_bytes(), manifest))
    assert len(outputs) == 1


def test_shuffling_lines_and_resharding_keeps_the_subset(corpus, tmp_path, mprm):
    first, second, chart, packed = sorted(corpus.glob("*.jsonl*"))
    texts = lines_of(first) + lines_of(second)
    np.random.default_rng(0).shuffle(texts)
    other = write_corpus(
        tmp_path / "other",
        {
            "AI2D.jsonl": "\n".join(texts).encode(),
            "ChartQA.jsonl": chart.read_bytes(),
            "NLVR2.jsonl": gzip.decompress(packed.read_bytes()),
        },
    )
    found = []
    for name, folder in (("a", corpus), ("b", other)):
        mprm("select", folder, "--keep-ratio 0.3 --output", tmp_path / name)
        found.append(sorted(lines_of(tmp_path / name)))
    assert found[0] == found[1]


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_every_rule_runs_from_the_command_line(rule, corpus, tmp_path, mprm):
    output = tmp_path / "o.jsonl"
    chosen = f"--rule {rule} --keep-ratio 0.2 --output"
    done = mprm("select", corpus, chosen, output)
    assert done.status == 0, done.err
    rows = manifest_of(output)["rows"]
    assert rule == "step-matched-random" or len(rows) == 12 + 7 + 10
    assert len(lines_of(output)) == len(rows)


def test_global_and_step_budgets(corpus, tmp_path, mprm):
    arguments = ("select --keep-ratio 0.2 --json --format rows", corpus)
    arguments += ("--output", tmp_path / "o")
    whole = mprm(*arguments, "--global").json
    assert [cut["group"] for cut in whole["cuts"]] == ["all"]
    assert whole["output"] == str(tmp_path / "o")
    assert whole["written"]["rollouts"] == 30
    steps = mprm(*arguments, "--budget steps").json
    assert all(cut["kept_steps"] <= cut["budget"] for cut in steps["cuts"])
    assert not (tmp_path / "o").exists()
    assert manifest_of(tmp_path / "o")


def test_stats_describes_the_corpus_and_what_a_rule_keeps(corpus, mprm):
    result = mprm("stats", corpus, "--rule bis --json").json
    whole, kept = result["corpus"]["overall"], result["overall"]
    assert (whole["rollouts"], kept["rollouts"]) == (150, 14)
    assert whole["tied_share"] is None
    assert 0 <= kept["tied_share"] <= 1
    assert set(result["per_source"]) == {"AI2D", "ChartQA", "NLVR2"}
    assert all(set(row) == set(kept) for row in result["per_source"].values())
    assert whole["words_per_step"] == pytest.approx(4.0)  # "step 0 of 12"
    for part in (result, result["corpus"]):
        for key in ("rollouts", "steps"):
            rows = part["per_source"].values()
            assert sum(row[key] for row in rows) == part["overall"][key]


def test_stats_equals_a_plain_count_of_the_raw_files(corpus, mprm):
    result = mprm("stats", corpus, "--json").json
    assert "corpus" not in result
    rollouts = [
        [(s["num_mc_correct"], s["num_mc_total"]) for s in r["steps_with_score"]]
        for r in map(json.loads, lines_of(corpus / "ChartQA.jsonl"))
    ]
    steps = [step for rollout in rollouts for step in rollout]
    positive = [sum(k > 0 for k, _ in rollout) for rollout in rollouts]
    mixed = [0 < p < len(r) for p, r in zip(positive, rollouts, strict=True)]
    expected = {
        "rollouts": 37,
        "steps": len(steps),
        "error_step_ratio": sum(k == 0 for k, _ in steps) / len(steps),
        "mean_mc": sum(k / n for k, n in steps) / len(steps),
        "mixed_share": sum(mixed) / 37,
        "all_negative_share": positive.count(0) / 37,
    }
    chart = result["per_source"]["ChartQA"]
    assert {key: chart[key] for key in expected} == pytest.approx(expected)


def test_tables_fit_a_terminal(corpus, tmp_path, mprm):
    for arguments in (
        ["stats --rule bis", corpus],
        ["select", corpus, "--output", tmp_path / "o.jsonl"],
        ["doctor"],
    ):
        done = mprm(*arguments)
        assert done.status == 0, done.err
        wide = [t for t in done.out.splitlines() if len(t) > 80 and "/" not in t]
        assert not wide


def test_score_gives_every_rollout_every_score(corpus, tmp_path, mprm):
    for name in ("scores.jsonl", "scores.parquet"):
        done = mprm("score --json", corpus, "--output", tmp_path / name)
        assert done.json["rows"] == 150
    rows = list(map(json.loads, lines_of(tmp_path / "scores.jsonl")))
    assert pq.read_table(tmp_path / "scores.parquet").to_pylist() == rows
    texts = lines_of(corpus / "ChartQA.jsonl")
    of_chart = [row for row in rows if row["source"] == "ChartQA"]
    for row, text in zip(of_chart, texts, strict=True):
        steps = json.loads(text)["steps_with_score"]
        assert row["bis"] == pytest.approx(bis(steps, 0.05), rel=1e-12)
        assert row["file"] == "ChartQA.jsonl"
        assert row["n_steps"] == len(steps)


@pytest.mark.parametrize("name", ["prm", "visualprm", "raw", "trl"])
def test_convert_keeps_every_rollout(name, corpus, tmp_path, mprm):
    folder = tmp_path / "out"
    done = mprm("convert", corpus, f"--format {name} --output", folder)
    assert done.status == 0, done.err
    files = sorted(path.name for path in folder.glob("*.jsonl"))
    assert files == ["AI2D.jsonl", "ChartQA.jsonl", "NLVR2.jsonl"]
    form = by_name(name)
    texts = lines_of(corpus / "ChartQA.jsonl")
    converted = (folder / "ChartQA.jsonl").read_bytes().splitlines()
    for before, after in zip(texts, converted, strict=True):
        value = json.loads(before)
        (again,) = form.decode(after, ReadOptions())
        assert (again.question, again.image) == (value["question"], value["image"])
        assert [(step.text, step.successes > 0) for step in again.steps] == [
            (step["step"], step["num_mc_correct"] > 0)
            for step in value["steps_with_score"]
        ]
    if name in ("prm", "visualprm"):
        meta = json.loads((folder / "ChartQA.meta.json").read_text())
        assert meta["ChartQA"]["length"] == 37
    # And what was written is itself a corpus of the same labels.
    shares = [
        mprm("stats --json", at).json["overall"]["mixed_share"]
        for at in (corpus, folder)
    ]
    assert shares[0] == shares[1]


def test_convert_refuses_what_the_format_cannot_hold(corpus, tmp_path, mprm):
    folder = tmp_path / "out"
    failed = mprm("convert", corpus, "--format math-shepherd --output", folder)
    assert failed.status == 1
    assert "AI2D-00000-of-00002.jsonl:1: " in failed.err
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ("", [1.0, 1.0, 0.0]),
        ("--label-threshold 0.0625", [0.0, 1.0, 0.0]),
        ("--labels soft", [0.0625, 0.25, 0.0]),
    ],
)
def test_soft_labels_and_thresholds_reach_the_output(extra, wanted, tmp_path, mprm):
    counts = [(1, 16), (4, 16), (0, 16)]
    folder = write_corpus(tmp_path / "c", {"a.jsonl": [record(counts)]})
    output = tmp_path / "o.jsonl"
    mprm("select", folder, extra, "--output", output)
    assert json.loads(output.read_text())["conversations"][1]["value"] == wanted


HEAVY = """
import sys
from experiments.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"jax", "jaxlib", "flax", "optax", "scipy", "matplotlib"} & set(sys.modules)
others = {m for m in sys.modules if m.startswith("experiments.students")}
others = set() if sys.argv[1:3] == ["run", "rules"] else others
sys.exit(f"imports {heavy | others}" if heavy | others else 0)
"""


@pytest.mark.parametrize(
    "command",
    [
        "overlap --help", "select {corpus} --output {out}", "stats {corpus} --rule bis",
        "convert {corpus} --output {out}", "score --help",
        "--help", "select --help", "train --help", "run --help", "run theory --help",
        "run rules --help", "run selection --help", "run all --help", "figures --help",
    ],
)  # fmt: skip
def test_start_up_stays_light(command, corpus, tmp_path):
    words = command.format(corpus=corpus, out=tmp_path / "out").split()
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_help_teaches(capsys):
    for arguments in ([], ["--help"]):
        shown = run(capsys, *arguments)
        assert shown.status == (0 if arguments else 2)
        assert all(f"  {name}" in shown.out for name in COMMANDS)
    listed = run(capsys, "run", "--help").out
    assert run(capsys, "run").status == 2
    runs = [f"run {name}" for name in ("all", *EXPERIMENTS, *WITH_DATA)]
    assert all(f"\n  {name[4:]} " in listed for name in runs)
    for name in (*COMMANDS, *runs):
        shown = run(capsys, *name.split(), "--help")
        assert shown.status == 0
        assert f"usage: mprm {name}" in shown.out
    assert run(capsys, "--version").out.startswith("mprm ")


def test_doctor_reports_versions_and_devices(mprm):
    report = mprm("doctor --json").json
    assert report["libraries"]["numpy"] == np.__version__
    assert [device["platform"] for device in report["devices"]] == ["cpu", "cpu"]
