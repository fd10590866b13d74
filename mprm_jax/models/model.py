"""What trainer, evaluation and reranking ask of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image

from mprm_jax.data.batches import Batch

Params = Any

# The subtree of the parameters that holds the reward rows, in every model.
HEAD = "head"


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

    def marker_states(self, params: Params, batch: Batch) -> jax.Array:
        """What the reward head reads at every step marker, [B, S, D]."""
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
        """Shape of the model as JSON values."""
        ...

    def assets(self) -> dict[str, bytes]:
        """Files, by name, that the model needs beside its parameters."""
        ...
