"""Students against jax.grad, plain numpy, and themselves one at a time."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from mprm_jax.train.optimizer import learning_rate
from mprm_jax.train.optimizer import schedule as of_optimizer
from mprm_jax.train.update_plan import plan
from sim.students.plan import Training, plan_trainings, stack_plans
from sim.students.train import (
    Labels,
    StepBatch,
    Student,
    Sweep,
    base_logits,
    batch_loss,
    init_params,
    logits,
    outputs,
    schedule,
    step_losses,
    train,
)
from theory.logistic import logistic_gradient
from theory.mixed import mixed_log_likelihood
from theory.paper import TRAINING

D = 6


def problem(seeds=2, rollouts=60, arms=(1.0, 0.5, 0.2, 0.05), passes=1, kinds=1):
    """Random features whose labels follow a linear teacher."""
    features, targets, plans, ends = [], [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 6, rollouts)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        x = rng.standard_normal((lengths.sum(), D)).astype(np.float32)
        q = expit(x @ np.arange(D) / 3 + 1)
        y = (rng.random((kinds, len(x))) < q).astype(np.float32)
        trainings = [
            Training(np.arange(max(1, int(share * rollouts))), i % kinds, passes=passes)
            for i, share in enumerate(arms)
        ]
        plans.append(plan_trainings(offsets, trainings, 4, seed))
        features.append(x)
        targets.append(y)
        ends.append(np.repeat(np.arange(rollouts), lengths))
    longest = max(map(len, features))
    pad = [(0, longest - len(x)) for x in features]
    features = [np.pad(x, [p, (0, 0)]) for x, p in zip(features, pad, strict=True)]
    targets = [np.pad(y, [(0, 0), p]) for y, p in zip(targets, pad, strict=True)]
    targets = np.stack(targets)
    trials = np.full((seeds, longest), 4, np.float32)
    rollout = np.zeros((seeds, longest), np.int32)
    for of, end in zip(rollout, ends, strict=True):
        of[: len(end)] = end
    labels = Labels(targets, np.ones_like(targets), trials, rollout)
    return Sweep(np.stack(features), labels, stack_plans(plans), list(range(seeds)))


def alone(sweep, seed, arm):
    """The sweep of one training."""
    plan = sweep.plan
    one = plan._replace(
        feed_F=plan.feed_F[seed : seed + 1],
        **{
            name: getattr(plan, name)[seed : seed + 1, arm : arm + 1]
            for name in ("start_AxT", "count_AxT", "updates_A", "labels_A")
        },
    )
    labels = Labels(*(np.asarray(x)[seed : seed + 1] for x in sweep.labels))
    features = sweep.features_NxSxD[seed : seed + 1]
    return Sweep(features, labels, one, [sweep.seeds[seed]])


def optax_rates(peak, warm, total):
    """Of updates 0, 1, ..., total - 1, none of which is made at rate zero."""
    if total == warm:
        return peak * (np.arange(total) + 1) / warm
    usual = optax.schedules.warmup_cosine_decay_schedule(0, peak, warm, total)
    # One shape, one compilation.
    at = np.arange(1250)
    return np.asarray(usual(jnp.asarray(np.where(at < warm, at + 1, at))))[:total]


def numpy_training(student, sweep, seed, arm):
    """AdamW or SGD written out in float64, batch by batch."""
    plan, x_all = sweep.plan, sweep.features_NxSxD[seed].astype(np.float64)
    kind = plan.labels_A[seed, arm]
    y_all = np.asarray(sweep.labels.target_KxS)[seed, kind]
    weights = np.asarray(sweep.labels.weight_KxS, np.float64)[seed, kind]
    w = np.append(np.zeros(D), float(base_logits(sweep, [arm])[seed, 0]))
    m, v = np.zeros(D + 1), np.zeros(D + 1)
    total = int(plan.updates_A[seed, arm])
    rates = optax_rates(student.learning_rate, -(-total // 20), total)
    for t in range(total):
        begin, count = plan.start_AxT[seed, arm, t], plan.count_AxT[seed, arm, t]
        steps = plan.feed_F[seed, begin : begin + count]
        x = np.c_[x_all[steps], np.ones(count)]
        each = logistic_gradient(w, x, y_all[steps])
        g = weights[steps] @ each / (weights[steps].sum() or 1)
        g *= student.clip / max(student.clip, np.linalg.norm(g))
        rate = rates[t]
        if student.optimizer == "sgd":
            w = w - rate * g
            continue
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        hat = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        w = w - rate * (hat + student.weight_decay * w)
    return w


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_sweep_is_the_written_out_training(optimizer):
    student = Student(optimizer=optimizer, learning_rate=0.3, weight_decay=0.2)
    sweep = problem(kinds=2, passes=2)
    # Of the second kind half of the steps have no label, the others at most a tenth of
    # one; some batches none.
    weights = np.array(sweep.labels.weight_KxS)
    drawn = np.random.default_rng(5).uniform(-0.1, 0.1, weights[:, 1].shape)
    weights[:, 1] = np.maximum(drawn, 0)
    weights[:, 1, sweep.plan.feed_F[0, :40]] = 0
    sweep = replace(sweep, labels=sweep.labels._replace(weight_KxS=weights))
    params = train(student, sweep)
    for seed in range(2):
        for arm in range(4):
            w = numpy_training(student, sweep, seed, arm)
            found = params["w_OxH"][seed, arm, 0, 0], params["b_O"][seed, arm, 0]
            np.testing.assert_allclose(np.append(*found), w, rtol=2e-4, atol=2e-5)


def test_a_start_is_where_a_training_begins_with_an_intercept_that_fits():
    rng = np.random.default_rng(5)
    start = rng.standard_normal((2, D)).astype(np.float32)
    cold = problem(kinds=2)
    warm = replace(cold, start_NxD=start)
    still = Student(learning_rate=1e-12)
    params = train(still, warm)
    found = logits(still, params, list(warm.features_NxSxD))
    for seed in range(2):
        along = warm.features_NxSxD[seed] @ start[seed]
        for arm in range(4):
            scores = found[seed][arm, 0]
            offset = scores - along
            np.testing.assert_allclose(offset, offset[0], atol=1e-5)
            begin = cold.plan.start_AxT[seed, arm, 0]
            count = cold.plan.count_AxT[seed, arm].sum()
            fed = cold.plan.feed_F[seed, begin : begin + count]
            fitted = base_logits(cold, [arm])[seed, 0]
            assert scores[fed].mean() == pytest.approx(fitted, abs=1e-5)
    # Zeros are no start: bit for bit.
    student = Student(learning_rate=0.1)
    zeros = train(student, replace(cold, start_NxD=0 * start))
    jax.tree.map(np.testing.assert_array_equal, zeros, train(student, cold))
    for name in ("beta-binomial", "mlp"):
        other = replace(STUDENTS[name], learning_rate=1e-12)
        if name == "mlp":
            with pytest.raises(ValueError, match="logistic"):
                train(other, warm)
            continue
        weights = train(other, warm)["w_OxH"][:, 0, 0]
        np.testing.assert_allclose(weights[:, 0], start, atol=1e-6)
        np.testing.assert_allclose(weights[:, 1], 0, atol=1e-6)


STUDENTS = {
    "logistic": Student(learning_rate=0.1),
    "sgd": Student(optimizer="sgd", learning_rate=0.5),
    "mlp": Student(kind="mlp", hidden=5, learning_rate=0.05),
    "beta-binomial": Student(likelihood="beta-binomial", learning_rate=0.05),
    "conditional": Student(likelihood="conditional", learning_rate=0.1),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_one_jit_sweep_is_one_training_at_a_time_bit_for_bit(name):
    student = STUDENTS[name]
    sweep = problem(seeds=3, rollouts=150, arms=(1.0, 0.9, 0.8, 0.7, 0.6, 0.2, 0.05))
    together = train(student, sweep)
    assert np.abs(together["w_OxH"]).min(axis=(2, 3, 4)).max() > 0.005
    for group in (1, 3):
        jax.tree.map(
            np.testing.assert_array_equal, train(student, sweep, group=group), together
        )
    for seed in range(3):
        for arm in range(0, 7, 3):
            single = train(student, alone(sweep, seed, arm))
            for part, values in together.items():
                np.testing.assert_array_equal(values[seed, arm], single[part][0, 0])


def test_a_sweep_over_devices_is_that_of_one(tmp_path):
    """Six seeds on four devices: three of them take two each."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    written = tmp_path / "params.npz"
    command = [sys.executable, "-m", "tests.sim.sweep_worker", str(written)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {"devices": 4, "used": 3}
    with np.load(written) as found:
        one = train(STUDENTS["logistic"], problem(seeds=6))
        assert set(found.files) == set(one)
        for name, values in one.items():
            np.testing.assert_array_equal(found[name], values)


def test_gradient_is_the_theory_s():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, D)).astype(np.float32)
    y = rng.random(9).astype(np.float32)
    student = Student()
    w = rng.standard_normal(D).astype(np.float32)
    params = {"w_OxH": jnp.asarray(w)[None], "b_O": jnp.zeros(1)}
    batch = StepBatch(x, y, y, np.ones(9, np.float32))
    found = jax.grad(lambda p: batch_loss(student, p, batch, 16))(params)
    expected = logistic_gradient(w, x, y).mean(axis=0)
    np.testing.assert_allclose(found["w_OxH"][0], expected, rtol=1e-5, atol=1e-6)


