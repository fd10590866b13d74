"""The committed files are what the references still compute."""

import numpy as np
import pytest

from tests.parity.make_golden import CASES, FOLDER, make


@pytest.mark.parametrize("name", CASES)
def test_the_committed_files_are_what_the_references_compute(name):
    with np.load(FOLDER / f"{name}.npz") as stored:
        committed = dict(stored)
    found = make(name)
    assert committed.keys() == found.keys()
    for field, value in found.items():
        if value.dtype.kind == "f":
            # Sums of many products of either sign lose some digits.
            scale = np.abs(value).max()
            np.testing.assert_allclose(
                committed[field], value, rtol=1e-3, atol=1e-4 * scale
            )
        elif field != "config":
            np.testing.assert_array_equal(committed[field], value)
