"""What came out of a grid: arms over seeds in each world, and each rule against Random.

The one reading side of ``mprm demo`` and ``mprm run selection``. Arms share their seeds
and their benchmark, so a difference is taken seed by seed and resample by resample:
intervals cover how models vary and how rollouts were drawn.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from experiments.console.errors import say_once
from experiments.console.text import percent
from experiments.grid.answer import (
    Seed,
    Verdict,
    answer_sentence,
    paired_difference,
    verdict,
)
from experiments.grid.plan import (
    BASE,
    BIS,
    CONTROLS,
    DEMO,
    FULL,
    PAPER_RULES,
    RANDOM,
    RULES_WITH_ALPHA,
    SELECTION,
    Arm,
)
from experiments.store.manifests import RunManifest, read_run_manifest
from experiments.store.results import Result, read_results, store_path
from mprm_jax.records.problems import DataError
from theory.intervals import Estimate, Score, holm, mean_over_seeds
from theory.scores import DEFAULT_ALPHA
from theory.selection import RULE_NAMES

_ORDER = (*dict.fromkeys((*PAPER_RULES, *RULE_NAMES)), FULL, BASE)

NAMES = {
    RANDOM: "Random",
    BIS: "BIS",
    "mixed": "Mixed",
    "low-mc": "Low-MC",
    "reliable": "Reliable",
    FULL: "full data",
    BASE: "untrained base",
}

# The demo asks one question of a world; a grid corrects for all that it asks.
_TESTED = {DEMO: (BIS,)}

# The demo's worlds name folders: nothing that leaves the run's own.
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Points = tuple[tuple[float, float | None], ...]
Labels = tuple[str | None, float | None]


class BestOfN(msgspec.Struct, frozen=True):
    """Accuracy when one of n candidates is chosen by the mean of its step scores.

    Attributes:
        mean: by the model.
        random: by chance.
        pass_at_n: by an oracle.
        n: candidates per problem.
    """

    mean: Share | None
    random: Share | None = None
    pass_at_n: Share | None = None
    n: Count = 16


class Gate(msgspec.Struct, frozen=True):
    """Does a model trained on clean labels check a benchmark source's steps by looking?

    Attributes:
        source: of the benchmark.
        within_position_auroc: of the model.
        low: lower end of its clustered 95 % interval.
        permuted_images: the same with images permuted across rollouts.
    """

    source: str
    within_position_auroc: float | None
    low: float | None
    permuted_images: float | None


class Metrics(msgspec.Struct, frozen=True):
    """What one trained model came to; None where a metric is undefined.

    Attributes:
        rollouts: in its training set.
        updates: of the optimiser.
        micro_f1: step-weighted mean of the per-source macro-F1.
        micro_f1_on_test: with the threshold that suits the benchmark best.
        macro_f1_pooled: macro-F1 of all steps together.
        auroc: of the step scores.
        within_position_auroc: among steps of equal position only.
        position_auroc: of the position alone.
        slip_prior_auroc: of a simulated world's known slip rate alone.
        best_of_n: accuracy of reranking.
        per_source: macro-F1 by benchmark source.
        threshold: a step is called right if its score reaches it.
        thresholds: of the two halves of the rollouts; ``threshold`` is their mean.
        curve: (update, training loss).
        eval_curve: (update, AUROC on the benchmark).
        f1_curve: (update, micro-F1 on the benchmark).
        bootstrap: metric name -> its values on resamples of the benchmark's rollouts
            (best_of_n: of its problems), the b-th of every model of a world from the
            same resample; None where a resample does not define it.
        subset: statistics of the training set.
        learnability: the demo's gate, by benchmark source.
    """

    rollouts: Count
    updates: Count
    micro_f1: Share | None
    micro_f1_on_test: Share | None = None
    macro_f1_pooled: Share | None = None
    auroc: Share | None = None
    within_position_auroc: Share | None = None
    position_auroc: Share | None = None
    slip_prior_auroc: Share | None = None
    best_of_n: BestOfN | None = None
    per_source: dict[str, Share | None] = {}
    threshold: float | None = None
    thresholds: tuple[float, float] | None = None
    curve: Points = ()
    eval_curve: Points = ()
    f1_curve: Points = ()
    bootstrap: dict[str, tuple[float | None, ...]] = {}
    subset: dict[str, float] = {}
    learnability: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class ArmResults:
    """One arm with its models.

    Attributes:
        arm: what they were trained on.
        cells: metrics by seed, ascending.
    """

    arm: Arm
    cells: Mapping[Seed, Metrics]

    @property
    def first(self) -> Metrics:
        """Of the lowest seed."""
        return next(iter(self.cells.values()))

    def scores(self, metric: str) -> dict[Seed, Score]:
        """A metric by seed, where it is defined; ``best_of_n``: its mean."""
        found = {}
        for seed, cell in self.cells.items():
            value = getattr(cell, metric)
            if isinstance(value, BestOfN):
                value = value.mean
            if value is not None:
                drawn = cell.bootstrap.get(metric, ())
                drawn = tuple(math.nan if of is None else of for of in drawn)
                found[seed] = Score(value, drawn)
        return found

    def estimate(self, metric: str) -> Estimate | None:
        """A metric over the seeds; None where it is undefined."""
        found = list(self.scores(metric).values())
        return mean_over_seeds(found) if found else None

    def source_mean(self, source: str) -> float | None:
        """Macro-F1 of a benchmark source, mean over the seeds that define it."""
        values = [cell.per_source.get(source) for cell in self.cells.values()]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Mean of a curve over the seeds that have it, at the updates they share."""
        recorded = [
            {x: y for x, y in getattr(cell, name) if y is not None}
            for cell in self.cells.values()
        ]
        curves = [curve for curve in recorded if curve]
        if not curves:
            return []
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        return [(x, sum(curve[x] for curve in curves) / len(curves)) for x in shared]


