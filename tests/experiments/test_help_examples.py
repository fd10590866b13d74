"""The help's example of every command that judges or annotates, run as it stands."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from mprm_jax.data.corpus import read_corpus
from tests.cli import run


def example(command):
    """The arguments of the example in a command's help."""
    module = importlib.import_module(f"experiments.cli.{command.replace(' ', '.')}")
    found = re.search(r"Example: (mprm .+?)\n\n", module.OPTIONS.__doc__, re.DOTALL)
    assert found is not None
    program, *arguments = shlex.split(found[1])
    assert program == "mprm"
    return arguments


def solutions(seed, count=60):
    """Judged solutions with scores that know something."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        labels = [1, 1, 1 - 2 * (i % 2)]
        scores = 1 / (1 + np.exp(-np.array(labels) - rng.normal(size=3)))
        yield {
            "id": f"s{i}",
            "data_source": "charts",
            "labels_per_step": labels,
            "prm_scores": scores.tolist(),
        }


def problems(count=20):
    """Problems with scored candidates, every second of them right."""
    rng = np.random.default_rng(2)
    for i in range(count):
        yield {
            "id": f"p{i}",
            "answer": "4",
            "candidates": [
                {"answer": str(4 + j % 2), "prm_scores": rng.random(3).tolist()}
                for j in range(4)
            ],
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    files = {
        "scores.jsonl": solutions(0),
        "mine.jsonl": solutions(0),
        "theirs.jsonl": solutions(1),
        "candidates.jsonl": problems(),
    }
    for name, records in files.items():
        (folder / name).write_text("".join(json.dumps(x) + "\n" for x in records))
    return folder


@pytest.mark.parametrize("command", ["evaluate", "compare", "rerank"])
def test_scores_are_judged(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    arguments = example(command)
    done = run(capsys, *arguments)
    assert done.status == 0, done.err
    for name in arguments:
        if name.endswith(".html"):
            page = (folder / name).read_text()
            assert "<svg" in page
            assert page.rstrip().endswith("</html>")


def test_a_corpus_is_annotated_further(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    world = "simulate", "scenes", "--rollouts", 60, "--judged", 10, "--problems", 10
    made = run(capsys, *world, "--world", "plentiful", "--output", "CORPUS")
    assert made.status == 0, made.err
    for command in ("plan", "run", "merge"):
        done = run(capsys, *example(f"annotate {command}"))
        assert done.status == 0, (command, done.err)
    merged = example("annotate merge")
    before, after = (
        read_corpus(Path(corpus)).rollouts
        for corpus in ("CORPUS", merged[merged.index("--output") + 1])
    )
    assert after.n_steps == before.n_steps
    assert after.trials.sum() > before.trials.sum()
