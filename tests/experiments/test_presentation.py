"""How often `mprm train` shows rollouts, what they weigh, and looks at the model."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.store.presentation import labelled_rollouts
from experiments.store.read_subset import Subset, examples
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.train import checkpoint, loop
from mprm_jax.train.checkpoint import read_best
from mprm_jax.train.run_files import read_metrics
from tests.experiments.test_cli_train import train as train
from tests.experiments.test_cli_train import weights
from tests.experiments.test_cli_train import world as world
from tests.experiments.test_cli_train_size import qwen as qwen
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.stub_model import StubModel
from tests.raw_files import (
    benchmark,
    random_records,
    solution,
    write_corpus,
    write_pictures,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A corpus of 20 rollouts with pictures that a backbone can cut."""
    folder = tmp_path_factory.mktemp("pictures")
    records = random_records(np.random.default_rng(1), 20)
    write_corpus(folder / "annotations", {"a.jsonl": records})
    write_pictures(folder / "images", 20, (30, 40))
    return folder


def steps_of(world, name):
    lines = (world / "annotations" / f"{name}.jsonl").read_text().splitlines()
    return [len(json.loads(line)["steps_with_score"]) for line in lines]


def test_sources_are_shown_as_often_as_asked(train, world):
    whole = {name: sum(steps_of(world, name)) for name in "ab"}
    done = train("--source-weights", "a=2,b=0", "--epochs", 3, "--json")
    assert done.status == 0, done.err
    assert done.json["rollouts"] == 50
    assert done.json["presentations"] == 150
    assert done.json["updates"] == 19
    metrics = read_metrics(world.parent / "model")
    assert sum(line["steps"] for line in metrics) == 6 * whole["a"]


def test_half_of_a_source_is_the_seed_s_half(train):
    found = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        chosen = ("--source-weights", "b=.5", "--seed", seed, "--json")
        found[name] = train(*chosen, output=name).json
    assert {of["rollouts"] for of in found.values()} == {25 + 8}
    steps = {name: of["steps"] for name, of in found.items()}
    assert steps["one"] == steps["same"]
    assert steps["one"] != steps["other"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("a", 2),
        ("a=", 2),
        ("=1", 2),
        ("a=-1", 2),
        ("a=1,b=1,a=2", 2),
        ("a=nan", 2),
        ("c=1", 2),
        ("a=0,b=0", 1),
    ],
)
def test_source_weights_without_meaning_are_refused(train, world, text, status):
    done = train("--source-weights", text)
    assert (done.status, done.out) == (status, "")
    assert done.err.count("\n") <= 2
    assert not (world.parent / "model").exists()


def test_a_rollout_of_weight_0_teaches_nothing(train, world, mprm):
    table = world.parent / "weights.csv"
    rows = 40
    table.write_text("mine\n" + "\n".join(["1.0"] * 25 + ["0"] * 15))
    chosen = ("--loss-weights", table, "--weight-column", "mine")
    done = train(*chosen, "--json", output="weighted")
    assert done.status == 0, done.err
    assert done.json["rollouts"] == rows
    metrics = read_metrics(world.parent / "weighted")
    assert sum(line["steps"] for line in metrics) == sum(steps_of(world, "a"))
    # Weights that are all alike change nothing, be they beyond float32.
    assert train(output="plain").status == 0
    for number, alike in enumerate(("3e300", "3e-300")):
        table.write_text("mine\n" + "\n".join([alike] * rows))
        assert train(*chosen, output=f"alike-{number}").status == 0
        losses = [
            [line["loss"] for line in read_metrics(world.parent / name)]
            for name in (f"alike-{number}", "plain")
        ]
        assert losses[0] == losses[1]
    for text, words in (("-1", "below 0"), ("nan", str(table))):
        table.write_text("mine\n" + "\n".join([text] * rows))
        refused = train(*chosen, output="refused")
        assert refused.status == 1
        assert words in refused.err


def test_looks_keep_the_best_checkpoint_and_end_a_run(train, world, mprm):
    looks = ("--held-out", 10, "--eval-every", 1, "--keep-checkpoints", 1)
    done = train(*looks, "--json")
    assert done.status == 0, done.err
    assert (done.json["rollouts"], done.json["held_out"]) == (30, 10)
    output = world.parent / "model"
    told = [line["eval_auroc"] for line in read_metrics(output)]
    best = read_best(output)
    assert best is not None
    assert best.update == 1 + int(np.argmax(told))
    assert best.value == max(told)
    assert all(line["eval_loss"] > 0 for line in read_metrics(output))
    # The best one is what is read from then on.
    again = train("--held-out", 10, "--eval-every", 100, output="last")
    assert again.status == 0
    assert (weights(world) == weights(world, "last")) == (best.update == 4)
    # A run without looks learns the same.
    assert [line["loss"] for line in read_metrics(output)] == [
        line["loss"] for line in read_metrics(world.parent / "last")
    ]
    ended = train(*looks, "--patience", 1, "--epochs", 5, output="early")
    assert ended.status == 0, ended.err
    assert "stopped early" in ended.err
    assert (made := len(read_metrics(world.parent / "early"))) < 19
    assert f"{made} updates" in ended.out


