"""What a student experiment prints when its cells are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.console.command import print_json
from experiments.console.tables import format_table
from experiments.store.paired import Comparison, Contrast, compare
from experiments.store.results import Result, read_results
from experiments.students.options import StudentOptions


def print_report(
    options: StudentOptions, experiment: str, contrasts: Sequence[Contrast], ran: int
) -> None:
    """Every arm of every world and every comparison of the options' seed, as tables or
    as JSON.
    """
    results = [
        result
        for result in read_results(options.output, experiment)
        if "arm" in result.config and result.seed == options.seed
    ]
    comparisons = compare(results, contrasts)
    if options.json:
        print_json(
            {
                "experiment": experiment,
                "seed": options.seed,
                "cells": len(results),
                "ran": ran,
                "comparisons": [comparison_row(c) for c in comparisons],
            }
        )
        return
    for world in dict.fromkeys(r.config["world"]["name"] for r in results):
        print(f"\n{experiment}, world {world}: mean over the seeds\n")
        print(arm_table([r for r in results if r.config["world"]["name"] == world]))
    if comparisons:
        print("\nmicro-F1, paired by seed, 95 % intervals, Holm-corrected:\n")
        print(comparison_table(comparisons))
    print(
        f"\n{ran} cells run, {len(results)} of seed {options.seed} in the store: "
        f"{options.output}"
    )


def arm_table(results: Sequence[Result]) -> str:
    """One line per arm."""
    rows = []
    for result in results:
        metrics, subset = result.metrics, result.metrics["subset"]
        rows.append(
            (
                arm_name(result.config["arm"]),
                f"{np.mean(metrics['micro_f1']):.4f}",
                f"{np.mean(metrics['auroc']):.4f}",
                f"{np.mean(metrics['excess_risk']):.4f}",
                f"{subset.get('updates', 0):.0f}",
                f"{100 * subset['mixed_share']:.1f}",
                f"{100 * subset['wrong_positives']:.1f}",
                f"{100 * subset.get('tied_share', 0):.0f}",
            )
        )
    header = (
        "arm",
        "micro-F1",
        "AUROC",
        "excess",
        "updates",
        "mixed%",
        "false+%",
        "tied%",
    )
    return format_table(header, rows)


def arm_name(arm: dict[str, Any]) -> str:
    """Short and unique within an experiment."""
    parts = [f"{arm['rule']}-{100 * arm['keep_ratio']:g}%"]
    defaults = (
        ("alpha", 0.05, "alpha={}"),
        ("labels", "hard-0", "{}"),
        ("unit", "rollouts", "{}"),
        ("ties", "content", "ties={}"),
        ("matched", False, "matched"),
    )
    for name, default, form in defaults:
        if arm[name] != default:
            parts.append(form.format(arm[name]))
    return " ".join(parts)


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """One line per comparison."""
    return format_table(
        ("claim", "world", "difference", "95 % interval", "Holm p", ""),
        [
            (
                c.claim,
                c.world,
                f"{c.interval.mean:+.4f}",
                f"[{c.interval.low:+.4f}, {c.interval.high:+.4f}]",
                f"{c.adjusted_p:.2g}",
                c.verdict,
            )
            for c in comparisons
        ],
    )


def comparison_row(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON values."""
    return {
        "claim": comparison.claim,
        "world": comparison.world,
        **comparison.interval._asdict(),
        "adjusted_p": comparison.adjusted_p,
        "verdict": comparison.verdict,
    }
