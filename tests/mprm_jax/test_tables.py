"""Corpora as people have them on disk: tables, sub-folders, pointers, archives."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import ReadOptions, WriteOptions
from mprm_jax.data.framing import CorpusFile, RecordFile, corpus_files
from mprm_jax.data.loader import CorpusExamples
from mprm_jax.data.write import encoded_lines, picture_root
from mprm_jax.records.problems import DataError
from tests.raw_files import line, random_records, record, write_corpus

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def records():
    return random_records(np.random.default_rng(0), 700)


def no_encode(question, texts, images):
    raise AssertionError("nothing is to be encoded")


def write_table(path, records, rows=100):
    table = pa.Table.from_pylist(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows)
    elif path.name.startswith("stream"):
        with pa.ipc.new_stream(path, table.schema) as sink:
            sink.write_table(table, max_chunksize=rows)
    else:
        with pa.ipc.new_file(path, table.schema) as sink:
            sink.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_table_holds_what_its_lines_hold(tmp_path, records, name):
    lines = read_corpus(write_corpus(tmp_path / "lines", {"a.jsonl": records}))
    table = read_corpus(write_table(tmp_path / "table" / name, records).parent)
    assert table.format == "raw"
    for column in ("successes", "trials", "offsets"):
        assert np.array_equal(
            getattr(table.rollouts, column), getattr(lines.rollouts, column)
        )
    assert table.line.tolist() == list(range(1, 701))
    chosen = np.flatnonzero(np.random.default_rng(1).random(700) < 0.1)
    written = [
        list(encoded_lines(usable_rollouts(of), chosen, by_name("prm"), WriteOptions()))
        for of in (table, lines)
    ]
    assert written[0] == written[1]
    again = read_corpus(tmp_path / "table")
    assert again.reused == 1
    # The loader reads in any order what can only be read forward.
    examples = CorpusExamples(usable_rollouts(again), chosen, no_encode, None)
    read = [examples.record(place).question for place in reversed(range(len(chosen)))]
    assert read == [records[row]["question"] for row in chosen[::-1]]


def test_pictures_inside_a_table_are_refused_and_paths_beside_it_read(tmp_path):
    inside, beside = record(number=1), record(number=2)
    inside["image"] = {"bytes": b"\x89PNG", "path": "1.png"}
    beside["image"] = {"bytes": None, "path": "2.png"}
    write_table(tmp_path / "a.parquet", [inside, beside])
    corpus = read_corpus(tmp_path / "a.parquet")
    assert corpus.bad_lines.counts == {"picture inside the record": 1}
    assert corpus.line.tolist() == [2]


def test_what_a_column_of_a_table_holds_is_changed_in_nothing(tmp_path):
    columns = {
        "prompt": pa.array(["What?", "Wh\u00f6?"]).cast(pa.binary()),
        "completions": [["a", "b"], ["c", "d"]],
        "labels": pa.array([[0.35, 0.7], [0.05, 1.0]], pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    corpus = read_corpus(tmp_path / "a.parquet", options=ReadOptions(trials=20))
    assert corpus.rollouts.successes.tolist() == [7, 14, 1, 20]
    lines = encoded_lines(
        usable_rollouts(corpus), np.arange(2), by_name("prm"), WriteOptions()
    )
    assert ["What?" in next(lines).decode(), "Wh\u00f6?" in next(lines).decode()] == [
        True,
        True,
    ]
    pq.write_table(
        pa.table(columns | {"image": [b"\x89PNG", b"\xff\xd8"]}), tmp_path / "b.parquet"
    )
    counts = read_corpus(tmp_path / "b.parquet").bad_lines.counts
    assert counts == {"picture inside the record": 2}


def test_a_table_that_cannot_be_read_whole_is_named(tmp_path):
    named = ["prompt", "completions", "labels"]
    values = [pa.array(["q"]), pa.array([["a"]]), pa.array([[True]])]
    paths = pa.array(["1.png"])
    twice = pa.table([*values, paths, paths], [*named, "image", "image"])
    never = pa.table([*values, pa.array([2**62], pa.timestamp("us"))], [*named, "day"])
    for table in (twice, never):
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"a\.parquet: "):
            read_corpus(tmp_path)


def test_a_damaged_table_is_named(tmp_path, records):
    path = write_table(tmp_path / "a.parquet", records)
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-100], b"x" * 50, whole[:4000] + whole[4100:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.parquet: "):
            read_corpus(path, use_cache=False)


@pytest.mark.parametrize("inner", ["annotations", "data", "data/train"])
def test_data_in_one_sub_folder_are_found(tmp_path, inner):
    write_corpus(tmp_path / inner, {"a.jsonl": [record()]})
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    write_corpus(tmp_path / ".cache", {"b.jsonl": [record()]})
    assert [file.path for file in corpus_files(tmp_path)] == [
        tmp_path / inner / "a.jsonl"
    ]


@pytest.mark.parametrize("pictures", ["images", ".", "data", "data/images"])
def test_pictures_lie_beside_the_data_or_beside_their_sub_folder(tmp_path, pictures):
    write_corpus(tmp_path / "data", {"a.jsonl": [record(image="p.png")]})
    (tmp_path / pictures).mkdir(exist_ok=True)
    (tmp_path / pictures / "p.png").touch()
    usable = usable_rollouts(read_corpus(tmp_path))
    root = picture_root(usable, np.array([0]), None)
    assert root.path.resolve() == (tmp_path / pictures).resolve()


def test_data_in_several_sub_folders_are_not_mixed(tmp_path):
    for split in ("train", "test"):
        write_corpus(tmp_path / split, {"a.jsonl": [record()]})
    with pytest.raises(DataError, match="test, train"):
        corpus_files(tmp_path)


def test_what_is_not_read_beside_the_data_is_said(tmp_path):
    files = {"a.jsonl": [record()], "more.parquet": b"", "b.zip": b"", "c.json": b"[]"}
    write_corpus(tmp_path, files)
    (tmp_path / "a.meta.json").write_text("{}")
    (tmp_path / "a.jsonl.manifest.json").write_text("{}")
    corpus = read_corpus(tmp_path)
    assert corpus.rollouts.n_rollouts == 1
    (reason,) = corpus.notes.counts
    assert [note.file for note in corpus.notes.kept] == [
        str(tmp_path / name) for name in ("b.zip", "c.json", "more.parquet")
    ]
    assert corpus.notes.counts[reason] == 3


@pytest.mark.parametrize(
    ("name", "content", "way_out"),
    [
        ("a.jsonl", POINTER, "Git LFS"),
        ("a.parquet", POINTER, "Git LFS"),
        ("a.jsonl.gz", POINTER, "Git LFS"),
        ("a.jsonl", b"PK\x03\x04rest", "unpack"),
        ("a.json", b"7z\xbc\xaf\x27\x1crest", "unpack"),
        ("a.jsonl", b"\x28\xb5\x2f\xfdrest", "unpack"),
        ("a.jsonl", gzip.compress(line(record()).encode()), r"\.gz"),
    ],
)
def test_what_stands_for_the_data_is_named_with_the_way_out(
    tmp_path, name, content, way_out
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: .*{way_out}"):
        read_corpus(path)
    with (
        pytest.raises(DataError, match=way_out),
        RecordFile(CorpusFile(path, "a")) as file,
    ):
        file.read(1)


def test_a_folder_that_holds_an_archive_alone_names_it(tmp_path):
    (tmp_path / "annotations.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"annotations\.zip: unpack"):
        corpus_files(tmp_path)
