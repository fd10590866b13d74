"""The main job end to end: a grid on a simulated world, resumable cell by cell.

Simulate a world, select by each rule, train one model per subset and seed with equal
budgets, judge all of them against the known truth. A world has several corpora: seed s
trains on corpus s mod their number, so that intervals over seeds hold how corpora vary;
benchmark and candidates are the same for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Sequence
from pathlib import Path

import numpy as np

from experiments.console.compilation import compiling
from experiments.console.progress import progress
from experiments.console.training import DEMO_BACKBONE, TINY_RECIPE
from experiments.corpora.scenes import write_world
from experiments.corpora.simulated import made_here
from experiments.grid.cells import (
    Curve,
    Files,
    GridContext,
    InitialParams,
    Settings,
    missing,
    open_prompts,
    run_cells,
)
from experiments.grid.inputs import InputPaths, Inputs, read_inputs, refuse_another_run
from experiments.grid.judge import MemoryBudget, open_bench
from experiments.grid.plan import (
    BASE,
    CONTROLS,
    DEMO,
    FULL,
    PAPER_RULES,
    Arm,
    Cell,
    Grid,
    plan_cells,
)
from experiments.store.manifests import RunManifest, write_run_manifest
from experiments.store.overlap import HELD_OUT
from experiments.store.provenance import package_version
from experiments.store.results import Result, read_results, store_path
from experiments.store.write_subset import choose, write_selection
from mprm_jax.data.batches import buckets_for
from mprm_jax.data.corpus import SelectableCorpus, read_corpus, usable_rollouts
from mprm_jax.data.formats.base import WriteOptions
from mprm_jax.models.tiny import FULL as FULL_BACKBONE
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
    "released backbone, it can check a step; the reward head starts at zero and "
    "learns from the Monte-Carlo labels alone. The vision tower stays frozen."
)

# Chosen on clean labels of spare worlds by a rule written beforehand, the same for all
# arms: mprm run recipe --size full. The head learns ten times as fast as the rest. A
# backbone of less pretraining has more to learn: 2^4 times the rate.
BATCH_SIZE, LEARNING_RATE, HEAD_MULTIPLIER = TINY_RECIPE
_LEARNING_RATES = {FULL_BACKBONE: LEARNING_RATE, "2400": 5e-4}
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
    "head": "zero",
}


def peak_rate(backbone: str) -> float:
    """Of a backbone as :func:`mprm_jax.models.tiny.pretrained` names it; of a file that
    of the 2,400 updates, since it is likely to have had fewer, too.
    """
    return _LEARNING_RATES.get(backbone, _LEARNING_RATES["2400"])


@dataclasses.dataclass(frozen=True)
class Size:
    """How much the demo does.

    Attributes:
        rollouts: of the corpus.
        judged: solutions of the benchmark.
        problems: with 16 candidates each.
        seeds: of selection ties, blind labels and order of the rollouts; paired over
            arms.
        corpora: of each world.
        full: seeds that train on all rollouts, too, at the cost of 1 / keep ratio arms.
    """

    rollouts: int
    judged: int
    problems: int
    seeds: int
    corpora: int
    full: int


SIZES = {
    # Shows that everything runs; its numbers say nothing.
    "smoke": Size(500, judged=60, problems=10, seeds=2, corpora=2, full=2),
    "small": Size(8_000, judged=400, problems=50, seeds=3, corpora=3, full=2),
    "medium": Size(8_000, judged=1_000, problems=50, seeds=12, corpora=4, full=3),
    # Of mprm run recipe.
    "recipe": Size(8_000, judged=1_000, problems=5, seeds=6, corpora=3, full=0),
    "large": Size(60_000, judged=2_000, problems=300, seeds=16, corpora=8, full=4),
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
        backbone: see :func:`mprm_jax.models.tiny.pretrained`.
    """

    output: Path
    world: World
    size: str
    keep_ratio: float
    seed: int
    command: str
    seeds: int | None = None
    backbone: str = DEMO_BACKBONE

    @property
    def folder(self) -> Path:
        """Of the world."""
        return self.output / self.world.name

    def corpus(self, number: int) -> Path:
        """Of a simulated corpus; beside the first lies the benchmark."""
        return self.folder / (f"corpus-{number}" if number else "corpus")

    def grid(self, corpus: int) -> Grid:
        """Of a corpus: the paper's rules at one keep ratio, controls, references."""
        size = SIZES[self.size]
        seeds = range(corpus, self.seeds or size.seeds, size.corpora)
        return Grid(
            rules=PAPER_RULES,
            keep_ratios=(self.keep_ratio,),
            alphas=(DEFAULT_ALPHA,),
            labels=(("hard", 0.0),),
            seeds=tuple(seeds),
            references=(FULL,) if corpus else (FULL, BASE),
            controls=CONTROLS,
            full_seeds=tuple(range(size.full)),
        )


