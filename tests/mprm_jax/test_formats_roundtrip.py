"""What a writer writes is read back as the same record, or it is not written."""

import json
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm_jax.data.formats import by_name, detect
from mprm_jax.data.formats.base import ReadOptions, WriteOptions
from mprm_jax.data.formats.visualprm import is_framed
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step

HARD = WriteOptions()
SOFT = WriteOptions(labels="soft")
MARKED = ["math-shepherd", "openrlhf", "openr"]
TEXT_ONLY = [*MARKED, "rlhflow"]
PICTURED = ["prm", "visualprm", "trl"]
WRITTEN = [*PICTURED, *TEXT_ONLY]
PROCESS = {"prm": "\nProcess: ", "visualprm": "\n\n### Solution Process:\n"}

# Everything a format splits at, halves of it, and what JSON or UTF-8 treats specially.
HAZARDS = [
    *("<prm>", "<prm", "prm>", "ки", "к", "и", "ошибки", "<image>", "<image>\n"),
    *("Question: ", "\nProcess: ", "\nProcess:", "Process: ", "### Question:\n"),
    *("\n\n### Solution Process:\n", "\n\n### Solution Process:", "\n\n###"),
    *("Step 1:", "Step 1: ", " Step 1: ", "Step 2: ", "\nStep 2: ", "Step 3:", ": "),
    *("Step", "step 1:", "1:", "+", "-", " +", " -", "+\n", "\n", "\n\n", " ", "\t"),
    *('"', "\\", "\\n", "\\u0041", "</s>", "\r", "\r\n", "\0", "\x1c", "\x7f", "\x85"),
    *(
        "\u2028",
        "\u00a0",
        "\u200b",
        "\ufeff",
        "🙂",
        "e\u0301",
        "数",
        "\ud800",
        "\udc00",
    ),
]
HARMLESS = ["a", "b c", "x = 1", "So, ", "∠ABC = 30°", "answer", ". ", "\n", "1", "2"]

fragments = st.sampled_from([*HAZARDS, *(HARMLESS * 20)])
loose_texts = st.lists(fragments, min_size=1, max_size=5).map("".join)
texts = st.builds(
    lambda text, loose: text if loose else (text.strip() or "."),
    loose_texts,
    st.sampled_from([False] * 39 + [True]),
)
images = st.sampled_from(
    [*[None] * 12, "a/b c.png", "图/1.jpg", ("a.png",), ("a", "b/c")]
)


@st.composite
def records(draw):
    trials = draw(st.sampled_from([1, 3, 7, 16, 32, 49, 65_535]))
    steps = draw(
        st.lists(
            st.tuples(texts, st.one_of(st.just(0), st.integers(0, trials))),
            min_size=1,
            max_size=4,
        )
    )
    return Record(
        question=draw(texts),
        steps=tuple(Step(text, successes, trials) for text, successes in steps),
        image=draw(images),
        answer="42",
        source=draw(st.sampled_from([None, *["GSM8K"] * 8, "ошибки"])),
    )


def encode(name, record, options=HARD) -> bytes:
    encoder = by_name(name).encode
    assert encoder is not None
    return encoder(record, options)


def encodable(text):
    return not any("\ud800" <= character <= "\udfff" for character in text)


def writable(record, name):
    """Whether the format can hold the record, from its definition alone."""
    question, solution = record.question, [step.text for step in record.steps]
    every = [question, *solution]
    if not all(text and text == text.strip() and encodable(text) for text in every):
        return False
    if any("<prm>" in text for text in every):
        return False
    # Placeholders are written as they stand, if they pair with the pictures.
    if "<image>" in "".join(every):
        pairs = question.count("<image>") == len(record.images)
        if not pairs or question.startswith("<image>") or "<image>" in str(solution):
            return False
    if name in TEXT_ONLY:
        foreign = any("ки" in text for text in [*every, record.source or ""])
        asked = "Step 1:" in question and name != "openr"
        return not (record.image or (foreign and name in MARKED) or asked)
    separator = PROCESS.get(name)
    # A question that ends in the separator's beginning moves the split as well.
    return not separator or (question + separator).index(separator) == len(question)


def held(record, name, options):
    """The part of a record that the format holds, with hard labels."""
    threshold = Fraction(options.label_threshold)
    return Record(
        question=record.question,
        steps=tuple(
            Step(s.text, int(Fraction(s.successes, s.trials) > threshold), 1)
            for s in record.steps
        ),
        image=record.image,
        source=record.source if name == "math-shepherd" else None,
    )


MARKS = {"prm": b"<prm>", "visualprm": b'"from": "gpt"', "rlhflow": b'"assistant"'}
MARKS |= dict.fromkeys(MARKED, "ки".encode())


