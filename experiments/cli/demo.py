"""`mprm demo`: simulate, select, train, evaluate, and a page that shows the outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from experiments.console.command import print_json
from experiments.console.errors import UsageError
from experiments.console.progress import progress
from experiments.console.tables import format_table, percent


@dataclasses.dataclass(frozen=True)
class Options:
    """The paper's experiment, end to end, on a world whose truth is known.

    Draws pictures, lets a fallible policy reason about them, re-runs it 16 times from
    every step to label the steps, selects a share of the rollouts by each of the
    paper's rules, trains a small multimodal process reward model on each subset with
    equal budgets, judges all models on solutions from sources they were not trained on,
    and writes report.html. Interrupt it when you like: it goes on where it stopped.

    Attributes:
        output: Folder for everything: worlds, subsets, models, results, report.html.
        size: How much is simulated and how many seeds are run: small takes minutes,
            medium about an hour, large a night on two cores; smoke only shows that
            everything runs.
        world: scarce has label statistics near the real corpus's; plentiful many
            rollouts with both labels; in forgiving, most wrong steps are
            labelled positive; in difficult, few successes mostly mean a hard problem.
        seeds: How many to train, where not as many as the size has; with more than
            before, a run goes on with those that are missing.
        keep_ratio: Share of the rollouts that every rule keeps, of each source.
        seed: Of the world.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    output: Path = Path("runs/demo")
    size: Literal["smoke", "small", "medium", "large"] = "small"
    world: Literal["scarce", "plentiful", "forgiving", "difficult", "all"] = "scarce"
    seeds: int | None = None
    keep_ratio: float = 0.1
    seed: int = 0
    json: bool = False


OPTIONS = Options


class _Talk:
    def __init__(self, quiet: bool) -> None:
        self._stream = sys.stderr if quiet else sys.stdout

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def progress(
        self, what: str, total: int, unit: str
    ) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        return progress(what, total, unit)


def run(options: Options) -> None:
    """Run the demo."""
    if not 0 < options.keep_ratio <= 1:
        raise UsageError(f"--keep-ratio must lie in (0, 1], not {options.keep_ratio}")
    if options.seeds is not None and options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {options.seeds}")
    if options.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {options.seed}")
    # Imported here: JAX would slow down --help.
    from experiments.grid.demo import Plan, run_demo
    from experiments.page.demo import answer_rows, write_report
    from sim.scenes.world import WORLDS

    talk = _Talk(options.json)
    names = tuple(WORLDS) if options.world == "all" else (options.world,)
    for name in names:
        world = WORLDS[name]
        talk.say(f"world {name}: {world.meaning}")
        plan = Plan(
            output=options.output,
            world=world,
            size=options.size,
            keep_ratio=options.keep_ratio,
            seed=options.seed,
            command=_command(options, name),
            seeds=options.seeds,
        )
        run_demo(plan, talk)
    page = options.output / "report.html"
    report = write_report(options.output, page)
    answers = answer_rows(report)
    if options.json:
        print_json({"output": str(options.output), "answers": answers})
        return
    for world in report.worlds:
        print()
        print(_table(world.results))
    print()
    print(_LEGEND)
    print()
    for row in answers:
        print(row["sentence"])
    print(f"\nopen {page}")
    print(f"next: mprm stats {options.output / names[0] / 'corpus'} --rule bis")


_LEGEND = """\
micro-F1: mean of the sources' macro-F1, weighted by steps. pos.: AUROC of a step's
position alone. best: accuracy of the best of 16 candidates. clean: Random's
rollouts with true labels. ±: half of the 95 % interval over seeds and rollouts."""


def _command(options: Options, world: str) -> str:
    parts = ["mprm demo", f"--size {options.size}", f"--world {world}"]
    parts += [f"--keep-ratio {options.keep_ratio:g}", f"--seed {options.seed}"]
    if options.seeds is not None:
        parts.append(f"--seeds {options.seeds}")
    return " ".join(parts)


def _table(world: Any) -> str:
    rows = []
    for arm in world.arms:
        cell = next(iter(arm.cells.values()))
        micro, ranked = arm.estimate("micro_f1"), arm.estimate("auroc")
        position, best = arm.estimate("position_auroc"), arm.estimate("best_of_n")
        half = "" if micro.half_width is None else f" ± {micro.half_width:.3f}"
        spread = ""
        if best is not None and best.half_width is not None:
            spread = f" ± {100 * best.half_width:.1f}"
        rows.append(
            (
                arm.name,
                f"{cell.rollouts:,}",
                f"{cell.updates:,}",
                f"{micro.mean:.3f}{half}",
                "--" if ranked is None else f"{ranked.mean:.3f}",
                "--" if position is None else f"{position.mean:.3f}",
                "--" if best is None else percent(best.mean, 1) + spread,
            )
        )
    header = ("rule", "rollouts", "updates", "micro-F1", "AUROC", "pos.", "best")
    return format_table(header, rows)
