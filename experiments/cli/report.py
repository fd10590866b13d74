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
    from experiments.page.demo import answer_rows, write_report
    from experiments.page.selection import is_selection_run, write_selection_report

    output = options.output or options.folder / "report.html"
    if is_selection_run(options.folder):
        told = write_selection_report(options.folder, output)
        rows = [{"sentence": sentence} for sentence in told]
    else:
        rows = answer_rows(write_report(options.folder, output))
    if options.json:
        print_json({"output": str(output), "answers": rows})
        return
    for row in rows:
        print(row["sentence"])
    print(f"\nwrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
