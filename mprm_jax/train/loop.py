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
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, MappingProxyType
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh

from mprm_jax.data.batches import Batch, Buckets, Sizes, sizes_of
from mprm_jax.data.loader import (
    Batches,
    BatchOrder,
    Feed,
    Loaded,
    Source,
    shuffled,
)
from mprm_jax.data.packing import Packing, row_shape
from mprm_jax.models.model import Model
from mprm_jax.records.problems import DataError
from mprm_jax.train.checkpoint import (
    Best,
    CheckpointWriter,
    Progress,
    restore_latest,
    updates_kept,
)
from mprm_jax.train.config import TrainConfig
from mprm_jax.train.features import backbone_of
from mprm_jax.train.objective import StepLabeller
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
    batch_parts,
    check_rows,
    default_mesh,
    gather_bytes,
    in_turn,
    on_any_host,
    parts_here,
    place_batch,
)
from mprm_jax.train.update import TrainState, UpdateRule, initial_state, update
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
        sizes: of the rollouts, where several hosts train and they are not in memory
            (:func:`mprm_jax.train.measure.measure`).
    """

    model: Model
    source: Source
    plan: UpdatePlan
    buckets: Buckets
    config: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    sizes: Sizes | None = None

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
_FREE = (
    "threads",
    "checkpoint_every",
    "keep_checkpoints",
    "tensorboard",
    "tracker",
    "profile",
    "accumulate",
    "pack",
)


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


class Update(NamedTuple):
    """What a caller is told of every update, once the next one is under way.

    Attributes:
        number: of the update, from 1.
        updates: T.
        metrics: of this update, as in ``metrics.jsonl``.
    """

    number: int
    updates: int
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Watch:
    """A look at the parameters after some updates, for which the devices wait.

    Attributes:
        at: whether after the update of this number.
        look: gets the number and the parameters, whose memory the next update takes;
            its numbers join the metrics of the update.
        best: which of these numbers is the better the larger; the checkpoint of the
            best update is kept. None: none is.
        patience: looks that were not better than the best after which the run ends;
            None: it never does before its last update.
    """

    at: Callable[[int], bool]
    look: Callable[[int, Params], dict[str, float]]
    best: str | None = None
    patience: int | None = None

    def gave_up(self, best: int, number: int) -> bool:
        """Whether as many looks as the patience, up to the update of this number, were
        not better than that of the best.
        """
        since = sum(map(self.at, range(best + 1, number + 1)))
        return self.patience is not None and since >= self.patience


def train(
    job: TrainingJob,
    params: Params,
    folder: RunFolder | None = None,
    *,
    mesh: Mesh | None = None,
    consume: bool = False,
    on_update: Callable[[Update], None] = lambda update: None,
    watch: Watch | None = None,
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
        on_update: told of every update.
        watch: looks at the parameters.

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
    loader = batches_of(job, mesh)
    iterator = iter(loader.from_first())
    run = _Run(job, mesh, on_update, watch, folder)
    if folder is None:
        return run.loop(state, frozen, iterator, _Before(), Stop())
    # The other hosts find the run that the first one began, and that it is theirs.
    settings = job.settings() | folder.identity
    check_agreed(dataclasses.asdict(config) | settings)
    for first in in_turn():
        run.name = begin(folder, job.model, settings, first)
    before = _Before()
    if updates_kept(folder.path):
        with advised():
            state, frozen, progress = run.restored(state, frozen, consume)
        folder.report(f"{folder.path}: goes on after update {progress.update}")
        iterator.set_state(progress.loader)
        before = _Before(progress.totals, progress.best)
    with stoppable() as stop:
        return run.loop(state, frozen, iterator, before, stop)


def check_agreed(settings: dict[str, Any]) -> None:
    """Refuse hosts that were not told the same; every host must ask, and waits.

    Raises:
        DataError: they were not; the same on every host.
    """
    said = [
        msgspec.json.decode(of) for of in gather_bytes(msgspec.json.encode(settings))
    ]
    names = [
        name
        for name in sorted(set().union(*said))
        if any(of.get(name) != said[0].get(name) for of in said)
    ]
    if names:
        raise DataError(f"the hosts disagree: {', '.join(names)} differ between them")


def batches_of(job: TrainingJob, mesh: Mesh | None = None) -> Batches:
    """A run's batches, as far as this host feeds them.

    Raises:
        ValueError: micro-batches, devices or packed rows cannot share them.
    """
    plan, config = job.plan, job.config
    feed = Feed() if mesh is None else Feed(batch_parts(mesh), parts_here(mesh))
    order = BatchOrder(
        plan.batch_size,
        plan.presentations,
        config.seed,
        config.accumulate,
        threads=config.threads,
        feed=feed,
    )
    labeller = StepLabeller(config.objective)
    if feed.is_whole and not config.pack:
        return Batches(job.source, job.buckets, order, labeller)
    sizes = job.sizes
    if sizes is None:
        rollouts = map(job.source.__getitem__, range(len(job.source)))
        sizes = sizes_of(rollouts, labeller)
    packing = packed(job, sizes) if config.pack else None
    return Batches(job.source, job.buckets, order, labeller, sizes, packing)


def packed(job: TrainingJob, sizes: Sizes) -> Packing:
    """How the batches of a run are packed.

    Args:
        job: whose rows have ``config.pack`` tokens.
        sizes: of all rollouts.

    Raises:
        ValueError: the model reads no packed rows, or a rollout is longer than a row.
    """
    backbone = backbone_of(job.model)
    if backbone is None:
        raise ValueError(f"{job.model.name} reads no packed rows: they need a backbone")
    first = sizes.take(first_places(job))
    shape = row_shape(first, sizes, job.config.pack, job.buckets.steps)
    return Packing(shape, backbone.family.place_bytes > 0)


def first_places(job: TrainingJob) -> np.ndarray:
    """Places of the rollouts of the first batches, whole ones, which stand for all."""
    size, order = job.plan.batch_size, shuffled(len(job.source), job.config.seed)
    count = min(-(-_SAMPLE // size) * size, len(job.source))
    return np.array([order[i] for i in range(count)])


# At least so many rollouts say how long prompts are, and what a full packed row holds.
_SAMPLE = 256

_TRUNCATED, _COUNTED = "truncated_steps", "steps"

# The updates of a session that are traced: after the first two, which compile.
_TRACED = range(3, 6)
PROFILE = "profile"

# What hosts tell one another of every update.
_STOP, _FAILED = range(2)


class _Before(NamedTuple):
    """What earlier sessions of a run have summed and found."""

    totals: Mapping[str, int] = MappingProxyType({})
    best: Best | None = None


class _Waiting(NamedTuple):
    """An update that the devices were given, and whose result nobody has read."""

    number: int
    loaded: Loaded
    metrics: dict[str, jax.Array]
    flags: Any


@dataclasses.dataclass
class _Run:
    """The loop, with what does not change in it; ``name`` is the run's identity."""

    job: TrainingJob
    mesh: Mesh | None
    on_update: Callable[[Update], None]
    watch: Watch | None
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
        before: _Before,
        stop: Stop,
    ) -> Params:
        """All updates that are left; the parameters after the last.

        An update is read once the next one is under way, so that the devices never
        wait for what the host does with it, unless the parameters themselves are to be
        looked at or saved.
        """
        done, updates = int(state.update), self.job.plan.updates
        rule, watch, waiting, stopped = self.rule(state), self.watch, None, False
        with (
            advised(),
            self.log(done) as log,
            self.writer(frozen) as writer,
            contextlib.ExitStack() as trace,
        ):
            book = _Book(self, log, stop, done, before.totals)
            best = before.best or Best(0, -math.inf)
            if watch is not None and watch.gave_up(best.update, done):
                updates = done
            following = next(iterator, None)
            for number in range(done + 1, updates + 1):
                loaded, position = following, dict(iterator.get_state())
                assert loaded is not None
                batches = map(self.placed, loaded.batches)
                weight = float(loaded.total.weight)
                state, metrics = update(state, frozen, batches, weight, rule)
                here = np.array([stop.signal is not None, bool(loaded.failure)])
                flags = on_any_host(self.mesh, here)
                following = next(iterator, None)
                if waiting is not None:
                    stopped = book.read(waiting)
                waiting = _Waiting(number, loaded, metrics, flags)
                self.trace(trace, number - done, metrics)
                looks = watch is not None and watch.at(number)
                due = self.due(number) or number == updates
                if not (stopped or looks or due):
                    continue
                stopped |= book.read(waiting, state, frozen)
                waiting = None
                better = looks and book.looked > best.value
                if better:
                    best = Best(number, book.looked)
                gave_up = watch is not None and watch.gave_up(best.update, number)
                if writer is not None and (stopped or due or better or gave_up):
                    named = best if best.update else None
                    reached = number, updates, self.name, position, dict(book.totals)
                    writer.save(Progress(*reached, named), state, frozen)
                if gave_up:
                    self.say(f"stopped early: the best is update {best.update}")
                    break
                if stopped:
                    if writer is not None:
                        writer.settle()
                    stop.leave()
        if done < updates and not book.totals[_COUNTED]:
            raise DataError(
                "no step was trained on: every one was cut off because its prompt is "
                "too long, or has no label"
            )
        return join(state.trained, frozen)

    def trace(
        self, traces: contextlib.ExitStack, number: int, metrics: dict[str, jax.Array]
    ) -> None:
        """Begin or end the trace after the update of this number of the session."""
        if self.folder is None or not self.job.config.profile:
            return
        if number == _TRACED.start - 1:
            path = self.folder.path / PROFILE
            traces.enter_context(jax.profiler.trace(path))
        elif number == _TRACED.stop - 1:
            jax.block_until_ready(metrics)
            traces.close()

    def say(self, line: str) -> None:
        """Tell the caller something of the run."""
        if self.folder is not None:
            self.folder.report(f"{self.folder.path}: {line}")

    def placed(self, batch: Batch) -> Batch:
        """A micro-batch on the devices."""
        if self.mesh is None:
            return jax.device_put(batch)
        return place_batch(self.mesh, batch)

    def log(self, done: int) -> contextlib.AbstractContextManager[RunLog | None]:
        """The metrics' file, with those of the first ``done`` updates kept."""
        if self.folder is None or jax.process_index() != FIRST_HOST:
            return contextlib.nullcontext()
        config = self.job.config
        return RunLog(self.folder.path, done, config.tensorboard, config.tracker)

    def writer(
        self, frozen: Params
    ) -> contextlib.AbstractContextManager[CheckpointWriter | None]:
        """Of the checkpoints; the folder then says where its base lies."""
        folder = self.folder
        if folder is None:
            return contextlib.nullcontext()
        lies_elsewhere = None
        if folder.base is not None and jax.tree.leaves(frozen):
            lies_elsewhere = fingerprint(frozen)
            if jax.process_index() == FIRST_HOST:
                folder.base.write(folder.path)
        keep = self.job.config.keep_checkpoints
        return CheckpointWriter(
            folder.path, keep, frozen=lies_elsewhere, report=folder.report
        )

    def due(self, number: int) -> bool:
        """Whether a checkpoint is made after this update, not being the last."""
        every = self.job.config.checkpoint_every
        return self.folder is not None and bool(every) and number % every == 0

    def rule(self, state: TrainState) -> UpdateRule:
        """What is compiled into every update."""
        shardings = None
        if self.mesh is not None:
            shardings = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
        config = self.job.config
        return UpdateRule(self.job.model, config.optimizer, config.objective, shardings)


