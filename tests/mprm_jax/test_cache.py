"""The index cache is reused while the file is the same, and is not fooled."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mprm_jax.data import index
from mprm_jax.data.corpus import read_corpus
from mprm_jax.data.formats.base import ReadOptions
from mprm_jax.data.write import read_lines
from mprm_jax.records.problems import DataError
from tests.raw_files import line, random_records, record, write_corpus


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A corpus whose files count as settled at once (ctime cannot be set back)."""
    monkeypatch.setattr(index, "_RACY_NS", 0)
    folder = write_corpus(
        tmp_path / "c", {"a.jsonl": random_records(np.random.default_rng(6), 20)}
    )
    time.sleep(0.02)
    return folder


def test_a_second_reading_comes_from_the_cache(settled, monkeypatch):
    first = read_corpus(settled)
    assert first.reused == 0
    monkeypatch.setattr(index, "scan_file", lambda *_: pytest.fail("scanned again"))
    monkeypatch.setattr(index, "_hashes", lambda *_: pytest.fail("hashed again"))
    second = read_corpus(settled)
    assert second.reused == 1
    assert np.array_equal(first.rollouts.successes, second.rollouts.successes)
    assert np.array_equal(first.content, second.content)
    assert first.sha256 == second.sha256


def test_a_touched_file_is_hashed_not_scanned(settled, monkeypatch):
    read_corpus(settled)
    os.utime(settled / "a.jsonl")
    monkeypatch.setattr(index, "scan_file", lambda *_: pytest.fail("scanned again"))
    assert read_corpus(settled).reused == 1


def test_the_sha256_is_taken_when_first_asked_for_and_then_remembered(
    settled, monkeypatch
):
    without = read_corpus(settled, sha256=False)
    assert without.sha256 == ()
    wanted = hashlib.sha256((settled / "a.jsonl").read_bytes()).hexdigest()
    monkeypatch.setattr(index, "scan_file", lambda *_: pytest.fail("scanned again"))
    time.sleep(0.02)
    assert read_corpus(settled).sha256 == (wanted,)
    monkeypatch.setattr(index, "_hashes", lambda *_: pytest.fail("hashed again"))
    assert read_corpus(settled).sha256 == (wanted,)
    assert read_corpus(settled, sha256=False).reused == 1


@pytest.mark.parametrize("sha256", [True, False])
def test_without_a_sha256_too_only_the_same_bytes_are_recalled(settled, sha256):
    read_corpus(settled, sha256=False)
    path = settled / "a.jsonl"
    os.utime(path)
    assert read_corpus(settled, sha256=False).reused == 1
    path.write_bytes(path.read_bytes().replace(b'"answer": "3"', b'"answer": "4"', 1))
    assert read_corpus(settled, sha256=sha256).reused == 0


def test_a_changed_file_is_scanned_again_even_with_size_and_mtime_kept(settled):
    path = settled / "a.jsonl"
    before = read_corpus(settled)
    status = path.stat()
    content = path.read_bytes()
    changed = content.replace(b'"answer": "3"', b'"answer": "4"', 1)
    assert len(changed) == len(content)
    path.write_bytes(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = read_corpus(settled)
    assert after.reused == 0
    assert after.content[0] != before.content[0]
    assert after.sha256 != before.sha256


def test_a_file_changed_right_after_the_scan_is_noticed(tmp_path):
    # Time stamps tick in milliseconds; a fresh file is never trusted by them alone.
    folder = write_corpus(tmp_path, {"a.jsonl": [record(number=1)]})
    before = read_corpus(folder)
    (folder / "a.jsonl").write_text(line(record(number=2)) + "\n")
    after = read_corpus(folder)
    assert after.content[0] != before.content[0]


def test_a_damaged_cache_is_replaced(settled):
    before = read_corpus(settled)
    (entry,) = (settled / index.CACHE_FOLDER).iterdir()
    whole = entry.read_bytes()
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], b"x" * len(whole)):
        entry.write_bytes(damaged)
        again = read_corpus(settled)
        assert again.reused == 0
        assert np.array_equal(again.content, before.content)
    assert read_corpus(settled).reused == 1


def test_other_options_have_another_cache(settled):
    read_corpus(settled)
    assert read_corpus(settled, options=ReadOptions(trials=16)).reused == 0
    assert read_corpus(settled).reused == 1
    assert len(list((settled / index.CACHE_FOLDER).iterdir())) == 2


def test_a_read_only_corpus_is_cached_in_the_users_folder(
    settled, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    # A file in the way stands for a read-only folder, which root could write to.
    (settled / index.CACHE_FOLDER).write_text("")
    assert read_corpus(settled).reused == 0
    assert read_corpus(settled).reused == 1
    assert list((tmp_path / "home" / "mprm" / "index").rglob("*.index"))


def test_cached_problems_name_the_file_as_it_is_called_now(
    settled, tmp_path, monkeypatch
):
    with open(settled / "a.jsonl", "a") as file:
        file.write("{}\n")
    monkeypatch.chdir(settled)
    assert read_corpus(Path()).bad_lines.kept[0].where == "a.jsonl:21"
    monkeypatch.chdir(tmp_path)
    assert read_corpus(Path("c")).bad_lines.kept[0].where == "c/a.jsonl:21"


def test_a_line_that_changed_after_indexing_is_an_error(settled):
    corpus = read_corpus(settled)
    path = settled / "a.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Because", b"Because!", 1))
    with pytest.raises(DataError, match=r"a\.jsonl:1: the file changed since"):
        list(read_lines(corpus, np.arange(3)))


def test_what_a_killed_run_left_is_swept_and_what_another_writes_is_not(settled):
    folder = settled / index.CACHE_FOLDER
    folder.mkdir()
    old, new = folder / "tmpold.partial", folder / "tmpnew.partial"
    for partial in (old, new):
        partial.write_bytes(b"x")
    os.utime(old, (0, 0))
    read_corpus(settled)
    assert not old.exists()
    assert new.exists()
