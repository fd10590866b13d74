"""The way out: a trained backbone as a folder that ``transformers`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mprm_jax.models import reward_head
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.layers import Params
from mprm_jax.models.weights import tensors
from mprm_jax.records.problems import DataError


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
        params: the model's, head included.
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
    described = {"tokenizer_config.json": tokenizer_config(model)}
    if model.config.vision is not None:
        described["preprocessor_config.json"] = model.family.preprocessor(
            model.config, model.prompting
        )
    for name, value in described.items():
        files[name] = (json.dumps(value, indent=2) + "\n").encode()
    tensors.save_pretrained(
        folder,
        model.config,
        reward_head.detach(model.head, params),
        dtype,
        files | dict(beside),
    )


def tokenizer_config(model: Backbone) -> dict[str, Any]:
    """Enough for ``AutoTokenizer`` to take tokenizer.json as it is.

    The chat template of a text model is that of training: its user turn stays open.
    """
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.prompting.max_length,
        "clean_up_tokenization_spaces": False,
    }
    if not model.template.first_token:
        opened = model.template.before + "{{ messages[0]['content'] }}"
        described["chat_template"] = opened
    return described
