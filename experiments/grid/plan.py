"""The cells of a selection grid: what each trains on, in which shard, at what price."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.store.results import Result
from experiments.store.write_subset import SelectionOptions, choose
from mprm_jax.data.corpus import SelectableCorpus
from theory.scores import DEFAULT_ALPHA
from theory.selection import RuleName

# All rollouts; the model as it is before training.
FULL, BASE = "full", "base"

# The others rank the same at every alpha.
RULES_WITH_ALPHA = ("bis", "shrunken-bis", "ccs", "step-matched-random")

# An update's gradient costs two forward passes beside its own.
PASSES_PER_ROLLOUT = 3


@dataclasses.dataclass(frozen=True)
class Arm:
    """What a model is trained on; None where an arm has no such setting.

    Attributes:
        rule: of :mod:`theory.selection`, :data:`FULL` or :data:`BASE`.
        keep_ratio: rho; 1 for all rollouts.
        alpha: BIS's, of the rules that have one.
        labels: what the loss is made from.
        label_threshold: of hard labels.
    """

    rule: str
    keep_ratio: float | None = None
    alpha: float | None = None
    labels: str | None = None
    label_threshold: float | None = None

    @property
    def is_rule(self) -> bool:
        """Whether a selection rule made it; else it is a reference."""
        return self.rule not in (FULL, BASE)

    @property
    def name(self) -> str:
        """Short and unique within a grid; names a folder, too."""
        parts = [self.rule]
        if self.is_rule:
            parts.append(f"keep{self.keep_ratio:g}")
        if self.alpha is not None:
            parts.append(f"alpha{self.alpha:g}")
        if self.labels is not None:
            threshold = self.label_threshold
            parts.append(
                self.labels if threshold is None else f"{self.labels}{threshold:g}"
            )
        return "-".join(parts)

    def selection(self, seed: int) -> SelectionOptions:
        """The selection of a rule's arm: rollouts per source, ties by content."""
        assert self.keep_ratio is not None
        rule: Any = self.rule
        return SelectionOptions(
            rule=rule,
            keep_ratio=self.keep_ratio,
            alpha=DEFAULT_ALPHA if self.alpha is None else self.alpha,
            per_source=True,
            unit="rollouts",
            ties="content",
            seed=seed,
        )


class Cell(NamedTuple):
    """One model of the grid.

    Attributes:
        arm: what it is trained on.
        seed: of ties, fillers and the order of the rollouts, paired over arms; None
            for the model as it is.
    """

    arm: Arm
    seed: int | None

    @property
    def name(self) -> str:
        """Of the cell's folder."""
        return (
            self.arm.name if self.seed is None else f"{self.arm.name}-seed{self.seed}"
        )


@dataclasses.dataclass(frozen=True)
class Grid:
    """All cells: rules x keep ratios x alphas x labels x seeds, and the references.

    Attributes:
        rules: at least one.
        keep_ratios: in (0, 1].
        alphas: for the rules that have one.
        labels: (what the loss is made from, threshold of hard labels or None).
        seeds: distinct.
        references: of :data:`FULL` and :data:`BASE`.
    """

    rules: tuple[RuleName, ...]
    keep_ratios: tuple[float, ...]
    alphas: tuple[float, ...]
    labels: tuple[tuple[str, float | None], ...]
    seeds: tuple[int, ...]
    references: tuple[str, ...]

    def arms(self) -> list[Arm]:
        """Every arm that is trained: rules first, then all rollouts."""
        arms = [
            Arm(rule, keep_ratio, alpha, *labels)
            for labels in self.labels
            for keep_ratio in self.keep_ratios
            for rule in self.rules
            for alpha in (self.alphas if rule in RULES_WITH_ALPHA else (None,))
        ]
        if FULL in self.references:
            arms += [Arm(FULL, 1.0, None, *labels) for labels in self.labels]
        return arms

    def cells(self) -> list[Cell]:
        """Seed by seed, so that an interrupted run has whole comparisons."""
        cells = [Cell(arm, seed) for seed in self.seeds for arm in self.arms()]
        # First, because it needs the whole benchmark and no training.
        return [Cell(Arm(BASE), None)] * (BASE in self.references) + cells


