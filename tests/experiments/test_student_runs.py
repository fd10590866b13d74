"""Student experiments: cells, resumption, what arms keep, and what is reported."""

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest

from experiments.store.experiment import ExperimentOptions
from experiments.store.results import REFERENCE, Result, read_results
from experiments.students import sweeps
from experiments.students.arms import CANDIDATES, Arm
from experiments.students.contrasts import compare
from experiments.students.runs import (
    VARIANTS,
    GivenTask,
    Lesson,
    SeenSteps,
    choose_rows,
    labels_of_arm,
    run_arms,
    run_cells,
    train_arms,
)
from experiments.students.worlds import (
    World,
    corpus_of_mixed_share,
    describe,
    worlds,
)
from sim.corpus.sources import Source
from sim.students.evaluation import auroc
from sim.students.features import FeatureWorld
from sim.students.problem import CorpusLaw, draw_problem, from_moments
from sim.students.train import Student
from theory.scores import bis, label_mixture
from theory.summary import summarise

LAW = CorpusLaw(
    from_moments(0.6, 0.7),
    (Source("a", 0.8, 5600, 1000), Source("b", 0.9, 5600, 1000)),
    400,
)
TINY = World("tiny", "fast", LAW, FeatureWorld(dimension=8))
ARMS = [Arm("full"), Arm("bis", 0.2), Arm("random", 0.2), Arm("bayes")]


def test_a_second_run_finds_every_cell_and_a_new_arm_runs_alone(tmp_path):
    def ran(arms, seed=0):
        options = ExperimentOptions(output=tmp_path, seed=seed)
        return run_cells(options, "x", TINY, arms, seeds=2)

    assert ran(ARMS[:2]) == 2
    before = (tmp_path / "x.jsonl").read_bytes()
    assert ran(ARMS[:2]) == 0
    assert (tmp_path / "x.jsonl").read_bytes() == before
    assert ran(ARMS[:3]) == 1
    assert ran(ARMS[:2], seed=1) == 2
    cells = read_results(tmp_path, "x")
    assert [cell.config["arm"] for cell in cells[:3]] == list(map(asdict, ARMS[:3]))
    assert cells[0].config["world"] == describe(TINY)


def test_cells_do_not_depend_on_the_arms_beside_them():
    together = run_arms(TINY, ARMS, [3, 4])
    for arm, metrics in zip(ARMS, together, strict=True):
        (alone,) = run_arms(TINY, [arm], [3, 4])
        assert alone == metrics
    assert all(len(m["micro_f1"]) == 2 for m in together)
    # No student beats the Bayes rule but by luck of the draw.
    assert np.mean(together[3]["auroc"]) > np.mean(together[0]["auroc"]) - 0.02
    assert np.max(np.abs(together[3]["excess_risk"])) < 0.02


def test_labels_and_updates_are_the_arm_s():
    arms = [
        Arm("full"),
        Arm("full", labels="clean"),
        Arm("full", labels="counts"),
        Arm("random", 0.25, matched=True),
    ]
    found = run_arms(TINY, arms, [0, 1], checkpoints=[5, 50])
    assert found[3]["subset"]["updates"] == found[0]["subset"]["updates"] == 50
    assert found[3]["subset"]["rollouts"] == 100
    assert len({tuple(m["micro_f1"]) for m in found}) == 4
    for metrics in found:
        assert metrics["curve"]["auroc"][1] == pytest.approx(
            np.mean(metrics["auroc"]), abs=1e-5
        )


def test_blind_labels_err_as_often_in_the_arm_s_own_subset_but_elsewhere():
    problem = draw_problem(TINY.features, LAW, 0)
    right, hard = problem.steps.right_S, problem.rollouts.successes > 0
    drawn = {}
    for arm in (Arm("bis", 0.2), Arm("random", 0.2), Arm("random", 0.2, matched=True)):
        rows, _ = choose_rows(problem, arm)
        of = np.isin(
            problem.rollouts.rollout,
            rows,
        )
        blind = replace(arm, labels="blind")
        label, weight = labels_of_arm(problem, blind, rows, 7)
        assert weight.all()
        for kind in (right, ~right):
            assert label[of & kind].sum() == hard[of & kind].sum()
        assert np.mean(label[of] != hard[of]) > 0.02
        drawn[blind] = label
        assert np.array_equal(label, labels_of_arm(problem, blind, rows, 7)[0])
        assert np.any(label != labels_of_arm(problem, blind, rows, 8)[0])
    _, random, matched = drawn.values()
    assert np.array_equal(random, matched)


