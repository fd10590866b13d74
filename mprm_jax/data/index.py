"""The columns of a file: counts, where each record lies, and a hash of its content.

One scan decodes and checks every line but keeps only numbers, so a corpus of any size
fits in memory and its text is touched again only for the rollouts that are chosen. The
result is kept beside the corpus and reused while the file is the same: its size,
modification and status-change times unchanged since well before the scan; failing that,
a hash of the file decides: its SHA-256 if a manifest has asked for that, else XXH3-128,
which costs a sixth.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import ArrayLike

from mprm_jax.data.formats import detect, raw
from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import load_object, unread_picture
from mprm_jax.data.framing import (
    MAX_ARRAY_BYTES,
    MAX_LINE_BYTES,
    Chunk,
    CorpusFile,
    RecordFile,
)
from mprm_jax.data.outputs import replace_file, sweep
from mprm_jax.records.problems import BadLine, BadLines, BadRecord, DataError
from mprm_jax.records.record import (
    MAX_TRIALS,
    PLACEHOLDER,
    Record,
    has_placeholder,
)

CACHE_FOLDER = ".mprm-index"

# Raise when a scan would give other columns or refuse other lines than before.
_VERSION = 7

# A write this shortly before the scan could hide behind equal time stamps.
_RACY_NS = 2_000_000_000

# Lines looked at to tell the format before the file is given up as unreadable.
_DETECTION_LINES = 100


class FileIndex(msgspec.Struct, eq=False):
    """What one scan of a file keeps.

    Attributes:
        sha256: of the file as it lies on disk, "" if it was not asked for.
        xxh3: its XXH3-128, "" if its SHA-256 was taken.
        lines: lines of the file, blank ones included (elements of a JSON array).
        blank: blank lines.
        bad_lines: refused lines; whoever knows what the file is called says so.
        notes: of records that were read, what should be said of them, likewise.
        source_names: sources met in this file, in order of appearance.
        successes: K per step, unsigned ``[n_steps]``.
        trials: N per step, unsigned ``[n_steps]``, 0 = never sampled.
        lengths: steps per record, int32 ``[n_records]``.
        offset: of the record in the (decompressed) file, int64 ``[n_records]``.
        size: bytes of the record, int32 ``[n_records]``.
        line: line number from 1, int32 ``[n_records]``.
        content: :func:`rollout_hash` of the record's bytes without surrounding white
            space, uint64 ``[n_records]``.
        source: index into ``source_names``, int32 ``[n_records]``.
        part: which of the rollouts that its bytes hold, uint32 ``[n_records]``.
        stated: whether an MC score of it is stated without N, uint8 ``[n_records]``.
    """

    sha256: str
    xxh3: str
    lines: int
    blank: int
    bad_lines: BadLines
    notes: BadLines
    source_names: tuple[str, ...]
    successes: np.ndarray
    trials: np.ndarray
    lengths: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    line: np.ndarray
    content: np.ndarray
    source: np.ndarray
    part: np.ndarray
    stated: np.ndarray


COLUMNS = tuple(
    name for name, kind in FileIndex.__annotations__.items() if kind == "np.ndarray"
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


def content_hash(data: bytes | memoryview) -> int:
    """xxh3-64 of a record's bytes."""
    return xxhash.xxh3_64_intdigest(data)


