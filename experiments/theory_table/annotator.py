"""Statements about the Monte-Carlo annotator: posteriors, noise rates, scores."""

from __future__ import annotations

import itertools
import math

import numpy as np

from experiments.theory_table.row import (
    Row,
    Statement,
    autodiff_hessian,
    mean_and_se,
    share_and_se,
)
from theory.paper import FULL_DATA, TRIALS

_TAU = 0.5
_DIGITS = 50


def _prior() -> tuple[float, float]:
    """The Beta prior with the mean MC and the error-step ratio of Table 1."""
    from theory.beta_binomial_fit import fit_from_mean_and_zero_rate

    a, b = fit_from_mean_and_zero_rate(
        FULL_DATA.mean_mc, FULL_DATA.error_step_ratio, TRIALS
    )
    return float(a), float(b)


def _annotate(
    rng: np.random.Generator, draws: int | tuple[int, ...], a: float, b: float
) -> tuple[np.ndarray, np.ndarray]:
    r = rng.beta(a, b, draws)
    return r, rng.binomial(TRIALS, r)


def _mp_joint(k: int, a: float, b: float, low: float, high: float):
    """Pr(K = k, low < r < high) to many digits."""
    import mpmath as mp

    shape = mp.mpf(a) + k, mp.mpf(b) + TRIALS - k
    weight = mp.binomial(TRIALS, k) * mp.beta(*shape) / mp.beta(a, b)
    return weight * mp.betainc(*shape, low, high, regularized=True)


def _digits(function, *arguments) -> float:
    import mpmath as mp

    with mp.workdps(_DIGITS):
        return float(function(*arguments))


def positive_labels(rng: np.random.Generator, draws: int) -> Row:
    """Share of positive labels under the prior of the paper's corpus."""
    from theory.beta_binomial import positive_label_prob

    a, b = _prior()
    _, k = _annotate(rng, draws, a, b)
    simulation, se = mean_and_se(k > 0)
    return Row(
        "Pr(K>0) = 1 - B(a,b+N)/B(a,b)",
        exact=float(positive_label_prob(a, b, TRIALS)),
        oracle=_digits(lambda: 1 - _mp_joint(0, a, b, 0, 1)),
        kind="mpmath",
        paper=1 - FULL_DATA.error_step_ratio,
        simulation=simulation,
        se=se,
    )


def effective_noise(rng: np.random.Generator, draws: int) -> Row:
    """Posterior probability that a step with 4 of 16 successes is unreliable."""
    from theory.beta_binomial import unreliability_posterior

    (a, b), k = _prior(), 4
    r, counts = _annotate(rng, draws, a, b)
    simulation, se = share_and_se(r[counts == k] < _TAU)
    posterior = _digits(lambda: _mp_joint(k, a, b, 0, _TAU) / _mp_joint(k, a, b, 0, 1))
    return Row(
        "eta_eff(4) = I_tau(a+4, b+12)",
        exact=float(unreliability_posterior(k, a, b, TRIALS, _TAU)),
        oracle=posterior,
        kind="mpmath",
        simulation=simulation,
        se=se,
    )


def effective_noise_at_the_ends(rng: np.random.Generator, draws: int) -> Row:
    """Its edges: k = 0 where every step, and where none, is reliable."""
    from theory.beta_binomial import unreliability_posterior

    a, b = _prior()
    none, every = unreliability_posterior(0, a, b, TRIALS, [0.0, 1.0])
    total = _digits(_mp_joint, 0, a, b, 0, 1)
    return Row(
        "eta_eff(0), tau 1 less tau 0",
        exact=float(every - none),
        oracle=_digits(lambda: _mp_joint(0, a, b, 0, 1) / total),
        kind="mpmath",
        paper=1.0,
    )


def lemma_3_in_float64(rng: np.random.Generator, draws: int) -> Row:
    """Strictly decreasing in k, but not in the arithmetic of computers."""
    from theory.beta_binomial import unreliability_posterior

    first, second = unreliability_posterior([0, 1], 1, 1, 200, _TAU)

    def drop():
        import mpmath as mp

        return mp.mpf(_TAU) ** 201 / mp.beta(1, 201)

    exact = _digits(drop)
    return Row(
        "Lemma 3: eta(0)-eta(1), N 200",
        exact=float(first - second),
        oracle=exact,
        kind="mpmath",
        paper="> 0",
        agrees=bool(first > second),
        otherwise="counterexample",
        tolerance=1e-15,
        note=f"true in exact arithmetic (the drop is {exact:.1e}), a tie in float64: "
        "rank by the counts, not by a computed eta_eff",
    )


