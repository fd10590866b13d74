"""What can be wrong with data: typed, located, counted, never a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


class DataError(Exception):
    """Data that cannot be used; the message is one line and says the way out.

    The command line prints it and exits with 1.
    """


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
class Problem:
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
class Problems:
    """Refused lines: how many of each reason, and the first ones in full.

    Attributes:
        counts: refused lines by reason.
        first: the first problem of each reason.
        kept: the first thousand problems in file order.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, Problem] = field(default_factory=dict)
    kept: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count one refused line."""
        self.counts[problem.reason] = self.counts.get(problem.reason, 0) + 1
        self.first.setdefault(problem.reason, problem)
        if len(self.kept) < _KEPT:
            self.kept.append(problem)

    def extend(self, others: Iterable[Problems]) -> None:
        """Count what other scans, later in file order, refused."""
        for other in others:
            for reason, count in other.counts.items():
                self.counts[reason] = self.counts.get(reason, 0) + count
                self.first.setdefault(reason, other.first[reason])
            self.kept.extend(other.kept[: _KEPT - len(self.kept)])

    @property
    def total(self) -> int:
        """Refused lines."""
        return sum(self.counts.values())

    def __bool__(self) -> bool:
        return bool(self.counts)


class BadCorpus(DataError):
    """A corpus with more refused lines than allowed; carries them all.

    Attributes:
        problems: what was refused.
        allowed: how many refused lines were allowed.
    """

    def __init__(self, problems: Problems, allowed: int = 0) -> None:
        lines = "line" if problems.total == 1 else "lines"
        super().__init__(
            f"{problems.total} bad {lines} refused (allowed: {allowed}); "
            "mend them, or go on without them with --max-bad N"
        )
        self.problems = problems
        self.allowed = allowed
