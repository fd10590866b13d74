"""Phase diagrams: cells, contrasts, what probes see, and resumption."""

import jax
import numpy as np
import pytest

from experiments.corpora.scenes import read_truth, write_world
from experiments.phase import nets, probes, run, students
from experiments.phase.cells import Cell, by_unit, follows
from experiments.phase.design import (
    AXIS,
    BLIND,
    CLEAN,
    HALF_BLIND,
    HARD,
    PLACED,
    UNORDERED,
    Nets,
    Probes,
    Students,
)
from experiments.phase.report import Diagram, as_text, claims, slopes
from experiments.store.results import read_results
from mprm_jax.data.corpus import read_corpus
from mprm_jax.models import tiny
from sim.scenes.world import WORLDS
from theory.rollouts import Rollouts

UNITS = 6


def diagram(kind, gain, knowledge=(0.0, 1.0, 2.0), rates=(None,), noise=1e-3):
    """A diagram of one keep ratio whose gain is a function of its place."""
    rng = np.random.default_rng(1)
    cells = {}
    for rate in rates:
        for level in knowledge:
            for placement in (*AXIS[kind], CLEAN):
                cell = Cell(kind, "w", level, placement, 0.1, UNITS, 2, rate)
                base = rng.normal(0.8, 0.05, 2 * UNITS)
                bis = base + gain(cell) + rng.normal(0, noise, 2 * UNITS)
                arms = {"random": base, "bis": bis}
                cells[cell] = {
                    "position_auroc": None if placement == CLEAN else [0.5],
                    "arms": {r: {"auroc": x, "micro_f1": x} for r, x in arms.items()},
                }
    return Diagram(kind, "w", cells)


def test_a_unit_is_a_corpus_whose_seeds_are_averaged():
    cell = Cell("probes", "w", 300, HARD, 0.1, units=2, seeds=3)
    # Seeds of the first corpus come first.
    bis = [0.1, 0.2, 0.3, 1.0, 1.1, 1.2]
    metrics = {"arms": {"random": {"auroc": [0.0] * 6}, "bis": {"auroc": bis}}}
    assert by_unit(cell, metrics, "auroc") == pytest.approx([0.2, 1.1])


def test_slopes_are_those_of_lines_a_level():
    lines = diagram(
        "students",
        lambda cell: -0.02 * cell.knowledge + 0.01 * (cell.placement == PLACED),
        noise=1e-9,
    )
    knowledge = slopes(lines, "knowledge")
    assert {slope.at.placement for slope in knowledge} == {*AXIS["students"], CLEAN}
    for slope in knowledge:
        assert slope.of_units == pytest.approx([-0.02] * UNITS, abs=1e-6)
    # Over blind, half, placed at 0, 0, .01 the least-squares line rises .005 a level.
    for slope in slopes(lines, "placement"):
        assert slope.of_units == pytest.approx([0.005] * UNITS, abs=1e-6)


def test_claims_count_what_is_told_apart():
    def gain(cell):
        if cell.placement == CLEAN:
            return 0.0
        return 0.03 - 0.02 * cell.knowledge - 0.03 * (cell.placement == PLACED)

    found = claims(diagram("students", gain))
    # Blind and half: .03, .01, -.01; placed: 0, -.02, -.04.
    assert found["placements"][BLIND] == {"above": 2, "open": 0, "below": 1}
    assert found["placements"][PLACED] == {"above": 0, "open": 1, "below": 2}
    assert (found["blind"]["refuted"], found["clean"]["refuted"]) == (True, False)
    by = found["knowledge"].pop("by")
    assert found["knowledge"] == {"falls": 3, "open": 1, "rises": 0}
    assert by[CLEAN] == {"falls": 0, "open": 1, "rises": 0}
    by = found["placement"].pop("by")
    assert found["placement"] == by["10 %"] == {"falls": 3, "open": 0, "rises": 0}
    assert found["crossing"] == {"loses": 1, "gains": 1, "refuted": False}


