"""The demo's models: train one on a set of rollouts, judge it on the benchmark.

Everything that arms and seeds share is read once and kept in memory: the corpus and the
benchmark as a model reads them, and one compiled update.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np

from experiments.store.metrics import json_numbers, stored
from mprm_jax.data.batches import Buckets, Example, buckets_for
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.images import read_images
from mprm_jax.data.loader import CorpusExamples
from mprm_jax.data.problems import DataError
from mprm_jax.data.scored import CandidateSet, read_candidates
from mprm_jax.evaluate import Solution, encode_example, read_benchmark, score_prompts
from mprm_jax.metrics import StepScores, step_scores
from mprm_jax.metrics_bootstrap import replicate
from mprm_jax.metrics_ranking import within_position_auroc
from mprm_jax.metrics_summary import decide, evaluation
from mprm_jax.models.model import Model, Params
from mprm_jax.rerank import best_of_n, replicate_accuracy
from mprm_jax.train.loop import TrainConfig, Update, train
from mprm_jax.train.objective import Objective
from mprm_jax.train.optimizer import OptimizerConfig, plan

# Settings that worked for the tiny model on this world's clean labels; the same for all
# arms. A fresh head learns ten times as fast as the pretrained rest.
BATCH_SIZE = 16
# The activations of four rollouts stay in the cache: an update costs half the CPU time
# of one in a single part (python -m experiments.benchmarks.train_step).
ACCUMULATE = 4
LEARNING_RATE = 1e-3
HEAD_MULTIPLIER = 10.0
# Large enough that all cores work, small enough for little padding.
SCORING_BATCH = 64
# Resamples of the benchmark that the results keep: the same for every model.
REPLICATES = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """The benchmark as the model reads it.

    Attributes:
        solutions: judged.
        examples: of the solutions.
        prior: what error rate and position alone say of each step, per solution.
        sets: problems with candidates.
        candidates: examples of all candidates, in order.
    """

    solutions: Sequence[Solution]
    examples: Sequence[Example]
    prior: Sequence[Sequence[float]]
    sets: Sequence[CandidateSet]
    candidates: Sequence[Example]

    def first(self, n: int) -> Bench:
        """A benchmark of ``n`` solutions, evenly taken, without candidates."""
        rows = np.linspace(0, len(self.solutions) - 1, n).astype(int).tolist()
        return Bench(
            [self.solutions[i] for i in rows],
            [self.examples[i] for i in rows],
            [self.prior[i] for i in rows],
            [],
            [],
        )

    def with_permuted_images(self, rng: np.random.Generator) -> Bench:
        """Each solution with the picture of another of its source."""
        examples = list(self.examples)
        source = [solution.record.source for solution in self.solutions]
        for name in dict.fromkeys(source):
            rows = [i for i, other in enumerate(source) if other == name]
            # A cyclic shift of a random order: no picture stays where it was.
            order = rng.permutation(rows).tolist()
            for i, j in zip(order, order[1:] + order[:1], strict=True):
                examples[i] = self.examples[i]._replace(
                    images_PxD=self.examples[j].images_PxD
                )
        return dataclasses.replace(self, examples=examples)


def read_bench(model: Model, folder: Path) -> Bench:
    """The benchmark that a world was written with.

    Raises:
        DataError: a file is missing or unreadable.
    """
    solutions = read_benchmark(folder / "test.jsonl")
    root = folder / "images"
    examples = [
        encode_example(
            model,
            of.record.question,
            [step.text for step in of.record.steps],
            read_images(root, of.record.images),
        )
        for of in solutions
    ]
    try:
        lines = (folder / "truth.jsonl").read_bytes().splitlines()
        prior = [msgspec.json.decode(line)["slip_prior"] for line in lines]
    except (OSError, msgspec.DecodeError, KeyError) as error:
        raise DataError(f"{folder / 'truth.jsonl'}: {error}") from error
    sets = read_candidates(folder / "candidates.jsonl", scored=False)
    candidates = []
    for problem in sets:
        images = read_images(root, problem.images)
        candidates += [
            encode_example(model, problem.question, one.steps, images)
            for one in problem.candidates
        ]
    return Bench(solutions, examples, prior, sets, candidates)


def read_examples(
    model: Model, usable: SelectableCorpus, images: Path, tick: Callable[[int], None]
) -> list[Example]:
    """Every rollout of the corpus as the model reads it.

    Raises:
        DataError: one cannot be read, with ``file:line``.
    """
    every = np.arange(usable.rollouts.n_rollouts)
    source = CorpusExamples(usable, every, model.encode, images)
    examples = []
    for place in range(len(source)):
        examples.append(source[place])
        tick(place + 1)
    return examples


def clean_example(example: Example, correct: Sequence[int]) -> Example:
    """The example with its true labels: one trial per step, none where neutral."""
    truth = np.asarray(correct, np.int32)[: len(example.marker_S)]
    return example._replace(
        successes_S=(truth == 1).astype(np.int32),
        trials_S=(truth != 0).astype(np.int32),
    )


def shapes(examples: Sequence[Example]) -> Buckets:
    """The shapes that all arms share, so that they share compilations."""
    return buckets_for(examples)


def starting_params(model: Model, params: Params, key: jax.Array) -> Params:
    """Pretrained parameters with a fresh random head: what a seed starts from."""
    return params | {"head": model.init(key)["head"]}


def at_base_rate(params: Params, examples: Sequence[Example]) -> Params:
    """The head's intercept at the log odds of a positive label in these examples.

    From zero, tens of updates would be spent on finding it.
    """
    trials = np.concatenate([example.trials_S for example in examples])
    successes = np.concatenate([example.successes_S for example in examples])
    positive = np.count_nonzero(successes) + 1
    negative = np.count_nonzero((trials > 0) & (successes == 0)) + 1
    bias = np.zeros(params["head"]["bias"].shape, np.float32)
    bias[0] = np.log(positive / negative)
    return params | {"head": params["head"] | {"bias": jax.numpy.asarray(bias)}}


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and how it came about.

    Attributes:
        params: of it.
        updates: T.
        curve: (update, training loss), at most 40 means over equal spans.
        eval_curve: (update, AUROC), if asked for.
    """

    params: Params
    updates: int
    curve: list[tuple[int, float]]
    eval_curve: list[tuple[int, float]]


