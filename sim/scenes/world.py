"""Whole worlds: which sources, how careful the policies are, what is labelled."""

from __future__ import annotations

import dataclasses

import numpy as np

from sim.scenes.grammar import BENCHMARK_SOURCES, TRAINING_SOURCES, Source
from sim.scenes.policy import Care, Problems
from sim.scenes.solutions import (
    Solutions,
    rerun,
    sample_problems,
    solve,
    step_prior,
    step_success_probability,
)
from theory.paper import TRIALS


@dataclasses.dataclass(frozen=True)
class World:
    """How a corpus of scenes and its labels come about.

    Attributes:
        name: of the world.
        meaning: in a few words, for people.
        errors: factor on the error rates of the sources, for the continuations that
            label the steps.
        care: of the annotated solutions, a further factor on their error rates; below
            1 they are better than the continuations.
        spread: sigma of the log-normal difficulty of a problem, of mean 1.
        forgiveness: factor on the probabilities that a slip is repaired; the larger,
            the more wrong steps are labelled positive.
        second_look: factor on the probabilities that a misread cell is put right later.
        neutral_share: probability of a step without content before a later cell.
        trials: N continuations per step.
    """

    name: str
    meaning: str
    errors: float = 1.0
    care: float = 0.25
    spread: float = 1.0
    forgiveness: float = 1.0
    second_look: float = 1.0
    neutral_share: float = 0.05
    trials: int = TRIALS

    @property
    def solver(self) -> Care:
        """Of the annotated solutions."""
        return Care(self.errors * self.care)

    def source(self, source: Source) -> Source:
        """The source as policies of this world meet it."""
        factors = self.forgiveness, self.second_look
        repair, check = (
            (min(1.0, factors[0] * of[0]), min(1.0, factors[1] * of[1]))
            for of in (source.repair, source.check)
        )
        return dataclasses.replace(source, repair=repair, check=check)

    @property
    def annotator(self) -> Care:
        """Of the continuations."""
        return Care(self.errors)


# In the real corpus 7.7 % of the rollouts are mixed, 3.6 % of the steps have no success
# and the mean MC score is .86; in Monte-Carlo data with independent judges about 63 %
# of the wrong steps have no success, and their mean MC score is .13.
SCARCE = World("scarce", "few rollouts are mixed, as in the real corpus")
PLENTIFUL = World("plentiful", "a quarter is mixed", errors=1.2, care=1.0)
FORGIVING = World(
    "forgiving",
    "as scarce, but most wrong steps are labelled positive",
    care=0.3,
    forgiveness=5.0,
)
# In the other worlds most positives with K of 1 or 2 are wrong (P(wrong | K) about .9);
# judges of real medical rollouts call .09 to .23 of them wrong, and .43 to .61 of the
# steps without success (LOG.md, "Judges"). Here .16 and .74: continuations err far more
# often than the solutions that they label.
DIFFICULT = World(
    "difficult",
    "few successes mostly mean a hard problem, not a wrong step",
    errors=5.0,
    care=0.02,
)
# No demo: what a search for the first error assumes. Errors may still cancel: a larger
# value hides a wrong maximum.
UNREPAIRED = World(
    "unrepaired", "no error is ever put right", forgiveness=0.0, second_look=0.0
)
WORLDS = {world.name: world for world in (SCARCE, PLENTIFUL, FORGIVING, DIFFICULT)}

# Sources of a benchmark err at one rate, whatever the problem.
BENCHMARK_CARE = Care(1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Solutions with their Monte-Carlo labels and what only a simulator knows.

    Attributes:
        solutions: n of them.
        successes: K of each step, [n_steps].
        r: exact one-shot success probability of each step, [n_steps].
    """

    solutions: Solutions
    successes: np.ndarray
    r: np.ndarray


def sample_corpus(
    world: World, rollouts: int, rng: np.random.Generator
) -> list[Labelled]:
    """Solutions of every training source, labelled by re-running from each step.

    Args:
        world: how.
        rollouts: in all; the first sources have one more where they do not divide.
        rng: of everything but the pictures.

    Raises:
        ValueError: there are fewer rollouts than sources.
    """
    return [
        label(sample_problems(source, n, world.spread, stream), world, stream)
        for (source, n), stream in zip(
            _shares(tuple(map(world.source, TRAINING_SOURCES)), rollouts),
            rng.spawn(len(TRAINING_SOURCES)),
            strict=True,
        )
    ]


def label(problems: Problems, world: World, rng: np.random.Generator) -> Labelled:
    """One solution of each problem, labelled."""
    solutions = solve(problems, world.solver, world.neutral_share, rng)
    return Labelled(
        solutions,
        rerun(solutions, world.annotator, world.trials, rng),
        step_success_probability(solutions, world.annotator),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Benchmark solutions of one source.

    Attributes:
        solutions: judged by their known truth, ``solutions.correct()``.
        prior: probability that a step is correct, from error rates and position alone:
            the mean over the source's problems, [n_steps].
    """

    solutions: Solutions
    prior: np.ndarray


def sample_benchmark(rollouts: int, rng: np.random.Generator) -> list[Judged]:
    """Solutions of the held-out sources, at one error rate for all.

    Raises:
        ValueError: there are fewer rollouts than sources.
    """
    judged = []
    for source, n in _shares(BENCHMARK_SOURCES, rollouts):
        problems = sample_problems(source, n, 0.0, rng)
        solutions = solve(problems, BENCHMARK_CARE, 0.1, rng)
        judged.append(Judged(solutions, _positional(solutions)))
    return judged


def _positional(solutions: Solutions) -> np.ndarray:
    """The mean prior of each place in a solution: its pictures are not looked at."""
    prior = step_prior(solutions, BENCHMARK_CARE)
    place = np.stack([solutions.cells_read, solutions.action], axis=1)
    _, group = np.unique(place, axis=0, return_inverse=True)
    group = group.ravel()
    return (np.bincount(group, prior) / np.bincount(group))[group]


def sample_candidates(
    problems: int, candidates: int, rng: np.random.Generator
) -> list[Solutions]:
    """Candidate solutions of held-out problems: ``candidates`` rows per problem.

    Raises:
        ValueError: there are fewer problems than sources.
    """
    sets = []
    for source, n in _shares(BENCHMARK_SOURCES, problems):
        drawn = sample_problems(source, n, 0.0, rng)
        repeated = drawn.take(np.repeat(np.arange(n), candidates))
        sets.append(solve(repeated, Care(2.0), 0.1, rng))
    return sets


def _shares(sources: tuple[Source, ...], total: int) -> list[tuple[Source, int]]:
    if total < len(sources):
        raise ValueError(f"at least {len(sources)} are needed, one per source")
    each, more = divmod(total, len(sources))
    return [(source, each + (i < more)) for i, source in enumerate(sources)]
