"""Small students of step labels: many trainings as one compiled program.

A scan over updates, mapped over arms and seeds. Arms are trained in groups of like T;
within a group a shorter arm idles (its learning rate is 0) until the longest is done,
and T is data, not shape: one compilation serves every keep ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from sim.students.plan import Plan
from theory.domain import check_nonnegative, check_positive
from theory.paper import TRAINING

Params = dict[str, jax.Array]

# exp(+-20): beyond it the likelihood is that of a binomial, or of 0 and N alone, to
# within float32, and a larger exponent would only overflow.
_MAX_LOG_CONCENTRATION = 20.0

# Of 0.003, 0.01, 0.03 and 0.1 the one with the largest AUROC of Random-25 % on five
# pilot seeds that no experiment uses; no other rule was looked at.
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Student:
    """A student and how it learns.

    Attributes:
        kind: "logistic": one linear map; "mlp": one hidden layer of tanh.
        hidden: width of the hidden layer.
        likelihood: "cross-entropy" against a target in [0, 1]; "beta-binomial": the
            student gives mean and concentration, and the loss is minus the log
            probability of the count K; "conditional": of a rollout's hard labels given
            whether they are mixed.
        optimizer: "adamw" (decoupled decay) or "sgd".
        learning_rate: peak of the schedule, > 0.
        weight_decay: of AdamW, per unit of learning rate, >= 0.
        warmup: share of the updates with a linear warm-up, in [0, 1), rounded up to
            whole updates; then cosine towards 0.
        clip: gradients longer than this are shortened to it, > 0.

    Raises:
        ValueError: a value is outside its range.
    """

    kind: Literal["logistic", "mlp"] = "logistic"
    hidden: int = 32
    likelihood: Literal["cross-entropy", "beta-binomial", "conditional"] = (
        "cross-entropy"
    )
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = LEARNING_RATE
    weight_decay: float = TRAINING.weight_decay
    warmup: float = TRAINING.warmup
    clip: float = TRAINING.clip_norm

    def __post_init__(self) -> None:
        for name in ("hidden", "learning_rate", "clip"):
            check_positive(name, getattr(self, name))
        check_nonnegative("weight_decay", self.weight_decay)
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), not {self.warmup}")


class Labels(NamedTuple):
    """What the students are told.

    Attributes:
        target_KxS: target in [0, 1] of each step under each kind of labels, float32;
            K / N where the likelihood is the beta-binomial.
        weight_KxS: what its loss counts, >= 0, float32; 0: the step has no label.
        trials_S: N of each step, float32; read by the beta-binomial only.
        rollout_S: which rollout each step is of, int32; read by the conditional
            likelihood only.
    """

    target_KxS: ArrayLike
    weight_KxS: ArrayLike
    trials_S: ArrayLike
    rollout_S: ArrayLike


class _State(NamedTuple):
    params: Params
    optimizer: Any


class _Arms(NamedTuple):
    """The part of a Plan that belongs to a group of arms."""

    start_AxT: jax.Array
    count_AxT: jax.Array
    rate_AxT: jax.Array
    labels_A: jax.Array


class StepBatch(NamedTuple):
    """Steps of one update.

    Attributes:
        features_CxD: what the student sees.
        target_C: in [0, 1].
        trials_C: N; read by the beta-binomial only.
        weight_C: what its loss counts, >= 0; 0 where no step is.
        rollout_C: the step's rollout; None: each step is one of its own.
    """

    features_CxD: ArrayLike
    target_C: ArrayLike
    trials_C: ArrayLike
    weight_C: ArrayLike
    rollout_C: ArrayLike | None = None


class _Shape(NamedTuple):
    """What a compiled update is made for."""

    capacity: int
    most_trials: int


class _Data(NamedTuple):
    """What all arms of a seed read; with a leading axis, of N seeds."""

    feed_F: ArrayLike
    features_SxD: ArrayLike
    labels: Labels


def init_params(student: Student, dimension: int, key: jax.Array) -> Params:
    """Parameters before training: the score is 0 everywhere but for the intercept.

    Returns:
        float32 arrays ``w_OxH, b_O`` and for the mlp ``v_HxD, c_H``; O is 1, or 2 for
        the beta-binomial (logit of the mean, log concentration).
    """
    outputs = 2 if student.likelihood == "beta-binomial" else 1
    if student.kind == "logistic":
        return {"w_OxH": jnp.zeros((outputs, dimension)), "b_O": jnp.zeros(outputs)}
    scale = 1 / np.sqrt(dimension)
    return {
        "v_HxD": scale * jax.random.normal(key, (student.hidden, dimension)),
        "c_H": jnp.zeros(student.hidden),
        "w_OxH": jnp.zeros((outputs, student.hidden)),
        "b_O": jnp.zeros(outputs),
    }


def outputs(student: Student, params: Params, features_CxD: jax.Array) -> jax.Array:
    """What the student says of each step, ``[C, O]``; column 0 is the logit."""
    hidden_CxH = features_CxD
    if student.kind == "mlp":
        hidden_CxH = jnp.tanh(_affine(params["v_HxD"], params["c_H"], features_CxD))
    return _affine(params["w_OxH"], params["b_O"], hidden_CxH)


def _affine(w_OxD: jax.Array, b_O: jax.Array, x_CxD: jax.Array) -> jax.Array:
    """x W^T + b as one product.

    So is the gradient of b then, which XLA otherwise adds up in another order when more
    trainings are mapped.
    """
    one_Cx1 = jnp.ones((len(x_CxD), 1))
    return jnp.hstack([x_CxD, one_Cx1]) @ jnp.hstack([w_OxD, b_O[:, None]]).T


def step_losses(
    student: Student,
    output_CxO: jax.Array,
    target_C: jax.Array,
    trials_C: jax.Array,
    most_trials: int,
) -> jax.Array:
    """Loss of each step in nats, ``[C]``.

    Cross-entropy ``softplus(z) - y z``, or ``-log BetaBinomial(K; N, c q, c (1 - q))``
    with q = sigmoid(z), c = exp(second output), binomial coefficient left out. What the
    conditional likelihood adds is of rollouts (:func:`conditional_losses`).

    Args:
        student: says which.
        output_CxO: of the student.
        target_C: y, or K / N.
        trials_C: N; read by the beta-binomial only.
        most_trials: no N is larger; larger ones would be cut.
    """
    z_C = output_CxO[:, 0]
    if student.likelihood != "beta-binomial":
        return jax.nn.softplus(z_C) - target_C * z_C
    k_C = jnp.round(target_C * trials_C)
    return beta_binomial_losses(z_C, output_CxO[:, 1], k_C, trials_C, most_trials)


def beta_binomial_losses(
    z_C: jax.Array,
    log_concentration_C: jax.Array,
    k_C: jax.Array,
    trials_C: jax.Array,
    most_trials: int,
) -> jax.Array:
    """``-log B(a + K, b + N - K) / B(a, b)``, a = c q, b = c (1 - q), ``[C]``.

    Of N draws from Polya's urn, first K right ones, then N - K wrong ones: ``sum_{i<K}
    log(1 + b / (a + i)) + sum_{i<N-K} log(1 + (a + K) / (b + i))``. No term is
    negative, so nothing cancels, in the value or in the gradient by z; c is divided
    out, and the terms of i = 0 are formed from logarithms, because a and b underflow.

    Args:
        z_C: logit of q, any real.
        log_concentration_C: log c.
        k_C: K, in 0..N.
        trials_C: N.
        most_trials: at least every N.
    """
    limit = _MAX_LOG_CONCENTRATION
    per_c_C = jnp.exp(-jnp.clip(log_concentration_C, -limit, limit))
    q_C, rest_C = jax.nn.sigmoid(z_C), jax.nn.sigmoid(-z_C)
    # No wrong draw after no right one meets log 0.
    some_C = k_C > 0
    log_k_C = jnp.log(jnp.where(some_C, k_C, 1.0) * per_c_C)
    log_a_C = jax.nn.log_sigmoid(z_C)
    log_a_C = jnp.where(some_C, jnp.logaddexp(log_a_C, log_k_C), log_a_C)
    log_b_C = jax.nn.log_sigmoid(-z_C)
    first_C = jnp.where(some_C, jax.nn.softplus(-z_C), 0.0)
    first_C += jnp.where(k_C < trials_C, jax.nn.softplus(log_a_C - log_b_C), 0.0)

    def later(j: jax.Array) -> jax.Array:
        """Of draw j, if it is neither the first right nor the first wrong one."""
        right_C = j < k_C
        counts_C = right_C | ((j > k_C) & (j < trials_C))
        before_C = jnp.where(counts_C, jnp.where(right_C, j, j - k_C), 1.0)
        others_C = jnp.where(right_C, rest_C, q_C + k_C * per_c_C)
        own_C = jnp.where(right_C, q_C, rest_C) + before_C * per_c_C
        return jnp.where(counts_C, jnp.log1p(others_C / own_C), 0.0)

    return first_C + jnp.sum(jax.vmap(later)(jnp.arange(1.0, most_trials)), axis=0)


def conditional_losses(
    z_C: jax.Array, target_C: jax.Array, weight_C: jax.Array, rollout_C: jax.Array
) -> jax.Array:
    """What to add to cross-entropy if rollouts were kept for being mixed or pure.

    ``log M`` of a mixed rollout, ``M = 1 - a - b``, ``log(a + b)`` of a pure one, with
    ``a = prod q``, ``b = prod (1 - q)``, q = sigmoid(z): the log probability of what is
    known when it was kept (:mod:`theory.mixed`). A rollout's steps share it evenly.

    Args:
        z_C: logits.
        target_C: hard labels, 0 or 1.
        weight_C: 1 of a step that has a label, else 0.
        rollout_C: which steps are of one rollout.
    """
    same_CxC = (rollout_C[:, None] == rollout_C[None]) * weight_C[None]
    n_C, positive_C = same_CxC.sum(axis=1), same_CxC @ target_C
    mixed_C = (positive_C > 0) & (positive_C < n_C)
    log_a_C = same_CxC @ jax.nn.log_sigmoid(z_C)
    log_b_C = same_CxC @ jax.nn.log_sigmoid(-z_C)
    # M >= 2 sqrt(a b), so the smaller takes at most a third of 1 - the larger. Where
    # there is no M, any numbers without a NaN in their gradient.
    larger_C = jnp.where(mixed_C, jnp.maximum(log_a_C, log_b_C), -1.0)
    smaller_C = jnp.where(mixed_C, jnp.minimum(log_a_C, log_b_C), -1.0)
    rest_C = _log1mexp(larger_C)
    log_mixed_C = rest_C + _log1mexp(smaller_C - rest_C)
    log_kept_C = jnp.where(mixed_C, log_mixed_C, jnp.logaddexp(log_a_C, log_b_C))
    return log_kept_C / jnp.maximum(n_C, 1.0)


def _log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - e^x), x < 0, as :func:`theory.mixture.log1mexp`."""
    near_zero = x > -np.log(2)
    near, far = jnp.where(near_zero, x, -1.0), jnp.where(near_zero, -1.0, x)
    return jnp.where(near_zero, jnp.log(-jnp.expm1(near)), jnp.log1p(-jnp.exp(far)))


