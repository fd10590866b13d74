"""config.json of the checkpoint layouts, read and written.

Each part of the file is declared once: reading converts to it, writing from it. What is
read is untrusted: a value of another type, out of range, or without meaning is refused
in one line that names the file and the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import replace

from mprm_jax.data.prompt import chat_of
from mprm_jax.models import families
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.families import BackboneConfig
from mprm_jax.models.internvl import InternViTConfig, InternVLConfig
from mprm_jax.models.qwen import QwenVisionConfig, QwenVLConfig
from mprm_jax.models.rope import Rope
from mprm_jax.models.text import TextConfig
from mprm_jax.models.tokenizer import TOKENIZER
from mprm_jax.records.problems import DataError, faults_of

# Each layout of tensors: what transformers writes, by model_type where there is a
# tower, and InternVL's own remote code, which names and fuses its language model's
# tensors in two ways.
QWEN, INTERNVL = families.QWEN.layout, families.INTERNVL.layout
TEXT = families.TEXT.layout
INTERNVL_CHAT = "internvl_chat"
INTERNVL_CHAT_FUSED = "internvl_chat with InternLM2"
_IMAGE_TOKEN = "<IMG_CONTEXT>"
# The language models of transformers that are our decoder: the class of each, and the
# base of the positions where config.json names none.
_CLASSES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}
_THETA = 10_000.0
# Qwen3's heads where config.json names no width of them.
_QWEN3_HEAD = 128

# Counts and ids are int32 in the compiled model.
Count = Annotated[int, Meta(ge=1, lt=2**31)]
Whole = Annotated[int, Meta(ge=0, lt=2**31)]
# What float32 holds with all its digits; a released model has nothing near either end.
Positive = Annotated[float, Meta(ge=2.0**-126, le=2.0**127)]
# Of a square, or of its two sides (of any length: msgspec 0.22 crashes on a union with
# tuple[Count, Count]).
Side = Count | tuple[Count, ...]


def read_json(path: Path, kind: Any = Any) -> Any:
    """A JSON file of some type.

    Raises:
        DataError: it cannot be read, is no JSON, or holds something else.
    """
    with faults_of(path):
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.ValidationError as error:
            raise DataError(f"{path}: {error}") from error


# What this package does not compute otherwise; absent means the value here.
_SWITCHES = "use_sliding_window", "attention_bias", "mlp_bias", "bias"
_WHOLE_HEADS = {"partial_rotary_factor": 1.0}
_DECODER = {
    "hidden_act": "silu",
    **dict.fromkeys(_SWITCHES, False),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), _WHOLE_HEADS),
    **_WHOLE_HEADS,
}
_QWEN_TOWER = {"hidden_act": "silu", "in_channels": 3, "in_chans": 3}
_VIT = {
    "norm_type": "layer_norm",
    "hidden_act": "gelu",
    **dict.fromkeys(("use_qk_norm", "qk_normalization", "use_mask_token"), False),
    **dict.fromkeys(("use_absolute_position_embeddings", "use_mean_pooling"), True),
}
_ONLY: dict[str, dict[str, Any]] = {
    QWEN: {"text_config": _DECODER, "vision_config": _QWEN_TOWER},
    INTERNVL: {
        "text_config": _DECODER,
        "vision_config": _VIT,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
    },
    INTERNVL_CHAT: {
        "llm_config": _DECODER,
        "vision_config": _VIT,
        "ps_version": "v2",
        "select_layer": -1,
        # Every visual token has a position of its own: V2PE is not computed.
        "rope_pos_id_version": "default",
    },
    **dict.fromkeys(_CLASSES, _DECODER),
}


def _check_only(where: str, values: dict[str, Any], only: dict[str, Any]) -> None:
    for name, allowed in only.items():
        found = values.get(name, allowed)
        if isinstance(allowed, dict):
            if isinstance(found, dict):
                _check_only(f"{where}{name}: ", found, allowed)
        elif found != allowed:
            raise ValueError(
                f"{where}{name} is {found!r}; only {allowed!r} is supported"
            )


def _refuse(wrong: object, reason: str) -> None:
    if wrong:
        raise ValueError(reason)


def _heads_divide(width: int, name: str, heads: int, unit: int = 1) -> None:
    of = "" if unit == 1 else f" into heads of a multiple of {unit}"
    reason = f"{name} {heads} does not divide hidden_size {width}{of}"
    _refuse(width % (heads * unit), reason)


def _shared(source: Any, names: Iterable[str]) -> dict[str, Any]:
    """The values that a part of the file and a configuration both have."""
    return {name: getattr(source, name) for name in names if hasattr(source, name)}


class _Rope(Struct, kw_only=True, omit_defaults=True):
    rope_type: str | None = None
    type: str = "default"
    theta: Positive | None = field(name="rope_theta", default=None)
    sections: tuple[Whole, ...] = field(name="mrope_section", default=())
    factor: Positive | None = None
    low: Positive | None = field(name="low_freq_factor", default=None)
    high: Positive | None = field(name="high_freq_factor", default=None)
    context: Count | None = field(name="original_max_position_embeddings", default=None)

    def rope(self, theta: float | None, context: int) -> Rope:
        """With the base and the context that stand outside of this part."""
        kind = self.type if self.rope_type is None else self.rope_type
        theta = theta if self.theta is None else self.theta
        if theta is None:
            raise ValueError("lacks rope_theta")
        if kind in ("default", "mrope", "dynamic"):
            kind, factor = "default" if kind == "mrope" else kind, self.factor or 1.0
            return Rope(theta, self.sections, kind, factor, context=context)
        _refuse(
            kind != "llama3",
            f"rope of type {kind!r} is not supported; supported are default, mrope, "
            "dynamic and llama3",
        )
        factor, low, high, original = self.factor, self.low, self.high, self.context
        if factor is None or low is None or high is None or original is None:
            raise ValueError(
                "rope of type llama3 needs factor, low_freq_factor, high_freq_factor "
                "and original_max_position_embeddings"
            )
        _refuse(low >= high, "low_freq_factor must be below high_freq_factor")
        return Rope(theta, self.sections, kind, factor, low, high, original)

    @classmethod
    def of(cls, rope: Rope) -> _Rope:
        """As transformers writes it."""
        kind, factor = rope.kind, rope.factor if rope.kind != "default" else None
        plain = cls(
            rope_type=kind, theta=rope.theta, sections=rope.sections, factor=factor
        )
        if kind != "llama3":
            return plain
        return replace(plain, low=rope.low, high=rope.high, context=rope.context)


class _Text(Struct, kw_only=True):
    vocabulary: Count = field(name="vocab_size")
    width: Count = field(name="hidden_size")
    hidden: Count = field(name="intermediate_size")
    layers: Count = field(name="num_hidden_layers")
    heads: Count = field(name="num_attention_heads")
    kv_heads: Count | None = field(name="num_key_value_heads", default=None)
    hidden_act: Any = "silu"
    context: Count = field(name="max_position_embeddings")
    norm_eps: Positive = field(name="rms_norm_eps")
    rope_parameters: _Rope | None = None
    use_sliding_window: Any = False
    tied: bool = field(name="tie_word_embeddings", default=False)
    model_type: Any = "qwen2"
    head_width: Count | UnsetType | None = field(name="head_dim", default=UNSET)
    architectures: list[str] | UnsetType | None = UNSET
    rope_theta: Positive | UnsetType | None = UNSET
    rope_scaling: _Rope | UnsetType | None = UNSET
    layer_types: list[str] | UnsetType | None = UNSET

    def decoder(self, family: Any, tied: bool | UnsetType) -> DecoderConfig:
        """The decoder of a family, all checked; UNSET: tied as this part says."""
        _refuse(
            family not in (*_CLASSES, "internlm2"),
            f"language model {family!r} is not supported; supported are Qwen2, Qwen3, "
            "Llama and InternLM2",
        )
        other = set(self.layer_types or ()) - {"full_attention"}
        _refuse(
            other,
            f"layer_types has {', '.join(sorted(other))}; only full_attention "
            "is supported",
        )
        kv_heads, head_width = self.kv_heads or self.heads, self.head_width
        if family == "qwen3" and not head_width:
            head_width = _QWEN3_HEAD
        if not head_width:
            _heads_divide(self.width, "num_attention_heads", self.heads)
            head_width = self.width // self.heads
        _refuse(
            self.heads % kv_heads, f"{self.heads} heads do not group into {kv_heads}"
        )
        _refuse(
            head_width % 2, f"heads of an odd width ({head_width}) cannot be rotated"
        )
        rope = self.rope_parameters or self.rope_scaling or _Rope()
        rope = rope.rope(self.rope_theta or None, self.context)
        _refuse(
            bool(rope.sections) and sum(rope.sections) * 2 != head_width,
            "mrope_section does not fill a head",
        )
        return DecoderConfig(
            **_shared(self, ("vocabulary", "width", "layers", "heads", "hidden")),
            **_shared(self, ("norm_eps", "context")),
            kv_heads=kv_heads,
            head_width=head_width,
            rope=rope,
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            tied=self.tied if tied is UNSET else bool(tied),
        )

    @classmethod
    def of(cls, config: DecoderConfig, **changes: Any) -> Self:
        """As transformers writes it; InternLM2 as Llama, whose mathematics it is."""
        shared = _shared(config, cls.__struct_fields__)
        shared |= {
            "rope_parameters": _Rope.of(config.rope),
            "model_type": "qwen2" if config.qkv_bias else "llama",
        }
        if config.qk_norm:
            shared["model_type"] = "qwen3"
        if config.head_width * config.heads == config.width and not config.qk_norm:
            shared["head_width"] = UNSET
        return cls(**shared | changes)


class _TextModel(_Text, kw_only=True):
    """A file that describes a decoder alone."""

    dtype: Any = None

    def config(self, directory: Path) -> tuple[str, TextConfig]:
        """The layout and the shape, all checked."""
        text = replace(self, rope_theta=self.rope_theta or _THETA)
        language = text.decoder(text.model_type, UNSET)
        return TEXT, TextConfig(language, chat_of(_tokenizer_texts(directory)))

    @classmethod
    def of(cls, config: Any, **changes: Any) -> Self:
        """As transformers writes it."""
        made = super().of(config.language, **changes)
        return replace(made, architectures=[_CLASSES[made.model_type]])


class _QwenVision(Struct, kw_only=True):
    model_type: Any = "qwen2_5_vl_vision"
    width: Count = field(name="hidden_size")
    layers: Count = field(name="depth")
    heads: Count = field(name="num_heads", default=16)
    hidden: Count = field(name="intermediate_size")
    output: Count = field(name="out_hidden_size")
    patch: Count = field(name="patch_size", default=14)
    merge: Count = field(name="spatial_merge_size", default=2)
    frames: Count = field(name="temporal_patch_size", default=2)
    window: Count = field(name="window_size", default=112)
    full_layers: tuple[Whole, ...] = field(
        name="fullatt_block_indexes", default=(7, 15, 23, 31)
    )

    def tower(self) -> QwenVisionConfig:
        """The tower, all checked."""
        # Rows and columns turn a half of each head, in pairs.
        _heads_divide(self.width, "num_heads", self.heads, 4)
        block = self.patch * self.merge
        _refuse(
            self.window % block,
            f"window_size {self.window} is no multiple of patch_size x "
            f"spatial_merge_size ({block})",
        )
        return QwenVisionConfig(**_shared(self, QwenVisionConfig.__dataclass_fields__))


class _Qwen(Struct, kw_only=True):
    dtype: Any = None
    tied: bool | UnsetType = field(name="tie_word_embeddings", default=UNSET)
    architectures: Any = ("Qwen2_5_VLForConditionalGeneration",)
    model_type: str = QWEN
    image_token: Whole = field(name="image_token_id", default=151655)
    vision_start: Whole = field(name="vision_start_token_id", default=151652)
    vision_end: Whole = field(name="vision_end_token_id", default=151653)
    text_config: _Text
    vision_config: _QwenVision

    def config(self, _: Path) -> tuple[str, QwenVLConfig]:
        """The layout and the shape, all checked."""
        language = self.text_config.decoder("qwen2", self.tied)
        tower = self.vision_config.tower()
        _refuse(
            tower.output != language.width, "out_hidden_size is not the text's width"
        )
        _refuse(
            len(language.rope.sections) != 3, "mrope_section must have three sections"
        )
        ids = {
            "image_token_id": self.image_token,
            "vision_start_token_id": self.vision_start,
            "vision_end_token_id": self.vision_end,
        }
        for name, token in ids.items():
            _check_token(name, token, language.vocabulary)
        return QWEN, QwenVLConfig(language, tower, *ids.values())

    @classmethod
    def of(cls, config: QwenVLConfig) -> _Qwen:
        """As transformers writes it."""
        vision = _shared(config.vision, _QwenVision.__struct_fields__)
        return cls(
            **_shared(config, cls.__struct_fields__),
            text_config=_Text.of(config.language, model_type="qwen2_5_vl_text"),
            vision_config=_QwenVision(**vision),
        )


class _InternViT(Struct, kw_only=True):
    model_type: Any = "internvl_vision"
    width: Count = field(name="hidden_size")
    layers: Count = field(name="num_hidden_layers")
    heads: Count = field(name="num_attention_heads")
    hidden: Count = field(name="intermediate_size")
    # As transformers calls it; the remote code calls it qkv_bias.
    attention_bias: bool = False
    norm_eps: Positive = field(name="layer_norm_eps")
    image: Side = field(name="image_size")
    patch: Side = field(name="patch_size", default=14)
    qkv_bias: bool | UnsetType = UNSET

    def tower(self, qkv_bias: bool) -> InternViTConfig:
        """The tower, all checked."""
        _heads_divide(self.width, "num_attention_heads", self.heads)
        image, patch = _side("image_size", self.image), _side("patch_size", self.patch)
        _refuse(
            image % patch, f"image_size {image} is no multiple of patch_size {patch}"
        )
        shared = _shared(self, ("width", "layers", "heads", "hidden", "norm_eps"))
        return InternViTConfig(**shared, image=image, patch=patch, qkv_bias=qkv_bias)


def _side(name: str, value: int | tuple[int, ...]) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    _refuse(len(sides) != 1, f"{name} must be the side of a square, not {value}")
    return sides.pop()


class _InternVL(Struct, kw_only=True):
    dtype: Any = None
    tied: bool | UnsetType = field(name="tie_word_embeddings", default=UNSET)
    architectures: Any = ("InternVLForConditionalGeneration",)
    model_type: str = INTERNVL
    # Absent from early files; the default of transformers.
    image_token: Whole = field(name="image_token_id", default=151667)
    image_seq_length: Any = UNSET
    downsample_ratio: Positive = 0.5
    text_config: _Text
    vision_config: _InternViT

    def config(self, _: Path) -> tuple[str, InternVLConfig]:
        """The layout and the shape, all checked."""
        text, vision = self.text_config, self.vision_config
        language = text.decoder(text.model_type, self.tied)
        tower = vision.tower(vision.attention_bias)
        _check_token("image_token_id", self.image_token, language.vocabulary)
        shuffle = _shuffle(self.downsample_ratio, tower)
        return INTERNVL, InternVLConfig(language, tower, self.image_token, shuffle)

    @classmethod
    def of(cls, config: InternVLConfig) -> _InternVL:
        """As transformers writes it."""
        language, vision = config.language, config.vision
        tower = _shared(vision, ("width", "layers", "heads", "hidden", "norm_eps"))
        return cls(
            tied=language.tied,
            image_token=config.image_token,
            image_seq_length=config.tile_tokens,
            downsample_ratio=1 / config.shuffle,
            text_config=_Text.of(language),
            vision_config=_InternViT(
                **tower,
                attention_bias=vision.qkv_bias,
                image=(vision.image, vision.image),
                patch=(vision.patch, vision.patch),
            ),
        )


class _InternVLChat(Struct, kw_only=True):
    llm_config: _Text
    vision_config: _InternViT
    downsample_ratio: Positive = 0.5

    def config(self, directory: Path) -> tuple[str, InternVLConfig]:
        """The layout and the shape, all checked."""
        text, vision = self.llm_config, self.vision_config
        if not text.architectures:
            raise ValueError(
                "architectures must be a list that names the model's class"
            )
        name = text.architectures[0]
        family = _ARCHITECTURES.get(name, name)
        language = text.decoder(family, UNSET)
        tower = vision.tower(vision.qkv_bias is not False)
        shuffle = _shuffle(self.downsample_ratio, tower)
        token = added_token(directory, _IMAGE_TOKEN)
        _refuse(
            token >= language.vocabulary,
            f"{_IMAGE_TOKEN} is token {token}, beyond a vocabulary of "
            f"{language.vocabulary}",
        )
        layout = INTERNVL_CHAT_FUSED if family == "internlm2" else INTERNVL_CHAT
        return layout, InternVLConfig(language, tower, token, shuffle)


_ARCHITECTURES = {"InternLM2ForCausalLM": "internlm2"} | {
    name: family for family, name in _CLASSES.items()
}
# By model_type; and as transformers would write each.
_FILES = {QWEN: _Qwen, INTERNVL: _InternVL, INTERNVL_CHAT: _InternVLChat}
_FILES |= dict.fromkeys(_CLASSES, _TextModel)
_WRITTEN = {QwenVLConfig: _Qwen, InternVLConfig: _InternVL, TextConfig: _TextModel}


def _check_token(name: str, value: int, vocabulary: int) -> None:
    _refuse(
        value >= vocabulary,
        f"{name} must be a token in [0, {vocabulary}), the vocabulary, not {value}",
    )


def _shuffle(ratio: float, tower: InternViTConfig) -> int:
    shuffle = round(1 / ratio)
    _refuse(shuffle * ratio != 1, "downsample_ratio must be 1 / integer")
    _refuse(
        tower.side % shuffle,
        f"downsample_ratio 1 / {shuffle} does not divide a side of {tower.side} "
        "patches",
    )
    return shuffle


def read_config(directory: Path) -> tuple[str, BackboneConfig]:
    """The layout of a checkpoint, and the shape of its model.

    Raises:
        DataError: no such folder, no config.json, an architecture that is not one of
            those supported, or a value of it without meaning.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder")
    path = directory / "config.json"
    values = read_json(path, dict[str, Any])
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in _FILES:
        raise DataError(
            f"{path}: model_type {kind!r} is not supported; supported are "
            f"{QWEN} (Qwen2.5-VL), {INTERNVL} and {INTERNVL_CHAT} (InternVL2.5, "
            f"InternVL3), and of text alone {', '.join(_CLASSES)}"
        )
    if kind == QWEN:
        # Older files hold the text's fields at the top.
        values = {"text_config": values} | values
    try:
        file = msgspec.convert(values, _FILES[kind])
        _check_only("", values, _ONLY[kind])
        return file.config(directory)
    except (msgspec.ValidationError, ValueError) as error:
        reason = re.sub("^Expected(?= .* <=? )", "too large: expected", str(error))
        raise DataError(f"{path}: {reason}") from error


