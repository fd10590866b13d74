"""From rows back to records: seek, check that nothing changed, and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from mprm_jax.data.corpus import Corpus, Usable
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats import raw as raw_format
from mprm_jax.data.formats.base import Format, WriteOptions, check_options
from mprm_jax.data.framing import RecordReader
from mprm_jax.data.images import resolve_image
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.raw_scan import decode_indexed
from mprm_jax.data.record import Record, resolve_unmeasured


def read_lines(corpus: Corpus, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of the given corpus rows, which must ascend.

    Raises:
        DataError: a record is not the one that was indexed.
    """
    for number, file in enumerate(corpus.files):
        of_file = rows[corpus.file[rows] == number]
        if len(of_file) == 0:
            continue
        with RecordReader(file) as reader:
            for row in of_file.tolist():
                data = reader.read(int(corpus.offset[row]), int(corpus.size[row]))
                if xxhash.xxh3_64_intdigest(data) != corpus.content[row]:
                    raise DataError(
                        f"{corpus.where(row)}: the file changed since it was indexed; "
                        "run again"
                    )
                yield row, data


def decode_line(corpus: Corpus, row: int, data: bytes) -> Record:
    """The record of an indexed row, with its source's name."""
    record = None
    if corpus.format == raw_format.RAW.name and corpus.options.source_from is None:
        record = decode_indexed(data)
    if record is None:
        record = by_name(corpus.format).decode(data, corpus.options)
    if record.source is None:
        name = corpus.rollouts.source_names[corpus.rollouts.source[row]]
        record = msgspec.structs.replace(record, source=name)
    return record


def encoded_lines(
    usable: Usable,
    picks: np.ndarray,
    form: Format,
    options: WriteOptions,
    images: Path | None = None,
) -> Iterator[tuple[int, bytes]]:
    """(corpus row, line without newline) of each chosen rollout in a format.

    Raw lines of a raw corpus are copied byte for byte, unless the policy for
    unmeasured steps changed their steps.

    Args:
        usable: what the picks index.
        picks: ascending rows of ``usable.rollouts``.
        form: to write.
        options: labels.
        images: root below which every image must exist; None: they are not looked for.

    Raises:
        DataError: the format cannot hold a record, or an image is missing or lies
            outside the root (with file and line), or the file changed.
    """
    check_options(form, options)
    corpus = usable.corpus
    copies = form.name == raw_format.RAW.name == corpus.format
    if copies and usable.unmeasured == "negative" and usable.unmeasured_steps:
        raise DataError(
            "--format raw keeps num_mc_total 0, which is no negative label; "
            "use --unmeasured drop, or a format of labels"
        )
    rows = usable.row[picks]
    lengths = usable.rollouts.lengths[picks]
    before = corpus.rollouts.lengths[rows]
    lines = read_lines(corpus, rows)
    # Rows ascend, so the lines come in the order of the picks.
    for (row, data), length, whole in zip(lines, lengths, before, strict=True):
        try:
            record = None
            if images is not None or not copies:
                record = decode_line(corpus, row, data)
                if images is not None:
                    check_images(record, images)
            if record is not None and not copies:
                data = _encode(record, usable, form, options)
            elif length < whole:
                data = raw_format.truncate(data, length)
        except BadRecord as error:
            raise DataError(f"{corpus.where(row)}: {error}") from None
        yield row, data


def check_images(record: Record, root: Path) -> None:
    """Refuse a record one of whose images is not a file below ``root``.

    Raises:
        BadRecord: as :func:`mprm_jax.data.images.resolve_image`.
    """
    for image in record.images:
        resolve_image(root, image)


def _encode(
    record: Record, usable: Usable, form: Format, options: WriteOptions
) -> bytes:
    measured: Record | None = record
    if usable.unmeasured_steps:
        measured = resolve_unmeasured(record, usable.unmeasured)
    if measured is None or form.encode is None:
        raise BadRecord("nothing to write")
    return form.encode(measured, options)


def write_lines(
    lines: Iterator[tuple[int, bytes]],
    write: Callable[[bytes], object],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Write each line with a newline; call ``progress`` with the count now and then."""
    for count, (_, line) in enumerate(lines, 1):
        write(line + b"\n")
        if count % 4096 == 0:
            progress(count)
