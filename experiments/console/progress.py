"""How far a job is."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far a job is, on stderr, once it has lasted two seconds."""
    state: dict[str, Any] = {"done": 0, "bar": None}

    def show() -> None:
        # Imported here: most jobs are done before it is needed.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        bar.start()
        state["task"] = bar.add_task(what, total=total, completed=state["done"])
        state["bar"] = bar

    def tick(done: int) -> None:
        state["done"] = done
        if state["bar"] is not None:
            state["bar"].update(state["task"], completed=done)

    timer = threading.Timer(2.0, show)
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield tick
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        if state["bar"] is not None:
            state["bar"].stop()
