"""`mprm run recipe`: at which rates does the tiny model learn, and keep what it knows?

The protocol, written before any of it was run:

Models are trained on clean labels of Random-10 % of `scarce`, whose corpora, benchmark
and seeds are used for nothing else (10,000 and on), and judged without candidates; no
selection rule and no Monte-Carlo label enters the choice. For each backbone:

1. The peak rate, of 2^k 1.25e-4, k = -2, ..., 3, with the head at 10 times that rate,
   5 % warm-up, one epoch, batches of 16. The best has the highest mean micro-F1
   (cross-fitted threshold) over the seeds; chosen is the lowest rate whose mean is
   within one paired standard error of it: the least change that does as well.
2. Around the chosen rate, one at a time: head multiplier 1 and 100, warm-up 20 %, two
   epochs, batches of 8 and of 32. One is adopted only if it is better by an interval of
   the paired difference that excludes zero.

AUROC is reported beside, and decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.command import answer
from experiments.console.tables import format_table
from experiments.grid.answer import Estimate, paired_difference
from experiments.grid.inputs import fingerprint
from experiments.grid.plan import CLEAN, RANDOM, Arm, Cell
from experiments.store.experiment import SizedOptions, complete
from experiments.store.results import Result
from theory.intervals import Score
from theory.paper import TRAINING

if TYPE_CHECKING:
    from experiments.grid.cells import GridContext
    from mprm_jax.train.config import TrainConfig
    from mprm_jax.train.update_plan import UpdatePlan

NAME = "recipe"
RATES = tuple(1.25e-4 * 2.0**k for k in range(-2, 4))
# Of the worlds, and the first of the seeds: those of no other experiment.
SPARE = 10_000
KEEP_RATIO = 0.1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the tiny model is trained.

    Attributes:
        learning_rate: peak.
        head_multiplier: rate of the head over it.
        warmup: share of the updates.
        epochs: whole ones.
        batch_size: rollouts.
    """

    learning_rate: float
    head_multiplier: float = 10.0
    warmup: float = TRAINING.warmup
    epochs: int = 1
    batch_size: int = 16

    def variations(self) -> list[Recipe]:
        """What is looked at once, one at a time."""
        changes: list[dict[str, Any]] = [
            {"head_multiplier": 1.0},
            {"head_multiplier": 100.0},
            {"warmup": 0.2},
            {"epochs": 2},
            {"batch_size": 8},
            {"batch_size": 32},
        ]
        return [dataclasses.replace(self, **change) for change in changes]

    def settings(self, cell: Cell, rows: np.ndarray) -> tuple[UpdatePlan, TrainConfig]:
        """As the demo trains, but with these numbers."""
        from experiments.grid.demo import train_config
        from mprm_jax.train.update_plan import plan

        assert cell.seed is not None
        n = len(rows)
        budget = plan(
            n,
            self.batch_size,
            warmup_share=self.warmup,
            matched_to=self.epochs * n if self.epochs > 1 else None,
        )
        return budget, train_config(cell.seed, self.learning_rate, self.head_multiplier)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SizedOptions):
    """At which rates does the tiny model learn, and keep what its backbone knows?

    Trains on clean labels of random rollouts, with spare worlds and seeds, by a rule
    that was written down first.

    Example: mprm run recipe --size full

    Attributes:
        backbones: As mprm demo --backbone.
        seed: Added to the spare ones.
    """

    backbones: tuple[str, ...] = ("full", "2400")


OPTIONS = Options


def run(options: Options) -> None:
    """Rates of every backbone, then variations about the chosen ones; report."""
    bench = _Bench(options)
    value: dict[str, Any] = {"output": str(options.output)}
    texts = []
    for backbone in options.backbones:
        rates = bench.results(backbone, [Recipe(rate) for rate in RATES])
        base = chosen(rates)
        found = rates | bench.results(backbone, base.variations())
        adopted = [
            recipe
            for recipe in base.variations()
            if (less := less_base(found, recipe, base)) is not None
            and less.excludes_zero
            and less.mean > 0
        ]
        value[backbone] = {
            "chosen": dataclasses.asdict(base),
            "adopted": [dataclasses.asdict(recipe) for recipe in adopted],
        }
        texts.append(f"{backbone}\n\n{table(found, base)}")
    answer(options.json, value, "\n\n".join(texts))


Scores = dict[str, dict[int | None, Score]]


