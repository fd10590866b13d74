"""The paper's optimiser (Table 7) and its learning rate.

Adafactor stands in for AdamW where memory is short. The schedule's numbers are arrays,
not constants of the compiled update: subsets of any size, and seeds and arms of an
experiment, share one compilation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mprm_jax.models.model import HEAD, Params
from mprm_jax.train.config import OptimizerConfig, check_positive
from mprm_jax.train.update_plan import UpdatePlan

# Parameters that shift or scale are not shrunk; see :func:`decayed`.
_UNDECAYED = ("bias", "scale")
_NORM = "norm"

# Adafactor clips a parameter's direction to this root mean square (its d, Sec. 6).
_RMS = 1.0


class Schedule(NamedTuple):
    """The learning rate's numbers, as scalars of the training state.

    Attributes:
        peak: highest learning rate, float32.
        warmup: updates of linear warm-up, int32.
        updates: T, int32.
    """

    peak: Any
    warmup: Any
    updates: Any


def schedule(plan: UpdatePlan, peak: float) -> Schedule:
    """The schedule of a run whose highest learning rate is ``peak``.

    Raises:
        ValueError: ``peak`` is not finite and positive.
    """
    check_positive("learning_rate", peak)
    return Schedule(jnp.float32(peak), jnp.int32(plan.warmup), jnp.int32(plan.updates))


def learning_rate(schedule: Schedule, update: jax.Array) -> jax.Array:
    """Rate of update t = 0, 1, ..., T-1: linear warm-up, then cosine to zero.

    peak (t+1)/W for t < W; then peak (1 + cos(pi (t-W)/(T-W)))/2, which is zero at
    t = T. (The usual trainers give update t the rate of t/W instead and so make the
    first update at rate zero; with tens of updates that one counts.)
    """
    warmup = jnp.maximum(schedule.warmup, 1).astype(jnp.float32)
    rise = jnp.minimum((update + 1) / warmup, 1.0)
    left = jnp.maximum(schedule.updates - schedule.warmup, 1)
    share = jnp.maximum(update - schedule.warmup, 0) / left
    return schedule.peak * rise * 0.5 * (1 + jnp.cos(jnp.pi * share))


def decayed(params: Params) -> Params:
    """Which parameters weight decay shrinks, as a pytree of bool.

    All but those whose name is ``bias`` or ``scale`` (or ends in ``_bias``,
    ``_scale``), those below a part of the model whose name contains ``norm``, and
    vectors and scalars: a shift or a gain is not simpler for being small.
    """

    def one(path: tuple, leaf: jax.Array) -> bool:
        names = [_name(key) for key in path]
        shifts = names[-1].rpartition("_")[2] in _UNDECAYED
        return leaf.ndim >= 2 and not shifts and not any(_NORM in n for n in names)

    return jax.tree_util.tree_map_with_path(one, params)


def _name(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", key))).lower()


def rate_multipliers(params: Params, config: OptimizerConfig) -> Params:
    """Learning rate of each parameter over the schedule's, as a pytree of float.

    Raises:
        ValueError: the head has a multiplier, but the model no subtree ``head``.
    """

    def one(path: tuple, _: Any) -> float:
        in_head = HEAD in map(_name, path)
        return config.head_multiplier if in_head else 1.0

    tree = jax.tree_util.tree_map_with_path(one, params)
    if config.head_multiplier != 1 and set(jax.tree.leaves(tree)) == {1.0}:
        raise ValueError(f"no parameter lies below {HEAD!r}: nothing to multiply")
    return tree


def transformation(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradients to directions, before the learning rate: clip, scale, decay.

    AdamW scales by its moments. Adafactor scales by 1/sqrt(v), v = r c / mean(r) of the
    running means r of squared gradients over a matrix's rows and c over its columns
    (Shazeer & Stern 2018, Alg. 4, beta2 = 1 - t^-0.8), then brings each parameter's
    root mean square down to 1. Its rate is absolute, not a share of the parameter's
    size (Zhai et al. 2022), so that the schedule means the same to both.
    """
    if config.kind == "adafactor":
        scale = optax.chain(
            optax.scale_by_factored_rms(), optax.clip_by_block_rms(_RMS)
        )
    else:
        scale = optax.scale_by_adam(
            *config.betas, eps=config.epsilon, mu_dtype=config.first_moment
        )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        scale,
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
    )


def apply_directions(
    params: Params, directions: Params, rate: jax.Array, config: OptimizerConfig
) -> Params:
    """w <- w - rate * multiplier * direction, for every parameter."""
    return jax.tree.map(
        lambda weight, direction, multiplier: weight - rate * multiplier * direction,
        params,
        directions,
        rate_multipliers(params, config),
    )


def split(params: Params, trainable: Params) -> tuple[Params, Params]:
    """(trained, frozen): two trees of the same form, with None for what is not there.

    Gradients and optimiser state are made of the first, so a frozen parameter has
    neither.

    Args:
        params: pytree of arrays.
        trainable: pytree of bool of the same form.
    """
    trained = jax.tree.map(lambda leaf, keep: leaf if keep else None, params, trainable)
    frozen = jax.tree.map(lambda leaf, keep: None if keep else leaf, params, trainable)
    return trained, frozen


def join(trained: Params, frozen: Params) -> Params:
    """The whole parameters again, the inverse of :func:`split`."""
    return jax.tree.map(
        lambda left, right: right if left is None else left,
        trained,
        frozen,
        is_leaf=lambda leaf: leaf is None,
    )
