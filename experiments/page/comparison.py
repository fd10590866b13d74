"""The page of a comparison: differences, and the curves of both models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.page.evaluation import position_chart, risk_chart
from experiments.page.html import (
    Made,
    Table,
    chance,
    chart_of,
    ends_of,
    num,
    sign,
    tabulate,
    text,
    write_page,
)
from experiments.store.judging import METRIC_NAMES
from mprm_jax.compare import Pair
from mprm_jax.summary import evaluation


def write_comparison(
    output: Path, pair: Pair, value: dict[str, Any], made: Made
) -> None:
    """Write the page.

    Args:
        output: the file.
        pair: the scores that were compared.
        value: the JSON object of the command.
        made: by which command, of what.

    Raises:
        DataError: it cannot be written.
    """
    from paper_figures import page

    models = {
        letter: evaluation(steps, decision, replicates=0).as_json()
        for letter, steps, decision in zip("AB", pair[:2], pair.thresholds, strict=True)
    }
    told = {k: of for k, of in value["metrics"].items() if of["difference"] is not None}

    def charts() -> dict[str, Any]:
        rows = [
            page.Term(
                METRIC_NAMES[key],
                sign(of["difference"]),
                of["difference"],
                of["interval"] and of["interval"][1] - of["difference"],
            )
            for key, of in told.items()
        ]
        spoken = ", ".join(
            f"{METRIC_NAMES[k]} {sign(of['difference'])}" for k, of in told.items()
        )
        figure = page.differences(rows, "B less A, 95 %")
        return {
            "differences": rows
            and chart_of("differences", "Differences of the metrics", figure, spoken),
            "risk": risk_chart(models),
            "positions": position_chart(models, "auroc"),
        }

    tables = [_table("All sources together.", value["metrics"], "micro-F1")]
    tables += [
        _table(f"Source {name}.", of, "macro-F1")
        for name, of in value["sources"].items()
    ]
    write_page(output, "comparison.html.j2", charts, made, value=value, tables=tables)


def _table(caption: str, metrics: dict[str, dict[str, Any]], first: str) -> Table:
    """A row per metric, of which ``first`` is what micro-F1 is called here."""
    names = METRIC_NAMES | {"micro_f1": first}
    items = [
        of | {"name": names[key], "ends": ends_of(of["interval"], sign)}
        for key, of in metrics.items()
    ]
    columns = (
        ("metric", "name", text),
        ("A", "first", num),
        ("B", "second", num),
        ("B less A", "difference", sign),
        ("95 %", "ends", text),
        ("p (Holm)", "adjusted_p", chance),
    )
    return tabulate(caption, items, columns, "B less A")
