"""What experiments share: their options, and the course that skips finished cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.console import shared
from experiments.store.provenance import result_versions
from experiments.store.results import Result, append_results, cell_key, read_results

# What determines a cell but its seed, and what computes its metrics.
Cell = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """Options of every experiment.

    Attributes:
        output: Folder of the results store; cells that it holds are not run again.
        seed: Of every random choice; of paired seeds the first.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    output: Path = Path("runs/results")
    seed: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")


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
    cells: Sequence[Cell],
    unit: str,
    versions: dict[str, str] | None = None,
) -> tuple[list[Result], int]:
    """Compute and store the cells that the store lacks, each as soon as it is done.

    Args:
        options: with the folder of the store and the seed.
        experiment: its name.
        cells: in the order wanted.
        unit: what a cell is called, in the plural.
        versions: of what computes; a stored cell of others is computed again. None:
            whatever computed a cell, it stands.

    Returns:
        the results of all cells, and how many were computed.
    """
    stored = {
        result.key: result
        for result in read_results(options.output, experiment)
        if versions in (None, result.versions)
    }
    found, ran = [], 0
    with shared.progress(experiment, len(cells), unit) as tick:
        for done, (config, compute) in enumerate(cells, 1):
            result = stored.get(cell_key(config, options.seed))
            if result is None:
                made_by = versions or result_versions()
                result = Result(experiment, config, options.seed, compute(), made_by)
                append_results(options.output, [result])
                ran += 1
            found.append(result)
            tick(done)
    return found, ran
