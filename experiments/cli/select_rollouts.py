"""`mprm select`: the rollouts worth training on, in the format a trainer reads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.console import shared
from experiments.console.tables import print_comparison
from experiments.store.write_subset import (
    SelectionOptions,
    choose,
    meta_path,
    write_selection,
)
from mprm_jax.data.formats.base import LabelKind, WriteOptions
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import manifest_path
from mprm_jax.data.problems import DataError
from theory.scores import DEFAULT_ALPHA
from theory.selection import BudgetUnit, RuleName, TieRule, budget

OutputFormat = Literal["prm", "visualprm", "raw", "trl", "math-shepherd", "rows"]


@dataclasses.dataclass(frozen=True)
class SelectionArguments(shared.CorpusOptions):
    """Options that name a subset.

    Attributes:
        keep_ratio: Share rho of the rollouts of each source to keep, in (0, 1]; at
            least one each, rounded down.
        alpha: BIS's alpha: (p(1-p) + alpha) R. The paper's default is 0.05; its
            release uses 0.2 at a keep ratio of 10 %.
        per_source: One budget per source, as in the paper (this is the default).
        global_: One budget for the whole corpus instead.
        budget: What the keep ratio is a share of.
        ties: Equal scores: by a seeded hash of the content, or in file order as the
            release does (there, shuffling the lines changes the subset).
    """

    keep_ratio: float = 0.1
    alpha: float = DEFAULT_ALPHA
    per_source: bool = False
    global_: Annotated[bool, tyro.conf.arg(name="global")] = False
    budget: BudgetUnit = "rollouts"
    ties: TieRule = "content"

    def check(self) -> None:
        """Refuse values without meaning."""
        super().check()
        try:
            budget(1, self.keep_ratio)
        except ValueError as error:
            raise shared.UsageError(f"--keep-ratio: {error}") from None
        if not 0 <= self.alpha < float("inf"):
            raise shared.UsageError(
                f"--alpha must be finite and at least 0, not {self.alpha}"
            )
        if self.per_source and self.global_:
            raise shared.UsageError("--per-source and --global exclude each other")

    def selection(self, rule: RuleName) -> SelectionOptions:
        """The options that the selection itself depends on."""
        if rule in ("ccs", "step-matched-random") and self.budget == "steps":
            raise shared.UsageError(f"--rule {rule} has no --budget steps")
        return SelectionOptions(
            rule=rule,
            keep_ratio=self.keep_ratio,
            alpha=self.alpha,
            per_source=not self.global_,
            unit=self.budget,
            ties=self.ties,
            seed=self.seed,
        )


@dataclasses.dataclass(frozen=True)
class Options(SelectionArguments):
    """Which rollouts should a process reward model be trained on?

    Ranks the rollouts of each source by a rule, keeps the best share, and writes them
    with a manifest that says how they were chosen. Bad lines are refused (exit status
    1, no output) unless --max-bad allows them.

    Example: mprm select CORPUS --rule bis --keep-ratio 0.1 --alpha 0.2 --output
    bis10.jsonl

    Attributes:
        output: File to write; the manifest goes beside it.
        rule: How rollouts are ranked; bis, mixed, low-mc, reliable and random are
            the paper's.
        format: Format to write; rows writes the manifest alone.
        labels: Hard labels 1[s > threshold], or the soft scores s.
        label_threshold: Threshold of hard labels, in [0, 1).
        images: Root of the image paths; if given, every chosen image must exist
            below it.
        compat: official: reproduce the paper's released script byte for byte (its
            ties, rounding and dropped rows included).
    """

    output: Path = Path("runs/subset.jsonl")
    rule: RuleName = "bis"
    format: OutputFormat = "prm"
    labels: LabelKind = "hard"
    label_threshold: float = 0.0
    images: shared.OptionalPath = None
    compat: Literal["official"] | None = None

    def check(self) -> None:
        """Refuse values without meaning."""
        super().check()
        if self.compat:
            self._check_compat()
        elif self.format != "rows":
            shared.check_labels(
                self.format, WriteOptions(self.labels, self.label_threshold)
            )

    def _check_compat(self) -> None:
        """Refuse what the released script has no option for."""
        fixed = {
            "rule": "bis",
            "format": "prm",
            "labels": "hard",
            "label_threshold": 0.0,
            "global_": False,
            "budget": "rollouts",
            "images": None,
            "source_from": None,
            "trials": None,
            "unmeasured": "error",
            "max_bad": 0,
            "ties": "content",
            "seed": 0,
            "dask": None,
        }
        if self.input_format not in ("auto", "raw"):
            raise shared.UsageError("--compat official reads --input-format raw alone")
        for name, value in fixed.items():
            if getattr(self, name) != value:
                option = name.strip("_").replace("_", "-")
                raise shared.UsageError(f"--compat official has no --{option}")


OPTIONS = Options


def run(options: Options) -> None:
    """Select and write."""
    options.check()
    check_output(options.output, options.corpus)
    if options.compat:
        from experiments.cli.compat import run_official

        run_official(options)
        return
    selection_options = options.selection(options.rule)
    labels = WriteOptions(options.labels, options.label_threshold)
    usable = shared.load_usable(options)
    selection = choose(usable, selection_options)
    with shared.progress("writing", len(selection.rows), "rollouts") as tick:
        manifest = write_selection(
            usable,
            selection,
            selection_options,
            options.output,
            options.format,
            labels,
            options.images,
            tick,
        )
    if options.json:
        shared.print_json(
            {
                **{k: v for k, v in manifest.items() if k not in ("rows", "inputs")},
                "output": str(options.output),
                "written": manifest["output"],
                "bad_lines": shared.bad_line_rows(usable.bad_lines),
            }
        )
        return
    print_comparison(usable, selection, options.rule, options.alpha)
    name = options.output if options.format != "rows" else "the manifest alone"
    print(f"\nwrote {len(selection.rows):,} rollouts ({options.format}): {name}")


def check_output(output: Path, corpus: Path) -> None:
    """Refuse an output that is an input, or that the next run would take for one;
    the files that go beside it included.

    Raises:
        DataError: the output lies among the corpus's files.
    """
    files = [file.path for file in corpus_files(corpus)]
    inputs = {os.path.realpath(file) for file in files}
    for file in (output, manifest_path(output), meta_path(output)):
        # Unlike Path.resolve, realpath takes a link to itself for what it is.
        if os.path.realpath(file) in inputs:
            raise DataError(f"{file}: is a file of the corpus; choose another --output")
    if corpus.is_dir() and os.path.realpath(output.parent) in folders_of(files):
        raise DataError(
            f"{output}: lies in the corpus's own folder and would be read as a part "
            "of it; choose another --output"
        )


def folders_of(files: Sequence[Path]) -> set[str]:
    """The folders in which the files lie, and those in which they are if links."""
    found = {os.path.realpath(file.parent) for file in files}
    return found | {os.path.dirname(os.path.realpath(file)) for file in files}
