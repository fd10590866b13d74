"""`mprm select --compat official` end to end, beside the naive script."""

import gzip
import json

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


def test_verify_notices_a_changed_output_corpus_and_manifest(corpus, output, mprm):
    mprm(OFFICIAL, corpus, "--output", output)
    manifest, source = output.with_name("o.jsonl.manifest.json"), "ChartQA.jsonl"
    changes = {
        output: lambda text: text + " ",
        manifest: lambda text: text.replace('"keep_ratio":0.1', '"keep_ratio":0.2'),
        corpus / source: lambda text: text.replace("Because", "because", 1),
    }
    for path, change in changes.items():
        whole = path.read_text()
        path.write_text(change(whole))
        failed = mprm("verify", output)
        assert failed.status == 1
        assert (f"FAIL  {source} is unchanged" in failed.out) == (path.name == source)
        path.write_text(whole)
    assert mprm("verify", output).status == 0


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


def test_a_line_that_crashes_the_release_is_named(tmp_path, output, mprm):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": b"[1]\n"})
    failed = mprm(OFFICIAL, folder, "--output", output)
    assert (failed.status, "a.jsonl:1" in failed.err) == (1, True)
    assert not output.exists()


def test_it_never_overwrites_a_file_of_the_corpus(corpus, mprm):
    before = (corpus / "ChartQA.jsonl").read_bytes()
    for name in ("ChartQA.jsonl", "other.jsonl"):
        assert mprm(OFFICIAL, corpus, "--output", corpus / name).status == 1
    assert (corpus / "ChartQA.jsonl").read_bytes() == before
    assert not (corpus / "other.jsonl").exists()
    assert len(json.loads(before.splitlines()[0])) > 3
