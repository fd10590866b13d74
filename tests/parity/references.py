"""What the parity tests share: random weights, the loss, and a batch for both sides."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from mprm_jax.data.batches import Batch
from mprm_jax.models.weights.names import canonical_name
from tests.mprm_jax.random_weights import random_tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCABULARY = 120
YES, NO, MARKER = 11, 12, 13


def relative(found: Any, expected: Any) -> float:
    """||found - expected|| / ||expected||, both as float64."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / (scale if scale else 1.0))


def language_fields(shape: Any) -> dict[str, Any]:
    """What the configurations of all small decoders of the tests have in common.

    Args:
        shape: has ``heads`` of 16, ``kv_heads`` and ``vocabulary``.
    """
    width = shape.heads * 16
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width // 2,
        "num_hidden_layers": 3,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
    }


def randomise(model: Any, kind: str, seed: int) -> None:
    """The weights that ``random_tensor`` draws for the same checkpoint."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = random_tensor(canonical_name(kind, name), weight.shape, seed)
            weight.copy_(torch.as_tensor(drawn))


def random_image(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth enough that resizing means something, and in all three colours."""
    coarse = rng.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3))
    image = Image.fromarray(coarse.astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BILINEAR)


@dataclass
class Case:
    """A random model of a reference, saved on disk, and a batch as both sides take it.

    Attributes:
        model: of torch.
        kind: layout on disk.
        seed: of the weights.
        run: logits of every token [B, L, V] by the reference.
        see: image tokens of all images in order [U, D] by the reference.
        tokens: padded prompts [B, L].
        lengths: real tokens of each.
        images: as this package takes them [B, P, D].
        image_tokens: of each row.
        labels: hard, of each marker in row-major order.
    """

    model: Any
    kind: str
    seed: int
    run: Callable[[], Any]
    see: Callable[[], Any]
    tokens: np.ndarray
    lengths: np.ndarray
    images: np.ndarray
    image_tokens: list[int]
    labels: np.ndarray
    memo: dict = field(default_factory=dict)

    @property
    def real(self) -> np.ndarray:
        return np.arange(self.tokens.shape[1])[None] < self.lengths[:, None]

    def logits(self) -> np.ndarray:
        if "logits" not in self.memo:
            with torch.no_grad():
                self.memo["logits"] = self.run().double().numpy()
        return self.memo["logits"]

    def loss(self) -> Any:
        """Two-way cross-entropy at the markers: the sum over steps by their number."""
        rows, columns = np.nonzero(self.tokens == MARKER)
        pair = self.run()[rows, columns][:, [YES, NO]].float()
        target = torch.where(torch.as_tensor(self.labels) > 0, 0, 1)
        return torch.nn.functional.cross_entropy(pair, target)


def pad_rows(
    rows: list[list[int]], images: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [B, L], lengths [B] and images [B, P, D], padded at the end."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max() + 3), np.int32)
    padded = np.zeros((len(rows), max(map(len, images)), images[0].shape[1]), np.uint8)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], padded[i, : len(images[i])] = row, images[i]
    return tokens, lengths, padded


def random_rows(
    rng: np.random.Generator, counts: list[list[int]], start: int, image: int, end: int
) -> list[list[int]]:
    """Prompts with the images' tokens first, then two steps; lengths differ."""
    rows = []
    for row in counts:
        text = [*rng.integers(20, VOCABULARY, 4)]
        for count in row:
            text += [start, *[image] * count, end, *rng.integers(20, VOCABULARY, 3)]
        for _ in range(2):
            text += [*rng.integers(20, VOCABULARY, rng.integers(2, 6)), MARKER]
        rows.append([int(token) for token in text])
    return rows


def batch_of(case: Case) -> Batch:
    """The case as the trainer's batch: one trial per step."""
    steps = int((case.tokens == MARKER).sum(axis=1).max())
    marker, successes, trials = (
        np.zeros((len(case.tokens), steps), np.int32) for _ in range(3)
    )
    labels = iter(case.labels)
    for i, row in enumerate(case.tokens):
        for j, at in enumerate(np.flatnonzero(row == MARKER)):
            marker[i, j], trials[i, j], successes[i, j] = at, 1, next(labels)
    label, weight = successes.astype(np.float32), trials.astype(np.float32)
    return Batch(case.tokens, case.images, marker, successes, trials, label, weight)