@pytest.mark.parametrize(
    ("falls", "decided"),
    [((0.02, 0.02), "it does"), ((0.0, 0.0), "open"), ((0.02, 0.0), "it does not")],
)
def test_nets_are_decided_by_both_rates(falls, decided):
    by_rate = dict(zip((1e-4, 1e-3), falls, strict=True))
    of = diagram(
        "nets", lambda cell: -by_rate[cell.rate] * cell.knowledge, rates=tuple(by_rate)
    )
    assert claims(of)["decided"] == decided
    assert max(map(len, as_text(of).splitlines())) <= 80


def test_labels_are_moved_as_far_along_the_axis_as_their_names_say():
    rng = np.random.default_rng(0)
    n = 3000
    counts = rng.integers(0, 2, 8 * n)
    rollouts = Rollouts(
        counts, np.ones(8 * n, int), 8 * np.arange(n + 1), np.zeros(n, int), ("a",)
    )
    right = rng.random(8 * n) < 0.5
    found = {
        labels: follows(rollouts, right, labels, 0)
        for labels in (HARD, BLIND, "half-by-position", PLACED)
    }
    # (1 + share) / 2, less what ties of eight positions take; standard error .004.
    assert found[BLIND] == pytest.approx(0.5, abs=0.015)
    assert found[HARD] == pytest.approx(0.5, abs=0.015)
    assert found["half-by-position"] == pytest.approx(0.7, abs=0.03)
    assert found[PLACED] == pytest.approx(0.9, abs=0.04)


# --- probes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return probes.drawn(WORLDS["scarce"], 60, 20, 10_000)


def test_probes_are_trained_on_the_corpora_that_nets_read(scenes, tmp_path):
    write_world(
        tmp_path / "w", WORLDS["scarce"], rollouts=60, judged=20, problems=5,
        seed=10_000,
    )  # fmt: skip
    corpus = read_corpus(tmp_path / "w")
    truth = np.concatenate([of.correct for of in read_truth(tmp_path / "w", corpus)])
    names, ours = corpus.rollouts.source_names, scenes.rollouts
    order = np.argsort([ours.source_names.index(name) for name in names])
    rows = np.concatenate(
        [np.flatnonzero(corpus.rollouts.source == source) for source in order]
    )
    theirs = corpus.rollouts.take(rows)
    np.testing.assert_array_equal(ours.successes, theirs.successes)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)
    assert (truth == 1).sum() <= scenes.right_S.sum() <= (truth >= 0).sum()


def test_hidden_states_do_not_depend_on_the_batch(scenes):
    model, params = tiny.pretrained()
    prompts = probes.prompts_of(model, scenes, 10_000)
    hidden = probes.hidden_states(model, params, prompts)
    steps = [len(marker) for marker in prompts.markers]
    assert len(hidden) == sum(steps)
    assert len(hidden) == scenes.rollouts.n_steps + sum(
        len(of.action) for of in scenes.solutions[len(scenes.rollouts.source_names) :]
    )
    first = np.cumsum(steps) - steps

    @jax.jit
    def alone(images, tokens):
        seen = tiny.see(model.config, params, images)
        return tiny.hidden_states(model.config, params, tokens, seen)[0]

    row = int(np.argmin([len(tokens) for tokens in prompts.tokens]))
    found = alone(prompts.images_RxPxD[row][None], prompts.tokens[row][None])
    ours = hidden[first[row] : first[row] + steps[row]]
    # Float16 keeps three digits.
    np.testing.assert_allclose(ours, found[prompts.markers[row]], rtol=2e-3, atol=2e-3)


