"""The results store: one JSONL file per experiment, one line per finished cell.

Simulated students and real training runs share this one schema, so that figures and
reports draw both. A cell is what its ``config`` and ``seed`` say; a second run skips
the cells it finds here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from experiments.console.errors import say_once
from experiments.store.provenance import result_versions
from mprm_jax.data.framing import CHUNK_BYTES
from mprm_jax.records.problems import DataError, faults_of

T = TypeVar("T")

SCHEMA = "mprm-result/1"

# The results that come with the package.
REFERENCE = Path(__file__).parents[1] / "results"


class Result(msgspec.Struct, frozen=True):
    """One finished cell of an experiment.

    Attributes:
        experiment: name of the experiment, and of its file.
        config: everything that determines the cell but its seed; JSON values only.
        seed: of every random choice in the cell; None where nothing is random.
        metrics: what came out; JSON values only, NaN is stored as null.
        versions: of the packages that computed it, and the git revision; no part of
            the key, and in older lines fewer.
        schema: of this line.
    """

    experiment: str
    config: dict[str, Any]
    seed: int | None
    metrics: dict[str, Any]
    versions: dict[str, str] = msgspec.field(default_factory=result_versions)
    schema: str = SCHEMA

    @property
    def key(self) -> str:
        """What identifies the cell: its configuration and seed as canonical JSON."""
        return cell_key(self.config, self.seed)


def cell_key(config: dict[str, Any], seed: int | None) -> str:
    """Canonical JSON of a configuration and a seed, equal iff the cells are."""
    return msgspec.json.encode([config, seed], order="sorted").decode()


def store_path(folder: Path, experiment: str) -> Path:
    """Where the results of an experiment lie."""
    return folder / f"{experiment}.jsonl"


def append_results(folder: Path, results: Iterable[Result]) -> None:
    """Append finished cells, each as one whole line.

    Raises:
        DataError: the store cannot be written.
    """
    by_file: dict[Path, list[bytes]] = {}
    for result in results:
        path = store_path(folder, result.experiment)
        by_file.setdefault(path, []).append(msgspec.json.encode(result) + b"\n")
    for path, lines in by_file.items():
        append_lines(path, b"".join(lines))


def append_lines(path: Path, lines: bytes) -> None:
    """Append whole JSON lines; one that a killed run left unfinished goes first.

    Raises:
        DataError: the file cannot be written.
    """
    with faults_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            # Of two runs at a time, neither writes into a line of the other.
            fcntl.flock(file, fcntl.LOCK_EX)
            _end_last_line(file)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def _end_last_line(file: IO[bytes]) -> None:
    size, tail = file.seek(0, os.SEEK_END), b""
    while b"\n" not in tail and len(tail) < size:
        start = max(0, size - len(tail) - CHUNK_BYTES)
        file.seek(start)
        tail = file.read(size - len(tail) - start) + tail
    if unfinished := tail.rpartition(b"\n")[2]:
        try:
            msgspec.json.decode(unfinished)
            # Only its newline is missing.
            file.write(b"\n")
        except (msgspec.DecodeError, UnicodeDecodeError):
            file.truncate(size - len(unfinished))


def read_results(
    folder: Path, experiment: str, report: Callable[[str], None] = say_once
) -> list[Result]:
    """The cells of an experiment, the latest of each, in the order first written.

    Args:
        folder: of the store.
        experiment: its name.
        report: as of :func:`json_lines`; the cells of damaged lines run again.

    Raises:
        DataError: a whole line is no result of this schema, or the file cannot be read.
    """
    path = store_path(folder, experiment)
    cells: dict[str, Result] = {}
    for number, result in json_lines(path, Result, report):
        if result.schema != SCHEMA:
            raise DataError(f"{path}:{number}: schema {result.schema}, not {SCHEMA}")
        cells[result.key] = result
    return list(cells.values())


def json_lines(
    path: Path, kind: type[T], report: Callable[[str], None] = say_once
) -> Iterator[tuple[int, T]]:
    """(line number, value) of every line of a file, which need not exist.

    A last line that a killed run left unfinished is passed over.

    Args:
        path: of the file.
        kind: of the values.
        report: told in a sentence how many other lines are damaged, and where.

    Raises:
        DataError: a line is of another kind, or the file cannot be read.
    """
    with faults_of(path):
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
    damaged = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line, type=kind)
        except msgspec.ValidationError as error:
            raise DataError(f"{path}:{number}: no result ({error})") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            if number < len(lines):
                damaged.append(number)
            continue
        yield number, value
    if damaged:
        more = f", and {len(damaged) - 1:,} more after it" if damaged[1:] else ""
        report(
            f"{path}:{damaged[0]}: damaged and left out{more}: what was stored there "
            "counts as not run"
        )
