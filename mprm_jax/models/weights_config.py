"""config.json of the three checkpoint layouts, read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mprm_jax.data.problems import DataError
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.internvit import InternViTConfig
from mprm_jax.models.internvl import InternVLConfig
from mprm_jax.models.qwen_vision import QwenVisionConfig
from mprm_jax.models.qwen_vl import QwenVLConfig
from mprm_jax.models.rope import Rope

BackboneConfig = QwenVLConfig | InternVLConfig

# model_type of each layout: what transformers writes, and InternVL's own remote code.
# The remote code names and fuses its language model's tensors in two ways.
QWEN, INTERNVL, INTERNVL_CHAT = "qwen2_5_vl", "internvl", "internvl_chat"
INTERNVL_CHAT_FUSED = "internvl_chat with InternLM2"
_IMAGE_TOKEN = "<IMG_CONTEXT>"


class _Fields:
    """A JSON object of a configuration file: every miss is one clear line."""

    def __init__(self, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{where}: expected an object, found {type(values)}")
        self.where, self.values = where, values

    def part(self, *names: str) -> _Fields:
        for name in names:
            if isinstance(self.values.get(name), dict):
                return _Fields(f"{self.where}: {name}", self.values[name])
        raise DataError(f"{self.where}: lacks {' or '.join(names)}")

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name, default)
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{self.where}: lacks {name}, or it is no number")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        value = self.number(name, default)
        if value != int(value) or not 0 < value < 2**31:
            raise DataError(f"{self.where}: {name} must be a positive integer")
        return int(value)

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuse what this package does not compute; absent means the first."""
        value = self.values.get(name, allowed[0])
        if value not in allowed:
            raise DataError(
                f"{self.where}: {name} is {value!r}; only "
                f"{' or '.join(map(repr, allowed))} is supported"
            )


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: no JSON ({error})") from error


