import numpy as np
import pytest

from theory.domain import (
    check_count,
    check_finite,
    check_nonnegative,
    check_positive,
    check_probability,
)

INF, NAN = np.inf, np.nan
TINY = np.nextafter(0, 1)


@pytest.mark.parametrize(
    ("check", "inside", "outside", "expected"),
    [
        (
            check_probability,
            [0, 1, 0.5, TINY, True],
            [-TINY, np.nextafter(1, 2), NAN, INF, -INF],
            "in [0, 1]",
        ),
        (
            check_positive,
            [TINY, 1, 1e308],
            [0, -0.0, -1, NAN, INF, -INF],
            "in (0, inf)",
        ),
        (
            check_nonnegative,
            [0, -0.0, TINY, 1e308],
            [-TINY, NAN, INF, -INF],
            "in [0, inf)",
        ),
        (check_finite, [0, -1e308, 1e308], [NAN, INF, -INF], "finite"),
        (
            check_count,
            [0, 1, 7.0, 2**53, True],
            [-1, 0.5, NAN, INF, -INF, 2.0**53 + 2, 2**53 + 2],
            "an integer in [0, 2^53]",
        ),
    ],
)
def test_a_check_returns_what_is_inside_and_names_what_is_not(
    check, inside, outside, expected
):
    for value in inside:
        result = check("some_name", value)
        assert result == value
        assert result.dtype == (np.int64 if check is check_count else np.float64)
        # One bad entry among good ones is found, and it is the one that is named.
        for bad in outside:
            with pytest.raises(ValueError, match=r"^some_name must be ") as error:
                check("some_name", [value, bad])
            assert f"must be {expected}, not {np.float64(bad)}" in str(error.value)
    for not_a_number in ("x", None, 1j, [object()]):
        with pytest.raises(ValueError, match=r"^some_name must be ") as error:
            check("some_name", not_a_number)
        assert f"must be {expected}, not of type " in str(error.value)


def test_counts_start_where_told():
    assert check_count("n", [2, 3], low=2).tolist() == [2, 3]
    # Of several bad entries the first is named.
    with pytest.raises(
        ValueError, match=r"n must be an integer in \[2, 2\^53\], not 1"
    ):
        check_count("n", [2, 1, 0], low=2)


def test_shapes_are_kept_and_empty_arrays_pass():
    assert check_probability("q", np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert check_count("n", []).dtype == np.int64


def test_the_argument_is_not_changed_nor_shared():
    given = np.array([0.25, 0.5])
    check_probability("q", given)[0] = 9.0
    assert given.tolist() == [0.25, 0.5]
