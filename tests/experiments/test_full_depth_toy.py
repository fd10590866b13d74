"""The same script on a toy, which is allocated and updated."""

import numpy as np
import pytest

from experiments.benchmarks.full_depth import Options, make_batch, make_model, measure
from tests.mprm_jax.quick import quick_compilation as quick_compilation


def test_a_toy_is_updated():
    found = measure(Options(tokens=272, updates=1, toy=True), "qwen2.5-vl-7b")
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
