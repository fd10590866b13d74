"""Every simulation has the signature of its closed form, and finds its value."""

import doctest
import inspect
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from theory import simulate
from theory.confidence import confidence_sequence, wilson_interval
from theory.continuations import two_rates
from theory.rollouts import Rollouts
from theory.simulate import draw

DRAWS = 20_000
# Beyond this a right simulation lies once in 150,000 times, where it is normal.
STANDARD_ERRORS = 4.5

NAMES = [name for name in simulate.__all__ if name != "check"]


def inside(low, high):
    return st.floats(low, high)


# Where no event that is counted is rare: an estimate is nearly normal.
RATE, Q = st.just(0.0) | inside(0.02, 0.6), inside(0.05, 0.95)
SHAPE, TAU = inside(0.5, 3), inside(0.3, 0.9)
STEPS = st.lists(Q, min_size=2, max_size=5).map(np.array)
TRIALS, LENGTH = st.integers(1, 6), st.integers(1, 6)
CHANNEL = Q, RATE, RATE
ANNOTATOR = SHAPE, SHAPE, TRIALS
THETA, ETA, ICC = inside(0.01, 0.25), inside(0.05, 0.95), inside(0, 0.95)
PMFS = st.lists(inside(0.1, 1), min_size=8, max_size=8).map(
    lambda x: [np.array(part) / sum(part) for part in (x[:4], x[4:])]
)
TARGETS = st.tuples(Q, st.permutations([0.0, 0.5, 1.0, -1.0]), PMFS).map(
    lambda x: (*x[:2], *x[2])
)
LAWS = st.tuples(inside(0.1, 0.4), inside(0.5, 0.9)).map(lambda r: two_rates(*r))


@st.composite
def populations(draw):
    """phi, q, fpr, fnr and weights of six points in the plane."""
    phi = np.column_stack([np.ones(6), np.arange(6) / 2 - draw(inside(0.5, 2))])
    q = draw(st.lists(inside(0.2, 0.8), min_size=6, max_size=6))
    weights = draw(st.lists(inside(0.5, 1), min_size=6, max_size=6))
    return phi, np.array(q), draw(inside(0.05, 0.3)), draw(RATE) / 3, np.array(weights)


@st.composite
def contrasts(draw):
    """n_pos, psi and beta of up to five steps."""
    n = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    beta = draw(st.none() | st.just(rng.normal(size=2)))
    return draw(st.integers(0, n)), rng.normal(size=(n, 2)), beta


@st.composite
def corpora(draw):
    """Three rollouts with steps of two N, some of them never sampled."""
    trials = draw(st.lists(st.sampled_from([0, 3, 4]), min_size=6, max_size=6))
    trials = np.array([4, *trials[:2], 4, *trials[2:4], 3, *trials[4:]])
    successes = np.array([draw(st.integers(0, int(n))) for n in trials])
    offsets = np.array([0, 3, 6, 9])
    return Rollouts(successes, trials, offsets, np.zeros(3, int), ("a",))


@st.composite
def truths(draw):
    """A corpus of two sources and the truths of its steps."""
    sources = {"source": np.array([0, 1, 1]), "source_names": ("a", "b")}
    corpus = replace(draw(corpora()), **sources)
    right = draw(st.lists(st.booleans(), min_size=9, max_size=9))
    return corpus, np.array(right), draw(inside(0, 1)), draw(inside(0, 1))


@st.composite
def efficiencies(draw):
    """C, V and weights of rollouts, one of which is pure."""
    size = draw(st.integers(1, 4))
    columns = [
        draw(st.lists(inside(low, 2), min_size=size, max_size=size))
        for low in (-2, 0.1, -1)
    ]
    return tuple(np.array([0.0, *column]) for column in columns)


