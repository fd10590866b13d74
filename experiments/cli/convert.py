"""`mprm convert`: the same rollouts in another format, one file per source."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.console.command import answer
from experiments.console.corpus import (
    CorpusOptions,
    LabelOptions,
    check_labels,
    line_rows,
    load_usable,
)
from experiments.console.errors import print_bad_lines
from experiments.console.options import PictureOptions
from experiments.console.progress import progress
from experiments.console.text import count_of
from experiments.store.write_subset import (
    META_FORMATS,
    corpus_manifest,
    drop_meta,
    folders_of,
    meta_bytes,
    meta_path,
    say_pictures,
)
from mprm_jax.data.formats import by_name
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import OutputSet
from mprm_jax.data.write import encoded_lines, write_lines
from mprm_jax.records.problems import BadRecord, DataError
from theory.summary import by_source

OutputFormat = Literal[
    "prm", "visualprm", "raw", "trl", "math-shepherd", "rlhflow", "openrlhf", "openr"
]


@dataclasses.dataclass(frozen=True)
class Options(PictureOptions, CorpusOptions):
    """Write every rollout in another format, one file per source.

    What a format cannot hold is refused with its file and line, never changed or
    dropped.

    Example: mprm convert CORPUS --format trl --output runs/trl

    Attributes:
        output: Folder to write into.
        format: Format to write.
        labels: How labels are written.
    """

    output: Path = Path("runs/converted")
    format: OutputFormat = "prm"
    labels: LabelOptions = dataclasses.field(default_factory=LabelOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.format, self.labels)


OPTIONS = Options


def run(options: Options) -> None:
    """Convert."""
    form = by_name(options.format)
    inputs = [file.path for file in corpus_files(options.corpus)]
    if os.path.realpath(options.output) in folders_of(inputs):
        raise DataError(f"{options.output}: is the corpus's own folder; choose another")
    usable = load_usable(options)
    groups = by_source(usable.rollouts)
    files = _file_names(list(groups))
    _check_folder(options.output, set(files.values()))
    refused: dict[int, BadRecord] = {}
    with (
        OutputSet() as outputs,
        progress("converting", len(usable.row), "rollouts") as tick,
    ):
        written, done = [], 0
        for name, picks in groups.items():
            path = options.output / files[name]
            before = len(refused)
            lines = encoded_lines(
                usable, picks, form, options.labels, options.root, refused
            )
            first = next(lines, None)
            if first is None:
                continue
            output = outputs.add(path)
            lines = itertools.chain([first], lines)
            write_lines(lines, output.write, lambda n, done=done: tick(done + n))
            done += len(picks)
            count = len(picks) - (len(refused) - before)
            made = {"source": name, "format": form.name, "rollouts": count}
            written.append(output.facts() | made)
            if form.name in META_FORMATS:
                meta = meta_bytes(usable, picks, path, count, options.root)
                outputs.add(meta_path(path), describes=True).write(meta)
            else:
                drop_meta(outputs, path)
        # Nor may the file of a source of which nothing was left.
        _check_folder(options.output, {output["file"] for output in written})
        told = usable.lines_of(refused)
        usable = usable.without(refused, options.max_bad)
        manifest = corpus_manifest(usable)
        manifest |= {"labels": asdict(options.labels), "outputs": written}
        outputs.add_manifest(options.output / "manifest.json", manifest)
    print_bad_lines(told)
    if form.name in META_FORMATS:
        say_pictures(usable, np.arange(len(usable.row)), options.root)
    answer(
        options.json,
        {
            "output": str(options.output),
            "files": written,
            "counts": manifest["counts"],
            **line_rows(usable),
        },
        f"wrote {count_of(len(usable.row), 'rollout')} of "
        f"{count_of(len(written), 'source')} "
        f"({form.name}): {options.output}",
    )


def _check_folder(folder: Path, planned: set[str]) -> None:
    """Refuse a folder whose other files would be read as a part of the result.

    Raises:
        DataError: it names the first.
    """
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if file.name.endswith((".jsonl", ".jsonl.gz")) and file.name not in planned:
            raise DataError(
                f"{file}: was there before and would be read as a part of the result; "
                "choose an empty --output"
            )


def _file_names(sources: list[str]) -> dict[str, str]:
    """A file name for each source; two that would share one are told apart."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        stem = re.sub(r"[^\w.()+ -]", "_", source).strip(". ") or "source"
        name, number = f"{stem}.jsonl", 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}.jsonl", number + 1
        taken.add(name.lower())
        names[source] = name
    return names
