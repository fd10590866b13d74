"""All decision thresholds by one sort, against the loop that evaluates each anew.

    uv run python -m experiments.benchmarks.evaluation

makes scores of the benchmark's size (26,950 steps of 2,866 solutions, 5 sources, every
score distinct) and measures user CPU. The loop is what released evaluators do: for each
threshold, predict, and compute every source's F1 with array operations. It is timed on
a sample of the thresholds and scaled up, which the output says.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tyro

from experiments.console.tables import format_table
from mprm_jax.summary import replicate, within_position_auroc
from theory.agreement import StepScores, auroc, f1, step_scores, sweep
from theory.paper import VISUAL_PROCESS_BENCH

# What the issue of this command asks for, in milliseconds.
_ALLOWED_MS = 20.0


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the evaluation of a benchmark's worth of scores.

    Attributes:
        steps: Counted steps.
        rounds: Rounds of every job; the fastest and the median are shown.
        sample: Thresholds of the naive loop that are really computed.
        replicates: Of the bootstrap.
        seed: Of the scores.
    """

    steps: int = VISUAL_PROCESS_BENCH.steps
    rounds: int = 15
    sample: int = 200
    replicates: int = 1000
    seed: int = 0


def scores_like_the_benchmark(n_steps: int, seed: int) -> StepScores:
    """Distinct scores of ``n_steps`` judged steps, a third of them wrong."""
    rng = np.random.default_rng(seed)
    names = [
        name for name, n in VISUAL_PROCESS_BENCH.solutions.items() for _ in range(n)
    ]
    lengths = 1 + rng.multinomial(n_steps - len(names), [1 / len(names)] * len(names))
    labels = [np.where(rng.random(n) < 0.68, 1, -1) for n in lengths]
    scores = [rng.normal(size=len(of)) + 0.7 * of for of in labels]
    ids = [str(i) for i in range(len(names))]
    return step_scores(
        names, [of.tolist() for of in labels], [of.tolist() for of in scores], ids
    )


def naive_micro_f1(steps: StepScores, thresholds: np.ndarray) -> np.ndarray:
    """The benchmark's micro-F1 at each threshold, computed anew every time."""
    source = steps.step_source
    values = []
    for threshold in thresholds:
        predicted = steps.scores >= threshold
        total = 0.0
        for i in range(len(steps.source_names)):
            of = source == i
            y, z = steps.correct[of], predicted[of]
            hits, both_wrong = np.sum(y & z), np.sum(~y & ~z)
            extra, missed = np.sum(~y & z), np.sum(y & ~z)
            macro = (f1(hits, extra, missed) + f1(both_wrong, missed, extra)) / 2
            total += macro * np.sum(of)
        values.append(total / len(source))
    return np.array(values)


def _milliseconds(job: Callable[[], object], rounds: int) -> tuple[float, float]:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        job()
        times.append(1e3 * (time.process_time() - start))
    return min(times), float(np.median(times))


def main() -> None:
    """Measure, check that both agree, print the table."""
    options = tyro.cli(Options)
    steps = scores_like_the_benchmark(options.steps, options.seed)
    swept = sweep(steps)
    n = len(swept.thresholds)
    some = np.linspace(0, n - 1, min(options.sample, n)).astype(int)
    naive = naive_micro_f1(steps, swept.thresholds[some])
    difference = float(np.abs(naive - swept.f1.micro_f1[some]).max())
    jobs = {
        "all thresholds, one sort": (lambda: sweep(steps), options.rounds),
        "AUROC": (lambda: auroc(steps.scores, steps.correct), options.rounds),
        "AUROC at position": (lambda: within_position_auroc(steps), options.rounds),
        f"bootstrap, {options.replicates} replicates": (
            lambda: replicate(steps, 0.0, options.replicates, np.random.default_rng(0)),
            1,
        ),
    }
    times = {name: _milliseconds(*job) for name, job in jobs.items()}
    sampled = _milliseconds(lambda: naive_micro_f1(steps, swept.thresholds[some]), 1)
    loop = sampled[0] * n / len(some)
    fastest, _ = times["all thresholds, one sort"]
    rows = [
        (name, f"{low:.1f}", f"{median:.1f}", f"{low / loop:.6f}")
        for name, (low, median) in times.items()
    ]
    rows.append(
        (f"naive loop, {len(some)} of {n:,} thresholds", f"{loop:.0f}", "", "1")
    )
    print(f"{steps.n_steps:,} steps, {n:,} thresholds, user CPU in ms")
    print(format_table(("job", "fastest", "median", "ratio to loop"), rows))
    print(f"largest difference in micro-F1 between sort and loop: {difference:.1e}")
    print(
        f"one sort: {loop / fastest:,.0f} times as fast; allowed {_ALLOWED_MS:.0f} ms"
    )


if __name__ == "__main__":
    main()
