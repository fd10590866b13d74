"""What each corpus model predicts of the paper's tables, side by side."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.command import answer
from experiments.console.tables import format_table
from experiments.console.text import count_of
from experiments.store.experiment import SizedOptions, complete
from theory.paper import FULL_DATA
from theory.rollouts import Rollouts
from theory.scores import bis, label_mixture, reliability
from theory.selection import select
from theory.summary import summarise

if TYPE_CHECKING:
    from sim.corpus.laws import CorpusModel

NAME = "corpus_models"

SCALES = {"small": 0.1, "full": 1.0}

# Figure 3: coverage = selected / all in each bin. R = 1 and p(1 - p) = 0 stand alone.
R_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MIXTURE_EDGES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
# BIS is at most (1/4 + alpha) R.
BIS_EDGES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


class Options(SizedOptions):
    """What do corpus models predict that they were not fitted to?

    Six models that know each source's mean MC score, rollouts and steps, the error-step
    ratio and the mixed share, as far as they can meet them. Predicted: the columns of
    Table 1 for Low-MC-25 % and Mixed-25 %, coverage of BIS-25 % over R and over
    p(1-p), and the share of its picks that ties decide.

    Example: mprm run corpus_models --size full
    """


OPTIONS = Options


def describe_model(model: CorpusModel, scale: float, seed: int) -> dict[str, Any]:
    """Everything that is compared, of one sampled corpus."""
    from sim.corpus.draw import sample
    from sim.corpus.sources import PAPER_SOURCES

    rng = np.random.default_rng(seed)
    rollouts = sample(model, PAPER_SOURCES, rng, scale)
    content = rng.integers(0, 2**64, rollouts.n_rollouts, np.uint64, endpoint=False)
    chosen = {
        rule: select(rollouts, rule, 0.25, content)
        for rule in ("low-mc", "mixed", "bis")
    }
    table = {"full": summary_columns(rollouts)} | {
        f"{rule} 25 %": summary_columns(rollouts.take(selection.rows))
        for rule, selection in chosen.items()
    }
    rows = chosen["bis"].rows
    return {
        "table": table,
        "coverage_R": coverage(reliability(rollouts), rows, R_EDGES),
        "coverage_mixture": coverage(label_mixture(rollouts), rows, MIXTURE_EDGES),
        "per_source": per_source(rollouts),
        "bis_tied_share": chosen["bis"].tied_share,
        "bis_not_mixed": 1 - summarise(rollouts.take(rows)).mixed_share,
    }


def summary_columns(rollouts: Rollouts) -> dict[str, float]:
    """The columns of Table 1, and the mixed share."""
    summary = summarise(rollouts)
    return {name: getattr(summary, name) for name in _COLUMNS}


def per_source(rollouts: Rollouts) -> dict[str, dict[str, Any]]:
    """Histograms of BIS, R and the mixture of every source (Fig. 10-12).

    Returns:
        per source its mean MC score, and per score the counts of the bins of
        :func:`coverage`.
    """
    scored = {
        "BIS": (bis(rollouts), BIS_EDGES),
        "R": (reliability(rollouts), R_EDGES),
        "mixture": (label_mixture(rollouts), MIXTURE_EDGES),
    }
    found = {}
    for i, name in enumerate(rollouts.source_names):
        rows = np.flatnonzero(rollouts.source == i)
        found[name] = {"mean_mc": summarise(rollouts.take(rows)).mean_mc} | {
            kind: coverage(values, rows, edges)["selected"]
            for kind, (values, edges) in scored.items()
        }
    return found


def coverage(
    values: np.ndarray, rows: np.ndarray, edges: tuple[float, ...]
) -> dict[str, list[float]]:
    """Selected over all per bin, open below at the first edge and closed above.

    Returns:
        ``edges``, and ``all``, ``selected`` and ``coverage`` per bin ``(a, b]``; the
        first bin holds its lower edge, and a last one of its own what equals the top
        edge.
    """
    inner = np.array(edges[:-1])
    # Values equal to the top edge are a group of their own, not the end of a bin.
    place = np.where(
        values >= edges[-1], len(inner), np.searchsorted(inner, values, "left") - 1
    )
    place = np.maximum(place, 0)
    everything = np.bincount(place, minlength=len(inner) + 1)
    selected = np.bincount(place[rows], minlength=len(inner) + 1)
    return {
        "edges": list(edges),
        "all": everything.tolist(),
        "selected": selected.tolist(),
        "coverage": (selected / np.maximum(everything, 1)).tolist(),
    }


def run(options: Options) -> None:
    """Run what is missing, and print the predictions."""
    from sim.corpus.calibrate import PAPER_MODELS

    scale = SCALES[options.size]
    configs = [{"model": name, "scale": scale} for name in PAPER_MODELS]

    def describe(chosen: list[int]) -> list[dict[str, Any]]:
        models = [PAPER_MODELS[configs[i]["model"]] for i in chosen]
        return [describe_model(model, scale, options.seed) for model in models]

    results, ran = complete(options, NAME, configs, describe)
    models = {result.config["model"]: result.metrics for result in results}
    value = {"experiment": NAME, "ran": ran, "models": models}
    done = (
        f"{count_of(ran, 'model')} run, {len(results)} in the store: {options.output}"
    )
    answer(options.json, value, lambda: f"{_text(models)}\n\n{done}")


# Columns of the table, and how each is printed. Table 1 has them for all data; of the
# predicted subsets nothing is published here.
_COLUMNS = {
    "error_step_ratio": "{:.2%}",
    "mean_mc": "{:.3f}",
    "steps_per_rollout": "{:.2f}",
    "mixed_share": "{:.2%}",
}


def _text(models: dict[str, dict[str, Any]]) -> str:
    rows = []
    for subset in ("full", "low-mc 25 %", "mixed 25 %"):
        for name, form in _COLUMNS.items():
            values = [form.format(m["table"][subset][name]) for m in models.values()]
            of_all = form.format(getattr(FULL_DATA, name))
            published = of_all if subset == "full" else ""
            rows.append((f"{subset}: {name}", *values, published))
    for name in ("bis_tied_share", "bis_not_mixed"):
        rows.append((name, *(f"{m[name]:.1%}" for m in models.values()), ""))
    parts = [format_table(("", *models, "paper"), rows)]
    parts += ["Coverage of BIS-25 %, selected / all; - where the model has no rollout:"]
    for key, name in (("coverage_R", "R"), ("coverage_mixture", "p(1-p)")):
        parts += [format_table((name, *models), _coverage_rows(models, key))]
    return "\n\n".join(parts)


def _coverage_rows(models: dict[str, dict[str, Any]], key: str) -> list[list[str]]:
    """A row per bin of :func:`coverage`, a column per model."""
    tables = [metrics[key] for metrics in models.values()]
    edges = tables[0]["edges"]
    bins = [
        f"{'(' if i else '['}{low:g}, {high:g}{']' if high < edges[-1] else ')'}"
        for i, (low, high) in enumerate(pairwise(edges))
    ]
    return [
        [label, *(f"{t['coverage'][i]:.1%}" if t["all"][i] else "-" for t in tables)]
        for i, label in enumerate([*bins, f"{edges[-1]:g}"])
    ]