@st.composite
def clustered(draw):
    """w, phi, y and offsets of six rollouts, one of which has no steps."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    phi = rng.normal(size=(10, 2))
    return rng.normal(size=2), phi, rng.random(10), [0, 1, 4, 4, 6, 8, 10]


@st.composite
def exchangeables(draw):
    n = draw(st.integers(1, 5))
    least = -1 / max(n - 1, 1)
    return n, draw(inside(least, 1)), draw(inside(least, 1))


@st.composite
def tables(draw):
    """Of two readers, better than chance, of two sources."""
    fpr, fnr = (draw(st.tuples(*2 * [inside(0.05, 0.35)])) for _ in range(2))
    right, wrong = (
        np.outer([x[0], 1 - x[0]], [x[1], 1 - x[1]])
        for x in (fnr, [1 - fpr[0], 1 - fpr[1]])
    )
    prevalence = draw(st.permutations([draw(inside(0.1, 0.4)), draw(inside(0.6, 0.9))]))
    return ([500 * (p * right + (1 - p) * wrong) for p in prevalence],)


@st.composite
def best_directions(draw):
    """n, w, V, delta and C, where w is along C^-1 delta."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    delta, *roots = rng.normal(size=(7, 3))
    cov, within = (
        x.T @ x + np.eye(3) for x in (np.array(roots[:3]), np.array(roots[3:]))
    )
    w = draw(inside(0.5, 2)) * np.linalg.solve(within, delta)
    return draw(inside(1e5, 1e6)), w, cov, delta, within


# With 1e-9 more off the diagonals they would be no rates' tables.
NEARLY_IMPOSSIBLE = 1e-9 * np.array([[1, -1], [-1, 1]]) + [
    [[0.35, 0.25], [0.25, 0.15]],
    [[0.15, 0.25], [0.25, 0.35]],
]

