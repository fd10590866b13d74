"""Tiny random text models of ``transformers``, and batches for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mprm_jax.models.weights.config import TEXT
from tests.parity.references import (
    MARKER,
    VOCABULARY,
    Case,
    language_fields,
    pad_rows,
    random_rows,
    randomise,
)


@dataclass(frozen=True)
class Shape:
    """One tiny configuration; what ``changes`` says is of its kind alone."""

    seed: int
    kind: str
    heads: int
    kv_heads: int
    tied: bool
    changes: tuple[tuple[str, Any], ...] = ()
    vocabulary: int = VOCABULARY


# Of eight frequencies the first is left alone, the second between, the rest slowed.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "qwen2": Shape(0, "Qwen2", 4, 2, False),
    # As Qwen3-0.6B has it, heads are together wider than the residual stream.
    "qwen3": Shape(1, "Qwen3", 4, 2, False, (("head_dim", 32),)),
    "qwen3 tied": Shape(2, "Qwen3", 6, 1, True, (("head_dim", 10),)),
    "llama3": Shape(3, "Llama", 4, 1, True, (("rope_parameters", LLAMA3),)),
    "smollm2": Shape(4, "Llama", 9, 3, True),
}


def save_text(shape: Shape, folder: Path) -> Any:
    """Save a random model of this shape into the folder."""
    fields = language_fields(shape) | {
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "max_position_embeddings": 512,
        "tie_word_embeddings": shape.tied,
    }
    described = getattr(transformers, f"{shape.kind}Config")(
        **fields | dict(shape.changes)
    )
    model: Any = getattr(transformers, f"{shape.kind}ForCausalLM")(described).eval()
    model.set_attn_implementation("eager")
    randomise(model, TEXT, shape.seed)
    model.save_pretrained(folder)
    return model


def make_text(name: str, folder: Path) -> Case:
    """Save the model into the folder and draw a batch."""
    shape = SHAPES[name]
    rng = np.random.default_rng(shape.seed)
    model = save_text(shape, folder)
    rows = random_rows(rng, [[], [], []], 0, 0, 0)
    tokens, lengths, images = pad_rows(rows, [np.zeros((0, 0), np.uint8)] * len(rows))
    ids = torch.as_tensor(tokens).long()
    mask = torch.as_tensor(np.arange(tokens.shape[1])[None] < lengths[:, None]).long()
    return Case(
        model,
        TEXT,
        shape.seed,
        lambda: model(input_ids=ids, attention_mask=mask).logits,
        lambda: torch.zeros(0, 1),
        tokens,
        lengths,
        images,
        [0] * len(rows),
        rng.integers(0, 2, int((tokens == MARKER).sum())),
    )
