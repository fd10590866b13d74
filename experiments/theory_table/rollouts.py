"""Statements about the labels of one rollout: their mixture and their contrast."""

from __future__ import annotations

import itertools

import numpy as np

from experiments.theory_table.row import (
    Row,
    Statement,
    autodiff_hessian,
    flip,
    mean_and_se,
)
from theory.paper import FULL_DATA

_Q = np.array([0.95, 0.9, 0.7, 0.4, 0.1])
_N = len(_Q)


def _labels(n: int) -> np.ndarray:
    """All label vectors ``[2^n, n]``."""
    return np.array(list(itertools.product((0, 1), repeat=n)))


def _weights(q: np.ndarray) -> np.ndarray:
    """Their probabilities for independent labels."""
    return np.prod(np.where(_labels(len(q)) == 1, q, 1 - q), axis=-1)


def _mixture(labels: np.ndarray) -> np.ndarray:
    p = labels.mean(axis=-1)
    return p * (1 - p)


def _draw(rng: np.random.Generator, draws: int, q: np.ndarray) -> np.ndarray:
    return rng.random((draws, len(q))) < q


def _expected_mixture(
    rng: np.random.Generator, draws: int, text: str, q: np.ndarray, paper: float
) -> Row:
    from theory.mixture import label_mixture_moments

    simulation, se = mean_and_se(_mixture(_draw(rng, draws, q)))
    return Row(
        text,
        exact=float(label_mixture_moments(q).expected_mixture),
        oracle=float(_weights(q) @ _mixture(_labels(len(q)))),
        kind="enumeration",
        paper=paper,
        simulation=simulation,
        se=se,
    )


def lemma_2(rng: np.random.Generator, draws: int) -> Row:
    """Expected mixture of independent labels."""
    theta = _Q.mean() * (1 - _Q.mean())
    paper = float(theta - np.mean(_Q * (1 - _Q)) / _N)
    return _expected_mixture(rng, draws, "Lemma 2: E p(1-p) = theta-A/n", _Q, paper)


def lemma_2_of_one_step(rng: np.random.Generator, draws: int) -> Row:
    """Its edge: a single step is never mixed."""
    return _expected_mixture(rng, draws, "Lemma 2 at n = 1", np.array([0.3]), 0.0)


def equation_9_lower(rng: np.random.Generator, draws: int) -> Row:
    """Met by equal label probabilities."""
    paper = 0.3 * 0.7 * (1 - 1 / 5)
    q = np.full(5, 0.3)
    return _expected_mixture(rng, draws, "Eq. 9 lower bound, equal q_j", q, paper)


def equation_9_upper(rng: np.random.Generator, draws: int) -> Row:
    """Met by certain labels."""
    q = np.array([1.0, 1.0, 0.0, 0.0])
    return _expected_mixture(rng, draws, "Eq. 9 upper bound, certain q_j", q, 0.25)


def headroom_is_not_information(rng: np.random.Generator, draws: int) -> Row:
    """A <= theta bounds from above: theta = 1/4 promises nothing."""
    from theory.mixture import label_mixture_moments

    q = np.array([1.0, 1.0, 0.0, 0.0])
    moments = label_mixture_moments(q)
    # Half the squared difference of two labels of a step has the mean q (1 - q).
    twice = _draw(rng, draws, q) ^ _draw(rng, draws, q)
    simulation, se = mean_and_se(twice.mean(axis=-1) / 2)
    return Row(
        "A <= theta: A of q = (1,1,0,0)",
        exact=float(moments.information),
        oracle=float(np.mean([x - x**2 for x in q])),
        kind="enumeration",
        paper=float(moments.uncertainty),
        simulation=simulation,
        se=se,
        otherwise="counterexample",
        note="a rollout with the largest theta, 1/4, and no information: theta - A is "
        "Var_j(q_j)",
    )


def theta_less_a(rng: np.random.Generator, draws: int) -> Row:
    """The headroom is the spread of the label probabilities."""
    from theory.mixture import label_mixture_moments

    moments = label_mixture_moments(_Q)
    pairs = [(x - y) ** 2 for x, y in itertools.product(_Q, _Q)]
    return Row(
        "theta - A = Var_j(q_j)",
        exact=float(moments.uncertainty - moments.information),
        oracle=float(sum(pairs) / (2 * _N**2)),
        kind="enumeration",
    )


