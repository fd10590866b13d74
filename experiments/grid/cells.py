"""One cell of a selection grid: select, train, judge, rerank.

What cells share is read once: the corpus and the benchmark as the model reads them (as
far as memory is given), and one compiled update per kind of label and shape of batch.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jax.sharding import Mesh

from experiments.grid.inputs import Inputs
from experiments.grid.judge import (
    Bench,
    Kept,
    Prompts,
    Room,
    described,
    point,
)
from experiments.grid.plan import Cell, Planned
from experiments.store.results import Result
from experiments.store.write_subset import choose
from mprm_jax.data.batches import Example, open_ladder
from mprm_jax.data.loader import CorpusExamples
from mprm_jax.data.problems import DataError
from mprm_jax.data.update_plan import UpdatePlan
from mprm_jax.models.model import Model, Params
from mprm_jax.train.loop import TrainConfig, TrainingJob, Update, train
from mprm_jax.train.run_files import METRICS, RunFolder
from theory.summary import summarise

EXPERIMENT = "selection"

# Points of a loss curve that the results keep.
_POINTS = 40

_EVALUATIONS = "evaluations.jsonl"


def cell_config(settings: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """What determines a cell beside its seed, as the results store has it."""
    return settings | {"arm": asdict(cell.arm)}


# Updates and settings of a cell that is trained on these rows.
Settings = Callable[[Cell, np.ndarray], tuple[UpdatePlan, TrainConfig]]


class Start:
    """The parameters that every cell starts from.

    Args:
        params: of the model.
        reopen: reads them again, because training takes their memory; None: they are
            small, and stay.
    """

    def __init__(self, params: Params, reopen: Callable[[], Params] | None) -> None:
        self._params, self._reopen = params, reopen

    @property
    def consumed(self) -> bool:
        """Whether training may take their memory."""
        return self._reopen is not None

    def take(self) -> Params:
        """The parameters, whose memory is then the caller's if it is consumed."""
        if self._reopen is None:
            return self._params
        params, self._params = self._params, None
        return self._reopen() if params is None else params


@dataclass(frozen=True, eq=False)
class Lab:
    """What all cells share.

    Attributes:
        inputs: corpus, benchmark, candidates, settings.
        model: pure functions.
        start: gives the parameters that every cell starts from.
        source: all rollouts, by ``file:line``.
        prompts: the same as the model reads them.
        bench: what models are judged by.
        settings: of the training of a cell on these rows.
        eval_every: updates between evaluations; 0: at the end only.
        mesh: of several devices; None: the trainer's own.
    """

    inputs: Inputs
    model: Model
    start: Start
    source: CorpusExamples
    prompts: Kept
    bench: Bench
    settings: Settings
    eval_every: int
    mesh: Mesh | None

    @property
    def whole(self) -> int:
        """Rollouts of the corpus."""
        return self.inputs.usable.rollouts.n_rollouts

    def rows(self, cell: Cell) -> tuple[np.ndarray, float]:
        """Rows of a cell's training set, and the share of them that ties decided.

        Raises:
            DataError: the rule's score is undefined on this corpus.
        """
        if not cell.arm.is_rule:
            return np.arange(self.whole), 0.0
        assert cell.seed is not None
        selection = choose(self.inputs.usable, cell.arm.selection(cell.seed))
        return selection.rows, selection.tied_share


def open_lab(
    inputs: Inputs,
    model: Model,
    start: Start,
    settings: Settings,
    *,
    scoring_batch_size: int,
    eval_every: int,
    memory: int,
    mesh: Mesh | None,
) -> Lab:
    """The lab of a grid; ``memory`` bytes are for encoded prompts."""
    room = Room(memory)
    every = np.arange(inputs.usable.rollouts.n_rollouts)
    source = CorpusExamples(inputs.usable, every, model.encode, inputs.images)
    prompts = Prompts(model, inputs.solutions, inputs.benchmark_images)
    bench = Bench(
        model,
        inputs.solutions,
        Kept(prompts, room),
        inputs.sets,
        inputs.benchmark_images,
        scoring_batch_size,
    )
    return Lab(
        inputs,
        model,
        start,
        source,
        Kept(source, room),
        bench,
        settings,
        eval_every,
        mesh,
    )


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The rollouts of a subset; see :class:`mprm_jax.data.loader.Source`."""

    lab: Lab
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Example:
        return self.lab.prompts[int(self.rows[place])]

    def where(self, place: int) -> str:
        """``file:line`` of a rollout."""
        return self.lab.source.where(int(self.rows[place]))


class _Record:
    """Losses and evaluations of a cell by update; what a resumed cell goes on from.

    A resumed cell makes the updates after its checkpoint again, and these overwrite.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / _EVALUATIONS
        self.losses: dict[int, float] = {}
        self.points: dict[int, dict[str, float | None]] = {}
        if folder is not None:
            for line in _whole_lines(folder / METRICS):
                self.losses[line["update"]] = line["loss"]
            for line in _whole_lines(folder / _EVALUATIONS):
                self.points[line["update"]] = line

    def evaluated(self, update: int, value: dict[str, float | None]) -> None:
        """Keep an evaluation, on disk too."""
        self.points[update] = value
        if self._path is None:
            return
        try:
            with open(self._path, "ab") as file:
                # A line that a killed run left unfinished is ended first.
                line = msgspec.json.encode({"update": update} | value)
                file.write(b"\n" + line + b"\n")
        except OSError as error:
            raise DataError(f"{self._path}: {error.strerror or error}") from error

    def curve(self, name: str) -> list[tuple[int, float | None]]:
        """(update, value) of a metric at every evaluation."""
        return [(update, of[name]) for update, of in sorted(self.points.items())]

    def loss_curve(self) -> list[tuple[int, float]]:
        """(last update, mean loss) over at most :data:`_POINTS` equal spans."""
        losses = [self.losses[update] for update in sorted(self.losses)]
        ends = np.unique(np.linspace(0, len(losses), _POINTS + 1).astype(int)).tolist()
        spans = itertools.pairwise(ends)
        return [(end, statistics.fmean(losses[start:end])) for start, end in spans]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, less what a killed run left unfinished."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    found = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(line, type=dict))
    return found


