"""``--compat official`` and the naive oracle read thousands of odd corpora alike."""

import random
import re
from collections import Counter

import pytest

from mprm_jax.data import framing
from mprm_jax.records.problems import DataError
from tests import official_baseline as reference
from tests.mprm_jax.test_compat import run

BLOCKS, CORPORA = 4, 800

# JSON fragments: usual ones first, then what a file may hold all the same.
SCORES = ["0", "1", "0.5", "0.0625", "0.9375", "0.25", "0.0", "1.0"]
ODD_SCORES = [
    *("NaN", "Infinity", "-Infinity", "true", "false", "null", "[]", "{}", "[1]"),
    *("-0", "-0.0", "2", "-1", "1e400", "-1e400", "1e-400", "5E-1", "1E+2", "0.1e1"),
    *("18446744073709551617", "0.30000000000000004", "1" + "0" * 400),
    *("01", "1.", ".5", "+1", "-", "1e", "nan", "0x1", "1_0", "0.5e", "1..0"),
    *('"0.5"', '"8/16"', '" 0.25 "', '"nan"', '"inf"', '""', '"1_0"', '"٣"'),
    *('"\\ud800"', '"0\\u002e5"', '"1e400"', "9" * 4300 + "e-4299", "9" * 4301),
    "0." + "3" * 4500,
]
TEXTS = ['"so x is 3"', '"then y"', '"a\\nb"', '" padded\\t"', '"é × 角"']
ODD_TEXTS = [
    *('""', '" "', "null", "0", "5", "true", "false", "NaN", "1e400", "-0.0"),
    *("[]", "{}", '["a"]', '{"k":"v"}', '{"k": [1, 2.5, null, "é"], "k": NaN}'),
    *('"\\u0000\\u001f\\u007f"', '"\\ud83d\\ude00\\/\\b\\f"', '"\U0001f600\ufeff"'),
    *('"\xa0\u2028\x85"', '"\xa0in\u3000"', '"\\u00a0esc\\u2029"', '"<prm>"'),
    *('"\\ud800"', '"\\udc00x"', '"\\ud83d\\ud83d\\ude00"', '"\\uD83D\\uDE0"'),
    *('"\\x"', '"\x01"', '"tab\t"', '"open', '"\\u12"', '"\\', "'a'"),
    *("7" * 4300, "7" * 4301, "-" + "7" * 4300, "[" * 40 + "]" * 40),
]
IMAGES = ['"a.png"', '"b/ü.png"', '["a.png", "b.png"]']
STEPS = ["null", "1", '"s"', "[]", "{}", "true"]
LISTS = ["[]", "null", "{}", '""', "0", "false", "true", '"s"', '{"step": 1}', "3"]
RECORDS = [
    *("[]", "null", "1", '"record"', "NaN", "{}", "{", "}", "nonsense", "[[]", "\x00"),
    *("[" * 2345, "[" * 2345 + "]" * 2345, '{"a":' * 2345 + "1" + "}" * 2345),
]
# Line separators to str.splitlines, white space to str.strip, or neither.
MARGINS = [
    *("\t", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0"),
    *(" ", "\u2028", "\u3000", "\ufeff", "\u200b"),
]
ENDS = ["\n", "\r\n", "\r", "\n\n", "\r\r", "\n\r", " \n", "", " ", "\r\n\r\n"]
BYTES = [
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe4\xbd", b"\x80", b"\xf4\x90\x80\x80"),
    *(b"\r", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"\x00"),
    *(b"\\u", b"\\ud800", b"-", b"e", b".", b" ", b"\x1c", b"\x7f", b"\xc2\xa0"),
]
NAMES = ["a.jsonl", "a-1.jsonl", "B.jsonl", "é.jsonl", ".h.jsonl", "a b.jsonl"]
OTHERS = ["a.jsonl.gz", "a.JSONL", "a.json", "jsonl", "sub.jsonl/a.jsonl"]


class Writer:
    """Random corpora of which a share ``odd`` of every choice is unusual."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.odd = self.rng.choice([0, 0.01, 0.03, 0.1, 0.3])

    def pick(self, usual, odd):
        return self.rng.choice(odd if self.rng.random() < self.odd else usual)

    def rarely(self):
        return self.rng.random() < self.odd

    def members(self, *members):
        """An object; members may be missing, doubled, or have an escaped name."""
        kept = []
        for name, value in members:
            if self.rarely():
                name = self.rng.choice([name, name.replace("s", "\\u0073"), "x" + name])
            kept += [f'"{name}": {value}'] * self.pick([1], [0, 1, 1])
        if self.rarely():
            kept.append(self.rng.choice(kept or ["1"]))
        if self.rarely():
            self.rng.shuffle(kept)
        return "{" + self.pick([", "], [",", " ,\t", ",,", ",\r\n "]).join(kept) + "}"

    def text(self):
        return self.pick(TEXTS, ODD_TEXTS)

    def step(self):
        if self.rng.random() < self.odd / 8:
            return self.rng.choice(STEPS)
        score = self.pick(SCORES, ODD_SCORES)
        members = [("step", self.text()), ("score", score)]
        if self.rarely():
            members.append(("score", self.pick(SCORES, ODD_SCORES)))
        return self.members(*members, ("num_mc_total", "16"))

    def record(self):
        if self.rng.random() < self.odd / 4:
            return self.rng.choice(RECORDS)
        steps = f"[{', '.join(self.step() for _ in range(self.rng.randint(1, 5)))}]"
        if self.rng.random() < self.odd / 3:
            steps = self.rng.choice(LISTS)
        members = [
            ("image", self.pick(IMAGES, IMAGES + ODD_TEXTS)),
            ("question", self.text()),
            ("question_orig", self.pick(['""', *TEXTS], ODD_TEXTS)),
            ("response", self.text()),
            ("steps_with_score", steps),
        ]
        if self.rarely():
            members.append(("steps_with_score", f"[{self.step()}]"))
        return self.members(*members)

    def file(self):
        usual = self.rng.choice(["\n", "\n", "\n", "\r\n", "\r"])
        out = "\ufeff" if self.rarely() else ""
        for _ in range(self.rng.randint(0, 9)):
            margins = self.pick([""], MARGINS), self.pick([""], MARGINS)
            out += margins[0] + self.record() + margins[1] + self.pick([usual], ENDS)
        data = (out.rstrip("\n") if self.rarely() else out).encode()
        while self.rarely() and data:
            at = self.rng.randrange(len(data))
            to = at + self.rng.choice([0, 0, 1, 1, 2, 30])
            moved = data[at:][: self.rng.randint(0, 40)]
            data = data[:at] + self.rng.choice([b"", moved, *BYTES]) + data[to:]
        return data

    def corpus(self, folder):
        names = self.rng.sample(NAMES, self.rng.randint(1, 3))
        if self.rng.random() < 0.1:
            names += OTHERS
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(self.file())


@pytest.mark.parametrize("block", range(BLOCKS))
def test_odd_corpora_give_the_bytes_and_counts_of_the_oracle(
    tmp_path, monkeypatch, block
):
    seen = Counter()
    for i in range(CORPORA):
        writer = Writer(block * CORPORA + i)
        folder = tmp_path / str(i)
        writer.corpus(folder)
        keep_ratio = writer.rng.choice([0.05, 0.25, 0.29, 0.5, 0.7, 1.0])
        alpha = writer.rng.choice([0.0, 0.05, 0.2])
        size = writer.rng.choice([1, 2, 3, 10, 64, 1000, 1 << 18])
        monkeypatch.setattr(framing, "CHUNK_BYTES", size)
        try:
            expected = reference.select(folder, keep_ratio, alpha)
        except Exception as crash:
            with pytest.raises(
                DataError, match=rf"^{re.escape(str(folder))}/[^/]+\.jsonl:\d+: "
            ):
                run(folder, keep_ratio, alpha)
            seen[type(crash).__name__] += 1
            continue
        assert run(folder, keep_ratio, alpha) == expected, folder
        for report in expected[1]:
            seen["written"] += len(report["written"])
            seen.update(report["dropped"])
            seen.update({k: report[k] for k in ("blank", "refused", "tied")})
        seen["corpora"] += 1
    # The comparison means something only if all of this happened, and often.
    assert seen["corpora"] > 0.6 * CORPORA
    assert seen["written"] > CORPORA
    for name in ("blank", "refused", "tied", "image missing", "empty step text"):
        assert seen[name] > 20, seen
    for name in ("score does not count", "UnicodeDecodeError", "UnicodeEncodeError"):
        assert seen[name] > 5, seen
    for name in ("AttributeError", "TypeError", "OverflowError"):
        assert seen[name] > 3, seen
