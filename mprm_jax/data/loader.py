"""From rollouts on disk, or in memory, to the batches of a run, in a fixed order.

Batch t of a run is a function of the seed and t alone (:class:`Batches`), so a run goes
on from any update with the data it would have had, on any number of hosts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import grain
import numpy as np
from PIL import Image

from mprm_jax.data.batches import (
    Batch,
    Bucket,
    Buckets,
    Example,
    Labeller,
    Sizes,
    collate,
    plan_micro_batches,
    sizes_of,
    unlabelled,
)
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.images import read_images
from mprm_jax.data.packing import Packing, pack, plan_rows
from mprm_jax.data.write import decode_line, read_lines, record_of
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import ImageRoot, Record, resolve_unmeasured

# (question, step texts, images) -> (tokens_L, images_PxD, marker_S, truncated)
Encode = Callable[
    [str, tuple[str, ...], tuple[Image.Image, ...]],
    tuple[np.ndarray, np.ndarray, np.ndarray, int],
]


# Rollouts that are checked before progress is told.
_CHECKED = 64

# Decoded lines that are kept: as many as are read together.
_LINES = 128


class Source(Protocol):
    """Rollouts by place; a list of examples is one."""

    def __len__(self) -> int:
        """Rollouts."""
        ...

    def __getitem__(self, place: int, /) -> Example:
        """The rollout at a place in [0, len)."""
        ...


class Loaded(NamedTuple):
    """One global batch, and what it was made of.

    Attributes:
        batches: its micro-batches, this host's rows.
        places: in the source, of these rows that are rollouts, int64.
        total: of the whole batch: its sizes, summed.
        padded: tokens of the whole batch, padding included.
        failure: why this host's rows could not be read, which are empty then; only
            where other hosts must be told before the run can end.
    """

    batches: tuple[Batch, ...]
    places: np.ndarray
    total: Sizes
    padded: int
    failure: str = ""


@dataclass(frozen=True)
class _Line:
    """Where a line stands, and one of the rows that it holds."""

    file: int
    offset: int
    row: int = dataclasses.field(compare=False)


@dataclass(eq=False)
class CorpusExamples:
    """The chosen rollouts of a corpus, read and encoded one by one when asked for.

    Chosen lines of compressed files and tables are unpacked once, to a temporary file:
    seeking in such a file would read it from the start each time.

    Args:
        usable: the corpus after its policies.
        usable_rows: ascending rows of ``usable.rollouts``.
        encode: of the model.
        images: root of the image paths; None: the model sees none, and a record that
            names one is refused.

    Raises:
        DataError: a compressed file changed since it was indexed.
    """

    usable: SelectableCorpus
    usable_rows: np.ndarray
    encode: Encode
    images: Path | ImageRoot | None

    def __post_init__(self) -> None:
        corpus = self.usable.corpus
        packed = np.array([file.is_sequential for file in corpus.files])
        rows = self.usable.row[self.usable_rows]
        # (offset, size) in the temporary file, by row of the corpus.
        self._unpacked: dict[int, tuple[int, int]] = {}
        self._file = tempfile.TemporaryFile() if packed.any() else None  # noqa: SIM115
        if self._file is not None:
            written, place = None, (0, 0)
            for row, line in read_lines(corpus, rows[packed[corpus.file[rows]]]):
                if line is not written:
                    written, place = line, (self._file.tell(), len(line))
                    self._file.write(line)
                self._unpacked[row] = place
            self._file.flush()
            weakref.finalize(self, self._file.close)
        # Where few lines hold all rollouts, each is not decoded again for every one.
        self._records = functools.lru_cache(_LINES)(self._decoded)

    def __len__(self) -> int:
        return len(self.usable_rows)

    def where(self, place: int) -> str:
        """``file:line`` of a rollout."""
        return self.usable.corpus.where(int(self.usable.row[self.usable_rows[place]]))

    def record(self, place: int) -> Record:
        """The record of a rollout, after the policy for unmeasured steps.

        Raises:
            BadRecord: it cannot be decoded.
            DataError: the file changed since it was indexed.
        """
        corpus, row = self.usable.corpus, int(self.usable.row[self.usable_rows[place]])
        line = _Line(int(corpus.file[row]), int(corpus.offset[row]), row)
        record = record_of(corpus, row, self._records(line))
        resolved = resolve_unmeasured(record, self.usable.unmeasured)
        if resolved is None:
            raise BadRecord("no steps", "nothing is left of it")
        return resolved

    def _decoded(self, line: _Line) -> tuple[Record, ...]:
        corpus, row = self.usable.corpus, line.row
        if self._file is not None and row in self._unpacked:
            offset, size = self._unpacked[row]
            return decode_line(corpus, os.pread(self._file.fileno(), size, offset))
        ((_, data),) = read_lines(corpus, np.array([row]))
        return decode_line(corpus, data)

    def __getitem__(self, place: int) -> Example:
        """The rollout at a place, encoded.

        Raises:
            DataError: it, or an image of it, cannot be read; with ``file:line``. No
                other rollout ever takes its place.
        """
        try:
            return self.encoded(place)
        except BadRecord as error:
            raise DataError(f"{self.where(place)}: {error}") from None

    def measure(
        self,
        labeller: Labeller,
        threads: int,
        share: slice = slice(None),
        progress: Callable[[int], None] = lambda count: None,
    ) -> tuple[dict[int, BadRecord], Sizes]:
        """Sizes of rollouts, and why others cannot be encoded: pictures that are
        missing or damaged, texts that hold control tokens. All are encoded once, which
        costs what a pass over them costs a run.

        Args:
            labeller: of their steps.
            threads: that read.
            share: of the places.
            progress: called with the number of rollouts read.

        Returns:
            the refused ones by row of ``usable.rollouts``, and sizes of the others.

        Raises:
            DataError: a file changed since it was indexed.
        """
        places, refused, found = range(len(self))[share], {}, []

        def one(place: int) -> Sizes | BadRecord:
            try:
                return sizes_of([self.encoded(place)], labeller)
            except BadRecord as error:
                return error

        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for start in range(0, len(places), _CHECKED):
                these = places[start : start + _CHECKED]
                for place, result in zip(these, pool.map(one, these), strict=True):
                    if isinstance(result, BadRecord):
                        refused[int(self.usable_rows[place])] = result
                    else:
                        found.append(result)
                progress(start + len(these))
        return refused, Sizes.joined([sizes_of([]), *found])

    def encoded(self, place: int) -> Example:
        """The rollout at a place, encoded.

        Raises:
            BadRecord: it, or an image of it, cannot be read.
            DataError: a file changed since it was indexed.
        """
        record = self.record(place)
        if record.images and self.images is None:
            raise BadRecord(
                "image without root", f"{record.images[0][:80]!r}: no --images"
            )
        images = read_images(self.images, record.images) if self.images else ()
        texts = tuple(step.text for step in record.steps)
        tokens_L, images_PxD, marker_S, truncated = self.encode(
            record.question, texts, images
        )
        kept = record.steps[: len(marker_S)]
        return Example(
            tokens_L,
            images_PxD,
            marker_S,
            np.array([step.successes for step in kept], np.int32),
            np.array([step.trials for step in kept], np.int32),
            truncated,
        )


@dataclass(frozen=True, eq=False)
class Presented:
    """Rollouts of a source as often as they are to be shown, with their loss weights.

    Attributes:
        source: the rollouts.
        places: of each presentation in the source, int64 ``[M]``.
        weight: of each presentation's loss, at least 0, float64 ``[M]``.
    """

    source: Source
    places: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Example:
        """The rollout of a presentation, with its weight."""
        found = self.source[self.places[place].item()]
        return found._replace(weight=found.weight * self.weight[place].item())

    def where(self, place: int) -> str:
        """How the source names the rollout."""
        return where(self.source, self.places[place].item())


def where(source: Source, place: int) -> str:
    """A rollout, as its source names it, if that names any."""
    named = getattr(source, "where", lambda at: f"rollout {at}")
    return named(place)


def repeated(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places of a mixture, ascending: place i comes ``times[i]`` times on average.

    Whole times for certain; of the n places with the same times, whose broken rest is
    r, round(r n) once more, drawn without replacement.

    Args:
        times: at least 0, ``[N]``.
        rng: draws them.

    Raises:
        ValueError: a number is below 0 or not finite.

    Example:
        >>> repeated(np.array([2.0, 0.5, 0.5, 0.0]), np.random.default_rng(0)).tolist()
        [0, 0, 2]
    """
    if not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError("a rollout must be shown a finite number of times, at least 0")
    whole = np.floor(times).astype(np.int64)
    for value in np.unique(times[times > whole]):
        among = np.flatnonzero(times == value)
        more = round(value % 1 * len(among))
        whole[rng.choice(among, more, replace=False)] += 1
    return np.repeat(np.arange(len(times)), whole)


