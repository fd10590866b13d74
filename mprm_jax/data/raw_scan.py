"""Many clean raw lines at once: the fast path of the index.

``raw_columns`` accepts a chunk only if every line of it would be accepted, with the
same numbers, by ``formats.raw.decode``; anything else is left to that function. A test
compares the two on mutated corpora.
"""

from __future__ import annotations

import re
from itertools import chain
from operator import attrgetter

import msgspec
import numpy as np
import xxhash

from mprm_jax.data.framing import Chunk
from mprm_jax.data.problems import BadRecord
from mprm_jax.data.record import (
    MAX_TRIALS,
    STEP_MARKER,
    Record,
    Step,
    check_image_path,
)
from mprm_jax.data.typed_lines import bounds, decode_chunk, holds_pair
from theory.rollouts import SCORE_TOLERANCE


class _Step(msgspec.Struct, gc=False):
    step: msgspec.Raw
    score: float
    num_mc_correct: int
    num_mc_total: int


class _Raw(msgspec.Struct, gc=False):
    """What the index needs; texts stay encoded, for most are never read."""

    steps_with_score: list[_Step]
    image: str | list[str] | None
    question: msgspec.Raw = msgspec.Raw()
    question_orig: msgspec.Raw = msgspec.Raw()


class _StepText(msgspec.Struct, gc=False):
    step: str
    num_mc_correct: int
    num_mc_total: int


class _RawText(msgspec.Struct, gc=False):
    """What a chosen record is written from."""

    steps_with_score: list[_StepText]
    image: str | list[str] | None
    question: str | None = None
    question_orig: str | None = None


_DECODER = msgspec.json.Decoder(_Raw)
_TEXT_DECODER = msgspec.json.Decoder(_RawText)
_STRING = msgspec.json.Decoder(str)
_steps = attrgetter("steps_with_score")
_image = attrgetter("image")
_question_orig = attrgetter("question_orig")
_text = attrgetter("step")
_score = attrgetter("score")
_correct = attrgetter("num_mc_correct")
_total = attrgetter("num_mc_total")

# What follows the opening quote of a text that needs a closer look: a quote (it is
# empty), an escape, or white space of any alphabet.
_DOUBTFUL = np.isin(np.arange(256), [*b'"\\ \t\n\r\x0b\x0c', *range(128, 256)])
# What makes an escape of something visible.
_VISIBLE = np.isin(np.arange(256), [*b'\\"/'])

# A question_orig that leaves the word to the question.
_ABSENT = frozenset({b"", b'""', b"null"})

_MARKER = STEP_MARKER.encode()

# Escapes of the characters of the step marker.
_ESCAPED_MARKER = re.compile(rb"\\u00(?:3[cCeE]|7[02]|6[dD])")


def raw_columns(chunk: Chunk) -> dict[str, np.ndarray] | None:
    """The columns of :class:`mprm_jax.data.index.FileIndex` less the source, or None
    if any line needs a closer look.
    """
    starts, ends = bounds(chunk)
    records = decode_chunk(_DECODER, chunk, starts, ends)
    if records is None:
        return None
    steps = list(chain.from_iterable(map(_steps, records)))
    if not _texts_fit(records, steps):
        return None
    counts = _counts(records, steps)
    if counts is None:
        return None
    view, digest = memoryview(chunk.data), xxhash.xxh3_64_intdigest
    spans = zip(starts.tolist(), chunk.ends, strict=True)
    return counts | {
        "offset": chunk.offset + starts,
        "size": (ends - starts).astype(np.int32),
        "line": np.arange(chunk.line, chunk.line + len(records), dtype=np.int32),
        "content": np.array([digest(view[a:b]) for a, b in spans], np.uint64),
    }


def decode_indexed(line: bytes) -> Record | None:
    """The record of a raw line that the index has accepted before, unchecked and fast;
    None if it needs ``formats.raw.decode``.

    Answer and response are left out: a raw corpus is copied to raw line by line, and no
    other format that is written has a place for them.
    """
    try:
        raw = _TEXT_DECODER.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    return Record(
        question=(raw.question_orig or raw.question or "").strip(),
        steps=tuple(
            [
                Step(step.step.strip(), step.num_mc_correct, step.num_mc_total)
                for step in raw.steps_with_score
            ]
        ),
        image=tuple(raw.image) if isinstance(raw.image, list) else raw.image,
    )


def _counts(records: list[_Raw], steps: list[_Step]) -> dict[str, np.ndarray] | None:
    lengths = np.fromiter(map(len, map(_steps, records)), np.int32, len(records))
    if not lengths.all():
        return None
    try:
        correct = np.fromiter(map(_correct, steps), np.int64, len(steps))
        total = np.fromiter(map(_total, steps), np.int64, len(steps))
    except OverflowError:
        return None
    score = np.fromiter(map(_score, steps), np.float64, len(steps))
    fits = (
        np.all(correct >= 0)
        and np.all(correct <= total)
        and np.all(total <= MAX_TRIALS)
        and np.all((score >= 0) & (score <= 1))
        and np.all(np.abs(score - correct / np.maximum(total, 1)) <= SCORE_TOLERANCE)
    )
    if not fits:
        return None
    narrow = np.min_scalar_type(int(total.max()))
    return {
        "successes": correct.astype(narrow),
        "trials": total.astype(narrow),
        "lengths": lengths,
    }


def _texts_fit(records: list[_Raw], steps: list[_Step]) -> bool:
    return _encoded_texts_fit(
        [*map(_text, steps), *_questions(records)]
    ) and _images_fit(list(map(_image, records)))


def _questions(records: list[_Raw]) -> list[bytes]:
    originals = list(map(bytes, map(_question_orig, records)))
    if _ABSENT.isdisjoint(originals):
        return originals
    return [
        bytes(record.question) if original in _ABSENT else original
        for record, original in zip(records, originals, strict=True)
    ]


def _encoded_texts_fit(texts: list[bytes | msgspec.Raw]) -> bool:
    """Whether all are strings with something in them, and no step marker."""
    joined = b"".join(texts)
    # A single byte is found at the speed of memory, several are not.
    if _MARKER[:1] in joined and _MARKER in joined:
        return False
    if holds_pair(joined, b"\\u") and _ESCAPED_MARKER.search(joined):
        return False
    octets = np.frombuffer(joined, np.uint8)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    if np.any(lengths < 3) or np.any(octets[starts] != ord('"')):
        return False
    escaped = (octets[starts + 1] == ord("\\")) & _VISIBLE[octets[starts + 2]]
    for i in np.flatnonzero(_DOUBTFUL[octets[starts + 1]] & ~escaped):
        try:
            text = _STRING.decode(joined[starts[i] : ends[i]])
        except (msgspec.DecodeError, RecursionError):
            return False
        if not text.strip():
            return False
    return True


def _images_fit(images: list[str | list[str] | None]) -> bool:
    paths: list[str] = []
    for image in images:
        if type(image) is str:
            paths.append(image)
        elif image is not None:
            if not image:
                return False
            paths.extend(image)
    # One look at all paths of the chunk settles the common case.
    joined = "/".join(["", *paths])
    if (
        joined.isprintable()
        and not any(mark in joined for mark in (":", "..", "//", "\\", "~", "<", "/ "))
        and not joined.endswith("/")
    ):
        return True
    try:
        for path in paths:
            check_image_path(path)
    except BadRecord:
        return False
    return True
