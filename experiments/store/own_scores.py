"""Somebody's own scores of a corpus: read from a table, one row put to each rollout."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from mprm_jax.data.corpus import Corpus, SelectableCorpus
from mprm_jax.data.formats.json_record import parse
from mprm_jax.data.scored import json_records
from mprm_jax.records.problems import BadRecord, DataError, faults_of

JoinedBy = Literal["id", "file and line", "order"]

_ID = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)
_ROWS_PER_TICK = 4096
_OBJECT = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True)
class ScoreTable:
    """A column of a table that has one row for each rollout.

    Attributes:
        path: ``.csv``, a Parquet or Arrow table, or else JSON lines or one JSON list.
        column: its scores, finite, the largest kept first.
    """

    path: Path
    column: str


class Joined(NamedTuple):
    """Scores in the order of the rollouts.

    Attributes:
        scores: float64, of each usable rollout.
        by: what told which row is whose.
    """

    scores: np.ndarray
    by: JoinedBy


def places(usable: SelectableCorpus) -> dict[str, Any]:
    """Columns file, line and id of each usable rollout, by which a table is joined.

    ``id`` is the hash of the record's bytes, the same wherever it lies.
    """
    corpus, row = usable.corpus, usable.row
    names = [file.path.name for file in corpus.files]
    return {
        "file": [names[i] for i in corpus.file[row]],
        "line": corpus.line[row],
        "id": [f"{value:016x}" for value in usable.content.tolist()],
    }


def read_scores(
    table: ScoreTable,
    usable: SelectableCorpus,
    progress: Callable[[int], None] = lambda count: None,
) -> Joined:
    """The scores of a table's column, joined by ``id``, else by ``file`` and ``line``,
    as :func:`places` has them, else by order, if there are as many rows as rollouts.

    Rows of rollouts that are in the corpus but not usable are passed over. Rollouts of
    equal bytes may share a row.

    Raises:
        DataError: a row is missing, doubled, or of no rollout; or a score is none or
            not finite. The message says which.
    """
    corpus = usable.corpus
    if not len(usable.row):
        raise DataError(f"{corpus.path}: has no rollout to select")
    rows = _read_rows(table, progress)
    values = np.array([row.score for row in rows.rows], np.float64)
    if rows.by != "order":
        return Joined(values[_row_of_each(rows, usable)], rows.by)
    # Rollouts that turned out to be bad when they were written were usable at first.
    at_first = np.union1d(usable.row, np.array(usable.refused, np.int64))
    if len(values) == len(at_first):
        return Joined(values[np.searchsorted(at_first, usable.row)], "order")
    if len(values) == corpus.rollouts.n_rollouts:
        return Joined(values[usable.row], "order")
    raise DataError(
        f"{table.path}: {len(values):,} rows for {len(usable.row):,} rollouts; to join "
        "them otherwise than by their order, give each row its id, or file and line"
    )


# --- reading --------------------------------------------------------------------------


class _Row(NamedTuple):
    """Where a row stands, and what it says."""

    number: int
    by: JoinedBy
    key: Any
    place: tuple[str, int]
    score: float


class _Rows(NamedTuple):
    """A table's rows, in its order."""

    path: Path
    rows: list[_Row]

    @property
    def by(self) -> JoinedBy:
        return self.rows[0].by if self.rows else "order"

    def where(self, row: int) -> str:
        return f"{self.path}:{self.rows[row].number}"


def _read_rows(table: ScoreTable, progress: Callable[[int], None]) -> _Rows:
    reader = _csv_rows if table.path.suffix == ".csv" else _json_rows
    rows = _Rows(table.path, [])
    for number, cells in reader(table):
        try:
            row = _row(number, cells, table.column)
            if rows.rows and row.by != rows.by:
                raise BadRecord(
                    f"can be joined by {row.by} alone", f"the first row by {rows.by}"
                )
        except BadRecord as error:
            raise DataError(f"{table.path}:{number}: {error}") from None
        rows.rows.append(row)
        if len(rows.rows) % _ROWS_PER_TICK == 0:
            progress(len(rows.rows))
    return rows


def _json_rows(table: ScoreTable) -> Iterator[tuple[int, dict[str, Any]]]:
    for _, _, line, data in json_records(table.path):
        try:
            yield line, parse(data, _OBJECT, "scores", lenient=True)
        except BadRecord as error:
            raise DataError(f"{table.path}:{line}: {error}") from None


def _csv_rows(table: ScoreTable) -> Iterator[tuple[int, dict[str, Any]]]:
    path = table.path
    with (
        faults_of(path, "no CSV"),
        open(path, encoding="utf-8-sig", newline="") as file,
    ):
        reader = csv.DictReader(file)
        try:
            _check_columns(f"{path}:1", table, list(reader.fieldnames or ()))
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}:{reader.line_num}: more cells than columns"
                    )
                yield reader.line_num, {k: v for k, v in row.items() if v}
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: no CSV ({error})") from None


