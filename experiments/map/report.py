"""What the map says: signs over worlds, and how far the advisor can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.console.command import print_json
from experiments.console.tables import format_table
from experiments.console.text import count_of
from experiments.map.advisor import MIN_WORLDS, TARGETS, fit_advisor, validate
from experiments.map.design import COMPARED as COMPARED
from experiments.map.design import CONTROLS, HELD_OUT_EVERY, LABELS, Design
from experiments.map.worlds import gains
from experiments.store.experiment import SizedOptions
from experiments.store.results import Result
from theory.intervals import mean_and_half_width, tell_apart


def signs(worlds: Sequence[Result], treated: str, baseline: str) -> list[str]:
    """Of each world whether the gain is beyond doubt positive, negative, or open (5 %,
    Holm-corrected over the worlds): "gains", "loses" or "open".
    """
    found = tell_apart([gains(world, treated, baseline) for world in worlds])
    return [("open", "gains", "loses")[verdict.sign] for verdict in found]


def sign_counts(
    worlds: Sequence[Result], treated: str, baseline: str
) -> dict[str, int]:
    """In how many worlds each of :func:`signs` is found."""
    found = signs(worlds, treated, baseline)
    return {sign: found.count(sign) for sign in ("gains", "open", "loses")}


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
) -> dict[str, dict[str, float | None]]:
    """BIS - Random at each level of one axis, or pair of levels of two.

    Its mean over the worlds with the half-width of the 95 % interval, the signs, and
    the parts of :func:`decomposition`.
    """
    levels: dict[str, list[Result]] = {}
    for world in sorted(worlds, key=lambda w: [w.config["axes"][a] for a in axes]):
        at = world.config["axes"]
        shown = ", ".join(f"{axis} {_level(at[axis])}" for axis in axes)
        levels.setdefault(shown or "all", []).append(world)
    found = {}
    for level, of in levels.items():
        means = [float(gains(world, "bis", "random").mean()) for world in of]
        half = mean_and_half_width(means)[1] if len(means) > 1 else None
        found[level] = (
            {"worlds": len(of), "half_width": half}
            | sign_counts(of, "bis", "random")
            | decomposition(of)
        )
    return found


def verdicts(worlds: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """What came of the expectations that :mod:`experiments.map.design` numbers.

    Each with its figures, in micro-F1 or shares, and whether it is refuted; those are
    left out for which there are no worlds to compare.
    """
    axes = [world.config["axes"] for world in worlds]
    gain = np.array([gains(world, "bis", "random").mean() for world in worlds])
    knows, signal = (np.array([of[a] for of in axes]) for a in ("knowledge", "signal"))
    follows = np.array([of["order"] == 1 and of["position"] == 4 for of in axes])
    loses = np.array(signs(worlds, "bis", "random")) == "loses"
    clean = signs(worlds, "bis, clean", "random, clean").count("loses")
    parts = [decomposition([world]) for world in worlds]
    placed = np.array(
        [
            of["noise_bis"] - of["blind_bis"] - of["noise_random"] + of["blind_random"]
            for of in parts
        ]
    )
    compared = {
        "1 knowledge": (gain, knows >= 1, knows == 0),
        "2 lost shares": (loses.astype(float), follows, ~follows),
        "3 placement": (placed, follows, ~follows),
        "5 signal": (np.abs(gain), signal == 3, signal == 0.75),
    }
    found: dict[str, dict[str, Any]] = {
        "4 true labels": {
            "loses": clean,
            "loses_as_they_are": int(loses.sum()),
            "refuted": bool(clean >= loses.sum()),
        }
    }
    for claim, (value, one, other) in compared.items():
        if min(one.sum(), other.sum()) < 2:
            continue
        (mean, half), (base, half_base) = (
            mean_and_half_width(value[of]) for of in (one, other)
        )
        more = mean - base
        refuted = {
            "1 knowledge": more + np.hypot(half, half_base) >= 0,
            "2 lost shares": more <= 0,
            "3 placement": mean >= 0 or more >= 0,
            "5 signal": more >= 0,
        }[claim]
        found[claim] = {
            "mean": mean,
            "half_width": half,
            "against": base,
            "half_width_against": half_base,
            "refuted": bool(refuted),
        }
    return dict(sorted(found.items()))


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
    levels: dict[str, dict[str, float | None]] = {}
    for axes in design.tabled:
        levels |= by_level(worlds, axes)
    expected = verdicts(worlds) if levels else {}
    tests = advisor_tests(worlds)
    turns = cross_validation(worlds) if tests else {}
    if options.json:
        report = {"seed": options.seed, "worlds": len(worlds), "ran": ran}
        tested = {"advisor": tests, "cross_validation": turns}
        more = {"levels": levels, "expected": expected} if levels else {}
        print_json(report | {"signs": signs} | tested | more)
        return
    rows = [
        (name, f"{100 * float(keep):g} %", *(str(n) for n in counts.values()))
        for name, counted in signs.items()
        for keep, counts in counted.items()
    ]
    print(format_table(("difference", "keep", "gains", "open", "loses"), rows))
    if levels:
        print(_levels_as_text(levels, design, expected))
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
        f"\n{count_of(ran, 'world')} run, {len(worlds)} of seed {options.seed} in "
        "the store: "
        f"{options.output}"
    )


def _levels_as_text(
    levels: dict[str, dict[str, float | None]],
    design: Design,
    expected: dict[str, dict[str, Any]],
) -> str:
    lines = ["\nBIS - Random by level, in points of micro-F1:\n", _level_table(levels)]
    axes = dict.fromkeys(axis for of in design.tabled for axis in of)
    lines += [f"{axis}: {LABELS[axis]}" for axis in axes]
    lines.append("\nexpected, and what came out:\n")
    for claim, of in expected.items():
        *figures, (_, refuted) = of.items()
        shown = ", ".join(f"{k.replace('_', ' ')} {x:.4g}" for k, x in figures)
        lines.append(f"{claim}: {'refuted' if refuted else 'stands'} ({shown})")
    return "\n".join(lines)


def _level_table(levels: dict[str, dict[str, float | None]]) -> str:
    """One row a level; blind noise: what it costs BIS less what it costs Random."""
    header = (
        "level",
        "gains",
        "open",
        "loses",
        "mean",
        "comp.",
        "BIS",
        "Random",
        "blind",
    )
    rows = []
    for level, of in levels.items():
        points = {k: 100 * x for k, x in of.items() if x is not None}
        half = f" +-{points['half_width']:.1f}" if "half_width" in points else ""
        rows.append(
            (
                level,
                *(str(of[sign]) for sign in header[1:4]),
                f"{points['gain']:+.1f}{half}",
                *(
                    f"{points[part]:+.1f}"
                    for part in ("composition", "noise_bis", "noise_random")
                ),
                f"{points['blind_bis'] - points['blind_random']:+.1f}",
            )
        )
    return format_table(header, rows)


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
