"""The experiments with simulated students: their worlds, arms and contrasts as data.

Each answers a question of the paper, and was written down before it was run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from experiments.console.command import print_json
from experiments.console.options import wrong_usage
from experiments.console.tables import format_table, printable
from experiments.console.text import count_of
from experiments.store.experiment import SizedOptions, complete
from experiments.store.results import Result, read_results
from experiments.students.arms import CANDIDATES, Arm, LabelKind
from experiments.students.contrasts import Comparison, Contrast, compare
from mprm_jax.records.problems import DataError
from theory.paper import FULL_DATA
from theory.selection import RULE_NAMES

if TYPE_CHECKING:
    from experiments.students.worlds import World

# Keep ratios of the paper's Table 4, and one below.
KEEP_RATIOS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """An experiment: arms in worlds, and what is to be compared.

    Attributes:
        name: in the results store.
        OPTIONS: its options; their docstring is its help.
        arms: in every world, or a function of the world.
        contrasts: comparisons, corrected together.
        added: written down when results of those were known; corrected apart.
        small: names of the worlds of the small size.
        full: those of the full size; none: every named world.
        full_arms: arms of the full size alone, beside the others.
        variants: worlds that take a named world's place.
        checkpoints: updates after which students are evaluated too.
        finish: called with the options and the names of the worlds after the report.
        own: comparisons of somebody's own rules, corrected apart.
        extended: the experiment that the options make of this one.
    """

    name: str
    OPTIONS: type[SizedOptions]
    arms: Sequence[Arm] | Callable[[World], Sequence[Arm]]
    contrasts: Sequence[Contrast]
    small: Sequence[str]
    full: Sequence[str] = ()
    added: Sequence[Contrast] = ()
    full_arms: Sequence[Arm] = ()
    variants: Callable[[World], Sequence[World]] = lambda world: [world]
    checkpoints: Sequence[int] | None = None
    finish: Callable[[SizedOptions, Sequence[str]], None] | None = None
    own: Sequence[Contrast] = ()
    extended: Callable[[Sweep, Any], Sweep] = lambda sweep, options: sweep

    def run(self, options: SizedOptions) -> None:
        """Run the cells that the store lacks, and print the report.

        Raises:
            DataError: a world cannot be simulated, or somebody's own rule fails.
            UsageError: there is no such rule.
        """
        # Stdout is the report's: somebody's own rule may print.
        with contextlib.redirect_stdout(sys.stderr):
            sweep = self.extended(self, options)
            names, ran = sweep._compute(options)
        sweep._report(options, ran)
        if sweep.finish is not None:
            sweep.finish(options, names)

    def _compute(self, options: SizedOptions) -> tuple[Sequence[str], int]:
        """Names of the worlds, and how many cells were run."""
        # Imported here: JAX and scipy would slow down --help.
        from experiments.students.runs import run_cells
        from experiments.students.worlds import worlds

        small = options.size == "small"
        names = self.small if small else self.full or list(worlds())
        ran = 0
        for name in names:
            for world in self.variants(worlds()[name]):
                arms = self.arms_of(world, options.size)
                try:
                    ran += run_cells(options, self.name, world, arms, self.checkpoints)
                except ValueError as error:
                    raise DataError(f"world {world.name}: {error}") from error
        return names, ran

    def arms_of(self, world: World, size: str) -> list[Arm]:
        """The arms of a world at a size."""
        arms = self.arms(world) if callable(self.arms) else self.arms
        return [*arms, *(self.full_arms if size == "full" else ())]

    def _report(self, options: SizedOptions, ran: int) -> None:
        """Every arm of every world and every comparison of the options' seed, as tables
        or as JSON.
        """
        results = [
            result
            for result in read_results(options.output, self.name)
            if "arm" in result.config and result.seed == options.seed
        ]
        comparisons = [
            comparison
            for contrasts in (self.contrasts, self.added, self.own)
            for comparison in compare(results, contrasts)
        ]
        if options.json:
            report = {
                "experiment": self.name,
                "seed": options.seed,
                "cells": len(results),
                "ran": ran,
                "comparisons": [_comparison_json(c) for c in comparisons],
            }
            print_json(report)
            return
        print(as_text(self.name, results, comparisons))
        print(
            f"\n{count_of(ran, 'cell')} run, {len(results)} of seed {options.seed} "
            "in the store: "
            f"{options.output}"
        )


# --- the report -----------------------------------------------------------------------


def as_text(
    name: str, results: Sequence[Result], comparisons: Sequence[Comparison]
) -> str:
    """A table of every world's arms, and one of the comparisons."""
    parts = []
    for world in dict.fromkeys(r.config["world"]["name"] for r in results):
        rows = [r for r in results if r.config["world"]["name"] == world]
        parts.append(f"\n{name}, world {world}: mean over the seeds\n")
        parts.append(format_table(_ARM_COLUMNS, [_arm_row(row) for row in rows]))
    parts.append(_LEGEND)
    for world in dict.fromkeys(comparison.world for comparison in comparisons):
        rows = [_comparison_row(c) for c in comparisons if c.world == world]
        paired = "micro-F1, paired by seed, 95 % intervals, Holm-corrected"
        parts.append(f"\n{world}: {paired}\n")
        parts.append(format_table(_COMPARISON_COLUMNS, rows))
    return "\n".join(parts)


