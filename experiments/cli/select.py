"""`mprm select`: the rollouts worth training on, in the format a trainer reads."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional

import numpy as np

from experiments.console.command import answer
from experiments.console.corpus import (
    LabelOptions,
    RuleOptions,
    check_labels,
    line_rows,
    load_usable,
)
from experiments.console.errors import UsageError, print_bad_lines
from experiments.console.options import OptionalPath, OptionalStr, PictureOptions, given
from experiments.console.progress import progress
from experiments.console.tables import (
    comparison,
    format_table,
    percent_cell,
    printable,
    tied_share,
)
from experiments.console.text import count_of
from experiments.store.own_scores import JoinedBy, ScoreTable, read_scores
from experiments.store.write_subset import (
    META_FORMATS,
    OwnScores,
    Unwritable,
    check_output,
    choose,
    own_scores,
    say_pictures,
    write_selection,
)
from mprm_jax.data.compat import OfficialReport
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.outputs import manifest_path
from mprm_jax.records.problems import DataError
from theory.selection import RuleName, Selection, SelectionOptions

OutputFormat = Literal[
    "prm", "visualprm", "raw", "trl", "math-shepherd", "rlhflow", "openrlhf", "openr",
    "rows",
]  # fmt: skip

# All that the released script has an option for, or that changes nothing.
_OFFICIAL = {
    "--compat", "--output", "--keep-ratio", "--alpha", "--per-source",
    "--input-format", "--workers", "--no-cache", "--json",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(PictureOptions, RuleOptions):
    """Which rollouts should a process reward model be trained on?

    Ranks the rollouts of each source by a rule, keeps the best share, and writes them
    with a manifest that says how they were chosen. Bad lines are refused (exit status
    1, no output) unless --max-bad allows them.

    With --scores your own numbers rank instead of a rule: a table with one row for each
    rollout, joined by its columns id, or file and line, as mprm score writes them, or
    else by its order.

    Example: mprm select CORPUS --rule bis --keep-ratio 0.1 --alpha 0.2 --output
    bis10.jsonl

    Attributes:
        output: File to write; the manifest goes beside it.
        format: Format to write; rows writes the manifest alone.
        labels: How labels are written.
        scores: Table of your own scores, instead of --rule: JSON lines, .csv,
            or .parquet (with the parquet extra).
        column: Column of --scores to rank by, the largest first.
        compat: official: reproduce the paper's released script byte for byte (its
            ties, rounding and dropped rows included).
    """

    output: Path = Path("runs/subset.jsonl")
    rule: RuleName = "bis"
    format: OutputFormat = "prm"
    labels: LabelOptions = dataclasses.field(default_factory=LabelOptions)
    scores: OptionalPath = None
    column: OptionalStr = None
    compat: Optional[Literal["official"]] = None  # noqa: UP045

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.scores is None) != (self.column is None):
            raise UsageError("--scores FILE and --column NAME need each other")
        if self.scores is not None and "--rule" in given(self):
            raise UsageError("--scores takes the place of --rule")
        if self.column in ("id", "file", "line"):
            raise UsageError(f"--column {self.column} says whose a row is")
        if not self.compat:
            if self.format != "rows":
                check_labels(self.format, self.labels)
            return
        if self.input_format not in ("auto", "raw"):
            raise UsageError("--compat official reads --input-format raw alone")
        for name in given(self):
            if name not in _OFFICIAL:
                raise UsageError(f"--compat official has no {name}")


OPTIONS = Options


def run(options: Options) -> None:
    """Select and write."""
    check_output(options.output, options.corpus)
    if options.compat:
        from experiments.store.official import write_official

        report, result = write_official(
            options.corpus, options.output, options.keep_ratio, options.alpha
        )
        value = {"output": str(options.output), **result}
        answer(options.json, value, lambda: _official(options.output, report))
        return
    usable = load_usable(options)
    scored = _read_scores(options, usable)
    while True:
        chosen, selection = _choose(options, usable, scored)
        try:
            with progress("writing", len(selection.rows), "rollouts") as tick:
                manifest = write_selection(
                    usable,
                    selection,
                    chosen,
                    options.output,
                    options.format,
                    options.labels,
                    options.root,
                    tick,
                )
            break
        except Unwritable as error:
            # Chosen again without these, so that the budget is met exactly.
            told = usable.lines_of(error.refused)
            usable = usable.without(error.refused, options.max_bad)
            print_bad_lines(told)
    if options.format in META_FORMATS:
        say_pictures(usable, selection.rows, options.root)
    name = options.output if options.format != "rows" else "the manifest alone"
    # A column may have the name of a rule.
    kept_by = f"column {options.column}" if options.column else options.rule
    answer(
        options.json,
        {
            **{k: v for k, v in manifest.items() if k not in ("rows", "inputs")},
            "tied_share": tied_share(selection, options.rule),
            "output": str(options.output),
            "written": manifest["output"],
            **line_rows(usable),
        },
        lambda: (
            comparison(usable, selection, kept_by, options.alpha)
            + _joined(options, chosen)
            + _masked(manifest["subset"])
            + f"\n\nwrote {count_of(len(selection.rows), 'rollout')} "
            f"({options.format}): {name}{_which(options)}"
        ),
    )


def _which(options: Options) -> str:
    """How to list the rollouts that were kept, where the manifest has their rows."""
    if options.format == "rows" or options.compat:
        return ""
    corpus, subset = (shlex.quote(str(p)) for p in (options.corpus, options.output))
    return f"\nwhich ones: mprm score {corpus} --subset {subset}"


class _Scored(NamedTuple):
    """Somebody's own scores: their table, what it was joined by, and the score of each
    row of the corpus, NaN of those not usable.
    """

    table: ScoreTable
    joined_by: JoinedBy
    scores: np.ndarray


def _read_scores(options: Options, usable: SelectableCorpus) -> _Scored | None:
    if options.scores is None or options.column is None:
        return None
    for file in (options.output, manifest_path(options.output)):
        if file.resolve() == options.scores.resolve():
            raise DataError(f"{file}: holds the scores; choose another --output")
    table = ScoreTable(options.scores, options.column)
    with progress("reading scores", len(usable.row), "rows") as tick:
        joined = read_scores(table, usable, tick)
    scores = np.full(usable.corpus.rollouts.n_rollouts, np.nan)
    scores[usable.row] = joined.scores
    return _Scored(table, joined.by, scores)


def _choose(
    options: Options, usable: SelectableCorpus, scored: _Scored | None
) -> tuple[SelectionOptions | OwnScores, Selection]:
    """What the selection is made by, and the selection."""
    chosen = options.selection(options.rule)
    if scored is None:
        return chosen, choose(usable, chosen)
    scores = scored.scores[usable.row]
    own = own_scores(scores, chosen, scored.table, scored.joined_by)
    return own, own.choose(usable, scores)


def _joined(options: Options, chosen: SelectionOptions | OwnScores) -> str:
    if not isinstance(chosen, OwnScores):
        return ""
    return f"\n\nranked by {chosen.column} of {options.scores}, joined by " + str(
        chosen.joined_by
    )


def _masked(subset: dict[str, Any]) -> str:
    if "masked_steps" not in subset:
        return ""
    masked, steps = subset["masked_steps"], subset["steps"]
    return (
        f"\n\n{masked:,} of {steps:,} steps lose their label: "
        "positives with K/N < 1/4 of rollouts that have negatives."
    )


def _official(output: Path, report: OfficialReport) -> str:
    header = ("file", "lines", "ranked", "selected", "tied", "dropped", "written")
    rows = []
    for file in report.files:
        counts = file.lines, file.rollouts, file.selected, file.tied
        counts += (sum(file.dropped.values()), len(file.written))
        rows.append((printable(file.path.name, 28), *(f"{n:,}" for n in counts)))
    tied = percent_cell(report.tied / max(report.selected, 1), 1)
    lines = [
        format_table(header, rows),
        "",
        f"{tied} of the picks were chosen by file order among equal scores.",
    ]
    for reason, count in report.dropped.items():
        lines += [f"{count:,} picks dropped and not replaced: {reason}."]
    for count, what in (
        (sum(file.blank for file in report.files), "blank lines"),
        (sum(file.refused for file in report.files), "lines that are not JSON"),
        (sum(file.unscored for file in report.files), "records without a score"),
    ):
        lines += [f"{count:,} {what} passed over."] * (count > 0)
    for path in report.skipped:
        lines += [f"{printable(path.name, 60)}: skipped, nothing in it can be ranked."]
    lines += ["", f"selected={report.selected} wrote {report.written}: {output}"]
    return "\n".join(lines)
