"""Two readers and no truth: exact recovery, coverage, derivatives, what is refused."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import xlogy

from theory import clusters, mixed, readers
from theory.readers import two_reader_rates, two_source_rates

PREVALENCE, FPR, FNR = [0.9, 0.75, 0.5], [0.35, 0.1], [0.04, 0.08]
rates = st.tuples(*4 * [st.floats(0.01, 0.45)])
SEEDS = st.integers(0, 2**32 - 1)


def tables(prevalence, fpr, fnr):
    """Probabilities ``[S, 2, 2]`` of (label, judgement), summed over the truth."""
    found = np.zeros((len(prevalence), 2, 2))
    for s, share in enumerate(prevalence):
        for truth, of_truth in ((1, share), (0, 1 - share)):
            says_1 = [1 - x for x in fnr] if truth else fpr
            for i in (0, 1):
                for j in (0, 1):
                    of_label = says_1[0] if i else 1 - says_1[0]
                    of_judge = says_1[1] if j else 1 - says_1[1]
                    found[s, i, j] += of_truth * of_label * of_judge
    return found


def estimates(fit):
    return np.concatenate([fit.prevalence, fit.fpr, fit.fnr])


def draw(rng, law, steps):
    """Multinomial counts of each source."""
    return np.array([rng.multinomial(steps, p.ravel()).reshape(2, 2) for p in law])


def test_examples_run():
    for module in (clusters, mixed, readers):
        assert doctest.testmod(module).failed == 0


@given(st.integers(2, 5), rates, SEEDS)
def test_population_tables_are_recovered_exactly(sources, rates, seed):
    rng = np.random.default_rng(seed)
    prevalence = rng.uniform(0.02, 0.98, sources)
    assume(np.ptp(prevalence) > 0.2)
    truth = np.concatenate([prevalence, rates])
    law = tables(prevalence, rates[:2], rates[2:])
    steps = rng.integers(10, 5000, sources)[:, None, None]
    fit = two_reader_rates(steps * law)
    np.testing.assert_allclose(estimates(fit), truth, atol=1e-6)
    assert fit.deviance < 1e-6
    assert not np.any(fit.at_bound)
    pair = [np.argmin(prevalence), np.argmax(prevalence)]
    closed = two_source_rates(law[pair])
    np.testing.assert_allclose(closed[0], prevalence[pair], atol=1e-9)
    np.testing.assert_allclose(np.ravel(closed[1:]), rates, atol=1e-9)


def test_of_two_mirror_images_the_judge_is_better_than_chance():
    # A label worse than chance stays so; a judge worse than chance is never found.
    law = tables([0.7, 0.2], [0.8, 0.1], [0.6, 0.2])
    np.testing.assert_allclose(
        estimates(two_reader_rates(law)), [0.7, 0.2, 0.8, 0.1, 0.6, 0.2], atol=1e-6
    )
    mirrored = tables([0.3, 0.8], [0.4, 0.8], [0.2, 0.9])
    np.testing.assert_allclose(mirrored, law, rtol=1e-12)
    np.testing.assert_allclose(two_source_rates(mirrored)[0], [0.7, 0.2], rtol=1e-9)


@given(SEEDS, st.integers(60, 2000))
def test_the_closed_form_is_the_maximum_where_it_is_inside(seed, steps):
    counts = draw(np.random.default_rng(seed), tables([0.9, 0.5], FPR, FNR), steps)
    try:
        closed = np.concatenate(two_source_rates(counts))
    except ValueError:
        assume(False)
    assume(np.all((closed > 1e-3) & (closed < 1 - 1e-3)))
    fit = two_reader_rates(counts)
    np.testing.assert_allclose(estimates(fit), closed, atol=1e-6)
    # Six rates for six frequencies: it fits perfectly.
    assert fit.deviance < 1e-6


def test_likelihood_score_and_covariance_equal_autodiff():
    counts = draw(np.random.default_rng(0), tables(PREVALENCE, FPR, FNR), 400)
    fit = two_reader_rates(counts)

    def log_likelihood(theta):
        share, fpr, fnr = theta[:-4, None, None], theta[-4:-2], theta[-2:]
        right = jnp.outer(*jnp.stack([fnr, 1 - fnr], axis=1))
        wrong = jnp.outer(*jnp.stack([1 - fpr, fpr], axis=1))
        law = share * right[None] + (1 - share) * wrong[None]
        return jnp.sum(counts * jnp.log(law))

    with jax.enable_x64(True):
        at = jnp.asarray(estimates(fit))
        value = float(log_likelihood(at))
        score = np.asarray(jax.jit(jax.grad(log_likelihood))(at))
        hessian = np.asarray(jax.jit(jax.hessian(log_likelihood))(at))
    np.testing.assert_allclose(fit.log_likelihood, value, rtol=1e-12)
    np.testing.assert_allclose(fit.covariance, np.linalg.inv(-hessian), rtol=1e-7)
    errors = np.concatenate(fit.standard_errors)
    np.testing.assert_allclose(score * errors, 0, atol=1e-4)
    np.testing.assert_allclose(errors**2, np.diag(fit.covariance), rtol=1e-12)
    assert [len(x) for x in fit.standard_errors] == [3, 2, 2]


def test_intervals_cover_and_the_deviance_is_chi_squared():
    rng, replicates, steps = np.random.default_rng(1), 400, 1500
    law, truth = tables(PREVALENCE, FPR, FNR), [*PREVALENCE, *FPR, *FNR]
    covered, distance, deviance = [], [], []
    for _ in range(replicates):
        counts = draw(rng, law, steps)
        fit = two_reader_rates(counts)
        offset = estimates(fit) - truth
        covered.append(np.abs(offset) < 1.96 * np.concatenate(fit.standard_errors))
        distance.append(offset @ np.linalg.solve(fit.covariance, offset))
        deviance.append(fit.deviance)
        # The maximum is no local one beside the truth.
        assert fit.log_likelihood >= np.sum(xlogy(counts, law))
    allowed = 4 * np.sqrt(0.95 * 0.05 / replicates)
    assert np.all(np.abs(np.mean(covered, axis=0) - 0.95) < allowed)
    # Chi-squared with k degrees of freedom has the variance 2 k.
    assert abs(np.mean(distance) - 7) < 4 * np.sqrt(14 / replicates) + 0.5
    assert scipy.stats.kstest(deviance, scipy.stats.chi2(2).cdf).pvalue > 1e-3


def test_sources_tell_whether_rates_differ_and_never_whether_errors_are_shared():
    """Three tables and more lie on one line, whatever the law of wrong steps."""
    prevalence = [0.9, 0.75, 0.5, 0.3]
    share = np.array(prevalence)[:, None, None]
    # A tenth of all wrong steps looks right to both readers.
    shared = np.array([[0.0, 0.0], [0.0, 0.1]])
    wrong = 0.9 * tables([0], FPR, FNR) + shared
    right = tables([1], FPR, FNR)
    counts = 10_000 * (share * right + (1 - share) * wrong)
    fit = two_reader_rates(counts)
    assert fit.deviance < 1e-3
    # The right steps are right; both readers look better on the wrong ones than both
    # are, and more steps are taken for right than are.
    marginal = [wrong[0, 1].sum(), wrong[0, :, 1].sum()]
    assert np.all(fit.fpr < np.subtract(marginal, 0.05))
    np.testing.assert_allclose(fit.fnr, FNR, atol=1e-4)
    assert np.all(fit.prevalence > np.array(prevalence) + 0.005)
    # Rates that differ between sources do show.
    counts[0] = 10_000 * tables([0.9], [0.6, 0.1], FNR)[0]
    assert two_reader_rates(counts).deviance > 20


def test_an_estimate_at_its_bound_is_held_there():
    # Nobody says 1 of a wrong step: fpr = 0, beyond it the likelihood still grows.
    counts = 1000 * tables([0.8, 0.3], [0.0, 0.0], [0.2, 0.1])
    fit = two_reader_rates(counts)
    np.testing.assert_array_equal(fit.at_bound, [0, 0, 1, 1, 0, 0])
    np.testing.assert_allclose(estimates(fit), [0.8, 0.3, 0, 0, 0.2, 0.1], atol=1e-5)
    np.testing.assert_array_equal(fit.standard_errors[1], 0)
    assert np.all(fit.standard_errors[0] > 0.01)
    # Given fpr = 0 the judge's fnr is that of label-positive steps, a binomial share.
    right = counts.sum(axis=0)[1].sum()
    np.testing.assert_allclose(
        fit.standard_errors[2][1], np.sqrt(0.1 * 0.9 / right), rtol=0.1
    )


def test_sources_of_the_real_number_are_quick_and_exact():
    prevalence = np.linspace(0.5, 0.98, 38)
    fit = two_reader_rates(200 * tables(prevalence, FPR, FNR))
    np.testing.assert_allclose(estimates(fit), [*prevalence, *FPR, *FNR], atol=1e-5)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (tables([0.8], FPR, FNR), r"^counts must have shape \[S, 2, 2\] with S >= 2"),
        (np.ones((2, 2, 3)), r"^counts must have shape"),
        (np.ones((2, 2)), r"^counts must have shape"),
        ([[[1, 2], [3, 4]], np.zeros((2, 2))], "^counts must hold at least one step"),
        (-np.ones((2, 2, 2)), "^counts must be in"),
        (np.full((2, 2, 2), np.nan), "^counts must be in"),
        (tables([0.6, 0.6], FPR, FNR), "^counts must come from sources of different"),
        (tables([0.6, 0.3], [0.7, 0.1], [0.3, 0.1]), "^counts must have a label that"),
        (tables([0.6, 0.3], [0.1, 0.8], [0.1, 0.2]), "^counts must have a judge that"),
    ],
)
def test_what_tables_do_not_identify_is_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        two_reader_rates(counts)


def test_the_closed_form_refuses_what_it_cannot_solve():
    with pytest.raises(ValueError, match=r"^counts must have two sources, not 3"):
        two_source_rates(tables(PREVALENCE, FPR, FNR))
    # Both readers find more in the first source and yet disagree within each.
    against = np.array([[[145, 255], [255, 345]], [[345, 255], [255, 145]]])
    with pytest.raises(ValueError, match=r"^counts must be such that a real"):
        two_source_rates(against)
    # The likelihood has a maximum all the same, at its bounds.
    fit = two_reader_rates(against)
    np.testing.assert_allclose(estimates(fit), [1, 0, 0.4, 0.4, 0.4, 0.4], atol=1e-6)
    np.testing.assert_allclose(fit.standard_errors[1], np.sqrt(0.24 / 1000), rtol=1e-6)
    assert fit.deviance > 1
    # Readers that never err, and sources of one kind: nothing is inside its bounds.
    perfect = two_reader_rates([[[5, 0], [0, 0]], [[0, 0], [0, 9]]])
    assert np.all(perfect.at_bound)
    np.testing.assert_allclose(perfect.prevalence, [0, 1], atol=1e-6)
