"""From rollouts on disk, or in memory, to the batches of a run, in a fixed order.

Batch t of a run is a function of the seed and t alone (:func:`batches`), so a run goes
on from any update with the data it would have had, on any number of hosts.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import grain
import numpy as np
from PIL import Image

from mprm_jax.data.batches import Batch, Buckets, Example, collate
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.images import read_images
from mprm_jax.data.write import decode_line, read_lines
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import ImageRoot, Record, resolve_unmeasured

# (question, step texts, images) -> (tokens_L, images_PxD, marker_S, truncated)
Encode = Callable[
    [str, tuple[str, ...], tuple[Image.Image, ...]],
    tuple[np.ndarray, np.ndarray, np.ndarray, int],
]


# Rollouts that are checked before progress is told.
_CHECKED = 64


class Source(Protocol):
    """Rollouts by place; a list of examples is one."""

    def __len__(self) -> int:
        """Rollouts."""
        ...

    def __getitem__(self, place: int, /) -> Example:
        """The rollout at a place in [0, len)."""
        ...


class Loaded(NamedTuple):
    """One batch, and what it was made of.

    Attributes:
        batch: this host's rows.
        places: in the source, of the rows that are rollouts, int64.
        truncated: steps of these rollouts that were cut off.
    """

    batch: Batch
    places: np.ndarray
    truncated: int


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
            for row, line in read_lines(corpus, rows[packed[corpus.file[rows]]]):
                self._unpacked[row] = (self._file.tell(), len(line))
                self._file.write(line)
            self._file.flush()
            weakref.finalize(self, self._file.close)

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
        if self._file is not None and row in self._unpacked:
            offset, size = self._unpacked[row]
            data = os.pread(self._file.fileno(), size, offset)
        else:
            ((_, data),) = read_lines(corpus, np.array([row]))
        record = decode_line(corpus, row, data)
        resolved = resolve_unmeasured(record, self.usable.unmeasured)
        if resolved is None:
            raise BadRecord("no steps", "nothing is left of it")
        return resolved

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

    def check(
        self, threads: int, progress: Callable[[int], None] = lambda count: None
    ) -> dict[int, BadRecord]:
        """Why rollouts cannot be encoded, by row of ``usable.rollouts``: pictures that
        are missing or damaged, texts that hold control tokens. All are encoded once,
        which costs what a pass over them costs a run.

        Args:
            threads: that read.
            progress: called with the number of rollouts read.

        Raises:
            DataError: a file changed since it was indexed.
        """

        def fault(place: int) -> BadRecord | None:
            try:
                self.encoded(place)
            except BadRecord as error:
                return error
            return None

        refused = {}
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for start in range(0, len(self), _CHECKED):
                places = range(start, min(start + _CHECKED, len(self)))
                for place, error in zip(places, pool.map(fault, places), strict=True):
                    if error is not None:
                        refused[int(self.usable_rows[place])] = error
                progress(places.stop)
        return refused

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


@dataclass(frozen=True)
class BatchOrder:
    """Which rollouts each batch of a run holds, and who reads them ahead.

    Attributes:
        batch_size: B of the global batch, a multiple of ``hosts``.
        presentations: rollouts read in all; more than there are for several passes.
        seed: of the order of the rollouts.
        threads: that read ahead; 0 reads in the caller's thread (for rollouts that are
            in memory).
        ahead: batches to keep ready.
        host: number of this host in [0, hosts).
        hosts: that each read their rows of every batch.

    Raises:
        ValueError: the hosts cannot share a batch evenly.
    """

    batch_size: int
    presentations: int
    seed: int
    threads: int = 0
    ahead: int = 4
    host: int = 0
    hosts: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.hosts:
            raise ValueError(
                f"{self.hosts} hosts cannot share a batch of {self.batch_size} evenly"
            )


def batches(
    source: Source, buckets: Buckets, order: BatchOrder
) -> grain.IterDataset[Loaded]:
    """The batches of a run; its iterator's state can be saved and set.

    The rollouts are shuffled by the seed, anew for each pass; the global batch t holds
    the places [t B, (t+1) B) of that endless order, up to the presentations. Of it host
    h has every ``hosts``-th row from h on. Rows beyond the last rollout are empty, so
    that all batches have one size.

    Args:
        source: the rollouts.
        buckets: shapes; several hosts use the largest, because none sees the others'
            rows and all must run one program.
        order: what each batch holds; nothing but its sizes and seed change that.
    """
    size, hosts = order.batch_size, order.hosts
    shapes = buckets.largest if hosts > 1 else buckets
    places_in_order = shuffled(len(source), order.seed)

    def load(update: int) -> Loaded:
        start, stop = update * size, min((update + 1) * size, order.presentations)
        chosen = range(start + order.host, stop, hosts)
        places = np.array([places_in_order[i] for i in chosen], np.int64)
        examples = [source[place] for place in places.tolist()]
        # A host without a rollout in the last batch still takes part, with none.
        filler = examples or [_empty(source[0])]
        return Loaded(
            collate(filler, shapes, size // hosts),
            places,
            sum(example.truncated for example in examples),
        )

    return (
        grain.MapDataset.range(-(-order.presentations // size))
        .map(load)
        .to_iter_dataset(
            grain.ReadOptions(
                num_threads=order.threads,
                prefetch_buffer_size=order.ahead if order.threads else 0,
            )
        )
    )


def shuffled(count: int, seed: int) -> Sequence[int]:
    """Places of rollouts in the endless order of a run, shuffled anew for each pass."""
    return cast(
        Sequence[int], grain.MapDataset.range(count).seed(_seed(seed)).shuffle()
    )


def _seed(seed: int) -> int:
    """Any number >= 0 as one of the 32-bit seeds that grain takes."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def _empty(like: Example) -> Example:
    nothing = np.zeros(0, np.int32)
    return Example(nothing, like.images_PxD[:0], nothing, nothing, nothing)
