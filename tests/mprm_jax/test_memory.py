"""Advice for devices that are too small, and names for parameters that stay put."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.data.problems import DataError
from mprm_jax.train.fingerprint import fingerprint
from mprm_jax.train.memory import advised


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.", "1234 bytes"),
        ("RESOURCE_EXHAUSTED: ... trying to allocate 2.50GiB.\nmore", "2.50GiB"),
        ("INTERNAL: Ran out of memory in memory space hbm", None),
    ],
)
def test_running_out_is_told_in_one_line(message, size):
    with pytest.raises(DataError, match="out of device memory") as error, advised():
        raise jax.errors.JaxRuntimeError(message)
    assert "\n" not in str(error.value)
    assert ("more were wanted" in str(error.value)) == (size is not None)
    assert size is None or f"({size} more were wanted)" in str(error.value)
    assert "--accumulate" in str(error.value)


def test_other_failures_are_left_alone():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID"), advised():
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no")
    with pytest.raises(ValueError, match="out of memory"), advised():
        raise ValueError("out of memory")


def params():
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(4, 6)).astype(np.float32),
        "b": {"c": jnp.asarray(rng.normal(size=8), jnp.bfloat16)},
        "k": np.arange(8, dtype=np.uint8),
    }


def test_a_fingerprint_does_not_depend_on_where_arrays_lie():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    for spec in ((None, "x"), ("x",)):
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        moved = params() | {"a": jax.device_put(params()["a"], place)}
        assert fingerprint(moved) == fingerprint(params())


def test_any_change_changes_the_fingerprint():
    def swapped(value):
        value["a"][0, 0], value["a"][3, 5] = value["a"][3, 5], value["a"][0, 0]

    def last_bit(value):
        value["a"][2, 3] = np.nextafter(value["a"][2, 3], np.float32(9))

    def sign_of_zero(value):
        value["a"][0] *= np.float32(-1)

    def reshaped(value):
        value["a"] = value["a"].reshape(6, 4)

    def renamed(value):
        value["b"]["d"] = value["b"].pop("c")

    def retyped(value):
        value["k"] = value["k"].astype(np.int8)

    def doubled(value):
        value["b"]["c"] = value["b"]["c"] * 2

    found = {fingerprint(params())}
    changes = (swapped, last_bit, sign_of_zero, reshaped, renamed, retyped, doubled)
    for change in changes:
        value = params()
        change(value)
        found.add(fingerprint(value))
    assert len(found) == 1 + len(changes)
