"""Do judged rollouts tell the sign of BIS - Random in the visual worlds?

What :mod:`experiments.map.judged_map` says of linear students in simulated worlds,
asked of linear probes on hidden states of the tiny backbone and of the backbone trained
whole. Nothing is trained but the heads of trials (6.): the gains are those that `mprm
run phase` stored, labels as they are. Nothing is fitted to them: predictors are those
of the map's worlds that are not held out.

Written down before a prediction was compared with a gain:

1. Cells: probes in three worlds at five stages and four keep ratios (60), nets in
   `scarce` at three stages and two rates, 10 % kept (6). Measured is BIS - Random in
   AUROC, the mean over a cell's corpora; told apart from 0 (5 %, over corpora) by Holm
   over a family: the probes of a world, or the nets.
2. Predicted from :data:`DRAWS` corpora of each world whose seeds no unit has, as a user
   would have them: 100 or 200 rollouts drawn at random with their truth, BIS's
   composition at the keep ratio, counts, and updates of the cell's training. Each
   corpus gives a prediction, measures are averaged over the corpora.
3. Predictors are those of the map: *counts*; *formula*, with what
   :class:`experiments.map.judged.Assumed` has by default; *both*; and *stated*, which
   is told what cannot be seen in counts or judged rollouts: separation
   ``sqrt(2) Phi^-1(AUROC)`` of the clean AUROC of Random's subset at the largest keep
   ratio there is, of the same stage (and rate, of nets); ease and position as hidden
   states of the stage show them (:func:`experiments.map.judged.strengths`, from two
   corpora of the units, each measured along the other's directions; of nets, too,
   before they are trained); the width as dimension; knowledge 0, as the head starts at
   zero. So all but *stated* says the same at every stage.
4. Reported as for the map: signs that are right and losses found among what is told
   apart, share of variance explained, coverage; by family, of all cells, and of those
   inside and outside what was simulated apart (``outside`` of
   :class:`experiments.map.advisor.Advisor`, by the mean look of a cell's corpora).
5. "A hundred judged rollouts tell the sign in visual worlds" **stands** for a predictor
   if of all cells it has the sign of .90 right and finds .80 of the losses; it is
   **refuted** if it does not beat counts alone in both; else the predictor helps, short
   of what is asked. Cells of a world share corpora, so all of this is of three worlds.

6. Added when 1 to 5 had been compared, before any trial was: *trial*, heads on frozen
   hidden states of a corpus's own (:mod:`experiments.phase.trial`). The idea is not
   blind: the stored means of these very cells had been looked at, and probes had the
   sign of nets at the larger rate (scarce, 10 %, stages 600, 2,400 and 6,000: probes
   +.4, -1.8, -.9 points, nets +2.1, -2.4, -2.8). No head had been judged by judged
   rollouts. Corpora: the first :data:`TRIED` of 2., the same judged rollouts; these 200
   are in no subset. Heads are judged by 100, by 200, and, to tell what few judges cost
   from what other sources do, by the corpus's benchmark of 1,000 solutions (*trial,
   benchmark*, which no user has). Probes then ask whether 100 judged rollouts of one
   corpus tell what ten corpora and benchmarks of other sources measure: the training is
   the same, so anything less would condemn it. Nets ask whether frozen states tell what
   training them gives: six cells of one world, and the trial says the same at both
   rates; an indication, no more.
7. Of all cells, with 100 judged rollouts, the trial **stands** as in 5. It is
   **refuted** if it does not have more signs right than counts and than "loses"
   always, or does not find more losses than counts; of nets by the same rule apart.
   Reported beside: how many trials are open (their 90 % interval holds 0), and how
   often the sign of the others is the measured one, of cells told apart and of all.

What came of it, with 100 judged rollouts: of 1 to 5 the claim stands for no predictor.
Of the 36 cells told apart 28 lose, so that "loses" has .78 of the signs right. *counts*
has .31 and finds 3 losses; *formula* .64 and 17.2; *both* .64, 16, and 7 of the 8
gains, its 90 % intervals hold .64 (200 rollouts: .65, 22.6, .8 and .72); *both, stated*
.58 and 20.6, *formula, stated* .60 and 20.4. So judged rollouts beat counts, and not
"loses"; no predictor explains any variance over all cells. Inside what was simulated
(`scarce`, `plentiful`, nets: 28 told apart, 20 losses) *both* has .79 and 15, counts
.29 and none; outside (`difficult`, 8 losses) all fail, *both* .12. What is stated makes
it worse: hidden states show position more strongly (5 to 9) than any world of the map
(at most 4), and predicted losses are then several times too large. Only *stated* could
tell the stages apart, on which the sign turns in `scarce`, and it does not.

Of 6 and 7: the trial is not refuted, is the best of all predictors, and is short of
what is asked with 100 judged rollouts: .86 of signs (counts .31, "loses" .78), 25.3 of
28 losses, 5.7 of 8 gains; with 200 .93, 27 and 6.3, as with the benchmark's 1,000 (.93,
27, 6.3). So few judges cost more than other sources do. 48 of 66 trials are open (200:
46; benchmark: 25); of the others .95 have the sign of a cell told apart, .94 of any
cell (.98 and .98; .96 and .95), and intervals hold the gain of .86 (.89; .72: they do
not hold other corpora). Its size is not told: gains come out two to three times too
large (slope .33; .46; .56) and no variance is explained (-2.3; -.6; .11). By world,
100 judged: `scarce` .81 and 5.3 of 6, `plentiful` .94 and 11.3 of 12, `difficult` .92
and 7.3 of 8, but 18 of 20 open. Nets: four cells told apart, .67 of signs and 1.3 of 2
losses (200: .75 and 1.7; benchmark .58 and 2; counts .50 and 0): not refuted, and no
evidence either. One answer cannot be right for two rates whose signs differ, as they do
at 6,000 updates (+.5 and -2.8).

Looked at afterwards: with the truth of all 8,000 rollouts the formula is no better by
default (signs right in `scarce` .67, `plentiful` 1, `difficult` .38), nor with the
separation that hidden states show in place of the clean AUROC's. So it is not the
sample that lacks, but the law of features: errors follow more than position and ease.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from experiments.console.command import answer
from experiments.console.tables import format_table
from experiments.console.text import count_of
from experiments.map.advisor import NAMES as COUNTS
from experiments.map.advisor import GainModel, corpus_measures, fit_advisor, inputs
from experiments.map.gain import judge_means
from experiments.map.judged import (
    NAMES,
    Assumed,
    Judged,
    ShownSteps,
    composition,
    judged_inputs,
    judged_steps,
    steps_of,
    strengths,
)
from experiments.map.judged_map import (
    COLUMNS,
    PREDICTORS,
    STATED,
    JudgedWorld,
    fit_predictors,
    predict,
    read_judged_worlds,
    shown,
    stored_row,
)
from experiments.phase.cells import Cell, by_unit, cell_of
from experiments.phase.design import (
    CLEAN,
    HARD,
    KEEP_RATIOS,
    NETS,
    PROBES,
    RULES,
    SPARE,
    Probes,
)
from experiments.phase.run import find_backbones, of_scenes, store_name
from experiments.store.experiment import SizedOptions, complete
from experiments.store.results import REFERENCE, Result, read_results, store_path
from mprm_jax.records.problems import DataError
from theory.placement import relative_position
from theory.rollouts import Rollouts
from theory.scores import DEFAULT_ALPHA

if TYPE_CHECKING:
    from experiments.phase.probes import Scenes

NAME = "judged_scenes"

# Corpora of a world that predictions are made from, from this seed on; and corpora of
# the units on whose hidden states it is measured what these show.
DRAWS, _FIRST_SEED, _MEASURED = 5, SPARE + 100, 2

SAMPLES = ("100", "200")

# Of the corpora those that trials are made on, and who judges these: samples and the
# corpus's benchmark. Trials have a store of their own, a cell for each of the probes.
TRIED, BENCHMARK, TRIALS = 3, "benchmark", "trial_scenes"
_TRIAL, _ON_BENCHMARK = "trial", "trial, benchmark"

# Of a stored input.
_DIGITS = [4 if name.startswith("formula") else 3 for name in NAMES]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SizedOptions):
    """Do judged rollouts tell where BIS pays in the visual worlds?

    Predictions for linear probes and nets, against what mprm run phase measured: its
    results in --output, or those that come with the package where these are more. And
    trials: heads on frozen hidden states, judged by the judged rollouts. Small takes
    the probes of one world and nets at one rate; full all. Hidden states are kept
    beside the store, as mprm run phase keeps them.

    Example: mprm run judged_scenes --size full

    Attributes:
        backbones: Folder with the backbone at earlier stages of its pretraining, as for
            mprm run phase; stages that are not there are left out.
    """

    backbones: Path = Path("runs")


OPTIONS = Options


# --- what is measured -----------------------------------------------------------------


def read_measured(folders: Sequence[Path]) -> dict[Cell, Result]:
    """Cells of probes and nets by their places, of each kind from the folder that has
    most of them; of a small and a full run's the full one's.
    """
    found = {}
    for name in ("probes", "nets"):
        read = (read_results(folder, store_name(name)) for folder in folders)
        cells = sorted(max(read, key=len), key=lambda cell: cell_of(cell).units)
        found |= {place_of(cell_of(cell)): cell for cell in cells}
    return found


def place_of(cell: Cell) -> Cell:
    """The same place, whatever its units."""
    return cell._replace(units=DRAWS, seeds=1)


def clean_auroc(measured: Mapping[Cell, Result], cell: Cell) -> float:
    """Of Random's subset with clean labels, at the largest keep ratio of the panel.

    Raises:
        DataError: no cell has clean labels there.
    """
    wanted = cell._replace(placement=CLEAN, keep_ratio=0)
    clean = [c for c in measured if c._replace(keep_ratio=0) == wanted]
    if not clean:
        raise DataError(f"no results of clean labels: {wanted}; mprm run phase")
    most = max(clean, key=lambda c: c.keep_ratio)
    return float(np.mean(measured[most].metrics["arms"][RULES[0]]["auroc"]))


def shown_steps(rollouts: Rollouts, right_S: np.ndarray, hidden_SxD: Any) -> ShownSteps:
    """What the steps of a corpus are, beside their features."""
    row = rollouts.rollout
    score = np.bincount(row, rollouts.successes / rollouts.trials) / rollouts.lengths
    return ShownSteps(hidden_SxD, right_S, score[row], relative_position(rollouts))


class Judge:
    """What judged rollouts say of each cell's world, and what is stated of its stage.

    Attributes:
        design: of the probes; its units are the corpora whose hidden states are kept.
        backbones: by stage.
        measured: from :func:`read_measured`.
        folder: of the hidden states.
        seed: of the experiment.
    """

    def __init__(
        self, design: Probes, backbones: Mapping[int, str],
        measured: Mapping[Cell, Result], folder: Path, seed: int,
    ) -> None:  # fmt: skip
        self.design = design._replace(units=_MEASURED)
        self.backbones, self.measured = backbones, measured
        self.folder, self.seed = folder, seed
        self._drawn, self._strengths = cache(self._draw), cache(self._show)

    def assumed(self, cell: Cell) -> Assumed:
        """What is stated of a cell."""
        from scipy.special import ndtri

        dimension, (_, ease, position) = self._strengths(cell.world, cell.knowledge)
        separation = np.sqrt(2) * ndtri(clean_auroc(self.measured, cell))
        told = [round(float(x), 4) for x in (separation, ease, position)]
        return Assumed(*told, dimension=dimension)

    def _show(self, world: str, stage: float) -> tuple[int, np.ndarray]:
        from experiments.phase import probes

        backbone, first = self.backbones[int(stage)], 1000 * self.seed
        asked = self.design, world, self.backbones, self.folder, first
        seen = []
        for number, _ in enumerate(probes.keep_hidden_states(*asked), first):
            scenes = probes.scenes_of(self.design, world, number)
            steps = scenes.rollouts.n_steps
            file = probes.hidden_file(self.folder, world, number, backbone)
            hidden = probes.read_hidden(file)
            features = probes.standardised(hidden, steps)[:steps].astype(float)
            seen.append(shown_steps(scenes.rollouts, scenes.right_S, features))
        return seen[0].features_SxD.shape[1], strengths(*seen)

    def compute(self, cell: Cell) -> dict[str, Any]:
        """Inputs of the predictors from each corpus."""
        assumed = self.assumed(cell)
        told = [getattr(assumed, name) for name in STATED]
        found: dict[str, Any] = {"assumed": told, "dimension": assumed.dimension}
        found |= {"counts": [], "inputs": [], "stated": []}
        batch = _batches()[cell.diagram]
        for number in range(DRAWS):
            of = self._drawn(cell.world, number, cell.keep_ratio)
            updates = np.ceil(cell.keep_ratio * self.design.rollouts / batch)
            look = inputs(of.measures, cell.keep_ratio, float(updates))
            found["counts"].append([round(float(x), 6) for x in look])
            found["inputs"].append(of.usual)
            found["stated"].append([of.told(one, assumed) for one in of.judged])
        return found

    def _draw(self, world: str, number: int, keep_ratio: float) -> _Drawn:
        from experiments.phase import probes

        seed = 1000 * self.seed + _FIRST_SEED + number
        return _judge(probes.scenes_of(self.design, world, seed), keep_ratio, seed)

    def configs(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """What determines each cell."""
        return [
            {"cell": cell._asdict()}
            | of_scenes(self.design, self.backbones[int(cell.knowledge)])
            for cell in cells
        ]

    def try_heads(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """What trials on each corpus say at the keep ratios of one world and stage."""
        from experiments.phase import probes

        world, stage = cells[0].world, int(cells[0].knowledge)
        first, of = 1000 * self.seed + _FIRST_SEED, self.design._replace(units=TRIED)
        backbones = {stage: self.backbones[stage]}
        for _ in probes.keep_hidden_states(of, world, backbones, self.folder, first):
            pass
        found = [{"trial": []} for _ in cells]
        for seed in range(first, first + TRIED):
            scenes = probes.scenes_of(of, world, seed)
            file = probes.hidden_file(self.folder, world, seed, backbones[stage])
            told = try_scenes(
                scenes, probes.read_hidden(file), [c.keep_ratio for c in cells], seed
            )
            for k, metrics in enumerate(found):
                metrics["trial"].append([judged[k] for judged in told])
        return found


def _batches() -> dict[str, int]:
    """Rollouts of an update."""
    from experiments.phase.nets import TRAINING
    from experiments.students.worlds import BATCH

    return {"probes": BATCH, "nets": TRAINING["batch_size"]}


class _Drawn(NamedTuple):
    """A corpus at a keep ratio, and samples of judged rollouts."""

    measures: dict[str, float]
    bis: np.ndarray
    whole: np.ndarray
    keep_ratio: float
    judged: Sequence[Judged]
    usual: Sequence[Sequence[float]]

    def told(self, judged: Judged, assumed: Assumed) -> list[float]:
        """Inputs of the predictor that judged rollouts give."""
        row = judged_inputs(self.bis, self.whole, self.keep_ratio, judged, assumed)
        return [round(float(x), d) for x, d in zip(row, _DIGITS, strict=True)]


def _order(scenes: Scenes, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash of each rollout, and the rollouts in the order in which they are judged."""
    rng = np.random.default_rng([seed, _FIRST_SEED])
    n = scenes.rollouts.n_rollouts
    content = rng.integers(0, 2**64, n, np.uint64, endpoint=False)
    return content, rng.permutation(n)


