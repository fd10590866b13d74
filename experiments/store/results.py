"""The results store: one JSONL file per experiment, one line per finished cell.

Simulated students and real training runs share this one schema, so that figures and
reports draw both. A cell is what its ``config`` and ``seed`` say; a second run skips
the cells it finds here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from experiments.store.provenance import result_versions
from mprm_jax.records.problems import DataError, faults_of

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

    A line that an interrupted run left unfinished is ended first, and is told apart
    from the whole ones when the file is read.

    Raises:
        DataError: the store cannot be written.
    """
    by_file: dict[Path, list[bytes]] = {}
    for result in results:
        path = store_path(folder, result.experiment)
        by_file.setdefault(path, []).append(msgspec.json.encode(result) + b"\n")
    for path, lines in by_file.items():
        with faults_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                # Of two runs at a time, neither writes into a line of the other.
                fcntl.flock(file, fcntl.LOCK_EX)
                if file.seek(0, os.SEEK_END) and _last_byte(file) != b"\n":
                    file.write(b"\n")
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())


def read_results(folder: Path, experiment: str) -> list[Result]:
    """The cells of an experiment, the latest of each, in the order first written.

    An unfinished line is left out: its cell runs again.

    Raises:
        DataError: a whole line is no result of this schema, or the file cannot be read.
    """
    path = store_path(folder, experiment)
    with faults_of(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
    cells: dict[str, Result] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            result = msgspec.json.decode(line, type=Result)
        except msgspec.ValidationError as error:
            raise DataError(f"{path}:{number}: no result ({error})") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if result.schema != SCHEMA:
            raise DataError(f"{path}:{number}: schema {result.schema}, not {SCHEMA}")
        cells[result.key] = result
    return list(cells.values())


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
