"""What experiments share: their options, and the course that skips finished cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.console.options import SeedOption
from experiments.console.progress import progress
from experiments.store.provenance import result_versions
from experiments.store.results import Result, append_results, cell_key, read_results


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(SeedOption):
    """Options of every experiment; of paired seeds --seed is the first.

    Attributes:
        output: Folder of the results store; cells that it holds are not run again.
    """

    output: Path = Path("runs/results")


@dataclass(frozen=True, kw_only=True)
class SizedOptions(ExperimentOptions):
    """Options of an experiment that comes in two sizes.

    Attributes:
        size: small is for two cores and minutes, full for what a claim rests on.
    """

    size: Literal["small", "full"] = "small"


def complete(
    options: ExperimentOptions,
    experiment: str,
    configs: Sequence[dict[str, Any]],
    compute: Callable[[list[int]], Sequence[dict[str, Any]]],
    together: int = 1,
    versions: dict[str, str] | None = None,
) -> tuple[list[Result], int]:
    """Compute and store the cells that the store lacks.

    Args:
        options: with the folder of the store and the seed.
        experiment: its name.
        configs: of all cells, in the order wanted: what determines each but its seed.
        compute: metrics of the cells of these indices.
        together: how many are computed, and stored when done, at a time.
        versions: of what computes; a stored cell of others is computed again. None:
            whatever computed a cell, it stands.

    Returns:
        the results of all cells, and how many were computed.
    """
    cells = {
        result.key: result
        for result in read_results(options.output, experiment)
        if versions in (None, result.versions)
    }
    keys = [cell_key(config, options.seed) for config in configs]
    missing = [i for i, key in enumerate(keys) if key not in cells]
    done = len(keys) - len(missing)
    with progress(experiment, len(keys), "cells") as tick:
        for begin in range(0, len(missing), together):
            chosen = missing[begin : begin + together]
            made_by = versions or result_versions()
            results = [
                Result(experiment, configs[i], options.seed, metrics, made_by)
                for i, metrics in zip(chosen, compute(chosen), strict=True)
            ]
            append_results(options.output, results)
            cells |= {result.key: result for result in results}
            tick(done + begin + len(chosen))
    return [cells[key] for key in keys], len(missing)
