"""`mprm train`: a process reward model, on a corpus or on a subset of it."""

from __future__ import annotations

import dataclasses
import shlex
import sys
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
)
from experiments.store.presentation import (
    EvaluationOptions,
    Presentation,
    PresentationOptions,
    labelled_benchmark,
    labelled_rollouts,
    presentation,
    shown,
    sizes_shown,
)
from experiments.store.provenance import file_sha256
from experiments.store.read_subset import (
    Subset,
    examples,
    load_subset,
    read_subset,
)
from experiments.store.write_subset import choose, corpus_manifest, corpus_reading
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import OutputSet
from mprm_jax.records.problems import DataError
from mprm_jax.train.update_plan import UpdatePlan

if TYPE_CHECKING:
    from mprm_jax.data.batches import Sizes
    from mprm_jax.data.loader import Source
    from mprm_jax.models.layers import AttentionChoice
    from mprm_jax.models.model import Model, Params
    from mprm_jax.records.record import ImageRoot
    from mprm_jax.train.loop import Watch

MANIFEST = "manifest.json"

# Prompts that a look scores at a time.
_LOOKED = 8


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
    rule keeps (--rule with --keep-ratio). An epoch shows every rollout once, in a
    seeded order; T = ceil(epochs x rollouts / batch size) updates, warm-up over 5 % of
    them, then cosine to zero. A run that was stopped, or killed, goes on with --resume,
    on another --mesh if need be.

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
        looks: Looks at the model while it is trained.
        presented: How often rollouts are shown, and what they weigh.
        cost: What it would cost.
        multi_host: A run on several hosts.
    """

    check_images: bool = True
    subset: Path | None = None
    output: Path = Path("runs/model")
    resume: bool = False
    settings: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    looks: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
    presented: PresentationOptions = dataclasses.field(
        default_factory=PresentationOptions
    )
    cost: PriceOptions = dataclasses.field(default_factory=PriceOptions)
    multi_host: HostOptions = dataclasses.field(default_factory=HostOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset is not None and self.rule is not None:
            raise UsageError("--subset and --rule exclude each other")
        if self.looks.eval_every is not None and given(self.multi_host):
            raise UsageError("--eval-every needs a run on one host")
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
    data = _Data.of(options, training, subset)
    if options.cost.dry_run:
        cost, would = price_run(training, options.cost, data.to_plan)
        value = dataclasses.asdict(cost)
        value |= {"fits": cost.fits, "bytes_needed": cost.bytes_needed}
        answer(options.json, value, price_text(cost, options.cost, would))
        return
    with progress("loading the model", None):
        # Imported here: with JAX, which would slow down --help.
        from mprm_jax.data.batches import open_ladder
        from mprm_jax.train.loop import TrainingJob, Update, advised, train
        from mprm_jax.train.run_files import RunFolder

        encode = encoder(training, data.to_plan)
    subset, sizes = _checked(options, subset, encode)
    data = _Data.of(options, training, subset, sizes)
    training, cost = fitted(training, data.to_plan)
    if cost is not None:
        say(verdict(cost))
    with advised(), progress("loading the model", None):
        model, params, mesh = open_model(training, data.budget)
    chosen = {"attention": _attention_told(model, subset), "price": cost}
    last: dict[str, Any] = {}
    whole = progress("training", data.budget.updates, "updates", compiling())
    with whole as tick, wrong_usage():

        def on_update(update: Update) -> None:
            last.update(update.metrics, update=update.number)
            tick(update.number)

        source, plan, config = data.source(model.encode), data.budget, training.config()
        ladder = open_ladder(data.longest)
        train(
            TrainingJob(model, source, plan, ladder, config, data.to_plan.sizes),
            params,
            RunFolder(
                options.output,
                options.resume,
                _identity(data, params, options.looks.eval_set),
                say,
                training.base(),
            ),
            mesh=mesh,
            # A backbone is too large to be kept as it was.
            consume=training.model != TINY,
            on_update=on_update,
            watch=_watch(options, data, model),
        )
    _finish(options, data, last, msgspec.to_builtins(chosen))


def say(line: str) -> None:
    """Tell the user, beside what the command answers."""
    print(f"mprm train: {line}", file=sys.stderr)


def _attention_told(model: Model, subset: Subset) -> dict[str, AttentionChoice]:
    """Which attention the parts of a model use; said where it is not the fused one,
    where a model that sees has no picture to look at, and where a text model's chat is
    not known.
    """
    from mprm_jax.data.write import has_pictures
    from mprm_jax.models.families import sees
    from mprm_jax.train.features import backbone_of
    from mprm_jax.train.open_backbone import attention_of

    rows = subset.usable_rows
    if sees(model.name) and not has_pictures(subset.usable, rows):
        say(
            f"none of the {len(rows):,} rollouts has a picture: {model.name} is "
            "trained on text alone, its vision tower unused"
        )
    backbone = backbone_of(model)
    if backbone is not None and getattr(backbone.config, "chat", "") == "none":
        say("the model's chat template is none that is known: prompts have no chat")
    attention = attention_of(model)
    for part, choice in attention.items():
        if choice.reason:
            say(f"{part} by XLA: {choice.reason}")
    return attention


@dataclasses.dataclass(frozen=True)
class _Data:
    """What is trained on, and how often it is shown.

    Attributes:
        subset: the rollouts.
        root: of their pictures, if that was said.
        shown: of them.
        budget: updates.
        sizes: of the rollouts; None: they were not measured.
    """

    subset: Subset
    root: ImageRoot | None
    shown: Presentation
    budget: UpdatePlan
    sizes: Sizes | None

    @classmethod
    def of(
        cls,
        options: Options,
        training: TrainingOptions,
        subset: Subset,
        sizes: Sizes | None = None,
    ) -> _Data:
        """What the options show of a subset."""
        held_out = options.looks.held_out or 0
        how = presentation(options.presented, subset, held_out, options.seed)
        budget = training.budget(len(how.places), len(subset.usable.row))
        return cls(subset, options.root, how, budget, sizes)

    def source(self, encode: Any) -> Source:
        """The rollouts as they are shown, as a model reads them."""
        return shown(examples(self.subset, encode, self.root), self.shown)

    @property
    def longest(self) -> int:
        """Steps of a rollout."""
        rows = self.subset.usable_rows
        return int(self.subset.usable.rollouts.lengths[rows].max())

    @property
    def to_plan(self) -> TrainingData:
        """What the price asks of it."""
        sizes = sizes_shown(self.sizes, self.shown)
        return TrainingData(self.source, self.longest, self.budget, sizes)


def _watch(options: Options, data: _Data, model: Model) -> Watch | None:
    """The looks that were asked for.

    Raises:
        DataError: there is nothing to look with.
    """
    from mprm_jax.judge import AUROC
    from mprm_jax.train.loop import Watch

    looks = options.looks
    if looks.eval_every is None:
        return None
    if looks.eval_set is not None:
        judge = labelled_benchmark(
            looks.eval_set, options.root, model, _LOOKED, options.check_images
        )
    else:
        source = examples(data.subset, model.encode, data.root)
        held_out = data.shown.held_out
        judge = labelled_rollouts(data.subset, source, held_out, model, _LOOKED)
    every, updates = looks.eval_every, data.budget.updates
    return Watch(
        lambda number: number % every == 0 or number == updates,
        lambda _, params: judge(params),
        AUROC,
        looks.patience,
    )


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
    without it. Several hosts, and whoever packs, must know the sizes, and check
    whatever is asked.

    Raises:
        DataError: more rollouts than --max-bad allows cannot be encoded, or all.
    """
    allowed = options.max_bad
    if options.subset is not None:
        allowed += subset.usable.bad_lines.total
    from mprm_jax.train.measure import measure

    pack = options.settings.loop.pack
    while options.check_images or given(options.multi_host) or pack:
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