@dataclasses.dataclass(frozen=True)
class Planned:
    """A cell and what it takes.

    Attributes:
        cell: which.
        rollouts: in its training set.
        updates: T.
        presentations: rollouts read in all.
    """

    cell: Cell
    rollouts: int
    updates: int
    presentations: int

    def evaluations(self, eval_every: int) -> int:
        """How often the model is judged: every so many updates, and at the end."""
        between = (self.updates - 1) // eval_every if eval_every and self.updates else 0
        return between + 1


def plan_cells(
    usable: SelectableCorpus, grid: Grid, batch_size: int, matched: bool
) -> list[Planned]:
    """Every cell of the grid with its cost.

    Raises:
        DataError: a rule's score is undefined on this corpus.
        ValueError: the batch size is out of range.
    """
    from mprm_jax.train.optimizer import plan

    whole = usable.rollouts.n_rollouts
    kept: dict[SelectionOptions, int] = {}
    planned = []
    for cell in grid.cells():
        arm, seed = cell
        if seed is None:
            planned.append(Planned(cell, 0, 0, 0))
            continue
        rollouts = whole
        if arm.is_rule:
            # Budgets do not depend on the seed, but for the rule that matches steps.
            counted = seed if arm.rule == "step-matched-random" else grid.seeds[0]
            options = arm.selection(counted)
            if options not in kept:
                kept[options] = len(choose(usable, options).rows)
            rollouts = kept[options]
        budget = plan(rollouts, batch_size, matched_to=whole if matched else None)
        planned.append(Planned(cell, rollouts, budget.updates, budget.presentations))
    return planned


def shard(
    planned: Sequence[Planned], index: int, count: int, solutions: int
) -> list[Planned]:
    """The part ``index`` of ``count`` (from 1), in the order given.

    The parts are disjoint, make up the whole, and cost about the same: the dearest cell
    left goes to the part that costs least so far. They depend on the grid alone, not on
    what is done.

    Args:
        planned: all cells.
        index: in [1, count].
        count: parts.
        solutions: of the benchmark, which every cell has to judge.
    """
    work = [PASSES_PER_ROLLOUT * one.presentations + solutions for one in planned]
    loads, mine = [0] * count, []
    for i in sorted(range(len(planned)), key=lambda i: (-work[i], i)):
        part = min(range(count), key=lambda p: (loads[p], p))
        loads[part] += work[i]
        if part == index - 1:
            mine.append(i)
    return [planned[i] for i in sorted(mine)]


@dataclasses.dataclass(frozen=True)
class Price:
    """What cells take; None where nothing was measured yet.

    Attributes:
        cells: models.
        updates: of all.
        rollouts: presented.
        evaluations: of the benchmark.
        tokens: presented, from the mean of the cells that were measured.
        seconds: of updates and evaluations, from those that were measured.
        measured: cells behind ``seconds``.
    """

    cells: int
    updates: int
    rollouts: int
    evaluations: int
    tokens: int | None
    seconds: float | None
    measured: int


def price(
    planned: Sequence[Planned], found: Sequence[Result], eval_every: int
) -> Price:
    """What cells take, going by cells of the same settings that were run before."""
    updates = sum(one.updates for one in planned)
    rollouts = sum(one.presentations for one in planned)
    evaluations = sum(one.evaluations(eval_every) for one in planned)
    per_update = _measured(found, "seconds_per_update")
    per_evaluation = _measured(found, "evaluation_seconds")
    per_rollout = [
        result.metrics["tokens"] / result.metrics["rollouts"]
        for result in found
        if result.metrics.get("tokens")
    ]
    seconds = None
    if per_update and per_evaluation:
        seconds = updates * statistics.median(per_update)
        seconds += evaluations * statistics.median(per_evaluation)
    return Price(
        cells=len(planned),
        updates=updates,
        rollouts=rollouts,
        evaluations=evaluations,
        tokens=round(rollouts * statistics.mean(per_rollout)) if per_rollout else None,
        seconds=seconds,
        measured=len(per_update),
    )


def _measured(found: Sequence[Result], name: str) -> list[float]:
    values = [result.metrics.get(name) for result in found]
    return [value for value in values if value is not None]
