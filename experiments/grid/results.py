"""What came out of a selection grid: arms over seeds, and each rule against Random.

Arms share their seeds and their benchmark, so a difference is taken seed by seed and
resample by resample: intervals cover how models vary and how rollouts were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from experiments.grid.answer import Estimate, Score, paired_difference
from experiments.grid.demo_results import Metrics, estimate, scores
from experiments.grid.plan import BASE, FULL, RULES_WITH_ALPHA, Arm
from experiments.store.results import Result
from mprm_jax.data.problems import DataError
from theory.intervals import holm
from theory.scores import DEFAULT_ALPHA
from theory.selection import RULE_NAMES

RANDOM, BIS = "random", "bis"

_ORDER = (RANDOM, BIS, "mixed", "low-mc", "reliable", *RULE_NAMES, FULL, BASE)

NAMES = {
    RANDOM: "Random",
    BIS: "BIS",
    "mixed": "Mixed",
    "low-mc": "Low-MC",
    "reliable": "Reliable",
    FULL: "full data",
    BASE: "untrained base",
}


class CellMetrics(Metrics, frozen=True):
    """What one trained model came to, beside what the page of a demo shows.

    Attributes:
        micro_f1_on_test: with the threshold that suits the benchmark best.
        f1_curve: (update, micro-F1 on the benchmark).
        subset: statistics of the training set.
    """

    micro_f1_on_test: float | None = None
    f1_curve: tuple[tuple[float, float | None], ...] = ()
    subset: dict[str, float] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class ArmResults:
    """One arm with its cells.

    Attributes:
        arm: what the models were trained on.
        cells: by seed.
    """

    arm: Arm
    cells: dict[int | None, CellMetrics]

    def estimate(self, metric: str) -> Estimate | None:
        """A metric over the seeds; None where it is undefined."""
        return estimate(self.cells, metric)


@dataclass(frozen=True)
class Gap:
    """A rule's arm less Random at the same keep ratio and labels.

    Attributes:
        arm: of the rule.
        difference: in micro-F1, paired; None where they share no seed.
        adjusted_p: Holm's, over all gaps of two seeds or more; None for the others, and
            for those that have no p-value, which count as 1 in the correction.
    """

    arm: Arm
    difference: Estimate | None
    adjusted_p: float | None

    @property
    def verdict(self) -> str:
        """ "ahead" or "behind" where Holm's p is below 5 %, else "open"."""
        if self.difference is None:
            return "open"
        if self.adjusted_p is None or self.adjusted_p >= 0.05:
            return "open"
        return "ahead" if self.difference.mean > 0 else "behind"


@dataclass(frozen=True)
class Outcome:
    """Everything that was found in one corpus with one model.

    Attributes:
        world: name of the corpus.
        synthetic: whether it is simulated.
        arms: by labels, keep ratio and rule; then the references.
        gaps: in the order of the arms.
    """

    world: str
    synthetic: bool
    arms: tuple[ArmResults, ...]
    gaps: tuple[Gap, ...]

    @property
    def seeds(self) -> list[int]:
        """Of all cells."""
        found = {seed for one in self.arms for seed in one.cells if seed is not None}
        return sorted(found)

    @property
    def labels(self) -> list[tuple[str | None, float | None]]:
        """Kinds of labels, in order."""
        arms = [one.arm for one in self.arms if one.arm.labels is not None]
        return list(dict.fromkeys((arm.labels, arm.label_threshold) for arm in arms))

    @property
    def level_covers(self) -> str:
        """What the intervals of the trained arms' micro-F1 hold.

        The untrained base has no seed: its interval never holds what theirs hold.
        """
        trained = [one for one in self.arms if set(one.cells) != {None}]
        return _held([one.estimate("micro_f1") for one in trained])

    @property
    def gap_covers(self) -> str:
        """What the intervals of the differences to Random hold."""
        return _held([gap.difference for gap in self.gaps])

    def of_labels(self, labels: tuple[str | None, float | None]) -> list[ArmResults]:
        """The arms trained on these labels, and the untrained base."""
        return [
            one
            for one in self.arms
            if one.arm.rule == BASE
            or (one.arm.labels, one.arm.label_threshold) == labels
        ]


def _held(estimates: Sequence[Estimate | None]) -> str:
    """One phrase for what a column of intervals holds."""
    held = {of.covers for of in estimates if of is not None} - {"nothing"}
    if len(held) > 1:
        return "seeds and rollouts, as far as known"
    return next(iter(held), "seeds")


def gather(results: Sequence[Result]) -> Outcome:
    """Cells of one store, which share everything but arm and seed.

    Raises:
        DataError: a cell is none of a selection grid.
        ValueError: there is none.
    """
    by_arm: dict[Arm, dict[int | None, CellMetrics]] = {}
    for result in results:
        try:
            arm = msgspec.convert(result.config["arm"], Arm)
            metrics = msgspec.convert(result.metrics, CellMetrics)
        except (KeyError, msgspec.ValidationError) as error:
            raise DataError(
                f"{result.key[:200]}: no cell of mprm run selection ({error})"
            ) from None
        by_arm.setdefault(arm, {})[result.seed] = metrics
    if not by_arm:
        raise ValueError("no cell")
    arms = tuple(
        ArmResults(arm, dict(sorted(cells.items(), key=lambda one: one[0] or 0)))
        for arm, cells in sorted(by_arm.items(), key=lambda one: _place(one[0]))
    )
    world = results[0].config.get("world", {})
    return Outcome(
        str(world.get("name")), bool(world.get("synthetic")), arms, _gaps(arms)
    )