def try_scenes(
    scenes: Scenes, hidden_SxD: np.ndarray, keep_ratios: Sequence[float], seed: int
) -> list[list[list[float] | None]]:
    """Gain and ends of its interval by each of the judges, at each keep ratio."""
    from experiments.phase.trial import Judges, try_rules

    rollouts, order = scenes.rollouts, _order(scenes, seed)[1]
    sizes = np.concatenate([np.diff(of.offsets) for of in scenes.solutions])
    row = np.repeat(np.arange(len(sizes)), sizes)
    of_corpus = row < rollouts.n_rollouts

    def judged(of: np.ndarray, right_S: np.ndarray) -> Judges:
        number = np.unique(row[of], return_inverse=True)[1]
        return Judges(hidden_SxD[of], right_S, number)

    # The larger sample holds the smaller one, and no subset holds either.
    few, many = (np.isin(row, order[: int(size)]) for size in SAMPLES)
    judges = [
        judged(np.flatnonzero(of), scenes.right_S[of[of_corpus]]) for of in (few, many)
    ]
    judges.append(judged(rollouts.n_steps + scenes.judged, scenes.split.right_S))
    kept = rollouts.take(np.sort(order[int(SAMPLES[-1]) :]))
    found = try_rules(kept, hidden_SxD[of_corpus & ~many], judges, keep_ratios, seed)
    return [[of and [round(x, 5) for x in of] for of in by] for by in found]


