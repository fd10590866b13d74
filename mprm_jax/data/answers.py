"""Final answers: when two of them are the same."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are the same text, whatever the case, or the same number."""
    one, other = one.strip().casefold(), other.strip().casefold()
    if one == other:
        return True
    try:
        numbers = Decimal(one), Decimal(other)
    except InvalidOperation:
        return False
    return all(number.is_finite() for number in numbers) and numbers[0] == numbers[1]
