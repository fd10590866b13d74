"""Do judged rollouts tell where BIS pays? Counts, judged rollouts, and both.

Of each world of the map a corpus of a seed that no student has, its subsets, and the
truth of some of its rollouts, drawn at random; :mod:`experiments.map.judged` makes of
them what a user would have. Nothing is trained: what the students gained is read from
the map's own results.

Written down before a held-out world was compared:

1. Predicted is BIS - Random at the world's keep ratio in AUROC, the mean over the seeds
   of the map; beside it in micro-F1. Predictors: *counts* (ridge regression on what
   counts say, as :mod:`experiments.map.advisor` has it); *formula* (judged rollouts
   alone, nothing fitted, AUROC only, under the assumptions that
   :class:`experiments.map.judged.Assumed` has by default); *both* (ridge on counts and
   on :data:`experiments.map.judged.NAMES`). Prior knowledge and the strength of the
   signal cannot be seen in judged rollouts: *formula, stated* and *both, stated* are
   told the world's own, *formula* and *both* are not. In worlds without knowledge whose
   signal is the default the two are one.
2. Fitted is to the worlds that are not held out, of all designs whose results there
   are; judged by the held-out ones of each design apart. The penalty is that of the
   least leave-one-out error, as ever.
3. 25, 50, 100 or 200 judged rollouts at random, and 100 of which half are mixed; the
   smaller samples are parts of the larger.
4. Reported of each: share of signs that are right among worlds whose gain is told apart
   from 0 (5 %, Holm over the held-out worlds of the design; aim .90), share of the
   losing ones among them that are found (aim .80), share of variance explained by the
   prediction as it stands (aim .6), and coverage of the 90 % intervals (of the formula
   none).
5. What would refute the claim that judged rollouts tell the sign: 100 of them with
   counts do no better on these three measures than counts alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.map.design import design
from experiments.map.judged import (
    Assumed,
    composition,
    judged_inputs,
    judged_steps,
    steps_of,
)
from experiments.map.run import SMALL_WORLDS, world_of
from experiments.store.experiment import SizedOptions, complete

if TYPE_CHECKING:
    from experiments.map.design import RegimeWorld
    from experiments.students.worlds import World

NAME = "judged_map"

# No student has the seeds from here on, nor a law of :mod:`experiments.map.gain`.
_FIRST_SEED = 600

SIZES = (25, 50, 100, 200)
HALF_MIXED = "100, half mixed"


class Options(SizedOptions):
    """Do judged rollouts tell where BIS pays? Counts, judged rollouts, and both.

    Small takes the map's first 40 worlds, full all of them. The measured side is read
    from the map's results in --output, else from those that come with the package.

    Example: mprm run judged_map --size full
    """


OPTIONS = Options


def stated(world: World) -> Assumed:
    """What a user may state of a world: its signal and the student's knowledge."""
    noise = np.sqrt(1 + world.features.nuisance**2)
    return Assumed(
        separation=world.features.signal / noise,
        knowledge=getattr(world, "knowledge", 0.0),
    )


def judge_world(regime: RegimeWorld, seed: int) -> dict[str, Any]:
    """Inputs of the predictor from each sample of judged rollouts of a world."""
    from sim.students.features import draw_truth
    from theory.selection import select

    world, keep = world_of(regime), regime.axes["keep_ratio"]
    rng = np.random.default_rng([1000 * seed + _FIRST_SEED, regime.index])
    corpus = world.law.draw(rng)
    rollouts = corpus.rollouts
    right = draw_truth(world.features, corpus, rng)
    content = rng.integers(0, 2**64, rollouts.n_rollouts, np.uint64, endpoint=False)
    rows = select(rollouts, "bis", keep, content, alpha=0.05).rows
    steps = steps_of(rollouts)
    whole, bis = composition(steps), composition(steps, rows)
    order = rng.permutation(rollouts.n_rollouts)
    samples = {str(size): order[:size] for size in SIZES}
    mixed = (rollouts.n_positive > 0) & (rollouts.n_positive < rollouts.n_measured)
    halves = order[mixed[order]][:50], order[~mixed[order]][:50]
    samples[HALF_MIXED] = np.concatenate(halves)

    def inputs(assumed: Assumed) -> dict[str, list[float]]:
        found = {}
        for name, chosen in samples.items():
            chosen = np.sort(chosen)
            truth = right[np.isin(steps.row_S, chosen)]
            judged = judged_steps(rollouts.take(chosen), truth)
            x = judged_inputs(bis, whole, keep, judged, assumed)
            found[name] = [float(f"{value:.4g}") for value in x]
        return found

    told = stated(world)
    found: dict[str, Any] = {"inputs": inputs(Assumed())}
    if dataclasses.replace(told, separation=Assumed.separation) != Assumed() or (
        abs(told.separation - Assumed.separation) > 0.01
    ):
        found["stated"] = inputs(told)
    return found


def run(options: Options) -> None:
    """Judge the worlds that the store lacks; compare with the map's results."""
    regimes = design()[: SMALL_WORLDS if options.size == "small" else None]
    configs = [{"design": "regimes", "index": r.index} for r in regimes]
    cells, ran = complete(
        options,
        NAME,
        configs,
        lambda chosen: [judge_world(regimes[i], options.seed) for i in chosen],
    )
    print(ran, len(cells))