def train_on(
    model: Model,
    params: Params,
    examples: Sequence[Example],
    buckets: Buckets,
    seed: int,
    *,
    judge: Callable[[Params], float] | None = None,
    output: Path | None = None,
    identity: dict[str, Any] | None = None,
    tick: Callable[[int], None] = lambda update: None,
) -> Trained:
    """One pass over the examples.

    Args:
        model: tiny.
        params: to start from.
        examples: of the arm.
        buckets: shared shapes.
        seed: of the order of the rollouts.
        judge: of the parameters, called at four points on the way.
        output: folder for the checkpoint and the metrics.
        identity: of the run, for its checkpoint.
        tick: told the number of each update.
    """
    budget = plan(len(examples), BATCH_SIZE)
    config = TrainConfig(
        objective=Objective("hard"),
        optimizer=OptimizerConfig(head_multiplier=HEAD_MULTIPLIER),
        learning_rate=LEARNING_RATE,
        accumulate=ACCUMULATE,
        seed=seed,
    )
    losses: list[float] = []
    judged: list[tuple[int, float]] = []
    stops = {round(budget.updates * part / 4) for part in (1, 2, 3, 4)}

    def on_update(update: Update) -> None:
        losses.append(float(update.metrics["loss"]))
        if judge is not None and update.number in stops:
            judged.append((update.number, judge(update.params())))
        tick(update.number)

    trained = train(
        model,
        at_base_rate(params, examples),
        examples,
        budget,
        config,
        buckets,
        output=output,
        identity=identity,
        on_update=on_update,
    )
    return Trained(trained, budget.updates, _means(losses, 40), judged)


