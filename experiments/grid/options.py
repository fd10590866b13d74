"""Options of `mprm run selection`, and the grid that they name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from experiments.console.corpus import CorpusOptions
from experiments.console.errors import UsageError
from experiments.console.options import Hidden, check_least
from experiments.console.price import PriceOptions
from experiments.console.training import (
    BackboneOptions,
    LoopOptions,
    ObjectiveOptions,
    TrainingOptions,
)
from experiments.grid.plan import BASE, CONTROLS, FULL, Cell, Grid
from experiments.store.overlap import PictureCheck
from mprm_jax.train.config import LossKind, Objective
from theory.scores import DEFAULT_ALPHA, check_alpha
from theory.selection import RULE_NAMES, budget

# Far beyond what anybody trains; all cells of a grid are listed before the first runs.
_MOST_SEEDS = 1000
_LARGEST_SEED = 2**32 - 1

_List = tyro.conf.arg(metavar="A,B,...")


@dataclasses.dataclass(frozen=True)
class _Loop(LoopOptions):
    # The last one is enough to go on from.
    keep_checkpoints: Hidden[int] = 1
    tensorboard: Hidden[bool] = False


@dataclasses.dataclass(frozen=True)
class _Backbone(BackboneOptions):
    answers: Hidden[Literal["yes-no"]] = "yes-no"


@dataclasses.dataclass(frozen=True)
class GridTraining(TrainingOptions):
    """How to train every cell: what differs between them is given by the grid."""

    objective: Hidden[ObjectiveOptions] = dataclasses.field(
        default_factory=ObjectiveOptions
    )
    loop: _Loop = dataclasses.field(default_factory=_Loop)
    backbone: _Backbone = dataclasses.field(default_factory=_Backbone)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CorpusOptions):
    """Does training on what a rule selects beat training on random rollouts?

    Every rule at every keep ratio (and alpha, and label threshold), each with the same
    seeds, beside all rollouts and the model as it is: select, train, judge on a
    benchmark, choose among candidates if given. Cells go to
    OUTPUT/results/selection.jsonl one by one, and those that are there are not run
    again; a cell that was stopped in the middle goes on from its last checkpoint.

    On several machines give each its part of the same grid with --shard 1/4 to 4/4,
    to one --output that they share, or to several: then concatenate their
    selection.jsonl and run the same command on that without --shard.

    Example: mprm run selection --corpus C --benchmark test.jsonl --model DIR --seeds 3

    Attributes:
        corpus: A folder of JSONL files, a folder that holds annotations/, or one file.
        benchmark: File of judged solutions, as mprm evaluate reads it.
        images: Root of the corpus's image paths; by default images/ in its folder, or
            that folder.
        benchmark_images: Root of the image paths of benchmark and candidates; by
            default images/ beside the benchmark, or its folder.
        follow_links: Follow symbolic links that lead out of these two.
        compare_pictures: Pictures of corpus and benchmark are compared before training,
            as mprm overlap --pictures does; questions always are.
        candidates: File of candidate solutions for best-of-N, as mprm rerank reads.
        name: Of the corpus in tables and figures; by default its folder's.
        rules: Of mprm select, separated by commas.
        keep_ratios: Shares of the rollouts of each source that the rules keep.
        alphas: BIS's, for the rules that have one.
        labels: hard, soft, beta-binomial and masked, as mprm train --labels; and for
            random and bis on a simulated world clean (the truth), blind (as many wrong
            labels of each kind, placed at random) and all-positive.
        label_thresholds: Of hard labels, in [0, 1).
        seeds: How many (3: the seeds 0, 1 and 2), or which ones (0,1,5; one alone: 7,).
        references: full: trained on all rollouts; base: the model as it is; or none.
        eval_every: Updates between evaluations on the way, for the learning curve; 0:
            none. Cells that are done keep the curve they have.
        scoring_batch_size: Prompts that are scored at a time.
        keep_models: Keep every trained model, in OUTPUT/models.
        memory_gb: For prompts and pictures that are kept as the model reads them; what
            does not fit is read again when needed.
        shard: Part i of n of the cells, as i/n.
        settings: How to train; without checkpoints (--checkpoint-every 0), a cell that
            was stopped begins anew.
        cost: What the grid takes: time as cells that were run took it, or else what
            FLOPs take at --mfu.
        output: Folder for results/ and models/.
    """

    corpus: Path
    seed: tyro.conf.Suppress[int] = 0
    benchmark: Path
    images: Path | None = None
    benchmark_images: Path | None = None
    follow_links: bool = False
    compare_pictures: PictureCheck = "none"
    candidates: Path | None = None
    name: str | None = None
    rules: Annotated[tuple[str, ...], _List] = ("random", "bis")
    keep_ratios: Annotated[tuple[str, ...], _List] = ("0.05", "0.1", "0.25", "0.5")
    alphas: Annotated[tuple[str, ...], _List] = (f"{DEFAULT_ALPHA:g}",)
    labels: Annotated[tuple[str, ...], _List] = ("hard",)
    label_thresholds: Annotated[tuple[str, ...], _List] = ("0",)
    seeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="N|A,B,...")] = ("3",)
    references: Annotated[tuple[str, ...], _List] = (FULL, BASE)
    eval_every: int = 0
    scoring_batch_size: int = 32
    keep_models: bool = False
    memory_gb: float = 4.0
    shard: str = "1/1"
    settings: GridTraining = dataclasses.field(default_factory=GridTraining)
    cost: PriceOptions = dataclasses.field(default_factory=PriceOptions)
    output: Path = Path("runs/selection")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, eval_every=0, scoring_batch_size=1, memory_gb=0)

    def training(self, cell: Cell | None = None) -> TrainingOptions:
        """The same settings as `mprm train` has them, for a cell of the grid."""
        if cell is None or cell.seed is None:
            return dataclasses.replace(self.settings, seed=self.seed)
        labels: Any = "hard" if cell.arm.is_control else cell.arm.labels
        objective = ObjectiveOptions(labels, cell.arm.label_threshold or 0.0)
        return dataclasses.replace(self.settings, seed=cell.seed, objective=objective)


def _items(values: Sequence[str], option: str) -> list[str]:
    items = [item.strip() for value in values for item in value.split(",")]
    items = list(dict.fromkeys(filter(None, items)))
    if not items:
        raise UsageError(f"{option}: give at least one value")
    return items


def _numbers(
    values: Sequence[str], option: str, check: Callable[[float], object]
) -> tuple[float, ...]:
    found = []
    for item in _items(values, option):
        try:
            found.append(float(item))
            check(found[-1])
        except ValueError as error:
            reason = f"{option}: {item!r} is not a number that fits ({error})"
            raise UsageError(reason) from None
    return tuple(dict.fromkeys(found))


def _known(values: Sequence[str], option: str, known: Sequence[str]) -> tuple[Any, ...]:
    items = _items(values, option)
    for item in items:
        if item not in known:
            raise UsageError(f"{option}: no {item!r}; known: {', '.join(known)}")
    return tuple(items)


def parse_seeds(values: Sequence[str]) -> tuple[int, ...]:
    """One number n: the seeds 0, ..., n - 1; several, or with a comma: these.

    Raises:
        UsageError: a value is no whole number in range, or there are too many.
    """
    try:
        seeds = tuple(dict.fromkeys(map(int, _items(values, "--seeds"))))
    except ValueError:
        seeds = (-1,)
    is_number = len(values) == 1 and "," not in values[0]
    if min(seeds) < 0 or (is_number and seeds[0] == 0):
        raise UsageError(
            f"--seeds {' '.join(values)}: give how many (3), or which ones (0,1,5)"
        )
    count = seeds[0] if is_number else len(seeds)
    if count > _MOST_SEEDS:
        hint = f"; the seed {count} alone is {count}," if is_number else ""
        raise UsageError(f"--seeds: {count} are too many, at most {_MOST_SEEDS}{hint}")
    if is_number:
        return tuple(range(count))
    if max(seeds) > _LARGEST_SEED:
        raise UsageError(
            f"--seeds: {max(seeds)} is beyond the largest seed, {_LARGEST_SEED}"
        )
    return seeds


def parse_shard(text: str) -> tuple[int, int]:
    """``i/n`` with 1 <= i <= n.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is not None and 1 <= int(match[1]) <= int(match[2]):
        return int(match[1]), int(match[2])
    raise UsageError(f"--shard {text}: give i/n with i from 1 to n, such as 2/4")


