"""Shapes of the released backbones, without their files; toys with all their parts."""

from __future__ import annotations

from typing import Literal

from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.internvl import InternViTConfig, InternVLConfig
from mprm_jax.models.qwen import QwenVisionConfig, QwenVLConfig
from mprm_jax.models.rope import Rope

BackboneName = Literal["internvl2.5-8b", "qwen2.5-vl-7b"]
BACKBONES: tuple[BackboneName, ...] = ("internvl2.5-8b", "qwen2.5-vl-7b")


def full_config(name: BackboneName, toy: bool) -> InternVLConfig | QwenVLConfig:
    """Shape of a released backbone, or of a toy with its parts."""
    qwen = name == "qwen2.5-vl-7b"
    sizes = (
        (152064, 3584, 28, 28, 4, 128, 18944)
        if qwen
        else (92553, 4096, 32, 32, 8, 128, 14336)
    )
    if toy:
        sizes = (400, 64, 3, 4, 2, 16, 96)
    vocabulary, width, layers, heads, kv_heads, head, hidden = sizes
    sections = (head // 8, 3 * head // 16, 3 * head // 16) if qwen else ()
    language = DecoderConfig(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head,
        hidden=hidden,
        norm_eps=1e-6 if qwen else 1e-5,
        rope=Rope(1e6, sections),
        qkv_bias=qwen,
        tied=False,
    )
    if qwen:
        tower = (32, 2, 2, 48, width) if toy else (1280, 32, 16, 3420, width)
        vision = QwenVisionConfig(*tower, full_layers=(1,) if toy else (7, 15, 23, 31))
        return QwenVLConfig(language, vision, image_token=5, vision_start=3,
                            vision_end=4)  # fmt: skip
    vision = InternViTConfig(32, 2, 2, 48, 56) if toy else InternViTConfig()
    return InternVLConfig(language, vision, image_token=5)
