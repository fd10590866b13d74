"""The phase diagram's design, written down before any of it was run.

Question: does BIS teach more than Random, over what the model already knows (vertical)
and how far wrong labels follow the position of a step (horizontal)? One panel a keep
ratio; a cell is the mean of BIS - Random, paired, and its 95 % t interval over *units*.
A unit is one corpus with a benchmark of its own: intervals hold for new corpora. Seeds
of ties, subsets, batches and blind noise within a corpus are averaged first. Main
metric: AUROC of the steps, which needs no threshold and is what :mod:`theory.gain` is
about; micro-F1 (threshold from held-out solutions) is stored and reported beside it.

The horizontal axis is measured: ``position_auroc`` of
:func:`theory.placement.noise_by_position`, how far position alone tells the wrong steps
labelled positive from those labelled negative; 1/2: not at all.

(a) **Linear students.** The simulated worlds `scarce` and `plentiful` of
    :mod:`experiments.students.worlds`, with position shown by the features
    (:data:`POSITION`: first and last step lie three standard deviations apart, twice
    as far as right and wrong ones). Knowledge: the student starts at c times the truth
    (no noise). Placement: at full order, r falling along every rollout and wrong steps
    late, the wrong labels of each kind that a subset has are placed in it at random
    (`blind`), where they stand (`hard`), or so that of 40 or 80 % of the wrong steps
    the ones labelled positive come first (`half-by-position`, `by-position`: position
    AUROC about .70 and .90; of real annotations two judges say .88 and .93). Beside
    them labels as they are without any order (`order 0`), and `clean` ones. A unit is a
    seed: everything is drawn anew.
(b) **Linear probes** on frozen hidden states of the tiny backbone at the step markers;
    knowledge: updates of its pretraining. Visual worlds. Placement: how many of the
    subset's label errors stand where they really do, none (`blind`), half, or all
    (``1 - share`` of :func:`theory.placement.blind_noise`); and clean labels. A unit is
    a corpus with four seeds. Features: each coordinate less its mean over all steps of
    the corpus, divided by its standard deviation there; no label is looked at. A
    neutral step, which states nothing, counts as right iff the result it carries on is;
    the benchmark leaves it out. The head is the students' logistic one, untouched.
(c) **Nets.** The tiny backbone trained whole, at stages of its pretraining; 10 % kept;
    labels as they are, blind, clean; two rates fixed beforehand, those that
    `mprm run recipe` chose on clean labels for the full backbone and for that of 2,400
    updates. A unit is a corpus with one seed.

Contrasts, all with Holm's correction over the diagram (a world of (a) or (b), or all of
(c)), each reported whatever it says:

1. ``knowledge``: BIS - Random falls with knowledge at a fixed placement. Per unit the
   least-squares slope over the rank of the level; refuted in a row whose slope is not
   told apart from zero or is positive. One row a placement and keep ratio.
2. ``placement``: it falls as errors follow position, at fixed knowledge; slope over the
   rank of the placements from blind: in (a) the two by position, else half and all of
   the real one. One row a level of knowledge and keep ratio.
3. ``blind``: with blind noise BIS is nowhere told apart below Random; refuted by one
   cell.
4. ``clean``: with clean labels neither, but in at most one cell of twenty; refuted by
   more.
5. ``crossing``: at most knowledge and the last placement of 2. some cell is told apart
   below zero, and at least knowledge and blind noise some cell above; refuted by the
   lack of either.

Of (c), "knowledge decides": the slope under labels as they are is told apart below zero
at *both* rates (Holm over the six slopes, two rates by three labels). "It does not": at
one rate at least it is told apart above zero, or the two rates are told apart from each
other. Anything else is open, and is called so.

Smoke tests use the seeds from :data:`SPARE` on; no level was chosen after a gain. The
placements of (a) were: on a spare seed order alone gave a position AUROC of .56 in
`scarce` and .69 in `plentiful`, which is no axis; that is why labels are moved.
"""

from __future__ import annotations

from typing import NamedTuple

from theory.selection import RuleName

# Arms of every cell.
RULES: tuple[RuleName, ...] = ("random", "bis")

KEEP_RATIOS = (0.05, 0.1, 0.25, 0.5)

# No diagram uses the seeds from here on.
SPARE = 10_000

# Placements of label errors, and labels without any.
UNORDERED, BLIND, HARD, CLEAN = "order 0", "blind", "hard", "clean"
HALF_BLIND, HALF_PLACED, PLACED = "half-blind", "half-by-position", "by-position"

# The horizontal axis, along which errors follow position ever more.
AXIS = {
    "students": (BLIND, HALF_PLACED, PLACED),
    "probes": (BLIND, HALF_BLIND, HARD),
    "nets": (BLIND, HARD),
}

# The features' ``position`` in the linear worlds.
POSITION = 3.0


class Students(NamedTuple):
    """Levels of (a).

    Attributes:
        worlds: of :func:`experiments.students.worlds.worlds`.
        knowledge: c.
        placements: of the label errors.
        units: seeds.
    """

    worlds: tuple[str, ...] = ("scarce", "plentiful")
    knowledge: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    placements: tuple[str, ...] = (
        UNORDERED, BLIND, HARD, HALF_PLACED, PLACED, CLEAN,
    )  # fmt: skip
    units: int = 20


class Probes(NamedTuple):
    """Levels of (b).

    Attributes:
        worlds: of :data:`sim.scenes.world.WORLDS`.
        stages: updates of pretraining.
        placements: of the label errors.
        units: corpora.
        seeds: of each.
        rollouts: of a corpus.
        judged: solutions of a benchmark.
    """

    worlds: tuple[str, ...] = ("scarce", "plentiful", "difficult")
    stages: tuple[int, ...] = (300, 600, 1200, 2400, 6000)
    placements: tuple[str, ...] = (BLIND, HALF_BLIND, HARD, CLEAN)
    units: int = 10
    seeds: int = 4
    rollouts: int = 8_000
    judged: int = 1_000


class Nets(NamedTuple):
    """Levels of (c).

    Attributes:
        world: of :data:`sim.scenes.world.WORLDS`.
        stages: updates of pretraining.
        rates: peak rates of training.
        placements: of the label errors.
        units: corpora with one seed each.
        rollouts: of a corpus.
        judged: solutions of a benchmark.
        keep_ratio: rho.
        rules: that select.
    """

    world: str = "scarce"
    stages: tuple[int, ...] = (600, 2400, 6000)
    rates: tuple[float, ...] = (3.125e-5, 5e-4)
    placements: tuple[str, ...] = (BLIND, HARD, CLEAN)
    units: int = 12
    rollouts: int = 8_000
    judged: int = 1_000
    keep_ratio: float = 0.1
    rules: tuple[RuleName, ...] = RULES


# Small shows that everything runs, and roughly what it says.
STUDENTS = {
    "full": Students(),
    "small": Students(("scarce",), (0.0, 0.5, 1.0), (BLIND, PLACED, CLEAN), 8),
}
PROBES = {
    "full": Probes(),
    "small": Probes(("scarce",), (300, 2400, 6000), (BLIND, HARD, CLEAN), 4, 3),
}
NETS = {"full": Nets(), "small": Nets(stages=(2400, 6000), rates=(5e-4,), units=3)}