ARGUMENTS = {
    "gradient_second_moment": st.tuples(*CHANNEL, inside(0, 4)),
    "gradient_snr": st.tuples(Q, *CHANNEL),
    "noisy_positive_prob": st.tuples(*CHANNEL),
    "predictive_values": st.tuples(*CHANNEL),
    "noisy_fisher_weight": st.tuples(*CHANNEL),
    "count_information": st.tuples(Q, PMFS).map(lambda x: (x[0], *x[1])),
    "target_moments": TARGETS,
    "target_information": TARGETS,
    "trials_information": st.tuples(
        Q, TRIALS, LAWS, st.sampled_from(["count", "hard", "soft"])
    ),
    "flip_probability": st.tuples(
        st.integers(0, 1), st.integers(1, 3), LENGTH, SHAPE, SHAPE, inside(0, 0.4)
    ),
    "information_gain": st.tuples(
        st.integers(0, 1), st.integers(1, 3), LENGTH, SHAPE, SHAPE, TAU
    ),
    "coverage_under_stopping": st.tuples(
        st.sampled_from([wilson_interval, confidence_sequence]),
        st.just(lambda k, n: (k >= 2) & (k < n)),
        Q,
        st.integers(3, 12),
    ),
    "unreliability_posterior": st.tuples(st.integers(0, 1), *ANNOTATOR, TAU),
    "positive_label_prob": st.tuples(*ANNOTATOR),
    "count_pmf": st.tuples(*ANNOTATOR),
    "class_conditional_rates": st.tuples(*ANNOTATOR, inside(0.2, 0.6)),
    "pseudo_positive_rate": st.tuples(*ANNOTATOR, TAU),
    "expected_reliability": st.tuples(*ANNOTATOR, LENGTH),
    "expected_bis": st.tuples(*ANNOTATOR, LENGTH, inside(0, 0.5)),
    "label_mixture_moments": st.tuples(STEPS),
    "flipped_uncertainty": st.tuples(THETA, ETA),
    "flip_gap": st.tuples(THETA, ETA),
    "unbiased_mixture": st.tuples(STEPS),
    "mixed_share": st.tuples(STEPS),
    "mixed_selection_logit_shift": st.tuples(STEPS),
    "exchangeable_mixed_share": st.tuples(Q, LENGTH, ICC),
    "exchangeable_expected_mixture": st.tuples(Q, LENGTH, ICC),
    "conditional_logistic_information": contrasts(),
    "mixed_information": st.integers(0, 99).flatmap(
        lambda i: STEPS.map(
            lambda q: (np.random.default_rng(i).normal(size=(len(q), 2)), q)
        )
    ),
    "clustered_covariance": clustered().map(
        lambda x: (x[1], np.eye(2) + x[1].T @ x[1], x[3])
    ),
    "clustered_sandwich": clustered(),
    "design_effect": exchangeables(),
    "two_source_rates": tables(),
    "expected_contrast": st.tuples(
        corpora(), inside(1, 3), inside(1, 3), st.none() | inside(0.4, 0.6)
    ),
    "selection_efficiency": efficiencies(),
    "pooled_efficiency": truths(),
    "one_step_auroc": st.tuples(
        inside(0, 2), inside(1, 3), st.integers(1, 3), inside(0, 1)
    ),
    "auroc_of_estimate": st.tuples(Q, inside(0, 1)),
    "predicted_auroc": st.tuples(
        inside(0, 3000), inside(0, 0.25), inside(1, 50), Q, inside(0.2, 2)
    ),
    "estimated_score_auroc": best_directions(),
    "relative_error": best_directions().map(lambda x: (x[1], x[2], x[4])),
    "gaussian_constant": st.tuples(
        inside(0.2, 0.8),
        inside(0, 0.3),
        inside(0, 0.3),
        inside(0.7, 2),
        st.integers(2, 40),
    ),
    "mc_variance": st.tuples(corpora()),
    "bis_covariance": st.tuples(corpora()),
    "leading_mle_excess_risk": st.tuples(
        st.sampled_from([60_000, 120_000]), st.integers(1, 3)
    ),
    "noisy_minimizer_and_sandwich": populations(),
    "excess_coefficient": populations(),
    "leading_excess_risk": populations().map(lambda x: (100_000, *x)),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_simulation_takes_the_arguments_of_its_closed_form(name):
    twin = getattr(simulate, name)
    home = twin.closed_form.__module__.removeprefix("theory.")
    assert twin.__module__ == f"theory.simulate.{home}"
    assert twin.__name__ == twin.closed_form.__name__ == name
    *own, rng, draws = inspect.signature(twin).parameters.values()
    assert (rng.name, draws.name, draws.default) == ("rng", "draws", draw.DRAWS)
    assert {rng.kind, draws.kind} == {inspect.Parameter.KEYWORD_ONLY}
    theirs = inspect.signature(twin.closed_form).parameters.values()
    assert [(x.name, x.default) for x in own] == [(x.name, x.default) for x in theirs]


def flat(value):
    parts = value if isinstance(value, tuple) else (value,)
    return np.concatenate([np.ravel(x) for x in parts])


@pytest.mark.parametrize("name", NAMES)
def test_the_simulation_finds_what_the_closed_form_says(name):
    @seed(0)
    @settings(max_examples=8, deadline=None, database=None)
    @given(ARGUMENTS[name])
    def finds(arguments):
        found = simulate.check(name, *arguments, draws=DRAWS)
        assert type(found.closed_form) is type(found.z) or np.ndim(found.z) == 0
        exact, estimate, se, z = map(flat, found)
        assert exact.shape == estimate.shape == se.shape == z.shape
        assert np.all(np.abs(estimate - exact) <= STANDARD_ERRORS * se + 1e-12)
        apart = z != 0
        np.testing.assert_allclose((z * se)[apart], (estimate - exact)[apart])
        np.testing.assert_allclose(estimate[~apart], exact[~apart], atol=1e-15)

    finds()


def test_another_seed_is_another_estimate_and_more_draws_a_smaller_error():
    name, arguments = "noisy_fisher_weight", (0.3, 0.1, 0.05)
    one, two = (simulate.check(name, *arguments, seed=s, draws=DRAWS) for s in (0, 1))
    assert one.estimate != two.estimate
    many = simulate.check(name, q=0.3, fpr=0.1, fnr=0.05, draws=16 * DRAWS)
    assert many.standard_error == pytest.approx(one.standard_error / 4, rel=0.1)
    assert simulate.check(name, 0.5, 0.5, 0.5, draws=2).z == 0
    assert doctest.testmod(draw).failed == 0


def test_a_standard_error_is_the_spread_of_the_estimates():
    """Where the delta method is used, too."""
    for name, arguments in {
        "gradient_snr": (0.7, 0.4, 0.1, 0.2),
        "mixed_selection_logit_shift": (np.array([0.8, 0.7, 0.6]),),
        "count_pmf": (1.0, 2.0, 2),
        "selection_efficiency": ([0.3, 0.5], [0.2, 0.7]),
        "two_source_rates": ([[[30, 5], [10, 55]], [[60, 15], [20, 15]]],),
        "target_information": (0.3, [0, 2, 1], [0.5, 0.2, 0.3], [0.1, 0.5, 0.4]),
    }.items():
        found = [
            simulate.check(name, *arguments, seed=s, draws=1_000) for s in range(300)
        ]
        estimates, errors = (np.array([flat(x[i]) for x in found]) for i in (1, 2))
        # A standard deviation of 300 has an error of 4 %.
        np.testing.assert_allclose(estimates.std(axis=0), errors.mean(axis=0), rtol=0.2)


def test_fits_err_by_little_and_find_no_floor_without_noise():
    phi = np.column_stack([np.ones(6), np.arange(6) - 2.5])
    clean = phi, np.linspace(0.2, 0.7, 6)
    fitted = simulate.check("noisy_minimizer_and_sandwich", *clean, 0, 0)
    assert abs(fitted.z.excess_floor) < STANDARD_ERRORS
    assert 0 < fitted.standard_error.excess_floor < 1e-9
    # Without the part that is linear in the labels n times a fit's excess is about half
    # a chi-squared number of two degrees of freedom, of standard deviation 1.
    noisy = simulate.check("excess_coefficient", *clean, 0.1, 0, draws=DRAWS)
    assert noisy.standard_error * np.sqrt(DRAWS / 10) == pytest.approx(1, rel=0.3)


def test_helpers_are_what_they_say():
    rng = np.random.default_rng(0)
    truth = np.arange(40_000) % 2 == 1
    label = draw.flip(rng, truth, 0.1, 0.3)
    assert label[~truth].mean() == pytest.approx(0.1, abs=0.01)
    assert label[truth].mean() == pytest.approx(0.7, abs=0.015)
    assert draw.mean_and_se(np.array([0.0, 1.0, 0.0, 1.0])) == (0.5, 0.25)
    # Where no draw is a hit, the spread of a share shows nothing.
    assert draw.mean_and_se(np.zeros(50, bool)) == (0, 1 / 50)
    assert draw.mean_and_se(np.zeros(50)) == (0, 0)


@pytest.mark.parametrize(
    ("message", "name", "arguments"),
    [
        ("^fpr must be in", "noisy_fisher_weight", (0.5, 1.5, 0)),
        ("^q must be in", "count_information", (1.2, [0, 1], [1, 0])),
        ("^draws must be more", "unreliability_posterior", (0, 500.0, 1e-3, 16, 0.5)),
        ("^draws must hold both labels", "gradient_snr", (0.5, 1.0, 0, 0)),
        ("^draws must hold mixed", "mixed_selection_logit_shift", ([1, 0.5, 0.5],)),
        ("^draws must be more", "mixed_information", (np.eye(2), [1e-9, 1e-9])),
        ("^draws must be at least 5000", "gaussian_constant", (0.5, 0, 0, 1, 9)),
        ("^counts must not be next", "two_source_rates", (NEARLY_IMPOSSIBLE,)),
        ("^n must be a multiple", "leading_mle_excess_risk", (10, 3)),
        (
            "^n must be larger",
            "leading_excess_risk",
            (2, np.ones((2, 1)), np.full(2, 0.5), 0, 0),
        ),
        ("^name must be of a closed form", "check", ()),
        ("^name must be of a closed form", "no_such_name", ()),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_name(message, name, arguments):
    with pytest.raises(ValueError, match=message):
        simulate.check(name, *arguments, draws=1_000)
    with pytest.raises(ValueError, match="draws must be at least 2"):
        simulate.check("noisy_fisher_weight", 0.3, 0.1, 0.05, draws=1)
