"""A simulated corpus never mixes with another; real files are fitted or refused."""

import random

import numpy as np
import pytest

from mprm_jax.data.outputs import PARTIAL_SUFFIX
from tests.cli import run
from tests.mprm_jax.test_index import mutate
from tests.raw_files import line, random_records, record, write_corpus

SMALL = ["simulate", "corpus", "--scale", "0.0002"]


def files(folder):
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.suffix == ".jsonl"
    }


def test_the_same_sources_are_written_again_in_place(capsys, tmp_path):
    assert run(capsys, *SMALL, "--output", tmp_path).status == 0
    before = files(tmp_path)
    assert len(before) == 38
    assert run(capsys, *SMALL, "--seed", "1", "--output", tmp_path).status == 0
    after = files(tmp_path)
    assert after.keys() == before.keys()
    assert after != before


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "did not write"),
        ("{", "did not write"),
        ("[]", "did not write"),
        # As another world's, which has an annotations/ of its own.
        ('{"world": "scarce", "rollouts": 10}', "did not write"),
        # As this command's own, of a corpus with other sources.
        ('{"files": ["shapes.jsonl"]}', "shapes.jsonl of an earlier simulation"),
    ],
)
def test_annotations_of_another_corpus_stay_alone(manifest, message, capsys, tmp_path):
    write_corpus(tmp_path / "annotations", {"shapes.jsonl": [record()]})
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    before = files(tmp_path)
    failed = run(capsys, *SMALL, "--output", tmp_path)
    assert (failed.status, failed.err.count("\n")) == (1, 1)
    assert message in failed.err
    assert files(tmp_path) == before


def test_a_corpus_to_fit_is_read_or_refused_whatever_its_bytes(capsys, tmp_path):
    clean = random_records(np.random.default_rng(2), 40)
    data = "".join(line(value) + "\n" for value in clean).encode()
    statuses = []
    for seed in range(25):
        rng = random.Random(seed)
        content = mutate(data, rng) if seed else data
        folder = write_corpus(tmp_path / str(seed), {"a.jsonl": content})
        output = tmp_path / f"out{seed}"
        found = run(capsys, "simulate", "corpus", "--from", folder, "--output", output,
                    "--scale", "0.5", "--json")  # fmt: skip
        assert found.status in (0, 1), found.err
        assert "Traceback" not in found.err
        if found.status:
            assert found.json["error"]
            assert "\n" not in found.json["error"]
            assert not files(tmp_path / f"out{seed}")
        else:
            assert found.json["overall"]["rollouts"] >= 15
        assert not list(tmp_path.rglob(f"*{PARTIAL_SUFFIX}"))
        statuses.append(found.status)
    assert statuses[0] == 0
    assert statuses.count(1) > 8
