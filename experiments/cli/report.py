"""`mprm report`: one self-contained page of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments.console.command import print_json


@dataclasses.dataclass(frozen=True)
class Options:
    """Write one page on a run of `mprm demo` or of `mprm run selection`.

    The page is a single HTML file that loads nothing: the answer, the table, learning
    curves, what each rule kept, rollouts to look at, and how to run it again.

    Example: mprm report runs/demo

    Attributes:
        folder: What `mprm demo` or `mprm run selection` wrote to --output.
        output: The page; report.html in the folder by default.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    folder: tyro.conf.Positional[Path]
    output: Path | None = None
    json: bool = False


OPTIONS = Options


def run(options: Options) -> None:
    """Gather, render, write, and say the answer."""
    # Imported here: jinja2, Pillow and scipy would slow down --help.
    from experiments.grid.results import answers
    from experiments.page.report import write_report

    output = options.output or options.folder / "report.html"
    report = write_report(options.folder, output)
    rows = [row for outcome in report.run.outcomes for row in answers(outcome)]
    if options.json:
        print_json({"output": str(output), "answers": rows})
        return
    for row in rows:
        print(row["sentence"])
    print(f"\nwrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
