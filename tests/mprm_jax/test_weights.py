import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mprm_jax.models.weights import tensors as weights
from mprm_jax.models.weights.config import INTERNVL, INTERNVL_CHAT_FUSED, QWEN, TEXT
from mprm_jax.models.weights.names import canonical_name, entries
from mprm_jax.records.problems import DataError
from tests.mprm_jax.random_weights import (
    internvl_chat_config,
    qwen_config,
    text_config,
    write_checkpoint,
)

CHAT = {"<IMG_CONTEXT>": 7}


@pytest.fixture
def qwen(tmp_path):
    write_checkpoint(tmp_path / "qwen", qwen_config(), 0)
    return tmp_path / "qwen"


def load(folder, **options):
    return weights.load_pretrained(folder, jnp.float32, **options)


def test_every_parameter_is_filled_from_exactly_one_tensor(tmp_path):
    configs = qwen_config(), internvl_chat_config(), text_config("qwen3")
    for index, config in enumerate(configs):
        folder = tmp_path / str(index)
        kind, shape, tensors = write_checkpoint(folder, config, 0, CHAT)
        _, params = load(folder)
        listed = entries(kind, shape)
        targets = [(path, e.layer) for e in listed for path in e.targets]
        assert len(set(targets)) == len(targets)
        filled = sum(int(np.prod(e.shape)) for e in listed)
        assert filled == sum(leaf.size for leaf in jax.tree.leaves(params))
        assert filled == weights.parameter_count(shape)
        assert filled == sum(tensor.size for tensor in tensors.values())


def test_fused_rows_go_to_their_queries_keys_and_values(tmp_path):
    """InternLM2: 2 key heads of width 8, each with two query heads before it."""
    _, _, tensors = write_checkpoint(tmp_path, internvl_chat_config(), 0, CHAT)
    _, params = load(tmp_path)
    fused = tensors["language_model.model.layers.1.attention.wqkv.weight"]
    layers = params["language"]["layers"]
    query = [*range(0, 16), *range(32, 48)]
    for name, rows in (
        ("query", query),
        ("key", [*range(16, 24), *range(48, 56)]),
        ("value", [*range(24, 32), *range(56, 64)]),
    ):
        kernel = np.asarray(layers[name]["kernel"][1])
        np.testing.assert_array_equal(kernel, fused[rows].T)
    qkv = tensors["vision_model.encoder.layers.0.attn.qkv.bias"]
    bias = params["vision"]["layers"]["key"]["bias"][0]
    np.testing.assert_array_equal(bias, qkv[24:48])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_what_is_saved_is_what_was_loaded(qwen, tmp_path, dtype):
    tensors = load_file(qwen / "model.safetensors")
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    save_file(tensors, qwen / "model.safetensors", {"format": "pt"})
    config, params = weights.load_pretrained(qwen, dtype)
    weights.save_pretrained(tmp_path / "out", config, params, dtype)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert saved[name].dtype == tensor.dtype
        assert saved[name].tobytes() == tensor.tobytes()
    assert load(tmp_path / "out")[0] == config


def test_internlm2_leaves_as_llama_and_comes_back_the_same(tmp_path):
    write_checkpoint(tmp_path / "chat", internvl_chat_config(), 0, CHAT)
    config, params = load(tmp_path / "chat")
    weights.save_pretrained(tmp_path / "out", config, params)
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert text["model_type"] == "llama"
    again, same = load(tmp_path / "out")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_a_text_model_leaves_as_it_came(kind, tmp_path):
    _, _, tensors = write_checkpoint(tmp_path / "in", text_config(kind), 0)
    config, params = load(tmp_path / "in")
    weights.save_pretrained(tmp_path / "out", config, params)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["model_type"] == kind
    assert load(tmp_path / "out")[0] == config
    # As a model without its head is saved; where the head is tied, nothing is missing.
    bare = {name.removeprefix("model."): x for name, x in tensors.items()}
    bare.pop("lm_head.weight")
    save_file(bare, tmp_path / "in" / "model.safetensors")
    with pytest.raises(DataError, match=r"missing lm_head\.weight"):
        load(tmp_path / "in")
    value = text_config(kind, tie_word_embeddings=True)
    (tmp_path / "in" / "config.json").write_text(json.dumps(value))
    language = load(tmp_path / "in")[1]["language"]
    jax.tree.map(
        np.testing.assert_array_equal, language["layers"], params["language"]["layers"]
    )


def test_shards_load_as_one_file_does(qwen, tmp_path, monkeypatch):
    config, params = load(qwen)
    monkeypatch.setattr(weights, "_SHARD_BYTES", 20_000)
    weights.save_pretrained(tmp_path / "out", config, params)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 3
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out")[1], params)
    shards[1].unlink()
    with pytest.raises(DataError, match=f"are missing; fetch them: {shards[1].name}"):
        load(tmp_path / "out")


