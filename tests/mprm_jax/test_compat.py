"""``--compat official`` against worked examples and a naive oracle of the release."""

import json
import os
import random
import re
import tracemalloc

import pytest

from mprm_jax.data import framing
from mprm_jax.data.compat import official_bis, select_official
from mprm_jax.records.problems import DataError
from tests import official_baseline as reference


def record(scores=(1,), **fields):
    steps = [{"step": f"s{i}", "score": s} for i, s in enumerate(scores, 1)]
    return {"image": "i.png", "question": "q", "steps_with_score": steps} | fields


def dump(*records):
    """The bytes of a file; a record may also be given as the bytes of its line."""
    return b"".join(
        (r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records
    )


def run(folder, keep_ratio=1.0, alpha=0.05):
    """(output bytes, counts of each file) in the shape of the oracle's."""
    output = []
    report = select_official(folder, keep_ratio, alpha, output.append)
    names = ("lines", "blank", "refused", "rollouts", "selected", "tied", "dropped")
    reports = [
        {"name": f.path.name, "written": f.written.tolist()}
        | {name: getattr(f, name) for name in names}
        for f in report.files
    ]
    for f in report.files:
        assert f.unscored == f.lines - f.blank - f.refused - f.rollouts >= 0
        assert len(f.written) + sum(f.dropped.values()) == f.selected
    assert report.written == sum(data.count(b"\n") for data in output)
    assert report.selected == sum(f.selected for f in report.files)
    assert report.tied == sum(f.tied for f in report.files)
    assert report.skipped == tuple(f.path for f in report.files if not f.rollouts)
    return b"".join(output), reports


@pytest.fixture
def one_file(tmp_path):
    def write(*records):
        (tmp_path / "a.jsonl").write_bytes(dump(*records))
        return tmp_path

    return write


def written(folder, **options):
    return run(folder, **options)[1][0]["written"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # FACTS, worked examples.
        ([0.875, 0.875, 0.9375, 0.875] + [0] * 6, 0.25828125),
        ([0.5625, 0.6875, 0.6875, 0.0625] + [0] * 4, 0.15),
    ],
)
def test_bis_of_the_papers_examples(scores, expected):
    assert official_bis(scores, 0.05) == pytest.approx(expected, rel=1e-15)


def test_bis_adds_from_left_to_right_without_compensation():
    # Ten tenths are 0.9999999999999999 to plain additions, 1.0 to a compensated sum.
    assert official_bis([0.1] * 10, 0.05) == 0.05 * (0.9999999999999999 / 10)
    assert official_bis([1e16, 1.0, 1.0], 1.0) == 1e16 / 3
    assert official_bis([1.0, 1.0, 1e16], 1.0) == (1e16 + 2) / 3 != 1e16 / 3


def test_bis_keeps_the_last_bit_of_the_releases_own_form():
    # p (1 - p) is symmetric in exact arithmetic: the mixture 4/25 of 1 and 4 of 5.
    one, four = official_bis([1, 0, 0, 0, 0], 0.0), official_bis([1, 1, 1, 1, 0], 0.0)
    assert (one, four) == (0.16000000000000003, 0.15999999999999998)


def test_bis_of_all_negative_steps_has_r_one():
    assert official_bis([0, -1.0, float("nan")], 0.05) == 0.05


def test_output_bytes(one_file):
    folder = one_file(
        record(
            image=["a.png", "b.png"],
            question_orig="  why é? ",
            question="not this",
            steps_with_score=[
                {"step": ' 1 "x"\n', "score": "0.5"},
                # strip() takes the line separator and the unit separator, not DEL.
                {"step": "\x1f2\x7f\u2028", "score": 0.0, "num_mc_total": 0},
                {"step": 3, "score": True},
            ],
        )
    )
    assert run(folder)[0].decode() == (
        '{"image": ["a.png", "b.png"], "conversations": '
        '[{"from": "human", "value": "Question: why é?\\nProcess: '
        '1 \\"x\\"<prm>\\n\\n2\x7f<prm>\\n\\n3<prm>"}, '
        '{"from": "gpt", "value": [1.0, 0.0, 1.0]}]}\n'
    )


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_every_code_point_is_written_as_json_dumps_writes_it(one_file, ensure_ascii):
    starts = [0, 0x20, 0xE000, *range(0x10000, 0x110000, 0x40000)]
    for start, stop in zip(starts, [0x20, 0xD800, *starts[3:], 0x110000], strict=True):
        text = "x" + "".join(map(chr, range(start, stop))) + "x"
        raw = record(image=text, steps_with_score=[{"step": text, "score": 0}])
        expected = {
            "image": text,
            "conversations": [
                {"from": "human", "value": f"Question: q\nProcess: {text}<prm>"},
                {"from": "gpt", "value": [0.0]},
            ],
        }
        line = json.dumps(expected, ensure_ascii=False) + "\n"
        raw = json.dumps(raw, ensure_ascii=ensure_ascii).encode()
        assert run(one_file(raw))[0] == line.encode()


def test_ties_go_to_the_earlier_line_and_output_ascends(one_file):
    perfect, mixed = record([1, 1]), record([1, 0])
    folder = one_file(perfect, record([0, 0]), perfect, mixed, perfect, mixed)
    _, (report,) = run(folder, keep_ratio=0.7)
    assert report["selected"] == 4
    assert report["written"] == [1, 2, 4, 6]
    # Four score alpha, two of them were kept.
    assert report["tied"] == 2


