"""Final answers: when two of them are the same, and which of several are."""

from __future__ import annotations

import re
import threading
from collections.abc import Hashable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple

AnswerRule = Literal["text", "math"]

# Seconds that mathematics may take to read an answer, or to compare two.
_PATIENCE = 1


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are the same text, whatever the case, or the same number."""
    return _key(one) == _key(other)


def _key(answer: str) -> Hashable:
    text = answer.strip().casefold()
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return number if number.is_finite() else text


def is_answer(answer: str, truth: str, rule: AnswerRule) -> bool | None:
    """Whether an answer is the right one; None: mathematics gave up.

    Args:
        answer: that was given.
        truth: the right one.
        rule: as of :func:`answer_classes`.

    Raises:
        ModuleNotFoundError: "math" without math-verify.
    """
    if same_answer(answer, truth) or rule == "text":
        return same_answer(answer, truth)
    return _same_value(_mathematics(answer), _mathematics(truth))


class AnswerClasses(NamedTuple):
    """Which answers are the same.

    Attributes:
        of: class of each, from 0 in the order of their first members; -1: no answer.
        undecided: comparisons that mathematics gave up, taken for "not the same".
    """

    of: tuple[int, ...]
    undecided: int


def answer_classes(answers: Sequence[str | None], rule: AnswerRule) -> AnswerClasses:
    """Classes of equal answers; each joins the first class whose first member it is.

    Args:
        answers: None for no answer.
        rule: text: as :func:`same_answer`; math: also what math-verify finds equal, as
            1/2 and 0.5 or x^2+1 and 1+x^2 are.

    Raises:
        ModuleNotFoundError: "math" without math-verify.
    """
    number: dict[Hashable, int] = {}
    first: list[Any] = []
    undecided = 0
    for answer in answers:
        if answer is None or (key := _key(answer)) in number:
            continue
        place, value = len(first), _mathematics(answer) if rule == "math" else None
        for i, other in enumerate(first if rule == "math" else ()):
            if same := _same_value(value, other):
                place = i
                break
            undecided += same is None
        if place == len(first):
            first.append(value)
        number[key] = place
    of = (-1 if one is None else number[_key(one)] for one in answers)
    return AnswerClasses(tuple(of), undecided)


def _mathematics(answer: str) -> list[Any] | None:
    """What math-verify reads, read as LaTeX; None where it reads nothing."""
    from math_verify import errors, parse

    text = answer.replace("**", "^")
    # An escaped sign is money.
    if not re.search(r"(?<!\\)\$|\\boxed", text):
        text = f"${text}$"
    try:
        how: dict[str, Any] = {"parsing_timeout": _patience(), "raise_on_error": True}
        return parse(text, **how) or None
    except (Exception, errors.TimeoutException):  # whatever sympy runs into
        return None


def _same_value(one: list[Any] | None, other: list[Any] | None) -> bool | None:
    """Whether two answers are equal, either being the truth; None: not decided."""
    from math_verify import errors, verify

    if one is None or other is None:
        return None
    how: dict[str, Any] = {"timeout_seconds": _patience(), "raise_on_error": True}
    try:
        return verify(one, other, **how) or verify(other, one, **how)
    except (Exception, errors.TimeoutException):  # whatever sympy runs into
        return None


def _patience() -> int | None:
    """Its clock is a signal, which only the main thread can set."""
    main = threading.current_thread() is threading.main_thread()
    return _PATIENCE if main else None
