"""The script that measures the memory of an update at full depth, where no GPU is."""

import numpy as np
import pytest

from experiments.benchmarks.full_depth import Options, make_batch, make_model, measure
from mprm_jax.models.weights import tensors
from tests.mprm_jax.backbone_shapes import BACKBONES, full_config

RELEASED = {"internvl2.5-8b": 8_075_365_376, "qwen2.5-vl-7b": 8_292_166_656}


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_are_those_of_the_released_files(name):
    assert tensors.parameter_count(full_config(name, toy=False)) == RELEASED[name]


@pytest.mark.parametrize(
    ("name", "remat", "off"),
    [
        ("internvl2.5-8b", "all", 0.1),
        ("qwen2.5-vl-7b", "all", 0.15),
        ("qwen2.5-vl-7b", "none", 0.05),
    ],
)
def test_what_is_said_at_full_size_is_what_the_compiler_says(name, remat, off):
    """Nothing is allocated."""
    found = measure(Options(tokens=2560, remat=remat), name)
    said, compiled = found["said"], found["compiled"]
    temporary = said["gradients"] + said["activations"]
    assert temporary / compiled["temporary"] == pytest.approx(1, abs=off)
    # The rows of the released head are said, but no update reads them.
    kept = sum(said.values()) - temporary
    assert 1.0 < kept / compiled["kept"] < 1.1
    assert found["seconds"] == []


def test_a_toy_is_updated():
    found = measure(Options(tokens=512, updates=1, toy=True), "qwen2.5-vl-7b")
    assert len(found["seconds"]) == 1
    assert found["trained"] < found["parameters"] / 4


def test_images_fill_the_tokens_that_stand_for_them():
    options = Options(tokens=512, batch_size=2, steps=3, toy=True)
    model = make_model(options, "qwen2.5-vl-7b").base
    batch = make_batch(options, model)
    # 364 x 532 pixels in blocks of 28 x 28.
    assert np.sum(batch.tokens_BxL == 5, axis=1).tolist() == [13 * 19] * 2
    assert batch.images_BxPxD.shape[:2] == (2, 4 * 13 * 19)
    assert batch.tokens_BxL[0, np.array([0, 13 * 19 + 1])].tolist() == [3, 4]
    assert batch.marker_BxS.min() > 13 * 19 + 1
    with pytest.raises(SystemExit, match="the image alone has 247 tokens"):
        make_batch(Options(tokens=250, toy=True), model)