def test_a_given_task_is_taught_as_the_simulated_one_and_unmeasured_steps_are_not():
    problem = draw_problem(TINY.features, LAW, 0)
    steps, benchmark = (
        SeenSteps(x.features_SxD, x.right_S) for x in (problem.steps, problem.benchmark)
    )
    task = GivenTask(
        problem.rollouts, problem.content, steps, benchmark, problem.split,
        problem.held_out_S,
    )  # fmt: skip
    arms = [Arm("bis", 0.2), Arm("full", labels="blind"), Arm("full", labels="counts")]
    lesson = Lesson(TINY.student, TINY.batch)
    found = train_arms([task], arms, [0], lesson)
    assert found == run_arms(TINY, arms, [0], excess=False)
    (positive,) = train_arms([task], [Arm("full", labels="all-positive")], [0], lesson)
    assert positive["auroc"] != found[1]["auroc"]

    trials = problem.rollouts.trials.copy()
    trials[1::2] = 0
    counts = replace(
        problem.rollouts,
        trials=trials,
        successes=problem.rollouts.successes * (trials > 0),
    )
    noise = np.where(trials[:, None] > 0, steps.features_SxD, 9).astype(np.float32)
    half = replace(task, rollouts=counts)
    other = replace(half, steps=SeenSteps(noise, steps.right_S))
    arms = [Arm("full", labels=kind) for kind in ("hard-0", "soft", "clean", "blind")]
    assert train_arms([half], arms, [0], lesson) == train_arms(
        [other], arms, [0], lesson
    )
    with pytest.raises(ValueError, match="ease"):
        choose_rows(task, Arm("bis-easy-first", 0.2))


def test_candidates_differ_from_hard_labels_where_they_say_and_random_has_each():
    arms = {name: replace(arm, keep_ratio=0.2) for name, arm in CANDIDATES.items()}
    labels = {arm.labels for arm in arms.values()}
    assert {arm.labels for arm in arms.values() if arm.rule == "random"} | {
        "hard-0"
    } == labels
    every = [*arms.values(), Arm("random", 0.2), Arm("bis", 0.2)]
    found = run_arms(TINY, every, [0, 1], excess=False)
    assert len({tuple(m["auroc"]) for m in found}) == len(every)
    assert all(m["auroc"][0] > 0.5 for m in found)