def schedule(student: Student, t: ArrayLike, updates: ArrayLike) -> np.ndarray:
    """Learning rate of update t = 0, 1, ... of T, float32; 0 from T on.

    That of the trainer of models: with W = ceil(warmup T), peak (t + 1) / W for t < W,
    then peak (1 + cos(pi (t - W) / (T - W))) / 2, which would be 0 at T.
    """
    t, total = np.asarray(t, np.float64), np.asarray(updates, np.float64)
    warm = np.ceil(student.warmup * total)
    rise = np.minimum((t + 1) / np.maximum(warm, 1.0), 1.0)
    share = np.maximum(t - warm, 0.0) / np.maximum(total - warm, 1.0)
    rate = student.learning_rate * rise * (1 + np.cos(np.pi * share)) / 2
    return np.where(t < total, rate, 0).astype(np.float32)


def _transform(student: Student) -> optax.GradientTransformation:
    """From clipped gradients to changes, number by number."""
    if student.optimizer == "sgd":
        return optax.identity()
    return optax.chain(
        optax.scale_by_adam(*TRAINING.betas, eps=TRAINING.epsilon),
        optax.add_decayed_weights(student.weight_decay),
    )


def batch_loss(
    student: Student, params: Params, batch: StepBatch, most_trials: int
) -> jax.Array:
    """Weighted mean of the steps' losses, ``sum w l / sum w``; 0 without weights.

    Batches count alike, whatever the sums of their weights.
    """
    output_CxO = outputs(student, params, jnp.asarray(batch.features_CxD))
    target_C, trials_C = jnp.asarray(batch.target_C), jnp.asarray(batch.trials_C)
    loss_C = step_losses(student, output_CxO, target_C, trials_C, most_trials)
    weight_C = jnp.asarray(batch.weight_C)
    if student.likelihood == "conditional" and batch.rollout_C is not None:
        rollout_C = jnp.asarray(batch.rollout_C)
        loss_C += conditional_losses(output_CxO[:, 0], target_C, weight_C, rollout_C)
    total = jnp.sum(weight_C)
    return jnp.sum(loss_C * weight_C) / jnp.where(total > 0, total, 1.0)


