"""`mprm export`: a trained backbone as transformers and PyTorch read it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from experiments.console.command import answer
from experiments.console.options import JsonOption
from experiments.console.progress import progress
from experiments.console.text import size
from experiments.store.provenance import package_version, versions
from mprm_jax.data.outputs import OUTPUT_SCHEMA, manifest_bytes
from mprm_jax.records.problems import DataError

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Options(JsonOption):
    """Write a trained backbone as safetensors that transformers loads.

    Adapters are merged into their kernels, and what was not trained is read from where
    training began: the folder needs no other. The score of a step is the sigmoid of the
    difference of two logits, Yes less No, at its <prm>. The folder is also one that
    mprm train --model takes.

    Example: mprm export runs/bis10 --output runs/bis10-hf

    Attributes:
        checkpoint: Folder of a trained model, as mprm train --output makes it.
        output: Folder to write, new or empty.
        dtype: Of every tensor; float32 is exact, bfloat16 half as large, and too coarse
            for most of what adapters (--lora-rank) learn in a short run.
    """

    checkpoint: tyro.conf.Positional[Path]
    output: Path = Path("runs/exported")
    dtype: Literal["float32", "bfloat16"] = "float32"


OPTIONS = Options


def run(options: Options) -> None:
    """Load, write, and say how to use it."""
    # Imported here: they would slow down --help.
    import ml_dtypes
    import numpy as np

    from experiments.store.scoring import load_checkpoint
    from mprm_jax.models.backbone import Backbone
    from mprm_jax.models.lora import LoraModel, merged
    from mprm_jax.models.weights.export import export

    model, params, facts = load_checkpoint(options.checkpoint)
    if isinstance(model, LoraModel):
        model, params = model.base, merged(params, model.config)
    if not isinstance(model, Backbone):
        raise DataError(
            f"{options.checkpoint}: holds {model.name}, which transformers does not "
            "know; only the backbones can be exported"
        )
    manifest = {
        "versions": versions() | {"jax": package_version("jax")},
        "checkpoint": str(options.checkpoint.resolve()),
        "exported": facts,
        "dtype": options.dtype,
    }
    dtype = ml_dtypes.bfloat16 if options.dtype == "bfloat16" else np.float32
    beside = {MANIFEST: manifest_bytes(manifest, OUTPUT_SCHEMA)}
    with progress("writing", None):
        export(options.output, model, params, dtype, beside)
    told = {
        "output": str(options.output),
        "model": model.name,
        "exported": facts,
        "dtype": options.dtype,
        "bytes": sum(path.stat().st_size for path in options.output.iterdir()),
        "step_marker": model.tokenizer.token_to_id("<prm>"),
        "yes_no": model.head.tokens,
    }
    how = "its two reward rows are in reward_head.safetensors"
    if model.head.tokens is not None:
        yes, no = model.head.tokens
        how = (
            f"score of a step: sigmoid(logits[{yes}] - logits[{no}]) at its token "
            f"{told['step_marker']} (<prm>)"
        )
    wrote = f"wrote {options.output} ({size(told['bytes'])})"
    answer(options.json, told, f"{wrote}\n{how}")
