"""Index cache: a scan is kept beside the corpus and reused while the file is the same.

"The same" means: size, modification and status-change times unchanged since well
before the scan; failing that, a hash of the file decides: its SHA-256 if a manifest has
asked for that, else XXH3-128, which costs a sixth.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.framing import MAX_ARRAY_BYTES, CorpusFile, RecordFile
from mprm_jax.data.index import COLUMNS, FileIndex, scan_file
from mprm_jax.data.problems import Problem, Problems
from mprm_jax.data.record import MAX_TRIALS

CACHE_FOLDER = ".mprm-index"

# Raise when a scan would give other columns or refuse other lines than before.
_VERSION = 2

# A write this shortly before the scan could hide behind equal time stamps.
_RACY_NS = 2_000_000_000


class _Key(msgspec.Struct, frozen=True):
    version: int
    format: str
    trials: int | None
    source_from: str | None


class _Stamp(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class _Entry(msgspec.Struct):
    key: _Key
    stamp: _Stamp
    scanned_ns: int
    sha256: str
    xxh3: str
    lines: int
    blank: int
    counts: dict[str, int]
    first: dict[str, Problem]
    kept: list[Problem]
    source_names: list[str]
    columns: dict[str, tuple[str, bytes]]


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
        index = _index(file, entry)
        if index is None:
            continue
        settled = max(stamp.mtime_ns, stamp.ctime_ns) < entry.scanned_ns - _RACY_NS
        unchanged = entry.stamp == stamp and settled
        if unchanged and (entry.sha256 or not sha256):
            return index
        known = _hashes(file)
        if entry.sha256:
            same = known.sha256 == entry.sha256
        else:
            same = known.xxh3 == entry.xxh3
        if same and stamp == _stamp(file.path):
            entry.sha256, entry.xxh3 = known
            entry.stamp, entry.scanned_ns = stamp, now
            _write(path, entry)
            return replace(index, **known._asdict())
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
        entry = _entry(key, stamp, started, index)
        for path in _cache_paths(file.path, key):
            if _write(path, entry):
                break
    return index


def _key(form: str, options: ReadOptions) -> _Key:
    return _Key(_VERSION, form, options.trials, options.source_from)


def _stamp(path: Path) -> _Stamp:
    status = os.stat(path)
    return _Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class _Hashes(NamedTuple):
    sha256: str
    xxh3: str


def _hashes(file: CorpusFile) -> _Hashes:
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    with RecordFile(file, sha256, xxh3) as records:
        records.read_rest()
    return _Hashes(sha256.hexdigest(), xxh3.hexdigest())


def _cache_paths(path: Path, key: _Key) -> list[Path]:
    """Beside the corpus, and in the user's cache folder where that is read-only."""
    choice = f"{key.format}:{key.trials}:{key.source_from}"
    name = f"{path.name}.{xxhash.xxh3_64_hexdigest(choice)}.index"
    place = hashlib.sha256(str(path.resolve().parent).encode()).hexdigest()[:16]
    # "~" stays as it is where there is no home; writing there then fails, harmlessly.
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [
        path.parent / CACHE_FOLDER / name,
        Path(home) / "mprm" / "index" / place / name,
    ]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Entry)


def _read(path: Path) -> _Entry | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, body = data[:8], data[8:]
    if xxhash.xxh3_64_digest(body) != digest:
        return None
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _write(path: Path, entry: _Entry) -> bool:
    try:
        body = _ENCODER.encode(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    except (OSError, UnicodeEncodeError):  # a file name need not be UTF-8
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(xxhash.xxh3_64_digest(body))
            file.write(body)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError:
        return False
    finally:
        Path(partial).unlink(missing_ok=True)
    return True


def _entry(key: _Key, stamp: _Stamp, started: int, index: FileIndex) -> _Entry:
    return _Entry(
        key=key,
        stamp=stamp,
        scanned_ns=started,
        sha256=index.sha256,
        xxh3=index.xxh3,
        lines=index.lines,
        blank=index.blank,
        counts=index.problems.counts,
        first=index.problems.first,
        kept=index.problems.kept,
        source_names=list(index.source_names),
        columns={
            name: (getattr(index, name).dtype.str, getattr(index, name).tobytes())
            for name in COLUMNS
        },
    )


def _index(file: CorpusFile, entry: _Entry) -> FileIndex | None:
    """The index that an entry holds, or None if no scan can have made it."""

    def here(problem: Problem) -> Problem:
        # The scan may have been run from another folder.
        return replace(problem, file=str(file.path))

    try:
        index = FileIndex(
            sha256=entry.sha256,
            xxh3=entry.xxh3,
            lines=entry.lines,
            blank=entry.blank,
            problems=Problems(
                entry.counts,
                {reason: here(problem) for reason, problem in entry.first.items()},
                [here(problem) for problem in entry.kept],
            ),
            source_names=tuple(entry.source_names),
            **{
                name: np.frombuffer(data, np.dtype(dtype))
                for name, (dtype, data) in entry.columns.items()
            },
        )
        return index if _possible(index) else None
    except (TypeError, ValueError):
        return None


def _possible(index: FileIndex) -> bool:
    """Whether the columns fit each other; a record's bytes are checked when read."""
    columns = [getattr(index, name) for name in COLUMNS]
    if any(column.dtype.kind not in "iu" for column in columns):
        return False
    n_records, n_steps = len(index.lengths), len(index.trials)
    records = (index.offset, index.size, index.line, index.content, index.source)
    problems = index.problems
    return (
        all(len(column) == n_records for column in records)
        and len(index.successes) == n_steps == index.lengths.sum(dtype=np.int64)
        and problems.counts.keys() == problems.first.keys()
        and all(count > 0 for count in problems.counts.values())
        and n_records <= index.lines - index.blank
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
