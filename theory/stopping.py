"""Drawing candidates until one convinces: exact expectations over random orders."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """The M >= 1 candidates of a problem, in any order.

    Attributes:
        values: the largest one seen leads.
        indices: drawing stops once the leader's is at least the threshold; of equal
            values the larger index leads.
        right: whether each is right.
        costs: of drawing each.
    """

    values: Sequence[float]
    indices: Sequence[float]
    right: Sequence[bool]
    costs: Sequence[float]


class Stopped(NamedTuple):
    """What comes of drawing at most 1, 2, ... M candidates, ``[n_thresholds, M]`` each.

    Attributes:
        accuracy: probability that the leader is right when drawing stops.
        drawn: expected number of candidates drawn.
        cost: expected sum of their costs.
    """

    accuracy: np.ndarray
    drawn: np.ndarray
    cost: np.ndarray


def stop_at_leader(of: Candidates, thresholds: Sequence[float]) -> Stopped:
    """Draw in random order until the leader's index is at least a threshold, or as many
    are drawn as may be.

    After n draws without a stop the leader is a Markov chain. Given leader k, no
    candidate above it was drawn, whatever the order below it was, so each is next with
    probability 1/(M - n). u_n(k), the probability of leader k, and d_n(k), its product
    with the expected cost so far, follow (sums over leaders j below k; A_k candidates
    are above k; C_k all cost that is not above it):

        arrive u = sum_j u_n(j) / (M - n)
        arrive d = sum_j [d_n(j) + c_k u_n(j)] / (M - n)
        stay u = u_n(k) [1 - A_k / (M - n)]
        stay d = d_n(k) [1 - A_k / (M - n)] + [C_k u_n(k) - d_n(k)] / (M - n)

    and who arrives with an index of at least the threshold stops. Equals in value and
    index are one leader.

    Args:
        of: the candidates.
        thresholds: of the index; with inf only the number stops.
    """
    m = len(of.values)
    key = list(zip(of.values, of.indices, strict=True))
    order = sorted(range(m), key=key.__getitem__)
    groups = [list(same) for _, same in itertools.groupby(order, key=key.__getitem__)]
    size = np.array([len(group) for group in groups])
    share = np.array([np.mean([of.right[i] for i in group]) for group in groups])
    cost = np.array([sum(of.costs[i] for i in group) for group in groups], float)
    index = np.array([of.indices[group[0]] for group in groups])
    above, upto = m - size.cumsum(), cost.cumsum()
    stops = index >= np.asarray(thresholds)[:, None]
    u = d = np.zeros(stops.shape)
    accuracy = drawn = spent = np.zeros(len(stops))
    found = []
    for n in range(m):
        left = m - n
        # Leaders below each; before the first draw, all there is.
        below_u = u.cumsum(axis=1) - u + (n == 0)
        below_d = d.cumsum(axis=1) - d
        arrive_u = size * below_u / left
        arrive_d = (size * below_d + cost * below_u) / left
        accuracy = accuracy + (arrive_u * stops) @ share
        drawn = drawn + (n + 1) * (arrive_u * stops).sum(axis=1)
        spent = spent + (arrive_d * stops).sum(axis=1)
        stay = 1 - above / left
        d = d * stay + (upto * u - d) / left + arrive_d * ~stops
        u = u * stay + arrive_u * ~stops
        last = accuracy + u @ share, drawn + (n + 1) * u.sum(1), spent + d.sum(1)
        found.append(last)
    return Stopped(*(np.stack(of, axis=1) for of in zip(*found, strict=True)))
