"""Cost of a sweep of students, beside the same sweep as a numpy loop.

    uv run python -m experiments.benchmarks.students

10 seeds x 31 arms (Random at seven keep ratios, and everything) on 8,000 simulated
rollouts, 32 features, batches of 32 rollouts, evaluation included; CPU seconds of this
process, user and system. The loop trains and evaluates one student at a time, each
update vectorised over its batch.
"""

from __future__ import annotations

import dataclasses
import json
import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro
from scipy.special import expit

from sim.corpus.calibrate import PAPER_MODELS
from sim.corpus.draw import sample_with_latent
from sim.corpus.sources import PAPER_SOURCES
from sim.students.evaluation import Split, auroc, micro_f1, sweep_thresholds
from sim.students.features import FeatureWorld, draw_frame, draw_offsets, draw_steps
from sim.students.plan import Training, plan_trainings, stack_plans
from sim.students.train import (
    Labels,
    Student,
    Sweep,
    base_logits,
    logits,
    schedule,
    train,
)

KEEP_RATIOS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure a sweep of students against a numpy loop.

    Attributes:
        rollouts: Of the training corpus of each seed.
        seeds: Number of seeds.
        arms: Number of arms.
        loop_share: Share of the trainings that the numpy loop does; its cost is
            scaled up from there.
    """

    rollouts: int = 8000
    seeds: int = 10
    arms: int = 31
    loop_share: float = 1.0


def main(options: Options) -> None:
    """Measure and print one JSON object."""
    sweep, tests, splits = _problem(options)
    student = Student()
    report: dict[str, Any] = {"trainings": options.seeds * options.arms}
    for name in ("with compilation", "compiled"):
        begin = _cpu()
        params = train(student, sweep)
        trained = _cpu()
        scores = [x[:, 0] for x in logits(student, params, tests)]
        found = _evaluate(scores, splits)
        report[name] = {"train": trained - begin, "evaluate": _cpu() - trained}
    begin = _cpu()
    pairs = list(np.ndindex(sweep.plan.updates_A.shape))
    stride = max(1, round(1 / options.loop_share))
    chosen = pairs[::stride]
    trained = {pair: _numpy_training(student, sweep, *pair) for pair in chosen}
    middle = _cpu()
    worst = 0.0
    for (seed, arm), (w, b) in trained.items():
        scores = (tests[seed] @ w + b)[None]
        metrics = _evaluate([scores], [splits[seed]])[0]
        worst = max(worst, *np.abs(metrics[:, 0] - found[seed][:, arm]))
    share = len(pairs) / len(chosen)
    report["numpy loop"] = {
        "train": (middle - begin) * share,
        "evaluate": (_cpu() - middle) * share,
    }
    totals = {name: sum(cost.values()) for name, cost in list(report.items())[1:]}
    report["total"] = totals
    report["ratio"] = totals["numpy loop"] / totals["with compilation"]
    report["ratio compiled"] = totals["numpy loop"] / totals["compiled"]
    report["largest difference of a metric"] = float(worst)
    print(json.dumps(report, indent=1))


def _problem(options: Options) -> tuple[Sweep, list[np.ndarray], list[Split]]:
    world = FeatureWorld()
    features, targets, plans, tests, splits = [], [], [], [], []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        scale = options.rollouts / sum(source.rollouts for source in PAPER_SOURCES)
        model = PAPER_MODELS["hierarchical"]
        corpus = sample_with_latent(model, PAPER_SOURCES, rng, scale)
        frame = draw_frame(world, corpus, rng)
        offsets = draw_offsets(world, len(PAPER_SOURCES), rng)
        steps = draw_steps(world, frame, corpus, offsets, rng)
        n = corpus.rollouts.n_rollouts
        arms = [Training(np.arange(n))]
        for i in range(options.arms - 1):
            kept = int(n * KEEP_RATIOS[i % len(KEEP_RATIOS)])
            arms.append(Training(np.sort(rng.choice(n, kept, replace=False))))
        plans.append(plan_trainings(corpus.rollouts.offsets, arms, 32, seed))
        features.append(steps.features_SxD)
        targets.append((corpus.rollouts.successes > 0).astype(np.float32))
        benchmark = sample_with_latent(model, PAPER_SOURCES[-5:], rng, 1200 / 55_095)
        test = draw_steps(world, frame, benchmark, offsets[-5:], rng)
        tests.append(test.features_SxD)
        source = np.repeat(benchmark.rollouts.source, benchmark.rollouts.lengths)
        splits.append(Split(test.right_S, source))
    longest = max(map(len, features))
    features = [np.pad(x, [(0, longest - len(x)), (0, 0)]) for x in features]
    targets = [np.pad(x, (0, longest - len(x)))[None] for x in targets]
    labels = Labels(np.stack(targets), np.ones((options.seeds, longest), np.float32))
    sweep = Sweep(np.stack(features), labels, stack_plans(plans), range(options.seeds))
    return sweep, tests, splits


def _evaluate(scores: Sequence[np.ndarray], splits: list[Split]) -> list[np.ndarray]:
    """Micro-F1 at the threshold of the first half, and AUROC, per seed ``[2, A]``."""
    results = []
    for scores_AxS, split in zip(scores, splits, strict=True):
        held_out = np.arange(len(split.right_S)) % 2 == 0
        halves = [Split(*(x[of] for x in split)) for of in (held_out, ~held_out)]
        best = sweep_thresholds(scores_AxS[:, held_out], halves[0])
        test = scores_AxS[:, ~held_out]
        f1 = micro_f1(test, halves[1], best.threshold_A)
        results.append(np.stack([f1, auroc(test, halves[1].right_S)]))
    return results


def _numpy_training(
    student: Student, sweep: Sweep, seed: int, arm: int
) -> tuple[np.ndarray, float]:
    """AdamW on one arm, written out."""
    plan, features = sweep.plan, sweep.features_NxSxD[seed]
    target = np.asarray(sweep.labels.target_KxS)[seed, 0]
    w = np.zeros(features.shape[1] + 1, np.float32)
    w[-1] = base_logits(sweep, [arm])[seed, 0]
    first, second = np.zeros_like(w), np.zeros_like(w)
    total = int(plan.updates_A[seed, arm])
    for t in range(total):
        begin = plan.start_AxT[seed, arm, t]
        steps = plan.feed_F[seed, begin : begin + plan.count_AxT[seed, arm, t]]
        x = features[steps]
        error = (expit(x @ w[:-1] + w[-1]) - target[steps]) / len(steps)
        gradient = np.append(x.T @ error, error.sum())
        gradient *= min(1.0, student.clip / max(np.linalg.norm(gradient), 1e-30))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean = first / (1 - 0.9 ** (t + 1))
        spread = np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8
        rate = schedule(student, t, total)
        w = w - rate * (mean / spread + student.weight_decay * w)
    return w[:-1], float(w[-1])


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(tyro.cli(Options))