@dataclass(frozen=True)
class Feed:
    """Which rows of every micro-batch this host reads.

    Attributes:
        parts: equal parts of a micro-batch's rows.
        here: those that are read here, ascending.
    """

    parts: int = 1
    here: tuple[int, ...] = (0,)

    @property
    def is_whole(self) -> bool:
        """Whether every row is read here."""
        return len(self.here) == self.parts


@dataclass(frozen=True)
class BatchOrder:
    """Which rollouts each batch of a run holds, and who reads them ahead.

    Attributes:
        batch_size: B of the global batch.
        presentations: rollouts read in all; more than there are for several passes.
        seed: of the order of the rollouts.
        micro_batches: of a global batch.
        threads: that read ahead; 0 reads in the caller's thread (for rollouts that are
            in memory).
        ahead: batches to keep ready.
        feed: rows that this host reads.

    Raises:
        ValueError: micro-batches and parts cannot share a batch evenly.
    """

    batch_size: int
    presentations: int
    seed: int
    micro_batches: int = 1
    threads: int = 0
    ahead: int = 4
    feed: Feed = Feed()

    def __post_init__(self) -> None:
        if self.batch_size % (self.micro_batches * self.feed.parts):
            raise ValueError(
                f"{self.micro_batches} micro-batches in {self.feed.parts} parts cannot "
                f"share a batch of {self.batch_size} evenly"
            )

    @property
    def rows(self) -> int:
        """Of a micro-batch, on all hosts."""
        return self.batch_size // self.micro_batches


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a run: what batch t holds is a function of its arguments and t.

    The rollouts are shuffled by the seed, anew for each pass; the global batch t holds
    the places [t B, (t+1) B) of that endless order, up to the presentations, in
    micro-batches of :func:`mprm_jax.data.batches.plan_micro_batches`. Rows beyond the
    last rollout are empty.

    Attributes:
        source: the rollouts.
        buckets: shapes.
        order: what each batch holds.
        labeller: what the loss is made from.
        sizes: of all rollouts; needed where the feed is not whole, because no host
            reads the others' rows and all must run one program, and to pack.
        packing: of several rollouts in a row, of which each part of a micro-batch has
            one; there are as many micro-batches as that takes. None: a row is one
            rollout.

    Raises:
        ValueError: sizes are needed and not given.
    """

    source: Source
    buckets: Buckets
    order: BatchOrder
    labeller: Labeller = unlabelled
    sizes: Sizes | None = None
    packing: Packing | None = None

    def __post_init__(self) -> None:
        needed = self.packing is not None or not self.order.feed.is_whole
        if self.sizes is None and needed:
            raise ValueError(
                "rollouts that other hosts read, or that are packed, need known sizes"
            )

    @functools.cached_property
    def _shuffled(self) -> grain.MapDataset[int]:
        return shuffled(len(self.source), self.order.seed)

    def __len__(self) -> int:
        return -(-self.order.presentations // self.order.batch_size)

    def __getitem__(self, update: int) -> Loaded:
        """The batch of an update from 0, as far as this host reads it.

        Raises:
            DataError: a rollout cannot be read, and no other host must be told.
        """
        order = self.order
        start = update * order.batch_size
        stop = min(start + order.batch_size, order.presentations)
        places = np.array([self._shuffled[i] for i in range(start, stop)], np.int64)
        read: dict[int, Example] = {}
        if self.sizes is None:
            read = {i: self.source[place] for i, place in enumerate(places.tolist())}
            sizes = sizes_of(read.values(), self.labeller)
        else:
            sizes = self.sizes.take(places)
        plan = self._planned(sizes)
        rows = [self._rows_here(part) for part in plan]
        here = [i for of in rows for row in of for i in row]
        failure = ""
        try:
            read = read or {i: self.source[places[i].item()] for i in here}
            collated = tuple(map(partial(self._collated, read), plan, rows))
        except DataError as error:
            if order.feed.is_whole:
                raise
            failure = str(error)
            collated = tuple(map(partial(self._collated, {}), plan, rows))
        return Loaded(
            collated,
            places[here],
            Sizes(*(column.sum() for column in sizes)),
            sum(len(part.rows) * part.shape.tokens for part in plan),
            failure,
        )

    def _planned(self, sizes: Sizes) -> list[_Rows]:
        """The micro-batches of a global batch; missing rows are empty."""
        order, parts = self.order, self.order.feed.parts
        if self.packing is None:
            return [
                _filled([[i] for i in part.rows.tolist()], order.rows, part.shape)
                for part in plan_micro_batches(
                    sizes, self.buckets, order.micro_batches, order.rows
                )
            ]
        rows, shape = plan_rows(sizes, self.packing.shape), self.packing.shape.row
        starts = range(0, len(rows), parts)
        return [_filled(rows[at : at + parts], parts, shape) for at in starts]

    def _rows_here(self, part: _Rows) -> list[list[int]]:
        """Of a micro-batch those that are read here."""
        feed = self.order.feed
        size = len(part.rows) // feed.parts
        return [i for p in feed.here for i in part.rows[p * size : (p + 1) * size]]

    def _collated(
        self, read: dict[int, Example], part: _Rows, rows: list[list[int]]
    ) -> Batch:
        kept = [[i for i in row if i in read] for row in rows]
        like = next(iter(read.values())) if read else self.like
        try:
            if self.packing is None:
                buckets = Buckets((part.shape,), self.buckets.steps)
                examples = [read[row[0]] if row else None for row in kept]
                return collate(examples, buckets, len(rows), self.labeller, like)
            return pack(
                read,
                kept,
                dataclasses.replace(self.packing.shape, rows=len(rows)),
                self.labeller,
                like,
                numbered=self.packing.numbered,
            )
        except ValueError as error:
            raise DataError(
                f"rollouts changed since they were measured: {error}"
            ) from error

    @functools.cached_property
    def like(self) -> Example:
        """The first rollout that can be read; its images are of the kind of all."""
        for place in range(len(self.source) - 1):
            with contextlib.suppress(DataError):
                return self.source[place]
        return self.source[len(self.source) - 1]

    def from_first(self) -> grain.IterDataset[Loaded]:
        """All batches in order; the iterator's state can be saved and set.

        Raises:
            DataError: no rollout can be read.
        """
        order = self.order
        if not order.feed.is_whole:
            # A host whose files are gone later still makes batches for the others.
            _ = self.like
        return (
            grain.MapDataset.range(len(self))
            .map(self.__getitem__)
            .to_iter_dataset(
                grain.ReadOptions(
                    num_threads=order.threads,
                    prefetch_buffer_size=order.ahead if order.threads else 0,
                )
            )
        )


class _Rows(NamedTuple):
    """The rows of a micro-batch: places in the global batch of the rollouts of each."""

    rows: list[list[int]]
    shape: Bucket


def _filled(rows: list[list[int]], count: int, shape: Bucket) -> _Rows:
    return _Rows(rows + [[] for _ in range(count - len(rows))], shape)


def shuffled(count: int, seed: int) -> grain.MapDataset[int]:
    """Places of rollouts in the endless order of a run, drawn anew for each pass."""
    return grain.MapDataset.range(count).seed(_seed(seed)).shuffle()


def _seed(seed: int) -> int:
    """Any number >= 0 as one of the 32-bit seeds that grain takes."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])
