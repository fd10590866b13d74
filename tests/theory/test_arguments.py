"""Every function of the theory names an argument outside its range, and broadcasts."""

import numpy as np
import pytest

from theory import (
    asymptotics,
    beta_binomial,
    label_noise,
    logistic,
    mixture,
    score_identities,
)

NAN, INF = np.nan, np.inf

# Of arguments of a name: a good value, bad ones, and how their range is told.
PROBABILITY = (0.5, [-0.01, 1.01, NAN], r"in \[0, 1\]")
POSITIVE = (0.75, [0, -1, NAN, INF], r"in \(0, inf\)")
NONNEGATIVE = (0.125, [-0.1, NAN, INF], r"in \[0, inf\)")
AT_LEAST_ONE = (3, [0, 1.5, NAN], r"an integer in \[1, ")
ARGUMENTS = {
    **dict.fromkeys(["q", "fpr", "fnr", "eta", "tau", "icc"], PROBABILITY),
    **dict.fromkeys(["q_student", "p", "reliability"], PROBABILITY),
    **dict.fromkeys(["a", "b", "n_eff", "updates"], POSITIVE),
    **dict.fromkeys(["c_data", "c_opt", "sq_norm", "C", "d1"], NONNEGATIVE),
    **dict.fromkeys(["trials", "n"], AT_LEAST_ONE),
    "k": (1, [-1, 0.5, NAN], r"an integer in \[0, "),
    "alpha": NONNEGATIVE,
    "theta": (0.125, [-0.1, 0.3, NAN], "in "),
    "c": (1.0, [0, -1.0, 1e-160, NAN, INF], "in "),
    "gamma": (0.5, [0, -1, 1.5, NAN, INF], "in "),
}
CHANNEL = "q fpr fnr"
FUNCTIONS = {
    label_noise.joint_label_probs: CHANNEL,
    label_noise.noisy_positive_prob: CHANNEL,
    label_noise.predictive_values: CHANNEL,
    label_noise.information_retention: CHANNEL,
    label_noise.noisy_fisher_weight: CHANNEL,
    label_noise.small_noise_fisher_weight: CHANNEL,
    label_noise.paper_signal: "q eta",
    logistic.gradient_second_moment: "q fpr fnr sq_norm",
    logistic.gradient_snr: "q_student q fpr fnr",
    mixture.flip_gap: "theta eta",
    mixture.flipped_uncertainty: "theta eta",
    mixture.mixture_bounds: "theta n",
    mixture.exchangeable_mixed_share: "q n icc",
    mixture.exchangeable_expected_mixture: "q n icc",
    score_identities.break_even_reliability: "p alpha",
    asymptotics.scaling_bound: "n_eff updates c_data c_opt",
    asymptotics.sgd_recursion_constant: "c C d1",
    beta_binomial.success_posterior: "a b trials k",
    beta_binomial.unreliability_posterior: "a b trials k tau",
    beta_binomial.positive_label_prob: "a b trials",
    beta_binomial.count_pmf: "a b trials",
    beta_binomial.class_conditional_counts: "a b trials tau",
    beta_binomial.class_conditional_rates: "a b trials tau",
    beta_binomial.pseudo_positive_rate: "a b trials tau",
    beta_binomial.expected_reliability: "a b trials n",
    beta_binomial.expected_bis: "a b trials n alpha",
    lambda gamma: asymptotics.gamma_inflation(gamma, True): "gamma",
}


@pytest.mark.parametrize(("function", "names"), FUNCTIONS.items())
def test_bad_arguments_are_named_and_good_ones_broadcast_in_float64(function, names):
    names = names.split()
    good = {name: ARGUMENTS[name][0] for name in names}
    for name in names:
        value, bad, message = ARGUMENTS[name]
        for wrong in bad:
            with pytest.raises(ValueError, match=f"^{name} must be {message}"):
                function(**{**good, name: wrong})
            # Among good values, too.
            with pytest.raises(ValueError, match=f"^{name} must be {message}"):
                function(**{**good, name: [value, wrong]})
    one = function(**good)
    stacked = np.full((2, 1), good[names[0]], np.float32)
    many = function(**{**good, names[0]: stacked})
    one, many = (of if isinstance(of, tuple) else (of,) for of in (one, many))
    last = function(**{**good, names[-1]: np.full((2, 1), good[names[-1]])})
    last = last if isinstance(last, tuple) else (last,)
    for scalar, array, other in zip(one, many, last, strict=True):
        assert np.shape(other)[:2] == (2, 1)
        assert array.dtype == scalar.dtype == np.float64
        whole = np.broadcast_to(array, (2, 1, *np.shape(scalar)))
        np.testing.assert_allclose(whole[1, 0], scalar, rtol=1e-12)


@pytest.mark.parametrize("bad", PROBABILITY[1])
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (mixture.label_mixture_moments, "q"),
        (mixture.unbiased_mixture, "q"),
        (mixture.mixed_share, "q"),
        (mixture.mixed_selection_logit_shift, "q"),
        (score_identities.alpha_breakpoints, "p reliability"),
    ],
)
def test_a_bad_entry_of_a_vector_is_named(function, names, bad):
    good = {name: [0.5, 0.25] for name in names.split()}
    for name in good:
        with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\]"):
            function(**{**good, name: [0.5, bad]})
