"""Contrasts in every world; they must single out an arm."""

import numpy as np
import pytest

from experiments.store.results import Result
from experiments.students.contrasts import Contrast, compare

RNG = np.random.default_rng(0)
A, B = RNG.normal(0.3, 1, 25), RNG.normal(0, 1, 25)


def cell(world, rule, keep, values):
    config = {"world": {"name": world}, "arm": {"rule": rule, "keep_ratio": keep}}
    return Result("x", config, 0, {"micro_f1": list(values)})


def test_contrasts_compare_in_every_world_that_has_both_arms():
    results = [
        cell("one", "bis", 0.1, A + 5 + 0.1 * B),
        cell("one", "random", 0.1, A),
        cell("two", "bis", 0.1, A),
        cell("two", "random", 0.1, A + 1 + 0.1 * B),
        cell("three", "bis", 0.1, A),
    ]
    contrast = Contrast("c", {"rule": "bis"}, {"rule": "random"})
    found = compare(results, [contrast])
    assert [(c.world, c.verdict) for c in found] == [("one", "holds"), ("two", "fails")]
    assert found[0].interval.mean == pytest.approx(5 + 0.1 * B.mean())
    results.append(cell("one", "bis", 0.2, A))
    with pytest.raises(ValueError, match="fits 2 arms"):
        compare(results, [contrast])
