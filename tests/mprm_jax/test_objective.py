import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mprm_jax.data.batches import Batch
from mprm_jax.data.formats.base import WriteOptions, hard_labels
from mprm_jax.records.record import Step
from mprm_jax.train.objective import (
    Objective,
    StepLabeller,
    beta_binomial_log_likelihood,
    log_rising_factorial,
    loss_sum,
    scores,
)
from theory.labelling import step_targets
from theory.rollouts import Rollouts

# Compiled once, because hundreds of examples run through them.
likelihood = jax.jit(beta_binomial_log_likelihood)
likelihood_gradient = jax.jit(jax.value_and_grad(beta_binomial_log_likelihood, (0, 1)))
rising = jax.jit(log_rising_factorial)
loss_of = jax.jit(loss_sum, static_argnames="objective")
loss_gradient = jax.jit(jax.value_and_grad(loss_sum), static_argnames="objective")


HARD = Objective()


def counts(successes, trials, objective=HARD):
    """A batch of these counts; nothing else of it matters here."""
    successes_BxS = jnp.asarray(successes, jnp.int32)
    trials_BxS = jnp.asarray(trials, jnp.int32)
    nothing = jnp.zeros(successes_BxS.shape, jnp.int32)
    targets = StepLabeller(objective)(np.asarray(successes), np.asarray(trials))
    label, weight = (jnp.asarray(part, jnp.float32) for part in targets)
    return Batch(nothing, nothing, nothing, successes_BxS, trials_BxS, label, weight)


def test_hard_labels_are_those_of_the_exported_files():
    pairs = [(k, n) for n in (1, 2, 3, 7, 10, 16, 32, 60) for k in range(n + 1)]
    k_S, n_S = np.array(pairs).T
    steps = [Step("s", k, n) for k, n in pairs]
    for threshold in {k / n for k, n in pairs if k < n} | {0.1, 0.3, 0.999}:
        ours = StepLabeller(Objective("hard", threshold))(k_S, n_S).target_S
        theirs = hard_labels(steps, WriteOptions("hard", threshold))
        assert ours.tolist() == theirs, threshold


def test_soft_labels_are_the_mc_scores():
    batch = counts([[0, 3, 16, 0]], [[16, 16, 16, 0]], Objective("soft"))
    np.testing.assert_array_equal(batch.label_BxS, [[0, 3 / 16, 1, 0]])
    np.testing.assert_array_equal(batch.weight_BxS, [[1, 1, 1, 0]])


@pytest.mark.parametrize(
    ("labels", "threshold"),
    [("hard", -0.1), ("hard", 1.0), ("hard", float("nan")), ("soft", 0.5)],
)
def test_thresholds_without_meaning_are_refused(labels, threshold):
    with pytest.raises(ValueError, match="label_threshold"):
        Objective(labels, threshold)


@pytest.mark.parametrize(
    ("objective", "labels"),
    [
        (Objective(), [[1, 0, 1], [1, 0, 0]]),
        (Objective("hard", 3 / 16), [[0, 0, 1], [1, 0, 0]]),
        (Objective("soft"), [[3 / 16, 0, 5 / 8], [1, 0, 0]]),
    ],
)
def test_the_loss_is_two_way_cross_entropy_of_the_counted_steps(objective, labels):
    batch = counts([[3, 0, 5], [4, 0, 0]], [[16, 16, 8], [4, 0, 0]], objective)
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (2, 3, 3)).astype(np.float32)
    expected = 0.0
    for row, step in [(0, 0), (0, 1), (0, 2), (1, 0)]:
        yes, no, _ = logits[row, step].astype(np.float64)
        chance = np.exp([yes, no]) / np.exp([yes, no]).sum()
        y = labels[row][step]
        expected -= y * np.log(chance[0]) + (1 - y) * np.log(chance[1])
    np.testing.assert_allclose(
        loss_of(jnp.array(logits), batch, objective), expected, 1e-6
    )
    assert batch.weight_BxS.sum() == 4
    chance = 1 / (1 + np.exp(logits[..., 1] - logits[..., 0]))
    np.testing.assert_allclose(scores(jnp.array(logits)), chance, 1e-5)


def test_masked_labels_count_the_steps_that_the_theory_leaves():
    rng = np.random.default_rng(4)
    n = rng.choice([0, 2, 4, 8, 16], (300, 4))
    k = rng.binomial(n, rng.choice([0.0, 0.2, 1.0], (300, 4)))
    some = n.any(axis=1)
    offsets = np.arange(0, 4 * some.sum() + 1, 4)
    of = Rollouts(
        k[some].ravel(), n[some].ravel(), offsets, np.zeros(some.sum(), int), ("s",)
    )
    weight = np.zeros((300, 4))
    weight[some] = step_targets(of, "masked").weight_S.reshape(-1, 4)
    masked = Objective("masked")
    batch = counts(k, n, masked)
    np.testing.assert_array_equal(batch.weight_BxS, weight)
    assert weight.sum() < (n > 0).sum()
    logits = jnp.array(rng.normal(0, 2, (300, 4, 3)), jnp.float32)
    kept = counts(np.where(weight, k, 0), np.where(weight, n, 0))
    assert loss_of(logits, batch, masked) == loss_of(logits, kept, Objective())


