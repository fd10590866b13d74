"""What one gradient step from zero learns of a rule's subset, predicted and measured.

The prediction reads counts and truths alone; every student has features of its own.
"""

import dataclasses
from functools import cache, partial

import jax
import numpy as np
import pytest

from experiments.students.worlds import worlds
from sim.students.features import draw_frame, draw_offsets, draw_steps
from sim.students.problem import draw_problem
from sim.students.train import StepBatch, Student, batch_loss, init_params
from theory.agreement import auroc
from theory.contrast import (
    contrast_counts,
    one_step_auroc,
    pooled_efficiency,
    selection_efficiency,
)
from theory.selection import RULE_NAMES, select

KEEP = 0.1
WORLDS = ("scarce", "judged")


@cache
def subsets(name):
    """A corpus and benchmark of a world, and the rows that each rule keeps."""
    world = worlds()[name]
    problem = draw_problem(world.features, world.law, 0)
    rollouts, content = problem.rollouts, problem.content
    rows = [select(rollouts, rule, KEEP, content).rows for rule in RULE_NAMES]
    return problem, [*rows, np.arange(rollouts.n_rollouts)]


def kept_steps(rollouts, rows):
    kept = np.isin(np.arange(rollouts.n_rollouts), rows)
    return np.repeat(kept, rollouts.lengths)


def centred_labels(rollouts, rows, within):
    """Labels less their mean, of the rollout or of the subset; 0 elsewhere."""
    y, kept = rollouts.successes > 0, kept_steps(rollouts, rows)
    mean = y[kept].mean()
    if within:
        mean = np.repeat(rollouts.n_positive / rollouts.lengths, rollouts.lengths)
    return np.where(kept, y - mean, 0.0)


def efficiencies(world, rollouts, right, subset, within):
    if within:
        contrast, variation = contrast_counts(rollouts, right)
        return [selection_efficiency(contrast[of], variation[of]) for of in subset]
    shared = world.nuisance, world.source_shift
    return [
        pooled_efficiency(rollouts.take(of), right[kept_steps(rollouts, of)], *shared)
        for of in subset
    ]


def benchmark_features(world, problem, frame, rng):
    """Features of the problem's benchmark in new sources; its truths stay."""
    benchmark, split = problem.benchmark, problem.split
    offsets = draw_offsets(world, split.source_S.max() + 1, rng)
    seen = [world.signal * (split.right_S - 0.5), world.difficulty * benchmark.ease_S]
    x = np.sqrt(1 + world.nuisance**2) * rng.standard_normal(
        (len(split.right_S), world.dimension)
    )
    return x + offsets[split.source_S] + np.transpose(seen) @ frame.directions_4xD[1:3]


def errors(name, world, within, students=40):
    """Predicted less measured AUROC of each rule and of all data, ``[students, R]``."""
    problem, subset = subsets(name)
    rollouts = problem.rollouts
    u_RxS = np.stack([centred_labels(rollouts, of, within) for of in subset])
    u_RxS = u_RxS.astype(np.float32)
    rng = np.random.default_rng(20_261_127)
    # What a step to be judged shares with its rollout and source is noise to it.
    spread = np.hypot(world.nuisance, world.source_shift)
    predict = partial(
        one_step_auroc,
        signal=world.signal,
        dimension=world.dimension,
        nuisance=spread,
    )
    found = []
    for _ in range(students):
        frame = draw_frame(world, problem.corpus, rng)
        offsets = draw_offsets(world, len(rollouts.source_names), rng)
        steps = draw_steps(world, frame, problem.corpus, offsets, rng)
        test = benchmark_features(world, problem, frame, rng)
        scores_RxS = u_RxS @ steps.features_SxD @ test.T
        power = efficiencies(world, rollouts, steps.right_S, subset, within)
        measured = [auroc(scores, problem.split.right_S) for scores in scores_RxS]
        found.append(predict(power) - measured)
    return np.array(found)


@pytest.mark.parametrize("name", WORLDS)
def test_contrasts_within_rollouts_predict_every_rule(name):
    off = errors(name, worlds()[name].features, within=True).mean(axis=0)
    assert np.abs(off).max() < 0.02, dict(zip([*RULE_NAMES, "full"], off, strict=True))


@pytest.mark.parametrize("name", WORLDS)
def test_a_student_with_one_intercept_needs_the_contrasts_between_them(name):
    world = dataclasses.replace(worlds()[name].features, difficulty=0.0)
    off = errors(name, world, within=False).mean(axis=0)
    assert np.abs(off).max() < 0.02, dict(zip([*RULE_NAMES, "full"], off, strict=True))


def test_ease_that_features_show_is_learned_too_and_no_efficiency_counts_it():
    world = worlds()["scarce"].features
    assert world.difficulty > 0
    off = errors("scarce", world, within=False, students=8).mean(axis=0)
    assert off[RULE_NAMES.index("random")] < -0.04


def test_the_pooled_score_is_the_first_gradient_of_the_student():
    problem, subset = subsets("scarce")
    rows, student = subset[RULE_NAMES.index("bis")], Student()
    kept = kept_steps(problem.rollouts, rows)
    y = (problem.rollouts.successes > 0)[kept].astype(np.float32)
    x = problem.steps.features_SxD[kept]
    params = init_params(student, x.shape[1], jax.random.key(0))
    params |= {"b_O": params["b_O"] + np.log(y.mean() / (1 - y.mean()))}
    trials = problem.rollouts.trials[kept].astype(np.float32)
    batch = StepBatch(x, y, trials, np.ones_like(y))
    loss = partial(batch_loss, student, batch=batch, most_trials=int(trials.max()))
    gradient = jax.grad(loss)(params)["w_OxH"][0]
    score = centred_labels(problem.rollouts, rows, within=False)[kept] @ x
    np.testing.assert_allclose(-len(y) * gradient, score, rtol=1e-3, atol=0.05)
