"""`mprm stats`: the columns of the paper's Tables 1 and 8 for any corpus or subset."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.cli.select_rollouts import SelectionArguments
from experiments.console import shared
from experiments.console.tables import (
    count_sentences,
    format_table,
    percent,
    printable,
    summary_rows,
    tie_sentence,
)
from experiments.store.write_subset import choose, corpus_counts, never_sampled
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.write import count_words
from theory.selection import RuleName, Selection
from theory.summary import by_source, summarise


@dataclasses.dataclass(frozen=True)
class Options(SelectionArguments):
    """What is in this corpus, or in the subset a rule would keep?

    Prints the columns of the paper's Tables 1 and 8, whole and per source. With --rule
    it describes the subset beside the corpus, and how many picks ties decided.

    Example: mprm stats CORPUS --rule bis --keep-ratio 0.1

    Attributes:
        rule: Describe what this rule would keep at --keep-ratio.
        no_words: Leave out words per step, the only column that needs the texts
            read again.
    """

    rule: RuleName | None = None
    no_words: bool = False


OPTIONS = Options


def run(options: Options) -> None:
    """Describe."""
    options.check()
    if options.rule is None:
        _check_no_selection(options)
    selection_options = options.selection(options.rule) if options.rule else None
    usable = shared.load_usable(options, sha256=False)
    selection = choose(usable, selection_options) if selection_options else None
    words = None if options.no_words else _words(usable)
    described = _describe(usable, words, None, options.alpha)
    result: dict[str, Any] = described
    if selection is not None:
        result = {
            **_describe(usable, words, selection, options.alpha),
            "corpus": described,
            "rule": asdict(selection_options) if selection_options else None,
            "cuts": [asdict(cut) for cut in selection.cuts],
        }
    result |= {
        "counts": corpus_counts(usable),
        "bad_lines": shared.bad_line_rows(usable.bad_lines),
    }
    if options.json:
        shared.print_json(result)
    else:
        _print(result, usable, selection, options)


def _check_no_selection(options: Options) -> None:
    """Refuse what only a selection would use."""
    for name, value in {
        "keep_ratio": 0.1,
        "global_": False,
        "per_source": False,
        "budget": "rollouts",
        "ties": "content",
    }.items():
        if getattr(options, name) != value:
            option = name.strip("_").replace("_", "-")
            raise shared.UsageError(f"--{option} needs --rule")


def _words(usable: SelectableCorpus) -> np.ndarray:
    """Words of the steps of each usable rollout, int64 ``[n_usable]``."""
    lengths = usable.rollouts.lengths
    with shared.progress("counting words", len(lengths), "rollouts") as tick:
        return count_words(usable.corpus, usable.row, lengths, tick)


def _describe(
    usable: SelectableCorpus,
    words: np.ndarray | None,
    selection: Selection | None,
    alpha: float,
) -> dict[str, Any]:
    """Statistics of what was selected (of all if None), whole and per source."""
    rollouts, never = usable.rollouts, never_sampled(usable)
    cuts = {}
    if selection is not None:
        rollouts, never = rollouts.take(selection.rows), never[selection.rows]
        words = None if words is None else words[selection.rows]
        cuts = {cut.group: cut for cut in selection.cuts}

    def statistics(of: np.ndarray | None, tied_share: float | None) -> dict[str, Any]:
        part = rollouts if of is None else rollouts.take(of)
        counted = words if words is None or of is None else words[of]
        return asdict(summarise(part, alpha)) | {
            "unmeasured_steps": int((never if of is None else never[of]).sum()),
            "words_per_step": None
            if counted is None
            else float(counted.sum() / part.n_steps),
            "tied_share": tied_share,
        }

    def tied_share(name: str) -> float | None:
        cut = cuts.get(name)
        return None if cut is None else cut.tied_kept / cut.kept

    return {
        "overall": statistics(
            None, None if selection is None else selection.tied_share
        ),
        "per_source": {
            name: statistics(of, tied_share(name))
            for name, of in by_source(rollouts).items()
        },
    }


def _print(
    result: dict[str, Any],
    usable: SelectableCorpus,
    selection: Selection | None,
    options: Options,
) -> None:
    columns = [("corpus", usable.rollouts, result.get("corpus", result))]
    if selection is not None:
        kept = usable.rollouts.take(selection.rows)
        columns.append((f"kept by {options.rule}", kept, result))
    values = [
        [
            *summary_rows(summarise(rollouts, options.alpha)),
            ("words per step", _number(described["overall"]["words_per_step"])),
        ]
        for _, rollouts, described in columns
    ]
    names = [name for name, _ in values[0]]
    print(
        format_table(
            ("", *(title for title, _, _ in columns)),
            [
                (name, *(column[i][1] for column in values))
                for i, name in enumerate(names)
            ],
        )
    )
    print()
    print(
        format_table(
            ("source", "rollouts", "steps", "mean MC", "errors", "mixed", "all-neg"),
            [
                (
                    printable(name, 22),
                    f"{row['rollouts']:,}",
                    f"{row['steps']:,}",
                    f"{row['mean_mc']:.4f}",
                    percent(row["error_step_ratio"]),
                    percent(row["mixed_share"]),
                    percent(row["all_negative_share"]),
                )
                for name, row in result["per_source"].items()
            ],
        )
    )
    print()
    if selection is not None:
        print(tie_sentence(selection))
    for sentence in count_sentences(usable):
        print(sentence)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
