"""Cells of student experiments: arms in worlds, run in batches and stored.

A cell is one arm in one world; its metrics are lists with one value per seed. Seed i
of every arm of a world has the same corpus, features, benchmark, order of ties and
order of batches, so that arms are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from experiments.store.experiment import ExperimentOptions, complete
from experiments.students.arms import Arm, LabelKind
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
from theory.rollouts import Rollouts
from theory.scores import bis
from theory.selection import budget, select
from theory.summary import summarise

SEEDS = 20

# Cells that are computed together and stored when done.
_CHUNK = 96

_STEPS_ROUNDING = 4096


# --- what an arm keeps ----------------------------------------------------------------


class Variant(NamedTuple):
    """BIS with other ties: all that is not mixed scores alpha, or is pushed back to 0.

    Attributes:
        order: of equal scores, ascending, ``[R]``; None: by content.
        last: which rollouts score 0.
        filler: which of the rollouts that do not score above alpha score alpha, all
            others 0; None: every one as BIS has it.
        fills: whether rollouts that do not score above alpha are kept at all.
    """

    order: Callable[[Problem], np.ndarray] | None = None
    last: Callable[[Rollouts], np.ndarray] | None = None
    filler: Callable[[Rollouts], np.ndarray] | None = None
    fills: bool = True


def _ease(problem: Problem) -> np.ndarray:
    """A rollout's ease as features show it, which is its true mean r."""
    return problem.steps.ease_S[problem.rollouts.offsets[:-1]]


def _all_negative(rollouts: Rollouts) -> np.ndarray:
    return rollouts.n_positive == 0


def _perfect(rollouts: Rollouts) -> np.ndarray:
    return rollouts.n_positive == rollouts.n_measured


VARIANTS = {
    "bis-file": Variant(order=lambda problem: np.arange(problem.rollouts.n_rollouts)),
    "bis-easy-first": Variant(order=lambda problem: -_ease(problem)),
    "bis-hard-first": Variant(order=_ease),
    "bis-all-negative-0": Variant(last=_all_negative),
    "bis-no-filler": Variant(fills=False),
    "bis-random-filler": Variant(filler=lambda of: np.ones(of.n_rollouts, bool)),
    "bis-perfect-filler": Variant(filler=_perfect),
    "bis-all-negative-filler": Variant(filler=_all_negative),
}


def choose_rows(problem: Problem, arm: Arm) -> tuple[np.ndarray, float]:
    """Rows that an arm keeps, and the share of them that ties decided; of a variant of
    BIS, the share of its filler: rollouts not mixed.

    Raises:
        ValueError: the rule is unknown or undefined on this corpus.
    """
    rollouts = problem.rollouts
    if arm.rule == "full":
        return np.arange(rollouts.n_rollouts), 0.0
    if arm.rule in VARIANTS:
        rows = _variant_rows(problem, VARIANTS[arm.rule], arm)
        mixed = ~_all_negative(rollouts) & ~_perfect(rollouts)
        return rows, float(np.mean(~mixed[rows]))
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


def _variant_rows(problem: Problem, variant: Variant, arm: Arm) -> np.ndarray:
    """Rows with the largest keys of each source, equal ones by the variant's order."""
    rollouts = problem.rollouts
    key = bis(rollouts, arm.alpha)
    if variant.last is not None:
        key = np.where(variant.last(rollouts), 0.0, key)
    if variant.filler is not None:
        filled = np.where(variant.filler(rollouts), arm.alpha, 0.0)
        key = np.where(key > arm.alpha, key, filled)
    order = problem.content.astype(np.float64)
    if variant.order is not None:
        order = variant.order(problem)
    chosen = []
    for source in range(len(rollouts.source_names)):
        rows = np.flatnonzero(rollouts.source == source)
        ranked = rows[np.lexsort((order[rows], -key[rows]))]
        chosen.append(ranked[: budget(len(rows), arm.keep_ratio)])
    rows = np.sort(np.concatenate(chosen))
    if variant.fills:
        return rows
    above = rows[key[rows] > arm.alpha]
    # A subset must not be empty: the best rollout stays.
    return above if len(above) else rows[[np.argmax(key[rows])]]


# --- cells ----------------------------------------------------------------------------


