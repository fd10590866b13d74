"""Simulations of the closed forms: the same name, the same arguments, and a generator.

    from theory import simulate

    simulate.noisy_fisher_weight(0.3, 0.1, 0.05, rng=np.random.default_rng(0))
    simulate.check("noisy_fisher_weight", q=0.3, fpr=0.1, fnr=0.05)

The twin of a function f of ``theory/X.py`` is f in ``theory/simulate/X.py``. Beside
the arguments of f, scalars where f broadcasts, it takes ``rng`` and ``draws`` by
keyword; it refuses what f refuses, shares no formula with it, and returns a value and
its standard error (:class:`theory.simulate.draw.Estimate`), each of the type that f
returns. What is no mean of anything drawn has none: a fit to data
(:func:`theory.mixed.fit_mixed`), an optimum (:func:`theory.contrast.best_subset`), a
count. The names are imported when first used.
"""

from theory.lazy import lazy_exports

_NAMES = {
    "draw": ["check"],
    "logistic": ["gradient_second_moment", "gradient_snr"],
    "label_noise": [
        "noisy_positive_prob",
        "predictive_values",
        "noisy_fisher_weight",
        "count_information",
        "target_moments",
        "target_information",
    ],
    "continuations": ["trials_information"],
    "annotation": ["flip_probability", "information_gain"],
    "confidence": ["coverage_under_stopping"],
    "beta_binomial": [
        "unreliability_posterior",
        "positive_label_prob",
        "count_pmf",
        "class_conditional_rates",
        "pseudo_positive_rate",
        "expected_reliability",
        "expected_bis",
    ],
    "mixture": [
        "label_mixture_moments",
        "flipped_uncertainty",
        "flip_gap",
        "unbiased_mixture",
        "mixed_share",
        "mixed_selection_logit_shift",
        "exchangeable_mixed_share",
        "exchangeable_expected_mixture",
        "conditional_logistic_information",
    ],
    "mixed": ["mixed_information"],
    "clusters": ["clustered_covariance", "clustered_sandwich", "design_effect"],
    "readers": ["two_source_rates"],
    "scores": ["mc_variance"],
    "contrast": [
        "expected_contrast",
        "selection_efficiency",
        "pooled_efficiency",
        "one_step_auroc",
    ],
    "score_identities": ["bis_covariance"],
    "asymptotics": [
        "leading_mle_excess_risk",
        "noisy_minimizer_and_sandwich",
        "excess_coefficient",
        "leading_excess_risk",
    ],
    "gain": [
        "auroc_of_estimate",
        "predicted_auroc",
        "estimated_score_auroc",
        "relative_error",
        "gaussian_constant",
    ],
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