_ETA = 0.1


def equation_10(rng: np.random.Generator, draws: int) -> Row:
    """Uncertainty after flips."""
    from theory.mixture import flipped_uncertainty, label_mixture_moments

    theta = float(label_mixture_moments(_Q).uncertainty)
    mean = float(np.mean([(1 - _ETA) * x + _ETA * (1 - x) for x in _Q]))
    share, se = mean_and_se(flip(rng, _draw(rng, draws, _Q), _ETA, _ETA).mean(axis=-1))
    return Row(
        "Eq. 10, 22: theta~, flips .1",
        exact=float(flipped_uncertainty(theta, _ETA)),
        oracle=mean * (1 - mean),
        kind="enumeration",
        paper=(1 - 2 * _ETA) ** 2 * theta + _ETA * (1 - _ETA),
        simulation=share * (1 - share),
        # The delta method; the square of the error in the share is the second order.
        se=abs(1 - 2 * share) * se + se**2,
    )


def equation_24(rng: np.random.Generator, draws: int) -> Row:
    """What flips add, exactly."""
    from theory.mixture import flip_gap

    before = float(_Q.mean() * (1 - _Q.mean()))
    after = float(np.mean((1 - _ETA) * _Q + _ETA * (1 - _Q)))
    return Row(
        "Eq. 24: theta~-theta <= 2 eta",
        exact=float(flip_gap(before, _ETA)),
        oracle=after * (1 - after) - before,
        kind="enumeration",
        paper=2 * _ETA,
        note="true with slack: the gap is eta (1 - eta) (1 - 2 qbar)^2, at most half "
        "the bound, and 0 for balanced labels",
    )


def unbiased_mixture(rng: np.random.Generator, draws: int) -> Row:
    """The bias that the unbiased estimator keeps when q varies."""
    from theory import mixture

    estimate = _mixture(_labels(_N)) * _N / (_N - 1)
    simulation, se = mean_and_se(_mixture(_draw(rng, draws, _Q)) * _N / (_N - 1))
    return Row(
        "unbiased mixture, unequal q_j",
        exact=float(mixture.unbiased_mixture(_Q).expectation),
        oracle=float(_weights(_Q) @ estimate),
        kind="enumeration",
        simulation=simulation,
        se=se,
        note="n+ n- / (n (n-1)) has the mean theta + Var_j(q_j) / (n-1): unbiased only "
        "for equal q_j",
    )


_PSI = np.array([[0.5, 1.0], [-1.0, 0.2], [0.3, -0.7], [1.2, 0.4], [-0.2, -1.1]])


def _conditional(n_pos: int, beta: np.ndarray | None, text: str, **rest) -> Row:
    import jax.numpy as jnp

    from theory.mixture import conditional_logistic_information

    labels = _labels(_N)
    sums = labels[labels.sum(axis=-1) == n_pos] @ _PSI

    def log_normaliser(beta):
        return jnp.log(jnp.sum(jnp.exp(sums @ beta)))

    information = conditional_logistic_information(n_pos, _PSI, beta)
    at = np.zeros(2) if beta is None else beta
    return Row(
        text,
        exact=float(np.trace(information)),
        oracle=float(np.trace(autodiff_hessian(log_normaliser, at))),
        kind="autodiff",
        **rest,
    )


def contrast(rng: np.random.Generator, draws: int) -> Row:
    """What the labels of a rollout say about differences between its steps."""
    centred = _PSI - _PSI.mean(axis=0)
    order = np.argsort(rng.random((draws, _N)), axis=-1)[:, :2]
    simulation, se = mean_and_se((centred[order].sum(axis=1) ** 2).sum(axis=-1))
    text = "conditional logit, beta = 0"
    return _conditional(2, None, text, simulation=simulation, se=se)


def contrast_elsewhere(rng: np.random.Generator, draws: int) -> Row:
    """The same at another parameter, by recursion."""
    return _conditional(3, np.array([0.8, -1.5]), "conditional logit, beta <> 0")


def pure_rollouts(rng: np.random.Generator, draws: int) -> Row:
    """Without a contrast there is nothing."""
    note = "yet every pure rollout gets BIS = alpha R, which is alpha at R = 1"
    return _conditional(_N, np.array([0.8, -1.5]), "the same, pure rollout", note=note)


