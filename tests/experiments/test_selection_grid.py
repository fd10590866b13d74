"""`mprm run selection`: a whole grid on a small world, with a small model."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from experiments.corpora.scenes import write_world
from experiments.grid import cells as cells_module
from experiments.store.results import append_results, read_results, store_path
from mprm_jax.train import open_model
from mprm_jax.train.update import compiled_step
from sim.scenes.world import PLENTIFUL
from tests.cli import run as run_command
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.tiny_case import random_params, small_model

ROLLOUTS, JUDGED = 150, 40
RULES, KEEPS, SEEDS = ("random", "bis"), (0.2, 0.4), (0, 1)
# The small model's weights are random: it has nothing to lose, and much to learn.
RATE = ("--learning-rate", 1e-3)
GRID = ("--rules", "random,bis", "--keep-ratios", "0.2,0.4", "--seeds", "0,1")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world on disk, and a small model instead of the one that ships."""
    folder = tmp_path_factory.mktemp("grid") / "world"
    write_world(folder, PLENTIFUL, rollouts=ROLLOUTS, judged=JUDGED, problems=5, seed=0)
    model = small_model(vision_layers=0)
    params = random_params(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_model, "open_model", lambda name: (model, params))
        yield folder


def command(capsys, world, output, *arguments):
    """``mprm run selection`` on the world."""
    bench = world / "benchmark"
    given = ["--corpus", world, "--benchmark", bench / "test.jsonl"]
    given += ["--candidates", bench / "candidates.jsonl", "--output", output]
    # One batch, hence one shape to compile for.
    given += ["--scoring-batch-size", 80, *RATE]
    return run_command(capsys, "run", "selection", *given, *arguments)


