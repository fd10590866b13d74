"""What cannot be encoded is found before update 1, all at once."""

import json

import numpy as np
import pytest

from tests.cli import run
from tests.raw_files import record, write_corpus, write_pictures


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Twelve rollouts; the fourth has a cut picture, the ninth none."""
    monkeypatch.chdir(tmp_path)
    records = [record(number=i, image=f"{i}.png") for i in range(12)]
    write_corpus(tmp_path / "corpus" / "annotations", {"a.jsonl": records})
    write_pictures(tmp_path / "corpus" / "images", 12, (32, 32))
    cut = tmp_path / "corpus" / "images" / "3.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    (tmp_path / "corpus" / "images" / "8.png").unlink()
    return tmp_path


TRAIN = ("train", "corpus", "--output", "model", "--batch-size", 6, "--threads", 2)


def test_all_faults_are_told_and_no_run_begins(world, capsys):
    done = run(capsys, *TRAIN, "--max-bad", 1)
    assert done.status == 1
    for line in (4, 9):
        assert f"a.jsonl:{line}: " in done.err
    assert not (world / "model").exists()


def test_a_rule_chooses_again_without_what_cannot_be_encoded(world, capsys):
    # 0.84 of twelve are ten, of the ten that can be encoded eight.
    done = run(
        capsys, *TRAIN, "--max-bad", 2, "--rule", "bis", "--keep-ratio", 0.84, "--json"
    )
    assert done.status == 0
    assert done.json["rollouts"] == 8
    manifest = json.loads((world / "model" / "manifest.json").read_text())
    assert manifest["counts"]["bad"] == 2


def test_a_subset_loses_them_and_says_so(world, capsys):
    select = ("select", "corpus", "--format", "rows", "--keep-ratio", 1)
    assert run(capsys, *select, "--output", "all").status == 0
    manifest = world / "all.manifest.json"
    whole = manifest.read_text()
    value = json.loads(whole)
    value["output"]["rollouts"] = 2
    manifest.write_text(json.dumps(value | {"rows": [3, 8]}))
    none = run(capsys, *TRAIN, "--subset", "all", "--max-bad", 2)
    assert (none.status, "no rollout" in none.err) == (1, True)
    manifest.write_text(whole)
    subset = (*TRAIN, "--subset", "all")
    assert run(capsys, *subset, "--max-bad", 1).status == 1
    done = run(capsys, *subset, "--max-bad", 2, "--json")
    assert done.json["rollouts"] == 10
    assert "a.jsonl:4: " in done.err


def test_unchecked_pictures_end_the_run_at_their_batch(world, capsys):
    done = run(capsys, *TRAIN, "--max-bad", 2, "--no-check-images")
    assert done.status == 1
    assert np.count_nonzero([f"a.jsonl:{n}: " in done.err for n in (4, 9)]) == 1
