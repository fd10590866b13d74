"""What a report shows of a run's results: cells, arms and worlds, read and checked.

A run's folder holds ``results/demo.jsonl`` (cells of
``experiments.store.results``), one folder per world (``experiments.page.corpus``), and
``manifest.json``, which says how the run was made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from experiments.grid.answer import Estimate, Score, Seed, mean_over_seeds
from experiments.store.results import Result, read_results, store_path
from mprm_jax.data.problems import DataError
from theory.selection import RULE_NAMES

EXPERIMENT = "demo"
RUN_MANIFEST = "manifest.json"

# The paper's rules in the order of its comparison, then the sets they are measured by.
RULES = ("random", "bis", "mixed", "low-mc", "reliable")
REFERENCES = ("full", "clean", "base")

_ORDER: Sequence[str] = (*dict.fromkeys((*RULES, *RULE_NAMES)), *REFERENCES)

# A world names a folder: nothing that leaves the run's own.
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Points = tuple[tuple[float, float | None], ...]


class BestOfN(msgspec.Struct, frozen=True):
    """Accuracy when one of n candidates is chosen by the mean of its step scores.

    Attributes:
        mean: by the model.
        random: by chance.
        pass_at_n: by an oracle.
        n: candidates per problem.
    """

    mean: Share | None
    random: Share | None = None
    pass_at_n: Share | None = None
    n: Count = 16


class Metrics(msgspec.Struct, frozen=True):
    """What one trained model came to; None where a metric is undefined.

    Attributes:
        rollouts: in its training set.
        updates: of the optimiser.
        micro_f1: step-weighted mean of the per-source macro-F1.
        macro_f1_pooled: macro-F1 of all steps together.
        auroc: of the step scores.
        within_position_auroc: among steps of equal position only.
        position_auroc: of the position alone.
        slip_prior_auroc: of the world's known slip rate alone.
        best_of_n: accuracy of reranking.
        per_source: macro-F1 by benchmark source.
        threshold: a step is called right if its score reaches it.
        curve: (update, training loss).
        eval_curve: (update, AUROC on the benchmark).
        bootstrap: metric name -> its values on resamples of the benchmark's rollouts
            (best_of_n: of its problems), the b-th of every model of a world from the
            same resample; None where a resample does not define it.
    """

    rollouts: Count
    updates: Count
    micro_f1: Share | None
    auroc: Share | None = None
    macro_f1_pooled: Share | None = None
    within_position_auroc: Share | None = None
    position_auroc: Share | None = None
    slip_prior_auroc: Share | None = None
    best_of_n: BestOfN | None = None
    per_source: dict[str, Share | None] = {}
    threshold: float | None = None
    curve: Points = ()
    eval_curve: Points = ()
    bootstrap: dict[str, tuple[float | None, ...]] = {}


class Config(msgspec.Struct, frozen=True):
    """What determines a cell but its seed."""

    world: str
    arm: str
    keep_ratio: float | None = None
    size: str = ""


class Gate(msgspec.Struct, frozen=True):
    """Learnability of one benchmark source for a model trained on clean labels.

    Attributes:
        world: of the model.
        source: of the benchmark.
        within_position_auroc: of the model.
        low: lower end of its clustered 95 % interval.
        permuted_images: the same with images permuted across rollouts.
    """

    world: str
    source: str
    within_position_auroc: float | None
    low: float | None
    permuted_images: float | None


class Run(msgspec.Struct, frozen=True):
    """How a run was made, from its ``manifest.json``.

    Attributes:
        commands: that make the run again, in order.
        backbone: a paragraph on what the pretrained backbone has seen.
        pretraining: how it was made, and with what result.
        versions: of the packages that made the run.
        arguments: of the run.
        learnability: rows of the gate passed before any rule was looked at.
    """

    commands: tuple[str, ...]
    backbone: str
    pretraining: dict[str, Any] = {}
    versions: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    learnability: tuple[Gate, ...] = ()


def scores(cells: Mapping[Seed, Metrics], metric: str) -> dict[Seed, Score]:
    """A metric by seed, for the seeds where it is defined; ``best_of_n``: its mean."""
    found = {}
    for seed, cell in cells.items():
        value = getattr(cell, metric)
        if isinstance(value, BestOfN):
            value = value.mean
        if value is not None:
            found[seed] = Score(value, _numbers(cell.bootstrap.get(metric, ())))
    return found


def estimate(cells: Mapping[Seed, Metrics], metric: str) -> Estimate | None:
    """A metric over the seeds; None where it is undefined."""
    found = list(scores(cells, metric).values())
    return mean_over_seeds(found) if found else None


@dataclass(frozen=True)
class Arm:
    """One way to choose the training set, with its trained models.

    Attributes:
        name: "bis", "random", ..., "full", "clean", "base".
        keep_ratio: rho of the run; None where it had none.
        cells: metrics by seed.
    """

    name: str
    keep_ratio: float | None
    cells: Mapping[Seed, Metrics]

    @property
    def is_rule(self) -> bool:
        """Whether a selection rule made it; else it is a reference."""
        return self.name in RULE_NAMES

    def scores(self, metric: str) -> dict[Seed, Score]:
        """As :func:`scores`."""
        return scores(self.cells, metric)

    def estimate(self, metric: str) -> Estimate | None:
        """As :func:`estimate`."""
        return estimate(self.cells, metric)

    def source_mean(self, source: str) -> float | None:
        """Macro-F1 of a benchmark source, mean over the seeds that define it."""
        values = [cell.per_source.get(source) for cell in self.cells.values()]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Mean of a curve over the seeds that have it, at the updates they share."""
        recorded = [
            {x: y for x, y in getattr(cell, name) if y is not None}
            for cell in self.cells.values()
        ]
        curves = [curve for curve in recorded if curve]
        if not curves:
            return []
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        return [(x, sum(curve[x] for curve in curves) / len(curves)) for x in shared]


