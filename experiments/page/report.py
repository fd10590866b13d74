"""One self-contained page of a run of `mprm demo` or of `mprm run selection`.

The page asks for nothing: styles, charts and images are inside it, it has no script,
and its content security policy forbids whatever hostile text might try to load or run.
A section is shown where the run has what it shows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from experiments.grid.decomposition import METRICS, Decomposition, decompositions, why
from experiments.grid.plan import BASE, DEMO
from experiments.grid.results import (
    NAMES,
    GridRun,
    Labels,
    Outcome,
    answers,
    arm_name,
    labels_name,
    read_grid,
    sentences,
)
from experiments.page.corpus import (
    WorldCorpus,
    mixture_bins,
    read_world,
    reliability_bins,
    subset_facts,
)
from experiments.page.html import (
    Chart,
    Table,
    chart_of,
    count,
    mean,
    num,
    page_template,
    plus_minus,
    share,
    sign,
    tabulate,
    text,
    visible,
)
from experiments.page.place import other_labels, place
from experiments.page.rollouts import RolloutView, view_examples
from experiments.store.provenance import file_sha256, versions
from mprm_jax.data.outputs import OutputSet, manifest_path
from theory import paper
from theory.intervals import Estimate

# Rollouts shown over all worlds, and points of a learning curve.
_EXAMPLES = 60
_CURVE_POINTS = 40

_CURVES = (
    ("f1_curve", "micro-F1"),
    ("eval_curve", "AUROC"),
    ("curve", "training loss"),
)


@dataclass(frozen=True, eq=False)
class WorldPart:
    """What the page says of one world, or of the one corpus."""

    outcome: Outcome
    sentences: Sequence[str]
    reasons: Sequence[str]
    answer: Sequence[Chart]
    why: Sequence[Chart]
    labels: Sequence[Table]
    contrasts: Table
    results: Table
    details: Sequence[Table]
    curves: Sequence[Chart]
    distributions: Sequence[Chart]
    kept: Table
    gate: Table
    facts: Mapping[str, float] | None
    examples: Sequence[RolloutView]


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows, and the SHA-256 of what it was made from."""

    run: GridRun
    worlds: tuple[WorldPart, ...]
    corpora: Table
    versions: dict[str, list[str]]
    inputs: dict[str, str]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The answers as JSON values."""
        return [row for outcome in self.run.outcomes for row in answers(outcome)]

    @property
    def decompositions(self) -> list[dict[str, Any]]:
        """Why BIS - Random is what it is, where controls were run, as JSON values."""
        return [
            {"world": outcome.world, "metric": metric} | found.as_json()
            for outcome in self.run.outcomes
            for metric in METRICS
            for found in decompositions(outcome, metric)
        ]

    @property
    def seeds(self) -> list[int]:
        """Of all models."""
        return sorted({seed for of in self.run.outcomes for seed in of.seeds})

    @property
    def keep_ratios(self) -> list[float]:
        """At which rules were run, ascending."""
        return sorted({ratio for of in self.run.outcomes for ratio in of.keep_ratios})


def gather(folder: Path) -> Report:
    """Read a run's folder.

    Raises:
        DataError: something is missing or does not fit; the message says what.
    """
    import matplotlib as mpl

    from paper_figures.page import SETTINGS

    run = read_grid(folder)
    used = {name: {version} for name, version in run.manifest.versions.items()}
    for result in run.results:
        for name, version in result.versions.items():
            used.setdefault(name, set()).add(version)
    inputs = {str(run.store.relative_to(folder)): file_sha256(run.store)}
    worlds = []
    for i, outcome in enumerate(run.outcomes):
        corpus = None
        if run.experiment == DEMO:
            corpus = read_world(folder / outcome.world)
            files = zip(corpus.corpus.files, corpus.corpus.sha256, strict=True)
            inputs |= {str(of.path.relative_to(folder)): hash_ for of, hash_ in files}
        with mpl.rc_context(SETTINGS):
            limit = max(1, _EXAMPLES // len(run.outcomes))
            world = _world(f"w{i}", outcome, corpus, limit)
            if corpus is not None and world.why:
                found = place(f"w{i}-phase", outcome, corpus, run.manifest)
                more = other_labels(outcome.world, run.manifest)
                world = replace(
                    world, why=[*world.why, *found], labels=[*world.labels, *more]
                )
            worlds.append(world)
    return Report(
        run=run,
        worlds=tuple(worlds),
        corpora=_corpora(worlds),
        versions={name: sorted(used[name]) for name in sorted(used)},
        inputs=inputs,
    )


def _world(
    key: str, outcome: Outcome, corpus: WorldCorpus | None, limit: int
) -> WorldPart:
    facts: list[dict[str, Any]]
    if corpus is None:
        facts = [
            {"rule": arm_name(one.arm, outcome), "rollouts": one.first.rollouts}
            | one.first.subset
            for one in outcome.arms
            if one.first.subset
        ]
        caption = "Training sets of the first seed."
    else:
        facts = [
            {"rule": NAMES.get(rule, rule)} | subset_facts(corpus, subset)
            for rule, subset in corpus.subsets.items()
        ]
        facts.append({"rule": "all rollouts"} | subset_facts(corpus, None))
        ratio = share(corpus.subsets["bis"].options.keep_ratio)
        seeds = sorted({of.options.seed for of in corpus.subsets.values()})
        caption = (
            f"World “{outcome.world}”, {ratio} of each source, seed "
            f"{', '.join(map(str, seeds))} of the selection."
        )
    chart, contrasts = _differences(key, outcome)
    terms = [
        _terms(f"{key}-why{i}", outcome, found)
        for i, found in enumerate(decompositions(outcome))
    ]
    return WorldPart(
        outcome=outcome,
        sentences=sentences(outcome),
        reasons=[why(found) for found in decompositions(outcome)],
        answer=[*chart, *_levels(key, outcome)],
        why=[chart for chart, _ in terms],
        labels=[table for _, table in terms],
        contrasts=contrasts,
        results=_results(outcome),
        details=_details(outcome),
        curves=list(_curves(key, outcome)),
        distributions=list(_distributions(key, outcome.world, corpus))
        if corpus
        else (),
        kept=tabulate(caption, facts, _KEPT, "tied share"),
        gate=tabulate(
            f"Learnability in “{outcome.world}”, checked before any rule was looked "
            "at: a model trained on clean labels, per benchmark source.",
            map(msgspec.structs.asdict, outcome.gate),
            _GATE,
        ),
        facts=facts[-1] if corpus else None,
        examples=view_examples(corpus, limit) if corpus else (),
    )


_KEPT = (
    ("rule", "rule", text),
    ("rollouts", "rollouts", count),
    ("steps", "steps", count),
    ("mixed", "mixed_share", share, 1),
    ("error steps", "error_step_ratio", share, 1),
    ("mean MC", "mean_mc", num),
    ("mean R", "mean_reliability", num),
    ("wrong positives", "pseudo_positive_share", share, 1),
    ("tied share", "tied_share", share, 1),
)

_GATE = (
    ("source", "source", text),
    ("within-position AUROC", "within_position_auroc", num),
    ("95 % lower bound", "low", num),
    ("with images permuted", "permuted_images", num),
)

_RESULTS = (
    ("micro-F1", "micro_f1", plus_minus),
    ("on test", "micro_f1_on_test", plus_minus),
    ("AUROC", "auroc", plus_minus),
    ("within-position AUROC", "within_position_auroc", plus_minus),
    ("position-only AUROC", "position_auroc", mean),
    ("slip-prior AUROC", "slip_prior_auroc", mean),
)

_MODELS = (
    ("rule", "rule", text),
    ("seed", "seed", text),
    ("micro-F1", "micro_f1", num),
    ("pooled macro-F1", "macro_f1_pooled", num),
    ("AUROC", "auroc", num),
    ("decision threshold", "threshold", num),
)


def _results(outcome: Outcome) -> Table:
    bounds = outcome.best_of_n
    best = f"best-of-{16 if bounds is None else bounds.n}"
    caption = f"{outcome.world} ({'simulated' if outcome.synthetic else 'real'}"
    caption += f", size {outcome.size})" if outcome.size else ")"
    if len(outcome.keep_ratios) == 1:
        keep = share(outcome.keep_ratios[0])
        caption += f"; every rule keeps {keep} of each source"
    columns = (
        ("rule", "rule", text),
        ("rollouts", "rollouts", text),
        ("updates", "updates", text),
        *_RESULTS,
        (best, "best_of_n", plus_minus, share, 1),
    )
    items = [
        {
            "rule": arm_name(one.arm, outcome),
            "rollouts": _span([cell.rollouts for cell in one.cells.values()]),
            "updates": _span([cell.updates for cell in one.cells.values()]),
        }
        | {name: one.estimate(name) for _, name, *_ in columns[3:]}
        for one in outcome.arms
    ]
    whole = tabulate(f"{caption}.", items, columns, "micro-F1")
    rules = sum(one.arm.is_rule for one in outcome.arms)
    asked = rules - sum(one.arm.is_control for one in outcome.arms)
    controls = [["labels from the truth"], *whole.rows[asked:rules]]
    rows = [*whole.rows[:asked], *(controls if rules > asked else ())]
    return replace(whole, rows=[*rows, ["for reference"], *whole.rows[rules:]])


def _span(values: Sequence[int]) -> str:
    return "–".join(map(count, dict.fromkeys((min(values), max(values)))))


def _details(outcome: Outcome) -> tuple[Table, ...]:
    # A key of its own for each source, whatever its name.
    sources = [(name, ("source", name), num) for name in outcome.sources]
    named = [(arm_name(one.arm, outcome), one) for one in outcome.arms]
    means = [
        {"rule": name} | {key: one.source_mean(source) for source, key, _ in sources}
        for name, one in named
    ]
    models = [
        {"rule": name, "seed": seed}
        | {key: getattr(cell, key) for _, key, _ in _MODELS[2:]}
        | {key: cell.per_source.get(source) for source, key, _ in sources}
        for name, one in named
        for seed, cell in one.cells.items()
    ]
    return (
        tabulate(
            f"{outcome.world}: macro-F1 by benchmark source, mean over seeds.",
            means if sources else (),
            (_MODELS[0], *sources),
        ),
        tabulate(
            f"{outcome.world}: every trained model, and its macro-F1 by source.",
            models,
            (*_MODELS, *sources),
        ),
    )


def _differences(key: str, outcome: Outcome) -> tuple[list[Chart], Table]:
    """Rules less Random, if any; the references, too, where one Random is there."""
    from paper_figures import page

    gaps = {gap.arm: gap for gap in outcome.gaps}
    items, rows = [], []
    for one in outcome.arms:
        gap, of = gaps.get(one.arm), outcome.less_random(one)
        if one.arm.is_control or (gap is None and of is None):
            continue
        item = {"rule": arm_name(one.arm, outcome), "difference": of and of.mean}
        item["seeds"] = of.seeds if of else 0
        item["interval"] = _ends(of)
        if gap is not None:
            item |= {"p": gap.adjusted_p, "verdict": gap.verdict}
        items.append(item)
        # Far below, the untrained base would flatten what is compared.
        if one.arm.rule != BASE:
            # The sign stays with its number where the chart breaks lines.
            label = visible(item["rule"]).replace(" %", "\N{NO-BREAK SPACE}%")
            half = of and of.half_width
            rows.append(page.Term(label, sign(of and of.mean), of and of.mean, half))
    contrasts = tabulate(
        f"Less Random at the same keep ratio and labels, {outcome.world}. Holm’s p is "
        "corrected over all that was asked.",
        items,
        (
            ("rule", "rule", text),
            ("micro-F1", "difference", sign, 4),
            (f"95 % over {outcome.gap_covers}", "interval", text),
            ("seeds", "seeds", text),
            ("Holm’s p", "p", num),
            ("verdict", "verdict", text),
        ),
        "micro-F1",
    )
    if not rows:
        return [], contrasts
    title = (
        "difference to Random in micro-F1, paired by seed, with its 95 % interval over "
        f"{outcome.gap_covers}. A filled mark: the interval excludes zero, before "
        "correction."
    )
    figure = page.differences(rows, "micro-F1 less Random’s")
    described = "; ".join(f"{row.label} {row.told}" for row in rows)
    return [chart_of(f"{key}-differences", title, figure, described)], contrasts


def _terms(key: str, outcome: Outcome, found: Decomposition) -> tuple[Chart, Table]:
    """The terms of BIS less Random as bars, and both under every kind of labels."""
    from paper_figures import page

    rows = []
    for i, part in enumerate(found.parts):
        of = part.difference
        told = sign(of and of.mean)
        half = of and of.half_width
        look = 2 if part.within else min(i, 1)
        name = part.within or part.name
        rows.append(page.Term(name, told, of and of.mean, half, look))
    title = "BIS − Random = composition + noise of BIS − noise of Random"
    if len(outcome.keep_ratios) > 1:
        title += f", keeping {share(found.arm.keep_ratio)}"
    items = [
        {"term": part.name, "of": part.of, "mean": of and of.mean, "ends": _ends(of)}
        for part in found.parts
        for of in (part.difference,)
    ]
    numbers = tabulate(
        f"{outcome.world}: {title}; noise = blind part + placement.",
        items,
        (
            ("term", "term", text),
            ("what", "of", text),
            ("micro-F1", "mean", sign, 4),
            ("95 %", "ends", text),
        ),
        "micro-F1",
    )
    described = "; ".join(
        f"{part.name} {row.told}" for part, row in zip(found.parts, rows, strict=True)
    )
    chart = chart_of(key, title, page.terms(rows, "micro-F1"), described, numbers)
    levels = tabulate(
        f"{outcome.world}, {share(found.arm.keep_ratio)}: micro-F1 by what labels the "
        "steps have.",
        [
            {"labels": of.labels, "random": of.random, "bis": of.bis}
            | {"less": _less(of.difference)}
            for of in found.levels
        ],
        (
            ("labels", "labels", text),
            ("Random", "random", plus_minus),
            ("BIS", "bis", plus_minus),
            ("BIS − Random, 95 %", "less", text),
        ),
        "BIS − Random, 95 %",
    )
    return chart, levels


def _less(of: Estimate | None) -> str:
    ends = _ends(of)
    return sign(of and of.mean) + ("" if ends is None else f" ({ends})")


def _ends(of: Estimate | None) -> str | None:
    if of is None or "seeds" not in of.covers:
        return None
    return f"{sign(of.low)} to {sign(of.high)}"


Points = dict[tuple[str, float | None], list[tuple[float, float, float]]]


def _levels(key: str, outcome: Outcome) -> Iterable[Chart]:
    """Micro-F1 over the keep ratio, one chart for each kind of labels."""
    for i, labels in enumerate(outcome.labels):
        points: Points = {}
        for one in outcome.of_labels(labels):
            level = one.estimate("micro_f1")
            if one.arm.is_rule and one.arm.keep_ratio is not None and level is not None:
                half = math.nan if level.half_width is None else level.half_width
                at = (100 * one.arm.keep_ratio, level.mean, half)
                points.setdefault((one.arm.rule, one.arm.alpha), []).append(at)
        if any(len(of) > 1 for of in points.values()):
            names = ("micro-F1", "keep ratio, %")
            yield _line_chart(f"{key}-level{i}", names, outcome, labels, points)


def _curves(key: str, outcome: Outcome) -> Iterable[Chart]:
    """Curves at the keep ratio nearest 10 % and of references, by kind of labels."""
    keep = min(outcome.keep_ratios, key=lambda ratio: abs(ratio - 0.1), default=None)
    kinds = enumerate(outcome.labels or [(None, None)])
    for (i, labels), (name, y_label) in itertools.product(kinds, _CURVES):
        points: Points = {}
        for one in outcome.of_labels(labels):
            of = block_means(one.curve(name), _CURVE_POINTS)
            shared = not one.arm.is_rule and one.arm.keep_ratio in (1.0, None)
            # One point, that of the end, is no curve.
            if len(of) > 1 and (shared or one.arm.keep_ratio == keep):
                at = [(x, y, math.nan) for x, y in of]
                points[one.arm.rule, one.arm.alpha] = at
        if points:
            names = (y_label, "updates")
            yield _line_chart(f"{key}-{name}{i}", names, outcome, labels, points)


def _line_chart(
    key: str, names: tuple[str, str], outcome: Outcome, labels: Labels, points: Points
) -> Chart:
    """A chart of (x, y, half-width) by rule and alpha, with the names of y and x."""
    from paper_figures import page

    looks = {}
    for rules in (True, False):
        kinds = [
            (of.arm.rule, of.arm.alpha)
            for of in outcome.arms
            if of.arm.is_rule == rules
        ]
        looks |= {kind: (i, not rules) for i, kind in enumerate(dict.fromkeys(kinds))}
    curves = []
    for (rule, alpha), at in points.items():
        name = visible(NAMES.get(rule, rule))
        if sum(rule == other for other, _ in looks) > 1:
            name = f"{name}, alpha {alpha:g}"
        x, y, half = zip(*at, strict=True)
        curves.append(page.Curve(name, x, y, half, *looks[rule, alpha]))
    title = f"{names[0]} over {names[1].removesuffix(', %')}"
    if len(outcome.labels) > 1:
        title = f"{title}, {labels_name(*labels)}"
    values = [{x: y for x, y, _ in of} for of in points.values()]
    rows = [
        [f"{x:g}", *(num(of.get(x)) for of in values)]
        for x in sorted(set().union(*values))
    ]
    header = [names[1], *(curve.name for curve in curves)]
    numbers = Table(f"{outcome.world}: {title}", header, rows)
    described = ", ".join(f"{of.name} ends at {num(of.y[-1])}" for of in curves)
    draw = page.learning if names[1] == "updates" else page.levels
    return chart_of(key, title, draw(curves, names[0]), described, numbers)


def block_means(
    points: Sequence[tuple[float, float]], limit: int
) -> list[tuple[float, float]]:
    """At most ``limit`` points: the mean x and y of equally long runs of points."""
    size = max(1, math.ceil(len(points) / limit))
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block))
        for block in blocks
    ]


def _distributions(key: str, world: str, corpus: WorldCorpus) -> Iterable[Chart]:
    from paper_figures import page

    bis = corpus.subsets["bis"]
    kept_by = f"BIS {share(bis.options.keep_ratio)}"
    for name, bins in (
        ("reliability R", reliability_bins(corpus, bis)),
        ("label mixture p(1−p)", mixture_bins(corpus, bis)),
    ):
        cells = (
            bins.labels,
            map(count, bins.total),
            map(count, bins.kept),
            (share(of, 1) for of in bins.coverage),
        )
        rows = list(zip(*cells, strict=True))
        header = ("value", "all", "kept", "coverage")
        numbers = Table(f"{world}: {name}, all and {kept_by}", header, rows)
        described = "; ".join(f"{label}: {of} of {all_}" for label, all_, of, _ in rows)
        figure = page.distribution(*bins, name, kept_by)
        yield chart_of(f"{key}-{name[0]}", name, figure, described, numbers)


_STATISTICS = (
    ("rollouts", "rollouts", count),
    ("steps", "steps", count),
    ("steps per rollout", "steps_per_rollout", num, 2),
    ("words per step", "words_per_step", num, 1),
    ("error-step ratio (K = 0)", "error_step_ratio", share, 2),
    ("mean MC score per step", "mean_mc", num, 4),
    ("mixed rollouts", "mixed_share", share, 2),
    ("all-negative rollouts", "all_negative_share", share, 2),
    ("positive steps wrong in truth", "pseudo_positive_share", share, 2),
)


def _corpora(worlds: Sequence[WorldPart]) -> Table:
    """The corpora whose truth is known, if any, beside the paper's."""
    known = {of.outcome.world: of.facts for of in worlds if of.facts is not None}
    found = {"paper": paper.FULL_DATA._asdict(), **known}
    rows = [
        [title, *(form(of.get(key), *args) for of in found.values())]
        for title, key, form, *args in _STATISTICS
    ]
    caption = "Label statistics; the paper’s are its Table 1, full data."
    return Table(caption, ["statistic", *found], rows if known else [])


def write_report(folder: Path, output: Path | None = None) -> Report:
    """Write the page of a run, ``folder/report.html`` by default, and its manifest.

    Raises:
        DataError: as :func:`gather`, or the page cannot be written.
    """
    output = output or folder / "report.html"
    report = gather(folder)
    page = render(report).encode()
    with OutputSet() as outputs:
        file = outputs.add(output)
        file.write(page)
        manifest = {"versions": versions(), "inputs": report.inputs}
        manifest |= {"output": file.facts(), "answers": report.answers}
        manifest |= {"damaged": list(report.run.damaged)}
        outputs.add_manifest(manifest_path(output), manifest)
    return report


def render(report: Report) -> str:
    """The page as HTML; the same report gives the same text."""
    return page_template("report.html.j2").render(
        report=report, names=NAMES, paper=paper
    )
