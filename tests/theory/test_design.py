"""Optimal design against autodiff, brute force over subsets, and simulated learning."""

from itertools import combinations
from typing import get_args

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from theory import design
from theory.label_noise import noisy_positive_prob

CRITERIA = get_args(design.Criterion)
SEEDS = st.integers(0, 10**6)


def random_design(seed, n_rollouts=7, d=3, ridge=0.3):
    """Informations of rollouts of 0 to 4 steps, a precision and a target matrix."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, size=n_rollouts)
    phi = rng.normal(size=(lengths.sum(), d))
    q = rng.uniform(0.05, 0.95, size=lengths.sum())
    information = design.rollout_information(phi, q, np.cumsum([0, *lengths]))
    held = rng.normal(size=(2, d))
    sight = rng.normal(size=(2, d))
    return information, held.T @ held + ridge * np.eye(d), sight.T @ sight


def arguments(criterion, target):
    return (criterion, target if criterion == "V" else None)


def direct_gain(information, precision, criterion, target):
    after = precision + information
    if criterion == "D":
        return np.linalg.slogdet(after)[1] - np.linalg.slogdet(precision)[1]
    moment = np.eye(len(precision)) if target is None else target
    return np.trace(moment @ (np.linalg.inv(precision) - np.linalg.inv(after)))


@jax.jit
def jax_information(w, teacher, phi, fpr, fnr):
    def expected_loss(w):
        label = (1 - fnr) * expit_(phi @ teacher) + fpr * (1 - expit_(phi @ teacher))
        student = (1 - fnr) * expit_(phi @ w) + fpr * (1 - expit_(phi @ w))
        return -jnp.sum(label * jnp.log(student) + (1 - label) * jnp.log1p(-student))

    return jax.hessian(expected_loss)(w)


def expit_(z):
    return 1 / (1 + jnp.exp(-z))


@pytest.mark.parametrize("seed", range(3))
def test_information_is_the_hessian_of_the_expected_noisy_likelihood(seed):
    rng = np.random.default_rng(seed)
    phi, teacher = rng.normal(size=(8, 3)), rng.normal(size=3)
    fpr, fnr = rng.uniform(0, 0.5, size=(2, 8))
    q = expit(phi @ teacher)
    offsets = [0, 3, 3, 8]
    information = design.rollout_information(phi, q, offsets, fpr, fnr)
    assert information.shape == (3, 3, 3)
    assert np.all(information[1] == 0)
    assert np.array_equal(information, np.swapaxes(information, 1, 2))
    with jax.enable_x64(True):
        # The whole is one shape to compile; parts are what is left of it.
        for i, steps in enumerate((slice(0, 3), slice(3, 3), slice(3, 8))):
            part = np.zeros_like(phi)
            part[steps] = phi[steps]
            hessian = jax_information(teacher, teacher, part, fpr, fnr)
            np.testing.assert_allclose(information[i], hessian, rtol=1e-9, atol=1e-13)


def test_information_is_the_covariance_of_simulated_scores():
    rng = np.random.default_rng(3)
    phi, q = rng.normal(size=(5, 2)), rng.uniform(0.1, 0.9, size=5)
    fpr, fnr = 0.1, 0.25
    noisy = noisy_positive_prob(q, fpr, fnr)
    y = rng.random((40_000, 5)) < noisy
    slope = (1 - fpr - fnr) * q * (1 - q)
    score = ((y - noisy) * slope / (noisy * (1 - noisy))) @ phi
    products = score[:, :, None] * score[:, None, :]
    information = design.rollout_information(phi, q, [0, 5], fpr, fnr)[0]
    error = np.abs(products.mean(axis=0) - information)
    assert np.all(error <= 4 * products.std(axis=0) / np.sqrt(len(y)))


@pytest.mark.parametrize("criterion", CRITERIA)
@settings(max_examples=50)
@given(SEEDS)
def test_gain_is_the_difference_of_the_criterion(criterion, seed):
    information, precision, target = random_design(seed)
    name, moment = arguments(criterion, target)
    gain = design.design_gain(information, precision, name, moment)
    assert gain.shape == (7,)
    assert gain.dtype == np.float64
    for one, matrix in zip(gain, information, strict=True):
        assert one == pytest.approx(
            direct_gain(matrix, precision, criterion, moment), rel=1e-9, abs=1e-12
        )
    assert np.all(gain >= 0)


@pytest.mark.parametrize("criterion", CRITERIA)
@settings(max_examples=50)
@given(SEEDS)
def test_more_information_never_gains_less(criterion, seed):
    information, precision, target = random_design(seed)
    name, moment = arguments(criterion, target)
    gain = design.design_gain(np.cumsum(information, axis=0), precision, name, moment)
    assert np.all(np.diff(gain) >= -1e-12)


@settings(max_examples=50)
@given(SEEDS)
def test_d_gain_is_a_chain_and_shrinks_with_what_is_held(seed):
    information, precision, _ = random_design(seed)
    first, second = information[:2]
    alone = design.design_gain(second, precision)
    after = design.design_gain(second, precision + first)
    assert after <= alone + 1e-12
    assert design.design_gain(first, precision) + after == pytest.approx(
        design.design_gain(first + second, precision), abs=1e-12
    )


@settings(max_examples=50)
@given(SEEDS)
def test_d_and_v_gains_do_not_depend_on_the_coordinates_of_w(seed):
    information, precision, target = random_design(seed)
    change = np.array([[3.0, 1, 0], [0, 0.1, 0], [2, 0, -1]])

    def move(matrix):
        moved = change.T @ matrix @ change
        return (moved + np.swapaxes(moved, -1, -2)) / 2

    for gain, moved in (
        (
            design.design_gain(information, precision),
            design.design_gain(move(information), move(precision)),
        ),
        (
            design.design_gain(information, precision, "V", target),
            design.design_gain(move(information), move(precision), "V", move(target)),
        ),
    ):
        np.testing.assert_allclose(moved, gain, rtol=1e-8, atol=1e-12)


def test_gains_by_hand():
    information, precision = np.diag([3.0, 0.0]), np.diag([1.0, 2.0])
    gain = design.design_gain
    assert gain(information, precision) == pytest.approx(np.log(4))
    assert gain(information, precision, "A") == pytest.approx(1 - 1 / 4)
    target = np.diag([10.0, 7.0])
    assert gain(information, precision, "V", target) == pytest.approx(7.5)
    assert gain(information, precision, "V", np.diag([0.0, 7.0])) == 0
    np.testing.assert_array_equal(gain(np.zeros((4, 2, 2)), precision), np.zeros(4))
    many = np.arange(15.0).reshape(3, 5)[..., None, None] * information
    np.testing.assert_allclose(
        gain(many, precision), np.log1p(3 * np.arange(15.0)).reshape(3, 5), rtol=1e-14
    )


@pytest.mark.parametrize("criterion", CRITERIA)
def test_tiny_gains_keep_their_digits(criterion):
    """Where the criterion before and after agree in all their 16 digits."""
    information = 1e-13 * np.array([[2.0, 1.0], [1.0, 3.0]])
    precision = np.array([[5.0, 1.0], [1.0, 4.0]])
    target = np.array([[1.0, 0.5], [0.5, 2.0]])
    name, moment = arguments(criterion, target)
    gain = design.design_gain(information, precision, name, moment)
    with mpmath.workdps(60):
        before = mpmath.matrix(precision.tolist())
        after = before + mpmath.matrix(information.tolist())
        if criterion == "D":
            exact = mpmath.log(mpmath.det(after) / mpmath.det(before))
        else:
            matrix = np.eye(2) if moment is None else moment
            fall = mpmath.inverse(before) - mpmath.inverse(after)
            product = mpmath.matrix(matrix.tolist()) * fall
            exact = product[0, 0] + product[1, 1]
    assert gain == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_information_far_above_the_precision_leaves_no_rounding_in_the_gain(criterion):
    """Rank one, 1e25 times the precision, beside a rollout of full rank."""
    axis = np.array([[3.0, 4, 0], [0, 5, 12], [0, 0, 0]]) / [[5], [13], [1]]
    information = 1e25 * axis[:, :, None] * axis[:, None, :]
    information[2] = np.eye(3)
    name, moment = arguments(criterion, np.eye(3))
    gain = design.design_gain(information, np.eye(3), name, moment)
    wanted = [np.log(1e25)] * 2 + [3 * np.log(2)] if name == "D" else [1, 1, 1.5]
    np.testing.assert_allclose(gain, wanted, rtol=1e-9)
    # After the axis of the first (or of the identity), the rest is what is left of it.
    rows = design.greedy_selection(information, 3, np.eye(3), name, moment)
    np.testing.assert_array_equal(rows, [0, 1, 2] if name == "D" else [2, 0, 1])


def test_gains_are_what_gaussian_learning_gains():
    """w ~ N(0, P^-1) seen through y ~ N(phi' w, 1): V is the fall of the squared error,
    D / 2 the mean log likelihood ratio (mutual information)."""
    rng = np.random.default_rng(8)
    phi = rng.normal(size=(4, 3))
    information, precision = phi.T @ phi, np.diag([0.5, 1.0, 2.0])
    target = np.diag([1.0, 0.5, 0.2]) + 0.1
    draws = 40_000
    w = rng.normal(size=(draws, 3)) / np.sqrt(np.diag(precision))
    y = w @ phi.T + rng.normal(size=(draws, 4))
    mean = y @ phi @ np.linalg.inv(precision + information)
    fall = np.einsum("ni,ij,nj->n", w, target, w)
    fall -= np.einsum("ni,ij,nj->n", w - mean, target, w - mean)
    gain = design.design_gain(information, precision, "V", target)
    assert abs(fall.mean() - gain) <= 4 * fall.std() / np.sqrt(draws)

    evidence = np.eye(4) + phi @ np.linalg.inv(precision) @ phi.T
    ratio = np.einsum("ni,ij,nj->n", y, np.linalg.inv(evidence), y)
    ratio = 0.5 * (ratio - ((y - w @ phi.T) ** 2).sum(axis=1))
    ratio += 0.5 * np.linalg.slogdet(evidence)[1]
    gain = design.design_gain(information, precision)
    assert abs(ratio.mean() - gain / 2) <= 4 * ratio.std() / np.sqrt(draws)


@pytest.mark.parametrize("criterion", CRITERIA)
@settings(max_examples=30)
@given(SEEDS)
def test_greedy_takes_the_largest_gain_every_time(criterion, seed):
    information, precision, target = random_design(seed)
    name, moment = arguments(criterion, target)
    rows = design.greedy_selection(information, 5, precision, name, moment)
    assert rows.dtype == np.int64
    assert len(set(rows)) == 5
    for taken, row in enumerate(rows):
        gain = design.design_gain(information, precision, name, moment)
        gain[rows[:taken]] = -np.inf
        assert gain[row] >= gain.max() - 1e-12
        precision = precision + information[row]
    prefix = design.greedy_selection(
        information, 3, random_design(seed)[1], name, moment
    )
    np.testing.assert_array_equal(prefix, rows[:3])


@settings(max_examples=15)
@given(SEEDS)
def test_d_greedy_is_near_the_best_set_and_top_gains_bound_it(seed):
    information, precision, _ = random_design(seed, n_rollouts=8)
    sets = np.array(list(combinations(range(8), 3)))
    best = design.design_gain(information[sets].sum(axis=1), precision).max()
    greedy = design.greedy_selection(information, 3, precision)
    reached = design.design_gain(information[greedy].sum(axis=0), precision)
    assert (1 - 1 / np.e) * best <= reached <= best + 1e-12
    top = design.top_selection(information, 3, precision)
    assert design.design_gain(information, precision)[top].sum() >= best - 1e-12


@pytest.mark.parametrize("criterion", CRITERIA)
def test_top_takes_the_best_one_by_one_and_breaks_ties_by_row(criterion):
    information, precision, target = random_design(0)
    name, moment = arguments(criterion, target)
    gain = design.design_gain(information, precision, name, moment)
    rows = design.top_selection(information, 4, precision, name, moment)
    np.testing.assert_array_equal(rows, np.argsort(-gain)[:4])
    assert rows.dtype == np.int64
    twins = information[[2, 5] * 50]
    best = int(gain[5] > gain[2])
    rows = design.top_selection(twins, 100, precision, name, moment)
    np.testing.assert_array_equal(rows[:50], np.arange(best, 100, 2))
    np.testing.assert_array_equal(rows[50:], np.arange(1 - best, 100, 2))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_greedy_sees_overlap_that_single_gains_do_not(criterion):
    first, second = np.diag([4.0, 0.0]), np.diag([0.0, 3.0])
    information = np.stack([second, first, first])
    name, moment = arguments(criterion, np.eye(2))
    top = design.top_selection(information, 2, np.eye(2), name, moment)
    greedy = design.greedy_selection(information, 2, np.eye(2), name, moment)
    np.testing.assert_array_equal(top, [1, 2])
    np.testing.assert_array_equal(greedy, [1, 0])


@pytest.mark.parametrize("select", [design.top_selection, design.greedy_selection])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_all_and_no_rollouts_can_be_taken(select, criterion):
    information, precision, target = random_design(1)
    name, moment = arguments(criterion, target)
    everything = select(information, 7, precision, name, moment)
    np.testing.assert_array_equal(np.sort(everything), np.arange(7))
    assert select(information, 0, precision, name, moment).shape == (0,)
    assert select(information[:0], 0, precision, name, moment).dtype == np.int64
    ties = select(np.stack([np.eye(3)] * 40), 40, precision, name, moment)
    np.testing.assert_array_equal(ties, np.arange(40))
    for size in (8, -1, 1.5):
        with pytest.raises(ValueError, match=r"^size must be "):
            select(information, size, precision, name, moment)
    with pytest.raises(ValueError, match=r"^information must have shape \[n_rollouts"):
        select(information[0], 0, precision, name, moment)


def test_one_rollout_cannot_be_scored_without_a_ridge():
    """Two steps do not span three dimensions: their Fisher matrix is singular."""
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(2, 3))
    information = design.rollout_information(phi, [0.5, 0.5], [0, 2])[0]
    for singular in (information, np.zeros((3, 3)), phi.T @ phi * 1e6):
        with pytest.raises(ValueError, match=r"^precision must be positive definite"):
            design.design_gain(information, singular)
    for ridge in (1e-8, 1.0):
        assert design.design_gain(information, information + ridge * np.eye(3)) > 0
    # Axes of very different scale are not singular.
    scales = np.diag([1e-20, 1.0, 1e20])
    assert design.design_gain(scales, scales) == pytest.approx(3 * np.log(2))


def test_asymmetry_and_curvature_of_the_size_of_rounding_are_no_fault():
    rounded = np.diag([1.0, 0.0, -1e-13]) + np.eye(3, k=1) * 1e-12
    assert design.design_gain(rounded, np.eye(3)) == pytest.approx(np.log(2))
    for fault in (1e-8 * np.eye(3, k=1), np.diag([0, 0, -1e-8])):
        for scale in (1e-9, 1.0, 1e9):
            with pytest.raises(ValueError, match="symmetric and positive semi-def"):
                design.design_gain(scale * (rounded + fault), np.eye(3))


def test_matrices_outside_their_domain_are_named():
    information, precision, target = random_design(2)
    gain = design.design_gain
    skew = np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 0]])
    for name, index in (("information", 0), ("precision", 1), ("target", 3)):
        good = [information, precision, "V", target]
        for wrong, message in (
            (np.nan * precision, "must be finite"),
            (np.ones(3), r"must have shape \[\.\.\., d, d\]"),
            (np.ones((2, 3)), r"must have shape \[\.\.\., d, d\]"),
            (np.ones((0, 0)), r"must have shape \[\.\.\., d, d\]"),
            (np.eye(3) + skew, "must be symmetric and positive semi-definite"),
            (-np.eye(3), "must be symmetric and positive semi-definite"),
            (np.diag([1, 1, -1e-6]), "must be symmetric and positive semi-definite"),
        ):
            bad = list(good)
            bad[index] = wrong
            with pytest.raises(ValueError, match=f"^{name} {message}"):
                gain(*bad)
    with pytest.raises(ValueError, match=r"^precision must have shape \[d, d\]"):
        gain(information, np.stack([precision]))
    with pytest.raises(ValueError, match=r"^information must have shape \[\.\.\., 3"):
        gain(np.eye(2), precision)
    with pytest.raises(ValueError, match=r"^target must have the shape of precision"):
        gain(information, precision, "V", np.eye(2))
    with pytest.raises(ValueError, match=r"^target must be given"):
        gain(information, precision, "V")
    with pytest.raises(ValueError, match=r"^target must be given"):
        gain(information, precision, "D", target)
    with pytest.raises(ValueError, match=r"^criterion must be"):
        gain(information, precision, "E")  # pyright: ignore[reportArgumentType]


def test_steps_outside_their_domain_are_named():
    inform = design.rollout_information
    phi, q = np.ones((3, 2)), np.full(3, 0.5)
    for offsets in ([1, 3], [0, 2], [0, 4], [0, 2, 1, 3], [], [[0, 3]], [0, 1.5, 3]):
        with pytest.raises(ValueError, match=r"^offsets must "):
            inform(phi, q, offsets)
    with pytest.raises(ValueError, match=r"^phi must have shape \[n_steps, d\]"):
        inform(phi[0], q, [0, 3])
    with pytest.raises(ValueError, match=r"^phi must be finite"):
        inform(phi * np.inf, q, [0, 3])
    with pytest.raises(ValueError, match=r"^q must be in"):
        inform(phi, q + 1, [0, 3])
    with pytest.raises(ValueError, match=r"^fpr must be in"):
        inform(phi, q, [0, 3], fpr=-1)
    with pytest.raises(ValueError, match=r"must broadcast to \[n_steps = 3\]"):
        inform(phi, q[:1], [0, 3])
    assert inform(phi, q, [0, 3]).dtype == np.float64
    # Certain steps say nothing about the logit.
    assert np.all(inform(phi, [0, 1, 1], [0, 3]) == 0)
