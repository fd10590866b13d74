"""The index: fast path equals slow path, bounded memory, no fooling the cache."""

import gzip
import json
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from mprm_jax.data import framing, index, write
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.formats import by_name, raw
from mprm_jax.data.formats.base import Format, ReadOptions, WriteOptions
from mprm_jax.data.formats.raw import RAW
from mprm_jax.data.loader import CorpusExamples
from mprm_jax.data.write import count_words, encoded_lines, read_lines
from mprm_jax.records.problems import BadCorpus
from tests.mprm_jax.stub_model import StubModel
from tests.raw_files import line, random_records, record, write_corpus

COLUMNS = [*index.COLUMNS, "sha256", "lines", "blank", "source_names"]


def scan(path, fast=True, chunk=framing.CHUNK_BYTES):
    file = framing.CorpusFile(path, "source")
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(raw, "columns", lambda data, lines: None)
        patch.setattr(framing, "CHUNK_BYTES", chunk)
        return index.scan_file(file, RAW, ReadOptions())


def assert_same(a, b):
    for name in COLUMNS:
        x, y = getattr(a, name), getattr(b, name)
        assert np.array_equal(x, y), name
    assert a.bad_lines == b.bad_lines
    assert a.notes == b.notes


def corpus_bytes(rng, n=40):
    return "".join(line(r) + "\n" for r in random_records(rng, n)).encode()


MUTATIONS = [
    *(b'"', b"{", b"}", b"\n", b"\r", b"\x00", b"\xff", b"\\", b"\\ud800", b"  ", b","),
    *(b"<prm>", b"\\u003cprm>", b"null", b"true", b"NaN", b"-1", b"1e5", b"0.5", b"17"),
    *(b"..", b"/", b"http:", "é".encode(), b"[]", b"[" * 3000, b'"score": 0.25, '),
    *(
        b'"image": [], ',
        b'"question": "", ',
        b'"step": "", ',
        b"<image>",
        b"<image>\\n",
    ),
    *(b'"images": ["b.png"], ', b'"image_url": "b", ', b'"image": null, ', b"0.94"),
    *(
        b'"image": ["a.png", "b.png"], ',
        b'"img": {}, ',
        b'"x": "b.png", ',
        b'"image_path": "images/0.png", ',
    ),
]


