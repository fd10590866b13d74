"""One update of a process reward model: a pure function of state and batch.

The compiled update depends on the model, the optimiser's and objective's settings and
the batch's shape alone. Everything that depends on the data's size travels in the
state, so the arms and seeds of an experiment share one compilation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding

from mprm_jax.data.batches import Batch
from mprm_jax.models.model import Model
from mprm_jax.train.config import Objective, OptimizerConfig
from mprm_jax.train.objective import loss_sum
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


@dataclass(frozen=True)
class UpdateRule:
    """What is compiled into an update.

    Attributes:
        model: pure functions.
        optimizer: clip, moments, decay.
        objective: the loss.
        shardings: where each leaf of the state stays; None on one device.
    """

    model: Model
    optimizer: OptimizerConfig
    objective: Objective
    shardings: tuple[Sharding, ...] | None = None


class Sums(NamedTuple):
    """What has been added up of an update's micro-batches.

    Attributes:
        loss: of their steps, over the loss weight of the whole batch.
        gradient: of it, of the form of the trained parameters.
    """

    loss: jax.Array
    gradient: Params


def no_sums(trained: Params) -> Sums:
    """Nothing added up yet; the gradient lies where its parameters do."""

    def zero(leaf: jax.Array) -> jax.Array:
        return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)

    return Sums(jnp.float32(0), jax.tree.map(zero, trained))


def mean_loss_and_gradient(
    trained: Params, frozen: Params, batch: Batch, weight: Any, rule: UpdateRule
) -> Sums:
    """A micro-batch's share of the loss, and of its gradient. Pure.

    Args:
        trained: parameters.
        frozen: parameters that are not trained.
        batch: the micro-batch.
        weight: sum of ``weight_BxS`` over the whole batch; 0: nothing counts.
        rule: model and loss.
    """

    def mean_loss(trained: Params) -> jax.Array:
        logits_BxSx3 = rule.model.reward_logits(join(trained, frozen), batch)
        total = loss_sum(logits_BxSx3, batch, rule.objective)
        return total / jnp.where(weight > 0, weight, 1.0)

    return Sums(*jax.value_and_grad(mean_loss)(trained))


def add_gradient(
    sums: Sums,
    trained: Params,
    frozen: Params,
    batch: Batch,
    weight: Any,
    rule: UpdateRule,
) -> Sums:
    """The sums with a micro-batch added; as :func:`mean_loss_and_gradient`."""
    added = mean_loss_and_gradient(trained, frozen, batch, weight, rule)
    total = jax.tree.map(jnp.add, sums, added)
    # The first leaves of the state are the trained parameters.
    return total._replace(gradient=_pinned(total.gradient, rule))


def _pinned(tree: Any, rule: UpdateRule) -> Any:
    """The first leaves of a state, each kept where the rule says."""
    if rule.shardings is None:
        return tree
    leaves, form = jax.tree.flatten(tree)
    pinned = map(jax.lax.with_sharding_constraint, leaves, rule.shardings)
    return jax.tree.unflatten(form, list(pinned))


def apply_gradient(
    state: TrainState, sums: Sums, rule: UpdateRule
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The update that the summed gradient of a batch makes. Pure.

    Args:
        state: before the update.
        sums: of all micro-batches.
        rule: how to.

    Returns:
        the state, and loss (mean over the steps' weight, nats), gradient_norm (before
        clipping) and learning_rate, all float32.
    """
    rate = learning_rate(state.schedule, state.update)
    directions, moments = transformation(rule.optimizer).update(
        sums.gradient, state.moments, state.trained
    )
    trained = apply_directions(state.trained, directions, rate, rule.optimizer)
    after = TrainState(trained, moments, state.update + 1, state.schedule)
    return _pinned(after, rule), {
        "loss": sums.loss,
        "gradient_norm": optax.tree_utils.tree_norm(sums.gradient),
        "learning_rate": rate,
    }


def train_step(
    state: TrainState, frozen: Params, batch: Batch, weight: Any, rule: UpdateRule
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by a batch that is one micro-batch, as one program. Pure.

    Arguments and result as of :func:`mean_loss_and_gradient` and
    :func:`apply_gradient`.
    """
    sums = mean_loss_and_gradient(state.trained, frozen, batch, weight, rule)
    return apply_gradient(state, sums, rule)


compiled_step = jax.jit(train_step, static_argnames="rule", donate_argnames="state")
_compiled_add = jax.jit(add_gradient, static_argnames="rule", donate_argnames="sums")
_compiled_apply = jax.jit(
    apply_gradient, static_argnames="rule", donate_argnames="state"
)


def update(
    state: TrainState,
    frozen: Params,
    batches: Iterable[Batch],
    weight: float,
    rule: UpdateRule,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by a batch's micro-batches, each of a shape of its own.

    The gradient is that of sum_j w_j loss_j / sum_j w_j over the steps of the whole
    batch, however it is split into micro-batches or over devices. The memory of
    ``state`` is given to the next one; nothing is waited for.

    Args:
        state: before the update.
        frozen: parameters that are not trained.
        batches: micro-batches, on the devices.
        weight: sum of all steps' weights.
        rule: how to.

    Returns:
        as :func:`apply_gradient`.
    """
    total = np.float32(weight)
    first, *others = batches
    if not others:
        return compiled_step(state, frozen, first, total, rule=rule)
    sums = no_sums(state.trained)
    for part in (first, *others):
        sums = _compiled_add(sums, state.trained, frozen, part, total, rule=rule)
    return _compiled_apply(state, sums, rule=rule)
