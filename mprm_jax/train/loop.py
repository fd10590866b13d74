"""Training a process reward model: the loop around the update, and its files.

``output`` holds ``model.json`` and what the model needs beside its parameters,
``run.json`` (what determines the run), ``checkpoints/``, ``metrics.jsonl`` and, on
request, ``tensorboard/``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mprm_jax.data.batches import Batch, Buckets
from mprm_jax.data.loader import Reading, Source, batches
from mprm_jax.data.problems import DataError
from mprm_jax.models.model import Model
from mprm_jax.train.checkpoint import Progress, updates_kept
from mprm_jax.train.config import TrainConfig
from mprm_jax.train.hosts import FIRST, any_host, in_turn
from mprm_jax.train.interruption import Stop, stoppable
from mprm_jax.train.memory import advised
from mprm_jax.train.optimizer import Budget, Params, join, split
from mprm_jax.train.run_files import RunFiles, not_finite
from mprm_jax.train.update import (
    Placement,
    TrainState,
    compiled_step,
    data_parallel,
    initial_state,
)


class Update(NamedTuple):
    """What is told after every update.

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
    model: Model,
    params: Params,
    source: Source,
    budget: Budget,
    config: TrainConfig,
    buckets: Buckets,
    *,
    output: Path | None = None,
    resume: bool = False,
    identity: dict[str, Any] | None = None,
    on_update: Callable[[Update], None] = lambda update: None,
    report: Callable[[str], None] = lambda message: None,
    placement: Placement | None = None,
    consume: bool = False,
) -> Params:
    """Train on rollouts, and return the parameters.

    Call it as often as you like: with the same model, settings and bucket shapes, the
    update is compiled once.

    Args:
        model: pure functions.
        params: to start from; they stay as they are unless ``consume`` is set.
        source: rollouts, for example a list of examples.
        budget: of :func:`mprm_jax.train.optimizer.plan`.
        config: all other settings.
        buckets: shapes; share them between runs that shall share a compilation.
        output: folder for the model, checkpoints and metrics; None: none is written.
        resume: go on from the newest whole checkpoint in ``output``, if there is one.
        identity: whatever else determines the run (the data, the initial parameters);
            JSON values. A run is only resumed by one that has the same.
        on_update: called after every update.
        report: told of checkpoints passed over and of where a run goes on.
        placement: on several devices; by default :func:`data_parallel`. A run may go
            on with another one.
        consume: take the memory of ``params``, which the caller then no longer has.

    Raises:
        DataError: a rollout cannot be read, a file not be written, the loss or the
            gradient is not finite (the batch is saved to ``output``), ``output`` holds
            another run, or the devices have too little memory.
        ValueError: the batch cannot be divided as asked.
        KeyboardInterrupt: interrupted; the state was saved to ``output`` first.
    """
    if budget.batch_size % config.accumulate:
        raise ValueError(
            f"{config.accumulate} micro-batches cannot share {budget.batch_size} "
            "rollouts evenly"
        )
    if placement is None:
        placement = data_parallel(budget.batch_size, config.accumulate)
    with advised():
        state, frozen = initial_state(
            model,
            params,
            budget,
            config.optimizer,
            config.learning_rate,
            placement,
            consume=consume,
        )
    reading = Reading(
        config.seed,
        threads=config.threads,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    iterator = iter(batches(source, budget, buckets, reading))
    run = _Run(model, budget, config, placement, source, on_update)
    if output is None:
        return run.loop(state, frozen, iterator, {}, Stop(), None)
    files = RunFiles(output, config.keep_checkpoints)
    settings = _settings(model, budget, config, identity or {})
    # The other hosts find the run that the first one began, and that it is theirs.
    for first in in_turn():
        files.begin(model, settings, resume or not first)
    totals: dict[str, int] = {}
    if updates_kept(output):
        with advised():
            state, frozen, progress = _restore(
                model, files, state, frozen, consume, report
            )
        report(f"{output}: goes on after update {progress.update}")
        iterator.set_state(progress.loader)
        totals = progress.totals
    with stoppable() as stop:
        return run.loop(state, frozen, iterator, totals, stop, files)


def _restore(
    model: Model,
    files: RunFiles,
    state: TrainState,
    frozen: Params,
    consume: bool,
    report: Callable[[str], None],
) -> tuple[TrainState, Params, Progress]:
    """State and frozen parameters of the newest whole checkpoint, where these lie."""
    # Shapes alone, so that the memory is free before it is needed again.
    like, frozen_like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        (state, frozen),
    )
    whole = join(like.trained, frozen_like)
    if consume:
        # Not the frozen ones: a model may read images with them.
        for leaf in jax.tree.leaves(state):
            leaf.delete()
    del state
    found = files.restore(whole, like._replace(trained=None), report)
    assert found is not None
    trained, frozen = split(found.params, model.trainable(found.params))
    return found.training._replace(trained=trained), frozen, found.progress


