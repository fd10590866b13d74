"""Rollouts: every invariant is enforced, and every total equals a plain loop."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpora import as_table, corpora
from theory import rollouts as module
from theory.rollouts import Rollouts


def assert_equal(a, b):
    assert as_table(a) == as_table(b)
    assert [a.source_names[i] for i in a.source] == [
        b.source_names[i] for i in b.source
    ]


VALID: dict[str, Any] = {
    "successes": np.array([1, 0, 3]),
    "trials": np.array([4, 4, 4]),
    "offsets": np.array([0, 2, 3]),
    "source": np.array([0, 1]),
    "source_names": ("a", "b"),
}


def build(**changes: Any) -> Rollouts:
    """Valid columns with some of them replaced."""
    return Rollouts(**(VALID | changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("successes", np.array([1.0, 0.0, 3.0]), "integers"),
        ("successes", np.array([[1, 0, 3]]), "one-dimensional"),
        ("successes", [1, 0, 3], "one-dimensional"),
        ("successes", np.array([5, 0, 3]), "step 0 has 5 successes in 4 trials"),
        ("successes", np.array([1, -1, 3]), "step 1 has -1"),
        ("successes", np.array([1, 0]), "must have the 3 steps"),
        ("trials", np.array([4, 4]), "must have the 3 steps"),
        ("trials", np.array([4, 4, 2**20 + 1]), "must not exceed"),
        ("offsets", np.array([0, 2, 3], np.int32), "int64"),
        ("offsets", np.array([], np.int64), "start at 0"),
        ("offsets", np.array([1, 2, 3]), "start at 0"),
        ("offsets", np.array([0, 4, 3]), "decrease"),
        ("offsets", np.array([0, 1, 2]), "must have the 2 steps"),
        ("source", np.array([0]), "1 entries for 2 rollouts"),
        ("source", np.array([0, 2]), "without a name"),
        ("source", np.array([-1, 1]), "without a name"),
    ],
)
def test_every_broken_column_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        build(**{name: value})


def test_valid_columns_are_accepted_at_their_limits():
    build()
    build(**{"successes": np.array([4, 4, 4])})
    build(**{"trials": np.array([4, 0, 2**20])})
    unsigned: dict[str, Any] = {
        "successes": np.array([1, 0, 3], np.uint8),
        "trials": np.array([4, 4, 4], np.uint8),
    }
    assert build(**unsigned).n_steps == 3
    with pytest.raises(ValueError, match="5 successes in 4"):
        build(**(unsigned | {"successes": np.array([1, 0, 5], np.uint8)}))


@given(corpora())
def test_totals_equal_a_plain_loop(rollouts):
    table = as_table(rollouts)
    assert rollouts.n_rollouts == len(table)
    assert rollouts.lengths.tolist() == [len(steps) for steps in table]
    assert rollouts.n_positive.tolist() == [sum(k > 0 for k, _ in s) for s in table]
    assert rollouts.n_measured.tolist() == [sum(n > 0 for _, n in s) for s in table]
    assert rollouts.total(rollouts.successes).tolist() == [
        sum(k for k, _ in steps) for steps in table
    ]
    assert rollouts.distinct_trials == tuple(
        sorted({n for steps in table for _, n in steps if n})
    )


@given(corpora(), st.integers(1, 5))
def test_totals_do_not_depend_on_the_block_size(rollouts, block):
    whole = rollouts.total(rollouts.successes)
    before = module._BLOCK
    module._BLOCK = block
    try:
        assert np.array_equal(rollouts.total(rollouts.successes), whole)
    finally:
        module._BLOCK = before


def test_totals_of_small_types_do_not_overflow():
    steps = 1000
    rollouts = Rollouts(
        np.full(steps, 255, np.uint8),
        np.full(steps, 255, np.uint8),
        np.array([0, steps]),
        np.array([0]),
        ("a",),
    )
    assert rollouts.total(rollouts.successes).tolist() == [255_000]
    assert rollouts.total(rollouts.successes > 0).tolist() == [1000]


def test_totals_refuse_what_would_not_be_exact():
    rollouts = build()
    with pytest.raises(ValueError, match="integers"):
        rollouts.total(np.array([0.5, 0.25, 0.0]))
    with pytest.raises(ValueError, match="shape"):
        rollouts.total(np.array([1, 2]))


@given(corpora(), st.integers(1, 5))
def test_blocks_are_the_rollouts_in_order(rollouts, block):
    before = module._BLOCK
    module._BLOCK = block
    try:
        parts = list(rollouts.blocks())
    finally:
        module._BLOCK = before
    rows = np.arange(rollouts.n_rollouts)
    assert [row for part, _ in parts for row in rows[part].tolist()] == rows.tolist()
    table = [rollout for _, part in parts for rollout in as_table(part)]
    assert table == as_table(rollouts)
    for part, of in parts:
        assert of.n_rollouts <= block
        assert of.source.tolist() == rollouts.source[part].tolist()


@given(corpora(), st.data(), st.integers(1, 5))
def test_take_gives_the_rows_in_order(rollouts, data, block):
    n = rollouts.n_rollouts
    rows = data.draw(st.lists(st.integers(0, n - 1), max_size=10) if n else st.just([]))
    before = module._BLOCK
    module._BLOCK = block
    try:
        taken = rollouts.take(np.array(rows, np.int64))
    finally:
        module._BLOCK = before
    table = as_table(rollouts)
    assert as_table(taken) == [table[row] for row in rows]
    assert taken.source.tolist() == [rollouts.source[row] for row in rows]


def test_take_refuses_rows_outside_and_masks():
    rollouts = build()
    for rows in ([2], [-1]):
        with pytest.raises(IndexError, match=r"\[0, 2\)"):
            rollouts.take(np.array(rows))
    with pytest.raises(ValueError, match="integer"):
        rollouts.take(np.array([True, False]))
    with pytest.raises(ValueError, match="one-dimensional"):
        rollouts.take(np.array([[0, 1]]))


@given(st.lists(corpora(), min_size=1, max_size=4))
def test_concat_keeps_every_rollout_and_its_source(parts):
    joined = Rollouts.concat(parts)
    assert as_table(joined) == [steps for part in parts for steps in as_table(part)]
    assert [joined.source_names[i] for i in joined.source] == [
        part.source_names[i] for part in parts for i in part.source
    ]


def test_concat_unites_sources_by_name_not_by_index():
    a = build()
    b = build(**{"source_names": ("b", "z")})
    joined = Rollouts.concat([a, b])
    assert joined.source_names == ("a", "b", "z")
    assert joined.source.tolist() == [0, 1, 1, 2]
    with pytest.raises(ValueError, match="at least one"):
        Rollouts.concat([])


@given(corpora(unmeasured=False))
def test_from_scores_recovers_the_counts(rollouts):
    again = Rollouts.from_scores(
        rollouts.successes / rollouts.trials,
        rollouts.trials,
        rollouts.offsets,
        rollouts.source,
        rollouts.source_names,
    )
    assert_equal(again, rollouts)


def test_from_scores_refuses_what_no_number_of_continuations_gives():
    offsets = np.array([0, 2])
    assert Rollouts.from_scores(
        np.array([0.5, 1.0]), 16, offsets
    ).successes.tolist() == [
        8,
        16,
    ]
    for bad in (0.51, np.nan, 1 / 3):
        with pytest.raises(ValueError, match="step 1: score"):
            Rollouts.from_scores(np.array([0.5, bad]), 16, offsets)
    # 1e-9 per trial is the tolerance: decimal text of a ratio passes, a near miss not.
    Rollouts.from_scores(np.array([0.3333333333, 0.0]), 3, offsets)
    with pytest.raises(ValueError, match="not an integer"):
        Rollouts.from_scores(np.array([0.33333333, 0.0]), 3, offsets)
    near = np.array([0.123, 0.0])
    assert Rollouts.from_scores(near + 5e-10, 1000, offsets).successes[0] == 123
    with pytest.raises(ValueError, match="not an integer"):
        Rollouts.from_scores(near + 2e-9, 1000, offsets)
    with pytest.raises(ValueError, match="successes"):
        Rollouts.from_scores(np.array([0.5, 1.5]), 2, offsets)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rollouts=corpora())
def test_saved_columns_come_back(tmp_path, rollouts):
    path = tmp_path / "r.npz"
    rollouts.save(path)
    assert_equal(Rollouts.load(path), rollouts)
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.npz"]


def test_a_damaged_or_foreign_file_is_a_value_error(tmp_path):
    path = tmp_path / "r.npz"
    build().save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", successes=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("other.npz", "text.npz", "empty.npz"):
        with pytest.raises(ValueError, match=name):
            Rollouts.load(tmp_path / name)
    for cut in range(1, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"r\.npz"):
            Rollouts.load(path)
    with pytest.raises(OSError, match="missing"):
        Rollouts.load(tmp_path / "missing.npz")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.npz"
    build().save(path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        build().save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
