"""`mprm annotate merge`: the corpus with the counts that new continuations add."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.console.command import answer
from experiments.console.corpus import CorpusOptions, line_rows, load_usable
from experiments.console.errors import UsageError
from experiments.console.options import given
from experiments.console.progress import progress
from experiments.console.text import count_of
from experiments.corpora.simulated import MADE_HERE, made_here
from experiments.store.provenance import file_sha256
from experiments.store.write_subset import corpus_manifest, folders_of
from mprm_jax.data.answers import AnswerRule
from mprm_jax.data.continuations import (
    Added,
    Unanswered,
    added_counts,
    merged_files,
    read_outcomes,
    read_plan,
)
from mprm_jax.data.corpus import Corpus
from mprm_jax.data.framing import annotations_folder
from mprm_jax.data.outputs import OutputSet, manifest_path
from mprm_jax.records.problems import DataError
from mprm_jax.records.record import UnmeasuredPolicy


@dataclasses.dataclass(frozen=True)
class Options(CorpusOptions):
    """Add the answers of new continuations to the counts of a corpus.

    Each line has the "id" of a prefix and "answers": ["12", null], its final answers,
    compared with the record's; or "correct": [true, null]; or "successes" and "trials";
    or it is a response of the OpenAI batch API, whose texts hold \\boxed{12} or "answer
    is 12". Null: no answer. Nothing else of the corpus changes by a byte. What
    would count a continuation twice is refused: a corpus that is not the plan's, an id
    that comes twice, answers that were merged before.

    Example: mprm annotate merge CORPUS --plan prefixes.jsonl --answers answers.jsonl
    --output runs/merged

    Attributes:
        plan: What mprm annotate plan wrote, with its manifest beside it.
        answers: Answers, one JSON object a line.
        output: Folder to write into, one file for each of the corpus's.
        unmeasured: Steps that were never sampled stay as they are.
        partial: Let prefixes have fewer continuations than asked for, or none; they are
            counted.
        unanswered: Continuations without an answer: skip does not count them; wrong
            counts them as failures, which biases every label down.
        answer_rule: When an answer is the record's: text, upper and lower case alike,
            or the same number; math also compares expressions (needs math-verify), and
            what it cannot decide is without an answer.
    """

    plan: Path = dataclasses.field(kw_only=True)
    answers: Path = dataclasses.field(kw_only=True)
    output: Path = Path("runs/merged")
    unmeasured: Annotated[UnmeasuredPolicy, tyro.conf.Suppress] = "keep"
    partial: bool = False
    unanswered: Unanswered = "skip"
    answer_rule: AnswerRule = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        if "--unmeasured" in given(self):
            raise UsageError("annotate merge leaves steps never sampled as they are")


OPTIONS = Options


def run(options: Options) -> None:
    """Check, count, and write."""
    usable = load_usable(options)
    usable.need_counts("a merge")
    corpus = usable.corpus
    _check_folder(options, corpus)
    before = made_here(corpus.folder)
    plan = read_plan(options.plan)
    answers = file_sha256(options.answers)
    merged = before.get("merged")
    rounds = merged if isinstance(merged, list) else []
    history = [of for of in rounds if isinstance(of, dict)]
    if any(of.get("answers") == answers for of in history):
        raise DataError(f"{options.answers}: was merged into {corpus.path} before")
    plan.fits(corpus)
    outcomes = read_outcomes(options.answers, plan, options.partial)
    how = options.unanswered, options.answer_rule
    with progress("checking answers", None):
        added = added_counts(corpus, plan, outcomes, *how)
    if not added.trials:
        raise DataError(f"{options.answers}: adds no continuation")
    facts = {
        "plan": plan.sha256,
        "answers": answers,
        "unanswered": options.unanswered,
        "answer_rule": options.answer_rule,
        **_totals(added),
    }
    with OutputSet() as outputs:
        written = []
        for name, parts in merged_files(corpus, added):
            output = outputs.add(options.output / name)
            for part in parts:
                output.write(part)
            written.append(output.facts())
        manifest = corpus_manifest(usable) | {
            "merged": [*history, facts],
            "outputs": written,
            "added": _places(corpus, added),
            # What draws the corpus's world again.
            "simulated": before.get("simulated", before if "world" in before else {}),
        }
        outputs.add_manifest(options.output / MADE_HERE, manifest)
    value = {"output": str(options.output), **facts, "rounds": len(history) + 1}
    answer(options.json, value | line_rows(usable), _text(options, added))


def _check_folder(options: Options, corpus: Corpus) -> None:
    """Refuse a folder in which an input would be replaced, or with files that would be
    read as a part of the result.
    """
    folder, files = options.output, [file.path for file in corpus.files]
    own = folders_of(files) | {os.path.realpath(corpus.folder)}
    if os.path.realpath(folder) in own:
        raise DataError(f"{folder}: is the corpus's own folder; choose another")
    names: dict[str, Path] = {}
    for file in files:
        other = names.setdefault(file.name.removesuffix(".gz"), file)
        if other != file:
            raise DataError(f"{file}: would have the name of {other} in the result")
    inputs = options.plan, manifest_path(options.plan), options.answers
    taken = {os.path.realpath(file) for file in inputs}
    for name in (*names, MADE_HERE):
        if os.path.realpath(folder / name) in taken:
            raise DataError(f"{folder / name}: is an input; choose another --output")
    if annotations_folder(folder) != folder:
        raise DataError(f"{folder}: holds another corpus; choose an empty --output")
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name.endswith((".jsonl", ".jsonl.gz")) and file.name not in names:
            raise DataError(
                f"{file}: was there before and would be read as a part of the result; "
                "choose an empty --output"
            )


def _totals(added: Added) -> dict[str, int]:
    return {
        "records": len(added.counts),
        "steps": sum(map(len, added.counts.values())),
        "successes": added.successes,
        "trials": added.trials,
        "without_answer": added.unanswered,
        "short": added.short,
    }


def _places(corpus: Corpus, added: Added) -> list[list[Any]]:
    """[file, line, [[step, K, N], ...]] of every record that changed."""
    return [
        [
            corpus.files[corpus.file[row]].path.name,
            int(corpus.line[row]),
            [[j + 1, *pair] for j, pair in sorted(steps.items())],
        ]
        for row, steps in sorted(added.counts.items())
    ]


def _text(options: Options, added: Added) -> str:
    totals = _totals(added)
    lines = [
        f"{added.successes:,} successes in {added.trials:,} continuations of "
        f"{count_of(totals['steps'], 'step')} added."
    ]
    if added.unanswered:
        what = "not counted" if options.unanswered == "skip" else "counted as wrong"
        lines.append(f"{added.unanswered:,} without an answer, {what} (--unanswered).")
    if added.short:
        lines.append(f"{added.short:,} fewer than the plan asked for (--partial).")
    lines.append(f"\nwrote {options.output}\nnext: mprm stats {options.output}")
    return "\n".join(lines)
