"""What the subcommands share: options about the corpus, errors, progress, JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Optional

import tyro

from mprm_jax.data.corpus import Corpus, SelectableCorpus, read_corpus, usable_rollouts
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import ReadOptions, WriteOptions, check_options
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.problems import BadCorpus, BadLines, DataError
from mprm_jax.data.record import MAX_TRIALS, UnmeasuredPolicy

InputFormat = Literal[
    "auto",
    "raw",
    "prm",
    "visualprm",
    "trl",
    "math-shepherd",
    "prm800k",
    "processbench",
    "visualprocessbench",
    "medprm",
]

# Below this, which one process scans in about three seconds, a second one costs more
# CPU to start than it saves in time.
_PARALLEL_BYTES = 512 << 20


# With `X | None`, tyro imports typeguard and all that hangs on it: a fifth of start-up.
OptionalInt = Optional[int]  # noqa: UP045
OptionalStr = Optional[str]  # noqa: UP045
OptionalPath = Optional[Path]  # noqa: UP045


class UsageError(Exception):
    """Option values that make no sense; exit status 2."""


class AlreadyReported(Exception):
    """A failure whose evidence stdout already has; one line to stderr, status 1."""


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """How a corpus is read.

    Attributes:
        corpus: A folder of JSONL files (*.jsonl, *.jsonl.gz), a folder that holds
            annotations/, or one file.
        input_format: Format of the files; auto tells it from the first record.
        trials: Continuations N behind a soft label, for formats that do not state
            it (16 in VisualPRM400K-v1.1).
        source_from: Record field that names the source; by default the file name
            does.
        unmeasured: Steps the annotator never sampled (num_mc_total 0): refuse the
            line, drop the rollout's steps from there on, or count them as
            negatives.
        max_bad: Bad lines to go on without; they are listed all the same.
        workers: Processes that scan files.
        dask: Address of a Dask scheduler that scans files instead (extra: dask).
        no_cache: Neither read nor write the index beside the corpus.
        seed: Of every random choice and of the order of ties.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    corpus: tyro.conf.Positional[Path]
    input_format: InputFormat = "auto"
    trials: OptionalInt = None
    source_from: OptionalStr = None
    unmeasured: UnmeasuredPolicy = "error"
    max_bad: int = 0
    workers: int = 2
    dask: OptionalStr = None
    no_cache: bool = False
    seed: int = 0
    json: bool = False

    def check(self) -> None:
        """Refuse values without meaning.

        Raises:
            UsageError: naming the option and its range.
        """
        if self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}")
        if self.max_bad < 0:
            raise UsageError(f"--max-bad must be at least 0, not {self.max_bad}")
        if self.trials is not None and not 1 <= self.trials <= MAX_TRIALS:
            raise UsageError(
                f"--trials must lie in [1, {MAX_TRIALS}], not {self.trials}"
            )


def check_labels(format_name: str, labels: WriteOptions) -> None:
    """Refuse labels that a format cannot hold, or that it would ignore.

    Raises:
        UsageError: naming the option.
    """
    if format_name == "raw" and labels != WriteOptions():
        raise UsageError("--format raw keeps the counts: it has no label options")
    try:
        check_options(by_name(format_name), labels)
    except (ValueError, DataError) as error:
        message = str(error).replace("label_threshold", "--label-threshold")
        raise UsageError(message) from None


