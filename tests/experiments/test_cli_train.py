"""`mprm train` on a small corpus with a stub of a model."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks.kill_resume import digest
from experiments.benchmarks.stub_model import StubModel, read_stub
from experiments.store.read_subset import read_subset
from mprm_jax.data.problems import DataError
from mprm_jax.models import model as models
from mprm_jax.train.checkpoint import load_model
from tests.cli import run
from tests.raw_files import random_records, write_corpus


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A corpus with images, and a stub instead of the model that ships."""
    rng = np.random.default_rng(1)
    write_corpus(
        tmp_path / "world" / "annotations",
        {"a.jsonl": random_records(rng, 25), "b.jsonl": random_records(rng, 15)},
    )
    images = tmp_path / "world" / "images"
    images.mkdir()
    for i in range(25):
        pixels = rng.integers(0, 256, (1, 2, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    model = StubModel()
    params = model.init(jax.random.key(0))
    monkeypatch.setattr(models, "open_model", lambda name: (model, params))
    return tmp_path / "world"


def train(capsys, world, *arguments, output="model"):
    given = ("--batch-size", 8, "--output", world.parent / output)
    return run(capsys, "train", world, *given, *arguments)


def weights(world, output="model"):
    return digest(load_model(world.parent / output, read=read_stub)[1])


def test_the_whole_corpus_is_one_pass(capsys, world):
    done = train(capsys, world, "--json")
    assert done.status == 0, done.err
    assert done.json["rollouts"] == done.json["presentations"] == 40
    assert done.json["updates"] == 5
    manifest = json.loads((world.parent / "model" / "manifest.json").read_text())
    assert manifest["result"]["last_update"] == done.json["last_update"]
    assert manifest["selection"] is None
    assert [file["file"] for file in manifest["inputs"]] == ["a.jsonl", "b.jsonl"]
    lines = (world.parent / "model" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 5
    steps = sum(json.loads(line)["steps"] for line in lines)
    assert steps == done.json["steps"]
    assert json.loads(lines[-1])["loss"] == done.json["last_update"]["loss"]
    again = train(capsys, world, output="again")
    assert again.status == 0
    assert "mprm evaluate --checkpoint" in again.out
    assert weights(world) == weights(world, "again")


def test_a_rule_and_its_written_subset_train_alike(capsys, world):
    chosen = ("--rule", "bis", "--keep-ratio", "0.4", "--seed", "3")
    subset = world.parent / "bis.jsonl"
    assert run(capsys, "select", world, *chosen, "--output", subset).status == 0
    assert train(capsys, world, *chosen, output="rule").status == 0
    named = ("--subset", subset, "--seed", 3)
    assert train(capsys, world, *named, output="file").status == 0
    manifest = subset.with_name("bis.jsonl.manifest.json")
    named = ("--subset", manifest, "--seed", 3, "--json")
    done = train(capsys, world, *named, output="manifest")
    assert done.json["rollouts"] == 16
    found = {weights(world, name) for name in ("rule", "file", "manifest")}
    assert len(found) == 1
    assert train(capsys, world, "--seed", 3, output="all").status == 0
    assert weights(world, "all") not in found


def test_matched_updates_are_those_of_the_whole_corpus(capsys, world):
    chosen = ("--rule", "random", "--keep-ratio", "0.4", "--matched-updates")
    done = train(capsys, world, *chosen, "--json")
    assert (done.json["rollouts"], done.json["updates"]) == (16, 5)
    assert done.json["presentations"] == 40


def test_a_run_is_resumed_only_as_itself(capsys, world):
    assert train(capsys, world).status == 0
    again = train(capsys, world)
    assert again.status == 1
    assert "--resume" in again.err
    other = train(capsys, world, "--resume", "--labels", "soft")
    assert other.status == 1
    assert "objective" in other.err
    same = train(capsys, world, "--resume", "--threads", 0)
    assert same.status == 0, same.err
    assert "nothing was left to do" in same.out
    # Another corpus under the same name is another run.
    path = world / "annotations" / "b.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Because", b"becausE"))
    changed = train(capsys, world, "--resume")
    assert changed.status == 1
    assert "corpus differ" in changed.err


def test_a_subset_must_fit_the_corpus(capsys, world):
    subset = world.parent / "s.jsonl"
    chosen = ("--rule", "bis", "--keep-ratio", "0.4", "--output", subset)
    assert run(capsys, "select", world, *chosen).status == 0
    manifest = subset.with_name("s.jsonl.manifest.json")
    value = json.loads(manifest.read_text())
    for rows in ([39, 1], [1, 1], [40], []):
        manifest.write_text(json.dumps(value | {"rows": rows}))
        refused = train(capsys, world, "--subset", subset)
        assert refused.status == 1
        assert "not ascending rows" in refused.err
    manifest.write_text(json.dumps(value))
    refused = train(capsys, world, "--subset", subset, "--trials", 8)
    assert refused.status == 2
    assert "--trials 8" in refused.err
    (world / "annotations" / "c.jsonl").write_bytes(
        (world / "annotations" / "b.jsonl").read_bytes()
    )
    refused = train(capsys, world, "--subset", subset)
    assert refused.status == 1
    assert "c.jsonl is new" in refused.err
    (world / "annotations" / "c.jsonl").unlink()
    (world / "annotations" / "b.jsonl").write_bytes(
        (world / "annotations" / "a.jsonl").read_bytes()
    )
    assert "b.jsonl is changed" in train(capsys, world, "--subset", subset).err
    assert not (world.parent / "model").exists()


def test_an_official_subset_is_trained_on_as_a_corpus(capsys, world):
    subset = world.parent / "official.jsonl"
    chosen = ("--compat", "official", "--keep-ratio", "0.4", "--output", subset)
    assert run(capsys, "select", world / "annotations", *chosen).status == 0
    with pytest.raises(DataError, match="train on the file itself"):
        read_subset(subset)
    given = ("--images", world, "--batch-size", 8, "--json")
    done = run(capsys, "train", subset, *given, "--output", world.parent / "official")
    assert done.status == 0, done.err
    assert done.json["rollouts"] == 16


def test_unreadable_data_names_its_line(capsys, world):
    (world / "images" / "3.png").write_bytes(b"GIF89a")
    failed = train(capsys, world)
    assert failed.status == 1
    assert "a.jsonl:4: unknown image format" in failed.err or (
        "b.jsonl:4: unknown image format" in failed.err
    )
    assert "Traceback" not in failed.err
    for i in range(25):
        (world / "images" / f"{i}.png").unlink()
    failed = train(capsys, world, output="other")
    assert failed.status == 1
    assert "image not found" in failed.err


def test_a_batch_that_cannot_be_shared_is_wrong_usage(capsys, world):
    refused = train(capsys, world, "--accumulate", "3")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert not (world.parent / "model" / "checkpoints").exists()
