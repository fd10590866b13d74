"""Stopping at a leader, against all orders written out."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stopping import Candidates, stop_at_leader

CANDIDATES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.integers(1, 9)),
    min_size=1,
    max_size=5,
)


def one_order(of, order, threshold):
    """Accuracy, number and cost of the candidates drawn in this order."""
    key = list(zip(of.values, of.indices, strict=True))
    n = 1
    while max(key[i] for i in order[:n])[1] < threshold and n < len(order):
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
    for i, threshold in enumerate(thresholds):
        mean = np.mean([one_order(of, order, threshold) for order in orders], axis=0)
        assert [column[i] for column in found] == pytest.approx(mean, abs=1e-12)


def test_a_threshold_of_the_value_itself_stops_at_the_first_that_reaches_it():
    """Waiting time for one of g good ones among M without return: (M + 1) / (g + 1)."""
    values = [float(i) for i in range(40)]
    right = [value > 30 for value in values]
    found = stop_at_leader(Candidates(values, values, right, [2] * 40), [35])
    assert found.drawn == pytest.approx([41 / 6])
    assert found.cost == pytest.approx([82 / 6])
    assert found.accuracy == pytest.approx([1])