_ARM_COLUMNS = (
    "arm", "micro-F1", "AUROC", "excess", "updates", "mixed%", "false+%", "tied%",
)  # fmt: skip
_LEGEND = """
excess: log loss above the Bayes rule's, nats a step; mixed%: share of the
rollouts kept that are mixed; false+%: share of their positive labels that are
wrong; tied%: share that ties chose, not scores."""
_COMPARISON_COLUMNS = ("claim", "difference", "95 % interval", "Holm p", "")


def _arm_row(result: Result) -> tuple[str, ...]:
    metrics, subset = result.metrics, result.metrics["subset"]
    return (
        printable(Arm(**result.config["arm"]).name, 21),
        *(f"{np.mean(metrics[k]):.4f}" for k in ("micro_f1", "auroc", "excess_risk")),
        f"{subset.get('updates', 0):.0f}",
        f"{100 * subset['mixed_share']:.1f}",
        f"{100 * subset['wrong_positives']:.1f}",
        f"{100 * subset.get('tied_share', 0):.0f}",
    )


def _comparison_row(comparison: Comparison) -> tuple[str, ...]:
    interval = comparison.interval
    ends = "unknown"
    if interval.low is not None and interval.high is not None:
        ends = f"[{interval.low:+.4f}, {interval.high:+.4f}]"
    return (
        printable(comparison.claim, 32),
        f"{interval.mean:+.4f}",
        ends,
        f"{comparison.adjusted_p:.2g}",
        comparison.verdict,
    )


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "claim": comparison.claim,
        "world": comparison.world,
        **comparison.interval._asdict(),
        "adjusted_p": comparison.adjusted_p,
        "verdict": comparison.verdict,
    }


# --- rules ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class RulesOptions(SizedOptions):
    """Which rule's subset teaches a student best?

    Every rule of mprm select at keep ratios from 2 to 50 %, at equal rollouts and (full
    size) at equal steps, beside all data, all data with clean labels, and the Bayes
    rule; and rules with labels that may be better (mprm run better_rule). 20 paired
    seeds per world.

    Your own, which --rule names, is put beside them at the same keep ratios, compared
    with Random and BIS. It is a Python function of the corpus's counts, with attributes
    successes and trials, K and N of every step; offsets, so that the steps of rollout i
    are offsets[i]:offsets[i + 1]; lengths, n_positive and source, one for each rollout.
    It returns a finite number for each rollout, the largest kept first. Cells are kept
    under a hash of the module's file: after a change of it they run again.

    Example: mprm run rules --size small --rule mine:evenness

    Attributes:
        rule: Your own rule as module:function, of a module that is installed or lies in
            the current folder; may be given several times, or several separated by
            commas.
    """

    rule: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _subset(rule: str, keep_ratio: float) -> dict[str, Any]:
    """An arm of the rules: hard labels, a budget of rollouts."""
    labels = {"labels": "hard-0", "unit": "rollouts"}
    return {"rule": rule, "keep_ratio": keep_ratio} | labels


_FULL = {"rule": "full", "labels": "hard-0"}


def rule_contrast(better: str, worse: str, names: str, keep: float) -> Contrast:
    """Of two rules' subsets with hard labels at one keep ratio."""
    claim = f"{names} at {_percent(keep)}"
    return Contrast(claim, _subset(better, keep), _subset(worse, keep))


