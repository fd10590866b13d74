"""One self-contained page of a run: gathers, renders, writes.

The page asks for nothing: styles, charts and images are inside it, it has no script,
and its content security policy forbids whatever hostile text might try to load or run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.console.text import page_template, percent
from experiments.grid.results import (
    NAMES,
    ArmResults,
    BestOfN,
    Outcome,
    answers,
    arm_name,
    read_grid,
)
from experiments.page import charts
from experiments.page.corpus import (
    PAPER_TABLE_1,
    Bin,
    SubsetFacts,
    WorldCorpus,
    mixture_bins,
    read_world,
    reliability_bins,
    subset_facts,
)
from experiments.page.rollouts import RolloutView, view_examples
from experiments.store.manifests import RunManifest
from experiments.store.provenance import file_sha256, versions
from mprm_jax.data.outputs import (
    OUTPUT_SCHEMA,
    OutputSet,
    manifest_bytes,
    manifest_path,
)

# Rollouts shown over all worlds, and points of a learning curve.
_EXAMPLES = 60
_CURVE_POINTS = 40

# Overall micro-F1 in the paper, in per cent: keep ratio -> (Random, BIS) of
# InternVL2.5-8B and of Qwen2.5-VL-7B.
_PAPER_MICRO_F1 = {
    0.05: ((63.34, 64.51), (53.54, 64.42)),
    0.1: ((62.86, 65.46), (61.99, 64.63)),
    0.15: ((63.27, 64.98), (59.82, 65.29)),
    0.25: ((63.37, 65.46), (64.44, 65.53)),
    0.35: ((63.52, 64.98), (64.77, 65.69)),
    0.5: ((64.02, 65.00), (64.54, 65.02)),
}


@dataclass(frozen=True)
class Distribution:
    """Bins of one quantity with their chart."""

    title: str
    bins: tuple[Bin, ...]
    chart: Markup


@dataclass(frozen=True, eq=False)
class WorldPage:
    """Everything that the page says of one world."""

    results: Outcome
    answers: tuple[dict[str, Any], ...]
    differences: Markup
    curves: tuple[Markup, ...]
    keep_ratio: float
    distributions: tuple[Distribution, ...]
    corpus: SubsetFacts
    words_per_step: float
    subsets: tuple[SubsetFacts, ...]
    examples: tuple[RolloutView, ...]
    bounds: BestOfN | None

    @property
    def candidates(self) -> int:
        """N of best-of-N."""
        return 16 if self.bounds is None else self.bounds.n


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows, and the SHA-256 of what it was made from."""

    run: RunManifest
    worlds: tuple[WorldPage, ...]
    seeds: tuple[int, ...]
    versions: dict[str, tuple[str, ...]]
    inputs: dict[str, str]

    @property
    def paper(self) -> dict[float, tuple[tuple[float, float], ...]]:
        """What the paper measured at the keep ratios of this run."""
        ratios = {a["keep_ratio"] for world in self.worlds for a in world.answers}
        return {r: _PAPER_MICRO_F1[r] for r in sorted(ratios) if r in _PAPER_MICRO_F1}

    @property
    def selection_seeds(self) -> list[int]:
        """Of the subsets that the page describes."""
        found = (s.seed for world in self.worlds for s in world.subsets)
        return sorted({seed for seed in found if seed is not None})