@settings(max_examples=1200)
# About 850 of them can be written, 540 by the text-only formats.
@given(record=records(), threshold=st.sampled_from([0.0, 1 / 16, 1 / 8, 0.5]))
def test_a_record_is_read_back_or_refused(record, threshold):
    options = WriteOptions(label_threshold=threshold)
    for name in WRITTEN:
        form = by_name(name)
        if not writable(record, name):
            with pytest.raises(BadRecord):
                encode(name, record, options)
            continue
        line = encode(name, record, options)
        value = json.loads(line)
        assert b"\n" not in line, name
        assert line == json.dumps(value, ensure_ascii=False).encode(), name
        assert form.decode(line, ReadOptions()) == (held(record, name, options),), name
        framed = name == "rlhflow" and is_framed(value["conversations"][0]["content"])
        assert detect(value) is form or framed, name
        if name in MARKS:
            assert line.count(MARKS[name]) == len(record.steps), name
        placed = len(record.images) if name in ("prm", "visualprm") else 0
        placed = record.question.count("<image>") or placed
        assert line.count(b"<image>") == placed, name
        if form.soft:
            soft = encode(name, record, WriteOptions(labels="soft"))
            (read,) = form.decode(soft, ReadOptions(trials=record.steps[0].trials))
            assert read.steps == record.steps, name


@settings(max_examples=1000)
# At least 650 of them can be written.
@given(record=records(), unmeasured=st.booleans())
def test_a_raw_record_is_read_back_whole_or_refused(record, unmeasured):
    steps = record.steps
    if unmeasured:
        steps = (*steps[:-1], Step(steps[-1].text, 0, 0))
    record = msgspec.structs.replace(record, steps=steps, source=None, answer=None)
    if not writable(record, "raw"):
        with pytest.raises(BadRecord):
            encode("raw", record)
        return
    line = encode("raw", record)
    assert b"\n" not in line
    assert detect(json.loads(line)) is by_name("raw")
    assert by_name("raw").decode(line, ReadOptions()) == (record,)


@pytest.mark.parametrize("name", WRITTEN)
def test_ordinary_records_are_written(name):
    # The property above would hold of a writer that refuses everything together with a
    # predicate that expects it to; these must go through.
    for question in ["Q?", "Ⅳ: Process: what?", "Question: 1", 'a "b"\n\nc \\d', "к и"]:
        for text in ["Step 1: so", "Step 2: a", "+", "- 3", "a\n\nb\nProcess: c"]:
            record = Record(question, (Step(text, 1, 1), Step(text, 0, 1)))
            line = encode(name, record)
            assert by_name(name).decode(line, ReadOptions()) == (record,)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_step_without_label_is_not_written(name):
    record = Record("q", (Step("a", 1, 1), Step("b", 0, 0)))
    with pytest.raises(BadRecord, match="never sampled"):
        encode(name, record)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_refused_text_is_named(name):
    record = Record("q", (Step("a", 1, 1), Step("b ", 1, 1), Step("c ", 1, 1)))
    with pytest.raises(BadRecord, match=f"step 2 .* of format {name}$"):
        encode(name, record)


TEXTS = ("s1\nt", 3), ("s2", 0), ("s3", 1)
STEPS = tuple(Step(text, successes, 4) for text, successes in TEXTS)
RECORD = Record('Was ist "x"? ∠', STEPS, "i/1.png")
PROMPT = (
    '{"image": "i/1.png", "conversations": [{"from": "human", "value": "<image>\\n'
    'Question: Was ist \\"x\\"? ∠\\nProcess: s1\\nt<prm>\\n\\ns2<prm>\\n\\ns3<prm>"}, '
    '{"from": "gpt", "value": [%s]}]}'
)
TURNS = (
    '{"image": "i/1.png", "conversations": [{"from": "human", "value": "<image>\\n'
    '### Question:\\nWas ist \\"x\\"? ∠\\n\\n### Solution Process:\\ns1\\nt"}, '
    '{"from": "gpt", "value": "+"}, {"from": "human", "value": "s2"}, '
    '{"from": "gpt", "value": "-"}, {"from": "human", "value": "s3"}, '
    '{"from": "gpt", "value": "+"}]}'
)
ROW = (
    '{"prompt": "Was ist \\"x\\"? ∠", "completions": ["s1\\nt", "s2", "s3"], '
    '"labels": [true, false, true], "image": "i/1.png"}'
)
JUDGED = (
    '{"input": "Q? Step 1: s1\\nt ки\\nStep 2: s2 ки\\nStep 3: s3 ки", '
    '"label": "Q? Step 1: s1\\nt +\\nStep 2: s2 -\\nStep 3: s3 +", "task": "GSM8K"}'
)

