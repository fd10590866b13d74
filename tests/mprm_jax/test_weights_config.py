"""A config.json is untrusted: whatever it holds, a model that computes or one line."""

import copy
import json

import jax
import jax.numpy as jnp
import pytest

from mprm_jax.data.images import PLACE_BYTES
from mprm_jax.models import families
from mprm_jax.models.layers import Compute
from mprm_jax.models.qwen import QwenVLConfig
from mprm_jax.models.text import TextConfig
from mprm_jax.models.weights.config import read_config
from mprm_jax.records.problems import DataError
from tests.mprm_jax.backbone_folder import LAYOUTS
from tests.mprm_jax.random_weights import text_config

CONFIGS = {layout: make for layout, (make, _) in LAYOUTS.items()}
CONFIGS |= {"text": text_config}
STRANGE = (
    None, True, "x", "", [], {}, [None], {"a": 1}, [[8]], ["x"], 0, -1, -2.5, 0.3,
    float("1e308"), 10**30, [8, -2, -2], [1, 1, 2.5], 3, 7,
)  # fmt: skip
# Not in the made configurations, because they have defaults.
OPTIONAL = {
    "qwen2_5_vl": (
        ("text_config", "head_dim"), ("text_config", "rope_scaling"),
        ("text_config", "rope_parameters", "factor"),
    ),
    "internvl": (("text_config", "head_dim"), ("text_config", "tie_word_embeddings")),
    "internvl_chat": (
        ("llm_config", "rope_scaling", "mrope_section"),
        ("llm_config", "rope_parameters"),
    ),
    "text": (
        ("rope_scaling",), ("rope_parameters",), ("layer_types",), ("architectures",),
        ("tie_word_embeddings",), ("attention_bias",), ("partial_rotary_factor",),
    ),
}  # fmt: skip


def put(value, path, new):
    """A copy of a configuration with one field changed."""
    changed = copy.deepcopy(value)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = new
    return changed


def paths_of(value, before=()):
    """Every field of a configuration, parts and leaves."""
    for name, of in value.items():
        yield (*before, name)
        if isinstance(of, dict):
            yield from paths_of(of, (*before, name))


def write(folder, value, added='{"<IMG_CONTEXT>": 7}'):
    (folder / "config.json").write_text(json.dumps(value))
    (folder / "added_tokens.json").write_text(added)
    return folder


def read(folder):
    """A model's shape, or why there is none."""
    try:
        return read_config(folder)[1]
    except DataError as error:
        return str(error)


def refusal(folder):
    """The one line that refuses a folder, which names the file first."""
    line = read(folder)
    assert isinstance(line, str)
    assert "\n" not in line
    assert line.startswith(f"{folder}")
    return line


def check_computes(config):
    """The model of a configuration exists and runs, by shape alone."""
    params = jax.eval_shape(lambda key: families.init(config, key), jax.random.key(0))
    vision = config.vision
    if vision is None:
        shape = (2, 0, 0)
    elif isinstance(config, QwenVLConfig):
        shape = (2, 4 * vision.merge**2, 3 * vision.patch**2 + PLACE_BYTES)
    else:
        shape = (2, 1, 3 * vision.image**2)
    found = jax.eval_shape(
        lambda params, tokens, images: families.hidden_states(
            config, params, tokens, images, Compute("float32")
        ),
        params,
        jax.ShapeDtypeStruct((2, 8), jnp.int32),
        jax.ShapeDtypeStruct(shape, jnp.uint8),
    )
    assert found.shape == (2, 8, config.language.width)


