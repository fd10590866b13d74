"""The map's worlds: two Sobol designs, each written down before any of it was run.

    python -m experiments.map.design > experiments/results/regimes_design.json
    python -m experiments.map.design ordered \
        > experiments/results/regimes_ordered_design.json

The files are committed; a test compares them with :func:`design_json`.

The second design, ``ordered``, adds what the first lacks and what may decide the sign
of BIS - Random: an order of the steps, so that wrong labels follow position; position
that features show; what the student knows before; the strength of the signal. Every
world has a benchmark with its share of right steps; 29 of the 86 that ask for 40 %
mixed rollouts get 32 or 37 %, the most that there can be. Expected, and what would
refute it, of micro-F1 over its 256 worlds (20 paired seeds each):

1. BIS's gain over Random falls with knowledge. Refuted if the mean of BIS - Random over
   the worlds of knowledge 1 and 2 is not below that over those of 0, by the 95 %
   interval of the difference of the two means.
2. BIS loses where noise follows position and features show it: of the worlds with order
   1 and position 4 a larger share is told apart below Random than of those with order 0
   or position 0. Refuted if the share is the same or smaller.
3. That loss is of where wrong labels stand, not of how many there are: what BIS loses
   by noise beyond blind noise, less what Random does, is below 0 in the mean over the
   worlds with order 1 and position 4, and further below than over those with order 0
   or position 0. Refuted if either fails.
4. With true labels BIS is hardly ever worse: BIS - Random, both on true labels, is told
   apart below 0 in fewer worlds than with labels as they are. Refuted if in as many.
5. A strong signal leaves less to win or lose: the mean of |BIS - Random| is smaller at
   signal 3 than at .75. Refuted if it is not.

Signs are told apart at 5 %, Holm-corrected over all worlds here, and over those of a
row in the tables, as in the first design; :func:`experiments.map.report.verdicts` says
what came out. Every arm and every new axis is reported, whatever comes out. Of the
candidates for a better rule :mod:`experiments.map.candidates` says how they are judged.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

from experiments.students.arms import CANDIDATES, Arm

# Arms of every world of either design, by their names in results.
ARMS = {
    "random": Arm("random"),
    "bis": Arm("bis"),
    "bis, alpha 0": Arm("bis", alpha=0.0),
    "bis, alpha 0.2": Arm("bis", alpha=0.2),
    "mixed": Arm("mixed"),
    "low-mc": Arm("low-mc"),
    "reliable": Arm("reliable"),
    "full": Arm("full"),
}

# Levels of each axis of the first design. Noise is (Pr(right | r < tau), Pr(wrong |
# r >= tau)), from none over symmetric flips to what judges say of real Monte-Carlo
# labels.
AXES: dict[str, tuple[Any, ...]] = {
    "mixed_share": (0.04, 0.08, 0.16, 0.32, 0.48),
    "spread": (0.4, 0.6, 0.8),
    "between": (0.5, 0.7, 0.85),
    "keep_ratio": (0.05, 0.1, 0.25, 0.5),
    "reliable_at": (0.1, 0.3, 0.5, 0.7),
    "noise": ((0.0, 0.0), (0.02, 0.02), (0.2, 0.02), (0.4, 0.05)),
    "difficulty": (0.0, 0.5, 1.0, 2.0),
    "common_mean": (0.0, 3.0, 6.0),
    "source_shift": (0.0, 0.3, 0.6),
    "passes": (1, 2, 4),
}
WORLDS = 256

# 5 % of these are 57 updates.
ROLLOUTS = 9000

# Every fifth of a design's first worlds tests the advisor, which never sees it.
HELD_OUT_EVERY = 5

# How far the start of a student with knowledge errs. At 1 its weights stand at 45
# degrees to the truth's: at signal 1.5 their AUROC is .73 to .75, and the truth's own
# .81 to .83, so that there is something to keep and something to learn.
KNOWLEDGE_NOISE = 1.0

# What the axes are, for those who do not know the code; sd: standard deviations of the
# features' noise.
LABELS = {
    "mixed_share": "rollouts with both labels, share",
    "spread": "spread of success chances, 0 to 1",
    "between": "spread between rollouts, share",
    "keep_ratio": "share kept",
    "reliable_at": "right from a success chance of",
    "noise": "rates right below / wrong above / drift",
    "difficulty": "how far features show ease, sd",
    "common_mean": "mean that all steps share, sd",
    "source_shift": "how far sources differ, sd",
    "passes": "passes over what is kept",
    "order": "order of steps, 0 none to 1 full",
    "position": "how far features show position, sd",
    "knowledge": "knowledge at start, times truth",
    "signal": "distance right to wrong step, sd",
}

COMPARED = (("bis", "random"), ("bis", "mixed"), ("bis", "full"))


@dataclasses.dataclass(frozen=True)
class Design:
    """Worlds of a scrambled Sobol sequence, and the arms that are run in each.

    Attributes:
        name: in the results store.
        axes: levels of each.
        sobol_seed: of the scrambling.
        arms: by their names in results; each keeps the world's share of the rollouts
            unless its rule is "full".
        compared: pairs of arms whose signs are counted.
        tabled: groups of axes by whose levels BIS - Random is split up.
        added: further points of the sequence, written down when results of the first
            worlds were known; all are held out.
        digits: of a stored number.
    """

    name: str
    axes: Mapping[str, tuple[Any, ...]]
    sobol_seed: int
    arms: Mapping[str, Arm]
    compared: tuple[tuple[str, str], ...] = COMPARED
    tabled: tuple[tuple[str, ...], ...] = ()
    added: int = 0
    digits: int = 5


# The added worlds were written down because 51 held-out worlds tell a coverage of .78
# from one of .90 only just.
FIRST = Design(
    "regimes", AXES, 20_261_122, ARMS | {"contrast": Arm("contrast")}, added=128
)

CONTROLS = {
    f"{rule}, {labels}": Arm(rule, labels=labels)
    for rule in ("random", "bis")
    for labels in ("clean", "blind")
}

# Noise has a third number here, FeatureWorld.late: at its last level wrong steps whose
# r stays high, for they can be repaired, stand early.
ORDERED = Design(
    "regimes_ordered",
    {
        "mixed_share": (0.04, 0.12, 0.4),
        "spread": (0.4, 0.7),
        "between": (0.3, 0.5, 0.8),
        "keep_ratio": (0.05, 0.1, 0.25, 0.5),
        "reliable_at": (0.1, 0.3, 0.6),
        "noise": (
            (0.0, 0.0, 0.0),
            (0.2, 0.02, 0.0),
            (0.4, 0.05, 0.0),
            (0.05, 0.1, -1.0),
        ),
        "difficulty": (0.0, 0.5, 2.0),
        "common_mean": (0.0, 6.0),
        "source_shift": (0.0, 0.5),
        "passes": (1, 3),
        "order": (0.0, 0.5, 1.0),
        "position": (0.0, 1.5, 4.0),
        "knowledge": (0.0, 0.25, 0.5, 1.0, 2.0),
        "signal": (0.75, 1.5, 3.0),
    },
    20_261_127,
    ARMS | {"start": Arm("start")} | CONTROLS | CANDIDATES,
    compared=(
        *COMPARED,
        ("bis, clean", "random, clean"),
        ("bis, blind", "random, blind"),
        *((name, other) for name in CANDIDATES for other in ("random", "bis")),
    ),
    tabled=(
        (),
        ("order",),
        ("position",),
        ("order", "position"),
        ("knowledge",),
        ("signal",),
        ("noise",),
    ),
    digits=4,
)
DESIGNS = {"first": FIRST, "ordered": ORDERED}


@dataclasses.dataclass(frozen=True)
class RegimeWorld:
    """One world of a design.

    Attributes:
        index: in the design.
        held_out: whether it tests the advisor.
        axes: level of each axis.
    """

    index: int
    held_out: bool
    axes: dict[str, Any]


def design(of: Design = FIRST) -> list[RegimeWorld]:
    """The worlds: each coordinate of a scrambled Sobol point picks a level.

    Those added later come last.
    """
    from scipy.stats import qmc

    sobol = qmc.Sobol(len(of.axes), scramble=True, rng=of.sobol_seed)
    points = [*sobol.random(WORLDS)]
    if of.added:
        points += [*sobol.random(of.added)]
    return [
        RegimeWorld(
            i,
            i >= WORLDS or i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1,
            {
                name: levels[min(int(u * len(levels)), len(levels) - 1)]
                for u, (name, levels) in zip(point, of.axes.items(), strict=True)
            },
        )
        for i, point in enumerate(points)
    ]


def arms_at(arms: Mapping[str, Arm], keep_ratio: float) -> dict[str, Arm]:
    """The arms of a world with this keep ratio; "full" keeps everything."""
    return {
        name: arm
        if arm.rule == "full"
        else dataclasses.replace(arm, keep_ratio=keep_ratio)
        for name, arm in arms.items()
    }


def design_json(of: Design = FIRST) -> str:
    """The design as it is committed."""
    rows = ",\n".join(
        json.dumps(
            dataclasses.asdict(w) | ({"added": True} if w.index >= WORLDS else {})
        )
        for w in design(of)
    )
    head = {"axes": of.axes, "rollouts": ROLLOUTS, "sobol_seed": of.sobol_seed}
    if of is not FIRST:
        arms = {n: [arm.rule, arm.alpha, arm.labels] for n, arm in of.arms.items()}
        head |= {"knowledge_noise": KNOWLEDGE_NOISE, "arms": arms}
    return f'{json.dumps(head)[:-1]}, "worlds": [\n{rows}\n]}}\n'


if __name__ == "__main__":
    print(design_json(DESIGNS[sys.argv[1] if sys.argv[1:] else "first"]), end="")
