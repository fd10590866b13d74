"""No record, picture or rating of a file vanishes without a word, in any format."""

import json
import random
import re
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import pytest

from mprm_jax.data.corpus import read_corpus
from mprm_jax.data.formats import FORMATS, by_name
from mprm_jax.data.formats.base import ReadOptions, WriteOptions
from mprm_jax.data.write import decode_line, read_lines, record_of
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step
from tests.cli import run

PICTURE = re.compile(r"p\d+n\d\.png")
# Keys under which somebody keeps pictures: those that are read, and others.
READ_KEYS = ["image", "images", "image_path", "image_paths"]
OTHER_KEYS = [
    *(
        "image_url",
        "img",
        "imgs",
        "pictures",
        "photo",
        "image_file",
        "question_images",
        "imagePath",
        "visual",
    ),
    *("file_name", "image_2", "image_base64", "diagram", "media"),
]


def said(turns: list[tuple[str, object]], names: tuple[str, str, str, str]) -> dict:
    who, what, user, assistant = names
    roles = {"user": user, "assistant": assistant}
    return {"conversations": [{who: roles[role], what: text} for role, text in turns]}


SHAREGPT = "from", "value", "human", "gpt"
CHAT = "role", "content", "user", "assistant"


def alternating(first: str, texts: list[str], signs: list[str], names) -> dict:
    asked = [first, *texts[1:]]
    pairs = zip(asked, signs, strict=True)
    return said(
        [turn for a, b in pairs for turn in (("user", a), ("assistant", b))], names
    )


def signed(marks: list[int]) -> list[str]:
    return ["-+"[mark] for mark in marks]


def marked(texts: Iterable[str], marks: Iterable[str]) -> str:
    steps = enumerate(zip(texts, marks, strict=True), 1)
    return "\n".join(f"Step {n}: {text} {mark}" for n, (text, mark) in steps)