def gather(folder: Path) -> Report:
    """Read a run's folder.

    Raises:
        DataError: something is missing or does not fit; the message says what.
    """
    run = read_grid(folder)
    worlds, results = run.outcomes, run.results
    used = {name: {v} for name, v in run.manifest.versions.items()}
    for result in results:
        for name, version in result.versions.items():
            used.setdefault(name, set()).add(version)
    inputs = {str(run.store.relative_to(folder)): file_sha256(run.store)}
    pages = []
    for world in worlds:
        corpus = read_world(folder / world.world)
        for file, sha256 in zip(corpus.corpus.files, corpus.corpus.sha256, strict=True):
            inputs[str(file.path.relative_to(folder))] = sha256
        pages.append(_world(world, corpus, max(1, _EXAMPLES // len(worlds))))
    return Report(
        run=run.manifest,
        worlds=tuple(pages),
        seeds=tuple(sorted({r.seed for r in results if r.seed is not None})),
        versions={name: tuple(sorted(used[name])) for name in sorted(used)},
        inputs=inputs,
    )


def label(arm: str) -> str:
    """The name of an arm as the page prints it."""
    return NAMES.get(arm, arm)


def _world(results: Outcome, corpus: WorldCorpus, limit: int) -> WorldPage:
    bis = corpus.subsets["bis"]
    rho = f"BIS {percent(bis.keep_ratio)}"
    name = results.world
    distributions = [
        Distribution(
            "Reliability R",
            tuple(bins := reliability_bins(corpus, bis)),
            charts.distribution_chart(
                bins, f"Reliability R, world {name}", "reliability R", rho
            ),
        ),
        Distribution(
            "Label mixture p(1−p)",
            tuple(bins := mixture_bins(corpus, bis)),
            charts.distribution_chart(
                bins, f"Label mixture, world {name}", "label mixture p(1−p)", rho
            ),
        ),
    ]
    return WorldPage(
        results=results,
        answers=tuple(answers(results)),
        differences=_difference_chart(results),
        curves=tuple(_curves(results)),
        keep_ratio=bis.keep_ratio,
        distributions=tuple(distributions),
        corpus=subset_facts(corpus, None),
        words_per_step=corpus.words_per_step,
        subsets=tuple(subset_facts(corpus, s) for s in corpus.subsets.values()),
        examples=tuple(view_examples(corpus, limit)),
        bounds=results.best_of_n,
    )


def _short_label(world: Outcome, one: ArmResults) -> str:
    # Charts have room for the arm's own name only.
    return arm_name(one.arm, world) if one.arm.is_rule else one.arm.rule


def _difference_chart(world: Outcome) -> Markup:
    rows = [
        charts.Difference(_short_label(world, one), world.less_random(one))
        for one in world.arms
        if one.arm.rule != "random"
    ]
    return charts.difference_chart(
        rows, f"Difference to Random, world {world.world}", "micro-F1 less Random’s"
    )


def _curves(world: Outcome) -> list[Markup]:
    kinds = (("eval_curve", "AUROC"), ("curve", "training loss"))
    drawn = []
    for name, y_label in kinds:
        series = [
            charts.Series(
                _short_label(world, arm),
                arm.arm.rule,
                charts.block_means(arm.curve(name), _CURVE_POINTS),
            )
            for arm in world.arms
        ]
        if any(one.points for one in series):
            title = f"{y_label}, world {world.world}"
            drawn.append(charts.line_chart(series, title, "updates", y_label))
    return drawn


def _per_seed(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def render(report: Report) -> str:
    """The page as HTML; the same report gives the same text."""
    template = page_template("report.html.j2", per_seed=_per_seed, label=label)
    return template.render(
        report=report,
        paper=PAPER_TABLE_1,
        arm_label=lambda world, one: arm_name(one.arm, world),
        count_bar=charts.count_bar,
        step_strip=charts.step_strip,
        series_class=charts.series_class,
    )


def write_report(folder: Path, output: Path | None = None) -> Report:
    """Write the page of a run, ``folder/report.html`` by default, and its manifest.

    Raises:
        DataError: as :func:`gather`, or the page cannot be written.
    """
    output = output or folder / "report.html"
    report = gather(folder)
    page = render(report).encode()
    manifest = {
        "versions": versions(),
        "inputs": report.inputs,
        "output": {
            "file": output.name,
            "bytes": len(page),
            "sha256": hashlib.sha256(page).hexdigest(),
        },
        "answers": answer_rows(report),
    }
    with OutputSet() as outputs:
        outputs.add(output).write(page)
        outputs.add(manifest_path(output)).write(
            manifest_bytes(manifest, OUTPUT_SCHEMA)
        )
    return report


def answer_rows(report: Report) -> list[dict[str, Any]]:
    """The answers as JSON values."""
    return [row for world in report.worlds for row in world.answers]
