"""Statements about one step: its gradient, its noisy label, its information."""

from __future__ import annotations

import numpy as np

from experiments.theory_table.row import (
    Row,
    Statement,
    autodiff_gradient,
    autodiff_hessian,
    flip,
    mean_and_se,
)

# A teacher and the features of one step; what they are does not matter.
_W = np.array([0.4, -0.3, 0.7])
_PHI = np.array([1.0, 0.5, 2.0])
_SQ_NORM = float(_PHI @ _PHI)
_Q = float(1 / (1 + np.exp(-_W @ _PHI)))


def _gradients() -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the step's loss for Y = 0 and Y = 1, by autodiff."""
    import jax.numpy as jnp

    def loss(w, y):
        z = jnp.sum(w * _PHI)
        return jnp.logaddexp(0.0, z) - y * z

    return (
        autodiff_gradient(lambda w: loss(w, 0.0), _W),
        autodiff_gradient(lambda w: loss(w, 1.0), _W),
    )


def _second_moment(
    rng: np.random.Generator, draws: int, text: str, fpr: float, fnr: float, paper
) -> Row:
    from theory.logistic import gradient_second_moment

    negative, positive = _gradients()
    share = (1 - fnr) * _Q + fpr * (1 - _Q)
    label = flip(rng, rng.random(draws) < _Q, fpr, fnr)
    simulation, se = mean_and_se((_Q - label) ** 2 * _SQ_NORM)
    return Row(
        text,
        exact=float(gradient_second_moment(_Q, fpr, fnr, _SQ_NORM)),
        oracle=share * float(positive @ positive)
        + (1 - share) * float(negative @ negative),
        kind="autodiff",
        paper=paper,
        simulation=simulation,
        se=se,
    )


def equation_5(rng: np.random.Generator, draws: int) -> Row:
    """Second moment of the gradient at the teacher."""
    paper = _Q * (1 - _Q) * _SQ_NORM
    return _second_moment(rng, draws, "Eq. 5: E|g|^2 at w*", 0.0, 0.0, paper)


def equation_6(rng: np.random.Generator, draws: int) -> Row:
    """The same under symmetric flips."""
    eta = 0.1
    paper = ((1 - 4 * eta) * _Q * (1 - _Q) + eta) * _SQ_NORM
    return _second_moment(rng, draws, "Eq. 6: E|g|^2, flips .1", eta, eta, paper)


def equation_6_half(rng: np.random.Generator, draws: int) -> Row:
    """Its edge: labels that are coin flips."""
    paper = (0.5 - _Q * (1 - _Q)) * _SQ_NORM
    return _second_moment(rng, draws, "Eq. 6 at eta = 1/2", 0.5, 0.5, paper)


def one_sided_second_moment(rng: np.random.Generator, draws: int) -> Row:
    """Eq. 6 for the noise that Monte-Carlo labels have."""
    return _second_moment(rng, draws, "E|g|^2, fpr .2, fnr .05", 0.2, 0.05, None)


def second_moment_is_not_signal(rng: np.random.Generator, draws: int) -> Row:
    """Noise called signal: what Eq. 5 measures has mean zero."""
    from theory.logistic import gradient_snr

    negative, positive = _gradients()
    mean = _Q * positive + (1 - _Q) * negative
    label = rng.random(draws) < _Q
    simulation, se = mean_and_se((_Q - label) * _SQ_NORM)
    snr2, _ = gradient_snr(_Q, _Q, 0.0, 0.0)
    return Row(
        "signal <E g, phi> at w*",
        exact=float(np.sqrt(snr2 * _Q * (1 - _Q))) * _SQ_NORM,
        oracle=float(mean @ _PHI),
        kind="autodiff",
        paper=_Q * (1 - _Q) * _SQ_NORM,
        simulation=simulation,
        se=se,
        otherwise="counterexample",
        note="the paper takes E|g|^2 of Eq. 5 for signal; at w* it is the variance of "
        "a gradient of mean zero, and flips raise it by eta (1 - 2q)^2",
    )


_STUDENT = 0.75