def selection_shift(rng: np.random.Generator, draws: int) -> Row:
    """Selecting on labels biases even noiseless ones."""
    from theory.mixture import mixed_selection_logit_shift

    q = np.array([0.9, 0.95, 0.85, 0.9])
    labels, weights = _labels(len(q)), _weights(q)
    mixed = (labels.min(axis=-1) == 0) & (labels.max(axis=-1) == 1)
    share = weights[mixed] @ labels[mixed, 0] / weights[mixed].sum()
    drawn = _draw(rng, draws, q)
    p, se = mean_and_se(drawn[(drawn.min(axis=-1) == 0) & (drawn.max(axis=-1) == 1), 0])

    def logit(x: float) -> float:
        return float(np.log(x) - np.log1p(-x))

    return Row(
        "logit shift, mixed only",
        exact=float(mixed_selection_logit_shift(q)[0]),
        oracle=logit(float(share)) - logit(float(q[0])),
        kind="enumeration",
        simulation=logit(p) - logit(float(q[0])),
        se=se / (p * (1 - p)),
        note="keeping mixed rollouts only changes what their labels teach, noise or "
        "not; the base rate of the subset is not that of the corpus",
    )


def dependence(rng: np.random.Generator, draws: int) -> Row:
    """Eq. 9's lower bound needs independent labels."""
    from theory.mixture import exchangeable_expected_mixture

    q, n, icc = 0.8, 5, 0.5
    a, b = q * (1 / icc - 1), (1 - q) * (1 / icc - 1)
    p = rng.binomial(n, rng.beta(a, b, draws)) / n
    simulation, se = mean_and_se(p * (1 - p))
    lower = q * (1 - q) * (1 - 1 / n)

    def pmf(k: int) -> float:
        import mpmath as mp

        return float(mp.binomial(n, k) * mp.beta(a + k, b + n - k) / mp.beta(a, b))

    exact = float(exchangeable_expected_mixture(q, n, icc))
    return Row(
        "Eq. 9 lower bound, ICC .5",
        exact=exact,
        oracle=float(sum(pmf(k) * k * (n - k) / n**2 for k in range(n + 1))),
        kind="enumeration",
        paper=lower,
        agrees=exact >= lower,
        otherwise="counterexample",
        simulation=simulation,
        se=se,
        note="it holds given the q_j; where a rollout shares its difficulty, and theta "
        "is that of the mean, mixture falls by exactly the factor 1 - icc",
    )


def mixed_share(rng: np.random.Generator, draws: int) -> Row:
    """Independent steps do not give the mixed share of the paper's corpus."""
    from scipy.optimize import brentq

    from theory.mixture import exchangeable_mixed_share

    q, steps = 1 - FULL_DATA.error_step_ratio, FULL_DATA.steps_per_rollout
    observed = FULL_DATA.mixed_share
    longer = steps - 5

    def share(icc: float) -> float:
        both = exchangeable_mixed_share(q, [5, 6], icc)
        return float((1 - longer) * both[0] + longer * both[1])

    pure = [q**n + (1 - q) ** n for n in (5, 6)]
    drawn = rng.random((draws, 6)) < q
    length = np.where(rng.random(draws) < longer, 6, 5)
    positives = np.where(length == 6, drawn.sum(axis=-1), drawn[:, :5].sum(axis=-1))
    simulation, se = mean_and_se((positives > 0) & (positives < length))
    icc = brentq(lambda x: share(x) - observed, 0, 1)
    return Row(
        "mixed share, independent steps",
        exact=share(0.0),
        oracle=1 - (1 - longer) * pure[0] - longer * pure[1],
        kind="enumeration",
        paper=observed,
        otherwise="counterexample",
        simulation=simulation,
        se=se,
        note=f"Table 1's {100 * observed:.2f} % needs an intraclass correlation of "
        f"{icc:.2f}: rollouts differ far more than the steps within one",
    )


STATEMENTS: tuple[Statement, ...] = (
    lemma_2,
    lemma_2_of_one_step,
    equation_9_lower,
    equation_9_upper,
    headroom_is_not_information,
    theta_less_a,
    equation_10,
    equation_24,
    unbiased_mixture,
    dependence,
    mixed_share,
    contrast,
    contrast_elsewhere,
    pure_rollouts,
    selection_shift,
)