def rated(texts: list[str], marks: list[int]) -> dict:
    turns = [
        {
            "completions": [
                {"text": text, "rating": mark},
                {"text": "x", "rating": -1},
            ],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for text, mark in zip(texts, marks, strict=True)
    ]
    return {"question": {"problem": "q"}, "label": {"steps": turns}}


# A record of each format, from its step texts and what is right of them (1) or not (0).
BUILD: dict[str, Callable[[list[str], list[int]], dict]] = {
    "raw": lambda texts, marks: {
        "question": "q",
        "image": None,
        "steps_with_score": [
            {"step": text, "score": mark, "num_mc_correct": mark, "num_mc_total": 1}
            for text, mark in zip(texts, marks, strict=True)
        ],
    },
    "prm": lambda texts, marks: said(
        [
            ("user", "Question: q\nProcess: " + "".join(f"{t}<prm>\n" for t in texts)),
            ("assistant", marks),
        ],
        SHAREGPT,
    ),
    "visualprm": lambda texts, marks: alternating(
        f"### Question:\nq\n\n### Solution Process:\n{texts[0]}",
        texts,
        signed(marks),
        SHAREGPT,
    ),
    "rlhflow": lambda texts, marks: alternating(
        f"q Step 1: {texts[0]}", texts, signed(marks), CHAT
    ),
    "trl": lambda texts, marks: {"prompt": "q", "completions": texts, "labels": marks},
    "math-shepherd": lambda texts, marks: {
        "input": "q " + marked(texts, ["ки"] * len(texts)),
        "label": "q " + marked(texts, signed(marks)),
    },
    "openrlhf": lambda texts, marks: {
        "input": "q " + marked(texts, ["ки"] * len(texts)),
        "value": signed(marks),
    },
    "openr": lambda texts, marks: {
        "question": "q",
        "process": marked(texts, ["ки"] * len(texts)),
        "labels": marks,
    },
    "prm800k": rated,
    "processbench": lambda texts, marks: {
        "problem": "q",
        "steps": texts,
        "label": marks.index(0) if 0 in marks else -1,
    },
    "visualprocessbench": lambda texts, marks: {
        "question": "q",
        "data_source": "t",
        "response": {
            "steps": texts,
            "process_correctness": [2 * mark - 1 for mark in marks],
        },
    },
    "prmbench": lambda texts, marks: {
        "question": "q",
        "modified_process": texts,
        "error_steps": [n for n, mark in enumerate(marks, 1) if not mark],
    },
    "vlrmbench": lambda texts, marks: {
        "question": "q",
        "reasoning_error": texts,
        "task_gt": [1 - mark for mark in marks],
    },
    "medprm": lambda texts, marks: {
        "question": "q",
        "options": "A. x",
        "data_source": "t",
        "steps": [f"{text} ки" for text in texts],
        "prm_soft_label": [mark / 16 for mark in marks],
    },
}


def ratings(name: str, texts: list[str], marks: list[int]) -> set[tuple[str, bool]]:
    """What a record says of its steps."""
    pairs = {(text, bool(mark)) for text, mark in zip(texts, marks, strict=True)}
    if name == "processbench" and 0 in marks:
        # Behind the first wrong step nobody judged.
        first = marks.index(0)
        return {(text, j < first) for j, text in enumerate(texts[: first + 1])}
    if name == "prm800k":
        # A neutral rating, 0, is none of a wrong step.
        return {(text, True) for text in texts} | {("x", False)}
    return pairs


def spoil(value, draw: random.Random) -> None:
    """Change something in a JSON value, anywhere."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and draw.random() < 0.7:
            value = value[key]
            continue
        match draw.randrange(5):
            case 0:
                del value[key]
            case 1 if isinstance(value, list):
                value.insert(key, value[key])
            case 2 if isinstance(value[key], str):
                value[key] = value[key].replace(draw.choice(["q", "Step", "<prm>"]), "")
            case _:
                value[key] = draw.choice(
                    [None, "", " ", "s99", 7, 0.5, [], {}, "<image>"]
                )
        return


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_a_file_holds_is_read_or_said_to_be_refused(form, tmp_path):
    draw = random.Random(form.name)
    values, kept = [], []
    for row in range(400):
        texts = [f"s{row}n{step}" for step in range(draw.randint(1, 4))]
        marks = [draw.randrange(2) for _ in texts]
        value = BUILD[form.name](texts, marks)
        names = [f"p{row}n{n}.png" for n in range(draw.randint(0, 2))]
        if names:
            key = draw.choice(READ_KEYS if draw.random() < 0.7 else OTHER_KEYS)
            value[key] = names[0] if len(names) == 1 and draw.random() < 0.5 else names
        if names and draw.random() < 0.2:
            value[draw.choice(OTHER_KEYS)] = f"p{row}n7.png"
        kept.append(ratings(form.name, texts, marks))
        if draw.random() < 0.3:
            spoil(value, draw)
            kept[-1] = None
        values.append(value)
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in values))

    corpus = read_corpus(file, form.name, ReadOptions(), use_cache=False)
    read: dict[int, list[Record]] = {}
    rows = np.arange(corpus.rollouts.n_rollouts)
    for row, data in read_lines(corpus, rows):
        record = record_of(corpus, row, decode_line(corpus, data))
        read.setdefault(int(corpus.line[row]) - 1, []).append(record)
    assert len(read) + corpus.bad_lines.total == len(values) == corpus.lines
    assert 80 < len(read) < 350
    told = {note.line - 1 for note in corpus.notes.kept if "picture" in note.reason}
    for line, records in read.items():
        pictures = {image for record in records for image in record.images}
        left_out = set(PICTURE.findall(json.dumps(values[line]))) - pictures
        assert not left_out or line in told, values[line]
        if kept[line] is not None:
            steps = [step for record in records for step in record.steps if step.trials]
            found = {(step.text, step.successes > 0) for step in steps}
            assert found == kept[line], values[line]


@pytest.mark.parametrize("name", sorted(BUILD.keys() - {"prm800k"}))
def test_empty_steps_are_refused_or_left_out_with_their_labels(name):
    form = by_name(name)
    holed = json.dumps(BUILD[name](["", "a", " \n", "b"], [1, 0, 1, 1])).encode()
    whole = json.dumps(BUILD[name](["a", "b"], [0, 1])).encode()
    with pytest.raises(BadRecord, match="empty step"):
        form.decode(holed, ReadOptions())
    left = form.decode(holed, ReadOptions(empty_steps="drop"))
    assert left == form.decode(whole, ReadOptions())
    none = json.dumps(BUILD[name]([" "], [1])).encode()
    with pytest.raises(BadRecord, match="no steps"):
        form.decode(none, ReadOptions(empty_steps="drop"))


def test_a_corpus_converted_through_every_format_is_the_same(tmp_path, capsys):
    rows = [([f"s{n}", f"t{n}", ""], [n % 2, 1, 0]) for n in range(4)]
    file = tmp_path / "d.json"
    file.write_text(json.dumps([BUILD["openr"](*row) for row in rows], indent=1))
    way = "rlhflow", "openrlhf", "visualprm", "math-shepherd", "trl", "prm", "openr"
    options = ["--empty-steps", "drop"]
    for form in way:
        command = ["convert", file, "--no-cache", "--format", form, *options]
        options = []
        if form in ("rlhflow", "visualprm"):
            command += ["--system-turn", "Judge."]
        done = run(capsys, *command, "--output", tmp_path / form)
        assert done.status == 0, done.err
        file = tmp_path / form / "d.jsonl"
        assert file.read_text().count("Judge.") == (
            4 if "--system-turn" in command else 0
        )
    again = [json.loads(line) for line in file.read_text().splitlines()]
    for value, (texts, marks) in zip(again, rows, strict=True):
        expected = BUILD["openrlhf"](texts[:2], marks[:2])
        process = expected["input"].removeprefix("q ")
        label = expected["value"]
        assert value == {"question": "q", "process": process, "label": label}
    failed = run(capsys, "convert", file, "--format", "trl", "--system-turn", "x")
    assert failed.status == 2


def test_a_step_that_is_a_path_is_no_picture():
    value = BUILD["trl"](["look at", "a/1.png"], [1, 0])
    (record,) = by_name("trl").decode(json.dumps(value).encode(), ReadOptions())
    assert record.steps[1].text == "a/1.png"
    with pytest.raises(BadRecord, match="pictures under another key"):
        by_name("trl").decode(
            json.dumps(value | {"at": "x.png"}).encode(), ReadOptions()
        )


@pytest.mark.parametrize("key", READ_KEYS)
@pytest.mark.parametrize("name", sorted(BUILD.keys() - {"raw"}))
def test_several_pictures_are_read_under_every_key_and_written(name, key):
    value = BUILD[name](["a", "b"], [1, 0]) | {key: ["1.png", "2.png"]}
    (record, *_) = by_name(name).decode(json.dumps(value).encode(), ReadOptions())
    assert record.images == ("1.png", "2.png")
    record = msgspec.structs.replace(record, steps=(Step("a", 1, 1),))
    for form in map(by_name, ("raw", "prm", "visualprm", "trl")):
        (again,) = form.decode(form.encode(record, WriteOptions()), ReadOptions())
        assert again.images == record.images
