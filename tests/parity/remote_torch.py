"""InternVL2.5's remote code, restated for these tests as small torch modules.

The modules are named so that ``state_dict`` has the names of the released files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, silu


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        wide = x.float()
        wide = wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class InternAttention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        tiles, patches, width = x.shape
        q, k, v = self.qkv(x).view(tiles, patches, 3, self.heads, -1).unbind(2)
        scores = torch.einsum("tphd,tqhd->thpq", q, k) * (width // self.heads) ** -0.5
        mixed = torch.einsum("thpq,tqhd->tphd", scores.softmax(-1), v)
        return self.proj(mixed.reshape(x.shape))


class InternLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.attn = InternAttention(width, heads, bias)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ls1 = nn.Parameter(torch.ones(width))
        self.ls2 = nn.Parameter(torch.ones(width))

    def forward(self, x):
        x = x + self.attn(self.norm1(x)) * self.ls1
        mlp: Any = self.mlp
        return x + mlp.fc2(gelu(mlp.fc1(self.norm2(x)))) * self.ls2


class InternViT(nn.Module):
    def __init__(
        self, width: int, layers: int, heads: int, hidden: int, image: int, bias: bool
    ) -> None:
        super().__init__()
        embeddings: Any = nn.Module()
        embeddings.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        embeddings.patch_embedding = nn.Conv2d(3, width, 14, 14)
        count = (image // 14) ** 2 + 1
        embeddings.position_embedding = nn.Parameter(torch.zeros(1, count, width))
        self.embeddings = embeddings
        self.encoder: Any = nn.Module()
        self.encoder.layers = nn.ModuleList(
            InternLayer(width, heads, hidden, bias) for _ in range(layers)
        )

    def forward(self, pixels):
        e = self.embeddings
        x = e.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([e.class_embedding.expand(len(x), -1, -1), x], 1)
        x = x + e.position_embedding
        for layer in self.encoder.layers:
            x = layer(x)
        return x


class LanguageLayer(nn.Module):
    def __init__(self, width: int, heads: int, kv: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.kv, head = heads, kv, width // heads
        self.attention: Any = nn.Module()
        self.attention.wqkv = nn.Linear(width, (heads + 2 * kv) * head, bias=False)
        self.attention.wo = nn.Linear(width, width, bias=False)
        self.feed_forward: Any = nn.Module()
        self.feed_forward.w1 = nn.Linear(width, hidden, bias=False)
        self.feed_forward.w3 = nn.Linear(width, hidden, bias=False)
        self.feed_forward.w2 = nn.Linear(hidden, width, bias=False)
        self.attention_norm = RMSNorm(width, 1e-5)
        self.ffn_norm = RMSNorm(width, 1e-5)

    def forward(self, x, cos, sin, mask):
        batch, length, _ = x.shape
        groups = self.heads // self.kv
        qkv = self.attention.wqkv(self.attention_norm(x))
        qkv = qkv.view(batch, length, self.kv, groups + 2, -1)
        q = qkv[..., :groups, :].reshape(batch, length, self.heads, -1)
        k = qkv[..., -2, :].repeat_interleave(groups, dim=2)
        v = qkv[..., -1, :].repeat_interleave(groups, dim=2)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        scores = torch.einsum("blhd,bmhd->bhlm", q, k) * q.shape[-1] ** -0.5
        scores = (scores.float() + mask).softmax(-1).to(x.dtype)
        mixed = torch.einsum("bhlm,bmhd->blhd", scores, v).reshape(x.shape)
        x = x + self.attention.wo(mixed)
        y = self.ffn_norm(x)
        f = self.feed_forward
        return x + f.w2(silu(f.w1(y)) * f.w3(y))


def turn(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class InternLM2(nn.Module):
    def __init__(
        self, vocabulary: int, width: int, layers: int, heads: int, kv: int, hidden: int
    ) -> None:
        super().__init__()
        self.model: Any = nn.Module()
        self.model.tok_embeddings = nn.Embedding(vocabulary, width)
        self.model.layers = nn.ModuleList(
            LanguageLayer(width, heads, kv, hidden) for _ in range(layers)
        )
        self.model.norm = RMSNorm(width, 1e-5)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.head = width // heads

    def get_input_embeddings(self):
        return self.model.tok_embeddings

    def forward(self, inputs_embeds, attention_mask):
        length = inputs_embeds.shape[1]
        rate = 1e6 ** -(torch.arange(0, self.head, 2).float() / self.head)
        angle = torch.arange(length).float()[:, None] * rate
        angle = torch.cat([angle, angle], -1)[None, :, None]
        cos = angle.cos().to(inputs_embeds.dtype)
        sin = angle.sin().to(inputs_embeds.dtype)
        seen = torch.ones(length, length).tril().bool() & attention_mask[:, None].bool()
        mask = torch.where(seen, 0.0, -1e9)[:, None]
        x = inputs_embeds
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.output(self.model.norm(x))


class InternVLChat(nn.Module):
    """The whole model; ``language_model`` is InternLM2 or one of ``transformers``."""

    def __init__(
        self, vision: InternViT, language: Any, width: int, image: int
    ) -> None:
        super().__init__()
        self.vision_model, self.language_model = vision, language
        merged = 4 * vision.embeddings.class_embedding.shape[-1]
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(),
            nn.Linear(width, width),
        )  # fmt: skip
        self.image_token = image

    def see(self, pixels):
        x = self.vision_model(pixels)[:, 1:]
        side = round(x.shape[1] ** 0.5)
        x = x.reshape(len(x), side, side, -1)
        # Pixel shuffle, version 2, by naming each of the four neighbours.
        corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.mlp1(torch.cat(corners, -1).flatten(1, 2))

    def forward(self, tokens, attention_mask, pixels):
        x = self.language_model.get_input_embeddings()(tokens)
        if pixels is not None:
            x = x.clone()
            x[tokens == self.image_token] = self.see(pixels).flatten(0, 1)
        made = self.language_model(inputs_embeds=x, attention_mask=attention_mask)
        return getattr(made, "logits", made)
