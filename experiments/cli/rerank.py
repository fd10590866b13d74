"""`mprm rerank`: best-of-N accuracy of a model's choice among candidate solutions."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path

from experiments.cli.scoring import (
    ScoringOptions,
    between,
    load_checkpoint,
    number,
    with_progress,
    write_scored,
)
from experiments.console import shared
from experiments.console.tables import format_table, printable
from mprm_jax.data.scored import CandidateSet, read_candidates
from mprm_jax.rerank import (
    AGGREGATES,
    BestOfN,
    best_of_n,
    encode_scored,
)


@dataclasses.dataclass(frozen=True)
class Options(ScoringOptions):
    """Best-of-N accuracy of a model on candidate solutions.

    Scores every candidate's steps with a checkpoint, or reads their scores, and takes
    the candidate of the best mean (the paper's), minimum, product or last score. FILE
    holds JSON lines, or one JSON list, of {"question", "image", "answer",
    "candidates": [{"steps": [...], "answer" or "correct": true}]}; for --predictions
    every candidate has "prm_scores", and the texts may be left out.

    Ties are broken by expectation. Random choice and pass@N are exact.

    Example: mprm rerank --checkpoint runs/model --candidates candidates.jsonl

    Attributes:
        candidates: File of candidate solutions that --checkpoint scores.
    """

    candidates: Path | None = None


OPTIONS = Options


def run(options: Options) -> None:
    """Score if need be, and choose."""
    options.check_scoring("--candidates", options.candidates)
    if options.predictions is not None:
        sets = read_candidates(options.predictions, scored=True)
    else:
        assert options.checkpoint is not None
        assert options.candidates is not None
        sets = _score(options, options.checkpoint, options.candidates)
    found = best_of_n(sets, replicates=options.replicates, seed=options.seed)
    notes = _notes(found)
    value = found.as_json() | {"notes": notes}
    output = None
    if options.predictions is None:
        assert options.candidates is not None
        output = options.output or Path("runs/candidates.jsonl")
        value["predictions"] = str(output)
        lines = map(encode_scored, sets)
        write_scored(output, options, options.candidates, lines, value)
    if options.json:
        shared.print_json(value)
        return
    _print(found)
    for note in notes:
        print(textwrap.fill(note, 80))
    if output is not None:
        print(f"wrote {output}")


def _score(options: Options, checkpoint: Path, file: Path) -> list[CandidateSet]:
    from mprm_jax.evaluate import image_root, score_candidates

    sets = read_candidates(file, scored=False)
    root = options.images or image_root(file, sets[0].images)
    model, params = load_checkpoint(checkpoint)
    size = options.batch_size
    return with_progress(
        len(sets),
        "problems",
        lambda tick: score_candidates(model, params, sets, root, size, tick),
    )


def _notes(found: BestOfN) -> list[str]:
    """What a reader of the numbers must know, a sentence each."""
    notes = []
    if "product" not in found.accuracy:
        notes.append("Scores outside [0, 1] are no probabilities: no product.")
    if found.steps_truncated:
        notes.append(
            f"{found.steps_truncated:,} steps did not fit the model; their "
            "candidates are judged by the steps that did."
        )
    how = max(found.tied, key=found.tied.__getitem__)
    if tied := found.tied[how]:
        notes.append(
            f"Right and wrong candidates tie for the best in up to {tied:,} problems "
            f"(by {how}); each of them counts with the expectation over its ties."
        )
    return notes


def _print(found: BestOfN) -> None:
    low, high = found.candidates
    per = f"{low}" if low == high else f"{low} to {high}"
    print(f"{found.problems:,} problems, {per} candidates each")
    print()
    names = {
        "random": "random choice",
        **{how: f"best {how}" for how in AGGREGATES},
        "pass_at_n": "pass@N (bound)",
    }
    ends = gains = {}
    if found.intervals is not None:
        ends, gains = found.intervals.accuracy, found.intervals.gain
    rows = [
        (
            name,
            number(found.accuracy.get(key)),
            between(ends.get(key)),
            f"{found.gain[key]:+.4f}" if key in found.gain else "",
            between(gains.get(key)) if key in found.gain else "",
            f"{found.tied[key]:,}" if key in found.tied else "",
        )
        for key, name in names.items()
    ]
    header = ("choice", "accuracy", "95 %", "less random", "95 %", "tied")
    print(format_table(header, rows))
    if len(found.per_source) > 1:
        print()
        print(
            format_table(
                ("source", "problems", "random", "best mean", "pass@N"),
                [
                    (
                        printable(name, 24),
                        f"{problems:,}",
                        number(of["random"]),
                        number(of["mean"]),
                        number(of["pass_at_n"]),
                    )
                    for name, (of, problems) in found.per_source.items()
                ],
            )
        )
    print()