def rollout_hash(content: int, part: int) -> int:
    """What tells one rollout from another: its record's :func:`content_hash`; of those
    behind a record's first xxh3-64 of that hash, seeded with which of them it is.

    So a record of many rollouts is hashed once.
    """
    if part == 0:
        return content
    return xxhash.xxh3_64_intdigest(content.to_bytes(8, "little"), part)


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
        self.lines = self.blank = 0
        self.bad_lines, self.notes = BadLines(), BadLines()
        self.blocks: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self.sources: dict[str, int] = {}

    def at_once(self, chunk: Chunk) -> bool:
        """Take whole raw lines together; False if any of them needs a closer look."""
        if chunk.too_long:
            self.lines += 1
            self.refuse(chunk.line, _too_long())
            return True
        if self.form is not raw.RAW or self.options.source_from is not None:
            return False
        lines = chunk.lines()
        sizes = np.array(list(map(len, lines)), np.int32)
        octets = np.frombuffer(chunk.data, np.uint8)
        ends = np.array(chunk.ends)
        starts = ends - sizes
        framed = (octets[starts] == ord("{")) & (octets[ends - 1] == ord("}"))
        if not np.all(framed & (sizes > 0) & (sizes <= MAX_LINE_BYTES)):
            return False
        counts = raw.columns(chunk.data, lines)
        if counts is None:
            return False
        self.lines += len(lines)
        numbers = np.arange(chunk.line, chunk.line + len(lines), dtype=np.int32)
        contents = list(map(xxhash.xxh3_64_intdigest, lines))
        source = np.full(len(lines), self.source_id(None), np.int32)
        counts["part"] = np.zeros(len(lines), np.uint32)
        counts["stated"] = np.zeros(len(lines), np.uint8)
        self.append(counts, chunk.offset + starts, sizes, numbers, contents, source)
        return True

    def each(
        self, items: Iterable[tuple[int, int, bytes]], are_lines: bool = False
    ) -> None:
        """(line, offset, bytes) of lines or array elements, one by one."""
        rows: list[tuple[Record, int, int, int, int, int]] = []
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
                self.refuse(number, error)
                continue
            start = offset + len(data) - len(data.lstrip())
            whole = content_hash(record)
            for part, rollout in enumerate(decoded):
                content = rollout_hash(whole, part)
                rows.append((rollout, start, len(record), number, content, part))
            self.note(number, decoded, record)
        if not rows:
            return
        records, offsets, sizes, numbers, contents, parts = zip(*rows, strict=True)
        steps = [step for record in records for step in record.steps]
        trials = np.array([step.trials for step in steps], np.int64)
        narrow = np.min_scalar_type(int(trials.max()))
        counts = {
            "successes": np.array([step.successes for step in steps], narrow),
            "trials": trials.astype(narrow),
            "lengths": np.array([len(record.steps) for record in records], np.int32),
        }
        counts["part"] = np.array(parts, np.uint32)
        counts["stated"] = np.array(
            [any(s.stated is not None for s in r.steps) for r in records], np.uint8
        )
        sources = [self.source_id(record.source) for record in records]
        self.append(counts, offsets, sizes, numbers, contents, sources)

    def note(self, line: int, records: tuple[Record, ...], data: bytes) -> None:
        """What should be said of a line that was read."""
        # Nearly every line shows by its bytes that it has none.
        maybe = b"image>" in data or b"\\u" in data
        if maybe and any(map(has_placeholder, records)):
            self.notes.add(BadLine("", line, f"literal {PLACEHOLDER} in a text"))
        if records[0].images and (path := unread_picture(data, records)):
            told = f"{path[:80]!r} is under a key that is not read"
            self.notes.add(BadLine("", line, "picture left out", told))
        if self.options.empty_steps == "drop":
            as_they_are = dataclasses.replace(self.options, empty_steps="error")
            try:
                self.form.decode(data, as_they_are)
            except BadRecord as error:
                self.notes.add(BadLine("", line, f"{error.reason} left out"))

    def append(
        self,
        counts: dict[str, np.ndarray],
        offset: ArrayLike,
        size: ArrayLike,
        line: ArrayLike,
        content: ArrayLike,
        source: ArrayLike,
    ) -> None:
        """Columns of some records, as :class:`FileIndex` has them."""
        for name, column in counts.items():
            self.blocks[name].append(column)
        self.blocks["offset"].append(np.asarray(offset, np.int64))
        self.blocks["size"].append(np.asarray(size, np.int32))
        self.blocks["line"].append(np.asarray(line, np.int32))
        self.blocks["content"].append(np.asarray(content, np.uint64))
        self.blocks["source"].append(np.asarray(source, np.int32))

    def source_id(self, name: str | None) -> int:
        return self.sources.setdefault(name or self.file.source, len(self.sources))

    def refuse(self, line: int, error: BadRecord) -> None:
        self.bad_lines.add(BadLine("", line, error.reason, error.detail))

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
            bad_lines=self.bad_lines,
            notes=self.notes,
            source_names=tuple(self.sources),
            **columns,
        )


def _too_long() -> BadRecord:
    return BadRecord("line too long", f"over {MAX_LINE_BYTES >> 20} MiB")


class _Key(msgspec.Struct, frozen=True):
    version: int
    format: str
    options: ReadOptions