@dataclass(frozen=True)
class Gap:
    """A rule's arm less Random at the same keep ratio and labels.

    Attributes:
        arm: of the rule.
        difference: in micro-F1, paired; None where they share no seed.
        adjusted_p: Holm's, over all gaps of two seeds or more that the run asks of
            (the demo: BIS's; a grid: all; controls explain and are not asked of); None
            for the others, and for those that have no p-value, which count as 1 in the
            correction.
    """

    arm: Arm
    difference: Estimate | None
    adjusted_p: float | None

    @property
    def verdict(self) -> Verdict:
        """As :func:`experiments.grid.answer.verdict`."""
        return verdict(self.difference, self.adjusted_p)


@dataclass(frozen=True)
class Outcome:
    """Everything that was found in one world, or corpus, with one model.

    Attributes:
        experiment: :data:`DEMO` or :data:`SELECTION`.
        world: name of the corpus; of a demo also that of its folder.
        synthetic: whether it is simulated.
        size: of a demo.
        corpora: of a demo's world; seed s trains on number s mod corpora. 0: of a grid.
        arms: by labels, keep ratio and rule; then the references.
        gaps: of every rule but Random, in the order of the arms.
    """

    experiment: str
    world: str
    synthetic: bool
    size: str
    corpora: int
    arms: tuple[ArmResults, ...]
    gaps: tuple[Gap, ...]

    @property
    def cells(self) -> list[Metrics]:
        """Of all arms."""
        return [cell for one in self.arms for cell in one.cells.values()]

    @property
    def seeds(self) -> list[int]:
        """Of all cells."""
        found = {seed for one in self.arms for seed in one.cells if seed is not None}
        return sorted(found)

    @property
    def labels(self) -> list[Labels]:
        """Kinds of labels but for the controls', in order."""
        arms = [
            one.arm
            for one in self.arms
            if one.arm.labels is not None and not one.arm.is_control
        ]
        return list(dict.fromkeys(arm.kind_of_labels for arm in arms))

    @property
    def keep_ratios(self) -> list[float]:
        """At which rules were run, ascending."""
        found = {one.arm.keep_ratio for one in self.arms if one.arm.is_rule}
        return sorted(ratio for ratio in found if ratio is not None)

    @property
    def alphas(self) -> list[float]:
        """Of the arms that have one, ascending."""
        found = {one.arm.alpha for one in self.arms}
        return sorted(alpha for alpha in found if alpha is not None)

    @property
    def sources(self) -> list[str]:
        """Benchmark sources, in the order of their names."""
        return sorted({name for cell in self.cells for name in cell.per_source})

    @property
    def gate(self) -> tuple[Gate, ...]:
        """Rows of the check that a model of clean labels passes; empty: not made."""
        return next((of.learnability for of in self.cells if of.learnability), ())

    @property
    def best_of_n(self) -> BestOfN | None:
        """Chance and oracle belong to the candidates: those of any cell."""
        return next((of.best_of_n for of in self.cells if of.best_of_n), None)

    @property
    def level_covers(self) -> str:
        """What the intervals of the trained arms' micro-F1 hold.

        An untrained base without a seed never holds what theirs hold.
        """
        trained = [one for one in self.arms if set(one.cells) != {None}]
        return _held([one.estimate("micro_f1") for one in trained])

    @property
    def gap_covers(self) -> str:
        """What the intervals of the differences to Random hold."""
        return _held([gap.difference for gap in self.gaps])

    def of_labels(self, labels: Labels) -> list[ArmResults]:
        """The arms trained on these labels, and the untrained base."""
        return [
            one
            for one in self.arms
            if one.arm.rule == BASE or one.arm.kind_of_labels == labels
        ]

    def less_random(self, one: ArmResults, metric: str = "micro_f1") -> Estimate | None:
        """An arm's metric less Random's at its keep ratio and labels, paired; of a
        reference without a keep ratio of its own, Random's at the only one there is.
        """
        other = _random(self.arms, one.arm, self.keep_ratios)
        if other is None or other is one:
            return None
        return paired_difference(one.scores(metric), other.scores(metric))


