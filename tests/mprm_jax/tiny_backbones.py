"""Both backbones, tiny and random, loaded once for each module that imports them."""

import numpy as np
import pytest

from mprm_jax.data.batches import Example
from mprm_jax.models.families import Prompting
from mprm_jax.models.layers import Compute
from mprm_jax.models.weights.load import load_backbone
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder

PLAIN = Compute("float32", remat="none")
SHORT = Prompting(max_length=200, max_tiles=4)
FOLDERS = {"qwen2.5-vl": qwen_folder, "internvl2.5": internvl_folder}


@pytest.fixture(scope="module", params=FOLDERS)
def loaded(request, tmp_path_factory):
    """(model, its parameters)."""
    folder = FOLDERS[request.param](tmp_path_factory.mktemp("weights"))
    made = load_backbone(folder, prompting=SHORT, compute=PLAIN)
    assert made[0].name == request.param
    return made


def example(model, question, steps, images, successes):
    """A prompt with counts of 16 continuations, as the model reads it."""
    tokens, pixels, marker, truncated = model.encode(question, steps, images)
    counts = np.array(successes, np.int32)[: len(marker)]
    trials = np.full_like(counts, 16)
    return Example(tokens, pixels, marker, counts, trials, truncated)