@pytest.mark.parametrize("layout", CONFIGS)
def test_any_value_of_any_field_is_refused_in_one_line_or_computes(layout, tmp_path):
    value = CONFIGS[layout]()
    _, plain = read_config(write(tmp_path, value))
    check_computes(plain)
    seen, refused = {plain}, 0
    for path in (*paths_of(value), *OPTIONAL[layout]):
        for strange in STRANGE:
            if path[-1] == "rope_parameters" and strange == {}:
                continue
            config = read(write(tmp_path, put(value, path, strange)))
            if isinstance(config, str):
                assert config.startswith(f"{tmp_path}"), (path, strange)
                assert "\n" not in config
                refused += 1
            elif config not in seen:
                seen.add(config)
                try:
                    check_computes(config)
                except Exception as error:
                    raise AssertionError(f"{path} = {strange!r} is taken") from error
    assert refused > (200 if layout == "text" else 300)


ROPE = ("text_config", "rope_parameters")
# Values that are refused, by field; the line names the field.
QWEN_FAULTS = {
    ("vision_config", "fullatt_block_indexes"): (None, 7),
    # Heads of 6 in the second: rows and columns cannot share three pairs.
    ("vision_config", "num_heads"): (5, 4),
    ("vision_config", "window_size"): (0, 14, 60),
    (*ROPE, "mrope_section"): (None, 4, [None], [8, -2, -2], [2, 2], [2, 2, 2]),
    (*ROPE, "rope_theta"): (0, -1e4, 1e300),
    (*ROPE, "rope_type"): ("yarn",),
    (*ROPE, "factor"): (0,),
    ("text_config", "hidden_act"): ("gelu",),
    ("text_config", "vocab_size"): (10**15, 0, "120"),
    ("image_token_id",): (-1, 120),
    ("vision_start_token_id",): (10**6,),
    ("vision_end_token_id",): (-3,),
    ("tie_word_embeddings",): ("false",),
    ("model_type",): ("gpt2", None, {}),
    ("vision_config",): (3,),
}
CHAT_FAULTS = {
    ("llm_config", "architectures"): (3, {"a": 1}, []),
    ("llm_config", "num_attention_heads"): (6,),
    ("vision_config", "num_attention_heads"): (5,),
    ("vision_config", "image_size"): (60, [56, 28]),
    ("downsample_ratio",): (1 / 3, 0.3, 5e-324),
    ("llm_config", "rope_theta"): (0,),
    ("llm_config", "rope_scaling", "factor"): (0, -2.0),
    ("ps_version",): ("v1",),
    ("rope_pos_id_version",): ("v2pe_fix",),
    # InternViT-6B, in the larger InternVL3.
    ("vision_config", "norm_type"): ("rms_norm",),
    ("vision_config", "qk_normalization"): (True,),
}


# What transformers computes of such a file, and this package does not.
TEXT_FAULTS = {
    ("attention_bias",): (True,),
    ("mlp_bias",): (True,),
    ("use_sliding_window",): (True,),
    ("layer_types",): (["full_attention", "sliding_attention"],),
    ("partial_rotary_factor",): (0.5,),
    ("rope_parameters",): ({"rope_theta": 1e4, "partial_rotary_factor": 0.25},),
    ("hidden_act",): ("gelu",),
    ("model_type",): ("mistral", "qwen3_moe", "smollm3"),
}


@pytest.mark.parametrize(
    ("layout", "path", "values"),
    [("qwen2_5_vl", *fault) for fault in QWEN_FAULTS.items()]
    + [("internvl_chat", *fault) for fault in CHAT_FAULTS.items()]
    + [("text", *fault) for fault in TEXT_FAULTS.items()],
)
def test_what_has_no_meaning_is_refused_by_file_and_field(
    layout, path, values, tmp_path
):
    plain, name = CONFIGS[layout](), path[-1].removeprefix("rope_")
    for new in values:
        line = refusal(write(tmp_path, put(plain, path, new)))
        assert line.startswith(f"{tmp_path / 'config.json'}: ")
        assert name in line, new


def test_a_missing_field_is_named(tmp_path):
    value = put(LAYOUTS["qwen2_5_vl"][0](), ("vision_config",), {})
    assert "`hidden_size` - at `$.vision_config`" in refusal(write(tmp_path, value))


