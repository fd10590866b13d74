"""Does one formula predict the map? AUROC of every arm from its labels' law alone.

:func:`theory.gain.predicted_auroc` needs of a subset how many labels it has (n), what
one keeps of a clean label's information (J), and the AUROC of its noisy minimiser
(Phi(z)). No store holds these. They are computed here from the world's law: corpora of
seeds that no student has seen, the rule's subset of each, and the truth. The minimiser
is that of the population: steps alike in truth, label, source and ease have normal
features of a known mean, so that the expected logistic loss is a sum over such cells
and an integral over one normal variable, minimised by Newton's method; its AUROC is the
exact one on the benchmark's law, its sources' unseen offsets averaged out. Passes,
batch and schedule have no place in it.

Written down before the formula was compared with a single world:

1. k is one constant, fitted by least squares to the AUROC of all arms of the worlds of
   even index; worlds of odd index judge it. Both are reported, the latter also split
   into the first 256 worlds and the 128 added later.
2. Measured is a mean over the seeds of the map; gains are paired differences of AUROC
   (the formula says nothing of F1). The comparison that counts is BIS - Random; BIS -
   Mixed and BIS - full data are printed beside it.
3. Reported: of levels and of gains the share of variance explained, 1 - SSE / SST of
   the prediction as it stands (below 0: worse than their mean); the slope of measured
   on predicted gains; in how many worlds the sign is right, beside the more frequent
   sign, and the same among the worlds whose gain can be told from 0 (5 %, Holm over the
   part), those that lose counted apart.
4. Beside it, nothing fitted: k = 1/2, as derived for independent labels; the minimiser
   alone (all labels in the world); information alone (z of an arm replaced by its mean
   over the arms of the world); and what the formula approximates, ``Phi(z / sqrt(1 +
   nu^2 / n))`` with the minimiser's own sandwich covariance, as it is and with nu^2
   times one factor fitted as k is (dependent labels).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.console.command import print_json
from experiments.console.tables import format_table
from experiments.console.text import count_of
from experiments.map.design import ARMS, WORLDS, arms_at, design
from experiments.map.report import COMPARED
from experiments.map.run import SMALL_WORLDS, world_of
from experiments.map.worlds import read_worlds
from experiments.store.experiment import SizedOptions, complete
from experiments.store.results import REFERENCE, Result
from experiments.students.arms import Arm
from theory.gain import Cells, noisy_minimiser

if TYPE_CHECKING:
    from experiments.students.worlds import World
    from sim.students.problem import Problem

NAME = "gain"

# Corpora whose subsets are pooled, and draws of the sources' offsets over which the
# minimiser's AUROC is averaged.
CORPORA, FRAMES = 8, 12

# Cells of ease, each with its mean.
_EASE_CELLS = 40

# No student has the seeds from here on, of the thousand of an experiment's seed.
_FIRST_SEED = 500

DIMENSION = 32


class Options(SizedOptions):
    """Does one formula predict the map? AUROC of every arm from its labels' law.

    Small takes the map's first 40 worlds, full all 384. The measured side is read from
    the map's results in --output, else from those that come with the package.

    Example: mprm run gain --size full
    """


OPTIONS = Options


# --- what a subset's labels are worth -------------------------------------------------


class _Pool(NamedTuple):
    """Problems of a world, and the cells that their steps fall in.

    Attributes:
        world: whose.
        problems: without most of their features.
        ease_B: mean ease of each cell.
        edges: between the cells of ease.
    """

    world: World
    problems: Sequence[Problem]
    ease_B: np.ndarray
    edges: np.ndarray


def subset_laws(world: World, arms: Sequence[Arm], seed: int) -> list[dict[str, float]]:
    """What the formula needs to know of each arm's subset, and how its labels err.

    Args:
        world: with unseen sources and without position in the features.
        arms: with labels 1[K > 0].
        seed: of the experiment.

    Raises:
        ValueError: features of this kind are not covered.
    """
    from sim.students.features import draw_frame, draw_offsets

    if world.features.seen_sources or world.features.position:
        raise ValueError("sources seen in training and position are not covered")
    pool = _draw(world, seed)
    rng = np.random.default_rng([seed, _FIRST_SEED])
    frames = [
        (
            draw_frame(world.features, pool.problems[0].corpus, rng).directions_4xD,
            draw_offsets(world.features, len(world.law.sources), rng),
        )
        # Without offsets, frames are rotations of each other.
        for _ in range(FRAMES if world.features.source_shift else 1)
    ]
    rank = _ranker(pool)
    variance = 1 + world.features.nuisance**2
    laws = []
    for arm in arms:
        counts = _subset_counts(pool, arm)
        law = _label_law(counts.sum(axis=(2, 3))) | {"steps": counts.sum() / CORPORA}
        law |= {"minimiser_auroc": 0.5, "relative_error": 0.0}
        if 0 < law["positive_share"] < 1:
            found = []
            for directions, offsets in frames:
                cells = _cells(pool, counts, directions, offsets)
                found.append(rank(directions, *noisy_minimiser(cells, variance)))
            law["minimiser_auroc"], law["relative_error"] = np.mean(found, axis=0)
        laws.append({name: round(float(x), 6) for name, x in law.items()})
    return laws


def _draw(world: World, seed: int) -> _Pool:
    from sim.students.problem import draw_problem

    # Counts and truth do not depend on the dimension; features are not looked at.
    features = dataclasses.replace(world.features, dimension=4)
    first = 1000 * seed + _FIRST_SEED
    problems = [
        draw_problem(features, world.law, number)
        for number in range(first, first + CORPORA)
    ]
    ease = [s.ease_S for p in problems for s in (p.steps, p.benchmark)]
    ease = np.concatenate(ease)
    # Equally wide: the benchmark's hard rollouts are rare in the corpus.
    n = _EASE_CELLS if world.features.difficulty else 1
    edges = np.linspace(ease.min(), ease.max(), n + 1)[1:-1]
    cell = np.searchsorted(edges, ease)
    members = np.bincount(cell, minlength=n)
    means = np.bincount(cell, ease, n) / np.maximum(members, 1)
    return _Pool(world, problems, means, edges)


def _subset_counts(pool: _Pool, arm: Arm) -> np.ndarray:
    """Steps of the arm's subsets by truth, label, source and cell of ease."""
    from experiments.students.runs import choose_rows

    shape = (2, 2, len(pool.world.law.sources), len(pool.ease_B))
    counts = np.zeros(shape)
    for problem in pool.problems:
        rollouts = problem.rollouts
        kept = np.zeros(rollouts.n_rollouts, bool)
        kept[choose_rows(problem, arm)[0]] = True
        of = np.repeat(kept, rollouts.lengths)
        place = np.ravel_multi_index(
            (
                problem.steps.right_S[of].astype(int),
                (rollouts.successes[of] > 0).astype(int),
                np.repeat(rollouts.source, rollouts.lengths)[of],
                np.searchsorted(pool.edges, problem.steps.ease_S[of]),
            ),
            shape,
        )
        counts += np.bincount(place, minlength=counts.size).reshape(shape)
    return counts