def run_cell(
    lab: Lab,
    planned: Planned,
    folder: Path | None,
    tick: Callable[[int], None] = lambda update: None,
) -> Result:
    """Select, train, judge; the cell as it goes into the store.

    Args:
        lab: what all cells share.
        planned: the cell.
        folder: of its checkpoints and metrics, from which a cell that was stopped goes
            on; None: nothing is written, and it begins anew.
        tick: told the number of each update.

    Raises:
        DataError: a file cannot be read or written, or the loss is not finite.
        ValueError: the settings do not fit the devices or the model.
    """
    cell = planned.cell
    config = cell_config(lab.inputs.settings, cell)
    if cell.seed is None:
        metrics = {"rollouts": 0, "updates": 0} | _judged(lab, lab.start.take())
        return Result(EXPERIMENT, config, None, metrics)
    rows, tied = lab.rows(cell)
    budget, training = lab.settings(cell, rows)
    record, seconds, last = _Record(folder), [], time.perf_counter()

    def on_update(update: Update) -> None:
        nonlocal last
        seconds.append(time.perf_counter() - last)
        record.losses[update.number] = float(update.metrics["loss"])
        every = lab.eval_every
        # The last update's model is judged below, by all metrics.
        if every and update.number % every == 0 and update.number < update.updates:
            found = point(lab.bench.score(update.params()))
            record.evaluated(update.number, found)
        tick(update.number)
        last = time.perf_counter()

    try:
        trained = train(
            TrainingJob(
                lab.model,
                _Chosen(lab, rows),
                budget,
                # Of the whole corpus, so that all cells share compilations.
                open_ladder(int(lab.inputs.usable.rollouts.lengths.max())),
                training,
            ),
            lab.start.take(),
            folder and RunFolder(folder, True, {"cell": config}, _say),
            mesh=lab.mesh,
            consume=lab.start.consumed,
            on_update=on_update,
        )
    except DataError as error:
        raise DataError(f"{cell.name}: {error}") from error
    judged = _judged(lab, trained)
    record.points[budget.updates] = judged
    tokens = lab.prompts.tokens[rows]
    metrics = {
        "rollouts": len(rows),
        "updates": budget.updates,
        "presentations": budget.presentations,
        # Of one pass; a cell that was resumed has not read all of them itself.
        "tokens": int(tokens.sum()) if tokens.all() else None,
        # Without the first, which compiles.
        "seconds_per_update": statistics.median(seconds[1:]) if seconds[1:] else None,
        "subset": _subset(lab, rows) | {"tied_share": tied},
        **judged,
        "curve": record.loss_curve(),
        "eval_curve": record.curve("auroc"),
        "f1_curve": record.curve("micro_f1"),
    }
    return Result(EXPERIMENT, config, cell.seed, metrics)


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _judged(lab: Lab, params: Params) -> dict[str, Any]:
    began = time.perf_counter()
    metrics = described(lab.bench.score(params))
    metrics["evaluation_seconds"] = time.perf_counter() - began
    accuracy, replicates = lab.bench.rerank(params)
    if replicates:
        metrics["bootstrap"]["best_of_n"] = replicates
    return metrics | {"best_of_n": accuracy}


def _subset(lab: Lab, rows: np.ndarray) -> dict[str, float]:
    summary = asdict(summarise(lab.inputs.usable.rollouts.take(rows)))
    names = ("steps", "mixed_share", "error_step_ratio", "mean_mc")
    return {name: summary[name] for name in names}