def _student_gradients() -> tuple[float, float]:
    """Gradient in the logit at q_w, for labels 0 and 1, by autodiff."""
    import jax.numpy as jnp

    z = np.log(_STUDENT / (1 - _STUDENT))
    negative = autodiff_gradient(lambda z: jnp.logaddexp(0.0, z), z)
    positive = autodiff_gradient(lambda z: jnp.logaddexp(0.0, z) - z, z)
    return float(negative), float(positive)


def signal_to_noise(rng: np.random.Generator, draws: int) -> Row:
    """Squared signal-to-noise ratio away from the teacher."""
    from theory.logistic import gradient_snr

    q, fpr, fnr = 0.9, 0.1, 0.05
    negative, positive = _student_gradients()
    share = (1 - fnr) * q + fpr * (1 - q)
    mean = share * positive + (1 - share) * negative
    variance = share * positive**2 + (1 - share) * negative**2 - mean**2
    g = _STUDENT - flip(rng, rng.random(draws) < q, fpr, fnr)
    m, v = g.mean(), g.var()
    # The delta method for m^2 / v.
    influence = 2 * m / v * (g - m) - (m / v) ** 2 * ((g - m) ** 2 - v)
    return Row(
        "SNR^2 of a step, q_w .75, q .9",
        exact=float(gradient_snr(_STUDENT, q, fpr, fnr)[0]),
        oracle=mean**2 / variance,
        kind="autodiff",
        simulation=float(m**2 / v),
        se=mean_and_se(influence)[1],
    )


def harmful_alignment(rng: np.random.Generator, draws: int) -> Row:
    """A student between the truth and the label is driven away from the truth."""
    from theory.logistic import gradient_snr

    q, fnr = 0.9, 0.3
    negative, positive = _student_gradients()
    noisy = (1 - fnr) * q * positive + (1 - (1 - fnr) * q) * negative
    clean = q * positive + (1 - q) * negative
    label = flip(rng, rng.random(draws) < q, 0.0, fnr)
    simulation, se = mean_and_se((_STUDENT - label) * (_STUDENT - q))
    return Row(
        "alignment, q~ .63 < q_w < q .9",
        exact=float(gradient_snr(_STUDENT, q, 0.0, fnr)[1]),
        oracle=noisy * clean,
        kind="autodiff",
        simulation=simulation,
        se=se,
        note="negative: such a step teaches the opposite, which no score of |g| shows",
    )


def _information_by_autodiff(q: float, fpr: float, fnr: float) -> float:
    """Minus the expected curvature of the label's log-likelihood in the logit of q."""
    import jax.numpy as jnp

    share = (1 - fnr) * q + fpr * (1 - q)

    def negative_log_likelihood(z):
        truth = 1 / (1 + jnp.exp(-z))
        p = (1 - fnr) * truth + fpr * (1 - truth)
        return -share * jnp.log(p) - (1 - share) * jnp.log(1 - p)

    return float(autodiff_hessian(negative_log_likelihood, np.log(q / (1 - q))))


def _squared_scores(
    rng: np.random.Generator, draws: int, q: float, fpr: float, fnr: float
) -> tuple[float, float]:
    label = flip(rng, rng.random(draws) < q, fpr, fnr)
    share = (1 - fnr) * q + fpr * (1 - q)
    slope = (1 - fpr - fnr) * q * (1 - q)
    return mean_and_se(np.where(label, slope / share, -slope / (1 - share)) ** 2)


def _flipped(
    rng: np.random.Generator, draws: int, q: float, eta: float, **verdict: str
) -> Row:
    from theory.label_noise import noisy_fisher_weight, paper_signal

    simulation, se = _squared_scores(rng, draws, q, eta, eta)
    return Row(
        f"information, q {q:g}, flips {eta:g}",
        exact=float(noisy_fisher_weight(q, eta, eta)),
        oracle=_information_by_autodiff(q, eta, eta),
        kind="autodiff",
        paper=float(paper_signal(q, eta)),
        simulation=simulation,
        se=se,
        **verdict,  # pyright: ignore[reportArgumentType]
    )


def information_at_one_half(rng: np.random.Generator, draws: int) -> Row:
    """Where the paper's factor is right to first order."""
    note = "(1 - 4 eta) is (1 - 2 eta)^2 to first order, and only at q = 1/2"
    return _flipped(rng, draws, 0.5, 0.1, note=note)


