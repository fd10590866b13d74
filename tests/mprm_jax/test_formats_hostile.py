"""No bytes make a decoder fail in any other way than by refusing the record."""

import contextlib
import copy
import json
import re
from collections.abc import Iterator

import pytest

from mprm_jax.data.formats import FORMATS, by_name, detect
from mprm_jax.data.formats.base import ReadOptions, WriteOptions, check_options
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import Record, check_record

PROMPT = "Question: q\nProcess: a<prm>\n\nb<prm>"
VISUAL_PROMPT = "<image>\n### Question:\nq\n\n### Solution Process:\na"
RATED = {"text": "a", "rating": 1}
SAMPLES = {
    "raw": {
        "image": "x.png",
        "question": "q",
        "answer": "1",
        "response": "a",
        "steps_with_score": [
            {"step": "a", "score": 0.5, "num_mc_correct": 1, "num_mc_total": 2}
        ],
    },
    "prm": {
        "image": "x.png",
        "conversations": [
            {"from": "human", "value": PROMPT},
            {"from": "gpt", "value": [1, 0]},
        ],
    },
    "visualprm": {
        "image": "x.png",
        "conversations": [
            {"from": "human", "value": VISUAL_PROMPT},
            {"from": "gpt", "value": "+"},
        ],
    },
    "trl": {"prompt": "q", "completions": ["a"], "labels": [True], "image": ["x.png"]},
    "math-shepherd": {
        "input": "q Step 1: a ки\nStep 2: b ки",
        "label": "q Step 1: a +\nStep 2: b -",
        "task": "t",
    },
    "rlhflow": {
        "conversations": [
            {"content": "q Step 1: a", "role": "user"},
            {"content": "+", "role": "assistant"},
            {"content": "Step 2: b", "role": "user"},
            {"content": "-", "role": "assistant"},
        ]
    },
    "openrlhf": {"input": "q Step 1: a ки\nStep 2: b ки", "value": ["+", 0.5]},
    "openr": {"question": "q", "process": "Step 1: a ки\nb ки", "label": ["+", 0]},
    "prm800k": {
        "question": {"problem": "q", "ground_truth_answer": "1"},
        "label": {
            "steps": [
                {
                    "completions": [RATED],
                    "human_completion": None,
                    "chosen_completion": 0,
                },
                {
                    "completions": [{"text": "b", "rating": -1}],
                    "human_completion": RATED,
                    "chosen_completion": None,
                },
            ]
        },
    },
    "processbench": {"id": "1", "problem": "q", "steps": ["a", "b"], "label": 1},
    "visualprocessbench": {
        "image": ["x.png"],
        "question": "q",
        "response": {"steps": ["a", "b"], "process_correctness": [1, -1]},
        "data_source": "t",
        "answer": "1",
    },
    "prmbench": {
        "idx": "1",
        "question": "q",
        "modified_process": ["a", "b"],
        "error_steps": [2],
        "classification": "c",
    },
    "vlrmbench": {
        "image": ["x.png"],
        "question": "q",
        "reasoning_error": "STEP1: a\nSTEP2: b",
        "task_gt": [0, 1],
        "category": "c",
    },
    "medprm": {
        "question": "q",
        "options": "A. x",
        "data_source": "t",
        "correct_answer": "A",
        "steps": ["Step 1: a ки"],
        "prm_soft_label": [0.5],
    },
}
NAMES = [form.name for form in FORMATS]
HOSTILE = [
    *(None, True, False, 0, 1, -1, 2, 10**30, -(10**400), 0.5, 1e308, -0.0),
    *("", " ", "x", "<prm>", "ки", "\0", "\ud800", "../x", "http://x/y.png", "+"),
    *([], [None], [[]], ["x"] * 3, [1] * 3, {}, {"a": 1}, {"from": "human"}, [{}, {}]),
]


def paths(value, path=()) -> Iterator[tuple]:
    """Where each node of a JSON value is, but for the root."""
    items = {dict: lambda: value.items(), list: lambda: enumerate(value)}
    for key, child in items.get(type(value), tuple)():
        yield (*path, key)
        yield from paths(child, (*path, key))


def parent_of(value, path):
    for key in path[:-1]:
        value = value[key]
    return value


def decode(name, data, **options):
    """The first record, all checked; None if it was refused as it should be."""
    try:
        records = by_name(name).decode(data, ReadOptions(**options))
    except BadRecord as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < 300, message
        return None
    for record in records:
        assert isinstance(record, Record)
        assert check_record(record) is record
        assert all(0 <= step.successes <= step.trials for step in record.steps)
        assert all(type(step.successes) is int for step in record.steps)
    return records[0]


