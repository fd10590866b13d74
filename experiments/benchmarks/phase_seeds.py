"""The phase diagram's nets on as many corpora as time allows, a JSON line a corpus.

    uv run python -m experiments.benchmarks.phase_seeds --output runs/phase_seeds

What :mod:`experiments.phase.design` writes down for nets, at its higher rate and the
stages that ship with the package, over many more corpora than its twelve. The store in
the output folder keeps every trained model, so a run that is stopped goes on.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import tyro

from experiments.phase import nets
from experiments.phase.design import HARD, NETS, Nets
from mprm_jax.models import tiny
from theory.intervals import paired_interval

# Updates of pretraining, and the backbone of that name.
_STAGES = {2400: "2400", 6000: tiny.FULL}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train nets over many corpora.

    Attributes:
        output: Folder of the store.
        corpora: At most.
        first: Seed of the first corpus.
        toy: Few rollouts, one stage, one label.
    """

    output: Path
    corpora: int = 100
    first: int = 0
    toy: bool = False


def design_of(options: Options) -> Nets:
    """What is trained on a corpus."""
    full = NETS["full"]
    stages, rate = tuple(_STAGES), max(full.rates)
    design = full._replace(stages=stages, rates=(rate,), units=1)
    if not options.toy:
        return design
    return design._replace(
        stages=stages[:1], placements=(HARD,), rollouts=256, judged=40, keep_ratio=0.25
    )


def gains(options: Options, corpora: int) -> dict[str, dict[str, float | None]]:
    """BIS - Random in AUROC with its 95 % interval, by stage and labels."""
    design, found = design_of(options)._replace(units=corpora), {}
    for cell in nets.cells(design, design.stages):
        backbone = _STAGES[int(cell.knowledge)]
        taught = nets.taught(cell, design, backbone, options.output, options.first)
        auroc = {
            arm.rule: metrics["auroc"]
            for arm, metrics in taught.items()
            if arm.labels == cell.placement
        }
        interval = paired_interval(auroc["bis"], auroc["random"])
        found[f"{cell.knowledge} {cell.placement}"] = interval._asdict()
    return found


def main(options: Options) -> None:
    """Train corpus by corpus, and tell what is known after each."""
    design, began = design_of(options), time.perf_counter()
    backbones = [_STAGES[stage] for stage in design.stages]
    for number in range(options.corpora):
        trained = list(
            nets.train(options.output, design, backbones, options.first + number)
        )
        found = {
            "corpora": number + 1,
            "seconds": time.perf_counter() - began,
            "models": len(trained),
        }
        if number:
            found["auroc_gain"] = gains(options, number + 1)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
