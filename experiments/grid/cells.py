"""One cell of a grid: select, train, judge, rerank.

What cells share is read once: the corpus and the benchmark as the model reads them (as
far as memory is given), and one compiled update per kind of label and shape of batch.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax.sharding import Mesh

from experiments.console.text import count_of
from experiments.grid.inputs import Inputs
from experiments.grid.judge import Bench, MemoryBudget, PromptCache
from experiments.grid.plan import (
    ALL_POSITIVE,
    BASE,
    BLIND,
    CLEAN,
    MASKED,
    RANDOM,
    Arm,
    Cell,
    Planned,
)
from experiments.store.results import (
    Result,
    append_lines,
    append_results,
    cell_key,
    json_lines,
)
from experiments.store.write_subset import choose
from mprm_jax.data.batches import Buckets, Example
from mprm_jax.data.loader import CorpusExamples, Source
from mprm_jax.models.model import Model, Params
from mprm_jax.records.problems import DataError
from mprm_jax.train.config import TrainConfig
from mprm_jax.train.loop import TrainingJob, Update, Watch, train
from mprm_jax.train.run_files import METRICS, Base, RunFolder
from mprm_jax.train.update_plan import UpdatePlan
from theory.labelling import step_targets
from theory.placement import blind_noise
from theory.rollouts import Rollouts
from theory.summary import summarise

# Points of a loss curve that the results keep.
_POINTS = 40

_EVALUATIONS = "evaluations.jsonl"


def cell_config(settings: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """What determines a cell beside its seed, as the results store has it."""
    return settings | {"arm": asdict(cell.arm)}


def missing(
    planned: Sequence[Planned], settings: dict[str, Any], found: Sequence[Result]
) -> list[Planned]:
    """The cells whose results are not among those found."""
    done = {result.key for result in found}
    return [
        one
        for one in planned
        if cell_key(cell_config(settings, one.cell), one.cell.seed) not in done
    ]


# Updates and settings of a cell that is trained on these rows.
Settings = Callable[[Cell, np.ndarray], tuple[UpdatePlan, TrainConfig]]


class InitialParams:
    """The parameters that cells start from.

    Args:
        params: of the model.
        reopen: reads them again, because training takes their memory; None: they are
            small, and stay.
        fresh_head: whether the head begins at zero, so that seeds differ in the order
            of rollouts, in ties and in corpora alone; else it stays, too.
    """

    def __init__(
        self,
        params: Params,
        reopen: Callable[[], Params] | None = None,
        fresh_head: bool = False,
    ) -> None:
        if fresh_head:
            params = params | {"head": jax.tree.map(jnp.zeros_like, params["head"])}
        self._kept = [params]
        self._reopen, self._fresh_head = reopen, fresh_head

    @property
    def consumed(self) -> bool:
        """Whether training may take their memory."""
        return self._reopen is not None

    def take(self) -> Params:
        """The parameters, whose memory is then the caller's if it is consumed."""
        if self._reopen is None:
            return self._kept[0]
        return self._kept.pop() if self._kept else self._reopen()

    def to_train(self, prompts: Source) -> Params:
        """The same for a training set: a fresh head's intercept is the log odds of a
        positive label there. From zero, tens of updates would be spent on finding it.
        """
        params = self.take()
        if not self._fresh_head:
            return params
        examples = [prompts[place] for place in range(len(prompts))]
        trials = np.concatenate([example.trials_S for example in examples])
        successes = np.concatenate([example.successes_S for example in examples])
        positive = np.count_nonzero(successes) + 1
        negative = np.count_nonzero((trials > 0) & (successes == 0)) + 1
        bias = np.zeros(params["head"]["bias"].shape, np.float32)
        bias[0] = np.log(positive / negative)
        return params | {"head": params["head"] | {"bias": jnp.asarray(bias)}}


@dataclass(frozen=True, eq=False)
class Curve:
    """How models are judged on the way.

    Attributes:
        bench: that judges them.
        at: updates after which it does, of the T of a cell.
        ends: whether the last point is that of the finished model, by the whole bench.
    """

    bench: Bench
    at: Callable[[Cell, int], Container[int]]
    ends: bool

    @classmethod
    def every(cls, updates: int, bench: Bench) -> Curve:
        """Every so many updates, and the finished model; 0: only that."""

        def at(cell: Cell, last: int) -> Container[int]:
            return range(updates, last, updates) if updates else ()

        return cls(bench, at, ends=True)


