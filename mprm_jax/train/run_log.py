"""The metrics of a run: one JSON line per update, and the same for TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from mprm_jax.data.problems import DataError

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class RunLog:
    """Writes metrics as they come; a context manager.

    Args:
        output: folder of the run.
        after: updates whose lines stay; later ones, and one that a killed run left
            unfinished, are cut off, because these updates are made again.
        tensorboard: write ``tensorboard/`` too.

    Raises:
        DataError: a file cannot be written.
    """

    def __init__(self, output: Path, after: int, tensorboard: bool) -> None:
        self._path = output / METRICS
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab+", buffering=0)  # noqa: SIM115
            self._file.truncate(_end_of(self._file, after))
        except OSError as error:
            raise DataError(f"{self._path}: {error.strerror or error}") from error
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(
                str(output / TENSORBOARD), purge_step=after + 1, flush_secs=10
            )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, update: int, metrics: dict[str, Any]) -> None:
        """Append one update's metrics; ``update`` counts from 1."""
        try:
            line = msgspec.json.encode({"update": update} | metrics) + b"\n"
            self._file.write(line)
            if self._board is not None:
                for name, value in metrics.items():
                    self._board.add_scalar(name, value, update)
        except OSError as error:
            raise DataError(f"{self._path}: {error.strerror or error}") from error


def _end_of(file: Any, after: int) -> int:
    """Where the lines of the updates up to ``after`` end."""
    file.seek(0)
    end = 0
    for line in file:
        try:
            if not line.endswith(b"\n") or msgspec.json.decode(line)["update"] > after:
                break
        except (msgspec.DecodeError, KeyError, TypeError):
            break
        end += len(line)
    file.seek(0, os.SEEK_END)
    return end


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one dict per update, in order.

    Raises:
        DataError: there are none, or a whole line is no JSON object.
    """
    path = output / METRICS
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=dict) for line in lines]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: {error}") from error
