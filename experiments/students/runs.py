"""Cells of student experiments: arms in worlds, run in batches and stored.

A cell is one arm in one world; its metrics are lists with one value per seed. Seed i
of every arm of a world has the same corpus, features, benchmark, order of ties and
order of batches, so that arms are compared in pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from experiments.store.experiment import ExperimentOptions, complete
from experiments.students.arms import MOVED, Arm, LabelKind
from experiments.students.own_rule import OwnRule
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
from theory.labelling import LABELLINGS, step_targets
from theory.placement import relative_position
from theory.rollouts import Rollouts
from theory.scores import bis
from theory.selection import budget, select
from theory.summary import summarise

SEEDS = 20

# Cells that are computed together and stored when done.
_CHUNK = 96

_STEPS_ROUNDING = 4096

# Names the streams of blind labels: (seed, 0) alone would be the stream of the seed.
_BLIND = zlib.crc32(b"blind labels")

# Of kinds of labels that say more than a target.
_LIKELIHOODS = {"counts": "beta-binomial", "conditional": "conditional"}


# --- what arms are trained on ---------------------------------------------------------


class SeenSteps(NamedTuple):
    """Steps whose features come from anywhere, e.g. hidden states of a network.

    Attributes:
        features_SxD: what a student sees, float32.
        right_S: the truth, boolean.
    """

    features_SxD: np.ndarray
    right_S: np.ndarray


@dataclass(frozen=True, eq=False)
class GivenTask:
    """What the arms of one seed share, of any origin.

    Attributes:
        rollouts: counts of the corpus.
        content: uint64 hash of each rollout, which orders ties.
        steps: of the corpus.
        benchmark: steps that students are judged on.
        split: truth and source of the benchmark's steps.
        held_out_S: benchmark steps on which thresholds are chosen; the others are the
            test.
    """

    rollouts: Rollouts
    content: np.ndarray
    steps: SeenSteps
    benchmark: SeenSteps
    split: Split
    held_out_S: np.ndarray


Task = Problem | GivenTask


class Lesson(NamedTuple):
    """How every arm is trained.

    Attributes:
        student: what is trained; an arm's labels decide its likelihood.
        batch: rollouts per update.
        passes: over the subset.
        starts_NxD: weights that a logistic student of each task starts from; None: 0.
    """

    student: Student
    batch: int
    passes: int = 1
    starts_NxD: np.ndarray | None = None


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

    order: Callable[[Task], np.ndarray] | None = None
    last: Callable[[Rollouts], np.ndarray] | None = None
    filler: Callable[[Rollouts], np.ndarray] | None = None
    fills: bool = True


def _ease(problem: Task) -> np.ndarray:
    """A rollout's ease as features show it, which is its true mean r."""
    if isinstance(problem, GivenTask):
        raise ValueError("only simulated features have an ease")
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


def choose_rows(problem: Task, arm: Arm) -> tuple[np.ndarray, float]:
    """Rows that an arm keeps, and the share of them that ties decided; of a variant of
    BIS, the share of its filler: rollouts not mixed.

    Raises:
        ValueError: the rule is unknown or undefined on this corpus.
        DataError: somebody's own rule fails.
    """
    rollouts = problem.rollouts
    if arm.rule == "full":
        return np.arange(rollouts.n_rollouts), 0.0
    if arm.rule in VARIANTS:
        rows = _variant_rows(problem, VARIANTS[arm.rule], arm)
        mixed = ~_all_negative(rollouts) & ~_perfect(rollouts)
        return rows, float(np.mean(~mixed[rows]))
    rule: Any = arm.rule
    selection = select(
        rollouts,
        rule.scores(rollouts) if isinstance(rule, OwnRule) else rule,
        arm.keep_ratio,
        problem.content,
        alpha=arm.alpha,
        unit=arm.unit,
        ties=arm.ties,
    )
    return selection.rows, selection.tied_share


def _variant_rows(problem: Task, variant: Variant, arm: Arm) -> np.ndarray:
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
    base: dict[str, Any] = {"world": describe(world), "seeds": seeds}
    if checkpoints is not None:
        base["checkpoints"] = list(checkpoints)
    configs = [base | {"arm": arm_as_json(arm)} for arm in arms]
    numbers = seed_numbers(options.seed, seeds)

    def run(chosen: list[int]) -> list[dict[str, Any]]:
        return run_arms(world, [arms[i] for i in chosen], numbers, checkpoints)

    return complete(options, experiment, configs, run, together=_CHUNK)[1]


def arm_as_json(arm: Arm) -> dict[str, Any]:
    """What a result says of its arm."""
    return asdict(arm) | {"rule": str(arm.rule)}


