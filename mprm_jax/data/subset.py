"""From rows back to records: seek, check that nothing changed, and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from mprm_jax.data.corpus import Corpus, Usable
from mprm_jax.data.formats import by_name
from mprm_jax.data.formats import raw as raw_format
from mprm_jax.data.formats.base import Format, WriteOptions, check_options
from mprm_jax.data.formats.prm import PRM
from mprm_jax.data.formats.raw import RAW
from mprm_jax.data.framing import RecordReader
from mprm_jax.data.images import resolve_image
from mprm_jax.data.prm_lines import labelled_lines
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.raw_scan import decode_indexed
from mprm_jax.data.record import Record, resolve_unmeasured

# Records that are read and rewritten together.
_BATCH = 128
# Records whose labels are written together: numpy is slow on few.
_LABELLED = 8192


def read_lines(corpus: Corpus, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of the given corpus rows, which must ascend.

    Raises:
        DataError: a record is not the one that was indexed.
    """
    for batch, lines in _batches(corpus, rows):
        yield from zip(batch.tolist(), lines, strict=True)


def _batches(
    corpus: Corpus, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """As :func:`read_lines`, some of one file at a time."""
    bounds = np.searchsorted(corpus.file[rows], np.arange(len(corpus.files) + 1))
    for file, start, stop in zip(corpus.files, bounds, bounds[1:], strict=False):
        if start == stop:
            continue
        with RecordReader(file) as reader:
            for first in range(start, stop, _BATCH):
                batch = rows[first : min(first + _BATCH, stop)]
                offsets, sizes = corpus.offset[batch], corpus.size[batch]
                lines = reader.read_each(offsets.tolist(), sizes.tolist())
                content = np.array(
                    list(map(xxhash.xxh3_64_intdigest, lines)), np.uint64
                )
                changed = np.flatnonzero(content != corpus.content[batch])
                if len(changed):
                    where = corpus.where(int(batch[changed[0]]))
                    raise DataError(
                        f"{where}: the file changed since it was indexed; run again"
                    )
                yield batch, lines


def _is_raw(corpus: Corpus) -> bool:
    """Whether the lines are raw ones that need no option to be understood."""
    return corpus.format == RAW.name and corpus.options.source_from is None


def decode_line(corpus: Corpus, row: int, data: bytes) -> Record:
    """The record of an indexed row, with its source's name."""
    record = decode_indexed(data) if _is_raw(corpus) else None
    if record is None:
        record = by_name(corpus.format).decode(data, corpus.options)
    if record.source is None:
        name = corpus.rollouts.source_names[corpus.rollouts.source[row]]
        record = msgspec.structs.replace(record, source=name)
    return record


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
    words = np.zeros(len(rows), np.int64)
    for i, (row, line) in enumerate(read_lines(corpus, rows)):
        steps = decode_line(corpus, row, line).steps[: lengths[i]]
        words[i] = sum(len(step.text.split()) for step in steps)
        if i % 4096 == 0:
            progress(i)
    return words


def encoded_lines(
    usable: Usable,
    picks: np.ndarray,
    form: Format,
    options: WriteOptions,
    images: Path | None = None,
) -> Iterator[list[bytes]]:
    """The line, without newline, of each chosen rollout in a format, some at a time.

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
    copies = form.name == RAW.name == corpus.format
    if copies and usable.unmeasured == "negative" and usable.unmeasured_steps:
        raise DataError(
            "--format raw keeps num_mc_total 0, which is no negative label; "
            "use --unmeasured drop, or a format of labels"
        )
    rows = usable.row[picks]
    quick = form.name == PRM.name and images is None and _is_raw(corpus)
    labels = _labels(usable, picks, options)
    done = 0
    for batch, lines in _batches(corpus, rows):
        cuts = _cuts(usable, picks[done : done + len(batch)])
        done += len(batch)
        outputs: list[bytes | None] = [None] * len(lines)
        if quick:
            outputs = labelled_lines(lines, list(islice(labels, len(lines))))
        elif copies and images is None:
            outputs = [
                line if cut is None else None
                for line, cut in zip(lines, cuts, strict=True)
            ]
        rewrite = partial(_encoded_line, usable, form, options, images)
        yield [
            rewrite(int(batch[i]), lines[i], cuts[i]) if output is None else output
            for i, output in enumerate(outputs)
        ]


def _cuts(usable: Usable, picks: np.ndarray) -> list[int | None]:
    """Steps to which each pick was cut, None if it was not."""
    if not usable.truncated:
        return [None] * len(picks)
    cut, whole = usable.rollouts.offsets, usable.corpus.rollouts.offsets
    rows = usable.row[picks]
    lengths = cut[picks + 1] - cut[picks]
    shorter = lengths < whole[rows + 1] - whole[rows]
    return [
        length if short else None
        for length, short in zip(lengths.tolist(), shorter.tolist(), strict=True)
    ]


def _encoded_line(
    usable: Usable,
    form: Format,
    options: WriteOptions,
    images: Path | None,
    row: int,
    data: bytes,
    cut_to: int | None,
) -> bytes:
    """One line by decoding and encoding it, cut to its first steps if need be."""
    corpus = usable.corpus
    try:
        copies = form.name == RAW.name == corpus.format
        record = None
        if images is not None or not copies:
            record = decode_line(corpus, row, data)
            if images is not None:
                check_images(record, images)
        if record is not None and not copies:
            return _encode(record, usable, form, options)
        return data if cut_to is None else raw_format.truncate(data, cut_to)
    except BadRecord as error:
        raise DataError(f"{corpus.where(row)}: {error}") from None


def _labels(
    usable: Usable, picks: np.ndarray, options: WriteOptions
) -> Iterator[bytes | None]:
    """The labels of each pick as JSON, None for a rollout that was cut or has a step
    without a label.
    """
    for start in range(0, len(picks), _LABELLED):
        of = picks[start : start + _LABELLED]
        rollouts = usable.rollouts.take(of)
        trials = np.maximum(rollouts.trials, 1)
        soft = rollouts.successes / trials
        if options.labels == "hard":
            soft = (soft > options.label_threshold).astype(np.float64)
        values, kind = np.unique(soft, return_inverse=True)
        spelled = [repr(label).encode() for label in values.tolist()]
        steps = [spelled[i] for i in kind.tolist()]
        offsets = rollouts.offsets.tolist()
        unmeasured = (rollouts.n_measured < rollouts.lengths).tolist()
        for cut, skip, a, b in zip(
            _cuts(usable, of), unmeasured, offsets, offsets[1:], strict=False
        ):
            labelled = cut is None and not skip
            yield b", ".join(steps[a:b]) if labelled else None


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
    batches: Iterator[list[bytes]],
    write: Callable[[bytes], object],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Write each line with a newline; call ``progress`` with the count so far."""
    count = 0
    for lines in batches:
        write(b"\n".join([*lines, b""]))
        count += len(lines)
        progress(count)
