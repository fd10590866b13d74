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


def p_value(p: float) -> str:
    """Three decimals; what lies below them is said to."""
    return "<.001" if p < 0.001 else f"{p:.3f}"


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """How many of what: "1 rollout", "1,200 rollouts"; ``plural`` where it is not the
    noun and an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(octets: float) -> str:
    """Bytes in a binary unit that leaves at least one: "512 bytes", "2.5 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if octets < 1024:
            return f"{octets:,.1f} {unit}" if unit != "bytes" else f"{octets:.0f} bytes"
        octets /= 1024
    return f"{octets:,.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, two digits or more."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