class _Stamp(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class _Entry(msgspec.Struct):
    key: _Key
    stamp: _Stamp
    scanned_ns: int
    index: FileIndex


def recall(
    file: CorpusFile, form: str, options: ReadOptions, sha256: bool = True
) -> FileIndex | None:
    """The cached index of a file, if it still holds for it and for these options."""
    key = _key(form, options)
    now = time.time_ns()
    stamp = _stamp(file.path)
    for path in _cache_paths(file.path, key):
        entry = _read(path)
        if entry is None or entry.key != key or entry.stamp.size != stamp.size:
            continue
        index = entry.index
        settled = max(stamp.mtime_ns, stamp.ctime_ns) < entry.scanned_ns - _RACY_NS
        unchanged = entry.stamp == stamp and settled
        if unchanged and (index.sha256 or not sha256):
            return index
        known_sha256, known_xxh3 = _hashes(file)
        if index.sha256:
            same = known_sha256 == index.sha256
        else:
            same = known_xxh3 == index.xxh3
        if same and stamp == _stamp(file.path):
            index.sha256, index.xxh3 = known_sha256, known_xxh3
            entry.stamp, entry.scanned_ns = stamp, now
            _write(path, entry)
            return index
    return None


def scan_and_store(
    file: CorpusFile, form: Format, options: ReadOptions, sha256: bool = True
) -> FileIndex:
    """Scan a file and keep the result beside it, or in the user's cache folder.

    A place that cannot be written is no error, only slower the next time.
    """
    key = _key(form.name, options)
    started = time.time_ns()
    stamp = _stamp(file.path)
    index = scan_file(file, form, options, sha256)
    if stamp == _stamp(file.path):
        entry = _Entry(key, stamp, started, index)
        any(_write(path, entry) for path in _cache_paths(file.path, key))
    return index


def _key(form: str, options: ReadOptions) -> _Key:
    return _Key(_VERSION, form, options)


def _stamp(path: Path) -> _Stamp:
    status = os.stat(path)
    return _Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _hashes(file: CorpusFile) -> tuple[str, str]:
    """SHA-256 and XXH3-128 of a file."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    with RecordFile(file, sha256, xxh3) as records:
        records.read_rest()
    return sha256.hexdigest(), xxh3.hexdigest()


def _cache_paths(path: Path, key: _Key) -> list[Path]:
    """Beside the corpus, and in the user's cache folder where that is read-only."""
    choice = f"{key.format}:{key.options}"
    name = f"{path.name}.{xxhash.xxh3_64_hexdigest(choice.encode())}.index"
    place = hashlib.sha256(str(path.resolve().parent).encode()).hexdigest()[:16]
    # "~" stays as it is where there is no home; writing there then fails, harmlessly.
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [
        path.parent / CACHE_FOLDER / name,
        Path(home) / "mprm" / "index" / place / name,
    ]


def _from_array(column: Any) -> tuple[str, bytes]:
    return column.dtype.str, column.tobytes()


def _to_array(_: type, column: Any) -> np.ndarray:
    kind, data = column
    return np.frombuffer(data, np.dtype(kind))


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_from_array)
_DECODER = msgspec.msgpack.Decoder(_Entry, dec_hook=_to_array)


def _read(path: Path) -> _Entry | None:
    """The entry at a path; None if there is none, or no scan can have made it."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, body = data[:8], data[8:]
    if xxhash.xxh3_64_digest(body) != digest:
        return None
    try:
        entry = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return entry if _possible(entry.index) else None


def _write(path: Path, entry: _Entry) -> bool:
    try:
        body = _ENCODER.encode(entry)
        sweep(path.parent)
        replace_file(path, xxhash.xxh3_64_digest(body), body)
    except (OSError, UnicodeEncodeError):  # a file name need not be UTF-8
        return False
    return True


def _possible(index: FileIndex) -> bool:
    """Whether the columns fit each other; a record's bytes are checked when read."""
    columns = [getattr(index, name) for name in COLUMNS]
    if any(column.dtype.kind not in "iu" for column in columns):
        return False
    n_records, n_steps = len(index.lengths), len(index.trials)
    records = (
        index.offset, index.size, index.line, index.content, index.source,
        index.part, index.stated,
    )  # fmt: skip
    bad = index.bad_lines
    return (
        all(len(column) == n_records for column in records)
        and len(index.successes) == n_steps == index.lengths.sum(dtype=np.int64)
        and bad.counts.keys() == bad.first.keys()
        and all(count > 0 for count in bad.counts.values())
        and int(np.count_nonzero(index.part == 0)) <= index.lines - index.blank
        and (
            n_records == 0
            or bool(
                index.lengths.min() > 0
                and np.all(index.successes <= index.trials)
                and index.successes.min() >= 0
                and index.trials.max() <= MAX_TRIALS
                and index.offset.min() >= 0
                and index.size.min() > 0
                and index.size.max() <= MAX_ARRAY_BYTES
                and index.line.min() > 0
                and index.source.min() >= 0
                and index.source.max() < len(index.source_names)
            )
        )
    )