class _Book:
    """What is known of the updates that were read, and where it is told.

    Attributes:
        totals: running sums, as a checkpoint keeps them.
        looked: what the last look found of the number that is to be best.
    """

    def __init__(
        self,
        run: _Run,
        log: RunLog | None,
        stop: Stop,
        done: int,
        totals: Mapping[str, int],
    ) -> None:
        self._run, self._log, self._stop, self._done = run, log, stop, done
        self.totals = {_TRUNCATED: 0, _COUNTED: 0, **totals}
        self._began, self._tokens = time.perf_counter(), 0
        self.looked = -math.inf

    def read(
        self, waiting: _Waiting, state: TrainState | None = None, frozen: Any = None
    ) -> bool:
        """Wait for an update, tell of it, and whether the run is to stop.

        Args:
            waiting: the update.
            state: after it; None: the next update has its memory.
            frozen: parameters that are not trained.

        Raises:
            DataError: a host could not read its rows, or the metrics are not finite.
        """
        run, number, loaded = self._run, waiting.number, waiting.loaded
        flags = np.asarray(waiting.flags)
        if flags[_FAILED]:
            said = gather_bytes(loaded.failure.encode())
            raise DataError(next(filter(None, said)).decode())
        metrics = {name: float(value) for name, value in waiting.metrics.items()}
        if not all(map(math.isfinite, metrics.values())):
            path = run.folder and run.folder.path
            raise not_finite(number, metrics, loaded, run.job.source, path)
        total, plan = loaded.total, run.job.plan
        self.totals[_TRUNCATED] += int(total.truncated)
        self.totals[_COUNTED] += int(total.steps)
        self._tokens += int(total.tokens)
        shown = min(number * plan.batch_size, plan.presentations)
        seconds = time.perf_counter() - self._began
        metrics |= {
            _COUNTED: float(total.steps),
            _TRUNCATED: self.totals[_TRUNCATED],
            "seconds": seconds,
            "rollouts_per_second": (shown - self._done * plan.batch_size) / seconds,
            "tokens_per_second": self._tokens / seconds,
            "real_token_share": float(total.tokens / loaded.padded),
        }
        if state is not None and run.watch is not None and run.watch.at(number):
            found = run.watch.look(number, join(state.trained, frozen))
            if run.watch.best is not None:
                self.looked = found[run.watch.best]
            metrics |= found
        if self._log is not None:
            self._log.write(number, metrics)
        run.on_update(Update(number, plan.updates, metrics))
        # One host alone need not wait for the next update to be asked.
        alone = jax.process_count() == 1 and self._stop.signal is not None
        return bool(flags[_STOP]) or alone


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