def dump(value) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", NAMES)
def test_each_format_knows_its_own_records_only(name):
    assert decode(name, dump(SAMPLES[name])) is not None
    assert detect(SAMPLES[name]).name == name
    assert [form.name for form in FORMATS if form.recognise(SAMPLES[name])] == [name]
    other = {"id": 1, "source": "s", "task": "t", "images": ["x.png"], "answer": 3}
    more = other | SAMPLES[name]
    assert [form.name for form in FORMATS if form.recognise(more)] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_node_anywhere_is_refused_or_read(name):
    accepted = 0
    for path in paths(SAMPLES[name]):
        for hostile in HOSTILE:
            value = copy.deepcopy(SAMPLES[name])
            parent_of(value, path)[path[-1]] = hostile
            text = json.dumps(value, ensure_ascii=False)
            data = text.encode(errors="surrogatepass")
            accepted += decode(name, data) is not None
            accepted += decode(name, dump(value), trials=16) is not None
        value = copy.deepcopy(SAMPLES[name])
        del parent_of(value, path)[path[-1]]
        decode(name, dump(value))
    assert accepted


@pytest.mark.parametrize("name", NAMES)
def test_detection_survives_wrong_nodes(name):
    for path in paths(SAMPLES[name]):
        for hostile in HOSTILE:
            value = copy.deepcopy(SAMPLES[name])
            parent_of(value, path)[path[-1]] = hostile
            with contextlib.suppress(DataError):
                detect(value)


@pytest.mark.parametrize("name", NAMES)
def test_truncation_and_damaged_bytes_are_refused(name):
    data = dump(SAMPLES[name])
    for at in range(len(data)):
        assert decode(name, data[:at]) is None
        damaged = data[:at] + b"\xff" + data[at + 1 :]
        decode(name, damaged)
        decode(name, damaged, source_from="id")
    assert decode(name, data + b" {}") is None
    assert decode(name, b"\xef\xbb\xbf" + data) is None


DEEP = 100_000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")]
)
def test_deep_nesting_is_refused(name, opening, closing):
    deep = opening * DEEP + b"1" + closing * DEEP
    extra = dump(SAMPLES[name])[:-1] + b', "extra": ' + deep + b"}"
    assert decode(name, deep) is None
    assert decode(name, extra) is None
    for key in SAMPLES[name]:
        others = {k: v for k, v in SAMPLES[name].items() if k != key}
        data = dump(others)[:-1] + b', "' + key.encode() + b'": ' + deep + b"}"
        assert decode(name, data) is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "raw"])
def test_faults_of_json_have_the_same_words_in_every_format(name):
    def reason(data):
        with pytest.raises(BadRecord) as caught:
            by_name(name).decode(data, ReadOptions())
        return caught.value.reason

    data = dump(SAMPLES[name]).replace(b"\\n", b"\\n ")
    assert reason(b"") == "not JSON"
    assert reason(b"nonsense") == "not JSON"
    assert reason(data[:-1] + b', "n": NaN}') == "not JSON"
    texts = re.sub(rb"\bq(?!u)", b"\xff", data)
    assert reason(texts) == "invalid UTF-8"
    assert reason(data + data) == "two records on one line"
    assert reason(data[:-1]) == "truncated line"
    assert reason(data[:-1] + b', "e": ' + b"[" * DEEP) == "nested too deeply"
    assert reason(b"[]") == reason(b"null") == reason(b"{}") == f"not a {name} record"


READ_ONLY = {
    *("prm800k", "processbench", "visualprocessbench", "prmbench", "vlrmbench"),
    "medprm",
}


def test_every_format_is_found_by_its_name():
    names = [form.name for form in FORMATS]
    assert len(set(names)) == len(names) == len(SAMPLES)
    assert all(by_name(form.name) is form for form in FORMATS)
    with pytest.raises(ValueError, match="no format 'jsonl'; known: raw, prm, "):
        by_name("jsonl")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_only_writable_formats_take_write_options(form):
    assert (form.write is None) == (form.name in READ_ONLY)
    if form.write is None:
        with pytest.raises(DataError, match="can be read, not written"):
            check_options(form, WriteOptions())
    else:
        check_options(form, WriteOptions())
        soft = WriteOptions(labels="soft")
        if form.name in {"raw", "prm", "openrlhf"}:
            check_options(form, soft)
        else:
            with pytest.raises(DataError, match="holds no soft labels"):
                check_options(form, soft)
        told = WriteOptions(system_turn="Judge.")
        if form.name in {"visualprm", "rlhflow"}:
            check_options(form, told)
        else:
            with pytest.raises(DataError, match="has no system turn"):
                check_options(form, told)


def test_detection_tells_what_it_saw_and_what_it_knows():
    with pytest.raises(DataError) as caught:
        detect({"foo\n": 1, "x" * 99: 2, **{str(n): 3 for n in range(40)}})
    message = str(caught.value)
    assert message.isprintable()
    assert r"'foo\n'" in message
    assert "'39'" not in message
    assert "x" * 99 not in message
    assert all(form.name in message for form in FORMATS)
    with pytest.raises(DataError, match=r"\(none\)"):
        detect({})
    for keys, nearest in [
        (
            {"prompt": "q", "completion": "a", "label": True},
            "trl without 'completions'",
        ),
        ({"conversations": [], "id": 0}, "prm in another shape"),
        ({"steps_with_scores": [], "question": "q"}, "raw in another shape"),
    ]:
        with pytest.raises(DataError, match=f"nearest is {nearest}"):
            detect(keys)
    with pytest.raises(DataError, match="search tree of OpenR or OmegaPRM"):
        detect({"question": "q", "final_answer": "3", "reasoning_steps": []})
