"""How to train: the option groups of `mprm train` and `mprm run selection`, and what
the library makes of them. JAX is imported once something is to be computed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.console.errors import UsageError
from experiments.console.options import (
    Checked,
    CompileOption,
    Hidden,
    check_least,
    given,
    wrong_usage,
)
from mprm_jax.models.remat import Remat
from mprm_jax.train.config import Objective, OptimizerConfig, Precision, TrainConfig
from mprm_jax.train.update_plan import UpdatePlan, plan
from theory.paper import TRAINING

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from mprm_jax.models.model import Model, Params
    from mprm_jax.train.open_backbone import Opening
    from mprm_jax.train.run_files import Base
    from mprm_jax.train.sharding import MeshShape

TINY = "tiny"

# (batch size, learning rate, head multiplier) where the user names none: Table 7, and
# what `mprm run recipe --size full` chose for the tiny model's full pretraining.
_PAPER = (TRAINING.batch_size, TRAINING.learning_rate, 1.0)
TINY_RECIPE = (16, 3.125e-5, 10.0)

# With labels that are all positive, and teach nothing, the full one reaches in `scarce`
# .883 of the .888 micro-F1 that it reaches with true ones (LOG.md, "The recipe").
DEMO_BACKBONE = "2400"

_ANSWERS = {"yes-no": ("Yes", "No"), "plus-minus": ("+", "-"), "new": None}


@dataclasses.dataclass(frozen=True)
class ObjectiveOptions(Checked, Objective):
    """The loss."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions(Checked, OptimizerConfig):
    """The optimizer."""

    kind: Annotated[Literal["adamw", "adafactor"], tyro.conf.arg(name="optimizer")] = (
        "adamw"
    )
    betas: Hidden[tuple[float, float]] = TRAINING.betas
    epsilon: Hidden[float] = TRAINING.epsilon
    clip_norm: Hidden[float] = TRAINING.clip_norm
    head_multiplier: Hidden[float] = 1.0


@dataclasses.dataclass(frozen=True)
class LoopOptions(Checked, TrainConfig):
    """The loop around the update."""

    objective: Hidden[Objective] = dataclasses.field(default_factory=Objective)
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    learning_rate: Hidden[float] = TRAINING.learning_rate
    seed: Hidden[int] = 0
    threads: int = 2
    checkpoint_every: int = 100
    accumulate: Hidden[int] = 1


@dataclasses.dataclass(frozen=True)
class BackboneOptions:
    """What only a backbone has.

    Attributes:
        mesh: Devices as DATAxFSDPxTENSOR: copies of the model, parts that each copy is
            split into, and devices that share each layer's work (1x8x1 is FSDP, 2x8x1
            a copy per node). By default a copy on every device where it fits, else
            FSDP.
        compute: Precision of a backbone's forward and backward pass (bfloat16); trained
            weights and their updates are float32 all the same.
        frozen_dtype: Precision of weights that are not trained (that of --compute).
        remat: What the backward pass computes again of each layer of a backbone: all
            of it, from what enters the layer; dots: all but its linear layers, which
            are stored; none: faster, and much more memory.
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
    """

    mesh: str | None = None
    compute: Precision | None = None
    frozen_dtype: Precision | None = None
    remat: Remat = "all"
    max_length: int | None = None
    answers: Literal["yes-no", "plus-minus", "new"] = "yes-no"
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: str | None = None
    feature_cache: Path | None = None

    def __post_init__(self) -> None:
        check_least(self, max_length=1)
        for name in given(self).keys() & {"--lora-alpha", "--lora-targets"}:
            if self.lora_rank is None:
                raise UsageError(f"{name} needs --lora-rank")

    def opening(self) -> Opening:
        """How a backbone is opened.

        Raises:
            UsageError: a value is out of its range.
        """
        from mprm_jax.models.lora import LoraConfig
        from mprm_jax.train.open_backbone import Opening

        lora = None
        if self.lora_rank is not None:
            asked: dict[str, Any] = {"rank": self.lora_rank, "alpha": self.lora_alpha}
            if self.lora_targets is not None:
                asked["targets"] = tuple(self.lora_targets.split(","))
            with wrong_usage():
                lora = LoraConfig(**{k: v for k, v in asked.items() if v is not None})
        return Opening(
            self.compute or Opening.compute,
            self.frozen_dtype,
            self.remat,
            self.max_length,
            lora,
            _ANSWERS[self.answers],
        )


