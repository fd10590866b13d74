"""The demo on a very small world: every cell, the page, and going on from a stop."""

import contextlib
import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.grid import demo
from experiments.grid.demo import SIZES, Plan, Size, run_demo
from experiments.grid.demo_results import EXPERIMENT, RULES
from experiments.grid.training import clean_example
from experiments.store.results import append_results, cell_key, read_results, store_path
from mprm_jax.data.batches import Example
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.problems import DataError
from sim.scenes.world import PLENTIFUL
from tests.cli import run
from tests.mprm_jax.tiny_case import random_params, small_model

ARMS = {"clean", *RULES, "full", "base"}
TINY = Size(rollouts=150, judged=20, problems=5, seeds=1)
METRICS = {"micro_f1", "macro_f1_pooled", "auroc", "within_position_auroc"}
METRICS |= {"position_auroc", "slip_prior_auroc", "best_of_n", "per_source"}
METRICS |= {"threshold", "rollouts", "updates", "bootstrap"}


class Talk:
    """Remembers what was said; interrupts when ``stop`` cells have been told."""

    def __init__(self, stop=None):
        self.lines, self.gates, self.done, self.stop = [], [], {}, stop

    def say(self, line):
        if "learnable?" in line:
            self.gates.append(line)
            return
        self.lines.append(line)
        if len(self.lines) == self.stop:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def progress(self, what, total, unit):
        self.done[what] = (0, total)

        def tick(done):
            before, _ = self.done[what]
            assert before <= done <= total
            self.done[what] = (done, total)

        yield tick


def plan_in(folder, **changes):
    plan = Plan(folder, PLENTIFUL, "smoke", 0.2, 0, "mprm demo --size smoke")
    return dataclasses.replace(plan, **changes)


@pytest.fixture(scope="module")
def small():
    """A small world, and a small model that compiles fast, for the module's tests."""
    model = small_model(vision_layers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "smoke", TINY)
        patch.setattr(demo, "pretrained", lambda: (model, random_params(model)))
        yield


@pytest.fixture(scope="module")
def interrupted(small, tmp_path_factory):
    """A run that was stopped after three cells, and then went on."""
    folder = tmp_path_factory.mktemp("demo")
    first, second = Talk(stop=3), Talk()
    with pytest.raises(KeyboardInterrupt):
        run_demo(plan_in(folder), first)
    stored = read_results(folder / "results", EXPERIMENT)
    images = folder / "plentiful" / "corpus" / "images"
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    results = run_demo(plan_in(folder), second)
    after = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    assert before == after, "the world was drawn anew"
    return folder, stored, results, (first, second)


def test_an_interrupted_run_goes_on_with_the_missing_cells(interrupted):
    _, stored, results, (first, second) = interrupted
    assert len(stored) == 3
    assert results[:3] == stored
    assert len(second.lines) == len(ARMS) - 3
    assert second.lines[0].startswith("[ 1/5] ")
    told = [re.search(r"\] (\S+) ", line) for line in first.lines + second.lines]
    assert {match[1] for match in told if match} == ARMS
    # The gate is told once, a row per source of the benchmark.
    sources = results[0].metrics["per_source"]
    assert not second.gates
    assert all(
        any(f"learnable? {name}:" in line for line in first.gates) for name in sources
    )
    for done, total in [first.done["simulating"], second.done["training"]]:
        assert done == total > 0


