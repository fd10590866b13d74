"""What pages are made of: escaped text, numbers as printed, tables and charts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.console.text import number, p_value, percent, signed
from experiments.store.provenance import versions
from mprm_jax.data.outputs import OutputSet
from theory.intervals import Estimate

# What must not act on a page: controls, halves of surrogate pairs, and the characters
# that turn the direction of the text after them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_LONGEST = 4000
_TRUTH = {1: "correct", -1: "incorrect", 0: "neutral"}


def visible(value: Any) -> Any:
    """Text with what must not act on a page made visible, and cut where it is endless;
    other values, markup among them, as they are.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > _LONGEST:
        value = f"{value[:_LONGEST]} … ({len(value) - _LONGEST:,} more characters)"
    return _UNSEEN.sub("�", value)


def _or_dash(form: Callable[..., str]) -> Callable[..., str]:
    return lambda value, *args: "–" if value is None else form(value, *args)


# Forms of a value in the page; None is a dash.
text, num, sign, share = map(_or_dash, (str, number, signed, percent))
chance = _or_dash(p_value)
count = _or_dash(lambda value: f"{int(value):,}")
mean = _or_dash(lambda of, *args: num(of.mean, *args))


def ends_of(ends: Sequence[float] | None, form: Callable[..., str] = num) -> str | None:
    """Both ends of an interval."""
    return None if ends is None else f"{form(ends[0])} to {form(ends[1])}"


def plus_minus(of: Estimate | None, form: Callable[..., str] = num, *args: int) -> str:
    """A mean, and half the width of its interval where there is one."""
    if of is None or of.half_width is None:
        return form(of and of.mean, *args)
    half = form(of.half_width, *args).removesuffix("\N{NO-BREAK SPACE}%")
    return Markup('{}<span class="pm"> ± {}</span>').format(form(of.mean, *args), half)


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: what it shows.
        header: names of the columns.
        rows: as wide as the header, the first cell heads its row; a row of one cell
            heads those below it.
        main: the column to read first.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    main: int | None = None


@dataclass(frozen=True)
class Chart:
    """A chart, what stands above and below it, and the numbers behind it."""

    title: str
    markup: Markup
    numbers: Table | None = None
    note: str = ""


def tabulate(
    caption: str,
    items: Iterable[Mapping[Any, Any]],
    columns: Sequence[tuple[Any, ...]],
    main: str = "",
) -> Table:
    """A row per item; columns that hold dashes alone are left out.

    Args:
        caption: of the table.
        items: values by key.
        columns: (name, key, form, arguments of the form after the value).
        main: name of the column to read first.
    """
    rows = [
        [form(item.get(key), *args) for _, key, form, *args in columns]
        for item in items
    ]
    shown = [i for i in range(len(columns)) if {row[i] for row in rows} != {"–"}]
    header = [columns[i][0] for i in shown]
    place = header.index(main) if main in header else None
    return Table(caption, header, [[row[i] for i in shown] for row in rows], place)


def chart_of(
    key: str, title: str, figure: Any, described: str, numbers: Table | None = None
) -> Chart:
    """A drawing of :mod:`paper_figures.page` as a chart, its ids beginning with the
    key.
    """
    from paper_figures.page import inline_svg

    label = visible(f"{title}: {described}")
    return Chart(title, Markup(inline_svg(figure, key, label)), numbers)


def page_template(name: str) -> jinja2.Template:
    """A template of the page: everything is escaped, nothing undefined passes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.page", "templates"),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": num, "percent": share, "count": count, "sign": sign}
    environment.filters["truth"] = _TRUTH.__getitem__
    return environment.get_template(name)


@dataclass(frozen=True)
class Made:
    """How a page came about.

    Attributes:
        command: that made it.
        inputs: SHA-256 of every file read.
    """

    command: str
    inputs: dict[str, str]


def write_page(
    output: Path,
    template: str,
    charts: Callable[[], dict[str, Chart | None]],
    made: Made,
    **values: Any,
) -> None:
    """Write a page; the same values give the same text.

    Args:
        output: the file.
        template: its name.
        charts: draws them, by name.
        made: by which command.
        values: of the template.

    Raises:
        DataError: it cannot be written.
    """
    import matplotlib as mpl

    from paper_figures.page import SETTINGS

    with mpl.rc_context(SETTINGS):
        drawn = charts()
    values |= {"charts": drawn, "made": made, "versions": versions()}
    page = page_template(template).render(values).encode()
    with OutputSet() as outputs:
        outputs.add(output).write(page)