def _label_law(counts_ZxY: np.ndarray) -> dict[str, float]:
    """Information per label, and how labels err, from counts by truth and label."""
    from theory.label_noise import noisy_fisher_weight

    (tn, fp), (fn, tp) = counts_ZxY
    total = counts_ZxY.sum()
    # A rate of a class that is not there says nothing, and counts for nothing.
    fpr, fnr = fp / max(tn + fp, 1), fn / max(tp + fn, 1)
    return {
        "information": float(noisy_fisher_weight((tp + fn) / total, fpr, fnr)),
        "positive_share": (tp + fp) / total,
        "wrong_positives": fp / max(tp + fp, 1),
        "right_negatives": fn / max(tn + fn, 1),
    }


def _cells(
    pool: _Pool, counts: np.ndarray, directions_4xD: np.ndarray, offsets_NxD: np.ndarray
) -> Cells:
    truth, label, source, ease = np.nonzero(counts)
    features = pool.world.features
    # The common mean moves the intercept alone.
    means = features.signal * np.outer(truth - 0.5, directions_4xD[1])
    means += features.difficulty * np.outer(pool.ease_B[ease], directions_4xD[2])
    weight = counts[truth, label, source, ease]
    return Cells(means + offsets_NxD[source], label, weight / weight.sum())