def test_features_are_standardised_by_the_corpus_alone():
    rng = np.random.default_rng(0)
    hidden = rng.normal(3, 5, (50, 4)).astype(np.float16)
    hidden[:, 3] = 1
    found = probes.standardised(hidden, 30)
    np.testing.assert_allclose(found[:30].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found[:30, :3].std(axis=0), 1, rtol=1e-5)
    hidden[30:, :3] *= 2
    np.testing.assert_array_equal(probes.standardised(hidden, 30)[:30], found[:30])


# --- runs -----------------------------------------------------------------------------


def options(tmp_path, **given):
    return run.Options(output=tmp_path, **given)


def test_cells_of_one_training_are_computed_together_and_once(tmp_path):
    design = Students(("scarce",), (0.0, 1.0), (UNORDERED, BLIND), 2)
    asked = []

    def compute(group):
        asked.append(list(group))
        arm = {"auroc": [0.5, 0.6], "micro_f1": [0.5, 0.6]}
        arms = {"random": arm, "bis": arm}
        return [{"position_auroc": [0.5, 0.5], "arms": arms} for _ in group]

    given = (options(tmp_path), students.cells(design), lambda cell: {}, compute)
    (found,), ran = run._complete(*given)
    assert (ran, len(found.cells), len(asked)) == (16, 16, 4)
    assert all(len({cell._replace(keep_ratio=0) for cell in of}) == 1 for of in asked)
    store = tmp_path / "phase_students.jsonl"
    lines = store.read_text().splitlines(keepends=True)
    # Two cells of different trainings are lost.
    store.write_text("".join(lines[:3] + lines[5:]))
    asked.clear()
    (again,), ran = run._complete(*given)
    assert (ran, [len(of) for of in asked]) == (2, [1, 1])
    assert again.cells.keys() == found.cells.keys()


def test_stages_that_nobody_has_are_named(tmp_path, capsys):
    found = run.find_backbones(tmp_path, (7, 2400, 6000))
    assert found == {2400: "2400", 6000: tiny.FULL}
    assert "stages 7" in capsys.readouterr().err
    (tmp_path / "b-7.safetensors").write_bytes(tiny.pretrained_bytes("2400"))
    assert list(run.find_backbones(tmp_path, (7, 6000))) == [7, 6000]


def test_every_diagram_runs_and_a_second_time_finds_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        run, "STUDENTS", {"small": Students(("scarce",), (1.0,), (BLIND,), 2)}
    )
    monkeypatch.setattr(
        run,
        "PROBES",
        {"small": Probes(("scarce",), (2400,), (HALF_BLIND,), 2, 2, 80, 40)},
    )
    monkeypatch.setattr(
        run,
        "NETS",
        {
            "small": Nets(
                stages=(2400,), rates=(5e-4,), placements=(HARD,), units=2,
                rollouts=80, judged=40,
            )
        },
    )  # fmt: skip
    run.run(options(tmp_path, seed=10))
    assert "9 cells run" in capsys.readouterr().out
    cells = {
        name: read_results(tmp_path, run.store_name(name)) for name in run.DIAGRAMS
    }
    assert {name: len(of) for name, of in cells.items()} == {
        "students": 4, "probes": 4, "nets": 1,
    }  # fmt: skip
    assert len(read_results(tmp_path, nets.MODELS)) == 4
    for of in cells.values():
        for cell in of:
            place = run.cell_of(cell)
            gains = by_unit(place, cell.metrics, "auroc")
            assert np.isfinite(gains).tolist() == [True, True]
    # The unit of a cell is the model of its number.
    hard = next(c for c in cells["nets"] if run.cell_of(c).placement == HARD)
    models = {
        (r.seed, r.config["arm"]["rule"]): r.metrics["auroc"]
        for r in read_results(tmp_path, nets.MODELS)
        if r.config["arm"]["labels"] == "hard"
    }
    assert hard.metrics["arms"]["bis"]["auroc"] == [
        models[10_000, "bis"], models[10_001, "bis"],
    ]  # fmt: skip
    run.run(options(tmp_path, seed=10))
    assert "0 cells run" in capsys.readouterr().out
