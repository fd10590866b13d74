"""Cells of student experiments: arms in worlds, run in batches and stored.

A cell is one arm in one world; its metrics are lists with one value per seed. Seed i
of every arm of a world has the same corpus, features, benchmark, order of ties and
order of batches, so that arms are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.store.results import Result, append_results, cell_key, read_results
from experiments.students.worlds import World, describe
from sim.students.evaluation import (
    Split,
    auroc,
    excess_risk,
    micro_f1,
    sweep_thresholds,
)
from sim.students.plan import Training, plan_trainings, stack_plans
from sim.students.problem import Problem, draw_problem
from sim.students.train import Labels, Student, Sweep, logits, train
from theory.scores import DEFAULT_ALPHA
from theory.selection import select
from theory.summary import summarise

SEEDS = 20

# Cells that are computed together and stored when done.
_CHUNK = 96

_STEPS_ROUNDING = 4096

LabelKind = Literal["hard-0", "hard-1", "hard-2", "soft", "counts", "clean"]


@dataclass(frozen=True)
class Arm:
    """What a student is trained on.

    Attributes:
        rule: of :mod:`theory.selection`; "full" keeps everything; "bayes" is no
            student, but the best rule there is. Experiments may add rules of their own.
        keep_ratio: rho.
        alpha: BIS's alpha.
        labels: "hard-i": 1[K > i]; "soft": K/N; "counts": K and N, by the
            beta-binomial likelihood; "clean": the truth.
        unit: of the budget.
        ties: how equal scores are ordered.
        matched: train for as many updates as on all data.
    """

    rule: str
    keep_ratio: float = 1.0
    alpha: float = DEFAULT_ALPHA
    labels: LabelKind = "hard-0"
    unit: Literal["rollouts", "steps"] = "rollouts"
    ties: Literal["content", "file"] = "content"
    matched: bool = False


# Rows that an arm keeps of a problem, and the share of them that ties decided.
Chooser = Callable[[Problem, Arm], tuple[np.ndarray, float]]


def choose_rows(problem: Problem, arm: Arm) -> tuple[np.ndarray, float]:
    """Rows that a rule of the library keeps.

    Raises:
        ValueError: the rule is unknown or undefined on this corpus.
    """
    rollouts = problem.rollouts
    if arm.rule == "full":
        return np.arange(rollouts.n_rollouts), 0.0
    selection = select(
        rollouts,
        arm.rule,  # pyright: ignore[reportArgumentType]
        arm.keep_ratio,
        problem.content,
        alpha=arm.alpha,
        unit=arm.unit,
        ties=arm.ties,
    )
    return selection.rows, selection.tied_share


def run_cells(
    folder: Path,
    experiment: str,
    world: World,
    arms: Sequence[Arm],
    *,
    seed: int = 0,
    seeds: int = SEEDS,
    choose: Chooser = choose_rows,
    checkpoints: Sequence[int] | None = None,
    tick: Callable[[int], None] = lambda count: None,
) -> int:
    """Run and store the cells of a world that the store does not hold yet.

    Args:
        folder: of the store.
        experiment: its name.
        world: where.
        arms: what.
        seed: the first of the seeds is ``1000 seed``.
        seeds: how many.
        choose: how an arm selects.
        checkpoints: also evaluate after so many updates, as the metric "curve".
        tick: called with the number of cells done.

    Returns:
        how many cells were run.
    """
    done = {result.key for result in read_results(folder, experiment)}
    base = {"world": describe(world), "seeds": seeds}
    if checkpoints is not None:
        base["checkpoints"] = list(checkpoints)
    configs = [base | {"arm": asdict(arm)} for arm in arms]
    todo = [i for i, config in enumerate(configs) if cell_key(config, seed) not in done]
    for begin in range(0, len(todo), _CHUNK):
        chunk = todo[begin : begin + _CHUNK]
        found = run_arms(
            world,
            [arms[i] for i in chunk],
            range(1000 * seed, 1000 * seed + seeds),
            choose,
            checkpoints,
        )
        append_results(
            folder,
            [
                Result(experiment, configs[i], seed, metrics)
                for i, metrics in zip(chunk, found, strict=True)
            ],
        )
        tick(begin + len(chunk))
    return len(todo)


def run_arms(
    world: World,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    choose: Chooser = choose_rows,
    checkpoints: Sequence[int] | None = None,
    excess: bool = True,
) -> list[dict[str, Any]]:
    """Metrics of every arm, each a list with one value per seed.

    Args:
        world: where.
        arms: what.
        seeds: of corpus, features, benchmark and orders.
        choose: how an arm selects.
        checkpoints: also evaluate after so many updates.
        excess: whether to compute the excess risk, for which the Bayes rule is needed.
    """
    problems = [draw_problem(world.features, world.law, seed) for seed in seeds]
    metrics: list[dict[str, Any]] = [{} for _ in arms]
    for i, arm in enumerate(arms):
        if arm.rule == "bayes":
            metrics[i] = _bayes(problems)
    for likelihood in ("cross-entropy", "beta-binomial"):
        chosen = [
            i
            for i, arm in enumerate(arms)
            if arm.rule != "bayes"
            and (arm.labels == "counts") == (likelihood == "beta-binomial")
        ]
        if chosen:
            student = replace(world.student, likelihood=likelihood)
            found = _train_arms(
                world, student, [arms[i] for i in chosen], problems, seeds,
                choose, checkpoints, excess,
            )  # fmt: skip
            for i, values in zip(chosen, found, strict=True):
                metrics[i] = values
    return metrics


def _train_arms(
    world: World,
    student: Student,
    arms: Sequence[Arm],
    problems: Sequence[Problem],
    seeds: Sequence[int],
    choose: Chooser,
    checkpoints: Sequence[int] | None,
    excess: bool,
) -> list[dict[str, Any]]:
    kinds: list[LabelKind] = sorted({arm.labels for arm in arms})
    facts: list[list[dict[str, float]]] = [[] for _ in arms]
    plans = []
    for problem, seed in zip(problems, seeds, strict=True):
        full = Training(np.arange(problem.rollouts.n_rollouts), passes=world.passes)
        cache: dict[Arm, tuple[np.ndarray, float]] = {}
        trainings = []
        for i, arm in enumerate(arms):
            selects = Arm(
                arm.rule, arm.keep_ratio, arm.alpha, unit=arm.unit, ties=arm.ties
            )
            if selects not in cache:
                cache[selects] = choose(problem, arm)
            rows, tied = cache[selects]
            training = Training(
                rows,
                kinds.index(arm.labels),
                full.length(world.batch) if arm.matched else None,
                world.passes,
            )
            trainings.append(training)
            facts[i].append(
                _facts(problem, rows)
                | {"tied_share": tied, "updates": training.length(world.batch)}
            )
        plans.append(
            plan_trainings(problem.rollouts.offsets, trainings, world.batch, seed)
        )
    sweep = Sweep(
        _stack([problem.steps.features_SxD for problem in problems]),
        Labels(
            _stack([_targets(problem, kinds) for problem in problems]).swapaxes(1, 2),
            _stack([p.rollouts.trials.astype(np.float32) for p in problems]),
        ),
        stack_plans(plans),
        list(seeds),
    )
    params = train(student, sweep, checkpoints)
    scores = logits(student, params, [p.benchmark.features_SxD for p in problems])
    final = _evaluate([x[:, -1] for x in scores], problems, excess)
    curves = _curves(scores, problems, checkpoints) if checkpoints else None
    results = []
    for i in range(len(arms)):
        values = {name: _rounded(column[:, i]) for name, column in final.items()}
        described = {
            name: round(float(np.mean([f[name] for f in facts[i]])), 6)
            for name in facts[i][0]
        }
        results.append(values | {"subset": described})
        if curves is not None:
            results[-1]["curve"] = {
                name: _rounded(column[i]) for name, column in curves.items()
            }
    return results


def _stack(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of the steps of all seeds, zeros after a seed's last step."""
    longest = max(map(len, columns))
    longest = -(-longest // _STEPS_ROUNDING) * _STEPS_ROUNDING
    table = np.zeros((len(columns), longest, *columns[0].shape[1:]), np.float32)
    for row, column in zip(table, columns, strict=True):
        row[: len(column)] = column
    return table


def _targets(problem: Problem, kinds: Sequence[LabelKind]) -> np.ndarray:
    """Target of each step under each kind of labels, ``[S, K]``."""
    k, n = problem.rollouts.successes, problem.rollouts.trials
    columns = {
        "soft": k / n,
        "counts": k / n,
        "clean": problem.steps.right_S,
        "hard-0": k > 0,
        "hard-1": k > 1,
        "hard-2": k > 2,
    }
    return np.stack([columns[kind] for kind in kinds], axis=1)


def _facts(problem: Problem, rows: np.ndarray) -> dict[str, float]:
    """What is in a subset, and how many of its hard labels are wrong."""
    subset = problem.rollouts.take(rows)
    summary = summarise(subset)
    kept = np.zeros(problem.rollouts.n_rollouts, bool)
    kept[rows] = True
    right = problem.steps.right_S[np.repeat(kept, problem.rollouts.lengths)]
    positive = subset.successes > 0
    return {
        "rollouts": summary.rollouts,
        "steps": summary.steps,
        "mixed_share": summary.mixed_share,
        "error_step_ratio": summary.error_step_ratio,
        "mean_mc": summary.mean_mc,
        "wrong_positives": float(np.mean(~right[positive])) if positive.any() else 0.0,
        "right_negatives": float(np.mean(right[~positive])) if ~positive.all() else 0.0,
    }


def _evaluate(
    scores: Sequence[np.ndarray], problems: Sequence[Problem], excess: bool
) -> dict[str, np.ndarray]:
    """Metrics ``[seeds, A]`` of scores ``[A, S]`` per seed.

    ``micro_f1`` takes its threshold from the held-out half; ``micro_f1_on_test`` from
    the test half itself, as the released evaluator does.
    """
    rows = []
    for scores_AxS, problem in zip(scores, problems, strict=True):
        held_out = problem.held_out_S
        halves = [
            Split(*(x[of] for x in problem.split)) for of in (held_out, ~held_out)
        ]
        best = sweep_thresholds(scores_AxS[:, held_out], halves[0])
        test_AxS = scores_AxS[:, ~held_out]
        right = halves[1].right_S
        rows.append(
            {
                "micro_f1": micro_f1(test_AxS, halves[1], best.threshold_A),
                "micro_f1_on_test": sweep_thresholds(test_AxS, halves[1]).micro_f1_A,
                "auroc": auroc(test_AxS, right),
            }
        )
        if excess:
            bayes_S = problem.bayes[~held_out]
            rows[-1]["excess_risk"] = excess_risk(test_AxS, right, bayes_S)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _bayes(problems: Sequence[Problem]) -> dict[str, Any]:
    scores = [problem.bayes[None] for problem in problems]
    found = _evaluate(scores, problems, excess=True)
    values: dict[str, Any] = {n: _rounded(column[:, 0]) for n, column in found.items()}
    facts = [
        _facts(problem, np.arange(problem.rollouts.n_rollouts)) for problem in problems
    ]
    return values | {
        "subset": {n: round(float(np.mean([f[n] for f in facts])), 6) for n in facts[0]}
    }


def _curves(
    scores: Sequence[np.ndarray],
    problems: Sequence[Problem],
    checkpoints: Sequence[int],
) -> dict[str, np.ndarray]:
    """Mean over seeds and its standard error at each checkpoint, ``[A, points]``."""
    points = [
        _evaluate([x[:, i] for x in scores], problems, excess=False)
        for i in range(len(checkpoints))
    ]
    curves = {}
    for name in ("micro_f1", "auroc"):
        values = np.stack([point[name] for point in points], axis=-1)
        curves[name] = values.mean(axis=0)
        curves[f"{name}_se"] = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return curves


def _rounded(values: np.ndarray) -> list[float]:
    """Six digits: more would say nothing and fill the store."""
    return [round(float(value), 6) for value in values]
