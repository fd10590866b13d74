"""A model to train from, found by its name."""

from __future__ import annotations

from mprm_jax.models import tiny
from mprm_jax.models.folder import DESCRIPTION, model_folder
from mprm_jax.models.model import Model, Params
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.train.checkpoint import load_model


def open_model(name: str) -> tuple[Model, Params]:
    """A model with its pretrained parameters.

    Args:
        name: ``tiny``, a folder with released weights of a backbone, or one that
            mprm train wrote.

    Raises:
        DataError: there is none of that name.
    """
    if name == tiny.NAME:
        return tiny.pretrained()
    folder = model_folder(name)
    if (folder / DESCRIPTION).is_file():
        return load_model(folder)
    return load_backbone(folder)
