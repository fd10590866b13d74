"""`mprm compare`: do two models' step scores differ on the same benchmark?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.console.command import answer
from experiments.console.errors import UsageError
from experiments.console.options import check_least
from experiments.console.progress import progress
from experiments.console.tables import format_table, printable
from experiments.console.text import count_of, p_value
from experiments.store.judging import (
    METRIC_NAMES,
    ThresholdOptions,
    origin,
    page_inputs,
)
from experiments.store.manifests import command_of
from experiments.store.scoring import number
from mprm_jax.compare import (
    Match,
    Pair,
    Scores,
    Unmatched,
    compare,
    decide_both,
    match,
)
from mprm_jax.data.scored import read_predictions
from mprm_jax.records.problems import DataError
from theory.intervals import REPLICATES


@dataclasses.dataclass(frozen=True)
class Options(ThresholdOptions):
    """Do two models' step scores differ on the same benchmark?

    Reads two files of scores, as mprm evaluate --predictions does, matches their
    responses by id (by the number of the record where a file has no ids), and compares
    the metrics. Each model's threshold is chosen by the same protocol on the same
    rollouts, which are then left out. Intervals: rollouts are resampled within their
    sources, the same ones for both models; p-values are adjusted for the number of
    metrics (Holm).

    Example: mprm compare mine.jsonl theirs.jsonl --page difference.html

    Attributes:
        first: Scores of one model (A).
        second: Scores of the other (B).
        common: Compare the steps that both have scores of; without it a response or a
            score that one of them lacks is an error.
        page: Where a page of the result goes (one HTML file).
        replicates: Bootstrap replicates behind the intervals; 0 for none.
    """

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")]
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")]
    common: bool = False
    page: Path | None = None
    replicates: int = REPLICATES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, replicates=0)
        if self.first == self.second:
            raise UsageError("A and B are the same file")


OPTIONS = Options


def run(options: Options) -> None:
    """Match, compare, and write the page."""
    files = options.first, options.second
    one, other = (Scores(str(path), read_predictions(path)) for path in files)
    try:
        matched = match(one, other, options.common)
    except Unmatched as error:
        raise DataError(f"{error}; --common compares what both have") from None
    try:
        pair = decide_both(matched, *options.protocol())
    except DataError as error:
        raise DataError(f"{one.name}, {other.name}: {error}") from None
    with progress("comparing", None):
        compared = compare(pair, options.replicates, options.seed)
    value: dict[str, Any] = compared.as_json()
    value |= {"first": one.name, "second": other.name}
    value["matched"] = _matched(matched)
    for threshold in value["thresholds"]:
        first_error = threshold.pop("first_error") or {}
        threshold["processbench"] = first_error.get("threshold")
    value["notes"] = _notes(value)
    if options.page is not None:
        _write_page(options, options.page, pair, value)
    answer(options.json, value, lambda: _text(value))


def _write_page(
    options: Options, page: Path, pair: Pair, value: dict[str, Any]
) -> None:
    from experiments.page.comparison import write_comparison
    from experiments.page.html import Made

    files = options.first, options.second
    made = Made(command_of("mprm compare", options, *files), page_inputs(page, files))
    write_comparison(page, pair, value, made)
    value["page"] = str(page)


def _matched(found: Match) -> dict[str, Any]:
    counts = ("by", "only_first", "only_second", "steps_cut", "repeats")
    return {"rollouts": len(found.first)} | {of: getattr(found, of) for of in counts}


def _notes(value: dict[str, Any]) -> list[str]:
    """What a reader of the numbers must know, a sentence each."""
    of, notes = value["matched"], []
    if of["by"] == "number":
        notes.append(
            "Matched by the number of the record, since a file names no ids; the "
            "labels are the same."
        )
    for side, missing in (("A", of["only_first"]), ("B", of["only_second"])):
        if missing:
            notes.append(f"{count_of(missing, 'rollout')} of {side} alone left out.")
    if of["steps_cut"]:
        notes.append(f"{count_of(of['steps_cut'], 'score')} of one alone left out.")
    if of["repeats"]:
        notes.append(f"{count_of(of['repeats'], 'record')} left out: repeats.")
    if value["thresholds"][0]["chosen_on"] == "test":
        notes.append("Thresholds were chosen on the test set: F1 flatters both.")
    return notes


def _text(value: dict[str, Any]) -> str:
    lines = [
        f"{letter} {printable(name, 36)}: threshold {of['threshold']:.4g}"
        for letter, name, of in zip(
            "AB", (value["first"], value["second"]), value["thresholds"], strict=True
        )
    ]
    lines += [
        f"thresholds: {origin(value['thresholds'][0])}",
        f"{count_of(value['steps'], 'step')} of "
        f"{count_of(value['rollouts'], 'rollout')}, matched by "
        f"{value['matched']['by']}",
        "",
        _table("metric", {METRIC_NAMES[k]: of for k, of in value["metrics"].items()}),
    ]
    for key, name in (("micro_f1", "macro-F1 by source"), ("auroc", "AUROC by source")):
        if sources := value["sources"]:
            rows = {printable(source, 24): of[key] for source, of in sources.items()}
            lines += ["", _table(name, rows)]
    lines += [
        "",
        "p: of no difference, adjusted by Holm for all metrics (for all metrics of all",
        "sources). False-positive rate and AURC: less is better.",
        *value["notes"],
    ]
    page = value.get("page")
    lines.append(f"wrote {page}" if page else "With --page FILE all this is a page.")
    return "\n".join(lines)


def _table(name: str, rows: dict[str, dict[str, Any]]) -> str:
    cells = [(shown, *_cells(of)) for shown, of in rows.items()]
    return format_table((name, "A", "B", "B - A", "95 %", "p"), cells)


def _cells(of: dict[str, Any]) -> tuple[str, ...]:
    difference, ends, p = of["difference"], of["interval"], of["adjusted_p"]
    return (
        number(of["first"]),
        number(of["second"]),
        "-" if difference is None else f"{difference:+.4f}",
        "-" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}",
        "-" if p is None else p_value(p),
    )