def _ranker(
    pool: _Pool,
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, float]]:
    """From directions, weights and their covariance to AUROC on the benchmark's law,
    and nu^2 there.
    """
    from scipy.special import ndtr

    from theory.gain import relative_error

    features = pool.world.features
    right = np.concatenate([p.benchmark.right_S for p in pool.problems])
    ease = np.concatenate([p.benchmark.ease_S for p in pool.problems])
    source = np.concatenate([p.split.source_S for p in pool.problems])
    cell = np.searchsorted(pool.edges, ease)
    classes = ~right, right
    wrong_B, right_B = (
        np.bincount(cell[of], minlength=len(pool.ease_B)) / of.sum() for of in classes
    )
    same = float(
        np.multiply(*(np.bincount(source[of]) / of.sum() for of in classes)).sum()
    )
    spread = float(np.mean([ease[of].var() for of in classes]))
    noise = 1 + features.nuisance**2
    # Steps of two sources differ by their offsets, too.
    apart = noise + features.source_shift**2

    def rank(
        directions_4xD: np.ndarray, w_D: np.ndarray, cov_DxD: np.ndarray
    ) -> tuple[float, float]:
        length = np.linalg.norm(w_D)
        ahead = features.signal * (directions_4xD[1] @ w_D) / length
        easier = features.difficulty * (directions_4xD[2] @ w_D) / length
        lead_BxB = ahead + easier * np.subtract.outer(pool.ease_B, pool.ease_B)
        won = same * ndtr(lead_BxB / np.sqrt(2 * noise))
        won += (1 - same) * ndtr(lead_BxB / np.sqrt(2 * apart))
        within = (same * noise + (1 - same) * apart) * np.eye(len(w_D))
        shown = features.difficulty * directions_4xD[2]
        within += spread * np.outer(shown, shown)
        return float(right_B @ won @ wrong_B), relative_error(w_D, cov_DxD, within)

    return rank


# --- against what was measured --------------------------------------------------------


class Joined(NamedTuple):
    """Measured and predicted AUROC of W worlds and A arms.

    Attributes:
        index_W: of the worlds in the design.
        arms: names, in the order of the second axis.
        measured_WxAxN: of each seed.
        law: arguments of :func:`theory.gain.predicted_auroc`, all but k.
        relative_error_WxA: nu^2.
    """

    index_W: np.ndarray
    arms: tuple[str, ...]
    measured_WxAxN: np.ndarray
    law: dict[str, np.ndarray]
    relative_error_WxA: np.ndarray

    def gain(self, of_WxA: np.ndarray, treated: str, baseline: str) -> np.ndarray:
        """Differences of two arms; works for ``[W, A, N]``, too."""
        return (
            of_WxA[:, self.arms.index(treated)] - of_WxA[:, self.arms.index(baseline)]
        )


def join(laws: Sequence[Result], worlds: Sequence[Result]) -> Joined:
    """The worlds that both sides have, by index, and the arms that all of them have.

    Raises:
        ValueError: there is no such world.
    """
    measured = {w.config["index"]: w.metrics["arms"] for w in worlds}
    predicted = {c.config["index"]: c.metrics["arms"] for c in laws}
    index = sorted(measured.keys() & predicted.keys())
    if not index:
        raise ValueError("no world has both a prediction and a measurement")
    arms = tuple(
        arm
        for arm in ARMS
        if all(arm in side[i] for side in (measured, predicted) for i in index)
    )
    law = {
        name: np.array([[predicted[i][arm][name] for arm in arms] for i in index])
        for name in ("steps", "information", "minimiser_auroc", "relative_error")
    }
    error = law.pop("relative_error")
    levels = [[measured[i][arm]["auroc"] for arm in arms] for i in index]
    law["dimension"] = np.full_like(law["steps"], DIMENSION)
    return Joined(np.array(index), arms, np.array(levels), law, error)


