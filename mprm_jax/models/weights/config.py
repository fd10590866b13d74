"""config.json of the three checkpoint layouts, read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mprm_jax.data.problems import DataError
from mprm_jax.models.decoder import DecoderConfig
from mprm_jax.models.families import BackboneConfig
from mprm_jax.models.internvl import InternViTConfig, InternVLConfig
from mprm_jax.models.qwen import QwenVisionConfig, QwenVLConfig
from mprm_jax.models.rope import Rope
from mprm_jax.models.weights.fields import Fields, read_json

# model_type of each layout: what transformers writes, and InternVL's own remote code.
# The remote code names and fuses its language model's tensors in two ways.
QWEN, INTERNVL, INTERNVL_CHAT = "qwen2_5_vl", "internvl", "internvl_chat"
INTERNVL_CHAT_FUSED = "internvl_chat with InternLM2"
_IMAGE_TOKEN = "<IMG_CONTEXT>"


def read_config(directory: Path) -> tuple[str, BackboneConfig]:
    """The layout of a checkpoint, and the shape of its model.

    Raises:
        DataError: no such folder, no config.json, an architecture that is not one of
            those supported, or a value of it without meaning.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder")
    path = directory / "config.json"
    fields = Fields(str(path), read_json(path))
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


def _qwen(fields: Fields) -> QwenVLConfig:
    # Older files hold the text's fields at the top.
    text = fields.part("text_config") if "text_config" in fields.values else fields
    vision = fields.part("vision_config")
    vision.expect("hidden_act", "silu")
    vision.expect("in_channels", 3)
    vision.expect("in_chans", 3)
    language = _decoder(text, "qwen2", _tied(fields, text))
    vocabulary = language.vocabulary
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
            full_layers=vision.wholes("fullatt_block_indexes", [7, 15, 23, 31]),
        ),
        image_token=fields.token("image_token_id", vocabulary, 151655),
        vision_start=fields.token("vision_start_token_id", vocabulary, 151652),
        vision_end=fields.token("vision_end_token_id", vocabulary, 151653),
    )
    tower = config.vision
    if tower.output != language.width:
        raise vision.problem("out_hidden_size is not the text's width")
    # Rows and columns turn a half of each head, in pairs.
    _check_heads(vision, "num_heads", tower.width, tower.heads, 4)
    if tower.window % (tower.patch * tower.merge):
        raise vision.problem(
            f"window_size {tower.window} is no multiple of patch_size x "
            f"spatial_merge_size ({tower.patch * tower.merge})"
        )
    if len(language.rope.sections) != 3:
        raise text.problem("mrope_section must have three sections")
    return config


def _internvl(fields: Fields) -> InternVLConfig:
    text, vision = fields.part("text_config"), fields.part("vision_config")
    fields.expect("vision_feature_layer", -1)
    fields.expect("vision_feature_select_strategy", "default")
    fields.expect("projector_hidden_act", "gelu")
    vision.expect("use_qk_norm", False)
    vision.expect("use_mask_token", False)
    vision.expect("use_absolute_position_embeddings", True)
    vision.expect("use_mean_pooling", True)
    family = text.values.get("model_type", "qwen2")
    language = _decoder(text, family, _tied(fields, text))
    tower = _internvit(vision, vision.flag("attention_bias", False))
    return InternVLConfig(
        language=language,
        vision=tower,
        image_token=fields.token("image_token_id", language.vocabulary),
        shuffle=_shuffle(fields, tower),
    )


def _internvl_chat(fields: Fields, directory: Path) -> tuple[str, InternVLConfig]:
    text, vision = fields.part("llm_config"), fields.part("vision_config")
    fields.expect("ps_version", "v2")
    fields.expect("select_layer", -1)
    vision.expect("qk_normalization", False)
    names = text.values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise text.problem("architectures must be a list that names the model's class")
    families = {
        "InternLM2ForCausalLM": "internlm2",
        "Qwen2ForCausalLM": "qwen2",
        "LlamaForCausalLM": "llama",
    }
    family = families.get(names[0], names[0])
    language = _decoder(text, family, text.flag("tie_word_embeddings", False))
    image_token = added_token(directory, _IMAGE_TOKEN)
    if image_token >= language.vocabulary:
        raise text.problem(
            f"{_IMAGE_TOKEN} is token {image_token}, beyond a vocabulary of "
            f"{language.vocabulary}"
        )
    tower = _internvit(vision, vision.flag("qkv_bias", True))
    kind = INTERNVL_CHAT_FUSED if family == "internlm2" else INTERNVL_CHAT
    return kind, InternVLConfig(
        language=language,
        vision=tower,
        image_token=image_token,
        shuffle=_shuffle(fields, tower),
    )


