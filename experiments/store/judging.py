"""What commands that judge scores share: thresholds, names of metrics, of choices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.console.errors import UsageError
from experiments.console.options import SeedOption
from experiments.console.tables import printable
from experiments.console.text import count_of
from experiments.store.provenance import file_sha256
from mprm_jax.data.framing import corpus_files
from mprm_jax.decision import HELD_OUT_SHARE, ThresholdChoice
from mprm_jax.records.problems import DataError

# Of an evaluation, its processbench and prmbench, in the order of the tables.
METRIC_NAMES = {
    "micro_f1": "micro-F1",
    "source_mean_f1": "macro-F1, mean of sources",
    "macro_f1_pooled": "macro-F1, pooled",
    "f1_positive": "F1 of correct steps",
    "f1_negative": "F1 of wrong steps",
    "false_positive_rate": "false-positive rate",
    "false_negative_rate": "false-negative rate",
    "auroc": "AUROC",
    "within_position_auroc": "AUROC at position",
    "position_auroc": "AUROC of position alone",
    "first_error_auroc": "AUROC of first errors",
    "later_error_auroc": "AUROC of later errors",
    "average_precision": "average precision, correct",
    "average_precision_wrong": "average precision, wrong",
    "processbench_f1": "ProcessBench F1",
    "wrong_found": "  first error found",
    "right_passed": "  no error passed",
    "prm_score": "PRMScore",
    "simplicity": "  simplicity",
    "soundness": "  soundness",
    "sensitivity": "  sensitivity",
    "aurc": "AURC",
    "last_minimum": "least score is the last",
    "last_minimum_right": "  solutions without error",
    "last_minimum_wrong": "  solutions with an error",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
}

# Of mprm rerank: ways to choose and rules to stop by, as people read them.
CHOICES = {
    "random": "random choice",
    "mean": "best mean",
    "min": "best min",
    "product": "best product",
    "last": "best last",
    "first_error": "first error",
    "majority": "majority vote",
    "weighted_majority": "weighted vote",
    "pass_at_n": "pass@N (bound)",
}
STOPS = {"fixed": "fixed number", "score": "high score", "posterior": "high chance"}

PROCESSBENCH_SUBSETS = frozenset({"gsm8k", "math", "olympiadbench", "omnimath"})


def all_metrics(value: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation as JSON by the keys of METRIC_NAMES, as far as it
    has them.
    """
    least = {
        "last_minimum" + ("" if kind == "all" else f"_{kind}"): of["share"]
        for kind, of in value["last_minimum"].items()
    }
    return value["processbench"] | value | value.get("prmbench", {}) | least


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdOptions(SeedOption):
    """Where decision thresholds come from.

    Attributes:
        threshold: A fixed decision threshold, for both kinds of F1.
        threshold_on: Where the decision threshold is chosen, by default held-out;
            cross-fitted: of each half of the rollouts on the other, and all are judged;
            on the test set itself it flatters, and the output says so.
        threshold_source: Source on which thresholds are chosen for all, such as gsm8k
            as in ProcessBench; it is judged, too.
    """

    threshold: float | None = None
    threshold_on: ThresholdChoice | None = None
    threshold_source: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None:
            if not math.isfinite(self.threshold):
                raise UsageError(f"--threshold must be finite, not {self.threshold}")
            if self.threshold_on not in (None, "fixed"):
                raise UsageError(
                    f"--threshold and --threshold-on {self.threshold_on} exclude each "
                    "other"
                )
        if (self.threshold_on == "source") > (self.threshold_source is not None):
            raise UsageError("--threshold-on source needs --threshold-source NAME")
        if self.threshold_source is not None and not (
            self.threshold is None and self.threshold_on in (None, "source")
        ):
            raise UsageError(
                "--threshold-source excludes --threshold and another --threshold-on"
            )

    def protocol(self) -> tuple[ThresholdChoice, float, str | None]:
        """How thresholds are chosen, as :func:`mprm_jax.decision.decide` takes it."""
        usual = "held-out" if self.threshold_source is None else "source"
        chosen_on = self.threshold_on or usual
        if self.threshold is not None:
            return "fixed", self.threshold, None
        return chosen_on, 0.5, self.threshold_source


def origin(threshold: dict[str, Any]) -> str:
    """Where a threshold comes from, in a few words."""
    return {
        "fixed": "given",
        "test": "best micro-F1 ON THE TEST SET",
        "cross-fitted": "for each half best micro-F1 on the other; their mean",
        "source": f"best micro-F1 on {printable(str(threshold['source']), 24)}",
    }.get(
        threshold["chosen_on"],
        f"best micro-F1 on {count_of(threshold['rollouts'], 'held-out rollout')} "
        f"({HELD_OUT_SHARE:.0%})",
    )


def page_inputs(
    page: Path, files: Iterable[Path], *taken: Path | str
) -> dict[str, str]:
    """SHA-256 of the files that a page tells of, those of folders one by one.

    Raises:
        DataError: the page would take the place of one of them, or of those taken.
    """
    inputs = [of.path for path in files for of in corpus_files(path)]
    others = [of.path for path in taken for of in corpus_files(Path(path))]
    if page.resolve() in {path.resolve() for path in (*inputs, *others)}:
        raise DataError(f"{page}: is an input; choose another file for the page")
    return {str(path): file_sha256(path) for path in inputs}
