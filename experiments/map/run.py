"""The map: where BIS pays, over the worlds of the committed design."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.map.advisor import corpus_measures
from experiments.map.design import (
    ADDED_ARMS,
    ARMS,
    NAME,
    ROLLOUTS,
    RegimeWorld,
    design,
)
from experiments.map.report import print_map
from experiments.map.worlds import read_worlds
from experiments.store.experiment import SizedOptions, complete
from experiments.students.arms import Arm

if TYPE_CHECKING:
    from experiments.students.worlds import World

# The small size takes the first worlds of the Sobol sequence: themselves a design.
SMALL_WORLDS = 40


class Options(SizedOptions):
    """Where does BIS pay? 384 worlds of a Sobol design over ten axes.

    Mixed share, spread of r, its share between rollouts, keep ratio, annotator noise
    (two axes), how much features show the rollout's ease, common mean, source shift,
    and length of training. Small runs the first 40 worlds; every fifth world, and the
    last 128, added later, test the advisor and are not shown to it. 20 paired seeds.

    Example: mprm run regimes --size full
    """


OPTIONS = Options


def world_of(regime: RegimeWorld) -> World:
    """The world of a point of the design."""
    from experiments.students.worlds import World, corpus_of_mixed_share
    from sim.students.features import FeatureWorld

    axes = regime.axes
    right_below, wrong_above = axes["noise"]
    return World(
        f"regime-{regime.index}",
        "a point of the Sobol design",
        corpus_of_mixed_share(
            axes["mixed_share"], axes["spread"], axes["between"], ROLLOUTS
        ),
        FeatureWorld(
            reliable_at=axes["reliable_at"],
            right_below=right_below,
            wrong_above=wrong_above,
            difficulty=axes["difficulty"],
            common_mean=axes["common_mean"],
            source_shift=axes["source_shift"],
        ),
        passes=axes["passes"],
    )


def run_world(regime: RegimeWorld, seed: int, seeds: int) -> dict[str, Any]:
    """Metrics of every arm, and what the counts of the world's corpora say."""
    from experiments.students.runs import run_arms

    world = world_of(regime)
    numbers = range(1000 * seed, 1000 * seed + seeds)
    keep_ratio = regime.axes["keep_ratio"]
    arms = {
        name: Arm(rule, 1.0 if rule == "full" else keep_ratio, alpha)
        for name, (rule, alpha) in (ARMS | ADDED_ARMS).items()
    }
    found = run_arms(world, list(arms.values()), numbers, excess=False)
    # As draw_problem draws them; three say all that seeds differ in.
    corpora = [
        world.law.draw(np.random.default_rng(number).spawn(1)[0])
        for number in numbers[:3]
    ]
    measured = [corpus_measures(corpus.rollouts) for corpus in corpora]
    by_name = dict(zip(arms, found, strict=True))
    return {
        "measures": {
            name: round(float(np.mean([m[name] for m in measured])), 6)
            for name in measured[0]
        },
        "updates": by_name["random"]["subset"]["updates"],
        "wrong_positives": by_name["full"]["subset"]["wrong_positives"],
        "bis_tied_share": by_name["bis"]["subset"]["tied_share"],
        "arms": {
            name: {
                metric: [round(x, 5) for x in values[metric]]
                for metric in ("micro_f1", "auroc")
            }
            for name, values in by_name.items()
        },
    }


def run(options: Options) -> None:
    """Run the worlds that the store does not hold, then fit and report the advisor."""
    from experiments.students.runs import SEEDS

    regimes = design()[: SMALL_WORLDS if options.size == "small" else None]
    configs = [dataclasses.asdict(regime) | {"seeds": SEEDS} for regime in regimes]
    _, ran = complete(
        options,
        NAME,
        configs,
        lambda chosen: [run_world(regimes[i], options.seed, SEEDS) for i in chosen],
    )
    print_map(options, read_worlds(options.output, options.seed), ran)
