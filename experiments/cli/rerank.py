"""`mprm rerank`: best-of-N accuracy of a model's choice among candidate solutions."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from experiments.console.command import answer
from experiments.console.compilation import compiling
from experiments.console.errors import UsageError
from experiments.console.options import OptionalPath
from experiments.console.progress import progress
from experiments.console.tables import format_table, printable
from experiments.console.text import count_of, percent
from experiments.store.judging import CHOICES, STOPS, page_inputs
from experiments.store.manifests import command_of
from experiments.store.scoring import (
    ScoringOptions,
    between,
    closing,
    load_checkpoint,
    number,
    write_scored,
)
from mprm_jax.data.answers import AnswerRule
from mprm_jax.data.scored import CandidateSet, read_candidates
from mprm_jax.rerank import THRESHOLD, Choosing, best_of_n, encode_scored


@dataclasses.dataclass(frozen=True)
class Options(ScoringOptions):
    """How well do scores choose among candidate solutions, and how many are needed?

    Scores every candidate's steps with a checkpoint, or reads their scores, and takes
    the candidate of the best mean (the paper's), minimum, product or last score; or
    that whose first error comes latest, as a share of its steps; or the answer that
    most candidates give ("majority"), or whose candidates' mean scores sum highest
    ("weighted").

    FILE holds JSON lines, or one JSON list, a problem each. With scores it is {"id":
    "p1", "data_source": "gsm8k", "answer": "12", "candidates": [{"answer": "12",
    "prm_scores": [0.9, 0.8], "prm_concentrations": [20, 9], "tokens": 57}, ...]}, of
    which "candidates", "prm_scores" and "answer" must be there; instead of answers
    "correct": true or false will do, but votes for nothing. A candidate with "answer":
    null, or without one, counts as wrong. For --checkpoint the problem has "question"
    and "image" if any, and its candidates "steps", their texts.

    Accuracy among N = 1, 2, 4, ... candidates is exact: the mean over all sets of N.
    Ties are broken by expectation.

    Example: mprm rerank --predictions candidates.jsonl --adaptive --page rerank.html

    Attributes:
        candidates: File of candidate solutions that --checkpoint scores.
        answers: When two answers are the same: text, upper and lower case alike, or the
            same number; math also compares expressions, up to a second
            and more a problem (extra: math).
        threshold: A step that scores less is an error, for "first error".
        adaptive: Also stop drawing candidates after a number of them, or before, once
            the best mean so far is high, or is so with enough probability by the
            "prm_concentrations" (which a model trained with --labels beta-binomial
            gives). What is enough is chosen on one half of the problems and judged on
            the other. Cost is "tokens" where every candidate says so, else words.
        page: Where a page of the result goes (one HTML file).
    """

    candidates: Path | None = None
    answers: AnswerRule = "text"
    threshold: float = THRESHOLD
    adaptive: bool = False
    page: OptionalPath = None

    SCORED = "candidates"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.threshold):
            raise UsageError(f"--threshold must be finite, not {self.threshold}")

    @property
    def choosing(self) -> Choosing:
        """How candidates are chosen."""
        return Choosing(self.threshold, True, self.replicates, self.seed)


OPTIONS = Options

_STOPPED = """\
Stop at: set on one half of the problems, to be as accurate as the best mean of
all candidates, and judged on the other. Less all: accuracy less that of all;
drawn: candidates, in the mean; last column: what they cost, all being 100 %."""


def run(options: Options) -> None:
    """Score if need be, choose, and write the page."""
    if (file := options.predictions) is not None:
        sets = _read(options, file, scored=True)
        value = _judge(options, sets)
    else:
        assert options.checkpoint is not None
        assert options.candidates is not None
        file = options.candidates
        sets, judged = _score(options, options.checkpoint, file)
        value = _judge(options, sets) | {"judged": judged}
        output = options.output or Path("runs/candidates.jsonl")
        value["predictions"] = str(output)
        lines = map(encode_scored, sets)
        write_scored(output, options, file, lines, value, judged)
    if options.page is not None:
        _write_page(options, options.page, value, file)
    answer(options.json, value, lambda: _text(value))


def _read(options: Options, file: Path, scored: bool) -> list[CandidateSet]:
    with progress("comparing answers", None):
        return read_candidates(file, scored, options.answers)


def _score(
    options: Options, checkpoint: Path, file: Path
) -> tuple[list[CandidateSet], dict[str, Any]]:
    """The scored candidates, and the facts of the checkpoint."""
    from mprm_jax.evaluate import Scoring, score_candidates
    from mprm_jax.records.record import image_root

    sets = _read(options, file, scored=False)
    images = next((of.images for of in sets if of.images), ())
    root = options.root or image_root(file, images)
    model, params, facts = load_checkpoint(checkpoint, options.opening())
    candidates = sum(len(of.candidates) for of in sets)
    with progress("scoring", candidates, "candidates", compiling()) as tick:
        how = Scoring(options.batch_size, options.threads, tick)
        found = score_candidates(model, params, sets, root, how)
    return found, facts


def _judge(options: Options, sets: list[CandidateSet]) -> dict[str, Any]:
    with progress("choosing", None):
        value = best_of_n(sets, options.choosing).as_json()
        if options.adaptive:
            from mprm_jax.adaptive import adaptive

            early = adaptive(sets, options.choosing)
            value["adaptive"] = early and dataclasses.asdict(early)
    value["notes"] = _notes(value)
    return value


def _write_page(
    options: Options, page: Path, value: dict[str, Any], file: Path
) -> None:
    from experiments.page.html import Made
    from experiments.page.rerank import write_reranked

    inputs = page_inputs(page, [file], value.get("predictions", file))
    made = Made(command_of("mprm rerank", options), inputs)
    write_reranked(page, value, file, made)
    value["page"] = str(page)


def _notes(value: dict[str, Any]) -> list[str]:
    """What a reader of the numbers must know, a sentence each."""
    notes = []
    if value["product"] is None:
        notes.append(
            "Scores outside [0, 1] are no probabilities: no product, no weighted vote."
        )
    if value["answers_unknown"]:
        notes.append(
            f"{count_of(value['answers_unknown'], 'candidate')} told right or wrong "
            'without an "answer": no votes.'
        )
    if value["unanswered"]:
        notes.append(
            f"{count_of(value['unanswered'], 'candidate')} without an answer counted "
            "as wrong."
        )
    if value["undecided"]:
        notes.append(
            f"{count_of(value['undecided'], 'comparison')} of answers took too long or "
            "made no mathematics; they count as different."
        )
    if value["steps_truncated"]:
        notes.append(
            f"{count_of(value['steps_truncated'], 'step')} did not fit the model; "
            "their candidates are judged by the steps that did."
        )
    if value["repeated"]:
        notes.append(
            f"{count_of(value['repeated'], 'problem')} with the id of another: to "
            "intervals they are different ones."
        )
    tied = max(value["tied"].values())
    if tied:
        how = max(value["tied"], key=value["tied"].__getitem__)
        notes.append(
            "Right and wrong candidates tie for the best in up to "
            f"{count_of(tied, 'problem')} (by {CHOICES[how]}); each of them counts "
            "with the expectation over its ties."
        )
    curve = value["curve"]
    if None in curve.get("weighted_majority", ()) or None in curve.get("majority", ()):
        notes.append(
            "Some votes among N of so many candidates cost too much to be exact, and "
            "are left out."
        )
    if value["candidates"][0] < value["candidates"][1]:
        notes.append("A problem with fewer than N candidates counts with all it has.")
    if "adaptive" in value:
        notes += _adaptive_notes(value["adaptive"])
    return notes


def _adaptive_notes(early: dict[str, Any] | None) -> list[str]:
    if early is None:
        return ["Stopping early needs problems in both halves, and costs."]
    if early["rules"]["posterior"] is None:
        return [
            "Not every candidate has prm_concentrations: nothing stops by how sure "
            "scores are."
        ]
    return []


def _text(value: dict[str, Any]) -> str:
    low, high = value["candidates"]
    per = f"{low}" if low == high else f"{low} to {high}"
    lines = [f"{count_of(value['problems'], 'problem')}, {per} candidates each", ""]
    lines += [_choices(value), "", _curve(value["curve"]), ""]
    if value.get("adaptive"):
        lines += [_adaptive(value["adaptive"]), "", _STOPPED, ""]
    if len(value["per_source"]) > 1:
        header = ("source", "problems", "random", "best mean", "majority", "pass@N")
        shown = ("random", "mean", "majority", "pass_at_n")
        sources = [
            (
                printable(name, 24),
                f"{of['problems']:,}",
                *(number(of.get(key)) for key in shown),
            )
            for name, of in value["per_source"].items()
        ]
        lines += [format_table(header, sources), ""]
    return "\n".join([*lines, *closing(value)])


def _choices(value: dict[str, Any]) -> str:
    ends = value.get("intervals", {})
    rows = []
    for key, name in CHOICES.items():
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
    return format_table(header, rows)


def _curve(curve: dict[str, list[Any]]) -> str:
    """Accuracy by N; of more than eight, the last eight."""
    sizes = curve["n"][-8:]
    rows = [
        (name, *("-" if one is None else f"{one:.3f}" for one in curve[key][-8:]))
        for key, name in CHOICES.items()
        if key in curve
    ]
    return format_table(("accuracy among N =", *map(str, sizes)), rows)


def _adaptive(early: dict[str, Any]) -> str:
    rows = []
    for key, name in STOPS.items():
        if (of := early["rules"][key]) is not None:
            ends = of["intervals"] or {}
            rows.append(
                (
                    name,
                    number(of["accuracy"]),
                    f"{of['change']:+.4f}",
                    between(ends.get("change")),
                    f"{of['drawn']:.2f}",
                    percent(of["cost"], 1).replace("\N{NO-BREAK SPACE}", " "),
                )
            )
    header = ("stop at", "accuracy", "less all", "95 %", "drawn", early["unit"])
    return format_table(header, rows)
