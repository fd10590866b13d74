"""How far a job is."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.console.text import duration

# Seconds until a job shows how far it is, and then, in a log, does so again.
_FIRST = 2.0
_NEXT = (8.0, *[10.0] * 11)
_THEN = 60.0


@contextlib.contextmanager
def progress(
    what: str, total: int | None, unit: str = "", before: str = ""
) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far a job is, once it has lasted two seconds: as a bar on a
    terminal, elsewhere as a line now and then.

    Args:
        what: is done.
        total: units of it; None: it cannot be told how many.
        unit: in the plural.
        before: what is going on until the first unit is done.

    Returns:
        a function to be told the units done.
    """
    job = _Job(what, total, unit, before)
    watcher = threading.Thread(target=job.watch, daemon=True)
    # Where stderr is no stream of the system's own, nobody waits before it.
    if _is_file(sys.stderr):
        # Threads inherit the mask: signals go to those that may hold them off.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        watcher.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield job.tick
    finally:
        job.ended.set()
        if watcher.ident is not None:
            watcher.join()
        if job.bar is not None:
            job.bar.stop()


def _is_file(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False


class _Job:
    def __init__(self, what: str, total: int | None, unit: str, before: str) -> None:
        self.what, self.total, self.unit, self.before = what, total, unit, before
        self.done = 0
        self.bar: Any = None
        self.ended = threading.Event()
        self.began = time.monotonic()

    def tick(self, done: int) -> None:
        self.done = done
        if self.bar is not None:
            self.bar.update(0, completed=done, description=self.what)

    def watch(self) -> None:
        """Until the job has ended, on a thread of its own."""
        if self.ended.wait(_FIRST):
            return
        if sys.stderr.isatty():
            self.show_bar()
            return
        if self.before and not self.done:
            self.say(self.before)
        for seconds in itertools.chain(_NEXT, itertools.repeat(_THEN)):
            if self.ended.wait(seconds):
                return
            self.say()

    def say(self, state: str = "") -> None:
        if not state:
            state = duration(time.monotonic() - self.began)
            if self.total:
                state = f"{self.done:,} of {self.total:,} {self.unit}, {state}"
        # A closed stream is no reason to fail.
        with contextlib.suppress(OSError, ValueError):
            print(f"{self.what}: {state}", file=sys.stderr, flush=True)

    def show_bar(self) -> None:
        # Imported here: most jobs are done before it is needed.
        from rich import progress as rich
        from rich.console import Console
        from rich.errors import LiveError

        bar = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            *((rich.MofNCompleteColumn(),) if self.total else ()),
            rich.TextColumn(self.unit),
            rich.TimeElapsedColumn(),
            *((rich.TimeRemainingColumn(),) if self.total else ()),
            console=Console(stderr=True),
            transient=True,
        )
        try:
            bar.start()
        except LiveError:
            # Within another job, whose bar goes on.
            return
        what = self.what
        if self.before and not self.done:
            what += f": {self.before.partition(' (')[0]}"
        bar.add_task(what, total=self.total, completed=self.done)
        self.bar = bar