def _gradient(
    student: Student,
    shape: _Shape,
    t: jax.Array,
    params: Params,
    arm: _Arms,
    data: _Data,
) -> Params:
    """Clipped gradient of update t of one training."""
    place = jnp.arange(shape.capacity)
    feed_F = jnp.asarray(data.feed_F)
    steps_C = jax.lax.dynamic_slice(feed_F, (arm.start_AxT[t],), (shape.capacity,))
    weight_C = jnp.asarray(data.labels.weight_KxS)[arm.labels_A, steps_C]
    batch = StepBatch(
        jnp.asarray(data.features_SxD)[steps_C],
        jnp.asarray(data.labels.target_KxS)[arm.labels_A, steps_C],
        jnp.asarray(data.labels.trials_S)[steps_C],
        jnp.where(place < arm.count_AxT[t], weight_C, 0.0),
        jnp.asarray(data.labels.rollout_S)[steps_C],
    )
    gradient = jax.grad(partial(batch_loss, student))(params, batch, shape.most_trials)
    clip = optax.clip_by_global_norm(student.clip)
    clipped, _ = clip.update(gradient, clip.init(params))
    return cast(Params, clipped)


@partial(jax.jit, static_argnames=("student", "shape"), donate_argnames="state")
def _advance(
    student: Student,
    shape: _Shape,
    state: _State,
    arms: _Arms,
    data: _Data,
    span: tuple[ArrayLike, ArrayLike],
) -> _State:
    """Updates first, ..., last - 1 of every arm (second axis) and seed (first)."""
    one = partial(_gradient, student, shape)
    over_arms = jax.vmap(one, in_axes=(None, 0, 0, None))
    over_seeds = jax.vmap(over_arms, in_axes=(None, 0, 0, 0))
    transform = _transform(student)

    def update(t: jax.Array, state: _State) -> _State:
        gradient = over_seeds(t, state.params, arms, data)
        change, optimizer = transform.update(gradient, state.optimizer, state.params)
        rate_NxA = arms.rate_AxT[:, :, t]
        params = jax.tree.map(
            lambda p, c: p - jnp.expand_dims(rate_NxA, range(2, p.ndim)) * c,
            state.params,
            change,
        )
        return _State(params, optimizer)

    return jax.lax.fori_loop(*span, update, state)


