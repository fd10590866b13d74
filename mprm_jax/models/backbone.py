"""The real backbones as process reward models, as the trainer takes a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from PIL.Image import Image
from tokenizers import Tokenizer

from mprm_jax.data.batches import Batch
from mprm_jax.data.prompt import ChatTemplate, encode_chat, marker_id
from mprm_jax.models import families, reward_head
from mprm_jax.models.families import (
    FAMILIES,
    BackboneConfig,
    Family,
    Prompting,
    family_of,
)
from mprm_jax.models.layers import Compute, Params
from mprm_jax.models.remat import Remat
from mprm_jax.models.reward_head import ANSWERS, RewardHead
from mprm_jax.models.tokenizer import TOKENIZER, read_tokenizer
from mprm_jax.records.problems import DataError


@dataclasses.dataclass(frozen=True)
class Backbone:
    """See :class:`mprm_jax.models.model.Model`.

    Attributes:
        config: the model.
        head: the reward rows.
        prompting: tokens and pixels.
        compute: precision and rematerialisation.
        tokenizer: knows ``<prm>``.

    Raises:
        DataError: prompts may be longer than the model's context.
    """

    config: BackboneConfig
    head: RewardHead
    prompting: Prompting
    compute: Compute
    tokenizer: Tokenizer = dataclasses.field(compare=False)

    def __post_init__(self) -> None:
        if self.prompting.max_length > self.config.language.context:
            raise DataError(
                f"max_length {self.prompting.max_length} is beyond the model's context "
                f"of {self.config.language.context} tokens"
            )

    @property
    def family(self) -> Family:
        """What it has in common with other backbones."""
        return family_of(self.config)

    @property
    def name(self) -> str:
        """Of the family."""
        return self.family.name

    @property
    def template(self) -> ChatTemplate:
        """What stands around its prompts."""
        return self.family.template(self.config)

    @property
    def answer_tokens(self) -> tuple[int, int] | None:
        """Ids of Yes and No, which a reader of the weights would take."""
        yes, no = map(self.tokenizer.token_to_id, ANSWERS)
        return None if yes is None or no is None else (yes, no)

    def init(self, key: jax.Array) -> Params:
        """Random parameters, head included, float32."""
        return reward_head.attach(self.head, families.init(self.config, key))

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Yes, No and log concentration at every marker [B, S, 3], float32."""
        return self.rewards(params, self._hidden(params, batch), batch.marker_BxS)

    def marker_states(self, params: Params, batch: Batch) -> jax.Array:
        """What the head reads at every marker [B, S, D]."""
        hidden_BxLxD, marker_BxS = self._hidden(params, batch), batch.marker_BxS
        return reward_head.marker_states(
            self.config.language, params, hidden_BxLxD, marker_BxS
        )

    def _hidden(self, params: Params, batch: Batch) -> jax.Array:
        most = self.family.rows_per_image(self.config, self.prompting)
        compute = dataclasses.replace(self.compute, image_rows=most)
        inputs = batch.tokens_BxL, batch.images_BxPxD, compute, batch.place_BxKxL
        return families.hidden_states(self.config, params, *inputs)

    def rewards(
        self, params: Params, hidden_BxLxD: jax.Array, marker_BxS: jax.Array
    ) -> jax.Array:
        """The head's logits [B, S, 3] of the decoder's residual stream."""
        return reward_head.reward_logits(
            self.head, self.config.language, params, hidden_BxLxD, marker_BxS
        )

    def trainable(self, params: Params) -> Params:
        """Which parameters are trained; see :func:`families.trainable`."""
        return families.trainable(params)

    def encode(
        self, question: str, steps: Sequence[str], images: tuple[Image, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """tokens_L, images_PxD, marker_S and the number of steps cut off.

        Raises:
            BadRecord: a text or an image that the model cannot read.
        """
        pixels_PxD, rows = self.cut(images)
        tokens_L, marker_S, truncated = self.encode_text(question, steps, rows)
        return tokens_L, pixels_PxD, marker_S, truncated

    def cut(self, images: tuple[Image, ...]) -> tuple[np.ndarray, list[int]]:
        """images_PxD, and how many of its rows (patches or tiles) each image has.

        Raises:
            BadRecord: an image that the model cannot read.
        """
        return self.family.cut(self.config, self.prompting, images)

    def encode_text(
        self, question: str, steps: Sequence[str], rows: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """tokens_L, marker_S and the number of steps cut off.

        Args:
            question: of the rollout.
            steps: of the rollout.
            rows: of each image, as ``cut`` counts them.

        Raises:
            BadRecord: a text that the model cannot read, or images beyond the context.
        """
        share = self.family.tokens_per_row(self.config)
        counts = [int(count * share) for count in rows]
        template, length = self.template, self.prompting.max_length
        return encode_chat(self.tokenizer, template, question, steps, counts, length)

    def description(self) -> dict[str, Any]:
        """Shape of the model as JSON values."""
        return {
            "config": dataclasses.asdict(self.config),
            "head": dataclasses.asdict(self.head),
            "prompting": dataclasses.asdict(self.prompting),
            "dtype": self.compute.dtype,
            "remat": self.compute.remat,
        }

    def assets(self) -> dict[str, bytes]:
        """The tokenizer, ``<prm>`` included."""
        return {TOKENIZER: self.tokenizer.to_str(pretty=True).encode()}


def from_description(name: str, values: dict[str, Any], folder: Path) -> Backbone:
    """The model of a checkpoint's folder, without parameters.

    Raises:
        DataError: its files do not make one.
    """
    tokenizer = read_tokenizer(folder)
    try:
        config = msgspec.convert(values["config"], FAMILIES[name].config_type)
        head = msgspec.convert(values["head"], RewardHead)
        prompting = msgspec.convert(values["prompting"], Prompting)
        dtype, remat = str(values["dtype"]), _remat(values["remat"])
    except (KeyError, msgspec.ValidationError) as error:
        raise DataError(f"{folder}: no description of {name} ({error})") from error
    marker_id(tokenizer)
    compute = families.compute_here(config, Compute(dtype, remat))
    return Backbone(config, head, prompting, compute, tokenizer)


def _remat(value: Any) -> Remat:
    # Descriptions once said whether each layer is computed again.
    if isinstance(value, bool):
        return "all" if value else "none"
    return msgspec.convert(value, Remat)
