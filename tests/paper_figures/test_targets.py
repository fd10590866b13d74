"""The numbers behind the figures of targets, by other means than the theory's."""

import numpy as np
import pytest
from scipy.stats import betabinom

from paper_figures import targets
from tests.paper_figures.test_information import curves

WRONG, RIGHT = ([0.13, 1.0], [0.73, 0.30])


def test_shares_kept_are_squared_correlations():
    shown = curves(targets.targets())
    k = np.arange(17)
    f0, f1 = (betabinom.pmf(k, 16, *ab) for ab in (WRONG, RIGHT))
    for name, t in (("K > 2", k > 2), ("soft", k), ("posterior", 0.85 * f1)):
        if name == "posterior":
            t = t / (t + 0.15 * f0)
        q, y = shown["as judged", name]
        for at in (7, 120, 190):
            joint = np.stack([(1 - q[at]) * f0, q[at] * f1])
            truth = np.repeat([0.0, 1.0], 17)
            both = np.cov(truth, np.tile(t, 2), aweights=joint.ravel(), ddof=0)
            squared = both[0, 1] ** 2 / both[0, 0] / both[1, 1]
            assert y[at] == pytest.approx(squared, rel=1e-9)
    # K itself is what the posterior keeps where its base rate is right.
    _, of_count = shown["as judged", "count"]
    _, of_posterior = shown["as judged", "posterior"]
    q = shown["as judged", "count"][0]
    near = np.argmin(np.abs(q - 0.85))
    assert of_posterior[near] == pytest.approx(of_count[near], rel=1e-6)
    assert np.all(of_posterior <= of_count * (1 + 1e-12))
    assert {panel for panel, _ in shown} == {"as judged", "r >= 0.5", "r >= 0.1"}


def test_best_numbers_of_continuations_are_the_best():
    shown = curves(targets.continuations())
    q, best = shown["N*, c0/c1 = 10", "hard"]
    ratio, at_cost = shown["N*, q = 0.85", "hard"]

    def gain(q, n, ratio):
        zero_wrong, zero_right = (betabinom.pmf(0, n, *ab) for ab in (WRONG, RIGHT))
        noisy = q * (1 - zero_right) + (1 - q) * (1 - zero_wrong)
        j = zero_wrong - zero_right
        return (j * q * (1 - q)) ** 2 / (noisy * (1 - noisy)) / (ratio + n)

    every = range(1, 65)
    for i in (0, 48, 90):
        assert best[i] == max(every, key=lambda n: gain(q[i], n, 10))
    for i in (0, 30, 60):
        assert at_cost[i] == max(every, key=lambda n: gain(0.85, n, ratio[i]))
    n, kept = shown["share kept by K > 0", "as judged"]
    assert kept[6] * 0.1275 / (n[6] + 1) == pytest.approx(gain(0.85, 7, 1))
    (peak,), (height,) = shown["share kept by K > 0", "most, as judged"]
    assert height == kept.max() == kept[n == peak][0]
