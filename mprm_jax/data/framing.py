"""Splitting files into records, in bounded memory, and finding one again by offset."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import unicodedata
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mprm_jax.data.tables import TABLES, table_lines
from mprm_jax.records.problems import DataError, faults_of, what_instead

# Read this much at a time: large enough that per-chunk costs vanish, small enough that
# the decoded objects of one chunk stay near 5 MB.
CHUNK_BYTES = 1 << 19

# A raw record is a few KiB. Images belong into files, so a longer line is a fault, and
# holding it would break the promise of bounded memory.
MAX_LINE_BYTES = 16 << 20

# JSON arrays are decoded whole; published ones (ProcessBench, Med-PRM) are a few MB.
MAX_ARRAY_BYTES = 64 << 20

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")

# Of a folder the first kind that it holds is read.
_KINDS = ((".jsonl", ".jsonl.gz"), TABLES, (".json",))
# What may hold records, too, so that its being left out is said.
_OTHERS = (
    ".ndjson", ".json.gz", ".csv", ".tsv", ".zip", ".7z", ".rar", ".tar", ".tar.gz",
    ".tgz", ".zst", ".bz2", ".xz",
)  # fmt: skip
# What stands beside data and is none.
_ABOUT = re.compile(
    r"\..*|(.*\.)?manifest\.json|.*\.meta\.json|dataset_(infos?|dict)\.json"
    r"|(tokenizer|(.*_)?config|special_tokens_map|state)\.json"
)


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus.

    Attributes:
        path: where it is.
        source: file name less suffixes and a ``-NNNNN-of-NNNNN`` shard suffix.
    """

    path: Path
    source: str

    @property
    def is_gzip(self) -> bool:
        """Whether the name says that the content is compressed."""
        return self.path.suffix == ".gz"

    @property
    def is_table(self) -> bool:
        """Whether the name says that it is a table, whose rows are read as lines."""
        return self.path.suffix in TABLES

    @property
    def is_sequential(self) -> bool:
        """Whether a record cannot be reached without reading what stands before it."""
        return self.is_gzip or self.is_table


@dataclass(frozen=True)
class Chunk:
    """Whole lines of a file.

    Attributes:
        data: the bytes, each line with its newline (the last line may lack it).
        ends: position in ``data`` after each line's last byte before the newline.
        offset: of the first byte in the (decompressed) file.
        line: number of the first line, from 1.
        too_long: the chunk stands for one line longer than MAX_LINE_BYTES, and holds
            only its beginning.
    """

    data: bytes
    ends: list[int]
    offset: int
    line: int
    too_long: bool = False

    def lines(self) -> list[memoryview]:
        """Every line without its newline, uncopied."""
        view = memoryview(self.data)
        starts = [0, *(end + 1 for end in self.ends)]
        return [view[a:b] for a, b in zip(starts, self.ends, strict=False)]

    def located(self) -> Iterator[tuple[int, int, bytes]]:
        """(line number, offset, bytes without newline) of every line."""
        start = 0
        for number, end in enumerate(self.ends, self.line):
            yield number, self.offset + start, self.data[start:end]
            start = end + 1


def line_ends(data: bytes) -> list[int]:
    """Position after each line's last byte before the newline; the last may lack it."""
    # A loop of finds is several times as fast as splitting, which copies every line.
    ends = []
    end = data.find(b"\n")
    while end >= 0:
        ends.append(end)
        end = data.find(b"\n", end + 1)
    if not data.endswith(b"\n"):
        ends.append(len(data))
    return ends


def corpus_files(corpus: Path) -> tuple[CorpusFile, ...]:
    """The files of a corpus in the order of their names.

    A corpus is one file, a folder of ``*.jsonl`` or ``*.jsonl.gz`` (where there is none
    of these, of ``*.parquet`` or ``*.arrow``, or else ``*.json``), or a folder whose
    only data lie in one sub-folder, as in ``annotations/`` or ``data/``.

    Raises:
        DataError: there is no such file or folder, nothing in it, or data in several
            sub-folders.
    """
    check_path(corpus)
    if corpus.is_file():
        return (CorpusFile(corpus, _source_name(corpus)),)
    if not corpus.is_dir():
        what = (
            "neither file nor folder" if corpus.exists() else "no such file or folder"
        )
        raise DataError(f"{corpus}: {what}")
    folder = annotations_folder(corpus)
    paths = _data_files(folder)
    if not paths:
        folders = _data_folders(folder)
        if len(folders) > 1:
            shown = ", ".join(str(one.relative_to(folder)) for one in folders[:4])
            raise DataError(
                f"{folder}: its data lie in sub-folders ({shown}"
                f"{', ...' * (len(folders) > 4)}); name one of them"
            )
        if not folders:
            packed = [path.name for path in _others(folder, ())]
            raise DataError(
                f"{folder}: holds no *.jsonl, *.jsonl.gz, *.parquet, *.arrow or *.json "
                f"file{f', but {packed[0]}: unpack it first' if packed else ''}"
            )
        paths = _data_files(folders[0])
    for path in paths:
        check_path(path)
        if not path.is_file():
            raise DataError(f"{path}: is no file (a folder, pipe or broken link)")
    return tuple(CorpusFile(path, _source_name(path)) for path in paths)