@dataclass(frozen=True, eq=False)
class GridContext:
    """What all cells share.

    Attributes:
        experiment: name of the store.
        inputs: corpus, benchmark, candidates, settings.
        model: pure functions.
        initial: gives the parameters that cells start from.
        source: all rollouts, by ``file:line``.
        prompts: the same as the model reads them.
        buckets: shapes of batches; of the whole corpus, so that cells share
            compilations.
        bench: what models are judged by.
        curve: how they are judged on the way.
        settings: of the training of a cell on these rows.
        mesh: of several devices; None: the trainer's own.
        base: where the parameters lie that are not trained; None: in no folder.
    """

    experiment: str
    inputs: Inputs
    model: Model
    initial: InitialParams
    source: CorpusExamples
    prompts: PromptCache
    buckets: Buckets
    bench: Bench
    curve: Curve
    settings: Settings
    mesh: Mesh | None = None
    base: Base | None = None

    def usable_rows(self, cell: Cell) -> tuple[np.ndarray, float]:
        """Of a cell's training set, and the share of them that ties decided.

        Raises:
            DataError: the rule's score is undefined on this corpus.
        """
        if not cell.arm.is_rule:
            return np.arange(self.inputs.usable.rollouts.n_rollouts), 0.0
        assert cell.seed is not None
        selection = choose(self.inputs.usable, cell.arm.selection(cell.seed))
        return selection.rows, selection.tied_share

    def chosen(self, cell: Cell, rows: np.ndarray) -> Source:
        """A cell's training set, with its labels.

        Raises:
            DataError: the labels need a truth that is not known.
        """
        labels, rollouts = None, self.inputs.usable.rollouts.take(rows)
        if cell.arm.is_control:
            assert cell.arm.labels is not None
            assert cell.seed is not None
            truth = [self.inputs.truth[row] for row in rows.tolist()]
            labels = control_labels(cell.arm.labels, rollouts, truth, cell.seed)
        elif cell.arm.labels == MASKED:
            # Here and not by the loss alone: a fresh head's intercept counts them, too.
            labels = masked_labels(rollouts)
        return _Chosen(self, rows, labels)


