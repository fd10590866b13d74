"""The one prompt of training and evaluation, as text and as tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from mprm_jax.data.formats.prm import render_prompt
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.record import STEP_MARKER, check_text


def render(question: str, steps: Sequence[str]) -> str:
    """``Question: q\\nProcess: s1<prm>\\n\\ns2<prm>``, as the release writes it.

    Raises:
        BadRecord: a text holds the step marker, or half of a surrogate pair.
    """
    check_text(question, "the question")
    for number, step in enumerate(steps, 1):
        check_text(step, f"step {number}")
    return render_prompt(question, list(steps))


def marker_id(tokenizer: Tokenizer) -> int:
    """Token id of ``<prm>``.

    Raises:
        DataError: the tokenizer does not know it as one token.
    """
    marker = tokenizer.token_to_id(STEP_MARKER)
    if marker is None:
        raise DataError(f"the tokenizer has no token {STEP_MARKER}")
    return marker


def encode_prompt(
    tokenizer: Tokenizer, question: str, steps: Sequence[str], max_length: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The tokens of the prompt, and where each step's ``<prm>`` lies among them.

    Returns:
        tokens_L, marker_S (both int32) and the number of steps cut off.

    Raises:
        BadRecord: as :func:`render`, or the tokens do not hold one marker per step.
        DataError: the tokenizer does not know ``<prm>``.
    """
    marker = marker_id(tokenizer)
    encoded = tokenizer.encode(render(question, steps), add_special_tokens=False)
    tokens_L = np.array(encoded.ids, np.int32)
    marker_S = np.flatnonzero(tokens_L == marker).astype(np.int32)
    if len(marker_S) != len(steps):
        raise BadRecord(
            "markers and steps differ",
            f"{len(marker_S)} {STEP_MARKER} tokens for {len(steps)} steps",
        )
    return truncate_prompt(tokens_L, marker_S, max_length)


def truncate_prompt(
    tokens_L: np.ndarray, marker_S: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """At most ``max_length`` tokens, cut after the last marker that fits.

    A step is kept with its marker or not at all: the tokens of a step whose marker is
    cut off could not be scored, and nothing after them is. Where no marker fits, the
    first ``max_length`` tokens are left, with no step.

    Returns:
        tokens_L, marker_S and the number of steps cut off.

    Raises:
        ValueError: ``max_length`` is below 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, not {max_length}")
    if len(tokens_L) <= max_length:
        return tokens_L, marker_S, 0
    kept_S = marker_S[marker_S < max_length]
    end = int(kept_S[-1]) + 1 if len(kept_S) else max_length
    return tokens_L[:end], kept_S, len(marker_S) - len(kept_S)