def _with_own_rules(sweep: Sweep, options: RulesOptions) -> Sweep:
    """The experiment with the rules of the options, their arms first: what is wrong
    with one shows before anything else is run.
    """
    if not options.rule:
        return sweep
    from experiments.students.own_rule import load_rules

    with wrong_usage("--rule"):
        rules = load_rules(options.rule)
    arms = [Arm(rule, keep) for rule in rules for keep in KEEP_RATIOS]
    own = [
        rule_contrast(rule, other, f"{rule.partition('@')[0]} > {name}", keep)
        for rule in rules
        for keep in _CONTRAST_RATIOS
        for other, name in (("random", "Random"), ("bis", "BIS"))
    ]
    assert not callable(sweep.arms)
    return dataclasses.replace(sweep, arms=[*arms, *sweep.arms], own=own)


_CONTRAST_RATIOS = (0.05, 0.1, 0.25, 0.5)
_CANDIDATE_RATIOS = (0.05, 0.1, 0.25, 0.5)

# Tables 2 and 4 of the paper.
RULES = Sweep(
    "rules",
    RulesOptions,
    arms=[
        Arm("bayes"),
        Arm("full"),
        Arm("full", labels="clean"),
        *(Arm(rule, keep) for rule in RULE_NAMES for keep in KEEP_RATIOS),
        *(
            dataclasses.replace(arm, keep_ratio=keep)
            for arm in CANDIDATES.values()
            if arm.labels != "hard-0"
            for keep in _CANDIDATE_RATIOS
        ),
    ],
    full_arms=[
        Arm(rule, keep, unit="steps")
        for rule in RULE_NAMES
        # These do not keep a prefix of a ranking.
        if rule not in ("ccs", "step-matched-random")
        for keep in KEEP_RATIOS
    ],
    contrasts=[
        contrast
        for keep in _CONTRAST_RATIOS
        for contrast in (
            rule_contrast("bis", "random", "BIS > Random", keep),
            rule_contrast("bis", "mixed", "BIS > Mixed", keep),
            Contrast(f"BIS {_percent(keep)} > full data", _subset("bis", keep), _FULL),
        )
    ]
    + [
        rule_contrast("mixed", "random", "Mixed > Random", 0.25),
        rule_contrast("low-mc", "random", "Low-MC > Random", 0.25),
        rule_contrast("mixed", "low-mc", "Mixed > Low-MC", 0.25),
        rule_contrast("random", "reliable", "Random > Reliable", 0.25),
    ],
    # Each would be refuted by a difference that is told apart below 0.
    added=[
        Contrast(
            f"{name} > Random at {_percent(keep)}",
            {"rule": arm.rule, "keep_ratio": keep, "labels": arm.labels}
            | {"unit": "rollouts"},
            _subset("random", keep),
        )
        for name, arm in CANDIDATES.items()
        for keep in (0.1, 0.25)
    ],
    small=("scarce", "plentiful-lenient"),
    extended=_with_own_rules,
)

# --- labels ---------------------------------------------------------------------------


class LabelsOptions(SizedOptions):
    """Which labels teach best: 1[K > 0], 1[K > 1], 1[K > 2], K/N, or the counts?

    "counts" is the beta-binomial likelihood of K; "clean", the truth, is the upper
    bound; "blind" has as many wrong labels of each kind as 1[K > 0], placed at random;
    "masked", "banded", "falling" and "weighted" are theory/labelling's, "conditional"
    is the likelihood given that a rollout is mixed or pure. On all data, Random-25 %,
    BIS-25 % and BIS-10 %; 20 paired seeds.

    Example: mprm run labels --size small
    """


_LABELLED = (("full", 1.0), ("random", 0.25), ("bis", 0.25), ("bis", 0.1))
_MORE_LABELS: tuple[LabelKind, ...] = (
    "blind", "all-positive", "masked", "banded", "falling", "weighted", "conditional",
)  # fmt: skip