def _identity(data: _Data, params: Params, eval_set: Path | None) -> dict[str, Any]:
    """What determines the run beside its settings: data, initial parameters, and what
    its best update is found with.
    """
    from mprm_jax.train.run_files import fingerprint

    usable, shown = data.subset.usable, data.shown
    rows = usable.row[data.subset.usable_rows].astype("<i8")
    facts = {
        "corpus": xxhash.xxh3_128_hexdigest("".join(usable.corpus.sha256).encode()),
        "reading": corpus_reading(usable),
        "rows": xxhash.xxh3_128_hexdigest(rows.tobytes()),
        "initial_parameters": fingerprint(params),
    }
    if not shown.is_plain:
        presented = shown.places.astype("<i8").tobytes() + shown.weight.tobytes()
        facts["presented"] = xxhash.xxh3_128_hexdigest(presented)
    if eval_set is not None:
        facts["eval_set"] = [file_sha256(of.path) for of in corpus_files(eval_set)]
    return facts


def _finish(
    options: Options, data: _Data, last: dict[str, Any], chosen: dict[str, Any]
) -> None:
    """The manifest, and what the user is told; by the first host.

    Args:
        options: of the run.
        data: that was trained on.
        last: what is known of its last update.
        chosen: the ``attention`` of its parts, and the ``price`` that chose mesh and
            micro-batches.
    """
    import jax

    from mprm_jax.train.sharding import FIRST_HOST

    if jax.process_index() != FIRST_HOST:
        return
    usable, budget = data.subset.usable, data.budget
    rows = data.subset.usable_rows[data.shown.places]
    steps = int(usable.rollouts.lengths[rows].sum())
    result = {
        "rollouts": budget.rollouts,
        "steps": steps,
        "presentations": budget.presentations,
        "updates": budget.updates,
        "batch_size": budget.batch_size,
        "last_update": last or None,
    }
    if len(data.shown.held_out):
        result["held_out"] = len(data.shown.held_out)
    manifest = corpus_manifest(usable) | {
        "arguments": msgspec.to_builtins(options, enc_hook=str),
        "selection": data.subset.selection,
        "result": result,
        **chosen,
    }
    with OutputSet() as outputs:
        outputs.add_manifest(options.output / MANIFEST, manifest)
    made = last.get("update", budget.updates)
    lines = [
        f"{count_of(made, 'update')} of {budget.batch_size} on "
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
