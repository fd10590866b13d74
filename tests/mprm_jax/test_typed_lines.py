"""What decides between the fast and the slow reading of many lines."""

import json
import random

import pytest

from mprm_jax.data.framing import Chunk, line_ends
from mprm_jax.data.raw_scan import raw_columns
from mprm_jax.data.typed_lines import holds_pair, is_utf8
from tests.raw_files import record


def test_a_pair_is_found_wherever_it_stands():
    rng = random.Random(0)
    found = 0
    for _ in range(2000):
        data = bytes(rng.choices(b"\\ua", k=rng.randrange(12)))
        assert holds_pair(data, b"\\u") == (b"\\u" in data), data
        found += b"\\u" in data
    assert 200 < found < 1800


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
            data.decode()
            valid = True
        except UnicodeDecodeError:
            valid = False
        assert is_utf8(data) == valid, data
        refused += not valid
    assert refused > 1000


def chunk_of(text, escape=str):
    value = record()
    value["steps_with_score"][1]["step"] = "TEXT"
    line = json.dumps(value, ensure_ascii=False)
    line = line.replace("TEXT", escape(json.dumps(text, ensure_ascii=False)[1:-1]))
    data = line.encode() + b"\n"
    return Chunk(data, line_ends(data), 0, 1)


@pytest.mark.parametrize(
    "text",
    ["x", "\\(x\\) is 3", '"so" it says', "∠ABC = 30°", "角 x", "a < b", "/", "é"],
)
def test_ordinary_texts_are_read_at_once(text):
    columns = raw_columns(chunk_of(text))
    assert columns is not None
    assert columns["successes"].tolist() == [16, 0]


@pytest.mark.parametrize(
    ("text", "escape"),
    [
        ("", str),
        (" ", str),
        ("\n\t", str),
        ("\u3000", str),
        ("a <prm> b", str),
        ("a <prm> b", lambda s: s.replace("<", "\\u003c")),
        ("a <prm> b", lambda s: s.replace("p", "\\u0070")),
        ("a <prm> b", lambda s: s.replace("m", "\\u006D")),
        (" ", lambda s: "\\u0020"),
    ],
)
def test_texts_that_may_be_bad_are_looked_at(text, escape):
    assert raw_columns(chunk_of(text, escape)) is None