def _place(arm: Arm) -> tuple[Any, ...]:
    return (
        not arm.is_rule,
        arm.rule == BASE,
        arm.labels or "",
        arm.label_threshold or 0.0,
        arm.keep_ratio or 0.0,
        _ORDER.index(arm.rule) if arm.rule in _ORDER else len(_ORDER),
        arm.alpha or 0.0,
    )


def _gaps(arms: Sequence[ArmResults]) -> tuple[Gap, ...]:
    found: list[tuple[Arm, Estimate | None]] = []
    for one in arms:
        if one.arm.is_rule and one.arm.rule != RANDOM:
            mine, theirs = scores(one.cells, "micro_f1"), baseline(arms, one.arm)
            found.append((one.arm, paired_difference(mine, theirs)))
    # Which gaps are corrected for must not hang on what came out of them: one whose
    # seeds all tie has no p-value, and still counts.
    repeated = [i for i, (_, of) in enumerate(found) if of and of.seeds >= 2]
    p_values = [of.p if (of := found[i][1]) else None for i in repeated]
    corrected = holm([1.0 if p is None else p for p in p_values])
    adjusted = {
        i: value
        for i, p, value in zip(repeated, p_values, corrected, strict=True)
        if p is not None
    }
    return tuple(Gap(arm, of, adjusted.get(i)) for i, (arm, of) in enumerate(found))


def baseline(arms: Sequence[ArmResults], arm: Arm) -> dict[int | None, Score]:
    """Random's micro-F1 by seed at an arm's keep ratio and labels; empty: not run."""
    for one in arms:
        same = (one.arm.keep_ratio, one.arm.labels, one.arm.label_threshold)
        if one.arm.rule == RANDOM and same == (
            arm.keep_ratio,
            arm.labels,
            arm.label_threshold,
        ):
            return scores(one.cells, "micro_f1")
    return {}


def arm_name(arm: Arm, outcome: Outcome) -> str:
    """How people call an arm; settings that all arms share are left out."""
    parts = [NAMES.get(arm.rule, arm.rule)]
    if arm.is_rule and arm.keep_ratio is not None:
        parts.append(f"{100 * arm.keep_ratio:g} %")
    alphas = {one.arm.alpha for one in outcome.arms} - {None}
    if arm.rule in RULES_WITH_ALPHA and alphas != {DEFAULT_ALPHA}:
        parts.append(f"alpha {arm.alpha:g}")
    if arm.labels is not None and len(outcome.labels) > 1:
        parts.append(labels_name(arm.labels, arm.label_threshold))
    return ", ".join([" ".join(parts[:2]), *parts[2:]])


def labels_name(labels: str | None, threshold: float | None) -> str:
    """What the labels are made from."""
    if labels == "hard":
        return f"labels K/N > {threshold:g}"
    return f"{labels} labels"


def answers(outcome: Outcome) -> list[str]:
    """Whether BIS beat Random, plainly, a sentence for each of its arms."""
    sentences = [_sentence(gap, outcome) for gap in outcome.gaps if gap.arm.rule == BIS]
    return sentences or ["BIS was not run: nothing is said of it."]


def _sentence(gap: Gap, outcome: Outcome) -> str:
    name, of = arm_name(gap.arm, outcome), gap.difference
    if of is None:
        return f"{name}: no Random with the same seeds was run, so there is no answer."
    by = f"{abs(of.mean):.4f} micro-F1"
    if gap.adjusted_p is None and of.seeds > 1:
        return (
            f"{name}: not decided whether it beats Random; the difference is "
            f"{of.mean:+.4f} micro-F1 in each of {of.seeds} paired seeds, which does "
            "not show how seeds vary."
        )
    if gap.adjusted_p is None:
        where = (
            "level with" if of.mean == 0 else "behind" if of.mean < 0 else "ahead of"
        )
        amount = "" if of.mean == 0 else f" by {by}"
        return (
            f"{name} ended {where} Random{amount} in the one seed that both have; that "
            "decides nothing."
        )
    evidence = (
        f"{of.seeds} paired seeds, 95 % interval over {of.covers} {of.low:+.4f} to "
        f"{of.high:+.4f}, Holm's p {gap.adjusted_p:.2g}"
    )
    match gap.verdict:
        case "ahead":
            return f"{name} beat Random by {by} ({evidence})."
        case "behind":
            return f"{name} did NOT beat Random: it lost by {by} ({evidence})."
    return (
        f"{name}: not decided whether it beats Random; the difference is "
        f"{of.mean:+.4f} micro-F1 ({evidence})."
    )


def rows(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """Arms and gaps as JSON values."""
    metrics = ("micro_f1", "auroc", "best_of_n")
    arms = [
        asdict(one.arm)
        | {"seeds": [seed for seed in one.cells if seed is not None]}
        | {name: _row(one.estimate(name)) for name in metrics}
        for one in outcome.arms
    ]
    gaps = [
        {
            "arm": asdict(gap.arm),
            "difference": _row(gap.difference),
            "adjusted_p": gap.adjusted_p,
            "verdict": gap.verdict,
        }
        for gap in outcome.gaps
    ]
    return {"arms": arms, "less_random": gaps}


def _row(of: Estimate | None) -> dict[str, Any] | None:
    if of is None:
        return None
    names = ("mean", "low", "high", "p", "seeds", "covers")
    return {name: getattr(of, name) for name in names}