def chosen(found: dict[Recipe, Scores]) -> Recipe:
    """The lowest rate within one paired standard error of the best mean micro-F1."""
    values = {
        recipe: np.array([score.value for score in scores["micro_f1"].values()])
        for recipe, scores in found.items()
    }
    best = max(values, key=lambda recipe: values[recipe].mean())

    def near(recipe: Recipe) -> bool:
        lost = values[best] - values[recipe]
        return lost.mean() <= lost.std(ddof=1) / np.sqrt(len(lost))

    return min(filter(near, values), key=lambda recipe: recipe.learning_rate)


def less_base(
    found: dict[Recipe, Scores], recipe: Recipe, base: Recipe
) -> Estimate | None:
    """Micro-F1 less that of the chosen recipe, paired by seed and rollout."""
    return paired_difference(found[recipe]["micro_f1"], found[base]["micro_f1"])


def table(found: dict[Recipe, Scores], base: Recipe) -> str:
    """Every setting: means and their spread over seeds."""
    rows = []
    for recipe, scores in found.items():
        micro, ranked = (
            np.array([score.value for score in scores[name].values()])
            for name in ("micro_f1", "auroc")
        )
        less = less_base(found, recipe, base)
        ends = "chosen" if recipe == base else "-"
        if recipe != base and less is not None and less.half_width is not None:
            ends = f"{less.mean:+.3f} ± {less.half_width:.3f}"
        rows.append(
            (
                *(f"{value:g}" for value in dataclasses.astuple(recipe)),
                f"{micro.mean():.3f}",
                f"{micro.std(ddof=1):.3f}",
                f"{ranked.mean():.3f}",
                ends,
            )
        )
    header = ("rate", "head", "warm-up", "epochs", "batch", "micro-F1", "sd", "AUROC")
    return format_table((*header, "less chosen"), rows)


class _Bench:
    """Trains recipes on the corpora of the spare world, which are read once each."""

    def __init__(self, options: Options) -> None:
        from experiments.grid.demo import SIZES, Demo
        from sim.scenes.world import SCARCE

        self._options = options
        size = "smoke" if options.size == "small" else "recipe"
        seed = SPARE + options.seed
        worlds = options.output / "recipe-worlds"
        self._demo = Demo(worlds, SCARCE, size, KEEP_RATIO, seed, "")
        self._corpora = SIZES[size].corpora
        self._seeds = [seed + i for i in range(SIZES[size].seeds)]
        self._contexts: dict[int, GridContext] = {}

    def results(self, backbone: str, recipes: Sequence[Recipe]) -> dict[Recipe, Scores]:
        """Micro-F1 and AUROC of every seed, computed where the store lacks them."""
        world = {"name": "scarce", "size": self._demo.size, "seed": self._demo.seed}
        given = {"world": world, "model": fingerprint("tiny", backbone)}
        cells = [(recipe, seed) for seed in self._seeds for recipe in recipes]
        configs = [
            given | dataclasses.asdict(recipe) | {"train_seed": seed}
            for recipe, seed in cells
        ]

        def compute(places: list[int]) -> list[dict[str, Any]]:
            return [self._metrics(backbone, *cells[place]) for place in places]

        found, _ = complete(self._options, NAME, configs, compute)
        scores: dict[Recipe, Scores] = {}
        for (recipe, seed), result in zip(cells, found, strict=True):
            for name, score in _scores(result):
                scores.setdefault(recipe, {}).setdefault(name, {})[seed] = score
        return scores

    def _metrics(self, backbone: str, recipe: Recipe, seed: int) -> dict[str, Any]:
        from experiments.grid.cells import InitialParams, run_cell
        from experiments.grid.demo import open_grid, simulate
        from mprm_jax.models.tiny import pretrained

        corpus = (seed - self._demo.seed) % self._corpora
        if corpus not in self._contexts:
            inputs = simulate(self._demo, corpus)
            self._contexts[corpus] = open_grid(inputs, backbone)
        context = self._contexts[corpus]
        model, params = pretrained(backbone)
        assert model == context.model
        initial = InitialParams(params, fresh_head=True)
        context = dataclasses.replace(
            context, initial=initial, settings=recipe.settings
        )
        cell = Cell(Arm(RANDOM, KEEP_RATIO, labels=CLEAN), seed)
        metrics = run_cell(context, cell, None).metrics
        kept = ("micro_f1", "auroc", "thresholds", "updates", "bootstrap")
        return {name: metrics[name] for name in kept}


def _scores(result: Result) -> Iterator[tuple[str, Score]]:
    for name in ("micro_f1", "auroc"):
        drawn = result.metrics["bootstrap"][name]
        yield name, Score(result.metrics[name], tuple(drawn))