# What changes memory, speed or rounding alone may change when a run goes on.
_FREE = ("threads", "checkpoint_every", "keep_checkpoints", "tensorboard", "accumulate")
_FREE_OF_MODEL = ("remat",)


def _settings(
    model: Model, budget: Budget, config: TrainConfig, identity: dict[str, Any]
) -> dict[str, Any]:
    """What determines a run: a run is resumed only with all of these the same."""
    chosen = {k: v for k, v in dataclasses.asdict(config).items() if k not in _FREE}
    described = model.description().items()
    shape = {k: v for k, v in described if k not in _FREE_OF_MODEL}
    return {
        "model": {"name": model.name, **shape},
        "budget": dataclasses.asdict(budget),
        **chosen,
        **identity,
    }


@dataclasses.dataclass(frozen=True)
class _Run:
    """The loop, with what does not change in it."""

    model: Model
    budget: Budget
    config: TrainConfig
    placement: Placement | None
    source: Source
    on_update: Callable[[Update], None]

    def loop(
        self,
        state: TrainState,
        frozen: Params,
        iterator: Any,
        totals: dict[str, int],
        stop: Stop,
        files: RunFiles | None,
    ) -> Params:
        """All updates that are left; the parameters after the last."""
        done, updates = int(state.update), self.budget.updates
        step = self.step(state)
        began, rollouts, truncated = time.perf_counter(), 0, totals.get(_TRUNCATED, 0)
        counted = totals.get(_COUNTED, 0)
        with contextlib.ExitStack() as stack:
            stack.enter_context(advised())
            log = None
            if files is not None and jax.process_index() == FIRST:
                log = stack.enter_context(files.log(done, self.config.tensorboard))
            following = next(iterator, None)
            for number in range(done + 1, updates + 1):
                loaded, position = following, dict(iterator.get_state())
                if loaded is None:
                    raise RuntimeError(f"no batch for update {number}")
                state, on_device = step(state, frozen, self.put(loaded.batch))
                # Read while the device computes, which is waited for only below.
                following = next(iterator, None)
                metrics = {name: float(value) for name, value in on_device.items()}
                if not all(map(math.isfinite, metrics.values())):
                    place = files.output if files is not None else None
                    raise not_finite(number, metrics, loaded, self.source, place)
                truncated += loaded.truncated
                counted += int(metrics["steps"])
                rollouts += len(loaded.places)
                seconds = time.perf_counter() - began
                metrics |= {
                    _TRUNCATED: truncated,
                    "seconds": seconds,
                    "rollouts_per_second": rollouts / seconds,
                }
                if log is not None:
                    log.write(number, metrics)
                params = partial(join, state.trained, frozen)
                self.on_update(Update(number, updates, metrics, params))
                stopped = any_host(stop.signal is not None)
                if files is not None and (stopped or self.due(number)):
                    files.save(
                        Progress(
                            number,
                            updates,
                            files.run,
                            position,
                            {_TRUNCATED: truncated, _COUNTED: counted},
                        ),
                        params(),
                        state._replace(trained=None),
                    )
                if stopped:
                    stop.leave()
        if done < updates and not counted:
            raise DataError(
                "no step was trained on: every one was cut off because its prompt is "
                "too long, or has no label"
            )
        return join(state.trained, frozen)

    def due(self, number: int) -> bool:
        """Whether a checkpoint is made after this update."""
        every = self.config.checkpoint_every
        return number == self.budget.updates or bool(every and number % every == 0)

    def put(self, batch: Batch) -> Batch:
        """The batch on the devices."""
        if self.placement is None:
            return jax.device_put(batch)
        return self.placement.batch(batch)

    def step(self, state: TrainState) -> Callable:
        """The compiled update, with its settings."""
        shardings = None
        if self.placement is not None:
            shardings = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
        return partial(
            compiled_step,
            model=self.model,
            optimizer=self.config.optimizer,
            objective=self.config.objective,
            accumulate=self.config.accumulate,
            shardings=shardings,
        )


_TRUNCATED, _COUNTED = "truncated_steps", "steps"
