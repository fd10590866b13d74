"""Raw lines rewritten as PRM conversations without decoding their texts.

A JSON string is copied where its escapes are those that ``json.dumps(...,
ensure_ascii=False)`` writes and no white space surrounds its text; a line with any
other is left (None) to ``formats.prm.encode`` or ``compat_record.read_pick``, which
write the same bytes. A test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import attrgetter

import msgspec
import numpy as np

from mprm_jax.data.record import STEP_MARKER
from mprm_jax.data.typed_lines import holds_pair, is_utf8


class _Step(msgspec.Struct, gc=False):
    step: msgspec.Raw
    score: float | None = None


class _Rollout(msgspec.Struct, gc=False):
    steps_with_score: list[_Step]
    image: msgspec.Raw = msgspec.Raw()
    question: msgspec.Raw = msgspec.Raw()
    question_orig: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Rollout)
_STRING = msgspec.json.Decoder(str)
_steps = attrgetter("steps_with_score")
_text = attrgetter("step")
_score = attrgetter("score")

# A question_orig that leaves the word to the question.
_ABSENT = frozenset({b"", b'""', b"null"})

# json.dumps escapes neither a slash nor what \u stands for, control characters aside.
# In \\u the backslash is escaped, not the u: such a line is decoded in vain.
_OTHER_ESCAPES = (rb"\u", rb"\/")
_OTHER_ESCAPE = re.compile(rb"\\[u/]")

# Bytes that can begin and end a text: visible ASCII, no quote, no backslash.
_PLAIN = np.isin(np.arange(256), [*range(ord("!"), ord("~") + 1)])
_PLAIN[[*b'"\\']] = False
# The last byte of an escape that may stand for white space.
_ESCAPED = np.isin(np.arange(256), [*b"bfnrt"])

_SEPARATOR = STEP_MARKER.encode() + rb"\n\n"
# What a line is made of, around the image, question, steps and labels.
_IMAGE = b'{"image": "'
_QUESTION = b'", "conversations": [{"from": "human", "value": "Question: '
_PROCESS = rb"\nProcess: "
_LABELS = STEP_MARKER.encode() + b'"}, {"from": "gpt", "value": ['
_END = b"]}]}"


def released_lines(lines: Sequence[bytes]) -> list[bytes | None]:
    """What the released script writes of each raw line, without newline: 1.0 for a
    positive score; None for a line that needs a closer look, or is dropped.
    """
    rollouts = [_decode(line) for line in lines]
    labels: list[bytes | None] = []
    for rollout in rollouts:
        scores = [] if rollout is None else list(map(_score, _steps(rollout)))
        labels.append(
            None
            if None in scores
            else b", ".join([b"1.0" if score > 0 else b"0.0" for score in scores])
        )
    return _lines(rollouts, labels, is_utf8)


def labelled_lines(
    lines: Sequence[bytes], labels: Sequence[bytes | None]
) -> list[bytes | None]:
    """The PRM conversation of each raw line with the given labels, without newline;
    None for a line that needs a closer look, or has None for labels.

    Args:
        lines: raw lines that the index has accepted, hence valid UTF-8.
        labels: of each line, JSON numbers separated by ``", "``, one per step.
    """
    return _lines([_decode(line) for line in lines], labels, lambda data: True)


def _decode(line: bytes) -> _Rollout | None:
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None


def _lines(
    rollouts: list[_Rollout | None],
    labels: Sequence[bytes | None],
    is_valid: Callable[[bytes], bool],
) -> list[bytes | None]:
    output: list[bytes | None] = [None] * len(rollouts)
    items: list[bytes | msgspec.Raw] = []
    kept: list[tuple[int, bytes]] = []
    first = [0]
    for row, (rollout, label) in enumerate(zip(rollouts, labels, strict=True)):
        if rollout is not None and label is not None and rollout.steps_with_score:
            kept.append((row, label))
            items += (rollout.image, _question(rollout))
            items += map(_text, rollout.steps_with_score)
            first.append(len(items))
    joined = b"".join(items)
    if not kept or not is_valid(joined):
        return output
    sizes = np.fromiter(map(len, items), np.int64, len(items))
    ends = np.cumsum(sizes)
    starts = ends - sizes
    whole = _copied_whole(joined, starts, ends)
    clean = np.logical_and.reduceat(whole, first[:-1]).tolist()
    # Without their quotes.
    spans = zip((starts + 1).tolist(), (ends - 1).tolist(), strict=True)
    texts = [joined[start:end] for start, end in spans]
    for i, (row, label) in enumerate(kept):
        at, end = first[i], first[i + 1]
        if clean[i] and _PROCESS not in texts[at + 1]:
            output[row] = b"".join(
                (
                    _IMAGE,
                    texts[at],
                    _QUESTION,
                    texts[at + 1],
                    _PROCESS,
                    _SEPARATOR.join(texts[at + 2 : end]),
                    _LABELS,
                    label,
                    _END,
                )
            )
    return output


def _question(rollout: _Rollout) -> bytes | msgspec.Raw:
    original = bytes(rollout.question_orig)
    return rollout.question if original in _ABSENT else original


def _copied_whole(joined: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether each item is a JSON string of a text that ``strip`` and ``json.dumps``
    leave as it stands, boolean ``[n_items]``.
    """
    # Padded, because the last item may be empty.
    octets = np.frombuffer(joined + b"\n\n\n", np.uint8)
    head, last, before = octets[starts + 1], octets[ends - 2], octets[ends - 3]
    backslash = ord("\\")
    plain = (
        (ends - starts > 2)
        & (octets[starts] == ord('"'))
        & (_PLAIN[head] | ((head == backslash) & (octets[starts + 2] == backslash)))
        & _PLAIN[last]
        & ~((before == backslash) & _ESCAPED[last])
    )
    for i in np.flatnonzero(~plain):
        try:
            text = _STRING.decode(joined[starts[i] : ends[i]])
        except (msgspec.DecodeError, RecursionError):
            continue
        plain[i] = bool(text) and text == text.strip()
    if any(holds_pair(joined, pair) for pair in _OTHER_ESCAPES):
        other = [match.start() for match in _OTHER_ESCAPE.finditer(joined)]
        plain[np.searchsorted(ends, other, side="right")] = False
    return plain
