"""`mprm run theory`: every statement of the theory, four ways, in one table."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import textwrap
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console.command import print_json
from experiments.console.errors import AlreadyReported
from experiments.console.progress import progress
from experiments.console.text import count_of
from experiments.store.experiment import ExperimentOptions, complete
from experiments.store.provenance import versions
from experiments.store.results import Result, store_path

EXPERIMENT = "theory"

# heading -> module of statements.
_SECTIONS = {
    "a step and its noisy label": "experiments.theory_table.labels",
    "the Monte-Carlo annotator": "experiments.theory_table.annotator",
    "the labels of a rollout": "experiments.theory_table.rollouts",
    "the score of a rollout": "experiments.theory_table.scores",
    "kept, dependent and twice-read labels": "experiments.theory_table.clusters",
    "contrast within rollouts": "experiments.theory_table.contrast",
    "learning": "experiments.theory_table.learning",
    "targets, and continuations per step": "experiments.theory_table.targets",
    "what a selection gains": "experiments.theory_table.gain",
}

_COLUMNS = ("statement", "paper", "exact", "oracle", "simulation", "verdict")
_WIDTHS = (31, 9, 10, 12, 16, 14)
_ORACLES = {"autodiff": "a", "enumeration": "e", "mpmath": "m"}

_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """Every statement of the theory, four ways: the paper's number, ours, an oracle's
    and a simulation's.

    A verdict is "holds" where the paper is right, "corrected" where another number
    takes the place of its own, "counterexample" where a general claim fails at the
    point shown, and "FAILS" (exit status 1) where our own numbers disagree. Less than
    a minute on two cores; what is in the store already is not computed again.

    Example: mprm run theory

    Attributes:
        draws: Random draws behind each simulated number.
    """

    draws: int = 200_000

    def __post_init__(self) -> None:
        super().__post_init__()
        # Fewer leave too few of the rarer counts.
        if self.draws < 10_000:
            raise ValueError(f"draws must be at least 10000, not {self.draws}")


OPTIONS = Options


def run(options: Options) -> None:
    """Compute what is missing, store it, print the table."""
    results = compute(options)
    rows = [result.metrics for result in results]
    if options.json:
        cells = [r.config | {"seed": r.seed} | r.metrics for r in results]
        print_json({"output": str(options.output), "rows": cells})
    else:
        print(format_rows(results))
        print(
            f"\n{count_of(len(rows), 'row')} in "
            f"{store_path(options.output, EXPERIMENT)}"
        )
    failed = [row["statement"] for row in rows if row["verdict"] == "FAILS"]
    if failed:
        raise AlreadyReported(f"our own numbers disagree: {'; '.join(failed)}")


def compute(options: Options) -> list[Result]:
    """All rows in the order of the table; one of other code than this is computed
    again.
    """
    with progress("loading the statements", None):
        statements = [
            (heading, statement)
            for heading, path in _SECTIONS.items()
            for statement in importlib.import_module(path).STATEMENTS
        ]
    configs = [
        {"section": heading, "statement": statement.name, "draws": options.draws}
        for heading, statement in statements
    ]

    def rows(chosen: list[int]) -> list[dict[str, Any]]:
        # Each statement has a stream of its own: rows do not depend on which others
        # are computed.
        return [
            statement.row(
                np.random.default_rng(
                    [options.seed, zlib.crc32(statement.name.encode())]
                ),
                options.draws,
            )
            for _, statement in (statements[i] for i in chosen)
        ]

    made_by = versions() | {"theory": fingerprint()}
    return complete(options, EXPERIMENT, configs, rows, versions=made_by)[0]


def fingerprint() -> str:
    """SHA-256 of the sources that make the rows."""
    digest = hashlib.sha256()
    paths = [
        *_ROOT.glob("theory/**/*.py"),
        *_ROOT.glob("experiments/theory_table/*.py"),
    ]
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def format_rows(results: list[Result]) -> str:
    """The table, at most 100 columns wide, and its notes."""
    lines, notes, heading = [_line(_COLUMNS).rstrip(), "-" * 97], [], None
    for result in results:
        if result.config["section"] != heading:
            heading = result.config["section"]
            lines += ["", heading]
        row = result.metrics
        mark = ""
        if row["note"]:
            notes.append(row["note"])
            mark = f" [{len(notes)}]"
        lines.append((_line(_cells(row)) + mark).rstrip())
    lines += ["", "oracle: a autodiff, e enumeration, m mpmath at 50 digits.", ""]
    for number, note in enumerate(notes, 1):
        lines += textwrap.wrap(
            note, 96, initial_indent=f"[{number}] ".rjust(5), subsequent_indent=" " * 5
        )
    verdicts = [result.metrics["verdict"] for result in results]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    simulation = _number(row["simulation"])
    if row["standard_error"] is not None:
        simulation += f"±{_number(row['standard_error'], digits=1)}"
    return (
        row["statement"],
        _number(row["paper"]),
        _number(row["exact"]),
        f"{_oracle(row)} {_ORACLES[row['oracle_kind']]}",
        simulation,
        row["verdict"],
    )


def _oracle(row: dict[str, Any]) -> str:
    # Digits far below those of float64 are mpmath's to show.
    if row["oracle_kind"] == "mpmath":
        return f"{row['oracle']:.4g}"
    return _number(row["oracle"])


def _number(value: float | str | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    # What rounding leaves of an exact 0 is 0 to a reader.
    return "0" if abs(value) < 1e-15 else f"{value:.{digits}g}"


def _line(cells: tuple[str, ...]) -> str:
    first, *numbers, verdict = cells
    text = first.ljust(_WIDTHS[0])
    text += "".join(x.rjust(w) for x, w in zip(numbers, _WIDTHS[1:-1], strict=True))
    return f"{text}  {verdict:<{_WIDTHS[-1]}}"