def test_every_arm_is_trained_on_what_it_says(interrupted):
    _, _, results, _ = interrupted
    cells = {result.config["arm"]: result for result in results}
    assert cells.keys() == ARMS
    for arm, result in cells.items():
        metrics = result.metrics
        assert metrics.keys() >= METRICS
        rollouts = {"base": 0, "full": 150}.get(arm, 30)
        assert (metrics["rollouts"], metrics["updates"]) == (
            rollouts,
            -(-rollouts // 16),
        )
        assert 0 <= metrics["micro_f1"] <= 1
        assert metrics["best_of_n"]["n"] == 16
        drawn = np.array(metrics["bootstrap"]["best_of_n"])
        # Of five problems: their mean over resamples is near the accuracy.
        assert len(drawn) == len(metrics["bootstrap"]["auroc"])
        assert abs(drawn.mean() - metrics["best_of_n"]["mean"]) < 0.05
        assert result.seed == 0
        if arm != "base":
            assert metrics["curve"][-1][0] == metrics["updates"]
            assert metrics["eval_curve"][-1][0] == metrics["updates"]
    # All are judged on the same steps: what knows no model is the same for all.
    for name in ("position_auroc", "slip_prior_auroc"):
        assert len({result.metrics[name] for result in results}) == 1
    for name in ("random", "pass_at_n"):
        assert len({json.dumps(r.metrics["best_of_n"][name]) for r in results}) == 1
    # They differ in what they learned from.
    assert (
        len({cells[arm].metrics["micro_f1"] for arm in ("bis", "random", "full")}) > 1
    )


def test_subsets_and_models_lie_beside_the_corpus(interrupted):
    folder, _, _, _ = interrupted
    world = folder / "plentiful"
    usable = usable_rollouts(read_corpus(world / "corpus"))
    assert usable.rollouts.n_rollouts == 150
    for rule in RULES:
        kept = (world / "subsets" / f"{rule}.jsonl").read_text().splitlines()
        assert len(kept) == 30
        manifest = world / "subsets" / f"{rule}.jsonl.manifest.json"
        assert len(json.loads(manifest.read_text())["rows"]) == 30
    models = {path.name for path in (world / "models").iterdir()}
    assert models == {f"{arm}-0" for arm in ARMS - {"base"}}
    for model in models:
        log = (world / "models" / model / "metrics.jsonl").read_text().splitlines()
        updates = [json.loads(line)["update"] for line in log]
        assert updates == list(range(1, (10 if model == "full-0" else 2) + 1))


def test_the_manifest_keeps_the_learnability_of_the_clean_model(interrupted):
    folder, _, _, _ = interrupted
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = manifest["learnability"]
    assert len(rows) == 5
    assert {row["world"] for row in rows} == {"plentiful"}
    for row in rows:
        assert row.keys() >= {
            "source",
            "within_position_auroc",
            "low",
            "permuted_images",
        }
    assert "pretrained" in manifest["backbone"]
    assert manifest["commands"] == ["mprm demo --size smoke"]


def test_a_finished_run_trains_nothing(interrupted, monkeypatch):
    folder, _, results, _ = interrupted

    def never(*arguments, **options):
        raise AssertionError("a finished cell ran again")

    for name in ("train_on", "judge_model", "write_world", "pretrained"):
        monkeypatch.setattr(demo, name, never)
    talk = Talk()
    assert run_demo(plan_in(folder), talk) == results
    assert not talk.lines


def test_more_seeds_run_only_those_that_are_missing(interrupted, monkeypatch):
    folder, _, results, _ = interrupted
    asked = []

    def cell(plan, lab, arm, seed, tick, talk):
        asked.append((arm, seed))
        return results[0]

    monkeypatch.setattr(demo, "_run_cell", cell)
    monkeypatch.setattr(demo, "append_results", lambda *cells: None)
    lab = SimpleNamespace(examples=range(TINY.rollouts))
    monkeypatch.setattr(demo, "_prepare", lambda *of: lab)
    run_demo(plan_in(folder, seeds=2), Talk())
    assert asked == [(arm, 1) for arm in ("clean", *RULES, "full", "base")]


def test_another_run_in_the_same_folder_is_refused_before_it_starts(
    interrupted, monkeypatch
):
    folder, _, _, _ = interrupted
    manifest = (folder / "plentiful" / "corpus" / "manifest.json").read_bytes()
    for change in ({"seed": 1}, {"size": "small"}):
        with pytest.raises(DataError, match="holds a run of --size smoke --seed 0"):
            run_demo(plan_in(folder, **change), Talk())
    corpus = folder / "plentiful" / "corpus"
    assert (corpus / "manifest.json").read_bytes() == manifest


def test_the_command_prints_a_table_and_writes_the_page(interrupted, capsys):
    folder, _, results, _ = interrupted
    arguments = ["demo", "--size", "smoke", "--world", "plentiful"]
    arguments += ["--keep-ratio", "0.2", "--output", folder]
    done = run(capsys, *arguments)
    assert done.status == 0, done.err
    start = done.out.index("rule ")
    table = done.out[start : done.out.index("\n\n", start)].splitlines()
    assert max(map(len, table)) <= 80
    cells = {row.split()[0]: row.split() for row in table[2:]}
    assert cells.keys() == ARMS
    for result in results:
        row, metrics = cells[result.config["arm"]], result.metrics
        assert row[1:3] == [str(metrics["rollouts"]), str(metrics["updates"])]
        assert row[3] == f"{metrics['micro_f1']:.3f}"
    page = folder / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert str(page) in done.out
    answers = run(capsys, *arguments, "--json").json["answers"]
    assert answers
    assert " ".join(answers[0]["sentence"].split()) in " ".join(done.out.split())


def test_wrong_usage_makes_nothing(tmp_path, capsys):
    for option in ("--keep-ratio=0", "--keep-ratio=1.5", "--seed=-1", "--size=huge"):
        failed = run(capsys, "demo", option, "--output", tmp_path / "d")
        assert failed.status == 2, option
    assert not (tmp_path / "d").exists()


def test_a_cell_that_was_cut_off_while_written_runs_again(small, interrupted, tmp_path):
    folder, _, results, _ = interrupted
    append_results(tmp_path, results)
    path = store_path(tmp_path, EXPERIMENT)
    path.write_bytes(path.read_bytes()[:-20])
    done = {result.key for result in read_results(tmp_path, EXPERIMENT)}
    missing = [
        cell
        for cell in demo._cells(TINY)
        if cell_key(plan_in(folder).config(cell[0]), cell[1]) not in done
    ]
    assert missing == [(results[-1].config["arm"], 0)]


def test_clean_labels_are_the_truth_without_neutral_steps():
    example = Example(
        np.arange(9),
        np.zeros((1, 3)),
        np.array([2, 4, 6]),
        np.array([16, 3, 0], np.int32),
        np.full(3, 16, np.int32),
    )
    clean = clean_example(example, [1, 0, -1, 1])
    assert clean.successes_S.tolist() == [1, 0, 0]
    assert clean.trials_S.tolist() == [1, 0, 1]
