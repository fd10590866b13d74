"""`mprm advise`: does selection pay on this corpus, and which rule?"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.console.command import answer
from experiments.console.corpus import CorpusOptions, load_usable
from experiments.console.errors import AlreadyReported
from experiments.console.options import check_least
from experiments.console.tables import format_table
from experiments.store.results import REFERENCE
from theory.paper import TRAINING

if TYPE_CHECKING:
    from experiments.map.advisor import Advisor

KEEP_RATIOS = (0.05, 0.1, 0.25, 0.5)


@dataclasses.dataclass(frozen=True)
class Options(CorpusOptions):
    """Would BIS help on this corpus? By comparison with simulated ones.

    Reads what mprm run regimes found in hundreds of simulated worlds, and predicts from
    this corpus's counts what each rule would gain over Random and over all data, with
    90 % intervals. Counts do not show what features encode nor how labels err, so the
    intervals are wide; where the corpus is unlike every simulated world it says so and
    predicts nothing.

    Example: mprm advise CORPUS --batch 512

    Attributes:
        batch: Rollouts per update of the planned training.
        passes: Over the subset.
        results: Folder of the results store with regimes.jsonl; the reference that
            comes with the package is read where it has more worlds.
    """

    batch: int = TRAINING.batch_size
    passes: int = 1
    results: Path = Path("runs/results")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, batch=1, passes=1)


OPTIONS = Options


def run(options: Options) -> None:
    """Predict and print."""
    from experiments.map.advisor import corpus_measures
    from mprm_jax.records.problems import DataError

    advisor, worlds, folder = load_advisor(options.results)
    rollouts = load_usable(options).rollouts
    try:
        measures = corpus_measures(rollouts)
    except ValueError as error:
        raise DataError(f"{options.corpus}: {error}") from None
    found = []
    for keep_ratio in KEEP_RATIOS:
        per_pass = math.ceil(keep_ratio * rollouts.n_rollouts / options.batch)
        found.append(_advice(advisor, measures, keep_ratio, options.passes * per_pass))
    inside = [advice for advice in found if not advice["outside"]]
    report = {
        "measures": measures,
        "worlds": worlds,
        "results": str(folder),
        "keep_ratios": found,
        "recommended": _recommend(inside) if inside else None,
    }
    answer(options.json, report, lambda: _text(report, inside))
    if not inside:
        reasons = sorted({name for advice in found for name in advice["outside"]})
        raise AlreadyReported(
            "no prediction: the corpus lies outside what was simulated "
            f"({', '.join(reasons)})"
        )


def load_advisor(
    folder: Path, reference: Path = REFERENCE
) -> tuple[Advisor, int, Path]:
    """The advisor, fitted to the worlds of one seed that are not held out, their
    number, and their folder: the reference where it has more of them.

    Raises:
        DataError: the results are damaged, or neither folder has enough worlds.
    """
    from experiments.map.advisor import fit_advisor
    from experiments.map.worlds import read_worlds
    from mprm_jax.records.problems import DataError

    worlds, used = max(
        (
            ([world for world in read_worlds(at) if not world.config["held_out"]], at)
            for at in (folder, reference)
        ),
        key=lambda found: len(found[0]),
    )
    try:
        return fit_advisor(worlds), len(worlds), used
    except ValueError as error:
        raise DataError(f"{used}: {error}; mprm run regimes makes them") from None


def _advice(
    advisor: Advisor, measures: dict[str, float], keep_ratio: float, updates: int
) -> dict[str, Any]:
    """Predictions for one keep ratio; none where it is outside."""
    from experiments.map.advisor import TARGETS, inputs

    x = inputs(measures, keep_ratio, updates)
    outside = advisor.outside(x)
    advice: dict[str, Any] = {
        "keep_ratio": keep_ratio,
        "updates": updates,
        "distance": advisor.distance(x),
        "reach": advisor.reach,
        "outside": outside,
    }
    if outside:
        return advice
    gains = {
        f"{treated} - {baseline}": advisor.predict((treated, baseline), x)._asdict()
        for treated, baseline in TARGETS
    }
    drivers = advisor.drivers(("bis", "random"), x)[:3]
    candidates = _candidates(keep_ratio, gains)
    return advice | {
        "gains": gains,
        "candidates": candidates,
        "best": max(candidates, key=_gain),
        "drivers": [{"input": name, "adds": adds} for name, adds in drivers],
    }


def _recommend(inside: list[dict[str, Any]]) -> dict[str, Any]:
    """The rule and keep ratio that gains most over all data, of those whose interval
    says that they gain; all data where there is none.
    """
    chosen: dict[str, Any] = {"rule": None, "keep_ratio": 1.0, "alpha": None}
    chosen |= {"over_all_data": None}
    candidates = [one for advice in inside for one in advice["candidates"]]
    sure = [one for one in candidates if one["over_all_data"]["low"] > 0]
    if sure:
        chosen = max(sure, key=_gain)
    best = [advice["best"] for advice in inside]
    return chosen | {"told_apart": bool(sure), "if_a_share": best}


def _gain(one: dict[str, Any]) -> float:
    return one["over_all_data"]["gain"]


def _candidates(keep_ratio: float, gains: dict[str, Any]) -> list[dict[str, Any]]:
    """Every arm at a keep ratio with its predicted gain over all data."""
    from experiments.map.worlds import ARMS

    found = []
    for name, gain in gains.items():
        treated, _, baseline = name.rpartition(" - ")
        if baseline == "full":
            arm = ARMS[treated]
            found.append(
                {
                    "rule": arm.rule,
                    "keep_ratio": keep_ratio,
                    "alpha": arm.alpha if arm.rule == "bis" else None,
                    "over_all_data": gain,
                }
            )
    return found


def _text(report: dict[str, Any], inside: list[dict[str, Any]]) -> str:
    every, best = report["keep_ratios"], report["recommended"]
    shown = ("bis - random", "bis - mixed", "bis - full")
    rows = [
        (
            f"{100 * advice['keep_ratio']:g} %",
            *(
                "--" if advice["outside"] else _interval(advice["gains"][name])
                for name in shown
            ),
        )
        for advice in every
    ]
    near = ", ".join(f"{advice['distance']:.2f}" for advice in every)
    lines = [
        f"compared with {report['worlds']} simulated worlds: {report['results']}",
        "of this corpus:",
        *(f"  {n.replace('_', ' ')}: {v:.4f}" for n, v in report["measures"].items()),
        "\nmicro-F1 of BIS (alpha .05) less that of others, 90 % intervals:\n",
        format_table(("keep", "Random", "Mixed", "all data"), rows),
        f"distance to the nearest world (inside up to {every[0]['reach']:.2f}): {near}",
    ]
    for advice in every:
        if advice["outside"]:
            names = ", ".join(advice["outside"])
            share = f"{100 * advice['keep_ratio']:g} %"
            lines.append(f"{share} is outside what was simulated: {names}")
    if best is None:
        return "\n".join(lines)
    parts = "; ".join(f"{d['input']} {d['adds']:+.3f}" for d in inside[0]["drivers"])
    share = f"{100 * inside[0]['keep_ratio']:g} %"
    advised = "all data; no rule is told apart from it"
    lines += [
        f"\nwhat moves BIS - Random most at {share}:\n  {parts}",
        f"recommended: {_as_options(best) if best['told_apart'] else advised}",
        "if only a share can be trained on, the largest predictions are:",
    ]
    for one in best["if_a_share"]:
        gain = _interval(one["over_all_data"])
        lines.append(f"  {_as_options(one)}  ({gain} against all data)")
    return "\n".join([*lines, f"\n{_CAVEAT}"])


# The demo's three worlds: LOG.md, "The map: where BIS pays".
_CAVEAT = """\
These are gains of simulated linear students, of which counts explain little. In two of
the three worlds where reward models were really trained (mprm demo --world all), BIS
lost to Random by more than the intervals predicted there allow; in the third the
trained interval is wide and holds the prediction. Trust a trial of your own more."""


def _interval(gain: dict[str, float]) -> str:
    return "{gain:+.3f} [{low:+.3f}, {high:+.3f}]".format(**gain).replace("0.", ".")


def _as_options(one: dict[str, Any]) -> str:
    alpha = "" if one["alpha"] is None else f" --alpha {one['alpha']:g}"
    return f"--rule {one['rule']} --keep-ratio {one['keep_ratio']:g}{alpha}"
