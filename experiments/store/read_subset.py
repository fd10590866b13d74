"""A subset that was selected before: its rows, once they fit the corpus at hand."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from experiments.console.errors import UsageError
from experiments.store.manifests import InputFile, typed
from experiments.store.provenance import file_sha256
from mprm_jax.data.corpus import Corpus, SelectableCorpus, read_corpus, usable_rollouts
from mprm_jax.data.formats.base import EmptySteps, ReadOptions, WriteOptions
from mprm_jax.data.outputs import MANIFEST_SUFFIX, manifest_path, read_manifest
from mprm_jax.data.write import picture_root
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import ImageRoot, UnmeasuredPolicy

if TYPE_CHECKING:
    from experiments.console.corpus import CorpusOptions
    from mprm_jax.data.loader import CorpusExamples


class ReadPolicy(msgspec.Struct, frozen=True):
    """How the corpus was read when the subset was selected."""

    format: str
    trials: int | None
    source_from: str | None
    unmeasured: UnmeasuredPolicy
    max_bad: int
    empty_steps: EmptySteps = "error"
    refused: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _ = self.options

    @property
    def options(self) -> ReadOptions:
        """The part that formats see."""
        return ReadOptions(self.trials, self.source_from, self.empty_steps)

    def usable(self, corpus: Corpus) -> SelectableCorpus:
        """The corpus after its policies, as it was selected from.

        Raises:
            DataError: more lines are bad than were, or nothing is left.
        """
        usable = usable_rollouts(corpus, self.unmeasured, self.max_bad)
        gone = np.flatnonzero(np.isin(usable.row, self.refused))
        why = BadRecord("could not be written", "when the subset was selected")
        return usable.without(dict.fromkeys(gone.tolist(), why), self.max_bad)


class Written(msgspec.Struct, frozen=True):
    """What a manifest says of the file that it lies beside.

    Attributes:
        format: "rows": there is no such file.
        rollouts: in it.
        sha256: its hash; None: there is no such file.
    """

    format: str
    rollouts: int
    sha256: str | None = None

    def check(self, output: Path, needed: bool) -> None:
        """Refuse a file that is not the one which was selected.

        Args:
            output: where it lies.
            needed: it was named itself, and not only its manifest.

        Raises:
            DataError: it is missing, or another; says the way out.
        """
        manifest = manifest_path(output)
        if not output.exists():
            if needed and self.sha256 is not None:
                raise DataError(
                    f"{output}: no such file; for the rows it held name {manifest}"
                )
        elif self.sha256 is None:
            if needed:
                raise DataError(
                    f"{output}: is no part of what was selected, rows alone; name "
                    f"{manifest}"
                )
        elif file_sha256(output) != self.sha256:
            raise DataError(
                f"{output}: is not the file that {manifest.name} was written with; "
                "select again, or remove it and name the manifest for the rows that "
                "were selected"
            )


class SubsetManifest(msgspec.Struct, frozen=True):
    """The part of a manifest that training needs.

    Attributes:
        input: how the corpus was read.
        inputs: its files.
        selection: how the rows were chosen.
        rows: of the corpus, ascending.
        output: the file that was written.
        labels: how they were written.
    """

    input: ReadPolicy
    inputs: list[InputFile]
    selection: dict[str, Any]
    rows: list[Annotated[int, msgspec.Meta(ge=0)]]
    output: Written
    labels: WriteOptions = WriteOptions()


@dataclass(frozen=True)
class Subset:
    """Rollouts to train on.

    Attributes:
        usable: the corpus after its policies.
        usable_rows: of ``usable.rollouts``, ascending.
        selection: how they were chosen; None: all.
    """

    usable: SelectableCorpus
    usable_rows: np.ndarray
    selection: dict[str, Any] | None


def read_subset(path: Path) -> SubsetManifest:
    """The manifest of a subset, named by itself or by the output it lies beside.

    Raises:
        DataError: there is none, it is not of a subset with rows, or the output is not
            the file that it was written with.
    """
    output = path.with_name(path.name.removesuffix(MANIFEST_SUFFIX))
    value = read_manifest(output)
    if value.get("compat"):
        raise DataError(
            f"{manifest_path(output)}: a subset of --compat official has no rows; "
            f"train on the file itself: mprm train {shlex.quote(str(output))}"
        )
    manifest = typed(output, value, SubsetManifest)
    manifest.output.check(output, needed=output == path)
    return manifest


def fit_subset(
    manifest: SubsetManifest, read: Callable[[ReadPolicy], Corpus], name: Path
) -> Subset:
    """The subset's rollouts in the corpus, which must be the one it was selected from.

    Args:
        manifest: of the subset.
        read: reads the corpus.
        name: of the subset, for messages.

    Raises:
        DataError: a file of the corpus is missing, new or changed, or a row is none.
    """
    policy = manifest.input
    corpus = read(policy)
    here = {
        file.path.name: sha256
        for file, sha256 in zip(corpus.files, corpus.sha256, strict=True)
    }
    there = {file.file: file.sha256 for file in manifest.inputs}
    for file in sorted(here.keys() | there.keys()):
        if here.get(file) != there.get(file):
            words = "changed" if file in here and file in there else "missing"
            if file not in there:
                words = "new"
            raise DataError(
                f"{name}: selected from another corpus than {corpus.path}: {file} is "
                f"{words}"
            )
    usable = policy.usable(corpus)
    corpus_rows = np.array(manifest.rows, np.int64)
    usable_rows = np.searchsorted(usable.row, corpus_rows)
    known = usable_rows < len(usable.row)
    known[known] = usable.row[usable_rows[known]] == corpus_rows[known]
    ascending = bool(np.all(np.diff(corpus_rows) > 0))
    counted = len(corpus_rows) == manifest.output.rollouts
    if not len(corpus_rows) or not known.all() or not ascending or not counted:
        raise DataError(
            f"{name}: its rows are not {manifest.output.rollouts:,} ascending rows of "
            f"{corpus.path}"
        )
    return Subset(usable, usable_rows, manifest.selection)


def load_subset(options: CorpusOptions, path: Path) -> Subset:
    """The subset that lies at a path, in the corpus read as it was to select it.

    Raises:
        UsageError: the corpus is to be read in another way.
        DataError: as :func:`read_subset` and :func:`fit_subset`.
    """
    # What parses options is slow to import, and not needed in Python.
    from experiments.console.options import option

    def read(reading: ReadPolicy) -> Corpus:
        for field in ("trials", "source_from", "empty_steps"):
            asked, before = getattr(options, field), getattr(reading, field)
            if asked not in (None, "error", before):
                raise UsageError(
                    f"{option(field)} {asked}: the subset was selected with {before}"
                )
        return read_corpus(
            options.corpus,
            reading.format,
            reading.options,
            use_cache=not options.no_cache,
        )

    return fit_subset(read_subset(path), read, path)


def examples(
    subset: Subset, encode: Any, images: Path | ImageRoot | None = None
) -> CorpusExamples:
    """The subset's rollouts as a model reads them; by default the images lie beside
    the corpus.

    Args:
        subset: rollouts to train on.
        encode: of the model.
        images: root of the image paths.
    """
    from mprm_jax.data.loader import CorpusExamples

    root = picture_root(subset.usable, subset.usable_rows, images)
    return CorpusExamples(subset.usable, subset.usable_rows, encode, root)
