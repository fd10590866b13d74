"""Which corpus, how it is read and what of it is selected: the option groups of every
command that counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro

from experiments.console.errors import UsageError, bad_line_rows, print_bad_lines
from experiments.console.options import (
    Checked,
    JsonOption,
    OptionalInt,
    OptionalStr,
    check_least,
    given,
    option,
    wrong_usage,
)
from experiments.console.progress import progress
from mprm_jax.data.corpus import SelectableCorpus, read_corpus, usable_rollouts
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import (
    EmptySteps,
    ReadOptions,
    WriteOptions,
    check_options,
)
from mprm_jax.data.framing import corpus_files
from mprm_jax.records.problems import DataError
from mprm_jax.records.record import UnmeasuredPolicy
from theory.scores import DEFAULT_ALPHA
from theory.selection import BudgetUnit, RuleName, SelectionOptions, TieRule

InputFormat = Literal[
    "auto", "raw", "prm", "visualprm", "trl", "math-shepherd", "rlhflow",
    "openrlhf", "openr", "prm800k", "processbench", "visualprocessbench",
    "prmbench", "vlrmbench", "medprm",
]  # fmt: skip

# Below this, which one process scans in about three seconds, a second one costs more
# CPU to start than it saves in time.
_PARALLEL_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True)
class CorpusOptions(JsonOption):
    """How a corpus is read.

    Attributes:
        corpus: A folder of files (JSON lines, .gz or not, Parquet or Arrow), a folder
            that holds one as annotations/ or data/, or one file.
        input_format: Format of the files; auto tells it from the first record.
        trials: Continuations N behind a soft label, for formats that do not state
            it (16 in VisualPRM400K-v1.1).
        source_from: Record field that names the source; by default the file name
            does.
        unmeasured: Steps the annotator never sampled (num_mc_total 0): refuse the
            line, drop the rollout's steps from there on, count them as negatives, or
            keep them without a label.
        empty_steps: Steps that say nothing: refuse the line, or drop the step and its
            label.
        max_bad: Bad lines to go on without; they are listed all the same.
        workers: Processes that scan files.
        dask: Address of a Dask scheduler that scans files instead (extra: dask).
        no_cache: Neither read nor write the index beside the corpus.
        seed: Of every random choice and of the order of ties.
    """

    corpus: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    input_format: InputFormat = "auto"
    trials: OptionalInt = None
    source_from: OptionalStr = None
    unmeasured: UnmeasuredPolicy = "error"
    empty_steps: EmptySteps = "error"
    max_bad: int = 0
    workers: int = 2
    dask: OptionalStr = None
    no_cache: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, workers=1, max_bad=0)
        with wrong_usage():
            _ = self.reading

    @property
    def reading(self) -> ReadOptions:
        """The part that formats see."""
        return ReadOptions(self.trials, self.source_from, self.empty_steps)


@dataclasses.dataclass(frozen=True)
class RuleOptions(CorpusOptions):
    """What is selected of a corpus.

    Attributes:
        rule: How rollouts are ranked; bis, mixed, low-mc, reliable and random are
            the paper's.
        keep_ratio: Share rho of the rollouts of each source to keep, in (0, 1]; at
            least one each, rounded down.
        alpha: BIS's alpha: (p(1-p) + alpha) R. The paper's default is 0.05; its
            release uses 0.2 at a keep ratio of 10 %.
        per_source: One budget per source, as in the paper (this is the default).
        global_: One budget for the whole corpus instead.
        budget: What the keep ratio is a share of.
        ties: Equal scores: by a seeded hash of the content, or in file order as the
            release does (there, shuffling the lines changes the subset).
    """

    rule: Optional[RuleName] = None  # noqa: UP045
    keep_ratio: float = 0.1
    alpha: float = DEFAULT_ALPHA
    per_source: bool = False
    global_: Annotated[bool, tyro.conf.arg(name="global")] = False
    budget: BudgetUnit = "rollouts"
    ties: TieRule = "content"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_source and self.global_:
            raise UsageError("--per-source and --global exclude each other")
        with wrong_usage():
            self.selection(self.rule or "bis")

    def selection(self, rule: RuleName) -> SelectionOptions:
        """The options that the selection itself depends on."""
        return SelectionOptions(
            rule=rule,
            keep_ratio=self.keep_ratio,
            alpha=self.alpha,
            per_source=not self.global_,
            unit=self.budget,
            ties=self.ties,
            seed=self.seed,
        )

    def need_rule(self, *but: str) -> None:
        """Refuse, without a rule, what only a selection would use.

        Raises:
            UsageError: it names the first.
        """
        used = "keep_ratio", "alpha", "per_source", "global", "budget", "ties"
        for name in map(option, used):
            if self.rule is None and name not in but and name in given(self):
                raise UsageError(f"{name} needs --rule")


@dataclasses.dataclass(frozen=True)
class LabelOptions(Checked, WriteOptions):
    """How labels are written."""


def check_labels(format_name: str, labels: WriteOptions) -> None:
    """Refuse labels that a format cannot hold, or that it would ignore.

    Raises:
        UsageError: naming the option.
    """
    if format_name == "raw" and labels.labels != "masked" and given(labels):
        raise UsageError("--format raw keeps the counts: of labels it has masked alone")
    try:
        check_options(by_name(format_name), labels)
    except DataError as error:
        raise UsageError(str(error)) from None


def load_usable(options: CorpusOptions, sha256: bool = True) -> SelectableCorpus:
    """Scan or recall the corpus, in parallel where that pays, with progress; then apply
    the policies for bad lines and unmeasured steps.

    Args:
        options: how it is read.
        sha256: take its files' SHA-256, for a manifest.

    Raises:
        DataError: a file cannot be read, or more lines are bad than may be.
    """
    files = corpus_files(options.corpus)
    size = sum(file.path.stat().st_size for file in files)
    count = itertools.count(1)
    with (
        _executor(options, len(files), size) as executor,
        progress("reading", len(files), "files") as tick,
    ):
        corpus = read_corpus(
            options.corpus,
            options.input_format,
            options.reading,
            executor=executor,
            use_cache=not options.no_cache,
            sha256=sha256,
            progress=lambda _: tick(next(count)),
        )
    usable = usable_rollouts(corpus, options.unmeasured, options.max_bad)
    print_bad_lines(usable.bad_lines)
    if corpus.notes:
        print("read all the same, but to be known:", file=sys.stderr)
        print_bad_lines(corpus.notes)
    return usable


def line_rows(usable: SelectableCorpus) -> dict[str, Any]:
    """What ``--json`` says of lines: those that were refused, and notes on others."""
    return {
        "bad_lines": bad_line_rows(usable.bad_lines),
        "notes": bad_line_rows(usable.corpus.notes),
    }


@contextlib.contextmanager
def _executor(
    options: CorpusOptions, files: int, size: int
) -> Iterator[Executor | None]:
    if options.dask is not None:
        from distributed import Client  # pyright: ignore[reportMissingImports]

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