def unread_files(corpus: Path, files: Sequence[CorpusFile]) -> list[Path]:
    """What lies beside the files of a corpus, or above them in its folder, that may be
    data, too, and is not read: files of other kinds, and sub-folders that hold some.

    What stands beside ``annotations/``, a benchmark say, is something else by its name.
    """
    if not corpus.is_dir():
        return []
    corpus = annotations_folder(corpus)
    read = {file.path for file in files}
    return sorted({
        path
        for folder in (corpus, *{file.path.parent for file in files})
        for path in (*_others(folder, read), *_folders_beside(folder, read))
    })  # fmt: skip


def _others(folder: Path, read: Container[Path]) -> list[Path]:
    return [
        path
        for path in _entries(folder)
        if path not in read and _may_be_data(path.name)
    ]


def _folders_beside(folder: Path, read: Iterable[Path]) -> list[Path]:
    """The sub-folders that may hold data, and of which nothing is read."""
    found = []
    with _named(folder), os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            hidden = entry.name.startswith(".") or not entry.is_dir()
            if hidden or any(file.is_relative_to(path) for file in read):
                continue
            # There may be very many pictures in it: their names are all that is read.
            with contextlib.suppress(PermissionError):
                if any(map(_may_be_data, os.listdir(path))):
                    found.append(path)
    return found


def _may_be_data(name: str) -> bool:
    ends = (*sum(_KINDS, ()), *_OTHERS)
    return name.endswith(ends) and not _ABOUT.fullmatch(name)


def _entries(folder: Path) -> list[Path]:
    with _named(folder):
        return sorted(folder.iterdir(), key=lambda entry: entry.name)


def _data_files(folder: Path) -> list[Path]:
    """The files of the first kind that there is."""
    entries = [path for path in _entries(folder) if not _ABOUT.fullmatch(path.name)]
    kinds = ([p for p in entries if p.name.endswith(kind)] for kind in _KINDS)
    return next(filter(None, kinds), [])


def _data_folders(folder: Path) -> list[Path]:
    """The sub-folders, at any depth, that hold data."""
    found = []
    for path, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if _data_files(Path(path)):
            found.append(Path(path))
    return found


def check_path(path: Path) -> None:
    """Refuse a path that no message, JSON or manifest could show on one line.

    Raises:
        DataError: it holds a control character, or bytes that are no UTF-8.
    """
    name = str(path)
    if not name.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cs") for character in name
    ):
        raise DataError(
            f"{name!r}: rename it; a path must be UTF-8 without control characters"
        )


def annotations_folder(corpus: Path) -> Path:
    """The folder of a corpus's files: its ``annotations/`` if it has one."""
    inner = corpus / "annotations"
    return inner if inner.is_dir() else corpus


