"""A model of a few hundred parameters that a run of is over in a second, and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mprm_jax.data.batches import Batch, Bucket, Buckets, Example
from mprm_jax.models.model import Params

PATCHES, PATCH_DIM = 2, 3

# Shapes of the examples below, all of which occur in a run of some.
SHAPES = Buckets(tuple(Bucket(length, PATCHES) for length in (8, 12, 20)), 4)


@dataclasses.dataclass(frozen=True)
class StubModel:
    """Running mean of embeddings, and of the image through a frozen map, to a head.

    See :class:`mprm_jax.models.model.Model`.
    """

    vocabulary: int = 11
    width: int = 5
    max_length: int = 10_000

    @property
    def name(self) -> str:
        """Of the family."""
        return "stub"

    def init(self, key: jax.Array) -> Params:
        """Random parameters, float32."""
        a, b, c = jax.random.split(key, 3)
        return {
            "vision": {"kernel": jax.random.normal(a, (PATCH_DIM, self.width))},
            "blocks": {
                0: {
                    "embedding": jax.random.normal(b, (self.vocabulary, self.width)),
                    "norm": {"scale": jnp.ones(self.width)},
                }
            },
            "head": {
                "kernel": 0.1 * jax.random.normal(c, (self.width, 3)),
                "bias": jnp.zeros(3),
            },
        }

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Logits at every step marker, [B, S, 3]."""
        head, at_BxSxD = params["head"], self.marker_states(params, batch)
        return at_BxSxD @ head["kernel"] + head["bias"][None, None]

    def marker_states(self, params: Params, batch: Batch) -> jax.Array:
        """What the head reads at every step marker, [B, S, D]."""
        block = params["blocks"][0]
        x_BxLxD = block["embedding"][batch.tokens_BxL]
        position_L = jnp.arange(1, x_BxLxD.shape[1] + 1)
        x_BxLxD = jnp.cumsum(x_BxLxD, axis=1) / position_L[None, :, None]
        patches = batch.images_BxPxD.astype(jnp.float32) / 255
        image_BxD = jnp.sum(patches, axis=1) @ params["vision"]["kernel"]
        x_BxLxD = jnp.tanh(x_BxLxD + image_BxD[:, None])
        x_BxLxD *= block["norm"]["scale"][None, None]
        return jnp.take_along_axis(x_BxLxD, batch.marker_BxS[..., None], axis=1)

    def trainable(self, params: Params) -> Any:
        """All but the map of the image."""
        return {
            name: jax.tree.map(lambda _, free=name != "vision": free, part)
            for name, part in params.items()
        }

    def encode(
        self, question: str, steps: Sequence[str], images: tuple[Image.Image, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """A token for each byte of a step; what is beyond the length is cut off."""
        tokens = [sum(question.encode()) % 7 + 3]
        markers = []
        for step in steps:
            if len(tokens) + len(step) >= self.max_length:
                break
            tokens += [byte % 7 + 3 for byte in step.encode()] + [2]
            markers.append(len(tokens) - 1)
        pixels = [np.asarray(i, np.uint8).reshape(-1, 3)[:PATCHES] for i in images]
        patches = np.concatenate(pixels or [np.zeros((0, PATCH_DIM), np.uint8)])
        cut = len(steps) - len(markers)
        return np.array(tokens, np.int32), patches, np.array(markers, np.int32), cut

    def description(self) -> dict[str, Any]:
        """Shape of the model."""
        return dataclasses.asdict(self)

    def assets(self) -> dict[str, bytes]:
        """One file, whose content is checked when it is read."""
        return {_ASSET: _CONTENT}


_ASSET, _CONTENT = "stub.txt", b"an asset"


def read_stub(folder: Path) -> StubModel:
    """The model of a folder, as ``read_model`` finds others."""
    assert (folder / _ASSET).read_bytes() == _CONTENT
    return StubModel()


def stub_examples(
    count: int, seed: int = 0, steps: int = 4, n_trials: int = 8
) -> list[Example]:
    """Random rollouts of varied lengths; some have no step."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        k = int(rng.integers(0, steps + 1))
        gaps = rng.integers(1, 5, k)
        marker_S = np.cumsum(gaps).astype(np.int32)
        length = int(gaps.sum()) + 1 + int(rng.integers(0, 3))
        tokens_L = rng.integers(3, 11, length).astype(np.int32)
        tokens_L[marker_S] = 2
        examples.append(
            Example(
                tokens_L,
                rng.integers(0, 256, (PATCHES, PATCH_DIM)).astype(np.uint8),
                marker_S,
                rng.integers(0, n_trials + 1, k).astype(np.int32),
                np.full(k, n_trials, np.int32),
                int(rng.integers(0, 2)),
            )
        )
    return examples
