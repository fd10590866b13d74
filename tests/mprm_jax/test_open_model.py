"""Runs whose checkpoints hold what was trained, and the base that has the rest."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.kill_resume import digest
from mprm_jax.models.lora import LoraConfig
from mprm_jax.models.registry import DESCRIPTION
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.records.problems import DataError
from mprm_jax.train.checkpoint import (
    FOLDER,
    MANIFEST,
    CheckpointWriter,
    Progress,
    restore_latest,
)
from mprm_jax.train.open_backbone import Opening, open_for_training
from mprm_jax.train.open_model import load_model
from mprm_jax.train.optimizer import OptimizerConfig, join
from mprm_jax.train.run_files import BASE, Base, RunFolder, begin, fingerprint
from mprm_jax.train.sharding import MeshShape, make_mesh, parameter_shardings
from mprm_jax.train.update import initial_state
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder, text_folder
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.random_weights import qwen_config

TEXT = qwen_config()["text_config"]
LORA = Opening(lora=LoraConfig(2, targets=("query", "up")))
FULL = Opening()


def trained(run, weights, opening, *, refers=True):
    """A run of one update that moved all it trains; (model, parameters after it)."""
    model, params = open_for_training(weights, opening)
    state, frozen = initial_state(model, params, plan(8, 8), OptimizerConfig(), 1e-3)
    moved = jax.tree.map(lambda leaf: leaf + 2.0**-12, state.trained)
    state = state._replace(trained=moved, update=state.update + 1)
    begin(RunFolder(run), model, {"of": "a test"}, True)
    if refers:
        Base(weights, opening.frozen or opening.compute).write(run)
    kept = fingerprint(frozen) if refers else None
    with CheckpointWriter(run, 1, frozen=kept) as writer:
        writer.save(Progress(1, 1, "run", {}, {}), state, frozen)
    return model, join(moved, frozen)


def contents(run):
    return json.loads((run / FOLDER / "1" / MANIFEST).read_bytes())["contents"]


def float32(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def refused(run, *words):
    with pytest.raises(DataError) as error:
        load_model(run)
    assert "\n" not in str(error.value)
    for word in (str(run), *words):
        assert str(word) in str(error.value)


# InternVL's vocabulary has no row for <prm>: the base's is grown.
@pytest.mark.parametrize(
    ("make", "opening"),
    [(qwen_folder, LORA), (internvl_folder, FULL), (text_folder, LORA)],
)
def test_what_was_not_trained_is_read_from_the_base(make, opening, tmp_path):
    weights, run = make(tmp_path / "weights"), tmp_path / "run"
    model, params = trained(run, weights, opening)
    read, found = load_model(run)
    assert type(read) is type(model)
    jax.tree.map(np.testing.assert_array_equal, found, float32(params))
    held = contents(run)["facts"]["shapes"]["params"]
    free = jax.tree.leaves_with_path(model.trainable(params))
    assert held.keys() == {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, train in free
        if train
    }
    assert 0 < len(held) < len(free)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder with weights/ and runs/one, digest of the model's parameters)."""
    folder = tmp_path_factory.mktemp("world")
    weights = qwen_folder(folder / "weights")
    _, params = trained(folder / "runs" / "one", weights, LORA)
    return folder, digest(float32(params))


@pytest.fixture
def world(finished, tmp_path):
    """A copy of it, whose original is out of reach of the path that it names."""
    shutil.copytree(finished[0], tmp_path / "world")
    _edit(tmp_path / "world" / "runs" / "one" / BASE, folder="/gone/weights")
    return tmp_path / "world"


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_run_and_base_may_move(finished, world, tmp_path):
    run = world / "runs" / "one"
    assert digest(load_model(run)[1]) == finished[1]
    (world / "weights").rename(tmp_path / "elsewhere")
    refused(run, "/gone/weights, which is gone", world / "weights", run / BASE)
    _edit(run / BASE, folder=str(tmp_path / "elsewhere"))
    assert digest(load_model(run)[1]) == finished[1]
    beside = run.parent / "two"
    shutil.copytree(run, beside)
    _edit(beside / BASE, folder=str(run))
    for itself in (run, beside):
        _edit(run / BASE, folder=str(itself))
        refused(run, "for its own base", run / BASE)
    (run / BASE).write_text("{")
    refused(run, "names no base")
    # Adapters alone.
    (run / BASE).unlink()
    refused(run, "no such file", "trained parameters alone")