@dataclass(frozen=True)
class WorldResults:
    """The arms of one world.

    Attributes:
        name: of the world and of its folder.
        size: of the demo.
        arms: rules first, in the paper's order, then references.
    """

    name: str
    size: str
    arms: tuple[Arm, ...]

    @property
    def keep_ratios(self) -> list[float]:
        """Keep ratios at which rules were run, ascending."""
        return sorted(
            {a.keep_ratio for a in self.arms if a.is_rule and a.keep_ratio is not None}
        )

    def arm(self, name: str, keep_ratio: float | None = None) -> Arm | None:
        """An arm by name and keep ratio; None where there is none."""
        for arm in self.arms:
            if arm.name == name and arm.keep_ratio == keep_ratio:
                return arm
        return None


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else value for value in values)


def read_run(folder: Path) -> Run:
    """How the run was made.

    Raises:
        DataError: ``manifest.json`` is missing, or lacks a field.
    """
    path = folder / RUN_MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: no manifest of a run ({error})") from error


def read_worlds(folder: Path) -> tuple[tuple[WorldResults, ...], list[Result]]:
    """Every world of the results, in the order first written, and the cells read.

    Raises:
        DataError: there is no result, a cell lacks a field or has one out of range, or
            one world has results of two sizes.
    """
    path = store_path(folder / "results", EXPERIMENT)
    results = read_results(folder / "results", EXPERIMENT)
    if not results:
        raise DataError(f"{path}: no results; run: mprm demo --output {folder}")
    worlds: dict[str, dict[tuple[str, float | None], dict[Seed, Metrics]]] = {}
    sizes: dict[str, str] = {}
    for result in results:
        config, metrics = _cell(path, result)
        if sizes.setdefault(config.world, config.size) != config.size:
            raise DataError(
                f"{path}: world {config.world} has results of the sizes "
                f"{sizes[config.world]} and {config.size}; use one folder for each"
            )
        key = (config.arm, config.keep_ratio)
        cells = worlds.setdefault(config.world, {}).setdefault(key, {})
        if result.seed in cells:
            raise DataError(
                f"{path}: world {config.world} has two results of arm {config.arm}, "
                f"seed {result.seed}; use one folder for each run"
            )
        cells[result.seed] = metrics
    return tuple(
        WorldResults(name, sizes[name], tuple(_ordered(arms)))
        for name, arms in worlds.items()
    ), results


def _cell(path: Path, result: Result) -> tuple[Config, Metrics]:
    where = f"{path}: {msgspec.json.encode(result.config).decode()}, seed {result.seed}"
    try:
        config = msgspec.convert(result.config, Config)
        metrics = msgspec.convert(result.metrics, Metrics)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from error
    if not _FOLDER.fullmatch(config.world):
        raise DataError(f"{path}: {config.world[:80]!r} names no world")
    if config.arm in RULE_NAMES and not 0 < (config.keep_ratio or 0) <= 1:
        raise DataError(f"{where}: keep_ratio must lie in (0, 1]")
    return config, metrics


def _ordered(
    arms: Mapping[tuple[str, float | None], Mapping[Seed, Metrics]],
) -> list[Arm]:
    return sorted(
        (
            Arm(name, ratio, dict(sorted(cells.items(), key=_seed_order)))
            for (name, ratio), cells in arms.items()
        ),
        key=lambda arm: (not arm.is_rule, arm.keep_ratio or 1.0, arm_order(arm.name)),
    )


def arm_order(name: str) -> tuple[int, str]:
    """Sorts arms: the paper's rules, other rules, references, unknown ones by name."""
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _seed_order(item: tuple[Seed, Metrics]) -> int:
    return -1 if item[0] is None else item[0]
