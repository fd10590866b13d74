"""Options of `mprm run selection`, and the grid that they name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.cli.train_settings import TINY, Precision, SizeArguments
from experiments.console import shared
from experiments.grid.plan import BASE, FULL, Cell, Grid
from theory.paper import TRAINING
from theory.scores import DEFAULT_ALPHA
from theory.selection import RULE_NAMES

_LABELS = ("hard", "soft", "beta-binomial")

# Far beyond what anybody trains; all cells of a grid are listed before the first runs.
_MOST_SEEDS = 1000
_LARGEST_SEED = 2**32 - 1

_List = tyro.conf.arg(metavar="A,B,...")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(shared.CorpusOptions):
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
        benchmark: File of judged solutions (VisualProcessBench's format).
        images: Root of the corpus's image paths; by default images/ in its folder, or
            that folder.
        benchmark_images: Root of the image paths of benchmark and candidates; by
            default images/ beside the benchmark, or its folder.
        candidates: File of candidate solutions for best-of-N, as mprm rerank reads.
        model: tiny, or a folder with the weights of a backbone.
        name: Of the corpus in tables and figures; by default its folder's.
        rules: Of mprm select, separated by commas.
        keep_ratios: Shares of the rollouts of each source that the rules keep.
        alphas: BIS's, for the rules that have one.
        labels: hard, soft and beta-binomial, as mprm train --labels.
        label_thresholds: Of hard labels, in [0, 1).
        seeds: How many (3: the seeds 0, 1 and 2), or which ones (0,1,5; one alone: 7,).
        references: full: trained on all rollouts; base: the model as it is; or none.
        eval_every: Updates between evaluations on the way, for the learning curve; 0:
            none. Cells that are done keep the curve they have.
        batch_size: Rollouts per update (512 in the paper; 16 for tiny).
        learning_rate: Peak of the schedule (1e-5 in the paper; 1e-3 for tiny).
        head_multiplier: Learning rate of the reward head over that of all else (1 in
            the paper; 10 for tiny).
        weight_decay: Decoupled; biases and gains of norms are spared.
        optimizer: adamw, as in the paper, or adafactor.
        first_moment: Precision of AdamW's first moment.
        matched_updates: As many updates as the whole corpus would get; the subset is
            repeated, in a new order each time.
        accumulate: Micro-batches per update; changes memory, not the result.
        mesh: As mprm train, as are the eight options below.
        compute: Precision of a backbone's forward and backward pass (bfloat16).
        frozen_dtype: Precision of weights that are not trained (that of --compute).
        no_remat: Store what each layer computes instead of computing it again.
        max_length: Most tokens of a prompt (8,192, or the model's context).
        lora_rank: Train adapters of this rank and the head instead of the kernels.
        lora_alpha: Adapters are scaled by alpha / rank (16).
        lora_targets: Kernels, of query,key,value,output,gate,up,down (all).
        feature_cache: Folder for what a frozen vision tower makes of each image.
        scoring_batch_size: Prompts that are scored at a time.
        checkpoint_every: Updates between checkpoints of the cell that is in training.
            At 0 there are none, and a stopped cell begins anew.
        keep_models: Keep every trained model, in OUTPUT/models.
        memory_gb: For prompts and pictures that are kept as the model reads them; what
            does not fit is read again when needed.
        threads: That read rollouts and images ahead.
        shard: Part i of n of the cells, as i/n.
        dry_run: Say what the grid takes, and do nothing: time as cells that were run
            took it, or else what FLOPs take at --mfu, for which a backbone's
            config.json and tokenizer.json are enough.
        mfu: With --dry-run: share of the devices' peak that will be reached.
        peak_tflops: With --dry-run: peak of one device (989, an H100's in bfloat16).
        output: Folder for results/ and models/.
    """

    corpus: Path
    seed: tyro.conf.Suppress[int] = 0
    benchmark: Path
    images: Path | None = None
    benchmark_images: Path | None = None
    candidates: Path | None = None
    model: str = TINY
    name: str | None = None
    rules: Annotated[tuple[str, ...], _List] = ("random", "bis")
    keep_ratios: Annotated[tuple[str, ...], _List] = ("0.05", "0.1", "0.25", "0.5")
    alphas: Annotated[tuple[str, ...], _List] = (f"{DEFAULT_ALPHA:g}",)
    labels: Annotated[tuple[str, ...], _List] = ("hard",)
    label_thresholds: Annotated[tuple[str, ...], _List] = ("0",)
    seeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="N|A,B,...")] = ("3",)
    references: Annotated[tuple[str, ...], _List] = (FULL, BASE)
    eval_every: int = 0
    batch_size: int | None = None
    learning_rate: float | None = None
    head_multiplier: float | None = None
    weight_decay: float = TRAINING.weight_decay
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    first_moment: Precision = "float32"
    matched_updates: bool = False
    accumulate: int = 1
    mesh: str | None = None
    compute: Precision | None = None
    frozen_dtype: Precision | None = None
    no_remat: bool = False
    max_length: int | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: str | None = None
    feature_cache: Path | None = None
    scoring_batch_size: int = 32
    checkpoint_every: int = 100
    keep_models: bool = False
    memory_gb: float = 4.0
    threads: int = 2
    shard: str = "1/1"
    dry_run: bool = False
    mfu: float = 0.4
    peak_tflops: float | None = None
    output: Path = Path("runs/selection")

    def check(self) -> None:
        """Refuse values without meaning.

        Raises:
            UsageError: naming the option and its range.
        """
        super().check()
        for name, least in (
            ("eval_every", 0),
            ("batch_size", 1),
            ("scoring_batch_size", 1),
            ("memory_gb", 0),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise shared.UsageError(
                    f"{option_of(name)} must be at least {least}, not {value}"
                )

        rate = self.learning_rate
        if rate is not None and not 0 < rate < float("inf"):
            raise shared.UsageError(
                f"--learning-rate must be finite and positive, not {rate}"
            )
        if self.peak_tflops is not None and not self.dry_run:
            raise shared.UsageError("--peak-tflops needs --dry-run")
        self.training().check()

    def training(self, cell: Cell | None = None) -> SizeArguments:
        """The same settings as `mprm train` has them, for a cell of the grid."""
        names = {field.name for field in dataclasses.fields(SizeArguments)}
        names -= {"labels"}
        shared_ones = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in names
        }
        # The last one is enough to go on from.
        arguments = SizeArguments(**shared_ones, keep_checkpoints=1)
        if cell is None or cell.seed is None:
            return arguments
        labels: Any = cell.arm.labels
        return dataclasses.replace(
            arguments,
            seed=cell.seed,
            labels=labels,
            label_threshold=cell.arm.label_threshold or 0.0,
        )


