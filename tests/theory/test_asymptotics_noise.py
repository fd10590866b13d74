"""Where noisy labels lead: JAX, closed forms of saturated models, simulated fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.special import expit, logit, rel_entr

from theory import asymptotics, simulate
from theory.label_noise import noisy_positive_prob

RATE = st.floats(0, 0.45)


def teacher_population(seed, m=7, d=3, scale=1.0):
    """Features with an intercept, a teacher, its labels and uneven weights."""
    rng = np.random.default_rng(seed)
    phi = np.column_stack([np.ones(m), rng.normal(size=(m, d - 1))])
    teacher = scale * rng.normal(size=d)
    return phi, teacher, expit(phi @ teacher), rng.uniform(0.5, 2, size=m)


def clean_risk(w, phi, q, weights):
    z = phi @ w
    return weights @ (np.logaddexp(0, z) - q * z) / weights.sum()


def jax_population_loss(w, phi, q, weights):
    z = phi @ w
    return weights @ (jnp.logaddexp(0, z) - q * z) / weights.sum()


@jax.jit
def jax_oracle(w, clean, phi, q, noisy, weights):
    """Gradients at both minimisers, H^-1 Sigma H^-1 and the excess, by autodiff."""

    def loss(w, phi, y):
        return jnp.logaddexp(0, phi @ w) - y * (phi @ w)

    sigma = 0.0
    for y, probability in ((1.0, noisy), (0.0, 1 - noisy)):
        g = jax.vmap(jax.grad(loss), (None, 0, None))(w, phi, y)
        sigma += (g * (weights * probability / weights.sum())[:, None]).T @ g
    inverse = jnp.linalg.inv(jax.hessian(jax_population_loss)(w, phi, noisy, weights))
    return (
        jax.grad(jax_population_loss)(w, phi, noisy, weights),
        jax.grad(jax_population_loss)(clean, phi, q, weights),
        inverse @ sigma @ inverse,
        jax_population_loss(w, phi, q, weights)
        - jax_population_loss(clean, phi, q, weights),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("specified", [True, False])
def test_minimiser_and_sandwich_agree_with_automatic_derivatives(seed, specified):
    phi, _, q, weights = teacher_population(seed)
    rng = np.random.default_rng(seed)
    if not specified:
        q = rng.uniform(0.1, 0.9, size=len(q))
    fpr, fnr = rng.uniform(0, 0.4, size=(2, len(q)))
    w, cov, floor = asymptotics.noisy_minimizer_and_sandwich(phi, q, fpr, fnr, weights)
    clean = asymptotics.noisy_minimizer_and_sandwich(phi, q, 0, 0, weights).w
    noisy = noisy_positive_prob(q, fpr, fnr)
    with jax.enable_x64(True):
        oracle = jax_oracle(w, clean, phi, q, noisy, weights)
    gradient, at_clean, sandwich, excess = map(np.asarray, oracle)
    assert np.max(np.abs(gradient)) < 1e-14
    assert np.max(np.abs(at_clean)) < 1e-14
    np.testing.assert_allclose(cov, sandwich, rtol=1e-9)
    assert floor == pytest.approx(float(excess), rel=1e-9)


@pytest.mark.parametrize("scale", [0.1, 1, 8])
def test_without_noise_the_teacher_is_found_and_the_rate_is_d_over_2n(scale):
    phi, teacher, q, weights = teacher_population(4, scale=scale)
    w, cov, floor = asymptotics.noisy_minimizer_and_sandwich(phi, q, 0, 0, weights)
    np.testing.assert_allclose(w, teacher, rtol=1e-9)
    share = weights / weights.sum()
    np.testing.assert_allclose(
        np.linalg.inv(cov), phi.T @ ((share * q * (1 - q))[:, None] * phi), rtol=1e-9
    )
    assert floor == 0
    np.testing.assert_allclose(
        asymptotics.leading_excess_risk([10, 1000], phi, q, 0, 0, weights),
        asymptotics.leading_mle_excess_risk([10, 1000], 3),
        rtol=1e-9,
    )
    assert asymptotics.noise_floor_crossover(phi, q, 0, 0, weights) == np.inf
    bias = asymptotics.first_order_bias(phi, q, 0, 0, weights)
    np.testing.assert_array_equal(bias, 0)


@settings(max_examples=40)
@given(st.floats(0.01, 0.99), RATE, RATE)
def test_an_intercept_alone_goes_to_the_noisy_base_rate(q, fpr, fnr):
    """d = 1, phi = 1: everything has a closed form, the coefficient by the delta
    method: q~ (1 - q~) / 2 times the curvature of KL(q || p) in p at q~."""
    noisy = float(noisy_positive_prob(q, fpr, fnr))
    arguments = ([[1.0]], [q], fpr, fnr)
    w, cov, floor = asymptotics.noisy_minimizer_and_sandwich(*arguments)
    assert w[0] == pytest.approx(logit(noisy), rel=1e-9, abs=1e-12)
    assert cov[0, 0] == pytest.approx(1 / (noisy * (1 - noisy)), rel=1e-9)
    lost = float(rel_entr(q, noisy) + rel_entr(1 - q, 1 - noisy))
    assert floor == pytest.approx(lost, rel=1e-9, abs=1e-15)
    coefficient = 0.5 * (q * (1 - noisy) / noisy + (1 - q) * noisy / (1 - noisy))
    assert asymptotics.excess_coefficient(*arguments) == pytest.approx(
        coefficient, rel=1e-9
    )
    assert asymptotics.leading_excess_risk(50, *arguments) == pytest.approx(
        lost + coefficient / 50, rel=1e-9
    )
    crossover = asymptotics.noise_floor_crossover(*arguments)
    if floor > 1e-12:
        assert coefficient / crossover == pytest.approx(lost, rel=1e-6)


def test_a_saturated_model_is_one_base_rate_per_cell():
    """One indicator per feature; rates that depend on the feature broadcast."""
    q, fpr, fnr = np.array([0.9, 0.4, 0.2]), np.array([0.3, 0, 0.1]), 0.2
    weights = np.array([5.0, 3.0, 2.0])
    noisy = noisy_positive_prob(q, fpr, fnr)
    model = asymptotics.noisy_minimizer_and_sandwich(np.eye(3), q, fpr, fnr, weights)
    np.testing.assert_allclose(model.w, logit(noisy), rtol=1e-12)
    np.testing.assert_allclose(
        model.cov, np.diag(10 / (weights * noisy * (1 - noisy))), atol=1e-9
    )
    per_cell = rel_entr(q, noisy) + rel_entr(1 - q, 1 - noisy)
    assert model.excess_floor == pytest.approx(weights @ per_cell / 10, rel=1e-12)
    coefficient = 0.5 * (q * (1 - noisy) / noisy + (1 - q) * noisy / (1 - noisy))
    assert asymptotics.excess_coefficient(
        np.eye(3), q, fpr, fnr, weights
    ) == pytest.approx(coefficient.sum(), rel=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 10**6), RATE, RATE)
def test_small_noise_moves_the_minimiser_by_the_first_order_bias(seed, fpr, fnr):
    phi, teacher, q, weights = teacher_population(seed)
    step = 1e-5
    rates = (step * fpr, step * fnr)
    w, _, floor = asymptotics.noisy_minimizer_and_sandwich(phi, q, *rates, weights)
    bias = asymptotics.first_order_bias(phi, q, *rates, weights)
    np.testing.assert_allclose(w - teacher, bias, rtol=0.01, atol=1e-3 * step)
    share = weights / weights.sum()
    hessian = phi.T @ ((share * q * (1 - q))[:, None] * phi)
    assert floor == pytest.approx(
        bias @ hessian @ bias / 2, rel=0.01, abs=1e-3 * step**2
    )
    # The 1/n term is tr(H V) / 2 with the clean Hessian up to second order; with the
    # noisy one it would be off by the bias of the fit, first order.
    _, cov, _ = asymptotics.noisy_minimizer_and_sandwich(phi, q, *rates, weights)
    assert asymptotics.excess_coefficient(phi, q, *rates, weights) == pytest.approx(
        np.trace(hessian @ cov) / 2, abs=1e-3 * step
    )
    # Linear in the rates, exactly.
    np.testing.assert_allclose(
        asymptotics.first_order_bias(phi, q, fpr, fnr, weights) * step, bias, atol=1e-14
    )


@settings(max_examples=30)
@given(st.integers(0, 10**6), RATE, RATE)
def test_the_floor_does_not_depend_on_coordinates_or_on_which_class_is_one(
    seed, fpr, fnr
):
    phi, _, q, weights = teacher_population(seed)
    model = asymptotics.noisy_minimizer_and_sandwich(phi, q, fpr, fnr, weights)
    change = np.array([[2.0, 1.0, 0.0], [0.0, -1.0, 0.5], [0.3, 0.0, 1.0]])
    moved = asymptotics.noisy_minimizer_and_sandwich(phi @ change, q, fpr, fnr, weights)
    np.testing.assert_allclose(change @ moved.w, model.w, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        change @ moved.cov @ change.T, model.cov, rtol=1e-6, atol=1e-8
    )
    assert moved.excess_floor == pytest.approx(model.excess_floor, rel=1e-6, abs=1e-15)
    mirrored = asymptotics.noisy_minimizer_and_sandwich(phi, 1 - q, fnr, fpr, weights)
    np.testing.assert_allclose(mirrored.w, -model.w, rtol=1e-6, atol=1e-9)
    assert model.excess_floor >= 0
    assert mirrored.excess_floor == pytest.approx(
        model.excess_floor, rel=1e-6, abs=1e-15
    )


def test_labels_that_always_flip_teach_the_opposite():
    phi, teacher, q, weights = teacher_population(6)
    model = asymptotics.noisy_minimizer_and_sandwich(phi, q, 1, 1, weights)
    np.testing.assert_allclose(model.w, -teacher, rtol=1e-9)


def test_weights_are_multiplicities_and_features_that_never_occur_do_not_matter():
    phi, _, q, _ = teacher_population(7, m=4, d=2)
    counts = np.array([2, 1, 3, 0])
    rows = np.repeat(np.arange(4), counts)
    fpr, fnr = np.array([[0.1, 0.3, 0.0, 0.2], [0.2, 0.1, 0.1, 0.3]])
    weighted = asymptotics.noisy_minimizer_and_sandwich(phi, q, fpr, fnr, counts)
    repeated = asymptotics.noisy_minimizer_and_sandwich(
        phi[rows], q[rows], fpr[rows], fnr[rows]
    )
    np.testing.assert_allclose(weighted.w, repeated.w, rtol=1e-10)
    np.testing.assert_allclose(weighted.cov, repeated.cov, rtol=1e-10)
    assert weighted.excess_floor == pytest.approx(repeated.excess_floor, rel=1e-9)


def test_newton_is_damped_where_full_steps_would_run_away():
    """Far-out, uneven features: undamped steps from w = 0 overshoot and diverge."""
    phi = np.array([[1.0, 0.0], [1.0, 40.0], [1.0, -1.0], [1.0, 39.0]])
    q = np.array([1e-9, 1 - 1e-10, 0.999, 0.3])
    w, _, _ = asymptotics.noisy_minimizer_and_sandwich(phi, q, 0.0, 0.0)
    gradient = (expit(phi @ w) - q) @ phi / 4
    assert np.max(np.abs(gradient)) < 1e-12


@pytest.mark.parametrize(
    ("phi", "q", "fpr", "fnr", "weights"),
    [
        (
            [[1, -1.0], [1, 0.5], [1, 2.0], [1, -2.0]],
            [0.3, 0.6, 0.9, 0.1],
            [0.1, 0.3, 0.0, 0.2],
            [0.05, 0.1, 0.25, 0.0],
            [1.0, 2.0, 1.5, 1.0],
        ),
        # Heavy noise, far from any linear model: here the 1/n term is negative.
        ([[0.5], [3.0]], [0.99, 0.98], [0.4, 0.1], [0.0, 0.2], [9.0, 3.0]),
    ],
)
def test_simulated_fits_have_the_predicted_spread_and_excess(phi, q, fpr, fnr, weights):
    world = phi, q, fpr, fnr, weights
    fitted = simulate.check("noisy_minimizer_and_sandwich", *world)
    assert all(np.all(np.abs(z) <= 4) for z in fitted.z)
    coefficient, _, se, z = simulate.check("excess_coefficient", *world)
    assert abs(z) <= 4
    assert se < 0.05 * abs(coefficient)
    floor = fitted.closed_form.excess_floor
    assert asymptotics.leading_excess_risk(60_000, *world) == pytest.approx(
        floor + coefficient / 60_000, rel=1e-12
    )
    crossover = asymptotics.noise_floor_crossover(*world)
    assert crossover == pytest.approx(max(coefficient, 0) / floor)


def test_more_noisy_data_does_not_lower_the_floor():
    """Eq. 4 falls to 0 with the data; the risk of a fit to noisy labels does not."""
    phi, _, q, weights = teacher_population(1)
    noisy = (phi, q, 0.2, 0.4, weights)
    floor = asymptotics.noisy_minimizer_and_sandwich(*noisy).excess_floor
    risk = asymptotics.leading_excess_risk(10 ** np.arange(2, 12, 3), *noisy)
    assert np.all(np.diff(risk) < 0)
    assert risk[-1] == pytest.approx(floor, rel=1e-6)
    assert floor > 0.005
    n = int(asymptotics.noise_floor_crossover(*noisy))
    assert asymptotics.leading_excess_risk(n, *noisy) == pytest.approx(
        2 * floor, rel=0.02
    )
    assert asymptotics.leading_excess_risk(1000 * n, *noisy) < 1.01 * floor


def test_the_floor_of_symmetric_flips_is_none_of_the_ranking():
    """Flips that features do not see keep the Bayes order and the decision at 1/2."""
    q = np.linspace(0.05, 0.95, 7)
    saturated = np.eye(7), q, 0.2, 0.2
    w, _, floor = asymptotics.noisy_minimizer_and_sandwich(*saturated)
    assert floor > 0.02
    assert np.all(np.diff(w) > 0)
    np.testing.assert_array_equal(np.sign(w.round(9)), np.sign((q - 0.5).round(9)))


def test_labels_without_a_finite_minimiser_are_refused():
    line = np.column_stack([np.ones(4), [-2, -1, 1, 2]])
    no_minimiser = "no finite minimiser"
    for q in ([0, 0, 1, 1], [0, 0.5, 1, 1], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match=no_minimiser):
            asymptotics.noisy_minimizer_and_sandwich(line, q, 0, 0)
    # Certain labels on both sides of each other are no obstacle,
    asymptotics.noisy_minimizer_and_sandwich(line, [0, 1, 0, 1], 0, 0)
    # but noise that hides a separable truth leaves the floor undefined.
    with pytest.raises(ValueError, match=no_minimiser):
        asymptotics.noisy_minimizer_and_sandwich(line, [0, 0, 1, 1], 0.1, 0.1)


def test_populations_of_the_wrong_shape_or_range_are_named():
    phi, _, q, _ = teacher_population(0)

    def refuse(message, phi=phi, q=q, fpr: ArrayLike = 0.1, fnr=0.1, weights=None):
        for function in (
            asymptotics.noisy_minimizer_and_sandwich,
            asymptotics.first_order_bias,
            asymptotics.excess_coefficient,
            asymptotics.noise_floor_crossover,
        ):
            with pytest.raises(ValueError, match="^" + message):
                function(phi, q, fpr, fnr, weights)

    refuse("phi must be finite", phi=phi * np.nan)
    for wrong in (phi[0], phi[None], phi[:, :0], phi[:0]):
        refuse(r"phi must have shape \[m, d\]", phi=wrong)
    refuse("phi must have full column rank", phi=np.column_stack([phi, phi[:, 0]]))
    refuse("phi must have full column rank", weights=np.array([1, 1, 0, 0, 0, 0, 0]))
    refuse(r"q must be in \[0, 1\]", q=q + 1)
    refuse(r"q must have shape \[m = 7\]", q=q[:3])
    refuse(r"q must have shape \[m = 7\]", q=0.5)
    refuse("fpr must be in", fpr=-0.1)
    refuse("fnr must be in", fnr=np.nan)
    refuse(r"fpr and fnr must broadcast to shape \[m = 7\]", fpr=np.zeros((2, 7)))
    refuse("weights must be in", weights=-np.ones(7))
    refuse(r"weights must have shape \[m = 7\]", weights=np.ones(3))
    refuse("weights must be >= 0 with at least one > 0", weights=np.zeros(7))
    for n in (0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"^n must be an integer in"):
            asymptotics.leading_excess_risk(n, phi, q, 0.1, 0.1)
