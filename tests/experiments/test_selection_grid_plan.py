"""The grid of `mprm run selection`: its cells, their cost, and how it is split."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from experiments.console.errors import UsageError
from experiments.grid import cells as cells_module
from experiments.grid import run
from experiments.grid.options import parse_grid, parse_seeds, parse_shard
from experiments.grid.plan import Arm, Cell, Planned, plan_cells, shard
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from theory.selection import budget, select

GRID = ("--rules", "random,bis", "--keep-ratios", "0.2,0.4", "--seeds", "0,1")


@pytest.fixture
def usable(corpus):
    """150 rollouts of three sources: 63, 37 and 50."""
    return usable_rollouts(read_corpus(corpus, use_cache=False))


def options_in(*arguments):
    words = ("--corpus", "c", "--benchmark", "b", *map(str, arguments))
    return tyro.cli(run.OPTIONS, args=words, config=(tyro.conf.FlagCreatePairsOff,))


def test_shards_are_disjoint_whole_and_of_like_cost(usable):
    options = options_in(
        "--rules", "bis,mixed,random,step-matched-random", "--alphas", "0.05,0.2",
        "--keep-ratios", "0.05,0.3", "--seeds", 3, "--label-thresholds", "0,0.0625",
    )  # fmt: skip
    planned = plan_cells(usable, parse_grid(options), 16, False)
    # (2 rules with 2 alphas + 2 without) x 2 ratios + full, x 2 labels x 3 seeds, base
    assert len(planned) == (6 * 2 + 1) * 2 * 3 + 1
    assert len({one.cell for one in planned}) == len(planned)
    assert len({one.cell.name for one in planned}) == len(planned)
    for count in (1, 2, 3, 7):
        parts = [shard(planned, i + 1, count, 40) for i in range(count)]
        together = [one for part in parts for one in part]
        assert len(together) == len(planned)
        assert set(together) == set(planned)
        cost = [sum(3 * one.presentations + 40 for one in part) for part in parts]
        assert max(cost) - min(cost) <= 3 * 150 + 40


def test_random_is_paired_over_everything_but_the_seed(usable):
    options = options_in(*GRID, "--labels", "hard,soft")
    cells = [c for c in parse_grid(options).cells() if c.arm.rule == "random"]
    assert len(cells) == 2 * 2 * 2
    context: Any = SimpleNamespace(inputs=SimpleNamespace(usable=usable))
    rows = {}
    for cell in cells:
        chosen, _ = cells_module.GridContext.usable_rows(context, cell)
        rows.setdefault((cell.arm.keep_ratio, cell.seed), []).append(chosen)
    for (keep, seed), of in rows.items():
        direct = select(usable.rollouts, "random", keep, usable.content, seed=seed)
        assert all(np.array_equal(chosen, direct.rows) for chosen in of)
    assert not np.array_equal(rows[0.4, 0][0], rows[0.4, 1][0])


def test_matched_updates_present_as_much_as_the_whole_corpus(usable):
    grid = parse_grid(options_in(*GRID))
    for one in plan_cells(usable, grid, 16, True):
        trained = one.cell.seed is not None
        assert one.updates == (10 if trained else 0)
        if trained and one.cell.arm.is_rule:
            assert one.presentations == 160


def test_seeds_are_a_number_or_a_list():
    assert parse_seeds(("3",)) == (0, 1, 2)
    assert parse_seeds(("4,1",)) == (4, 1)
    assert parse_seeds(("7,",)) == (7,)
    assert parse_seeds(("0", "5")) == (0, 5)
    assert parse_seeds(("1000",)) == tuple(range(1000))
    assert parse_seeds((f"1,{2**32 - 1}",)) == (1, 2**32 - 1)
    bad = ("0", "-1,2", "x", "1.5", "-2", "1001", "99999999999", f"0,{2**32}")
    for text in (*bad, ",".join(map(str, range(1001)))):
        with pytest.raises(UsageError, match="--seeds"):
            parse_seeds((text,))


def test_thresholds_belong_to_hard_labels():
    both = options_in("--labels", "soft,hard", "--label-thresholds", "0,0.5")
    assert parse_grid(both).labels == (("soft", None), ("hard", 0.0), ("hard", 0.5))
    for default in ((), ("--label-thresholds", "0.0")):
        soft = options_in("--labels", "soft", *default)
        assert parse_grid(soft).labels == (("soft", None),)
    for labels in ("soft", "beta-binomial", "soft,beta-binomial"):
        wrong = options_in("--labels", labels, "--label-thresholds", "0,0.5")
        with pytest.raises(UsageError, match=f"{labels} has no --label-thresh"):
            parse_grid(wrong)


def test_evaluations_are_between_and_at_the_end():
    cell = Cell(parse_grid(options_in(*GRID)).arms()[0], 0)
    one = Planned(cell, 64, 4, 64)
    assert [one.evaluations(every) for every in (0, 1, 2, 3, 4, 9)] == [
        1,
        4,
        2,
        2,
        1,
        1,
    ]
    assert dataclasses.replace(one, updates=0).evaluations(2) == 1


@given(st.lists(st.integers(0, 500), max_size=30), st.integers(1, 6))
def test_any_grid_is_split_whole_and_evenly(presented, count):
    planned = [
        Planned(Cell(Arm("bis", 0.1, 0.05, "hard", 0.0), i), n, n, n)
        for i, n in enumerate(presented)
    ]
    parts = [shard(planned, i + 1, count, 7) for i in range(count)]
    together = [planned.index(one) for part in parts for one in part]
    assert sorted(together) == list(range(len(planned)))
    assert all(part == sorted(part, key=planned.index) for part in parts)
    cost = [sum(3 * one.presentations + 7 for one in part) for part in parts]
    dearest = max((3 * n + 7 for n in presented), default=0)
    assert max(cost) - min(cost) <= dearest


def test_budgets_are_those_of_each_source(usable):
    for one in plan_cells(usable, parse_grid(options_in(*GRID)), 16, False):
        if one.cell.arm.is_rule:
            keep = one.cell.arm.keep_ratio
            assert keep is not None
            kept = sum(budget(n, keep) for n in (63, 37, 50))
            assert (one.rollouts, one.updates) == (kept, -(-kept // 16))


def test_a_shard_is_one_part_of_n():
    assert parse_shard("2/4") == (2, 4)
    for bad in ("0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3", "", "\u0661/2"):
        with pytest.raises(UsageError, match="--shard"):
            parse_shard(bad)
