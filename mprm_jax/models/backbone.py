"""The two real backbones as process reward models, as the trainer takes a model."""

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
from mprm_jax.data.images import (
    PLACE_BYTES,
    PatchGrid,
    Tiling,
    patch_images,
    patches_per_image,
    tile_images,
)
from mprm_jax.data.problems import DataError
from mprm_jax.data.prompt import (
    INTERNVL_TEMPLATE,
    QWEN_TEMPLATE,
    ChatTemplate,
    add_step_marker,
    encode_chat,
    marker_id,
    token_id,
)
from mprm_jax.models import internvl, qwen_vision, qwen_vl, reward_head
from mprm_jax.models.internvl import InternVLConfig
from mprm_jax.models.layers import Compute, Params, fused_attention
from mprm_jax.models.model import BACKBONES
from mprm_jax.models.qwen_vl import QwenVLConfig
from mprm_jax.models.reward_head import ANSWERS, RewardHead
from mprm_jax.models.weights import tensors
from mprm_jax.models.weights.config import BackboneConfig, read_config

TOKENIZER = "tokenizer.json"
QWEN_NAME, INTERNVL_NAME = BACKBONES


@dataclasses.dataclass(frozen=True)
class Prompting:
    """How a rollout becomes tokens and pixels; defaults are the paper's (Table 7).

    Attributes:
        max_length: most tokens of a prompt.
        max_tiles: InternVL: most tiles of an image, the thumbnail not counted.
        min_pixels: Qwen2.5-VL: fewest pixels of an image.
        max_pixels: Qwen2.5-VL: most pixels of an image.
    """

    max_length: int = 8192
    max_tiles: int = 6
    min_pixels: int = 784
    max_pixels: int = 200_704


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
    def name(self) -> str:
        """Which backbone."""
        return QWEN_NAME if isinstance(self.config, QwenVLConfig) else INTERNVL_NAME

    @property
    def template(self) -> ChatTemplate:
        """What stands around the prompt."""
        if isinstance(self.config, QwenVLConfig):
            return QWEN_TEMPLATE
        return INTERNVL_TEMPLATE

    @property
    def answer_tokens(self) -> tuple[int, int] | None:
        """Ids of Yes and No, which a reader of the weights would take."""
        yes, no = map(self.tokenizer.token_to_id, ANSWERS)
        return None if yes is None or no is None else (yes, no)

    def init(self, key: jax.Array) -> Params:
        """Random parameters, head included, float32."""
        return reward_head.attach(self.head, tensors.init(self.config, key), key)

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Yes, No and log concentration at every marker [B, S, 3], float32."""
        inputs = batch.tokens_BxL, batch.images_BxPxD
        hidden_BxLxD = hidden_states(self.config, params, *inputs, self.compute)
        return self.rewards(params, hidden_BxLxD, batch.marker_BxS)

    def rewards(
        self, params: Params, hidden_BxLxD: jax.Array, marker_BxS: jax.Array
    ) -> jax.Array:
        """The head's logits [B, S, 3] of the decoder's residual stream."""
        return reward_head.reward_logits(
            self.head, self.config.language, params, hidden_BxLxD, marker_BxS
        )

    def trainable(self, params: Params) -> Params:
        """Which parameters are trained; see ``tensors.trainable``."""
        return tensors.trainable(params)

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
        if isinstance(self.config, QwenVLConfig):
            pixels_PxD = patch_images(images, self.patch_grid)
            return pixels_PxD, patches_per_image(pixels_PxD)
        tiling = Tiling(self.config.vision.image, self.prompting.max_tiles)
        return tile_images(images, tiling)

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
        counts, length = self.image_tokens(rows), self.prompting.max_length
        return encode_chat(
            self.tokenizer, self.template, question, steps, counts, length
        )

    def image_tokens(self, rows: Sequence[int]) -> list[int]:
        """How many tokens stand for each image, given its rows as ``cut`` counts."""
        if isinstance(self.config, QwenVLConfig):
            return [count // self.config.vision.merge**2 for count in rows]
        return [count * self.config.tile_tokens for count in rows]

    @property
    def patch_grid(self) -> PatchGrid:
        """How Qwen2.5-VL cuts an image."""
        assert isinstance(self.config, QwenVLConfig)
        vision, limits = self.config.vision, self.prompting
        return PatchGrid(
            vision.patch, vision.merge, limits.min_pixels, limits.max_pixels
        )

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


def hidden_states(
    config: BackboneConfig,
    params: Params,
    tokens_BxL: jax.Array,
    images_BxPxD: jax.Array,
    compute: Compute,
) -> jax.Array:
    """Residual stream of the decoder [B, L, D], before its final norm."""
    if isinstance(config, QwenVLConfig):
        return qwen_vl.hidden_states(config, params, tokens_BxL, images_BxPxD, compute)
    return internvl.hidden_states(config, params, tokens_BxL, images_BxPxD, compute)


def vision_features(
    config: BackboneConfig, params: Params, images_BxPxD: jax.Array, compute: Compute
) -> jax.Array:
    """Image tokens [B, U, D] as the decoder takes them."""
    if isinstance(config, QwenVLConfig):
        tower = params["vision"]
        return qwen_vision.vision_features(config.vision, tower, images_BxPxD, compute)
    return internvl.vision_features(config, params, images_BxPxD, compute)


def tower_states(
    config: BackboneConfig, params: Params, images_BxPxD: jax.Array, compute: Compute
) -> jax.Array:
    """What the vision tower alone makes of every row of the images [B, P, M]."""
    if isinstance(config, QwenVLConfig):
        tower = params["vision"]
        return qwen_vision.tower_states(config.vision, tower, images_BxPxD, compute)
    return internvl.tower_states(config, params, images_BxPxD, compute)


def tower_params(params: Params) -> Params:
    """The part of the parameters, or of a tree like them, that the tower reads."""
    tower = {
        name: part
        for name, part in params["vision"].items()
        if not name.startswith(tensors.MERGER)
    }
    return {"vision": tower}


def hidden_from_states(
    config: BackboneConfig,
    params: Params,
    tokens_BxL: jax.Array,
    states_BxPxM: jax.Array,
    place_BxPxK: jax.Array,
    compute: Compute,
) -> jax.Array:
    """``hidden_states`` of images that the tower has seen already.

    Args:
        config: of the model.
        params: of which the tower's are not read.
        tokens_BxL: prompts.
        states_BxPxM: of ``tower_states``.
        place_BxPxK: the last ``place_bytes`` of every row of the images.
        compute: precision and rematerialisation.
    """
    if isinstance(config, QwenVLConfig):
        place_BxPx3 = qwen_vision.unpack_places(place_BxPxK)
        return qwen_vl.hidden_from_states(
            config, params, tokens_BxL, states_BxPxM, place_BxPx3, compute
        )
    return internvl.hidden_from_states(
        config, params, tokens_BxL, states_BxPxM, compute
    )


def state_width(config: BackboneConfig) -> int:
    """M of ``tower_states``."""
    if isinstance(config, QwenVLConfig):
        return config.vision.width
    return config.vision.side**2 * config.vision.width


def place_bytes(config: BackboneConfig) -> int:
    """Bytes at the end of a row of the images that say where it lies."""
    return PLACE_BYTES if isinstance(config, QwenVLConfig) else 0


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
        DataError: there is no tokenizer.json, or it is not one.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise DataError(
            f"{path}: not found; transformers' AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(...) writes one"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises nothing narrower.
        raise DataError(f"{path}: no tokenizer ({error})") from error


def load_backbone(
    directory: Path,
    *,
    dtype: Any = np.float32,
    frozen_dtype: Any = None,
    answers: tuple[str, str] | None = ANSWERS,
    prompting: Prompting | None = None,
    compute: Compute | None = None,
    sharding: tensors.ShardingRule | None = None,
    key: jax.Array | None = None,
) -> tuple[Backbone, Params]:
    """A process reward model from released tensors.

    ``<prm>`` is added to the tokenizer, and to the embedding where it has no row left.

    Args:
        directory: a checkpoint in any of the layouts, with tokenizer.json.
        dtype: of trained parameters.
        frozen_dtype: of the others; None: the same.
        answers: the words whose rows become Yes and No; None: two new rows. Rows that
            ``export`` put beside the weights come before either.
        prompting: tokens and pixels; None: the paper's, and no more tokens than the
            model's context.
        compute: precision and rematerialisation; None: bfloat16, each layer again.
        sharding: see ``tensors.load_pretrained``.
        key: for new rows.

    Raises:
        DataError: something in the folder cannot be used.
    """
    # Everything that is cheap to find wrong comes before the tensors.
    compute = compute or Compute(attention=fused_attention())
    backbone, marker, own = from_small_files(directory, compute, answers, prompting)
    config, params = tensors.load_pretrained(
        directory, dtype, sharding, frozen_dtype=frozen_dtype
    )
    config, params = reward_head.grow_vocabulary(config, params, marker + 1)
    head = dataclasses.replace(backbone.head, tied=config.language.tied)
    key = jax.random.key(0) if key is None else key
    params = reward_head.attach(head, params, key)
    params |= {"head": params["head"] | own}
    return dataclasses.replace(backbone, config=config, head=head), params


def from_small_files(
    directory: Path,
    compute: Compute,
    answers: tuple[str, str] | None = ANSWERS,
    prompting: Prompting | None = None,
) -> tuple[Backbone, int, Params]:
    """A backbone as all files but the weights tell it, the id of ``<prm>``, and the
    rows of the head that lie beside the weights; as :func:`load_backbone`.
    """
    tokenizer = read_tokenizer(directory)
    marker = add_step_marker(tokenizer)
    _, config = read_config(directory)
    own = reward_head.read_own_rows(directory, config.language.width)
    if prompting is None:
        prompting = Prompting(min(Prompting.max_length, config.language.context))
    head = RewardHead(None, config.language.tied)
    backbone = Backbone(config, head, prompting, compute, tokenizer)
    try:
        if answers is not None and "answers" not in own:
            tokens = token_id(tokenizer, answers[0]), token_id(tokenizer, answers[1])
            head = dataclasses.replace(head, tokens=tokens)
        image_token = token_id(tokenizer, backbone.template.image_token)
    except DataError as error:
        raise DataError(f"{directory / TOKENIZER}: {error}") from None
    if image_token != config.image_token:
        raise DataError(
            f"{directory}: config.json gives image token {config.image_token}, the "
            f"tokenizer {image_token}"
        )
    return dataclasses.replace(backbone, head=head), marker, own


def from_description(name: str, values: dict[str, Any], folder: Path) -> Backbone:
    """The model of a checkpoint's folder, without parameters.

    Raises:
        DataError: its files do not make one.
    """
    tokenizer = read_tokenizer(folder)
    kind = QwenVLConfig if name == QWEN_NAME else InternVLConfig
    try:
        config = msgspec.convert(values["config"], kind)
        head = msgspec.convert(values["head"], RewardHead)
        prompting = msgspec.convert(values["prompting"], Prompting)
        dtype, remat = str(values["dtype"]), bool(values["remat"])
    except (KeyError, msgspec.ValidationError) as error:
        raise DataError(f"{folder}: no description of {name} ({error})") from error
    marker_id(tokenizer)
    attention = fused_attention() if dtype == "bfloat16" else "xla"
    compute = Compute(dtype, remat, attention=attention)
    return Backbone(config, head, prompting, compute, tokenizer)
