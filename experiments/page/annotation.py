"""The page of a plan: what is continued where, and what is expected of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.page.html import (
    Chart,
    chart_of,
    count,
    num,
    page_template,
    tabulate,
    text,
)
from experiments.store.provenance import versions
from mprm_jax.data.outputs import OutputSet

_PARTS = (
    ("part of rollout", "part", text),
    ("steps", "steps", count),
    ("K = 0", "zero", count),
    ("continued", "continued", count),
    ("continuations", "continuations", count),
    ("expected flips", "flips", num, 1),
)
_COUNTS = (
    ("K/N today", "part", text),
    ("steps", "steps", count),
    ("continued", "continued", count),
    ("continuations", "continuations", count),
)
_EXPECTED = (
    ("expected", "name", text),
    ("by this plan", "plan", num, 2),
    ("spread evenly", "even", num, 2),
)
_NAMES = {
    "flip": "hard labels that flip",
    "information": "variance of right or wrong that is settled",
}


def write_plan_page(
    output: Path, corpus: str, command: str, value: dict[str, Any]
) -> None:
    """Write the page.

    Args:
        output: of the page.
        corpus: its name.
        command: that made the plan.
        value: the JSON object of the command.

    Raises:
        DataError: it cannot be written.
    """
    import matplotlib as mpl

    from paper_figures.page import SETTINGS

    with mpl.rc_context(SETTINGS):
        charts = [
            _drawn("parts", "Continuations per step, by place", value["parts"]),
            _drawn("scores", "Continuations per step, by K/N today", value["scores"]),
        ]
    expected = [{"name": _NAMES[name], **of} for name, of in value["expected"].items()]
    page = page_template("annotation.html.j2").render(
        corpus=corpus,
        command=command,
        value=value,
        charts=charts,
        parts=tabulate("By place in the rollout.", value["parts"], _PARTS),
        scores=tabulate("By share of successes.", value["scores"], _COUNTS),
        expected=tabulate("What the plan is worth.", expected, _EXPECTED),
        versions=versions(),
    )
    with OutputSet() as outputs:
        outputs.add(output).write(page.encode())


def _drawn(key: str, title: str, parts: list[dict[str, Any]]) -> Chart:
    from paper_figures.page import Term, terms

    means = [of["continuations"] / max(of["steps"], 1) for of in parts]
    rows = [
        Term(of["part"], f"{mean:.2f}", mean, None)
        for of, mean in zip(parts, means, strict=True)
    ]
    told = ", ".join(f"{row.label} {row.told}" for row in rows)
    return chart_of(key, title, terms(rows, "continuations per step"), told)