def _held(estimates: Sequence[Estimate | None]) -> str:
    """One phrase for what a column of intervals holds."""
    held = {of.covers for of in estimates if of is not None} - {"nothing"}
    if len(held) > 1:
        return "seeds and rollouts, as far as known"
    return next(iter(held), "seeds")


def _random(
    arms: Sequence[ArmResults], arm: Arm, keep_ratios: Sequence[float]
) -> ArmResults | None:
    keep = arm.keep_ratio
    if arm.rule in (FULL, BASE):
        keep = keep_ratios[0] if len(keep_ratios) == 1 else None
    for one in arms:
        alike = arm.labels is None or one.arm.kind_of_labels == arm.kind_of_labels
        if one.arm.rule == RANDOM and one.arm.keep_ratio == keep and alike:
            return one
    return None


@dataclass(frozen=True)
class GridRun:
    """A run's folder, read and checked.

    Attributes:
        folder: of the run.
        experiment: :data:`DEMO` or :data:`SELECTION`.
        store: file of the cells.
        manifest: how the run was made.
        outcomes: of every world, in the order first written.
        results: all cells.
        damaged: sentences on lines of the store that cannot be read.
    """

    folder: Path
    experiment: str
    store: Path
    manifest: RunManifest
    outcomes: tuple[Outcome, ...]
    results: Sequence[Result]
    damaged: Sequence[str]


def read_grid(folder: Path) -> GridRun:
    """What a run of ``mprm demo`` or ``mprm run selection`` left in its folder.

    Raises:
        DataError: the manifest is missing or lacks a field, or the cells are none, or
            as in :func:`gather`.
    """
    experiment, store = DEMO, store_path(folder / "results", DEMO)
    if (path := store_path(folder / "results", SELECTION)).is_file():
        experiment, store = SELECTION, path
    manifest = read_run_manifest(folder)
    damaged: list[str] = []
    results = read_results(folder / "results", experiment, damaged.append)
    for sentence in damaged:
        say_once(sentence)
    if not results:
        command = "mprm demo" if experiment == DEMO else f"mprm run {SELECTION}"
        command += f" --output {shlex.quote(str(folder))}"
        raise DataError(f"{store}: no results; run: {command}")
    try:
        outcomes = gather(results)
    except DataError as error:
        raise DataError(f"{store}: {error}") from None
    return GridRun(folder, experiment, store, manifest, outcomes, results, damaged)


