"""`mprm train`: a process reward model, on a corpus or on a subset of it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from experiments.cli.select_rollouts import SelectionArguments
from experiments.cli.train_settings import (
    TINY,
    SizeArguments,
    as_options,
    join_hosts,
    open_model,
    train_settings,
)
from experiments.console import shared
from experiments.store.provenance import versions
from experiments.store.read_subset import ReadPolicy, Subset, fit_subset, read_subset
from experiments.store.write_subset import (
    choose,
    corpus_counts,
    corpus_inputs,
    corpus_reading,
)
from mprm_jax.data.corpus import Corpus, read_corpus
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import OUTPUT_SCHEMA, OutputSet, manifest_bytes
from theory.selection import RuleName

if TYPE_CHECKING:
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.data.update_plan import UpdatePlan
    from mprm_jax.models.model import Params

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Options(SizeArguments):
    """Train a process reward model on Monte-Carlo-labelled rollouts.

    On the whole corpus, on a subset that mprm select wrote (--subset), or on what a
    rule keeps (--rule with --keep-ratio). Every rollout is used once, in a seeded
    order; T = ceil(rollouts / batch size) updates, warm-up over 5 % of them, then
    cosine to zero. A run that was stopped, or killed, goes on with --resume, on another
    --mesh if need be.

    Example: mprm train CORPUS --images ROOT --subset bis10.jsonl --output runs/bis10

    What will it cost? mprm train CORPUS --model DIR --mesh 1x8x1 --dry-run

    Attributes:
        images: Root of the image paths; by default images/ in the corpus's folder, or
            that folder.
        subset: A subset of this corpus as mprm select wrote it: the file, or its
            manifest. How the corpus is read is taken from there.
        rule: Train on what this rule keeps at --keep-ratio.
        output: Folder for the model, its checkpoints and metrics.
        resume: Go on with the run in --output, bit for bit on the same devices; begin
            it if there is none. --mesh, --accumulate, --no-remat and the numbers of
            threads and checkpoints may change, what is learned from may not.
        dry_run: Print parameters, bytes per device, updates, tokens and FLOPs per
            update, and hours; the devices of --mesh need not be here, nor a backbone's
            weights: its config.json and tokenizer.json are enough.
        mfu: With --dry-run: share of the devices' peak that will be reached.
        peak_tflops: With --dry-run: peak of one device (989, an H100's in bfloat16).
    """

    images: Path | None = None
    subset: Path | None = None
    rule: RuleName | None = None
    output: Path = Path("runs/model")
    resume: bool = False
    dry_run: bool = False
    mfu: float = 0.4
    peak_tflops: float | None = None

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
        for name in ("mfu", "peak_tflops"):
            if getattr(self, name) != getattr(Options, name) and not self.dry_run:
                raise shared.UsageError(f"--{name.replace('_', '-')} needs --dry-run")


OPTIONS = Options

_OF_RULES = ("keep_ratio", "alpha", "per_source", "global_", "budget", "ties")


def run(options: Options) -> None:
    """Choose, train, and say what came of it."""
    options.check()
    join_hosts(options)
    subset = _subset(options)
    budget, config = train_settings(options, subset)

    from mprm_jax.data.batches import open_ladder

    buckets = open_ladder(int(subset.usable.rollouts.lengths[subset.usable_rows].max()))
    if options.dry_run:
        from experiments.cli.train_plan import planned, price_of, show_price
        from mprm_jax.train.loop import TrainingJob

        model, shapes = planned(options)
        source = _source(options, subset, model.encode)
        job = TrainingJob(model, source, budget, buckets, config)
        found = price_of(options, job, shapes, options.mfu, options.peak_tflops)
        show_price(found, options.peak_tflops is not None, options.json)
        return

    from mprm_jax.train.loop import TrainingJob, Update, advised, train
    from mprm_jax.train.run_files import RunFolder

    with advised():
        model, params, mesh = open_model(options, budget)
    source = _source(options, subset, model.encode)
    last: dict[str, Any] = {}
    with shared.progress("training", budget.updates, "updates") as tick:

        def on_update(update: Update) -> None:
            last.update(update.metrics)
            tick(update.number)

        identity = _identity(options, subset, params)
        try:
            train(
                TrainingJob(model, source, budget, buckets, config),
                params,
                RunFolder(options.output, options.resume, identity, _say),
                mesh=mesh,
                # A backbone is too large to be kept as it was.
                consume=options.model != TINY,
                on_update=on_update,
            )
        except ValueError as error:
            raise shared.UsageError(as_options(str(error))) from None
    _finish(options, subset, budget, last)


def _say(message: str) -> None:
    print(f"mprm train: {message}", file=sys.stderr)


def _subset(options: Options) -> Subset:
    if options.subset is not None:

        def read(reading: ReadPolicy) -> Corpus:
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


def _source(options: Options, subset: Subset, encode: Any) -> CorpusExamples:
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.evaluate import image_root

    source = CorpusExamples(subset.usable, subset.usable_rows, encode, options.images)
    if options.images is not None:
        return source
    folder = corpus_files(options.corpus)[0].path.parent
    if folder.name == "annotations":
        folder = folder.parent
    root = image_root(folder / "annotations", source.record(0).images)
    return dataclasses.replace(source, images=root)


def _identity(options: Options, subset: Subset, params: Params) -> dict[str, Any]:
    """What determines the run beside its settings: data and initial parameters."""
    from mprm_jax.train.run_files import fingerprint

    corpus = subset.usable.corpus
    rows = subset.usable.row[subset.usable_rows].astype("<i8")
    return {
        "corpus": xxhash.xxh3_128_hexdigest("".join(corpus.sha256)),
        "reading": corpus_reading(subset.usable),
        "rows": xxhash.xxh3_128_hexdigest(rows.tobytes()),
        "initial_parameters": fingerprint(params),
    }


def _finish(
    options: Options, subset: Subset, budget: UpdatePlan, last: dict[str, Any]
) -> None:
    """The manifest, and what the user is told; by the first host."""
    import jax

    from mprm_jax.train.sharding import FIRST_HOST

    if jax.process_index() != FIRST_HOST:
        return
    usable = subset.usable
    kept = usable.rollouts.take(subset.usable_rows)
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
