"""A decoder alone, for rollouts without pictures: Qwen2, Qwen3, Llama 3, SmolLM2."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from mprm_jax.data.prompt import ChatName
from mprm_jax.models import decoder
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.layers import Params


@dataclass(frozen=True)
class TextConfig:
    """Shape of a text model, and the chat it was trained with.

    Attributes:
        language: the decoder.
        chat: of ``TEXT_TEMPLATES``.
    """

    language: DecoderConfig
    chat: ChatName

    @property
    def vision(self) -> None:
        """There is no tower."""

    @property
    def image_token(self) -> int:
        """No token stands for an image."""
        return -1


def init(config: TextConfig, key: jax.Array) -> Params:
    """Random parameters, float32."""
    return {"language": decoder.init(config.language, key)}
