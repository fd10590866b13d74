import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.label_noise import noisy_fisher_weight, noisy_positive_prob
from theory.logistic import (
    gradient_second_moment,
    gradient_snr,
    logistic_gradient,
    logistic_hessian,
    logistic_loss,
)

probability = st.floats(0, 1, allow_subnormal=False)
interior = st.floats(1e-3, 1 - 1e-3)


def jax_loss(w, phi, y):
    logit = jnp.dot(w, phi)
    return -y * jax.nn.log_sigmoid(logit) - (1 - y) * jax.nn.log_sigmoid(-logit)


jax_gradient = jax.jit(jax.grad(jax_loss))


def batch(n=64, dim=5, scale=1.0):
    rng = np.random.default_rng(0)
    y = np.concatenate([np.zeros(n // 4), np.ones(n // 4), rng.random(n // 2)])
    return scale * rng.normal(size=dim), rng.normal(size=(n, dim)), y


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_loss_gradient_and_hessian_equal_autodiff(scale):
    w, phi, y = batch(scale=scale)
    with jax.enable_x64(True):
        loss, gradient, hessian = (
            jax.jit(jax.vmap(function, (None, 0, 0)))(w, phi, y)
            for function in (jax_loss, jax_gradient, jax.hessian(jax_loss))
        )
        assert gradient.dtype == hessian.dtype == jnp.float64
        np.testing.assert_allclose(logistic_loss(w, phi, y), loss, rtol=1e-9)
        np.testing.assert_allclose(
            logistic_gradient(w, phi, y), gradient, rtol=1e-9, atol=1e-14
        )
        # Autodiff computes 1 - q_w by subtraction: it is the one that is less exact.
        np.testing.assert_allclose(
            logistic_hessian(w, phi), hessian, rtol=1e-9, atol=1e-15
        )


@pytest.mark.parametrize("logit", [-745.0, -700.0, -40.0, 0.0, 1e-9, 40.0, 700.0])
@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
def test_extreme_logits_keep_every_digit(logit, y):
    with mp.workdps(400):
        z, label = mp.mpf(logit), mp.mpf(y)
        student = 1 / (1 + mp.exp(-z))
        loss = -label * mp.log(student) - (1 - label) * mp.log(1 - student)
        expected = [loss, (student - label) * 3, student * (1 - student) * 9]
    w, phi = np.array([logit / 3]), np.array([3.0])
    got = [
        logistic_loss(w, phi, y),
        logistic_gradient(w, phi, y)[0],
        logistic_hessian(w, phi)[0, 0],
    ]
    for ours, exact in zip(got, expected, strict=True):
        # Below 1e-307 float64 itself has fewer digits.
        assert abs(float(mp.mpf(float(ours)) - exact)) <= 1e-12 * abs(exact) + 1e-322


@given(st.floats(-800, 800), st.integers(0, 1024))
def test_the_loss_is_symmetric_under_exchange_of_the_labels(logit, y):
    one, y = np.ones(1), y / 1024
    swapped = logistic_loss(-logit * one, one, 1 - y)
    np.testing.assert_allclose(logistic_loss(logit * one, one, y), swapped, rtol=1e-12)
    assert logistic_loss(logit * one, one, y) >= 0
    np.testing.assert_array_equal(
        logistic_hessian(logit * one, one), logistic_hessian(-logit * one, one)
    )


def test_the_soft_label_equal_to_the_student_is_a_stationary_point():
    w, phi, _ = batch()
    student = 1 / (1 + np.exp(-phi @ w))
    assert np.abs(logistic_gradient(w, phi, student)).max() < 1e-15


def test_the_hessian_is_symmetric_to_the_last_bit_and_of_rank_one():
    w, phi, _ = batch()
    hessian = logistic_hessian(w, phi)
    np.testing.assert_array_equal(hessian, np.swapaxes(hessian, -1, -2))
    values = np.linalg.eigvalsh(hessian)
    assert np.all(np.abs(values[:, :-1]) < 1e-15)
    student = 1 / (1 + np.exp(-phi @ w))
    np.testing.assert_allclose(
        values[:, -1], student * (1 - student) * (phi**2).sum(-1), rtol=1e-12
    )


def test_arguments_broadcast_over_leading_axes():
    rng = np.random.default_rng(1)
    w, phi = rng.normal(size=(4, 1, 3)), rng.normal(size=(5, 3))
    y = rng.random((4, 5))
    assert logistic_loss(w, phi, y).shape == (4, 5)
    assert logistic_gradient(w, phi, y).shape == (4, 5, 3)
    assert logistic_hessian(w, phi).shape == (4, 5, 3, 3)
    for i, j in itertools.product(range(4), range(5)):
        one = w[i, 0], phi[j], y[i, j]
        assert logistic_loss(w, phi, y)[i, j] == logistic_loss(*one)
        np.testing.assert_array_equal(
            logistic_gradient(w, phi, y)[i, j], logistic_gradient(*one)
        )
        np.testing.assert_array_equal(
            logistic_hessian(w, phi)[i, j], logistic_hessian(*one[:2])
        )
    integers = logistic_gradient([1, 2], [3, 4], 1)
    assert integers.dtype == np.float64


@pytest.mark.parametrize(
    ("w", "phi", "y", "message"),
    [
        ([np.nan], [1.0], 0.0, "^w must be finite"),
        ([1.0], [np.inf], 0.0, "^phi must be finite"),
        ([1e200], [1e200], 0.0, "^<w, phi> must be finite"),
        ([1e200, 1e200], [1e200, -1e200], 0.0, "^<w, phi> must be finite"),
        ([1.0], [1.0], 1.5, r"^y must be in \[0, 1\]"),
        ([1.0], [1.0], np.nan, r"^y must be in \[0, 1\]"),
        (
            [1.0],
            [1.0, 2.0],
            0.0,
            r"^w and phi must end in the same axis D, not \(1,\) and \(2,\)$",
        ),
        (1.0, [1.0], 0.0, "^w and phi must end in the same axis"),
        ([1.0], 1.0, 0.0, "^w and phi must end in the same axis"),
    ],
)
def test_bad_arguments_are_named(w, phi, y, message):
    for function in (logistic_loss, logistic_gradient):
        with pytest.raises(ValueError, match=message):
            function(w, phi, y)
    if not message.startswith("^y"):
        with pytest.raises(ValueError, match=message):
            logistic_hessian(w, phi)


# --- gradient second moment (Eq. 5 and 6) ---------------------------------------------


def outcomes(q, fpr, fnr):
    """(label, probability) of every cell of the channel, written out by hand."""
    return [
        (1.0, q * (1 - fnr)),
        (0.0, q * fnr),
        (1.0, (1 - q) * fpr),
        (0.0, (1 - q) * (1 - fpr)),
    ]


@pytest.mark.parametrize("q", [0.02, 0.5, 0.9])
@pytest.mark.parametrize(("fpr", "fnr"), [(0, 0), (0.1, 0.1), (0.4, 0), (0.9, 0.8)])
def test_second_moment_is_the_mean_over_outcomes_of_the_autodiff_gradient(q, fpr, fnr):
    phi = np.array([1.5, -0.5, 2.0])
    teacher = phi * np.log(q / (1 - q)) / (phi @ phi)
    with jax.enable_x64(True):
        moment = sum(
            p * float(jnp.sum(jax_gradient(teacher, phi, label) ** 2))
            for label, p in outcomes(q, fpr, fnr)
        )
    ours = gradient_second_moment(q, fpr, fnr, phi @ phi)
    np.testing.assert_allclose(ours, moment, rtol=1e-9)


@given(probability, probability, probability, st.floats(0, 1e6))
def test_second_moment_has_the_closed_forms_of_equations_5_and_6(q, fpr, fnr, norm):
    np.testing.assert_allclose(
        gradient_second_moment(q, 0, 0, norm),
        q * (1 - q) * norm,
        rtol=1e-12,
        atol=1e-12 * norm,
    )
    np.testing.assert_allclose(
        gradient_second_moment(q, fpr, fpr, norm),
        ((1 - 4 * fpr) * q * (1 - q) + fpr) * norm,
        rtol=1e-12,
        atol=1e-12 * norm,
    )
    general = q * (1 - q) + (fpr * (1 - q) - fnr * q) * (1 - 2 * q)
    np.testing.assert_allclose(
        gradient_second_moment(q, fpr, fnr, norm),
        general * norm,
        rtol=1e-12,
        atol=1e-12 * norm,
    )
    assert 0 <= gradient_second_moment(q, fpr, fnr, norm) <= norm


def test_second_moment_keeps_its_digits_near_certainty():
    # 1 - q~ computed from q~ would have lost the false negatives.
    q, fnr = 1 - 2.0**-53, 1e-18
    with mp.workdps(60):
        truth, flips = mp.mpf(q), mp.mpf(fnr)
        negative = 1 - truth + flips * truth
        exact = (1 - negative) * (1 - truth) ** 2 + negative * truth**2
    assert abs(gradient_second_moment(q, 0, fnr, 1) / float(exact) - 1) < 1e-15


def test_paper_calls_noise_signal_in_equation_6():
    """The "expected squared gradient" is the trace of the information without flips
    only: they raise the one and lower the other.
    """
    np.testing.assert_allclose(
        gradient_second_moment(0.3, 0, 0, 2.5), 2.5 * noisy_fisher_weight(0.3, 0, 0)
    )
    q, eta = 0.05, np.linspace(0, 0.5, 11)
    moment = gradient_second_moment(q, eta, eta, 1.0)
    information = noisy_fisher_weight(q, eta, eta)
    assert np.all(np.diff(moment) > 0)
    assert np.all(np.diff(information) < 0)
    # Pure noise (eta = 1/2) has the largest moment and no information at all.
    assert moment[-1] > 9 * moment[0]
    assert information[-1] == 0
    np.testing.assert_allclose(moment - moment[0], eta * (1 - 2 * q) ** 2, atol=1e-15)
    snr2, _ = gradient_snr(q, q, 0, 0)
    assert snr2 == 0
    assert moment[0] > 0


# --- signal to noise ------------------------------------------------------------------


@given(interior, interior, interior, interior)
def test_snr_and_alignment_are_those_of_the_enumerated_gradients(q_w, q, fpr, fnr):
    cells = outcomes(q, fpr, fnr)
    mean = sum(p * (q_w - label) for label, p in cells)
    variance = sum(p * (q_w - label - mean) ** 2 for label, p in cells)
    snr2, alignment = gradient_snr(q_w, q, fpr, fnr)
    np.testing.assert_allclose(snr2, mean**2 / variance, rtol=1e-9, atol=1e-20)
    np.testing.assert_allclose(alignment, mean * (q_w - q), rtol=1e-9, atol=1e-15)
    assert -0.25 <= alignment <= 1


def test_snr_and_alignment_equal_autodiff_gradients():
    phi, w = np.array([0.5, -2.0, 1.0]), np.array([0.3, 0.1, -0.4])
    q, fpr, fnr = 0.8, 0.3, 0.1
    with jax.enable_x64(True):
        gradient = {y: np.asarray(jax_gradient(w, phi, y)) for y in (0.0, 1.0)}
    cells = outcomes(q, fpr, fnr)
    clean = q * gradient[1.0] + (1 - q) * gradient[0.0]
    noisy = np.sum([p * gradient[label] for label, p in cells], axis=0)
    spread = sum(p * ((gradient[label] - noisy) ** 2).sum() for label, p in cells)
    snr2, alignment = gradient_snr(1 / (1 + np.exp(-w @ phi)), q, fpr, fnr)
    np.testing.assert_allclose(snr2, (noisy @ noisy) / spread, rtol=1e-9)
    np.testing.assert_allclose(alignment, (noisy @ clean) / (phi @ phi), rtol=1e-9)


@given(probability, probability, probability, probability)
def test_a_label_harms_exactly_where_the_student_lies_between_truth_and_label(
    q_w, q, fpr, fnr
):
    noisy = noisy_positive_prob(q, fpr, fnr)
    _, alignment = gradient_snr(q_w, q, fpr, fnr)
    between = min(q, noisy) < q_w < max(q, noisy)
    gap = abs((q_w - q) * (q_w - noisy))
    if gap > 0:
        assert (alignment < 0) == between


def test_certain_labels_have_infinite_snr_or_no_gradient():
    # q~ = 1 three ways, q~ = 0 two ways.
    certain = [(1, 0.3, 0), (0.4, 1, 0), (0, 1, 0.3), (0, 0, 0.6), (1, 0.5, 1)]
    for (q, fpr, fnr), label in zip(certain, [1, 1, 1, 0, 0], strict=True):
        snr2, alignment = gradient_snr([0.25, label], q, fpr, fnr)
        assert snr2.tolist() == [np.inf, 0]
        assert alignment.tolist() == [(0.25 - label) * (0.25 - q), 0]


def test_snr_of_nearly_certain_labels_neither_overflows_nor_warns():
    snr2, _ = gradient_snr([1.0, 1.0, 1e-160], [1e-310, 1e-300, 1e-300], 0, 0)
    assert snr2[0] == np.inf
    np.testing.assert_allclose(snr2[1:], [1e300, 1e-20], rtol=1e-12)
