"""The tiny model and its update once more, in PyTorch: oracle and competitor.

Written from the formulas, not from the JAX code; parameters come in by their names.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from mprm_jax.data.batches import Batch
from mprm_jax.models.tiny import TinyConfig

_FROZEN = ("stem1", "stem2", "vision")


def _parameters(tree: Any, trained: bool) -> Any:
    """A tree of arrays as tensors that are trained, or not."""
    if isinstance(tree, dict):
        return {
            name: _parameters(part, trained and name not in _FROZEN)
            for name, part in tree.items()
        }
    if isinstance(tree, list):
        return [_parameters(part, trained) for part in tree]
    return torch.tensor(np.asarray(tree), requires_grad=trained)


def _leaves(
    tree: Any, path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], Tensor]]:
    if isinstance(tree, dict | list):
        parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [
            leaf for name, part in parts for leaf in _leaves(part, (*path, str(name)))
        ]
    return [(path, tree)]


def _linear(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return F.linear(x, p["kernel"].T, p.get("bias"))


def _norm(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], p["scale"], 1e-6)


def _rotate(x_BxHxLxE: Tensor, heads: int) -> Tensor:
    length, size = x_BxHxLxE.shape[-2:]
    half = size // 2
    frequency = 10_000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(length)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    turned, rest = x_BxHxLxE[:, :heads], x_BxHxLxE[:, heads:]
    a, b = turned.split(half, dim=-1)
    turned = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return torch.cat([turned, rest], dim=1)


def _block(x: Tensor, p: dict[str, Any], config: TinyConfig, causal: bool) -> Tensor:
    b, length, d = x.shape
    h = _norm(x, p["norm1"])

    def heads(name: str) -> Tensor:
        split = _linear(h, p[name]).view(b, length, config.heads, d // config.heads)
        return split.transpose(1, 2)

    q, k, v = heads("query"), heads("key"), heads("value")
    if causal:
        q, k = _rotate(q, config.rotary_heads), _rotate(k, config.rotary_heads)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    x = x + _linear(mixed.transpose(1, 2).reshape(b, length, d), p["out"])
    hidden = F.gelu(_linear(_norm(x, p["norm2"]), p["up"]), approximate="tanh")
    return x + _linear(hidden, p["down"])


def _loss(p: dict[str, Any], config: TinyConfig, batch: Batch) -> Tensor:
    pixels = torch.tensor(batch.images_BxPxD).float() / 127.5 - 1
    patches = _linear(
        F.gelu(_linear(pixels, p["stem1"]), approximate="tanh"), p["stem2"]
    )
    for layer in p["vision"]:
        patches = _block(patches, layer, config, causal=False)
    embedding = p["embed"]["embedding"]
    place = embedding[torch.tensor(config.cell_tokens)]
    x = torch.cat(
        [
            0.5 * _linear(patches, p["projector"]) + place,
            F.embedding(torch.tensor(batch.tokens_BxL, dtype=torch.long), embedding),
        ],
        dim=1,
    )
    for layer in p["blocks"]:
        x = _block(x, layer, config, causal=True)
    x = _norm(x[:, patches.shape[1] :], p["norm"])
    marker = torch.tensor(batch.marker_BxS, dtype=torch.long)[..., None]
    logits = _linear(x.gather(1, marker.expand(-1, -1, x.shape[-1])), p["head"])
    label = torch.tensor((batch.successes_BxS > 0).astype(np.float32))
    counted = torch.tensor((batch.trials_BxS > 0).astype(np.float32))
    losses = F.binary_cross_entropy_with_logits(
        logits[..., 0] - logits[..., 1], label, reduction="none"
    )
    return (losses * counted).sum() / counted.sum()


def run(
    config: TinyConfig, params: Any, batches: list[Batch], rate: float
) -> list[float]:
    """Losses of one update after another: AdamW, clipping at 1, cosine to zero."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    p = _parameters(params, True)
    trained = [(path, leaf) for path, leaf in _leaves(p) if leaf.requires_grad]
    decays = [leaf for path, leaf in trained if _decays(path, leaf)]
    spared = [leaf for path, leaf in trained if not _decays(path, leaf)]
    optimizer = torch.optim.AdamW(
        [
            {"params": decays, "weight_decay": 0.05},
            {"params": spared, "weight_decay": 0},
        ],
        lr=rate,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    losses = []
    for number, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * number / len(batches))) / 2
        optimizer.zero_grad()
        loss = _loss(p, config, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([leaf for _, leaf in trained], 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _decays(path: tuple[str, ...], leaf: Tensor) -> bool:
    return leaf.ndim >= 2 and not any("norm" in name for name in path)
