"""What trainer, evaluation and reranking ask of a model, and how it is found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import msgspec
import numpy as np
from PIL import Image

from mprm_jax.data.batches import Batch
from mprm_jax.data.problems import DataError

Params = Any

DESCRIPTION = "model.json"
SCHEMA = "mprm-model/1"

# The names of models.backbone, which is slow to import.
BACKBONES = ("qwen2.5-vl", "internvl2.5")


class Model(Protocol):
    """Pure functions over a nested dict of arrays; hashable, equal iff alike."""

    @property
    def name(self) -> str:
        """Which family of models."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Random parameters."""
        ...

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Logits at every step marker, [B, S, 3]: Yes, No, log concentration."""
        ...

    def trainable(self, params: Params) -> Any:
        """Which parameters are trained: a pytree of bool like ``params``."""
        ...

    def encode(
        self, question: str, steps: Sequence[str], images: tuple[Image.Image, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """tokens_L, images_PxD, marker_S, and the number of steps cut off.

        Raises:
            BadRecord: the rollout cannot be read by this model.
        """
        ...

    def description(self) -> dict[str, Any]:
        """Shape of the model as JSON values, for :data:`DESCRIPTION`."""
        ...

    def assets(self) -> dict[str, bytes]:
        """Files, by name, that the model needs beside its parameters."""
        ...


class _Description(msgspec.Struct):
    name: str
    config: dict[str, Any]
    schema: str = SCHEMA


def model_files(model: Model) -> dict[str, bytes]:
    """All that a folder must hold for :func:`read_model`, by file name."""
    described = _Description(model.name, model.description())
    return {DESCRIPTION: msgspec.json.format(msgspec.json.encode(described))} | dict(
        model.assets()
    )


def read_model(folder: Path) -> Model:
    """The model whose files lie in a folder, without parameters.

    Raises:
        DataError: there is none, or it is of an unknown family.
    """
    path = folder / DESCRIPTION
    try:
        described = msgspec.json.decode(path.read_bytes(), type=_Description)
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no {DESCRIPTION}, hence no model trained by mprm train"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: no description of a model ({error})") from error
    if described.schema != SCHEMA:
        raise DataError(f"{path}: schema {described.schema!r}, not {SCHEMA}")
    if described.name == "tiny":
        from mprm_jax.models.tiny_model import from_description

        return from_description(described.config, folder)
    if described.name in BACKBONES:
        from mprm_jax.models import backbone

        lora = described.config.pop("lora", None)
        model = backbone.from_description(described.name, described.config, folder)
        return model if lora is None else _with_adapters(path, model, lora)
    known = ", ".join(("tiny", *BACKBONES))
    raise DataError(f"{path}: unknown model {described.name!r}; known: {known}")


def _with_adapters(path: Path, model: Model, values: Any) -> Model:
    from mprm_jax.models import lora

    try:
        return lora.from_description(model, values)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def open_model(name: str) -> tuple[Model, Params]:
    """A model to train from, with its pretrained parameters.

    Args:
        name: ``tiny``, a folder with released weights of a backbone, or one that
            mprm train wrote.

    Raises:
        DataError: there is none of that name.
    """
    if name == "tiny":
        from mprm_jax.models.tiny_model import pretrained

        return pretrained()
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"{name}: no such model; give tiny, or a folder with weights")
    if (folder / DESCRIPTION).is_file():
        from mprm_jax.train.checkpoint import load_model

        return load_model(folder)
    from mprm_jax.models.backbone import load_backbone

    return load_backbone(folder)
