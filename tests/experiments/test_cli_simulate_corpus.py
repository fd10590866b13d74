"""`mprm simulate corpus --all-negative-share`: hopeless rollouts, at the same mean."""

import json

import pytest

from sim.corpus.calibrate import PAPER_MODELS
from sim.corpus.draw import expected
from sim.corpus.sources import PAPER_SOURCES
from tests.cli import run
from tests.raw_files import record, write_corpus

COMMAND = ["simulate", "corpus", "--scale", "0.02"]


def written(folder):
    """The corpus's MC scores, per rollout, from its files alone."""
    return [
        [step["num_mc_correct"] for step in json.loads(row)["steps_with_score"]]
        for path in sorted((folder / "annotations").glob("*.jsonl"))
        for row in path.read_text().splitlines()
    ]


@pytest.mark.parametrize("model", ["hierarchical", "independent"])
def test_the_written_corpus_has_about_that_share(model, capsys, tmp_path):
    share = 0.025
    arguments = ["--model", model, "--all-negative-share", share]
    done = run(capsys, *COMMAND, *arguments, "--output", tmp_path, "--json").json
    rollouts = written(tmp_path)
    negative = sum(not any(steps) for steps in rollouts) / len(rollouts)
    # About 11,300 rollouts: a standard error of 0.0016. The model has some anyway.
    own = expected(PAPER_MODELS[model], PAPER_SOURCES).all_negative_share
    assert negative == pytest.approx(share + own, abs=0.006)
    assert negative > share - 0.005
    overall = done["overall"]
    assert overall["all_negative_share"] == pytest.approx(negative)
    # The mean MC score of every source stays, and so does that of the corpus.
    assert overall["mean_mc"] == pytest.approx(0.86, abs=0.01)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["all_negative_share"] == share


def test_without_the_option_the_corpus_is_what_it_was(capsys, tmp_path):
    small = ["simulate", "corpus", "--scale", "0.0005"]
    for name, more in (("a", []), ("b", ["--all-negative-share", "0.02"])):
        assert run(capsys, *small, *more, "--output", tmp_path / name).status == 0
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["all_negative_share"] is None
    assert written(tmp_path / "a") != written(tmp_path / "b")


@pytest.mark.parametrize("value", ["0.0278", "0.5"])
def test_a_share_that_leaves_no_room_for_a_mean_says_how_much_there_is(
    value, capsys, tmp_path
):
    failed = run(
        capsys, *COMMAND, f"--all-negative-share={value}", "--output", tmp_path
    )
    assert (failed.status, failed.err.count("\n")) == (2, 1)
    assert "at most 0.0277 here" in failed.err
    assert "ScienceQA" in failed.err


def test_it_comes_on_top_of_a_fitted_model(corpus, capsys, tmp_path):
    command = ["simulate", "corpus", "--from", corpus, "--scale", "20"]
    shares = []
    for name, more in (("a", []), ("b", ["--all-negative-share", "0.2"])):
        output = tmp_path / name
        done = run(capsys, *command, *more, "--output", output, "--json").json
        shares.append(done["overall"]["all_negative_share"])
    # Of 3,000 rollouts; the rest succeeds the more, so fewer of it are all negative.
    assert 0.2 - 0.03 < shares[1] < shares[0] + 0.2 + 0.03
    assert shares[1] > shares[0]


def test_a_source_without_failures_leaves_no_room(capsys, tmp_path):
    folder = write_corpus(tmp_path / "in", {"a.jsonl": [record()] * 3})
    command = ["simulate", "corpus", "--from", folder, "--output", tmp_path / "out"]
    failed = run(capsys, *command, "--all-negative-share", "0.9")
    assert failed.status in (1, 2)
    assert failed.err.count("\n") <= 2
    assert "Traceback" not in failed.err
