"""From rows back to records: seek, check that nothing changed, and write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from mprm_jax.data.corpus import Corpus, SelectableCorpus
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import Format, WriteOptions, check_options
from mprm_jax.data.formats.raw import RAW, cut
from mprm_jax.data.framing import RecordFile
from mprm_jax.data.index import content_hash, rollout_hash
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import (
    ImageRoot,
    Record,
    image_root,
    resolve_image,
    resolve_unmeasured,
    without_labels,
)

# Records that are read together.
_BATCH = 128


def read_lines(corpus: Corpus, corpus_rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of the given rows, which must ascend.

    The bytes of rollouts that stand in one record are one object.

    Raises:
        DataError: a record is not the one that was indexed.
    """
    hashed, content = b"", content_hash(b"")
    files = np.arange(len(corpus.files) + 1)
    bounds = np.searchsorted(corpus.file[corpus_rows], files)
    for file, start, stop in zip(corpus.files, bounds, bounds[1:], strict=False):
        if start == stop:
            continue
        with RecordFile(file) as records:
            for first in range(start, stop, _BATCH):
                rows = corpus_rows[first : min(first + _BATCH, stop)]
                lines = records.read_each(
                    corpus.offset[rows].tolist(), corpus.size[rows].tolist()
                )
                columns = zip(
                    rows.tolist(),
                    lines,
                    corpus.part[rows].tolist(),
                    corpus.content[rows].tolist(),
                    strict=True,
                )
                for row, line, part, known in columns:
                    if line is not hashed:
                        hashed, content = line, content_hash(line)
                    if rollout_hash(content, part) != known:
                        raise DataError(
                            f"{corpus.where(row)}: the file changed since it was "
                            "indexed; run again"
                        )
                    yield row, line


def line_decoder(corpus: Corpus) -> Callable[[int, bytes], Record]:
    """What makes of an indexed row and its bytes its record, with its source's name.

    Rollouts of one record that follow one another cost one decoding.
    """
    decoded: tuple[bytes, tuple[Record, ...]] = (b"", ())

    def decode_row(row: int, data: bytes) -> Record:
        nonlocal decoded
        if data is not decoded[0]:
            decoded = data, decode_line(corpus, data)
        return record_of(corpus, row, decoded[1])

    return decode_row


def decode_line(corpus: Corpus, data: bytes) -> tuple[Record, ...]:
    """All rollouts of the bytes of a record."""
    return by_name(corpus.format).decode(data, corpus.options)


def record_of(corpus: Corpus, row: int, records: tuple[Record, ...]) -> Record:
    """Of the rollouts of its line that of an indexed row, with its source's name."""
    record = records[corpus.part[row]]
    if record.source is None:
        name = corpus.rollouts.source_names[corpus.rollouts.source[row]]
        record = msgspec.structs.replace(record, source=name)
    return record


def picture_root(
    usable: SelectableCorpus, usable_rows: np.ndarray, asked: Path | ImageRoot | None
) -> ImageRoot:
    """Where the pictures of chosen rollouts lie: as asked, else where the first of them
    shows, ``images/`` in the folder of the corpus's files or that folder, or the
    same of the corpus's own folder.
    """
    if asked is not None:
        return asked if isinstance(asked, ImageRoot) else ImageRoot(asked)
    corpus = usable.corpus
    images = first_pictures(usable, usable_rows)
    roots = [image_root(above, images) for above in (corpus.folder, corpus.path)]
    # A folder whose data lie in a sub-folder has its pictures beside that, often.
    found = (root for root in roots if images and os.path.isfile(root / images[0]))
    return ImageRoot(next(found, roots[0]))


def first_pictures(
    usable: SelectableCorpus, usable_rows: np.ndarray
) -> tuple[str, ...]:
    """The pictures of the first of some rollouts that has any; of the first 128."""
    return next(_pictures(usable, usable_rows[:_BATCH]), ())


def has_pictures(usable: SelectableCorpus, usable_rows: np.ndarray) -> bool:
    """Whether any of some rollouts has a picture; reads up to the first that has."""
    return any(_pictures(usable, usable_rows))


def _pictures(
    usable: SelectableCorpus, usable_rows: np.ndarray
) -> Iterator[tuple[str, ...]]:
    """The pictures of each of some rollouts that has any."""
    decode = line_decoder(usable.corpus)
    for row, line in read_lines(usable.corpus, usable.row[usable_rows]):
        if images := decode(row, line).images:
            yield images


