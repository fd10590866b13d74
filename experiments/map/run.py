"""The map: where BIS pays, over the worlds of a committed design."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.map.advisor import corpus_measures
from experiments.map.design import (
    DESIGNS,
    FIRST,
    KNOWLEDGE_NOISE,
    ROLLOUTS,
    Design,
    RegimeWorld,
    arms_at,
    design,
)
from experiments.map.report import print_map
from experiments.map.worlds import read_worlds
from experiments.store.experiment import SizedOptions, complete

if TYPE_CHECKING:
    from experiments.students.worlds import World

# The small size takes the first worlds of the Sobol sequence: themselves a design.
SMALL_WORLDS = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SizedOptions):
    """Where does BIS pay? Worlds of two Sobol designs, 20 paired seeds in each.

    The first has 384 worlds over ten axes: mixed share, spread of r, its share between
    rollouts, keep ratio, annotator noise (two axes), how much features show the
    rollout's ease, common mean, source shift, and length of training. The second,
    ordered, has 256 over these and four more: order of the steps, how much features
    show position, prior knowledge, and signal; with true and blind labels, and with
    candidates for a better recipe. Small runs the first 40 worlds; every fifth world,
    and the last 128 of the first design, added later, test the advisor and are not
    shown to it.

    Example: mprm run regimes --size full

    Attributes:
        design: Which of the two designs.
    """

    design: Literal["first", "ordered"] = "first"


OPTIONS = Options


def world_of(regime: RegimeWorld) -> World:
    """The world of a point of a design."""
    from experiments.students.worlds import World, corpus_of_mixed_share
    from sim.students.features import FeatureWorld

    axes = regime.axes
    right_below, wrong_above, *late = axes["noise"]
    # What the first design has no axis of stays at its default there.
    shown = ("reliable_at", "difficulty", "common_mean", "source_shift")
    shown += ("position", "signal")
    law = corpus_of_mixed_share(
        axes["mixed_share"], axes["spread"], axes["between"], ROLLOUTS
    )
    knowledge = axes.get("knowledge", 0.0)
    return World(
        f"regime-{regime.index}",
        "a point of the Sobol design",
        dataclasses.replace(law, order=axes.get("order", 0.0)),
        FeatureWorld(
            right_below=right_below,
            wrong_above=wrong_above,
            late=sum(late),
            **{name: axes[name] for name in shown if name in axes},
        ),
        passes=axes["passes"],
        knowledge=knowledge,
        knowledge_noise=KNOWLEDGE_NOISE if knowledge else 0.0,
    )


def run_world(
    regime: RegimeWorld, seed: int, seeds: int, of: Design = FIRST
) -> dict[str, Any]:
    """Metrics of every arm, and what the counts of the world's corpora say.

    Besides, how far position tells its wrong labels.
    """
    from experiments.students.runs import run_arms
    from sim.students.problem import draw_problem
    from theory.placement import noise_by_position

    world = world_of(regime)
    numbers = range(1000 * seed, 1000 * seed + seeds)
    arms = arms_at(of.arms, regime.axes["keep_ratio"])
    found = run_arms(world, list(arms.values()), numbers, excess=False)
    by_name = dict(zip(arms, found, strict=True))
    # Three say all that seeds differ in.
    problems = [draw_problem(world.features, world.law, n) for n in numbers[:3]]
    measured = [corpus_measures(problem.rollouts) for problem in problems]
    placed = [
        noise_by_position(p.rollouts.successes > 0, p.steps.right_S, p.steps.position_S)
        for p in problems
    ]
    return {
        "measures": {
            name: round(float(np.mean([m[name] for m in measured])), 6)
            for name in measured[0]
        },
        "position_auroc": round(float(np.mean([p.position_auroc for p in placed])), 4),
        "updates": by_name["random"]["subset"]["updates"],
        "wrong_positives": by_name["full"]["subset"]["wrong_positives"],
        "bis_tied_share": by_name["bis"]["subset"]["tied_share"],
        "arms": {
            name: {
                metric: [round(x, of.digits) for x in values[metric]]
                for metric in ("micro_f1", "auroc")
            }
            for name, values in by_name.items()
        },
    }


def run(options: Options) -> None:
    """Run the worlds that the store does not hold, then fit and report the advisor."""
    from experiments.students.runs import SEEDS

    of = DESIGNS[options.design]
    regimes = design(of)[: SMALL_WORLDS if options.size == "small" else None]
    configs = [dataclasses.asdict(regime) | {"seeds": SEEDS} for regime in regimes]
    _, ran = complete(
        options,
        of.name,
        configs,
        lambda chosen: [run_world(regimes[i], options.seed, SEEDS, of) for i in chosen],
    )
    print_map(options, of, read_worlds(options.output, options.seed, of), ran)