def _check_columns(where: str, table: ScoreTable, names: list[str]) -> None:
    if names.count(table.column) != 1:
        times = "twice" if table.column in names else "not"
        raise DataError(
            f"{where}: column {table.column!r} is {times} there, among {_shown(names)}"
        )


def _shown(names: Iterable[Any]) -> str:
    """Names from a file, in one line of reasonable length."""
    text = ", ".join(repr(name)[1:-1] for name in names)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _score(row: dict[str, Any], column: str) -> float:
    value = row.get(column)
    if value is None:
        there = "is null" if column in row else f"is not among {_shown(row)}"
        raise BadRecord(
            "score missing", f"{column!r} {there}; give every rollout a score"
        )
    try:
        # A CSV has its numbers as text.
        value = float(value) if isinstance(value, str) else value
        score = float(value) if type(value) in (int, float) else None
    except (ValueError, OverflowError):
        score = None
    if score is None:
        raise BadRecord("score is no number", f"{column!r} is {value!r:.40}")
    if not math.isfinite(score):
        raise BadRecord(
            "score is not finite",
            f"{column!r} is {score}; a very small number keeps a rollout last",
        )
    return score


def _row(number: int, cells: dict[str, Any], column: str) -> _Row:
    score = _score(cells, column)
    content, file, line = (cells.get(name) for name in ("id", "file", "line"))
    place = PurePath(str(file or "")).name, _line(line)
    if content is not None:
        if not isinstance(content, str) or not _ID.fullmatch(content):
            raise BadRecord(
                "id is no content hash",
                f"{str(content)[:40]!r}; rename a column id that means something else",
            )
        return _Row(number, "id", int(content, 16), place, score)
    if (file is None) != (line is None):
        there, lacks = ("file", "line") if line is None else ("line", "file")
        raise BadRecord(f"{lacks} missing", f"a row with a {there} needs it, or an id")
    return _Row(
        number, "order" if file is None else "file and line", place, place, score
    )


def _line(line: Any) -> int:
    if line is None:
        return 0
    try:
        number = int(line)
        whole = number == float(line)
    except (ValueError, TypeError, OverflowError):
        whole, number = False, 0
    if not whole or number < 1:
        raise BadRecord("line is no line number", f"{line!r:.40}")
    return number


# --- joining --------------------------------------------------------------------------


def _row_of_each(rows: _Rows, usable: SelectableCorpus) -> np.ndarray:
    """The table's row of each usable rollout.

    Rollouts of equal bytes share one row, or have one each in the order of places.
    """
    corpus = usable.corpus
    wanted: dict[Any, list[int]] = {}
    for rollout, key in enumerate(_keys(rows, corpus)):
        wanted.setdefault(key, []).append(rollout)
    offered: dict[Any, list[int]] = {}
    for i, row in enumerate(rows.rows):
        if row.key not in wanted:
            name = (
                f"{row.key:016x}"
                if rows.by == "id"
                else f"{row.key[0]!r} line {row.key[1]}"
            )
            raise DataError(
                f"{rows.where(i)}: {name} is no rollout of {corpus.path}; take such "
                "rows out, or score this corpus"
            )
        offered.setdefault(row.key, []).append(i)
    found = np.full(corpus.rollouts.n_rollouts, -1)
    for key, of in offered.items():
        rollouts = wanted[key]
        if rows.by == "file and line" and len(rollouts) > 1:
            raise DataError(
                f"{rows.where(of[0])}: {corpus.where(rollouts[0])} holds "
                f"{len(rollouts)} rollouts; give each row its id"
            )
        of.sort(key=lambda i: rows.rows[i].place)
        # Without places nothing says whose is which, unless all are the same.
        apart = len({rows.rows[i].place for i in of}) == len(of)
        same = len({rows.rows[i].score for i in of}) == 1
        if len(of) > 1 and (len(of) != len(rollouts) or not (apart or same)):
            raise DataError(
                f"{rows.where(of[1])}: a second row for {corpus.where(rollouts[0])}, "
                f"beside that of {rows.where(of[0])}; leave one for each rollout"
            )
        found[rollouts] = of
    lacking = usable.row[found[usable.row] < 0]
    if len(lacking):
        raise DataError(
            f"{corpus.where(lacking[0])}: has no row in {rows.path}, as "
            f"{len(lacking):,} of {len(usable.row):,} rollouts have none; give every "
            "rollout a score"
        )
    return found[usable.row]


def _keys(rows: _Rows, corpus: Corpus) -> list[Any]:
    """What rows of each rollout of the corpus are joined by."""
    if rows.by == "id":
        return corpus.content.tolist()
    names = [file.path.name for file in corpus.files]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{rows.path}: several files of {corpus.path} are called {twice}; give "
            "each row its id"
        )
    of = [names[i] for i in corpus.file.tolist()]
    return list(zip(of, corpus.line.tolist(), strict=True))
