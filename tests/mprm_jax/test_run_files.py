"""The files of a run: metrics as they come, and names for its parameters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.records.problems import DataError
from mprm_jax.train.run_files import (
    METRICS,
    TENSORBOARD,
    RunLog,
    fingerprint,
    read_metrics,
)


def write(output, updates, after=0, tensorboard=False):
    with RunLog(output, after, tensorboard) as log:
        for update in updates:
            log.write(update, {"loss": update / 2})


def test_every_update_is_a_line_at_once(tmp_path):
    with RunLog(tmp_path, 0, False) as log:
        log.write(1, {"loss": 0.5})
        assert read_metrics(tmp_path) == [{"update": 1, "loss": 0.5}]
        log.write(2, {"loss": 1.0})
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 2]


@pytest.mark.parametrize("rest", [b"", b'{"update": 4, "lo', b"\x00\xff", b"[]\n"])
def test_updates_that_are_made_again_are_cut_off(tmp_path, rest):
    write(tmp_path, range(1, 4))
    with open(tmp_path / METRICS, "ab") as file:
        file.write(rest)
    write(tmp_path, [3, 4], after=2)
    assert [line["update"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]

    write(tmp_path, [1])
    assert [line["update"] for line in read_metrics(tmp_path)] == [1]


def test_a_damaged_line_costs_none_of_the_others(tmp_path):
    write(tmp_path, range(1, 5))
    path = tmp_path / METRICS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff" + lines[1], *lines[2:]]))
    write(tmp_path, [4], after=3)
    assert path.read_bytes().count(b"\n") == 4
    with pytest.raises(DataError, match=rf"{METRICS}:2: "):
        read_metrics(tmp_path)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write(tmp_path, [1, 2], tensorboard=True)
    (events,) = (tmp_path / TENSORBOARD).iterdir()
    assert events.read_bytes().count(b"loss") == 2
    write(tmp_path, [1])
    assert len(list((tmp_path / TENSORBOARD).iterdir())) == 1


def test_files_that_cannot_be_used_are_one_line_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        RunLog(tmp_path / "file", 0, False)
    with pytest.raises(DataError, match=METRICS):
        read_metrics(tmp_path / "none")
    (tmp_path / METRICS).write_text("no json\n")
    with pytest.raises(DataError, match=METRICS):
        read_metrics(tmp_path)


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
