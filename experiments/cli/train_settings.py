"""The options of `mprm train`, and what the library makes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.cli.select_rollouts import SelectionArguments
from experiments.console import shared
from experiments.store.read_subset import Subset
from theory.paper import TRAINING

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from mprm_jax.data.update_plan import UpdatePlan
    from mprm_jax.models.model import Model, Params
    from mprm_jax.train.loop import TrainConfig
    from mprm_jax.train.open_backbone import Opening
    from mprm_jax.train.sharding import MeshShape

# (batch size, learning rate, head multiplier) where the user names none: Table 7, and
# what the tiny model learned best with from its pretrained start.
_PAPER = (TRAINING.batch_size, TRAINING.learning_rate, 1.0)
_TINY = (16, 1e-3, 10.0)

TINY = "tiny"

Precision = Literal["bfloat16", "float32"]


@dataclasses.dataclass(frozen=True)
class TrainingArguments(SelectionArguments):
    """How to train, for every model.

    Attributes:
        model: tiny, or a folder: released weights of a backbone, or a model that mprm
            train wrote.
        batch_size: Rollouts per update (512 in the paper; 16 for tiny).
        learning_rate: Peak of the schedule (1e-5 in the paper; 1e-3 for tiny).
        head_multiplier: Learning rate of the reward head over that of all else (1 in
            the paper; 10 for tiny).
        weight_decay: Decoupled; biases and gains of norms are spared.
        optimizer: adamw, as in the paper, or adafactor, which keeps next to nothing
            beside the weights.
        first_moment: Precision of AdamW's first moment; bfloat16 saves two bytes per
            trained parameter.
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

    model: str = TINY
    batch_size: int | None = None
    learning_rate: float | None = None
    head_multiplier: float | None = None
    weight_decay: float = TRAINING.weight_decay
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    first_moment: Precision = "float32"
    labels: Literal["hard", "soft", "beta-binomial"] = "hard"
    label_threshold: float = 0.0
    matched_updates: bool = False
    accumulate: int = 1
    checkpoint_every: int = 100
    keep_checkpoints: int = 3
    tensorboard: bool = False
    threads: int = 2


