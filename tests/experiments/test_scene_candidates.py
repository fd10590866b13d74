"""Candidates for a better rule in probes and nets, and what masked arms train on."""

import json

import numpy as np
import pytest

from experiments.grid.plan import Arm, Cell
from experiments.phase import candidates, nets, run
from experiments.phase.design import HARD, SPARE, Nets, Probes
from experiments.store.results import (
    REFERENCE,
    Result,
    append_results,
    read_results,
)
from experiments.store.write_subset import choose
from experiments.students.arms import CANDIDATES
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from tests.cli import run as run_command
from tests.experiments import test_selection_grid as selection
from tests.mprm_jax.quick import quick_compilation as quick_compilation

HELD = {"contrast", "bis masked", "random masked", "contrast masked"}
NET = Nets(
    stages=(2400,), rates=(5e-4,), placements=(HARD,), units=2, rollouts=80, judged=40
)


@pytest.fixture
def small(monkeypatch):
    """Nets and probes of one world, as small as they run."""
    probes = Probes(("scarce",), (2400,), (HARD,), 2, 2, 80, 40)
    for module in (run, candidates):
        monkeypatch.setattr(module, "PROBES", {"small": probes})
    monkeypatch.setattr(run, "NETS", {"small": NET})
    held = {"small": (NET._replace(**candidates._HELD),)}
    monkeypatch.setattr(candidates, "DESIGN_OF_NETS", held)


def test_hard_arms_are_the_diagrams_own_and_are_trained_once(small, tmp_path, capsys):
    given = "--output", tmp_path, "--seed", SPARE // 1000
    phase = run_command(capsys, "run", "phase", *given, "--only", "probes", "nets")
    assert phase.status == 0, phase.err
    found = run_command(capsys, "run", candidates.NAME, *given, "--json")
    assert found.json["ran"] == 5
    assert found.json["judged"] == ["bis masked", "random masked"]
    trained = read_results(tmp_path, nets.MODELS)
    assert len(trained) == len(nets.models(tmp_path)) == 2 * 6
    ours = {run.cell_of(r): r for r in read_results(tmp_path, candidates.NAME)}
    for name in ("probes", "nets"):
        theirs = read_results(tmp_path, run.store_name(name))
        assert theirs
        for result in theirs:
            arms = ours[run.cell_of(result)].metrics["arms"]
            assert {r: arms[r] for r in ("random", "bis")} == result.metrics["arms"]
            masked = [m["auroc"] for n, m in arms.items() if "masked" in n]
            assert len({tuple(of) for of in masked}) == 3
    families = found.json["families"]
    assert {family: set(of["auroc"]) - {"bis"} for family, of in families.items()} == {
        "probes, scarce": set(CANDIDATES),
        "nets, scarce": HELD,
    }
    row = families["nets, scarce"]["micro_f1"]["bis masked"]
    (cell,) = (c for c in ours if (c.diagram, c.world) == ("nets", "scarce"))
    arms = {n: np.mean(m["micro_f1"]) for n, m in ours[cell].metrics["arms"].items()}
    assert row["over_bis"] == pytest.approx(arms["bis masked"] - arms["bis"])
    assert row["by_labels"] == pytest.approx(arms["random masked"] - arms["random"])
    # The same models of another world are none of these.
    world = trained[0].config["world"] | {"name": "plentiful"}
    config = trained[0].config | {"world": world}
    append_results(tmp_path, [Result(nets.MODELS, config, SPARE, trained[0].metrics)])
    assert len(nets.models(tmp_path)) == 2 * 6 + 1
    again = run_command(capsys, "run", candidates.NAME, *given)
    assert "0 cells run" in again.out
    assert "bis masked told apart below random in 0 of 4 cells" in again.out


def test_reference_results_have_the_diagrams_own_hard_arms():
    ours = {run.cell_of(r): r for r in read_results(REFERENCE, candidates.NAME)}
    theirs = {
        run.cell_of(r): r.metrics["arms"]
        for name in ("probes", "nets")
        for r in read_results(REFERENCE, run.store_name(name))
        if run.cell_of(r).placement == HARD
    }
    assert len(theirs) == 66
    for cell, arms in theirs.items():
        found = ours[cell].metrics["arms"]
        assert {rule: found[rule] for rule in arms} == arms


def counts_of(source):
    return [(source[i].successes_S, source[i].trials_S) for i in range(len(source))]


def test_masked_arms_leave_doubtful_positives_of_mixed_rollouts_out(tmp_path):
    context = nets._open(tmp_path / "c", NET, SPARE)
    hard, masked = (
        Cell(Arm("bis", 0.5, 0.05, *labels), SPARE)
        for labels in ((HARD, 0.0), ("masked", None))
    )
    rows, _ = context.usable_rows(masked)
    chosen = context.chosen(masked, rows)
    left, positive, negative = 0, 1, 1
    for (k, n), (y, counts) in zip(
        counts_of(context.chosen(hard, rows)), counts_of(chosen), strict=True
    ):
        mixed = 0 < (k > 0).sum() < len(k)
        out = [mixed and 0 < 4 * a < b for a, b in zip(k, n, strict=True)]
        assert (counts == 0).tolist() == out
        assert y.tolist() == [int(a > 0 and not o) for a, o in zip(k, out, strict=True)]
        left += sum(out)
        positive += y.sum()
        negative += (k == 0).sum()
    assert left > 0
    bias = context.initial.to_train(chosen)["head"]["bias"]
    assert bias[0] == pytest.approx(np.log(positive / negative), rel=1e-5)


# So that pyright and ruff see it used.
world = selection.world


def test_a_selection_grid_trains_on_masked_labels(world, tmp_path, capsys):
    grid = "--rules", "bis", "--keep-ratios", 0.4, "--seeds", "1,"
    labels = "--references", "none", "--labels", "hard,masked", "--keep-models"
    done = selection.command(capsys, world, tmp_path, *grid, *labels)
    assert done.status == 0, done.err
    steps, found = {}, {}
    for result in read_results(tmp_path / "results", "selection"):
        kind = result.config["arm"]["labels"]
        found[kind] = result.metrics["auroc"]
        (folder,) = (tmp_path / "models").glob(f"*-{kind}*")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        steps[kind] = sum(json.loads(line)["steps"] for line in lines)
    assert found["masked"] != found["hard"]
    usable = usable_rollouts(read_corpus(world))
    rows = choose(usable, Arm("bis", 0.4, 0.05).selection(1)).rows
    out = sum(map(len, usable.masked_steps(rows)))
    assert steps["hard"] - steps["masked"] == out > 0