class Quiet:
    """Stands for pytest's capture where a fixture of a module cannot have it."""

    def readouterr(self):
        return SimpleNamespace(out="", err="")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The whole grid, run once."""
    output = tmp_path_factory.mktemp("finished")
    cached: Any = compiled_step
    before = cached._cache_size()
    quick = ("--eval-every", 2, "--checkpoint-every", 0)
    done = command(Quiet(), world, output, *GRID, *quick)
    assert done.status == 0
    return output, cached._cache_size() - before


def results_of(output):
    return {
        (r.config["arm"]["rule"], r.config["arm"]["keep_ratio"], r.seed): r
        for r in read_results(output / "results", "selection")
    }


def never(*arguments, **options):
    raise AssertionError("nothing may be trained or opened here")


def test_the_grid_is_rules_ratios_and_seeds_with_the_references(finished):
    output, compiled = finished
    found = results_of(output)
    trained = {(r, k, s) for r in RULES for k in KEEPS for s in SEEDS}
    full = {("full", 1.0, seed) for seed in SEEDS}
    assert found.keys() == trained | full | {("base", None, None)}
    for (_, keep, seed), result in found.items():
        metrics, rollouts = result.metrics, round(ROLLOUTS * (keep or 0))
        updates = -(-rollouts // 16)
        assert (metrics["rollouts"], metrics["updates"]) == (rollouts, updates)
        assert 0 <= metrics["micro_f1"] <= metrics["micro_f1_on_test"] + 0.2 <= 1.2
        assert metrics["best_of_n"]["n"] == 16
        assert len(metrics["per_source"]) == 5
        if seed is not None:
            assert [u for u, _ in metrics["f1_curve"]] == [
                *range(2, updates, 2),
                updates,
            ]
            assert metrics["f1_curve"][-1][1] == metrics["micro_f1"]
            assert metrics["eval_curve"][-1][1] == metrics["auroc"]
            assert metrics["curve"][-1][0] == updates
            assert metrics["tokens"] > 20 * rollouts
    # All are judged on the same steps and candidates; they differ in what they learned.
    for name in ("position_auroc",):
        assert len({result.metrics[name] for result in found.values()}) == 1
    assert len({r.metrics["best_of_n"]["random"] for r in found.values()}) == 1
    assert len({r.metrics["micro_f1"] for r in found.values()}) > 5
    # Two lengths of batches at most: every cell, seed and rule shares them.
    assert 1 <= compiled <= 3
    # Without checkpoints nothing is written beside the results.
    assert not (output / "models").exists()
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["commands"]
    # Whether corpus and benchmark share questions was looked at before training.
    assert manifest["overlap"]["overall"]["question_same"] == 0
    assert manifest["overlap"]["pictures"] is None


def test_a_finished_grid_runs_nothing_and_prints_its_tables(
    world, finished, capsys, monkeypatch
):
    output, _ = finished
    before = store_path(output / "results", "selection").read_bytes()
    monkeypatch.setattr(open_model, "open_model", never)
    monkeypatch.setattr(cells_module, "run_cell", never)
    done = command(capsys, world, output, *GRID)
    assert done.status == 0, done.err
    assert store_path(output / "results", "selection").read_bytes() == before
    assert max(map(len, done.out.splitlines())) <= 80 + len(str(output))
    lines = [line.split() for line in done.out.splitlines()]
    rows = {tuple(line[:2]): line for line in lines if len(line) > 6}
    found = results_of(output)
    for rule in RULES:
        for keep in KEEPS:
            values = [found[rule, keep, s].metrics["micro_f1"] for s in SEEDS]
            line = rows[rule, f"{100 * keep:g}%"]
            assert line[2:4] == [
                f"{ROLLOUTS * keep:g}",
                f"{-(-ROLLOUTS * keep // 16):g}",
            ]
            assert line[4] == f"{np.mean(values):.3f}"
    text = " ".join(done.out.split())
    assert "BIS 20 %" in text
    assert "BIS 40 %" in text
    assert "beat" in text
    value = command(capsys, world, output, *GRID, "--json").json
    assert (value["ran"], value["missing"], value["cells"]) == (0, 0, 11)
    gaps = {gap["arm"]["keep_ratio"]: gap for gap in value["less_random"]}
    for keep in KEEPS:
        expected = np.mean(
            [
                found["bis", keep, s].metrics["micro_f1"]
                - found["random", keep, s].metrics["micro_f1"]
                for s in SEEDS
            ]
        )
        assert gaps[keep]["difference"]["mean"] == pytest.approx(expected)


def test_a_cell_equals_select_train_evaluate_and_rerank(
    world, finished, capsys, tmp_path
):
    output, _ = finished
    cell = results_of(output)["bis", 0.4, 1].metrics
    model, bench = tmp_path / "model", world / "benchmark"
    chosen = ("--rule", "bis", "--keep-ratio", 0.4, "--seed", 1, *RATE)
    trained = run_command(capsys, "train", world, *chosen, "--output", model)
    assert trained.status == 0, trained.err
    scored = ("--checkpoint", model, "--output", tmp_path / "scores.jsonl", "--json")
    scored += ("--batch-size", 80)
    named = ("--benchmark", bench / "test.jsonl", "--replicates", 0)
    fitted = (*named, "--threshold-on", "cross-fitted")
    judged = run_command(capsys, "evaluate", *scored, *fitted).json
    for name in ("micro_f1", "macro_f1_pooled", "auroc", "within_position_auroc"):
        assert cell[name] == pytest.approx(judged[name], abs=1e-6), name
    assert cell["per_source"] == pytest.approx(judged["per_source"], abs=1e-6)
    threshold = judged["threshold"]["threshold"]
    assert cell["threshold"] == pytest.approx(threshold, abs=1e-5)
    on_test = (*named, "--threshold-on", "test")
    flattered = run_command(capsys, "evaluate", *scored, *on_test).json
    assert cell["micro_f1_on_test"] == pytest.approx(flattered["micro_f1"], abs=1e-6)
    named = ("--candidates", bench / "candidates.jsonl", "--replicates", 0)
    chosen = run_command(capsys, "rerank", *scored, *named).json
    for name in ("mean", "random", "pass_at_n"):
        assert cell["best_of_n"][name] == pytest.approx(chosen[name])


def test_a_cell_that_was_stopped_goes_on_from_its_checkpoint(
    world, finished, capsys, tmp_path, monkeypatch
):
    whole = results_of(finished[0])["bis", 0.4, 0].metrics
    output, made = tmp_path / "run", []
    only = ("--rules", "bis", "--keep-ratios", 0.4, "--seeds", "0,", "--references")
    only = (*only, "none", "--eval-every", 1, "--checkpoint-every", 1)
    plain = cells_module.train

    def train(*arguments, on_update, **options):
        def stopped(update):
            made.append(update.number)
            on_update(update)
            if len(made) == 3:
                raise KeyboardInterrupt

        return plain(*arguments, on_update=stopped, **options)

    monkeypatch.setattr(cells_module, "train", train)
    assert command(capsys, world, output, *only).status == 130
    assert not read_results(output / "results", "selection")
    (model,) = (output / "models").iterdir()
    # What a killed run may leave behind.
    with open(model / "evaluations.jsonl", "ab") as file:
        file.write(b'{"update": 3, "micro')
    again = command(capsys, world, output, *only)
    assert again.status == 0, again.err
    assert "goes on after update 2" in again.err
    assert made == [1, 2, 3, 3, 4]
    metrics = results_of(output)["bis", 0.4, 0].metrics
    for name in ("micro_f1", "auroc", "threshold", "best_of_n", "curve", "bootstrap"):
        assert metrics[name] == whole[name], name
    # The whole cell was judged after update 2, this one after every update.
    assert [update for update, _ in metrics["f1_curve"]] == [1, 2, 3, 4]
    assert metrics["f1_curve"][1] == whole["f1_curve"][0]
    assert not model.exists()


def test_only_missing_cells_run_and_come_out_the_same(
    world, finished, capsys, tmp_path
):
    output, _ = finished
    found = results_of(output)
    gone = found.pop(("random", 0.2, 1))
    append_results(tmp_path / "results", found.values())
    done = command(capsys, world, tmp_path, *GRID, "--keep-models", "--json").json
    assert (done["ran"], done["cells"]) == (1, 11)
    again = results_of(tmp_path)["random", 0.2, 1]
    assert again.key == gone.key
    for name in ("micro_f1", "auroc", "threshold", "best_of_n", "per_source", "curve"):
        assert again.metrics[name] == gone.metrics[name], name
    (kept,) = (tmp_path / "models").iterdir()
    assert kept.name == "random-keep0.2-hard0-seed1"
    bench = world / "benchmark" / "test.jsonl"
    judged = run_command(
        capsys, "evaluate", "--checkpoint", kept, "--benchmark", bench, "--json",
        "--output", tmp_path / "scores.jsonl", "--replicates", 0, "--batch-size", 80,
        "--threshold-on", "cross-fitted",
    ).json  # fmt: skip
    assert judged["micro_f1"] == pytest.approx(gone.metrics["micro_f1"], abs=1e-6)


def test_a_dry_run_prices_and_does_nothing(
    world, finished, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(cells_module, "run_cell", never)
    before = len(jax.live_arrays())
    done = command(capsys, world, tmp_path / "new", *GRID, "--dry-run", "--json").json
    assert len(jax.live_arrays()) == before
    assert not (tmp_path / "new").exists()
    trained = 2 * (2 * (30 + 60) + 150)
    updates = 2 * (2 * (2 + 4) + 10)
    assert done["grid"] == done["left"]
    assert done["grid"] | {"cells": 11, "updates": updates} == done["grid"]
    assert (done["grid"]["rollouts"], done["grid"]["evaluations"]) == (trained, 11)
    output, _ = finished
    wider = (*GRID[:-1], "0,1,2", "--dry-run", "--json", "--eval-every", 3)
    done = command(capsys, world, output, *wider).json
    assert done["left"]["cells"] == 5
    assert done["left"]["updates"] == updates / 2
    # After updates 3, 6 and 9 of 10, after 3 of 4, and at the end of each of 5 cells.
    assert done["left"]["evaluations"] == 3 + 2 + 5
    found = [r.metrics for r in results_of(output).values()]
    of_update = np.median([m["seconds_per_update"] for m in found if m["updates"]])
    of_evaluation = np.median([m["evaluation_seconds"] for m in found])
    seconds = done["left"]["updates"] * of_update + 10 * of_evaluation
    assert done["left"]["seconds"] == pytest.approx(seconds)
    assert "unknown" not in command(capsys, world, output, *GRID, "--dry-run").out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--rules", "bis,best"), 2, "known: random, bis"),
        (("--keep-ratios", "0.1,1.5"), 2, "'1.5' is not a number that fits"),
        (("--alphas", "-1"), 2, "--alphas"),
        (("--label-thresholds", "1"), 2, "--label-thresholds"),
        (("--labels", "fuzzy"), 2, "known: hard, soft"),
        (("--shard", "half"), 2, "--shard half"),
        (("--references", "half"), 2, "--references"),
        (("--corpus", "none"), 1, "none"),
        (("--benchmark", "none.jsonl"), 1, "none.jsonl: no such file"),
        (("--candidates", "none.jsonl"), 1, "none.jsonl: no such file"),
        (("--images", "none"), 1, "none: no such folder of images"),
        (("--benchmark-images", "none"), 1, "none: no such folder of images"),
        (("--model", "none"), 1, "none: no such model"),
        (
            ("--model", "."),
            1,
            "neither model.json",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments, status, says, world, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(open_model, "open_model", never)
    failed = command(capsys, world, tmp_path / "out", *arguments)
    assert failed.status == status, failed.err
    (line,) = failed.err.strip().splitlines()
    assert line.startswith("mprm run selection: ")
    assert says in line
    assert not (tmp_path / "out").exists()


def test_results_of_another_corpus_or_run_are_refused(
    world, finished, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(open_model, "open_model", never)
    output, _ = finished
    other = tmp_path / "other"
    shutil.copytree(world, other)
    file = next((other / "annotations").glob("*.jsonl"))
    file.write_bytes(b"".join(file.read_bytes().splitlines(True)[:-1]))
    for corpus, arguments, named in (
        (other, (), "run: corpus differ"),
        (world, ("--batch-size", 8), "training.batch_size differ"),
        (world, ("--name", "mine"), "world.name differ"),
    ):
        failed = command(capsys, corpus, output, *GRID, *arguments)
        assert failed.status == 1
        assert named in failed.err
        assert "holds another run" in failed.err
        assert failed.err.count("\n") == 1
    (tmp_path / "demo" / "results").mkdir(parents=True)
    (tmp_path / "demo" / "results" / "demo.jsonl").touch()
    (tmp_path / "demo" / "manifest.json").write_text('{"commands": ["mprm demo"]}')
    failed = command(capsys, world, tmp_path / "demo", *GRID)
    assert failed.status == 1
    assert "choose another --output" in failed.err


def test_controls_need_the_truth_and_explain_what_is_asked(
    world, capsys, tmp_path, monkeypatch
):
    only = ("--keep-ratios", 0.2, "--seeds", "0,1", "--references", "none")
    only = (*only, "--labels", "hard,clean,blind", "--rules", "random,bis,mixed")
    done = command(capsys, world, tmp_path / "out", *only)
    assert done.status == 0, done.err
    stored = read_results(tmp_path / "out" / "results", "selection")
    asked = [(r.config["arm"]["rule"], r.config["arm"]["labels"]) for r in stored]
    both = [(rule, kind) for kind in ("clean", "blind") for rule in ("random", "bis")]
    hard = [(rule, "hard") for rule in ("random", "bis", "mixed")]
    assert asked == 2 * [*both, *hard]
    for told in ("composition", "noise of BIS", "placement", "BIS - Random ="):
        assert told in done.out
    monkeypatch.setattr(open_model, "open_model", never)
    blind = tmp_path / "world"
    shutil.copytree(world, blind)
    shutil.rmtree(blind / "truth")
    failed = command(capsys, blind, tmp_path / "new", *only)
    assert failed.status == 1
    assert "no truth/" in failed.err
    assert not (tmp_path / "new").exists()


def test_a_missing_picture_is_named_with_its_line(world, capsys, tmp_path):
    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    for picture in (copy / "images").rglob("*.png"):
        picture.unlink()
    only = ("--rules", "bis", "--keep-ratios", 0.1, "--seeds", "0,")
    failed = command(capsys, copy, tmp_path / "out", *only, "--references", "none")
    assert failed.status == 1
    assert "bis-keep0.1-alpha0.05-hard0-seed0: " in failed.err
    assert ".jsonl:" in failed.err
    assert "image not found" in failed.err
