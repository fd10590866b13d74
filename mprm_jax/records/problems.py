"""What can be wrong with data: typed, located, counted, never a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec


class DataError(Exception):
    """Data that cannot be used; the message is one line and says the way out.

    The command line prints it and exits with 1.
    """


@contextlib.contextmanager
def faults_of(path: Path | str, unfit: str = "no JSON") -> Iterator[None]:
    """A context in which what goes wrong with a file is a DataError that names it.

    Args:
        path: of the file or folder, or the place in it.
        unfit: said where the file cannot be decoded.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: {unfit} ({error})") from error


_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# First bytes of files that hold others: they are unpacked first.
_PACKED = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"BZh": "compressed with bzip2",
}


def what_instead(head: bytes) -> str | None:
    """What a file is that was expected to hold something else, with the way out.

    Args:
        head: its first bytes, 64 are enough.

    Returns:
        words for a message; None: nothing that is known.

    Example:
        >>> what_instead(b"PK\\x03\\x04...")
        'a zip archive: unpack it first'
    """
    if head.startswith(_LFS_POINTER):
        return "a Git LFS pointer: fetch the file itself (git lfs pull)"
    for start, kind in _PACKED.items():
        if head.startswith(start):
            return f"{kind}: unpack it first"
    return None


class BadRecord(DataError):
    """A record that a format refuses.

    Attributes:
        reason: the kind of fault, the same words for every record that has it.
        detail: what this record shows, with the way out; may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, order=True)
class BadLine:
    """One refused line.

    Attributes:
        file: path as the user would type it.
        line: 1-based; 0 for the file as a whole.
        reason: kind of fault, shared by all such lines.
        detail: what this line shows.
    """

    file: str
    line: int
    reason: str
    detail: str = ""

    @property
    def where(self) -> str:
        """``file:line``, as editors and terminals can follow it."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.where}: {self.reason}{detail}"


# Lines listed one by one; beyond that only the counts per reason grow.
_KEPT = 1000


@dataclass
class BadLines:
    """Refused lines: how many of each reason, and the first ones in full.

    Attributes:
        counts: refused lines by reason.
        first: the first such line of each reason.
        kept: the first thousand in file order.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, BadLine] = field(default_factory=dict)
    kept: list[BadLine] = field(default_factory=list)

    def add(self, bad: BadLine) -> None:
        """Count one refused line."""
        self.counts[bad.reason] = self.counts.get(bad.reason, 0) + 1
        self.first.setdefault(bad.reason, bad)
        if len(self.kept) < _KEPT:
            self.kept.append(bad)

    def extend(self, other: BadLines, file: str | None = None) -> None:
        """Count what a later scan refused; of ``file`` if given."""

        def named(bad: BadLine) -> BadLine:
            return bad if file is None else replace(bad, file=file)

        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.first.setdefault(reason, named(other.first[reason]))
        self.kept.extend(map(named, other.kept[: _KEPT - len(self.kept)]))

    @property
    def total(self) -> int:
        """Refused lines."""
        return sum(self.counts.values())

    def __bool__(self) -> bool:
        return bool(self.counts)


class BadCorpus(DataError):
    """A corpus with more refused lines than allowed; carries them all.

    Attributes:
        bad_lines: what was refused.
        allowed: how many refused lines were allowed.
    """

    def __init__(self, bad_lines: BadLines, allowed: int = 0) -> None:
        lines = "line" if bad_lines.total == 1 else "lines"
        super().__init__(
            f"{bad_lines.total} bad {lines} refused (allowed: {allowed}); "
            "mend them, or go on without them with --max-bad N"
        )
        self.bad_lines = bad_lines
        self.allowed = allowed
