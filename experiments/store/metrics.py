"""What the results store keeps of a trained model's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Of the metrics of mprm_jax.metrics_summary.evaluation.
NAMES = (
    "micro_f1",
    "macro_f1_pooled",
    "auroc",
    "within_position_auroc",
    "position_auroc",
    "per_source",
)


def stored(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the metrics that are stored."""
    return {name: metrics[name] for name in NAMES}


def json_numbers(values: np.ndarray) -> list[float | None]:
    """Bootstrap replicates to five digits; None where there is no number."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]
