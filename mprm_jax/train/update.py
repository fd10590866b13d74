"""One update of a process reward model: a pure function of state and batch.

The compiled update depends on the model, the optimiser's and objective's settings and
the batch's shape alone. Everything that depends on the data's size travels in the
state, so the arms and seeds of an experiment share one compilation.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, Sharding

from mprm_jax.data.batches import Batch
from mprm_jax.models.model import Model
from mprm_jax.train.config import Objective, OptimizerConfig
from mprm_jax.train.objective import loss_sum, step_count
from mprm_jax.train.optimizer import (
    Params,
    Schedule,
    UpdatePlan,
    apply_directions,
    join,
    learning_rate,
    schedule,
    split,
    transformation,
)
from mprm_jax.train.sharding import moment_shardings, on_all, place_parameters, put


class TrainState(NamedTuple):
    """What an update changes; its memory is given to the next state.

    Attributes:
        trained: parameters, float32; None where a parameter is frozen.
        moments: state of the optimiser, of the same form.
        update: updates made, int32.
        schedule: numbers of the learning rate.
    """

    trained: Params
    moments: Any
    update: jax.Array
    schedule: Schedule


def initial_state(
    model: Model,
    params: Params,
    plan: UpdatePlan,
    optimizer: OptimizerConfig,
    peak: float,
    mesh: Mesh | None = None,
    *,
    consume: bool = False,
) -> tuple[TrainState, Params]:
    """(state before the first update, frozen parameters).

    Trained parameters are float32: with moments and weights in bfloat16 most updates of
    size 1e-5 would be lost to rounding.

    Args:
        model: says which parameters are trained.
        params: to start from.
        plan: of the run.
        optimizer: whose moments are made.
        peak: learning rate.
        mesh: of several devices; None: one.
        consume: the first update may take the memory of ``params``; otherwise the
            trained ones are copied, which for a large model is too much.

    Raises:
        ValueError: every parameter is frozen, or ``peak`` is no learning rate.
    """
    trained, frozen = split(params, model.trainable(params))
    if not jax.tree.leaves(trained):
        raise ValueError("every parameter is frozen: nothing to train")
    trained = jax.tree.map(
        lambda leaf: jnp.array(leaf, jnp.float32, copy=not consume), trained
    )
    tool = transformation(optimizer)
    numbers = jnp.int32(0), schedule(plan, peak)
    if mesh is None:
        return TrainState(trained, tool.init(trained), *numbers), frozen
    trained, frozen = (place_parameters(mesh, part) for part in (trained, frozen))
    shardings = moment_shardings(mesh, jax.eval_shape(tool.init, trained), trained)
    moments = jax.jit(tool.init, out_shardings=shardings)(trained)
    numbers = jax.tree.map(lambda leaf: put(leaf, on_all(mesh)), numbers)
    return TrainState(trained, moments, *numbers), frozen


def train_step(
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    model: Model,
    optimizer: OptimizerConfig,
    objective: Objective,
    accumulate: int = 1,
    shardings: tuple[Sharding, ...] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: state and global batch to the next state and metrics. Pure.

    The gradient is that of sum_j loss_j / n over the n counted steps of the whole
    batch, however it is split into micro-batches or over devices.

    Args:
        state: before the update.
        frozen: parameters that are not trained.
        batch: B rows, B a multiple of ``accumulate``.
        model: pure functions.
        optimizer: clip, moments, decay.
        objective: the loss.
        accumulate: micro-batches.
        shardings: where each leaf of the state stays; None on one device.

    Returns:
        the state, and loss (mean over counted steps, nats), gradient_norm (before
        clipping), learning_rate and steps (counted), all float32.
    """
    count = step_count(batch, objective).astype(jnp.float32)

    def mean_loss(trained: Params, part: Batch) -> jax.Array:
        logits_BxSx3 = model.reward_logits(join(trained, frozen), part)
        return loss_sum(logits_BxSx3, part, objective) / jnp.maximum(count, 1.0)

    value_and_grad = jax.value_and_grad(mean_loss)
    if accumulate == 1:
        loss, gradient = value_and_grad(state.trained, batch)
    else:

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(
                jnp.add, total, value_and_grad(state.trained, part)
            ), None

        zero = jnp.float32(0), jax.tree.map(jnp.zeros_like, state.trained)
        parts = jax.tree.map(partial(_interleave, parts=accumulate), batch)
        (loss, gradient), _ = jax.lax.scan(add, zero, parts)
    rate = learning_rate(state.schedule, state.update)
    directions, moments = transformation(optimizer).update(
        gradient, state.moments, state.trained
    )
    trained = apply_directions(state.trained, directions, rate, optimizer)
    after = TrainState(trained, moments, state.update + 1, state.schedule)
    if shardings is not None:
        leaves, form = jax.tree.flatten(after)
        pinned = map(jax.lax.with_sharding_constraint, leaves, shardings)
        after = jax.tree.unflatten(form, list(pinned))
    return after, {
        "loss": loss,
        "gradient_norm": optax.tree_utils.tree_norm(gradient),
        "learning_rate": rate,
        "steps": count,
    }


def _interleave(rows: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...]; part a has the rows a, a + parts, ...

    Interleaved, so that every device holds rows of each part.
    """
    return rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)


compiled_step = jax.jit(
    train_step,
    static_argnames=("model", "optimizer", "objective", "accumulate", "shardings"),
    donate_argnames=("state",),
)
