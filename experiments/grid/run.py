"""`mprm run selection`: the paper's experiment on anyone's corpus and model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.command import print_json
from experiments.console.corpus import load_usable
from experiments.console.options import given, wrong_usage
from experiments.console.progress import progress
from experiments.console.training import TINY, open_model
from experiments.grid.options import Options, parse_grid, parse_shard
from experiments.grid.plan import Cell, Planned, plan_cells, price, shard
from experiments.store.provenance import package_version, versions
from experiments.store.results import (
    Result,
    append_results,
    cell_key,
    read_results,
    store_path,
)
from mprm_jax.data.corpus import Usable
from mprm_jax.data.outputs import OutputSet
from mprm_jax.data.problems import DataError

if TYPE_CHECKING:
    from experiments.grid.cells import Lab, Settings
    from experiments.grid.inputs import Inputs
    from mprm_jax.models.model import Params
    from mprm_jax.train.loop import TrainConfig
    from mprm_jax.train.optimizer import Budget

NAME = "selection"
MANIFEST = "manifest.json"

OPTIONS = Options


def run(options: Options) -> None:
    """Run what is missing of the grid, or of a shard of it, and report."""
    grid, part = parse_grid(options), parse_shard(options.shard)
    usable = load_usable(options)
    whole_corpus = usable.rollouts.n_rollouts
    settings = options.training()
    budget = settings.budget(whole_corpus, whole_corpus)
    training = _training(options, budget, settings.config())

    from experiments.grid.cells import cell_config
    from experiments.grid.inputs import read_inputs, refuse_another_run
    from experiments.grid.price import as_json, as_text, rates
    from experiments.grid.results import gather, rows
    from experiments.grid.tables import told

    inputs = read_inputs(
        usable,
        options.benchmark,
        options.candidates,
        options.images,
        options.benchmark_images,
        options.settings.model,
        options.name,
        training,
    )
    folder = options.output / "results"
    found = read_results(folder, NAME)
    refuse_another_run(found, inputs.settings, store_path(folder, NAME))
    matched = options.settings.matched_updates
    planned = plan_cells(usable, grid, budget.batch_size, matched)
    mine = shard(planned, *part, len(inputs.solutions))

    def missing(of: Sequence[Planned]) -> list[Planned]:
        done = {result.key for result in read_results(folder, NAME)}
        return [
            one
            for one in of
            if cell_key(cell_config(inputs.settings, one.cell), one.cell.seed)
            not in done
        ]

    todo = missing(mine)
    if options.cost.dry_run:
        whole = price(planned, found, options.eval_every)
        left = price(todo, found, options.eval_every)
        cost = rates(options, inputs, budget)
        if options.json:
            print_json(as_json(whole, left, cost))
        else:
            shown = options.shard if part[1] > 1 else None
            print(as_text(whole, left, shown, cost))
        return
    if todo:
        _write_manifest(options, training)
        _run_cells(options, inputs, budget, todo)
    results = read_results(folder, NAME)
    if not results:
        print(f"shard {options.shard} holds no cell of this grid", file=sys.stderr)
        return
    outcome = gather(results)
    if options.json:
        from experiments.grid.results import answers

        value = {"output": str(options.output), "cells": len(results)}
        value |= {"ran": len(todo), "missing": len(missing(planned))}
        print_json(value | rows(outcome) | {"answers": answers(outcome)})
        return
    print(told(outcome, missing(planned)))
    print(f"\n{len(todo)} cells run, {len(results)} in the store: {folder}")
    print(f"next: mprm figures --only {NAME} --results {folder}")


def _settings_for(options: Options, usable: Usable) -> Settings:
    def settings(cell: Cell, rows: np.ndarray) -> tuple[Budget, TrainConfig]:
        training = options.training(cell)
        return training.budget(len(rows), len(usable.row)), training.config()

    return settings


def _training(options: Options, budget: Budget, config: TrainConfig) -> dict[str, Any]:
    """Settings that change what comes out, whatever the cell."""
    free = ("compute", "frozen_dtype", "max_length")
    lora = ("lora_rank", "lora_alpha", "lora_targets")
    return {
        "batch_size": budget.batch_size,
        "learning_rate": config.learning_rate,
        "optimizer": config.optimizer.kind,
        "first_moment": config.optimizer.first_moment,
        "head_multiplier": config.optimizer.head_multiplier,
        "weight_decay": config.optimizer.weight_decay,
        "matched_updates": options.settings.matched_updates,
        **{name: getattr(options.settings.backbone, name) for name in (*free, *lora)},
    }


def _run_cells(
    options: Options,
    inputs: Inputs,
    budget: Budget,
    todo: Sequence[Planned],
) -> None:
    from experiments.grid.cells import Start, open_lab
    from mprm_jax.train.memory import advised
    from mprm_jax.train.sharding import placement

    with advised():
        model, params, mesh = open_model(options.training(), budget)

    def reopen() -> Params:
        with advised():
            return open_model(options.training(), budget)[1]

    lab = open_lab(
        inputs,
        model,
        # A backbone is too large to be kept as it was.
        Start(params, None if options.settings.model == TINY else reopen),
        _settings_for(options, inputs.usable),
        scoring_batch_size=options.scoring_batch_size,
        eval_every=options.eval_every,
        memory=int(options.memory_gb * 1e9),
        placement=None if mesh is None else placement(mesh),
    )
    before = 0
    total = sum(one.updates for one in todo)
    with progress("training", total, "updates") as tick:
        for number, one in enumerate(todo, 1):

            def step(update: int, base: int = before) -> None:
                tick(base + update)

            result = _run_cell(options, lab, one, step)
            before += one.updates
            _say(f"[{number:>2}/{len(todo)}] {one.cell.name}: {_found(result)}")


def _run_cell(
    options: Options, lab: Lab, planned: Planned, tick: Callable[[int], None]
) -> Result:
    from experiments.grid.cells import run_cell

    folder = None
    if planned.updates and (
        options.settings.loop.checkpoint_every or options.keep_models
    ):
        folder = options.output / "models" / planned.cell.name
    with wrong_usage():
        result = run_cell(lab, planned, folder, tick)
    append_results(options.output / "results", [result])
    if folder is not None and not options.keep_models:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _found(result: Result) -> str:
    metrics = result.metrics
    ranked = "-" if metrics["auroc"] is None else f"{metrics['auroc']:.3f}"
    return (
        f"{metrics['rollouts']:,} rollouts, {metrics['updates']:,} updates, micro-F1 "
        f"{metrics['micro_f1']:.3f}, AUROC {ranked}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_manifest(options: Options, training: dict[str, Any]) -> None:
    """``manifest.json`` of the run; the commands of earlier ones are kept.

    Raises:
        DataError: the folder holds a run of another kind.
    """
    path = options.output / MANIFEST
    commands: list[str] = []
    if path.exists():
        try:
            old = json.loads(path.read_bytes())
            if old["experiment"] != NAME:
                raise ValueError(old["experiment"])
            commands += old["commands"]
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}: is not of mprm run {NAME}; choose another --output"
            ) from None
    words = [f"mprm run {NAME}"]
    for name, value in given(options).items():
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        words.append(name if value is True else f"{name} {text}")
    command = " ".join(words)
    manifest = {
        "experiment": NAME,
        "commands": [*dict.fromkeys([*commands, command])],
        "backbone": options.settings.model,
        "versions": versions() | {"jax": package_version("jax")},
        "arguments": training | {"model": options.settings.model},
    }
    with OutputSet() as outputs:
        outputs.add(path).write(json.dumps(manifest, indent=1).encode() + b"\n")
