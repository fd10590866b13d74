"""What each rule keeps of a corpus with the paper's label statistics: no training."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console.command import print_json
from experiments.console.errors import UsageError
from experiments.console.progress import progress
from experiments.console.tables import format_table, percent
from experiments.store.results import Result, append_results, cell_key, read_results
from experiments.store.write_subset import SelectionOptions, choose
from mprm_jax.data.corpus import Usable, read_corpus, usable_rollouts
from theory.scores import DEFAULT_ALPHA
from theory.selection import RuleName, Selection
from theory.summary import Summary, summarise

EXPERIMENT = "kept"

# The rules that the paper compares (Table 4).
_RULES: tuple[RuleName, ...] = ("random", "bis", "mixed", "low-mc", "reliable")

# A step is called sound if a continuation from it succeeds more often than not.
_TAU = 0.5

# Table 1 of the paper, for the columns that the simulation did not fit.
_PAPER_STEPS_PER_ROLLOUT, _PAPER_MEAN_MC = 5.62, 0.8566


@dataclasses.dataclass(frozen=True)
class Options:
    """What each of the paper's rules keeps of a simulated corpus, and how sound it is.

    Draws Monte-Carlo counts of the paper's 38 sources from a model calibrated to its
    published statistics, writes and reads them in the real on-disk format, and selects
    under each rule. Because the success probability behind every count is known here,
    it also shows how many of the positive labels are wrong.

    Example: mprm run kept --scale 0.2

    Attributes:
        output: Folder of the results store.
        scale: Share of the real corpus's 565,149 rollouts.
        keep_ratio: Share of the rollouts that every rule keeps.
        seed: Of the simulation and of ties.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    output: Path = Path("runs/results")
    scale: float = 0.02
    keep_ratio: float = 0.1
    seed: int = 0
    json: bool = False


OPTIONS = Options


def run(options: Options) -> None:
    """Run the demo."""
    if not 0 < options.scale <= 1:
        raise UsageError(f"--scale must lie in (0, 1], not {options.scale}")
    if not 0 < options.keep_ratio <= 1:
        raise UsageError(f"--keep-ratio must lie in (0, 1], not {options.keep_ratio}")
    if options.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {options.seed}")
    config = {"scale": options.scale, "keep_ratio": options.keep_ratio}
    key = cell_key(config, options.seed)
    done = {result.key: result for result in read_results(options.output, EXPERIMENT)}
    result = done.get(key)
    if result is None:
        result = Result(EXPERIMENT, config, options.seed, _measure(options))
        append_results(options.output, [result])
    if options.json:
        print_json(config | {"seed": options.seed} | result.metrics)
    else:
        _print(options, Summary(**result.metrics["corpus"]), result.metrics["rules"])


def _measure(options: Options) -> dict[str, Any]:
    usable, r = _simulate(options)
    rows = {}
    for rule in _RULES:
        chosen = SelectionOptions(
            rule=rule,
            keep_ratio=options.keep_ratio,
            alpha=DEFAULT_ALPHA,
            per_source=True,
            unit="rollouts",
            ties="content",
            seed=options.seed,
        )
        rows[rule] = _describe(usable, choose(usable, chosen), r)
    return {"corpus": dataclasses.asdict(summarise(usable.rollouts)), "rules": rows}


def _simulate(options: Options) -> tuple[Usable, np.ndarray]:
    """The corpus as read back from disk, and the true r of its steps."""
    # Imported here: scipy would slow down --help.
    from experiments.corpora.simulated import order_on_disk, write_raw_corpus
    from sim.corpus.calibrate import PAPER_MODELS
    from sim.corpus.draw import sample_with_latent
    from sim.corpus.sources import PAPER_SOURCES

    counts, text = np.random.default_rng(options.seed).spawn(2)
    model = PAPER_MODELS["hierarchical"]
    simulation = sample_with_latent(model, PAPER_SOURCES, counts, options.scale)
    rollouts = simulation.rollouts
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        with progress("simulating", rollouts.n_rollouts, "rollouts") as tick:
            arguments = {"scale": options.scale, "seed": options.seed}
            write_raw_corpus(corpus, rollouts, text, arguments, tick)
        usable = usable_rollouts(read_corpus(corpus, use_cache=False))
    order = order_on_disk(rollouts)
    lengths = rollouts.lengths[order]
    starts = np.cumsum(lengths) - lengths
    steps = np.arange(rollouts.n_steps) + np.repeat(
        rollouts.offsets[order] - starts, lengths
    )
    return usable, simulation.r[steps]


def _describe(usable: Usable, selection: Selection, r: np.ndarray) -> dict[str, Any]:
    subset = usable.rollouts.take(selection.rows)
    chosen = np.zeros(usable.rollouts.n_rollouts, bool)
    chosen[selection.rows] = True
    of_steps = np.repeat(chosen, usable.rollouts.lengths)
    positive = usable.rollouts.successes[of_steps] > 0
    unsound = r[of_steps] < _TAU
    return dataclasses.asdict(summarise(subset)) | {
        "tied_share": selection.tied_share,
        "false_positive_share": float(np.mean(unsound[positive])),
    }


def _print(options: Options, everything: Summary, rows: dict[str, dict]) -> None:
    from sim.corpus.calibrate import PAPER_TARGETS

    print(
        format_table(
            ("corpus", "simulated", "paper"),
            [
                ("rollouts", f"{everything.rollouts:,}", "565,096"),
                (
                    "steps per rollout",
                    f"{everything.steps_per_rollout:.2f}",
                    f"{_PAPER_STEPS_PER_ROLLOUT:.2f}",
                ),
                (
                    "mean MC score per step",
                    f"{everything.mean_mc:.4f}",
                    f"{_PAPER_MEAN_MC:.4f}",
                ),
                (
                    "error-step ratio (fitted)",
                    percent(everything.error_step_ratio),
                    percent(PAPER_TARGETS.error_step_ratio),
                ),
                (
                    "mixed rollouts (fitted)",
                    percent(everything.mixed_share),
                    percent(PAPER_TARGETS.mixed_share),
                ),
            ],
        )
    )
    print(f"\nkept at {100 * options.keep_ratio:g} % of each source:\n")
    print(
        format_table(
            ("rule", "rollouts", "steps", "mixed", "errors", "false +", "tied"),
            [
                (
                    rule,
                    f"{row['rollouts']:,}",
                    f"{row['steps']:,}",
                    percent(row["mixed_share"], 1),
                    percent(row["error_step_ratio"], 1),
                    percent(row["false_positive_share"], 1),
                    percent(row["tied_share"], 1),
                )
                for rule, row in rows.items()
            ],
        )
    )
    print(
        "\nmixed: rollouts with both labels; errors: steps with K = 0; false +:"
        "\npositive steps whose true success probability is below one half; tied:"
        "\npicks that the tie rule decided, not the score."
    )
