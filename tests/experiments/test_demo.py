"""The demo on a very small world: every cell, the page, and going on from a stop."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.grid import cells as cells_module
from experiments.grid import demo
from experiments.grid.cells import clean_example
from experiments.grid.demo import SIZES, Demo, Size, run_demo
from experiments.grid.plan import DEMO, PAPER_RULES
from experiments.store.results import read_results, store_path
from mprm_jax.data.batches import Example
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.records.problems import DataError
from sim.scenes.world import PLENTIFUL
from tests.cli import run
from tests.mprm_jax.tiny_case import random_params, small_model

ORDER = ("clean", *PAPER_RULES, "full", "base")
TINY = Size(rollouts=150, judged=20, problems=5, seeds=1)
METRICS = {"micro_f1", "macro_f1_pooled", "auroc", "within_position_auroc"}
METRICS |= {"position_auroc", "slip_prior_auroc", "best_of_n", "per_source"}
METRICS |= {"threshold", "rollouts", "updates", "bootstrap"}


def never(*arguments, **options):
    raise AssertionError("nothing may be written, opened or trained here")


def demo_in(folder, **changes):
    of = Demo(folder, PLENTIFUL, "smoke", 0.2, 0, "mprm demo --size smoke")
    return dataclasses.replace(of, **changes)


def rule(result):
    return result.config["arm"]["rule"]


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
    first, second = [], []

    def stop(line):
        first.append(line)
        if len(first) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(demo_in(folder), stop)
    stored = read_results(folder / "results", DEMO)
    images = folder / "plentiful" / "corpus" / "images"
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    run_demo(demo_in(folder), second.append)
    after = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    assert before == after, "the world was drawn anew"
    return folder, stored, read_results(folder / "results", DEMO), first + second


def test_an_interrupted_run_goes_on_with_the_missing_cells(interrupted):
    _, stored, results, told = interrupted
    assert len(stored) == 3
    assert results[:3] == stored
    assert tuple(map(rule, results)) == ORDER
    for line, name in zip(told, ORDER, strict=True):
        assert line.split("] ")[1].startswith(name)
    # The gate is told with the clean cell, a row per source of the benchmark.
    assert [line.count("learnable?") for line in told] == [5] + [0] * (len(told) - 1)
    gate = results[0].metrics["learnability"]
    assert {row["source"] for row in gate} == set(results[0].metrics["per_source"])
    for row in gate:
        assert row.keys() == {"source", "within_position_auroc", "low"} | {
            "permuted_images"
        }


def test_every_arm_is_trained_on_what_it_says(interrupted):
    _, _, results, _ = interrupted
    for result in results:
        metrics = result.metrics
        assert metrics.keys() >= METRICS
        rollouts = {"base": 0, "full": 150}.get(rule(result), 30)
        expected = (rollouts, -(-rollouts // 16))
        assert (metrics["rollouts"], metrics["updates"]) == expected
        assert 0 <= metrics["micro_f1"] <= 1
        assert metrics["best_of_n"]["n"] == 16
        drawn = np.array(metrics["bootstrap"]["best_of_n"])
        # Of five problems: their mean over resamples is near the accuracy.
        assert len(drawn) == len(metrics["bootstrap"]["auroc"])
        assert abs(drawn.mean() - metrics["best_of_n"]["mean"]) < 0.05
        # The base, too: its random head is a seed's.
        assert result.seed == 0
        if rule(result) != "base":
            assert metrics["curve"][-1][0] == metrics["updates"]
            assert metrics["eval_curve"][-1][0] == metrics["updates"]
    # All are judged on the same steps: what knows no model is the same for all.
    for name in ("position_auroc", "slip_prior_auroc"):
        assert len({result.metrics[name] for result in results}) == 1
    for name in ("random", "pass_at_n"):
        assert len({json.dumps(r.metrics["best_of_n"][name]) for r in results}) == 1
    # They differ in what they learned from; clean and Random only in the labels.
    learned = {rule(r): (r.metrics["curve"], r.metrics["subset"]) for r in results[:-1]}
    assert len({str(curve) for curve, _ in learned.values()}) == len(learned)
    assert learned["clean"][1] == learned["random"][1]


def test_subsets_and_models_lie_beside_the_corpus(interrupted):
    folder, _, _, _ = interrupted
    world = folder / "plentiful"
    usable = usable_rollouts(read_corpus(world / "corpus"))
    assert usable.rollouts.n_rollouts == 150
    for name in PAPER_RULES:
        kept = (world / "subsets" / f"{name}.jsonl").read_text().splitlines()
        assert len(kept) == 30
        manifest = world / "subsets" / f"{name}.jsonl.manifest.json"
        assert len(json.loads(manifest.read_text())["rows"]) == 30
    models = {path.name.split("-keep")[0]: path for path in world.glob("models/*")}
    assert models.keys() - {"full-hard0-seed0"} == {"clean", *PAPER_RULES}
    for name, model in models.items():
        log = (model / "metrics.jsonl").read_text().splitlines()
        updates = [json.loads(line)["update"] for line in log]
        assert updates == list(range(1, (10 if name.startswith("full") else 2) + 1))


def test_a_finished_run_trains_nothing(interrupted, monkeypatch):
    folder, _, results, _ = interrupted
    monkeypatch.setattr(cells_module, "run_cell", never)
    for name in ("write_world", "pretrained"):
        monkeypatch.setattr(demo, name, never)
    run_demo(demo_in(folder), never)
    assert read_results(folder / "results", DEMO) == results


@pytest.mark.parametrize(
    ("changes", "arms", "seed"),
    [
        ({"seeds": 2}, ORDER, 1),
        # All rollouts and the base are the same at every keep ratio.
        ({"keep_ratio": 0.4}, ("clean", *PAPER_RULES), 0),
    ],
)
def test_only_what_is_missing_runs(changes, arms, seed, interrupted, monkeypatch):
    folder, _, results, _ = interrupted
    asked = []

    def cell(context, of, folder, tick):
        asked.append((of.arm.rule, of.seed))
        return results[0]

    monkeypatch.setattr(cells_module, "run_cell", cell)
    monkeypatch.setattr(cells_module, "append_results", lambda *cells: None)
    monkeypatch.setattr(demo, "_context", lambda inputs: None)
    manifest = (folder / "manifest.json").read_bytes()
    run_demo(demo_in(folder, **changes, command="again"), lambda line: None)
    assert asked == [(arm, seed) for arm in arms]
    commands = json.loads((folder / "manifest.json").read_bytes())["commands"]
    assert commands == ["mprm demo --size smoke", "again"]
    (folder / "manifest.json").write_bytes(manifest)
    # Subsets are those of the run that was last.
    run_demo(demo_in(folder), never)


def test_another_run_in_the_same_folder_is_refused_before_it_starts(interrupted):
    folder, _, _, _ = interrupted
    path = folder / "plentiful" / "corpus" / "manifest.json"
    manifest = path.read_bytes()
    for change in ({"seed": 1}, {"size": "small"}):
        with pytest.raises(DataError, match="holds a run of --size smoke --seed 0"):
            run_demo(demo_in(folder, **change), never)
    assert path.read_bytes() == manifest


def test_the_command_prints_a_table_and_writes_the_page(interrupted, capsys):
    folder, _, results, _ = interrupted
    arguments = ["demo", "--size", "smoke", "--world", "plentiful"]
    arguments += ["--keep-ratio", "0.2", "--output", folder]
    done = run(capsys, *arguments)
    assert done.status == 0, done.err
    assert max(map(len, done.out.split("\nopen ")[0].splitlines()[1:])) <= 80
    start = done.out.index("rule  ")
    table = done.out[start : done.out.index("\n\n", start)].splitlines()
    cells = {row.split()[0]: row.split() for row in table[2:]}
    assert cells.keys() == set(ORDER)
    for result in results:
        row, metrics = cells[rule(result)], result.metrics
        assert row[1:3] == [str(metrics["rollouts"]), str(metrics["updates"])]
        assert row[3] == f"{metrics['micro_f1']:.3f}"
    page = folder / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert str(page) in done.out
    (answer,) = run(capsys, *arguments, "--json").json["answers"]
    assert answer.keys() == {"world", "keep_ratio", "sentence", "difference"}
    assert " ".join(answer["sentence"].split()) in " ".join(done.out.split())


def test_results_of_an_earlier_version_are_left_alone(small, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "write_world", never)
    path = store_path(tmp_path / "results", DEMO)
    path.parent.mkdir()
    line = {"experiment": DEMO, "config": {"world": "plentiful"}, "seed": 0}
    path.write_text(json.dumps(line | {"metrics": {}}) + "\n")
    with pytest.raises(DataError, match="earlier version"):
        run_demo(demo_in(tmp_path), never)


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