def run_cells(
    options: ExperimentOptions,
    experiment: str,
    world: World,
    arms: Sequence[Arm],
    checkpoints: Sequence[int] | None = None,
    seeds: int = SEEDS,
) -> int:
    """Run and store the cells of a world that the store does not hold yet.

    Args:
        options: with the folder of the store; the first of the seeds is 1000 times its
            seed.
        experiment: its name.
        world: where.
        arms: what.
        checkpoints: also evaluate after so many updates, as the metric "curve".
        seeds: how many.

    Returns:
        how many cells were run.
    """
    base = {"world": describe(world), "seeds": seeds}
    if checkpoints is not None:
        base["checkpoints"] = list(checkpoints)
    configs = [base | {"arm": asdict(arm)} for arm in arms]
    numbers = range(1000 * options.seed, 1000 * options.seed + seeds)

    def run(chosen: list[int]) -> list[dict[str, Any]]:
        return run_arms(world, [arms[i] for i in chosen], numbers, checkpoints)

    return complete(options, experiment, configs, run, together=_CHUNK)[1]


def run_arms(
    world: World,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    checkpoints: Sequence[int] | None = None,
    excess: bool = True,
) -> list[dict[str, Any]]:
    """Metrics of every arm, each a list with one value per seed.

    Args:
        world: where.
        arms: what.
        seeds: of corpus, features, benchmark and orders.
        checkpoints: also evaluate after so many updates.
        excess: whether to compute the excess risk, for which the Bayes rule is needed.
    """
    bench = _Bench(
        world,
        [draw_problem(world.features, world.law, seed) for seed in seeds],
        seeds,
        checkpoints,
        excess,
    )
    metrics: list[dict[str, Any]] = [{} for _ in arms]
    groups = {"cross-entropy": [], "beta-binomial": []}
    for i, arm in enumerate(arms):
        if arm.rule == "bayes":
            metrics[i] = _bayes(bench)
        else:
            counts = arm.labels == "counts"
            groups["beta-binomial" if counts else "cross-entropy"].append(i)
    for likelihood, chosen in groups.items():
        if chosen:
            student = replace(world.student, likelihood=likelihood)
            found = _train_arms(bench, student, [arms[i] for i in chosen])
            for i, values in zip(chosen, found, strict=True):
                metrics[i] = values
    return metrics


@dataclass(frozen=True)
class _Bench:
    """What the arms of a world share: a problem per seed, and how it is evaluated."""

    world: World
    problems: Sequence[Problem]
    seeds: Sequence[int]
    checkpoints: Sequence[int] | None
    excess: bool


def _train_arms(
    bench: _Bench, student: Student, arms: Sequence[Arm]
) -> list[dict[str, Any]]:
    world, problems, checkpoints = bench.world, bench.problems, bench.checkpoints
    kinds: list[LabelKind] = sorted({arm.labels for arm in arms})
    facts: list[list[dict[str, float]]] = [[] for _ in arms]
    plans = []
    for problem, seed in zip(problems, bench.seeds, strict=True):
        full = Training(np.arange(problem.rollouts.n_rollouts), passes=world.passes)
        chosen = {
            selection: _choose(problem, selection)
            for selection in dict.fromkeys(arm.selection for arm in arms)
        }
        trainings = []
        for arm, of_arm in zip(arms, facts, strict=True):
            rows, subset = chosen[arm.selection]
            length = full.length(world.batch) if arm.matched else None
            label = kinds.index(arm.labels)
            training = Training(rows, label, length, world.passes)
            trainings.append(training)
            of_arm.append(subset | {"updates": training.length(world.batch)})
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
        list(bench.seeds),
    )
    params = train(student, sweep, checkpoints)
    scores = logits(student, params, [p.benchmark.features_SxD for p in problems])
    final = _evaluate([x[:, -1] for x in scores], problems, bench.excess)
    curves = _curves(scores, problems, checkpoints) if checkpoints else {}
    results: list[dict[str, Any]] = [
        {name: _rounded(column[:, i]) for name, column in final.items()}
        | {"subset": _means(of_arm)}
        for i, of_arm in enumerate(facts)
    ]
    for i, result in enumerate(results):
        if curves:
            result["curve"] = {n: _rounded(column[i]) for n, column in curves.items()}
    return results


def _choose(problem: Problem, arm: Arm) -> tuple[np.ndarray, dict[str, float]]:
    rows, tied = choose_rows(problem, arm)
    return rows, _facts(problem, rows) | {"tied_share": tied}


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


def _bayes(bench: _Bench) -> dict[str, Any]:
    scores = [problem.bayes[None] for problem in bench.problems]
    found = _evaluate(scores, bench.problems, excess=True)
    everything = [
        _facts(problem, np.arange(problem.rollouts.n_rollouts))
        for problem in bench.problems
    ]
    values: dict[str, Any] = {n: _rounded(column[:, 0]) for n, column in found.items()}
    return values | {"subset": _means(everything)}


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


def _means(facts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of the facts of an arm over its seeds."""
    return {n: round(float(np.mean([f[n] for f in facts])), 6) for n in facts[0]}


def _rounded(values: np.ndarray) -> list[float]:
    """Six digits: more would say nothing and fill the store."""
    return [round(float(value), 6) for value in values]