def mutate(data, rng):
    """A few random edits that insert, delete, swap or duplicate bytes and lines."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0:
                data[at:at] = rng.choice(MUTATIONS)
            case 1:
                del data[at : at + rng.randint(1, 20)]
            case 2:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                data[at : at + 4] = rng.choice(MUTATIONS)
            case 4:
                lines = bytes(data).split(b"\n")
                i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
                lines[i], lines[j] = lines[j], lines[i]
                data = bytearray(b"\n".join(lines))
            case 5:
                lines = bytes(data).split(b"\n")
                i = rng.randrange(len(lines))
                lines[i:i] = rng.choice([[b""], [lines[i]], [b"  "], [lines[i] * 2]])
                data = bytearray(b"\n".join(lines))
    return bytes(data)


def test_the_fast_path_says_what_the_slow_path_says_on_mutated_corpora(tmp_path):
    path = tmp_path / "a.jsonl"
    rng = random.Random(5)
    clean = [corpus_bytes(np.random.default_rng(i), 6) for i in range(5)]
    refused = 0
    for _ in range(3000):
        path.write_bytes(mutate(rng.choice(clean), rng))
        fast = scan(path, chunk=rng.choice([64, 1000, 1 << 20]))
        slow = scan(path, fast=False)
        assert_same(fast, slow)
        # Nothing is lost: every line is a record, blank, or a located problem.
        problems = fast.bad_lines.total - ("empty file" in fast.bad_lines.counts)
        assert len(fast.lengths) + fast.blank + problems == fast.lines
        for bad in fast.bad_lines.kept:
            assert bad.reason
            assert "\n" not in str(bad)
            assert bad.line <= fast.lines
        refused += problems > 0
    assert refused > 1000


def test_a_clean_corpus_takes_the_fast_path_only(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(corpus_bytes(np.random.default_rng(0), 300))
    slow = scan(path, fast=False)
    slow_path = lambda *_, **__: pytest.fail("slow path taken")  # noqa: E731
    monkeypatch.setattr(index._Scan, "each", slow_path)
    assert_same(scan(path), slow)
    assert len(slow.lengths) == 300


ORDINARY = ["x", "\\(x\\) is 3", '"so" it says', "∠ABC = 30°", "a < b", "/", "é", "<p"]
DOUBTFUL = ["", " ", "\n\t", "\u3000", "a <prm> b"]


@pytest.mark.parametrize("text", ORDINARY + DOUBTFUL)
def test_only_texts_that_may_be_bad_are_looked_at(text):
    value = record()
    value["steps_with_score"][1]["step"] = text
    for data in (line(value).encode(), json.dumps(value).encode()):
        columns = raw.columns(data + b"\n", [memoryview(data)])
        assert (columns is None) == (text in DOUBTFUL)
        assert columns is None or columns["successes"].tolist() == [16, 0]


def test_valid_utf8_is_what_decodes():
    rng = random.Random(1)
    pieces = [*(b"a" * 7, b"\xc3\xa9", b"\xe2\x88\xa0", b"\xf0\x9f\x99\x82", b"bc")]
    broken = [b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x88"]
    refused = 0
    for _ in range(3000):
        parts = rng.choices(pieces, k=rng.randrange(9))
        if rng.random() < 0.5:
            parts.insert(rng.randint(0, len(parts)), rng.choice(broken))
        data = b"".join(parts)
        try:
            valid = bool(data.decode()) or True
        except UnicodeDecodeError:
            valid = False
        assert raw.is_utf8(data) == valid, data
        refused += not valid
    assert refused > 1000


def test_fields_that_are_not_read_may_hold_what_json_loads_reads(tmp_path):
    odd = [b"NaN", b"-Infinity", b'"\\ud800"', b"9" * 400, b"1e999", b'"\xff"', b"nan"]
    lines = [line(record()).encode()[:-1] + b', "x": ' + one + b"}" for one in odd]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = scan(tmp_path / "a.jsonl")
    assert found.line.tolist() == [1, 2, 3, 4, 5]
    assert found.bad_lines.counts == {"invalid UTF-8": 1, "not JSON": 1}


@pytest.mark.parametrize("chunk", [1, 7, 64, 333, 5000])
def test_chunk_boundaries_do_not_matter(tmp_path, chunk):
    path = tmp_path / "a.jsonl"
    path.write_bytes(corpus_bytes(np.random.default_rng(1), 20).rstrip(b"\n"))
    assert_same(scan(path, chunk=chunk), scan(path))


def test_offsets_and_sizes_find_the_line_again(tmp_path):
    data = b"\n  \n" + corpus_bytes(np.random.default_rng(2), 9).replace(
        b"\n", b" \n\t", 3
    )
    for name, content in (("a.jsonl", data), ("b.jsonl.gz", gzip.compress(data))):
        corpus = read_corpus(write_corpus(tmp_path / name, {name: content}))
        lines = [text.strip() for text in data.split(b"\n")]
        read = list(read_lines(corpus, np.arange(9)))
        assert [row for row, _ in read] == list(range(9))
        for row, text in read:
            assert text == lines[corpus.line[row] - 1]
        assert corpus.blank == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_of_many_rollouts_is_read_once_for_all_of_them(
    tmp_path, monkeypatch, packed
):
    """Once each for reading, counting and writing, however the batches fall."""
    sessions = []
    for count in (300, 1, 40):
        proposed = [
            {"text": "so " * (i % 5 + 1), "rating": (1, 0, -1)[i % 3]}
            for i in range(count)
        ]
        turn = {"completions": proposed, "chosen_completion": 0}
        question = {"problem": f"{count}?", "ground_truth_answer": "3"}
        sessions.append({"question": question, "label": {"steps": [turn]}})
    data = "".join(json.dumps(session) + "\n" for session in sessions).encode()
    name, data = ("a.jsonl.gz", gzip.compress(data)) if packed else ("a.jsonl", data)
    work = {"decode": 0, "hash": 0}

    def counted(what, function):
        def call(*arguments):
            work[what] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(Format, "decode", counted("decode", Format.decode))
    hashed = counted("hash", index.content_hash)
    for module in (index, write):
        monkeypatch.setattr(module, "content_hash", hashed)
    corpus = read_corpus(write_corpus(tmp_path, {name: data}), use_cache=False)
    rollouts = corpus.rollouts
    assert rollouts.n_rollouts == len(set(corpus.content.tolist())) == 341
    assert work == {"decode": 3, "hash": 3}
    words = count_words(corpus, np.arange(341), rollouts.lengths)
    assert work["decode"] == 6
    assert words.tolist() == [i % 5 + 1 for n in (300, 1, 40) for i in range(n)]
    usable, every = usable_rollouts(corpus), np.arange(341)
    lines = encoded_lines(usable, every, by_name("prm"), WriteOptions())
    assert [line.count(b"so") for line in lines] == words.tolist()
    assert work["decode"] == 9
    # One more of each reading opens with the hash of no bytes.
    assert work["hash"] <= 3 + 2 * 4
    # To train on, in any order.
    source = CorpusExamples(usable, every, StubModel().encode, None)
    texts = [source.record(i).steps[0].text for i in every[::-1].tolist()]
    assert [text.count("so") for text in texts] == words[::-1].tolist()
    assert work["decode"] == 12


def test_a_json_array_is_read_like_lines(tmp_path):
    records = random_records(np.random.default_rng(3), 8)
    records.insert(4, records[2])  # equal elements must not confuse their offsets
    as_lines = write_corpus(tmp_path / "lines", {"a.jsonl": records})
    pretty = json.dumps(records, indent=1).encode()
    as_array = write_corpus(tmp_path / "array", {"a.json": pretty})
    a, b = read_corpus(as_lines), read_corpus(as_array)
    for name in ("successes", "trials", "offsets"):
        assert np.array_equal(getattr(a.rollouts, name), getattr(b.rollouts, name))
    assert a.rollouts.source_names == b.rollouts.source_names == ("a",)
    texts = [json.loads(text) for _, text in read_lines(b, np.arange(9))]
    assert texts == records
    assert [pretty.split(b"\n")[n - 1].strip() for n in b.line] == [b"{"] * 9
    assert a.duplicates == b.duplicates == 1


def test_shards_of_one_source_share_its_name(tmp_path):
    folder = write_corpus(
        tmp_path,
        {
            "AI2D-00000-of-00002.jsonl": [record(number=1)],
            "AI2D-00001-of-00002.jsonl": [record(number=2)],
            "Zoo.jsonl": [record(number=3)],
        },
    )
    corpus = read_corpus(folder)
    assert corpus.rollouts.source_names == ("AI2D", "Zoo")
    assert corpus.rollouts.source.tolist() == [0, 0, 1]


def test_the_source_can_be_a_field_of_the_record(tmp_path):
    records = [record(number=i, kind="ab"[i % 2]) for i in range(4)] + [record()]
    folder = write_corpus(tmp_path, {"x.jsonl": records})
    corpus = read_corpus(folder, options=ReadOptions(source_from="kind"))
    assert corpus.rollouts.source_names == ("a", "b")
    assert corpus.rollouts.source.tolist() == [0, 1, 0, 1]
    assert corpus.bad_lines.counts == {"source missing": 1}


def test_every_executor_gives_the_same_index(tmp_path):
    rng = np.random.default_rng(4)
    folder = write_corpus(
        tmp_path, {f"s{i}.jsonl": random_records(rng, 30) for i in range(5)}
    )
    alone = read_corpus(folder, use_cache=False)
    with ThreadPoolExecutor(3) as threads:
        threaded = read_corpus(folder, executor=threads, use_cache=False)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        spawned = read_corpus(folder, executor=processes, use_cache=False)
    for other in (threaded, spawned):
        for name in ("offset", "size", "line", "content", "file"):
            assert np.array_equal(getattr(alone, name), getattr(other, name))
        assert np.array_equal(alone.rollouts.successes, other.rollouts.successes)
        assert alone.sha256 == other.sha256


def test_deep_nesting_is_judged_without_regard_to_its_neighbours(tmp_path):
    limit = sys.getrecursionlimit()
    path = tmp_path / "a.jsonl"
    verdicts = []
    for depth in [*range(limit - 120, limit + 5), 10 * limit]:
        deep = line(record()).encode()[:-1] + b', "x": ' + b"[" * depth + b"]" * depth
        path.write_bytes(deep + b"}\n")
        alone = scan(path).bad_lines.total == 0
        path.write_bytes(deep + b"}\nbad\n")
        beside = scan(path).bad_lines.total == 1
        assert alone == beside, depth
        verdicts.append(alone)
    assert set(verdicts) == {True, False} or all(verdicts[:-1])


# --- unmeasured steps ----------------------------------------------------------------


def unmeasured_corpus(tmp_path):
    counts = [
        [(16, 16), (0, 16)],
        [(8, 16), (0, 0), (0, 0)],
        [(0, 0), (0, 0)],
        [(4, 16), (0, 0), (2, 16)],
    ]
    records = [record(steps, i) for i, steps in enumerate(counts)]
    return read_corpus(write_corpus(tmp_path, {"a.jsonl": records}))


def test_steps_never_sampled_are_refused_unless_a_policy_is_named(tmp_path):
    corpus = unmeasured_corpus(tmp_path)
    with pytest.raises(BadCorpus, match="3 bad lines") as caught:
        usable_rollouts(corpus)
    first = caught.value.bad_lines.first["step never sampled"]
    assert first.where.endswith("a.jsonl:2")
    assert "step 2 has no continuation (N = 0)" in first.detail
    allowed = usable_rollouts(corpus, max_bad=3)
    assert allowed.row.tolist() == [0]
    assert allowed.rollouts.successes.tolist() == [16, 0]


def test_policies_drop_from_the_first_unmeasured_step_or_label_it_negative(tmp_path):
    corpus = unmeasured_corpus(tmp_path)
    usable = usable_rollouts(corpus, "drop")
    assert usable.row.tolist() == [0, 1, 3]
    assert usable.rollouts.lengths.tolist() == [2, 1, 1]
    assert usable.rollouts.successes.tolist() == [16, 0, 8, 4]
    assert (usable.unmeasured_steps, usable.truncated, usable.emptied) == (5, 2, 1)
    usable = usable_rollouts(corpus, "negative")
    assert usable.row.tolist() == [0, 1, 2, 3]
    assert usable.rollouts.n_measured.tolist() == [2, 3, 2, 3]
    assert usable.rollouts.n_positive.tolist() == [1, 1, 0, 2]
    assert usable.rollouts.trials.min() == 1


# --- hostile sizes -------------------------------------------------------------------

MEASURE = """
import resource, sys
from pathlib import Path
from mprm_jax.data.corpus import read_corpus
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = read_corpus(Path(sys.argv[1]), use_cache=False)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown // 1024, corpus.rollouts.n_rollouts, dict(corpus.bad_lines.counts))
"""


def test_a_line_of_a_gigabyte_is_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.write(line(record(number=1)).encode() + b"\n")
        file.write(b'{"image": "')
        file.truncate(file.tell() + (1 << 30))  # a hole: zeros that use no disk
        file.seek(0, 2)
        file.write(b'"}\n' + line(record(number=2)).encode() + b"\n")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, rollouts, problems = run.stdout.split(maxsplit=2)
    assert int(grown) < 64
    assert rollouts == "2"
    assert "line too long" in problems
    corpus = read_corpus(tmp_path, use_cache=False)
    assert corpus.line.tolist() == [1, 3]
    texts = [json.loads(text)["image"] for _, text in read_lines(corpus, np.arange(2))]
    assert texts == ["images/1.png", "images/2.png"]


def test_lines_just_below_and_above_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(framing, "MAX_LINE_BYTES", 4096)
    short = line(record(answer="x" * 1000)).encode()
    long = line(record(answer="x" * 9000)).encode()
    data = b"\n".join([short, long, short, long, long, short])
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    found = scan(path, chunk=100)
    assert found.line.tolist() == [1, 3, 6]
    assert found.lines == 6
    assert [p.line for p in found.bad_lines.kept] == [2, 4, 5]


@pytest.mark.parametrize("max_bad", [0, 99])
def test_a_corpus_without_one_good_line_names_the_first_and_its_format(
    tmp_path, max_bad
):
    """More bad lines cannot be allowed: then nothing would be left."""
    folder = write_corpus(tmp_path, {"a.jsonl": [record(), record()]})
    with pytest.raises(BadCorpus) as caught:
        usable_rollouts(read_corpus(folder, "trl"), max_bad=max_bad)
    said = str(caught.value)
    assert "a.jsonl:1: " in said
    assert said.endswith("format raw")
    assert "max-bad" not in said
    never = write_corpus(tmp_path / "never", {"b.jsonl": [record([(0, 0)])]})
    with pytest.raises(BadCorpus) as caught:
        usable_rollouts(read_corpus(never), max_bad=max_bad)
    assert "b.jsonl:1: step never sampled" in str(caught.value)
    assert "max-bad" not in str(caught.value)
