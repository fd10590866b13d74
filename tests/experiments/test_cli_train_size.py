"""`mprm train` of backbones: plans, meshes, adapters, devices that are too small."""

import json

import jax
import numpy as np
import pytest

from mprm_jax.models.backbone import Backbone
from mprm_jax.models.lora import LoraModel, base_of
from mprm_jax.train import loop
from mprm_jax.train.open_model import load_model
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.random_weights import qwen_config
from tests.mprm_jax.test_pricing import SIZES, full_size
from tests.raw_files import random_records, write_corpus, write_pictures


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A corpus of 20 rollouts with images."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(1)
    write_corpus(folder / "annotations", {"a.jsonl": random_records(rng, 20)})
    write_pictures(folder / "images", 20, (30, 40))
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Mostly vocabulary, as no adapter is."""
    wide = qwen_config()["text_config"] | {"vocab_size": 30_000}
    return qwen_folder(tmp_path_factory.mktemp("qwen"), text_config=wide)


@pytest.fixture
def train(mprm, world):
    """``mprm train`` of a model on it."""

    def command(folder, *arguments):
        given = ("--batch-size 8 --threads 0 --model", folder)
        return mprm("train", world, *given, *arguments)

    return command


@pytest.mark.parametrize("family", SIZES)
def test_the_plan_of_a_released_model(train, tmp_path, family):
    folder = full_size(tmp_path, family)
    asked = ("--mesh", "1x8x1", "--dry-run", "--output", tmp_path / "out")
    done = train(folder, *asked)
    assert done.status == 0, done.err
    count = sum(SIZES[family])
    for words in (f"{count:,} parameters", "devices: 8 (", "3 updates of up to 8"):
        assert words in done.out
    # Of no device that is not here.
    assert train(folder, *asked, "--json").json["hours"] is None
    assert train(folder, *asked, "--mfu", 0.5).status == 2
    told = train(folder, *asked, "--json", "--peak-tflops", 494.5)
    assert told.json["parameters"] == count
    assert told.json["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert told.json["prompts_read"] == 20
    assert not told.json["prompts_sampled"]
    work = 3 * told.json["flops_per_update"]
    hours = work / (8 * 494.5e12 * 0.4) / 3600
    assert told.json["hours"] == pytest.approx(hours)
    assert not (tmp_path / "out").exists()
    assert told.json["fits"] is None


GIB = 2**30


def test_a_dry_run_says_first_whether_it_fits(train, tmp_path):
    folder = full_size(tmp_path, "qwen")

    def asked(*given):
        done = train(folder, "--dry-run", *given)
        return done.out.splitlines()[0], train(
            folder, "--dry-run", *given, "--json"
        ).json

    line, eight = asked("--devices", 8, "--memory", 80)
    assert line.startswith("fits: ")
    assert eight["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert (eight["fits"], eight["memory"]) == (True, 80 * GIB)
    held = eight["bytes_per_device"]
    # The estimate of the activations may be 13 % too little (LOG.md).
    needed = sum(held.values()) + 0.13 * held["activations"]
    assert eight["bytes_needed"] == pytest.approx(needed, abs=1)
    line, one = asked("--devices", 1, "--memory", 80)
    assert line.startswith("does not fit: ")
    assert one["fits"] is False
    _, adapted = asked("--devices", 8, "--memory", 80, "--lora-rank", 16)
    assert adapted["mesh"]["data"] == 8
    _, told = asked("--mesh", "2x4x1", "--memory", 80, "--accumulate", 1)
    assert (told["mesh"]["data"], told["accumulate"]) == (2, 1)


def test_what_does_not_fit_is_refused_before_weights_are_read(
    train, tmp_path, monkeypatch
):
    folder = full_size(tmp_path, "qwen")
    monkeypatch.setattr("mprm_jax.models.weights.tensors.stored_layout", lambda _: 0)
    monkeypatch.setattr("mprm_jax.train.price.device_memory", lambda: 24 * GIB)
    refused = train(folder, "--output", tmp_path / "out")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    for word in ("does not fit", "8 devices", "--lora-rank 16"):
        assert word in refused.err
    # 16 bytes of each of 7.6 billion trained parameters: 28 GiB in quarters, and with
    # Adafactor's 8 as much in halves.
    assert "4 devices" not in refused.err
    assert "adafactor" not in refused.err


def test_adapters_are_trained_on_a_mesh_and_merged_by_export(
    train, mprm, qwen, tmp_path
):
    output = tmp_path / "model"
    chosen = (
        "--mesh", "1x2x1", "--lora-rank", 96, "--lora-targets", "query,down",
        "--optimizer", "adafactor", "--compute", "float32", "--accumulate", 2,
        "--max-length", 128, "--learning-rate", 0.01, "--output", output,
    )  # fmt: skip
    done = train(qwen, *chosen, "--json")
    assert done.status == 0, done.err
    assert done.json["updates"] == 3
    model, whole = load_model(output)
    assert isinstance(model, LoraModel)
    # A checkpoint is adapters, head and their moments, not the base.
    learned = sum(
        leaf.nbytes
        for name in ("adapters", "head")
        for leaf in jax.tree.leaves(whole[name])
    )
    frozen = sum(leaf.nbytes for leaf in jax.tree.leaves(whole)) - learned
    files = (output / "checkpoints" / "3").rglob("*")
    held = sum(path.stat().st_size for path in files if path.is_file())
    assert frozen > 10 * 2 * learned
    assert held < 1.1 * 2 * learned
    exported = tmp_path / "exported"
    assert mprm("export", output, "--output", exported).status == 0
    refused = train(output, "--output", tmp_path / "more")
    assert (refused.status, "mprm export merges them" in refused.err) == (1, True)
    merged, params = _opened(exported)
    base = base_of(model)
    assert isinstance(base, Backbone)
    assert base.prompting.max_length == 128
    assert merged.head.tokens == base.head.tokens
    # Of the kernels only those with adapters moved.
    _, before = _opened(qwen)
    layers, old = params["language"]["layers"], before["language"]["layers"]
    for name in ("query", "down"):
        assert np.abs(layers[name]["kernel"] - old[name]["kernel"]).max() > 1e-4
    for name in ("key", "up"):
        np.testing.assert_array_equal(layers[name]["kernel"], old[name]["kernel"])
    # The adapters are told apart from a run without, and the mesh is free to change.
    other = train(qwen, *chosen[:2], *chosen[6:], "--resume")
    assert other.status == 1
    assert "model differ" in other.err or "initial_parameters" in other.err
    # Without its base it is no model; who goes on with it says where the base lies.
    named = output / "base.json"
    lost = json.loads(named.read_text()) | {"folder": "/gone", "from_here": "gone"}
    named.write_text(json.dumps(lost))
    alone = mprm("export", output, "--output", tmp_path / "alone")
    assert (alone.status, alone.err.count("\n")) == (1, 1), alone.err
    assert f"{output}: was trained from /gone" in alone.err
    moved = train(qwen, "--mesh", "2x1x1", *chosen[2:], "--resume")
    assert moved.status == 0, moved.err
    assert "nothing was left to do" in moved.out
    jax.tree.map(np.testing.assert_array_equal, load_model(output)[1], whole)


def test_the_head_s_rows_are_those_asked_for(train, mprm, qwen, tmp_path):
    new = ("--answers", "new", "--compute", "float32", "--output", tmp_path / "new")
    done = train(qwen, *new)
    assert done.status == 0, done.err
    model, params = load_model(tmp_path / "new")
    assert isinstance(model, Backbone)
    assert model.head.tokens is None
    assert params["head"]["answers"].shape == (2, 32)
    signs = ("--answers", "plus-minus", "--output", tmp_path / "signs")
    assert train(qwen, *signs).status == 0
    model, _ = load_model(tmp_path / "signs")
    assert isinstance(model, Backbone)
    expected = tuple(map(model.tokenizer.token_to_id, "+-"))
    assert model.head.tokens == expected != model.answer_tokens


def _opened(folder):
    from mprm_jax.models.weights.load import load_backbone

    return load_backbone(folder)


def test_defaults_are_bfloat16_and_recomputed(train, tmp_path):
    """On both devices of these tests, without asking for a mesh."""
    folder = internvl_folder(tmp_path / "weights")
    output = tmp_path / "model"
    done = train(folder, "--output", output, "--json")
    assert done.status == 0, done.err
    # What was chosen is said, and kept.
    assert "2 devices (2 data x 1 fsdp x 1 tensor)" in done.err
    kept = json.loads((output / "manifest.json").read_text())["price"]
    assert (kept["mesh"]["data"], kept["accumulate"]) == (2, 1)
    model, params = load_model(output)
    assert isinstance(model, Backbone)
    assert (model.compute.dtype, model.compute.remat) == ("bfloat16", "all")
    # Masters keep bits that bfloat16 has not; the frozen tower has none beyond it.
    kernel = params["language"]["layers"]["up"]["kernel"]
    assert np.abs(kernel - kernel.astype("bfloat16").astype("float32")).max() > 0
    tower = params["vision"]["layers"]["up"]["kernel"]
    np.testing.assert_array_equal(tower, tower.astype("bfloat16").astype("float32"))
    # What a run wrote is a model to go on from.
    again = ("--output", tmp_path / "again", "--compute", "float32", "--remat", "none")
    more = train(output, *again)
    assert more.status == 0, more.err
    wide, _ = load_model(tmp_path / "again")
    assert isinstance(wide, Backbone)
    assert (wide.compute.dtype, wide.compute.remat) == ("float32", "none")
    # Which attention it was, and why, is said at once and stays with the run.
    told = json.loads((tmp_path / "again" / "manifest.json").read_text())["attention"]
    assert told.keys() == {"attention", "tower_attention"}
    for part, choice in told.items():
        assert choice["implementation"] == "xla"
        assert choice["reason"] in more.err
        assert part in more.err


def test_features_of_frozen_images_are_kept(train, qwen, tmp_path):
    chosen = ("--compute", "float32", "--feature-cache", tmp_path / "features")
    done = train(qwen, *chosen, "--output", tmp_path / "one", "--json")
    assert done.status == 0, done.err
    plain = train(qwen, *chosen[:2], "--output", tmp_path / "two", "--json")
    losses = [of.json["last_update"]["loss"] for of in (done, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(list((tmp_path / "features").iterdir())) > 1


def test_too_little_memory_is_one_line_of_advice(train, qwen, tmp_path, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17.24GiB.\n"
            "BufferAssignment OOM Debugging."
        )

    monkeypatch.setattr(loop, "update", full)
    failed = train(qwen, "--output", tmp_path / "model")
    assert failed.status == 1
    chosen, *_, failure = failed.err.splitlines()
    assert chosen.startswith("mprm train: fits: ")
    for word in ("17.24GiB", "micro-batches", "devices", "adapters", "Adafactor"):
        assert word in failure
    monkeypatch.setattr(loop, "initial_state", full)
    failed = train(qwen, "--output", tmp_path / "other")
    assert "out of device memory (17.24GiB" in failed.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("--mesh 1x0x1", 2, "--mesh: fsdp must be at least 1"),
        ("--mesh 1x4x1", 1, "does not use 2 devices"),
        ("--memory 80", 2, "--memory needs --dry-run"),
        ("--dry-run --memory 0", 2, "--memory must be finite and positive"),
        ("--dry-run --memory 1e300", 2, "--memory must be finite and positive"),
        ("--dry-run --devices 4 --mesh 1x2x1", 2, "--devices 4, but --mesh has 2"),
        ("--accumulate 3", 2, "cannot share a batch of 8"),
        ("--dry-run --model nothing", 1, "nothing: no such model"),
    ],
)
def test_what_cannot_be_is_one_line(train, qwen, tmp_path, arguments, status, words):
    given = (*arguments.split(), "--output", tmp_path / "model")
    refused = train(qwen, *given)
    assert (refused.status, refused.err.count("\n")) == (status, 1)
    assert words in refused.err
    assert not (tmp_path / "model").exists()
