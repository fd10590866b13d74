"""`mprm run selection`: the paper's experiment on anyone's corpus and model."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.command import answer
from experiments.console.compilation import compiling
from experiments.console.corpus import load_usable
from experiments.console.errors import print_bad_lines
from experiments.console.options import given, wrong_usage
from experiments.console.price import fitted, verdict
from experiments.console.progress import progress
from experiments.console.text import count_of
from experiments.console.training import TINY, open_model
from experiments.grid.options import Options, parse_grid, parse_shard
from experiments.grid.plan import SELECTION, Cell, Planned, plan_cells, shard
from experiments.store.manifests import RunManifest, command_line, write_run_manifest
from experiments.store.overlap import check_overlap, check_pictures, overlap_sentences
from experiments.store.results import Result, read_results, store_path
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.overlap import OverlapSettings

if TYPE_CHECKING:
    from experiments.grid.cells import GridContext, Settings
    from experiments.grid.inputs import Inputs
    from mprm_jax.models.model import Params
    from mprm_jax.train.config import TrainConfig
    from mprm_jax.train.update_plan import UpdatePlan

NAME = SELECTION

OPTIONS = Options


def run(options: Options) -> None:
    """Run what is missing of the grid, or of a shard of it, and report."""
    grid, part = parse_grid(options), parse_shard(options.shard)
    usable = load_usable(options)
    whole_corpus = usable.rollouts.n_rollouts
    settings = options.training()
    budget = settings.budget(whole_corpus, whole_corpus)
    training = _training(options, budget, settings.config())

    from experiments.grid.cells import missing
    from experiments.grid.inputs import InputPaths, read_inputs, refuse_another_run

    paths = InputPaths(
        options.benchmark,
        options.candidates,
        options.images,
        options.benchmark_images,
        options.settings.model,
        name=options.name,
        follow_links=options.follow_links,
    )
    inputs = read_inputs(usable, paths, training)
    folder = options.output / "results"
    found = read_results(folder, NAME)
    refuse_another_run(found, inputs.settings, store_path(folder, NAME))
    if grid.controls:
        inputs.truth_folder()
    planned = plan_cells(
        usable, grid, budget.batch_size, options.settings.matched_updates
    )
    mine = shard(planned, *part, len(inputs.solutions))
    todo = missing(mine, inputs.settings, found)
    if options.cost.dry_run:
        from experiments.grid.price import as_json, as_text, price, rates

        whole = price(planned, found, options.eval_every)
        left = price(todo, found, options.eval_every)
        cost = rates(options, inputs, budget)
        shown = options.shard if part[1] > 1 else None
        text = as_text(whole, left, shown, cost)
        answer(options.json, as_json(whole, left, cost), text)
        return
    if todo:
        _run_cells(options, inputs, budget, todo)
        # Again, because other shards may write into the same store.
        found = read_results(folder, NAME)
    if not found:
        print(f"shard {options.shard} holds no cell of this grid", file=sys.stderr)
        return
    left_over = missing(planned, inputs.settings, found)
    _report(options, found, len(todo), left_over)


def _run_cells(
    options: Options, inputs: Inputs, budget: UpdatePlan, todo: Sequence[Planned]
) -> None:
    from experiments.grid.cells import Files, run_cells

    arguments = inputs.settings["training"] | {"model": options.settings.model}
    run = RunManifest(
        (command_line(f"mprm run {NAME}", given(options)),),
        options.settings.model,
        NAME,
        arguments=arguments,
        overlap=_overlap(options, inputs),
    )
    write_run_manifest(options.output, run)
    context = _context(options, inputs, budget)
    models = bool(options.settings.loop.checkpoint_every or options.keep_models)
    files = Files(
        options.output / "results",
        options.output / "models",
        lambda one: models and bool(one.updates),
        options.keep_models,
    )
    total = sum(one.updates for one in todo)
    with progress("training", total, "updates", compiling()) as tick, wrong_usage():
        for line in run_cells(context, todo, files, tick):
            print(line, file=sys.stderr, flush=True)


def _overlap(options: Options, inputs: Inputs) -> dict[str, Any]:
    """What training data and benchmark share, for the manifest."""
    usable, asked = inputs.usable, inputs.solutions
    overlap = check_overlap(usable.corpus, usable.row, asked, OverlapSettings())
    roots = inputs.images, inputs.benchmark_images
    check_pictures(overlap, options.compare_pictures, *roots, options.workers)
    print_bad_lines(overlap.unreadable)
    value = overlap.as_json()
    told, found = overlap_sentences(value), value["overall"]
    if found["question_same"] or found["picture_same"]:
        print(told, file=sys.stderr)
    return {"told": told} | value


def _report(
    options: Options, found: Sequence[Result], ran: int, left: Sequence[Planned]
) -> None:
    from experiments.grid.results import gather, rows, sentences
    from experiments.grid.tables import told

    outcomes = gather(found)
    (outcome,) = outcomes
    value = {"output": str(options.output), "cells": len(found)}
    value |= {"ran": ran, "missing": len(left)}
    value |= rows(outcome) | {"answers": sentences(outcome)}
    folder = options.output / "results"
    text = f"""\
{told(outcomes, left)}

{count_of(ran, "cell")} run, {len(found)} in the store: {folder}
next: mprm figures --only {NAME} --results {shlex.quote(str(folder))}"""
    answer(options.json, value, text)


def _settings_for(options: Options, usable: SelectableCorpus) -> Settings:
    def settings(cell: Cell, rows: np.ndarray) -> tuple[UpdatePlan, TrainConfig]:
        training = options.training(cell)
        return training.budget(len(rows), len(usable.row)), training.config()

    return settings


def _training(
    options: Options, budget: UpdatePlan, config: TrainConfig
) -> dict[str, Any]:
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


def _context(options: Options, inputs: Inputs, budget: UpdatePlan) -> GridContext:
    from experiments.grid.cells import Curve, GridContext, InitialParams, open_prompts
    from experiments.grid.judge import MemoryBudget, open_bench
    from experiments.grid.price import every_rollout
    from mprm_jax.data.batches import open_ladder
    from mprm_jax.train.loop import advised

    training, cost = fitted(options.training(), every_rollout(inputs, budget))
    if cost is not None:
        print(f"mprm run {NAME}: {verdict(cost)}", file=sys.stderr)
    settings = dataclasses.replace(
        options.settings, backbone=training.backbone, accumulate=training.accumulate
    )
    options = dataclasses.replace(options, settings=settings)
    with advised(), progress("loading the model", None):
        model, params, mesh = open_model(options.training(), budget)

    def reopen() -> Params:
        with advised():
            return open_model(options.training(), budget)[1]

    memory = MemoryBudget(int(options.memory_gb * 1e9))
    source, prompts = open_prompts(model, inputs, memory)
    bench = open_bench(model, inputs, memory, options.scoring_batch_size)
    return GridContext(
        NAME,
        inputs,
        model,
        # A backbone is too large to be kept as it was.
        InitialParams(params, None if options.settings.model == TINY else reopen),
        source,
        prompts,
        open_ladder(int(inputs.usable.rollouts.lengths.max())),
        bench,
        Curve.every(options.eval_every, bench),
        _settings_for(options, inputs.usable),
        mesh,
        options.training().base(),
    )