class _AddedToken(Struct):
    content: str
    id: Whole


class _TokenizerFile(Struct):
    added_tokens: list[_AddedToken] = []


class _NamedTemplate(Struct):
    template: str


class _TokenizerConfig(Struct):
    chat_template: str | list[_NamedTemplate] | None = None


def _tokenizer_texts(directory: Path) -> list[str]:
    """The chat templates of a folder and the tokens that its tokenizer adds.

    Raises:
        DataError: a file cannot be read.
    """
    texts: list[str] = []
    path = directory / "tokenizer_config.json"
    if path.is_file():
        found = read_json(path, _TokenizerConfig).chat_template or []
        texts += [found] if isinstance(found, str) else [one.template for one in found]
    path = directory / "chat_template.jinja"
    if path.is_file():
        with faults_of(path):
            texts.append(path.read_text(encoding="utf-8"))
    path = directory / TOKENIZER
    if path.is_file():
        added = read_json(path, _TokenizerFile).added_tokens
        texts += [token.content for token in added]
    return texts


def added_token(directory: Path, text: str) -> int:
    """Id of a token that a tokenizer's files add.

    Raises:
        DataError: no file of the folder names it, or one cannot be read.
    """
    path = directory / "added_tokens.json"
    added = read_json(path, dict[str, Whole]) if path.is_file() else {}
    path = directory / TOKENIZER
    if text not in added and path.is_file():
        tokens = read_json(path, _TokenizerFile).added_tokens
        added = {token.content: token.id for token in tokens}
    if text not in added:
        raise DataError(
            f"{directory}: neither added_tokens.json nor tokenizer.json has {text}"
        )
    return added[text]


def config_json(config: BackboneConfig, dtype: str) -> dict[str, Any]:
    """config.json as transformers writes it, of a model saved in its native layout."""
    file: Any = _WRITTEN[type(config)]
    written = replace(file.of(config), dtype=dtype, tied=config.language.tied)
    return msgspec.to_builtins(written)
