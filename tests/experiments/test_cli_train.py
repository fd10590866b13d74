"""`mprm train` on a small corpus with a stub of a model."""

import json
import resource
from functools import partial

import grain
import jax
import numpy as np
import pytest

from experiments.benchmarks.kill_resume import digest
from experiments.store.read_subset import read_subset
from mprm_jax.data import loader
from mprm_jax.records.problems import DataError
from mprm_jax.train import checkpoint
from mprm_jax.train import open_model as models
from mprm_jax.train.checkpoint import updates_kept
from mprm_jax.train.open_model import load_model
from mprm_jax.train.run_files import RunLog, fingerprint
from tests.mprm_jax.stub_model import StubModel, read_stub
from tests.raw_files import (
    benchmark,
    random_records,
    solution,
    write_corpus,
    write_pictures,
)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A corpus with images, and a stub instead of the model that ships."""
    rng = np.random.default_rng(1)
    write_corpus(
        tmp_path / "world" / "annotations",
        {"a.jsonl": random_records(rng, 25), "b.jsonl": random_records(rng, 15)},
    )
    write_pictures(tmp_path / "world" / "images", 25, (1, 2))
    model = StubModel()
    params = model.init(jax.random.key(0))
    monkeypatch.setattr(models, "open_model", lambda name: (model, params))
    return tmp_path / "world"


@pytest.fixture
def train(mprm, world):
    """``mprm train`` on it."""

    def command(*arguments, output="model"):
        given = ("--batch-size 8 --output", world.parent / output)
        return mprm("train", world, *given, *arguments)

    return command


def weights(world, output="model"):
    return digest(load_model(world.parent / output, read=read_stub)[1])


def test_the_whole_corpus_is_one_pass(train, mprm, world):
    done = train("--json")
    assert done.status == 0, done.err
    assert done.json["rollouts"] == done.json["presentations"] == 40
    assert done.json["updates"] == 5
    manifest = json.loads((world.parent / "model" / "manifest.json").read_text())
    assert manifest["result"]["last_update"] == done.json["last_update"]
    assert manifest["selection"] is None
    assert manifest["arguments"]["settings"]["batch_size"] == 8
    assert [file["file"] for file in manifest["inputs"]] == ["a.jsonl", "b.jsonl"]
    lines = (world.parent / "model" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 5
    steps = sum(json.loads(line)["steps"] for line in lines)
    assert steps == done.json["steps"]
    assert json.loads(lines[-1])["loss"] == done.json["last_update"]["loss"]
    again = train(output="again")
    assert again.status == 0
    assert "mprm evaluate --checkpoint" in again.out
    assert weights(world) == weights(world, "again")


def test_a_rule_and_its_written_subset_train_alike(train, mprm, world):
    chosen = "--rule bis --keep-ratio 0.4 --seed 3"
    subset = world.parent / "bis.jsonl"
    assert mprm("select", world, chosen, "--output", subset).status == 0
    assert train(chosen, output="rule").status == 0
    named = ("--seed 3 --subset", subset)
    assert train(*named, output="file").status == 0
    manifest = subset.with_name("bis.jsonl.manifest.json")
    named = ("--seed 3 --json --subset", manifest)
    done = train(*named, output="manifest")
    assert done.json["rollouts"] == 16
    found = {weights(world, name) for name in ("rule", "file", "manifest")}
    assert len(found) == 1
    assert train("--seed 3", output="all").status == 0
    assert weights(world, "all") not in found


def test_matched_updates_are_those_of_the_whole_corpus(train, world):
    done = train("--rule random --keep-ratio 0.4 --matched-updates --json")
    assert (done.json["rollouts"], done.json["updates"]) == (16, 5)
    assert done.json["presentations"] == 40


def test_a_run_is_resumed_only_as_itself(train, world):
    assert train().status == 0
    again = train()
    assert (again.status, "resume" in again.err) == (1, True)
    other = train("--resume --labels soft")
    assert (other.status, "objective" in other.err) == (1, True)
    same = train("--resume --threads 0")
    assert same.status == 0, same.err
    assert "nothing was left to do" in same.out
    # Another corpus under the same name is another run.
    path = world / "annotations" / "b.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Because", b"becausE"))
    changed = train("--resume")
    assert (changed.status, "corpus differ" in changed.err) == (1, True)


def test_a_subset_must_fit_the_corpus(train, mprm, world):
    subset = world.parent / "s.jsonl"
    chosen = ("--rule bis --keep-ratio 0.4 --output", subset)
    assert mprm("select", world, *chosen).status == 0
    manifest = subset.with_name("s.jsonl.manifest.json")
    value = json.loads(manifest.read_text())
    for rows in ([39, 1], [1, 1], [40], []):
        output = value["output"] | {"rollouts": len(rows)}
        manifest.write_text(json.dumps(value | {"rows": rows, "output": output}))
        refused = train("--subset", subset)
        assert refused.status == 1
        assert "ascending rows" in refused.err
    manifest.write_text(json.dumps(value | {"rows": value["rows"][1:]}))
    assert train("--subset", subset).status == 1
    manifest.write_text(json.dumps(value))
    refused = train("--subset", subset, "--trials", 8)
    assert refused.status == 2
    assert "--trials 8" in refused.err
    a, b, c = ((world / "annotations" / f"{name}.jsonl") for name in "abc")
    c.write_bytes(b.read_bytes())
    refused = train("--subset", subset)
    assert (refused.status, "c.jsonl is new" in refused.err) == (1, True)
    c.unlink()
    b.write_bytes(a.read_bytes())
    assert "b.jsonl is changed" in train("--subset", subset).err
    assert not (world.parent / "model").exists()


def test_a_subset_is_trained_on_only_as_it_was_selected(train, mprm, world):
    one, other = world.parent / "one.jsonl", world.parent / "other.jsonl"
    for output, rule in ((one, "bis"), (other, "random")):
        chosen = f"--rule {rule} --keep-ratio 0.4 --output"
        assert mprm("select", world, chosen, output).status == 0
    manifest = one.with_name("one.jsonl.manifest.json")
    whole = one.read_bytes()
    edited = whole.replace(b"[1.0", b"[0.0", 1)
    halved = b"".join(whole.splitlines(keepends=True)[::2])
    assert len({whole, edited, halved}) == 3
    for held in (b"", edited, halved, other.read_bytes(), whole + b"\n"):
        one.write_bytes(held)
        # However it is named: the rows would not be those of the file.
        for named in (one, manifest):
            refused = train("--subset", named)
            assert (refused.status, refused.err.count("\n")) == (1, 1), held[:80]
            assert f"{one}: " in refused.err
    one.unlink()
    missing = train("--subset", one)
    assert (missing.status, f"{one}: no such file" in missing.err) == (1, True)
    assert not (world.parent / "model").exists()
    done = train("--subset", manifest, "--json")
    assert done.json["rollouts"] == 16
    # A manifest of rows alone is not led astray by a file either, nor put beside one.
    rows = world.parent / "rows.jsonl"
    only = ("select", world, "--format rows --keep-ratio 0.4 --output")
    assert mprm(*only, rows).status == 0
    assert train("--subset", rows, output="rows").status == 0
    rows.write_bytes(whole)
    assert train("--subset", rows, output="more").status == 1
    assert mprm("verify", rows).status == 1
    assert mprm(*only, rows).status == 1


def test_an_official_subset_is_trained_on_as_a_corpus(train, mprm, world):
    subset = world.parent / "official.jsonl"
    chosen = ("--compat", "official", "--keep-ratio", "0.4", "--output", subset)
    assert mprm("select", world / "annotations", *chosen).status == 0
    with pytest.raises(DataError, match="train on the file itself"):
        read_subset(subset)
    given = ("--images", world, "--batch-size", 8, "--json")
    done = mprm("train", subset, *given, "--output", world.parent / "official")
    assert done.status == 0, done.err
    assert done.json["rollouts"] == 16


def test_a_run_that_failed_at_once_is_in_nobody_s_way(train, world):
    path = world / "annotations" / "b.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"image": "images/', b'"image": "elsewhere/'))
    assert train("--no-check-images").status == 1
    path.write_bytes(whole)
    # Neither as another run, nor for want of --resume.
    done = train("--labels soft")
    assert (done.status, "before its first checkpoint" in done.err) == (0, True)
    assert train("--labels soft --resume").status == 0
    assert train().status == 1
    # Somebody's own file of that name is no leftover.
    (world.parent / "mine").mkdir()
    (world.parent / "mine" / "metrics.jsonl").write_text("mine")
    assert train(output="mine").status == 1
    assert (world.parent / "mine" / "metrics.jsonl").read_text() == "mine"


def test_a_folder_belongs_to_one_living_run(train, world):
    settings = "--labels soft --checkpoint-every 1"
    assert train(settings).status == 0
    with RunLog(world.parent / "model", 5, tensorboard=False):
        before = (world.parent / "model" / "run.json").read_bytes()
        refused = train(settings, "--resume")
        assert (refused.status, refused.err.count("\n")) == (1, 1)
        assert (world.parent / "model" / "run.json").read_bytes() == before


def test_a_mended_picture_costs_no_update_that_was_made(train, world):
    order = grain.MapDataset.range(40).seed(loader._seed(0)).shuffle()
    # Rollouts i and 25 + i share a picture: that which is met last.
    met: dict[int, int] = {}
    for place in range(40):
        met.setdefault(int(order[place] or 0) % 25, place)
    number = max(met, key=lambda of: met[of])
    picture = world / "images" / f"{number}.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:40])
    settings = "--checkpoint-every 1 --threads 0 --no-check-images"
    failed = train(settings)
    assert failed.status == 1
    assert f".jsonl:{number + 1}: " in failed.err
    made = updates_kept(world.parent / "model")
    assert made[0] >= 2
    picture.write_bytes(whole)
    done = train(settings, "--resume")
    assert (done.status, f"after update {made[0]}" in done.err) == (0, True)
    assert train(settings, output="at-once").status == 0
    assert weights(world) == weights(world, "at-once")


def test_a_full_disk_costs_no_earlier_checkpoint(train, world, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = checkpoint.CheckpointWriter.save

    def full(writer, progress, *rest):
        writer.settle()
        if progress.update == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (900, limits[1]))
        save(writer, progress, *rest)

    settings, output = "--checkpoint-every 1 --threads 0", world.parent / "model"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.CheckpointWriter, "save", full)
        try:
            failed = train(settings)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # Nor is there a word of the threads that write.
    assert (failed.status, failed.err.count("\n")) == (1, 1), failed.err
    assert f"{output / 'checkpoints' / '3'}: " in failed.err
    kept = {path.name for path in (output / "checkpoints").iterdir()}
    assert kept == {"1", "2"}
    done = train(settings, "--resume")
    assert (done.status, "goes on after update 2" in done.err) == (0, True)


def test_what_was_judged_is_said_wherever_it_is_judged(train, mprm, world, monkeypatch):
    """A damaged newest checkpoint is not the one that is judged."""
    assert train("--checkpoint-every 1").status == 0
    load = partial(load_model, read=read_stub)
    monkeypatch.setattr("mprm_jax.train.open_model.load_model", load)
    model = world.parent / "model"
    file = benchmark(world.parent / "b", [solution(i, 1 + i % 3) for i in range(30)])
    output = world.parent / "scores.jsonl"
    given = ("--json --threshold 0.5 --replicates 0 --checkpoint", model)
    found = []
    for update in (5, 4):
        done = mprm("evaluate", *given, "--benchmark", file, "--output", output)
        assert (done.status, "damaged" in done.err) == (0, update == 4)
        manifest = output.with_name("scores.jsonl.manifest.json")
        metrics = output.with_name("scores.metrics.json")
        stored = [json.loads(path.read_text()) for path in (manifest, metrics)]
        judged = done.json["judged"]
        assert judged == stored[0]["judged"] == stored[1]["judged"]
        assert (judged["update"], judged["updates"]) == (update, 5)
        assert judged["folder"] == str(model)
        found.append(judged["parameters"])
        (model / "checkpoints" / "5" / "manifest.json").write_bytes(b"")
    params = load_model(model, read=read_stub)[1]
    assert found[1] == fingerprint(params) != found[0]
    words = mprm("evaluate --threshold 0.5 --checkpoint", model, "--benchmark", file,
                 "--output", output)  # fmt: skip
    assert "update 4 of 5" in words.out


def test_unreadable_data_names_its_line(train, world):
    (world / "images" / "3.png").write_bytes(b"GIF89a")
    failed = train()
    assert failed.status == 1
    assert ".jsonl:4: 'images/3.png'" in failed.err
    for i in range(25):
        (world / "images" / f"{i}.png").unlink()
    failed = train(output="other")
    assert (failed.status, "image not found" in failed.err) == (1, True)


def test_a_batch_that_cannot_be_shared_is_wrong_usage(train, world):
    refused = train("--accumulate 3")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert not (world.parent / "model" / "checkpoints").exists()