def _judge(scenes: Scenes, keep_ratio: float, seed: int) -> _Drawn:
    from theory.selection import select

    rollouts, content, order = scenes.rollouts, *_order(scenes, seed)
    kept = select(rollouts, "bis", keep_ratio, content, alpha=DEFAULT_ALPHA).rows
    steps, judged = steps_of(rollouts), []
    for size in map(int, SAMPLES):
        rows = np.sort(order[:size])
        truth = scenes.right_S[np.isin(steps.row_S, rows)]
        judged.append(judged_steps(rollouts.take(rows), truth))
    of = _Drawn(
        corpus_measures(rollouts), composition(steps, kept), composition(steps),
        keep_ratio, judged, (),
    )  # fmt: skip
    return of._replace(usual=[of.told(one, Assumed()) for one in judged])


# --- what is predicted ----------------------------------------------------------------


_METRICS = msgspec.defstruct(
    "_METRICS",
    [
        ("assumed", stored_row(len(STATED))),
        ("counts", stored_row(DRAWS, stored_row(len(COUNTS)))),
        ("inputs", stored_row(DRAWS, stored_row(len(SAMPLES), stored_row(len(NAMES))))),
        ("stated", stored_row(DRAWS, stored_row(len(SAMPLES), stored_row(len(NAMES))))),
    ],
)
_TRIED = msgspec.defstruct(
    "_TRIED",
    [("trial", stored_row(TRIED, stored_row(len(SAMPLES) + 1, stored_row(3) | None)))],
)


