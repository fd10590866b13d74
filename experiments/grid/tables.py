"""What `mprm demo` and `mprm run selection` print."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial

from experiments.console.tables import format_table, printable
from experiments.console.text import count_of
from experiments.grid.answer import Estimate
from experiments.grid.decomposition import Decomposition, decompositions, why
from experiments.grid.plan import DEMO, Planned
from experiments.grid.results import (
    ArmResults,
    Labels,
    Outcome,
    arm_name,
    labels_name,
    sentences,
)
from theory.scores import DEFAULT_ALPHA

_WIDTH = 80

_CONTROLS = (
    "clean: true labels; blind: as many wrong labels of each kind as the hard ones, "
    "placed at random; all-positive: every step labelled right. BIS - Random = "
    "composition + noise of BIS - noise of Random; noise = blind part + placement."
)


def told(outcomes: Sequence[Outcome], missing: Sequence[Planned] = ()) -> str:
    """The tables and the answers; of a grid that is not finished, what is missing."""
    parts = []
    for outcome in outcomes:
        for labels in outcome.labels or [(None, None)]:
            table = arm_table(outcome.of_labels(labels))
            parts.append(f"{_wrapped(_heading(outcome, labels))}\n\n{table}")
        parts.append(_wrapped(_legend(outcome)))
        for found in decompositions(outcome):
            parts += [level_table(found), part_table(found), _wrapped(_CONTROLS)]
        # The demo tests one difference, and its sentence says all of it.
        if outcome.experiment != DEMO and any(gap.difference for gap in outcome.gaps):
            parts.append(gap_table(outcome))
    for outcome in outcomes:
        found = [*sentences(outcome), *map(why, decompositions(outcome))]
        parts.append("\n".join(map(_wrapped, found)))
    if missing:
        parts.append(
            _wrapped(
                f"Missing here: {count_of(len(missing), 'cell')} of this grid, the "
                f"first {missing[0].cell.name}."
            )
        )
    return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)


def _heading(outcome: Outcome, labels: Labels) -> str:
    kind = "simulated" if outcome.synthetic else "real"
    heading = f"{printable(outcome.world, 40)} ({kind} corpus)"
    if labels[0] is not None:
        heading += f", {labels_name(*labels)}"
    if len(outcome.keep_ratios) == 1:
        heading += f"; every rule keeps {100 * outcome.keep_ratios[0]:g}%"
    return heading


def _legend(outcome: Outcome) -> str:
    seeds = ", ".join(map(str, outcome.seeds)) or "none"
    text = (
        f"Means over seeds ({seeds}); ± is half of the 95 % interval over "
        f"{outcome.level_covers}. micro-F1: mean of the sources' macro-F1, weighted by "
        "steps; the threshold of each half of the rollouts is chosen on the other."
    )
    if (position := outcome.arms[0].estimate("position_auroc")) is not None:
        text += f" A step's position alone has AUROC {position.mean:.3f}."
    if (best := outcome.best_of_n) is not None:
        text += f" best: accuracy of the best of {best.n} candidates."
    return text


def arm_table(arms: Sequence[ArmResults]) -> str:
    """One line per arm; keep ratio and alpha where they tell arms apart or are
    not the usual ones, best-of-N where candidates were given.
    """
    ratios = {one.arm.keep_ratio for one in arms if one.arm.is_rule}
    shown = {
        "keep": len(ratios) > 1,
        "alpha": bool({one.arm.alpha for one in arms} - {None, DEFAULT_ALPHA}),
        "best": any(one.estimate("best_of_n") is not None for one in arms),
    }
    best = _short if shown["keep"] or shown["alpha"] else plus_minus
    columns = {
        "rule": lambda one: printable(one.arm.rule, 24),
        "keep": lambda one: _percent(one.arm.keep_ratio),
        "alpha": lambda one: "-" if one.arm.alpha is None else f"{one.arm.alpha:g}",
        "kept": lambda one: f"{one.first.rollouts:,}",
        "updates": lambda one: f"{one.first.updates:,}",
        "micro-F1": lambda one: plus_minus(one.estimate("micro_f1")),
        "AUROC": lambda one: _short(one.estimate("auroc")),
        "best": lambda one: best(one.estimate("best_of_n")),
    }
    header = [name for name in columns if shown.get(name, True)]
    return format_table(header, [[columns[n](one) for n in header] for one in arms])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:g}%"


def plus_minus(of: Estimate | None, sign: str = "") -> str:
    """Mean and half of the interval, where there is one; with ``sign`` "+" signed."""
    if of is None:
        return "-"
    half = "" if of.half_width is None else f" ± {of.half_width:.3f}"
    return f"{of.mean:{sign}.3f}{half}"


_signed = partial(plus_minus, sign="+")


def _short(of: Estimate | None) -> str:
    return "-" if of is None else f"{of.mean:.3f}"


def level_table(of: Decomposition) -> str:
    """Random and BIS under each kind of labels."""
    lines = [
        (of.labels, *map(plus_minus, (of.random, of.bis)), _signed(of.difference))
        for of in of.levels
    ]
    header = (f"labels, {_percent(of.arm.keep_ratio)}", "random", "bis", "bis - random")
    return format_table(header, lines)


def part_table(of: Decomposition) -> str:
    """The terms of BIS - Random, and what they are."""
    lines = [
        (f"  {of.within}" if of.within else of.name, _signed(of.difference), of.of)
        for of in of.parts
    ]
    return format_table(("why", "micro-F1", ""), lines)


def gap_table(outcome: Outcome) -> str:
    """Every rule less Random, paired by seed."""
    lines = []
    for gap in outcome.gaps:
        if gap.arm.is_control:
            continue
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
