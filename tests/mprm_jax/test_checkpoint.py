"""Damage and kills in a fast sample; ``experiments.benchmarks.kill_resume`` has all."""

import errno
import json
import os
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xxhash

from experiments.benchmarks.kill_resume import (
    damage_often,
    digest,
    kill_until_done,
    newest,
    reference,
    stub_run,
)
from mprm_jax.models.registry import DESCRIPTION
from mprm_jax.records.problems import DataError
from mprm_jax.train import checkpoint
from mprm_jax.train.checkpoint import (
    FOLDER,
    MANIFEST,
    Best,
    CheckpointWriter,
    Damaged,
    Progress,
    read_best,
    restore,
    restore_latest,
    updates_kept,
)
from mprm_jax.train.open_model import load_model
from tests.mprm_jax.stub_model import StubModel, read_stub

ROLLOUTS = 64
SHAPES = jax.eval_shape(StubModel().init, jax.random.key(0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder of a finished run, digest of the parameters after each update)."""
    output = tmp_path_factory.mktemp("finished") / "run"
    stub_run(output, ROLLOUTS)
    return output, reference(ROLLOUTS)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it to damage."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def test_damaged_checkpoints_are_refused_by_name_and_the_one_before_used(finished):
    output, expected = finished
    assert updates_kept(output) == [8, 6, 4]
    assert damage_often(output, 12, 0, expected) == 12


def test_killed_runs_go_on_from_whole_checkpoints(tmp_path):
    made = kill_until_done(tmp_path / "run", 2, 1, ROLLOUTS)
    assert made["kills"] == 2


def refused(folder, words, params=SHAPES, training=None):
    with pytest.raises(Damaged, match=words) as error:
        restore(folder, params, training)
    assert str(error.value).startswith(f"{folder}: damaged: ")
    assert "\n" not in str(error.value)


def test_every_damage_of_a_file_is_named(copied):
    folder = copied / FOLDER / "8"
    files = json.loads((folder / MANIFEST).read_bytes())["contents"]["files"]
    ours = [name for name in files if name.startswith("params/")]
    name = max(ours, key=lambda name: files[name]["bytes"])
    path, size = folder / name, files[name]["bytes"]
    data = path.read_bytes()
    assert files[name] == {"bytes": size, "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(folder, f"{name} has another hash")
    path.write_bytes(data[:-1])
    refused(folder, f"{name} has {size - 1} bytes, not {size}")
    path.unlink()
    refused(folder, f"{name} is missing")
    # What is not asked for is not read, but nothing may have come to it.
    path.write_bytes(data)
    for other in (folder / "training").rglob("*"):
        if other.is_file():
            other.write_bytes(b"other")
    assert digest(restore(folder, SHAPES).params)
    refused(folder, "training/", training={"count": np.zeros(3)})
    (folder / "paramsx").write_bytes(b"")
    refused(folder, "paramsx does not belong to it")
    refused(folder.with_name("none"), MANIFEST)


def test_every_bit_of_the_manifest_counts(copied):
    path = copied / FOLDER / "8" / MANIFEST
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(whole))[:300].tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refused(path.parent, MANIFEST)
    for data in (b"", whole[:-1], whole + b" ", b"[" * 100_000, b"\xff" + whole):
        path.write_bytes(data)
        refused(path.parent, MANIFEST)


def test_a_swapped_checkpoint_is_not_the_one_its_name_says(copied):
    root = copied / FOLDER
    (root / "8").rename(root / "x")
    (root / "6").rename(root / "8")
    (root / "x").rename(root / "6")
    said = []
    found = newest(copied, said.append)
    assert found is not None
    assert found.progress.update == 4
    assert "it is the checkpoint 6" in said[0]
    assert "it is the checkpoint 8" in said[1]


def test_nothing_whole_is_an_error_not_a_new_beginning(copied):
    for path in (copied / FOLDER).rglob(MANIFEST):
        path.write_bytes(b"{}")
    with pytest.raises(DataError, match=r"8: damaged: .*; no earlier checkpoint"):
        newest(copied)
    with pytest.raises(DataError, match="no earlier checkpoint is whole"):
        stub_run(copied, ROLLOUTS)


def test_no_checkpoint_is_none(tmp_path):
    assert newest(tmp_path) is None
    (tmp_path / FOLDER / ".partial-4").mkdir(parents=True)
    (tmp_path / FOLDER / "4x").mkdir()
    assert newest(tmp_path) is None


def test_a_checkpoint_of_another_run_or_shape_is_refused(finished):
    with pytest.raises(Damaged, match="of another run"):
        restore(finished[0] / FOLDER / "8", SHAPES, run="other")
    for model in (StubModel(width=6), StubModel(vocabulary=12)):
        other = jax.eval_shape(model.init, jax.random.key(0))
        with pytest.raises(DataError, match=r"another model: params\.blocks\.0\.embed"):
            restore_latest(finished[0], other)


def test_keys_that_differ_in_type_alone_are_the_same_place(finished):
    """As 0 and "0" are, after a trip through a format of names."""
    found = restore_latest(finished[0], SHAPES | {"blocks": {"0": SHAPES["blocks"][0]}})
    assert found is not None
    assert list(found.params["blocks"]) == ["0"]
    assert digest(found.params) == finished[1][8]


def test_unfinished_ones_are_cleared_and_old_ones_removed(copied):
    left = copied / FOLDER / ".partial-6"
    left.mkdir()
    (left / "half").write_bytes(b"")
    found = newest(copied)
    assert found is not None
    progress = Progress(9, 9, found.progress.run, {"next_index": 9}, {})
    with CheckpointWriter(copied, keep=2) as writer:
        writer.write(progress, found.params, {"count": np.zeros(3)})
    assert updates_kept(copied) == [9, 8]
    assert not left.exists()
    again = restore_latest(copied, SHAPES, {"count": np.ones(3)})
    assert again is not None
    assert digest(again.params) == digest(found.params)
    assert again.progress == progress
    np.testing.assert_array_equal(again.training["count"], np.zeros(3))
    # One that cannot be written is one line.
    shutil.rmtree(copied / FOLDER)
    (copied / FOLDER).write_bytes(b"a file in its place")
    writer = CheckpointWriter(copied, keep=1)
    with pytest.raises(DataError, match=r"9: cannot be written") as error:
        writer.write(progress, found.params, {})
    assert "\n" not in str(error.value)


@pytest.fixture
def held(monkeypatch):
    """Holds back the sealing of checkpoints until it is told to let go."""
    go, seal, at_once = threading.Event(), checkpoint._seal, []

    def held_back(folder, facts):
        at_once.append(facts.progress.update)
        assert len(at_once) == 1, "two are written at once"
        assert go.wait(60)
        seal(folder, facts)
        at_once.clear()

    monkeypatch.setattr(checkpoint, "_seal", held_back)
    yield go
    go.set()


def saved(writer, number, params, best=None):
    """Save parameters after a number of updates; a run changes its sums after it."""
    progress = Progress(number, 9, "run", {}, {"steps": number}, best)
    writer.write(progress, params, {"update": np.array(number)})
    progress.totals["steps"] += 1


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, held):
    params = StubModel().init(jax.random.key(1))
    before = digest(params)
    double = jax.jit(lambda tree: jax.tree.map(jnp.add, tree, tree), donate_argnums=0)
    with CheckpointWriter(tmp_path, 2) as writer:
        saved(writer, 1, params)
        after = double(params)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
        jax.block_until_ready(after)
        assert updates_kept(tmp_path) == []
        held.set()
        writer.settle()
        assert updates_kept(tmp_path) == [1]
        saved(writer, 2, after)
    for number, expected in ((1, before), (2, digest(after))):
        found = restore(tmp_path / FOLDER / str(number), SHAPES)
        assert digest(found.params) == expected
        assert found.progress.totals == {"steps": number}


def test_one_that_is_slow_makes_the_next_wait(tmp_path, held, monkeypatch):
    monkeypatch.setattr(checkpoint, "_NOTICED", 0.05)
    params, said = StubModel().init(jax.random.key(1)), []
    with CheckpointWriter(tmp_path, 3, report=said.append) as writer:
        saved(writer, 1, params)
        threading.Timer(0.2, held.set).start()
        saved(writer, 2, params)
        assert updates_kept(tmp_path) == [1]
        assert len(said) == 1
        (seconds,) = re.findall(r"waited ([\d.]+) s", said[0])
        assert float(seconds) >= 0.1
        held.clear()
        threading.Timer(0.2, held.set).start()
        saved(writer, 3, params)
        assert len(said) == 1
    assert updates_kept(tmp_path) == [3, 2, 1]


@pytest.mark.parametrize("told_by", ["save", "settle", "exit", "none"])
def test_what_goes_wrong_in_the_background_is_raised(tmp_path, monkeypatch, told_by):
    def full(folder, facts):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(writer):
        monkeypatch.setattr(checkpoint, "_seal", full)
        saved(writer, 2, params)
        if told_by == "settle":
            writer.settle()
        elif told_by == "save":
            saved(writer, 3, params)
        elif told_by == "none":
            raise KeyError("what ends a run is told first")

    params = StubModel().init(jax.random.key(1))
    with CheckpointWriter(tmp_path, 3) as writer:
        saved(writer, 1, params)
    with (
        pytest.raises((DataError, KeyError)) as error,
        CheckpointWriter(tmp_path, 3) as writer,
    ):
        fail(writer)
    assert error.type is (KeyError if told_by == "none" else DataError)
    if error.type is DataError:
        where = tmp_path / FOLDER / "2"
        assert (
            str(error.value)
            == f"{where}: cannot be written: {os.strerror(errno.ENOSPC)}"
        )
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["1"]


def test_the_best_stays_and_is_the_one_that_is_loaded(finished, copied, held):
    params, said = StubModel().init(jax.random.key(1)), []
    held.set()
    assert read_best(copied) is None
    with CheckpointWriter(copied, 2) as writer:
        for number in (9, 10):
            saved(writer, number, params, best=Best(6, 0.75))
    assert updates_kept(copied) == [10, 9, 6]
    _, found = load_model(copied, read=read_stub, report=said.append)
    assert digest(found) == finished[1][6]
    assert said == [
        f"{copied}: update 6 of 8, the best by its evaluation (0.75); the newest is 10"
    ]
    # A run goes on from the newest; and knows the best of those before it.
    latest = restore_latest(copied, SHAPES)
    assert latest is not None
    assert (latest.progress.update, latest.progress.best) == (10, Best(6, 0.75))
    held.clear()
    with CheckpointWriter(copied, 1) as writer:
        saved(writer, 11, params, best=Best(11, 0.8))
        # Not before it is whole.
        assert read_best(copied) == Best(6, 0.75)
        held.set()
    assert (read_best(copied), updates_kept(copied)) == (Best(11, 0.8), [11])
    # One that is damaged is not the one that is used.
    with CheckpointWriter(copied, 1) as writer:
        saved(writer, 12, params, best=Best(11, 0.8))
    (copied / FOLDER / "11" / MANIFEST).write_bytes(b"")
    said.clear()
    load_model(copied, read=read_stub, report=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"{copied / FOLDER / '11'}: damaged: ")
    assert f"{copied / FOLDER / '12'} is whole" in said[0]
    # Nor does one that is gone, and the name it has is that of the newest readable.
    shutil.rmtree(copied / FOLDER / "11")
    assert read_best(copied) is None


def test_arrays_go_where_the_template_s_lie(finished):
    """Onto another mesh than they were saved from."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        SHAPES,
    )
    found = restore_latest(finished[0], template)
    assert found is not None
    assert {leaf.sharding for leaf in jax.tree.leaves(found.params)} == {whole}
    assert digest(found.params) == finished[1][8]
    alone = restore_latest(finished[0], SHAPES)
    assert alone is not None
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(alone.params)} == {1}


def test_the_model_of_a_run_is_found(finished, copied, tmp_path):
    model, params = load_model(finished[0], read=read_stub)
    assert model == StubModel()
    assert digest(params) == finished[1][8]
    shutil.rmtree(copied / FOLDER / "8")
    said = []
    _, params = load_model(copied, read=read_stub, report=said.append)
    assert digest(params) == finished[1][6]
    assert said == [f"{copied}: unfinished: 6 of 8 updates"]
    shutil.rmtree(copied / FOLDER)
    with pytest.raises(DataError, match="holds no checkpoint"):
        load_model(copied, read=read_stub)
    with pytest.raises(DataError, match=DESCRIPTION):
        load_model(tmp_path / "none")
    # The stub is a model of the tests: the package knows no such name.
    with pytest.raises(DataError, match="unknown model 'stub'"):
        load_model(finished[0])