def predictions(joined: Joined) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Constants fitted to the levels of the worlds of even index, and AUROC ``[W, A]``
    by the formula, by its parts, and by what it approximates.
    """
    from scipy.special import ndtr, ndtri

    from theory.gain import (
        LEADING_CONSTANT,
        auroc_of_estimate,
        fit_constant,
        predicted_auroc,
    )

    law, even = joined.law, joined.index_W % 2 == 0
    level = joined.measured_WxAxN.mean(axis=2)

    def fit(law: dict[str, np.ndarray]) -> float:
        return fit_constant(level[even], **{n: x[even] for n, x in law.items()})

    area = law["minimiser_auroc"]
    z = ndtri(area)
    one_z = law | {"minimiser_auroc": ndtr(z.mean(axis=1, keepdims=True) + 0 * z)}
    # k d / (J n z^2) is then k nu^2 / n.
    quarter = np.full_like(z, 0.25)
    width = np.maximum(joined.relative_error_WxA * z**2, 1e-12) / 4
    sandwich = law | {"information": quarter, "dimension": width}
    k, factor = fit(law), fit(sandwich)
    return {"k": k, "factor of nu^2": factor}, {
        "fitted k": predicted_auroc(**law, k=k),
        "k = 1/2": predicted_auroc(**law, k=LEADING_CONSTANT),
        "minimiser alone": area,
        "information alone": predicted_auroc(**one_z, k=k),
        "sandwich": auroc_of_estimate(
            area, 1 / (1 + joined.relative_error_WxA / law["steps"])
        ),
        "sandwich, fitted": predicted_auroc(**sandwich, k=factor),
    }


def explained(measured: np.ndarray, predicted: np.ndarray) -> float:
    """1 - SSE / SST of a prediction as it stands; at most 1."""
    return float(1 - np.mean((measured - predicted) ** 2) / np.var(measured))


def verdict(
    joined: Joined, predicted_WxA: np.ndarray, chosen: np.ndarray, pair: tuple[str, str]
) -> dict[str, float]:
    """How well gains of the chosen worlds are predicted; see the module's text."""
    return judge_gains(
        joined.gain(joined.measured_WxAxN, *pair)[chosen],
        joined.gain(predicted_WxA, *pair)[chosen],
    )


def judge_gains(seeds_WxN: np.ndarray, predicted_W: np.ndarray) -> dict[str, float]:
    """How well predictions tell the mean gains of worlds from those of their seeds.

    Returns:
        ``explained``, ``correlation`` and ``slope`` (measured on predicted);
        ``sign_right`` of all worlds, beside ``majority``, what the more frequent sign
        gets right; of the worlds whose gain is told apart from 0 (5 %, Holm)
        ``sure_right``, NaN where there is none, and how many gain and lose and are
        found to.
    """
    from theory.intervals import tell_apart

    sign = np.array([verdict.sign for verdict in tell_apart(list(seeds_WxN))])
    return judge_means(seeds_WxN.mean(axis=1), sign, predicted_W)


