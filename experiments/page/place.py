"""Where a run of the demo stands in the phase diagram of linear probes, and what other
labels gained in nets of its world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from experiments.console.text import signed
from experiments.grid.answer import verdict
from experiments.grid.plan import BIS
from experiments.grid.results import NAMES, Outcome
from experiments.page.corpus import WorldCorpus
from experiments.page.figures import DAMAGED
from experiments.page.html import Chart, Table, chart_of, num, share, sign
from experiments.phase.candidates import NAME as CANDIDATES
from experiments.phase.cells import cell_of
from experiments.phase.design import HARD
from experiments.phase.run import FULL_STAGE, store_name
from experiments.store.manifests import RunManifest
from experiments.store.results import REFERENCE, read_results
from mprm_jax.records.problems import DataError
from theory.intervals import Estimate, mean_and_half_width
from theory.placement import noise_by_position, relative_position

# Of paper_figures.phase, which is imported once a page is drawn.
Panel = Any

_SIGNS = {1: "BIS gains", 0: "open", -1: "BIS loses"}
_BY_VERDICT = {"ahead": 1, "open": 0, "behind": -1}


class _Run(NamedTuple):
    """What places a run, and what it found.

    Attributes:
        world: name.
        keep_ratio: rho.
        updates: of pretraining; None: of a backbone whose file does not say it.
        follows: how far wrong labels follow position.
        kept: the same of what BIS keeps; NaN: there is nothing to tell.
        gain: BIS - Random in AUROC; None: they share no seed.
    """

    world: str
    keep_ratio: float
    updates: float | None
    follows: float
    kept: float
    gain: Estimate | None


def place(
    key: str, outcome: Outcome, corpus: WorldCorpus, manifest: RunManifest
) -> list[Chart]:
    """The diagram next to a world, with the run's place in it; none where the reference
    results are missing or damaged, or no wrong label shows where it stands.
    """
    keep_ratio = corpus.subsets[BIS].options.keep_ratio
    gains = [
        outcome.less_random(one, "auroc")
        for one in outcome.arms
        if (one.arm.rule, one.arm.keep_ratio) == (BIS, keep_ratio)
        and not one.arm.is_control
    ]
    run = _Run(
        outcome.world, keep_ratio, _updates(manifest), *position_aurocs(corpus),
        gains[0] if gains else None,
    )  # fmt: skip
    if np.isnan(run.follows):
        return []
    try:
        return [_chart(key, _nearest(run), run)]
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


def _nearest(run: _Run) -> Panel:
    """The world's panel at the nearest keep ratio; of a world that is not in the
    diagram, that of the one whose wrong labels follow position most alike.
    """
    from paper_figures.phase import panels

    cells = read_results(REFERENCE, store_name("probes"))
    found = panels([msgspec.to_builtins(cell) for cell in cells])
    follows = {panel.world: panel.follows[HARD] for panel in found}
    alike = min(follows, key=lambda world: abs(follows[world] - run.follows))
    world = run.world if run.world in follows else alike
    return min(
        (panel for panel in found if panel.world == world),
        key=lambda panel: abs(np.log(panel.keep_ratio / run.keep_ratio)),
    )


def _chart(key: str, panel: Panel, run: _Run) -> Chart:
    from paper_figures import page

    marks = [("\N{BLACK DOWN-POINTING TRIANGLE}", "this corpus", run.follows)]
    if not np.isnan(run.kept):
        marks.append(("\N{WHITE DOWN-POINTING TRIANGLE}", "kept by BIS", run.kept))
    framed = None
    if (updates := run.updates) is not None:
        column = panel.placements[round(panel.column(run.follows))]
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
    at = " and ".join(f"{num(x, 2)} ({shape} {name})" for shape, name, x in marks)
    note = _substitute(panel, run) + (
        f"This run’s wrong labels follow position with AUROC {at}; how long its "
        "backbone was pretrained is not known, so nothing is predicted."
        if framed is None
        else f"This run’s backbone had {updates:,.0f} updates, and its wrong labels "
        f"follow position with AUROC {at}: {_compared(panel.cells[framed], run.gain)}"
    )
    figure = page.diagram(panel, marks, framed)
    chart = chart_of(key, title, figure, note, _numbers(panel, run.world))
    return replace(chart, note=note)


def other_labels(world: str, manifest: RunManifest) -> list[Table]:
    """What rules with masked labels gained in the reference nets of a world, from the
    backbone nearest the run's; none where there is none.
    """
    updates = _updates(manifest) or FULL_STAGE
    try:
        nets = [
            (abs(np.log(cell.knowledge / updates)), -(cell.rate or 0), cell, result)
            for result in read_results(REFERENCE, CANDIDATES)
            for cell in [cell_of(result)]
            if (cell.diagram, cell.world) == ("nets", world)
        ]
        *_, cell, result = min(nets)
        arms = result.metrics["arms"]
        rows = []
        for name in ("bis", "random masked", "bis masked", "contrast masked"):
            gap = np.subtract(arms[name]["auroc"], arms["random"]["auroc"])
            of, half = mean_and_half_width(100 * gap)
            rule, _, labels = name.partition(" ")
            ends = f"{sign(of - half, 2)} to {sign(of + half, 2)}"
            rows.append([NAMES.get(rule, rule), labels or "hard", sign(of, 2), ends])
    except (DataError, *DAMAGED):
        return []
    caption = (
        f"{world}: what leaving doubtful positives (K/N < 1/4) of mixed rollouts "
        f"without a label gains, in reference nets ({cell.units} corpora, of which the "
        f"first may be this one; backbone of {cell.knowledge:,} updates, "
        f"{share(cell.keep_ratio)} kept). On your own corpus: mprm run selection "
        "--labels hard,masked."
    )
    header = ("rule", "labels", "points of AUROC less Random, hard", "95 %")
    return [Table(caption, header, rows, 2)]


def _numbers(panel: Panel, world: str) -> Table:
    from paper_figures.phase import PLACEMENTS

    header = ("backbone, updates", "wrong labels", "position AUROC")
    header += ("BIS − Random, points", "95 % over corpora", "Holm’s p", "told apart")
    rows = [
        [
            f"{level:g}",
            PLACEMENTS.get(placement, placement),
            num(follows),
            sign(interval.mean, 2),
            f"{sign(interval.low, 2)} to {sign(interval.high, 2)}",
            num(p),
            _SIGNS[of],
        ]
        for (level, placement), ((interval, p, of), _, follows) in panel.cells.items()
    ]
    caption = f"{world}: phase diagram of linear probes, {panel.title}."
    return Table(caption, header, rows, 3)


def _substitute(panel: Panel, run: _Run) -> str:
    """What is shown in place of what is not in the diagram."""
    said = ""
    if panel.world != run.world:
        said = f"The diagram has no world “{run.world}”: “{panel.world}”, whose wrong "
        said += "labels follow position most alike, stands in. "
    if panel.keep_ratio != run.keep_ratio:
        said += f"Of its keep ratios this is the one nearest {share(run.keep_ratio)}. "
    return said


def _compared(shown: Any, own: Estimate | None) -> str:
    """What a cell predicts, and whether the run agrees."""
    predicted, found = shown.verdict.sign, _BY_VERDICT[verdict(own)]
    has = "unknown"
    if own is not None:
        half = "" if own.half_width is None else f" ± {num(100 * own.half_width, 1)}"
        has = f"{signed(100 * own.mean, 1)}{half} points"
    if predicted and found:
        agree = "they agree" if predicted == found else "they contradict each other"
    else:
        agree = f"{'the run' if predicted else 'the diagram'} leaves it open"
    return (
        f"the field in the frame predicts {signed(shown.verdict.interval.mean, 1)} "
        f"points ({_sure(predicted)}), the run’s own BIS − Random is {has} "
        f"({_sure(found)}): {agree}."
    )


def _sure(of: int) -> str:
    return f"told apart from zero: {_SIGNS[of]}" if of else "not told apart from zero"