def read_config(directory: Path) -> tuple[str, BackboneConfig]:
    """The layout of a checkpoint, and the shape of its model.

    Raises:
        DataError: no such folder, no config.json, or an architecture that is not one
            of those supported.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder")
    path = directory / "config.json"
    fields = _Fields(str(path), read_json(path))
    kind = fields.values.get("model_type")
    if kind == QWEN:
        return QWEN, _qwen(fields)
    if kind == INTERNVL:
        return INTERNVL, _internvl(fields)
    if kind == INTERNVL_CHAT:
        return _internvl_chat(fields, directory)
    raise DataError(
        f"{path}: model_type {kind!r} is not supported; supported are "
        f"{QWEN} (Qwen2.5-VL), {INTERNVL} and {INTERNVL_CHAT} (InternVL2.5)"
    )


def _qwen(fields: _Fields) -> QwenVLConfig:
    # Older files hold the text's fields at the top.
    text = fields.part("text_config") if "text_config" in fields.values else fields
    vision = fields.part("vision_config")
    vision.expect("hidden_act", "silu")
    vision.expect("in_channels", 3)
    vision.expect("in_chans", 3)
    language = _decoder(text, "qwen2", _tied(fields, text))
    full_layers = vision.values.get("fullatt_block_indexes", [7, 15, 23, 31])
    config = QwenVLConfig(
        language=language,
        vision=QwenVisionConfig(
            width=vision.count("hidden_size"),
            layers=vision.count("depth"),
            heads=vision.count("num_heads", 16),
            hidden=vision.count("intermediate_size"),
            output=vision.count("out_hidden_size"),
            patch=vision.count("patch_size", 14),
            merge=vision.count("spatial_merge_size", 2),
            frames=vision.count("temporal_patch_size", 2),
            window=vision.count("window_size", 112),
            full_layers=tuple(full_layers),
        ),
        image_token=fields.count("image_token_id", 151655),
        vision_start=fields.count("vision_start_token_id", 151652),
        vision_end=fields.count("vision_end_token_id", 151653),
    )
    if config.vision.output != language.width:
        raise DataError(f"{vision.where}: out_hidden_size is not the text's width")
    if sum(language.rope.sections) * 2 != language.head_width:
        raise DataError(f"{text.where}: mrope_section does not fill a head")
    return config


def _internvl(fields: _Fields) -> InternVLConfig:
    text, vision = fields.part("text_config"), fields.part("vision_config")
    fields.expect("vision_feature_layer", -1)
    fields.expect("vision_feature_select_strategy", "default")
    fields.expect("projector_hidden_act", "gelu")
    vision.expect("use_qk_norm", False)
    vision.expect("use_mask_token", False)
    vision.expect("use_absolute_position_embeddings", True)
    vision.expect("use_mean_pooling", True)
    family = text.values.get("model_type", "qwen2")
    return InternVLConfig(
        language=_decoder(text, family, _tied(fields, text)),
        vision=_internvit(vision, bool(vision.values.get("attention_bias", False))),
        image_token=fields.count("image_token_id"),
        shuffle=_shuffle(fields),
    )


def _internvl_chat(fields: _Fields, directory: Path) -> tuple[str, InternVLConfig]:
    text, vision = fields.part("llm_config"), fields.part("vision_config")
    fields.expect("ps_version", "v2")
    fields.expect("select_layer", -1)
    vision.expect("qk_normalization", False)
    names = text.values.get("architectures") or ["?"]
    families = {
        "InternLM2ForCausalLM": "internlm2",
        "Qwen2ForCausalLM": "qwen2",
        "LlamaForCausalLM": "llama",
    }
    family = families.get(str(names[0]), str(names[0]))
    tied = bool(text.values.get("tie_word_embeddings", False))
    kind = INTERNVL_CHAT_FUSED if family == "internlm2" else INTERNVL_CHAT
    return kind, InternVLConfig(
        language=_decoder(text, family, tied),
        vision=_internvit(vision, bool(vision.values.get("qkv_bias", True))),
        image_token=added_token(directory, _IMAGE_TOKEN),
        shuffle=_shuffle(fields),
    )


def _shuffle(fields: _Fields) -> int:
    ratio = fields.number("downsample_ratio", 0.5)
    if ratio <= 0 or round(1 / ratio) * ratio != 1:
        raise DataError(f"{fields.where}: downsample_ratio must be 1 / integer")
    return round(1 / ratio)


def _internvit(vision: _Fields, qkv_bias: bool) -> InternViTConfig:
    vision.expect("norm_type", "layer_norm")
    vision.expect("hidden_act", "gelu")
    return InternViTConfig(
        width=vision.count("hidden_size"),
        layers=vision.count("num_hidden_layers"),
        heads=vision.count("num_attention_heads"),
        hidden=vision.count("intermediate_size"),
        image=vision.count("image_size"),
        patch=vision.count("patch_size", 14),
        norm_eps=vision.number("layer_norm_eps"),
        qkv_bias=qkv_bias,
    )


def _tied(fields: _Fields, text: _Fields) -> bool:
    inner = text.values.get("tie_word_embeddings", False)
    return bool(fields.values.get("tie_word_embeddings", inner))


def _decoder(text: _Fields, family: str, tied: bool) -> DecoderConfig:
    if family not in ("qwen2", "llama", "internlm2"):
        raise DataError(
            f"{text.where}: language model {family!r} is not supported; supported are "
            "Qwen2, Llama and InternLM2"
        )
    text.expect("hidden_act", "silu")
    text.expect("use_sliding_window", False)
    text.expect("attention_bias", False)
    text.expect("mlp_bias", False)
    text.expect("bias", False)
    heads, width = text.count("num_attention_heads"), text.count("hidden_size")
    kv_heads = heads
    if text.values.get("num_key_value_heads") is not None:
        kv_heads = text.count("num_key_value_heads")
    head_width = width // heads
    if text.values.get("head_dim") is not None:
        head_width = text.count("head_dim")
    if heads % kv_heads or head_width % 2:
        raise DataError(f"{text.where}: {heads} heads do not group into {kv_heads}")
    context = text.count("max_position_embeddings")
    return DecoderConfig(
        vocabulary=text.count("vocab_size"),
        width=width,
        layers=text.count("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        hidden=text.count("intermediate_size"),
        norm_eps=text.number("rms_norm_eps"),
        rope=_rope(text, context),
        qkv_bias=family == "qwen2",
        tied=tied,
        context=context,
    )


def _rope(text: _Fields, context: int) -> Rope:
    scaling: dict = text.values.get("rope_scaling") or {}
    scaling = text.values.get("rope_parameters") or scaling
    inner = _Fields(f"{text.where}: rope", scaling)
    theta = inner.number("rope_theta", text.values.get("rope_theta"))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    sections = tuple(scaling.get("mrope_section", ()))
    if kind in ("default", "mrope", "dynamic"):
        kind = "dynamic" if kind == "dynamic" else "default"
        factor = inner.number("factor", 1.0)
        return Rope(theta, sections, kind, factor, context=context)
    if kind == "llama3":
        return Rope(
            theta,
            sections,
            kind,
            factor=inner.number("factor"),
            low=inner.number("low_freq_factor"),
            high=inner.number("high_freq_factor"),
            context=inner.count("original_max_position_embeddings"),
        )
    raise DataError(
        f"{text.where}: rope of type {kind!r} is not supported; supported are "
        "default, mrope, dynamic and llama3"
    )


def added_token(directory: Path, text: str) -> int:
    """Id of a token that a tokenizer's files add.

    Raises:
        DataError: no file of the folder names it.
    """
    path = directory / "added_tokens.json"
    if path.is_file() and isinstance(value := read_json(path).get(text), int):
        return value
    path = directory / "tokenizer.json"
    if path.is_file():
        for token in read_json(path).get("added_tokens", []):
            if token.get("content") == text:
                return int(token["id"])
    raise DataError(
        f"{directory}: neither added_tokens.json nor tokenizer.json has {text}"
    )


def config_json(config: BackboneConfig, dtype: str) -> dict[str, Any]:
    """config.json as transformers writes it, of a model saved in its native layout."""
    language = config.language
    text: dict[str, Any] = {
        "vocab_size": language.vocabulary,
        "hidden_size": language.width,
        "intermediate_size": language.hidden,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": language.context,
        "rms_norm_eps": language.norm_eps,
        "rope_parameters": _rope_json(language.rope),
        "use_sliding_window": False,
        "tie_word_embeddings": language.tied,
    }
    common = {"dtype": dtype, "tie_word_embeddings": language.tied}
    if isinstance(config, QwenVLConfig):
        vision = config.vision
        return common | {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": QWEN,
            "image_token_id": config.image_token,
            "vision_start_token_id": config.vision_start,
            "vision_end_token_id": config.vision_end,
            "text_config": text | {"model_type": "qwen2_5_vl_text"},
            "vision_config": {
                "model_type": "qwen2_5_vl_vision",
                "hidden_size": vision.width,
                "depth": vision.layers,
                "num_heads": vision.heads,
                "intermediate_size": vision.hidden,
                "out_hidden_size": vision.output,
                "patch_size": vision.patch,
                "spatial_merge_size": vision.merge,
                "temporal_patch_size": vision.frames,
                "window_size": vision.window,
                "fullatt_block_indexes": list(vision.full_layers),
            },
        }
    vision = config.vision
    family = "qwen2" if language.qkv_bias else "llama"
    return common | {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": INTERNVL,
        "image_token_id": config.image_token,
        "image_seq_length": config.tile_tokens,
        "downsample_ratio": 1 / config.shuffle,
        "text_config": text
        | {"model_type": family}
        | ({} if language.qkv_bias else {"head_dim": language.head_width}),
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.hidden,
            "attention_bias": vision.qkv_bias,
            "layer_norm_eps": vision.norm_eps,
            "image_size": [vision.image, vision.image],
            "patch_size": [vision.patch, vision.patch],
        },
    }


def _rope_json(rope: Rope) -> dict[str, Any]:
    value: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.sections:
        value["mrope_section"] = list(rope.sections)
    if rope.kind == "dynamic":
        value["factor"] = rope.factor
    if rope.kind == "llama3":
        value |= {
            "factor": rope.factor,
            "low_freq_factor": rope.low,
            "high_freq_factor": rope.high,
            "original_max_position_embeddings": rope.context,
        }
    return value