def open_prompts(
    model: Model, inputs: Inputs, budget: MemoryBudget
) -> tuple[CorpusExamples, PromptCache]:
    """All rollouts of the corpus, and the same kept as far as the budget goes."""
    every = np.arange(inputs.usable.rollouts.n_rollouts)
    source = CorpusExamples(inputs.usable, every, model.encode, inputs.images)
    return source, PromptCache(source, budget)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The rollouts of a subset; see :class:`mprm_jax.data.loader.Source`.

    Attributes:
        context: with the prompts of all rollouts.
        usable_rows: of the subset.
        labels: of each of its rollouts, 1, 0, or -1 where there is none; None: those of
            the corpus.
    """

    context: GridContext
    usable_rows: np.ndarray
    labels: Sequence[np.ndarray] | None

    def __len__(self) -> int:
        return len(self.usable_rows)

    def __getitem__(self, place: int) -> Example:
        example = self.context.prompts[int(self.usable_rows[place])]
        if self.labels is None:
            return example
        label_S = self.labels[place][: len(example.marker_S)]
        return example._replace(
            successes_S=(label_S == 1).astype(np.int32),
            trials_S=(label_S >= 0).astype(np.int32),
        )

    def where(self, place: int) -> str:
        """``file:line`` of a rollout."""
        return self.context.source.where(int(self.usable_rows[place]))


def control_labels(
    kind: str, rollouts: Rollouts, truth: Sequence[np.ndarray], seed: int
) -> list[np.ndarray]:
    """Labels that only the truth gives, of the steps that are right or wrong.

    Neutral steps have none, whichever kind: what state they carry on is told by the
    steps before them.

    Args:
        kind: of :data:`experiments.grid.plan.CONTROLS`.
        rollouts: of a subset.
        truth: of each rollout, 1, 0 or -1 for each step.
        seed: of the places of blind labels.

    Returns:
        of each rollout 1, 0, or -1 where there is none, for each step.
    """
    truth_S = np.concatenate(truth)
    counted, right = truth_S != 0, truth_S == 1
    found = np.full(len(truth_S), -1)
    hard_S = rollouts.successes > 0
    found[counted] = {
        CLEAN: lambda: right[counted],
        BLIND: lambda: blind_noise(
            hard_S[counted], right[counted], np.random.default_rng([seed, 1])
        ),
        ALL_POSITIVE: lambda: np.True_,
    }[kind]()
    return np.split(found, rollouts.offsets[1:-1])


def masked_labels(rollouts: Rollouts) -> list[np.ndarray]:
    """``masked`` of :mod:`theory.labelling`, as :func:`control_labels` returns it."""
    target_S, weight_S = step_targets(rollouts, MASKED)
    return np.split(np.where(weight_S > 0, target_S, -1), rollouts.offsets[1:-1])


class _Record:
    """Losses and evaluations of a cell by update; what a resumed cell goes on from.

    A resumed cell makes the updates after its checkpoint again, and these overwrite.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / _EVALUATIONS
        self.losses: dict[int, float] = {}
        self.points: dict[int, dict[str, float | None]] = {}
        if folder is not None:
            for _, line in json_lines(folder / METRICS, dict):
                self.losses[line["update"]] = line["loss"]
            for _, line in json_lines(folder / _EVALUATIONS, dict):
                self.points[line["update"]] = line

    def evaluated(self, update: int, value: dict[str, float | None]) -> None:
        """Keep an evaluation, on disk too."""
        self.points[update] = value
        if self._path is None:
            return
        line = msgspec.json.encode({"update": update} | value) + b"\n"
        append_lines(self._path, line)

    def curve(self, name: str) -> list[tuple[int, float | None]]:
        """(update, value) of a metric at every evaluation."""
        return [(update, of[name]) for update, of in sorted(self.points.items())]

    def loss_curve(self) -> list[tuple[int, float]]:
        """(last update, mean loss) over at most :data:`_POINTS` equal spans."""
        losses = [self.losses[update] for update in sorted(self.losses)]
        ends = np.unique(np.linspace(0, len(losses), _POINTS + 1).astype(int)).tolist()
        spans = itertools.pairwise(ends)
        return [(end, statistics.fmean(losses[start:end])) for start, end in spans]


@dataclass(frozen=True)
class Files:
    """What a grid leaves on disk.

    Attributes:
        results: folder of the store.
        models: folder of the cells' checkpoints and metrics, one folder each.
        writes: whether a cell has such a folder.
        keeps: whether it stays when the cell is done.
    """

    results: Path
    models: Path
    writes: Callable[[Planned], bool]
    keeps: bool


def run_cells(
    context: GridContext,
    todo: Sequence[Planned],
    files: Files,
    tick: Callable[[int], None] = lambda update: None,
) -> Iterator[str]:
    """Run cells one by one, each into the store as soon as it is done, and say so.

    Args:
        context: what they share.
        todo: which.
        files: where results and models go.
        tick: told the number of updates made in all cells.

    Raises:
        DataError: as :func:`run_cell`, or the store cannot be written.
        ValueError: as :func:`run_cell`.
    """
    before = 0
    for number, one in enumerate(todo, 1):

        def step(update: int, base: int = before) -> None:
            tick(base + update)

        folder = files.models / one.cell.name if files.writes(one) else None
        result = run_cell(context, one.cell, folder, step)
        append_results(files.results, [result])
        if folder is not None and not files.keeps:
            shutil.rmtree(folder, ignore_errors=True)
        before += one.updates
        yield f"[{number:>2}/{len(todo)}] {one.cell.name}: {_found(result)}"


def _found(result: Result) -> str:
    metrics = result.metrics
    ranked = "-" if metrics["auroc"] is None else f"{metrics['auroc']:.3f}"
    lines = [
        f"{count_of(metrics['rollouts'], 'rollout')}, "
        f"{count_of(metrics['updates'], 'update')}, micro-F1 "
        f"{metrics['micro_f1']:.3f}, AUROC {ranked}"
    ]
    for row in metrics.get("learnability", ()):
        within, low, blind = (
            "-" if row[name] is None else f"{row[name]:.3f}"
            for name in ("within_position_auroc", "low", "permuted_images")
        )
        lines.append(
            f"  learnable? {row['source']}: within-position AUROC {within} "
            f"(95 % from {low}), pictures permuted {blind}"
        )
    return "\n".join(lines)


