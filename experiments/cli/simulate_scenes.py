"""`mprm simulate scenes`: pictures, solutions, Monte-Carlo labels and their truth."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Literal

from experiments.console.command import answer
from experiments.console.errors import UsageError
from experiments.console.options import SeedOption
from experiments.console.progress import progress
from experiments.console.tables import format_table, percent_cell, summary_rows

# Of the corpus as of the benchmark.
_SOURCES = 5

_SIZES = ("rollouts", "judged", "problems")


@dataclasses.dataclass(frozen=True)
class Options(SeedOption):
    """Write a visual reasoning world whose truth is known.

    Draws pictures of five kinds, lets a fallible policy reason about them, and really
    re-runs it 16 times from every step to label the step. Writes annotations/ and
    images/ as a real corpus has them, what only a simulator knows (exact success
    probabilities, which steps are wrong) in truth/, and in benchmark/ judged solutions
    and candidate sets of five sources that the corpus does not have.

    Example: mprm simulate scenes --rollouts 20000 --output runs/scenes

    Attributes:
        output: Folder to write; a world that was written there before is replaced.
        rollouts: How many the corpus has.
        judged: How many judged solutions the benchmark has.
        problems: How many have 16 candidate solutions each, for mprm rerank.
        world: scarce has label statistics near the real corpus's; plentiful many
            rollouts with both labels; in forgiving, most wrong steps are
            labelled positive; in difficult, few successes mostly mean a hard problem.
        seed: Same seed, same bytes.
    """

    output: Path = Path("runs/scenes")
    rollouts: int = 6_000
    judged: int = 500
    problems: int = 100
    world: Literal["scarce", "plentiful", "forgiving", "difficult"] = "scarce"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _SIZES:
            size = getattr(self, name)
            if size < _SOURCES:
                raise UsageError(
                    f"--{name} must be at least {_SOURCES}, one per source, not {size}"
                )


OPTIONS = Options


def run(options: Options) -> None:
    """Simulate, write, and describe."""
    sizes = {name: getattr(options, name) for name in _SIZES}
    # Imported here: they would slow down --help.
    from experiments.corpora.scenes import write_world
    from mprm_jax.data.corpus import read_corpus
    from sim.scenes.world import WORLDS
    from theory import paper
    from theory.summary import summarise

    with progress("drawing", sum(sizes.values()), "pictures") as tick:
        write_world(
            options.output,
            WORLDS[options.world],
            **sizes,
            seed=options.seed,
            tick=tick,
        )
    summary = summarise(read_corpus(options.output, use_cache=False).rollouts)
    real = paper.FULL_DATA
    published = {
        "rollouts": f"{real.rollouts:,}",
        "steps": f"{real.steps:,}",
        "steps per rollout": f"{real.steps_per_rollout:.2f}",
        "error-step ratio (K = 0)": percent_cell(real.error_step_ratio),
        "mean MC score per step": f"{real.mean_mc:.4f}",
        "mixed rollouts": percent_cell(real.mixed_share),
    }
    rows = [
        (name, value, published.get(name, "-")) for name, value in summary_rows(summary)
    ]
    lines = [
        format_table(("", options.world, "real corpus"), rows),
        f"\nwrote {options.output / 'annotations'}, images/ and truth/ beside it,",
        f"{options.output / 'benchmark/test.jsonl'} and candidates.jsonl beside it",
        f"next: mprm stats {shlex.quote(str(options.output))} --rule bis",
    ]
    value = {"output": str(options.output), "overall": dataclasses.asdict(summary)}
    answer(options.json, value | {"paper": real._asdict()}, "\n".join(lines))
