"""What a target made from the count is worth: Cauchy-Schwarz, all partitions, fits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from theory import asymptotics
from theory.beta_binomial import class_conditional_counts, count_pmf
from theory.continuations import JUDGED
from theory.label_noise import (
    best_count_threshold,
    count_information,
    noisy_fisher_weight,
    shares_kept,
    target_information,
    target_moments,
)

interior = st.floats(0.01, 0.99)
seeds = st.integers(0, 10**6)

WRONG, RIGHT = JUDGED(16)


def pmfs(seed, n=7):
    return np.random.default_rng(seed).dirichlet(np.ones(n), size=2)


def moments_by_enumeration(q, t, f0, f1):
    """E t, Var t and Corr(Y, t)^2 as expectations over all (truth, count)."""
    cases = [
        (share * float(f[k]), y, float(t[k]))
        for y, share, f in ((0, 1 - q, f0), (1, q, f1))
        for k in range(len(t))
    ]
    mean_y, mean_t = (sum(case[0] * case[i] for case in cases) for i in (1, 2))
    cov = sum(p * (y - mean_y) * (t - mean_t) for p, y, t in cases)
    var_y, var_t = (
        sum(case[0] * (case[i] - mean) ** 2 for case in cases)
        for i, mean in ((1, mean_y), (2, mean_t))
    )
    return mean_t, var_t, cov**2 / (var_y * var_t)


@given(interior, seeds)
def test_information_is_the_squared_correlation_and_cauchy_schwarz_bounds_it(q, seed):
    f0, f1 = pmfs(seed)
    t = np.random.default_rng(seed + 1).normal(size=7)
    kept = target_information(q, t, f0, f1)
    mean, variance, squared = moments_by_enumeration(q, t, f0, f1)
    np.testing.assert_allclose(kept, q * (1 - q) * squared, rtol=1e-9)
    np.testing.assert_allclose(target_moments(q, t, f0, f1), (mean, variance))
    best = count_information(q, f0, f1)
    assert kept <= best * (1 + 1e-12)
    posterior = q * f1 / (q * f1 + (1 - q) * f0)
    np.testing.assert_allclose(
        target_information(q, 3 - 2 * posterior, f0, f1), best, rtol=1e-9
    )
    # What another target loses is what it varies beside the posterior.
    marginal = q * f1 + (1 - q) * f0
    columns = np.sqrt(marginal) * np.stack([np.ones(7), posterior, t])
    (beside,) = np.linalg.lstsq(columns[:2].T, columns[2])[1]
    np.testing.assert_allclose(kept, best * (1 - beside / variance), atol=1e-12)


@given(interior, seeds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_the_unit_of_a_target_and_counts_that_never_occur_change_nothing(
    q, seed, scale, shift
):
    f0, f1 = pmfs(seed)
    t = np.arange(7) ** 1.5
    kept = target_information(q, t, f0, f1)
    for other in (scale * t + shift, -t, t * 1e300):
        np.testing.assert_allclose(
            target_information(q, other, f0, f1), kept, rtol=1e-7
        )
    longer = np.append(f0, 0), np.append(f1, 0)
    assert target_information(q, np.append(t, 1e9), *longer) == pytest.approx(kept)
    assert target_information(q, np.append(0 * t + 0.1, 1e9), *longer) == 0


@given(st.floats(0, 1), seeds, st.integers(0, 5))
def test_a_hard_label_is_worth_its_fisher_information(q, seed, c):
    f0, f1 = pmfs(seed)
    np.testing.assert_allclose(
        target_information(q, np.arange(7) > c, f0, f1),
        noisy_fisher_weight(q, f0[c + 1 :].sum(), f1[: c + 1].sum()),
        rtol=1e-9, atol=1e-15,
    )  # fmt: skip


def test_a_label_that_is_nearly_always_the_same_keeps_its_digits():
    # Pr(K = 0) is 1e-30 and 4e-30: with mu = Pr(K = 0), G = (q (1 - q) 3e-30)^2 / mu.
    f0, f1 = np.array([[4e-30, 0.3, 0.7], [1e-30, 0.6, 0.4]])
    kept = target_information(0.2, [0, 1, 1], f0, f1)
    assert kept == pytest.approx((0.16 * 3e-30) ** 2 / 3.4e-30, rel=1e-12)
    # At the edges nothing is left to tell, and classes far apart tell all.
    q = np.array([0, 1e-300, 0.3, 1])
    kept = target_information(q, [-1e308, 1e308], [1, 0], [0, 1])
    np.testing.assert_allclose(kept, q * (1 - q), rtol=1e-15)


def two_partitions(n):
    """All binary labels of n counts, but for constants and exchange of the names."""
    for rest in itertools.product([0, 1], repeat=n - 1):
        if any(rest):
            yield np.array([0, *rest])


@pytest.mark.parametrize("q", [0.05, 0.3, 0.5, 0.85, 0.97])
def test_the_best_of_all_binary_labels_cuts_the_posterior(q):
    for f0, f1, monotone in (
        (count_pmf(0.13, 1, 6), count_pmf(0.73, 0.3, 6), True),
        (*class_conditional_counts(0.5, 0.1, 6, 0.5), True),
        *((*pmfs(seed), False) for seed in range(4)),
    ):

        def worth(t, f0=f0, f1=f1):
            return noisy_fisher_weight(q, min(f0 @ t, 1.0), min(f1 @ (1 - t), 1.0))

        best = max(two_partitions(7), key=worth)
        order = np.argsort(f1 / f0)
        assert np.count_nonzero(np.diff(best[order])) == 1
        c = int(best_count_threshold(q, f0, f1))
        cuts = [worth(1 * (np.arange(7) > cut)) for cut in range(6)]
        assert c == np.argmax(cuts)
        if monotone:
            np.testing.assert_array_equal(order, np.arange(7))
            np.testing.assert_array_equal(best, np.arange(7) > c)


def test_the_best_threshold_broadcasts_and_takes_the_least_of_equals():
    q = np.array([0.05, 0.5, 0.7, 0.85])
    np.testing.assert_array_equal(best_count_threshold(q, WRONG, RIGHT), [14, 3, 1, 0])
    laws = np.stack([[WRONG, RIGHT], [RIGHT, WRONG]], axis=1)
    both = best_count_threshold(q[:, None], *laws)
    np.testing.assert_array_equal(both[:, 0], [14, 3, 1, 0])
    # The other way up it is the other class that is rare.
    np.testing.assert_array_equal(both[:, 1], best_count_threshold(1 - q, WRONG, RIGHT))
    assert best_count_threshold(0.5, [0.5, 0, 0.5], [0.1, 0, 0.9]) == 0


def test_table_2_holds_where_right_steps_abound_and_is_reversed_at_one_half():
    kept = shares_kept(np.array([0.5, 0.85]), 0.85, WRONG, RIGHT)
    hard_to_soft = [kept[name] for name in ("K > 0", "K > 1", "K > 2", "soft")]
    half, common = np.transpose(hard_to_soft)
    assert np.all(np.diff(half) > 0)
    assert np.all(np.diff(common) < 0)
    np.testing.assert_allclose(kept["posterior"][1], kept["count"][1], rtol=1e-12)
    assert kept["posterior"][0] < kept["count"][0] - 0.01
    np.testing.assert_allclose(
        kept["count"] * [0.25, 0.1275], count_information([0.5, 0.85], WRONG, RIGHT)
    )


def test_quasi_score_fits_have_the_inverse_information_as_variance():
    """Solve mean(t) = E_q t for the logit of q, in many samples."""
    q, n, fits = 0.7, 4000, 4000
    rng = np.random.default_rng(3)
    counts = rng.multinomial(n, q * RIGHT + (1 - q) * WRONG, size=fits)
    k = np.arange(17)
    for t in (k > 0, k / 16, np.sqrt(k), RIGHT / (RIGHT + WRONG)):
        found = (counts @ t / n - WRONG @ t) / (RIGHT @ t - WRONG @ t)
        spread = n * np.var(logit(found), ddof=1)
        # The variance of a variance of normals is 2/fits; the fit is n^-1/2 from one.
        error = spread * target_information(q, t, WRONG, RIGHT) - 1
        assert abs(error) < 4 * np.sqrt(2 / fits) + 10 / n


def test_targets_and_laws_that_do_not_fit_are_named():
    f = [0.5, 0.5]
    for message, arguments in {
        "q must be": (1.5, [0, 1], f, f),
        "targets must be finite": (0.5, [0, np.nan], f, f),
        "targets must have one value": (0.5, [0, 1, 2], f, f),
        "pmf_negative must sum": (0.5, [0, 1], [0.5, 0.4], f),
        "pmf_negative and pmf_positive must cover": (0.5, [0, 1], [0.5, 0.25, 0.25], f),
    }.items():
        for function in (target_information, target_moments):
            with pytest.raises(ValueError, match="^" + message):
                function(*arguments)
    with pytest.raises(ValueError, match=r"^targets must have one value"):
        target_information(0.5, 1.0, f, f)
    with pytest.raises(ValueError, match="two counts"):
        best_count_threshold(0.5, [1], [1])
    for q, base in ((0, 0.5), (0.5, 1), ([0.5, 1], 0.5)):
        with pytest.raises(ValueError, match=r"^q and base_rate"):
            shares_kept(q, base, WRONG, RIGHT)


# --- plain cross-entropy to a target --------------------------------------------------


def population(seed=0, m=7):
    rng = np.random.default_rng(seed)
    phi = np.column_stack([np.ones(m), rng.normal(size=(m, 2))])
    return phi, expit(phi @ rng.normal(size=3)), rng.uniform(0.5, 2, size=m)


def soft_population(seed=0):
    phi, q, weights = population(seed)
    soft = np.arange(17) / 16
    return phi, q, weights, soft, target_moments(q, soft, WRONG, RIGHT)


@pytest.mark.parametrize("seed", range(3))
def test_the_sandwich_of_a_soft_target_agrees_with_automatic_derivatives(seed):
    phi, q, weights, soft, moments = soft_population(seed)
    w, cov, floor = asymptotics.target_minimizer_and_sandwich(phi, q, *moments, weights)
    teacher = asymptotics.noisy_minimizer_and_sandwich(phi, q, 0, 0, weights).w
    joint = weights[:, None] * (q[:, None] * RIGHT + (1 - q[:, None]) * WRONG)
    joint /= weights.sum()

    def loss(w, x, y):
        return jnp.logaddexp(0, x @ w) - y * (x @ w)

    def risk(w, y, share):
        z = (phi @ w)[:, None]
        return jnp.sum(share * (jnp.logaddexp(0, z) - z * y))

    with jax.enable_x64(True):
        g = jax.vmap(jax.vmap(jax.grad(loss), (None, None, 0)), (None, 0, None))(
            w, phi, soft
        )
        sigma = np.einsum("mk,mkd,mke->de", joint, g, g)
        gradient = jax.grad(risk)(w, soft[None], joint)
        inverse = np.linalg.inv(jax.hessian(risk)(w, soft[None], joint))
        share = weights[:, None] / weights.sum()
        excess = risk(w, q[:, None], share) - risk(teacher, q[:, None], share)
    assert np.max(np.abs(np.asarray(gradient))) < 1e-13
    np.testing.assert_allclose(cov, inverse @ sigma @ inverse, rtol=1e-9)
    assert floor == pytest.approx(float(excess), rel=1e-9)
    assert floor > 1e-3


def test_simulated_fits_to_soft_targets_have_the_predicted_mean_and_spread():
    phi, q, weights, soft, moments = soft_population()
    w, cov, _ = asymptotics.target_minimizer_and_sandwich(phi, q, *moments, weights)
    rng = np.random.default_rng(1)
    n, fits = 20_000, 600
    cells = (q[:, None] * RIGHT + (1 - q[:, None]) * WRONG) * weights[:, None]
    counts = rng.multinomial(n, (cells / cells.sum()).ravel(), size=fits)
    counts = counts.reshape(fits, len(q), 17)
    found = []
    for each in counts:
        total = each.sum(axis=1)
        fit = asymptotics.target_minimizer_and_sandwich(
            phi, q, each @ soft / total, 0, total
        )
        found.append(fit.w)
    off = np.sqrt(n) * (np.array(found) - w)
    # Whitened, the spread is the identity; its entries have variance at most 2/fits.
    white = off @ np.linalg.inv(np.linalg.cholesky(cov)).T
    assert np.max(np.abs(white.mean(axis=0))) < 4.5 / np.sqrt(fits) + 20 / np.sqrt(n)
    np.testing.assert_allclose(
        white.T @ white / fits, np.eye(3), atol=4.5 * np.sqrt(2 / fits)
    )


def test_a_hard_label_is_a_target_and_the_posterior_has_no_floor():
    phi, q, weights = population(4)
    fpr, fnr = WRONG[1:].sum(), RIGHT[0]
    hard = target_moments(q, np.arange(17) > 0, WRONG, RIGHT)
    of_target = asymptotics.target_minimizer_and_sandwich(phi, q, *hard, weights)
    of_channel = asymptotics.noisy_minimizer_and_sandwich(phi, q, fpr, fnr, weights)
    for one, other in zip(of_target, of_channel, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8)
    # Pr(Y = 1 | K, phi) is unbiased, and the fit has only its variance: the sandwich is
    # H^-1 E[Var(posterior) phi phi'] H^-1.
    at = q[:, None]
    marginal = at * RIGHT + (1 - at) * WRONG
    posterior = at * RIGHT / marginal
    mean, variance = (marginal * posterior).sum(1), count_information(q, WRONG, RIGHT)
    fit = asymptotics.target_minimizer_and_sandwich(phi, q, mean, variance, weights)
    assert fit.excess_floor < 1e-20
    clean = asymptotics.noisy_minimizer_and_sandwich(phi, q, 0, 0, weights)
    np.testing.assert_allclose(fit.w, clean.w, rtol=1e-7)
    assert np.all(np.diag(fit.cov) < np.diag(clean.cov))


def test_moments_that_no_target_has_are_refused():
    phi, q, weights = population()
    for message, mean, variance in (
        ("mean must be in", -0.1, 0.0),
        ("variance must be in", 0.5, np.nan),
        ("variance must be at most", 0.5, 0.2501),
        (r"mean must broadcast to shape \[m = 7\]", np.full(3, 0.5), 0.0),
        (r"variance must broadcast", 0.5, np.zeros((1, 7))),
    ):
        with pytest.raises(ValueError, match="^" + message):
            asymptotics.target_minimizer_and_sandwich(phi, q, mean, variance, weights)
