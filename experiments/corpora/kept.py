"""What each rule keeps of a corpus with the paper's label statistics: no training."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console.command import answer
from experiments.console.progress import progress
from experiments.console.tables import format_table, percent_cell
from experiments.store.experiment import ExperimentOptions, complete
from mprm_jax.data.corpus import SelectableCorpus, read_corpus, usable_rollouts
from theory.paper import FULL_DATA
from theory.selection import UNRANKED, RuleName, Selection, select
from theory.summary import summarise

EXPERIMENT = "kept"

# The rules that the paper compares (Table 4).
_RULES: tuple[RuleName, ...] = ("random", "bis", "mixed", "low-mc", "reliable")

# A step is called sound if a continuation from it succeeds more often than not.
_TAU = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """What each of the paper's rules keeps of a simulated corpus, and how sound it is.

    Draws Monte-Carlo counts of the paper's 38 sources from a model calibrated to its
    published statistics, writes and reads them in the real on-disk format, and selects
    under each rule. Because the success probability behind every count is known here,
    it also shows how many of the positive labels are wrong.

    Example: mprm run kept --scale 0.2

    Attributes:
        scale: Share of the real corpus's 565,149 rollouts.
        keep_ratio: Share of the rollouts that every rule keeps.
    """

    scale: float = 0.02
    keep_ratio: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "keep_ratio"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"{name} must lie in (0, 1], not {value}")


OPTIONS = Options


def run(options: Options) -> None:
    """Select under every rule, unless the store has it, and print."""
    config = {"scale": options.scale, "keep_ratio": options.keep_ratio}
    (result,), _ = complete(
        options, EXPERIMENT, [config], lambda _: [_measure(options)]
    )
    value = config | {"seed": options.seed} | result.metrics
    answer(options.json, value, lambda: _text(options.keep_ratio, result.metrics))


def _measure(options: Options) -> dict[str, Any]:
    usable, r = _simulate(options)
    rules = {
        rule: select(
            usable.rollouts, rule, options.keep_ratio, usable.content, seed=options.seed
        )
        for rule in _RULES
    }
    return {
        "corpus": dataclasses.asdict(summarise(usable.rollouts)),
        "rules": {rule: _describe(usable, of, r) for rule, of in rules.items()},
    }


def _simulate(options: Options) -> tuple[SelectableCorpus, np.ndarray]:
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


def _describe(
    usable: SelectableCorpus, selection: Selection, r: np.ndarray
) -> dict[str, Any]:
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


# Of the corpus: name, statistic, form.
_COMPARED = (
    ("rollouts", "rollouts", "{:,}".format),
    ("steps per rollout", "steps_per_rollout", "{:.2f}".format),
    ("mean MC score per step", "mean_mc", "{:.4f}".format),
    ("error-step ratio (fitted)", "error_step_ratio", percent_cell),
    ("mixed rollouts (fitted)", "mixed_share", percent_cell),
)


def _text(keep_ratio: float, metrics: dict[str, Any]) -> str:
    corpus, rules = metrics["corpus"], metrics["rules"]
    rows = [
        (name, form(corpus[key]), form(getattr(FULL_DATA, key)))
        for name, key, form in _COMPARED
    ]
    shares = ("mixed_share", "error_step_ratio", "false_positive_share")
    kept = [
        (
            rule,
            f"{row['rollouts']:,}",
            f"{row['steps']:,}",
            *(percent_cell(row[share], 1) for share in shares),
            "-" if rule in UNRANKED else percent_cell(row["tied_share"], 1),
        )
        for rule, row in rules.items()
    ]
    header = ("rule", "rollouts", "steps", "mixed", "errors", "false +", "tied")
    return f"""\
{format_table(("corpus", "simulated", "paper"), rows)}

kept at {100 * keep_ratio:g} % of each source:

{format_table(header, kept)}

mixed: rollouts with both labels; errors: steps with K = 0; false +:
positive steps whose true success probability is below one half; tied:
picks that the tie rule decided, not the score."""
