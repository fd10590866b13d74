"""Where wrong labels stand: by position in the rollout, or blindly.

The same rates of wrong labels harm a model differently if its features show where they
stand: noise that goes with position teaches that position, blind noise teaches nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from theory.agreement import auroc
from theory.domain import check_probability
from theory.rollouts import Rollouts


class NoiseByPosition(NamedTuple):
    """Rates of wrong labels along a rollout; NaN where there is no step to tell.

    Attributes:
        positive_if_wrong_B: Pr(label 1 | wrong step) by bin of relative position.
        negative_if_right_B: Pr(label 0 | right step).
        wrong_B: number of wrong steps.
        right_B: number of right steps.
        position_auroc: how far position alone tells the wrong steps labelled 1, which
            stand early, from those labelled 0: Pr(one labelled 1 stands before one
            labelled 0), ties half; 1/2: noise does not follow position.
    """

    positive_if_wrong_B: np.ndarray
    negative_if_right_B: np.ndarray
    wrong_B: np.ndarray
    right_B: np.ndarray
    position_auroc: float


def noise_by_position(
    label: ArrayLike, truth: ArrayLike, position: ArrayLike, bins: int = 3
) -> NoiseByPosition:
    """How the rates of wrong labels go with the relative position of a step.

    Args:
        label: 0 or 1, ``[S]``.
        truth: whether the step is right, ``[S]``.
        position: of the step in its rollout, in [0, 1], ``[S]``.
        bins: equal parts of [0, 1]; a position on a boundary falls into the later.

    Raises:
        ValueError: a position is outside [0, 1], or there is no bin.

    Example:
        >>> found = noise_by_position([1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1], 2)
        >>> found.positive_if_wrong_B.tolist(), found.position_auroc
        ([1.0, 0.0], 1.0)
    """
    label, truth = np.asarray(label, bool), np.asarray(truth, bool)
    position = check_probability("position", position)
    place = part_of_rollout(position, bins)

    def rate(of: np.ndarray, noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = np.bincount(place[of], minlength=bins)
        found = np.bincount(place[of & noisy], minlength=bins)
        return np.where(steps > 0, found / np.maximum(steps, 1), np.nan), steps

    positive, wrong = rate(~truth, label)
    negative, right = rate(truth, ~label)
    told = auroc(-position[~truth], label[~truth]) if (~truth).any() else None
    return NoiseByPosition(
        positive, negative, wrong, right, np.nan if told is None else told
    )


def relative_position(rollouts: Rollouts) -> np.ndarray:
    """j / (n - 1) of each step, float64 ``[n_steps]`` in [0, 1]; 0 for a rollout of one
    step.
    """
    lengths = np.repeat(rollouts.lengths, rollouts.lengths)
    return rollouts.position / np.maximum(lengths - 1, 1)


def part_of_rollout(position: ArrayLike, bins: int = 3) -> np.ndarray:
    """Which of the equal parts of [0, 1] a position lies in, integers below ``bins``.

    Args:
        position: in [0, 1]; one on a boundary falls into the later part.
        bins: number of parts.

    Raises:
        ValueError: a position is outside [0, 1], or there is no part.

    Example:
        >>> part_of_rollout([0, 0.5, 1]).tolist()
        [0, 1, 2]
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    position = check_probability("position", position)
    return np.minimum((position * bins).astype(int), bins - 1)


def blind_noise(
    label: ArrayLike, truth: ArrayLike, rng: np.random.Generator, share: float = 1.0
) -> np.ndarray:
    """The labels with as many wrong ones of each kind, placed at random.

    Labels of right steps change places among themselves, and so do those of wrong
    steps: both rates stay exactly, and nothing that features show tells the errors any
    more.

    Args:
        label: any values, ``[S]``.
        truth: whether the step is right, ``[S]``.
        rng: of the places.
        share: of the steps of each kind, drawn at random, whose labels change places,
            in [0, 1]; the others keep theirs.

    Returns:
        ``[S]``, of the labels' type.

    Raises:
        ValueError: ``share`` is outside [0, 1].

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = blind_noise([1, 1, 0, 0], [True, True, True, False], rng)
        >>> int(found[:3].sum()), int(found[3])
        (2, 0)
    """
    moved = np.array(label)
    truth = np.asarray(truth, bool)
    share = float(check_probability("share", share))
    for kind in (truth, ~truth):
        steps = np.flatnonzero(kind)
        steps = rng.permutation(steps)[: round(share * len(steps))]
        moved[steps] = moved[rng.permutation(steps)]
    return moved


def noise_placed_by_position(
    label: ArrayLike,
    truth: ArrayLike,
    position: ArrayLike,
    rng: np.random.Generator,
    share: float = 1.0,
) -> np.ndarray:
    """The labels of :func:`blind_noise` with wrong steps labelled 1 put before those
    labelled 0.

    Both rates stay exactly. Where no two wrong steps share a position, the
    ``position_auroc`` of :func:`noise_by_position` is ``(1 + share) / 2`` on average:
    pairs of sorted labels are in order, of two others half of them, of a sorted and
    another one three quarters.

    Args:
        label: this, truth and position as for :func:`noise_by_position`.
        share: of the wrong steps, drawn at random, whose labels are sorted, in [0, 1].

    Returns:
        ``[S]``, of the labels' type.

    Raises:
        ValueError: ``share`` or a position is outside [0, 1].

    Example:
        >>> rng = np.random.default_rng(0)
        >>> wrong, position = [False] * 4, [0.0, 1.0, 0.2, 0.6]
        >>> noise_placed_by_position([0, 1, 0, 1], wrong, position, rng).tolist()
        [1, 0, 1, 0]
    """
    share = float(check_probability("share", share))
    position = check_probability("position", position)
    moved = blind_noise(label, truth, rng)
    steps = rng.permutation(np.flatnonzero(~np.asarray(truth, bool)))
    steps = steps[: round(share * len(steps))]
    earliest_first = steps[np.argsort(position[steps], kind="stable")]
    moved[earliest_first] = np.sort(moved[steps])[::-1]
    return moved
