"""AUROC after n noisy labels: against simulated fits, integrals and its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit, ndtr, ndtri
from scipy.stats import norm

from theory.agreement import auroc
from theory.gain import (
    LEADING_CONSTANT,
    cells_auroc,
    estimated_score_auroc,
    fit_constant,
    gaussian_constant,
    predicted_auroc,
)
from theory.label_noise import noisy_fisher_weight

AUROC = st.floats(0.55, 0.99)
INFORMATION = st.floats(1e-4, 0.25)
STEPS = st.floats(10, 1e6)


@given(STEPS, INFORMATION, AUROC, st.floats(0.05, 5))
def test_more_labels_or_better_ones_rank_better_up_to_the_minimiser(n, j, auroc, k):
    level = predicted_auroc(n, j, 32, auroc, k)
    assert 0.5 < level < auroc
    assert predicted_auroc(1.5 * n, j, 32, auroc, k) > level
    # Labels, their information, 1 / d and 1 / k are one thing: how much is known.
    for twin in (
        predicted_auroc(2 * n, j / 2, 32, auroc, k),
        predicted_auroc(n, j / 2, 16, auroc, k),
        predicted_auroc(n, j / 2, 32, auroc, k / 2),
    ):
        assert twin == pytest.approx(level, rel=1e-12)
    assert predicted_auroc(n, j, 32, auroc + 0.005, k) > level
    mirrored = predicted_auroc(n, j, 32, 1 - auroc, k)
    assert mirrored == pytest.approx(1 - level, abs=1e-9)


@given(INFORMATION, AUROC)
def test_its_limits_are_the_minimiser_s_auroc_and_a_guess(j, auroc):
    for limit in ((1e12, j, 32), (1e3, j, 1e-9)):
        assert predicted_auroc(*limit, auroc) == pytest.approx(auroc, abs=1e-6)
    for nothing in ((0, j, 32), (100, 0, 32), (1e-12, j, 32)):
        for of in (auroc, 1.0, 0.0):
            level = predicted_auroc(*nothing, of)
            assert level == pytest.approx(0.5, abs=1e-4) or of in (0, 1)
    assert predicted_auroc(0, j, 32, 1.0) == 0.5
    assert predicted_auroc(10, j, 32, 0.5) == 0.5
    assert predicted_auroc(10, j, 32, 1.0) == 1.0


def test_at_a_point_worked_by_hand():
    # z = 1; k d / (J n z^2) = .5 * 30 / (.05 * 100) = 3.
    assert predicted_auroc(100, 0.05, 30, ndtr(1)) == pytest.approx(ndtr(0.5))
    # z = 2, length^2 = 4 + 1, across = tr V - w'VWw / w'w = 4 - (4 + 3) / 5.
    found = estimated_score_auroc(10, [2, 1], np.diag([1, 3]), [2, 1], np.eye(2))
    z = 5 / np.sqrt(10)
    assert found == pytest.approx(ndtr(z / np.sqrt(1 + 2.6 / 50)))


@given(st.integers(0, 10**6))
def test_a_score_s_auroc_does_not_depend_on_coordinates(seed):
    rng = np.random.default_rng(seed)
    change = rng.normal(size=(4, 4)) + 3 * np.eye(4)
    root, spread = rng.normal(size=(2, 4, 4))
    within, cov, delta = (
        root @ root.T + np.eye(4),
        spread @ spread.T,
        rng.normal(size=4),
    )
    w = np.linalg.solve(within, delta)
    inverse = np.linalg.inv(change)
    moved = estimated_score_auroc(
        [3, 50], inverse.T @ w, inverse.T @ cov @ inverse,
        change @ delta, change @ within @ change.T,
    )  # fmt: skip
    given_ = estimated_score_auroc([3, 50], w, cov, delta, within)
    np.testing.assert_allclose(moved, given_, rtol=1e-9)


def test_errors_across_the_best_direction_cost_what_the_first_order_says():
    """Two scores' order in closed form, averaged over drawn errors of the weights."""
    rng = np.random.default_rng(0)
    d, n = 5, 4000
    root, spread = rng.normal(size=(2, d, d))
    within, cov, delta = (
        root @ root.T + np.eye(d),
        spread @ spread.T,
        rng.normal(size=d),
    )
    w = np.linalg.solve(within, delta)
    error = rng.multivariate_normal(np.zeros(d), cov / n, 20_000)
    drawn = []
    for weights in (w + error, w - error):
        length = np.einsum("nd,de,ne->n", weights, within, weights)
        drawn.append(ndtr(weights @ delta / np.sqrt(2 * length)))
    found = np.mean(drawn, axis=0)
    best = ndtr(w @ delta / np.sqrt(2 * w @ within @ w))
    lost = best - float(estimated_score_auroc(n, w, cov, delta, within))
    # What the errors cost, to 2 % (second order) and four standard errors.
    se = found.std() / np.sqrt(len(found))
    assert best - found.mean() == pytest.approx(lost, rel=0.02, abs=4 * se)
    assert lost > 50 * se


