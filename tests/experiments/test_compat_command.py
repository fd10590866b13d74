"""`mprm select --compat official` end to end, beside the naive script."""

import gzip

import pytest

from tests import official_baseline
from tests.cli import run
from tests.raw_files import line, record, write_corpus

COMPAT = ["--compat", "official", "--output"]


def test_the_command_writes_the_bytes_of_the_released_script(corpus, tmp_path, capsys):
    output = tmp_path / "o.jsonl"
    options = [*COMPAT, output, "--keep-ratio", "0.3", "--alpha", "0.2", "--json"]
    done = run(capsys, "select", corpus, *options)
    expected, reports = official_baseline.select(corpus, 0.3, 0.2)
    assert output.read_bytes() == expected
    assert done.json["selected"] == sum(report["selected"] for report in reports)
    assert done.json["written"] == expected.count(b"\n")
    tied = sum(report["tied"] for report in reports)
    assert done.json["tied_share"] == tied / done.json["selected"]
    assert run(capsys, "verify", output).status == 0


def test_rows_it_drops_are_counted_and_not_replaced(tmp_path, capsys):
    records = [record(number=i, image="") for i in range(100)]
    folder = write_corpus(tmp_path / "c", {"a.jsonl": records})
    output = tmp_path / "o.jsonl"
    done = run(capsys, "select", folder, *COMPAT, output, "--keep-ratio", "0.25")
    assert done.status == 0
    assert "selected=25 wrote 0" in done.out
    assert "25 picks dropped and not replaced: image missing." in done.out
    assert output.read_bytes() == b""


def test_verify_notices_a_changed_output_corpus_and_manifest(corpus, tmp_path, capsys):
    output = tmp_path / "o.jsonl"
    run(capsys, "select", corpus, *COMPAT, output)
    whole = output.read_bytes()
    output.write_bytes(whole + b" ")
    assert run(capsys, "verify", output).status == 1
    output.write_bytes(whole)
    manifest = tmp_path / "o.jsonl.manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"keep_ratio":0.1', '"keep_ratio":0.2'))
    assert run(capsys, "verify", output).status == 1
    manifest.write_text(text)
    path = corpus / "ChartQA.jsonl"
    path.write_text(path.read_text().replace("Because", "because", 1))
    failed = run(capsys, "verify", output)
    assert failed.status == 1
    assert "FAIL  ChartQA.jsonl is unchanged" in failed.out


def test_the_corpus_is_a_folder_of_jsonl_files(tmp_path, capsys):
    compat = [*COMPAT, tmp_path / "o.jsonl"]
    inner = write_corpus(tmp_path / "c" / "annotations", {"a.jsonl": [record()]})
    assert run(capsys, "select", inner.parent, *compat).status == 0
    packed = write_corpus(
        tmp_path / "gz", {"a.jsonl.gz": gzip.compress(line(record()).encode())}
    )
    for corpus, message in [
        (packed, "holds no *.jsonl file"),
        (inner / "a.jsonl", "reads a folder of *.jsonl files"),
        (tmp_path / "none", "no such file or folder"),
    ]:
        failed = run(capsys, "select", corpus, *compat)
        assert (failed.status, message in failed.err) == (1, True), failed.err


def test_a_line_that_crashes_the_release_is_named(tmp_path, capsys):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": b"[1]\n"})
    failed = run(capsys, "select", folder, *COMPAT, tmp_path / "o.jsonl")
    assert failed.status == 1
    assert "a.jsonl:1" in failed.err
    assert not (tmp_path / "o.jsonl").exists()


REFUSED = [
    "--rule random",
    "--format trl",
    "--labels soft",
    "--global",
    "--budget steps",
    "--source-from kind",
    "--unmeasured drop",
    "--max-bad 4",
    "--ties file",
    "--seed 4",
    "--dask nowhere",
    "--input-format trl",
]


@pytest.mark.parametrize("option", REFUSED)
def test_options_the_script_does_not_have_are_refused(option, corpus, tmp_path, capsys):
    options = [*COMPAT, tmp_path / "o.jsonl", *option.split()]
    failed = run(capsys, "select", corpus, *options)
    assert (failed.status, option.split()[0] in failed.err) == (2, True)


def test_it_never_overwrites_a_file_of_the_corpus(corpus, capsys):
    before = (corpus / "ChartQA.jsonl").read_bytes()
    for name in ("ChartQA.jsonl", "other.jsonl"):
        assert run(capsys, "select", corpus, *COMPAT, corpus / name).status == 1
    assert (corpus / "ChartQA.jsonl").read_bytes() == before
    assert not (corpus / "other.jsonl").exists()