@dataclass(frozen=True, eq=False)
class Sweep:
    """The data of N seeds of one world.

    Attributes:
        features_NxSxD: float32; rows beyond a seed's steps are never read.
        labels: with a leading axis of seeds.
        plan: from :func:`sim.students.plan.stack_plans`.
        seeds: of the mlp's initial weights, one per seed.
        start_NxD: weights that a logistic student of each seed starts from; None: 0.
    """

    features_NxSxD: np.ndarray
    labels: Labels
    plan: Plan
    seeds: Sequence[int]
    start_NxD: np.ndarray | None = None


def train(
    student: Student,
    sweep: Sweep,
    checkpoints: Sequence[int] | None = None,
    group: int = 8,
) -> Params:
    """Train every arm on every seed.

    Args:
        student: what is trained, and how.
        sweep: on what.
        checkpoints: keep the parameters after so many updates (a training that is done
            before stays as it is), ascending; by default only those at the end.
        group: most arms to train together; those of like T share a group.

    Returns:
        numpy arrays with leading axes ``[seeds, arms, checkpoints]``.

    Raises:
        ValueError: ``checkpoints`` does not ascend from 1 or more, or an mlp is given
            weights to start from.
    """
    if sweep.start_NxD is not None and student.kind != "logistic":
        raise ValueError("only a logistic student starts from given weights")
    if checkpoints is not None and np.any(np.diff(checkpoints, prepend=0) < 1):
        raise ValueError("checkpoints must ascend from 1 or more")
    plan = sweep.plan
    most_trials = int(np.max(sweep.labels.trials_S))
    shape = _Shape(plan.capacity, 1 << max(most_trials - 1, 0).bit_length())
    place = partial(jax.device_put, device=seed_sharding(len(plan.updates_A)))
    whole = _Data(plan.feed_F, sweep.features_NxSxD, sweep.labels)
    data = jax.tree.map(place, whole)
    n_arms, most = plan.start_AxT.shape[1:]
    rate_NxAxT = schedule(student, np.arange(most), plan.updates_A[..., None])
    results: list[Params] = [{}] * n_arms
    for chosen in _groups(plan.updates_A.max(axis=0), group):
        # Arms are repeated up to a power of two: few sizes, few compilations.
        filled = np.resize(chosen, 1 << (len(chosen) - 1).bit_length())
        tables = plan.start_AxT, plan.count_AxT, rate_NxAxT, plan.labels_A
        arms = _Arms(*(place(table[:, filled]) for table in tables))
        longest = int(plan.updates_A[:, chosen].max())
        state = _initial(student, sweep, filled, place)
        kept, first = [], 0
        for checkpoint in checkpoints or (longest,):
            last = max(first, min(checkpoint, longest))
            span = first, last
            state = _advance(student, shape, state, arms, data, span)
            kept.append(jax.tree.map(np.array, state.params))
            first = last
        stacked = jax.tree.map(lambda *x: np.stack(x, axis=2), *kept)
        for i, arm in enumerate(chosen):
            results[arm] = jax.tree.map(lambda x, i=i: x[:, i], stacked)
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *results)