CHANNELS = [(0.5, 0.0, 0.0), (0.8, 0.3, 0.05), (0.3, 0.1, 0.2)]


@pytest.mark.parametrize(("q", "fpr", "fnr"), CHANNELS)
def test_the_constant_is_a_half_for_close_classes_in_many_dimensions(q, fpr, fnr):
    near = gaussian_constant(q, fpr, fnr, 0.01, 10**6)
    assert near == pytest.approx(LEADING_CONSTANT, rel=1e-3)
    for d in (2, 9):
        expected = near * (d - 1) / d
        assert gaussian_constant(q, fpr, fnr, 0.01, d) == pytest.approx(
            expected, rel=1e-5
        )
    grows = [gaussian_constant(q, fpr, fnr, s, 32) for s in (0.01, 0.7, 1.4, 2.1)]
    assert np.all(np.diff(grows) > 0)
    # Neither the name of a class nor of a label matters.
    for twin in ((1 - q, fnr, fpr), (q, 1 - fpr, 1 - fnr)):
        assert gaussian_constant(*twin, 1.4, 32) == pytest.approx(grows[2], rel=1e-7)


def test_without_noise_the_constant_is_an_integral():
    """The minimiser is S, and V = 1 / E[s (1 - s)]."""
    separation, q = 1.7, 0.7

    def density(x):
        return q * norm.pdf(x - separation / 2) + (1 - q) * norm.pdf(x + separation / 2)

    def weight(x):
        s = expit(np.log(q / (1 - q)) + separation * x)
        return s * (1 - s) * density(x)

    mean = quad(weight, -10, 10, epsabs=1e-12)[0]
    expected = 31 / 32 * q * (1 - q) / mean / 2
    found = gaussian_constant(q, 0, 0, separation, 32)
    assert found == pytest.approx(expected, rel=1e-8)


def _fitted_auroc(rng, n, d, separation, q, fpr, fnr):
    """Exact AUROC of a logistic fit to n labels of Gaussian classes."""
    right = rng.random(n) < q
    phi = np.column_stack([np.ones(n), rng.normal(size=(n, d))])
    phi[:, 1] += separation * (right - 0.5)
    y = right ^ (rng.random(n) < np.where(right, fnr, fpr))
    w = np.zeros(d + 1)
    for _ in range(7):
        s = expit(phi @ w)
        curvature = phi.T @ (phi * (s * (1 - s))[:, None])
        w += np.linalg.solve(curvature, phi.T @ (y - s))
    return ndtr(w[1] * separation / np.linalg.norm(w[1:]) / np.sqrt(2))


@pytest.mark.parametrize(("q", "fpr", "fnr"), [(0.5, 0.0, 0.0), (0.7, 0.2, 0.1)])
def test_simulated_students_have_the_derived_constant(q, fpr, fnr):
    rng = np.random.default_rng(1)
    d, separation, information = 12, 1.2, noisy_fisher_weight(q, fpr, fnr)
    n = round(150 / float(information))
    found = np.array(
        [_fitted_auroc(rng, n, d, separation, q, fpr, fnr) for _ in range(150)]
    )
    se = found.std(ddof=1) / np.sqrt(len(found))
    subset = n, information, d, ndtr(separation / np.sqrt(2))
    k = gaussian_constant(q, fpr, fnr, separation, d)
    level = predicted_auroc(*subset, k)
    # The second order in 1/n is some tenth of what is lost, squared: below .0005.
    allowed = 4 * se + 5e-4
    assert found.mean() == pytest.approx(level, abs=allowed)
    assert subset[-1] - found.mean() > 4 * allowed
    # One constant fitted to the level is the derived one, not one twice as large.
    assert fit_constant(found.mean(), *subset) == pytest.approx(k, rel=0.15)


