"""What of a subset a model is shown in training: how often, at what weight, and what is
kept back to look at the model with.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.console.errors import UsageError
from experiments.console.options import (
    OptionalPath,
    OptionalStr,
    check_least,
)
from experiments.console.progress import progress
from experiments.store.own_scores import ScoreTable, read_scores
from experiments.store.read_subset import Subset
from mprm_jax.records.problems import DataError
from mprm_jax.train.config import Objective

if TYPE_CHECKING:
    from mprm_jax.data.batches import Sizes
    from mprm_jax.data.loader import CorpusExamples, Source
    from mprm_jax.judge import Judge
    from mprm_jax.models.model import Model
    from mprm_jax.records.record import ImageRoot

# Streams of --seed, apart from the order of the rollouts and from each other.
_MIXTURE, _HELD_OUT = 1, 2


@dataclasses.dataclass(frozen=True)
class PresentationOptions:
    """How often rollouts are shown, and what they weigh.

    Attributes:
        source_weights: How many times an epoch shows the rollouts of a source, as
            NAME=TIMES,NAME=TIMES; .5: half of them, drawn by --seed. Other sources: 1.
        loss_weights: Table with what the loss of each rollout counts beside the
            others', at least 0, one row for each
            rollout of the corpus: JSON lines, .csv, Parquet, joined as --scores of mprm
            select.
        weight_column: Column of --loss-weights.
    """

    source_weights: OptionalStr = None
    loss_weights: OptionalPath = None
    weight_column: str = "weight"

    def __post_init__(self) -> None:
        self.times()

    def times(self) -> dict[str, float]:
        """How many times each source is shown that is named.

        Raises:
            UsageError: the text does not say so.
        """
        found: dict[str, float] = {}
        for part in self.source_weights.split(",") if self.source_weights else ():
            name, _, value = part.rpartition("=")
            try:
                times = float(value)
            except ValueError:
                times = -1.0
            if not name or not 0 <= times < float("inf"):
                raise UsageError(
                    f"--source-weights {part!r}: write NAME=TIMES, TIMES at least 0"
                )
            if name in found:
                raise UsageError(f"--source-weights: {name!r} is named twice")
            found[name] = times
        return found


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """A look at the model while it is trained.

    Attributes:
        eval_every: Updates between looks. Each tells AUROC over steps and their
            cross-entropy beside the metrics; the checkpoint of the best AUROC is kept,
            and is what evaluate, score and export read.
        eval_set: Judged solutions to look with, as mprm evaluate --benchmark reads
            them.
        held_out: Instead, so many of the rollouts chosen to train on, drawn by --seed;
            they are not trained on, and their own labels judge.
        patience: Stop after so many looks that were not better than the best.
    """

    eval_every: int | None = None
    eval_set: OptionalPath = None
    held_out: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        check_least(self, eval_every=1, held_out=1, patience=1)
        sets = [self.eval_set, self.held_out]
        if (self.eval_every is not None) != (sets.count(None) == 1):
            raise UsageError(
                "--eval-every needs --eval-set FILE or --held-out N, one of them, and "
                "they need it"
            )
        if self.patience is not None and self.eval_every is None:
            raise UsageError("--patience needs --eval-every")


class Presentation(NamedTuple):
    """What is shown of a subset.

    Attributes:
        places: of each presentation of an epoch among the subset's rollouts.
        weight: of each presentation's loss.
        held_out: places that are kept back.
    """

    places: np.ndarray
    weight: np.ndarray
    held_out: np.ndarray

    @property
    def is_plain(self) -> bool:
        """Whether every rollout is shown once, with weight 1."""
        once = np.array_equal(self.places, np.arange(len(self.places)))
        return once and not len(self.held_out) and bool((self.weight == 1).all())


def presentation(
    options: PresentationOptions, subset: Subset, held_out: int, seed: int
) -> Presentation:
    """What is shown of a subset; ``held_out`` rollouts of it are not.

    Raises:
        UsageError: a source is not there.
        DataError: the weights cannot be joined, are below 0, or nothing is left.
    """
    from mprm_jax.data.loader import repeated

    rollouts = subset.usable.rollouts
    names, source = rollouts.source_names, rollouts.source[subset.usable_rows]
    times = np.ones(len(source))
    for name, wanted in options.times().items():
        if name not in names:
            raise UsageError(
                f"--source-weights: the corpus has no source {name!r}; it has "
                + ", ".join(names)
            )
        times[source == names.index(name)] = wanted
    kept_back = np.zeros(0, np.int64)
    if held_out:
        if held_out >= len(source):
            raise UsageError(
                f"--held-out {held_out}: only {len(source)} rollouts were chosen"
            )
        rng = np.random.default_rng([seed, _HELD_OUT])
        kept_back = np.sort(rng.choice(len(source), held_out, replace=False))
        times[kept_back] = 0
    places = repeated(times, np.random.default_rng([seed, _MIXTURE]))
    weight = np.ones(len(source))
    if options.loss_weights is not None:
        table = ScoreTable(options.loss_weights, options.weight_column)
        with progress("reading weights", len(subset.usable.row), "rows") as tick:
            weight = read_scores(table, subset.usable, tick).scores[subset.usable_rows]
        if (weight < 0).any():
            raise DataError(f"{table.path}: a loss weight is below 0")
    if not len(places) or not weight[places].any():
        raise DataError("nothing is left to train on: every weight is 0")
    # Only their ratios count, and no unit of theirs leaves the range of float32.
    weight = weight[places] / weight[places].max()
    return Presentation(places, weight, kept_back)


def shown(source: Source, how: Presentation) -> Source:
    """The rollouts of a subset as they are presented."""
    from mprm_jax.data.loader import Presented

    return source if how.is_plain else Presented(source, how.places, how.weight)


def sizes_shown(sizes: Sizes | None, how: Presentation) -> Sizes | None:
    """Sizes of the presentations; None: those of the rollouts are not known."""
    if sizes is None or how.is_plain:
        return sizes
    of = sizes.take(how.places)
    steps = np.where(how.weight > 0, of.steps, 0)
    return of._replace(steps=steps, weight=of.weight * how.weight)


def labelled_benchmark(
    path: Path, root: Path | ImageRoot | None, model: Model, rows: int, check: bool
) -> Judge:
    """Judged solutions to look at a model with.

    Args:
        path: of them.
        root: of their pictures, if that was said.
        model: to look at.
        rows: prompts scored at a time.
        check: encode all once, rather than find at the first look what cannot be.

    Raises:
        DataError: they cannot be read, or judge nothing.
    """
    from mprm_jax.data.scored import read_benchmark, solutions_root, without_repeats
    from mprm_jax.evaluate import Prompts, of_solutions
    from mprm_jax.judge import Judge

    solutions = without_repeats(read_benchmark(path))
    root = root or solutions_root(path, solutions)
    labels = [np.array(of.labels) for of in solutions]
    prompts = Prompts(model, of_solutions(solutions), root)
    if check:
        with progress("checking", len(prompts), "judged solutions") as tick:
            for place in range(len(prompts)):
                prompts[place]
                tick(place + 1)
    return Judge(model, prompts, labels, rows)


def labelled_rollouts(
    subset: Subset, source: CorpusExamples, places: np.ndarray, model: Model, rows: int
) -> Judge:
    """Rollouts that were held out, judged by their own hard labels.

    Args:
        subset: that they were chosen from.
        source: its rollouts.
        places: of those held out.
        model: to look at.
        rows: prompts scored at a time.
    """
    from mprm_jax.data.loader import Presented
    from mprm_jax.judge import Judge
    from mprm_jax.train.objective import StepLabeller

    rollouts, labeller = subset.usable.rollouts, StepLabeller(Objective())
    labels = []
    for row in subset.usable_rows[places].tolist():
        steps = slice(*rollouts.offsets[row : row + 2].tolist())
        target = labeller(rollouts.successes[steps], rollouts.trials[steps])
        labels.append(np.where(target.weight_S, np.where(target.target_S, 1, -1), 0))
    held_out = Presented(source, places, np.ones(len(places)))
    return Judge(model, held_out, labels, rows)