def test_held_out_rollouts_are_judged_by_their_own_counts(world):
    usable = usable_rollouts(read_corpus(world))
    subset = Subset(usable, np.arange(5, 40), None)
    model, places = StubModel(), np.array([3, 30])
    source = examples(subset, model.encode, world / "images")
    judge = labelled_rollouts(subset, source, places, model, 2)
    lines = [
        json.loads(line)
        for name in "ab"
        for line in (world / "annotations" / f"{name}.jsonl").read_text().splitlines()
    ]
    for place, labels in zip(places, judge.labels, strict=True):
        steps = lines[5 + place]["steps_with_score"]
        counts = [(of["num_mc_correct"], of["num_mc_total"]) for of in steps]
        assert labels.tolist() == [(1 if k else -1) * (n > 0) for k, n in counts]


def test_a_run_killed_as_a_checkpoint_is_put_in_place_goes_on_the_same(
    train, world, monkeypatch
):
    looks = ("--held-out", 10, "--eval-every", 1, "--patience", 2, "--epochs", 3)
    output, rename, killed = world.parent / "model", os.rename, []

    def renamed(old, new):
        rename(old, new)
        if Path(new).parent == output / "checkpoints":
            killed.append(world.parent / f"killed-{len(killed)}")
            shutil.copytree(output, killed[-1])

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", renamed)
        assert train(*looks, "--checkpoint-every", 2).status == 0
    facts = ("loss", "eval_auroc")
    learned = [[line[name] for name in facts] for line in read_metrics(output)]
    assert len(killed) > 2
    for folder in killed:
        again = train(*looks, "--resume", "--checkpoint-every", 2, output=folder)
        assert again.status == 0, again.err
        lines = read_metrics(folder)
        assert [[line[name] for name in facts] for line in lines] == learned
        assert read_best(folder) == read_best(output)


def test_a_look_by_judged_solutions(train, world):
    path = benchmark(world.parent / "judged", [solution(i, 3) for i in range(6)])
    done = train("--eval-every", 2, "--eval-set", path)
    assert done.status == 0, done.err
    told = ["eval_auroc" in line for line in read_metrics(world.parent / "model")]
    assert told == [False, True, False, True, True]


def test_judged_solutions_are_checked_first_and_stay_the_same(train, world):
    path = benchmark(world.parent / "judged", [solution(i, 3) for i in range(6)])
    looks = ("--eval-every", 2, "--eval-set", path)
    assert train(*looks).status == 0
    spoilt = path.parent / "images" / "5.png"
    spoilt.write_bytes(b"no picture")
    refused = train(*looks, output="spoilt")
    assert (refused.status, f"{path}:6" in refused.err) == (1, True)
    assert not (world.parent / "spoilt").exists()
    # A run whose best was found by others has another best.
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    other = train(*looks, "--resume")
    assert (other.status, "eval_set differ" in other.err) == (1, True), other.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--eval-every", 2),
        ("--held-out", 5),
        ("--eval-every", 2, "--held-out", 5, "--eval-set", "x.jsonl"),
        ("--patience", 2),
        ("--eval-every", 0, "--held-out", 5),
        ("--eval-every", 2, "--held-out", 40),
        ("--eval-every", 2, "--held-out", 5, "--join-hosts"),
        ("--matched-updates", "--epochs", 2),
        ("--epochs", 0),
        ("--epochs", 10**12),
        ("--pack", 512),
    ],
)
def test_looks_without_meaning_are_refused(train, world, arguments):
    done = train(*arguments)
    assert (done.status, done.out) == (2, "")
    assert not (world.parent / "model").exists()


def test_packed_rows_make_the_run_of_padded_ones(
    mprm, pictures, qwen, tmp_path, quick_compilation
):
    """On two devices, each with a row of its own of each of several micro-batches; of
    rollouts that are shown more often than others, and weigh more or nothing.
    """
    table = tmp_path / "weights.csv"
    table.write_text("weight\n" + "\n".join(["0", "0.5", "1", "2"] * 5))
    given = (
        "--batch-size 16 --threads 1 --compute float32 --learning-rate .01",
        "--source-weights", "a=1.2", "--loss-weights", table,
    )  # fmt: skip
    ways = {"padded": ("--accumulate", 4), "packed": ("--pack", 128)}
    found = {}
    for name, way in ways.items():
        chosen = ("--model", qwen, *given, "--mesh", "1x2x1", *way)
        done = mprm("train", pictures, *chosen, "--output", tmp_path / name)
        assert done.status == 0, done.err
        found[name] = read_metrics(tmp_path / name)
    for one, other in zip(*found.values(), strict=True):
        for name in ("loss", "gradient_norm", "steps", "truncated_steps"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
    refused = mprm("train", pictures, "--model", qwen, *given, "--pack", 16)
    assert refused.status == 2
    assert "--pack 16: " in refused.err


def test_packed_rows_keep_the_micro_batches_that_they_make(
    mprm, pictures, qwen, tmp_path, monkeypatch
):
    """Where the price finds several, and nobody named a number."""
    jobs = []
    monkeypatch.setattr(loop, "train", lambda job, *_, **__: jobs.append(job))
    given = ("--batch-size 8 --pack 64 --mesh 1x2x1", "--output", tmp_path / "run")
    done = mprm("train", pictures, "--model", qwen, *given)
    assert done.status == 0, done.err
    assert "in 1 micro-batch" not in done.err
    assert (jobs[0].config.pack, jobs[0].config.accumulate) == (64, 1)


def test_a_disk_too_full_for_a_trace_is_no_full_device(train, monkeypatch):
    def full():
        stop()
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: No space left on device")

    stop = jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    failed = train("--profile")
    assert (failed.status, "model/profile: " in failed.err) == (1, True), failed.err
    assert "memory" not in failed.err
