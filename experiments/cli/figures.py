"""`mprm figures`: every figure as PDF, PNG and the CSV behind it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.console.command import answer
from experiments.console.errors import UsageError
from experiments.console.options import JsonOption
from experiments.page import figures


@dataclasses.dataclass(frozen=True)
class Options(JsonOption):
    """Draw every figure, each as PDF, PNG and the CSV of its numbers.

    Figures of the theory need no results. The others read the results store; what is
    not there is read from the reference results that come with the package, and a
    figure of an experiment that neither has is left out, and named.

    Example: mprm figures --only subsets --output figures

    Attributes:
        results: Folder of the results store, as mprm run writes it.
        output: Folder for the figures.
    """

    only: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME ...",
            help=f"Figures to draw: {', '.join(figures.FIGURES)}.",
            help_behavior_hint="(default: all)",
        ),
    ] = ()
    results: Path = Path("runs/results")
    output: Path = Path("runs/figures")

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in figures.FIGURES:
                known = ", ".join(figures.FIGURES)
                raise UsageError(f"--only: no figure {name!r}; known: {known}")


OPTIONS = Options


def run(options: Options) -> None:
    """Draw."""
    chosen = options.only or tuple(figures.FIGURES)
    drawn, left_out = figures.draw_all(chosen, options.results, options.output)
    if options.only and left_out:
        raise figures.NoResults(next(iter(left_out.values())))
    files = [str(path) for path in drawn]
    reasons = [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    value = {"files": files, "left_out": left_out}
    answer(options.json, value, "\n".join([*files, *reasons]))