def seed_numbers(seed: int, seeds: int) -> range:
    """The paired seeds of an option ``seed``."""
    return range(1000 * seed, 1000 * seed + seeds)


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
    problems = [draw_problem(world.features, world.law, seed) for seed in seeds]
    bayes = [problem.bayes for problem in problems] if excess else None
    starts = [world.start(*pair) for pair in zip(problems, seeds, strict=True)]
    known = np.stack(starts) if world.knowledge else None
    lesson = Lesson(world.student, world.batch, world.passes, known)
    taught = [arm for arm in arms if arm.rule not in _UNTAUGHT]
    found = iter(train_arms(problems, taught, seeds, lesson, checkpoints, bayes))
    untaught = {
        rule: _scored(problems, _UNTAUGHT[rule](problems, starts), bayes)
        for rule in _UNTAUGHT.keys() & {arm.rule for arm in arms}
    }
    return [untaught.get(arm.rule) or next(found) for arm in arms]


def train_arms(
    tasks: Sequence[Task],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    lesson: Lesson,
    checkpoints: Sequence[int] | None = None,
    bayes: Sequence[np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """Metrics of every arm, each a list with one value per seed.

    Args:
        tasks: one per seed.
        arms: what is trained; none is "bayes" or "start".
        seeds: of the orders, of blind labels and of initial weights, one per task.
        lesson: how.
        checkpoints: as for :func:`run_arms`.
        bayes: the Bayes rule's logits of each task's benchmark, if the excess risk over
            it is wanted.
    """
    metrics: list[dict[str, Any]] = [{} for _ in arms]
    groups: dict[str, list[int]] = {}
    for i, arm in enumerate(arms):
        likelihood = _LIKELIHOODS.get(arm.labels, "cross-entropy")
        groups.setdefault(likelihood, []).append(i)
    for likelihood, chosen in groups.items():
        of_group = [arms[i] for i in chosen]
        student = replace(lesson.student, likelihood=likelihood)
        of_lesson = lesson._replace(student=student)
        facts, scores = arm_scores(tasks, of_group, seeds, of_lesson, checkpoints)
        final = _evaluate([x[:, -1] for x in scores], tasks, bayes)
        curves = _curves(scores, tasks, checkpoints) if checkpoints else {}
        for place, (i, of_arm) in enumerate(zip(chosen, facts, strict=True)):
            metrics[i] = {n: _rounded(column[:, place]) for n, column in final.items()}
            metrics[i]["subset"] = _means(of_arm)
            if curves:
                curve = {n: _rounded(column[place]) for n, column in curves.items()}
                metrics[i]["curve"] = curve
    return metrics


def arm_scores(
    tasks: Sequence[Task],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    lesson: Lesson,
    checkpoints: Sequence[int] | None = None,
) -> tuple[list[list[dict[str, float]]], list[np.ndarray]]:
    """What is in each arm's subsets, a list over tasks, and each task's scores of its
    benchmark ``[A, T, S]``, T the checkpoints or 1; arms of one likelihood.

    Args:
        tasks, arms, seeds, checkpoints: as for :func:`train_arms`.
        lesson: how; its student's likelihood is that of all arms.
    """
    facts, sweep = _sweep(tasks, arms, seeds, lesson)
    params = train(lesson.student, sweep, checkpoints)
    seen = [task.benchmark.features_SxD for task in tasks]
    return facts, logits(lesson.student, params, seen)


def _sweep(
    tasks: Sequence[Task], arms: Sequence[Arm], seeds: Sequence[int], lesson: Lesson
) -> tuple[list[list[dict[str, float]]], Sweep]:
    """What is in each arm's subsets, and all that trainings of one likelihood read."""
    # Blind labels are the subset's own, all others the corpus's.
    kinds = {_labels_key(arm): arm for arm in arms}
    places = list(kinds)
    facts: list[list[dict[str, float]]] = [[] for _ in arms]
    plans, targets, weights = [], [], []
    for task, seed in zip(tasks, seeds, strict=True):
        full = Training(np.arange(task.rollouts.n_rollouts), passes=lesson.passes)
        chosen = {
            selection: _choose(task, selection)
            for selection in dict.fromkeys(arm.selection for arm in arms)
        }
        trainings = []
        for arm, of_arm in zip(arms, facts, strict=True):
            rows, subset = chosen[arm.selection]
            length = full.length(lesson.batch) if arm.matched else None
            label = places.index(_labels_key(arm))
            training = Training(rows, label, length, lesson.passes)
            trainings.append(training)
            of_arm.append(subset | {"updates": training.length(lesson.batch)})
        plans.append(
            plan_trainings(task.rollouts.offsets, trainings, lesson.batch, seed)
        )
        columns = [
            labels_of_arm(task, arm, chosen[arm.selection][0], seed)
            for arm in kinds.values()
        ]
        targets.append(np.stack([column[0] for column in columns], axis=1))
        weights.append(np.stack([column[1] for column in columns], axis=1))
    trials = _stack([task.rollouts.trials.astype(np.float32) for task in tasks])
    rollouts = [task.rollouts for task in tasks]
    of = [x.rollout for x in rollouts]
    labels = Labels(
        _stack(targets).swapaxes(1, 2),
        _stack(weights).swapaxes(1, 2),
        trials,
        _stack(of).astype(np.int32),
    )
    features = _stack([task.steps.features_SxD for task in tasks])
    plan = stack_plans(plans)
    return facts, Sweep(features, labels, plan, list(seeds), lesson.starts_NxD)


def _labels_key(arm: Arm) -> tuple[LabelKind, Arm | None]:
    """What arms of equal labels share: the kind, of moved ones the selection too."""
    return arm.labels, arm.selection if arm.labels in MOVED else None


def _choose(problem: Task, arm: Arm) -> tuple[np.ndarray, dict[str, float]]:
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


def labels_of_arm(
    task: Task, arm: Arm, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Target and weight of each step of the corpus, ``[S]`` each.

    Args:
        task: with the corpus.
        arm: whose labels.
        rows: that it keeps; blind labels depend on them.
        seed: of blind labels, whose stream is that of the seed and of the selection,
            whatever arms are beside it.
    """
    # A step that was never sampled has no label, whatever the kind.
    rollouts, measured = task.rollouts, task.rollouts.measured
    k, n = rollouts.successes, rollouts.trials
    if arm.labels in ("soft", "counts"):
        return k / np.maximum(n, 1), measured
    if arm.labels == "clean":
        return task.steps.right_S, measured
    if arm.labels == "all-positive":
        return np.ones(len(k)), measured
    if arm.labels in MOVED:
        return _moved(task, arm, rows, seed), measured
    if arm.labels in LABELLINGS:
        return step_targets(rollouts, arm.labels)
    if arm.labels == "conditional":
        return k > 0, measured
    return k > int(arm.labels.removeprefix("hard-")), measured


def _moved(task: Task, arm: Arm, rows: np.ndarray, seed: int) -> np.ndarray:
    """1[K > 0], with the wrong ones of the subset placed anew within it."""
    key = _BLIND, zlib.crc32(arm.selection.name.encode())
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    kept = np.zeros(task.rollouts.n_rollouts, bool)
    kept[rows] = True
    of = np.repeat(kept, task.rollouts.lengths) & task.rollouts.measured
    label = task.rollouts.successes > 0
    position = relative_position(task.rollouts)
    where = task.steps.right_S[of], position[of], rng
    label[of] = MOVED[arm.labels].place(label[of], *where)
    return label


def _facts(problem: Task, rows: np.ndarray) -> dict[str, float]:
    """What is in a subset, and how many of its hard labels are wrong."""
    subset = problem.rollouts.take(rows)
    summary = summarise(subset)
    kept = np.zeros(problem.rollouts.n_rollouts, bool)
    kept[rows] = True
    right = problem.steps.right_S[np.repeat(kept, problem.rollouts.lengths)]
    positive, negative = subset.successes > 0, subset.measured & (subset.successes == 0)
    return {
        "rollouts": summary.rollouts,
        "steps": summary.steps,
        "mixed_share": summary.mixed_share,
        "error_step_ratio": summary.error_step_ratio,
        "mean_mc": summary.mean_mc,
        "wrong_positives": float(np.mean(~right[positive])) if positive.any() else 0.0,
        "right_negatives": float(np.mean(right[negative])) if negative.any() else 0.0,
    }


def _evaluate(
    scores: Sequence[np.ndarray],
    problems: Sequence[Task],
    bayes: Sequence[np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Metrics ``[seeds, A]`` of scores ``[A, S]`` per seed.

    ``micro_f1`` takes its threshold from the held-out half; ``micro_f1_on_test`` from
    the test half itself, as the released evaluator does.
    """
    rows = []
    for i, (scores_AxS, problem) in enumerate(zip(scores, problems, strict=True)):
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
        if bayes is not None:
            bayes_S = bayes[i][~held_out]
            rows[-1]["excess_risk"] = excess_risk(test_AxS, right, bayes_S)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


# Scores of what is no student: the best rule there is, and students before training.
_UNTAUGHT: dict[str, Callable[..., list[np.ndarray]]] = {
    "bayes": lambda problems, starts: [problem.bayes for problem in problems],
    "start": lambda problems, starts: [
        problem.benchmark.features_SxD @ start
        for problem, start in zip(problems, starts, strict=True)
    ],
}


def _scored(
    problems: Sequence[Problem],
    scores: Sequence[np.ndarray],
    bayes: Sequence[np.ndarray] | None,
) -> dict[str, Any]:
    """Metrics of given scores, one list per problem, and what is in the corpora."""
    found = _evaluate([scores_S[None] for scores_S in scores], problems, bayes)
    everything = [
        _facts(problem, np.arange(problem.rollouts.n_rollouts)) for problem in problems
    ]
    values: dict[str, Any] = {n: _rounded(column[:, 0]) for n, column in found.items()}
    return values | {"subset": _means(everything)}


def _curves(
    scores: Sequence[np.ndarray], problems: Sequence[Task], checkpoints: Sequence[int]
) -> dict[str, np.ndarray]:
    """Mean over seeds and its standard error at each checkpoint, ``[A, points]``."""
    points = [
        _evaluate([x[:, i] for x in scores], problems) for i in range(len(checkpoints))
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