def test_subset_facts_are_those_of_the_rows():
    problem = draw_problem(TINY.features, TINY.law, 0)
    rows, tied = choose_rows(problem, Arm("bis", 0.2))
    (metrics,) = run_arms(TINY, [Arm("bis", 0.2)], [0])
    summary = summarise(problem.rollouts.take(rows))
    subset = metrics["subset"]
    assert subset["tied_share"] == pytest.approx(tied, abs=1e-6)
    assert subset["mixed_share"] == pytest.approx(summary.mixed_share, abs=1e-6)
    assert subset["updates"] == -(-len(rows) // TINY.batch)


def test_tie_variants_keep_what_they_say():
    problem = draw_problem(TINY.features, LAW, 1)
    rollouts = problem.rollouts
    mixed = label_mixture(rollouts) > 0
    negative = rollouts.n_positive == 0
    score = bis(rollouts, 0.05)

    def rows(variant, keep=0.5):
        return choose_rows(problem, Arm(variant, keep))[0]

    plain = rows("bis")
    assert len(plain) == len(rows("bis-random-filler")) == len(rows("bis-file"))
    above = np.flatnonzero(score > 0.05)
    for variant in VARIANTS:
        assert set(above) <= set(rows(variant)), variant
    assert set(rows("bis-no-filler")) == set(above)
    assert not np.any(negative[rows("bis-perfect-filler")])
    ease = problem.steps.ease_S[rollouts.offsets[:-1]]
    easy, hard = rows("bis-easy-first"), rows("bis-hard-first")
    assert ease[easy].mean() > ease[hard].mean()
    assert np.all(mixed[rows("bis-no-filler")])
    kept, filler = choose_rows(problem, Arm("bis-file", 0.5))
    assert filler == np.mean(~mixed[kept]) > 0.5


SWEEPS = ("RULES", "LABELS", "ALPHA", "MC_BUDGET", "TIES", "PLATEAU")


@pytest.mark.parametrize("name", SWEEPS)
def test_every_contrast_singles_out_two_arms_of_the_experiment(name):
    sweep = getattr(sweeps, name)
    arms = sweep.arms_of(sweep.variants(worlds()["scarce"])[0], "full")
    assert len({arm.name for arm in arms}) == len(arms)
    world, metrics = {"name": "w"}, {"micro_f1": [0.1, 0.2, 0.4]}
    results = [
        Result("x", {"world": world, "arm": asdict(arm)}, 0, metrics) for arm in arms
    ]
    for contrasts in (sweep.contrasts, sweep.added):
        assert len(compare(results, contrasts)) == len(contrasts)
    assert sweep.contrasts
    assert {*sweep.small, *sweep.full} <= set(worlds())


def test_the_law_with_a_floor_is_told_from_equation_4():
    cells = []
    for steps in (500, 1000, 2000, 5000, 10_000, 50_000):
        excess = 0.02 + 30 / steps + 0.5 / (steps / 40)
        metrics = {
            "subset": {"steps": steps, "updates": steps / 40},
            "excess_risk": [excess, excess],
        }
        arm = {"rule": "random", "labels": "hard-0"}
        cells.append(Result("plateau", {"arm": arm}, 0, metrics))
    laws = sweeps.fit_laws(cells)
    assert laws["exact"]["coefficients"][0] == pytest.approx(0.02, rel=1e-6)
    assert laws["exact"]["rms_left_out"] < 1e-9 < 1e-3 < laws["eq4"]["rms_left_out"]


def test_the_named_worlds_are_what_they_are_called():
    named = worlds()
    for name, share in (("scarce", 0.0767), ("plentiful", 0.48), ("chained", 0.0767)):
        corpus = named[name].law.draw(np.random.default_rng(0))
        found = summarise(corpus.rollouts).mixed_share
        assert found == pytest.approx(share, rel=0.12), name
    assert all(world.why for world in named.values())
    assert describe(named["scarce"]) != describe(
        replace(named["scarce"], features=FeatureWorld(late=0.5))
    )


def test_reference_cells_keep_their_keys_and_order_and_knowledge_make_new_ones():
    plain = worlds()
    for cell in read_results(REFERENCE, "rules"):
        stored = cell.config["world"]
        assert describe(plain[stored["name"]]) == stored
    scarce = plain["scarce"]
    ordered = replace(scarce, law=replace(scarce.law, order=0.5))
    others = [
        ordered,
        replace(scarce, knowledge=1.0),
        replace(scarce, knowledge=1.0, knowledge_noise=0.5),
    ]
    described = [describe(world) for world in [scarce, *others]]
    assert all(a != b for a, b in itertools.combinations(described, 2))
    # Without knowledge there is nothing that could err.
    assert describe(replace(scarce, knowledge_noise=1.0)) == described[0]


def test_the_untrained_student_is_its_start_and_knowledge_reaches_the_trained_one():
    known = replace(TINY, knowledge=1.5, knowledge_noise=0.5)
    arms = [Arm("start"), Arm("random", 0.2)]
    start, random = run_arms(known, arms, [0, 1], excess=False)
    for i, seed in enumerate((0, 1)):
        problem = draw_problem(known.features, known.law, seed)
        scores = problem.benchmark.features_SxD @ known.start(problem, seed)
        test = ~problem.held_out_S
        area = auroc(scores[None, test], problem.split.right_S[test])[0]
        assert start["auroc"][i] == pytest.approx(area, abs=1e-6)
    still = replace(known, student=Student(learning_rate=1e-9))
    unmoved, _ = (run_arms(still, [arm], [0, 1])[0] for arm in reversed(arms))
    assert unmoved["auroc"] == pytest.approx(start["auroc"], abs=1e-4)
    assert random["auroc"] != pytest.approx(start["auroc"], abs=1e-3)
    with pytest.raises(ValueError, match="logistic"):
        replace(known, student=Student(kind="mlp"))
    with pytest.raises(ValueError, match="knowledge"):
        replace(TINY, knowledge=-1.0)


def test_a_mixed_share_beyond_reach_gives_the_nearest():
    law = corpus_of_mixed_share(0.9, 0.6, 0.85, 100)
    wanted = corpus_of_mixed_share(0.1, 0.6, 0.85, 100)
    assert law.model == wanted.model
    assert law.sources[0].mean_mc < wanted.sources[0].mean_mc
