"""The families of backbones: what the rest of the package needs to know of each.

A family is a record of functions and constants, found once from the type of a
configuration; nothing else asks which family a configuration is of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL.Image import Image

from mprm_jax.data.images import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLACE_BYTES,
    PatchGrid,
    Tiling,
    most_patches,
    number_images,
    patch_images,
    patches_per_image,
    tile_images,
)
from mprm_jax.data.prompt import (
    INTERNVL_TEMPLATE,
    QWEN_TEMPLATE,
    TEXT_TEMPLATES,
    ChatTemplate,
)
from mprm_jax.models import decoder, internvl, qwen, text
from mprm_jax.models.internvl import InternVLConfig
from mprm_jax.models.layers import (
    AttentionChoice,
    AttentionUse,
    Compute,
    Params,
    choose_attention,
)
from mprm_jax.models.qwen import MERGER, QwenVLConfig
from mprm_jax.models.text import TextConfig
from mprm_jax.records.problems import BadRecord
from theory.paper import TRAINING

BackboneConfig = QwenVLConfig | InternVLConfig | TextConfig

# Pillow's number of the filter that both families resize with.
_BICUBIC = 3


@dataclass(frozen=True)
class Prompting:
    """How a rollout becomes tokens and pixels; defaults are the paper's (Table 7).

    Attributes:
        max_length: most tokens of a prompt.
        max_tiles: InternVL: most tiles of an image, the thumbnail not counted.
        min_pixels: Qwen2.5-VL: fewest pixels of an image.
        max_pixels: Qwen2.5-VL: most pixels of an image.
    """

    max_length: int = TRAINING.max_tokens
    max_tiles: int = TRAINING.max_tiles
    min_pixels: int = TRAINING.min_pixels
    max_pixels: int = TRAINING.max_pixels


def _no_tower(*_: Any) -> Any:
    raise AssertionError("a text model has no tower")


@dataclass(frozen=True)
class Family:
    """What backbones of one family have in common; ``config`` is always the model's.

    A row of the images is a patch (Qwen2.5-VL) or a tile (InternVL). From ``alone`` on
    all is of a vision tower, and never called where there is none.

    Attributes:
        name: of the family, in the description of a model.
        config_type: of its configurations.
        layout: of its tensors on disk as transformers writes them.
        template: (config): what stands around a prompt.
        place_bytes: K, bytes at the end of a row of the images that say where it lies.
        init: (config, key): random parameters, float32.
        rows_per_image: (config, prompting): most rows of an image.
        tokens_per_row: (config): image tokens over rows.
        cut: (config, prompting, images): images_PxD, and the rows of each image.
        alone: rows of one image as they would be if it were the only one.
        preprocessor: (config, prompting): what ``transformers`` must do to an image to
            get what ``cut`` makes; InternVL: of one image, for several share their
            tiles here, but not there.
        tower_states: (config, params, images_BxPxD, compute): what the tower makes of
            every row [B, P, M].
        state_width: (config): M.
        project: (config, params, states_BxPxM, compute): image tokens [B, U, D].
        positions: (config, tokens_BxL, place_BxPxK): of the tokens beside images, on
            three axes [3, B, L].
        tower_attention: (config, dtype): what the tower asks of attention.
        sequences: (config, rows): how many sequences the tower attends within, and the
            length of each.
        scores: (config, rows): pairs of states that attend to each other, over all
            layers of the tower.
        patch_reads: (config, rows): vectors that the patch embedding's kernel reads.
    """

    name: str
    config_type: type
    layout: str
    template: Callable[[Any], ChatTemplate]
    place_bytes: int
    init: Callable[[Any, jax.Array], Params]
    rows_per_image: Callable[[Any, Prompting], int]
    tokens_per_row: Callable[[Any], Fraction]
    cut: Callable[[Any, Prompting, tuple[Image, ...]], tuple[np.ndarray, list[int]]]
    alone: Callable[[np.ndarray], np.ndarray] = _no_tower
    preprocessor: Callable[[Any, Prompting], dict[str, Any]] = _no_tower
    tower_states: Callable[[Any, Params, jax.Array, Compute], jax.Array] = _no_tower
    state_width: Callable[[Any], int] = _no_tower
    project: Callable[[Any, Params, jax.Array, Compute], jax.Array] = _no_tower
    positions: Callable[[Any, jax.Array, jax.Array], jax.Array] = _no_tower
    tower_attention: Callable[[Any, str], AttentionUse] = _no_tower
    sequences: Callable[[Any, float], tuple[float, float]] = _no_tower
    scores: Callable[[Any, float], float] = _no_tower
    patch_reads: Callable[[Any, float], float] = _no_tower


def _grid(config: QwenVLConfig, prompting: Prompting) -> PatchGrid:
    vision = config.vision
    limits = prompting.min_pixels, prompting.max_pixels
    return PatchGrid(vision.patch, vision.merge, *limits)


def _cut_patches(
    config: QwenVLConfig, prompting: Prompting, images: tuple[Image, ...]
) -> tuple[np.ndarray, list[int]]:
    rows_PxD = patch_images(images, _grid(config, prompting))
    return rows_PxD, patches_per_image(rows_PxD)


def _patch_preprocessor(config: QwenVLConfig, prompting: Prompting) -> dict[str, Any]:
    return {
        "resample": _BICUBIC,
        "do_convert_rgb": True,
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {
            "shortest_edge": prompting.min_pixels,
            "longest_edge": prompting.max_pixels,
        },
        "patch_size": config.vision.patch,
        "merge_size": config.vision.merge,
        "temporal_patch_size": config.vision.frames,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }


def _cut_tiles(
    config: InternVLConfig, prompting: Prompting, images: tuple[Image, ...]
) -> tuple[np.ndarray, list[int]]:
    return tile_images(images, Tiling(config.vision.image, prompting.max_tiles))


def _tile_preprocessor(config: InternVLConfig, prompting: Prompting) -> dict[str, Any]:
    side = config.vision.image
    return {
        "resample": _BICUBIC,
        "do_convert_rgb": True,
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": side, "width": side},
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": prompting.max_tiles,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _refuse_pictures(
    config: TextConfig, prompting: Prompting, images: tuple[Image, ...]
) -> tuple[np.ndarray, list[int]]:
    if images:
        raise BadRecord(
            "picture for a text model", f"{len(images)}, and the model sees none"
        )
    return np.zeros((0, 0), np.uint8), []


QWEN = Family(
    name="qwen2.5-vl",
    config_type=QwenVLConfig,
    layout="qwen2_5_vl",
    template=lambda _: QWEN_TEMPLATE,
    place_bytes=PLACE_BYTES,
    init=qwen.init,
    cut=_cut_patches,
    alone=number_images,
    preprocessor=_patch_preprocessor,
    rows_per_image=lambda config, prompting: most_patches(_grid(config, prompting)),
    tokens_per_row=lambda config: Fraction(1, config.vision.merge**2),
    tower_states=qwen.tower_states,
    state_width=lambda config: config.vision.width,
    project=qwen.project,
    positions=qwen.rope_positions,
    tower_attention=qwen.tower_attention,
    sequences=lambda config, rows: (1, rows),
    scores=qwen.scores,
    # An image fills all frames alike, so one sum of their kernels is applied.
    patch_reads=lambda config, rows: rows / config.vision.frames,
)
INTERNVL = Family(
    name="internvl2.5",
    config_type=InternVLConfig,
    layout="internvl",
    template=lambda _: INTERNVL_TEMPLATE,
    place_bytes=0,
    init=internvl.init,
    cut=_cut_tiles,
    alone=lambda rows_TxD: rows_TxD,
    preprocessor=_tile_preprocessor,
    # With the thumbnail.
    rows_per_image=lambda _, prompting: prompting.max_tiles + 1,
    tokens_per_row=lambda config: Fraction(config.tile_tokens),
    tower_states=internvl.tower_states,
    state_width=lambda config: config.vision.side**2 * config.vision.width,
    project=internvl.project,
    positions=lambda config, tokens_BxL, _: decoder.text_positions(tokens_BxL),
    tower_attention=internvl.tower_attention,
    # With the class token.
    sequences=lambda config, rows: (rows, config.vision.side**2 + 1),
    scores=lambda config, rows: (
        config.vision.layers * rows * (config.vision.side**2 + 1) ** 2
    ),
    patch_reads=lambda config, rows: rows * config.vision.side**2,
)
# Qwen2, Qwen3, Llama 3, SmolLM2: a decoder alone.
TEXT = Family(
    name="text",
    config_type=TextConfig,
    layout="text",
    template=lambda config: TEXT_TEMPLATES[config.chat],
    place_bytes=0,
    init=text.init,
    rows_per_image=lambda *_: 0,
    tokens_per_row=lambda _: Fraction(0),
    cut=_refuse_pictures,
)
FAMILIES = {family.name: family for family in (QWEN, INTERNVL, TEXT)}


def family_of(config: BackboneConfig) -> Family:
    """The family of a configuration."""
    return next(f for f in FAMILIES.values() if isinstance(config, f.config_type))


def sees(name: str) -> bool:
    """Whether backbones of the family of that name look at pictures."""
    return name in FAMILIES and name != TEXT.name


def attention_choices(config: BackboneConfig, dtype: str) -> dict[str, AttentionChoice]:
    """The attention of the decoder and of the tower on the devices here.

    Args:
        config: of the model.
        dtype: that it computes in.
    """
    uses = {"attention": decoder.attention(config.language, dtype)}
    if config.vision is not None:
        uses["tower_attention"] = family_of(config).tower_attention(config, dtype)
    return {name: choose_attention(use) for name, use in uses.items()}


def compute_here(config: BackboneConfig, compute: Compute) -> Compute:
    """The same computation with the attention that suits it on the devices here."""
    chosen = attention_choices(config, compute.dtype)
    return replace(
        compute, **{n: choice.implementation for n, choice in chosen.items()}
    )


def init(config: BackboneConfig, key: jax.Array) -> Params:
    """Random parameters of any family, float32, without a reward head."""
    return family_of(config).init(config, key)


def with_language(config: BackboneConfig, **changes: Any) -> BackboneConfig:
    """The configuration with other values of its decoder."""
    return replace(config, language=replace(config.language, **changes))


def part_of(path: Sequence[str]) -> str:
    """Which part of a backbone a parameter belongs to: projector, vision, language...

    Qwen2.5-VL's merger is its projector, although it is stored with the tower.
    """
    if path[0] == "vision" and path[1].startswith(MERGER):
        return "projector"
    return path[0]


def trainable(params: Params) -> Params:
    """Which parameters are trained: all but the vision tower and the language head.

    The head's rows that give rewards are parameters of their own.
    """

    def one(path: tuple, _: Any) -> bool:
        names = [key.key for key in path]
        return part_of(names) != "vision" and names[-1] != "lm_head"

    return jax.tree_util.tree_map_with_path(one, params)


def tower_params(params: Params) -> Params:
    """The part of the parameters, or of a tree like them, that the tower reads."""
    tower = params.get("vision", {}).items()
    return {
        "vision": {n: part for n, part in tower if part_of(("vision", n)) == "vision"}
    }


class SeenImages(NamedTuple):
    """Images that the tower has seen.

    Attributes:
        states_BxPxM: of ``tower_states``.
        place_BxPxK: the rows of the images, or the last ``place_bytes`` of each.
    """

    states_BxPxM: jax.Array
    place_BxPxK: jax.Array


def hidden_states(
    config: BackboneConfig,
    params: Params,
    tokens_BxL: jax.Array,
    images_BxPxD: jax.Array,
    compute: Compute,
    place_BxKxL: jax.Array | None = None,
) -> jax.Array:
    """Residual stream of the decoder [B, L, D], before its final norm.

    Args:
        config: of the model.
        params: of it.
        tokens_BxL: prompts.
        images_BxPxD: of them, in the order of their tokens.
        compute: precision, rematerialisation and attention.
        place_BxKxL: of packed rows; see ``layers.attend_documents``.
    """
    seen = None
    if images_BxPxD.shape[1]:
        states = family_of(config).tower_states(config, params, images_BxPxD, compute)
        seen = SeenImages(states, images_BxPxD)
    return hidden_from_states(config, params, tokens_BxL, seen, compute, place_BxKxL)


def hidden_from_states(
    config: BackboneConfig,
    params: Params,
    tokens_BxL: jax.Array,
    seen: SeenImages | None,
    compute: Compute,
    place_BxKxL: jax.Array | None = None,
) -> jax.Array:
    """``hidden_states`` of images that the tower has seen already, or of text alone.

    The tower's parameters are not read.
    """
    family, language = family_of(config), params["language"]
    embedded = decoder.embed(language, tokens_BxL, compute)
    positions = decoder.text_positions(tokens_BxL)
    if seen is not None:
        features = family.project(config, params, seen.states_BxPxM, compute)
        is_image_BxL = tokens_BxL == config.image_token
        embedded = decoder.insert_features(embedded, is_image_BxL, features)
        positions = family.positions(config, tokens_BxL, seen.place_BxPxK)
    if place_BxKxL is not None:
        positions = decoder.restart(positions, place_BxKxL)
    return decoder.decode(
        config.language, language, embedded, positions, compute, place_BxKxL
    )