def run_cell(
    context: GridContext,
    cell: Cell,
    folder: Path | None,
    tick: Callable[[int], None] = lambda update: None,
) -> Result:
    """Select, train, judge; the cell as it goes into the store.

    Args:
        context: what all cells share.
        cell: which.
        folder: of its checkpoints and metrics, from which a cell that was stopped goes
            on; None: nothing is written, and it begins anew.
        tick: told the number of each update.

    Raises:
        DataError: a file cannot be read or written, or the loss is not finite.
        ValueError: the settings do not fit the devices or the model.
    """
    config = cell_config(context.inputs.settings, cell)
    if cell.arm.rule == BASE or cell.seed is None:
        params = context.initial.take()
        metrics = {"rollouts": 0, "updates": 0} | _judged(context, cell.arm, params)
    else:
        metrics = _trained(context, cell, cell.seed, folder, tick)
    return Result(context.experiment, config, cell.seed, metrics)


def _trained(
    context: GridContext,
    cell: Cell,
    seed: int,
    folder: Path | None,
    tick: Callable[[int], None],
) -> dict[str, Any]:
    """The metrics of a cell that is trained; arguments as of :func:`run_cell`."""
    config = cell_config(context.inputs.settings, cell)
    rows, tied = context.usable_rows(cell)
    budget, training = context.settings(cell, rows)
    chosen = context.chosen(cell, rows)
    record, seconds, last = _Record(folder), [], time.perf_counter()
    stops = context.curve.at(cell, budget.updates)

    def on_update(update: Update) -> None:
        nonlocal last
        seconds.append(time.perf_counter() - last)
        record.losses[update.number] = float(update.metrics["loss"])
        tick(update.number)
        last = time.perf_counter()

    def look(number: int, params: Params) -> dict[str, float]:
        record.evaluated(number, context.curve.bench.point(params))
        return {}

    try:
        trained = train(
            TrainingJob(context.model, chosen, budget, context.buckets, training),
            context.initial.to_train(chosen),
            folder and RunFolder(folder, True, {"cell": config}, _say, context.base),
            mesh=context.mesh,
            consume=context.initial.consumed,
            on_update=on_update,
            watch=Watch(stops.__contains__, look),
        )
    except DataError as error:
        raise DataError(f"{cell.name}: {error}") from error
    judged = _judged(context, cell.arm, trained)
    if context.curve.ends:
        record.points[budget.updates] = judged
    if (cell.arm.rule, cell.arm.labels, seed) == (RANDOM, CLEAN, 0):
        judged["learnability"] = context.bench.learnability(trained)
    tokens = context.prompts.tokens[rows]
    return {
        "rollouts": len(rows),
        "updates": budget.updates,
        "presentations": budget.presentations,
        # Of one pass; a cell that was resumed has not read all of them itself.
        "tokens": int(tokens.sum()) if tokens.all() else None,
        # Without the first, which compiles.
        "seconds_per_update": statistics.median(seconds[1:]) if seconds[1:] else None,
        "subset": _subset(context, rows) | {"tied_share": tied},
        **judged,
        "curve": record.loss_curve(),
        "eval_curve": record.curve("auroc"),
        "f1_curve": record.curve("micro_f1"),
    }


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _judged(context: GridContext, arm: Arm, params: Params) -> dict[str, Any]:
    began = time.perf_counter()
    metrics = context.bench.judge(params)
    metrics["evaluation_seconds"] = time.perf_counter() - began
    if arm.is_control:
        # They explain step scores; the candidates, most of the prompts, are left out.
        return metrics
    accuracy, replicates = context.bench.rerank(params)
    if replicates:
        metrics["bootstrap"]["best_of_n"] = replicates
    return metrics | {"best_of_n": accuracy}


def _subset(context: GridContext, rows: np.ndarray) -> dict[str, float]:
    summary = asdict(summarise(context.inputs.usable.rollouts.take(rows)))
    names = ("steps", "mixed_share", "error_step_ratio", "mean_mc")
    return {name: summary[name] for name in names}
