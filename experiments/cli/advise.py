"""`mprm advise`: does selection pay on this corpus, and which rule?"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.command import answer
from experiments.console.corpus import CorpusOptions, load_usable
from experiments.console.errors import AlreadyReported, UsageError
from experiments.console.options import (
    OptionalPath,
    OptionalStr,
    PictureOptions,
    check_least,
    given,
)
from experiments.console.progress import progress
from experiments.map.advice import advice_as_text
from experiments.store.results import REFERENCE
from theory.paper import TRAINING
from theory.scores import DEFAULT_ALPHA

if TYPE_CHECKING:
    from experiments.corpora.judges import KnownTruth
    from experiments.map.advisor import Advisor
    from experiments.map.judged import Assumed, Values
    from experiments.map.judged_map import JudgedWorld
    from mprm_jax.data.corpus import SelectableCorpus
    from theory.rollouts import Rollouts
    from theory.selection import Selection

KEEP_RATIOS = (0.05, 0.1, 0.25, 0.5)

# Names a stream: the seed alone would be that of the selection.
_STREAM = zlib.crc32(b"sample of a trial")

# Of every interval, as of the simulated worlds'; resamples of the judged rollouts.
_LEVEL, _REPLICATES = 0.9, 100


@dataclasses.dataclass(frozen=True)
class Options(PictureOptions, CorpusOptions):
    """Would BIS help on this corpus? By comparison with simulated ones.

    Counts alone cannot say: they show neither how labels err nor what features encode.
    They say how much of a subset ties decide, what it is made of and, if wrong steps
    succeed as often as judges of other corpora found, how many of its labels are wrong.

    About a hundred judged rollouts say more. With --judged, BIS's gain over Random is
    predicted by a formula for linear students and, where the corpus is like simulated
    ones, by the formula and counts together, with 90 % intervals. It depends on what
    neither counts nor judges see: --clean-auroc, --ease, --position, --knowledge,
    --dimension.

    With --model too, a trial: the model reads a sample of the corpus once, linear heads
    are trained on what BIS and Random keep of it, and the judged rollouts, which
    neither may keep, judge the heads.

    Example: mprm advise CORPUS --judged judged.jsonl --model tiny

    Attributes:
        batch: Rollouts per update of the planned training.
        passes: Over the subset.
        judged: Rollouts of this corpus whose steps a judge or a person called right or
            wrong: records with one label a step (TRL, ProcessBench,
            VisualProcessBench), found in the corpus by question and steps, or Med-PRM
            samples, which bring their counts.
        judge: Whose labels, of Med-PRM samples; by default the first judge's.
        model: For a trial: tiny, or a folder, as for mprm train.
        trial_rollouts: Most rollouts that the model reads, beside the judged ones.
        clean_auroc: What the model would reach with clean labels without end,
            in (0.5, 1).
        ease: How strongly features show the ease of a rollout: their shift, per
            standard deviation of the mean MC score, in those of their noise.
        position: How strongly they show a step's place: the shift from first to last.
        knowledge: How much the model knows before: the length of its weights along the
            best ones, as a multiple of these; they err by as much across.
        dimension: Of the features that a linear student would be trained on.
        results: Folder of the results store with regimes.jsonl; the reference that
            comes with the package is read where it has more worlds.
    """

    batch: int = TRAINING.batch_size
    passes: int = 1
    judged: OptionalPath = None
    judge: OptionalStr = None
    model: OptionalStr = None
    trial_rollouts: int = 8000
    clean_auroc: float = 0.83
    ease: float = 0.7
    position: float = 1.0
    knowledge: float = 0.0
    dimension: int = 32
    results: Path = Path("runs/results")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, batch=1, passes=1, ease=0, position=0, trial_rollouts=1)
        check_least(self, knowledge=0, dimension=4)
        if not 0.5 < self.clean_auroc < 1:
            raise UsageError("--clean-auroc must lie in (0.5, 1)")
        if self.judged is None:
            for name in ("--judge", "--model", *_STATED, "--dimension"):
                if name in given(self):
                    raise UsageError(f"{name} needs --judged")
        of_model = {"--images", "--follow-links", "--trial-rollouts"}
        for name in given(self).keys() & of_model:
            if self.model is None:
                raise UsageError(f"{name} needs --model")

    @property
    def stated(self) -> bool:
        """Whether the user says what judged rollouts do not show."""
        return bool(given(self).keys() & {*_STATED})


_STATED = ("--clean-auroc", "--ease", "--position", "--knowledge")

OPTIONS = Options


def run(options: Options) -> None:
    """Predict and print."""
    from experiments.map.advisor import NAMES, corpus_measures
    from mprm_jax.records.problems import DataError

    advisor, worlds, folder = load_advisor(options.results)
    usable = load_usable(options)
    rollouts = usable.rollouts
    if not rollouts.measured.all():
        raise DataError(
            f"{options.corpus}: some steps were never sampled, of which nothing can be "
            "said; --unmeasured drop leaves them out"
        )
    try:
        measures = corpus_measures(rollouts)
    except ValueError as error:
        raise DataError(f"{options.corpus}: {error}") from None
    subsets = [
        _bis_rows(usable, keep_ratio, options.seed) for keep_ratio in KEEP_RATIOS
    ]
    found = []
    for keep_ratio, subset in zip(KEEP_RATIOS, subsets, strict=True):
        per_pass = math.ceil(keep_ratio * rollouts.n_rollouts / options.batch)
        advice = _advice(advisor, measures, keep_ratio, options.passes * per_pass)
        found.append(advice | {"subset": _described(rollouts, subset)})
    _expect(rollouts, subsets, found)
    inside = [advice for advice in found if not advice["outside"]]
    judged_worlds = _judged_worlds(options.results)
    report = {
        "measures": measures,
        "continuations": int(rollouts.trials.max()),
        "worlds": worlds,
        "results": str(folder),
        "simulated": {
            name: [x.min(), x.max()]
            for name, x in zip(NAMES, advisor.seen.T, strict=True)
        },
        "keep_ratios": found,
        "recommended": _recommend(inside) if inside else None,
        "judged": None,
        "signs": _signs(judged_worlds),
        "visual": _visual(judged_worlds),
    }
    if options.judged is not None:
        report["judged"] = _judge(options, usable, subsets, found, judged_worlds)
    answer(options.json, report, lambda: advice_as_text(report, inside))
    if not inside and options.judged is None:
        reasons = sorted({name for advice in found for name in advice["outside"]})
        raise AlreadyReported(
            "no prediction: the corpus lies outside what was simulated "
            f"({', '.join(reasons)})"
        )


# --- what counts say ------------------------------------------------------------------


def _bis_rows(usable: SelectableCorpus, keep_ratio: float, seed: int) -> Selection:
    from theory.selection import select

    return select(
        usable.rollouts,
        "bis",
        keep_ratio,
        usable.content,
        alpha=DEFAULT_ALPHA,
        seed=seed,
    )


def _described(rollouts: Rollouts, subset: Selection) -> dict[str, float]:
    from theory.summary import summarise

    of = summarise(rollouts.take(subset.rows))
    return {
        "rollouts": of.rollouts,
        "steps": of.steps,
        "tied_share": subset.tied_share,
        "mixed_share": of.mixed_share,
        "all_positive_share": of.all_positive_share,
        "all_negative_share": of.all_negative_share,
    }


def _expect(
    rollouts: Rollouts, subsets: Sequence[Selection], found: Sequence[dict[str, Any]]
) -> None:
    """Add what share of each label of BIS's subset, and of Random's, would be wrong if
    wrong steps succeeded as they do elsewhere, for a range of shares of wrong steps.
    """
    from experiments.map.judged import WRONG_SHARES, right_by_law

    positive = rollouts.successes > 0
    row = rollouts.rollout
    for advice in found:
        advice["subset"]["expected"] = []
    for share in WRONG_SHARES:
        right = right_by_law(rollouts, share)

        def wrong(chosen: np.ndarray, right: np.ndarray = right) -> dict[str, Any]:
            pairs = (("wrong_positives", positive, 1 - right),
                     ("right_negatives", ~positive, right))  # fmt: skip
            return {
                key: float(of[has].mean()) if (has := chosen & label).any() else None
                for key, label, of in pairs
            }

        random = wrong(np.ones(len(row), bool))
        for advice, subset in zip(found, subsets, strict=True):
            of_bis = wrong(np.isin(row, subset.rows))
            expected = {"wrong_steps": share, "random": random, "bis": of_bis}
            advice["subset"]["expected"].append(expected)


# --- what judged rollouts say ---------------------------------------------------------


def _judged_worlds(results: Path) -> list[JudgedWorld]:
    from experiments.map.judged_map import read_judged_worlds

    return max(
        (read_judged_worlds(at, (results, REFERENCE)) for at in (results, REFERENCE)),
        key=len,
    )


def _signs(worlds: Sequence[JudgedWorld]) -> dict[str, dict[str, float]]:
    from experiments.map.judged_map import signs_by_sample

    return signs_by_sample(worlds) if worlds else {}


def _visual(worlds: Sequence[JudgedWorld]) -> dict[str, dict[str, float]] | None:
    from experiments.phase.prediction import SAMPLES, judge_reference

    few, many = (judge_reference(worlds, sample) for sample in SAMPLES)
    if few is None or many is None:
        return None
    return few | {f"{name}, {SAMPLES[1]}": of for name, of in many.items()}


def _judge(
    options: Options,
    usable: SelectableCorpus,
    subsets: Sequence[Selection],
    found: Sequence[dict[str, Any]],
    worlds: Sequence[JudgedWorld],
) -> dict[str, Any]:
    """What the judged rollouts say; predictions are added to each keep ratio."""
    from experiments.corpora.judges import read_truth_of
    from experiments.map import judged as said
    from experiments.map.judged_map import STATED, formula_error
    from theory.intervals import draw_weights

    truth = read_truth_of(options.judged or Path(), usable, options.judge)
    trial, tried = _try(options, usable, truth) if options.model else (None, None)
    judged = said.judged_steps(truth.rollouts, truth.right_S, truth.known_S)
    steps, right = said.steps_of(usable.rollouts), said.right_share(judged)
    corpus, assumed = said.composition(steps), _assumed(options)
    bis = [said.composition(steps, subset.rows) for subset in subsets]
    drawn = draw_weights(
        np.zeros(judged.rollouts, int),
        _REPLICATES,
        np.random.default_rng(options.seed),
    )
    spread = said.resample(bis, KEEP_RATIOS, corpus, judged, assumed, drawn)
    error = formula_error(worlds, options.stated) if worlds else 0.0
    told = [getattr(assumed, name) for name in STATED if options.stated]
    for k, (advice, subset) in enumerate(zip(found, bis, strict=True)):
        inputs = said.judged_inputs(subset, corpus, KEEP_RATIOS[k], judged, assumed)
        gain, sampled = float(inputs[0]), _ends(spread.gain_RxK[:, k])
        half = math.hypot((sampled[1] - sampled[0]) / 2, error)
        look = np.concatenate([list(advice["inputs"].values()), inputs, told])
        advice["judged"] = {
            "formula": {"gain": gain, "low": gain - half, "high": gain + half},
            "sampled": sampled,
            "trial": tried and tried[k],
            "both": None
            if advice["outside"] or not worlds
            else _both(worlds, judged.rollouts, options.stated, look),
        } | _values(said.predictive_values(subset, right), spread.bis_RxKx2[:, k])
    return {
        "truth": truth.source,
        "trial": trial,
        "rollouts": judged.rollouts,
        "steps": len(judged.right_S),
        "wrong": int((~judged.right_S).sum()),
        "left_out": dict(truth.left_out),
        "position_auroc": judged.noise(),
        "position_auroc_interval": _ends(spread.noise_R),
        "assumed": dataclasses.asdict(assumed) | {"stated": options.stated},
        "formula_error": error,
    } | _values(said.predictive_values(corpus, right), spread.random_Rx2)


def _try(
    options: Options, usable: SelectableCorpus, truth: KnownTruth
) -> tuple[dict[str, Any], list[dict[str, Any] | None]]:
    """What a trial is made of, and what it says at each keep ratio."""
    from experiments.phase.trial import Judges, check_truth, read_states, try_rules
    from mprm_jax.records.problems import DataError
    from mprm_jax.train.open_model import open_model

    if truth.usable_rows is None or truth.copies is None:
        raise DataError(
            f"{options.judged}: Med-PRM samples name no rollouts of the corpus, which "
            "a trial needs; leave --model out"
        )
    rest = np.setdiff1d(np.arange(len(usable.row)), truth.copies)
    if not len(rest):
        raise DataError(f"{options.judged}: judges all of {options.corpus}: no trial")
    with _no_trial(options):
        # Before the model reads for minutes.
        check_truth(truth.right_S[truth.known_S])
    rng = np.random.default_rng([options.seed, _STREAM])
    sample = np.sort(rng.permutation(rest)[: options.trial_rollouts])
    opened, count = open_model(options.model or ""), itertools.count(1)
    total = len(sample) + len(truth.usable_rows)
    with progress("reading", total, "rollouts") as tick:
        seen, judged = (
            read_states(usable, rows, opened, options.root, lambda: tick(next(count)))
            for rows in (sample, truth.usable_rows)
        )
    of = truth.known_S[judged.kept_S]
    right, states = truth.right_S[judged.kept_S][of], judged.hidden_SxD[of]
    number = judged.rollouts.rollout
    some = np.flatnonzero(seen.rollouts.lengths)
    data = seen.rollouts.take(some), seen.hidden_SxD
    with _no_trial(options):
        judges = [Judges(states, right, number[of])]
        (found,) = try_rules(*data, judges, KEEP_RATIOS, options.seed)
    made = {
        "model": options.model,
        "rollouts": len(some),
        "judged_steps": len(right),
        "steps_cut_off": sum(int((~x.kept_S).sum()) for x in (seen, judged)),
        "rollouts_cut_off": len(sample) - len(some),
    }
    return made, [of and of._asdict() for of in found]


@contextlib.contextmanager
def _no_trial(options: Options) -> Iterator[None]:
    """What cannot be tried, with the way out."""
    from mprm_jax.records.problems import DataError

    try:
        yield
    except ValueError as error:
        raise DataError(f"{options.judged}: {error}; leave --model out") from None


def _assumed(options: Options) -> Assumed:
    from scipy.special import ndtri

    from experiments.map.judged import Assumed

    # The default is that of the simulated worlds to all digits.
    separation = Assumed.separation
    if options.clean_auroc != Options.clean_auroc:
        separation = math.sqrt(2) * float(ndtri(options.clean_auroc))
    return Assumed(
        separation,
        options.ease,
        options.position,
        options.dimension,
        options.knowledge,
    )


def _both(
    worlds: Sequence[JudgedWorld], rollouts: int, stated: bool, look: np.ndarray
) -> dict[str, float]:
    """What the formula and counts together predict, as fitted with no more judged
    rollouts than there are.
    """
    from experiments.map.judged_map import SIZES, fit_judged

    sample = max((n for n in SIZES if n <= rollouts), default=SIZES[0])
    return fit_judged(worlds, str(sample), stated).predict(look)._asdict()


def _values(values: Values, spread_Rx2: np.ndarray) -> dict[str, Any]:
    """PPV and NPV with intervals; None of a label that the subset lacks."""
    found: dict[str, Any] = {}
    for i, name in enumerate(("ppv", "npv")):
        value = getattr(values, name)
        there = not math.isnan(value)
        found[name] = value if there else None
        found[f"{name}_interval"] = _ends(spread_Rx2[:, i]) if there else None
    return found


def _ends(values_R: np.ndarray) -> list[float]:
    from theory.intervals import percentile_interval

    return list(percentile_interval(values_R, _LEVEL) or (math.nan, math.nan))


# --- by comparison with simulated worlds ----------------------------------------------


def load_advisor(
    folder: Path, reference: Path = REFERENCE
) -> tuple[Advisor, int, Path]:
    """The advisor, fitted to the worlds of both designs, of one seed, that are not held
    out, their number, and their folder: the reference where it has more of them.

    Raises:
        DataError: the results are damaged, or neither folder has enough worlds.
    """
    from experiments.map.advisor import fit_advisor
    from experiments.map.design import DESIGNS
    from experiments.map.worlds import read_worlds
    from mprm_jax.records.problems import DataError

    worlds, used = max(
        (
            (
                [
                    world
                    for of in DESIGNS.values()
                    for world in read_worlds(at, design=of)
                    if not world.config["held_out"]
                ],
                at,
            )
            for at in (folder, reference)
        ),
        key=lambda found: len(found[0]),
    )
    try:
        return fit_advisor(worlds), len(worlds), used
    except ValueError as error:
        raise DataError(f"{used}: {error}; mprm run regimes makes them") from None


def _advice(
    advisor: Advisor, measures: dict[str, float], keep_ratio: float, updates: int
) -> dict[str, Any]:
    """Predictions for one keep ratio; none where it is outside."""
    from experiments.map.advisor import NAMES, TARGETS, inputs

    x = inputs(measures, keep_ratio, updates)
    outside = advisor.outside(x)
    advice: dict[str, Any] = {
        "keep_ratio": keep_ratio,
        "updates": updates,
        "distance": advisor.distance(x),
        "reach": advisor.reach,
        "outside": outside,
        "inputs": dict(zip(NAMES, x.tolist(), strict=True)),
    }
    if outside:
        return advice
    gains = {
        f"{treated} - {baseline}": advisor.predict((treated, baseline), x)._asdict()
        for treated, baseline in TARGETS
    }
    drivers = advisor.drivers(("bis", "random"), x)[:3]
    candidates = _candidates(keep_ratio, gains)
    return advice | {
        "gains": gains,
        "candidates": candidates,
        "best": max(candidates, key=_gain),
        "drivers": [{"input": name, "adds": adds} for name, adds in drivers],
    }


def _recommend(inside: list[dict[str, Any]]) -> dict[str, Any]:
    """The rule and keep ratio that gains most over all data, of those whose interval
    says that they gain; all data where there is none.
    """
    chosen: dict[str, Any] = {"rule": None, "keep_ratio": 1.0, "alpha": None}
    chosen |= {"over_all_data": None}
    candidates = [one for advice in inside for one in advice["candidates"]]
    sure = [one for one in candidates if one["over_all_data"]["low"] > 0]
    if sure:
        chosen = max(sure, key=_gain)
    best = [advice["best"] for advice in inside]
    return chosen | {"told_apart": bool(sure), "if_a_share": best}


def _gain(one: dict[str, Any]) -> float:
    return one["over_all_data"]["gain"]


def _candidates(keep_ratio: float, gains: dict[str, Any]) -> list[dict[str, Any]]:
    """Every arm at a keep ratio with its predicted gain over all data."""
    from experiments.map.worlds import ARMS

    found = []
    for name, gain in gains.items():
        treated, _, baseline = name.rpartition(" - ")
        if baseline == "full":
            arm = ARMS[treated]
            found.append(
                {
                    "rule": arm.rule,
                    "keep_ratio": keep_ratio,
                    "alpha": arm.alpha if arm.rule == "bis" else None,
                    "over_all_data": gain,
                }
            )
    return found
