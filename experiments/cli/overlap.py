"""`mprm overlap`: what training data and a benchmark share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import tyro

from experiments.console.command import answer
from experiments.console.corpus import CorpusOptions, load_usable
from experiments.console.errors import UsageError, bad_line_rows, print_bad_lines
from experiments.console.options import Checked, Hidden
from experiments.console.tables import format_table, percent_cell, printable
from experiments.store.overlap import PictureCheck, check_overlap, check_pictures
from experiments.store.write_subset import check_output
from mprm_jax.data.outputs import OutputSet
from mprm_jax.data.overlap import NOT_FOUND, SAME, Overlap, OverlapSettings, Pair
from mprm_jax.data.scored import read_benchmark
from mprm_jax.data.write import picture_root
from mprm_jax.records.problems import DataError
from mprm_jax.records.record import ImageRoot, UnmeasuredPolicy, image_root

# Pairs that are shown; --output has all.
_SHOWN = 5

_SIDES = ("corpus", "benchmark")


@dataclasses.dataclass(frozen=True)
class NearOptions(Checked, OverlapSettings):
    """What counts as near.

    Attributes:
        ngram: Words in a row that count, 13 as in GPT-3's study; in a question of L
            words (1 - share) L where that is less, and at least 3.
        share: Of a question's words, that lie in such runs of one training question.
        distance: Bits of 64 in which perceptual hashes may differ.
    """


@dataclasses.dataclass(frozen=True)
class Options(CorpusOptions):
    """Does a benchmark hold questions or pictures of the training data?

    A question is the same as a training question with the same words, whatever their
    case, spacing and punctuation, and near one that holds 80 % of its words in runs of
    several. A picture is the same as one with the same bytes, and near one that looks
    like it (perceptual hash; extra: overlap). A problem is shared where one training
    rollout has both, or the question of a problem without pictures: a question such as
    "Find x." alone says little.

    Counts solutions of the benchmark. The exit status is 0 whatever is found.

    Example: mprm overlap CORPUS test.jsonl --output shared.jsonl

    Attributes:
        benchmark: File of judged solutions, as mprm evaluate reads it.
        images: Root of the corpus's image paths; by default images/ in its folder, or
            that folder.
        benchmark_images: Root of the benchmark's; by default images/ beside it, or its
            folder.
        follow_links: Follow symbolic links that lead out of these two.
        pictures: near: decode them all and compare what they show; same: compare their
            bytes alone, which is quicker; none.
        near: What counts as near.
        output: JSONL file for every pair of training rollout and problem, with file and
            line of both.
    """

    unmeasured: Hidden[UnmeasuredPolicy] = "keep"
    benchmark: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="BENCHMARK")
    ] = dataclasses.field(kw_only=True)
    images: Path | None = None
    benchmark_images: Path | None = None
    follow_links: bool = False
    pictures: PictureCheck = "near"
    near: NearOptions = dataclasses.field(default_factory=NearOptions)
    output: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and self.output.suffix != ".jsonl":
            raise UsageError(f"--output must end in .jsonl, not {self.output.name!r}")


OPTIONS = Options


def run(options: Options) -> None:
    """Compare, and say what is shared."""
    if options.output is not None:
        check_output(options.output, options.corpus)
        check_output(options.output, options.benchmark)
    for root in (options.images, options.benchmark_images):
        if root is not None and not root.is_dir():
            raise DataError(f"{root}: no such folder of images")
    solutions, follow = read_benchmark(options.benchmark), options.follow_links
    usable = load_usable(options, sha256=False)
    corpus = usable.corpus
    rows = np.arange(corpus.rollouts.n_rollouts)
    overlap = check_overlap(corpus, rows, solutions, options.near)
    every = np.arange(len(usable.row))
    judged = options.benchmark_images or image_root(
        options.benchmark, list(overlap.benchmark.pictures)[:1]
    )
    check_pictures(
        overlap,
        options.pictures,
        picture_root(usable, every, options.images)._replace(follow_links=follow),
        ImageRoot(judged, follow),
        options.workers,
    )
    print_bad_lines(overlap.unreadable)
    value = overlap.as_json()
    value["worst"] = [_row(overlap, pair) for pair in overlap.worst(_SHOWN)]
    value["unreadable"] = bad_line_rows(overlap.unreadable)
    value["bad_lines"] = bad_line_rows(usable.bad_lines)
    if options.output is not None:
        value["output"] = str(options.output)
        with OutputSet() as outputs:
            file = outputs.add(options.output)
            for pair in overlap.pairs():
                file.write(msgspec.json.encode(_row(overlap, pair)) + b"\n")
    answer(options.json, value, lambda: _text(value, options))


def _row(overlap: Overlap, pair: Pair) -> dict[str, Any]:
    corpus, problem = overlap.corpus, overlap.benchmark.problems[pair.problem]
    rollouts, question, picture = corpus.rollouts, pair.question, pair.picture
    return {
        "benchmark": f"{problem.file}:{problem.line}",
        "data_source": problem.source,
        "solutions": overlap.benchmark.solutions[pair.problem],
        "corpus": corpus.where(pair.row),
        "source": rollouts.source_names[rollouts.source[pair.row]],
        "question": _how(question),
        "share": min(question, 1.0) if question > NOT_FOUND else None,
        "picture": _how(picture),
        "distance": -min(picture, 0.0) if picture > NOT_FOUND else None,
    }


def _how(near: float) -> str | None:
    return {SAME: "same", NOT_FOUND: None}.get(near, "near")


def _text(value: dict[str, Any], options: Options) -> str:
    corpus, benchmark = value["corpus"], value["benchmark"]
    share = percent_cell(value["settings"]["share"], 0)
    keys = [key for key in value["overall"] if key != "solutions"]
    sources = {printable(name, 22): row for name, row in value["per_source"].items()}
    rows = [
        (name, f"{row['solutions']:,}", *(_count(row[key]) for key in keys))
        for name, row in [*sources.items(), ("all", value["overall"])]
    ]
    header = ("source", "solutions", "q. same", "near", "p. same", "near", "problem")
    lines = [
        f"benchmark: {benchmark['problems']:,} problems, {benchmark['questions']:,} "
        f"questions, {benchmark['pictures']:,} pictures",
        f"corpus: {corpus['rollouts']:,} rollouts, {corpus['questions']:,} questions, "
        f"{corpus['pictures']:,} pictures",
        "",
        format_table(header, rows),
        "",
        "Counted: solutions of the benchmark whose question (q.) or picture (p.) the",
        f"corpus has. Near: {share} of a question's words, several in a row, in one",
        "training question. Problem: one training rollout has question and picture.",
        *_picture_lines(value, options),
    ]
    if value["worst"]:
        lines += ["", "The worst:"]
    for pair in value["worst"]:
        lines += [
            f"  {_told(pair)}",
            f"    {pair['benchmark']}",
            f"    {pair['corpus']}",
        ]
    if options.output is not None:
        lines += ["", f"wrote every pair: {options.output}"]
    return "\n".join(lines)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _told(pair: dict[str, Any]) -> str:
    told = []
    if pair["question"]:
        told.append(f"{pair['question']} question ({percent_cell(pair['share'], 0)})")
    if pair["picture"]:
        told.append(f"{pair['picture']} picture ({pair['distance']:.0f} bits apart)")
    return ", ".join(told)


def _picture_lines(value: dict[str, Any], options: Options) -> list[str]:
    """What was not compared, and why."""
    compared, lines = value["pictures"], []
    if compared is None:
        bare = [name for name in ("corpus", "benchmark") if not value[name]["pictures"]]
        why = (
            "--pictures none" if not bare else f"the {' and the '.join(bare)} has none"
        )
        return [f"Pictures were not compared: {why}."]
    if compared != options.pictures:
        lines += [
            "Only pictures with the same bytes were looked for; near ones need",
            "pip install 'mprm-jax[overlap]'.",
        ]
    missed = [
        f"{value[of]['pictures'] - value[of]['pictures_read']:,} of the {of}"
        for of in _SIDES
        if value[of]["pictures_read"] < value[of]["pictures"]
    ]
    if missed:
        lines += [f"Pictures that cannot be read, not compared: {', '.join(missed)}."]
    return lines
