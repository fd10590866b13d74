"""Numbers and texts as the page prints them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jinja2
from markupsafe import Markup

# What must not act on a page: controls, halves of surrogate pairs, and the characters
# that turn the direction of the text after them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_LONGEST = 4000


def visible(value: Any) -> Any:
    """Text with what must not act on a page made visible, and cut where it is endless;
    other values, markup among them, as they are.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > _LONGEST:
        value = f"{value[:_LONGEST]} … ({len(value) - _LONGEST:,} more characters)"
    return _UNSEEN.sub("�", value)


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


def page_template(name: str, **filters: Callable[..., str]) -> jinja2.Template:
    """A template of the package: everything is escaped, nothing undefined passes.

    Filters num, signed, percent and count print a dash for None; others may be added.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.page", "templates"),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "num": _or_dash(number),
        "signed": _or_dash(signed),
        "percent": _or_dash(percent),
        "count": _or_dash(lambda x: f"{x:,}"),
        **filters,
    }
    return environment.get_template(name)


def _or_dash(form: Callable[..., str]) -> Callable[..., str]:
    return lambda value, *args: "–" if value is None else form(value, *args)
