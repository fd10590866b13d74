"""Batches: every rollout once a pass, in an order that arms share."""

import numpy as np
import pytest

from sim.students.plan import Training, plan_trainings, stack_plans

OFFSETS = np.array([0, 2, 3, 7, 8, 13, 14, 20])


def batches(plan, arm):
    ends = plan.start_AxT[arm] + plan.count_AxT[arm]
    return [
        plan.feed_F[a:b].tolist()
        for a, b in zip(plan.start_AxT[arm], ends, strict=True)
        if b > a
    ]


def rollouts_in(batch):
    return list(dict.fromkeys(np.searchsorted(OFFSETS, batch, side="right") - 1))


def test_a_pass_feeds_every_step_of_the_subset_once_in_whole_rollouts():
    rows = np.array([0, 2, 3, 4, 6])
    plan = plan_trainings(OFFSETS, [Training(rows, passes=2)], 2, seed=3)
    found = batches(plan, 0)
    assert len(found) == plan.updates_A[0] == 6
    wanted = sorted(s for r in rows for s in range(OFFSETS[r], OFFSETS[r + 1]))
    for first in (0, 3):
        assert sorted(s for b in found[first : first + 3] for s in b) == wanted
        assert [len(rollouts_in(b)) for b in found[first : first + 3]] == [2, 2, 1]
    assert found[:3] != found[3:]
    assert plan.capacity == max(map(len, found))


def test_matched_updates_cycle_through_the_subset():
    trainings = [Training(np.arange(7)), Training(np.array([1, 4]), updates=4)]
    plan = plan_trainings(OFFSETS, trainings, 2, seed=0)
    assert plan.updates_A.tolist() == [4, 4]
    assert all(sorted(rollouts_in(b)) == [1, 4] for b in batches(plan, 1))


def test_shared_rollouts_come_in_the_same_order():
    few = np.array([1, 3, 5])
    trainings = [Training(np.arange(7)), Training(few)]
    plan = plan_trainings(OFFSETS, trainings, 1, seed=5)
    orders = [[rollouts_in(b)[0] for b in batches(plan, arm)] for arm in (0, 1)]
    assert [r for r in orders[0] if r in few] == orders[1]
    other = plan_trainings(OFFSETS, trainings, 1, seed=6)
    assert [rollouts_in(b)[0] for b in batches(other, 0)] != orders[0]


def test_stacked_plans_leave_room_to_read_a_batch_beyond_its_end():
    trainings = [Training(np.arange(7))]
    plans = [plan_trainings(OFFSETS, trainings, 2, seed) for seed in (0, 1)]
    stacked = stack_plans(plans)
    last = (stacked.start_AxT + stacked.capacity).max()
    assert stacked.feed_F.shape[1] >= last
    for i, plan in enumerate(plans):
        np.testing.assert_array_equal(
            stacked.feed_F[i, : len(plan.feed_F)], plan.feed_F
        )
        assert stacked.count_AxT[i].sum() == OFFSETS[-1]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="batch"):
        plan_trainings(OFFSETS, [Training(np.arange(2))], 0, 0)
    with pytest.raises(ValueError, match="at least one rollout"):
        plan_trainings(OFFSETS, [Training(np.array([], int))], 2, 0)
    one = plan_trainings(OFFSETS, [Training(np.arange(2))], 2, 0)
    two = plan_trainings(OFFSETS, [Training(np.arange(2))] * 2, 2, 0)
    with pytest.raises(ValueError, match="same trainings"):
        stack_plans([one, two])


def test_orders_are_drawn_from_no_stream_that_a_world_draws_from():
    """SeedSequence((7, 0)) is SeedSequence(7), and a world draws from its children."""
    offsets, n = np.arange(41), 40
    training = Training(np.arange(n), passes=3)
    plans = [plan_trainings(offsets, [training], n, seed) for seed in (7, 8)]
    orders = [list(plan.feed_F[i * n : i * n + n]) for plan in plans for i in range(3)]
    assert len(set(map(tuple, orders))) == 6
    sequence = np.random.SeedSequence
    streams = [
        sequence(7),
        *(sequence((7, i)) for i in range(3)),
        *sequence(7).spawn(9),
    ]
    for stream in streams:
        assert list(np.argsort(np.random.default_rng(stream).random(n))) not in orders