def test_budget_is_the_float_product_and_at_least_one(one_file):
    folder = one_file(*[record()] * 100)
    assert len(written(folder, keep_ratio=0.29)) == 28
    assert len(written(folder, keep_ratio=0.001)) == 1


def test_files_are_those_of_the_folder_in_the_order_of_full_names(tmp_path):
    for name in ("a.jsonl", "a-1.jsonl", "B.jsonl", "b.jsonl.gz", "c.JSONL", "d.json"):
        (tmp_path / name).write_bytes(dump(record(question=name)))
    (tmp_path / "e.jsonl").mkdir()
    (tmp_path / "e.jsonl" / "f.jsonl").write_bytes(dump(record()))
    output, reports = run(tmp_path)
    # "-" sorts before ".", so by stems the last two would change places.
    assert [r["name"] for r in reports] == ["B.jsonl", "a-1.jsonl", "a.jsonl"]
    assert re.findall(rb"Question: ([^\\]+)", output) == [
        b"B.jsonl",
        b"a-1.jsonl",
        b"a.jsonl",
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"[1]",
        b"null",
        b'{"steps_with_score": {"step": 1}}',
        b'{"steps_with_score": "abc"}',
        b'{"steps_with_score": [{"score": 1}, null]}',
        b'{"steps_with_score": [{"score": 1%s}]}' % (b"0" * 400),
        b'{"response": "\xff", "steps_with_score": []}',
        b'\xe4\xbd {"response": "never closed',
        b" \xa0 ",
        b'{"image": "\\ud800", "steps_with_score": [{"step": "s", "score": 1}]}',
        b'{"image": {"\\udc00": 1}, "steps_with_score": [{"step": "s", "score": 1}]}',
        b'{"image": "i", "steps_with_score": [{"step": "\\udfff", "score": 1}]}',
    ],
)
def test_where_the_release_crashes_the_line_is_named(one_file, line):
    folder = one_file(record(), b"", line, record())
    with pytest.raises((AttributeError, TypeError, OverflowError, UnicodeError)):
        reference.select(folder, 1.0, 0.05)
    with pytest.raises(DataError, match=re.escape(f"{folder / 'a.jsonl'}:3: ")):
        run(folder)


def test_nan_keys_sort_as_pythons_sort_leaves_them(one_file):
    # alpha = 0: an infinite score without a negative gives 0 * inf.
    rng = random.Random(0)
    choices = [[float("inf")], [1, 0], [0.5, 0], [1], [0.25, 0.5, 0], [0.75, 0]]
    folder = one_file(*(record(rng.choice(choices)) for _ in range(60)))
    for keep_ratio in (0.1, 0.3, 0.5, 0.8):
        expected = reference.select(folder, keep_ratio, 0.0)
        assert run(folder, keep_ratio, 0.0) == expected


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 1 << 18])
def test_lines_that_are_too_long_are_named(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(framing, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(framing, "CHUNK_BYTES", chunk_bytes)
    good = dump(record())
    longest = b'{"x": "%s"}\n' % (b"x" * 191)
    assert len(longest.rstrip()) == 200
    path = tmp_path / "a.jsonl"
    # Short lines do not add up, whatever ends them.
    path.write_bytes((good + longest) * 20 + good.replace(b"\n", b"\r") * 20)
    assert run(tmp_path)[1][0]["written"][-1] == 60
    for bad in (b"x" * 201 + b"\n", b"x" * 201, b"x" * 5000 + b"\r" + good):
        path.write_bytes(good + longest + bad)
        with pytest.raises(DataError, match=r"a\.jsonl:3: line too long"):
            run(tmp_path)


@pytest.fixture
def peak_memory():
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_memory_holds_columns_not_lines(tmp_path, peak_memory):
    line = dump(record([1, 0], response="r" * 4000))
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.writelines([line] * 4000)
    select_official(tmp_path, 0.5, 0.05, lambda data: None)
    assert len(line) * 4000 > 16e6 > 4e6 > peak_memory()


def test_memory_holds_no_endless_line(tmp_path, monkeypatch, peak_memory):
    monkeypatch.setattr(framing, "MAX_LINE_BYTES", 100_000)
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.writelines([b"x" * 1000] * 8000)
    with pytest.raises(DataError, match=r"a\.jsonl:1: line too long"):
        select_official(tmp_path, 0.5, 0.05, lambda data: None)
    assert peak_memory() < 2e6


def test_a_file_that_changes_meanwhile_is_an_error(one_file):
    # More than are read at a time.
    folder = one_file(*[record()] * 300)
    with pytest.raises(DataError, match=r"a\.jsonl:\d+: line changed"):
        select_official(
            folder, 1.0, 0.05, lambda data: (folder / "a.jsonl").write_bytes(b"")
        )


def test_a_file_that_cannot_be_read_is_named(one_file, monkeypatch):
    def fail(*args):
        raise OSError(5, "Input/output error")

    folder = one_file(record())
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DataError, match=r"a\.jsonl: Input/output error"):
        run(folder)


def test_bad_arguments(one_file, tmp_path):
    with pytest.raises(DataError, match=r"no \*\.jsonl"):
        run(tmp_path)
    with pytest.raises(DataError, match="missing"):
        run(tmp_path / "missing")
    folder = one_file(record())
    for keep_ratio, alpha in ((0, 0.05), (1.1, 0.05), (0.5, -1), (0.5, float("nan"))):
        with pytest.raises(ValueError, match="must"):
            run(folder, keep_ratio, alpha)
