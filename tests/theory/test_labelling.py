"""Labels that leave doubtful steps out: against fractions, and judged counts."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.continuations import JUDGED
from theory.contrast import expected_contrast, selection_efficiency, weighted_efficiency
from theory.labelling import DOUBTFUL, LABELLINGS, contrast_weights, step_targets
from theory.rollouts import Rollouts
from theory.scores import moment_prior

# (K, N) of a step; N = 0: never sampled.
STEP = st.sampled_from((0, 1, 2, 3, 4, 5, 12, 16)).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)
ROLLOUT = st.lists(STEP, min_size=1, max_size=6)


def corpus(rollouts):
    counts = [step for rollout in rollouts for step in rollout]
    k, n = np.array(counts, np.uint16).T
    offsets = np.cumsum([0, *map(len, rollouts)])
    return Rollouts(k, n, offsets, np.zeros(len(rollouts), np.int64), ("s",))


def written_out(rollout, labelling):
    """(target, weight) of each step, one at a time, in fractions."""
    measured = [k > 0 for k, n in rollout if n]
    mixed = any(measured) and not all(measured)
    for j, (k, n) in enumerate(rollout):
        share = Fraction(k, n) if n else Fraction(0)
        t = Fraction(j, len(rollout) - 1) if len(rollout) > 1 else 1
        if labelling == "falling":
            yield share > (1 - t) / 4, bool(n)
            continue
        doubtful = 0 < share < Fraction(1, 4) and (mixed or labelling == "banded")
        yield k > 0, bool(n) and not doubtful


@given(st.lists(ROLLOUT.filter(lambda x: any(n for _, n in x)), min_size=1, max_size=4))
def test_targets_are_those_of_each_step_written_out(rollouts):
    for labelling in ("masked", "banded", "falling"):
        target, weight = step_targets(corpus(rollouts), labelling)
        wanted = [step for x in rollouts for step in written_out(x, labelling)]
        assert [*zip(target.tolist(), weight.tolist(), strict=True)] == wanted


@pytest.mark.parametrize("trials", [4, 8, 16, 32])
def test_the_band_ends_where_judged_counts_speak_for_a_right_step(trials):
    wrong, right = JUDGED(trials)
    for k in range(1, trials + 1):
        assert (right[k] > wrong[k]) == (k >= DOUBTFUL * trials)


def test_weights_are_the_most_efficient_and_pure_rollouts_count_nothing():
    rng = np.random.default_rng(3)
    k = rng.binomial(16, rng.beta(0.7, 0.3, 600))
    of = Rollouts(k, np.full(600, 16), np.arange(0, 601, 5), np.zeros(120, int), ("s",))
    target, weight = step_targets(of, "weighted")
    assert np.array_equal(target, k > 0)
    assert np.array_equal(weight[::5], contrast_weights(of))
    c, v = expected_contrast(of, *moment_prior(of))
    assert not weight[::5][v == 0].any()
    assert (c[v > 0] > 0).all()
    assert selection_efficiency(c, v, weight[::5]) == pytest.approx(
        weighted_efficiency(c, v)
    )


def test_an_unknown_labelling_is_refused():
    assert "masked" in LABELLINGS
    with pytest.raises(ValueError, match="labelling"):
        step_targets(corpus([[(1, 2)]]), "hard")  # pyright: ignore[reportArgumentType]
