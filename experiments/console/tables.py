"""Tables that fit an 80-column terminal."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.console.text import percent
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.formats import by_name
from theory.selection import Selection
from theory.summary import Summary, summarise


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:]])


def percent_cell(share: float | None, digits: int = 2) -> str:
    """A fraction in per cent, with a plain space; "-" where there is none."""
    if share is None:
        return "-"
    return percent(share, digits).replace("\N{NO-BREAK SPACE}", " ")


def printable(name: str, width: int) -> str:
    """A name from a file, without what a terminal would obey; a longer one is cut in
    its middle, since names of a kind often differ in their ends alone.
    """
    shown = "".join(c if c.isprintable() else "?" for c in name)
    if len(shown) <= width:
        return shown
    tail = (width - 1) // 2
    return f"{shown[: width - 1 - tail]}…{shown[len(shown) - tail :]}"


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """(name, value) of the statistics of Tables 1 and 8."""
    return [
        ("rollouts", f"{summary.rollouts:,}"),
        ("steps", f"{summary.steps:,}"),
        ("steps per rollout", f"{summary.steps_per_rollout:.2f}"),
        ("error-step ratio (K = 0)", percent_cell(summary.error_step_ratio)),
        ("mean MC score per step", f"{summary.mean_mc:.4f}"),
        ("mixed rollouts", percent_cell(summary.mixed_share)),
        ("all-negative rollouts", percent_cell(summary.all_negative_share)),
        ("all-positive rollouts", percent_cell(summary.all_positive_share)),
        ("positives with K <= 2", percent_cell(summary.low_mc_positive_share)),
        ("R, median", f"{summary.reliability_quantiles[2]:.4f}"),
        ("BIS, median", f"{summary.bis_quantiles[2]:.4f}"),
    ]


def comparison(
    usable: SelectableCorpus, selection: Selection, rule: str, alpha: float
) -> str:
    """Corpus beside subset, and how much of the subset the tie rule decided."""
    whole = summary_rows(summarise(usable.rollouts, alpha))
    kept = summary_rows(summarise(usable.rollouts.take(selection.rows), alpha))
    rows = [(name, a, b) for (name, a), (_, b) in zip(whole, kept, strict=True)]
    table = format_table(("", "corpus", f"kept by {rule}"), rows)
    return "\n".join([table, "", tie_sentence(selection), *count_sentences(usable)])


def tie_sentence(selection: Selection) -> str:
    """How many picks the score decided, and how many the tie rule."""
    if all(cut.cut_value is None for cut in selection.cuts):
        return "Within its strata this rule picks at random (--seed); it has no cut."
    return (
        f"{percent_cell(selection.tied_share, 1)} of the picks were chosen among equal "
        "scores at the cut (--ties)."
    )


def count_sentences(usable: SelectableCorpus) -> list[str]:
    """What was passed over, cut or met twice; nothing where there is nothing to say."""
    corpus = usable.corpus
    without = "not judged" if by_name(corpus.format).human else "never sampled"
    said = [
        (corpus.blank, "blank lines passed over"),
        (usable.bad_lines.total, "bad lines left out (--max-bad)"),
        (
            usable.unmeasured_steps,
            f"steps {without} (--unmeasured {usable.unmeasured})",
        ),
        (usable.truncated, "rollouts cut before their first such step"),
        (usable.emptied, "rollouts of which nothing was left"),
        (corpus.duplicates, "rollouts that repeat another byte for byte"),
    ]
    return [f"{count:,} {what}." for count, what in said if count]
