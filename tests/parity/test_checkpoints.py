"""What this package writes, ``transformers`` reads; and full size without tensors."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from mprm_jax.models.weights import tensors
from mprm_jax.models.weights.config import INTERNVL, TEXT, config_json
from mprm_jax.models.weights.names import canonical_name, entries
from tests.mprm_jax.test_weights_full_size import (
    LLAMA31_8B,
    QWEN3_8B,
    QWEN25_MATH_7B,
    SMOLLM2_135M,
    internvl_8b,
    qwen_7b,
    read,
)
from tests.parity import remote_torch
from tests.parity.internvl_cases import make_internvl
from tests.parity.qwen_cases import make_qwen
from tests.parity.references import relative
from tests.parity.text_cases import make_text


@pytest.mark.parametrize(
    ("make", "name", "architecture"),
    [
        (make_qwen, "one image", "Qwen2_5_VLForConditionalGeneration"),
        (make_qwen, "tied", "Qwen2_5_VLForConditionalGeneration"),
        (make_internvl, "native qwen2", "InternVLForConditionalGeneration"),
        (make_internvl, "native llama", "InternVLForConditionalGeneration"),
        (make_internvl, "remote internlm2", "InternVLForConditionalGeneration"),
        (make_internvl, "remote qwen2", "InternVLForConditionalGeneration"),
        (make_internvl, "native qwen3", "InternVLForConditionalGeneration"),
        (make_text, "qwen2", "Qwen2ForCausalLM"),
        (make_text, "qwen3", "Qwen3ForCausalLM"),
        (make_text, "llama3", "LlamaForCausalLM"),
    ],
)
def test_transformers_loads_what_is_saved_and_computes_the_same(
    make, name, architecture, tmp_path
):
    (tmp_path / "in").mkdir()
    case = make(name, tmp_path / "in")
    config, params = tensors.load_pretrained(tmp_path / "in", jnp.float32)
    tensors.save_pretrained(tmp_path / "out", config, params)
    kind = getattr(transformers, architecture)
    loaded, report = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    ids = torch.as_tensor(case.tokens).long()
    # Text alone is enough here: images are compared tensor by tensor below.
    text = torch.where(ids < 10, 21, ids)
    with torch.no_grad():
        expected = case.model.language_model if hasattr(case.model, "mlp1") else None
        if expected is None:
            expected = case.model(input_ids=text).logits
        else:
            mask = torch.ones_like(text)
            expected = case.model(text, mask, None)
        found = loaded.eval()(input_ids=text).logits
    assert relative(found, expected) < 1e-5
    if make is not make_internvl or name.startswith("native"):
        theirs, ours = case.model.state_dict(), loaded.state_dict()
        assert theirs.keys() == ours.keys()
        for key, value in theirs.items():
            assert torch.equal(value, ours[key]), key


def compare(model, kind, config):
    found = {e.name: e.shape for e in entries(kind, config)}
    expected = {
        canonical_name(kind, name): tuple(weight.shape)
        for name, weight in model.named_parameters()
    }
    assert found == expected
    assert tensors.parameter_count(config) == sum(
        int(np.prod(shape)) for shape in expected.values()
    )


def test_full_size_qwen_has_the_names_and_shapes_of_transformers(tmp_path):
    value = qwen_7b()
    kind, config = read(tmp_path, value)
    described = transformers.Qwen2_5_VLConfig(**value)
    with torch.device("meta"):
        model = transformers.Qwen2_5_VLForConditionalGeneration(described)
    compare(model, kind, config)


def test_full_size_internvl_has_the_names_and_shapes_of_its_remote_code(tmp_path):
    kind, config = read(tmp_path, internvl_8b())
    with torch.device("meta"):
        vision = remote_torch.InternViT(1024, 24, 16, 4096, 448, True)
        language = remote_torch.InternLM2(92553, 4096, 32, 32, 8, 14336)
        model = remote_torch.InternVLChat(vision, language, 4096, 92546)
    compare(model, kind, config)


def test_full_size_internvl_has_the_names_and_shapes_of_transformers(tmp_path):
    _, config = read(tmp_path, internvl_8b())
    described = transformers.InternVLConfig(**config_json(config, "bfloat16"))
    with torch.device("meta"):
        model = transformers.InternVLForConditionalGeneration(described)
    compare(model, INTERNVL, config)


@pytest.mark.parametrize("value", [QWEN25_MATH_7B, QWEN3_8B, LLAMA31_8B, SMOLLM2_135M])
def test_full_size_text_models_have_the_names_and_shapes_of_transformers(
    value, tmp_path
):
    _, config = read(tmp_path, value)
    described = transformers.AutoConfig.for_model(**value)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(described)
    compare(model, TEXT, config)