def test_names_of_other_versions_of_transformers_are_the_same():
    for kind, new, old in (
        (QWEN, "model.visual.x", "visual.x"),
        (QWEN, "model.language_model.layers.0.x", "model.layers.0.x"),
        (QWEN, "lm_head.weight", "lm_head.weight"),
        (INTERNVL, "model.vision_tower.x", "vision_tower.x"),
        (INTERNVL, "model.language_model.norm.x", "language_model.model.norm.x"),
        (INTERNVL, "lm_head.weight", "language_model.lm_head.weight"),
        (INTERNVL_CHAT_FUSED, "language_model.output.x", "language_model.output.x"),
        (TEXT, "layers.0.x", "model.layers.0.x"),
        (TEXT, "lm_head.weight", "lm_head.weight"),
    ):
        assert canonical_name(kind, new) == canonical_name(kind, old) == old


def test_frozen_parameters_may_be_held_in_another_precision(qwen):
    _, params = load(qwen, frozen_dtype=jnp.bfloat16)
    assert params["vision"]["layers"]["query"]["kernel"].dtype == jnp.bfloat16
    assert params["vision"]["merger_in"]["kernel"].dtype == jnp.float32
    assert params["language"]["lm_head"].dtype == jnp.bfloat16
    assert params["language"]["embedding"].dtype == jnp.float32


def test_a_head_in_the_file_counts_though_the_configuration_says_tied(tmp_path):
    write_checkpoint(tmp_path, qwen_config(), 0)
    value = qwen_config(tie_word_embeddings=True)
    (tmp_path / "config.json").write_text(json.dumps(value))
    config, params = load(tmp_path)
    assert not config.language.tied
    assert "lm_head" in params["language"]


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("visual.merger.mlp.0.bias"), "missing visual.merger.mlp.0"),
        (lambda t: t.update(extra=np.zeros(2)), "unexpected extra"),
        (
            lambda t: t.update({"model.norm.weight": np.zeros((33,), np.float32)}),
            r"model.norm.weight has shape \[33\], config.json asks for \[32\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros((32,), np.int8)}),
            "stored as I8",
        ),
        (
            lambda t: t.update({"model.visual.merger.mlp.0.bias": np.zeros(96)}),
            "already in another file",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(qwen, change, message, monkeypatch):
    rewrite(qwen, change)
    monkeypatch.setattr(weights, "_allocate", None)  # Nothing is allocated before.
    with pytest.raises(DataError, match=message):
        load(qwen)


def test_only_the_first_of_many_missing_names_are_listed(qwen):
    rewrite(qwen, lambda tensors: [tensors.pop(k) for k in list(tensors)[:30]])
    with pytest.raises(DataError, match="and 22 more") as caught:
        load(qwen)
    assert "\n" not in str(caught.value)


def damaged(data):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = next(name for name in header if name != "__metadata__")

    def lying(**fields):
        text = json.dumps(header | {name: header[name] | fields}).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    yield "cut off", data[:-5]
    yield "empty", b""
    yield "huge header", struct.pack("<Q", 10**15) + data[8:]
    yield "shape", lying(shape=[10**9, 10**9])
    yield "offsets", lying(data_offsets=[0, 10**15])
    yield "dtype", lying(dtype="F16")
    yield "deep", struct.pack("<Q", 200_000) + b"[" * 200_000
    yield "no json", struct.pack("<Q", 4) + b"{]{]"


def test_files_that_are_cut_off_or_whose_header_lies_are_refused(qwen):
    path = qwen / "model.safetensors"
    whole = path.read_bytes()
    for _, data in damaged(whole):
        path.write_bytes(data)
        with pytest.raises(DataError, match="no whole safetensors file") as caught:
            load(qwen)
        assert "\n" not in str(caught.value)


def test_pickles_are_refused(qwen):
    (qwen / "model.safetensors").rename(qwen / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickled weights \(pytorch_model.bin\)"):
        load(qwen)
    (qwen / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        load(qwen)


@pytest.mark.parametrize("name", ["../secret.safetensors", "tensors.bin", "/etc/x"])
def test_an_index_names_only_safetensors_beside_it(qwen, name):
    index = {"weight_map": {"model.norm.weight": name}}
    (qwen / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="no safetensors file beside it"):
        load(qwen)


def test_folders_and_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match=r"config\.json: No such file"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(internvl_chat_config()))
    with pytest.raises(DataError, match="has <IMG_CONTEXT>"):
        load(tmp_path)