def _rate(rng: np.random.Generator, draws: int, false_positives: bool) -> Row:
    from theory.beta_binomial import class_conditional_rates

    a, b = _prior()
    fpr, fnr = class_conditional_rates(a, b, TRIALS, _TAU)
    low, high = (0.0, _TAU) if false_positives else (_TAU, 1.0)

    def zeros():
        total = sum(_mp_joint(k, a, b, low, high) for k in range(TRIALS + 1))
        return _mp_joint(0, a, b, low, high) / total

    share = _digits(lambda: 1 - zeros() if false_positives else zeros())
    r, k = _annotate(rng, draws, a, b)
    wrong = (k > 0)[r < _TAU] if false_positives else (k == 0)[r >= _TAU]
    simulation, se = share_and_se(wrong)
    return Row(
        "fpr = Pr(K > 0 | r < tau)"
        if false_positives
        else "fnr = Pr(K = 0 | r >= tau)",
        exact=float(fpr if false_positives else fnr),
        oracle=share,
        kind="mpmath",
        simulation=simulation,
        se=se,
        note="the noise of Monte-Carlo labels is one-sided: one eta for both classes, "
        "as in Eq. 6, describes neither"
        if false_positives
        else "",
    )


def false_positive_rate(rng: np.random.Generator, draws: int) -> Row:
    """How often an unreliable step is labelled positive."""
    return _rate(rng, draws, false_positives=True)


def false_negative_rate(rng: np.random.Generator, draws: int) -> Row:
    """How often a reliable step is labelled negative."""
    return _rate(rng, draws, false_positives=False)


def pseudo_positives(rng: np.random.Generator, draws: int) -> Row:
    """Share of the positive labels that are unreliable."""
    from theory.beta_binomial import pseudo_positive_rate

    a, b = _prior()
    r, k = _annotate(rng, draws, a, b)
    simulation, se = mean_and_se(r[k > 0] < _TAU)

    def share():
        counts = range(1, TRIALS + 1)
        below = sum(_mp_joint(k, a, b, 0, _TAU) for k in counts)
        return below / sum(_mp_joint(k, a, b, 0, 1) for k in counts)

    return Row(
        "pseudo-positives, r<tau | K>0",
        exact=float(pseudo_positive_rate(a, b, TRIALS, _TAU)),
        oracle=_digits(share),
        kind="mpmath",
        simulation=simulation,
        se=se,
    )


def _score(rng: np.random.Generator, draws: int, alpha: float | None) -> Row:
    """Expected R, or BIS at alpha, of three steps, against all 17^3 outcomes."""
    from theory.beta_binomial import expected_bis, expected_reliability

    (a, b), n = _prior(), 3

    def score(k: np.ndarray) -> np.ndarray:
        p = (k > 0).mean(axis=-1)
        positives = np.maximum((k > 0).sum(axis=-1), 1)
        r = np.where(p > 0, k.sum(axis=-1) / (TRIALS * positives), 1.0)
        return r if alpha is None else (p * (1 - p) + alpha) * r

    pmf = [_digits(_mp_joint, k, a, b, 0, 1) for k in range(TRIALS + 1)]
    outcomes = np.array(list(itertools.product(range(TRIALS + 1), repeat=n)))
    weights = np.prod(np.array(pmf)[outcomes], axis=-1)
    simulation, se = mean_and_se(score(_annotate(rng, (draws, n), a, b)[1]))
    exact = (
        expected_reliability(a, b, TRIALS, n)
        if alpha is None
        else expected_bis(a, b, TRIALS, n, alpha)
    )
    return Row(
        "E[R], 3 independent steps" if alpha is None else "E[BIS], the same",
        exact=float(exact),
        oracle=math.fsum(weights * score(outcomes)),
        kind="enumeration",
        simulation=simulation,
        se=se,
    )


def expected_r(rng: np.random.Generator, draws: int) -> Row:
    """Expected reliability of a rollout."""
    return _score(rng, draws, None)


def expected_score(rng: np.random.Generator, draws: int) -> Row:
    """Expected BIS of a rollout."""
    return _score(rng, draws, 0.05)


