"""Integers that Python's ``json`` refuses and a faster decoder does not look at."""

from __future__ import annotations

import re

# Python refuses integers of more than 4,300 digits, msgspec does not if nobody asks for
# them. A run of that many digits shows at 8 neighbours of every 512th byte.
_LONG_INTEGER = 4300
_STRIDE = 512
_DIGITS = re.compile(rb"[0-9]{8}")


def may_hold_long_integer(data: bytes) -> bool:
    """Whether ``data`` could hold an integer of more than 4,300 digits.

    Never False if it does; seldom True if it does not.
    """
    return len(data) > _LONG_INTEGER and bool(_DIGITS.search(data[::_STRIDE]))
