"""The released models by shape alone: nothing of them is allocated."""

import json

import numpy as np
import pytest

from mprm_jax.models.families import with_language
from mprm_jax.models.weights import tensors
from mprm_jax.models.weights.config import config_json, read_config
from mprm_jax.models.weights.names import entries
from tests.mprm_jax.backbone_shapes import BACKBONES, full_config

# The numbers of parameters in the headers of the released files.
RELEASED = {"internvl2.5-8b": 8_075_365_376, "qwen2.5-vl-7b": 8_292_166_656}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("tied", [False, True])
def test_they_have_their_number_of_parameters_and_survive_being_saved(
    name, tied, tmp_path
):
    config = with_language(full_config(name, toy=False), tied=tied)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config, "bfloat16")))
    layout, read = read_config(tmp_path)
    assert read == config
    count = RELEASED[name]
    if tied:
        count -= config.language.vocabulary * config.language.width
    assert tensors.parameter_count(config) == count
    assert sum(int(np.prod(e.shape)) for e in entries(layout, config)) == count
