"""Charts as inline SVG: pure functions from numbers to markup.

Colours and dashes are classes that the page's style sheet fills in, for light, dark and
print; every series also differs by dash or fill, so that the charts survive a grey
printer. Texts are escaped here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from experiments.console.text import number, signed, visible
from experiments.grid.answer import Estimate
from experiments.page.corpus import Bin

# Drawn for a narrow phone at its own size; wider screens enlarge a little.
WIDTH = 360
# A character of a label, on the wide side: the style sheet's 10.5 px in a font of broad
# letters, as which one a screen takes is not known here.
_CHARACTER = 6.3
_LINE = 12.0
# Of a label beside a chart; what is longer goes on in a further line, never cut off.
_LONGEST_LABEL = 21
_KNOWN = ("random", "bis", "mixed", "low-mc", "reliable", "full", "clean", "base")


@dataclass(frozen=True)
class Series:
    """One line: ``arm`` decides its style, points are (x, y) with x ascending."""

    label: str
    arm: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Difference:
    """One row of a difference chart; None where nothing can be compared."""

    label: str
    estimate: Estimate | None


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers within [low, high], steps of 1, 2 or 5 x 10^k."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2 and 5 x 10^k within [low, high], 0 < low <= high."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    values = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _tick_texts(values: Sequence[float]) -> list[str]:
    """Labels with as many decimals as the finest tick needs."""
    steps = [b - a for a, b in pairwise(values)]
    digits = max(0, -math.floor(math.log10(min(steps)) + 1e-9)) if steps else 2
    return [number(value, digits) for value in values]


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> Markup:
    # One accessible name and no ids, so that any number of charts share a page.
    return Markup(
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height:g}" '
        f'aria-label="{escape(visible(f"{title}. {description}"))}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
        f"{escape(visible(text))}</text>"
    )


def _lines(label: str) -> list[str]:
    """A label in lines short enough to stand beside a chart, broken after a comma where
    that is enough.
    """
    whole = ", ".join(
        part.replace(" ", "\N{NO-BREAK SPACE}") if len(part) < _LONGEST_LABEL else part
        for part in visible(label).split(", ")
    )
    return textwrap.wrap(whole, _LONGEST_LABEL, break_on_hyphens=False) or [""]


def _label(x: float, y: float, lines: Sequence[str]) -> str:
    """Lines that end at x, centred about y."""
    first = y + 3.5 - _LINE * (len(lines) - 1) / 2
    spans = "".join(
        f'<tspan x="{x:.1f}" y="{first + _LINE * i:.1f}">{escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    return f'<text class="name" text-anchor="end">{spans}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'class="{kind}"/>'
    )


def _bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{max(height, 0):.1f}" class="{kind}"/>'
    )


def series_class(arm: str) -> str:
    """Style class of an arm; unknown ones share one."""
    return f"s-{arm}" if arm in _KNOWN else "s-other"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in their order, at least ``gap`` apart and within
    [low, high] where there is room.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = floor = max(wanted[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


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


def line_chart(
    series: Sequence[Series], title: str, x_label: str, y_label: str
) -> Markup:
    """Lines over updates, each named at its end.

    Where the longest line is over four times as long as the shortest, the updates are
    on a logarithmic scale, so that the short ones can be read, too.
    """
    left, top, bottom = 40.0, 22.0, 34.0
    height = 250.0
    series = [one for one in series if one.points]
    longest = max((len(one.label) for one in series), default=0)
    right = max(80.0, 28 + _CHARACTER * min(longest, _LONGEST_LABEL + 4))
    xs = [x for one in series for x, _ in one.points] or [0.0, 1.0]
    ys = [y for one in series for _, y in one.points] or [0.0, 1.0]
    lasts = [one.points[-1][0] for one in series] or [1.0]
    logarithmic = min(xs) > 0 and max(lasts) > 4 * min(lasts)
    x_low, x_high = min(xs) if logarithmic else min(0.0, *xs), max(xs)
    x_high = max(x_high, x_low + 1e-9)
    margin = 0.05 * (max(ys) - min(ys)) or 0.05
    y_low, y_high = min(ys) - margin, max(ys) + margin

    def px(x: float) -> float:
        along = (x - x_low) / (x_high - x_low)
        if logarithmic:
            along = math.log(x / x_low) / math.log(x_high / x_low)
        return left + (WIDTH - left - right) * along

    def py(y: float) -> float:
        return (
            height - bottom - (height - top - bottom) * (y - y_low) / (y_high - y_low)
        )

    parts = [_text(4, 12, y_label, "axis", "start")]
    values = ticks(y_low, y_high)
    for value, text in zip(values, _tick_texts(values), strict=True):
        parts.append(_line(left, py(value), WIDTH - right, py(value), "grid"))
        parts.append(_text(left - 5, py(value) + 3.5, text, "tick", "end"))
    values = log_ticks(x_low, x_high) if logarithmic else ticks(x_low, x_high, 4)
    for value in values:
        parts.append(_text(px(value), height - bottom + 14, f"{value:g}", "tick"))
    if logarithmic:
        x_label = f"{x_label}, logarithmic"
    parts.append(
        _line(left, height - bottom, WIDTH - right, height - bottom, "baseline")
    )
    middle = (left + WIDTH - right) / 2
    parts.append(_text(middle, height - 4, x_label, "axis"))
    ends = [py(one.points[-1][1]) for one in series]
    labels = spread(ends, 12.5, top, height - bottom)
    # BIS and Random, the comparison in question, are drawn over the others.
    on_top = ("random", "bis")
    drawn = zip(series, ends, labels, strict=True)
    for one, end, label in sorted(drawn, key=lambda item: item[0].arm in on_top):
        kind = series_class(one.arm)
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in one.points)
        parts.append(f'<polyline points="{points}" class="series {kind}"/>')
        last = px(one.points[-1][0])
        parts.append(_line(last + 2, end, WIDTH - right + 9, label, "leader"))
        parts.append(_line(WIDTH - right + 9, label, WIDTH - right + 23, label, kind))
        parts.append(_text(WIDTH - right + 26, label + 3.5, one.label, "name", "start"))
    names = ", ".join(
        f"{one.label} ends at {number(one.points[-1][1])}" for one in series
    )
    return _svg(title, f"{y_label} over {x_label}: {names}", height, parts)


def distribution_chart(
    bins: Sequence[Bin], title: str, x_label: str, subset: str
) -> Markup:
    """Above, the share of all rollouts and of a subset in each bin; below, coverage:
    the share of the bin's rollouts that the subset holds (as the paper's Fig. 3).
    """
    left, right, gap = 34.0, 14.0, 10.0
    top, upper, between, lower = 38.0, 120.0, 56.0, 70.0
    total = sum(one.total for one in bins) or 1
    kept = sum(one.kept for one in bins) or 1
    highest = max(max(one.total / total, one.kept / kept) for one in bins) or 1.0
    width = (WIDTH - left - right - gap) / len(bins)
    starts, x = [], left
    for i, one in enumerate(bins):
        # A bin of one value stands apart from the ranges.
        if i and (one.low == one.high) != (bins[i - 1].low == bins[i - 1].high):
            x += gap
        starts.append(x)
        x += width
    base, floor = top + upper, top + upper + between + lower
    parts = [
        _bar(left, 2, 9, 9, "all"),
        _text(left + 13, 10, "all rollouts", "name", "start"),
        _bar(left + 84, 2, 9, 9, "kept"),
        _text(left + 97, 10, f"kept by {subset}", "name", "start"),
        _text(4, top - 8, "share of the set, %", "axis", "start"),
        _text(4, base + between - 19, "coverage: kept / all, %", "axis", "start"),
    ]
    for value in ticks(0, highest, 4):
        y = base - upper * value / highest
        parts.append(_line(left, y, WIDTH - right, y, "grid"))
        parts.append(_text(left - 4, y + 3.5, f"{100 * value:g}", "tick", "end"))
    for value in (0, 0.5, 1):
        y = floor - lower * value
        parts.append(_line(left, y, WIDTH - right, y, "grid"))
        parts.append(_text(left - 4, y + 3.5, f"{100 * value:g}", "tick", "end"))
    inner = width - 3
    for one, x in zip(bins, starts, strict=True):
        for share, kind, offset in (
            (one.total / total, "all", 1.5),
            (one.kept / kept, "kept", 1.5 + inner / 2),
        ):
            tall = upper * share / highest
            parts.append(_bar(x + offset, base - tall, inner / 2, tall, kind))
        coverage = one.coverage
        tall = lower * (coverage or 0)
        parts.append(_bar(x + 1.5, floor - tall, inner, tall, "coverage"))
        text = "–" if coverage is None else f"{100 * coverage:.0f}"
        parts.append(_text(x + width / 2, floor - tall - 3, text, "value"))
    for y in (base, floor):
        parts.append(_line(left, y, WIDTH - right, y, "baseline"))
        parts += _edges(bins, starts, width, y + 12)
    parts.append(_text((left + WIDTH) / 2, floor + 26, x_label, "axis"))
    described = "; ".join(
        f"{one.label}: {one.kept} of {one.total}" for one in bins if one.total
    )
    return _svg(title, f"Kept of all rollouts by bin: {described}", floor + 32, parts)


def _edges(
    bins: Sequence[Bin], starts: Sequence[float], width: float, y: float
) -> list[str]:
    every = 2 if len(bins) > 8 else 1
    ranges = [i for i, one in enumerate(bins) if one.low < one.high]
    marks = [
        (starts[i], bins[i].low) for n, i in enumerate(ranges) if n % every == 0
    ] + [(starts[ranges[-1]] + width, bins[ranges[-1]].high)]
    # An end of the ranges that has a bin of its own beside it is named there.
    single = {one.low for one in bins if one.low == one.high}
    parts = [
        _text(x, y, f"{value:g}", "tick") for x, value in marks if value not in single
    ]
    for one, x in zip(bins, starts, strict=True):
        if one.low == one.high:
            parts.append(_text(x + width / 2, y, f"= {one.low:g}", "tick"))
    return parts


def difference_chart(rows: Sequence[Difference], title: str, x_label: str) -> Markup:
    """Differences with their intervals about a line at zero; a filled mark where the
    interval excludes zero.

    Labels stand in full to the left, in as many lines as they need; the longest sets
    where the scale begins.
    """
    right, top = 56.0, 8.0
    labels = [_lines(row.label) for row in rows]
    longest = max((len(line) for lines in labels for line in lines), default=0)
    left = 12 + _CHARACTER * longest
    heights = [_LINE * len(lines) + 10 for lines in labels]
    known = [row.estimate for row in rows if row.estimate is not None]
    ends = [
        end for e in known for end in (e.mean, e.low, e.high) if end is not None
    ] or [0.0]
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = 0.06 * (high - low) or 0.01
    low, high = low - margin, high + margin
    bottom = top + sum(heights)

    def px(x: float) -> float:
        return left + (WIDTH - left - right) * (x - low) / (high - low)

    parts = []
    values = ticks(low, high, int((WIDTH - left - right) / 42))
    for value, text in zip(values, _tick_texts(values), strict=True):
        parts.append(_line(px(value), top, px(value), bottom, "grid"))
        parts.append(_text(px(value), bottom + 13, text, "tick"))
    parts.append(_line(px(0), top, px(0), bottom, "zero"))
    described = []
    below = top
    for row, lines, height in zip(rows, labels, heights, strict=True):
        y, below = below + height / 2, below + height
        e = row.estimate
        told = f"{row.label} {'–' if e is None else signed(e.mean)}"
        described.append(told)
        parts.append(f"<g><title>{escape(visible(told))}</title>")
        parts.append(f"{_label(left - 8, y, lines)}</g>")
        if e is None:
            parts.append(_text(WIDTH - 2, y + 3.5, "–", "value", "end"))
            continue
        if e.low is not None and e.high is not None:
            parts.append(_line(px(e.low), y, px(e.high), y, "whisker"))
        mark = "mark sure" if e.excludes_zero else "mark"
        parts.append(
            f'<circle cx="{px(e.mean):.1f}" cy="{y:.1f}" r="4" class="{mark}"/>'
        )
        parts.append(_text(WIDTH - 2, y + 3.5, signed(e.mean), "value", "end"))
    parts.append(_text((left + WIDTH - right) / 2, bottom + 29, x_label, "axis"))
    return _svg(title, "; ".join(described), bottom + 35, parts)


def count_bar(successes: int, trials: int) -> Markup:
    """K of N as a filled bar; decoration beside the printed numbers."""
    filled = 100 * successes / trials if trials else 0
    return Markup(
        '<svg class="kbar" viewBox="0 0 100 8" preserveAspectRatio="none" '
        f'aria-hidden="true"><rect width="100" height="8" class="all"/>'
        f'<rect width="{filled:.4g}" height="8" class="kept"/></svg>'
    )


def step_strip(counts: Sequence[tuple[int, int, int]]) -> Markup:
    """The steps of a rollout as bars of height K/N, a cross below those that are wrong
    in truth; decoration beside the table of steps.

    Args:
        counts: (K, N, truth) of each step.
    """
    parts = []
    for i, (successes, trials, truth) in enumerate(counts):
        x, tall = 7 * i + 1, 20 * successes / trials if trials else 0
        parts.append(f'<rect x="{x}" y="1" width="5" height="20" class="all"/>')
        parts.append(_bar(x, 21 - tall, 5, tall, "kept"))
        if truth == -1:
            parts.append(f'<path d="M{x + 0.5} 23.5l4 4m0 -4l-4 4" class="wrong"/>')
    return Markup(
        f'<svg class="strip" width="{7 * len(counts) + 1}" height="29" '
        f'aria-hidden="true">{"".join(parts)}</svg>'
    )