def test_padding_of_a_batch_has_no_weight():
    student = Student()
    params = init_params(student, D, jax.random.key(0))
    x = np.random.default_rng(1).standard_normal((5, D)).astype(np.float32)
    y, real = np.array([1, 0, 1, 1, 0], np.float32), np.array([1, 1, 1, 0, 0.0])
    batch = StepBatch(x, y, y, np.float32(real))
    masked = batch_loss(student, params, batch, 16)
    three = StepBatch(x[:3], y[:3], y[:3], np.ones(3, np.float32))
    short = batch_loss(student, params, three, 16)
    assert float(masked) == pytest.approx(float(short), rel=1e-6)


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_the_conditional_likelihood_is_the_theory_s(scale):
    """Of mixed rollouts theory.mixed's, of pure ones by enumeration; padding counts
    nothing.
    """
    rng = np.random.default_rng(2)
    lengths = np.array([2, 5, 3, 1, 4, 6])
    x = rng.standard_normal((lengths.sum(), D)).astype(np.float32)
    w = (scale * rng.standard_normal(D)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    y = rng.permutation(np.arange(len(x)) % 2).astype(np.float32)
    for start, end, both in zip(offsets, offsets[1:], [1, 1, 0, 0, 0, 1], strict=False):
        y[start:end] = y[start]
        y[end - 1] = 1 - y[start] if both else y[start]
    student = Student(likelihood="conditional")

    def loss(w, pad):
        features = np.pad(x, [(0, pad), (0, 0)], constant_values=3)
        label = np.pad(y, (0, pad), constant_values=1)
        real = np.pad(np.ones(len(x), np.float32), (0, pad))
        rollout = np.pad(np.repeat(np.arange(6), lengths), (0, pad), mode="edge")
        batch = StepBatch(features, label, label, real, rollout)
        return batch_loss(student, {"w_OxH": w[None], "b_O": jnp.zeros(1)}, batch, 16)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(w), 3)
    assert float(value) == pytest.approx(float(loss(jnp.asarray(w), 0)), rel=1e-6)

    def given_pure(w, of):
        q = expit(np.float64(x[of]) @ w)
        a, b = np.prod(q), np.prod(1 - q)
        return np.log(a if y[of][0] else b) - np.log(a + b)

    mixed = np.isin(np.repeat(np.arange(6), lengths), [0, 1, 5])
    ends = np.concatenate([[0], np.cumsum(lengths[[0, 1, 5]])])
    of_mixed = mixed_log_likelihood(np.float64(w), x[mixed], y[mixed], ends)
    pure = [slice(offsets[i], offsets[i + 1]) for i in (2, 3, 4)]
    total = of_mixed.value + sum(given_pure(w, of) for of in pure)
    assert float(value) == pytest.approx(-total / len(x), rel=1e-5)
    slope = of_mixed.gradient.copy()
    for d, step in enumerate(1e-6 * np.eye(D)):
        up, down = (sum(given_pure(w + s * step, of) for of in pure) for s in (1, -1))
        slope[d] += (up - down) / 2e-6
    np.testing.assert_allclose(gradient, -slope / len(x), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def urns():
    """z, log c, K, N over a grid, with loss and gradient by 60 digits."""
    z = [-100, -14, -8, -1, 0, 0.3, 8, 14, 30, 100]
    counts = [(0, 16), (1, 16), (7, 16), (15, 16), (16, 16), (0, 1), (1, 1), (3, 5)]
    grid = list(itertools.product(z, [-19, -3, 0, 3, 19], counts))

    def loss(z, log_c, k, n):
        c = mpmath.exp(log_c)
        a, b = c / (1 + mpmath.exp(-z)), c / (1 + mpmath.exp(z))
        right, wrong, all_n = mpmath.rf(a, k), mpmath.rf(b, n - k), mpmath.rf(c, n)
        return mpmath.log(all_n) - mpmath.log(right) - mpmath.log(wrong)

    expected = []
    with mpmath.workdps(60):
        for z, log_c, (k, n) in grid:
            # As float32 has them.
            at = mpmath.mpf(float(np.float32(z))), mpmath.mpf(log_c)
            step = mpmath.mpf(10) ** -20
            slopes = [
                (loss(at[0] + i * step, at[1] + (1 - i) * step, k, n)
                 - loss(at[0] - i * step, at[1] - (1 - i) * step, k, n)) / (2 * step)
                for i in (1, 0)
            ]  # fmt: skip
            expected.append([float(x) for x in (loss(*at, k, n), *slopes)])
    return [(z, log_c, k, n) for z, log_c, (k, n) in grid], np.array(expected)


def test_beta_binomial_losses_and_gradients_to_float32(urns):
    """By betaln the slope at z = 8, log c = -3, K = N had the wrong sign."""
    grid, expected = urns
    z, log_c, k, n = np.array(grid, np.float32).T
    student = Student(likelihood="beta-binomial")

    def total(output):
        losses = step_losses(student, output, jnp.asarray(k / n), jnp.asarray(n), 16)
        return losses.sum(), losses

    output = jnp.asarray(np.stack([z, log_c], axis=1))
    slopes, losses = jax.grad(total, has_aux=True)(output)
    np.testing.assert_allclose(losses, expected[:, 0], rtol=3e-6, atol=1e-30)
    # Only where K is neither 0 nor N are slopes differences of terms of order one.
    one_sided = (k == 0) | (k == n)
    np.testing.assert_allclose(slopes[:, 0], expected[:, 1], rtol=5e-6, atol=5e-7)
    np.testing.assert_allclose(
        slopes[one_sided, 0], expected[one_sided, 1], rtol=5e-6, atol=1e-30
    )
    np.testing.assert_allclose(slopes[:, 1], expected[:, 2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        slopes[one_sided, 1], expected[one_sided, 2], rtol=1e-5, atol=1e-30
    )


def test_counts_beyond_a_float_s_concentration_have_a_loss():
    student = Student(likelihood="beta-binomial")

    def losses(output):
        of = jnp.float32([0.25, 1.0]), jnp.float32([16, 16])
        return step_losses(student, output, *of, 16).sum()

    for log_c in (-1e4, 1e4):
        far = jnp.float32([[2, log_c], [-3, log_c]])
        near = far.at[:, 1].set(20 * np.sign(log_c))
        assert losses(far) == losses(near)
        assert np.isfinite(jax.grad(losses)(far)).all()


@pytest.mark.parametrize("most", [1, 16, 33])
def test_an_update_reads_the_largest_count_whole(most):
    sweep = problem(seeds=1, arms=(1.0,))
    k = np.full(np.shape(sweep.labels.trials_S), most, np.float32)
    target = np.ones((1, *k.shape), np.float32)
    labels = sweep.labels._replace(target_KxS=target, trials_S=k)
    sweep = replace(sweep, labels=labels)
    student = Student(
        likelihood="beta-binomial", optimizer="sgd", clip=1e9, learning_rate=0.1
    )
    found = train(student, sweep, checkpoints=[1])
    fed = sweep.plan.feed_F[0, : sweep.plan.count_AxT[0, 0, 0]]
    start = init_params(student, D, jax.random.key(0))
    start["b_O"] = start["b_O"].at[0].set(base_logits(sweep, [0])[0, 0])
    ones = np.ones(len(fed), np.float32)
    batch = StepBatch(sweep.features_NxSxD[0, fed], ones, most * ones, ones)
    slope = jax.grad(lambda params: batch_loss(student, params, batch, 200))(start)
    expected = start["w_OxH"] - 0.1 * slope["w_OxH"]
    np.testing.assert_allclose(found["w_OxH"][0, 0, 0], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("total", [*range(1, 27), 40, 41, 63, 313, 1250])
def test_schedule_is_the_usual_one_without_its_update_at_rate_zero(total):
    student = Student(learning_rate=2.0)
    rates = schedule(student, np.arange(total + 3), total)
    warm = -(-total // 20)
    expected = optax_rates(2.0, warm, total)
    np.testing.assert_allclose(rates[:total], expected, rtol=2e-6, atol=1e-6)
    assert rates.max() == 2.0
    assert (rates[:total] > 0).all()
    assert (rates[total:] == 0).all()


@given(st.integers(1, 400), st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_schedule_is_that_of_the_trainer_of_models(total, warmup):
    of_models = plan(4 * total, 4, warmup_share=warmup)
    expected = learning_rate(of_optimizer(of_models, 0.3), jnp.arange(400))[:total]
    rates = schedule(Student(learning_rate=0.3, warmup=warmup), np.arange(total), total)
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-6)


def test_a_long_gradient_is_shortened_to_the_clip():
    sweep = problem(seeds=1, arms=(1.0,))
    student = Student(optimizer="sgd", clip=0.01, learning_rate=0.5)
    one = train(student, sweep, checkpoints=[1])
    moved = one["w_OxH"][0, 0, 0, 0], one["b_O"][0, 0, 0] - base_logits(sweep, [0])[0]
    # T = 15: the first update has the full rate.
    assert np.linalg.norm(np.append(*moved)) == pytest.approx(0.5 * 0.01, rel=1e-4)


def test_a_student_left_alone_learns_by_the_paper_s_table():
    default = Student()
    assert default.weight_decay == TRAINING.weight_decay
    assert (default.warmup, default.clip) == (TRAINING.warmup, TRAINING.clip_norm)


def test_intercept_starts_at_the_base_rate():
    sweep = problem(arms=(1.0,))
    fed = sweep.plan.feed_F[0, : sweep.plan.count_AxT[0, 0].sum()]
    mean = np.asarray(sweep.labels.target_KxS)[0, 0, fed].mean()
    assert expit(base_logits(sweep, [0])[0, 0]) == pytest.approx(mean, abs=0.005)
    idle = train(Student(learning_rate=1e-20), sweep)
    np.testing.assert_allclose(idle["b_O"][0, 0, 0], base_logits(sweep, [0])[0])


def test_checkpoints_are_the_way_to_the_end():
    sweep = problem()
    student = Student(learning_rate=0.1)
    kept = train(student, sweep, checkpoints=[1, 5, 15])
    end = train(student, sweep)
    np.testing.assert_array_equal(kept["w_OxH"][:, :, -1], end["w_OxH"][:, :, 0])
    assert np.any(kept["w_OxH"][:, 0, 0] != kept["w_OxH"][:, 0, 1])
    # The smallest arm has one update and then stands still.
    np.testing.assert_array_equal(kept["w_OxH"][:, 3, 0], kept["w_OxH"][:, 3, 2])
    for bad in ([0, 3], [3, 3]):
        with pytest.raises(ValueError, match="ascend"):
            train(student, sweep, checkpoints=bad)


@pytest.mark.parametrize("student", [Student(), Student(kind="mlp", hidden=5)])
def test_scores_of_steps_are_the_outputs(student):
    sweep = problem(arms=(1.0, 0.3))
    params = train(student, sweep, checkpoints=[2, 15])
    tests = [x[: 7 + i] for i, x in enumerate(sweep.features_NxSxD)]
    scores = logits(student, params, tests)
    assert [s.shape for s in scores] == [(2, 2, 7), (2, 2, 8)]
    one = {name: jnp.asarray(x[1, 0, 1]) for name, x in params.items()}
    expected = outputs(student, one, jnp.asarray(tests[1]))[:, 0]
    np.testing.assert_allclose(scores[1][0, 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "bad", [{"learning_rate": 0}, {"warmup": 1.0}, {"weight_decay": -1}, {"clip": 0}]
)
def test_a_student_names_a_value_outside_its_range(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Student(**bad)