def option_of(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


def _items(values: Sequence[str], option: str) -> list[str]:
    items = [item.strip() for value in values for item in value.split(",")]
    items = list(dict.fromkeys(filter(None, items)))
    if not items:
        raise shared.UsageError(f"{option}: give at least one value")
    return items


def _numbers(
    values: Sequence[str], option: str, fits: Callable[[float], bool], where: str
) -> tuple[float, ...]:
    found = []
    for item in _items(values, option):
        try:
            value = float(item)
        except ValueError:
            value = float("nan")
        if not fits(value):
            raise shared.UsageError(f"{option}: {item!r} is not a number {where}")
        found.append(value)
    return tuple(dict.fromkeys(found))


def _known(values: Sequence[str], option: str, known: Sequence[str]) -> tuple[Any, ...]:
    items = _items(values, option)
    for item in items:
        if item not in known:
            raise shared.UsageError(f"{option}: no {item!r}; known: {', '.join(known)}")
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
        raise shared.UsageError(
            f"--seeds {' '.join(values)}: give how many (3), or which ones (0,1,5)"
        )
    count = seeds[0] if is_number else len(seeds)
    if count > _MOST_SEEDS:
        hint = f"; the seed {count} alone is {count}," if is_number else ""
        raise shared.UsageError(
            f"--seeds: {count} are too many, at most {_MOST_SEEDS}{hint}"
        )
    if is_number:
        return tuple(range(count))
    if max(seeds) > _LARGEST_SEED:
        raise shared.UsageError(
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
    raise shared.UsageError(f"--shard {text}: give i/n with i from 1 to n, such as 2/4")


def parse_grid(options: Options) -> Grid:
    """The grid that the options name.

    Raises:
        UsageError: naming the option, and what is known or allowed.
    """

    def keeps(value: float) -> bool:
        return 0 < value <= 1

    kinds = _known(options.labels, "--labels", _LABELS)
    thresholds = _numbers(
        options.label_thresholds,
        "--label-thresholds",
        lambda value: 0 <= value < 1,
        "in [0, 1)",
    )
    if "hard" not in kinds and thresholds != (0.0,):
        raise shared.UsageError(f"--labels {','.join(kinds)} has no --label-thresholds")
    labels: list[tuple[str, float | None]] = []
    for kind in kinds:
        of_kind = thresholds if kind == "hard" else (None,)
        labels += [(kind, threshold) for threshold in of_kind]
    return Grid(
        rules=_known(options.rules, "--rules", RULE_NAMES),
        keep_ratios=_numbers(options.keep_ratios, "--keep-ratios", keeps, "in (0, 1]"),
        alphas=_numbers(
            options.alphas,
            "--alphas",
            lambda value: 0 <= value < float("inf"),
            "of at least 0",
        ),
        labels=tuple(labels),
        seeds=parse_seeds(options.seeds),
        references=_known(options.references, "--references", (FULL, BASE, "none")),
    )