def _groups(updates_A: np.ndarray, size: int) -> list[np.ndarray]:
    """Arms by falling T, at most ``size`` together, none idle for more than half."""
    order = np.argsort(-updates_A, kind="stable")
    groups: list[list[int]] = []
    for arm in order:
        last = groups[-1] if groups else []
        if last and len(last) < size and 2 * updates_A[arm] >= updates_A[last[0]]:
            last.append(int(arm))
        else:
            groups.append([int(arm)])
    return [np.array(group) for group in groups]


def _initial(
    student: Student, sweep: Sweep, arms: np.ndarray, place: Callable[[Any], jax.Array]
) -> _State:
    """Parameters before the first update; the intercept from the arm's base logit."""
    dimension = sweep.features_NxSxD.shape[-1]
    params = [init_params(student, dimension, jax.random.key(s)) for s in sweep.seeds]
    stacked = jax.tree.map(
        lambda *x: np.repeat(np.stack(x)[:, None], len(arms), axis=1), *params
    )
    if sweep.start_NxD is not None:
        stacked["w_OxH"] = np.array(stacked["w_OxH"])
        stacked["w_OxH"][..., 0, :] = sweep.start_NxD[:, None]
    stacked["b_O"] = np.array(stacked["b_O"])
    stacked["b_O"][..., 0] = base_logits(sweep, arms)
    params = jax.tree.map(place, stacked)
    return _State(params, _transform(student).init(params))


def base_logits(sweep: Sweep, arms: Sequence[int] | np.ndarray) -> np.ndarray:
    """Logit of the weighted mean target of what each arm is fed, less the weighted mean
    there of the scores that the start gives, float32 ``[N, len(arms)]``.
    """
    plan = sweep.plan
    targets_NxKxS = np.asarray(sweep.labels.target_KxS)
    weights_NxKxS = np.asarray(sweep.labels.weight_KxS)
    logits = np.zeros((len(plan.updates_A), len(arms)), np.float32)
    for seed in range(len(logits)):
        scores_S = None
        if sweep.start_NxD is not None:
            scores_S = sweep.features_NxSxD[seed] @ sweep.start_NxD[seed]
        for i, arm in enumerate(arms):
            begin = plan.start_AxT[seed, arm, 0]
            fed = plan.feed_F[seed, begin : begin + plan.count_AxT[seed, arm].sum()]
            kind = plan.labels_A[seed, arm]
            weights = weights_NxKxS[seed, kind, fed].astype(np.float64)
            positive = (weights * targets_NxKxS[seed, kind, fed]).sum()
            # Half a step of either label: a subset without negatives has a logit, too.
            mean = (positive + 0.5) / (weights.sum() + 1)
            logits[seed, i] = np.log(mean) - np.log1p(-mean)
            if scores_S is not None:
                logits[seed, i] -= weights @ scores_S[fed] / (weights.sum() or 1.0)
    return logits


def seed_sharding(seeds: int) -> NamedSharding:
    """Over the leading axis, on as many of the devices as divide it."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if seeds % n == 0)
    mesh = jax.make_mesh(
        (count,), ("seed",), axis_types=(AxisType.Auto,), devices=devices[:count]
    )
    return NamedSharding(mesh, PartitionSpec("seed"))


def logits(
    student: Student, params: Params, features_NxSxD: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Score of every step by every training.

    Args:
        student: as trained.
        params: leading axes ``[N, ...]``, from :func:`train`.
        features_NxSxD: steps to score of each seed; seeds may differ in number.

    Returns:
        per seed float32 ``[..., S]``.
    """
    scores = []
    for seed, features_SxD in enumerate(features_NxSxD):
        # Training after training: hidden layers of all together would not fit.
        w, b = params["w_OxH"][seed], params["b_O"][seed]
        lead = b.shape[:-1]
        rows = []
        for index in np.ndindex(lead):
            hidden = features_SxD
            if student.kind == "mlp":
                v, c = params["v_HxD"][seed][index], params["c_H"][seed][index]
                hidden = np.tanh(features_SxD @ v.T + c)
            rows.append(hidden @ w[index][0] + b[index][0])
        scores.append(np.stack(rows).reshape(*lead, -1))
    return scores