@dataclasses.dataclass(frozen=True)
class SizeArguments(TrainingArguments):
    """How to train what is large.

    Attributes:
        mesh: Devices as DATAxFSDPxTENSOR: copies of the model, parts that each copy is
            split into, and devices that share each layer's work (1x8x1 is FSDP, 2x8x1
            a copy per node). By default a copy on every device.
        compute: Precision of a backbone's forward and backward pass (bfloat16); trained
            weights and their updates are float32 all the same.
        frozen_dtype: Precision of weights that are not trained (that of --compute).
        no_remat: Store what each layer of a backbone computes for the backward pass
            instead of computing it again: faster, and much more memory.
        max_length: Most tokens of a prompt (8,192, or the model's context).
        answers: What becomes the two rows of the reward head: those of the words Yes
            and No in the language-model head, those of + and -, or two new ones. A
            trained folder keeps its own.
        lora_rank: Train two thin matrices of this rank beside each kernel, and the
            head, instead of the kernels; mprm export merges them.
        lora_alpha: The product of the two is scaled by alpha / rank (16).
        lora_targets: Kernels, of query,key,value,output,gate,up,down (all).
        feature_cache: Folder for what a backbone's frozen vision tower makes of each
            image, so that it runs once per image.
        coordinator: address:port of the first host, for a run on several.
        hosts: How many.
        host: Number of this one, from 0.
        join_hosts: Find all three by itself (TPU pods, Slurm, Open MPI).
    """

    mesh: str | None = None
    compute: Precision | None = None
    frozen_dtype: Precision | None = None
    no_remat: bool = False
    max_length: int | None = None
    answers: Literal["yes-no", "plus-minus", "new"] = "yes-no"
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: str | None = None
    feature_cache: Path | None = None
    coordinator: str | None = None
    hosts: int | None = None
    host: int | None = None
    join_hosts: bool = False

    def check(self) -> None:
        """Refuse values without meaning.

        Raises:
            UsageError: naming the option.
        """
        super().check()
        if self.seed < 0:
            raise shared.UsageError(f"--seed must be at least 0, not {self.seed}")
        for name in ("batch_size", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise shared.UsageError(f"{_option(name)} must be at least 1: {value}")
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_targets"):
                if getattr(self, name) is not None:
                    raise shared.UsageError(f"{_option(name)} needs --lora-rank")
        if self.optimizer == "adafactor" and self.first_moment != "float32":
            raise shared.UsageError("--optimizer adafactor has no --first-moment")
        given = [self.coordinator, self.hosts, self.host]
        if any(v is not None for v in given) and (self.join_hosts or None in given):
            raise shared.UsageError(
                "several hosts: --coordinator, --hosts and --host together, or "
                "--join-hosts alone"
            )
        if self.model == TINY:
            for field in dataclasses.fields(self):
                if field.name in _OF_BACKBONES and (
                    getattr(self, field.name) != field.default
                ):
                    raise shared.UsageError(f"{_option(field.name)} needs a backbone")


_OF_BACKBONES = (
    "mesh", "compute", "frozen_dtype", "no_remat", "max_length", "lora_rank",
    "feature_cache", "answers",
)  # fmt: skip


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def as_options(message: str) -> str:
    """A message of the library in the words of the command line."""
    for field in (
        "learning_rate", "label_threshold", "head_multiplier", "weight_decay",
        "lora_rank", "lora_alpha", "lora_targets", "peak_tflops",
        "accumulate", "checkpoint_every",
    ):  # fmt: skip
        message = message.replace(field, _option(field))
    return message


def train_settings(
    options: TrainingArguments, subset: Subset
) -> tuple[UpdatePlan, TrainConfig]:
    """Updates and settings of a run on a subset.

    Raises:
        UsageError: a value is out of its range.
    """
    from mprm_jax.data.update_plan import plan
    from mprm_jax.train.loop import TrainConfig
    from mprm_jax.train.objective import Objective
    from mprm_jax.train.optimizer import OptimizerConfig

    batch, rate, head = _TINY if options.model == TINY else _PAPER
    whole = len(subset.usable.row)
    try:
        budget = plan(
            len(subset.usable_rows),
            options.batch_size or batch,
            matched_to=whole if options.matched_updates else None,
        )
        config = TrainConfig(
            objective=Objective(options.labels, options.label_threshold),
            optimizer=OptimizerConfig(
                kind=options.optimizer,
                first_moment=options.first_moment,
                weight_decay=options.weight_decay,
                head_multiplier=_or(options.head_multiplier, head),
            ),
            learning_rate=_or(options.learning_rate, rate),
            accumulate=options.accumulate,
            seed=options.seed,
            threads=options.threads,
            checkpoint_every=options.checkpoint_every,
            keep_checkpoints=options.keep_checkpoints,
            tensorboard=options.tensorboard,
        )
    except ValueError as error:
        raise shared.UsageError(as_options(str(error))) from None
    return budget, config


_ANSWERS = {"yes-no": ("Yes", "No"), "plus-minus": ("+", "-"), "new": None}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def opening(options: SizeArguments) -> Opening:
    """How a backbone is opened.

    Raises:
        UsageError: a value is out of its range.
    """
    from mprm_jax.models.lora import TARGETS, LoraConfig
    from mprm_jax.train.open_backbone import Opening

    lora = None
    if options.lora_rank is not None:
        targets = options.lora_targets
        try:
            lora = LoraConfig(
                options.lora_rank,
                _or(options.lora_alpha, LoraConfig.alpha),
                TARGETS if targets is None else tuple(targets.split(",")),
            )
        except ValueError as error:
            raise shared.UsageError(as_options(str(error))) from None
    return Opening(
        _or(options.compute, Opening.compute),
        options.frozen_dtype,
        not options.no_remat,
        options.max_length,
        lora,
        _ANSWERS[options.answers],
    )


def mesh_shape(options: SizeArguments, budget: UpdatePlan) -> MeshShape | None:
    """The mesh that was asked for, and that can share a batch; None: none was.

    Raises:
        UsageError: it is none, or cannot.
    """
    from mprm_jax.train.sharding import abstract_mesh, check_rows, parse_mesh

    if options.mesh is None:
        return None
    try:
        shape = parse_mesh(options.mesh)
        check_rows(abstract_mesh(shape), budget.batch_size, options.accumulate)
    except ValueError as error:
        raise shared.UsageError(f"--mesh: {error}") from None
    return shape


def join_hosts(options: SizeArguments) -> None:
    """Join the other hosts, if there are any; before JAX is used for anything else."""
    if options.join_hosts or options.coordinator is not None:
        from mprm_jax.train.sharding import start_hosts

        start_hosts(options.coordinator, options.hosts, options.host)


def open_model(
    options: SizeArguments, budget: UpdatePlan
) -> tuple[Model, Params, Mesh | None]:
    """The model to train, its parameters, and the mesh they lie on.

    Raises:
        DataError: there is none, or the mesh does not use the devices that are here.
        UsageError: the devices cannot share a batch.
    """
    import jax

    from mprm_jax.train import open_model
    from mprm_jax.train.open_backbone import is_backbone, open_for_training
    from mprm_jax.train.sharding import MeshShape, check_rows, make_mesh

    folder = Path(options.model)
    if options.model == TINY or not folder.is_dir() or not is_backbone(folder):
        return *open_model.open_model(options.model), None
    shape = mesh_shape(options, budget)
    mesh = None
    if shape is not None or jax.device_count() > 1:
        mesh = make_mesh(shape or MeshShape(jax.device_count(), 1))
        try:
            check_rows(mesh, budget.batch_size, options.accumulate)
        except ValueError as error:
            raise shared.UsageError(str(error)) from None
    asked = opening(options)
    if options.feature_cache is None:
        model, params = open_for_training(folder, asked, mesh, options.seed)
        return model, params, mesh
    from mprm_jax.models.lora import LoraModel
    from mprm_jax.train.features import cached

    model, params = open_for_training(folder, asked, mesh, options.seed)
    if isinstance(model, LoraModel):
        inner = cached(model.base, params, options.feature_cache)
        model = dataclasses.replace(model, base=inner)
    else:
        model = cached(model, params, options.feature_cache)
    return model, params, mesh