def parse_grid(options: Options) -> Grid:
    """The grid that the options name.

    Raises:
        UsageError: naming the option, and what is known or allowed.
    """
    named = _known(options.labels, "--labels", (*get_args(LossKind), *CONTROLS))
    kinds = [kind for kind in named if kind not in CONTROLS]
    thresholds = _numbers(
        options.label_thresholds,
        "--label-thresholds",
        lambda value: Objective("hard", value),
    )
    if "hard" not in kinds and thresholds != (0.0,):
        raise UsageError(f"--labels {','.join(kinds)} has no --label-thresholds")
    labels: list[tuple[str, float | None]] = []
    for kind in kinds:
        of_kind = thresholds if kind == "hard" else (None,)
        labels += [(kind, threshold) for threshold in of_kind]
    return Grid(
        rules=_known(options.rules, "--rules", RULE_NAMES),
        keep_ratios=_numbers(
            options.keep_ratios, "--keep-ratios", lambda value: budget(1, value)
        ),
        alphas=_numbers(options.alphas, "--alphas", check_alpha),
        labels=tuple(labels),
        seeds=parse_seeds(options.seeds),
        controls=tuple(kind for kind in named if kind in CONTROLS),
        references=_known(options.references, "--references", (FULL, BASE, "none")),
    )
