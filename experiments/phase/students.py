"""Diagram (a): linear students that start at c times the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from experiments.phase.cells import Cell, gains_of
from experiments.phase.design import (
    BLIND,
    CLEAN,
    KEEP_RATIOS,
    POSITION,
    RULES,
    Students,
)
from experiments.students.arms import Arm
from experiments.students.runs import run_arms
from experiments.students.worlds import World, worlds
from sim.students.features import relative_position
from sim.students.problem import draw_problem
from theory.placement import blind_noise, noise_by_position


def cells(design: Students) -> list[Cell]:
    """The diagram's cells; those of one training together stand together."""
    placements = [f"order {order:g}" for order in design.orders]
    return [
        Cell("students", world, knowledge, placement, keep_ratio, design.units)
        for world in design.worlds
        for knowledge in design.knowledge
        for placement in (*placements, BLIND, CLEAN)
        for keep_ratio in KEEP_RATIOS
    ]


def world_of(cell: Cell, last_order: float) -> World:
    """The named world with order, visible position and knowledge.

    Args:
        cell: which.
        last_order: of blind and clean labels.
    """
    named = worlds()[cell.world]
    order = (
        float(cell.placement.removeprefix("order ")) if _ordered(cell) else last_order
    )
    return dataclasses.replace(
        named,
        law=dataclasses.replace(named.law, order=order),
        features=dataclasses.replace(named.features, position=POSITION),
        knowledge=cell.knowledge,
    )


def _ordered(cell: Cell) -> bool:
    return cell.placement.startswith("order ")


def compute(group: Sequence[Cell], design: Students, seed: int) -> list[dict[str, Any]]:
    """Metrics of cells that differ in their keep ratio alone."""
    first = group[0]
    world = world_of(first, design.orders[-1])
    labels: Any = "hard-0" if _ordered(first) else first.placement
    arms = [
        Arm(rule, cell.keep_ratio, labels=labels) for cell in group for rule in RULES
    ]
    seeds = range(seed, seed + first.units)
    found = run_arms(world, arms, seeds, excess=False)
    follows = None
    if labels != CLEAN:
        unknowing = dataclasses.replace(world, knowledge=0.0)
        follows = placement_of(unknowing, labels == BLIND, seeds)
    return gains_of(group, arms, found, follows)


@cache
def placement_of(world: World, blind: bool, seeds: range) -> list[float]:
    """How far noise follows position in the corpus of each seed."""
    # Counts and truth do not depend on the dimension; features are not looked at.
    features = dataclasses.replace(world.features, dimension=4)
    follows = []
    for seed in seeds:
        problem = draw_problem(features, world.law, seed)
        label, truth = problem.rollouts.successes > 0, problem.steps.right_S
        if blind:
            label = blind_noise(label, truth, np.random.default_rng(seed))
        position = relative_position(problem.corpus)
        follows.append(noise_by_position(label, truth, position).position_auroc)
    return follows
