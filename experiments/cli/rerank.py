"""`mprm rerank`: best-of-N accuracy of a model's choice among candidate solutions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.console.command import answer
from experiments.console.compilation import compiling
from experiments.console.progress import progress
from experiments.console.tables import format_table, printable
from experiments.console.text import count_of
from experiments.store.scoring import (
    ScoringOptions,
    between,
    closing,
    load_checkpoint,
    number,
    write_scored,
)
from mprm_jax.data.scored import CandidateSet, read_candidates
from mprm_jax.rerank import AGGREGATES, best_of_n, encode_scored


@dataclasses.dataclass(frozen=True)
class Options(ScoringOptions):
    """Best-of-N accuracy of a model on candidate solutions.

    Scores every candidate's steps with a checkpoint, or reads their scores, and takes
    the candidate of the best mean (the paper's), minimum, product or last score. FILE
    holds JSON lines, or one JSON list, of {"question", "image", "answer",
    "candidates": [{"steps": [...], "answer" or "correct": true}]}; for --predictions
    every candidate has "prm_scores", and the texts may be left out. A candidate without
    an answer counts as wrong.

    Ties are broken by expectation. Random choice and pass@N are exact.

    Example: mprm rerank --checkpoint runs/model --candidates candidates.jsonl

    Attributes:
        candidates: File of candidate solutions that --checkpoint scores.
    """

    candidates: Path | None = None

    SCORED = "candidates"


OPTIONS = Options


def run(options: Options) -> None:
    """Score if need be, and choose."""
    if options.predictions is not None:
        value = _judge(options, read_candidates(options.predictions, scored=True))
    else:
        assert options.checkpoint is not None
        assert options.candidates is not None
        sets, judged = _score(options, options.checkpoint, options.candidates)
        value = _judge(options, sets) | {"judged": judged}
        output = options.output or Path("runs/candidates.jsonl")
        value["predictions"] = str(output)
        lines = map(encode_scored, sets)
        write_scored(output, options, options.candidates, lines, value, judged)
    answer(options.json, value, lambda: _text(value))


def _score(
    options: Options, checkpoint: Path, file: Path
) -> tuple[list[CandidateSet], dict[str, Any]]:
    """The scored candidates, and the facts of the checkpoint."""
    from mprm_jax.evaluate import Scoring, score_candidates
    from mprm_jax.records.record import image_root

    sets = read_candidates(file, scored=False)
    images = next((of.images for of in sets if of.images), ())
    root = options.root or image_root(file, images)
    model, params, facts = load_checkpoint(checkpoint, options.opening())
    candidates = sum(len(of.candidates) for of in sets)
    with progress("scoring", candidates, "candidates", compiling()) as tick:
        how = Scoring(options.batch_size, options.threads, tick)
        found = score_candidates(model, params, sets, root, how)
    return found, facts


def _judge(options: Options, sets: list[CandidateSet]) -> dict[str, Any]:
    found = best_of_n(sets, replicates=options.replicates, seed=options.seed)
    value = found.as_json()
    value["notes"] = _notes(value)
    return value


def _notes(value: dict[str, Any]) -> list[str]:
    """What a reader of the numbers must know, a sentence each."""
    notes = []
    if value["product"] is None:
        notes.append("Scores outside [0, 1] are no probabilities: no product.")
    if value["unanswered"]:
        notes.append(
            f"{count_of(value['unanswered'], 'candidate')} without an answer counted "
            "as wrong."
        )
    if value["steps_truncated"]:
        notes.append(
            f"{count_of(value['steps_truncated'], 'step')} did not fit the model; "
            "their candidates are judged by the steps that did."
        )
    tied = max(value["tied"].values())
    if tied:
        how = max(value["tied"], key=value["tied"].__getitem__)
        notes.append(
            "Right and wrong candidates tie for the best in up to "
            f"{count_of(tied, 'problem')} "
            f"(by {how}); each of them counts with the expectation over its ties."
        )
    return notes


# Of the outcome.
_CHOICES = {
    "random": "random choice",
    **{how: f"best {how}" for how in AGGREGATES},
    "pass_at_n": "pass@N (bound)",
}


def _text(value: dict[str, Any]) -> str:
    low, high = value["candidates"]
    per = f"{low}" if low == high else f"{low} to {high}"
    ends = value.get("intervals", {})
    rows = []
    for key, name in _CHOICES.items():
        gain, tied = value["gain"].get(key), value["tied"].get(key)
        rows.append(
            (
                name,
                number(value[key]),
                between(ends.get(key)),
                "" if gain is None else f"{gain:+.4f}",
                "" if gain is None else between(ends.get("gain", {}).get(key)),
                "" if tied is None else f"{tied:,}",
            )
        )
    header = ("choice", "accuracy", "95 %", "less random", "95 %", "tied")
    lines = [f"{count_of(value['problems'], 'problem')}, {per} candidates each", ""]
    lines += [format_table(header, rows), ""]
    if len(value["per_source"]) > 1:
        header = ("source", "problems", "random", "best mean", "pass@N")
        sources = [
            (
                printable(name, 24),
                f"{of['problems']:,}",
                *(number(of[key]) for key in ("random", "mean", "pass_at_n")),
            )
            for name, of in value["per_source"].items()
        ]
        lines += [format_table(header, sources), ""]
    return "\n".join([*lines, *closing(value)])
