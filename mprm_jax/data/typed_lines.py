"""Many lines at once by a typed decoder, where that says what ``json.loads`` says.

A typed decoder builds nothing of what no one asks for, so it reads a corpus several
times as fast; but it is more lenient in places. A chunk is left to the slow path
whenever one of its lines could be such a place.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
import numpy as np

from mprm_jax.data import framing
from mprm_jax.data.framing import Chunk

T = TypeVar("T")

# Python refuses integers of more than 4,300 digits, msgspec does not if nobody asks for
# them. A run of that many digits shows at 8 neighbours of every 512th byte.
_LONG_INTEGER = 4300
_STRIDE = 512
_DIGITS = re.compile(rb"[0-9]{8}")

_HIGH_BITS = np.uint64(0x8080808080808080)


def may_hold_long_integer(data: bytes) -> bool:
    """Whether ``data`` could hold an integer of more than 4,300 digits.

    Never False if it does; seldom True if it does not.
    """
    return len(data) > _LONG_INTEGER and bool(_DIGITS.search(data[::_STRIDE]))


def is_utf8(data: bytes) -> bool:
    """Whether ``data`` is valid UTF-8, in half the time of ``data.decode()``.

    Only the eight-byte words with a non-ASCII byte are decoded, each run of them with
    the word behind it: that one is ASCII, so no sequence can reach across a gap.
    """
    if data.isascii():
        return True
    words = np.frombuffer(data, "<u8", len(data) // 8)
    needed = (words & _HIGH_BITS) != 0
    needed[1:] |= needed[:-1].copy()
    try:
        (words[needed].tobytes() + data[words.nbytes :]).decode()
    except UnicodeDecodeError:
        return False
    return True


def holds_pair(data: bytes, pair: bytes) -> bool:
    """Whether two bytes follow one another anywhere in ``data``: comparing 16-bit words
    of both alignments takes a third of the time of a search.
    """
    word = int.from_bytes(pair, "little")
    for shift in range(min(2, len(data) - 1)):
        words = np.frombuffer(data, "<u2", (len(data) - shift) // 2, shift)
        if np.any(words == word):
            return True
    return False


def bounds(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """(start, end) in ``chunk.data`` of each line, int64 ``[n_lines]`` each."""
    ends = np.array(chunk.ends)
    return np.concatenate([[0], ends[:-1] + 1]), ends


def decode_chunk(
    decoder: msgspec.json.Decoder[T],
    chunk: Chunk,
    starts: np.ndarray,
    ends: np.ndarray,
) -> list[T] | None:
    """One value for each line, or None if any line needs a closer look: one that is no
    JSON object from its first byte to its last, a carriage return, invalid UTF-8, a
    value of another type, a very long line or integer, deep nesting.
    """
    data = chunk.data
    octets = np.frombuffer(data, np.uint8)
    if (
        b"\r" in data
        or not np.all(ends > starts)
        or not np.all(octets[starts] == ord("{"))
        or not np.all(octets[ends - 1] == ord("}"))
        or np.max(ends - starts) > framing.MAX_LINE_BYTES
        or may_hold_long_integer(data)
    ):
        return None
    try:
        values = decoder.decode_lines(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # Newlines are white space to the decoder. Between } and { inside one document there
    # must be a comma, so lines that begin with { and end with } each hold whole
    # documents, and equal numbers mean one each. It does not look at the bytes of texts
    # that it does not decode.
    if len(values) != len(starts) or not is_utf8(data):
        return None
    return values
