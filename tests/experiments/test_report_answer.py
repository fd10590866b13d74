"""Intervals over seeds and rollouts, and the words that may be said of them."""

import numpy as np
import pytest

from experiments.console.text import number, signed
from experiments.grid.answer import (
    Estimate,
    Score,
    answer_sentence,
    mean_over_seeds,
    paired_difference,
    verdict,
)


def scores(values, replicates=None):
    rows = replicates if replicates is not None else [()] * len(values)
    return [Score(v, tuple(r)) for v, r in zip(values, rows, strict=True)]


def by_seed(*pairs):
    return dict(pairs)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_equal_differences_do_not_show_how_seeds_vary(seeds):
    """A t interval would have no width, and call any difference certain."""
    # Equal but for rounding: 0.65 - 0.60 is not 0.66 - 0.61 in floating point.
    bis = by_seed(*((s, Score(0.65 + 0.01 * s)) for s in range(seeds)))
    random = by_seed(*((s, Score(0.60 + 0.01 * s)) for s in range(seeds)))
    found = paired_difference(bis, random)
    assert found is not None
    assert found.mean == pytest.approx(0.05)
    assert found == Estimate(found.mean, None, seeds, "nothing", None)
    assert not found.excludes_zero
    assert verdict(found) == "open"
    said = answer_sentence(found, "BIS")
    assert "not decided" in said
    assert f"+0.050 micro-F1 in each of {seeds} seeds" in said
    assert "interval" not in said
    # Rollouts alone, however sure, decide as little as in one seed.
    narrow = [0.049, 0.05, 0.051]
    rollouts = mean_over_seeds(scores([0.05] * seeds, [narrow] * seeds))
    assert verdict(rollouts) == "open"


def test_differences_are_taken_seed_by_seed():
    random = by_seed((0, Score(0.40)), (1, Score(0.60)), (2, Score(0.50)))
    bis = by_seed(
        (2, Score(0.53)), (1, Score(0.62)), (0, Score(0.42)), (7, Score(0.99))
    )
    found = paired_difference(bis, random)
    assert found is not None
    assert found.mean == pytest.approx((0.02 + 0.02 + 0.03) / 3)
    # Unpaired, the spread of .1 between the seeds would drown it.
    assert found.excludes_zero
    assert found.seeds == 3


def test_replicates_are_subtracted_too():
    common = np.random.default_rng(0).standard_normal(100)
    bis = by_seed((0, Score(0.6, tuple(0.6 + common))))
    random = by_seed((0, Score(0.5, tuple(0.5 + common))))
    found = paired_difference(bis, random)
    assert found is not None
    assert found.half_width == pytest.approx(0, abs=1e-12)
    unequal = paired_difference(bis, by_seed((0, Score(0.5, (0.5, 0.4)))))
    assert unequal is not None
    assert unequal.covers == "nothing"


def test_an_arm_without_a_seed_is_set_against_every_seed():
    base = by_seed((None, Score(0.4)))
    random = by_seed((0, Score(0.5)), (1, Score(0.6)))
    forward, backward = paired_difference(base, random), paired_difference(random, base)
    assert forward is not None
    assert backward is not None
    assert forward.seeds == 2
    assert forward.mean == pytest.approx(-0.15) == -backward.mean
    assert paired_difference(by_seed((0, Score(1))), by_seed((1, Score(1)))) is None
    assert paired_difference(by_seed(), random) is None


@pytest.mark.parametrize(
    ("mean", "half_width", "seeds", "adjusted_p", "expected"),
    [
        (0.05, 0.04, 3, None, "ahead"),
        (-0.05, 0.04, 3, None, "behind"),
        (0.05, 0.06, 3, None, "open"),
        (-0.05, 0.05, 3, None, "open"),
        (0.05, 0.01, 1, None, "open"),
        (0.05, None, 1, None, "open"),
        # What else was asked decides where it was corrected for.
        (0.05, 0.04, 3, 0.051, "open"),
        (-0.05, 0.04, 3, 0.049, "behind"),
    ],
)
def test_verdicts(mean, half_width, seeds, adjusted_p, expected):
    difference = Estimate(mean, half_width, seeds, "seeds")
    assert verdict(difference, adjusted_p) == expected
    assert verdict(None) == "open"


def sentence(mean, half_width, seeds=3, **given):
    covers = "seeds and rollouts" if seeds > 1 else "rollouts"
    found = Estimate(mean, half_width, seeds, covers)
    return answer_sentence(found, "BIS", **given).replace("\N{NO-BREAK SPACE}", " ")


def test_the_sentence_says_who_won_by_how_much_and_how_surely():
    assert sentence(0.0412, 0.02, where="In the world “scarce”, ") == (
        "In the world “scarce”, BIS beat Random by 0.041 micro-F1 (mean of 3 seeds, "
        "paired); the 95 % interval over seeds and rollouts, +0.021 to +0.061, "
        "excludes zero."
    )
    lost = sentence(-0.0412, 0.02, adjusted_p=0.01)
    assert "BIS did not beat Random: it lost by 0.041" in lost
    assert "−0.061 to −0.021, excludes zero before correction; Holm’s p is 0.01" in lost
    open_ = sentence(-0.01, 0.02)
    assert open_.startswith("It is not decided whether BIS beats Random")
    assert "difference is −0.010 micro-F1" in open_
    assert "−0.030 to +0.010, includes zero." in open_


def test_one_seed_or_none_decides_nothing():
    assert "ahead of Random by 0.200" in sentence(0.2, 0.01, seeds=1)
    assert "behind Random by 0.200" in sentence(-0.2, None, seeds=1)
    assert "level with Random" in sentence(0.0, None, seeds=1)
    for mean in (0.2, -0.2, 0.0):
        said = sentence(mean, 0.01, seeds=1)
        assert "decides nothing" in said
        assert "beat" not in said
    assert "no answer" in answer_sentence(None, "BIS")


def test_numbers_have_true_minus_signs_and_no_negative_zero():
    assert number(-0.0004) == "0.000"
    assert number(-0.0006) == "−0.001"
    assert (signed(0.0004), signed(-0.0004), signed(0.5)) == (
        "0.000",
        "0.000",
        "+0.500",
    )
    assert signed(-1.25, 1) == "−1.2"
