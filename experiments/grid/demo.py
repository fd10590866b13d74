"""The main job end to end, in one process and resumable cell by cell.

Simulate a world, select by each rule, train one model per subset and seed with equal
budgets, judge all of them against the known truth, and write the page.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import msgspec

from experiments.corpora.scenes import write_world
from experiments.corpora.simulated import MADE_HERE
from experiments.grid.demo_results import EXPERIMENT, RULES, RUN_MANIFEST
from experiments.grid.talk import Talk, told, told_gate
from experiments.grid.training import (
    BATCH_SIZE,
    Bench,
    clean_example,
    judge_model,
    learnability,
    read_bench,
    read_examples,
    scored,
    shapes,
    starting_params,
    train_on,
)
from experiments.store.provenance import versions
from experiments.store.results import Result, append_results, cell_key, read_results
from experiments.store.write_subset import SelectionOptions, choose, write_selection
from mprm_jax.data.batches import Buckets, Example
from mprm_jax.data.corpus import SelectableCorpus, read_corpus, usable_rollouts
from mprm_jax.data.formats.base import WriteOptions
from mprm_jax.data.outputs import OutputSet
from mprm_jax.data.problems import DataError
from mprm_jax.metrics_ranking import auroc
from mprm_jax.models.model import Model, Params
from mprm_jax.models.tiny_model import pretrained, pretraining_facts
from sim.scenes.world import World
from theory.scores import DEFAULT_ALPHA
from theory.selection import RuleName, Selection

# Trained on all rollouts; on the Random subset's rollouts with their true labels; the
# pretrained backbone with a random head.
FULL, CLEAN, BASE = "full", "clean", "base"

BACKBONE = (
    "The tiny backbone has been pretrained on pictures, questions and solutions of all "
    "ten sources, those of the benchmark among them, drawn anew and not those of this "
    "run. It learned to name what each cell shows, to predict the values and results "
    "of right solutions, and, through two auxiliary rows that were then thrown away, "
    "whether a step of a solution with errors anywhere follows and is true. So, like a "
    "released backbone, it can check a step; the reward head starts at random and "
    "learns from the Monte-Carlo labels alone. The vision tower stays frozen."
)


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
class Plan:
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

    def config(self, arm: str) -> dict[str, Any]:
        """What determines a cell beside its seed."""
        return {
            "world": self.world.name,
            "arm": arm,
            "keep_ratio": self.keep_ratio,
            "size": self.size,
            "world_seed": self.seed,
        }


def run_demo(plan: Plan, talk: Talk) -> list[Result]:
    """Run every cell that the store does not hold yet; returns all cells of the world.

    Raises:
        DataError: a file cannot be read or written.
    """
    size = SIZES[plan.size]
    size = dataclasses.replace(size, seeds=plan.seeds or size.seeds)
    results = plan.output / "results"
    found = read_results(results, EXPERIMENT)
    _check_same_world(plan, found)
    usable, facts = simulate(plan, size, talk)
    subsets = _write_subsets(plan, usable)
    done = {result.key for result in found}
    cells = [c for c in _cells(size) if cell_key(plan.config(c[0]), c[1]) not in done]
    if cells:
        # First, so that the page can be made of an interrupted run.
        _write_manifest(plan, [])
        lab = _prepare(plan, usable, facts, talk)
        total = sum(_updates(lab, arm, subsets) for arm, _ in cells)
        with talk.progress("training", total, "updates") as tick:
            before = 0
            for number, (arm, seed) in enumerate(cells, 1):
                base = before

                def step(update: int, base: int = base) -> None:
                    tick(base + update)

                result = _run_cell(plan, lab, arm, seed, step, talk)
                before += _updates(lab, arm, subsets)
                append_results(results, [result])
                talk.say(told(result, number, len(cells)))
    return [
        result
        for result in read_results(results, EXPERIMENT)
        if result.config["world"] == plan.world.name
    ]


def _check_same_world(plan: Plan, found: Sequence[Result]) -> None:
    """Before the world is replaced: one page compares only what shares a world."""
    names = ("world", "size", "world_seed")
    mine = {name: plan.config(BASE)[name] for name in names}
    for result in found:
        other = {name: result.config.get(name) for name in names}
        if other["world"] == mine["world"] and other != mine:
            raise DataError(
                f"{plan.output}: holds a run of --size {other['size']} "
                f"--seed {other['world_seed']}; choose another --output"
            )


def simulate(
    plan: Plan, size: Size, talk: Talk
) -> tuple[SelectableCorpus, list[dict[str, Any]]]:
    """The corpus as read back from disk, and what only the simulator knows of it.

    Written only if the folder does not hold this world yet.
    """
    arguments = {
        "rollouts": size.rollouts,
        "judged": size.judged,
        "problems": size.problems,
        "seed": plan.seed,
    }
    if not _holds(plan.corpus, {"world": plan.world.name, **arguments}):
        total = size.rollouts + size.judged + size.problems
        with talk.progress("simulating", total, "pictures") as tick:
            write_world(plan.corpus, plan.world, **arguments, tick=tick)
    usable = usable_rollouts(read_corpus(plan.corpus))
    facts = []
    for file in usable.corpus.files:
        lines = (plan.corpus / "truth" / file.path.name).read_bytes().splitlines()
        facts += map(msgspec.json.decode, lines)
    if len(facts) != usable.rollouts.n_rollouts:
        raise DataError(f"{plan.folder / 'truth'}: not line by line the annotations")
    return usable, facts


def _holds(folder: Path, arguments: dict[str, Any]) -> bool:
    try:
        manifest = json.loads((folder / MADE_HERE).read_bytes())
    except (OSError, ValueError):
        return False
    return all(manifest.get(name) == value for name, value in arguments.items()) and (
        manifest.get("versions", {}).get("mprm") == versions()["mprm"]
    )


def _selection(
    plan: Plan, usable: SelectableCorpus, rule: RuleName, seed: int
) -> tuple[SelectionOptions, Selection]:
    options = SelectionOptions(
        rule=rule,
        keep_ratio=plan.keep_ratio,
        alpha=DEFAULT_ALPHA,
        per_source=True,
        unit="rollouts",
        ties="content",
        seed=seed,
    )
    return options, choose(usable, options)


def _write_subsets(plan: Plan, usable: SelectableCorpus) -> dict[str, int]:
    """Each rule's subset of seed 0 as a file; rollouts by rule."""
    kept = {}
    for rule in RULES:
        options, selection = _selection(plan, usable, rule, 0)
        output = plan.folder / "subsets" / f"{rule}.jsonl"
        write_selection(usable, selection, options, output, "prm", WriteOptions())
        kept[rule] = len(selection.rows)
    return kept


