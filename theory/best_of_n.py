"""What a choice among N of M candidates is worth: exact expectations over all subsets.

The M candidates of a problem are exchangeable draws, so the mean over its C(M, N)
subsets is the unbiased estimate of best-of-N from them with the least variance (a
U-statistic, as pass@k of Chen et al. 2021 is); drawing subsets would only add noise.
Every function takes sizes N and gives the accuracy at each, float64; a size over M
counts as M. Ties, of values or of votes, are decided by even chance.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

# Numbers in a table of enumerated subsets, 16 MiB: all subsets of one size of up to 20
# candidates, four of 36, two of 161. And candidates of which every size is counted.
_MEMBERS = 1 << 21
_VOTERS = 128

# Sums of weights in [0, 1] that differ by less differ by rounding.
_ROUNDING = 1e-12


def best_at(
    values: Sequence[float] | Sequence[tuple[float, ...]],
    right: Sequence[bool],
    sizes: Sequence[int],
) -> np.ndarray:
    """Accuracy of the candidate of the largest value among N.

    The best of N lies in the group of equal values v with probability
    [C(#{<= v}, N) - C(#{< v}, N)] / C(M, N), and is any of the group alike.

    Args:
        values: of each of M >= 1 candidates; anything that is ordered.
        right: whether it is right.
        sizes: N, each at least 1.
    """
    m = len(values)
    order = sorted(range(m), key=lambda i: values[i])
    groups = [list(of) for _, of in itertools.groupby(order, key=lambda i: values[i])]
    found = np.zeros(len(sizes))
    for place, n in enumerate(min(size, m) for size in sizes):
        below = 0
        for group in groups:
            ways = math.comb(below + len(group), n) - math.comb(below, n)
            share = sum(right[i] for i in group) / len(group)
            found[place] += ways / math.comb(m, n) * share
            below += len(group)
    return found


def pass_at(right: Sequence[bool], sizes: Sequence[int]) -> np.ndarray:
    """Probability that one of N is right, 1 - C(M - c, N) / C(M, N): a choice's bound.

    Args:
        right: whether each of M >= 1 candidates is right, c of them.
        sizes: N, each at least 1.
    """
    m, wrong = len(right), len(right) - sum(right)
    ways = [(math.comb(wrong, n), math.comb(m, n)) for n in (min(n, m) for n in sizes)]
    return np.array([1 - none / every for none, every in ways])


def class_accuracy(classes: Sequence[int], right: Sequence[bool]) -> np.ndarray:
    """Share of right candidates of each answer, ``[n_classes]``: 0 or 1 unless judged
    otherwise than by the answer.
    """
    of = np.asarray(classes)
    voters = of >= 0
    hits = np.bincount(of[voters], np.asarray(right, float)[voters])
    return hits / np.maximum(np.bincount(of[voters]), 1)


def majority_at(
    classes: Sequence[int], right: Sequence[bool], sizes: Sequence[int]
) -> np.ndarray:
    """Accuracy of the answer that most of N candidates give (self-consistency).

    Sum over the winner's votes k of the ways to draw at most k of every answer and k of
    t >= 1 of them, each with the mean accuracy of its winners: a product of polynomials
    in (candidates drawn, winners). NaN at sizes from 2 to M - 1 of over 128 candidates.

    Args:
        classes: answer of each of M >= 1 candidates, from 0; -1 votes for nothing, and
            nobody's vote is wrong.
        right: whether each candidate is right.
        sizes: N, each at least 1.
    """
    m, accuracy = len(classes), class_accuracy(classes, right)
    votes = np.bincount(np.asarray(classes) + 1, minlength=1)
    silent, votes = int(votes[0]), votes[1:].tolist()
    n = np.minimum(sizes, m)
    found = np.zeros(len(sizes))
    if m > _VOTERS:
        inside = (n > 1) & (n < m)
        weights = np.ones(m)
        whole = weighted_at(classes, weights, right, [1, m])
        return np.where(inside, np.nan, np.where(n == m, whole[1], whole[0]))
    ways = np.zeros(m + 1)
    for most in range(1, max(votes, default=0) + 1):
        ways += _winners(votes, accuracy, silent, most)
    for place, size in enumerate(n.tolist()):
        found[place] = ways[size] / math.comb(m, size)
    return found


def _winners(
    votes: Sequence[int], accuracy: np.ndarray, silent: int, most: int
) -> np.ndarray:
    """Ways to draw ``[0 .. M]`` candidates so that the largest vote is ``most``, each
    times the winners' mean accuracy.
    """
    m = sum(votes) + silent
    most_tied = sum(count >= most for count in votes)
    # By winners so far and candidates drawn: ways, and ways times sums of accuracies.
    ways = np.zeros((most_tied + 1, m + 1))
    sums = np.zeros_like(ways)
    ways[0, : silent + 1] = [math.comb(silent, j) for j in range(silent + 1)]
    for count, of in zip(votes, accuracy.tolist(), strict=True):
        more, more_sums = np.zeros_like(ways), np.zeros_like(ways)
        for j in range(min(count, most) + 1):
            choose, t = math.comb(count, j), int(j == most)
            drawn = slice(j, None), slice(None, m + 1 - j)
            rows = slice(t, None), slice(None, most_tied + 1 - t)
            old = ways[rows[1], drawn[1]]
            more[rows[0], drawn[0]] += choose * old
            old_sums = sums[rows[1], drawn[1]] + (of * old if t else 0)
            more_sums[rows[0], drawn[0]] += choose * old_sums
        ways, sums = more, more_sums
    return (sums[1:] / np.arange(1, most_tied + 1)[:, None]).sum(axis=0)


def weighted_at(
    classes: Sequence[int],
    weights: Sequence[float] | np.ndarray,
    right: Sequence[bool],
    sizes: Sequence[int],
) -> np.ndarray:
    """Accuracy of the answer whose candidates among N weigh most together.

    By enumeration of the subsets as far as M C(M, N) <= 2^21, so of up to 17 candidates
    at any size; else NaN. Sums within 1e-12 are ties; what weighs nothing loses.

    Args:
        classes: as of :func:`majority_at`.
        weights: of each candidate, at least 0.
        right: whether each candidate is right.
        sizes: N, each at least 1.
    """
    m, accuracy = len(classes), class_accuracy(classes, right)
    of = np.asarray(classes)
    table_MxG = np.zeros((m, len(accuracy)))
    voters = np.flatnonzero(of >= 0)
    table_MxG[voters, of[voters]] = np.asarray(weights)[voters]
    found = np.full(len(sizes), np.nan)
    for place, n in enumerate(min(size, m) for size in sizes):
        if not len(accuracy):
            found[place] = 0
        elif m * math.comb(m, n) <= _MEMBERS:
            sums_PxG = _members(m, n) @ table_MxG
            best_P = sums_PxG.max(axis=1)
            ties_PxG = (sums_PxG > (best_P - _ROUNDING)[:, None]).astype(float)
            won_P = ties_PxG @ accuracy / ties_PxG.sum(axis=1)
            found[place] = won_P[best_P > 0].sum() / len(won_P)
    return found


@functools.lru_cache(maxsize=8)
def _members(m: int, n: int) -> np.ndarray:
    """Who is in each subset of n of m, float64 ``[C(m, n), m]``."""
    rows = np.array(list(itertools.combinations(range(m), n)))
    members = np.zeros((len(rows), m))
    np.put_along_axis(members, rows, 1, axis=1)
    return members