def test_a_vocabulary_without_the_image_token_and_an_unknown_decoder(tmp_path):
    value = put(LAYOUTS["internvl_chat"][0](), ("llm_config", "vocab_size"), 7)
    assert "token 7, beyond a vocabulary of 7" in refusal(write(tmp_path, value))
    value = LAYOUTS["internvl_chat"][0](family="MambaForCausalLM")
    assert "'MambaForCausalLM' is not supported" in refusal(write(tmp_path, value))


@pytest.mark.parametrize("added", ["[]", "3", '{"<IMG_CONTEXT>": "7"}', "{", "null"])
def test_a_broken_file_of_added_tokens_is_named(added, tmp_path):
    write(tmp_path, LAYOUTS["internvl_chat"][0](), added)
    assert "added_tokens.json: " in refusal(tmp_path)


@pytest.mark.parametrize(
    "tokens",
    [3, [3], {"a": 1}, [{"content": "<IMG_CONTEXT>", "id": -1}],
     [{"content": "<IMG_CONTEXT>"}]],
)  # fmt: skip
def test_a_broken_tokenizer_is_named(tokens, tmp_path):
    write(tmp_path, LAYOUTS["internvl_chat"][0](), "{}")
    text = json.dumps({"added_tokens": tokens})
    (tmp_path / "tokenizer.json").write_text(text)
    assert "tokenizer.json: " in refusal(tmp_path)


def test_llama3_frequencies_need_two_bounds_in_order(tmp_path):
    value = LAYOUTS["internvl_chat"][0]("LlamaForCausalLM")
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    path = ("llm_config", "rope_scaling")
    _, config = read_config(write(tmp_path, put(value, path, scaling)))
    assert (config.language.rope.low, config.language.rope.high) == (1.0, 4.0)
    wrong = scaling | {"high_freq_factor": 1.0}
    assert "below high_freq" in refusal(write(tmp_path, put(value, path, wrong)))


def test_tokens_at_both_ends_of_the_vocabulary_are_taken(tmp_path):
    value = LAYOUTS["qwen2_5_vl"][0](image_token_id=0, vision_end_token_id=119)
    _, config = read_config(write(tmp_path, value))
    assert isinstance(config, QwenVLConfig)
    assert (config.image_token, config.vision_end) == (0, 119)


def test_an_unknown_model_is_told_which_are_known(tmp_path):
    line = refusal(write(tmp_path, text_config("mamba")))
    for known in ("qwen2_5_vl", "internvl", "internvl_chat", "qwen2", "qwen3", "llama"):
        assert known in line.replace(",", "").split()


def test_what_a_file_leaves_out_is_what_transformers_takes(tmp_path):
    value = text_config("qwen3")
    for name in ("head_dim", "rope_theta", "num_key_value_heads"):
        del value[name]
    language = read_config(write(tmp_path, value))[1].language
    assert (language.head_width, language.rope.theta) == (128, 1e4)
    assert language.kv_heads == language.heads
    value["model_type"] = "llama"
    assert read_config(write(tmp_path, value))[1].language.head_width == 8


@pytest.mark.parametrize(
    ("name", "content", "chat"),
    [
        ("chat_template.jinja", "<|im_start|>", "chatml"),
        ("tokenizer_config.json", '{"chat_template": "named SmolLM, trained by Hugging '
         'Face"}', "smollm2"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": '
         '"Cutting Knowledge Date"}]}', "llama3.1"),
        ("tokenizer_config.json", '{"chat_template": null}', "none"),
        ("tokenizer.json", '{"added_tokens": [{"id": 3, "content": '
         '"<|start_header_id|>"}]}', "llama3"),
    ],
)  # fmt: skip
def test_the_chat_of_a_text_model_is_told_by_its_tokenizer(
    name, content, chat, tmp_path
):
    write(tmp_path, text_config())
    (tmp_path / name).write_text(content)
    config = read_config(tmp_path)[1]
    assert isinstance(config, TextConfig)
    assert config.chat == chat
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 3}')
    assert "tokenizer_config.json: " in refusal(tmp_path)
