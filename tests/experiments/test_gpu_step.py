"""The script that measures an update on a GPU, where there is none."""

import dataclasses

import numpy as np
import pytest

from experiments.benchmarks import gpu_step
from experiments.benchmarks.gpu_step import Options, gate, slice_config, update_flops
from mprm_jax.models.weights import tensors


def test_without_a_gpu_nothing_is_measured(capsys):
    with pytest.raises(SystemExit, match="no GPU here: nothing is measured"):
        gpu_step.main(Options())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("backbone", "biases"), [("internvl2.5-8b", 0), ("qwen2.5-vl-7b", 3584 + 2 * 512)]
)
def test_model_flops_are_six_for_each_weight_and_token(backbone, biases):
    """Without attention's own products: the difference that one more layer makes."""
    options = Options(backbone=backbone, layers=8, batch_size=3, tokens=2048)
    more = dataclasses.replace(options, layers=9)
    count, larger = (
        tensors.parameter_count(slice_config(chosen)) for chosen in (options, more)
    )
    width = slice_config(options).language.width
    in_products = larger - count - 2 * width - biases
    extra = update_flops(slice_config(more), more) - update_flops(
        slice_config(options), options
    )
    # Scores and mixture: 2 products of L x L / 2 entries, 2 FLOPs, thrice.
    attention = 3 * 2 * 2 * (2048**2 / 2) * width
    assert extra == pytest.approx(3 * (6 * 2048 * in_products + attention))
    first = update_flops(slice_config(options), options)
    assert first == pytest.approx(8 * extra)


@pytest.mark.parametrize(("ours", "allowed"), [(0.9e-2, True), (3e-2, False)])
def test_parity_is_judged_by_the_difference_that_is_the_score(ours, allowed, tmp_path):
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(2, 3, 2))
    noise = rng.normal(size=(2, 3))
    difference = exact[..., 0] - exact[..., 1]
    noise *= np.linalg.norm(difference) / np.linalg.norm(noise)
    np.save(tmp_path / "torch_exact.npy", exact)
    for name, error in (("torch_bfloat16", 1e-2), ("jax", ours)):
        # A common shift of both logits changes no score.
        shifted = exact + 5.0 + np.stack([error * noise, 0 * noise], axis=-1)
        np.save(tmp_path / f"{name}.npy", shifted)
    found, theirs = gate(tmp_path)
    assert (found, theirs) == pytest.approx((ours, 1e-2))
    assert (found <= 2 * theirs) == allowed
