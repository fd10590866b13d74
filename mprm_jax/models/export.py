"""The way out: a trained backbone as a folder that ``transformers`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mprm_jax.data.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from mprm_jax.data.problems import DataError
from mprm_jax.models import reward_head
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.layers import Params
from mprm_jax.models.qwen_vl import QwenVLConfig
from mprm_jax.models.weights import tensors

# Pillow's number of the filter that both backbones resize with.
_BICUBIC = 3


def export(
    folder: Path,
    model: Backbone,
    params: Params,
    dtype: Any = np.float32,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write a process reward model as ``transformers`` writes the backbone it is.

    The score of a step is sigma(Yes - No) of the language-model head's logits at the
    step's ``<prm>``. What no such head can hold (two rows of its own, the log
    concentration) goes to reward_head.safetensors beside the tensors, which
    ``load_backbone`` reads and ``transformers`` does not. All files appear together or
    not at all.

    Args:
        folder: new or empty.
        model: as trained.
        params: of it, head included.
        dtype: of every tensor; float32 is exact.
        beside: other files, by name.

    Raises:
        DataError: the folder holds something already, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: holds files already; name a new folder")
    files = dict(model.assets()) | reward_head.own_rows_file(
        model.head, params, model.answer_tokens
    )
    described = {
        "preprocessor_config.json": preprocessor_config(model),
        "tokenizer_config.json": tokenizer_config(model),
    }
    for name, value in described.items():
        files[name] = (json.dumps(value, indent=2) + "\n").encode()
    tensors.save_pretrained(
        folder,
        model.config,
        reward_head.detach(model.head, params),
        dtype,
        files | dict(beside),
    )


def preprocessor_config(model: Backbone) -> dict[str, Any]:
    """How ``transformers`` must prepare images to get those the model was trained on.

    InternVL: of one image; several share their tiles here, but not there.
    """
    limits, vision = model.prompting, model.config.vision
    common = {"resample": _BICUBIC, "do_convert_rgb": True}
    if isinstance(model.config, QwenVLConfig):
        return common | {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {
                "shortest_edge": limits.min_pixels,
                "longest_edge": limits.max_pixels,
            },
            "patch_size": vision.patch,
            "merge_size": model.config.vision.merge,
            "temporal_patch_size": model.config.vision.frames,
            "image_mean": list(CLIP_MEAN),
            "image_std": list(CLIP_STD),
        }
    side = model.config.vision.image
    return common | {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": side, "width": side},
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": limits.max_tiles,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def tokenizer_config(model: Backbone) -> dict[str, Any]:
    """Enough for ``AutoTokenizer`` to take tokenizer.json as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.prompting.max_length,
        "clean_up_tokenization_spaces": False,
    }
