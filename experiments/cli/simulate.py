"""`mprm simulate`: a corpus whose truth is known, in the real on-disk format."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import tyro

from experiments.console.command import answer
from experiments.console.errors import UsageError
from experiments.console.options import SeedOption
from experiments.console.progress import progress
from experiments.console.tables import format_table, printable, summary_rows
from experiments.console.text import count_of
from experiments.corpora.simulated import fit_to_corpus, write_raw_corpus
from sim.corpus.calibrate import PAPER_MODELS
from sim.corpus.draw import early_stop, sample
from sim.corpus.laws import CorpusModel, WithAllNegative
from sim.corpus.sources import PAPER_SOURCES, Source
from theory.paper import TRIALS
from theory.summary import summarise

ModelName = Literal[
    "hierarchical", "independent", "constant", "martingale", "absorbing", "repair"
]
assert set(get_args(ModelName)) == set(PAPER_MODELS)


@dataclasses.dataclass(frozen=True)
class Options(SeedOption):
    """Write a simulated corpus in the raw VisualPRM format.

    corpus: Monte-Carlo counts of the paper's 38 sources with placeholder text. The
    default model fits each source's mean MC score, the error-step ratio and the share
    of mixed rollouts that the paper publishes; everything else about it is prediction.
    With --from the model and its sources are fitted to a corpus of your own instead.

    scenes: pictures, solutions really re-run 16 times from every step, their truth, and
    a benchmark; its options: mprm simulate scenes --help

    Example: mprm simulate corpus --scale 0.1 --output runs/corpus

    Attributes:
        world: What to simulate.
        output: Folder to write into; files go to annotations/ below it.
        model: How the steps of a rollout depend on each other.
        scale: Share of the real corpus's 565,149 rollouts, or of those of --from.
        all_negative_share: Share of the rollouts in which no continuation of any step
            succeeds, in [0, 1), beside those that the model has anyway. The others of
            the source succeed the more, so that its mean MC score stays: at most 1 less
            the highest mean, 0.0277 for the paper's sources. With --from it comes on
            top of the fitted model.
        early_stop: Stop sampling at a rollout's first K = 0, as the annotator does by
            default; later steps then have num_mc_total 0.
        seed: Same seed, same bytes.
    """

    world: tyro.conf.Positional[Literal["corpus"]]
    output: Path = Path("runs/corpus")
    model: ModelName = "hierarchical"
    scale: float = 0.01
    from_corpus: Annotated[
        Path | None,
        tyro.conf.arg(name="from", help="Corpus to fit the model and the sources to."),
    ] = None
    all_negative_share: Annotated[
        float | None,
        tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: none)"),
    ] = None
    early_stop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale <= 100:
            raise UsageError(f"--scale must lie in (0, 100], not {self.scale}")
        share = self.all_negative_share
        if share is not None and not 0 <= share < 1:
            raise UsageError(f"--all-negative-share must lie in [0, 1), not {share:g}")


OPTIONS = Options


def run(options: Options) -> None:
    """Simulate and write."""
    share = options.all_negative_share
    counts, text = np.random.default_rng(options.seed).spawn(2)
    model, sources, trials = PAPER_MODELS[options.model], PAPER_SOURCES, TRIALS
    if options.from_corpus is not None:
        fitted = fit_to_corpus(options.from_corpus, options.model)
        model, sources, trials = fitted.model.model, fitted.sources, fitted.trials
        print(fitted.sentence, file=sys.stderr)
    if share is not None:
        model = _with_all_negative(model, sources, share)
    rollouts = sample(model, sources, counts, options.scale, trials)
    if options.early_stop:
        rollouts = early_stop(rollouts)
    arguments = {
        "model": options.model,
        "from": str(options.from_corpus) if options.from_corpus else None,
        "scale": options.scale,
        "all_negative_share": share,
        "early_stop": options.early_stop,
        "seed": options.seed,
    }
    with progress("writing", rollouts.n_rollouts, "rollouts") as tick:
        files = write_raw_corpus(options.output, rollouts, text, arguments, tick)
    summary = summarise(rollouts)
    value = {"output": str(options.output), "files": [path.name for path in files]}
    value |= {"overall": dataclasses.asdict(summary)}
    table = format_table(("", "simulated"), summary_rows(summary))
    where = options.output / "annotations"
    answer(
        options.json, value, f"{table}\n\nwrote {count_of(len(files), 'file')}: {where}"
    )


def _with_all_negative(
    model: CorpusModel, sources: Sequence[Source], share: float
) -> CorpusModel:
    """The model with a share of hopeless rollouts.

    Raises:
        UsageError: the share leaves a source no room for its mean MC score.
    """
    highest = max(sources, key=lambda source: source.mean_mc)
    if highest.mean_mc / (1 - share) > 1:
        raise UsageError(
            f"--all-negative-share {share:g}: at most {1 - highest.mean_mc:.4g} here; "
            f"the mean MC score of {printable(highest.name, 40)} is "
            f"{highest.mean_mc:.4f}"
        )
    return WithAllNegative(model, share)