def gather(results: Sequence[Result]) -> tuple[Outcome, ...]:
    """The worlds of one store, in the order first written.

    Raises:
        DataError: a cell is none of a grid, or the cells of a world differ in more than
            arm and seed.
    """
    worlds: dict[str, list[Result]] = {}
    for result in results:
        worlds.setdefault(_world(result).name, []).append(result)
    return tuple(_outcome(name, of) for name, of in worlds.items())


class _World(msgspec.Struct, frozen=True):
    name: str
    synthetic: bool = False
    size: str = ""
    corpora: Count = 0


def _world(result: Result) -> _World:
    try:
        world = msgspec.convert(result.config["world"], _World)
    except (KeyError, msgspec.ValidationError) as error:
        raise DataError(f"{_where(result)}: no cell of a grid ({error})") from None
    if result.experiment == DEMO and not _FOLDER.fullmatch(world.name):
        raise DataError(f"{world.name[:80]!r} names no world")
    if result.experiment == DEMO and not world.corpora:
        raise DataError("of an earlier version; choose another --output")
    return world


def _where(result: Result) -> str:
    return f"{result.key[:200]}, seed {result.seed}"


def _outcome(name: str, results: Sequence[Result]) -> Outcome:
    first = results[0]
    by_arm: dict[Arm, dict[Seed, Metrics]] = {}
    for result in results:
        if _shared(result) != _shared(first):
            raise DataError(
                f"world {name} has results of two runs; use one folder for each"
            )
        try:
            arm = msgspec.convert(result.config["arm"], Arm)
            metrics = msgspec.convert(result.metrics, Metrics)
        except (KeyError, msgspec.ValidationError) as error:
            raise DataError(f"{_where(result)}: no cell of a grid ({error})") from None
        by_arm.setdefault(arm, {})[result.seed] = metrics
    arms = tuple(
        ArmResults(arm, dict(sorted(cells.items(), key=lambda one: one[0] or 0)))
        for arm, cells in sorted(by_arm.items(), key=lambda one: _place(one[0]))
    )
    world, experiment = _world(first), first.experiment
    gaps = _gaps(arms, _TESTED.get(experiment, RULE_NAMES))
    size, corpora = world.size, world.corpora
    return Outcome(experiment, name, world.synthetic, size, corpora, arms, gaps)


def _shared(result: Result) -> dict[str, Any]:
    # A demo's world has several corpora; what a grid is of is one.
    own = ("arm", "corpus") if _world(result).corpora else ("arm",)
    return {name: value for name, value in result.config.items() if name not in own}


def _place(arm: Arm) -> tuple[Any, ...]:
    keep = arm.keep_ratio or 0.0
    return (
        not arm.is_rule,
        arm.rule == BASE,
        CONTROLS.index(arm.labels) + 1 if arm.labels in CONTROLS else 0,
        arm.labels or "",
        arm.label_threshold or 0.0,
        keep if arm.is_rule else 0.0,
        rule_order(arm.rule),
        keep,
        arm.alpha or 0.0,
    )


def rule_order(rule: str) -> tuple[int, str]:
    """Sorts the paper's rules, other rules, references, and unknown ones by name."""
    return (_ORDER.index(rule) if rule in _ORDER else len(_ORDER), rule)


