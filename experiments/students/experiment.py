"""The common course of a student experiment: worlds, cells, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from experiments.console.errors import UsageError
from experiments.console.progress import progress
from experiments.store.paired import Contrast
from experiments.students.options import StudentOptions
from experiments.students.report import print_report
from experiments.students.runs import Arm, run_cells
from experiments.students.worlds import World, worlds
from mprm_jax.data.problems import DataError


def run_worlds(
    options: StudentOptions,
    experiment: str,
    names: Sequence[str] | None,
    arms: Callable[[World], Sequence[Arm]],
    contrasts: Sequence[Contrast],
    **settings: Any,
) -> None:
    """Run an experiment in named worlds (None: in all), then print its report."""
    chosen = [worlds()[name] for name in (worlds() if names is None else names)]
    run_listed(options, experiment, chosen, arms, contrasts, **settings)


def run_listed(
    options: StudentOptions,
    experiment: str,
    listed: Sequence[World],
    arms: Callable[[World], Sequence[Arm]],
    contrasts: Sequence[Contrast],
    **settings: Any,
) -> None:
    """Run an experiment in the given worlds, then print its report.

    Args:
        options: of the command.
        experiment: its name in the store.
        listed: the worlds.
        arms: of each world.
        contrasts: to be reported.
        settings: for :func:`experiments.students.runs.run_cells`.

    Raises:
        UsageError: the seed is negative.
        DataError: a world cannot be simulated.
    """
    if options.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {options.seed}")
    plan = [(world, arms(world)) for world in listed]
    total = sum(len(chosen) for _, chosen in plan)
    ran, before = 0, 0
    with progress(experiment, total, "cells") as tick:
        for world, chosen in plan:
            try:
                ran += run_cells(
                    options.output,
                    experiment,
                    world,
                    chosen,
                    seed=options.seed,
                    tick=lambda done, start=before: tick(start + done),
                    **settings,
                )
            except ValueError as error:
                raise DataError(f"world {world.name}: {error}") from error
            before += len(chosen)
            tick(before)
    print_report(options, experiment, contrasts, ran)
