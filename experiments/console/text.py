"""Numbers as people read them, in sentences, tables and on pages."""

from __future__ import annotations


def number(value: float, digits: int = 3) -> str:
    """Fixed decimals with a true minus sign; what rounds to zero has none."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """As :func:`number`, with a plus sign where it rounds to more than zero."""
    text = number(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def percent(share: float, digits: int | None = None) -> str:
    """A fraction in per cent, as short as can be or with fixed decimals; the sign stays
    with its number when lines are broken.
    """
    text = f"{100 * share:g}" if digits is None else number(100 * share, digits)
    return f"{text}\N{NO-BREAK SPACE}%"
