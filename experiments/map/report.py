"""What the map says: signs over worlds, and how far the advisor can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.console.command import print_json
from experiments.console.tables import format_table
from experiments.map.advisor import TARGETS, fit_advisor, validate
from experiments.map.design import HELD_OUT_EVERY
from experiments.map.run import gains
from experiments.store.paired import holm, paired_interval
from experiments.store.results import Result
from experiments.students.options import StudentOptions

COMPARED = (("bis", "random"), ("bis", "mixed"), ("bis", "full"))


def sign_counts(
    worlds: Sequence[Result], treated: str, baseline: str
) -> dict[str, int]:
    """In how many worlds the gain is beyond doubt positive, negative, or open (5 %,
    Holm-corrected over the worlds).
    """
    intervals = []
    for world in worlds:
        difference = gains(world, treated, baseline)
        intervals.append(paired_interval(difference, [0.0] * len(difference)))
    counts = {"gains": 0, "open": 0, "loses": 0}
    adjusted = holm([interval.p for interval in intervals])
    for interval, p in zip(intervals, adjusted, strict=True):
        sign = "gains" if interval.mean > 0 else "loses"
        counts["open" if p >= 0.05 else sign] += 1
    return counts


def print_map(options: StudentOptions, worlds: Sequence[Result], ran: int) -> None:
    """Signs per keep ratio and comparison, and the advisor's test.

    Args:
        options: of the command.
        worlds: of the options' seed, each once.
        ran: how many of them were run now.
    """
    keeps = sorted({world.config["axes"]["keep_ratio"] for world in worlds})
    signs = {
        f"{treated} - {baseline}": {
            f"{keep:g}": sign_counts(
                [w for w in worlds if w.config["axes"]["keep_ratio"] == keep],
                treated,
                baseline,
            )
            for keep in keeps
        }
        for treated, baseline in COMPARED
    }
    tests = advisor_tests(worlds)
    turns = cross_validation(worlds) if tests else {}
    if options.json:
        print_json(
            {
                "seed": options.seed,
                "worlds": len(worlds),
                "ran": ran,
                "signs": signs,
                "advisor": tests,
                "cross_validation": turns,
            }
        )
        return
    rows = [
        (name, f"{100 * float(keep):g} %", *(str(n) for n in counts.values()))
        for name, by_keep in signs.items()
        for keep, counts in by_keep.items()
    ]
    header = ("difference", "keep", "gains", "open", "loses")
    print(format_table(header, rows))
    for title, found in (
        ("on held-out worlds", tests),
        ("on every fifth of the worlds in turn, fitted to the others", turns),
    ):
        if found:
            print(f"\nadvisor {title}, 90 % intervals:\n")
            print(_advisor_table(found))
    print(
        f"\n{ran} worlds run, {len(worlds)} of seed {options.seed} in the store: "
        f"{options.output}"
    )


def _advisor_table(tests: dict[str, dict[str, Any]]) -> str:
    header = ("gain", "worlds", "coverage", "sign right", "majority", "rmse", "spread")
    rows = [
        (
            name,
            str(t["worlds"]),
            f"{t['coverage']:.2f}",
            f"{t['sign_right']:.2f}",
            f"{t['majority']:.2f}",
            f"{t['rmse']:.4f}",
            f"{t['spread']:.4f}",
        )
        for name, t in tests.items()
    ]
    return format_table(header, rows)


def advisor_tests(worlds: Sequence[Result]) -> dict[str, Any]:
    """Validation of every target; empty while there are too few worlds."""
    train = [world for world in worlds if not world.config["held_out"]]
    test = [world for world in worlds if world.config["held_out"]]
    if len(train) < 20 or not test:
        return {}
    advisor = fit_advisor(train)
    return {
        f"{treated} - {baseline}": validate(advisor, test, (treated, baseline))
        for treated, baseline in TARGETS
    }


def cross_validation(worlds: Sequence[Result]) -> dict[str, Any]:
    """Every target's validation when each fifth of the design is left out in turn.

    The held-out worlds alone are too few to tell a coverage of 80 % from one of 95 %.
    """
    validated: dict[str, list[dict[str, Any]]] = {}
    for turn in range(HELD_OUT_EVERY):
        left = [w for w in worlds if w.config["index"] % HELD_OUT_EVERY == turn]
        rest = [w for w in worlds if w.config["index"] % HELD_OUT_EVERY != turn]
        if not left:
            continue
        advisor = fit_advisor(rest)
        for target in TARGETS:
            name = " - ".join(target)
            validated.setdefault(name, []).append(validate(advisor, left, target))
    return {name: _pooled(of) for name, of in validated.items()}


def _pooled(of: Sequence[dict[str, Any]]) -> dict[str, Any]:
    worlds = np.array([one["worlds"] for one in of])

    def mean(name: str, power: int = 1) -> float:
        values = np.array([one[name] for one in of]) ** power
        return float(np.average(values, weights=worlds) ** (1 / power))

    return {
        "worlds": int(worlds.sum()),
        "coverage": mean("coverage"),
        "sign_right": mean("sign_right"),
        "majority": mean("majority"),
        "rmse": mean("rmse", 2),
        "spread": mean("spread", 2),
        "width": mean("width"),
    }
