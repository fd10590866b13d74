"""`mprm report`: one self-contained page of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments.console.command import answer
from experiments.console.options import JsonOption
from experiments.console.text import size


@dataclasses.dataclass(frozen=True)
class Options(JsonOption):
    """Write one page on a run of `mprm demo` or of `mprm run selection`.

    The page is a single HTML file that loads nothing: the answer, the table, learning
    curves, what each rule kept, rollouts to look at, and how to run it again.

    Example: mprm report runs/demo

    Attributes:
        folder: What `mprm demo` or `mprm run selection` wrote to --output.
        output: The page; report.html in the folder by default.
    """

    folder: tyro.conf.Positional[Path]
    output: Path | None = None


OPTIONS = Options


def run(options: Options) -> None:
    """Gather, render, write, and say the answer."""
    # Imported here: jinja2, Pillow and scipy would slow down --help.
    from experiments.page.report import write_report

    output = options.output or options.folder / "report.html"
    rows = write_report(options.folder, output).answers
    wrote = f"\nwrote {output} ({size(output.stat().st_size)})"
    told = "\n".join([*(row["sentence"] for row in rows), wrote])
    answer(options.json, {"output": str(output), "answers": rows}, told)
