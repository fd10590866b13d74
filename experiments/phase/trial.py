"""A trial: do heads on frozen hidden states say that BIS gains or loses on a corpus?

The backbone reads a sample of the corpus once. Of the rollouts that nobody judged, BIS
and Random each keep a subset; on its labels 1[K > 0] a linear head is trained, as the
probes of the phase diagram are, and both heads are judged by AUROC on the steps of the
judged rollouts, which neither subset can hold. Minutes, where training takes days.

What a trial leaves out: how training changes the hidden states, and what more rollouts
than the sample's would teach. Whether it tells the sign all the same is asked by
:mod:`experiments.phase.prediction`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.phase.design import RULES
from experiments.phase.probes import standardised
from experiments.store.read_subset import Subset, examples
from experiments.students.arms import Arm
from experiments.students.runs import GivenTask, Lesson, SeenSteps, arm_scores
from experiments.students.worlds import BATCH
from mprm_jax.evaluate import Scoring, marker_states
from mprm_jax.records.record import ImageRoot
from sim.students.evaluation import Split
from sim.students.train import LEARNING_RATE, Student
from theory.agreement import PairPlan, count_pairs, pair_plan
from theory.intervals import Score, draw_weights, mean_over_seeds
from theory.rollouts import Rollouts

if TYPE_CHECKING:
    from mprm_jax.data.corpus import SelectableCorpus
    from mprm_jax.models.model import Model, Params

SEEDS, LEVEL, REPLICATES = 4, 0.9, 400

# Features for which the students' rate was chosen.
_WIDTH = 64

# Rollouts that a model reads together.
_TOGETHER = 8

# Names of streams: a seed alone would be that of the corpus.
_TIES, _DRAWN = zlib.crc32(b"ties of a trial"), zlib.crc32(b"judges of a trial")


class Judges(NamedTuple):
    """Steps whose truth is known.

    Attributes:
        hidden_SxD: hidden states at their markers.
        right_S: the truth.
        rollout_S: number of each step's rollout, from 0.
    """

    hidden_SxD: np.ndarray
    right_S: np.ndarray
    rollout_S: np.ndarray


class TrialGain(NamedTuple):
    """BIS - Random in AUROC of heads, and its 90 % interval."""

    gain: float
    low: float
    high: float


def check_truth(right_S: np.ndarray) -> None:
    """Refuse judged steps that judge nothing.

    Raises:
        ValueError: all of them are right, or wrong.
    """
    if np.all(right_S) or not np.any(right_S):
        kind = "right" if np.all(right_S) else "wrong"
        raise ValueError(f"AUROC is undefined: every judged step is {kind}")


class States(NamedTuple):
    """What a model makes of rollouts.

    Attributes:
        rollouts: counts of the steps that it reads.
        hidden_SxD: at the markers of these.
        kept_S: which of all steps they are; none after the model's context.
    """

    rollouts: Rollouts
    hidden_SxD: np.ndarray
    kept_S: np.ndarray


def read_states(
    usable: SelectableCorpus,
    rows: np.ndarray,
    opened: tuple[Model, Params],
    images: Path | ImageRoot | None = None,
    tick: Callable[[], None] = lambda: None,
) -> States:
    """What a model makes of rollouts of a corpus, read as for training.

    Args:
        usable: the corpus.
        rows: ascending usable rows, at least one.
        opened: model and parameters.
        images: root of the image paths; None: they lie beside the corpus.
        tick: called for each rollout.

    Raises:
        DataError: a rollout or a picture cannot be read; the message names it.
    """
    source = examples(Subset(usable, rows, None), opened[0].encode, images)
    states = []
    for of_rollout in marker_states(*opened, source, Scoring(_TOGETHER)):
        states.append(of_rollout)
        tick()
    whole, kept = usable.rollouts.take(rows), np.array([len(of) for of in states])
    kept_S = whole.position < np.repeat(kept, whole.lengths)
    rollouts = Rollouts(
        whole.successes[kept_S],
        whole.trials[kept_S],
        np.concatenate([[0], np.cumsum(kept)]),
        whole.source,
        whole.source_names,
    )
    return States(rollouts, np.concatenate(states), kept_S)


def try_rules(
    rollouts: Rollouts,
    hidden_SxD: np.ndarray,
    judges: Sequence[Judges],
    keep_ratios: Sequence[float],
    seed: int,
) -> list[list[TrialGain | None]]:
    """BIS - Random in AUROC of heads, for each of the judges and keep ratios.

    The mean over :data:`SEEDS` seeds of ties, subsets and batches; its 90 % interval
    holds seeds and judged rollouts (:func:`theory.intervals.mean_over_seeds`), not
    other corpora. Hidden states are standardised by the steps that may be trained on.
    Heads learn as :class:`sim.students.train.Student` does; beyond 64 coordinates the
    rate falls as one over their number, so that an update moves scores no further.
    None: a subset has labels of one kind only, and teaches nothing, or there is a tie
    in every seed and resample.

    Args:
        rollouts: that may be trained on, none of them judged.
        hidden_SxD: of their steps.
        judges: who judge every head, each by its own steps.
        keep_ratios: rho, each in (0, 1].
        seed: the first.

    Raises:
        ValueError: judged steps are all right or all wrong, or of one rollout alone;
            there is no rollout to train on; or a hidden state is not finite.
    """
    for of in judges:
        check_truth(of.right_S)
        if of.rollout_S.min() == of.rollout_S.max():
            raise ValueError("one judged rollout alone tells no interval")
    if not rollouts.n_rollouts:
        raise ValueError("no rollout is left to train on beside the judged ones")
    n = rollouts.n_steps
    states_SxD = np.concatenate([hidden_SxD, *(of.hidden_SxD for of in judges)])
    if not np.isfinite(states_SxD).all():
        raise ValueError("the model's hidden states are not finite")
    features_SxD = standardised(states_SxD, n)
    arms = [Arm(rule, keep) for keep in keep_ratios for rule in RULES]
    width = features_SxD.shape[1]
    rate = LEARNING_RATE * min(1.0, _WIDTH / width)
    lesson = Lesson(Student(learning_rate=rate), BATCH)
    ends = np.cumsum([len(of.right_S) for of in judges])
    scores, teaches = [], np.ones(len(arms), bool)
    # One at a time: features of a real backbone take a gigabyte.
    for number in range(SEEDS * seed, SEEDS * (seed + 1)):
        task = _task(rollouts, features_SxD, number)
        facts, (scores_AxS,) = arm_scores([task], arms, [number], lesson)
        teaches &= [0 < of[0]["error_step_ratio"] < 1 for of in facts]
        scores.append(np.split(scores_AxS[:, -1], ends[:-1], axis=1))
    told = np.all(np.reshape(teaches, (-1, len(RULES))), axis=1)
    found: list[list[TrialGain | None]] = []
    for j, of in enumerate(judges):
        weights_RxW = _weights(of, seed)
        gains = [_gains(judged[j], of, weights_RxW) for judged in scores]
        found.append(
            [
                _certain([gain[k] for gain in gains]) if told[k] else None
                for k in range(len(keep_ratios))
            ]
        )
    return found


def _certain(scores: Sequence[Score]) -> TrialGain | None:
    found = mean_over_seeds(scores, LEVEL)
    if found.low is None or found.high is None or found.low == found.high:
        return None
    return TrialGain(found.mean, found.low, found.high)


def _task(rollouts: Rollouts, features_SxD: np.ndarray, seed: int) -> GivenTask:
    """What heads are trained on and score; the seed orders ties."""
    content = np.random.default_rng([seed, _TIES]).integers(
        0, 2**64, rollouts.n_rollouts, np.uint64, endpoint=False
    )
    corpus, judged = np.split(features_SxD, [rollouts.n_steps])
    # Nobody knows the truth of the corpus, and that of the judged is not for students.
    unknown, none = np.zeros(len(corpus), bool), np.zeros(len(judged), bool)
    split = Split(none, none.astype(int))
    seen = SeenSteps(corpus, unknown), SeenSteps(judged, none)
    return GivenTask(rollouts, content, *seen, split, none)


def _weights(judges: Judges, seed: int) -> np.ndarray:
    """Each judged rollout once, then as often as it is drawn again, ``[R, 1 + B]``."""
    n = int(judges.rollout_S.max()) + 1
    rng = np.random.default_rng([seed, _DRAWN])
    drawn = draw_weights(np.zeros(n, int), REPLICATES, rng)
    return np.concatenate([np.ones((1, n)), drawn]).T


def _gains(
    scores_AxS: np.ndarray, judges: Judges, weights_RxW: np.ndarray
) -> list[Score]:
    """Of one seed and each keep ratio, on the judged rollouts and on resamples."""

    def area(plan: PairPlan) -> np.ndarray:
        wins, pairs = (x.sum(axis=0) for x in count_pairs(plan, weights_RxW))
        return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)

    judged = judges.right_S, None, judges.rollout_S
    areas = np.stack([area(pair_plan(of, *judged)) for of in scores_AxS])
    random, bis = areas.reshape(-1, len(RULES), areas.shape[1]).swapaxes(0, 1)
    return [Score(float(x[0]), tuple(x[1:].tolist())) for x in bis - random]
