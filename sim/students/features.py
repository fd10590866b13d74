"""What a student sees of a step: features, the truth about it, and the Bayes rule.

    phi = common_mean e_m + signal (Z - 1/2) e_t + difficulty g_x e_d
          + position (t - 1/2) e_p + source_shift b_s + nuisance a_x + noise

e_m, e_t, e_d, e_p are random orthonormal directions; a_x, b_s and the noise are
standard normal vectors of the rollout, the source and the step; g_x is the rollout's
mean r, standardised over the training corpus; t in [0, 1] is the relative position.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import logsumexp

from sim.corpus.draw import Simulation
from theory import placement
from theory.domain import check_nonnegative, check_probability

# Ease and position are averaged over so many values per class; the noise of a feature
# is as wide as they vary, so that few are enough (tested).
_NODES_ON_A_LINE = 64
_NODES_IN_A_PLANE = 256

# Names the stream of the directions in which a start errs.
_START = zlib.crc32(b"start of a student")


@dataclass(frozen=True)
class FeatureWorld:
    """What features encode, and when a step counts as right.

    Each field says what it does to the order of the selection rules, as far as the
    reasons are known before anything is run.

    Attributes:
        dimension: d, at least 4. More dimensions mean more to estimate from as many
            labels: every gap between rules grows.
        truth: "reliable": a step is right iff r >= reliable_at; "state": iff the chain
            is still good (corpus models with a state only).
        reliable_at: tau. The higher, the more positives with a small K are wrong: it
            favours R and hurts Mixed and Low-MC. Near 0 they are right, and hard
            labels at K > 0 are the best.
        wrong_above: Pr(step wrong | it counts as right by r): what Monte-Carlo labels
            cannot see. With right_below it makes noise that no rule can avoid, and
            that is the more frequent where labels are rare.
        right_below: Pr(step right | it counts as wrong by r), e.g. of a correct step
            after an error. Mixed rollouts hold the negatives, so it hurts them most.
        late: in [-1, 1]; both rates go from (1 - late) times their value at the first
            step to (1 + late) times at the last: below 0 they fall.
        signal: distance of right from wrong steps along e_t in standard deviations of
            the noise.
        common_mean: length of the mean of all steps. Together with many positives it
            makes the problem ill-conditioned for a short training; balanced subsets
            suffer less. At 0 it favours no rule.
        nuisance: standard deviation, per coordinate, of what a rollout's steps share.
            Contrast within a rollout cancels it: favours mixed rollouts.
        source_shift: standard deviation, per coordinate, of a source's offset. Each
            source has its own share of errors, so the offset is a shortcut; balanced
            subsets take it less.
        seen_sources: whether the benchmark's sources are among those trained on.
        difficulty: how strongly features show the rollout's ease. Fillers with R = 1
            are easy and positive: BIS then teaches that easy is right.
        position: how strongly features show the relative position of the step.

    Raises:
        ValueError: a value is outside its range.
    """

    dimension: int = 32
    truth: Literal["reliable", "state"] = "reliable"
    reliable_at: float = 0.5
    wrong_above: float = 0.0
    right_below: float = 0.0
    late: float = 0.0
    signal: float = 1.5
    common_mean: float = 6.0
    nuisance: float = 0.5
    source_shift: float = 0.3
    seen_sources: bool = False
    difficulty: float = 0.5
    position: float = 0.0

    def __post_init__(self) -> None:
        if self.dimension < 4:
            raise ValueError(f"dimension must be at least 4, not {self.dimension}")
        for name in ("reliable_at", "wrong_above", "right_below"):
            check_probability(name, getattr(self, name))
        if not -1 <= self.late <= 1:
            raise ValueError(f"late must lie in [-1, 1], not {self.late}")
        scales = ("signal", "common_mean", "nuisance", "source_shift")
        for name in (*scales, "difficulty", "position"):
            check_nonnegative(name, getattr(self, name))
        if (1 + abs(self.late)) * max(self.wrong_above, self.right_below) > 1:
            raise ValueError("(1 + |late|) times a rate must be at most 1")


class Frame(NamedTuple):
    """What all steps of one world share.

    Attributes:
        directions_4xD: e_m, e_t, e_d, e_p; orthonormal rows.
        ease_mean: mean over the training rollouts of their mean r.
        ease_scale: its standard deviation, > 0.
    """

    directions_4xD: np.ndarray
    ease_mean: float
    ease_scale: float


class Steps(NamedTuple):
    """Features and truth of the steps of some rollouts.

    Attributes:
        features_SxD: phi, float32.
        right_S: the truth Z, boolean.
        ease_S: g of the step's rollout, float64.
        position_S: t in [0, 1], float64; 0 for a rollout of one step.
    """

    features_SxD: np.ndarray
    right_S: np.ndarray
    ease_S: np.ndarray
    position_S: np.ndarray


def draw_frame(
    world: FeatureWorld, training: Simulation, rng: np.random.Generator
) -> Frame:
    """Directions of a world, and the scale of ease in its training corpus."""
    square = rng.standard_normal((world.dimension, 4))
    ease = _mean_r(training)
    return Frame(
        np.linalg.qr(square)[0].T,
        float(ease.mean()),
        # A corpus without spread of ease has nothing to show.
        max(float(ease.std()), float(np.finfo(np.float32).tiny)),
    )


def start_weights(
    world: FeatureWorld, frame: Frame, knowledge: float, noise: float, seed: int
) -> np.ndarray:
    """Weights of a student that knows something, float32 ``[D]``: ``knowledge signal /
    (1 + nuisance^2) (e_t + noise u)``.

    At knowledge 1 without noise they are the Bayes rule's for e_t. The random unit
    direction u is orthogonal to e_t, so that without difficulty and position, and over
    many sources, the AUROC of the start is ``Phi(signal / sqrt(2 (1 + noise^2) (1 +
    nuisance^2 + source_shift^2)))`` at any knowledge > 0.

    Args:
        world: law of the features.
        frame: of the problem.
        knowledge: c >= 0.
        noise: nu >= 0.
        seed: of u, which has a stream of its own.

    Raises:
        ValueError: a value is negative.
    """
    check_nonnegative("knowledge", knowledge)
    check_nonnegative("noise", noise)
    truth = frame.directions_4xD[1]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_START,)))
    astray = rng.standard_normal(world.dimension)
    astray -= (astray @ truth) * truth
    astray /= np.linalg.norm(astray)
    slope = knowledge * world.signal / (1 + world.nuisance**2)
    return (slope * (truth + noise * astray)).astype(np.float32)


def draw_truth(
    world: FeatureWorld, simulation: Simulation, rng: np.random.Generator
) -> np.ndarray:
    """Which steps are right, boolean ``[n_steps]``.

    Raises:
        ValueError: truth is the state and the corpus model has none.
    """
    if world.truth == "state":
        if simulation.good is None:
            raise ValueError("truth by state needs a corpus model with a state")
        by_r = simulation.good
    else:
        by_r = simulation.r >= world.reliable_at
    late = 1 + world.late * (2 * relative_position(simulation) - 1)
    rate = np.where(by_r, world.wrong_above, world.right_below) * late
    return by_r ^ (rng.random(len(rate)) < rate)


def draw_offsets(
    world: FeatureWorld, sources: int, rng: np.random.Generator
) -> np.ndarray:
    """Offset ``source_shift b_s`` of each source, float32 ``[sources, D]``."""
    offsets = rng.standard_normal((sources, world.dimension), np.float32)
    return np.float32(world.source_shift) * offsets


def draw_steps(
    world: FeatureWorld,
    frame: Frame,
    simulation: Simulation,
    offsets_NxD: np.ndarray,
    rng: np.random.Generator,
) -> Steps:
    """Features and truth of every step of a corpus.

    Args:
        world: law of the features.
        frame: shared with the other corpora of the world.
        simulation: counts and latent r.
        offsets_NxD: of each source of the corpus.
        rng: equal states give equal steps.
    """
    rollouts = simulation.rollouts
    right = draw_truth(world, simulation, rng)
    ease = (_mean_r(simulation) - frame.ease_mean) / frame.ease_scale
    ease = np.repeat(ease, rollouts.lengths)
    position = relative_position(simulation)
    weights_Sx4 = np.stack(
        [
            np.full(len(right), world.common_mean),
            world.signal * (right - 0.5),
            world.difficulty * ease,
            world.position * (position - 0.5),
        ],
        axis=1,
    ).astype(np.float32)
    shared_NxD = np.float32(world.nuisance) * rng.standard_normal(
        (rollouts.n_rollouts, world.dimension), np.float32
    )
    shared_NxD += offsets_NxD[rollouts.source]
    features_SxD = rng.standard_normal((len(right), world.dimension), np.float32)
    features_SxD += weights_Sx4 @ frame.directions_4xD.astype(np.float32)
    features_SxD += np.repeat(shared_NxD, rollouts.lengths, axis=0)
    return Steps(features_SxD, right, ease, position)


def bayes_logits(
    world: FeatureWorld, frame: Frame, steps: Steps, offsets_SxD: np.ndarray
) -> np.ndarray:
    """log Pr(right | phi, source) - log Pr(wrong | phi, source), float64 ``[n_steps]``.

    Of one who knows the world and the source but not the rest of the rollout: with
    x = phi less the common mean and the source's offset, and variance v = 1 +
    nuisance^2 of each coordinate, ``log odds + signal <x, e_t> / v + log p(<x, e_d>,
    <x, e_p> | right) - log p(... | wrong)``. The last two are averages over the ease
    and position of these steps themselves.

    Raises:
        ValueError: all steps are right, or none.
    """
    right = steps.right_S
    if right.all() or not right.any():
        raise ValueError("a Bayes rule needs right and wrong steps")
    variance = 1 + world.nuisance**2
    projected_Sx4 = (steps.features_SxD - offsets_SxD) @ frame.directions_4xD.T
    odds = np.log(right.mean()) - np.log1p(-right.mean())
    logits = odds + world.signal / variance * projected_Sx4[:, 1]
    encoded = np.array([world.difficulty, world.position])
    if not encoded.any():
        return logits
    used = encoded > 0
    latent_Sx2 = encoded * np.stack([steps.ease_S, steps.position_S - 0.5], axis=1)
    seen_SxE = projected_Sx4[:, 2:][:, used]
    count = _NODES_IN_A_PLANE if used.all() else _NODES_ON_A_LINE

    def log_density(of: np.ndarray) -> np.ndarray:
        among = np.flatnonzero(of)
        ranked = among[np.lexsort(latent_Sx2[among].T)]
        # The middles of equal shares of the class.
        middles = (np.arange(count) + 0.5) * len(ranked) / count
        nodes_MxE = latent_Sx2[ranked[middles.astype(np.int64)]][:, used]
        square_SxM = sum(
            np.subtract.outer(seen_SxE[:, e], nodes_MxE[:, e]) ** 2
            for e in range(nodes_MxE.shape[1])
        )
        return np.asarray(logsumexp(-square_SxM / (2 * variance), axis=1))

    return logits + log_density(right) - log_density(~right)


def relative_position(simulation: Simulation) -> np.ndarray:
    """:func:`theory.placement.relative_position` of a corpus."""
    return placement.relative_position(simulation.rollouts)


def _mean_r(simulation: Simulation) -> np.ndarray:
    """Mean r of each rollout; every simulated rollout has a step."""
    rollouts = simulation.rollouts
    sums = np.add.reduceat(simulation.r, rollouts.offsets[:-1])
    return sums / rollouts.lengths
