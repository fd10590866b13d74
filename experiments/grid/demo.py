"""The main job end to end: a grid on a simulated world, resumable cell by cell.

Simulate a world, select by each rule, train one model per subset and seed with equal
budgets, judge all of them against the known truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Sequence
from pathlib import Path

import numpy as np

from experiments.console.progress import progress
from experiments.corpora.scenes import read_truth, write_world
from experiments.corpora.simulated import made_here
from experiments.grid.cells import (
    Curve,
    Files,
    GridContext,
    InitialParams,
    missing,
    open_prompts,
    run_cells,
)
from experiments.grid.inputs import (
    InputPaths,
    Inputs,
    read_inputs,
    refuse_another_run,
)
from experiments.grid.judge import MemoryBudget, open_bench
from experiments.grid.plan import (
    BASE,
    CLEAN,
    DEMO,
    FULL,
    PAPER_RULES,
    Arm,
    Cell,
    Grid,
    plan_cells,
)
from experiments.store.manifests import RunManifest, write_run_manifest
from experiments.store.provenance import package_version
from experiments.store.results import Result, read_results, store_path
from experiments.store.write_subset import choose, write_selection
from mprm_jax.data.batches import buckets_for
from mprm_jax.data.corpus import SelectableCorpus, read_corpus, usable_rollouts
from mprm_jax.data.formats.base import WriteOptions
from mprm_jax.models.tiny import pretrained, pretraining_facts
from mprm_jax.records.problems import DataError
from mprm_jax.train.config import Objective, OptimizerConfig, TrainConfig
from mprm_jax.train.update_plan import UpdatePlan, plan
from sim.scenes.world import World
from theory.scores import DEFAULT_ALPHA

BACKBONE = (
    "The tiny backbone has been pretrained on pictures, questions and solutions of all "
    "ten sources, those of the benchmark among them, drawn anew and not those of this "
    "run. It learned to name what each cell shows, to predict the values and results "
    "of right solutions, and, through two auxiliary rows that were then thrown away, "
    "whether a step of a solution with errors anywhere follows and is true. So, like a "
    "released backbone, it can check a step; the reward head starts at random and "
    "learns from the Monte-Carlo labels alone. The vision tower stays frozen."
)

# Settings that worked for the tiny model on this world's clean labels; the same for all
# arms. A fresh head learns ten times as fast as the pretrained rest.
BATCH_SIZE = 16
LEARNING_RATE = 1e-3
HEAD_MULTIPLIER = 10.0
# The activations of four rollouts stay in the cache: an update costs half the CPU time
# of one in a single part (python -m experiments.benchmarks.train_step).
ACCUMULATE = 4
# Large enough that all cores work, small enough for little padding.
SCORING_BATCH = 64
# Solutions of the benchmark behind a point of a learning curve.
CURVE_SOLUTIONS = 100

# What the results keep beside every cell.
TRAINING = {
    "batch_size": BATCH_SIZE,
    "learning_rate": LEARNING_RATE,
    "head_multiplier": HEAD_MULTIPLIER,
    "fresh_head": True,
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much the demo does.

    Attributes:
        rollouts: of the corpus.
        judged: solutions of the benchmark.
        problems: with 16 candidates each.
        seeds: of selection ties, head and order of the rollouts; paired over arms.
    """

    rollouts: int
    judged: int
    problems: int
    seeds: int


SIZES = {
    # Shows that everything runs; its numbers say nothing.
    "smoke": Size(rollouts=500, judged=60, problems=10, seeds=1),
    "small": Size(rollouts=8_000, judged=400, problems=50, seeds=3),
    "medium": Size(rollouts=20_000, judged=1_000, problems=150, seeds=8),
    "large": Size(rollouts=60_000, judged=2_000, problems=300, seeds=16),
}


@dataclasses.dataclass(frozen=True)
class Demo:
    """What one run of the demo is.

    Attributes:
        output: its folder.
        world: simulated.
        size: name in :data:`SIZES`.
        keep_ratio: rho of all rules.
        seed: of the world.
        command: that makes the run again.
        seeds: trained; None: as many as the size has.
    """

    output: Path
    world: World
    size: str
    keep_ratio: float
    seed: int
    command: str
    seeds: int | None = None

    @property
    def folder(self) -> Path:
        """Of the world."""
        return self.output / self.world.name

    @property
    def corpus(self) -> Path:
        """Of the simulated corpus and benchmark."""
        return self.folder / "corpus"

    @property
    def grid(self) -> Grid:
        """The paper's rules at one keep ratio, and all references."""
        return Grid(
            rules=PAPER_RULES,
            keep_ratios=(self.keep_ratio,),
            alphas=(DEFAULT_ALPHA,),
            labels=(("hard", 0.0),),
            seeds=tuple(range(self.seeds or SIZES[self.size].seeds)),
            references=(CLEAN, FULL, BASE),
            fresh_head=True,
        )


