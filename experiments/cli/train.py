"""`mprm train`: a process reward model, on a corpus or on a subset of it."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import xxhash

from experiments.console.command import answer
from experiments.console.compilation import compiling
from experiments.console.corpus import RuleOptions, load_usable
from experiments.console.errors import UsageError, print_bad_lines
from experiments.console.options import PictureOptions, given, wrong_usage
from experiments.console.price import (
    PriceOptions,
    TrainingData,
    encoder,
    fitted,
    price_run,
    price_text,
    verdict,
)
from experiments.console.progress import progress
from experiments.console.text import count_of
from experiments.console.training import (
    TINY,
    ObjectiveOptions,
    TrainingOptions,
    open_model,
    say_if_text,
)
from experiments.store.read_subset import (
    Subset,
    examples,
    load_subset,
    read_subset,
)
from experiments.store.write_subset import choose, corpus_manifest, corpus_reading
from mprm_jax.data.outputs import OutputSet
from mprm_jax.records.problems import DataError
from mprm_jax.train.update_plan import UpdatePlan

if TYPE_CHECKING:
    from mprm_jax.data.batches import Sizes
    from mprm_jax.data.loader import CorpusExamples
    from mprm_jax.models.model import Params

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class HostOptions:
    """A run on several hosts.

    Attributes:
        coordinator: address:port of the first host, for a run on several.
        hosts: How many.
        host: Number of this one, from 0.
        join_hosts: Find all three by itself (TPU pods, Slurm, Open MPI).
    """

    coordinator: str | None = None
    hosts: int | None = None
    host: int | None = None
    join_hosts: bool = False

    def __post_init__(self) -> None:
        asked = [self.coordinator, self.hosts, self.host]
        if any(v is not None for v in asked) and (self.join_hosts or None in asked):
            raise UsageError(
                "several hosts: --coordinator, --hosts and --host together, or "
                "--join-hosts alone"
            )

    def join(self) -> None:
        """Join the others, if there are any; before JAX is used for anything else."""
        if given(self):
            from mprm_jax.train.sharding import start_hosts

            start_hosts(self.coordinator, self.hosts, self.host)


@dataclasses.dataclass(frozen=True)
class Options(PictureOptions, RuleOptions):
    """Train a process reward model on Monte-Carlo-labelled rollouts.

    On the whole corpus, on a subset that mprm select wrote (--subset), or on what a
    rule keeps (--rule with --keep-ratio). Every rollout is used once, in a seeded
    order; T = ceil(rollouts / batch size) updates, warm-up over 5 % of them, then
    cosine to zero. A run that was stopped, or killed, goes on with --resume, on another
    --mesh if need be.

    Example: mprm train CORPUS --images ROOT --subset bis10.jsonl --output runs/bis10

    Does it fit? mprm train CORPUS --model DIR --devices 8 --memory 80 --dry-run

    Attributes:
        subset: A subset of this corpus as mprm select wrote it: the file, or its
            manifest. How the corpus is read is taken from there, and whether labels are
            masked.
        output: Folder for the model, its checkpoints and metrics. Checkpoints hold what
            is trained; the rest of a backbone stays where it lies (--model), and
            base.json says where. mprm export writes a whole model.
        check_images: Begin at once. Without it every chosen rollout is read and encoded
            before the first update, so that no damaged picture or control token in a
            text ends the run midway; those that cannot be encoded count as bad
            lines (--max-bad).
        resume: Go on with the run in --output, bit for bit on the same devices; begin
            it if there is none. --mesh, --accumulate, --remat and the numbers of
            threads and checkpoints may change, what is learned from may not.
        settings: How to train.
        cost: What it would cost.
        multi_host: A run on several hosts.
    """

    check_images: bool = True
    subset: Path | None = None
    output: Path = Path("runs/model")
    resume: bool = False
    settings: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    cost: PriceOptions = dataclasses.field(default_factory=PriceOptions)
    multi_host: HostOptions = dataclasses.field(default_factory=HostOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset is not None and self.rule is not None:
            raise UsageError("--subset and --rule exclude each other")
        self.need_rule()

    @property
    def training(self) -> TrainingOptions:
        """How to train, in the order of --seed."""
        return dataclasses.replace(self.settings, seed=self.seed)


OPTIONS = Options


def run(options: Options) -> None:
    """Choose, train, and say what came of it."""
    options.multi_host.join()
    training, subset = _training(options), _subset(options)
    if training.objective.labels == "beta-binomial":
        subset.usable.need_counts("the beta-binomial likelihood")
    budget = training.budget(len(subset.usable_rows), len(subset.usable.row))
    longest = int(subset.usable.rollouts.lengths[subset.usable_rows].max())
    on = TrainingData(_source_for(options, subset), longest, budget)
    if options.cost.dry_run:
        cost = price_run(training, options.cost, on)
        value = dataclasses.asdict(cost)
        value |= {"fits": cost.fits, "bytes_needed": cost.bytes_needed}
        answer(options.json, value, price_text(cost, options.cost))
        return

    with progress("loading the model", None):
        # Imported here: with JAX, which would slow down --help.
        from mprm_jax.data.batches import open_ladder
        from mprm_jax.train.loop import TrainingJob, Update, advised, train
        from mprm_jax.train.open_backbone import attention_of
        from mprm_jax.train.run_files import RunFolder

        encode = encoder(training, on)
    subset, sizes = _checked(options, subset, encode)
    budget = training.budget(len(subset.usable_rows), len(subset.usable.row))
    on = TrainingData(_source_for(options, subset), longest, budget, sizes)
    training, cost = fitted(training, on)
    if cost is not None:
        print(f"mprm train: {verdict(cost)}", file=sys.stderr)
    with advised(), progress("loading the model", None):
        model, params, mesh = open_model(training, budget)
    say_if_text(model, subset.usable, subset.usable_rows)
    attention = attention_of(model)
    for part, choice in attention.items():
        if choice.reason:
            print(f"mprm train: {part} by XLA: {choice.reason}", file=sys.stderr)
    last: dict[str, Any] = {}
    whole = progress("training", budget.updates, "updates", compiling())
    with whole as tick, wrong_usage():

        def on_update(update: Update) -> None:
            last.update(update.metrics)
            tick(update.number)

        source = examples(subset, model.encode, options.root)
        train(
            TrainingJob(
                model, source, budget, open_ladder(longest), training.config(), sizes
            ),
            params,
            RunFolder(
                options.output,
                options.resume,
                _identity(subset, params),
                lambda line: print(f"mprm train: {line}", file=sys.stderr),
                training.base(),
            ),
            mesh=mesh,
            # A backbone is too large to be kept as it was.
            consume=training.model != TINY,
            on_update=on_update,
        )
    chosen = {"attention": attention, "price": cost}
    _finish(options, subset, budget, last, msgspec.to_builtins(chosen))


def _source_for(options: Options, subset: Subset) -> Callable[[Any], CorpusExamples]:
    return lambda encode: examples(subset, encode, options.root)


def _training(options: Options) -> TrainingOptions:
    """How to train; on masked labels if those of the subset are.

    Raises:
        UsageError: other labels are asked for.
    """
    training = options.training
    if options.subset is None or read_subset(options.subset).labels.labels != "masked":
        return training
    if (asked := training.objective.labels) not in ("hard", "masked"):
        raise UsageError(f"--labels {asked}: the subset was selected with masked ones")
    return dataclasses.replace(training, objective=ObjectiveOptions("masked"))


def _subset(options: Options) -> Subset:
    if options.subset is None:
        usable = load_usable(options)
        if options.rule is None:
            return Subset(usable, np.arange(len(usable.row)), None)
        chosen = options.selection(options.rule)
        return Subset(usable, choose(usable, chosen).rows, dataclasses.asdict(chosen))
    return load_subset(options, options.subset)


def _checked(
    options: Options, subset: Subset, encode: Any
) -> tuple[Subset, Sizes | None]:
    """The subset without what cannot be encoded, and its sizes; a rule chooses again
    without it. Several hosts must know the sizes, and check whatever is asked.

    Raises:
        DataError: more rollouts than --max-bad allows cannot be encoded, or all.
    """
    allowed = options.max_bad
    if options.subset is not None:
        allowed += subset.usable.bad_lines.total
    from mprm_jax.train.measure import measure

    while options.check_images or given(options.multi_host):
        source = examples(subset, encode, options.root)
        training, threads = _training(options), options.settings.loop.threads
        with progress("checking", len(source), "rollouts") as tick:
            refused, sizes = measure(source, training.objective, threads, tick)
        if not refused:
            return subset, sizes
        told = subset.usable.lines_of(refused)
        usable = subset.usable.without(refused, allowed)
        print_bad_lines(told)
        if options.rule is not None:
            rows = choose(usable, options.selection(options.rule)).rows
        else:
            kept = np.setdiff1d(subset.usable_rows, list(refused))
            if not len(kept):
                raise DataError(f"{options.subset}: no rollout of it can be encoded")
            rows = np.searchsorted(usable.row, subset.usable.row[kept])
        subset = dataclasses.replace(subset, usable=usable, usable_rows=rows)
    return subset, None


def _identity(subset: Subset, params: Params) -> dict[str, Any]:
    """What determines the run beside its settings: data and initial parameters."""
    from mprm_jax.train.run_files import fingerprint

    corpus = subset.usable.corpus
    rows = subset.usable.row[subset.usable_rows].astype("<i8")
    return {
        "corpus": xxhash.xxh3_128_hexdigest("".join(corpus.sha256).encode()),
        "reading": corpus_reading(subset.usable),
        "rows": xxhash.xxh3_128_hexdigest(rows.tobytes()),
        "initial_parameters": fingerprint(params),
    }


def _finish(
    options: Options,
    subset: Subset,
    budget: UpdatePlan,
    last: dict[str, Any],
    chosen: dict[str, Any],
) -> None:
    """The manifest, and what the user is told; by the first host.

    Args:
        options: of the run.
        subset: that was trained on.
        budget: of the run.
        last: what is known of its last update.
        chosen: the ``attention`` of its parts, and the ``price`` that chose mesh and
            micro-batches.
    """
    import jax

    from mprm_jax.train.sharding import FIRST_HOST

    if jax.process_index() != FIRST_HOST:
        return
    usable = subset.usable
    steps = usable.rollouts.take(subset.usable_rows).n_steps
    result = {
        "rollouts": budget.rollouts,
        "steps": steps,
        "presentations": budget.presentations,
        "updates": budget.updates,
        "batch_size": budget.batch_size,
        "last_update": last or None,
    }
    manifest = corpus_manifest(usable) | {
        "arguments": msgspec.to_builtins(options, enc_hook=str),
        "selection": subset.selection,
        "result": result,
        **chosen,
    }
    with OutputSet() as outputs:
        outputs.add_manifest(options.output / MANIFEST, manifest)
    lines = [
        f"{count_of(budget.updates, 'update')} of {budget.batch_size} on "
        f"{count_of(budget.rollouts, 'rollout')} ({count_of(steps, 'step')})"
    ]
    if last:
        lines += [f"loss of the last update {last['loss']:.4f} nats per step"]
        if cut := last["truncated_steps"]:
            lines += [f"{count_of(cut, 'step')} cut off, where prompts are too long"]
    else:
        lines += ["nothing was left to do"]
    lines += ["", f"wrote the model: {options.output}"]
    folder = shlex.quote(str(options.output))
    lines += [f"next: mprm evaluate --checkpoint {folder} --benchmark FILE"]
    value = {"output": str(options.output), **result}
    answer(options.json, value, "\n".join(lines))
