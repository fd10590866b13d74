"""The cells of a selection grid: what each trains on, in which shard, at what price."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.store.write_subset import choose
from mprm_jax.data.corpus import SelectableCorpus
from theory.scores import DEFAULT_ALPHA
from theory.selection import RULE_NAMES, RuleName, SelectionOptions

# Names of the experiments that are grids.
DEMO, SELECTION = "demo", "selection"

RANDOM, BIS = "random", "bis"

# In the order of the paper's comparison.
PAPER_RULES: tuple[RuleName, ...] = ("random", "bis", "mixed", "low-mc", "reliable")

# References: all rollouts; no training.
FULL, BASE = "full", "base"

# Labels from counts that leave doubtful positives of mixed rollouts out.
MASKED = "masked"

# Labels that only the truth gives, of the steps that are right or wrong: the truth;
# hard labels, but as many wrong ones of each kind placed at random; 1 for every step.
CLEAN, BLIND, ALL_POSITIVE = "clean", "blind", "all-positive"
CONTROLS = (CLEAN, BLIND, ALL_POSITIVE)
# The rules that are compared under them.
CONTROLLED = (RANDOM, BIS)

# The others rank the same at every alpha.
RULES_WITH_ALPHA = ("bis", "shrunken-bis", "ccs", "step-matched-random")

# An update's gradient costs two forward passes beside its own.
PASSES_PER_ROLLOUT = 3


@dataclasses.dataclass(frozen=True)
class Arm:
    """What a model is trained on; None where an arm has no such setting.

    Attributes:
        rule: of :mod:`theory.selection`, or one of the references.
        keep_ratio: rho; 1 for all rollouts.
        alpha: BIS's, of the rules that have one.
        labels: what the loss is made from; see :data:`CONTROLS`.
        label_threshold: of hard labels.

    Raises:
        ValueError: a rule without a keep ratio in (0, 1].
    """

    rule: str
    keep_ratio: float | None = None
    alpha: float | None = None
    labels: str | None = None
    label_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.is_rule and not 0 < (self.keep_ratio or 0) <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], not {self.keep_ratio}")

    @property
    def is_rule(self) -> bool:
        """Whether a selection rule made it; else it is a reference."""
        return self.rule in RULE_NAMES

    @property
    def is_control(self) -> bool:
        """Whether its labels are made from the truth."""
        return self.labels in CONTROLS

    @property
    def kind_of_labels(self) -> tuple[str | None, float | None]:
        """Labels with their threshold."""
        return self.labels, self.label_threshold

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
        """The selection of an arm: rollouts per source, ties by content."""
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
        seed: of ties, fillers, blind labels and the order of the rollouts, paired over
            arms; None for the model as it is.
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
    """All cells: rules x keep ratios x alphas x labels x seeds, controls, references.

    Attributes:
        rules: at least one.
        keep_ratios: in (0, 1].
        alphas: for the rules that have one.
        labels: (what the loss is made from, threshold of hard labels or None).
        seeds: distinct.
        references: of :data:`FULL` and :data:`BASE`.
        controls: of :data:`CONTROLS`, for those of :data:`CONTROLLED` that are run.
        full_seeds: that train on all rollouts, which costs as much as many arms; None:
            all.
    """

    rules: tuple[RuleName, ...]
    keep_ratios: tuple[float, ...]
    alphas: tuple[float, ...]
    labels: tuple[tuple[str, float | None], ...]
    seeds: tuple[int, ...]
    references: tuple[str, ...]
    controls: tuple[str, ...] = ()
    full_seeds: tuple[int, ...] | None = None

    def arms(self) -> list[Arm]:
        """Every arm that is trained: controls, of which clean labels show whether
        anything can be learned, then the rules, then all rollouts.
        """
        controlled = [rule for rule in self.rules if rule in CONTROLLED]
        kinds = [(control, None, controlled) for control in self.controls]
        kinds += [(*labels, self.rules) for labels in self.labels]
        arms = [
            Arm(rule, keep_ratio, alpha, labels, threshold)
            for labels, threshold, rules in kinds
            for keep_ratio in self.keep_ratios
            for rule in rules
            for alpha in (self.alphas if rule in RULES_WITH_ALPHA else (None,))
        ]
        if FULL in self.references:
            arms += [Arm(FULL, 1.0, None, *labels) for labels in self.labels]
        return arms

    def cells(self) -> list[Cell]:
        """Seed by seed, so that an interrupted run has whole comparisons."""
        full = self.seeds if self.full_seeds is None else self.full_seeds
        trained = [
            Cell(arm, seed)
            for seed in self.seeds
            for arm in self.arms()
            if arm.rule != FULL or seed in full
        ]
        # First, because it needs the whole benchmark and no training.
        return [Cell(Arm(BASE), None), *trained] if BASE in self.references else trained


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
    usable: SelectableCorpus, grid: Grid, batch_size: int, matched: bool = False
) -> list[Planned]:
    """Every cell of the grid with its cost.

    Raises:
        DataError: a rule's score is undefined on this corpus.
        ValueError: the batch size is out of range.
    """
    from mprm_jax.train.update_plan import plan

    whole = usable.rollouts.n_rollouts
    kept: dict[SelectionOptions, int] = {}
    planned = []
    for cell in grid.cells():
        arm, seed = cell
        if arm.rule == BASE or seed is None:
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
