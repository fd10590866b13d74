"""The recipe is chosen by the rule that its module states."""

import math
from typing import Any

import pytest

from experiments.grid import recipe
from experiments.grid.recipe import RATES, Recipe
from tests.cli import run
from theory.intervals import Score


def chosen(**values):
    """The rate chosen where rates have these scores by seed."""
    scores = {
        Recipe(float(rate)): {
            "micro_f1": {seed: Score(value) for seed, value in enumerate(of)}
        }
        for rate, of in values.items()
    }
    found: Any = scores
    return recipe.chosen(found).learning_rate


def test_the_lowest_rate_within_one_paired_standard_error_of_the_best():
    best = {"4": (0.80, 0.82, 0.84), "8": (0.80, 0.82, 0.837)}
    # Less the best by .020 in every seed, though seeds differ as much.
    assert chosen(**best, **{"1": (0.78, 0.80, 0.82)}) == 4
    # By .0133 with a standard error of .0073.
    assert chosen(**best, **{"1": (0.79, 0.8173, 0.8127)}) == 4
    # By .010 with one of .059.
    assert chosen(**best, **{"1": (0.70, 0.90, 0.83)}) == 1


@pytest.mark.parametrize("gain", [0.0, 0.02])
def test_the_command_adopts_what_is_told_apart_and_goes_on(
    gain, capsys, tmp_path, monkeypatch
):
    made = []

    def metrics(bench, backbone, of, seed):
        made.append((of, seed))
        level = 0.8 - 0.01 * abs(math.log2(of.learning_rate / RATES[2]))
        level += gain * (of.epochs == 2) - 0.02 * (of.batch_size == 8)
        # Two seeds differ, and a little more with two epochs: less than the gain.
        level += 1e-3 * (seed % 2 - 0.5) * (of.epochs + of.batch_size)
        drawn = {name: [level, level] for name in ("micro_f1", "auroc")}
        return {"micro_f1": level, "auroc": level, "bootstrap": drawn}

    monkeypatch.setattr(recipe._Bench, "_metrics", metrics)
    monkeypatch.setattr(recipe, "fingerprint", lambda model, backbone: backbone)
    arguments = ("run", "recipe", "--backbones", "full", "--output", tmp_path)
    value = run(capsys, *arguments, "--json").json["full"]
    assert value["chosen"]["learning_rate"] == RATES[2]
    assert [of["epochs"] for of in value["adopted"]] == ([2] if gain else [])
    assert len(made) == len(set(made)) == 12 * 2
    # Seeds and worlds that no other experiment has.
    assert min(seed for _, seed in made) == recipe.SPARE
    again = run(capsys, *arguments)
    assert len(made) == 24
    assert again.out.count("chosen") == 2