@given(st.floats(-4, 4), st.integers(0, 10**6))
def test_a_fit_finds_the_constant_that_made_the_levels(decade, seed):
    rng = np.random.default_rng(seed)
    steps = np.exp(rng.uniform(5, 12, 20)) * 10**decade
    law = rng.uniform(0.01, 0.2, 20), 32, rng.uniform(0.6, 0.95, 20)
    levels = predicted_auroc(steps, *law, 10**decade)
    assert fit_constant(levels, steps, *law) == pytest.approx(10**decade, rel=1e-4)


def test_a_sign_that_noise_turns_is_kept():
    assert predicted_auroc(1000, 0.05, 32, 0.3) < 0.5
    assert ndtri(predicted_auroc(1000, 0.05, 32, 0.3)) > ndtri(0.3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: predicted_auroc(-1, 0.1, 32, 0.8), "steps"),
        (lambda: predicted_auroc(1, 0.26, 32, 0.8), "information"),
        (lambda: predicted_auroc(1, -0.1, 32, 0.8), "information"),
        (lambda: predicted_auroc(1, 0.1, 0, 0.8), "dimension"),
        (lambda: predicted_auroc(1, 0.1, 32, 1.1), "minimiser_auroc"),
        (lambda: predicted_auroc(1, 0.1, 32, 0.8, 0), "k must"),
        (lambda: fit_constant([1.2], 1, 0.1, 32, 0.8), "auroc"),
        (lambda: gaussian_constant(0.5, 0.4, 0.6, 1, 32), "say something"),
        (lambda: gaussian_constant(1.0, 0.1, 0.1, 1, 32), "say something"),
        (lambda: gaussian_constant(0.5, 0.1, 0.1, 0, 32), "separation"),
        (lambda: gaussian_constant(0.5, 0.1, 0.1, 1, 1), "dimension"),
        (lambda: estimated_score_auroc(0, [1], [[1]], [1], [[1]]), "n must"),
        (lambda: estimated_score_auroc(1, [0], [[1]], [1], [[1]]), "w'C w"),
        (lambda: estimated_score_auroc(1, [1], [[np.nan]], [1], [[1]]), "cov"),
    ],
)
def test_arguments_outside_their_range_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_the_auroc_of_cells_is_that_of_their_steps():
    rng = np.random.default_rng(0)
    means, weight = rng.normal(size=(6, 3)), rng.dirichlet(np.ones(6))
    right = np.array([True, False, True, False, False, True])
    w, variance = rng.normal(size=3), 1.7
    cell = rng.choice(6, 40_000, p=weight)
    scores = (means[cell] + np.sqrt(variance) * rng.normal(size=(40_000, 3))) @ w
    found = cells_auroc(w, means, right, weight, variance)
    # At most 1 / (4 n) for the smaller class (Bamber 1975).
    error = 0.5 / np.sqrt(min(right[cell].sum(), (~right[cell]).sum()))
    assert auroc(scores, right[cell]) == pytest.approx(found, abs=4 * error)
    assert cells_auroc(-w, means, right, weight, variance) == pytest.approx(1 - found)
    assert cells_auroc(9 * w, means, right, 5 * weight, variance) == pytest.approx(
        found
    )
    for change in ({"right_C": right | True}, {"variance": 0}, {"w_D": 0 * w}):
        asked = {"w_D": w, "mean_CxD": means, "right_C": right}
        asked |= {"weight_C": weight, "variance": variance} | change
        with pytest.raises(ValueError, match="must be"):
            cells_auroc(**asked)