def information_elsewhere(rng: np.random.Generator, draws: int) -> Row:
    """Where it overstates."""
    note = "the loss is additive, eta (1 - q) + eta q, not a factor of q (1 - q)"
    return _flipped(rng, draws, 0.9, 0.1, note=note, otherwise="counterexample")


def information_under_heavy_noise(rng: np.random.Generator, draws: int) -> Row:
    """Where it is negative."""
    note = "information cannot be negative; (1 - 4 eta) is above eta = 1/4"
    return _flipped(rng, draws, 0.7, 0.35, note=note, otherwise="counterexample")


def slope_of_the_information(rng: np.random.Generator, draws: int) -> Row:
    """First order in the noise, exactly."""
    from theory.label_noise import small_noise_fisher_weight as expansion

    q = 0.9

    def information(eta):
        noisy = (1 - 2 * eta) * q + eta
        return ((1 - 2 * eta) * q * (1 - q)) ** 2 / (noisy * (1 - noisy))

    return Row(
        "d info / d eta at 0, q .9",
        # The expansion is linear in the rates.
        exact=float(expansion(q, 1.0, 1.0) - expansion(q, 0.0, 0.0)),
        oracle=float(autodiff_gradient(information, 0.0)),
        kind="autodiff",
        paper=-4 * q * (1 - q),
        note="-1 at every q: noise costs most, in proportion, where q (1 - q) is small",
    )


def mixture_times_squared_reliability(rng: np.random.Generator, draws: int) -> Row:
    """What one-sided noise leaves: the form that BIS resembles."""
    from theory.label_noise import noisy_positive_prob, predictive_values

    q, fpr = 0.6, 0.25
    share = noisy_positive_prob(q, fpr, 0.0)
    ppv, _ = predictive_values(q, fpr, 0.0)
    simulation, se = _squared_scores(rng, draws, q, fpr, 0.0)
    return Row(
        "fpr only: q~ (1 - q~) PPV^2",
        exact=float(share * (1 - share) * ppv**2),
        oracle=_information_by_autodiff(q, fpr, 0.0),
        kind="autodiff",
        simulation=simulation,
        se=se,
        note="mixture times the square of reliability, where BIS has its first power",
    )


def complete_minus_missing(rng: np.random.Generator, draws: int) -> Row:
    """Louis's form of the same weight, under two-sided noise."""
    from theory.label_noise import noisy_fisher_weight

    q, fpr, fnr = 0.6, 0.2, 0.1
    missing = 0.0
    for hit, false in ((1 - fnr, fpr), (fnr, 1 - fpr)):
        share = q * hit + (1 - q) * false
        missing += share * (q * hit / share) * (1 - q * hit / share)
    simulation, se = _squared_scores(rng, draws, q, fpr, fnr)
    return Row(
        "q(1-q) MCC^2, fpr .2, fnr .1",
        exact=float(noisy_fisher_weight(q, fpr, fnr)),
        oracle=q * (1 - q) - missing,
        kind="enumeration",
        simulation=simulation,
        se=se,
    )


def information_of_a_certain_truth(rng: np.random.Generator, draws: int) -> Row:
    """The edge q = 1: nothing to learn, noise or not."""
    from theory.label_noise import noisy_fisher_weight, paper_signal

    q, eta = 1.0, 0.1
    # Y = 1 whatever the label says: its posterior has no variance to lose.
    posterior = [q * hit / (q * hit + (1 - q) * (1 - hit)) for hit in (eta, 1 - eta)]
    simulation, se = _squared_scores(rng, draws, q, eta, eta)
    return Row(
        "information, q 1, flips 0.1",
        exact=float(noisy_fisher_weight(q, eta, eta)),
        oracle=q * (1 - q) - sum(p * (1 - p) for p in posterior),
        kind="enumeration",
        paper=float(paper_signal(q, eta)),
        simulation=simulation,
        se=se,
    )


STATEMENTS: tuple[Statement, ...] = (
    equation_5,
    equation_6,
    equation_6_half,
    one_sided_second_moment,
    second_moment_is_not_signal,
    signal_to_noise,
    harmful_alignment,
    information_at_one_half,
    information_elsewhere,
    information_under_heavy_noise,
    slope_of_the_information,
    information_of_a_certain_truth,
    mixture_times_squared_reliability,
    complete_minus_missing,
)
