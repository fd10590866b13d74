"""`mprm select --compat official` end to end, beside the naive script."""

import gzip

import pytest

from tests import official_baseline
from tests.raw_files import line, record, write_corpus

OFFICIAL = "select --compat official"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "o.jsonl"


def test_the_command_writes_the_bytes_of_the_released_script(corpus, output, mprm):
    options = "--keep-ratio 0.3 --alpha 0.2 --json"
    done = mprm(OFFICIAL, corpus, options, "--output", output)
    expected, reports = official_baseline.select(corpus, 0.3, 0.2)
    assert output.read_bytes() == expected
    assert done.json["selected"] == sum(report["selected"] for report in reports)
    assert done.json["written"] == expected.count(b"\n")
    tied = sum(report["tied"] for report in reports)
    assert done.json["tied_share"] == tied / done.json["selected"]
    assert mprm("verify", output).status == 0


def test_rows_it_drops_are_counted_and_not_replaced(tmp_path, output, mprm):
    records = [record(number=i, image="") for i in range(100)]
    folder = write_corpus(tmp_path / "c", {"a.jsonl": records})
    done = mprm(OFFICIAL, folder, "--keep-ratio 0.25 --output", output)
    assert done.status == 0
    assert "selected=25 wrote 0" in done.out
    assert "25 picks dropped and not replaced: image missing." in done.out
    assert output.read_bytes() == b""


def test_the_corpus_is_a_folder_of_jsonl_files(tmp_path, output, mprm):
    inner = write_corpus(tmp_path / "c" / "annotations", {"a.jsonl": [record()]})
    assert mprm(OFFICIAL, inner.parent, "--output", output).status == 0
    packed = write_corpus(
        tmp_path / "gz", {"a.jsonl.gz": gzip.compress(line(record()).encode())}
    )
    for corpus in (packed, inner / "a.jsonl", tmp_path / "none"):
        failed = mprm(OFFICIAL, corpus, "--output", output)
        assert (failed.status, failed.err.count("\n")) == (1, 1), failed.err
        assert f"{corpus}: " in failed.err