MARKED_STEPS = "Step 1: s1\\nt ки\\nStep 2: s2 ки\\nStep 3: s3 ки"
VALUED = '{"input": "Q? ' + MARKED_STEPS + '", "value": [%s]}'
PROCESSED = (
    '{"question": "Q?", "process": "' + MARKED_STEPS + '", "label": ["+", "-", "+"]}'
)
FLOW = (
    '{"conversations": [{"content": "Q? Step 1: s1\\nt", "role": "user"}, '
    '{"content": "+", "role": "assistant"}, {"content": "Step 2: s2", "role": "user"}, '
    '{"content": "-", "role": "assistant"}]}'
)
SYSTEM = '{"from": "system", "value": "Judge."}'
TOLD = WriteOptions(system_turn="Judge.")


@pytest.mark.parametrize(
    ("name", "record", "options", "line"),
    [
        ("prm", RECORD, HARD, PROMPT % "1.0, 0.0, 1.0"),
        ("prm", RECORD, WriteOptions(labels="soft"), PROMPT % "0.75, 0.0, 0.25"),
        # The threshold is strict.
        ("prm", RECORD, WriteOptions(label_threshold=0.25), PROMPT % "1.0, 0.0, 0.0"),
        ("visualprm", RECORD, HARD, TURNS),
        ("trl", RECORD, HARD, ROW),
        ("visualprm", RECORD, TOLD, TURNS.replace('s": [', f's": [{SYSTEM}, ')),
        ("math-shepherd", Record("Q?", STEPS, source="GSM8K"), HARD, JUDGED),
        ("openrlhf", Record("Q?", STEPS), HARD, VALUED % '"+", "-", "+"'),
        (
            "openrlhf",
            Record("Q?", STEPS),
            WriteOptions("soft"),
            VALUED % "0.75, 0.0, 0.25",
        ),
        ("openr", Record("Q?", STEPS), HARD, PROCESSED),
        ("rlhflow", Record("Q?", STEPS[:2]), HARD, FLOW),
    ],
)
def test_the_bytes_are_those_that_trainers_read(name, record, options, line):
    assert encode(name, record, options) == line.encode()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_only_rollout_has_no_image_key(name):
    record = Record("q", (Step("a", 1, 1),))
    value = json.loads(encode(name, record))
    assert "image" not in value
    assert "<image>" not in json.dumps(value)


@pytest.mark.parametrize("name", PICTURED)
def test_several_images_stay_a_list(name):
    record = Record("q", (Step("a", 1, 1),), ("1.png", "2.png"))
    line = encode(name, record)
    assert json.loads(line)["image"] == ["1.png", "2.png"]
    assert line.count(b"<image>\\n") == (0 if name == "trl" else 2)
    assert by_name(name).decode(line, ReadOptions()) == (record,)


@pytest.mark.parametrize("name", PICTURED)
def test_placeholders_inside_a_question_stay_where_they_are(name):
    question = "Image-1: <image>\nImage-2: <image>\nWhich is larger?"
    record = Record(question, (Step("a", 1, 1),), ("1.png", "2.png"))
    line = encode(name, record)
    assert line.count(b"<image>") == 2
    assert by_name(name).decode(line, ReadOptions()) == (record,)
    with pytest.raises(BadRecord, match="image placeholder"):
        encode(name, msgspec.structs.replace(record, image="1.png"))


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("prm", Record("a\nProcess: b", STEPS), "text would be read"),
        ("prm", Record("q", STEPS, "../x.png"), "unsafe image path"),
        (
            "visualprm",
            Record("a\n\n### Solution Process:", STEPS),
            "text would be read differently: the question",
        ),
        ("math-shepherd", Record("Do Step 1: x", STEPS), "text would be read"),
        ("math-shepherd", Record("q", (Step("ошибки", 1, 1),)), "step marker in text"),
        ("math-shepherd", Record("q", STEPS, source="ки"), "step marker in text"),
        ("math-shepherd", Record("q", STEPS, source="\ud800"), "lone surrogate"),
        *[(name, RECORD, "format holds no image") for name in TEXT_ONLY],
        *[
            (name, Record("q", (Step("<image>", 1, 1),)), "image pl")
            for name in WRITTEN
        ],
        ("openr", Record("q", (Step("ошибки", 1, 1),)), "step marker in text"),
        ("rlhflow", Record("Do Step 1: x", STEPS), "text would be read"),
        ("trl", Record(" q", STEPS), "text would be read"),
        ("trl", Record("q", STEPS, ()), "image empty"),
    ],
)
def test_why_a_record_is_not_written(name, record, reason):
    with pytest.raises(BadRecord, match=f"^{reason}"):
        encode(name, record)
