"""One world of one seed: a corpus to select and train from, and a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from sim.corpus.draw import Simulation, sample_with_latent
from sim.corpus.laws import CorpusModel, HierarchicalBeta, WithAllNegative
from sim.corpus.sources import Source
from sim.students.evaluation import Split
from sim.students.features import (
    FeatureWorld,
    Frame,
    Steps,
    bayes_logits,
    draw_frame,
    draw_offsets,
    draw_steps,
    draw_truth,
)
from theory.domain import check_probability
from theory.paper import TRIALS, VISUAL_PROCESS_BENCH
from theory.rollouts import Rollouts

_BENCHMARK = VISUAL_PROCESS_BENCH

# Rollouts, seed and grid by which the benchmark's mean MC is found.
_PILOT, _PILOT_SEED = 4000, 20_260_101
_MEANS = np.linspace(0.06, 0.98, 24)


@dataclass(frozen=True)
class CorpusLaw:
    """How the counts of a corpus come about.

    Attributes:
        model: law of r within rollouts.
        sources: in the proportions of the corpus.
        rollouts: how many to draw, about; every source has at least one.
        trials: N.
        order: in [0, 1], how far r falls along a rollout, see :func:`put_in_order`.

    Raises:
        ValueError: the order is outside its range, or not 0 where the law of r has an
            order of its own.
    """

    model: CorpusModel
    sources: tuple[Source, ...]
    rollouts: int
    trials: int = TRIALS
    order: float = 0.0

    def __post_init__(self) -> None:
        check_probability("order", self.order)
        if self.order > 0 and not _exchangeable(self.model):
            raise ValueError(
                f"order must be 0, not {self.order:g}: steps of a "
                f"{type(self.model).__name__} have an order already"
            )

    def draw(self, rng: np.random.Generator) -> Simulation:
        """A corpus."""
        scale = self.rollouts / sum(source.rollouts for source in self.sources)
        drawn = sample_with_latent(self.model, self.sources, rng, scale, self.trials)
        return put_in_order(drawn, self.order, rng)


def _exchangeable(model: CorpusModel) -> bool:
    if isinstance(model, WithAllNegative):
        return _exchangeable(model.base)
    return isinstance(model, HierarchicalBeta)


def put_in_order(
    simulation: Simulation, order: float, rng: np.random.Generator
) -> Simulation:
    """The corpus with the steps of each rollout sorted by ``order * (rank by falling r)
    + (1 - order) * (rank in a random order)``, equal keys at random.

    At 0 nothing moves, at 1 r falls along every rollout. Counts move with their r: the
    set of a rollout's steps stays, and with it all that selection reads. Wrong steps
    come late, those that still succeed now and then before those that never do, so that
    the wrong labels 1[K > 0] go with position.

    Args:
        simulation: of exchangeable steps.
        order: in [0, 1].
        rng: spawns the stream of the random order, and is not advanced.
    """
    if order == 0:
        return simulation
    rollouts = simulation.rollouts
    chance = rng.spawn(1)[0].random(rollouts.n_steps)
    row = rollouts.rollout

    def rank(key: np.ndarray) -> np.ndarray:
        place = np.empty(len(row))
        place[np.lexsort((chance, key, row))] = np.arange(len(row))
        return place

    key = order * rank(-simulation.r) + (1 - order) * rank(chance)
    moved = np.lexsort((chance, key, row))
    counts = Rollouts(
        rollouts.successes[moved],
        rollouts.trials[moved],
        rollouts.offsets,
        rollouts.source,
        rollouts.source_names,
    )
    return Simulation(counts, simulation.r[moved], None)


@dataclass(frozen=True, eq=False)
class Problem:
    """What one seed of a world consists of.

    Attributes:
        corpus: counts, latent r, state.
        content: uint64 hash of each rollout, which orders ties.
        steps: features and truth of the corpus.
        benchmark: features and truth of the benchmark.
        split: truth and source of the benchmark's steps.
        held_out_S: steps on which thresholds are chosen; the others are the test.
        world: law of the features.
        frame: directions.
        offsets_NxD: of the benchmark's sources.
    """

    corpus: Simulation
    content: np.ndarray
    steps: Steps
    benchmark: Steps
    split: Split
    held_out_S: np.ndarray
    world: FeatureWorld
    frame: Frame
    offsets_NxD: np.ndarray

    @cached_property
    def bayes(self) -> np.ndarray:
        """Bayes rule's logits of the benchmark's steps."""
        offsets_SxD = self.offsets_NxD[self.split.source_S]
        return bayes_logits(self.world, self.frame, self.benchmark, offsets_SxD)

    @property
    def rollouts(self) -> Rollouts:
        """The counts of the corpus."""
        return self.corpus.rollouts


def draw_problem(
    world: FeatureWorld, law: CorpusLaw, seed: int, solutions: int = 1200
) -> Problem:
    """Corpus and benchmark of a seed.

    The benchmark has the sizes, the length and the share of right steps of
    VisualProcessBench (its sources' mean MC is solved for that share); half of each
    source's solutions are held out for the threshold.

    Raises:
        ValueError: a benchmark with that share of right steps does not exist.
    """
    streams = np.random.default_rng(seed).spawn(7)
    corpus = law.draw(streams[0])
    frame = draw_frame(world, corpus, streams[1])
    names = tuple(_BENCHMARK.solutions)
    offsets = draw_offsets(world, len(law.sources), streams[2])
    test_offsets = (
        offsets[np.arange(len(names)) % len(offsets)]
        if world.seen_sources
        else draw_offsets(world, len(names), streams[3])
    )
    sources = benchmark_sources(benchmark_mean(world, law.model, law.order))
    scale = solutions / sum(_BENCHMARK.solutions.values())
    test = sample_with_latent(law.model, sources, streams[4], scale)
    test = put_in_order(test, law.order, streams[4])
    steps = draw_steps(world, frame, corpus, offsets, streams[5])
    benchmark = draw_steps(world, frame, test, test_offsets, streams[6])
    lengths = test.rollouts.lengths
    source = np.repeat(test.rollouts.source, lengths)
    return Problem(
        corpus=corpus,
        content=streams[0].integers(
            0, 2**64, corpus.rollouts.n_rollouts, np.uint64, endpoint=False
        ),
        steps=steps,
        benchmark=benchmark,
        split=Split(benchmark.right_S, source),
        held_out_S=np.repeat(np.arange(len(lengths)) % 2 == 0, lengths),
        world=world,
        frame=frame,
        offsets_NxD=test_offsets,
    )


def benchmark_sources(mean_mc: float) -> tuple[Source, ...]:
    """The five sources of the benchmark at one mean MC."""
    return tuple(
        Source(name, mean_mc, round(_BENCHMARK.steps_per_solution * n), n)
        for name, n in _BENCHMARK.solutions.items()
    )


@lru_cache(maxsize=1024)
def benchmark_mean(
    world: FeatureWorld, model: CorpusModel, order: float = 0.0
) -> float:
    """Mean MC at which the benchmark has its share of right steps.

    By interpolation over a grid of pilot corpora with common random numbers.

    Raises:
        ValueError: no mean MC on the grid gives that share.
    """
    steps = round(_BENCHMARK.steps_per_solution * _PILOT)
    length_law = Source("", 0.5, steps, _PILOT).length_law
    lengths = length_law.draw(_PILOT, np.random.default_rng(_PILOT_SEED))
    zeros = np.zeros(int(lengths.sum()), np.uint8)
    counts = Rollouts(
        zeros,
        zeros,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.zeros(_PILOT, np.int64),
        ("pilot",),
    )
    means, shares = [], []
    for mean in _MEANS:
        rng = np.random.default_rng(_PILOT_SEED)
        try:
            latent = model.draw(float(mean), length_law, lengths, rng)
        except ValueError:
            # Chains cannot have every mean.
            continue
        simulation = Simulation(counts, latent.r, latent.good)
        simulation = put_in_order(simulation, order, rng)
        means.append(mean)
        shares.append(draw_truth(world, simulation, rng).mean())
    ascending = np.maximum.accumulate(shares)
    if not ascending[0] <= _BENCHMARK.correct_share <= ascending[-1]:
        raise ValueError(
            f"no benchmark of this world has {_BENCHMARK.correct_share:.1%} right "
            f"steps: they range from {ascending[0]:.1%} to {ascending[-1]:.1%}"
        )
    return float(np.interp(_BENCHMARK.correct_share, ascending, means))


def from_moments(spread: float, between: float) -> HierarchicalBeta:
    """The hierarchical Beta with Var(r) = spread mu (1 - mu), a share ``between`` of
    which lies between rollouts.

    ``1 / (k0 + 1) = between spread`` and ``1 / (k + 1) = (spread - between spread) /
    (1 - between spread)`` (law of total variance).

    Raises:
        ValueError: spread or between is not in (0, 1).
    """
    for name, value in (("spread", spread), ("between", between)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie in (0, 1), not {value}")
    shared = between * spread
    return HierarchicalBeta(1 / shared - 1, (1 - shared) / (spread - shared) - 1)
