"""Weights and descriptions on disk: whole, or refused in one line."""

import contextlib
import json
import struct

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from mprm_jax.models.registry import DESCRIPTION, model_files, read_model
from mprm_jax.models.tiny import (
    TOKENIZER,
    TinyModel,
    pretrained,
    pretraining_facts,
    read_weights,
    weights_bytes,
)
from mprm_jax.records.problems import DataError
from mprm_jax.train.open_model import open_model
from tests.mprm_jax.tiny_case import random_params, small_model

MODEL = small_model(vision_layers=0)
PARAMS = random_params(MODEL)
WHOLE = weights_bytes(MODEL, PARAMS, {"command": "mprm", "seed": "0"})


def test_weights_survive_the_round_trip_at_float16():
    model, params, facts = read_weights(WHOLE, "here")
    assert model == MODEL
    assert model.tokenizer.to_str() == MODEL.tokenizer.to_str()
    assert facts == {"command": "mprm", "seed": "0"}
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)

    def same(read, written):
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, np.float16(written))

    jax.tree.map(same, params, PARAMS)
    again = weights_bytes(model, params, facts)
    assert {k: v.tobytes() for k, v in load(again).items()} == {
        k: v.tobytes() for k, v in load(WHOLE).items()
    }


def test_the_shipped_file_is_small_and_says_how_it_was_made():
    model, params = open_model("tiny")
    assert isinstance(model, TinyModel)
    facts = pretraining_facts()
    assert facts["command"].startswith("mprm pretrain scenes")
    assert "--seed" in facts["command"]
    assert any(name.startswith("AUROC") for name in facts)
    assert {"config", "tokenizer"}.isdisjoint(facts)
    assert len(weights_bytes(model, params, facts)) < 3e6


def test_backbones_are_found_by_name_or_file_and_begin_with_a_head_of_zeros(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.write_bytes(WHOLE)
    model, params = pretrained(str(file))
    assert model == MODEL
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(params["head"]))
    np.testing.assert_array_equal(
        params["norm"]["scale"], np.float16(PARAMS["norm"]["scale"])
    )
    assert pretraining_facts(str(file)) == {"command": "mprm", "seed": "0"}
    early, full = pretraining_facts("2400"), pretraining_facts()
    assert early["AUROC: true"] < full["AUROC: true"]
    for name in ("2401", "../tiny_base", str(tmp_path / "none"), ""):
        with pytest.raises(DataError, match="no such backbone"):
            pretrained(name)


def refused(data):
    with pytest.raises(DataError) as raised:
        read_weights(data, "bad.safetensors")
    message = str(raised.value)
    assert "bad.safetensors" in message or "<prm>" in message
    assert "\n" not in message


def test_truncated_weights_are_refused():
    size = struct.unpack("<Q", WHOLE[:8])[0]
    ends = {0, 1, 7, 8, 9, 8 + size // 2, 8 + size, 9 + size, len(WHOLE) - 1}
    for end in ends:
        refused(WHOLE[:end])
    refused(WHOLE + b"\0")


@given(st.binary(max_size=200))
def test_garbage_is_refused(data):
    refused(data)
    refused(struct.pack("<Q", len(data)) + data)


@settings(max_examples=30)
@given(st.integers(0, 3_000), st.integers(1, 255))
def test_a_flipped_byte_of_the_header_is_refused_or_harmless(place, change):
    damaged = bytearray(WHOLE)
    damaged[place] ^= change
    with contextlib.suppress(DataError):
        model, params, _ = read_weights(bytes(damaged), "bad.safetensors")
        expected = jax.eval_shape(model.init, jax.random.key(0))
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)


def rewritten(config=None, arrays=None, metadata=None, drop=()):
    size = struct.unpack("<Q", WHOLE[:8])[0]
    facts = json.loads(WHOLE[8 : 8 + size])["__metadata__"]
    if config is not None:
        facts["config"] = json.dumps(json.loads(facts["config"]) | config)
    facts |= metadata or {}
    return save(
        arrays or load(WHOLE), {k: v for k, v in facts.items() if k not in drop}
    )


