"""What judges the models of a grid: a benchmark, and candidates if any."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.grid.inputs import Inputs
from mprm_jax.data.batches import Example
from mprm_jax.data.loader import Source
from mprm_jax.data.scored import CandidateSet, Prediction, columns, read_prior
from mprm_jax.decision import decide
from mprm_jax.evaluate import (
    Prompts,
    Scoring,
    Solution,
    of_candidates,
    of_solutions,
    predictions,
    step_beliefs,
    with_scores,
)
from mprm_jax.models.model import Model, Params
from mprm_jax.rerank import Choosing, best_of_n, replicate_accuracy
from mprm_jax.summary import (
    auroc_metrics,
    evaluation,
    f1_metrics,
    joined,
    of_each_source,
    replicate,
    within_position_auroc,
)
from theory.agreement import StepScores, auroc, best_threshold, f1_at

# Resamples of the benchmark that the results keep: the same for every model.
REPLICATES = 200

# Of mprm_jax.summary.Evaluation, what the results keep.
_STORED = (
    "micro_f1",
    "macro_f1_pooled",
    "auroc",
    "within_position_auroc",
    "position_auroc",
    "per_source",
)


class MemoryBudget:
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


class PromptCache:
    """Prompts of a source, encoded when first asked for, kept while there is room.

    Attributes:
        tokens: of each prompt, int64; 0 where it was not asked for yet.
    """

    def __init__(self, source: Source, budget: MemoryBudget) -> None:
        self._source, self._budget = source, budget
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
            if self._budget.take(example.tokens_L.nbytes + example.images_PxD.nbytes):
                self._kept[place] = example
        return example


@dataclass(frozen=True, eq=False)
class Bench:
    """What every model of a grid is judged by.

    Attributes:
        model: pure functions.
        solutions: judged.
        prompts: theirs.
        sets: candidates; None where none are given.
        candidates: prompts of all candidates, set by set.
        prior: file of what error rate and position alone say of each step; None: there
            is none.
        batch_size: B of scoring.
    """

    model: Model
    solutions: Sequence[Solution]
    prompts: Source
    sets: Sequence[CandidateSet] | None
    candidates: Source
    prior: Path | None
    batch_size: int

    def first(self, n: int) -> Bench:
        """A benchmark of ``n`` solutions, evenly taken, without candidates."""
        places = np.linspace(0, len(self.solutions) - 1, n).astype(int).tolist()
        return dataclasses.replace(
            self,
            solutions=[self.solutions[i] for i in places],
            prompts=[self.prompts[i] for i in places],
            sets=None,
            prior=None,
        )

    def with_permuted_images(self, rng: np.random.Generator) -> Bench:
        """Each solution with the picture of another of its source."""
        prompts = [self.prompts[i] for i in range(len(self.prompts))]
        permuted = list(prompts)
        source = [solution.record.source for solution in self.solutions]
        for name in dict.fromkeys(source):
            places = [i for i, other in enumerate(source) if other == name]
            # A cyclic shift of a random order: no picture stays where it was.
            order = rng.permutation(places).tolist()
            for i, j in zip(order, order[1:] + order[:1], strict=True):
                permuted[i] = prompts[i]._replace(images_PxD=prompts[j].images_PxD)
        return dataclasses.replace(self, prompts=permuted)

    def predict(self, params: Params) -> list[Prediction]:
        """A model's scores of the solutions.

        Raises:
            DataError: a solution cannot be read or scored; the message names it.
        """
        how = Scoring(self.batch_size)
        return predictions(self.model, params, self.solutions, self.prompts, how)

    def point(self, params: Params) -> dict[str, float | None]:
        """What a learning curve shows of a model: as in :meth:`judge`.

        Raises:
            DataError: as :meth:`predict`.
        """
        steps = columns(self.predict(params))
        decision, _ = decide(steps, "cross-fitted")
        return {
            "micro_f1": float(f1_at(steps, decision.at(steps)).micro_f1),
            "auroc": auroc(steps.scores, steps.correct),
        }

    def judge(self, params: Params) -> dict[str, Any]:
        """All metrics of a model as JSON values, with replicates of the main ones.

        ``micro_f1`` takes the threshold of each half of the rollouts from the other,
        ``micro_f1_on_test`` one from the very rollouts it is measured on, as the
        released evaluator does: it flatters. All rollouts are judged.

        Raises:
            DataError: as :meth:`predict`.
        """
        rows = self.predict(params)
        steps = columns(rows)
        decision, _ = decide(steps, "cross-fitted")
        prior = self.prior and read_prior(self.prior, "slip_prior", rows)
        metrics = evaluation(steps, decision, replicates=0, prior=prior)
        own = joined(f1_metrics(steps, decision.at(steps)), auroc_metrics(steps))
        drawn = replicate(own, steps, REPLICATES, np.random.default_rng(0))
        found = {name: getattr(metrics, name) for name in _STORED}
        if prior is not None:
            found["slip_prior_auroc"] = metrics.prior and metrics.prior.auroc
        return found | {
            "micro_f1_on_test": float(f1_at(steps, best_threshold(steps)).micro_f1),
            "threshold": decision.threshold,
            "thresholds": decision.halves,
            "bootstrap": {
                name: _json_numbers(drawn[name])
                for name in ("micro_f1", "auroc", "within_position_auroc")
            },
        }

    def rerank(self, params: Params) -> tuple[dict[str, Any] | None, list]:
        """Best-of-N accuracy, and by mean score on resamples of the problems; None and
        nothing where no candidates are given.

        Raises:
            DataError: a candidate cannot be read or scored; the message names it.
        """
        if not self.sets:
            return None, []
        how = Scoring(self.batch_size)
        beliefs = step_beliefs(self.model, params, self.candidates, how)
        scored = with_scores(self.sets, beliefs)
        found = best_of_n(scored, Choosing(curve=False, replicates=0))
        names = ("mean", "random", "pass_at_n")
        accuracy: dict[str, Any] = {name: found.accuracy[name] for name in names}
        accuracy["n"] = found.candidates[1]
        drawn = replicate_accuracy(scored, "mean", REPLICATES)
        return accuracy, _json_numbers(drawn)

    def learnability(self, params: Params) -> list[dict[str, Any]]:
        """Does a model trained on clean labels check steps, by looking, on each source?

        One row per benchmark source: within-position AUROC with the lower end of its
        95 % interval over rollouts, and the same with the pictures permuted across
        rollouts.

        Raises:
            DataError: as :meth:`predict`.
        """
        steps = columns(self.predict(params))
        blind = self.with_permuted_images(np.random.default_rng(0))
        unseen = columns(blind.predict(params))
        own = of_each_source(steps, auroc_metrics)
        drawn = replicate(own, steps, REPLICATES, np.random.default_rng(0))
        rows = []
        for i, name in enumerate(steps.source_names):
            low = float(np.nanquantile(drawn[name, "within_position_auroc"], 0.025))
            rows.append(
                {
                    "source": name,
                    "within_position_auroc": within_position_auroc(_of(steps, i)),
                    "low": low,
                    "permuted_images": within_position_auroc(_of(unseen, i)),
                }
            )
        return rows


def _of(steps: StepScores, source: int) -> StepScores:
    return steps.take(np.flatnonzero(steps.source == source))


def _json_numbers(values: np.ndarray) -> list[float | None]:
    """Bootstrap replicates to five digits; None where there is no number."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def open_bench(
    model: Model, inputs: Inputs, budget: MemoryBudget, batch_size: int
) -> Bench:
    """The benchmark of a grid; its prompts are kept as far as the budget goes."""
    root = inputs.benchmark_images
    solutions, candidates = (
        of_solutions(inputs.solutions),
        of_candidates(inputs.sets or ()),
    )
    return Bench(
        model,
        inputs.solutions,
        PromptCache(Prompts(model, solutions, root), budget),
        inputs.sets,
        PromptCache(Prompts(model, candidates, root), budget),
        inputs.prior,
        batch_size,
    )
