"""A model as files beside its parameters, and how it is found by them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mprm_jax.models import backbone, lora, tiny
from mprm_jax.models.families import FAMILIES
from mprm_jax.models.folder import DESCRIPTION, check_fetched, no_model
from mprm_jax.models.model import Model
from mprm_jax.records.problems import DataError, faults_of

SCHEMA = "mprm-model/1"


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
    with faults_of(path, "no description of a model"):
        try:
            check_fetched(folder)
            described = msgspec.json.decode(path.read_bytes(), type=_Description)
        except FileNotFoundError:
            raise no_model(folder) from None
    if described.schema != SCHEMA:
        raise DataError(f"{path}: schema {described.schema!r}, not {SCHEMA}")
    if described.name == tiny.NAME:
        return tiny.from_description(described.config, folder)
    if described.name not in FAMILIES:
        known = ", ".join((tiny.NAME, *FAMILIES))
        raise DataError(f"{path}: unknown model {described.name!r}; known: {known}")
    adapters = described.config.pop("lora", None)
    model = backbone.from_description(described.name, described.config, folder)
    if adapters is None:
        return model
    try:
        return lora.from_description(model, adapters)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
