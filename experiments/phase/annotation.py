"""`mprm run annotate`: does it pay to spend continuations unevenly over the steps?"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.console.command import answer
from experiments.console.tables import format_table
from experiments.console.text import count_of
from experiments.phase.annotation_design import (
    FIRST,
    FULL,
    KEEP_RATIO,
    READINGS,
    RULES,
    SIZES,
    STAGE,
    WORLDS,
)
from experiments.store.experiment import SizedOptions, complete
from theory.intervals import Verdict, mean_and_half_width, tell_apart

NAME = "annotate"

# Of the full annotation, at which arms are compared.
_HALF, _QUARTER = FULL // 2, FULL // 4

_BASELINE = "uniform"
_CHECKER = "checker"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SizedOptions):
    """Where should continuations go? Eight ways to spend them, at equal cost.

    Uniform N, early stop, stop at the first success, confidence sequences, binary
    search for the first error, and the plans of mprm annotate, on five visual worlds
    whose truth is known: wrong labels, overlap of the selection with that of a full
    annotation (N = 16), and AUROC of a student; and what a checker's exceptions do. The
    design was written down before it was run (experiments/phase/annotation_design.py).

    Example: mprm run annotate --size small
    """


OPTIONS = Options


def run(options: Options) -> None:
    """Run the corpora that the store does not hold, and print a table a world."""
    design = SIZES[options.size]
    units = [(world, i) for world in WORLDS for i in range(design.corpora)]
    base = {"rollouts": design.rollouts, "judged": design.judged, "stage": STAGE}

    def compute(chosen: list[int]) -> list[dict[str, Any]]:
        from experiments.phase.pay_off import annotate

        first = 1000 * options.seed + FIRST
        seeds = [first + units[i][1] for i in chosen]
        return [
            annotate(units[i][0], design, seed)
            for i, seed in zip(chosen, seeds, strict=True)
        ]

    configs = [{"world": world, "corpus": i} | base for world, i in units]
    results, ran = complete(options, NAME, configs, compute)
    by_world = {
        world: [of.metrics for of in results if of.config["world"] == world]
        for world in WORLDS
    }
    found = contrasts(by_world)
    value = {
        "size": options.size,
        "seed": options.seed,
        "ran": ran,
        "worlds": {world: _means(cells) for world, cells in by_world.items()},
        "needed": {world: needed_by_arm(cells) for world, cells in by_world.items()},
        "contrasts": {
            name: [
                {"world": w, "arm": a, "reading": r, "mean": v.interval.mean}
                | {"low": v.interval.low, "high": v.interval.high}
                | {"adjusted_p": v.adjusted_p, "sign": v.sign}
                for (w, a, r), v in family.items()
            ]
            for name, family in found.items()
        },
    }
    ran_text = f"{count_of(ran, 'corpus', 'corpora')} annotated: {options.output}"
    answer(options.json, value, lambda: f"{_text(by_world, found)}\n\n{ran_text}")


# --- what it says ---------------------------------------------------------------------

Cells = Sequence[Mapping[str, Any]]


def column(
    cells: Cells, arm: str, level: float | str, metric: str, reading: str | None = None
) -> np.ndarray:
    """A metric of an arm at a budget in every corpus; NaN where it is not defined."""
    found = []
    for cell in cells:
        of = cell["arms"][arm][f"{level}"]
        found.append((of if reading is None else of[reading])[metric])
    return np.array(found, float)


def arms_of(cells: Cells) -> list[str]:
    """The ways to spend."""
    return [arm for arm, of in cells[0]["arms"].items() if f"{_HALF}" in of]


Family = dict[tuple[str, str, str], Verdict]


def contrasts(by_world: Mapping[str, Cells]) -> dict[str, Family]:
    """The families of the design, each told apart by Holm over its members."""
    families = {
        "half": ("error", _HALF, FULL, READINGS),
        "equal": ("error", _QUARTER, _QUARTER, READINGS),
        "kept": (RULES[0], _HALF, _HALF, READINGS[:1]),
        "student": ("auroc_all", _HALF, FULL, READINGS),
        "fewer": ("error", _QUARTER, FULL, READINGS),
    }
    found = {}
    for name, (metric, level, baseline, readings) in families.items():
        gaps = {
            (world, arm, reading): column(cells, arm, level, metric, reading)
            - column(cells, _BASELINE, baseline, metric, reading)
            for world, cells in by_world.items()
            for arm in arms_of(cells)
            for reading in readings
            if (arm == _BASELINE) == (name == "fewer")
        }
        verdicts = tell_apart(list(gaps.values()))
        found[name] = dict(zip(gaps, verdicts, strict=True))
    return found


def needed(cost: np.ndarray, error: np.ndarray, goal: float) -> float | None:
    """Cost at which the error first is at most the goal, linear in its logarithm
    between budgets; the least cost where it is so there; None: it never is.
    """
    order = np.argsort(cost, kind="stable")
    cost, error = cost[order], error[order]
    met = np.flatnonzero(error <= goal)
    if not len(met):
        return None
    at = int(met[0])
    if at == 0 or cost[at] == cost[at - 1]:
        return float(cost[at])
    share = (error[at - 1] - goal) / (error[at - 1] - error[at])
    return float(cost[at - 1] * (cost[at] / cost[at - 1]) ** share)


def needed_by_arm(cells: Cells) -> dict[str, dict[str, Any]]:
    """By arm and reading, continuations a step until it errs no more than the full
    annotation: geometric mean of the corpora in which it gets there, their number,
    how many of them do at the least cost, and the 95 % interval where all do.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm in arms_of(cells):
        levels = list(cells[0]["arms"][arm])
        cost = np.array([column(cells, arm, level, "cost") for level in levels])
        for reading in READINGS:
            goal = column(cells, _BASELINE, FULL, "error", reading)
            error = [column(cells, arm, level, "error", reading) for level in levels]
            each = list(map(needed, cost.T, np.transpose(error), goal))
            met = [of for of in zip(each, cost.T, strict=True) if of[0] is not None]
            logs = np.log(np.array([x for x, _ in met], float))
            mean, half = mean_and_half_width(logs) if len(logs) else (np.nan, np.nan)
            whole = len(logs) == len(cells) and np.isfinite(half)
            found.setdefault(arm, {})[reading] = {
                "mean": float(np.exp(mean)) if len(logs) else None,
                "low": float(np.exp(mean - half)) if whole else None,
                "high": float(np.exp(mean + half)) if whole else None,
                "reached": len(logs),
                "at_once": sum(bool(of <= x.min()) for of, x in met),
                "corpora": len(cells),
            }
    return found


