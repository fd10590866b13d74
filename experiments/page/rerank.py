"""The page of a reranking: ways to choose, accuracy over N, stopping early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.page.html import (
    Chart,
    Made,
    Table,
    chart_of,
    count,
    ends_of,
    num,
    share,
    sign,
    tabulate,
    text,
    write_page,
)
from experiments.store.judging import CHOICES, STOPS
from mprm_jax.rerank import AGGREGATES, WAYS

_BOUNDS = ("random", "pass_at_n")


def write_reranked(output: Path, value: dict[str, Any], file: Path, made: Made) -> None:
    """Write the page.

    Args:
        output: the file.
        value: the JSON object of the command.
        file: the candidates.
        made: by which command.

    Raises:
        DataError: it cannot be written.
    """
    early = value.get("adaptive")

    def charts() -> dict[str, Chart | None]:
        votes = ("mean", "majority", "weighted_majority")
        return {
            "aggregates": _curve(value, "aggregates", "Best candidate", AGGREGATES),
            "votes": _curve(value, "votes", "Votes", votes),
            "frontier": early and _frontier(early),
        }

    write_page(
        output,
        "rerank.html.j2",
        charts,
        made,
        value=value,
        file=file,
        choices=_choices(value),
        stops=early and _stops(early),
        sources=_sources(value),
        best=max((how for how in WAYS if how != "pass_at_n"), key=_or_none(value)),
        names=CHOICES,
    )


def _or_none(value: Mapping[str, Any]) -> Any:
    return lambda how: -1 if value[how] is None else value[how]


def _choices(value: dict[str, Any]) -> Table:
    ends = value.get("intervals", {})
    items = [
        {"name": name, "accuracy": value[how], "ends": ends_of(ends.get(how))}
        | {"tied": value["tied"].get(how)}
        | {key: value[key].get(how) for key in ("gain", "gain_over_majority")}
        | {
            f"{key}_ends": ends_of(ends.get(key, {}).get(how), sign)
            for key in ("gain", "gain_over_majority")
        }
        for how, name in CHOICES.items()
    ]
    columns = (
        ("choice", "name", text),
        ("accuracy", "accuracy", num),
        ("95 %", "ends", text),
        ("less random", "gain", sign),
        ("95 % of it", "gain_ends", text),
        ("less majority", "gain_over_majority", sign),
        ("95 % of that", "gain_over_majority_ends", text),
        ("tied problems", "tied", count),
    )
    return tabulate("Among all candidates.", items, columns, "accuracy")


def _curve(value: dict[str, Any], key: str, title: str, ways: Sequence[str]) -> Chart:
    from paper_figures import page

    curve, ends = value["curve"], value.get("intervals", {}).get("curve", {})
    shown = [how for how in (*ways, *_BOUNDS) if how in curve]
    curves = []
    for look, how in enumerate(shown):
        y = [np.nan if one is None else one for one in curve[how]]
        around = ends.get(how, [None] * len(y))
        sides = [(np.nan, np.nan) if of is None else of for of in around]
        half = np.abs(np.array(sides).T - y)
        grey = how in _BOUNDS
        curves.append(page.Curve(CHOICES[how], curve["n"], y, half, look, grey))
    figure = page.lines(curves, "candidates N", "accuracy")
    figure = page.by_doublings(figure, curve["n"])
    items = [
        {"n": n} | {how: curve[how][i] for how in shown}
        for i, n in enumerate(curve["n"])
    ]
    columns = (
        ("N", "n", count),
        *((CHOICES[how], how, num) for how in shown),
    )
    numbers = tabulate("Exact means over all sets of N.", items, columns)
    told = "; ".join(f"{CHOICES[how]} {num(curve[how][-1])}" for how in shown)
    told = f"among all: {told}"
    return chart_of(key, f"{title}: accuracy among N", figure, told, numbers)


def _stops(early: dict[str, Any]) -> Table:
    items = [
        {"name": name}
        | of
        | {
            "change_ends": ends_of(ends.get("change"), sign),
            "cost_ends": ends_of(ends.get("cost"), lambda x: share(x, 1)),
        }
        for rule, name in STOPS.items()
        if (of := early["rules"][rule]) is not None
        for ends in [of["intervals"] or {}]
    ]
    columns = (
        ("stop at", "name", text),
        ("accuracy", "accuracy", num),
        ("less all", "change", sign),
        ("95 %", "change_ends", text),
        ("candidates", "drawn", num, 2),
        (f"share of {early['unit']}", "cost", share, 1),
        ("95 % of it", "cost_ends", text),
    )
    caption = "As accurate as taking the best mean of all, by the other half."
    return tabulate(caption, items, columns, f"share of {early['unit']}")


def _frontier(early: dict[str, Any]) -> Chart:
    from paper_figures import page

    rules = {
        rule: early["rules"][rule]["frontier"]
        for rule in STOPS
        if early["rules"][rule] is not None
    }
    curves = []
    for look, (rule, points) in enumerate(rules.items()):
        x, y = [of["cost"] for of in points], [of["accuracy"] for of in points]
        curves.append(page.Curve(STOPS[rule], x, y, [np.nan] * len(x), look + 1))
    whole, level = [0.0, 1.0], [early["accuracy"]] * 2
    curves.append(page.Curve("best of all", whole, level, [np.nan] * 2, 0, True))
    unit = early["unit"]
    figure = page.lines(curves, f"share of all {unit}", "accuracy")
    items = [
        {"budget": at[0]["budget"]}
        | {rule: of["accuracy"] for rule, of in zip(rules, at, strict=True)}
        | {f"{rule}_cost": of["cost"] for rule, of in zip(rules, at, strict=True)}
        for at in zip(*rules.values(), strict=True)
    ]
    columns = [("budget", "budget", share, 1)]
    for rule in rules:
        columns += [
            (f"{STOPS[rule]}: accuracy", rule, num),
            (f"{STOPS[rule]}: spent", f"{rule}_cost", share, 1),
        ]
    caption = f"Most accurate within a budget, as a share of all {unit}."
    numbers = tabulate(caption, items, columns)
    told = "; ".join(
        f"{STOPS[rule]} {num(at['accuracy'])} for {share(at['cost'], 0)}"
        for rule, points in rules.items()
        for at in points[3:4]
    )
    title = "Accuracy against what is spent"
    return chart_of("frontier", title, figure, told or title, numbers)


def _sources(value: dict[str, Any]) -> Table:
    items = [{"name": name} | of for name, of in value["per_source"].items()]
    columns = (
        ("source", "name", text),
        ("problems", "problems", count),
        *((name, how, num) for how, name in CHOICES.items()),
    )
    return tabulate("By source, among all candidates.", items, columns)
