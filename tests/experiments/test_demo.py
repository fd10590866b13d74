"""The demo on a very small world: every cell, the page, and going on from a stop."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.grid import cells as cells_module
from experiments.grid import demo
from experiments.grid.cells import InitialParams, control_labels
from experiments.grid.demo import SIZES, Demo, Size, run_demo
from experiments.grid.plan import CONTROLS, DEMO, PAPER_RULES, Arm, Cell
from experiments.store.results import read_results, store_path
from mprm_jax.data.batches import Example
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.records.problems import DataError
from sim.scenes.world import PLENTIFUL
from tests.cli import run
from tests.mprm_jax.tiny_case import random_params, small_model
from theory.rollouts import Rollouts

HARD = [(rule, "hard") for rule in PAPER_RULES]
CONTROLLED = [(rule, kind) for kind in CONTROLS for rule in ("random", "bis")]
TRAINED = [*CONTROLLED, *HARD]
BASE, FULL = ("base", None), ("full", "hard")
# The second seed trains on the second corpus, and not on all rollouts.
ORDER = [BASE, *TRAINED, FULL, *TRAINED]
TINY = Size(150, judged=20, problems=5, seeds=2, corpora=2, full=1)
METRICS = {"micro_f1", "macro_f1_pooled", "auroc", "within_position_auroc"}
METRICS |= {"position_auroc", "slip_prior_auroc", "per_source"}
METRICS |= {"threshold", "thresholds", "rollouts", "updates", "bootstrap"}


def never(*arguments, **options):
    raise AssertionError("nothing may be written, opened or trained here")


def demo_in(folder, **changes):
    of = Demo(folder, PLENTIFUL, "smoke", 0.2, 0, "mprm demo --size smoke")
    return dataclasses.replace(of, **changes)


def arm(result):
    return result.config["arm"]["rule"], result.config["arm"]["labels"]


@pytest.fixture(scope="module")
def small():
    """A small world, and a small model that compiles fast, for the module's tests."""
    model = small_model(vision_layers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "smoke", TINY)
        patch.setattr(demo, "pretrained", lambda name: (model, random_params(model)))
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
    images = folder / "plentiful" / "corpus"
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    run_demo(demo_in(folder), second.append)
    after = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    assert before == after, "the world was drawn anew"
    return folder, stored, read_results(folder / "results", DEMO), first + second


def test_an_interrupted_run_goes_on_with_the_missing_cells(interrupted):
    _, stored, results, told = interrupted
    assert len(stored) == 3
    assert results[:3] == stored
    assert list(map(arm, results)) == ORDER
    for line, (name, _) in zip(told, ORDER, strict=True):
        assert line.split("] ")[1].startswith(name)
    # The gate is told with the first clean cell, a row per source of the benchmark.
    assert [i for i, line in enumerate(told) if "learnable?" in line] == [1]
    gate = results[1].metrics["learnability"]
    assert {row["source"] for row in gate} == set(results[1].metrics["per_source"])
    for row in gate:
        assert row.keys() == {"source", "within_position_auroc", "low"} | {
            "permuted_images"
        }