# Table 2 of the paper.
LABELS = Sweep(
    "labels",
    LabelsOptions,
    arms=[Arm("bayes")]
    + [
        Arm(rule, keep, labels=kind)
        for rule, keep in _LABELLED
        for kind in ("hard-0", "hard-1", "hard-2", "soft", "counts", "clean")
    ]
    + [Arm("random", 0.1)]
    + [
        Arm(rule, keep, labels=kind)
        for rule, keep in (*_LABELLED, ("random", 0.1))
        for kind in _MORE_LABELS
    ],
    # Its order on all data, and what else a label could be.
    contrasts=[
        Contrast(
            claim, {"rule": "full", "labels": better}, {"rule": "full", "labels": worse}
        )
        for claim, better, worse in (
            ("1[K > 0] > 1[K > 1]", "hard-0", "hard-1"),
            ("1[K > 1] > 1[K > 2]", "hard-1", "hard-2"),
            ("1[K > 2] > soft", "hard-2", "soft"),
            ("1[K > 0] > soft", "hard-0", "soft"),
            ("counts > 1[K > 0]", "counts", "hard-0"),
            ("clean > 1[K > 0]", "clean", "hard-0"),
        )
    ],
    # A claim is refuted by a difference that is told apart below 0. Where a step is
    # right decides whether doubtful positives are wrong: masking them must gain in
    # "strict" and lose in "lenient", if it is the labels that matter. Blind noise can
    # only be better than noise that features show.
    added=[
        Contrast(
            f"{better} > {worse}, {rule} {_percent(keep)}",
            {"rule": rule, "keep_ratio": keep, "labels": better},
            {"rule": rule, "keep_ratio": keep, "labels": worse},
        )
        for rule, keep in _LABELLED
        for better, worse in (
            ("blind", "hard-0"),
            ("hard-0", "all-positive"),
            ("masked", "hard-0"),
            ("masked", "banded"),
            ("falling", "hard-0"),
            ("weighted", "hard-0"),
            ("conditional", "hard-0"),
        )
    ],
    small=("scarce", "lenient", "strict", "judged"),
)

# --- alpha ----------------------------------------------------------------------------


class AlphaOptions(SizedOptions):
    """Which alpha should BIS have at which keep ratio?

    alpha from 0 to 0.5 at keep ratios from 2 to 50 %, beside Random; 20 paired seeds.
    At alpha = 0 rollouts that are not mixed score 0 and come last.

    Example: mprm run alpha --size small
    """


# Table 5 of the paper.
ALPHA = Sweep(
    "alpha",
    AlphaOptions,
    arms=[Arm("random", keep) for keep in KEEP_RATIOS]
    + [
        Arm("bis", keep, alpha)
        for keep in KEEP_RATIOS
        for alpha in (0.0, 0.02, 0.05, 0.08, 0.1, 0.2, 0.5)
    ],
    # The default against its neighbours in the table, and the extremes.
    contrasts=[
        Contrast(
            f"alpha .05 > {other:g} at {_percent(keep)}",
            {"rule": "bis", "alpha": 0.05, "keep_ratio": keep},
            {"rule": "bis", "alpha": other, "keep_ratio": keep},
        )
        for keep in (0.05, 0.1, 0.25)
        for other in (0.0, 0.02, 0.08, 0.2, 0.5)
    ],
    small=("scarce", "plentiful"),
)

# --- mc_budget ------------------------------------------------------------------------


class McBudgetOptions(SizedOptions):
    """Many rollouts with few continuations, or few rollouts with many?

    80,000 continuations per step position are spent on 40,000 rollouts with N = 2 up
    to 2,500 with N = 32. Students train on everything (updates grow with the rollouts),
    and on 1,250 rollouts that a rule chooses (equal updates). 20 paired seeds.

    Example: mprm run mc_budget --size small
    """


