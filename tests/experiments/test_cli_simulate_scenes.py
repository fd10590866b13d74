"""`mprm simulate scenes`: a world beside the real corpus's statistics."""

import json

import numpy as np
import pytest

from tests.cli import run
from tests.raw_files import read_lines as lines

SIZES = ["--rollouts", "40", "--judged", "10", "--problems", "5"]


def test_the_table_shows_the_world_beside_the_real_corpus(tmp_path, capsys):
    folder = tmp_path / "my world"
    done = run(capsys, "simulate", "scenes", *SIZES, "--output", folder)
    assert done.status == 0, done.err
    table = {line[:24].strip(): line[24:].split("  ") for line in done.out.splitlines()}
    real = {name: cells[-1].strip() for name, cells in table.items()}
    assert real["steps per rollout"] == "5.62"
    assert real["error-step ratio (K = 0)"] == "3.57 %"
    assert real["mean MC score per step"] == "0.8566"
    assert real["mixed rollouts"] == "7.67 %"
    assert max(map(len, done.out.splitlines()[:14])) <= 80
    records = [
        record
        for path in sorted((folder / "annotations").glob("*.jsonl"))
        for record in lines(path)
    ]
    assert len(records) == 40
    assert f"mprm stats '{folder}' --rule bis" in done.out
    assert len(lines(folder / "benchmark" / "test.jsonl")) == 10
    assert len(lines(folder / "benchmark" / "candidates.jsonl")) == 5


def test_json_summarises_what_was_written(tmp_path, capsys):
    folder = tmp_path / "w"
    arguments = ["simulate", "scenes", *SIZES, "--world", "plentiful", "--seed", "2"]
    found = run(capsys, *arguments, "--output", folder, "--json").json
    steps = [
        [step["num_mc_correct"] for step in record["steps_with_score"]]
        for path in sorted((folder / "annotations").glob("*.jsonl"))
        for record in lines(path)
    ]
    flat = np.concatenate(steps)
    assert found["output"] == str(folder)
    assert found["overall"]["rollouts"] == 40
    assert found["overall"]["mean_mc"] == pytest.approx(np.mean(flat / 16))
    assert found["overall"]["error_step_ratio"] == pytest.approx(np.mean(flat == 0))
    mixed = np.mean([min(of) == 0 < max(of) for of in steps])
    assert found["overall"]["mixed_share"] == pytest.approx(mixed)
    assert found["paper"]["mixed_share"] == 0.0767
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["world"], manifest["seed"]) == ("plentiful", 2)
    # The corpus is read like any other.
    assert run(capsys, "stats", folder, "--json").json["overall"]["rollouts"] == 40