def _source_name(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    for suffix in sum(_KINDS, ()):
        name = name.removesuffix(suffix)
    return _SHARD.sub("", name)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say of which file a fault is."""
    with faults_of(path):
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file ({error})") from error


class Hash(Protocol):
    """What ``hashlib`` and ``xxhash`` give."""

    def update(self, data: memoryview, /) -> None:
        """Take more bytes in."""


class _HashingReader(io.RawIOBase):
    """A file that hashes what is read from it."""

    def __init__(self, file: io.FileIO, hashes: Sequence[Hash]) -> None:
        self._file, self._hashes = file, hashes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer)
        data = memoryview(buffer)[:count]
        for digest in self._hashes:
            digest.update(data)
        return count


class RecordFile:
    """A corpus file open for reading from start to end; use as a context manager.

    Args:
        file: to read.
        hashes: take in the bytes that are read, as they lie on disk; of the whole file
            after :meth:`read_rest`.

    Raises:
        DataError: the file cannot be opened or read, or is no gzip file though its
            name says so.
    """

    def __init__(self, file: CorpusFile, *hashes: Hash) -> None:
        self.file, self._hashes = file, hashes

    def __enter__(self) -> RecordFile:
        with _named(self.file.path):
            self._raw = open(self.file.path, "rb", buffering=0)
        try:
            self._open()
        except DataError:
            self._raw.close()
            raise
        return self

    def _open(self) -> None:
        with _named(self.file.path):
            head = os.pread(self._raw.fileno(), 64, 0)
        instead = what_instead(head)
        if instead is None and head[:2] == b"\x1f\x8b" and not self.file.is_gzip:
            instead = "compressed with gzip: give it a name that ends in .gz"
        if instead is not None:
            raise DataError(f"{self.file.path}: {instead}")
        self._hashing = _HashingReader(self._raw, self._hashes)
        buffered = io.BufferedReader(self._hashing, CHUNK_BYTES)
        self._last: tuple[int, bytes] = (-1, b"")
        if self.file.is_table:
            self._stream = io.BufferedReader(table_lines(self.file.path), CHUNK_BYTES)
        else:
            self._stream = (
                gzip.GzipFile(fileobj=buffered) if self.file.is_gzip else buffered
            )

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, size: int, line: bool = False) -> bytes:
        """Up to ``size`` bytes, or what is left of a line if that is less."""
        with _named(self.file.path):
            return self._stream.readline(size) if line else self._stream.read(size)

    def read_each(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """So many bytes at each offset of the (decompressed) file.

        Those of one offset that follow one another, in later calls too, are one object.
        The hashes take in none of a plain file; in another, offsets must not descend.
        """
        lines = []
        with _named(self.file.path):
            for offset, size in zip(offsets, sizes, strict=True):
                if offset != self._last[0]:
                    self._last = offset, self._read_at(offset, size)
                lines.append(self._last[1])
        return lines

    def _read_at(self, offset: int, size: int) -> bytes:
        if not self.file.is_sequential:
            return os.pread(self._raw.fileno(), size, offset)
        self._stream.seek(offset)
        return self._stream.read(size)

    def read_rest(self) -> None:
        """Read what is left of the file, for the hashes."""
        buffer = bytearray(CHUNK_BYTES)
        with _named(self.file.path):
            while self._hashing.readinto(buffer):
                pass

    def starts_array(self) -> bool:
        """Whether the file is one JSON array (``*.json``) rather than JSON lines."""
        if not self.file.path.name.removesuffix(".gz").endswith(".json"):
            return False
        with RecordFile(self.file) as probe:
            while head := probe.read(4096):
                if stripped := head.strip():
                    return stripped.startswith(b"[")
        return False

    def chunks(self) -> Iterator[Chunk]:
        """The lines of the file, about CHUNK_BYTES at a time."""
        offset, line = 0, 1
        while data := self.read(CHUNK_BYTES):
            tail = b""
            if not data.endswith(b"\n"):
                tail = self.read(MAX_LINE_BYTES, line=True)
            too_long = len(tail) == MAX_LINE_BYTES and not tail.endswith(b"\n")
            if too_long:
                cut = data.rfind(b"\n") + 1
                data, tail = data[:cut], data[cut:] + tail
            else:
                data += tail
            if data:
                ends = line_ends(data)
                yield Chunk(data, ends, offset, line)
                offset += len(data)
                line += len(ends)
            if too_long:
                yield Chunk(tail[:80], [80], offset, line, too_long=True)
                while not tail.endswith(b"\n"):
                    offset += len(tail)
                    tail = self.read(CHUNK_BYTES, line=True)
                    if not tail:
                        return
                offset += len(tail)
                line += 1

    def array_elements(self) -> Iterator[tuple[int, int, bytes]]:
        """(line, offset, bytes) of each element of a file that is one JSON array.

        Raises:
            DataError: it is no valid JSON array, or larger than MAX_ARRAY_BYTES.
        """
        data = self.read(MAX_ARRAY_BYTES + 1)
        if len(data) > MAX_ARRAY_BYTES:
            raise DataError(
                f"{self.file.path}: a JSON array of over {MAX_ARRAY_BYTES} bytes; "
                "write one record per line instead (JSONL)"
            )
        with faults_of(self.file.path, "neither JSON lines nor a JSON array"):
            elements = msgspec.json.decode(data, type=list[msgspec.Raw])
        position, line, counted = 0, 1, 0
        for element in elements:
            raw = bytes(element)
            # Elements follow one another, so the next match from here is this one.
            position = data.index(raw, position)
            line += data.count(b"\n", counted, position)
            counted = position
            yield line, position, raw
            position += len(raw)
