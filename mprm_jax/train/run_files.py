"""The folder of a training run: who it is, its checkpoints, its metrics."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash

from mprm_jax.data.loader import Loaded, Source
from mprm_jax.data.outputs import OutputSet
from mprm_jax.data.problems import DataError
from mprm_jax.models.model import Model
from mprm_jax.train import checkpoint
from mprm_jax.train.run_log import RunLog

RUN = "run.json"


class RunFiles:
    """The folder of one run.

    Attributes:
        output: the folder.
        keep: checkpoints that are kept.
        run: identity, the hash of all that determines the run; set by ``begin``.
    """

    def __init__(self, output: Path, keep: int) -> None:
        self.output, self.keep, self.run = output, keep, ""

    def begin(self, model: Model, settings: dict[str, Any], resume: bool) -> None:
        """Say who the run is, or find that it is the one that lies here.

        Args:
            model: written beside the run.
            settings: what determines the run, JSON values.
            resume: the folder may hold this run already.

        Raises:
            DataError: the folder holds a run and ``resume`` is not set, or it holds
                another run; or a file cannot be written.
        """
        canonical = msgspec.json.encode(settings, order="deterministic")
        self.run = xxhash.xxh3_128_hexdigest(canonical)
        path = self.output / RUN
        if path.exists():
            if not resume:
                raise DataError(
                    f"{self.output}: holds a run already; --resume goes on with it"
                )
            _check_same(path, msgspec.json.decode(canonical))
        elif checkpoint.updates_kept(self.output):
            raise DataError(f"{self.output}: holds checkpoints, but no {RUN}")
        # The model first: whoever finds run.json finds a model beside it.
        checkpoint.write_model(self.output, model)
        with OutputSet() as outputs:
            outputs.add(path).write(msgspec.json.format(canonical, indent=2) + b"\n")

    def restore(
        self, params: Any, training: Any, report: Callable[[str], None]
    ) -> checkpoint.Restored | None:
        """The newest whole checkpoint, None if the run made none.

        Raises:
            DataError: there are some, and none of them is whole.
        """
        return checkpoint.restore_latest(
            self.output, params, training, run=self.run, report=report
        )

    def log(self, done: int, tensorboard: bool) -> RunLog:
        """The metrics, with those of the first ``done`` updates kept."""
        return RunLog(self.output, done, tensorboard)

    def save(self, progress: checkpoint.Progress, params: Any, training: Any) -> None:
        """A checkpoint of this run."""
        checkpoint.save(self.output, progress, params, training, self.keep)


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    try:
        before = msgspec.json.decode(path.read_bytes(), type=dict)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: describes no run ({error})") from error
    keys = before.keys() | settings.keys()
    changed = [k for k in sorted(keys) if before.get(k) != settings.get(k)]
    if changed:
        raise DataError(
            f"{path.parent}: holds another run: {', '.join(changed)} differ; choose "
            "another --output, or the settings of that run"
        )


def not_finite(
    update: int,
    metrics: dict[str, float],
    loaded: Loaded,
    source: Source,
    output: Path | None,
) -> DataError:
    """The error for an update whose metrics are not finite; saves its batch.

    Args:
        update: its number, from 1.
        metrics: of the update.
        loaded: the batch, saved as ``not-finite-<update>.npz`` with the places of its
            rollouts.
        source: names the rollouts, if it has a function ``where``.
        output: folder to save to, None: nowhere.
    """
    named = ", ".join(f"{name} {value}" for name, value in metrics.items())
    where = getattr(source, "where", lambda place: f"rollout {place}")
    first = where(int(loaded.places[0])) if len(loaded.places) else "no rollout"
    message = f"update {update}: not finite ({named}); its batch begins with {first}"
    if output is None:
        return DataError(message)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, places=loaded.places, **loaded.batch._asdict())
    path = output / f"not-finite-{update}.npz"
    with OutputSet() as outputs:
        outputs.add(path).write(buffer.getvalue())
    return DataError(f"{message} and is saved to {path}")
