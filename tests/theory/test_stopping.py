"""Stopping at a leader, against all orders written out."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.best_of_n import best_at
from theory.stopping import Candidates, stop_at_leader

CANDIDATES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.integers(1, 9)),
    min_size=1,
    max_size=5,
)


def one_order(of, order, threshold, most):
    """Accuracy, number and cost of the candidates drawn in this order."""
    key = list(zip(of.values, of.indices, strict=True))
    n = 1
    while max(key[i] for i in order[:n])[1] < threshold and n < most:
        n += 1
    seen = order[:n]
    leader = max(key[i] for i in seen)
    accuracy = float(np.mean([of.right[i] for i in seen if key[i] == leader]))
    return accuracy, n, sum(of.costs[i] for i in seen)


@given(CANDIDATES)
def test_the_chain_of_leaders_is_the_mean_over_all_orders(candidates):
    of = Candidates(*map(list, zip(*candidates, strict=True)))
    thresholds = [0, 1, 3, np.inf]
    found = stop_at_leader(of, thresholds)
    orders = list(itertools.permutations(range(len(candidates))))
    for (i, at), n in itertools.product(enumerate(thresholds), range(len(candidates))):
        mean = np.mean([one_order(of, order, at, n + 1) for order in orders], axis=0)
        assert [column[i, n] for column in found] == pytest.approx(mean, abs=1e-12)


def test_a_number_alone_is_best_of_n():
    rng = np.random.default_rng(0)
    values, right = rng.integers(0, 9, 20).tolist(), (rng.random(20) < 0.4).tolist()
    found = stop_at_leader(Candidates(values, values, right, [3] * 20), [np.inf])
    assert found.accuracy[0] == pytest.approx(best_at(values, right, range(1, 21)))
    assert found.cost[0] == pytest.approx(3 * np.arange(1, 21))


def test_a_threshold_of_the_value_itself_stops_at_the_first_that_reaches_it():
    """Waiting time for one of g good ones among M without return: (M + 1) / (g + 1)."""
    values = [float(i) for i in range(40)]
    right = [value > 30 for value in values]
    found = stop_at_leader(Candidates(values, values, right, [2] * 40), [35])
    assert found.drawn[0, -1] == pytest.approx(41 / 6)
    assert found.cost[0, -1] == pytest.approx(82 / 6)
    assert found.accuracy[0, -1] == pytest.approx(1)