def run_demo(demo: Demo, say: Callable[[str], None] = print) -> None:
    """Run every cell of a world that the store does not hold yet.

    Raises:
        DataError: a file cannot be read or written, or the folder holds another run.
    """
    results = demo.output / "results"
    found = read_results(results, DEMO)
    ours = _of_the_same_world(demo, found)
    inputs = simulate(demo)
    refuse_another_run(ours, inputs.settings, store_path(results, DEMO))
    _write_subsets(demo, inputs.usable)
    planned = plan_cells(inputs.usable, demo.grid, BATCH_SIZE)
    todo = missing(planned, inputs.settings, ours)
    if not todo:
        return
    arguments = {"size": demo.size, "keep_ratio": demo.keep_ratio, "seed": demo.seed}
    write_run_manifest(
        demo.output,
        RunManifest(
            (demo.command,), BACKBONE, DEMO, pretraining_facts(), {}, arguments
        ),
    )
    files = Files(
        results,
        demo.folder / "models",
        # Checkpoints of one seed show enough.
        lambda one: one.cell.seed == 0 and bool(one.updates),
        keeps=True,
    )
    context = _context(inputs)
    total = sum(one.updates for one in todo)
    with progress("training", total, "updates") as tick:
        for line in run_cells(context, todo, files, tick):
            say(line)


def _of_the_same_world(demo: Demo, found: Sequence[Result]) -> list[Result]:
    """The cells of the world; checked before it is replaced, because one page compares
    only what shares a world.
    """
    ours = []
    for result in found:
        world = result.config.get("world")
        if not isinstance(world, dict):
            store = store_path(demo.output / "results", DEMO)
            raise DataError(f"{store}: of an earlier version; choose another --output")
        if world.get("name") != demo.world.name:
            continue
        if (world.get("size"), world.get("seed")) != (demo.size, demo.seed):
            raise DataError(
                f"{demo.output}: holds a run of --size {world.get('size')} "
                f"--seed {world.get('seed')}; choose another --output"
            )
        ours.append(result)
    return ours


def simulate(demo: Demo) -> Inputs:
    """The world as read back from disk, with what only the simulator knows of it.

    Written only if the folder does not hold this world yet.
    """
    size = SIZES[demo.size]
    arguments = {
        "rollouts": size.rollouts,
        "judged": size.judged,
        "problems": size.problems,
        "seed": demo.seed,
    }
    found = made_here(demo.corpus)
    same = {"world": demo.world.name, **arguments}.items() <= found.items()
    if not same or found.get("versions", {}).get("mprm") != package_version():
        total = size.rollouts + size.judged + size.problems
        with progress("simulating", total, "pictures") as tick:
            write_world(demo.corpus, demo.world, **arguments, tick=tick)
    usable = usable_rollouts(read_corpus(demo.corpus))
    benchmark = demo.corpus / "benchmark"
    paths = InputPaths(
        benchmark / "test.jsonl",
        benchmark / "candidates.jsonl",
        demo.corpus / "images",
        benchmark / "images",
        name=demo.world.name,
    )
    inputs = read_inputs(usable, paths, TRAINING)
    truth = read_truth(demo.corpus, usable.corpus)
    world = inputs.settings["world"] | {"size": demo.size, "seed": demo.seed}
    return dataclasses.replace(
        inputs,
        settings=inputs.settings | {"world": world},
        truth=[truth[row].correct for row in usable.row.tolist()],
        prior=benchmark / "truth.jsonl",
    )


def _write_subsets(demo: Demo, usable: SelectableCorpus) -> None:
    """Each rule's subset of seed 0 as a file."""
    for rule in PAPER_RULES:
        alpha = DEFAULT_ALPHA if rule == "bis" else None
        options = Arm(rule, demo.keep_ratio, alpha).selection(0)
        output = demo.folder / "subsets" / f"{rule}.jsonl"
        chosen = choose(usable, options)
        write_selection(usable, chosen, options, output, "prm", WriteOptions())


def _settings(cell: Cell, rows: np.ndarray) -> tuple[UpdatePlan, TrainConfig]:
    assert cell.seed is not None
    config = TrainConfig(
        objective=Objective("hard"),
        optimizer=OptimizerConfig(head_multiplier=HEAD_MULTIPLIER),
        learning_rate=LEARNING_RATE,
        accumulate=ACCUMULATE,
        seed=cell.seed,
        threads=0,
        checkpoint_every=0,
    )
    return plan(len(rows), BATCH_SIZE), config


def _quarters(cell: Cell, updates: int) -> Container[int]:
    """Where the curves of the first seed, which shows enough, have their points."""
    parts = (1, 2, 3, 4) if cell.seed == 0 else ()
    return {round(updates * part / 4) for part in parts}


def _context(inputs: Inputs) -> GridContext:
    model, params = pretrained()
    # A world that the demo draws fits the memory.
    memory = MemoryBudget(2**62)
    source, prompts = open_prompts(model, inputs, memory)
    bench = open_bench(model, inputs, memory, SCORING_BATCH)
    examples = []
    with progress("reading", len(prompts), "rollouts") as tick:
        for place in range(len(prompts)):
            examples.append(prompts[place])
            tick(place + 1)
    few = bench.first(min(CURVE_SOLUTIONS, len(bench.solutions)))
    return GridContext(
        DEMO,
        inputs,
        model,
        InitialParams(params, fresh_head=model),
        source,
        prompts,
        buckets_for(examples),
        bench,
        Curve(few, _quarters, ends=False),
        _settings,
    )
