"""What judges the models of a selection grid: a benchmark, and candidates if any."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.store.metrics import json_numbers, stored
from mprm_jax.data.batches import Example
from mprm_jax.data.images import read_images
from mprm_jax.data.loader import Source
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.scored import CandidateSet, Prediction, columns
from mprm_jax.evaluate import Solution, encode_example, score_prompts
from mprm_jax.metrics import StepScores, best_threshold, f1_at
from mprm_jax.metrics_bootstrap import replicate
from mprm_jax.metrics_ranking import auroc
from mprm_jax.metrics_summary import decide, evaluation
from mprm_jax.models.model import Model, Params
from mprm_jax.rerank import best_of_n, replicate_accuracy, score_candidates

# Resamples of the benchmark that the results keep: the same for every model.
REPLICATES = 200


class Room:
    """Bytes of memory that are left for encoded prompts."""

    def __init__(self, left: int) -> None:
        self._left, self._lock = left, threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there is room; what is taken stays taken."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True


class Kept:
    """Prompts of a source, encoded when first asked for, kept while there is room.

    Args:
        source: encodes.
        room: shared with other sources.

    Attributes:
        tokens: of each prompt, int64; 0 where it was not asked for yet.
    """

    def __init__(self, source: Source, room: Room) -> None:
        self._source, self._room = source, room
        self._kept: dict[int, Example] = {}
        self.tokens = np.zeros(len(source), np.int64)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, place: int) -> Example:
        """The prompt at a place.

        Raises:
            DataError: it cannot be encoded.
        """
        example = self._kept.get(place)
        if example is None:
            example = self._source[place]
            self.tokens[place] = len(example.tokens_L)
            if self._room.take(example.tokens_L.nbytes + example.images_PxD.nbytes):
                self._kept[place] = example
        return example


@dataclass(frozen=True, eq=False)
class Prompts:
    """The solutions of a benchmark, encoded one by one when asked for.

    Attributes:
        model: encodes.
        solutions: of the benchmark.
        root: of their images.
    """

    model: Model
    solutions: Sequence[Solution]
    root: Path

    def __len__(self) -> int:
        return len(self.solutions)

    def __getitem__(self, place: int) -> Example:
        """The prompt of a solution.

        Raises:
            DataError: it cannot be encoded; the message names it.
        """
        solution = self.solutions[place]
        record = solution.record
        try:
            images = read_images(self.root, record.images)
            texts = [step.text for step in record.steps]
            return encode_example(self.model, record.question, texts, images)
        except BadRecord as error:
            raise DataError(f"{solution.where}: {error}") from None


@dataclass(frozen=True, eq=False)
class Bench:
    """What every model of a grid is judged by.

    Attributes:
        model: pure functions.
        solutions: judged.
        prompts: theirs.
        sets: candidates; None where none are given.
        root: of the candidates' images.
        batch_size: B of scoring.
    """

    model: Model
    solutions: Sequence[Solution]
    prompts: Kept
    sets: Sequence[CandidateSet] | None
    root: Path
    batch_size: int

    def score(self, params: Params) -> StepScores:
        """The benchmark's steps with a model's scores.

        Raises:
            DataError: a solution cannot be read or scored; the message names it.
        """
        prompts = (self.prompts[place] for place in range(len(self.prompts)))
        scores = score_prompts(self.model, params, prompts, self.batch_size)
        rows = []
        for number, (solution, of) in enumerate(
            zip(self.solutions, scores, strict=True), 1
        ):
            if not np.isfinite(of).all():
                raise DataError(f"{solution.where}: the model's score is not a number")
            source, labels = solution.record.source or "", solution.labels[: len(of)]
            found = tuple(of.tolist())
            rows.append(Prediction(source, labels, found, solution.id, number))
        return columns(rows)

    def rerank(self, params: Params) -> tuple[dict[str, Any] | None, list]:
        """Best-of-N accuracy, and by mean score on resamples of the problems; None and
        nothing where no candidates are given.

        Raises:
            DataError: a candidate cannot be read or scored; the message names it.
        """
        if self.sets is None:
            return None, []
        scored = score_candidates(
            self.model, params, self.sets, self.root, self.batch_size
        )
        found = best_of_n(scored, replicates=0)
        names = ("mean", "random", "pass_at_n")
        accuracy = {name: found[name] for name in names}
        accuracy["n"] = found["candidates"][1]
        rng = np.random.default_rng(0)
        drawn = replicate_accuracy(scored, "mean", REPLICATES, rng)
        return accuracy, json_numbers(drawn)


def point(steps: StepScores) -> dict[str, float | None]:
    """What a learning curve shows of a model: as in :func:`described`."""
    decision, left = decide(steps, "held-out")
    evaluated = steps.take(left)
    return {
        "micro_f1": float(f1_at(evaluated, decision.threshold).micro_f1),
        "auroc": auroc(evaluated.scores, evaluated.correct),
    }


def described(steps: StepScores) -> dict[str, Any]:
    """All metrics of a model as JSON values, with replicates of the main ones.

    ``micro_f1`` takes its threshold from held-out rollouts, which are then left out of
    every metric; ``micro_f1_on_test`` from the very rollouts it is measured on, all of
    them, as the released evaluator does: it flatters.
    """
    decision, left = decide(steps, "held-out")
    evaluated = steps.take(left)
    metrics = evaluation(evaluated, decision, replicates=0)
    rng = np.random.default_rng(0)
    drawn = replicate(evaluated, decision.threshold, REPLICATES, rng)
    return {
        **stored(metrics),
        "micro_f1_on_test": float(f1_at(steps, best_threshold(steps)).micro_f1),
        "threshold": decision.threshold,
        "bootstrap": {
            "micro_f1": json_numbers(drawn.f1.micro_f1),
            "auroc": json_numbers(drawn.auroc),
        },
    }
