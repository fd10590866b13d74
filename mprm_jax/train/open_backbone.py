"""Backbones opened for training: their precision, their mesh, their adapters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mprm_jax.models.backbone import Backbone
from mprm_jax.models.families import FAMILIES, attention_choices, compute_here
from mprm_jax.models.layers import AttentionChoice, Compute
from mprm_jax.models.lora import ADAPTERS, LoraConfig, LoraModel, attach, base_of
from mprm_jax.models.model import HEAD, Model, Params
from mprm_jax.models.registry import DESCRIPTION, read_model
from mprm_jax.models.remat import Remat
from mprm_jax.models.reward_head import ANSWERS
from mprm_jax.models.weights.load import load_backbone, planned_backbone
from mprm_jax.records.problems import DataError
from mprm_jax.train.config import Precision
from mprm_jax.train.features import backbone_of
from mprm_jax.train.open_model import load_model
from mprm_jax.train.sharding import parameter_shardings, residual_sharding


@dataclasses.dataclass(frozen=True)
class Opening:
    """How a backbone is opened; trained parameters are always float32.

    Attributes:
        compute: precision of the forward and backward pass.
        frozen: precision of parameters that are not trained; None: that of ``compute``,
            for which they need no more.
        remat: what of each layer is kept for the backward pass.
        max_length: most tokens of a prompt; None: the paper's 8,192, or the model's
            context where that is shorter.
        lora: train these adapters and the head alone.
        answers: the words whose rows of the language-model head become Yes and No;
            None: two new rows. A trained folder keeps its own.
    """

    compute: Precision = "bfloat16"
    frozen: Precision | None = None
    remat: Remat = "all"
    max_length: int | None = None
    lora: LoraConfig | None = None
    answers: tuple[str, str] | None = ANSWERS

    def precisions(self, model: Model, shapes: Params) -> Params:
        """Shapes of the parameters of a backbone, in the precision they are kept in."""
        frozen = jnp.dtype(self.frozen or self.compute)
        trained = model.trainable(shapes)
        if self.lora is not None:
            trained = {
                name: jax.tree.map(lambda _, head=name == HEAD: head, part)
                for name, part in shapes.items()
            }
        return jax.tree.map(
            lambda leaf, train: jax.ShapeDtypeStruct(
                leaf.shape, jnp.float32 if train else frozen
            ),
            shapes,
            trained,
        )

    def changed(self, model: Backbone, mesh: Mesh | None) -> Backbone:
        """The same backbone, computing as this says."""
        residual = None if mesh is None else residual_sharding(mesh)
        compute = Compute(self.compute, self.remat, residual)
        compute = compute_here(model.config, compute)
        prompting = model.prompting
        if self.max_length is not None:
            prompting = dataclasses.replace(prompting, max_length=self.max_length)
        return dataclasses.replace(model, compute=compute, prompting=prompting)


def open_for_training(
    folder: Path, opening: Opening, mesh: Mesh | None = None, seed: int = 0
) -> tuple[Model, Params]:
    """A backbone and its parameters, each put where it belongs as it is read.

    Args:
        folder: released weights, or what ``mprm train`` wrote.
        opening: precision, lengths and adapters.
        mesh: of several devices; None: one.
        seed: of the adapters.

    Raises:
        DataError: the folder holds no backbone, or not all of one.
    """
    if (folder / DESCRIPTION).is_file():

        def place(model: Model, shapes: Params) -> Params:
            shapes = opening.precisions(_backbone(model, folder), shapes)
            return shapes if mesh is None else _on(mesh, shapes)

        read, params = load_model(folder, place=place)
        model = _backbone(read, folder)
    else:
        frozen = opening.frozen or opening.compute
        model, params = load_backbone(
            folder,
            dtype=frozen if opening.lora else "float32",
            frozen_dtype=frozen,
            answers=opening.answers,
            sharding=mesh and functools.partial(parameter_shardings, mesh),
        )
    model = opening.changed(model, mesh)
    if opening.lora is None:
        return model, params
    adapted = LoraModel(model, opening.lora)
    return adapted, attach(params, opening.lora, jax.random.key(seed))


def planned_model(folder: Path, opening: Opening) -> tuple[Model, Params]:
    """The same model and the shapes of its parameters, with nothing allocated.

    config.json and tokenizer.json are enough; where there are weights, their headers
    are checked. Where no GPU is, the attention in bfloat16 is taken to be one's.

    Raises:
        DataError: as :func:`open_for_training`.
    """
    if (folder / DESCRIPTION).is_file():
        model = _backbone(read_model(folder), folder)
    else:
        model = planned_backbone(folder, Compute(), opening.answers)
    model = opening.changed(model, None)
    if opening.compute == "bfloat16" and jax.default_backend() != "gpu":
        compute = dataclasses.replace(
            model.compute, attention="cudnn", tower_attention="cudnn"
        )
        model = dataclasses.replace(model, compute=compute)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    shapes = opening.precisions(model, shapes)
    if opening.lora is None:
        return model, shapes
    with_adapters = functools.partial(attach, config=opening.lora)
    return LoraModel(model, opening.lora), jax.eval_shape(
        lambda params, key: with_adapters(params, key=key), shapes, jax.random.key(0)
    )


@dataclasses.dataclass(frozen=True)
class OpeningToScore:
    """How a model is opened whose parameters are only read.

    Attributes:
        compute: precision of a backbone's forward pass and parameters; adapters and the
            head's rows, whose difference is the score, stay float32.
        mesh_for: from the model and the shapes of its parameters to their mesh; None:
            one device.
    """

    compute: Precision = "bfloat16"
    mesh_for: Callable[[Model, Params], Mesh | None] = lambda model, shapes: None

    def place(self, model: Model, shapes: Params) -> Params:
        """The shapes, each with its precision and its place."""
        if isinstance(base_of(model), Backbone):
            shapes = {
                name: part
                if name in (ADAPTERS, HEAD)
                else jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, self.compute), part
                )
                for name, part in shapes.items()
            }
        if (mesh := self.mesh_for(self.changed(model), shapes)) is None:
            return shapes
        return _on(mesh, shapes)

    def changed(self, model: Model, mesh: Mesh | None = None) -> Model:
        """The same model, computing as this says; one that is no backbone as ever."""
        if isinstance(model, LoraModel):
            return dataclasses.replace(model, base=self.changed(model.base, mesh))
        if not isinstance(model, Backbone):
            return model
        return Opening(self.compute, remat="none").changed(model, mesh)

    def released(self, folder: Path) -> tuple[Model, Params]:
        """A backbone with released weights.

        Raises:
            DataError: the folder holds none, or not all of one.
        """
        model, shapes = planned_model(folder, Opening(self.compute, remat="none"))
        mesh = self.mesh_for(model, shapes)
        model, params = load_backbone(
            folder,
            dtype=self.compute,
            frozen_dtype=self.compute,
            sharding=mesh and functools.partial(parameter_shardings, mesh),
        )
        return self.changed(model, mesh), params


def _on(mesh: Mesh, shapes: Params) -> Params:
    """The shapes, each with its place on a mesh."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        shapes,
        parameter_shardings(mesh, shapes),
    )


def attention_of(model: Model) -> dict[str, AttentionChoice]:
    """The attention of each part of a model on the devices here; {} without a choice.

    The parts are named as in :class:`mprm_jax.models.layers.Compute`.
    """
    inner = backbone_of(model)
    return attention_choices(inner.config, inner.compute.dtype) if inner else {}


def _backbone(model: Model, folder: Path) -> Backbone:
    if isinstance(model, Backbone):
        return model
    if isinstance(model, LoraModel):
        raise DataError(
            f"{folder}: holds adapters apart from their kernels; mprm export merges "
            "them into a folder to train from"
        )
    raise DataError(f"{folder}: holds {model.name}, which is no backbone")


def is_backbone(folder: Path) -> bool:
    """Whether a folder holds a backbone, rather than a tiny model or nothing.

    Raises:
        DataError: it describes a model that nobody knows.
    """
    if (folder / DESCRIPTION).is_file():
        return read_model(folder).name in FAMILIES
    return True