@dataclasses.dataclass(frozen=True)
class TrainingOptions(CompileOption):
    """How to train.

    Attributes:
        model: tiny, or a folder: released weights of a backbone, or a model that mprm
            train wrote.
        batch_size: Rollouts per update (512 in the paper; 16 for tiny).
        learning_rate: Peak of the schedule (1e-5 in the paper; 3.125e-5 for
            tiny).
        head_multiplier: Learning rate of the reward head over that of all else (1 in
            the paper; 10 for tiny).
        accumulate: Micro-batches of an update, a divisor of the batch size; they change
            memory and rounding, nothing else. By default as few as fit the devices'
            memory (1 for tiny).
        epochs: Passes over the rollouts, each in an order of its own.
        matched_updates: As many updates as the whole corpus would get; the subset is
            repeated, in a new order each time.
        objective: The loss.
        loop: The loop around the update.
        backbone: What only a backbone has.
    """

    model: str = TINY
    batch_size: int | None = None
    learning_rate: float | None = None
    head_multiplier: float | None = None
    accumulate: int | None = None
    epochs: int = 1
    matched_updates: bool = False
    objective: ObjectiveOptions = dataclasses.field(default_factory=ObjectiveOptions)
    loop: LoopOptions = dataclasses.field(default_factory=LoopOptions)
    backbone: BackboneOptions = dataclasses.field(default_factory=BackboneOptions)
    seed: Hidden[int] = 0

    def __post_init__(self) -> None:
        check_least(self, seed=0, batch_size=1, accumulate=1, epochs=1)
        if self.matched_updates and self.epochs > 1:
            raise UsageError("--matched-updates and --epochs exclude each other")
        if self.loop.pack and self.model == TINY:
            raise UsageError("--pack needs a backbone")
        self.config()
        if self.model == TINY:
            for name in given(self.backbone):
                raise UsageError(f"{name} needs a backbone")

    def config(self) -> TrainConfig:
        """All settings of a run but the number of updates."""
        _, rate, head = TINY_RECIPE if self.model == TINY else _PAPER
        if self.learning_rate is not None:
            rate = self.learning_rate
        if self.head_multiplier is not None:
            head = self.head_multiplier
        optimizer = dataclasses.replace(self.loop.optimizer, head_multiplier=head)
        return dataclasses.replace(
            self.loop,
            objective=self.objective,
            optimizer=optimizer,
            learning_rate=rate,
            accumulate=self.accumulate or 1,
            seed=self.seed,
        )

    def budget(self, rollouts: int, whole: int) -> UpdatePlan:
        """Updates of a run.

        Args:
            rollouts: to train on.
            whole: of the corpus.
        """
        usual = TINY_RECIPE if self.model == TINY else _PAPER
        matched = whole if self.matched_updates else None
        with wrong_usage():
            return plan(
                rollouts,
                self.batch_size or usual[0],
                matched_to=matched,
                epochs=self.epochs,
            )

    def mesh_shape(self) -> MeshShape | None:
        """The mesh that was asked for.

        Raises:
            UsageError: it is none.
        """
        from mprm_jax.train.sharding import parse_mesh

        mesh = self.backbone.mesh
        with wrong_usage("--mesh"):
            return parse_mesh(mesh) if mesh else None

    def backbone_folder(self) -> Path | None:
        """The folder of the backbone to train; None: another model, or none at all."""
        from mprm_jax.train.open_backbone import is_backbone

        folder = Path(self.model)
        known = self.model != TINY and folder.is_dir() and is_backbone(folder)
        return folder if known else None

    def base(self) -> Base | None:
        """Where the parameters lie that are not trained; None: in no folder."""
        from mprm_jax.train.run_files import Base

        folder, opening = self.backbone_folder(), self.backbone.opening()
        return folder and Base(folder, opening.frozen or opening.compute)


def open_model(
    options: TrainingOptions, budget: UpdatePlan
) -> tuple[Model, Params, Mesh | None]:
    """The model to train, its parameters, and the mesh they lie on: the one asked for
    or chosen by :func:`experiments.console.price.fitted`, or None.

    Raises:
        DataError: there is none, or the mesh does not use the devices that are here.
        UsageError: the devices cannot share a batch.
    """
    from mprm_jax.models.lora import LoraModel
    from mprm_jax.train import open_model as models
    from mprm_jax.train.features import cached
    from mprm_jax.train.open_backbone import open_for_training
    from mprm_jax.train.sharding import check_rows, make_mesh

    folder, backbone = options.backbone_folder(), options.backbone
    if folder is None:
        return *models.open_model(options.model), None
    mesh = None
    if (shape := options.mesh_shape()) is not None:
        mesh = make_mesh(shape)
        with wrong_usage("--mesh"):
            check_rows(mesh, budget.batch_size, options.accumulate or 1)
    model, params = open_for_training(folder, backbone.opening(), mesh, options.seed)
    if backbone.feature_cache is not None:
        adapted = isinstance(model, LoraModel)
        inner = cached(model.base if adapted else model, params, backbone.feature_cache)
        model = dataclasses.replace(model, base=inner) if adapted else inner
    return model, params, mesh
