"""Exact theory of learning from Monte-Carlo step labels (numpy and scipy, no JAX).

    from theory import Rollouts, bis, select, simulate

The names below are imported when first used; ``import theory`` loads nothing.
"""

from theory.lazy import lazy_exports

_HOMES = {
    "Rollouts": "rollouts",
    "bis": "scores",
    "reliability": "scores",
    "label_mixture": "scores",
    "shrunken_bis": "scores",
    "select": "selection",
    "summarise": "summary",
    "label_mixture_moments": "mixture",
    "noisy_fisher_weight": "label_noise",
    "unreliability_posterior": "beta_binomial",
    "posterior_fisher": "beta_binomial",
    "expected_bis": "beta_binomial",
    "fit_beta_binomial": "beta_binomial_fit",
    "leading_excess_risk": "asymptotics",
    "target_information": "label_noise",
    "best_count_threshold": "label_noise",
    "step_targets": "labelling",
    "continuations_per_step": "continuations",
    "plan_continuations": "annotation",
    "neighbour_prior": "annotation",
    "confidence_sequence": "confidence",
    "selection_efficiency": "contrast",
    "best_subset": "contrast",
    "expected_contrast": "contrast",
    "one_step_auroc": "contrast",
    "mixed_information": "mixed",
    "clustered_covariance": "clusters",
    "fit_mixed": "mixed",
    "two_reader_rates": "readers",
    "rollout_information": "design",
    "predicted_auroc": "gain",
    "estimated_score_auroc": "gain",
    "f1_at": "agreement",
    "auroc": "agreement",
    "best_threshold": "agreement",
    "paired_interval": "intervals",
    "mean_over_seeds": "intervals",
    "holm": "intervals",
}

_MODULES = ["simulate"]

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _HOMES, _MODULES)