def _means(losses: list[float], points: int) -> list[tuple[int, float]]:
    ends = np.unique(np.linspace(0, len(losses), points + 1).astype(int))
    return [
        (int(end), float(np.mean(losses[start:end])))
        for start, end in itertools.pairwise(ends)
    ]


def scored(model: Model, params: Params, bench: Bench) -> StepScores:
    """The benchmark's steps with the model's scores."""
    scores = score_prompts(model, params, bench.examples, SCORING_BATCH)
    return step_scores(
        [of.record.source or "" for of in bench.solutions],
        [of.labels for of in bench.solutions],
        [of.tolist() for of in scores],
        [of.id for of in bench.solutions],
    )


def judge_model(model: Model, params: Params, bench: Bench) -> dict[str, Any]:
    """All metrics of a model as JSON values, with replicates of the main ones."""
    steps = scored(model, params, bench)
    decision, left = decide(steps, "held-out")
    evaluated = steps.take(left)
    prior = np.concatenate(
        [
            np.asarray(of)[np.asarray(solution.labels) != 0]
            for of, solution in zip(bench.prior, bench.solutions, strict=True)
        ]
    )
    prior = prior[np.isin(steps.rollout, left)]
    metrics = evaluation(evaluated, decision, replicates=0, prior=prior)
    drawn = replicate(
        evaluated, decision.threshold, REPLICATES, np.random.default_rng(0)
    )
    bootstrap = {
        "micro_f1": drawn.f1.micro_f1,
        "auroc": drawn.auroc,
        "within_position_auroc": drawn.within_position_auroc,
    }
    ranked = _ranked(model, params, bench)
    if ranked:
        bootstrap["best_of_n"] = replicate_accuracy(
            ranked, "mean", REPLICATES, np.random.default_rng(0)
        )
    return {
        **stored(metrics),
        "slip_prior_auroc": metrics["prior"]["auroc"],
        "threshold": decision.threshold,
        "best_of_n": _best_of_n(ranked),
        "bootstrap": {name: json_numbers(values) for name, values in bootstrap.items()},
    }


def _ranked(model: Model, params: Params, bench: Bench) -> list[CandidateSet]:
    """The problems with the model's scores of all candidates."""
    scores = iter(score_prompts(model, params, bench.candidates, SCORING_BATCH))
    return [
        msgspec.structs.replace(
            problem,
            candidates=tuple(
                msgspec.structs.replace(one, scores=tuple(next(scores).tolist()))
                for one in problem.candidates
            ),
        )
        for problem in bench.sets
    ]


def _best_of_n(sets: Sequence[CandidateSet]) -> dict[str, Any] | None:
    if not sets:
        return None
    found = best_of_n(sets, replicates=0)
    return {
        "mean": found["mean"],
        "random": found["random"],
        "pass_at_n": found["pass_at_n"],
        "n": found["candidates"][1],
    }


def learnability(model: Model, params: Params, bench: Bench) -> list[dict[str, Any]]:
    """Does a model trained on clean labels check steps, by looking, on every source?

    One row per benchmark source: within-position AUROC with the lower end of its 95 %
    interval over rollouts, and the same with the pictures permuted across rollouts.
    """
    steps = scored(model, params, bench)
    blind = bench.with_permuted_images(np.random.default_rng(0))
    unseen = scored(model, params, blind)
    drawn = replicate(steps, 0.5, REPLICATES, np.random.default_rng(0))
    rows = []
    for i, name in enumerate(steps.source_names):
        part, other = (
            of.take(np.flatnonzero(of.source == i)) for of in (steps, unseen)
        )
        rows.append(
            {
                "source": name,
                "within_position_auroc": within_position_auroc(part),
                "low": float(np.nanquantile(drawn.source_within_position[i], 0.025)),
                "permuted_images": within_position_auroc(other),
            }
        )
    return rows