def _shuffle(fields: Fields, tower: InternViTConfig) -> int:
    ratio = fields.positive("downsample_ratio", 0.5)
    shuffle = round(1 / ratio)
    if shuffle * ratio != 1:
        raise fields.problem("downsample_ratio must be 1 / integer")
    if tower.side % shuffle:
        raise fields.problem(
            f"downsample_ratio 1 / {shuffle} does not divide a side of {tower.side} "
            "patches"
        )
    return shuffle


def _check_heads(fields: Fields, name: str, width: int, heads: int, unit: int) -> None:
    if width % (heads * unit):
        of = "" if unit == 1 else f" into heads of a multiple of {unit}"
        raise fields.problem(f"{name} {heads} does not divide hidden_size {width}{of}")


def _internvit(vision: Fields, qkv_bias: bool) -> InternViTConfig:
    vision.expect("norm_type", "layer_norm")
    vision.expect("hidden_act", "gelu")
    tower = InternViTConfig(
        width=vision.count("hidden_size"),
        layers=vision.count("num_hidden_layers"),
        heads=vision.count("num_attention_heads"),
        hidden=vision.count("intermediate_size"),
        image=vision.count("image_size"),
        patch=vision.count("patch_size", 14),
        norm_eps=vision.positive("layer_norm_eps"),
        qkv_bias=qkv_bias,
    )
    _check_heads(vision, "num_attention_heads", tower.width, tower.heads, 1)
    if tower.image % tower.patch:
        raise vision.problem(
            f"image_size {tower.image} is no multiple of patch_size {tower.patch}"
        )
    return tower


def _tied(fields: Fields, text: Fields) -> bool:
    inner = text.flag("tie_word_embeddings", False)
    return fields.flag("tie_word_embeddings", inner)


def _decoder(text: Fields, family: str, tied: bool) -> DecoderConfig:
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
    if text.given("num_key_value_heads"):
        kv_heads = text.count("num_key_value_heads")
    if text.given("head_dim"):
        head_width = text.count("head_dim")
    else:
        _check_heads(text, "num_attention_heads", width, heads, 1)
        head_width = width // heads
    if heads % kv_heads:
        raise text.problem(f"{heads} heads do not group into {kv_heads}")
    if head_width % 2:
        raise text.problem(f"heads of an odd width ({head_width}) cannot be rotated")
    context = text.count("max_position_embeddings")
    rope = _rope(text, context)
    if rope.sections and sum(rope.sections) * 2 != head_width:
        raise text.problem("mrope_section does not fill a head")
    return DecoderConfig(
        vocabulary=text.count("vocab_size"),
        width=width,
        layers=text.count("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        hidden=text.count("intermediate_size"),
        norm_eps=text.positive("rms_norm_eps"),
        rope=rope,
        qkv_bias=family == "qwen2",
        tied=tied,
        context=context,
    )


def _rope(text: Fields, context: int) -> Rope:
    name = next(filter(text.given, ("rope_parameters", "rope_scaling")), None)
    inner = Fields(f"{text.where}: rope", {}) if name is None else text.part(name)
    theta = inner.positive("rope_theta", text.values.get("rope_theta"))
    kind = inner.values.get("rope_type", inner.values.get("type", "default"))
    sections = inner.wholes("mrope_section", [])
    if kind in ("default", "mrope", "dynamic"):
        kind = "dynamic" if kind == "dynamic" else "default"
        factor = inner.positive("factor", 1.0)
        return Rope(theta, sections, kind, factor, context=context)
    if kind == "llama3":
        low = inner.positive("low_freq_factor")
        high = inner.positive("high_freq_factor")
        if low >= high:
            raise inner.problem("low_freq_factor must be below high_freq_factor")
        return Rope(
            theta,
            sections,
            kind,
            factor=inner.positive("factor"),
            low=low,
            high=high,
            context=inner.count("original_max_position_embeddings"),
        )
    raise DataError(
        f"{text.where}: rope of type {kind!r} is not supported; supported are "
        "default, mrope, dynamic and llama3"
    )


def added_token(directory: Path, text: str) -> int:
    """Id of a token that a tokenizer's files add.

    Raises:
        DataError: no file of the folder names it, or one cannot be read.
    """
    path = directory / "added_tokens.json"
    if path.is_file():
        added = Fields(str(path), read_json(path))
        if text in added.values:
            return added.token(text, 2**31)
    path = directory / "tokenizer.json"
    if path.is_file():
        file = Fields(str(path), read_json(path))
        tokens = file.values.get("added_tokens", [])
        if not isinstance(tokens, list):
            raise file.problem("added_tokens must be a list")
        for token in tokens:
            added = Fields(f"{path}: added_tokens", token)
            if added.values.get("content") == text:
                return added.token("id", 2**31)
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
