"""Training a process reward model: the loop around the update, and its files.

A run's folder holds ``model.json`` and what the model needs beside its parameters,
``run.json`` (what determines the run), ``base.json`` (where the parameters lie that are
not trained, if that is a folder), ``checkpoints/``, ``metrics.jsonl`` and, on request,
``tensorboard/``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mprm_jax.data.batches import Buckets
from mprm_jax.data.loader import BatchOrder, Source, batches
from mprm_jax.models.model import Model
from mprm_jax.records.problems import DataError
from mprm_jax.train.checkpoint import (
    CheckpointWriter,
    Progress,
    restore_latest,
    updates_kept,
)
from mprm_jax.train.config import TrainConfig
from mprm_jax.train.optimizer import Params, join, split
from mprm_jax.train.run_files import (
    RunFolder,
    RunLog,
    begin,
    fingerprint,
    not_finite,
)
from mprm_jax.train.sharding import (
    FIRST_HOST,
    any_host,
    check_rows,
    default_mesh,
    in_turn,
    place_batch,
)
from mprm_jax.train.update import TrainState, compiled_step, initial_state
from mprm_jax.train.update_plan import UpdatePlan


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """What is trained on what, and how; with the initial parameters, the result.

    Attributes:
        model: pure functions.
        source: rollouts, for example a list of examples.
        plan: of :func:`mprm_jax.train.update_plan.plan`.
        buckets: shapes; share them between jobs that shall share a compilation.
        config: all other settings.
    """

    model: Model
    source: Source
    plan: UpdatePlan
    buckets: Buckets
    config: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def settings(self) -> dict[str, Any]:
        """What a run must have the same to be gone on with, as JSON values.

        What may change without changing what is learned is left out.
        """
        shape = self.model.description()
        chosen = dataclasses.asdict(self.config)
        return {
            "model": {"name": self.model.name, **_without(shape, "remat")},
            "budget": dataclasses.asdict(self.plan),
            **_without(chosen, *_FREE),
        }


# What changes memory, speed or rounding alone may change when a run goes on.
_FREE = ("threads", "checkpoint_every", "keep_checkpoints", "tensorboard", "accumulate")


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


class Update(NamedTuple):
    """What a caller is told after every update.

    Attributes:
        number: of the update, from 1.
        updates: T.
        metrics: of this update, as in ``metrics.jsonl``.
        params: gives the parameters; to be called before the next update, which takes
            their memory.
    """

    number: int
    updates: int
    metrics: dict[str, float]
    params: Callable[[], Params]


def train(
    job: TrainingJob,
    params: Params,
    folder: RunFolder | None = None,
    *,
    mesh: Mesh | None = None,
    consume: bool = False,
    on_update: Callable[[Update], None] = lambda update: None,
) -> Params:
    """Train on rollouts, and return the parameters.

    Call it as often as you like: with the same model, settings and bucket shapes, the
    update is compiled once.

    Args:
        job: model, rollouts and settings.
        params: to start from; they stay as they are unless ``consume`` is set.
        folder: for the model, checkpoints and metrics; None: none is written.
        mesh: of several devices; by default a copy of the model on each. A run may go
            on on another one.
        consume: take the memory of ``params``, which the caller then no longer has.
        on_update: called after every update.

    Raises:
        DataError: a rollout cannot be read, a file not be written, the loss or the
            gradient is not finite (the batch is saved to the folder), the folder holds
            another run, or the devices have too little memory.
        ValueError: micro-batches, devices or hosts cannot share a batch evenly.
        KeyboardInterrupt: interrupted; the state was saved to the folder first.
    """
    plan, config = job.plan, job.config
    if plan.batch_size % config.accumulate:
        raise ValueError(
            f"{config.accumulate} micro-batches cannot share {plan.batch_size} "
            "rollouts evenly"
        )
    mesh = default_mesh() if mesh is None else mesh
    if mesh is not None:
        check_rows(mesh, plan.batch_size, config.accumulate)
    with advised():
        state, frozen = initial_state(
            job.model,
            params,
            plan,
            config.optimizer,
            config.learning_rate,
            mesh,
            consume=consume,
        )
    if len(job.source) != plan.rollouts:
        raise ValueError(f"{len(job.source)} rollouts, planned for {plan.rollouts}")
    order = BatchOrder(
        plan.batch_size,
        plan.presentations,
        config.seed,
        threads=config.threads,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    iterator = iter(batches(job.source, job.buckets, order))
    run = _Run(job, mesh, on_update, folder)
    if folder is None:
        return run.loop(state, frozen, iterator, {}, Stop())
    # The other hosts find the run that the first one began, and that it is theirs.
    settings = job.settings() | folder.identity
    for first in in_turn():
        run.name = begin(folder, job.model, settings, first)
    totals: dict[str, int] = {}
    if updates_kept(folder.path):
        with advised():
            state, frozen, progress = run.restored(state, frozen, consume)
        folder.report(f"{folder.path}: goes on after update {progress.update}")
        iterator.set_state(progress.loader)
        totals = progress.totals
    with stoppable() as stop:
        return run.loop(state, frozen, iterator, totals, stop)


_TRUNCATED, _COUNTED = "truncated_steps", "steps"


@dataclasses.dataclass
class _Run:
    """The loop, with what does not change in it; ``name`` is the run's identity."""

    job: TrainingJob
    mesh: Mesh | None
    on_update: Callable[[Update], None]
    folder: RunFolder | None
    name: str = ""

    def restored(
        self, state: TrainState, frozen: Params, consume: bool
    ) -> tuple[TrainState, Params, Progress]:
        """State and frozen parameters of the newest whole checkpoint, placed as these
        are, whose memory it takes.
        """
        assert self.folder is not None
        # Shapes alone, so that the memory is free before it is needed again.
        like, frozen_like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            (state, frozen),
        )
        if consume:
            # Not the frozen ones: a model may read images with them.
            for leaf in jax.tree.leaves(state):
                leaf.delete()
        del state
        found = restore_latest(
            self.folder.path,
            join(like.trained, frozen_like),
            like._replace(trained=None),
            run=self.name,
            report=self.folder.report,
        )
        assert found is not None
        trained, held = split(found.params, self.job.model.trainable(found.params))
        if found.frozen is None:
            frozen = held
        elif found.frozen != fingerprint(frozen):
            raise DataError(
                f"{self.folder.path}: was begun with other frozen parameters; go on "
                "with the model it was begun with"
            )
        return found.training._replace(trained=trained), frozen, found.progress

    def loop(
        self,
        state: TrainState,
        frozen: Params,
        iterator: Any,
        totals: dict[str, int],
        stop: Stop,
    ) -> Params:
        """All updates that are left; the parameters after the last."""
        done, updates = int(state.update), self.job.plan.updates
        totals = {_TRUNCATED: 0, _COUNTED: 0} | totals
        step = self.step(state)
        mesh = self.mesh
        put = jax.device_put if mesh is None else partial(place_batch, mesh)
        began, rollouts = time.perf_counter(), 0
        with advised(), self.log(done) as log, self.writer(frozen) as writer:
            following = next(iterator, None)
            for number in range(done + 1, updates + 1):
                loaded, position = following, dict(iterator.get_state())
                if loaded is None:
                    raise RuntimeError(f"no batch for update {number}")
                state, on_device = step(state, frozen, put(loaded.batch))
                # Read while the device computes, which is waited for only below.
                following = next(iterator, None)
                metrics = {name: float(value) for name, value in on_device.items()}
                if not all(map(math.isfinite, metrics.values())):
                    path = self.folder and self.folder.path
                    raise not_finite(number, metrics, loaded, self.job.source, path)
                totals[_TRUNCATED] += loaded.truncated
                totals[_COUNTED] += int(metrics[_COUNTED])
                rollouts += len(loaded.places)
                seconds = time.perf_counter() - began
                metrics[_TRUNCATED] = totals[_TRUNCATED]
                metrics |= {
                    "seconds": seconds,
                    "rollouts_per_second": rollouts / seconds,
                }
                if log is not None:
                    log.write(number, metrics)
                params = partial(join, state.trained, frozen)
                self.on_update(Update(number, updates, metrics, params))
                stopped = any_host(stop.signal is not None)
                if writer is not None and (stopped or self.due(number)):
                    progress = Progress(
                        number, updates, self.name, position, dict(totals)
                    )
                    writer.save(progress, state, frozen)
                if stopped:
                    if writer is not None:
                        writer.settle()
                    stop.leave()
        if done < updates and not totals[_COUNTED]:
            raise DataError(
                "no step was trained on: every one was cut off because its prompt is "
                "too long, or has no label"
            )
        return join(state.trained, frozen)

    def log(self, done: int) -> contextlib.AbstractContextManager[RunLog | None]:
        """The metrics' file, with those of the first ``done`` updates kept."""
        if self.folder is None or jax.process_index() != FIRST_HOST:
            return contextlib.nullcontext()
        return RunLog(self.folder.path, done, self.job.config.tensorboard)

    def writer(
        self, frozen: Params
    ) -> contextlib.AbstractContextManager[CheckpointWriter | None]:
        """Of the checkpoints; the folder then says where its base lies."""
        folder = self.folder
        if folder is None:
            return contextlib.nullcontext()
        lies_elsewhere = None
        if folder.base is not None:
            lies_elsewhere = fingerprint(frozen)
            if jax.process_index() == FIRST_HOST:
                folder.base.write(folder.path)
        keep = self.job.config.keep_checkpoints
        return CheckpointWriter(
            folder.path, keep, frozen=lies_elsewhere, report=folder.report
        )

    def due(self, number: int) -> bool:
        """Whether a checkpoint is made after this update."""
        every = self.job.config.checkpoint_every
        return number == self.job.plan.updates or bool(every and number % every == 0)

    def step(self, state: TrainState) -> Callable:
        """The compiled update, with its settings."""
        shardings = None
        if self.mesh is not None:
            shardings = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
        config = self.job.config
        return partial(
            compiled_step,
            model=self.job.model,
            optimizer=config.optimizer,
            objective=config.objective,
            accumulate=config.accumulate,
            shardings=shardings,
        )


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


_SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")

_ADVICE = (
    "more micro-batches change nothing but memory; more devices can split the model; "
    "Adafactor or adapters keep less beside it; a smaller batch or shorter prompts are "
    "another experiment; the price of a run tells the bytes"
)


@contextlib.contextmanager
def advised() -> Iterator[None]:
    """Turn running out of a device's memory into one line with ways out.

    Raises:
        DataError: it happened.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        # "... Out of memory while trying to allocate 17.24GiB", or the same in bytes.
        size = re.search(r"allocat\w* ([\d.]+ ?(?:bytes|[KMGT]i?B))", str(error))
        wanted = f" ({size[1]} more were wanted)" if size else ""
        raise DataError(f"out of device memory{wanted}: {_ADVICE}") from error
