"""Models with their parameters: by name, and from the folder of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mprm_jax.models import tiny
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.folder import DESCRIPTION, model_folder
from mprm_jax.models.lora import base_of
from mprm_jax.models.model import Model, Params
from mprm_jax.models.registry import read_model
from mprm_jax.models.weights.load import load_backbone, released_params
from mprm_jax.records.problems import DataError
from mprm_jax.train.checkpoint import (
    FOLDER,
    Progress,
    Restored,
    by_path,
    read_best,
    restore_latest,
    updates_kept,
)
from mprm_jax.train.run_files import fingerprint, read_base


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


def load_model(
    folder: Path,
    *,
    read: Callable[[Path], Model] = read_model,
    place: Callable[[Model, Any], Any] = lambda model, shapes: shapes,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    found: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Model, Params]:
    """(model, parameters) of a run's best checkpoint, else of its newest whole one.

    Parameters that were not trained are read from the run's base, and proven to be the
    same.

    Args:
        folder: that ``mprm train`` or ``mprm pretrain`` wrote.
        read: the model of a folder, without its parameters.
        place: gives the parameters' shapes the precision and sharding to read them in;
            by default float32 on one device.
        report: told which checkpoint is taken if it is not the last of a finished run.
        found: told which checkpoint it is.

    Raises:
        DataError: the folder holds no model, one that is not known, or no whole
            checkpoint of it; or its base is gone, or another.
    """
    model = read(folder)
    template = place(model, jax.eval_shape(model.init, jax.random.key(0)))
    best = read_best(folder)
    restored = restore_latest(
        folder, template, first=best and best.update, report=report
    )
    if restored is None:
        raise DataError(f"{folder / FOLDER}: holds no checkpoint")
    progress = restored.progress
    found(progress)
    if best is not None and best.update == progress.update:
        report(
            f"{folder}: update {best.update} of {progress.updates}, the best by its "
            f"evaluation ({best.value:.4g}); the newest is {updates_kept(folder)[0]}"
        )
    elif progress.update < progress.updates:
        report(f"{folder}: unfinished: {progress.update} of {progress.updates} updates")
    if restored.frozen is None:
        return model, restored.params
    return model, _with_base(folder, model, template, restored)


def _with_base(folder: Path, model: Model, template: Any, restored: Restored) -> Params:
    """All parameters, in the precision and place of the template.

    Raises:
        DataError: the base is gone, or its parameters are not those of the run.
    """
    base = read_base(folder)
    another = DataError(
        f"{folder}: was trained from other parameters than {base.folder} has now; put "
        "those back, or name the folder that has them in base.json"
    )
    trained, wanted = by_path(restored.params), by_path(template)
    missing = {
        path: jax.ShapeDtypeStruct(leaf.shape, base.dtype, sharding=_sharding(leaf))
        for path, leaf in wanted.items()
        if path not in trained
    }
    given = _read_frozen(base.folder, model, missing)
    if {p: leaf.shape for p, leaf in given.items()} != {
        p: leaf.shape for p, leaf in missing.items()
    }:
        raise another
    leaves, form = jax.tree.flatten(template)
    as_kept = jax.tree.unflatten(form, [given.get(path) for path in wanted])
    if fingerprint(as_kept) != restored.frozen:
        raise another
    # Each makes room for the next.
    del as_kept
    return jax.tree.unflatten(
        form,
        [
            trained[path]
            if path in trained
            # In a precision that holds every bit, or the one that was asked for.
            else jax.device_put(given.pop(path).astype(leaf.dtype), _sharding(leaf))
            for path, leaf in zip(wanted, leaves, strict=True)
        ],
    )


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return getattr(leaf, "sharding", None) or here


def _read_frozen(
    base: Path, model: Model, wanted: dict[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Parameters of a base, by path; those that it has not are left out."""
    if (base / DESCRIPTION).is_file():

        def place(_: Model, shapes: Any) -> Any:
            placed = [
                leaf.update(dtype=of.dtype, sharding=of.sharding)
                if (of := wanted.get(path))
                else leaf
                for path, leaf in by_path(shapes).items()
            ]
            return jax.tree.unflatten(jax.tree.structure(shapes), placed)

        _, params = load_model(base, place=place, report=lambda line: None)
    else:
        backbone = base_of(model)
        assert isinstance(backbone, Backbone)
        size = backbone.config.language.vocabulary
        params = released_params(base, size, wanted)
    found = by_path(params)
    return {path: found[path] for path in wanted.keys() & found.keys()}
