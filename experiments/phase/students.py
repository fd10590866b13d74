"""Diagram (a): linear students that start at c times the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

from experiments.phase.cells import Cell, follows, gains_of
from experiments.phase.design import (
    CLEAN,
    HARD,
    KEEP_RATIOS,
    POSITION,
    RULES,
    UNORDERED,
    Students,
)
from experiments.students.arms import Arm
from experiments.students.runs import run_arms
from experiments.students.worlds import World, worlds
from sim.students.problem import draw_problem


def cells(design: Students) -> list[Cell]:
    """The diagram's cells; those of one training together stand together."""
    return [
        Cell("students", world, knowledge, placement, keep_ratio, design.units)
        for world in design.worlds
        for knowledge in design.knowledge
        for placement in design.placements
        for keep_ratio in KEEP_RATIOS
    ]


def world_of(cell: Cell) -> World:
    """The named world with order, visible position and knowledge."""
    named = worlds()[cell.world]
    order = float(cell.placement != UNORDERED)
    return dataclasses.replace(
        named,
        law=dataclasses.replace(named.law, order=order),
        features=dataclasses.replace(named.features, position=POSITION),
        knowledge=cell.knowledge,
    )


def compute(group: Sequence[Cell], seed: int) -> list[dict[str, Any]]:
    """Metrics of cells that differ in their keep ratio alone; ``seed`` is the first."""
    first = group[0]
    hard = first.placement in (UNORDERED, HARD)
    labels: Any = "hard-0" if hard else first.placement
    arms = [
        Arm(rule, cell.keep_ratio, labels=labels) for cell in group for rule in RULES
    ]
    seeds = range(seed, seed + first.units)
    found = run_arms(world_of(first), arms, seeds, excess=False)
    # Counts and truth depend on neither.
    unknowing = first._replace(knowledge=0.0, keep_ratio=0.0)
    placed = None if labels == CLEAN else _placed(unknowing, labels, seeds)
    return gains_of(group, arms, found, placed)


@cache
def _placed(cell: Cell, labels: str, seeds: range) -> list[float]:
    """How far noise follows position in the corpus of each seed."""
    world = world_of(cell)
    features = dataclasses.replace(world.features, dimension=4)
    problems = {seed: draw_problem(features, world.law, seed) for seed in seeds}
    return [
        follows(of.rollouts, of.steps.right_S, labels, seed)
        for seed, of in problems.items()
    ]
