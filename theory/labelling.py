"""Labels made from counts that leave doubtful steps out, or weigh rollouts.

A hard label 1[K > 0] is wrong most often where a rollout was repaired: an early wrong
step from which a continuation still succeeded. Each kind below answers that in its own
way; none has a constant that was chosen by what students scored.

- ``masked``: a doubtful positive, ``0 < K/N < 1/4``, of a mixed rollout has no label.
  In a mixed rollout the level of r says little (it holds right and wrong steps), so the
  count decides; in a perfect one the other steps speak for the step.
- ``banded``: doubtful positives have no label in any rollout.
- ``falling``: ``1[K/N > (1 - t) / 4]``, t the relative position of the step: what an
  early step must show, because wrong early steps are the ones that are repaired, falls
  to K > 0 at the end, where nothing is left to be repaired. The straight line is the
  simplest that has both ends.
- ``weighted``: 1[K > 0], and the loss of a rollout's steps counts ``max(0, E[C] / V)``,
  which is at most 1: of all weights those with the most efficient contrasts
  (:func:`theory.contrast.weighted_efficiency`). Pure rollouts have no contrast, and
  count nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from theory.rollouts import Rollouts
from theory.scores import label_mixture, moment_prior

Labelling = Literal["masked", "banded", "falling", "weighted"]
LABELLINGS: tuple[Labelling, ...] = get_args(Labelling)

# A positive whose share K/N is below this is likelier wrong than right at even odds:
# there f1(K) / f0(K) of theory.continuations.JUDGED crosses 1, at N = 4, 8, 16 and 32
# alike (N = 16 is what judges saw).
DOUBTFUL = 0.25


class StepTargets(NamedTuple):
    """What a student is told of each step.

    Attributes:
        target_S: label y in [0, 1], boolean where it is hard, ``[n_steps]``.
        weight_S: what the step's loss counts, in [0, 1], ``[n_steps]``; 0: the step has
            no label. Those never sampled have none.
    """

    target_S: np.ndarray
    weight_S: np.ndarray


def step_targets(rollouts: Rollouts, labelling: Labelling) -> StepTargets:
    """Targets and weights of every step.

    Args:
        rollouts: the corpus; ``weighted`` takes its prior from all of it
            (:func:`theory.scores.moment_prior`), so that a subset's weights are those
            that its steps have in the corpus.
        labelling: one of :data:`LABELLINGS`.

    Raises:
        ValueError: the labelling is unknown, ``weighted`` finds no prior, or a rollout
            has no measured step.

    Example:
        >>> corpus = Rollouts.from_scores(
        ...     np.array([0.25, 0.125, 0, 0.125, 1]), 8, np.array([0, 3, 5])
        ... )
        >>> target, weight = step_targets(corpus, "masked")
        >>> target.astype(int), weight
        (array([1, 1, 0, 1, 1]), array([1., 0., 1., 1., 1.]))
        >>> step_targets(corpus, "falling").target_S.astype(int)
        array([0, 0, 0, 0, 1])
    """
    if labelling not in LABELLINGS:
        raise ValueError(f"labelling must be one of {LABELLINGS}, not {labelling!r}")
    positive, measured = rollouts.successes > 0, rollouts.measured
    if labelling == "falling":
        return StepTargets(_above_falling(rollouts), measured.astype(np.float64))
    if labelling == "weighted":
        of_rollout = contrast_weights(rollouts)
        return StepTargets(positive, measured * np.repeat(of_rollout, rollouts.lengths))
    doubtful = positive & (rollouts.successes < DOUBTFUL * rollouts.trials)
    if labelling == "masked":
        doubtful &= np.repeat(label_mixture(rollouts) > 0, rollouts.lengths)
    return StepTargets(positive, (measured & ~doubtful).astype(np.float64))


def contrast_weights(rollouts: Rollouts) -> np.ndarray:
    """``max(0, E[C] / V)`` of each rollout, its ``PPV + NPV - 1``, in [0, 1]; 0 of pure
    ones (:func:`theory.contrast.expected_contrast`, truth r >= 1/2).

    Raises:
        ValueError: the counts have no Beta prior, or a rollout has no measured step.
    """
    # Imported here: it needs scipy, which would double start-up.
    from theory.contrast import expected_contrast

    contrast, variation = expected_contrast(rollouts, *moment_prior(rollouts))
    mixed = variation > 0
    ratio = np.where(mixed, contrast / np.where(mixed, variation, 1.0), 0.0)
    return np.clip(ratio, 0.0, 1.0)


def _above_falling(rollouts: Rollouts) -> np.ndarray:
    """``K / N > (1 - t) / 4`` in integers, t = j / (n - 1); t = 1 where n = 1."""
    lengths = np.repeat(rollouts.lengths, rollouts.lengths)
    last = np.repeat(rollouts.offsets[1:] - 1, rollouts.lengths)
    left = last - np.arange(rollouts.n_steps)
    share = round(1 / DOUBTFUL) * rollouts.successes.astype(np.int64)
    return share * np.maximum(lengths - 1, 1) > rollouts.trials * left