def run_command(name: str, module: ModuleType, arguments: list[str]) -> int:
    """Parse, run, and turn every foreseen failure into one line and a status."""
    if "" in arguments:
        # As a path it would be the current folder.
        print(f"mprm {name}: an empty argument (a variable not set?)", file=sys.stderr)
        return 2
    options = tyro.cli(
        module.OPTIONS,
        prog=f"mprm {name}",
        args=_corpus_by_position(module.OPTIONS, arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    as_json = getattr(options, "json", False)
    # A terminated run cleans up its partial files as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        module.run(options)
    except UsageError as error:
        _failed(name, str(error), as_json)
        return 2
    except AlreadyReported as error:
        print(f"mprm {name}: {error}", file=sys.stderr)
        return 1
    except BadCorpus as error:
        print_bad_lines(error.bad_lines)
        return _failed(name, str(error), as_json, error.bad_lines)
    except DataError as error:
        return _failed(name, str(error), as_json)
    except KeyboardInterrupt:
        print(f"mprm {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenExecutor:
        return _failed(name, "a worker process died (out of memory?)", as_json)
    except MemoryError:
        return _failed(name, "out of memory", as_json)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        name_of_file = f"{error.filename}: " if error.filename else ""
        return _failed(name, f"{name_of_file}{error.strerror or error}", as_json)
    return 0


def _corpus_by_position(options: Any, arguments: list[str]) -> list[str]:
    """The arguments, with the corpus by its position where it was given by name."""
    classes = options.__mro__ if isinstance(options, type) else ()
    owners = (c for c in classes if "corpus" in inspect.get_annotations(c))
    if next(owners, None) is not CorpusOptions:
        return arguments
    return [
        argument.removeprefix("--corpus=")
        for argument in arguments
        if argument != "--corpus"
    ]


def _failed(
    name: str, message: str, as_json: bool, bad_lines: BadLines | None = None
) -> int:
    print(f"mprm {name}: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": message, "bad_lines": bad_line_rows(bad_lines)})
    return 1


def print_json(value: dict[str, Any]) -> None:
    """The one JSON object of ``--json``."""
    print(json.dumps(value, ensure_ascii=False))


def bad_line_rows(bad_lines: BadLines | None) -> list[dict[str, Any]]:
    """One object per reason: count, and the first line that shows it."""
    if bad_lines is None:
        return []
    return [
        {
            "reason": reason,
            "count": count,
            "first": bad_lines.first[reason].where,
            "detail": bad_lines.first[reason].detail,
        }
        for reason, count in bad_lines.counts.items()
    ]


def print_bad_lines(bad_lines: BadLines) -> None:
    """The table of refused lines, to stderr; a ``file:line`` is never broken."""
    if not bad_lines:
        return
    rows = bad_line_rows(bad_lines)
    width = max(len(row["reason"]) for row in rows)
    print(f"{'lines':>7}  {'reason':<{width}}  first", file=sys.stderr)
    for row in rows:
        detail = f": {row['detail']}" if row["detail"] else ""
        print(
            f"{row['count']:>7}  {row['reason']:<{width}}  {row['first']}{detail}",
            file=sys.stderr,
        )


def read_options(options: CorpusOptions) -> ReadOptions:
    """The part of the options that formats see."""
    return ReadOptions(trials=options.trials, source_from=options.source_from)


def load_corpus(options: CorpusOptions, sha256: bool = True) -> Corpus:
    """Scan or recall the corpus, in parallel where that pays, with progress.

    Args:
        options: how it is read.
        sha256: take its files' SHA-256, for a manifest.
    """
    files = corpus_files(options.corpus)
    size = sum(file.path.stat().st_size for file in files)
    with (
        _executor(options, len(files), size) as executor,
        progress("reading", len(files), "files") as tick,
    ):
        done = 0

        def step(_: object) -> None:
            nonlocal done
            done += 1
            tick(done)

        return read_corpus(
            options.corpus,
            options.input_format,
            read_options(options),
            executor=executor,
            use_cache=not options.no_cache,
            sha256=sha256,
            progress=step,
        )


def load_usable(options: CorpusOptions, sha256: bool = True) -> SelectableCorpus:
    """The corpus after the policies for bad lines and unmeasured steps."""
    corpus = load_corpus(options, sha256)
    usable = usable_rollouts(corpus, options.unmeasured, options.max_bad)
    print_bad_lines(usable.bad_lines)
    return usable


@contextlib.contextmanager
def _executor(
    options: CorpusOptions, files: int, size: int
) -> Iterator[Executor | None]:
    if options.dask is not None:
        try:
            from distributed import Client  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError(
                "--dask needs the dask extra: pip install 'mprm-jax[dask]'"
            ) from None
        with Client(options.dask, timeout="10s") as client:
            yield client.get_executor()
    elif min(options.workers, files) > 1 and size > _PARALLEL_BYTES:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        workers = min(options.workers, files, os.cpu_count() or 1)
        with ProcessPoolExecutor(
            workers,
            mp_context=get_context("fork" if _may_fork() else "spawn"),
            initializer=_in_worker,
        ) as pool:
            # Forks now, before anything starts a thread.
            pool.submit(int)
            yield pool
    else:
        yield None


def _in_worker() -> None:
    # Ctrl-C reaches every process; one of them says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker has no partial files to clean up, but inherits the handler that does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _may_fork() -> bool:
    """Whether workers can be forked, which saves each half a second of imports: only
    where the system can, and while no other thread could hold a lock.
    """
    threads = Path("/proc/self/task")
    return threads.is_dir() and len(list(threads.iterdir())) == 1


@contextlib.contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far a job is, on stderr, once it has lasted two seconds."""
    import threading

    state: dict[str, Any] = {"done": 0, "bar": None}

    def show() -> None:
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
