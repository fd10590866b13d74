"""Where a run of the demo stands in the phase diagram of linear probes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from experiments.console.text import signed
from experiments.grid.answer import verdict
from experiments.grid.plan import BIS
from experiments.grid.results import Outcome
from experiments.page.corpus import WorldCorpus
from experiments.page.figures import DAMAGED
from experiments.page.html import Chart, chart_of, num, share, sign, tabulate, text
from experiments.phase.design import HARD
from experiments.phase.run import FULL_STAGE, store_name
from experiments.store.manifests import RunManifest
from experiments.store.results import REFERENCE, read_results
from mprm_jax.records.problems import DataError
from theory.intervals import Estimate
from theory.placement import noise_by_position, relative_position

# Of paper_figures.phase, which is imported once a page is drawn.
Panel = Any

_SIGNS = {1: "BIS gains", 0: "open", -1: "BIS loses"}
_BY_VERDICT = {"ahead": 1, "open": 0, "behind": -1}


def place(
    key: str, outcome: Outcome, corpus: WorldCorpus, manifest: RunManifest
) -> list[Chart]:
    """The diagram next to a world, with the run's place in it; none where the reference
    results are missing or damaged, or no wrong label shows where it stands.
    """
    every, kept = position_aurocs(corpus)
    if np.isnan(every):
        return []
    keep_ratio = corpus.subsets[BIS].options.keep_ratio
    try:
        panel = _nearest(outcome.world, keep_ratio, every)
        return [_chart(key, panel, outcome, (every, kept), _updates(manifest))]
    except (DataError, *DAMAGED):
        return []


def position_aurocs(corpus: WorldCorpus) -> tuple[float, float]:
    """How far wrong labels follow position: in the corpus, and in what BIS keeps; NaN
    where wrong steps are all labelled alike.
    """
    rollouts, judged = corpus.rollouts, corpus.correct != 0
    label, position = rollouts.successes > 0, relative_position(rollouts)
    kept = np.repeat(corpus.subsets[BIS].kept, rollouts.lengths)
    of = (judged, judged & kept)
    found = [
        noise_by_position(label[s], corpus.correct[s] > 0, position[s]) for s in of
    ]
    return found[0].position_auroc, found[1].position_auroc


def _updates(manifest: RunManifest) -> float | None:
    """Of pretraining; None: of a backbone whose file does not say it."""
    told = str(manifest.pretraining.get("after update", ""))
    if told.isdecimal():
        return max(float(told), 1.0)
    # Imported here: JAX takes a second.
    from mprm_jax.models.tiny import FULL

    return FULL_STAGE if manifest.arguments.get("backbone") == FULL else None


def _nearest(world: str, keep_ratio: float, position_auroc: float) -> Panel:
    """The world's panel at the nearest keep ratio; of a world that is not in the
    diagram, that of the one whose wrong labels follow position most alike.
    """
    from paper_figures.phase import panels

    cells = read_results(REFERENCE, store_name("probes"))
    found = panels([msgspec.to_builtins(cell) for cell in cells])
    follows = {panel.world: panel.follows[HARD] for panel in found}
    if world not in follows:
        world = min(follows, key=lambda name: abs(follows[name] - position_auroc))
    return min(
        (panel for panel in found if panel.world == world),
        key=lambda panel: abs(np.log(panel.keep_ratio / keep_ratio)),
    )


def _chart(
    key: str,
    panel: Panel,
    outcome: Outcome,
    measured: tuple[float, float],
    updates: float | None,
) -> Chart:
    from paper_figures import page

    names = ("this corpus", "kept by BIS")
    shapes = ("\N{BLACK DOWN-POINTING TRIANGLE}", "\N{WHITE DOWN-POINTING TRIANGLE}")
    marks = [
        page.Mark(*mark)
        for mark in zip(shapes, names, measured, strict=True)
        if not np.isnan(mark[-1])
    ]
    framed = None
    if updates is not None:
        column = panel.placements[round(panel.column(measured[0]))]
        row = min(panel.knowledge, key=lambda level: abs(np.log(level / updates)))
        framed = row, column
    title = (
        f"Where selection pays, {panel.world}, {share(panel.keep_ratio)} kept: points "
        "of AUROC that BIS gains over Random in linear probes (coloured: told apart "
        "from zero; hatched: BIS loses), higher up for backbones that were pretrained "
        "longer and know more, further right where a step’s position gives away more "
        "wrong labels (the numbers above, as AUROC; .50: none), and in the last column "
        "with true labels only."
    )
    note = _substitute(panel, outcome) + _told(panel, framed, updates, marks, outcome)
    figure = page.diagram(panel, marks, framed)
    chart = chart_of(key, title, figure, note, _numbers(panel, outcome.world))
    return replace(chart, note=note)


def _numbers(panel: Panel, world: str) -> Any:
    from paper_figures.phase import PLACEMENTS

    items = [
        {
            "updates": f"{level:g}",
            "labels": PLACEMENTS.get(placement, placement),
            "follows": shown.position_auroc,
            "gain": shown.verdict.interval.mean,
            "ends": f"{sign(shown.verdict.interval.low, 2)} to "
            f"{sign(shown.verdict.interval.high, 2)}",
            "p": shown.verdict.adjusted_p,
            "sign": _SIGNS[shown.verdict.sign],
        }
        for (level, placement), shown in panel.cells.items()
    ]
    return tabulate(
        f"{world}: phase diagram of linear probes, {panel.title}.",
        items,
        (
            ("backbone, updates", "updates", text),
            ("wrong labels", "labels", text),
            ("position AUROC", "follows", num),
            ("BIS − Random, points", "gain", sign, 2),
            ("95 % over corpora", "ends", text),
            ("Holm’s p", "p", num),
            ("told apart", "sign", text),
        ),
        "BIS − Random, points",
    )


def _substitute(panel: Panel, outcome: Outcome) -> str:
    """What is shown in place of what is not in the diagram."""
    parts = []
    if panel.world != outcome.world:
        parts.append(
            f"The diagram has no world “{outcome.world}”: “{panel.world}”, whose wrong "
            "labels follow position most alike, stands in."
        )
    if panel.keep_ratio not in outcome.keep_ratios:
        kept = ", ".join(share(ratio) for ratio in outcome.keep_ratios)
        parts.append(f"Of the keep ratios in it this is the one nearest {kept}.")
    return "".join(f"{part} " for part in parts)


def _told(
    panel: Panel,
    framed: tuple[float, str] | None,
    updates: float | None,
    marks: Any,
    outcome: Outcome,
) -> str:
    """What the diagram predicts, and whether the run agrees."""
    at = " and ".join(f"{num(m.position_auroc, 2)} ({m.shape} {m.name})" for m in marks)
    if framed is None:
        return (
            f"Wrong labels follow position with AUROC {at}; how long the backbone was "
            "pretrained is not known, so the run has no row, and nothing is predicted."
        )
    told = panel.cells[framed].verdict
    own = next(
        (
            outcome.less_random(one, "auroc")
            for one in outcome.arms
            if one.arm.rule == BIS and not one.arm.is_control
        ),
        None,
    )
    return (
        f"This run’s backbone had {updates:,.0f} updates, and its wrong labels follow "
        f"position with AUROC {at}: the field in the frame predicts "
        f"{signed(told.interval.mean, 1)} points ({_sure(told.sign)}). The run itself "
        f"has {_points(own)} points ({_sure(_sign(own))}): {_agree(told.sign, own)}."
    )


def _sign(own: Estimate | None) -> int:
    return _BY_VERDICT[verdict(own)]


def _sure(of: int) -> str:
    return f"told apart from zero: {_SIGNS[of]}" if of else "not told apart from zero"


def _points(own: Estimate | None) -> str:
    if own is None:
        return "no"
    half = "" if own.half_width is None else f" ± {num(100 * own.half_width, 1)}"
    return f"{signed(100 * own.mean, 1)}{half}"


def _agree(predicted: int, own: Estimate | None) -> str:
    found = _sign(own)
    if predicted and found:
        return "they agree" if predicted == found else "they contradict each other"
    return f"{'the run' if predicted else 'the diagram'} leaves it open"
