"""What the results store keeps of a trained model's evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

from mprm_jax.summary import Evaluation

# Of the fields of mprm_jax.summary.Evaluation.
NAMES = (
    "micro_f1",
    "macro_f1_pooled",
    "auroc",
    "within_position_auroc",
    "position_auroc",
    "per_source",
)


def stored(metrics: Evaluation) -> dict[str, Any]:
    """Those of the metrics that are stored."""
    return {name: getattr(metrics, name) for name in NAMES}


def json_numbers(values: np.ndarray) -> list[float | None]:
    """Bootstrap replicates to five digits; None where there is no number."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]