def test_every_arm_is_trained_on_what_it_says(interrupted):
    _, _, results, _ = interrupted
    for result in results:
        metrics, (rule, labels) = result.metrics, arm(result)
        assert metrics.keys() >= METRICS
        rollouts = {"base": 0, "full": 150}.get(rule, 30)
        expected = (rollouts, -(-rollouts // 16))
        assert (metrics["rollouts"], metrics["updates"]) == expected
        assert 0 <= metrics["micro_f1"] <= 1
        assert metrics["threshold"] == np.mean(metrics["thresholds"])
        # Controls explain step scores alone.
        assert ("best_of_n" in metrics) == (labels not in CONTROLS)
        if "best_of_n" in metrics:
            assert metrics["best_of_n"]["n"] == 16
            drawn = np.array(metrics["bootstrap"]["best_of_n"])
            # Of five problems: their mean over resamples is near the accuracy.
            assert len(drawn) == len(metrics["bootstrap"]["auroc"])
            assert abs(drawn.mean() - metrics["best_of_n"]["mean"]) < 0.05
        # A head of zeros is nobody's own.
        assert (result.seed is None) == (rule == "base")
        if rule != "base":
            assert metrics["curve"][-1][0] == metrics["updates"]
        if rule != "base" and result.seed == 0 and labels == "hard":
            assert metrics["eval_curve"][-1][0] == metrics["updates"]
    # All are judged on the same steps: what knows no model is the same for all.
    for name in ("position_auroc", "slip_prior_auroc"):
        assert len({result.metrics[name] for result in results}) == 1
    # Each seed has a corpus of its own here, in which its subsets lie.
    corpora = {r.seed: r.config["corpus"] for r in results[1:]}
    assert corpora[0] != corpora[1]
    assert all(r.config["corpus"] == corpora[r.seed] for r in results[1:])
    assert len({json.dumps(r.config["world"]) for r in results}) == 1
    # They differ in what they learned from; a rule's controls only in the labels.
    learned = {(arm(r), r.seed): r.metrics for r in results[1:]}
    assert len({str(of["curve"]) for of in learned.values()}) == len(learned)
    for (rule, labels), seed in learned:
        if labels in CONTROLS:
            same = learned[(rule, "hard"), seed]["subset"]
            assert learned[(rule, labels), seed]["subset"] == same


def test_the_untrained_base_scores_every_step_one_half(interrupted):
    base = interrupted[2][0]
    assert base.metrics["auroc"] == 0.5


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
    assert models.keys() - {"full-hard0-seed0"} == set(PAPER_RULES)
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
    ("changes", "expected"),
    [
        ({"seeds": 3}, [(one, 2) for one in TRAINED]),
        # All rollouts and the base are the same at every keep ratio.
        ({"keep_ratio": 0.4}, [(one, seed) for seed in (0, 1) for one in TRAINED]),
    ],
)
def test_only_what_is_missing_runs(changes, expected, interrupted, monkeypatch):
    folder, _, results, _ = interrupted
    asked = []

    def cell(context, of, folder, tick):
        asked.append(((of.arm.rule, of.arm.labels), of.seed))
        return results[0]

    monkeypatch.setattr(cells_module, "run_cell", cell)
    monkeypatch.setattr(cells_module, "append_results", lambda *cells: None)
    monkeypatch.setattr(demo, "open_grid", lambda *given: None)
    manifest = (folder / "manifest.json").read_bytes()
    run_demo(demo_in(folder, **changes, command="again"), lambda line: None)
    assert asked == expected
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
    assert cells.keys() == {*PAPER_RULES, "full", "base"}
    for row in (*HARD, BASE, FULL):
        of = [r.metrics for r in results if arm(r) == row]
        shown = cells[row[0]]
        assert shown[1:3] == [str(of[0]["rollouts"]), str(of[0]["updates"])]
        assert float(shown[3]) == pytest.approx(
            np.mean([m["micro_f1"] for m in of]), abs=6e-4
        )
    page = folder / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert str(page) in done.out
    value = run(capsys, *arguments, "--json").json
    (answer,) = value["answers"]
    assert answer.keys() == {"world", "keep_ratio", "sentence", "difference"}
    assert " ".join(answer["sentence"].split()) in " ".join(done.out.split())
    micro, ranked = value["decompositions"]
    assert (micro["metric"], ranked["metric"]) == ("micro_f1", "auroc")
    first = micro["parts"][0]["difference"]["mean"]
    assert first == pytest.approx(answer["difference"]["mean"])


def test_results_of_an_earlier_version_are_left_alone(small, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "write_world", never)
    path = store_path(tmp_path / "results", DEMO)
    path.parent.mkdir()
    world = {"name": "plentiful", "size": "smoke", "seed": 0, "corpus": "of one"}
    for earlier in ("plentiful", world):
        line = {"experiment": DEMO, "config": {"world": earlier}, "seed": 0}
        path.write_text(json.dumps(line | {"metrics": {}}) + "\n")
        with pytest.raises(DataError, match="earlier version"):
            run_demo(demo_in(tmp_path), never)


def test_controls_are_made_from_the_truth_of_steps_that_are_not_neutral():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 7, 200)
    offsets = np.append(0, np.cumsum(lengths))
    truth = rng.choice([1, 1, 0, -1], offsets[-1])
    successes = rng.integers(0, 3, offsets[-1])
    rollouts = Rollouts(
        successes, np.full(offsets[-1], 16), offsets, np.zeros(200, int), ("a",)
    )
    by_rollout = np.split(truth, offsets[1:-1])

    def of(kind, seed=0):
        found = control_labels(kind, rollouts, by_rollout, seed)
        assert [len(one) for one in found] == lengths.tolist()
        label = np.concatenate(found)
        assert np.array_equal(label == -1, truth == 0)
        return label

    assert np.array_equal(of("clean") == 1, truth == 1)
    assert np.array_equal(of("all-positive") == 1, truth != 0)
    blind, hard = of("blind"), successes > 0
    for kind in (1, -1):
        steps = truth == kind
        assert blind[steps].sum() == hard[steps].sum()
        # As independent of the hard labels as a permutation is: sd of r is 1/sqrt(n).
        r = np.corrcoef(blind[steps], hard[steps])[0, 1]
        assert abs(r) < 4 / np.sqrt(steps.sum())
    assert np.array_equal(blind, of("blind"))
    assert not np.array_equal(blind, of("blind", 1))