@pytest.mark.parametrize(
    "other",
    [
        lambda path: qwen_folder(path, seed=1),
        lambda path: qwen_folder(path, text_config=TEXT | {"num_hidden_layers": 3}),
        internvl_folder,
    ],
)
def test_another_base_is_refused(world, other):
    run, base = world / "runs" / "one", world / "weights"
    shutil.rmtree(base)
    other(base)
    refused(run, "other parameters", base, BASE)


def test_one_bit_of_the_base_is_enough(world):
    run, path = world / "runs" / "one", world / "weights" / "model.safetensors"
    data = bytearray(path.read_bytes())
    # The sign of the last number of the last tensor.
    data[-1] ^= 0x80
    path.write_bytes(data)
    refused(run, "other parameters")
    path.unlink()
    with pytest.raises(DataError, match="weights"):
        load_model(run)


def test_a_run_may_be_the_base_of_another(tmp_path):
    weights = internvl_folder(tmp_path / "weights")
    first, second = tmp_path / "first", tmp_path / "second"
    opening = Opening("float32", frozen="bfloat16")
    _, before = trained(first, weights, opening)
    _, params = trained(second, first, LORA)
    kernel = before["language"]["layers"]["up"]["kernel"]
    rounded = kernel.astype(jnp.bfloat16)
    assert np.abs(rounded - kernel).max() > 0
    found = load_model(second)[1]
    jax.tree.map(np.testing.assert_array_equal, found, float32(params))
    np.testing.assert_array_equal(found["language"]["layers"]["up"]["kernel"], rounded)
    # It needs both.
    shutil.rmtree(weights)
    refused(first, weights, "is gone")
    with pytest.raises(DataError, match=f"{first}: was trained from {weights}"):
        load_model(second)


def test_a_base_is_placed_as_it_is_read(world):
    mesh = make_mesh(MeshShape(1, 2))

    def place(model, shapes):
        return jax.tree.map(
            lambda leaf, where: leaf.update(dtype=jnp.bfloat16, sharding=where),
            shapes,
            parameter_shardings(mesh, shapes),
        )

    _, found = load_model(world / "runs" / "one", place=place)
    expected = parameter_shardings(mesh, found)
    jax.tree.map(
        lambda leaf, where: leaf.sharding.is_equivalent_to(where, leaf.ndim) or 1 / 0,
        found,
        expected,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
    kernel = found["language"]["layers"]["up"]["kernel"]
    assert not kernel.is_fully_replicated
    _, whole = load_backbone(world / "weights", dtype=jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, found["vision"], whole["vision"])


def test_checkpoints_with_all_parameters_need_no_base(tmp_path):
    """As all were once: their bytes are the same as then."""
    weights, run = qwen_folder(tmp_path / "weights"), tmp_path / "run"
    _, params = trained(run, weights, LORA, refers=False)
    facts = contents(run)["facts"]
    assert list(facts) == ["progress", "shapes", "schema"]
    assert facts["schema"] == "mprm-checkpoint/1"
    assert len(facts["shapes"]["params"]) == len(jax.tree.leaves(params))
    shutil.rmtree(weights)
    assert not (run / BASE).exists()
    assert (run / DESCRIPTION).exists()
    found = load_model(run)[1]
    jax.tree.map(np.testing.assert_array_equal, found, float32(params))
    # Of the run that goes on, whose precision this is.
    restored = restore_latest(run, params)
    assert restored is not None
    assert restored.frozen is None
    jax.tree.map(np.testing.assert_array_equal, restored.params, params)
