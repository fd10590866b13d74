"""`mprm demo`: simulate, select, train, evaluate, and a page that shows the outcome."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Literal

from experiments.console.command import answer
from experiments.console.errors import UsageError
from experiments.console.options import CompileOption, SeedOption, check_least, given
from experiments.console.training import DEMO_BACKBONE


@dataclasses.dataclass(frozen=True)
class Options(CompileOption, SeedOption):
    """The paper's experiment, end to end, on a world whose truth is known.

    Draws pictures, lets a fallible policy reason about them, re-runs it 16 times from
    every step to label the steps, selects a share of the rollouts by each of the
    paper's rules, trains a small multimodal process reward model on each subset with
    equal budgets, judges all models on solutions from sources they were not trained on,
    and writes report.html. Random and BIS are trained on true labels and on as many
    wrong ones placed at random, too, which says why one beats the other, or does not.
    Interrupt it when you like: it goes on where it stopped.

    Attributes:
        output: Folder for everything: worlds, subsets, models, results, report.html.
        size: How much is simulated and how many seeds are run: small takes minutes,
            medium ten minutes a world, large a night on two cores; smoke only
            shows that everything runs.
        world: scarce has label statistics near the real corpus's; plentiful many
            rollouts with both labels; in forgiving, most wrong steps are
            labelled positive; in difficult, few successes mostly mean a hard problem.
        seeds: How many to train, where not as many as the size has; with more than
            before, a run goes on with those that are missing.
        keep_ratio: Share of the rollouts that every rule keeps, of each source.
        seed: Of the world.
        backbone: What is trained: 2400, which had so many updates of pretraining; full,
            which had 6,000 and knows nearly all that labels could teach it; or a file
            of mprm pretrain.
    """

    output: Path = Path("runs/demo")
    size: Literal["smoke", "small", "medium", "large"] = "small"
    world: Literal["scarce", "plentiful", "forgiving", "difficult", "all"] = "scarce"
    seeds: int | None = None
    keep_ratio: float = 0.1
    backbone: str = DEMO_BACKBONE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"--keep-ratio must lie in (0, 1], not {self.keep_ratio}")
        check_least(self, seeds=1)


OPTIONS = Options


def run(options: Options) -> None:
    """Run the demo."""
    # Imported here: JAX would slow down --help.
    from experiments.grid.demo import Demo, run_demo
    from experiments.grid.tables import told
    from experiments.page.report import write_report
    from experiments.store.manifests import command_line
    from sim.scenes.world import WORLDS

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    chosen = given(options)
    for name in ("--output", "--json"):
        chosen.pop(name, None)
    names = tuple(WORLDS) if options.world == "all" else (options.world,)
    for name in names:
        say(f"world {name}: {WORLDS[name].meaning}")
        demo = Demo(
            output=options.output,
            world=WORLDS[name],
            size=options.size,
            keep_ratio=options.keep_ratio,
            seed=options.seed,
            command=command_line("mprm demo", chosen),
            seeds=options.seeds,
            backbone=options.backbone,
        )
        run_demo(demo, say)
    page = options.output / "report.html"
    report = write_report(options.output, page)
    corpus = str(options.output / names[0] / "corpus")
    following = shlex.join(["mprm", "stats", corpus, "--rule", "bis"])
    text = f"""
{told(report.run.outcomes)}

open {page}
next: {following}"""
    value = {"output": str(options.output), "answers": report.answers}
    value["decompositions"] = report.decompositions
    answer(options.json, value, text)