class JudgedScene(NamedTuple):
    """A cell whose gain was measured, and what judged rollouts say of it.

    Attributes:
        cell: its place.
        gain_U: BIS - Random in AUROC of each of its corpora.
        said: metrics of this experiment.
        trial: gain and ends of its interval ``[corpora, judges, 3]``; None: there was
            none, or a subset taught nothing.
    """

    cell: Cell
    gain_U: np.ndarray
    said: dict[str, Any]
    trial: np.ndarray | None = None

    @property
    def family(self) -> str:
        """Over which signs are told apart."""
        of_world = f"probes, {self.cell.world}"
        return of_world if self.cell.diagram == "probes" else self.cell.diagram

    def look(self, predictor: str, sample: str, draw: int) -> np.ndarray:
        """Inputs of a predictor by the judged rollouts of one corpus."""
        stated, place = "stated" in predictor, SAMPLES.index(sample)
        known = self.said["stated" if stated else "inputs"][draw][place]
        told = self.said["assumed"] if stated else []
        return np.concatenate([self.said["counts"][draw], known, told])

    def predicted(
        self, models: Mapping[str, GainModel], predictor: str, sample: str
    ) -> list[Sequence[float]]:
        """Gain and ends of its interval, by each corpus."""
        if predictor in (_TRIAL, _ON_BENCHMARK):
            assert self.trial is not None
            judges = (*SAMPLES, BENCHMARK)
            by = judges.index(sample if predictor == _TRIAL else BENCHMARK)
            return list(self.trial[:, by])
        looks = (self.look(predictor, sample, draw) for draw in range(DRAWS))
        return [predict(models, predictor, look) for look in looks]


