"""What a phase diagram says: its cells told apart from zero, and its contrasts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.console.tables import format_table
from experiments.phase.cells import METRICS, Cell, by_unit
from experiments.phase.design import AXIS, BLIND, CLEAN, HARD
from theory.intervals import Verdict, tell_apart

# Shown and judged by; the other one is reported beside it.
MAIN = METRICS[0]

# Share of the cells with clean labels that may lose.
_CLEAN_LOSSES = 0.05


class Diagram(NamedTuple):
    """Cells of one world.

    Attributes:
        kind: "students", "probes" or "nets".
        world: name.
        cells: metrics of each, as :func:`experiments.phase.cells.gains_of` keeps them.
    """

    kind: str
    world: str
    cells: Mapping[Cell, Mapping[str, Any]]

    @property
    def knowledge(self) -> list[float]:
        """Its levels, the least first."""
        return sorted({cell.knowledge for cell in self.cells})

    @property
    def placements(self) -> list[str]:
        """Its columns: from blind to where errors really stand, then clean."""
        return list(dict.fromkeys(cell.placement for cell in self.cells))

    def gains(self, metric: str = MAIN) -> dict[Cell, np.ndarray]:
        """BIS - Random of each unit in every cell."""
        return {c: by_unit(c, values, metric) for c, values in self.cells.items()}

    def verdicts(self, metric: str = MAIN) -> dict[Cell, Verdict]:
        """Every cell's mean, Holm-corrected over the diagram."""
        gains = self.gains(metric)
        return dict(zip(gains, tell_apart(list(gains.values())), strict=True))

    def follows(self, placement: str) -> float | None:
        """Mean over units and cells of how far noise follows position; None: clean."""
        found = [
            value
            for cell, values in self.cells.items()
            if cell.placement == placement and values["position_auroc"]
            for value in values["position_auroc"]
        ]
        return float(np.mean(found)) if found else None


class Slope(NamedTuple):
    """How BIS - Random goes along one axis.

    Attributes:
        at: what the row's cells share; 0 or empty where they differ.
        of_units: slope a level of each unit.
        verdict: of their mean, Holm over the diagram's slopes.
    """

    at: Cell
    of_units: np.ndarray
    verdict: Verdict


def slopes(diagram: Diagram, along: str, metric: str = MAIN) -> list[Slope]:
    """Per unit the least-squares slope of BIS - Random over the rank of the level.

    Args:
        diagram: where.
        along: "knowledge"; or "placement", over :data:`experiments.phase.design.AXIS`.
        metric: of the gain.
    """
    gains = diagram.gains(metric)
    rows: dict[Cell, list[np.ndarray]] = {}
    for cell in sorted(gains, key=lambda cell: cell.knowledge):
        if along == "knowledge":
            rows.setdefault(cell._replace(knowledge=0), []).append(gains[cell])
        elif cell.placement in AXIS[diagram.kind]:
            rows.setdefault(cell._replace(placement=""), []).append(gains[cell])
    rows = {at: of for at, of in rows.items() if len(of) > 1}
    found = []
    for of in rows.values():
        rank = np.arange(len(of)) - (len(of) - 1) / 2
        found.append(rank @ np.stack(of) / (rank @ rank))
    return [Slope(*of) for of in zip(rows, found, tell_apart(found), strict=True)]


def claims(diagram: Diagram, metric: str = MAIN) -> dict[str, Any]:
    """The contrasts of the design, with counts, and which of them are refuted."""
    found = diagram.verdicts(metric)
    by_placement = {
        placement: counts(v.sign for c, v in found.items() if c.placement == placement)
        for placement in diagram.placements
    }
    told: dict[str, Any] = {"cells": counts(v.sign for v in found.values())}
    told["placements"] = by_placement
    for along in ("knowledge", "placement"):
        told[along] = _directions(slopes(diagram, along, metric))
    for placement, share in ((BLIND, 0.0), (CLEAN, _CLEAN_LOSSES)):
        if placement in by_placement:
            of = by_placement[placement]
            refuted = of["below"] > share * sum(of.values())
            told[placement] = of | {"refuted": refuted}
    told["crossing"] = _crossing(diagram, found)
    if diagram.kind == "nets":
        told["decided"] = _decided(diagram, metric)
    return told


def _directions(rows: Sequence[Slope]) -> dict[str, Any]:
    """How many rows fall, are open or rise, and the same of each group of rows: those
    of a placement, or, along placements, of a keep ratio.
    """
    groups: dict[str, list[int]] = {}
    for at, _, verdict in rows:
        group = at.placement or f"{100 * at.keep_ratio:g} %"
        groups.setdefault(group, []).append(verdict.sign)
    named = {"falls": -1, "open": 0, "rises": 1}
    by = {
        group: {name: signs.count(sign) for name, sign in named.items()}
        for group, signs in groups.items()
    }
    total = {name: sum(of[name] for of in by.values()) for name in named}
    return total | {"by": by}


def _decided(diagram: Diagram, metric: str) -> str:
    """Whether knowledge decides in nets, by the rule of the design."""
    hard = [s for s in slopes(diagram, "knowledge", metric) if s.at.placement == HARD]
    signs = [slope.verdict.sign for slope in hard]
    if len(hard) < 2:
        return "open"
    (apart,) = tell_apart([hard[0].of_units - hard[1].of_units])
    if 1 in signs or apart.sign:
        return "it does not"
    return "it does" if set(signs) == {-1} else "open"


