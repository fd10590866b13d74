"""Counts, sizes and times as people read them."""

import pytest

from experiments.console.text import count_of, duration, size


def test_one_is_no_plural():
    assert count_of(1, "rollout") == "1 rollout"
    assert count_of(0, "rollout") == "0 rollouts"
    assert count_of(1200, "rollout") == "1,200 rollouts"
    assert count_of(2, "loss", "losses") == "2 losses"


@pytest.mark.parametrize(
    ("octets", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5 * 2**19, "2.5 MiB"),
        (2**30, "1.0 GiB"),
        (3000 * 2**40, "3,000.0 TiB"),
    ],
)
def test_a_size_has_a_unit_that_leaves_at_least_one(octets, shown):
    assert size(octets) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1e-9, "under 1 s"), (119, "119 s"), (120, "2 min"), (7200, "2.0 h"),
     (3.6e6, "1,000.0 h")],
)  # fmt: skip
def test_a_time_has_two_digits_or_more(seconds, shown):
    assert duration(seconds) == shown