OBJECTIVES = [Objective(), Objective("soft"), Objective("beta-binomial")]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 1e38])
def test_what_stands_at_padded_places_reaches_nothing(objective, rubbish):
    batch = counts([[3, 0], [0, 0]], [[16, 0], [0, 0]], objective)
    clean = np.zeros((2, 2, 3), np.float32)
    clean[0, 0] = [0.3, -0.2, 1.0]
    dirty = np.where((np.asarray(batch.trials_BxS) == 0)[..., None], rubbish, clean)
    expected = loss_gradient(jnp.array(clean), batch, objective)
    found = loss_gradient(jnp.array(dirty, jnp.float32), batch, objective)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.asarray(found[1])[1].any()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_are_the_differences_of_the_loss(objective):
    batch = counts([[3, 0, 16]], [[16, 8, 16]], objective)
    logits = np.random.default_rng(1).normal(0, 1, (1, 3, 3))
    _, gradient = loss_gradient(jnp.array(logits, jnp.float32), batch, objective)
    for place in np.ndindex(1, 3, 3):
        shift = np.zeros((1, 3, 3))
        shift[place] = 1e-3
        high = reference_loss(logits + shift, batch, objective)
        low = reference_loss(logits - shift, batch, objective)
        expected = (high - low) / 2e-3
        np.testing.assert_allclose(gradient[place], expected, atol=2e-5, rtol=1e-4)


def reference_loss(logits, batch, objective):
    """The loss in float64, by scipy."""
    k, n = np.asarray(batch.successes_BxS), np.asarray(batch.trials_BxS)
    z = logits[..., 0] - logits[..., 1]
    mean = 1 / (1 + np.exp(-z))
    if objective.labels == "beta-binomial":
        c = np.exp(logits[..., 2])
        return -stats.betabinom.logpmf(k, n, c * mean, c * (1 - mean)).sum()
    y = k / n if objective.labels == "soft" else k > 0
    return -(y * np.log(mean) + (1 - y) * np.log(1 - mean)).sum()


@pytest.mark.parametrize("n", [1, 2, 16, 64])
@pytest.mark.parametrize("margin", [-6.0, -1.0, 0.0, 3.0])
@pytest.mark.parametrize("log_concentration", [-4.0, 0.0, 2.0, 6.0])
def test_the_likelihood_is_scipy_s(n, margin, log_concentration):
    k = np.arange(n + 1)
    c = np.exp(log_concentration)
    a, b = c / (1 + np.exp(-margin)), c / (1 + np.exp(margin))
    expected = stats.betabinom.logpmf(k, n, a, b)
    ours = log_likelihood(margin, log_concentration, k, n)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(np.exp(np.float64(ours)).sum(), 1, atol=1e-4)


def log_likelihood(margin, log_concentration, k, n):
    full = np.full(len(k), 1.0, np.float32)
    return likelihood(
        jnp.array(margin * full),
        jnp.array(log_concentration * full),
        jnp.array(k),
        jnp.full(len(k), n),
    )


@pytest.mark.parametrize("margin", [-3.0, 0.0, 1.5])
def test_without_spread_it_is_the_binomial(margin):
    k = np.arange(17)
    expected = stats.binom.logpmf(k, 16, 1 / (1 + np.exp(-margin)))
    ours = log_likelihood(margin, 19.0, k, 16)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-5)
    # and any head output beyond is cut to what float32 can hold
    logits = jnp.array([[[margin, 0.0, 1e30]]], jnp.float32)
    capped = loss_of(logits, counts([[5]], [[16]]), Objective("beta-binomial"))
    np.testing.assert_allclose(capped, -expected[5], rtol=1e-5)


def test_with_nothing_but_spread_it_is_all_or_none():
    k = np.arange(17)
    ours = np.exp(np.float64(log_likelihood(0.7, -15.0, k, 16)))
    chance = 1 / (1 + np.exp(-0.7))
    np.testing.assert_allclose(ours[[0, 16]], [1 - chance, chance], atol=1e-5)
    assert ours[1:16].max() < 1e-6


@given(st.floats(-30, 30, width=32), st.floats(-20, 20, width=32), st.integers(0, 16))
def test_the_likelihood_and_its_gradient_are_always_finite(margin, spread, k):
    arguments = (jnp.float32(margin), jnp.float32(spread), jnp.int32(k), jnp.int32(16))
    value, gradient = likelihood_gradient(*arguments)
    assert np.isfinite([value, *gradient]).all()
    assert value < 1e-4


@given(st.floats(-18, 18, width=32), st.integers(0, 64))
def test_the_rising_factorial_is_a_product(log_x, k):
    with mpmath.workdps(50):
        x = mpmath.exp(mpmath.mpf(float(np.float32(log_x))))
        expected = float(mpmath.log(mpmath.rf(x, k)))  # pyright: ignore[reportArgumentType]
    ours = rising(jnp.float32(log_x), jnp.float32(0), jnp.float32(k))
    np.testing.assert_allclose(ours, expected, rtol=3e-6, atol=1e-4)