def mean_score_does_not_order_noise(rng: np.random.Generator, draws: int) -> Row:
    """K = (8, 8) has the lower mean score and the lower mean eta_eff."""
    from theory.beta_binomial import unreliability_posterior

    a, b = 2.0, 1.0
    eta = unreliability_posterior([8, 16, 1], a, b, TRIALS, _TAU)

    def exact(k):
        return _mp_joint(k, a, b, 0, _TAU) / _mp_joint(k, a, b, 0, 1)

    r, counts = _annotate(rng, draws, a, b)
    parts = [share_and_se(r[counts == k] < _TAU) for k in (8, 16, 1)]
    return Row(
        "eta_eff of K=(8,8) less (16,1)",
        exact=float(eta[0] - (eta[1] + eta[2]) / 2),
        oracle=_digits(lambda: exact(8) - (exact(16) + exact(1)) / 2),
        kind="mpmath",
        paper="> 0",
        agrees=bool(eta[0] > (eta[1] + eta[2]) / 2),
        otherwise="counterexample",
        simulation=parts[0][0] - (parts[1][0] + parts[2][0]) / 2,
        se=float(np.hypot(parts[0][1], np.hypot(parts[1][1], parts[2][1]) / 2)),
        note="mean s is .50 against .53, so a lower mean score does not mean more "
        "noise: eta_eff is not linear in k",
    )


def noise_is_not_identified(rng: np.random.Generator, draws: int) -> Row:
    """Two classes whose counts mix to the histogram of one."""
    from theory.beta_binomial import count_pmf

    a, b = _prior()
    right, wrong = count_pmf(a + 1, b, TRIALS)[0], count_pmf(a, b + 1, TRIALS)[0]
    return Row(
        "Pr(K = 0), two-class model",
        exact=float(a / (a + b) * right + b / (a + b) * wrong),
        oracle=_digits(_mp_joint, 0, a, b, 0, 1),
        kind="mpmath",
        paper=FULL_DATA.error_step_ratio,
        note=f"the same histogram with fpr {1 - wrong:.2f}, fnr {right:.3f} and with "
        "labels that ignore the truth: counts alone do not identify the noise",
    )


def _classes() -> tuple[float, np.ndarray, np.ndarray]:
    """Pr(r >= tau) and the distributions of K in both classes."""
    from scipy.special import betaincc

    from theory.beta_binomial import class_conditional_counts

    a, b = _prior()
    return float(betaincc(a, b, _TAU)), *class_conditional_counts(a, b, TRIALS, _TAU)


def _information_by_autodiff(q: float, f0: np.ndarray, f1: np.ndarray) -> float:
    import jax.numpy as jnp

    marginal = q * f1 + (1 - q) * f0

    def negative_log_likelihood(z):
        truth = 1 / (1 + jnp.exp(-z))
        return -jnp.sum(marginal * jnp.log(truth * f1 + (1 - truth) * f0))

    return float(autodiff_hessian(negative_log_likelihood, np.log(q / (1 - q))))


def information_of_counts(rng: np.random.Generator, draws: int) -> Row:
    """What K itself tells, by Louis's identity."""
    from theory.label_noise import count_information

    (a, b), (q, f0, f1) = _prior(), _classes()
    posterior = [
        _digits(lambda k=k: _mp_joint(k, a, b, _TAU, 1) / _mp_joint(k, a, b, 0, 1))
        for k in range(TRIALS + 1)
    ]
    _, k = _annotate(rng, draws, a, b)
    simulation, se = mean_and_se((np.array(posterior)[k] - q) ** 2)
    return Row(
        "I_K = q(1-q) - E Var(Y | K)",
        exact=float(count_information(q, f0, f1)),
        oracle=_information_by_autodiff(q, f0, f1),
        kind="autodiff",
        simulation=simulation,
        se=se,
    )


def information_of_the_hard_label(rng: np.random.Generator, draws: int) -> Row:
    """What 1[K > 0] keeps of it."""
    from theory.label_noise import count_information, noisy_fisher_weight

    q, f0, f1 = _classes()
    kept = noisy_fisher_weight(q, min(f0[1:].sum(), 1.0), f1[0])
    both = [np.array([f[0], f[1:].sum()]) for f in (f0, f1)]
    return Row(
        "share of I_K kept by 1[K > 0]",
        exact=float(kept / count_information(q, f0, f1)),
        oracle=_information_by_autodiff(q, *both) / _information_by_autodiff(q, f0, f1),
        kind="autodiff",
        note="the rest is what training on hard labels throws away",
    )


STATEMENTS: tuple[Statement, ...] = (
    positive_labels,
    effective_noise,
    effective_noise_at_the_ends,
    lemma_3_in_float64,
    mean_score_does_not_order_noise,
    false_positive_rate,
    false_negative_rate,
    pseudo_positives,
    noise_is_not_identified,
    information_of_counts,
    information_of_the_hard_label,
    expected_r,
    expected_score,
)
