"""Being asked to stop, without being torn out of the middle of an update."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def leave(self) -> None:
        """Raise what the signal would have raised."""
        if self.signal == signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Note Ctrl-C and SIGTERM instead of raising; a second one raises at once.

    An update gives the old parameters' memory to the new ones, so an exception in its
    midst would leave nothing to save. Outside the main thread signals go elsewhere, and
    nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, _: FrameType | None) -> None:
        if stop.signal is not None:
            stop.leave()
        stop.signal = number

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
