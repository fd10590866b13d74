"""`mprm advise`: does selection pay on this corpus, and which rule?"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli import shared
from experiments.cli.tables import format_table

if TYPE_CHECKING:
    from experiments.advisor_model import Advisor

REFERENCE = Path(__file__).parents[1] / "results"

KEEP_RATIOS = (0.05, 0.1, 0.25, 0.5)


@dataclasses.dataclass(frozen=True)
class Options(shared.CorpusOptions):
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
        results: Folder of the results store with regimes.jsonl; what is not there is
            read from the reference that comes with the package.
    """

    batch: int = 512
    passes: int = 1
    results: Path = Path("runs/results")


OPTIONS = Options


def run(options: Options) -> None:
    """Predict and print."""
    from experiments.advisor_features import corpus_measures
    from mprm_jax.data.problems import DataError

    options.check()
    for name in ("batch", "passes"):
        if getattr(options, name) < 1:
            raise shared.UsageError(f"--{name} must be at least 1")
    advisor, worlds = load_advisor(options.results)
    rollouts = shared.load_usable(options).rollouts
    try:
        measures = corpus_measures(rollouts)
    except ValueError as error:
        raise DataError(f"{options.corpus}: {error}") from None
    found = [
        _advice(
            advisor,
            measures,
            keep_ratio,
            options.passes
            * math.ceil(keep_ratio * rollouts.n_rollouts / options.batch),
        )
        for keep_ratio in KEEP_RATIOS
    ]
    inside = [advice for advice in found if not advice["outside"]]
    report = {
        "measures": measures,
        "worlds": worlds,
        "keep_ratios": found,
        "recommended": _recommend(inside) if inside else None,
    }
    if options.json:
        shared.print_json(report)
    else:
        _print(report)
    if not inside:
        reasons = sorted({name for advice in found for name in advice["outside"]})
        raise shared.AlreadyReported(
            "no prediction: the corpus lies outside what was simulated "
            f"({', '.join(reasons)})"
        )


def load_advisor(folder: Path) -> tuple[Advisor, int]:
    """The advisor, fitted to the worlds that are not held out, and their number.

    Raises:
        DataError: neither the store nor the reference has enough worlds.
    """
    from experiments.advisor_model import fit_advisor
    from experiments.store import read_results
    from mprm_jax.data.problems import DataError

    results = read_results(folder, "regimes") or read_results(REFERENCE, "regimes")
    worlds = [world for world in results if not world.config["held_out"]]
    try:
        return fit_advisor(worlds), len(worlds)
    except ValueError as error:
        raise DataError(f"{folder}: {error}; mprm run regimes makes them") from None


def _advice(
    advisor: Advisor, measures: dict[str, float], keep_ratio: float, updates: int
) -> dict[str, Any]:
    """Predictions for one keep ratio; none where it is outside."""
    from experiments.advisor_features import inputs
    from experiments.advisor_model import TARGETS

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
    return advice | {
        "gains": gains,
        "drivers": [{"input": name, "adds": adds} for name, adds in drivers],
    }


def _recommend(inside: list[dict[str, Any]]) -> dict[str, Any]:
    """The rule and keep ratio with the largest predicted gain over all data."""
    from experiments.regimes import ARMS

    candidates = [
        (gain["gain"], name.removesuffix(" - full"), advice["keep_ratio"], gain)
        for advice in inside
        for name, gain in advice["gains"].items()
        if name.endswith(" - full")
    ]
    _, name, keep_ratio, gain = max(candidates, key=lambda c: c[0])
    rule, alpha = ARMS[name]
    return {
        "rule": rule,
        "keep_ratio": keep_ratio,
        "alpha": alpha if rule == "bis" else None,
        "over_all_data": gain,
        "told_apart": gain["low"] > 0 or gain["high"] < 0,
    }


def _print(report: dict[str, Any]) -> None:
    print(f"compared with {report['worlds']} simulated worlds; of this corpus:")
    for name, value in report["measures"].items():
        print(f"  {name.replace('_', ' ')}: {value:.4f}")
    rows = []
    for advice in report["keep_ratios"]:
        share = f"{100 * advice['keep_ratio']:g} %"
        nearness = f"{advice['distance']:.2f} of {advice['reach']:.2f}"
        if advice["outside"]:
            why = "outside: " + ", ".join(advice["outside"])
            rows.append((share, str(advice["updates"]), nearness, why, "", ""))
            continue
        cells = [
            "{gain:+.3f} [{low:+.3f}, {high:+.3f}]".format(**advice["gains"][name])
            for name in ("bis - random", "bis - mixed", "bis - full")
        ]
        rows.append((share, str(advice["updates"]), nearness, *cells))
    print("\nmicro-F1 of BIS (alpha .05) less that of others, 90 % intervals:\n")
    header = ("keep", "updates", "distance", "Random", "Mixed", "all data")
    print(format_table(header, rows))
    best = report["recommended"]
    if best is None:
        return
    for advice in report["keep_ratios"]:
        if advice["keep_ratio"] == best["keep_ratio"]:
            parts = [f"{d['input']} {d['adds']:+.3f}" for d in advice["drivers"]]
            print(f"\nwhat moves BIS - Random most there: {'; '.join(parts)}")
    alpha = "" if best["alpha"] is None else f" --alpha {best['alpha']:g}"
    print(
        f"recommended: --rule {best['rule']} --keep-ratio {best['keep_ratio']:g}{alpha}"
        + ("" if best["told_apart"] else " (not told apart from all data)")
    )
    print(
        "\nsimulated linear students: the sign and the order of magnitude carry over, "
        "if anything does"
    )