def judge_means(
    measured: np.ndarray, sign: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    """As :func:`judge_gains`, of mean gains ``[W]`` and the signs of those told apart
    from 0. NaN: nothing is told apart, or predictions are all equal.
    """
    sure, losing, winning = sign != 0, sign < 0, sign > 0
    right = (measured > 0) == (predicted > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.cov(predicted, measured)[0, 1] / predicted.var(ddof=1)
        correlation = np.corrcoef(predicted, measured)[0, 1]
    return {
        "worlds": len(measured),
        "explained": explained(measured, predicted),
        "correlation": float(correlation),
        "slope": float(slope),
        "sign_right": float(right.mean()),
        "majority": float(max(np.mean(measured > 0), np.mean(measured <= 0))),
        "sure_right": float(right[sure].mean()) if sure.any() else float("nan"),
        "gains": int(winning.sum()),
        "gains_found": int((winning & right).sum()),
        "losses": int(losing.sum()),
        "losses_found": int((losing & right).sum()),
    }


def parts(index_W: np.ndarray) -> dict[str, np.ndarray]:
    """Worlds that the formula is fitted to, and those that judge it; none is empty."""
    odd, first = index_W % 2 == 1, index_W < WORLDS
    found = {
        "even (fitted)": ~odd,
        "odd": odd,
        "odd, first 256": odd & first,
        "odd, added 128": odd & ~first,
    }
    return {name: of for name, of in found.items() if of.sum() > 2}


# --- the command ----------------------------------------------------------------------


def run(options: Options) -> None:
    """Compute the laws that the store lacks; compare with the map's results."""
    regimes = design()[: SMALL_WORLDS if options.size == "small" else None]
    asked = {"arms": list(ARMS), "corpora": CORPORA, "frames": FRAMES}
    configs = [{"index": r.index, "axes": r.axes} | asked for r in regimes]

    def compute(chosen: list[int]) -> list[dict[str, Any]]:
        found = []
        for i in chosen:
            arms = arms_at(ARMS, regimes[i].axes["keep_ratio"])
            laws = subset_laws(world_of(regimes[i]), list(arms.values()), options.seed)
            found.append({"arms": dict(zip(arms, laws, strict=True))})
        return found

    laws, ran = complete(options, NAME, configs, compute)
    worlds = read_worlds(options.output, options.seed) or read_worlds(REFERENCE)
    _print(options, join(laws, worlds), ran)


def _print(options: Options, joined: Joined, ran: int) -> None:
    constants, predicted = predictions(joined)
    level = joined.measured_WxAxN.mean(axis=2)
    of_parts = parts(joined.index_W)
    levels = {
        name: {part: explained(level[of], auroc[of]) for part, of in of_parts.items()}
        for name, auroc in predicted.items()
    }
    gains = {
        f"{pair[0]} - {pair[1]}": {
            name: {p: verdict(joined, auroc, of, pair) for p, of in of_parts.items()}
            for name, auroc in predicted.items()
        }
        for pair in COMPARED
    }
    if options.json:
        report = {"worlds": len(level), "ran": ran} | constants
        print_json(report | {"levels": levels, "gains": gains})
        return
    fitted = ", ".join(f"{name} = {value:.4g}" for name, value in constants.items())
    print(f"{fitted}; fitted to the levels of the worlds of even index")
    print("\nlevels, share of variance explained:\n")
    rows = [
        (name, *(f"{x:.3f}" for x in by_part.values()))
        for name, by_part in levels.items()
    ]
    print(format_table(("prediction", *of_parts), rows))
    for pair, by_name in gains.items():
        print(f"\nAUROC, {pair}:\n")
        rows = [
            (
                name if part == next(iter(of_parts)) else "",
                part,
                *(form.format(**found) for form in _COLUMNS.values()),
            )
            for name, by_part in by_name.items()
            for part, found in by_part.items()
        ]
        print(format_table(("prediction", "worlds", *_COLUMNS), rows))
    print(
        f"\n{count_of(ran, 'world')} computed, {len(level)} compared: {options.output}"
    )


# Of the table of gains: sure gains and losses as those whose sign is predicted, of all.
_COLUMNS = {
    "n": "{worlds}",
    "explained": "{explained:.2f}",
    "r": "{correlation:.2f}",
    "slope": "{slope:.2f}",
    "sign": "{sign_right:.2f}",
    "majority": "{majority:.2f}",
    "gains": "{gains_found}/{gains}",
    "losses": "{losses_found}/{losses}",
}