def test_a_control_reads_its_own_labels_and_the_same_prompts(interrupted):
    """Each in turn, of truncated prompts, too."""
    folder, *_ = interrupted
    inputs = demo.simulate(demo_in(folder), 1)
    context = demo.open_grid(inputs, "full")
    rows, places = {}, np.arange(0)
    for kind in (*CONTROLS, "hard"):
        cell = Cell(Arm("bis", 0.2, 0.05, kind, 0.0 if kind == "hard" else None), 1)
        places, _ = context.usable_rows(cell)
        chosen = context.chosen(cell, places)
        rows[kind] = [chosen[i] for i in range(len(chosen))]
    for hard, clean, row in zip(rows["hard"], rows["clean"], places, strict=True):
        truth = inputs.truth[row][: len(clean.marker_S)]
        assert np.array_equal(clean.tokens_L, hard.tokens_L)
        assert np.array_equal(clean.successes_S, (truth == 1).astype(int))
        assert np.array_equal(clean.trials_S, (truth != 0).astype(int))
    flat = {
        kind: np.concatenate([of.successes_S for of in rows[kind]]) for kind in rows
    }
    counted = np.concatenate([of.trials_S for of in rows["clean"]]) > 0
    assert flat["all-positive"][counted].all()
    assert flat["blind"].sum() == (flat["hard"] > 0)[counted].sum()


def test_seeds_start_from_one_head_of_zeros_and_the_odds_of_their_labels(small):
    _, params = demo.pretrained("full")
    examples = [
        Example(
            np.arange(9),
            np.zeros((1, 3)),
            np.array([2, 4]),
            np.array([16, k], np.int32),
            np.array([16, 16 * (k > 2)], np.int32),
        )
        for k in (0, 3, 0)
    ]
    start = InitialParams(params, fresh_head=True).to_train(examples)
    assert not np.any(start["head"]["kernel"])
    # Four positive labels and none negative: two were never sampled.
    assert start["head"]["bias"][0] == pytest.approx(np.log(5))
    assert not np.any(start["head"]["bias"][1:])
    assert all(start[name] is params[name] for name in params if name != "head")