def counts(signs: Iterable[int]) -> dict[str, int]:
    """How many are told apart above zero, are open, or are told apart below."""
    signs = list(signs)
    named = {"above": 1, "open": 0, "below": -1}
    return {name: signs.count(sign) for name, sign in named.items()}


def _crossing(diagram: Diagram, found: Mapping[Cell, Verdict]) -> dict[str, Any]:
    """Whether BIS loses where much is known and errors stand where they really do, and
    gains where little is known and they are blind.
    """
    least, *_, most = diagram.knowledge if len(diagram.knowledge) > 1 else [None, None]
    real = [p for p in diagram.placements if p in AXIS[diagram.kind]][-1]
    loses = gains = 0
    for cell, verdict in found.items():
        place = cell.knowledge, cell.placement
        loses += place == (most, real) and verdict.sign < 0
        gains += place == (least, BLIND) and verdict.sign > 0
    return {"loses": loses, "gains": gains, "refuted": not (loses and gains)}


# --- text and JSON --------------------------------------------------------------------


def as_text(diagram: Diagram) -> str:
    """The diagram as a table, and what it says in sentences."""
    by_row: dict[tuple[str, ...], dict[str, str]] = {}
    for cell, verdict in diagram.verdicts().items():
        keep = f"{100 * cell.keep_ratio:g} %"
        rate = "" if cell.rate is None else f", {cell.rate:g}"
        row = by_row.setdefault((keep + rate, f"{cell.knowledge:g}"), {})
        row[cell.placement] = _shown(verdict)
    axis = [diagram.follows(placement) for placement in diagram.placements]
    rows = [("", "AUROC", *("" if x is None else f"{x:.2f} " for x in axis))]
    # Most knowledge on top, as in the figure.
    order = sorted(by_row, key=lambda row: (_place(row[0]), -float(row[1])))
    rows += [
        (*row, *(by_row[row].get(p, "") for p in diagram.placements)) for row in order
    ]
    units = next(iter(diagram.cells)).units
    return "\n".join(
        [
            f"{diagram.kind}, world {diagram.world}: BIS - Random in points of AUROC,",
            f"mean over {units} corpora; * told apart from zero (5 %, Holm);",
            "first row: how far wrong labels follow position",
            "",
            format_table(("keep", "knows", *diagram.placements), rows),
            "",
            *sentences(diagram),
        ]
    )


def _place(keep: str) -> tuple[float, float]:
    """Order of rows by rate, then by keep ratio."""
    share, _, rate = keep.partition(" %")
    return float(rate.lstrip(", ") or 0), float(share)


def _shown(verdict: Verdict) -> str:
    return f"{100 * verdict.interval.mean:+.2f}{'*' if verdict.sign else ' '}"


def sentences(diagram: Diagram) -> list[str]:
    """Where BIS pays, where it loses, and which contrasts are refuted, with counts."""
    told = claims(diagram)
    lines = [f"BIS against Random in {_counted(told['cells'])}:"]
    for placement, of in told["placements"].items():
        lines.append(f"  {placement}: {_counted(of)}.")
    for along in ("knowledge", "placement"):
        rows = told[along]
        if not rows["by"]:
            continue
        by = ", ".join(
            f"{group} {of['falls']}/{of['open']}/{of['rises']}"
            for group, of in rows["by"].items()
        )
        lines.append(
            f"With {along} the gain falls in {rows['falls']} rows; refuted in "
            f"{rows['open']}, where that is open, and in {rows['rises']}, where it "
            f"rises ({by})."
        )
    for placement, claim in ((BLIND, "nowhere"), (CLEAN, "hardly anywhere")):
        if placement in told:
            of = told[placement]
            lines.append(
                f"With {placement} labels BIS loses {claim}: {_refuted(of)} "
                f"({of['below']} of {sum(_signs(of).values())} cells)."
            )
    crossing = told["crossing"]
    lines.append(
        "BIS loses at most knowledge and the last placement, gains at least knowledge "
        f"and blind noise: {_refuted(crossing)} ({crossing['loses']} and "
        f"{crossing['gains']} cells)."
    )
    if "decided" in told:
        lines.append(
            f"Does knowledge decide in nets, at both rates? {told['decided']}."
        )
    other = claims(diagram, METRICS[1])
    lines.append(f"By micro-F1 {_counted(other['cells'])}.")
    return [part for line in lines for part in textwrap.wrap(line, 80) or [line]]


def _refuted(of: Mapping[str, Any]) -> str:
    return "refuted" if of["refuted"] else "not refuted"


def _signs(of: Mapping[str, Any]) -> dict[str, int]:
    return {name: of[name] for name in ("above", "open", "below")}


def _counted(of: Mapping[str, int]) -> str:
    return (
        f"{sum(of.values())} cells: {of['above']} above, {of['open']} open, "
        f"{of['below']} below"
    )


def as_json(diagram: Diagram) -> dict[str, Any]:
    """Everything that the text says, and every cell."""
    cells = []
    told: Sequence[dict[Cell, Verdict]] = [diagram.verdicts(m) for m in METRICS]
    for cell in diagram.cells:
        of = {
            metric: found[cell].interval._asdict()
            | {"adjusted_p": found[cell].adjusted_p, "sign": found[cell].sign}
            for metric, found in zip(METRICS, told, strict=True)
        }
        cells.append(cell._asdict() | of)
    return {
        "diagram": diagram.kind,
        "world": diagram.world,
        "claims": {metric: claims(diagram, metric) for metric in METRICS},
        "cells": cells,
    }
