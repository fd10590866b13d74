"""Copied lines are the bytes that decoding and encoding would give, or are left."""

import json
import random

import pytest

from mprm_jax.data.compat_record import read_pick
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import ReadOptions, WriteOptions
from mprm_jax.data.prm_lines import labelled_lines, released_lines
from mprm_jax.data.problems import BadRecord

RAW, PRM = by_name("raw"), by_name("prm")

# What strip removes, what JSON escapes, what LaTeX and other scripts end with.
PIECES = [
    *("a", "So x = 3.", "1", "∠ABC", "。", "数", "°", "é", "🙂", "\u200b", "\ufeff"),
    *(
        "\\frac{1}{2}",
        "\\(x\\)",
        "\\",
        "\\\\",
        "\\n",
        "\\underline{a}",
        "/",
        "\\/",
        "$",
    ),
    *('"', '"so"', "\n", "\t", "\r", "\b", "\f", "\0", "\x1f", "\x7f", " ", "  "),
    *("\x85", "\xa0", "\u1680", "\u2000", "\u200a", "\u2028", "\u202f", "\u205f"),
    *(
        "\u3000",
        "\u3001",
        "\u2080",
        "\n\n",
        "\nProcess: ",
        "Question: ",
        '"\n"',
        "{",
        "]",
    ),
]
PLAIN = ["So x = 3.", "∠ABC = 30°", "\\(x\\)", "a\nb", 'the "end".', "数。", "\\frac12"]


def spelled(rng, text):
    """One of the ways to write a text in JSON."""
    quoted = json.dumps(text, ensure_ascii=rng.random() < 0.1)
    match rng.randrange(12):
        case 0:
            return quoted.replace("/", "\\/")
        case 1:
            return quoted.replace("a", "\\u0061").replace("x", "\\u0078")
    return quoted


def odd_line(rng, n_steps):
    def text():
        if rng.random() < 0.8:
            return rng.choice(PLAIN)
        return "".join(rng.choices(PIECES, k=rng.randint(0, 4)))

    steps = ", ".join(
        f'{{"step": {spelled(rng, text())}, "score": {rng.choice("01")}, '
        f'"num_mc_correct": 1, "num_mc_total": 1}}'
        for _ in range(n_steps)
    )
    members = [f'"steps_with_score": [{steps}]']
    values = ['""', "null", "3", "[]", '["b.png"]']
    for name, odd in (("image", 0.1), ("question", 0.1), ("question_orig", 0.5)):
        value = spelled(rng, "i.png" if name == "image" else text())
        value = rng.choice(values) if rng.random() < odd else value
        members += [f'"{name}": {value}'] * rng.choice([0, 1, 1, 1, 1, 1, 2])
    rng.shuffle(members)
    return f"{{{', '.join(members)}}}".encode()


def released(line):
    pick = read_pick(line)
    return None if pick.drop_reason else pick.output()


def encoded(line):
    assert PRM.encode
    return PRM.encode(RAW.decode(line, ReadOptions()), WriteOptions())


def test_copied_lines_are_the_bytes_of_the_slow_ways():
    rng = random.Random(8)
    copied = left = 0
    for _ in range(350):
        lines = [odd_line(rng, rng.randint(0, 5)) for _ in range(rng.randint(0, 9))]
        labels = [
            b", ".join([b"1.0"] * line.count(b'"num_mc_total"')) for line in lines
        ]
        by_scores, by_labels = released_lines(lines), labelled_lines(lines, labels)
        for line, one, other in zip(lines, by_scores, by_labels, strict=True):
            if one is None:
                assert other is None
                left += 1
                continue
            copied += 1
            assert one == released(line)
            value = json.loads(line)
            steps = [dict(step, score=1) for step in value["steps_with_score"]]
            ones = json.dumps(value | {"steps_with_score": steps}).encode()
            assert other == encoded(ones)
    assert copied > 200
    assert left > 300


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_texts_are_copied(text):
    value = {
        "image": "i/ü.png",
        "question": "long",
        "question_orig": text,
        "steps_with_score": [{"step": text, "score": 0.5}, {"step": "b", "score": 0}],
    }
    line = json.dumps(value, ensure_ascii=False).encode()
    (copied,) = released_lines([line])
    assert copied is not None
    assert copied == released(line)
    assert labelled_lines([line, line], [b"0.25, 1.0", None]) == [
        copied.replace(b"[1.0, 0.0]", b"[0.25, 1.0]"),
        None,
    ]


def test_every_margin_is_stripped_or_kept_as_strip_does():
    codes = [*range(0x3100), 0xFEFF, 0xFFFD, 0x1F600]
    texts = [chr(code) + "a" for code in codes] + ["a" + chr(code) for code in codes]
    value = {"image": "i", "question": "q", "steps_with_score": [{"score": 1}]}
    frame = json.dumps(value).replace('"score"', '"step": %s, "score"')
    spelled = [json.dumps(text, ensure_ascii=False) for text in texts]
    lines = [(frame % text).encode() for text in spelled]
    copied = released_lines(lines)
    for text, one, by_hand in zip(texts, copied, spelled, strict=True):
        if one is None:
            assert text != text.strip() or "\\u" in by_hand
        else:
            assert text == text.strip()
            assert f"Process: {by_hand[1:-1]}<prm>" in one.decode()
    assert sum(one is None for one in copied) < 110


def test_a_question_with_the_frame_of_the_steps_is_left_to_be_refused():
    value = {
        "image": "i",
        "question": "a\nProcess: b",
        "steps_with_score": [
            {"step": "s", "score": 1, "num_mc_correct": 1, "num_mc_total": 1}
        ],
    }
    line = json.dumps(value).encode()
    assert labelled_lines([line], [b"1.0"]) == [None]
    with pytest.raises(BadRecord, match="read differently"):
        encoded(line)


def test_records_over_several_lines_are_left():
    value = {"image": ["a", "b"], "question": "q", "steps_with_score": [
        {"step": "s", "score": 1}
    ]}  # fmt: skip
    pretty = json.dumps(value, indent=1).encode()
    assert released_lines([pretty]) == [None]
    assert released_lines([]) == []