def _means(cells: Sequence[Any]) -> Any:
    """Means over the corpora, shaped as a cell; None where one has none."""
    first = cells[0]
    if isinstance(first, Mapping):
        return {key: _means([cell[key] for cell in cells]) for key in first}
    return None if None in cells else float(np.mean(cells))


# --- text -----------------------------------------------------------------------------


def _text(by_world: Mapping[str, Cells], found: Mapping[str, Family]) -> str:
    count, percent = len(next(iter(by_world.values()))), f"{100 * KEEP_RATIO:g} %"
    parts = [
        f"""\
Means over {count} corpora a world, at {_HALF} continuations a step or as many as an arm
needs. steps: that they write; wrong: labels in per cent, by 1[K > 0] and by
r >= 1/2; *: told apart from those of uniform {FULL} (Holm); kept: of {RULES[0]}'s
{percent}, by another full annotation; AUROC: of a student; needed: continuations
for as few wrong labels (<=: at the least budget; -: not in every corpus)."""
    ]
    parts += [_world_text(world, cells, found) for world, cells in by_world.items()]
    parts += [_checker_text(by_world), "\n".join(map(_count, found.items()))]
    return "\n\n".join([*parts, _aim_text(by_world)])


def _aim_text(by_world: Mapping[str, Cells]) -> str:
    """Which arms reach the quality of full annotation at half its cost everywhere."""
    reach = [needed_by_arm(cells) for cells in by_world.values()]
    lines = [
        f"As few wrong labels as uniform {FULL} in every world, at {_HALF} or fewer "
        "continuations\n(upper end of the interval, worst world):"
    ]
    for reading, name in zip(READINGS, ("1[K > 0]", "r >= 1/2"), strict=True):
        most = {
            arm: max(of[arm][reading]["high"] or np.inf for of in reach)
            for arm in reach[0]
        }
        told = [f"{arm} {x:.1f}" for arm, x in most.items() if x <= _HALF]
        line = f"{name}: {', '.join(told) or 'none'}"
        lines.append(
            textwrap.fill(line, 80, initial_indent="  ", subsequent_indent="    ")
        )
    return "\n".join(lines)