def run_demo(demo: Demo, say: Callable[[str], None] = print) -> None:
    """Run every cell of a world that the store does not hold yet.

    Raises:
        DataError: a file cannot be read or written, or the folder holds another run.
    """
    ours = _of_the_same_world(demo, read_results(demo.output / "results", DEMO))
    corpora = SIZES[demo.size].corpora
    for corpus in range(min(corpora, demo.seeds or corpora)):
        of_corpus = [one for one in ours if (one.seed or 0) % corpora == corpus]
        _run_corpus(demo, corpus, of_corpus, say)


def _run_corpus(
    demo: Demo, corpus: int, found: Sequence[Result], say: Callable[[str], None]
) -> None:
    results = demo.output / "results"
    inputs = simulate(demo, corpus)
    refuse_another_run(found, inputs.settings, store_path(results, DEMO))
    if not corpus:
        _write_subsets(demo, inputs.usable)
    planned = plan_cells(inputs.usable, demo.grid(corpus), BATCH_SIZE)
    todo = missing(planned, inputs.settings, found)
    if not todo:
        return
    names = ("size", "keep_ratio", "seed", "backbone")
    arguments = {name: getattr(demo, name) for name in names}
    facts = pretraining_facts(demo.backbone)
    write_run_manifest(
        demo.output,
        RunManifest(
            (demo.command,),
            BACKBONE,
            DEMO,
            facts,
            arguments=arguments,
            overlap={"told": HELD_OUT},
        ),
    )
    files = Files(
        results,
        demo.folder / "models",
        # Checkpoints of one seed show enough.
        lambda one: (
            one.cell.seed == 0 and bool(one.updates) and not one.cell.arm.is_control
        ),
        keeps=True,
    )
    context = open_grid(inputs, demo.backbone)
    total = sum(one.updates for one in todo)
    with progress("training", total, "updates", compiling()) as tick:
        for line in run_cells(context, todo, files, tick):
            say(line)


def _of_the_same_world(demo: Demo, found: Sequence[Result]) -> list[Result]:
    """The cells of the world; checked before it is replaced, because one page compares
    only what shares a world.
    """
    ours = []
    for result in found:
        world = result.config.get("world")
        if not isinstance(world, dict) or "corpora" not in world:
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


def simulate(demo: Demo, corpus: int = 0) -> Inputs:
    """A world's corpus and its benchmark, as read back from disk.

    Written only if the folder does not hold this corpus yet.
    """
    size = SIZES[demo.size]
    arguments = {
        "rollouts": size.rollouts,
        "judged": size.judged,
        "problems": size.problems,
        "seed": demo.seed,
        "number": corpus,
    }
    folder = demo.corpus(corpus)
    found = made_here(folder)
    same = {"world": demo.world.name, **arguments}.items() <= found.items()
    if not same or found.get("versions", {}).get("mprm") != package_version():
        total = size.rollouts + (0 if corpus else size.judged + size.problems)
        with progress("simulating", total, "pictures") as tick:
            write_world(folder, demo.world, **arguments, tick=tick)
    usable = usable_rollouts(read_corpus(folder))
    benchmark = demo.corpus(0) / "benchmark"
    paths = InputPaths(
        benchmark / "test.jsonl",
        benchmark / "candidates.jsonl",
        folder / "images",
        benchmark / "images",
        backbone=demo.backbone,
        name=demo.world.name,
    )
    training = TRAINING | {"learning_rate": peak_rate(demo.backbone)}
    inputs = read_inputs(usable, paths, training)
    world = {"size": demo.size, "seed": demo.seed, "corpora": size.corpora}
    return dataclasses.replace(
        inputs,
        settings=inputs.settings | {"world": inputs.settings["world"] | world},
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


def _settings_at(rate: float) -> Settings:
    def settings(cell: Cell, rows: np.ndarray) -> tuple[UpdatePlan, TrainConfig]:
        assert cell.seed is not None
        return plan(len(rows), BATCH_SIZE), train_config(cell.seed, rate)

    return settings


def train_config(seed: int, rate: float, head: float = HEAD_MULTIPLIER) -> TrainConfig:
    """How a cell is trained on hard labels, in memory, without checkpoints.

    Args:
        seed: of the order of the rollouts.
        rate: peak of the schedule.
        head: learning rate of the head over it.
    """
    return TrainConfig(
        objective=Objective("hard"),
        optimizer=OptimizerConfig(head_multiplier=head),
        learning_rate=rate,
        accumulate=ACCUMULATE,
        seed=seed,
        threads=0,
        checkpoint_every=0,
    )


def _quarters(cell: Cell, updates: int) -> Container[int]:
    """Where the curves of the first seed, which shows enough, have their points."""
    parts = (1, 2, 3, 4) if cell.seed == 0 and not cell.arm.is_control else ()
    return {round(updates * part / 4) for part in parts}


def open_grid(inputs: Inputs, backbone: str) -> GridContext:
    """All that the cells of a corpus share, its rollouts read.

    Args:
        inputs: of :func:`simulate`.
        backbone: see :func:`mprm_jax.models.tiny.pretrained`.
    """
    model, params = pretrained(backbone)
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
        InitialParams(params, fresh_head=True),
        source,
        prompts,
        buckets_for(examples),
        bench,
        Curve(few, _quarters, ends=False),
        _settings_at(peak_rate(backbone)),
    )
