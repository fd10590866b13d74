"""The script that measures an update on a GPU, with a toy on the CPU."""

import pytest

from experiments.benchmarks import gpu_step
from experiments.benchmarks.gpu_step import Options


@pytest.mark.parametrize("backbone", ["internvl2.5-8b", "qwen2.5-vl-7b"])
def test_both_sides_run_and_agree(backbone, capfd):
    gpu_step.main(
        Options(
            backbone=backbone,
            layers=2,
            batch_size=2,
            tokens=48,
            steps=3,
            warmup=1,
            updates=2,
            rounds=1,
            sides=("jax", "torch"),
            toy=True,
        )
    )
    told = capfd.readouterr().out
    assert "these times measure nothing" in told
    table = {line.split()[0]: line.split() for line in told.splitlines() if line}
    ours, theirs = table["jax"][-2:], table["torch"][-2:]
    for a, b in zip(ours, theirs, strict=True):
        assert float(a) == pytest.approx(float(b), abs=0.02)