def judged_scenes(
    said: Sequence[Result],
    measured: Mapping[Cell, Result],
    trials: Sequence[Result] = (),
) -> list[JudgedScene]:
    """The cells that were judged and measured, each with its trial; that of nets is the
    one of the probes of their stage.

    Raises:
        DataError: a cell is none of this experiment.
    """
    found = []
    tried = _read(trials, TRIALS, _TRIED)
    for cell, metrics in _read(said, NAME, _METRICS).items():
        if cell in measured:
            of = cell_of(measured[cell])
            gain = by_unit(of, measured[cell].metrics, "auroc")
            trial = tried.get(cell._replace(diagram="probes", rate=None))
            rows = [] if trial is None else trial["trial"]
            whole = rows and all(one for by in rows for one in by)
            told = np.array(rows) if whole else None
            found.append(JudgedScene(cell, gain, metrics, told))
    return found


def _read(
    results: Sequence[Result], name: str, form: type
) -> dict[Cell, dict[str, Any]]:
    found = {}
    for number, result in enumerate(results, 1):
        try:
            msgspec.convert(result.metrics, form)
            found[place_of(cell_of(result))] = result.metrics
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise DataError(
                f"cell {number} of {name} holds no judged rollouts of a visual world "
                f"({error}); delete its line, or name another folder"
            ) from None
    return found