def count_words(
    corpus: Corpus,
    rows: np.ndarray,
    lengths: np.ndarray,
    progress: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Words, separated by white space, of the first steps of each of some rollouts.

    Args:
        corpus: that holds them.
        rows: of the corpus, ascending int64 ``[n]``.
        lengths: how many steps count, int64 ``[n]``.
        progress: called with the number of rollouts read, now and then.

    Returns:
        int64 ``[n]``.

    Raises:
        DataError: a record is not the one that was indexed.
    """
    words, decode = np.zeros(len(rows), np.int64), line_decoder(corpus)
    for i, (row, line) in enumerate(read_lines(corpus, rows)):
        steps = decode(row, line).steps[: lengths[i]]
        words[i] = sum(len(step.text.split()) for step in steps)
        if i % 4096 == 0:
            progress(i)
    return words


def encoded_lines(
    selectable: SelectableCorpus,
    usable_rows: np.ndarray,
    form: Format,
    options: WriteOptions,
    images: Path | ImageRoot | None = None,
    refused: dict[int, BadRecord] | None = None,
) -> Iterator[bytes]:
    """The line, with its newline, of each chosen rollout in a format.

    Raw lines of a raw corpus are copied byte for byte, unless the policy for unmeasured
    steps changed their steps, or masked labels leave some out.

    Args:
        selectable: what the rows index.
        usable_rows: ascending rows of ``selectable.rollouts``.
        form: to write.
        options: labels.
        images: root below which every image must exist; None: they are not looked for.
        refused: takes in, by usable row, why rollouts cannot be written, and these have
            no line; None: the first ends it.

    Raises:
        DataError: the format cannot hold a record, or an image is missing or lies
            outside the root (with file and line), or the file changed.
    """
    check_options(form, options)
    corpus = selectable.corpus
    copies = form.name == RAW.name == corpus.format
    if copies and selectable.unmeasured == "negative" and selectable.unmeasured_steps:
        raise DataError(
            "--format raw keeps num_mc_total 0, which is no negative label; "
            "use --unmeasured drop or keep, or a format of labels"
        )
    corpus_rows = selectable.row[usable_rows]
    kept = selectable.rollouts.lengths[usable_rows]
    shorter = kept < corpus.rollouts.lengths[corpus_rows]
    whole = corpus.options.empty_steps == "error"
    masked, decode = [[]] * len(usable_rows), line_decoder(corpus)
    if options.labels == "masked":
        masked = selectable.masked_steps(usable_rows)

    def encoded(place: int, row: int, data: bytes) -> bytes:
        record = None
        if images is not None or not copies:
            record = decode(row, data)
        if record is not None and images is not None:
            for image in record.images:
                resolve_image(images, image)
        if record is None or copies:
            if not (shorter[place] or masked[place]) and whole:
                return data
            return cut(data, int(kept[place]), masked[place])
        measured = resolve_unmeasured(record, selectable.unmeasured)
        if measured is None:
            raise BadRecord("nothing to write")
        return form.encode(without_labels(measured, masked[place]), options)

    lines = read_lines(corpus, corpus_rows)
    for place, (row, data) in enumerate(lines):
        try:
            # Elements of an array may stand on several lines.
            line = encoded(place, row, data).translate(None, b"\r\n") + b"\n"
        except BadRecord as error:
            if refused is None:
                raise DataError(f"{corpus.where(row)}: {error}") from None
            refused[int(usable_rows[place])] = error
        else:
            yield line


def write_lines(
    lines: Iterable[bytes],
    write: Callable[[bytes], object],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Write each line; call ``progress`` with the count so far, now and then."""
    count = 0
    for count, line in enumerate(lines, 1):
        write(line)
        if count % _BATCH == 0:
            progress(count)
    progress(count)


def internvl_meta(
    name: str, root: str, annotation: str, length: int
) -> dict[str, dict[str, object]]:
    """``{name: {"root", "annotation", "data_augment", "repeat_time", "length"}}``.

    Args:
        name: of the data set, as training logs show it.
        root: folder that image paths start from.
        annotation: file of conversations, one per line.
        length: lines in that file; the scripts sample by it, so it must be true.

    Raises:
        ValueError: there is nothing to train on.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    return {
        name: {
            "root": root,
            "annotation": annotation,
            "data_augment": False,
            "repeat_time": 1,
            "length": length,
        }
    }
