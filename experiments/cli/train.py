"""`mprm train`: a process reward model, on a corpus or on a subset of it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from experiments.cli import shared
from experiments.cli.select_rollouts import SelectionArguments
from experiments.provenance import versions
from experiments.selecting import choose, corpus_counts, corpus_inputs, corpus_reading
from experiments.subsets import Reading, Subset, fit_subset, read_subset
from mprm_jax.data.corpus import Corpus, read_corpus
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import OUTPUT_SCHEMA, OutputSet, manifest_bytes
from theory.selection import RuleName

if TYPE_CHECKING:
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.models.base import Params
    from mprm_jax.optimizer import Budget
    from mprm_jax.trainer import TrainConfig

MANIFEST = "manifest.json"

# (batch size, learning rate, head multiplier) where the user names none: Table 7, and
# what the tiny model learned best with from its pretrained start.
_PAPER = (512, 1e-5, 1.0)
_TINY = (16, 1e-3, 10.0)


@dataclasses.dataclass(frozen=True)
class Options(SelectionArguments):
    """Train a process reward model on Monte-Carlo-labelled rollouts.

    On the whole corpus, on a subset that mprm select wrote (--subset), or on what a
    rule keeps (--rule with --keep-ratio). Every rollout is used once, in a seeded
    order; T = ceil(rollouts / batch size) updates, warm-up over 5 % of them, then
    cosine to zero. A run that was stopped, or killed, goes on with --resume.

    Example: mprm train CORPUS --images ROOT --subset bis10.jsonl --output runs/bis10

    Attributes:
        images: Root of the image paths; by default images/ in the corpus's folder, or
            that folder.
        subset: A subset of this corpus as mprm select wrote it: the file, or its
            manifest. How the corpus is read is taken from there.
        rule: Train on what this rule keeps at --keep-ratio.
        model: tiny, or a folder with the weights of a backbone.
        output: Folder for the model, its checkpoints and metrics.
        resume: Go on with the run in --output, bit for bit; begin it if there is none.
        batch_size: Rollouts per update (512 in the paper; 16 for tiny).
        learning_rate: Peak of the schedule (1e-5 in the paper; 1e-3 for tiny).
        head_multiplier: Learning rate of the reward head over that of all else (1 in
            the paper; 10 for tiny).
        weight_decay: Decoupled; biases and gains of norms are spared.
        labels: hard 1[s > threshold] and soft s with two-way cross-entropy, or the
            Beta-Binomial likelihood of the counts, which also learns how sure it is.
        label_threshold: Threshold of hard labels, in [0, 1).
        matched_updates: As many updates as the whole corpus would get; the subset is
            repeated, in a new order each time.
        accumulate: Micro-batches per update; changes memory, not the result.
        checkpoint_every: Updates between checkpoints; the last is always made.
        keep_checkpoints: How many of them stay.
        tensorboard: Write events for TensorBoard beside metrics.jsonl.
        threads: That read rollouts and images ahead.
    """

    images: Path | None = None
    subset: Path | None = None
    rule: RuleName | None = None
    model: str = "tiny"
    output: Path = Path("runs/model")
    resume: bool = False
    batch_size: int | None = None
    learning_rate: float | None = None
    head_multiplier: float | None = None
    weight_decay: float = 0.05
    labels: Literal["hard", "soft", "beta-binomial"] = "hard"
    label_threshold: float = 0.0
    matched_updates: bool = False
    accumulate: int = 1
    checkpoint_every: int = 100
    keep_checkpoints: int = 3
    tensorboard: bool = False
    threads: int = 2

    def check(self) -> None:
        """Refuse values without meaning.

        Raises:
            UsageError: naming the option.
        """
        super().check()
        if self.subset is not None and self.rule is not None:
            raise shared.UsageError("--subset and --rule exclude each other")
        if self.rule is None:
            for field in dataclasses.fields(SelectionArguments):
                if field.name in _OF_RULES and (
                    getattr(self, field.name) != field.default
                ):
                    option = field.name.strip("_").replace("_", "-")
                    raise shared.UsageError(f"--{option} needs --rule")
        if self.labels != "hard" and self.label_threshold != 0:
            raise shared.UsageError(f"--labels {self.labels} has no --label-threshold")
        if self.seed < 0:
            raise shared.UsageError(f"--seed must be at least 0, not {self.seed}")
        if self.batch_size is not None and self.batch_size < 1:
            raise shared.UsageError(
                f"--batch-size must be at least 1, not {self.batch_size}"
            )


OPTIONS = Options

_OF_RULES = ("keep_ratio", "alpha", "per_source", "global_", "budget", "ties")


def run(options: Options) -> None:
    """Choose, train, and say what came of it."""
    options.check()
    subset = _subset(options)
    budget, config = _settings(options, subset)

    from mprm_jax.data.batches import open_ladder
    from mprm_jax.models.base import open_model
    from mprm_jax.trainer import Update, train

    model, params = open_model(options.model)
    source = _source(options, subset, model.encode)
    last: dict[str, Any] = {}
    with shared.progress("training", budget.updates, "updates") as tick:

        def on_update(update: Update) -> None:
            last.update(update.metrics)
            tick(update.number)

        try:
            train(
                model,
                params,
                source,
                budget,
                config,
                open_ladder(int(subset.usable.rollouts.lengths[subset.picks].max())),
                output=options.output,
                resume=options.resume,
                identity=_identity(options, subset, params),
                on_update=on_update,
                report=_say,
            )
        except ValueError as error:
            raise shared.UsageError(_as_options(str(error))) from None
    _finish(options, subset, budget, last)


def _say(message: str) -> None:
    print(f"mprm train: {message}", file=sys.stderr)


def _as_options(message: str) -> str:
    """A message of the library in the words of the command line."""
    for name in ("learning_rate", "label_threshold", "head_multiplier", "weight_decay"):
        message = message.replace(name, "--" + name.replace("_", "-"))
    return message


def _subset(options: Options) -> Subset:
    if options.subset is not None:

        def read(reading: Reading) -> Corpus:
            for name in ("trials", "source_from"):
                given = getattr(options, name)
                if given not in (None, getattr(reading, name)):
                    option = name.replace("_", "-")
                    raise shared.UsageError(
                        f"--{option} {given}: the subset was selected with "
                        f"{getattr(reading, name)}"
                    )
            return read_corpus(
                options.corpus,
                reading.format,
                reading.options,
                use_cache=not options.no_cache,
            )

        return fit_subset(read_subset(options.subset), read, options.subset)
    usable = shared.load_usable(options)
    if options.rule is None:
        import numpy as np

        return Subset(usable, np.arange(len(usable.row)), None)
    chosen = options.selection(options.rule)
    return Subset(usable, choose(usable, chosen).rows, dataclasses.asdict(chosen))


def _settings(options: Options, subset: Subset) -> tuple[Budget, TrainConfig]:
    from mprm_jax.objective import Objective
    from mprm_jax.optimizer import OptimizerConfig, plan
    from mprm_jax.trainer import TrainConfig

    batch, rate, head = _TINY if options.model == "tiny" else _PAPER
    whole = len(subset.usable.row)
    try:
        budget = plan(
            len(subset.picks),
            options.batch_size or batch,
            matched_to=whole if options.matched_updates else None,
        )
        config = TrainConfig(
            objective=Objective(options.labels, options.label_threshold),
            optimizer=OptimizerConfig(
                weight_decay=options.weight_decay,
                head_multiplier=_or(options.head_multiplier, head),
            ),
            learning_rate=_or(options.learning_rate, rate),
            accumulate=options.accumulate,
            seed=options.seed,
            threads=options.threads,
            checkpoint_every=options.checkpoint_every,
            keep=options.keep_checkpoints,
            tensorboard=options.tensorboard,
        )
    except ValueError as error:
        raise shared.UsageError(_as_options(str(error))) from None
    return budget, config


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _source(options: Options, subset: Subset, encode: Any) -> CorpusExamples:
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.evaluate import image_root

    source = CorpusExamples(subset.usable, subset.picks, encode, options.images)
    if options.images is not None:
        return source
    folder = corpus_files(options.corpus)[0].path.parent
    if folder.name == "annotations":
        folder = folder.parent
    root = image_root(folder / "annotations", source.record(0).images)
    return dataclasses.replace(source, images=root)


def _identity(options: Options, subset: Subset, params: Params) -> dict[str, Any]:
    """What determines the run beside its settings: data and initial parameters."""
    import jax
    import numpy as np

    corpus = subset.usable.corpus
    rows = subset.usable.row[subset.picks].astype("<i8")
    weights = xxhash.xxh3_128()
    for leaf in jax.tree.leaves(params):
        weights.update(np.ascontiguousarray(leaf).tobytes())
    return {
        "corpus": xxhash.xxh3_128_hexdigest("".join(corpus.sha256)),
        "reading": corpus_reading(subset.usable),
        "rows": xxhash.xxh3_128_hexdigest(rows.tobytes()),
        "initial_parameters": weights.hexdigest(),
    }


def _finish(
    options: Options, subset: Subset, budget: Budget, last: dict[str, Any]
) -> None:
    """The manifest, and what the user is told."""
    usable = subset.usable
    kept = usable.rollouts.take(subset.picks)
    result = {
        "rollouts": budget.rollouts,
        "steps": kept.n_steps,
        "presentations": budget.presentations,
        "updates": budget.updates,
        "batch_size": budget.batch_size,
        "last_update": last or None,
    }
    arguments = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(options).items()
    }
    with OutputSet() as outputs:
        manifest = {
            "versions": versions(),
            "arguments": arguments,
            "corpus": str(usable.corpus.path.resolve()),
            "input": corpus_reading(usable),
            "inputs": corpus_inputs(usable.corpus),
            "counts": corpus_counts(usable),
            "selection": subset.selection,
            "result": result,
        }
        outputs.add(options.output / MANIFEST).write(
            manifest_bytes(manifest, OUTPUT_SCHEMA)
        )
    if options.json:
        shared.print_json({"output": str(options.output), **result})
        return
    print(
        f"{budget.updates:,} updates of {budget.batch_size} on {budget.rollouts:,} "
        f"rollouts ({kept.n_steps:,} steps)"
    )
    if last:
        print(f"loss of the last update {last['loss']:.4f} nats per step")
        if last["truncated_steps"]:
            print(
                f"{last['truncated_steps']:,} steps cut off: their prompts are too long"
            )
    else:
        print("nothing was left to do")
    print(f"\nwrote the model: {options.output}")
    print(f"next: mprm evaluate --checkpoint {options.output} --benchmark FILE")
