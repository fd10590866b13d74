"""The map's worlds as the store holds them, checked before anything is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from experiments.map.design import ARMS, FIRST, Design
from experiments.store.results import Result, read_results, store_path
from mprm_jax.records.problems import DataError

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# Its logarithm is taken.
_PositiveShare = Annotated[float, msgspec.Meta(gt=0, le=1)]


class _Axes(msgspec.Struct):
    keep_ratio: _PositiveShare


class _Config(msgspec.Struct):
    index: int
    held_out: bool
    axes: _Axes


class _Measures(msgspec.Struct):
    mixed_share: _PositiveShare
    error_step_ratio: _PositiveShare
    mean_mc: _Share
    between_share: _Share
    low_positive_share: _Share
    mixed_reliability: _Share


class _Arm(msgspec.Struct):
    micro_f1: Annotated[list[_Share], msgspec.Meta(min_length=2)]


class _Metrics(msgspec.Struct):
    measures: _Measures
    updates: Annotated[float, msgspec.Meta(gt=0)]
    arms: dict[str, _Arm]


class _World(msgspec.Struct):
    seed: Annotated[int, msgspec.Meta(ge=0)]
    config: _Config
    metrics: _Metrics


def read_worlds(
    folder: Path, seed: int | None = None, design: Design = FIRST
) -> list[Result]:
    """The worlds of a design and of one seed, each once, of one that is stored several
    times the latest.

    Args:
        folder: of the results store.
        seed: whose; None: the lowest that is stored.
        design: whose.

    Raises:
        DataError: the file cannot be read, or a cell is no world of the map.
    """
    results, path = read_results(folder, design.name), store_path(folder, design.name)
    for number, result in enumerate(results, 1):
        if fault := _fault(result):
            raise DataError(
                f"{path}: cell {number} is no world of the map ({fault}); delete its "
                "line, or name another folder"
            )
    seeds = {result.seed for result in results if result.seed is not None}
    wanted = min(seeds, default=None) if seed is None else seed
    worlds = {r.config["index"]: r for r in results if r.seed == wanted}
    return list(worlds.values())


def _fault(result: Result) -> str:
    cell: dict[str, Any] = {
        "seed": result.seed,
        "config": result.config,
        "metrics": result.metrics,
    }
    try:
        world = msgspec.convert(cell, _World)
    except msgspec.ValidationError as error:
        return str(error)
    for name in ARMS:
        if name not in world.metrics.arms:
            return f"no arm {name!r}"
    lengths = {len(arm.micro_f1) for arm in world.metrics.arms.values()}
    return "" if len(lengths) == 1 else "its arms have unequal numbers of seeds"


def gains(
    result: Result, treated: str, baseline: str, metric: str = "micro_f1"
) -> np.ndarray:
    """Paired differences of a metric in one world, ``[seeds]``."""
    arms = result.metrics["arms"]
    return np.subtract(arms[treated][metric], arms[baseline][metric])
