"""Expectations over subsets, against all subsets written out."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.best_of_n import best_at, majority_at, pass_at, weighted_at

# (value, weight, answer, right) of each candidate; answers from 0 in order of use.
CANDIDATES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]),
        st.integers(-1, 2),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def columns(candidates):
    values, weights, raw, right = map(list, zip(*candidates, strict=True))
    number = {-1: -1}
    classes = [number.setdefault(one, len(number) - 1) for one in raw]
    return values, weights, classes, right


def over_subsets(m, sizes, accuracy):
    return [
        np.mean([accuracy(s) for s in itertools.combinations(range(m), min(n, m))])
        for n in sizes
    ]


def voted(classes, weights, right):
    """Accuracy of the answer that weighs most in a subset; nobody's answer is wrong."""

    def accuracy(subset):
        sums = {}
        for i in subset:
            if classes[i] >= 0:
                sums[classes[i]] = sums.get(classes[i], 0) + round(10 * weights[i])
        most = max(sums.values(), default=0)
        winners = [of for of, total in sums.items() if total == most > 0]
        shares = [
            np.mean([right[i] for i in range(len(right)) if classes[i] == of])
            for of in winners
        ]
        return np.mean(shares) if winners else 0.0

    return accuracy


@settings(max_examples=50)
@given(CANDIDATES)
def test_every_choice_is_the_mean_over_all_subsets(candidates):
    values, weights, classes, right = columns(candidates)
    m = len(values)
    sizes = [*range(1, m + 1), m + 3]

    def best(subset):
        top = max(values[i] for i in subset)
        return np.mean([right[i] for i in subset if values[i] == top])

    cases = [
        (best_at(values, right, sizes), best),
        (pass_at(right, sizes), lambda subset: any(right[i] for i in subset)),
        (majority_at(classes, right, sizes), voted(classes, [1] * m, right)),
        (weighted_at(classes, weights, right, sizes), voted(classes, weights, right)),
    ]
    for found, accuracy in cases:
        assert found == pytest.approx(over_subsets(m, sizes, accuracy), abs=1e-12)


def test_the_best_of_distinct_values_follows_order_statistics():
    """The k-th smallest of M is the largest of N in C(k-1, N-1) of C(M, N) subsets."""
    right = [k == 12 for k in range(1, 21)]
    ways = math.comb(11, 4) / math.comb(20, 5)
    assert best_at(list(range(20)), right, [5]) == pytest.approx([ways])


def test_more_candidates_are_counted_as_far_as_it_is_cheap():
    rng = np.random.default_rng(0)
    # Equal weights are votes: enumeration of subsets and polynomials agree.
    classes = rng.integers(0, 4, 30).tolist()
    right = [of == 0 for of in classes]
    votes = majority_at(classes, right, [2, 3, 4, 15, 30])
    found = weighted_at(classes, [0.25] * 30, right, [2, 3, 4, 15, 30])
    assert np.isnan(found).tolist() == [False, False, False, True, False]
    known = ~np.isnan(found)
    assert found[known] == pytest.approx(votes[known], abs=1e-12)
    # Of very many, one and all.
    classes = [0] * 70 + [1] * 65
    right = [True] * 70 + [False] * 65
    found = majority_at(classes, right, [1, 8, 135])
    assert found[[0, 2]] == pytest.approx([70 / 135, 1])
    assert np.isnan(found[1])
