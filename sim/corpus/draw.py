"""Monte-Carlo counts of a corpus of many sources, with the truth behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.corpus.laws import CorpusModel
from sim.corpus.sources import Source
from theory import paper
from theory.domain import check_positive
from theory.rollouts import Rollouts


@dataclass(frozen=True, eq=False)
class Simulation:
    """A corpus and what lies behind it.

    Attributes:
        rollouts: the counts.
        r: one-shot success probability of each step, in [0, 1], float64 ``[n_steps]``.
        good: whether the rollout is still right after the step, boolean ``[n_steps]``;
            None for models whose steps have no state.
    """

    rollouts: Rollouts
    r: np.ndarray
    good: np.ndarray | None


@dataclass(frozen=True)
class ExpectedSummary:
    """Expectations of the fields of :class:`theory.summary.Summary` of these names.

    Attributes:
        mean_mc: mean MC score of the steps, in [0, 1].
        error_step_ratio: share of steps with K = 0.
        mixed_share: share of rollouts with both labels.
        all_negative_share: share of rollouts whose steps all have K = 0.
        steps_per_rollout: mean number of steps.
    """

    mean_mc: float
    error_step_ratio: float
    mixed_share: float
    all_negative_share: float
    steps_per_rollout: float


def sample(
    model: CorpusModel,
    sources: Sequence[Source],
    rng: np.random.Generator,
    scale: float = 1.0,
    trials: int = paper.TRIALS,
) -> Rollouts:
    """Counts of a corpus: n ~ the source's law, r ~ model, K | r ~ Binomial(N, r).

    Args:
        model: law of r.
        sources: in the order of the result, whose rollouts are grouped by source.
        rng: equal states give equal corpora.
        scale: each source gets ``round(scale * rollouts)`` rollouts, at least 1.
        trials: N, in [1, 255].

    Returns:
        Rollouts with uint8 counts.

    Raises:
        ValueError: no source, two of one name, ``scale`` not positive, ``trials``
            outside its range, or a source whose mean MC the model cannot have.
    """
    return sample_with_latent(model, sources, rng, scale, trials).rollouts


def sample_with_latent(
    model: CorpusModel,
    sources: Sequence[Source],
    rng: np.random.Generator,
    scale: float = 1.0,
    trials: int = paper.TRIALS,
) -> Simulation:
    """The corpus of :func:`sample`, equal for equal ``rng``, with the truth behind it.

    Raises:
        ValueError: as :func:`sample`.
    """
    _check(sources, trials)
    check_positive("scale", scale)
    lengths, r, good = [], [], []
    for source in sources:
        rollouts = max(1, round(scale * source.rollouts))
        n = source.length_law.draw(rollouts, rng)
        latent = model.draw(source.mean_mc, source.length_law, n, rng)
        lengths.append(n)
        r.append(latent.r)
        good.append(latent.good)
    r = np.concatenate(r)
    counts = Rollouts(
        successes=rng.binomial(trials, r).astype(np.uint8),
        trials=np.full(len(r), trials, np.uint8),
        offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
        source=np.repeat(np.arange(len(sources)), [len(n) for n in lengths]),
        source_names=tuple(source.name for source in sources),
    )
    return Simulation(counts, r, None if good[0] is None else np.concatenate(good))


def early_stop(rollouts: Rollouts) -> Rollouts:
    """The corpus of an annotator that stops at the first failure: every step after a
    rollout's first K = 0 is never sampled (K = N = 0), the annotator's default.
    """
    failed = rollouts.measured & (rollouts.successes == 0)
    before = np.cumsum(failed) - failed
    at_start = np.concatenate([before, [0]])[rollouts.offsets[:-1]]
    sampled = before == np.repeat(at_start, rollouts.lengths)
    return Rollouts(
        rollouts.successes * sampled,
        rollouts.trials * sampled,
        rollouts.offsets,
        rollouts.source,
        rollouts.source_names,
    )


def expected(
    model: CorpusModel, sources: Sequence[Source], trials: int = paper.TRIALS
) -> ExpectedSummary:
    """What ``theory.summary.summarise`` measures on :func:`sample`'s corpus, expected.

    By quadrature, for sizes as in ``sources``; ratios of expectations, which at these
    sizes are expectations of ratios.

    Raises:
        ValueError: as :func:`sample`.
    """
    _check(sources, trials)
    labels = [model.labels(s.mean_mc, s.length_law, trials) for s in sources]
    rollouts = np.array([s.rollouts for s in sources])
    steps = np.array([s.steps for s in sources])
    negative, all_negative, all_positive = np.array(labels).T @ rollouts
    return ExpectedSummary(
        mean_mc=float(np.array([s.mean_mc for s in sources]) @ steps / steps.sum()),
        error_step_ratio=float(negative / steps.sum()),
        mixed_share=float(1 - (all_negative + all_positive) / rollouts.sum()),
        all_negative_share=float(all_negative / rollouts.sum()),
        steps_per_rollout=float(steps.sum() / rollouts.sum()),
    )


def _check(sources: Sequence[Source], trials: int) -> None:
    if not sources:
        raise ValueError("a corpus needs at least one source")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError("two sources have one name")
    if not 1 <= trials <= 255:
        raise ValueError(f"trials must be in [1, 255], not {trials}")