def _world_text(world: str, cells: Cells, found: Mapping[str, Family]) -> str:
    means, reach = _means(cells), needed_by_arm(cells)
    facts = means["corpus"]
    rows = []
    for arm, level in [*((arm, _HALF) for arm in arms_of(cells)), (_BASELINE, FULL)]:
        of = means["arms"][arm][f"{level}"]
        half = found["half"] if level == _HALF else {}
        rows.append(
            (
                arm if level == _HALF else f"{arm} {FULL}",
                f"{of['cost']:.2f}",
                f"{of['written']:.2f}",
                *(
                    f"{100 * of[x]['error']:.2f}{_star(half.get((world, arm, x)))}"
                    for x in READINGS
                ),
                f"{of[READINGS[0]][RULES[0]]:.2f}",
                *(f"{100 * of[x]['auroc_all']:.1f}" for x in READINGS),
                *(_reached(reach[arm][x]) if half else "" for x in READINGS),
            )
        )
    clean = means["clean"]["all"]
    header = (
        world, "cost", "steps", "wrong", "r>=.5", "kept", "AUROC", "r>=.5",
        "needed", "r>=.5",
    )  # fmt: skip
    return "\n".join(
        [
            f"{world}: {100 * facts['wrong']:.1f} % of steps wrong, r = "
            f"{facts['r_wrong']:.2f} (right: {facts['r_right']:.2f}); AUROC by "
            f"truth {100 * clean:.1f}\n",
            format_table(header, rows),
        ]
    )


def _star(verdict: Verdict | None) -> str:
    return "*" if verdict is not None and verdict.sign else " "


def _reached(of: Mapping[str, Any]) -> str:
    if of["reached"] < of["corpora"]:
        return "-"
    below = "<=" if of["at_once"] == of["corpora"] else ""
    return f"{below}{of['mean']:.1f}"


def _checker_text(by_world: Mapping[str, Cells]) -> str:
    """What exceptions do, mean over the worlds."""
    means = [_means(cells)["arms"] for cells in by_world.values()]
    full = [of[_BASELINE][f"{FULL}"] for of in means]
    rows = []
    for arm in (arm for arm in means[0] if arm.startswith(_CHECKER)):
        for level in means[0][arm]:
            these = [of[arm][level] for of in means]
            more = [
                np.mean([a[x]["error"] for a in these])
                - np.mean([a[x]["error"] for a in full])
                for x in READINGS
            ]
            kept = np.mean([a[READINGS[0]][RULES[0]] for a in these])
            rows.append(
                (
                    f"{arm}, {level}",
                    f"{np.mean([a['bias'] for a in these]):+.4f}",
                    *(f"{100 * x:+.2f}" for x in more),
                    f"{kept:.2f}",
                )
            )
    header = ("exceptions on right answers", "K/N - r", "wrong", "r>=.5", "kept")
    return (
        "A checker that raises, full annotation, mean over worlds\n\n"
        + format_table(header, rows)
    )


def _count(item: tuple[str, Family]) -> str:
    name, family = item
    signs = [verdict.sign for verdict in family.values()]
    return (
        f"{name}: of {len(signs)} contrasts {signs.count(-1)} told apart below 0, "
        f"{signs.count(1)} above"
    )