@dataclasses.dataclass(frozen=True, eq=False)
class _Lab:
    """What all cells share."""

    usable: SelectableCorpus
    facts: Sequence[dict[str, Any]]
    model: Model
    params: Params
    examples: Sequence[Example]
    buckets: Buckets
    bench: Bench


def _prepare(
    plan: Plan, usable: SelectableCorpus, facts: Sequence[dict[str, Any]], talk: Talk
) -> _Lab:
    model, params = pretrained()
    with talk.progress("reading", usable.rollouts.n_rollouts, "rollouts") as tick:
        examples = read_examples(model, usable, plan.corpus / "images", tick)
    bench = read_bench(model, plan.corpus / "benchmark")
    return _Lab(usable, facts, model, params, examples, shapes(examples), bench)


def _cells(size: Size) -> Iterator[tuple[str, int]]:
    """Seed by seed, so that an interrupted run has whole comparisons."""
    for seed in range(size.seeds):
        for arm in (CLEAN, *RULES, FULL, BASE):
            yield arm, seed


def _updates(lab: _Lab, arm: str, subsets: dict[str, int]) -> int:
    if arm == BASE:
        return 0
    rollouts = len(lab.examples) if arm == FULL else subsets.get(arm)
    return -(-(rollouts or subsets["random"]) // BATCH_SIZE)


def _training_set(plan: Plan, lab: _Lab, arm: str, seed: int) -> list[Example]:
    if arm == FULL:
        return list(lab.examples)
    rule: Any = "random" if arm == CLEAN else arm
    _, selection = _selection(plan, lab.usable, rule, seed)
    chosen = [lab.examples[row] for row in selection.rows.tolist()]
    if arm != CLEAN:
        return chosen
    facts = [lab.facts[row] for row in selection.rows.tolist()]
    return [
        clean_example(example, fact["correct"])
        for example, fact in zip(chosen, facts, strict=True)
    ]


# Solutions of the benchmark behind a point of a learning curve.
_CURVE_SOLUTIONS = 100


def _run_cell(
    plan: Plan,
    lab: _Lab,
    arm: str,
    seed: int,
    tick: Callable[[int], None],
    talk: Talk,
) -> Result:
    start = starting_params(lab.model, lab.params, jax.random.key(seed))
    config = plan.config(arm)
    if arm == BASE:
        metrics = judge_model(lab.model, start, lab.bench)
        return Result(
            EXPERIMENT, config, seed, {"rollouts": 0, "updates": 0, **metrics}
        )
    examples = _training_set(plan, lab, arm, seed)
    few = lab.bench.first(min(_CURVE_SOLUTIONS, len(lab.bench.solutions)))

    def judge(params: Params) -> float:
        steps = scored(lab.model, params, few)
        return auroc(steps.scores, steps.correct) or 0.0

    trained = train_on(
        lab.model,
        start,
        examples,
        lab.buckets,
        seed,
        # Curves and checkpoints of one seed show enough.
        judge=judge if seed == 0 else None,
        output=plan.folder / "models" / f"{arm}-{seed}" if seed == 0 else None,
        identity={"arm": config, "seed": seed},
        tick=tick,
    )
    metrics = {
        "rollouts": len(examples),
        "updates": trained.updates,
        **judge_model(lab.model, trained.params, lab.bench),
        "curve": trained.curve,
        "eval_curve": trained.eval_curve,
    }
    if arm == CLEAN and seed == 0:
        gates = learnability(lab.model, trained.params, lab.bench)
        _write_manifest(plan, gates)
        for gate in gates:
            talk.say(told_gate(gate))
    return Result(EXPERIMENT, config, seed, metrics)


def _write_manifest(plan: Plan, gates: Sequence[dict[str, Any]]) -> None:
    """``manifest.json`` of the run; rows of other worlds are kept."""
    path = plan.output / RUN_MANIFEST
    others: list[dict[str, Any]] = []
    commands: dict[str, None] = {}
    try:
        old = json.loads(path.read_bytes())
        others = [row for row in old["learnability"] if row["world"] != plan.world.name]
        if not gates:
            gates = [
                {k: v for k, v in row.items() if k != "world"}
                for row in old["learnability"]
                if row["world"] == plan.world.name
            ]
        commands = dict.fromkeys(old["commands"])
    except (OSError, ValueError, KeyError, TypeError):
        # No manifest yet, or none of ours: this one takes its place.
        pass
    manifest = {
        "commands": [*dict.fromkeys((*commands, plan.command))],
        "backbone": BACKBONE,
        "versions": versions(),
        "pretraining": pretraining_facts(),
        "arguments": {
            "size": plan.size,
            "keep_ratio": plan.keep_ratio,
            "seed": plan.seed,
        },
        "learnability": others + [{"world": plan.world.name, **row} for row in gates],
    }
    with OutputSet() as outputs:
        outputs.add(path).write(json.dumps(manifest, indent=1).encode() + b"\n")
