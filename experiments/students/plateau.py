"""How soon random subsets are as good as everything (the paper's Figures 1 and 2)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.store.paired import Contrast
from experiments.students.options import StudentOptions

if TYPE_CHECKING:
    from experiments.store.results import Result
    from experiments.students.runs import Arm

NAME = "plateau"

KEEP_RATIOS = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75)

# 1,250 updates are one pass over everything; the marks are denser where curves bend.
CHECKPOINTS = (8, 16, 32, 63, 94, 125, 188, 250, 313, 438, 625, 875, 1250)

SMALL_WORLDS = ("scarce",)
FULL_WORLDS = ("scarce", "plentiful", "lenient", "judged", "centred", "chained")


@dataclasses.dataclass(frozen=True)
class Options(StudentOptions):
    """How much data does a student need, and is it data or updates that it lacks?

    Random subsets from 5 to 75 % in a single pass and with as many updates as all data
    gets; beside them BIS, Mixed, Low-MC and Reliable at 25 %, each with its learning
    curve. Excess risk is fitted by Eq. 4 and by the exact law with a noise floor. 20
    paired seeds.

    Example: mprm run plateau --size small
    """


OPTIONS = Options


def arms() -> list[Arm]:
    """Random subsets of every size, and the rules of Figure 2c."""
    from experiments.students.runs import Arm

    return [
        Arm("full"),
        Arm("full", labels="clean"),
        *(
            Arm("random", keep_ratio, matched=matched)
            for matched in (False, True)
            for keep_ratio in KEEP_RATIOS
        ),
        *(Arm(rule, 0.25) for rule in ("bis", "mixed", "low-mc", "reliable")),
        Arm("bis", 0.1),
        Arm("bis", 0.25, matched=True),
    ]


def contrasts() -> list[Contrast]:
    """Where the plateau begins, and what more updates give."""

    def random(keep_ratio: float, matched: bool) -> dict[str, Any]:
        return {"rule": "random", "keep_ratio": keep_ratio, "matched": matched}

    full = {"rule": "full", "labels": "hard-0"}
    return [
        *(
            Contrast(f"full > Random-{100 * keep:g} %", full, random(keep, False))
            for keep in KEEP_RATIOS
        ),
        *(
            Contrast(
                f"full > Random-{100 * keep:g} %, matched updates",
                full,
                random(keep, True),
            )
            for keep in KEEP_RATIOS
        ),
    ]


def fit_laws(results: list[Result]) -> dict[str, Any]:
    """Eq. 4 and the law with a floor, fitted to the excess risk of a world's arms.

    Eq. 4: ``C_data N^(-1/2) + C_opt T^(-1/2)``; the exact law of logistic regression on
    noisy labels: ``floor + c / N + c' / T``; N steps, T updates, all coefficients >= 0.

    Returns:
        per law the coefficients, the root mean square residual, and that of predicting
        each arm from the others.
    """
    arms = [
        r.metrics
        for r in results
        if r.config["arm"]["rule"] in ("random", "full")
        and r.config["arm"]["labels"] == "hard-0"
    ]
    steps = np.array([m["subset"]["steps"] for m in arms])
    updates = np.array([m["subset"]["updates"] for m in arms])
    excess = np.array([np.mean(m["excess_risk"]) for m in arms])
    terms = {
        "eq4": np.stack([steps**-0.5, updates**-0.5], axis=1),
        "exact": np.stack([np.ones(len(arms)), 1 / steps, 1 / updates], axis=1),
    }
    return {name: _nonnegative_fit(x, excess) for name, x in terms.items()} | {
        "steps": steps.tolist(),
        "updates": updates.tolist(),
        "excess": excess.tolist(),
    }


def _nonnegative_fit(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from scipy.optimize import nnls

    coefficients, norm = nnls(x, y)
    others = ~np.eye(len(y), dtype=bool)
    left_out = [
        y[i] - x[i] @ nnls(x[others[i]], y[others[i]])[0] for i in range(len(y))
    ]
    return {
        "coefficients": coefficients.tolist(),
        "rms": float(norm / np.sqrt(len(y))),
        "rms_left_out": float(np.sqrt(np.mean(np.square(left_out)))),
    }


def run(options: Options) -> None:
    """Run what is missing, fit, and report."""
    from experiments.store.results import Result, append_results, cell_key, read_results
    from experiments.students.experiment import run_worlds

    names = SMALL_WORLDS if options.size == "small" else FULL_WORLDS
    run_worlds(
        options, NAME, names, lambda world: arms(), contrasts(), checkpoints=CHECKPOINTS
    )
    results = read_results(options.output, NAME)
    done = {result.key for result in results}
    for name in names:
        config = {"fit": "excess risk", "world": {"name": name}}
        of_world = [
            r
            for r in results
            if r.config["world"]["name"] == name and r.seed == options.seed
        ]
        laws = fit_laws([r for r in of_world if "arm" in r.config])
        if cell_key(config, options.seed) not in done:
            append_results(options.output, [Result(NAME, config, options.seed, laws)])
        if not options.json:
            eq4, exact = laws["eq4"], laws["exact"]
            floor = exact["coefficients"][0]
            print(
                f"\n{name}: excess risk, root mean square error of an arm predicted "
                f"from the others: Eq. 4 {eq4['rms_left_out']:.4f} nats, floor + 1/N "
                f"{exact['rms_left_out']:.4f} nats (floor {floor:.4f})"
            )