@pytest.mark.parametrize(
    "config",
    [
        {"width": 32},
        {"width": 17},
        {"width": -16},
        {"width": 10**12},
        {"layers": 3},
        {"layers": 10**9},
        {"layers": "2"},
        {"heads": 0},
        {"heads": 3},
        {"vocab_size": 5},
        {"vocab_size": 10**15},
        {"layers": -1},
        {"rotary_heads": 5},
        {"cell_tokens": [-1]},
        {"cell_tokens": [10**6]},
        {"cell_tokens": None},
        {"mlp_ratio": 0},
        {"width": None},
    ],
)
def test_configurations_that_are_not_that_of_the_arrays_are_refused(config):
    refused(rewritten(config))


def test_other_arrays_are_refused():
    arrays = load(WHOLE)
    name = next(iter(arrays))
    missing = {k: v for k, v in arrays.items() if k != name}
    refused(rewritten(arrays=missing))
    refused(rewritten(arrays=arrays | {"extra": np.zeros(1, np.float16)}))
    refused(rewritten(arrays=arrays | {name: arrays[name].T[:1]}))
    refused(rewritten(arrays={"a": np.zeros(0, np.float16)}))


def test_numbers_that_are_none_are_refused():
    arrays = load(WHOLE)
    name = next(iter(arrays))
    for bad in (np.nan, np.inf):
        broken = arrays[name].copy()
        broken.flat[0] = bad
        refused(rewritten(arrays=arrays | {name: broken}))


@pytest.mark.parametrize("drop", ["config", "tokenizer"])
def test_weights_without_their_facts_are_refused(drop):
    refused(rewritten(drop=(drop,)))
    refused(rewritten(metadata={drop: "{}"}))
    refused(rewritten(metadata={drop: "["}))
    refused(rewritten(metadata={drop: "[" * 50_000}))


def test_a_tokenizer_without_the_marker_is_refused():
    text = MODEL.tokenizer.to_str().replace("<prm>", "<prn>")
    refused(rewritten(metadata={"tokenizer": text}))


def written(folder, model=MODEL):
    for name, data in model_files(model).items():
        (folder / name).write_bytes(data)
    return folder


def test_a_model_survives_the_round_trip(tmp_path):
    model = small_model(vision_layers=2, rotary_heads=1)
    read = read_model(written(tmp_path, model))
    assert read == model != MODEL
    assert hash(read) == hash(model)
    text = "Largest at a1? <prm>"
    assert isinstance(read, TinyModel)
    assert read.tokenizer.encode(text).ids == model.tokenizer.encode(text).ids
    assert set(model_files(model)) == {DESCRIPTION, TOKENIZER}
    shape = jax.eval_shape(read.init, jax.random.key(0))
    assert shape == jax.eval_shape(model.init, jax.random.key(0))


def test_models_nobody_knows_are_refused(tmp_path):
    written(tmp_path)
    path = tmp_path / DESCRIPTION
    whole = json.loads(path.read_text())
    for change, message in (
        ({"name": "nonsense"}, "unknown model 'nonsense'"),
        ({"schema": "mprm-model/99"}, "schema 'mprm-model/99'"),
        ({"name": 3}, "no description"),
        ({"config": []}, "no description"),
        ({"config": {}}, "no tiny model"),
        ({"config": whole["config"] | {"layers": 10**9}}, "no tiny model"),
        ({"config": whole["config"] | {"vocab_size": 999}}, "999 in the model"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(DataError, match=message) as raised:
            read_model(tmp_path)
        assert str(tmp_path) in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="nonsense"):
        open_model("nonsense")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_files_that_describe_no_model_are_refused(text, tmp_path):
    (written(tmp_path) / DESCRIPTION).write_bytes(text)
    with pytest.raises(DataError, match="no description"):
        read_model(tmp_path)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(DataError, match=DESCRIPTION):
        read_model(tmp_path)
    tokenizer = written(tmp_path) / TOKENIZER
    for text in (b"{}", b"\xff\xfe", b"{"):
        tokenizer.write_bytes(text)
        with pytest.raises(DataError) as raised:
            read_model(tmp_path)
        assert str(tmp_path) in str(raised.value)
    tokenizer.unlink()
    with pytest.raises(DataError, match=TOKENIZER):
        read_model(tmp_path)
    (tmp_path / DESCRIPTION).unlink()
    (tmp_path / DESCRIPTION).mkdir()
    with pytest.raises(DataError, match=DESCRIPTION):
        read_model(tmp_path)
