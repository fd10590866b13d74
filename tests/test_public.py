"""`import mprm_jax as mprm`: lazy, light, and every example runs."""

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mprm_jax as mprm
from experiments import api
from experiments.students import worlds
from mprm_jax.data.outputs import manifest_path
from tests.cli import run

COUNTING = """
import sys
import mprm_jax as mprm
assert not {"numpy", "experiments"} & set(sys.modules)
mprm.simulate_corpus(sys.argv[1], scale=0.0005)
loaded = set(sys.modules)
corpus = mprm.read_corpus(sys.argv[1])
subset = mprm.select(corpus, "bis", 0.1)
mprm.write_subset(subset, sys.argv[1] + "-subset.jsonl")
mprm.theory.summarise
assert not {"jax", "flax", "optax", "pandas"} & set(sys.modules)
"""


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in (api, worlds):
        assert doctest.testmod(module).failed == 0


def test_the_readme_s_python_runs(tmp_path, monkeypatch, capsys):
    mprm.simulate_scenes(tmp_path / "CORPUS", rollouts=50, judged=40)
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    session, own_rule, own_scores = re.findall(
        r"```python\n(.*?)```", readme, re.DOTALL
    )
    names = {}
    exec(session, names)
    assert 0 <= names["metrics"].micro_f1 <= 1
    assert (tmp_path / "runs" / "model").is_dir()
    assert len(own_rule.split("\n")) <= 10
    exec(own_rule, names)
    assert len(names["compared"].differences) == 2
    score, select = re.findall(r"^mprm (s\w+ .*--(?:\w+) .*\.parquet.*)", readme, re.M)
    assert run(capsys, *score.partition("#")[0].split()).status == 0
    exec(own_scores, names)
    assert run(capsys, *select.split()).status == 0
    assert run(capsys, "verify", "subset.jsonl").status == 0


def test_every_name_is_there_and_teaches():
    assert set(mprm.__all__) <= set(dir(mprm))
    for name in mprm.__all__:
        value = getattr(mprm, name)
        if callable(value) and name != "DataError":
            assert "Example:" in (value.__doc__ or ""), name
    with pytest.raises(AttributeError):
        _ = mprm.no_such_name


def test_counting_imports_no_jax(tmp_path):
    command = [sys.executable, "-c", COUNTING, str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "corpus"
    mprm.simulate_corpus(folder, scale=0.001)
    return mprm.read_corpus(str(folder))


def test_it_selects_what_the_command_selects(corpus, tmp_path, capsys):
    subset = mprm.select(corpus, "bis", 0.1)
    mprm.write_subset(subset, tmp_path / "ours.jsonl")
    theirs = tmp_path / "theirs.jsonl"
    done = run(capsys, "select", corpus.corpus.path, "--output", theirs)
    assert done.status == 0, done.err
    assert (tmp_path / "ours.jsonl").read_bytes() == theirs.read_bytes()
    assert run(capsys, "verify", tmp_path / "ours.jsonl").status == 0


def test_a_subset_of_ones_own_scores_is_verified_but_for_the_choice(
    corpus, tmp_path, capsys
):
    scores = np.random.default_rng(0).normal(size=corpus.rollouts.n_rollouts)
    subset = mprm.select(corpus, scores, 0.1)
    for source in np.unique(corpus.rollouts.source):
        of = np.flatnonzero(corpus.rollouts.source == source)
        kept = np.intersect1d(of, subset.usable_rows)
        left = np.setdiff1d(of, kept)
        assert scores[kept].min() > scores[left].max(initial=-np.inf)
    output = tmp_path / "mine.jsonl"
    manifest = mprm.write_subset(subset, output)
    assert manifest["selection"]["rule"] == "scores"
    assert run(capsys, "verify", output).status == 0
    whole = output.read_bytes()
    output.write_bytes(whole[:-1])
    assert run(capsys, "verify", output).status == 1
    output.write_bytes(whole)
    text = manifest_path(output).read_text()
    left = np.setdiff1d(np.arange(corpus.rollouts.n_rollouts), manifest["rows"])
    rows = sorted([int(left[0]), *manifest["rows"][1:]])
    old, new = (
        json.dumps(of, separators=(",", ":")) for of in (manifest["rows"], rows)
    )
    assert old in text
    manifest_path(output).write_text(text.replace(old, new))
    assert run(capsys, "verify", output).status == 1


def test_the_frame_has_a_row_per_rollout_under_its_own_id(corpus):
    table = mprm.frame(corpus, "bis", "max-drop")
    assert len(table) == corpus.rollouts.n_rollouts
    assert table["id"].nunique() == len(np.unique(corpus.content))
    np.testing.assert_array_equal(table["bis"], mprm.score(corpus, "bis"))
    np.testing.assert_array_equal(
        table.groupby("source", sort=False).size(),
        np.bincount(corpus.rollouts.source),
    )


def test_what_is_no_rule_is_refused(corpus):
    with pytest.raises(ValueError, match="known: random, bis"):
        mprm.score(corpus, "best")
    with pytest.raises(ValueError, match="shape"):
        mprm.select(corpus, np.zeros(3), 0.1)
