"""What `mprm run selection` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from experiments.console.tables import format_table, printable
from experiments.grid.answer import Estimate
from experiments.grid.plan import Planned, Price
from experiments.grid.results import (
    ArmResults,
    Outcome,
    answers,
    arm_name,
    labels_name,
)

_WIDTH = 80


def told(outcome: Outcome, missing: Sequence[Planned]) -> str:
    """The tables and the answer; of a grid that is not finished, what is missing."""
    parts = []
    kind = "simulated" if outcome.synthetic else "real"
    for labels in outcome.labels or [(None, None)]:
        heading = f"{printable(outcome.world, 40)} ({kind} corpus)"
        if labels[0] is not None:
            heading += f", {labels_name(*labels)}"
        parts.append(f"{heading}\n\n{arm_table(outcome.of_labels(labels))}")
    seeds = ", ".join(map(str, outcome.seeds)) or "none"
    parts.append(
        _wrapped(
            f"Means over seeds ({seeds}); ± is half of the 95 % interval over "
            f"{outcome.level_covers}. "
            "micro-F1: mean of the sources' macro-F1, weighted by steps; its threshold "
            "is chosen on held-out rollouts."
        )
    )
    if any(gap.difference is not None for gap in outcome.gaps):
        parts.append(gap_table(outcome))
    parts.append("\n".join(map(_wrapped, answers(outcome))))
    if missing:
        parts.append(
            _wrapped(
                f"{len(missing):,} cells of this grid are missing here, the first of "
                f"them {missing[0].cell.name}."
            )
        )
    return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)


def arm_table(arms: Sequence[ArmResults]) -> str:
    """One line per arm; best-of-N where candidates were given."""
    reranked = any(one.estimate("best_of_n") is not None for one in arms)
    lines = []
    for one in arms:
        arm, cell = one.arm, next(iter(one.cells.values()))
        best = one.estimate("best_of_n")
        lines.append(
            (
                arm.rule,
                f"{100 * arm.keep_ratio:g}%" if arm.keep_ratio is not None else "-",
                f"{arm.alpha:g}" if arm.alpha is not None else "-",
                f"{cell.rollouts:,}",
                f"{cell.updates:,}",
                plus_minus(one.estimate("micro_f1")),
                _short(one.estimate("auroc")),
                *([_short(best)] if reranked else []),
            )
        )
    header = ("rule", "keep", "alpha", "kept", "updates", "micro-F1", "AUROC")
    return format_table((*header, "best") if reranked else header, lines)


def plus_minus(of: Estimate | None) -> str:
    """Mean and half of the interval, where there is one."""
    if of is None:
        return "-"
    half = "" if of.half_width is None else f" ± {of.half_width:.3f}"
    return f"{of.mean:.3f}{half}"


def _short(of: Estimate | None) -> str:
    return "-" if of is None else f"{of.mean:.3f}"


def gap_table(outcome: Outcome) -> str:
    """Every rule less Random, paired by seed."""
    lines = []
    for gap in outcome.gaps:
        of, p = gap.difference, gap.adjusted_p
        lines.append(
            (
                arm_name(gap.arm, outcome),
                "-" if of is None else f"{of.mean:+.4f}",
                "-" if of is None or p is None else f"{of.low:+.3f} to {of.high:+.3f}",
                "-" if p is None else f"{p:.2g}",
                gap.verdict,
            )
        )
    header = ("less Random", "micro-F1", "95 %", "Holm p", "")
    return format_table(header, lines)


def priced(whole: Price, left: Price, part: str | None) -> str:
    """The price of a grid of which cells were measured, and of what is left of it."""
    header = ("", "cells", "updates", "rollouts", "tokens", "time")
    of_part = "left to do" if part is None else f"left in shard {part}"
    lines = [_price_row("whole grid", whole), _price_row(of_part, left)]
    note = (
        f"Tokens and time from {whole.measured:,} measured cells of this store; "
        "loading, compilation and reranking not counted."
    )
    return f"{format_table(header, lines)}\n\n{_wrapped(note)}"


def _price_row(name: str, of: Price) -> tuple[str, ...]:
    return (
        name,
        f"{of.cells:,}",
        f"{of.updates:,}",
        f"{of.rollouts:,}",
        "unknown" if of.tokens is None else f"{of.tokens:,}",
        "unknown" if of.seconds is None else duration(of.seconds),
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, two digits or more."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
