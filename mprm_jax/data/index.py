"""The columns of a corpus: counts, where each record lies, and a hash of its content.

One scan decodes and checks every line but keeps only numbers, so a corpus of any size
fits in memory and its text is touched again only for the rollouts that are chosen.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import xxhash

from mprm_jax.data.formats import detect
from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import NESTED, load_object
from mprm_jax.data.formats.raw import RAW
from mprm_jax.data.framing import (
    MAX_LINE_BYTES,
    Chunk,
    CorpusFile,
    RecordFile,
)
from mprm_jax.data.problems import BadRecord, DataError, Problem, Problems
from mprm_jax.data.raw_scan import decode_indexed, raw_columns
from mprm_jax.data.record import Record

# Lines looked at to tell the format before the file is given up as unreadable.
_DETECTION_LINES = 100


@dataclass(frozen=True, eq=False)
class FileIndex:
    """What one scan of a file keeps.

    Attributes:
        sha256: of the file as it lies on disk, "" if it was not asked for.
        xxh3: its XXH3-128, "" if its SHA-256 was taken.
        lines: lines of the file, blank ones included (elements of a JSON array).
        blank: blank lines.
        problems: refused lines.
        successes: K per step, unsigned ``[n_steps]``.
        trials: N per step, unsigned ``[n_steps]``, 0 = never sampled.
        lengths: steps per record, int32 ``[n_records]``.
        offset: of the record in the (decompressed) file, int64 ``[n_records]``.
        size: bytes of the record, int32 ``[n_records]``.
        line: line number from 1, int32 ``[n_records]``.
        content: xxh3-64 of the record's bytes without surrounding white space, uint64
            ``[n_records]``.
        source: index into ``source_names``, int32 ``[n_records]``.
        source_names: sources met in this file, in order of appearance.
    """

    sha256: str
    xxh3: str
    lines: int
    blank: int
    problems: Problems
    successes: np.ndarray
    trials: np.ndarray
    lengths: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    line: np.ndarray
    content: np.ndarray
    source: np.ndarray
    source_names: tuple[str, ...]


COLUMNS = (
    "successes",
    "trials",
    "lengths",
    "offset",
    "size",
    "line",
    "content",
    "source",
)


def detect_format(file: CorpusFile) -> Format:
    """The format of a file, from the keys of its first readable record.

    Raises:
        DataError: the file is empty, none of its first lines is a JSON object, or no
            known format has such keys.
    """
    seen, first = 0, ""
    with RecordFile(file) as records:
        for line, _, data in _raw_records(records):
            if not data.strip():
                continue
            try:
                return detect(load_object(data.strip()))
            except DataError as error:
                seen += 1
                first = first or f"{file.path}:{line}: {error}"
            if seen == _DETECTION_LINES:
                break
    if seen == 0:
        raise DataError(f"{file.path}: the file is empty")
    raise DataError(f"{first} (and no later line shows what format this is)")


def _raw_records(records: RecordFile) -> Iterator[tuple[int, int, bytes]]:
    """(line, offset, bytes) of every line or array element, blank ones included."""
    if records.starts_array():
        yield from records.array_elements()
        return
    for chunk in records.chunks():
        yield from chunk.located()


def scan_file(
    file: CorpusFile, form: Format, options: ReadOptions, sha256: bool = True
) -> FileIndex:
    """Decode and check every record of a file; keep its numbers.

    Raises:
        DataError: the file cannot be read at all. (Bad lines are collected instead.)
    """
    scan = _Scan(file, form, options)
    digest = hashlib.sha256() if sha256 else xxhash.xxh3_128()
    # The decoder allocates many short-lived lists, which trigger the collector although
    # none of them can be part of a cycle.
    enabled = gc.isenabled()
    gc.disable()
    try:
        with RecordFile(file, digest) as records:
            if records.starts_array():
                scan.each(records.array_elements())
            else:
                for chunk in records.chunks():
                    if not scan.at_once(chunk):
                        scan.each(chunk.located(), are_lines=True)
            records.read_rest()
            return scan.result(digest.hexdigest(), sha256)
    finally:
        if enabled:
            gc.enable()


class _Scan:
    """Accumulates the columns of one file."""

    def __init__(self, file: CorpusFile, form: Format, options: ReadOptions) -> None:
        self.file, self.form, self.options = file, form, options
        self.fast = form is RAW and options.source_from is None
        self.lines = self.blank = 0
        self.problems = Problems()
        self.blocks: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self.sources: dict[str, int] = {}

    def at_once(self, chunk: Chunk) -> bool:
        """Take whole lines together; False if any of them needs a closer look."""
        if chunk.too_long:
            self.lines += 1
            self.refuse(chunk.line, _too_long())
            return True
        columns = self.columns(chunk)
        if columns is None:
            return False
        count = len(columns["lengths"])
        self.lines += count
        self.append(columns, np.full(count, self.source_id(None), np.int32))
        return True

    def each(
        self, items: Iterable[tuple[int, int, bytes]], are_lines: bool = False
    ) -> None:
        """(line, offset, bytes) of lines or array elements, one by one."""
        rows: list[tuple[Record, int, int, int, int]] = []
        for number, offset, data in items:
            self.lines += 1
            record = data.strip()
            if not record:
                self.blank += 1
                continue
            try:
                if len(data) > MAX_LINE_BYTES:
                    raise _too_long()
                if are_lines and b"\r" in record:
                    raise BadRecord(
                        "carriage return inside a record",
                        "text readers split the line there; end lines with \\n only",
                    )
                decoded = self.form.decode(record, self.options)
            except BadRecord as error:
                decoded = self.nested(data, error) if are_lines else None
                if decoded is None:
                    self.refuse(number, error)
                    continue
            start = offset + len(data) - len(data.lstrip())
            content = xxhash.xxh3_64_intdigest(record)
            rows.append((decoded, start, len(record), number, content))
        if not rows:
            return
        records, offsets, sizes, numbers, contents = zip(*rows, strict=True)
        steps = [step for record in records for step in record.steps]
        trials = np.array([step.trials for step in steps], np.int64)
        narrow = np.min_scalar_type(int(trials.max()))
        self.append(
            {
                "successes": np.array([step.successes for step in steps], narrow),
                "trials": trials.astype(narrow),
                "lengths": np.array([len(record.steps) for record in records], "i4"),
                "offset": np.array(offsets, np.int64),
                "size": np.array(sizes, np.int32),
                "line": np.array(numbers, np.int32),
                "content": np.array(contents, np.uint64),
            },
            np.array([self.source_id(record.source) for record in records], np.int32),
        )

    def columns(self, chunk: Chunk) -> dict[str, np.ndarray] | None:
        """The columns of a chunk of clean lines; called as deep as ``nested`` is, so
        that both have the same stack left.
        """
        return raw_columns(chunk) if self.fast else None

    def nested(self, data: bytes, error: BadRecord) -> Record | None:
        """The record of a line that only the fast path has the stack to read: whether a
        line is refused must not hang on the lines around it.
        """
        if not (self.fast and error.reason == NESTED):
            return None
        alone = raw_columns(Chunk(data, [len(data)], 0, 1))
        return None if alone is None else decode_indexed(data)

    def append(self, columns: dict[str, np.ndarray], source: np.ndarray) -> None:
        for name, column in columns.items():
            self.blocks[name].append(column)
        self.blocks["source"].append(source)

    def source_id(self, name: str | None) -> int:
        return self.sources.setdefault(name or self.file.source, len(self.sources))

    def refuse(self, line: int, error: BadRecord) -> None:
        self.problems.add(
            Problem(str(self.file.path), line, error.reason, error.detail)
        )

    def result(self, digest: str, is_sha256: bool) -> FileIndex:
        if self.lines == self.blank:
            self.refuse(0, BadRecord("empty file", "it holds no record"))
        columns = {
            name: np.concatenate(blocks) if blocks else np.zeros(0, np.uint8)
            for name, blocks in self.blocks.items()
        }
        return FileIndex(
            sha256=digest if is_sha256 else "",
            xxh3="" if is_sha256 else digest,
            lines=self.lines,
            blank=self.blank,
            problems=self.problems,
            source_names=tuple(self.sources),
            **columns,
        )


def _too_long() -> BadRecord:
    return BadRecord("line too long", f"over {MAX_LINE_BYTES >> 20} MiB")