def judge_scenes(
    scenes: Sequence[JudgedScene], worlds: Sequence[JudgedWorld], sample: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """How every predictor does, by family, on all cells, and inside and outside.

    Args:
        scenes: the cells.
        worlds: of the map; predictors are fitted to those that are not held out.
        sample: of judged rollouts.
    """
    measured = np.array([scene.gain_U.mean() for scene in scenes])
    sign, parts = _signs(scenes), _parts(scenes, worlds)
    models = fit_predictors(worlds, sample)
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in parts}
    for predictor in (*PREDICTORS, _TRIAL, _ON_BENCHMARK):
        # A cell without a trial counts for the others alone.
        has = np.array(
            [predictor in PREDICTORS or scene.trial is not None for scene in scenes]
        )
        made = [
            scene.predicted(models, predictor, sample) if there else None
            for scene, there in zip(scenes, has, strict=True)
        ]
        for name, part in parts.items():
            of = np.flatnonzero(part & has)
            if len(of) > 2:
                predicted_3xDxC = np.array([made[i] for i in of]).T
                found[name][predictor] = _judged(
                    measured[of], sign[of], predicted_3xDxC
                )
    return found


def _judged(
    measured: np.ndarray, sign: np.ndarray, predicted_3xDxC: np.ndarray
) -> dict[str, Any]:
    """Means over the corpora; shares of no prediction None."""
    gain_DxC, low_DxC, high_DxC = predicted_3xDxC
    turns = [judge_means(measured, sign, gain) for gain in gain_DxC]
    mean = {key: float(np.mean([t[key] for t in turns])) for key in turns[0]}
    if np.isnan(low_DxC).any():
        return mean
    covered = (low_DxC <= measured) & (measured <= high_DxC)
    sure = (low_DxC > 0) | (high_DxC < 0)
    right = (gain_DxC > 0) == (measured > 0)
    return mean | {
        "coverage": float(covered.mean()),
        "open": float((~sure).sum(axis=1).mean()),
        "right_if_sure": _share(right[sure & (sign != 0)]),
        "right_if_sure_of_all": _share(right[sure]),
    }


def _share(of: np.ndarray) -> float | None:
    return float(of.mean()) if len(of) else None


def _signs(scenes: Sequence[JudgedScene]) -> np.ndarray:
    """Of the gains told apart from 0 in their family; else 0."""
    from theory.intervals import tell_apart

    sign = np.zeros(len(scenes), int)
    for name in {scene.family for scene in scenes}:
        of = [i for i, scene in enumerate(scenes) if scene.family == name]
        sign[of] = [x.sign for x in tell_apart([scenes[i].gain_U for i in of])]
    return sign


def _parts(
    scenes: Sequence[JudgedScene], worlds: Sequence[JudgedWorld]
) -> dict[str, np.ndarray]:
    """Which cells belong to each part that is reported; none has fewer than three."""
    advisor = fit_advisor([w.measured for w in worlds if not w.held_out])
    looks = [np.mean(scene.said["counts"], axis=0) for scene in scenes]
    outside = np.array([bool(advisor.outside(look)) for look in looks])
    family = np.array([scene.family for scene in scenes])
    parts = {name: family == name for name in dict.fromkeys(family.tolist())}
    parts |= {"all": family != "", "inside": ~outside, "outside": outside}
    return {name: of for name, of in parts.items() if of.sum() > 2}


