"""The script that measures the memory of an update at full depth, where no GPU is."""

import pytest

from experiments.benchmarks.full_depth import Options, measure
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
