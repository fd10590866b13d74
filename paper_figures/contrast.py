"""How much contrast between right and wrong steps each rule's subset keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from paper_figures.learning import arms_of
from paper_figures.style import (
    CURVE_HEADER,
    GREY,
    Drawing,
    curve_rows,
    label_panels,
    legend_below,
    named_ticks,
    new_figure,
    plot,
    points,
)
from theory.contrast import (
    best_subset,
    contrast_counts,
    selection_efficiency,
    weighted_efficiency,
)
from theory.intervals import mean_and_half_width
from theory.paper import FULL_DATA, TRIALS
from theory.rollouts import Rollouts
from theory.selection import RuleName, budget, select

_RULES: tuple[RuleName, ...] = (
    "random",
    "bis",
    "mixed",
    "posterior-fisher",
    "contrast",
)
_KEEP = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)

# Rollouts of a drawn corpus, corpora, and the concentrations of r between and within
# rollouts that give a corpus about the paper's shares of mixed rollouts and errors.
_ROLLOUTS, _CORPORA = 10_000, 8
_BETWEEN, _WITHIN = 1.3, 2.1

# A step is right where a continuation from it succeeds at least so often.
_RELIABLE_AT = 0.5


def efficiency(cells: Sequence[Mapping[str, Any]]) -> Drawing:
    """Efficiency of each rule over the keep ratio, and AUROC of students trained."""
    figure, axes = new_figure(columns=2, height=3.1)
    drawn, trained = axes[0]
    rows: list = []
    _of_drawn_corpora(drawn, rows)
    names = [cell["config"].get("world", {}).get("name") for cell in cells]
    _of_students(trained, cells, names[0] if names else "", rows)
    for axis in axes[0]:
        named_ticks(axis, [100 * k for k in _KEEP], [f"{100 * k:g}" for k in _KEEP])
        axis.set_xlabel("keep ratio, %")
        axis.grid(axis="y")
    legend_below(figure, drawn, 4)
    label_panels(axes[0].tolist())
    return Drawing(figure, CURVE_HEADER, rows)


def _draw_corpus(rng: np.random.Generator) -> tuple[Rollouts, np.ndarray]:
    """A corpus of one source, and which of its steps are right."""
    lengths = 2 + rng.poisson(FULL_DATA.steps_per_rollout - 2, _ROLLOUTS)
    mean = FULL_DATA.mean_mc
    u = rng.beta(_BETWEEN * mean, _BETWEEN * (1 - mean), _ROLLOUTS)
    # Beta's parameters must be positive, and u rounds to 0 and 1.
    u = np.repeat(np.clip(u, 1e-9, 1 - 1e-9), lengths)
    r = rng.beta(_WITHIN * u, _WITHIN * (1 - u))
    rollouts = Rollouts(
        rng.binomial(TRIALS, r),
        np.full(len(r), TRIALS),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.zeros(_ROLLOUTS, np.int64),
        ("drawn",),
    )
    return rollouts, r >= _RELIABLE_AT


def _of_drawn_corpora(axis: Axes, rows: list) -> None:
    """Efficiency relative to all data's, mean over corpora."""
    found: dict[str, list[list[float]]] = {}
    for rng in np.random.default_rng(20_261_127).spawn(_CORPORA):
        rollouts, right = _draw_corpus(rng)
        content = rng.integers(0, 2**63, _ROLLOUTS).astype(np.uint64)
        c, v = contrast_counts(rollouts, right)
        everything = selection_efficiency(c, v)
        subsets = {
            rule: [select(rollouts, rule, keep, content).rows for keep in _KEEP]
            for rule in _RULES
        }
        subsets["best subset"] = [
            best_subset(c, v, budget(_ROLLOUTS, keep)).rows for keep in _KEEP
        ]
        for name, of in subsets.items():
            kept = [selection_efficiency(c[x], v[x]) / everything for x in of]
            found.setdefault(name, []).append(kept)
        bound = weighted_efficiency(c, v) / everything
        found.setdefault("any weights", []).append([bound] * len(_KEEP))
    x, panel = [100 * keep for keep in _KEEP], "efficiency relative to all data"
    for i, rule in enumerate(_RULES):
        y = np.mean(found[rule], axis=0)
        points(axis, i, rule, x, [(value, 0.0) for value in y])
        rows += curve_rows(panel, rule, x, y)
    for name, dashes in (("best subset", "--"), ("any weights", ":")):
        y = np.mean(found[name], axis=0)
        label = f"{name}, truth known"
        plot(rows, axis, panel, name, x, y, color=GREY, linestyle=dashes, label=label)
    axis.axhline(1, color=GREY, linewidth=0.7, label="all data")
    axis.set_ylim(0)
    axis.set_ylabel("$G(S)$ / $G$(all data)")
    axis.set_title("contrast within rollouts, drawn corpora")


def _of_students(
    axis: Axes, cells: Sequence[Mapping[str, Any]], world: str, rows: list
) -> None:
    """AUROC of the students of a world, and of those on all data."""
    panel = f"AUROC, {world}"
    for i, rule in enumerate(_RULES):
        marks = {
            100 * cell["config"]["arm"]["keep_ratio"]: mean_and_half_width(
                cell["metrics"]["auroc"]
            )
            for cell in arms_of(cells, world, rule=rule, unit="rollouts")
        }
        x = sorted(marks)
        points(axis, i, rule, x, [marks[keep] for keep in x])
        rows += curve_rows(panel, rule, x, [marks[keep][0] for keep in x])
    for cell in arms_of(cells, world, rule="full", labels="hard-0"):
        level = float(np.mean(cell["metrics"]["auroc"]))
        axis.axhline(level, color=GREY, linewidth=0.7)
        rows += curve_rows(panel, "full", [100.0], [level])
    axis.set_ylabel("AUROC")
    axis.set_title(f"students trained, {world}, synthetic")