def judge_reference(
    worlds: Sequence[JudgedWorld], sample: str
) -> dict[str, dict[str, Any]] | None:
    """:func:`judge_scenes` of all cells that come with the package; None: there are
    none.
    """
    said, trials = (read_results(REFERENCE, name) for name in (NAME, TRIALS))
    scenes = judged_scenes(said, read_measured([REFERENCE]), trials)
    return judge_scenes(scenes, worlds, sample)["all"] if scenes and worlds else None


# --- the command ----------------------------------------------------------------------


def run(options: Options) -> None:
    """Judge the cells that the store lacks; compare with what was measured."""
    from experiments.phase import nets, probes

    design, trained = PROBES[options.size], NETS[options.size]
    backbones = find_backbones(options.backbones, design.stages)
    stages = tuple(backbones)
    folders = (options.output, REFERENCE)
    measured = read_measured(folders)
    asked = [
        place_of(cell)
        for world in design.worlds
        for cell in probes.cells(design, world, stages)
    ] + [
        place_of(cell)
        for cell in nets.cells(trained, [s for s in trained.stages if s in backbones])
    ]
    asked = [cell for cell in asked if cell.placement == HARD]
    judge = Judge(
        design, backbones, measured, options.output / "hidden_states", options.seed
    )
    said, ran = complete(
        options,
        NAME,
        judge.configs(asked),
        lambda chosen: [judge.compute(asked[i]) for i in chosen],
    )
    trials, tried = _try(options, judge, [c for c in asked if c.diagram == "probes"])
    scenes = judged_scenes(said, measured, trials)
    worlds = max((read_judged_worlds(at, folders) for at in folders), key=len)
    if not scenes or not worlds:
        raise DataError(
            f"{store_path(options.output, NAME)}: no cell whose gain was measured, or "
            "no judged world of the map to fit to; mprm run phase, mprm run judged_map"
        )
    report = {sample: judge_scenes(scenes, worlds, sample) for sample in SAMPLES}
    ran += tried
    value = {"cells": len(scenes), "ran": ran, "samples": report}
    answer(options.json, value, lambda: _text(report, options.output, ran))


def _try(
    options: Options, judge: Judge, asked: Sequence[Cell]
) -> tuple[list[Result], int]:
    """The trials, those of one world and stage together."""

    def compute(chosen: list[int]) -> list[dict[str, Any]]:
        groups = itertools.groupby(
            (asked[i] for i in chosen), lambda cell: cell._replace(keep_ratio=0)
        )
        return [of for _, group in groups for of in judge.try_heads(list(group))]

    configs = judge.configs(asked)
    return complete(options, TRIALS, configs, compute, together=len(KEEP_RATIOS))


# Of the table: those of the map, and how far intervals can be trusted.
_SHOWN = COLUMNS | {
    "open": "{open:.3g}",
    "else right": "{right_if_sure:.2f}",
    "of all": "{right_if_sure_of_all:.2f}",
}


def _text(report: Mapping[str, Any], folder: Path, ran: int) -> str:
    once = {"counts": "--", _ON_BENCHMARK: BENCHMARK}
    nothing = dict.fromkeys(("open", "right_if_sure", "right_if_sure_of_all"), math.nan)
    rows = [
        (
            part, predictor.removesuffix(f", {BENCHMARK}"), once.get(predictor, sample),
            *(shown(nothing | told, form) for form in _SHOWN.values()),
        )
        for part, predictors in report[SAMPLES[0]].items()
        for predictor in predictors
        for sample, of in report.items()
        for found in [of[part][predictor]]
        for told in [{key: x for key, x in found.items() if x is not None}]
        if predictor not in once or sample == SAMPLES[0]
    ]  # fmt: skip
    header = ("cells of", "predictor", "judged", "cells", *list(_SHOWN)[1:])
    return "\n".join(
        [
            "BIS - Random in AUROC of probes and nets, predicted from judged rollouts,",
            f"mean over {DRAWS} corpora, of trials over {TRIED}:\n",
            format_table(header, rows),
            f"\n{count_of(ran, 'cell')} judged: {folder}",
        ]
    )
