"""What the demo tells people while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from experiments.store.results import Result


class Talk(Protocol):
    """How the demo tells people what it does."""

    def say(self, line: str) -> None:
        """One line that stays."""
        ...

    def progress(
        self, what: str, total: int, unit: str
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A bar that goes."""
        ...


def told_gate(gate: dict[str, Any]) -> str:
    """A benchmark source's row of the learnability gate in a line."""
    within, low, blind = (
        "--" if gate[name] is None else f"{gate[name]:.3f}"
        for name in ("within_position_auroc", "low", "permuted_images")
    )
    return (
        f"  learnable? {gate['source']}: within-position AUROC {within} "
        f"(95 % from {low}), pictures permuted {blind}"
    )


def told(result: Result, number: int, of: int) -> str:
    """A finished cell in a line."""
    metrics = result.metrics
    ranked = "--" if metrics["auroc"] is None else f"{metrics['auroc']:.3f}"
    return (
        f"[{number:>2}/{of}] {result.config['arm']:<9} seed {result.seed}: "
        f"{metrics['rollouts']:>6,} rollouts, micro-F1 {metrics['micro_f1']:.3f}, "
        f"AUROC {ranked}"
    )
