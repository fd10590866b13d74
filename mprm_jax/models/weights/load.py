"""A process reward model from released weights, or from the small files beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from mprm_jax.data.prompt import add_step_marker, token_id
from mprm_jax.models import reward_head
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.families import Prompting, compute_here, with_language
from mprm_jax.models.folder import check_released
from mprm_jax.models.layers import Compute, Params
from mprm_jax.models.reward_head import ANSWERS, RewardHead
from mprm_jax.models.tokenizer import TOKENIZER, read_tokenizer
from mprm_jax.models.weights import tensors
from mprm_jax.models.weights.config import read_config
from mprm_jax.records.problems import DataError


def load_backbone(
    directory: Path,
    *,
    dtype: Any = np.float32,
    frozen_dtype: Any = None,
    answers: tuple[str, str] | None = ANSWERS,
    prompting: Prompting | None = None,
    compute: Compute | None = None,
    sharding: tensors.ShardingRule | None = None,
) -> tuple[Backbone, Params]:
    """A process reward model from released tensors.

    ``<prm>`` is added to the tokenizer, and to the embedding where it has no row left.

    Args:
        directory: a checkpoint in any of the layouts, with tokenizer.json.
        dtype: of trained parameters.
        frozen_dtype: of the others; None: the same.
        answers: the words whose rows become Yes and No; None: two new rows. Rows that
            ``export`` put beside the weights come before either.
        prompting: tokens and pixels; None: the paper's, and no more tokens than the
            model's context.
        compute: precision and rematerialisation; None: bfloat16, each layer again.
        sharding: see ``tensors.load_pretrained``.

    Raises:
        DataError: something in the folder cannot be used.
    """
    # Everything that is cheap to find wrong comes before the tensors.
    backbone, marker, own = from_small_files(
        directory, compute or Compute(), answers, prompting
    )
    if compute is None:
        here = compute_here(backbone.config, backbone.compute)
        backbone = dataclasses.replace(backbone, compute=here)
    config, params = tensors.load_pretrained(
        directory, dtype, sharding, frozen_dtype=frozen_dtype
    )
    config, params = reward_head.grow_vocabulary(config, params, marker + 1)
    head = dataclasses.replace(backbone.head, tied=config.language.tied)
    params = reward_head.attach(head, params)
    params |= {"head": params["head"] | own}
    return dataclasses.replace(backbone, config=config, head=head), params


def released_params(
    directory: Path, vocabulary: int, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> Params:
    """Some parameters of a folder, as :func:`load_backbone` makes them.

    Args:
        directory: released weights.
        vocabulary: rows that embedding and head get if they have fewer.
        wanted: precision and sharding of each, by its path joined with dots. Others are
            not read, and None.

    Raises:
        DataError: something in the folder cannot be used.
    """
    check_released(directory)
    config, params = tensors.load_pretrained(directory, np.float32, wanted=wanted)
    return reward_head.grow_vocabulary(config, params, vocabulary)[1]


def from_small_files(
    directory: Path,
    compute: Compute,
    answers: tuple[str, str] | None = ANSWERS,
    prompting: Prompting | None = None,
) -> tuple[Backbone, int, Params]:
    """A backbone as all files but the weights tell it, the id of ``<prm>``, and the
    rows of the head that lie beside the weights; as :func:`load_backbone`.
    """
    check_released(directory)
    tokenizer = read_tokenizer(directory)
    marker = add_step_marker(tokenizer)
    _, config = read_config(directory)
    own = reward_head.read_own_rows(directory, config.language.width)
    if prompting is None:
        prompting = Prompting(min(Prompting.max_length, config.language.context))
    head = RewardHead(None, config.language.tied)
    if answers is not None and "answers" not in own:
        head = dataclasses.replace(
            head, tokens=_answer_ids(directory, tokenizer, answers)
        )
    backbone = Backbone(config, head, prompting, compute, tokenizer)
    try:
        image_token = config.image_token
        if (image := backbone.template.image_token) is not None:
            image_token = token_id(tokenizer, image)
    except DataError as error:
        raise DataError(f"{directory / TOKENIZER}: {error}") from None
    if image_token != config.image_token:
        raise DataError(
            f"{directory}: config.json gives image token {config.image_token}, the "
            f"tokenizer {image_token}"
        )
    return backbone, marker, own


def _answer_ids(
    directory: Path, tokenizer: Tokenizer, answers: tuple[str, str]
) -> tuple[int, int]:
    try:
        yes, no = (token_id(tokenizer, word) for word in answers)
    except DataError as error:
        raise DataError(
            f"{directory / TOKENIZER}: {error}, whose row would be one of the reward "
            "head's; give other answers, or new: rows that begin at zero"
        ) from None
    return yes, no


def planned_backbone(
    directory: Path, compute: Compute, answers: tuple[str, str] | None
) -> Backbone:
    """The backbone that :func:`load_backbone` would make, with no tensor read.

    config.json and tokenizer.json are enough; where there are weights, their headers
    are checked.

    Raises:
        DataError: something in the folder cannot be used.
    """
    backbone, marker, _ = from_small_files(directory, compute, answers)
    config = backbone.config
    if any(directory.glob("*.safetensors*")):
        config, _, _ = tensors.stored_layout(directory)
    size = max(config.language.vocabulary, marker + 1)
    config = with_language(config, vocabulary=size)
    head = dataclasses.replace(backbone.head, tied=config.language.tied)
    return dataclasses.replace(backbone, config=config, head=head)