def _gaps(arms: Sequence[ArmResults], tested: Sequence[str]) -> tuple[Gap, ...]:
    found: list[tuple[Arm, Estimate | None]] = []
    for one in arms:
        if one.arm.is_rule and one.arm.rule != RANDOM:
            other = _random(arms, one.arm, ())
            theirs = {} if other is None else other.scores("micro_f1")
            found.append((one.arm, paired_difference(one.scores("micro_f1"), theirs)))
    # Which gaps are corrected for must not hang on what came out of them: one whose
    # seeds all tie has no p-value, and still counts.
    repeated = [
        i
        for i, (arm, of) in enumerate(found)
        if arm.rule in tested and not arm.is_control and of and of.seeds >= 2
    ]
    p_values = [of.p if (of := found[i][1]) else None for i in repeated]
    corrected = holm([1.0 if p is None else p for p in p_values])
    adjusted = {
        i: value
        for i, p, value in zip(repeated, p_values, corrected, strict=True)
        if p is not None
    }
    return tuple(Gap(arm, of, adjusted.get(i)) for i, (arm, of) in enumerate(found))


def arm_name(arm: Arm, outcome: Outcome) -> str:
    """How people call an arm; settings that all arms share are left out."""
    parts = [NAMES.get(arm.rule, arm.rule)]
    several = outcome.experiment == SELECTION or len(outcome.keep_ratios) > 1
    if arm.is_rule and arm.keep_ratio is not None and several:
        parts.append(percent(arm.keep_ratio))
    name = [" ".join(parts)]
    if arm.rule in RULES_WITH_ALPHA and outcome.alphas != [DEFAULT_ALPHA]:
        name.append(f"alpha {arm.alpha:g}")
    if arm.is_control or (arm.labels is not None and len(outcome.labels) > 1):
        name.append(labels_name(*arm.kind_of_labels))
    return ", ".join(name)


def labels_name(labels: str | None, threshold: float | None) -> str:
    """What the labels are made from."""
    if labels == "hard":
        return f"labels K/N > {threshold:g}"
    return f"{labels} labels"


def answers(outcome: Outcome) -> list[dict[str, Any]]:
    """Whether BIS beat Random, plainly, for each of its arms, as JSON values: world,
    keep_ratio, sentence, difference.
    """
    return [
        {
            "world": outcome.world,
            "keep_ratio": gap.arm.keep_ratio,
            "sentence": _sentence(gap, outcome),
            "difference": estimate_row(gap.difference),
        }
        for gap in outcome.gaps
        if gap.arm.rule == BIS and not gap.arm.is_control
    ]


def sentences(outcome: Outcome) -> list[str]:
    """Those of :func:`answers`, or that there is none."""
    found = [row["sentence"] for row in answers(outcome)]
    return found or [f"{outcome.world}: BIS was not run: nothing is said of it."]


def _sentence(gap: Gap, outcome: Outcome) -> str:
    if outcome.experiment == DEMO:
        keep = percent(gap.arm.keep_ratio or 0)
        where = f"In the world “{outcome.world}”, keeping {keep}, "
        return answer_sentence(gap.difference, "BIS", where=where)
    name = arm_name(gap.arm, outcome)
    return answer_sentence(gap.difference, name, adjusted_p=gap.adjusted_p)


def rows(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """Arms and gaps as JSON values."""
    metrics = ("micro_f1", "auroc", "best_of_n")
    arms = [
        asdict(one.arm)
        | {"seeds": [seed for seed in one.cells if seed is not None]}
        | {name: estimate_row(one.estimate(name)) for name in metrics}
        for one in outcome.arms
    ]
    gaps = [
        {
            "arm": asdict(gap.arm),
            "difference": estimate_row(gap.difference),
            "adjusted_p": gap.adjusted_p,
            "verdict": gap.verdict,
        }
        for gap in outcome.gaps
    ]
    return {"arms": arms, "less_random": gaps}


def estimate_row(of: Estimate | None) -> dict[str, Any] | None:
    """An estimate as JSON values."""
    if of is None:
        return None
    names = ("mean", "low", "high", "p", "seeds", "covers")
    return {name: getattr(of, name) for name in names}
