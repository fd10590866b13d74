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
   :class:`experiments.map.judged.Assumed` has by default); *both* (what the formula
   misses, by ridge on counts and on :data:`experiments.map.judged.NAMES`, which was
   chosen by leave-one-out error among the worlds that are not held out). What features
   show and what the student knows cannot be seen in judged rollouts: *formula, stated*
   and *both, stated* are told the world's own signal, ease, position and knowledge.
2. Fitted is to the worlds that are not held out, of all designs whose results there
   are; judged by the held-out ones of each design apart. The penalty is the one of
   least leave-one-out error.
3. 25, 50, 100 or 200 judged rollouts at random, and 100 of which half are mixed; the
   smaller samples are parts of the larger.
4. Reported of each: share of signs that are right among worlds whose gain is told apart
   from 0 (5 %, Holm over the held-out worlds of the design; aim .90), share of the
   losing ones among them that are found (aim .80), share of variance explained by the
   prediction as it stands (aim .6), and coverage of the 90 % intervals (of the formula
   none).
5. What would refute the claim that judged rollouts tell the sign: 100 of them with
   counts do no better on these three measures than counts alone.

Added when the held-out worlds of the first design had been compared, and of the second
some 90 that are not held out, but none that is: what features show is stated beside the
signal, and knowledge is a start of which a part remains (before, it was so many clean
labels, which told nothing of the second design's gains).

What came of it, with 100 judged rollouts at random and both designs fitted. Of the
first design's held-out worlds *both, stated* has the sign of .97 right, finds 17 of 19
losses and explains .68; *both* .92, 10 and .59; *counts* .85, 9 and .12. Of the second
design's, *both, stated* has .83, 8 of 12 and .46 (200 rollouts: .89, 9 and .48); *both*
.61, 1 and less than nothing; *counts* .67, 2 and less than nothing. So judged rollouts
tell the sign, short of the aims where much is unlike, if what features show and what
the model knows is stated; without that they do not, in worlds that differ in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np

from experiments.console.command import print_json
from experiments.console.tables import format_table
from experiments.console.text import count_of
from experiments.map.advisor import LEVEL, GainModel, Prediction, fit_gain, world_inputs
from experiments.map.advisor import NAMES as COUNTS
from experiments.map.design import DESIGNS, Design, design
from experiments.map.gain import judge_gains
from experiments.map.judged import (
    NAMES,
    Assumed,
    composition,
    judged_inputs,
    judged_steps,
    predicted_gain,
    right_share,
    steps_of,
)
from experiments.map.run import SMALL_WORLDS, world_of
from experiments.map.worlds import gains, read_worlds
from experiments.store.experiment import SizedOptions, complete
from experiments.store.results import REFERENCE, Result, read_results, store_path
from mprm_jax.records.problems import DataError

if TYPE_CHECKING:
    from experiments.map.design import RegimeWorld
    from experiments.students.worlds import World

NAME = "judged_map"

# No student has the seeds from here on, nor a law of :mod:`experiments.map.gain`.
_FIRST_SEED = 600

# Samples of judged rollouts: so many at random, and 100 of which half are mixed.
SIZES = (25, 50, 100, 200)
HALF_MIXED = "100, half mixed"
SAMPLES = (*map(str, SIZES), HALF_MIXED)

# What may be stated of :class:`experiments.map.judged.Assumed`.
STATED = ("separation", "ease", "position", "knowledge")

# Of a stored input.
_DIGITS = [4 if name.startswith("formula") else 3 for name in NAMES]


class Options(SizedOptions):
    """Do judged rollouts tell where BIS pays? Counts, judged rollouts, and both.

    Small takes the first 40 worlds of each of the map's designs, full all of them. The
    measured side is read from the map's results in --output, or from those that come
    with the package where these are more; a design without any is left out.

    Example: mprm run judged_map --size full
    """


OPTIONS = Options


def stated(world: World) -> Assumed:
    """What a user may state of a world: what its features show, and the knowledge."""
    features = world.features
    noise = float(np.sqrt(1 + features.nuisance**2))
    return Assumed(
        separation=round(features.signal / noise, 4),
        ease=round(features.difficulty / noise, 4),
        position=round(features.position / noise, 4),
        knowledge=world.knowledge,
    )


def judge_world(of: Design, regime: RegimeWorld, seed: int) -> dict[str, Any]:
    """Inputs of the predictor from each sample of judged rollouts of a world."""
    from sim.students.features import draw_truth
    from theory.selection import select

    world, keep = world_of(regime), regime.axes["keep_ratio"]
    place = [one.name for one in DESIGNS.values()].index(of.name)
    rng = np.random.default_rng(
        [1000 * seed + _FIRST_SEED, 1000 * place + regime.index]
    )
    corpus = world.law.draw(rng)
    rollouts = corpus.rollouts
    right = draw_truth(world.features, corpus, rng)
    content = rng.integers(0, 2**64, rollouts.n_rollouts, np.uint64, endpoint=False)
    rows = select(rollouts, "bis", keep, content, alpha=0.05).rows
    steps = steps_of(rollouts)
    whole, bis = composition(steps), composition(steps, rows)
    order = rng.permutation(rollouts.n_rollouts)
    mixed = (rollouts.n_positive > 0) & (rollouts.n_positive < rollouts.n_measured)
    halves = order[mixed[order]][:50], order[~mixed[order]][:50]
    judged = []
    for chosen in (*(order[:size] for size in SIZES), np.concatenate(halves)):
        rows = np.sort(chosen)
        truth = right[np.isin(steps.row_S, rows)]
        judged.append(judged_steps(rollouts.take(rows), truth))
    told, inputs, gains_told = stated(world), [], []
    for one in judged:
        row = judged_inputs(bis, whole, keep, one, Assumed())
        pairs = zip(row, _DIGITS, strict=True)
        inputs.append([round(float(x), digits) for x, digits in pairs])
        gain = predicted_gain(bis, keep * whole, whole, right_share(one), told)
        gains_told.append(round(gain, _DIGITS[0]))
    assumed = [getattr(told, name) for name in STATED]
    return {"assumed": assumed, "inputs": inputs, "stated": gains_told}


# --- what they predict ----------------------------------------------------------------

METRICS = ("auroc", "micro_f1")
PAIR = ("bis", "random")
PREDICTORS = ("counts", "formula", "formula, stated", "both", "both, stated")
_FORMULA = len(COUNTS)


def stored_row(width: int, of: Any = float) -> Any:
    """Type of a stored row so wide."""
    return Annotated[list[of], msgspec.Meta(min_length=width, max_length=width)]


# Of each of the samples its inputs, and the formula's gain by what is stated.
_METRICS = msgspec.defstruct(
    "_METRICS",
    [
        ("assumed", stored_row(len(STATED))),
        ("inputs", stored_row(len(SAMPLES), stored_row(len(NAMES)))),
        ("stated", stored_row(len(SAMPLES))),
    ],
)


class JudgedWorld(NamedTuple):
    """What students gained in a world, and what its judged rollouts say.

    Attributes:
        design: its name.
        measured: of the map.
        said: of this experiment.
    """

    design: str
    measured: Result
    said: Result

    @property
    def held_out(self) -> bool:
        """Whether no predictor is fitted to it."""
        return self.measured.config["held_out"]

    def inputs(self, stated: bool, sample: str) -> np.ndarray:
        """Of the predictor: counts, :data:`experiments.map.judged.NAMES`, and what is
        stated, if it is.
        """
        said, place = self.said.metrics, SAMPLES.index(sample)
        known, told = said["inputs"][place], []
        if stated:
            known = [said["stated"][place], *known[1:]]
            told = said["assumed"]
        return np.concatenate([world_inputs(self.measured), known, told])


def read_judged_worlds(
    judged: Path, measured: Sequence[Path], seed: int | None = None
) -> list[JudgedWorld]:
    """The worlds of one seed that were judged and whose gains were measured.

    Args:
        judged: folder of this experiment's results.
        measured: folders of the map's; of each design the one with most worlds is read.
        seed: whose; None: the lowest of each design.

    Raises:
        DataError: a file cannot be read, or a cell is none of this experiment.
    """
    worlds = {}
    for of in DESIGNS.values():
        found = max((_told(read_worlds(at, seed, of)) for at in measured), key=len)
        worlds |= {(of.name, w.config["index"]): w for w in found}
    known = []
    for number, cell in enumerate(read_results(judged, NAME), 1):
        try:
            msgspec.convert(cell.metrics, _METRICS)
            key = cell.config["design"], cell.config["index"]
        except (msgspec.ValidationError, KeyError) as error:
            raise DataError(
                f"{store_path(judged, NAME)}: cell {number} holds no judged rollouts "
                f"of a world ({error}); delete its line, or name another folder"
            ) from None
        if key in worlds and worlds[key].seed == cell.seed:
            known.append(JudgedWorld(key[0], worlds[key], cell))
    return known


def _told(worlds: Sequence[Result]) -> list[Result]:
    """Those whose AUROC is stored."""
    pairs = ((w, [w.metrics["arms"][name] for name in PAIR]) for w in worlds)
    return [world for world, arms in pairs if all("auroc" in arm for arm in arms)]


def fit_judged(
    worlds: Sequence[JudgedWorld], sample: str, stated: bool, metric: str = "auroc"
) -> GainModel:
    """The predictor by counts and judged rollouts, fitted to what is not held out.

    Raises:
        ValueError: every world is held out.
    """
    seen = [world for world in worlds if not world.held_out]
    if not seen:
        raise ValueError("a predictor needs worlds that are not held out")
    x = np.stack([world.inputs(stated, sample) for world in seen])
    return fit_gain(x, _means(seen, metric), _FORMULA)


def fit_predictors(
    worlds: Sequence[JudgedWorld], sample: str, metric: str = "auroc"
) -> dict[str, GainModel]:
    """Those of :data:`PREDICTORS` that are fitted, to what is not held out."""
    return {
        "counts": fit_counts(worlds, metric),
        "both": fit_judged(worlds, sample, False, metric),
        "both, stated": fit_judged(worlds, sample, True, metric),
    }


def fit_counts(worlds: Sequence[JudgedWorld], metric: str = "auroc") -> GainModel:
    """The predictor by counts alone, fitted to what is not held out."""
    seen = [world for world in worlds if not world.held_out]
    looks = np.stack([world_inputs(world.measured) for world in seen])
    return fit_gain(looks, _means(seen, metric))


def predict(
    models: Mapping[str, GainModel], predictor: str, look: np.ndarray
) -> Prediction:
    """Of one of :data:`PREDICTORS`; the formula's own has no interval, but NaN.

    Args:
        models: from :func:`fit_predictors`.
        predictor: its name.
        look: counts, what judged rollouts say, and what is stated, if it is.
    """
    if predictor not in models:
        return Prediction(float(look[_FORMULA]), math.nan, math.nan)
    width = _FORMULA if predictor == "counts" else None
    return models[predictor].predict(look[:width])


def _means(worlds: Sequence[JudgedWorld], metric: str) -> np.ndarray:
    return np.array([gains(w.measured, *PAIR, metric).mean() for w in worlds])


def validate(
    worlds: Sequence[JudgedWorld], sample: str, metric: str
) -> dict[str, dict[str, dict[str, float]]]:
    """How every predictor does on the held-out worlds of each design."""
    models = fit_predictors(worlds, sample, metric)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in sorted({world.design for world in worlds}):
        tested = [w for w in worlds if w.held_out and w.design == name]
        if len(tested) < 3:
            continue
        seeds = np.stack([gains(w.measured, *PAIR, metric) for w in tested])
        mean = seeds.mean(axis=1)
        found[name] = {}
        for predictor in PREDICTORS:
            if predictor not in models and metric != "auroc":
                continue
            made = _predicted(models, predictor, tested, sample)
            found[name][predictor] = judge_gains(seeds, made[:, 0])
            if predictor in models:
                inside = (made[:, 1] <= mean) & (mean <= made[:, 2])
                found[name][predictor]["coverage"] = float(inside.mean())
    return found


def _predicted(
    models: Mapping[str, GainModel],
    predictor: str,
    worlds: Sequence[JudgedWorld],
    sample: str,
) -> np.ndarray:
    """Gain and ends of its interval, ``[worlds, 3]``."""
    looks = [w.inputs("stated" in predictor, sample) for w in worlds]
    return np.array([predict(models, predictor, look) for look in looks])


def signs_by_sample(worlds: Sequence[JudgedWorld]) -> dict[str, dict[str, Any]]:
    """How counts alone, and both with each sample, tell the sign of BIS - Random in
    AUROC in the held-out worlds of all designs.

    Returns:
        by sample, "none" first, what :func:`experiments.map.gain.judge_gains` says of
        judged rollouts ``alone``, and where the rest is ``stated``.
    """
    tested = [world for world in worlds if world.held_out]
    seeds = np.stack([gains(w.measured, *PAIR, "auroc") for w in tested])

    def judged(name: str, sample: str, model: GainModel) -> dict[str, float]:
        made = _predicted({name: model}, name, tested, sample)
        return judge_gains(seeds, made[:, 0])

    counts = judged("counts", SAMPLES[0], fit_counts(worlds))
    return {"none": {"alone": counts, "stated": None}} | {
        sample: {
            "alone": judged("both", sample, fit_judged(worlds, sample, False)),
            "stated": judged("both, stated", sample, fit_judged(worlds, sample, True)),
        }
        for sample in SAMPLES
    }


def held_out_gains(judged: Path, *measured: Path) -> list[dict[str, Any]]:
    """BIS - Random in AUROC of the held-out worlds, by seed, and as it is predicted
    from counts, and from 100 judged rollouts beside them; none where no world that is
    not held out was judged. Arguments as of :func:`read_judged_worlds`.
    """
    worlds, sample = read_judged_worlds(judged, measured), "100"
    if all(world.held_out for world in worlds):
        return []
    models = fit_predictors(worlds, sample)
    return [
        {
            "design": world.design,
            "seeds": gains(world.measured, *PAIR, "auroc").tolist(),
        }
        | {
            name: predict(models, name, world.inputs("stated" in name, sample)).gain
            for name in models
        }
        for world in worlds
        if world.held_out
    ]


def formula_error(worlds: Sequence[JudgedWorld], stated: bool) -> float:
    """Half the 90 % interval of the formula's gain with as many judged rollouts as
    there are: the quantile of its errors in the worlds that are not held out.
    """
    seen = [world for world in worlds if not world.held_out]
    told = np.array([w.inputs(stated, str(SIZES[-1]))[_FORMULA] for w in seen])
    return float(np.quantile(np.abs(told - _means(seen, "auroc")), LEVEL))


# --- the command ----------------------------------------------------------------------


def run(options: Options) -> None:
    """Judge the worlds that the store lacks; compare with the map's results."""
    most = SMALL_WORLDS if options.size == "small" else None
    asked = [(of, world) for of in DESIGNS.values() for world in design(of)[:most]]
    configs = [{"design": of.name, "index": world.index} for of, world in asked]
    _, ran = complete(
        options,
        NAME,
        configs,
        lambda chosen: [judge_world(*asked[i], options.seed) for i in chosen],
    )
    folders = (options.output, REFERENCE)
    worlds = read_judged_worlds(options.output, folders, options.seed)
    report = {
        sample: {metric: validate(worlds, sample, metric) for metric in METRICS}
        for sample in SAMPLES
    }
    if options.json:
        print_json({"worlds": len(worlds), "ran": ran, "samples": report})
        return
    for metric in METRICS:
        print(f"\nBIS - Random in {metric}, held-out worlds:\n")
        rows = [
            (name, predictor, sample, *(shown(of, form) for form in COLUMNS.values()))
            for name in report[HALF_MIXED][metric]
            for predictor in PREDICTORS
            for sample, by_metric in report.items()
            if (of := by_metric[metric][name].get(predictor)) is not None
            and (predictor != "counts" or sample == HALF_MIXED)
        ]
        print(format_table(("design", "predictor", "judged", *COLUMNS), rows))
    print(
        f"\n{count_of(ran, 'world')} judged, {len(worlds)} compared: {options.output}"
    )


def shown(of: Mapping[str, float], form: str) -> str:
    """A cell of the table."""
    return form.format(**({"coverage": math.nan} | {**of})).replace("nan", "--")


COLUMNS = {
    "worlds": "{worlds:g}",
    "sign, told apart": "{sure_right:.2f}",
    "losses": "{losses_found:.3g}/{losses}",
    "gains": "{gains_found:.3g}/{gains}",
    "sign, all": "{sign_right:.2f}",
    "explained": "{explained:.2f}",
    "coverage": "{coverage:.2f}",
}
