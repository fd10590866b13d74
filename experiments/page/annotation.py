"""The page of a plan: what is continued where, and what is expected of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.page.html import (
    Chart,
    Made,
    chart_of,
    count,
    num,
    tabulate,
    text,
    write_page,
)

_PARTS = (
    ("part of rollout", "part", text),
    ("steps", "steps", count),
    ("K = 0", "zero", count),
    ("continued", "continued", count),
    ("continuations", "continuations", count),
    ("expected flips", "flips", num, 1),
)
_COUNTS = (("K/N today", "part", text), _PARTS[1], *_PARTS[3:5])
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
    output: Path, corpus: str, value: dict[str, Any], made: Made
) -> None:
    """Write the page.

    Args:
        output: of the page.
        corpus: its name.
        value: the JSON object of the command.
        made: by which command, of what.

    Raises:
        DataError: it cannot be written.
    """

    def charts() -> dict[str, Chart | None]:
        titles = {"parts": "place", "scores": "K/N today"}
        return {key: _drawn(key, of, value[key]) for key, of in titles.items()}

    expected = [{"name": _NAMES[name], **of} for name, of in value["expected"].items()]
    write_page(
        output,
        "annotation.html.j2",
        charts,
        made,
        corpus=corpus,
        value=value,
        parts=tabulate("By place in the rollout.", value["parts"], _PARTS),
        scores=tabulate("By share of successes.", value["scores"], _COUNTS),
        expected=tabulate("What the plan is worth.", expected, _EXPECTED),
    )


def _drawn(key: str, by: str, parts: list[dict[str, Any]]) -> Chart:
    from paper_figures.page import Term, terms

    means = [of["continuations"] / max(of["steps"], 1) for of in parts]
    rows = [
        Term(of["part"], f"{mean:.2f}", mean, None)
        for of, mean in zip(parts, means, strict=True)
    ]
    told = ", ".join(f"{row.label} {row.told}" for row in rows)
    title = f"Continuations per step, by {by}"
    return chart_of(key, title, terms(rows, "continuations per step"), told)