def at_budget(world: World) -> list[World]:
    """The world at each N, with so many rollouts that N times rollouts is the same."""
    laws = [
        dataclasses.replace(world.law, trials=trials, rollouts=80_000 // trials)
        for trials in (2, 4, 8, 16, 32)
    ]
    return [
        dataclasses.replace(world, name=f"{world.name}, N = {law.trials}", law=law)
        for law in laws
    ]


def _budget_arms(world: World) -> list[Arm]:
    # Half of the rollouts with N = 32, at every N.
    keep_ratio = 1250 / world.law.rollouts
    return [
        *(Arm("full", labels=kind) for kind in ("hard-0", "soft", "counts", "clean")),
        *(Arm(rule, keep_ratio) for rule in ("random", "bis", "mixed", "low-mc")),
    ]


MC_BUDGET = Sweep(
    "mc_budget",
    McBudgetOptions,
    arms=_budget_arms,
    contrasts=[
        Contrast("BIS > Random, 1,250 rollouts", {"rule": "bis"}, {"rule": "random"}),
        Contrast("BIS, 1,250 > all", {"rule": "bis"}, _FULL),
        Contrast("counts > 1[K > 0], all", {"rule": "full", "labels": "counts"}, _FULL),
    ],
    small=("scarce", "lenient"),
    full=("scarce", "plentiful", "lenient", "strict", "judged"),
    variants=at_budget,
)

# --- ties -----------------------------------------------------------------------------


class TiesOptions(SizedOptions):
    """What do ties decide, and does it matter?

    Every perfect and every all-negative rollout scores exactly alpha. Arms: BIS with
    ties by content, by file order, and by files that list easy or hard rollouts first;
    with all-negative rollouts scored 0; and, with the mixed rollouts that BIS chooses,
    no filler at all, random filler, only perfect or only all-negative filler. Keep
    ratios below, at and above the mixed share; 20 paired seeds.

    Example: mprm run ties --size small
    """


# "bis-..." of experiments.students.runs.VARIANTS.
_TIE_RULES = (
    "bis",
    "bis-file",
    "bis-easy-first",
    "bis-hard-first",
    "bis-all-negative-0",
    "bis-no-filler",
    "bis-random-filler",
    "bis-perfect-filler",
    "bis-all-negative-filler",
    "mixed",
    "random",
)

TIES = Sweep(
    "ties",
    TiesOptions,
    # Below, at, and above the mixed share of the scarce world (7.67 %).
    arms=[
        Arm(rule, keep)
        for keep in (0.02, 0.05, FULL_DATA.mixed_share, 0.1, 0.25)
        for rule in _TIE_RULES
    ],
    contrasts=[
        Contrast(
            f"BIS > {rule} at {_percent(keep)}",
            {"rule": "bis", "keep_ratio": keep},
            {"rule": rule, "keep_ratio": keep},
        )
        for keeps, rules in (
            ((0.1, 0.25), _TIE_RULES[1:]),
            ((0.02, 0.05, FULL_DATA.mixed_share), ("mixed", "random")),
        )
        for keep in keeps
        for rule in rules
    ],
    small=("scarce", "judged"),
)

# --- plateau --------------------------------------------------------------------------


class PlateauOptions(SizedOptions):
    """How much data does a student need, and is it data or updates that it lacks?

    Random subsets from 5 to 75 % in a single pass and with as many updates as all data
    gets; beside them BIS, Mixed, Low-MC and Reliable at 25 %, each with its learning
    curve. Excess risk is fitted by Eq. 4 and by the exact law with a noise floor. 20
    paired seeds.

    Example: mprm run plateau --size small
    """


def fit_laws(results: Sequence[Result]) -> dict[str, Any]:
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


def _fit_and_print(options: SizedOptions, names: Sequence[str]) -> None:
    """Fit, store and print the laws of each world's excess risk."""
    results = [
        result
        for result in read_results(options.output, PLATEAU.name)
        if "arm" in result.config and result.seed == options.seed
    ]
    laws = [
        fit_laws([r for r in results if r.config["world"]["name"] == name])
        for name in names
    ]
    configs = [{"fit": "excess risk", "world": {"name": name}} for name in names]
    complete(options, PLATEAU.name, configs, lambda chosen: [laws[i] for i in chosen])
    if options.json:
        return
    for name, law in zip(names, laws, strict=True):
        eq4, exact = (law[kind]["rms_left_out"] for kind in ("eq4", "exact"))
        print(
            f"\n{name}: excess risk, root mean square error of an arm predicted from "
            f"the others: Eq. 4 {eq4:.4f} nats, floor + 1/N {exact:.4f} nats (floor "
            f"{law['exact']['coefficients'][0]:.4f})"
        )


_PLATEAU_RATIOS = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75)

# Figures 1 and 2 of the paper; the single arms are those of Figure 2c.
PLATEAU = Sweep(
    "plateau",
    PlateauOptions,
    arms=[
        Arm("full"),
        Arm("full", labels="clean"),
        *(
            Arm("random", keep, matched=matched)
            for matched in (False, True)
            for keep in _PLATEAU_RATIOS
        ),
        *(Arm(rule, 0.25) for rule in ("bis", "mixed", "low-mc", "reliable")),
        Arm("bis", 0.1),
        Arm("bis", 0.25, matched=True),
    ],
    contrasts=[
        Contrast(
            f"full > Random-{_percent(keep)}{', matched updates' * matched}",
            _FULL,
            {"rule": "random", "keep_ratio": keep, "matched": matched},
        )
        for matched in (False, True)
        for keep in _PLATEAU_RATIOS
    ],
    small=("scarce",),
    full=("scarce", "plentiful", "lenient", "judged", "centred", "chained"),
    # 1,250 updates are one pass over everything; denser where curves bend.
    checkpoints=(8, 16, 32, 63, 94, 125, 188, 250, 313, 438, 625, 875, 1250),
    finish=_fit_and_print,
)
