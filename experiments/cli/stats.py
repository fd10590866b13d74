"""`mprm stats`: the columns of the paper's Tables 1 and 8 for any corpus or subset."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.console.command import answer
from experiments.console.corpus import RuleOptions, line_rows, load_usable
from experiments.console.progress import progress
from experiments.console.tables import (
    count_sentences,
    format_table,
    percent_cell,
    printable,
    summary_rows,
    tie_sentence,
    tied_share,
)
from experiments.store.write_subset import choose, corpus_counts, never_sampled
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.write import count_words
from theory.selection import UNRANKED, Selection
from theory.summary import by_source, summarise

# Rows of the table of sources; the paper's corpus has 38.
_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Options(RuleOptions):
    """What is in this corpus, or in the subset a rule would keep?

    Prints the columns of the paper's Tables 1 and 8, whole and per source. With --rule
    it describes the subset beside the corpus, and how many picks ties decided.

    A step's MC score is K / N: of N continuations sampled from it, K were right. An
    error step has K = 0, and every other counts as positive. A mixed rollout has both,
    an all-negative one no positive step. R, the reliability, is the mean MC score of a
    rollout's positive steps, p their share, and BIS = (p(1-p) + alpha) R.

    Example: mprm stats CORPUS --rule bis --keep-ratio 0.1

    Attributes:
        no_words: Leave out words per step, the only column that needs the texts
            read again.
    """

    no_words: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_rule("--alpha")


OPTIONS = Options


def run(options: Options) -> None:
    """Describe."""
    chosen = options.selection(options.rule) if options.rule else None
    usable = load_usable(options, sha256=False)
    words = None if options.no_words else _words(usable)
    result = described = _describe(usable, words, None, options.alpha)
    selection = None
    if chosen is not None:
        selection = choose(usable, chosen)
        result = {
            **_describe(usable, words, selection, options.alpha, chosen.rule),
            "corpus": described,
            "rule": asdict(chosen),
            "cuts": [asdict(cut) for cut in selection.cuts],
        }
    result |= {"counts": corpus_counts(usable), **line_rows(usable)}
    answer(options.json, result, lambda: _text(result, usable, selection, options))


def _words(usable: SelectableCorpus) -> np.ndarray:
    """Words of the steps of each usable rollout, int64 ``[n_usable]``."""
    lengths = usable.rollouts.lengths
    with progress("counting words", len(lengths), "rollouts") as tick:
        return count_words(usable.corpus, usable.row, lengths, tick)


def _describe(
    usable: SelectableCorpus,
    words: np.ndarray | None,
    selection: Selection | None,
    alpha: float,
    rule: str = "",
) -> dict[str, Any]:
    """Statistics of what was selected (of all if None), whole and per source; there is
    no ``tied_share`` of a rule that ranks nothing.
    """
    rollouts, never = usable.rollouts, never_sampled(usable)
    tied: dict[str, float] = {}
    if selection is not None:
        rollouts, never = rollouts.take(selection.rows), never[selection.rows]
        words = None if words is None else words[selection.rows]
        if rule not in UNRANKED:
            tied = {cut.group: cut.tied_kept / cut.kept for cut in selection.cuts}

    def statistics(of: np.ndarray | slice, tied_share: float | None) -> dict[str, Any]:
        part = rollouts if isinstance(of, slice) else rollouts.take(of)
        per_step = None if words is None else float(words[of].sum() / part.n_steps)
        return asdict(summarise(part, alpha)) | {
            "unmeasured_steps": int(never[of].sum()),
            "words_per_step": per_step,
            "tied_share": tied_share,
        }

    return {
        "overall": statistics(slice(None), selection and tied_share(selection, rule)),
        "per_source": {
            name: statistics(of, tied.get(name))
            for name, of in by_source(rollouts).items()
        },
    }


def _not_listed(rollouts: list[int], listed: int) -> list[str]:
    """What the table of sources leaves out, of their rollouts in descending order."""
    if not (left := rollouts[listed:]):
        return []
    return [
        f"The {listed} largest of {len(rollouts):,} sources; the others have at most "
        f"{left[0]:,} rollouts",
        f"each, together {sum(left):,}. All of them: --json.",
    ]


def _text(
    result: dict[str, Any],
    usable: SelectableCorpus,
    selection: Selection | None,
    options: Options,
) -> str:
    columns = [("corpus", usable.rollouts, result.get("corpus", result))]
    if selection is not None:
        kept = usable.rollouts.take(selection.rows)
        columns.append((f"kept by {options.rule}", kept, result))
    values = []
    for _, rollouts, described in columns:
        words = described["overall"]["words_per_step"]
        shown = "-" if words is None else f"{words:.1f}"
        values.append(summary_rows(summarise(rollouts, options.alpha)))
        values[-1].append(("words per step", shown))
    rows = [
        (cells[0][0], *(cell for _, cell in cells))
        for cells in zip(*values, strict=True)
    ]
    every = result["per_source"]
    largest = sorted(every, key=lambda name: every[name]["rollouts"], reverse=True)
    # In the order of the corpus where all are listed.
    listed = list(every) if len(every) <= _SHOWN else largest[:_SHOWN]
    sources = [
        (
            printable(name, 22),
            f"{row['rollouts']:,}",
            f"{row['steps']:,}",
            f"{row['mean_mc']:.4f}",
            percent_cell(row["error_step_ratio"]),
            percent_cell(row["mixed_share"]),
            percent_cell(row["all_negative_share"]),
        )
        for name, row in ((name, every[name]) for name in listed)
    ]
    header = ("source", "rollouts", "steps", "mean MC", "errors", "mixed", "all-neg")
    tables = [
        format_table(("", *(title for title, _, _ in columns)), rows),
        "",
        format_table(header, sources),
        *_not_listed([every[name]["rollouts"] for name in largest], len(listed)),
        "",
    ]
    said = [] if selection is None else [tie_sentence(selection, options.rule or "")]
    return "\n".join([*tables, *said, *count_sentences(usable)])
