"""What the map says: signs over worlds, and how far the advisor can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.console.command import print_json
from experiments.console.tables import format_table
from experiments.map.advisor import MIN_WORLDS, TARGETS, fit_advisor, validate
from experiments.map.design import COMPARED as COMPARED
from experiments.map.design import CONTROLS, HELD_OUT_EVERY, Design
from experiments.map.worlds import gains
from experiments.store.experiment import SizedOptions
from experiments.store.results import Result
from theory.intervals import mean_and_half_width, verdicts


def sign_counts(
    worlds: Sequence[Result], treated: str, baseline: str
) -> dict[str, int]:
    """In how many worlds the gain is beyond doubt positive, negative, or open (5 %,
    Holm-corrected over the worlds).
    """
    found = verdicts([gains(world, treated, baseline) for world in worlds])
    signs = [verdict.sign for verdict in found]
    named = {"gains": 1, "open": 0, "loses": -1}
    return {name: signs.count(sign) for name, sign in named.items()}


def decomposition(worlds: Sequence[Result]) -> dict[str, float]:
    """Means over the worlds of BIS - Random and of its parts, in micro-F1.

    ``BIS - Random = composition + noise of BIS - noise of Random``: composition is the
    difference with true labels, the noise of a rule what its labels lose against true
    ones, of which ``blind`` is lost with as many wrong labels placed at random.
    """
    mean = {
        name: float(
            np.mean([np.mean(w.metrics["arms"][name]["micro_f1"]) for w in worlds])
        )
        for name in ("bis", "random", *CONTROLS)
    }
    parts = {"gain": mean["bis"] - mean["random"]}
    parts["composition"] = mean["bis, clean"] - mean["random, clean"]
    for rule in ("bis", "random"):
        parts[f"noise_{rule}"] = mean[rule] - mean[f"{rule}, clean"]
        parts[f"blind_{rule}"] = mean[f"{rule}, blind"] - mean[f"{rule}, clean"]
    return parts


def by_level(
    worlds: Sequence[Result], axes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """BIS - Random at each level of one axis, or pair of levels of two.

    Its mean over the worlds with the half-width of the 95 % interval, the signs, and
    the parts of :func:`decomposition`.
    """
    levels: dict[str, list[Result]] = {}
    for world in sorted(worlds, key=lambda w: [w.config["axes"][a] for a in axes]):
        shown = ", ".join(_level(world.config["axes"][axis]) for axis in axes)
        levels.setdefault(shown, []).append(world)
    found = {}
    for level, of in levels.items():
        means = [float(gains(world, "bis", "random").mean()) for world in of]
        half = mean_and_half_width(means)[1] if len(means) > 1 else float("nan")
        found[level] = (
            {"worlds": len(of), "half_width": half}
            | sign_counts(of, "bis", "random")
            | decomposition(of)
        )
    return found


def _level(value: Any) -> str:
    return (
        "/".join(f"{x:g}" for x in value) if isinstance(value, list) else f"{value:g}"
    )


def print_map(
    options: SizedOptions, design: Design, worlds: Sequence[Result], ran: int
) -> None:
    """Signs per keep ratio and comparison, the new axes, and the advisor's test.

    Args:
        options: of the command.
        design: whose worlds.
        worlds: of the options' seed, each once.
        ran: how many of them were run now.
    """
    by_keep: dict[float, list[Result]] = {}
    for world in sorted(worlds, key=lambda w: w.config["axes"]["keep_ratio"]):
        by_keep.setdefault(world.config["axes"]["keep_ratio"], []).append(world)
    signs = {
        f"{treated} - {baseline}": {
            f"{keep:g}": sign_counts(of, treated, baseline)
            for keep, of in by_keep.items()
        }
        for treated, baseline in design.compared
    }
    tables = {" x ".join(axes): by_level(worlds, axes) for axes in design.tabled}
    if tables:
        tables = {"all": by_level(worlds, ())} | tables
    tests = advisor_tests(worlds)
    turns = cross_validation(worlds) if tests else {}
    if options.json:
        report = {"seed": options.seed, "worlds": len(worlds), "ran": ran}
        tested = {"advisor": tests, "cross_validation": turns}
        more = {"levels": tables} if tables else {}
        print_json(report | {"signs": signs} | tested | more)
        return
    rows = [
        (name, f"{100 * float(keep):g} %", *(str(n) for n in counts.values()))
        for name, counted in signs.items()
        for keep, counts in counted.items()
    ]
    print(format_table(("difference", "keep", "gains", "open", "loses"), rows))
    if tables:
        print("\nBIS - Random by level, in points of micro-F1:\n")
        print(_level_table(tables))
    for title, found in (
        ("on held-out worlds", tests),
        ("on every fifth of the worlds in turn, fitted to the others", turns),
    ):
        if found:
            print(f"\nadvisor {title}, 90 % intervals:\n")
            rows = [
                (name, *(form.format(test[column]) for column, form in _TESTS.items()))
                for name, test in found.items()
            ]
            header = ("gain", *(column.replace("_", " ") for column in _TESTS))
            print(format_table(header, rows))
    print(
        f"\n{ran} worlds run, {len(worlds)} of seed {options.seed} in the store: "
        f"{options.output}"
    )


def _level_table(tables: dict[str, dict[str, dict[str, float]]]) -> str:
    """One row a level; in brackets what blind noise costs."""
    header = ("level", "gains", "open", "loses", "mean", "composition")
    rows = []
    for name, levels in tables.items():
        for level, of in levels.items():
            points = {k: f"{100 * x:+.1f}" for k, x in of.items()}
            rows.append(
                (
                    f"{name} {level}".strip(),
                    *(f"{of[sign]:.0f}" for sign in header[1:4]),
                    f"{points['gain']} +- {100 * of['half_width']:.1f}",
                    points["composition"],
                    *(
                        f"{points[f'noise_{rule}']} ({points[f'blind_{rule}']})"
                        for rule in ("bis", "random")
                    ),
                )
            )
    return format_table((*header, "noise BIS (blind)", "Random (blind)"), rows)


# Columns of the advisor's tests.
_TESTS = {
    "worlds": "{}",
    "coverage": "{:.2f}",
    "sign_right": "{:.2f}",
    "majority": "{:.2f}",
    "rmse": "{:.4f}",
    "spread": "{:.4f}",
}


def advisor_tests(worlds: Sequence[Result]) -> dict[str, Any]:
    """Validation of every target; empty while there are too few worlds."""
    train = [world for world in worlds if not world.config["held_out"]]
    test = [world for world in worlds if world.config["held_out"]]
    return _tested(train, test) if len(train) >= MIN_WORLDS and test else {}


def cross_validation(worlds: Sequence[Result]) -> dict[str, Any]:
    """Every target's validation when each fifth of the design is left out in turn.

    The held-out worlds alone are too few to tell a coverage of 80 % from one of 95 %.
    """
    turns = []
    for turn in range(HELD_OUT_EVERY):
        left = [w for w in worlds if w.config["index"] % HELD_OUT_EVERY == turn]
        rest = [w for w in worlds if w.config["index"] % HELD_OUT_EVERY != turn]
        if left:
            turns.append(_tested(rest, left))
    return {name: _pooled([one[name] for one in turns]) for name in turns[0]}


def _tested(train: Sequence[Result], test: Sequence[Result]) -> dict[str, Any]:
    advisor = fit_advisor(train)
    return {" - ".join(target): validate(advisor, test, target) for target in TARGETS}


def _pooled(of: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the worlds of all turns; of errors the root mean square."""
    worlds = [one["worlds"] for one in of]
    pooled: dict[str, Any] = {"worlds": sum(worlds)}
    for name in list(of[0])[1:]:
        power = 2 if name in ("rmse", "spread") else 1
        values = np.array([one[name] for one in of]) ** power
        pooled[name] = float(np.average(values, weights=worlds) ** (1 / power))
    return pooled
