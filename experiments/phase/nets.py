"""Diagram (c): the tiny backbone trained whole, as cells of the grid."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.corpora.scenes import write_world
from experiments.grid.cells import Curve, Files, GridContext, InitialParams, run_cells
from experiments.grid.demo import BATCH_SIZE, TRAINING, open_grid
from experiments.grid.inputs import InputPaths, fingerprint, read_inputs
from experiments.grid.plan import CONTROLS, Arm, Grid, plan_cells
from experiments.grid.plan import Cell as GridCell
from experiments.phase.cells import METRICS, Cell, gains_of
from experiments.phase.design import HARD, Nets
from experiments.phase.probes import placed
from experiments.store.results import read_results
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.models import tiny
from mprm_jax.train.config import TrainConfig
from mprm_jax.train.update_plan import UpdatePlan
from sim.scenes.grammar import BENCHMARK_SOURCES
from sim.scenes.world import WORLDS
from theory.scores import DEFAULT_ALPHA

# Every trained model, in a store beside the diagram's.
MODELS = "phase_models"


class Start(NamedTuple):
    """Where a model starts, and how fast it goes.

    Attributes:
        backbone: as :func:`mprm_jax.models.tiny.pretrained` takes it.
        rate: peak rate of training.
    """

    backbone: str
    rate: float


def cells(design: Nets, stages: Sequence[int]) -> list[Cell]:
    """The diagram's cells at these stages."""
    return [
        Cell("nets", design.world, stage, of, design.keep_ratio, design.units, 1, rate)
        for rate in design.rates
        for stage in stages
        for of in design.placements
    ]


def grid_of(design: Nets, number: int) -> Grid:
    """What is trained on the corpus of a seed from each start."""
    return Grid(
        rules=design.rules,
        keep_ratios=(design.keep_ratio,),
        alphas=(DEFAULT_ALPHA,),
        labels=tuple(
            (of, 0.0 if of == HARD else None)
            for of in design.placements
            if of not in CONTROLS
        ),
        seeds=(number,),
        references=(),
        controls=tuple(of for of in design.placements if of in CONTROLS),
    )


def models(folder: Path) -> dict[tuple, dict[str, Any]]:
    """Metrics of the trained models of a store, each by what tells it from others."""
    found = {}
    for result in read_results(folder, MODELS):
        of = result.config
        rate, arm = of["training"]["learning_rate"], Arm(**of["arm"])
        key = _key(of["world"]["name"], of["model"], rate, arm, result.seed)
        found[key] = result.metrics
    return found


def _key(world: str, model: str, rate: float, arm: Arm, number: int | None) -> tuple:
    return world, model, rate, number, arm.rule, arm.labels, arm.keep_ratio


def missing(
    folder: Path, design: Nets, backbones: Sequence[str], seed: int
) -> dict[int, dict[Start, list[GridCell]]]:
    """The models of each corpus that a store lacks, by where they start; arguments as
    of :func:`train`.
    """
    done, left = models(folder), {}
    starts = list(itertools.starmap(Start, itertools.product(backbones, design.rates)))
    for number in range(seed, seed + design.units):
        for start in starts:
            model = fingerprint(tiny.NAME, start.backbone)
            for cell in grid_of(design, number).cells():
                if _key(design.world, model, start.rate, cell.arm, number) not in done:
                    of = left.setdefault(number, {})
                    of.setdefault(start, []).append(cell)
    return left


def train(
    folder: Path, design: Nets, backbones: Sequence[str], seed: int
) -> Iterator[str]:
    """Train the models that a store lacks, corpus by corpus; a line on each.

    Raises:
        DataError: a file cannot be read or written.
    """
    for number, left in missing(folder, design, backbones, seed).items():
        folder.mkdir(parents=True, exist_ok=True)
        # Pictures of a corpus take 60 MB, and are drawn again in seconds.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            context = _open(Path(scratch) / "corpus", design, number)
            usable = context.inputs.usable
            planned = plan_cells(usable, grid_of(design, number), BATCH_SIZE)
            files = Files(folder, Path(scratch), lambda one: False, keeps=False)
            for start, chosen in left.items():
                todo = [one for one in planned if one.cell in chosen]
                yield from run_cells(_started(context, start), todo, files)


def _open(folder: Path, design: Nets, number: int) -> GridContext:
    """Corpus and benchmark of a seed, written and read."""
    write_world(
        folder,
        WORLDS[design.world],
        rollouts=design.rollouts,
        judged=design.judged,
        # One of each source, which nobody looks at.
        problems=len(BENCHMARK_SOURCES),
        seed=number,
    )
    benchmark = folder / "benchmark"
    paths = InputPaths(
        benchmark / "test.jsonl",
        images=folder / "images",
        benchmark_images=benchmark / "images",
        name=design.world,
    )
    inputs = read_inputs(usable_rollouts(read_corpus(folder)), paths, TRAINING)
    context = open_grid(inputs, paths.backbone)
    curve = Curve.every(0, context.bench)
    return dataclasses.replace(context, experiment=MODELS, curve=curve)


def _started(context: GridContext, start: Start) -> GridContext:
    """The same corpus from another start: all stages read prompts alike."""
    model, params = tiny.pretrained(start.backbone)
    settings = context.inputs.settings | {
        "model": fingerprint(tiny.NAME, start.backbone),
        "training": TRAINING | {"learning_rate": start.rate},
    }

    def at_rate(cell: GridCell, rows: np.ndarray) -> tuple[UpdatePlan, TrainConfig]:
        plan, config = context.settings(cell, rows)
        return plan, dataclasses.replace(config, learning_rate=start.rate)

    return dataclasses.replace(
        context,
        inputs=dataclasses.replace(context.inputs, settings=settings),
        model=model,
        initial=InitialParams(params, fresh_head=True),
        settings=at_rate,
    )


def compute(
    group: Sequence[Cell],
    design: Nets,
    backbones: Mapping[int, str],
    folder: Path,
    seed: int,
) -> list[dict[str, Any]]:
    """Metrics of cells whose models are trained, in the store of ``folder``."""
    metrics = []
    for cell in group:
        backbone = backbones[int(cell.knowledge)]
        of_arms = taught(cell, design, backbone, folder, seed)
        arms = [arm for arm in of_arms if arm.labels == cell.placement]
        found = [of_arms[arm] for arm in arms]
        metrics += gains_of([cell], arms, found, placed(design, cell, seed))
    return metrics


def taught(
    at: Cell, design: Nets, backbone: str, folder: Path, seed: int
) -> dict[Arm, dict[str, list[float]]]:
    """Metrics of each arm at a cell's start, lists over units."""
    found, model = models(folder), fingerprint(tiny.NAME, backbone)
    of_arms = {}
    for arm in grid_of(design, seed).arms():
        key = at.world, model, at.rate or 0.0, arm
        of = [found[_key(*key, n)] for n in range(seed, seed + at.units)]
        of_arms[arm] = {name: [one[name] for one in of] for name in METRICS}
    return of_arms
