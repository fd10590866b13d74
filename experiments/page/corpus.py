"""What a report shows of a world's corpus: counts, truth, subsets and distributions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from experiments.corpora.scenes import read_truth
from experiments.grid.results import rule_order
from experiments.store.manifests import InputFile, typed
from experiments.store.read_subset import Written
from experiments.store.write_subset import SelectionOptions
from mprm_jax.data.corpus import Corpus, read_corpus, usable_rollouts
from mprm_jax.data.outputs import MANIFEST_SUFFIX, manifest_path, read_manifest
from mprm_jax.data.write import count_words
from mprm_jax.records.problems import DataError
from theory import scores
from theory.rollouts import Rollouts
from theory.selection import Cut
from theory.summary import summarise


class _SubsetManifest(msgspec.Struct, frozen=True):
    selection: SelectionOptions
    inputs: tuple[InputFile, ...]
    cuts: tuple[Cut, ...]
    tied_share: float
    rows: tuple[int, ...]
    output: Written


@dataclass(frozen=True, eq=False)
class Subset:
    """What one rule kept, as its manifest says.

    Attributes:
        options: of the selection.
        kept: bool ``[n_rollouts]``.
        cuts: by group: the source, or "all".
        tied_share: picks that the tie rule decided.
    """

    options: SelectionOptions
    kept: np.ndarray
    cuts: dict[str, Cut]
    tied_share: float

    def cut(self, source: str) -> Cut:
        """The cut that a rollout of this source met."""
        return self.cuts[source if self.options.per_source else "all"]


@dataclass(frozen=True, eq=False)
class WorldCorpus:
    """A world's corpus with the truth behind it.

    Attributes:
        folder: that holds ``annotations/``, ``images/`` and ``truth/``.
        corpus: as `mprm select` reads it; its rows are the manifests' rows.
        r: exact one-shot success probability of each step, ``[n_steps]``.
        correct: 1 right, -1 wrong, 0 neutral, int ``[n_steps]``.
        slip_rate: the policy's, ``[n_rollouts]``.
        subsets: by rule; of several seeds the lowest, at the lowest keep ratio.
    """

    folder: Path
    corpus: Corpus
    r: np.ndarray
    correct: np.ndarray
    slip_rate: np.ndarray
    subsets: dict[str, Subset]

    @property
    def rollouts(self) -> Rollouts:
        """The counts."""
        return self.corpus.rollouts

    @property
    def pseudo_positive(self) -> np.ndarray:
        """Steps with K > 0 that are wrong in truth, bool ``[n_steps]``."""
        return (self.rollouts.successes > 0) & (self.correct == -1)


class Bins(NamedTuple):
    """A distribution over all rollouts and over those of a subset.

    Attributes:
        labels: the values that each bin holds, as intervals.
        total: rollouts of the corpus by bin, int ``[n_bins]``.
        kept: of those, in the subset, int ``[n_bins]``.
    """

    labels: list[str]
    total: np.ndarray
    kept: np.ndarray

    @property
    def coverage(self) -> list[float | None]:
        """kept / total; None for an empty bin."""
        return [
            of / every if every else None
            for of, every in zip(self.kept.tolist(), self.total.tolist(), strict=True)
        ]


def read_world(folder: Path) -> WorldCorpus:
    """A world's corpus, truth and subsets.

    Raises:
        DataError: something is missing, does not fit the corpus, or no subset is BIS's.
    """
    corpus_folder = folder / "corpus"
    corpus = read_corpus(corpus_folder)
    usable_rollouts(corpus)  # refuses bad lines and unmeasured steps
    truth = read_truth(corpus_folder, corpus)
    return WorldCorpus(
        folder=corpus_folder,
        corpus=corpus,
        r=np.concatenate([of.r for of in truth]),
        correct=np.concatenate([of.correct for of in truth]).astype(np.int8),
        slip_rate=np.array([of.slip_rate for of in truth]),
        subsets=_read_subsets(folder / "subsets", corpus),
    )


def _read_subsets(folder: Path, corpus: Corpus) -> dict[str, Subset]:
    found = sorted(folder.glob(f"*{MANIFEST_SUFFIX}"))
    subsets = [
        _read_subset(path.with_name(path.name.removesuffix(MANIFEST_SUFFIX)), corpus)
        for path in found
    ]
    of_bis = [of.options.keep_ratio for of in subsets if of.options.rule == "bis"]
    if not of_bis:
        raise DataError(f"{folder}: no manifest of a subset kept by bis")
    subsets.sort(key=lambda of: (rule_order(of.options.rule), of.options.seed))
    chosen: dict[str, Subset] = {}
    for subset in subsets:
        if subset.options.keep_ratio == min(of_bis):
            chosen.setdefault(subset.options.rule, subset)
    return chosen


def _read_subset(output: Path, corpus: Corpus) -> Subset:
    path = manifest_path(output)
    manifest = typed(output, read_manifest(output), _SubsetManifest)
    manifest.output.check(output, needed=False)
    if sorted(i.sha256 for i in manifest.inputs) != sorted(corpus.sha256):
        raise DataError(f"{path}: selected from other files than {corpus.path}")
    rows = np.array(manifest.rows, np.int64)
    n = corpus.rollouts.n_rollouts
    if not len(rows) or rows[0] < 0 or rows[-1] >= n or np.any(np.diff(rows) <= 0):
        raise DataError(f"{path}: rows do not ascend within the {n} of the corpus")
    kept = np.zeros(n, bool)
    kept[rows] = True
    chosen = manifest.selection
    cuts = {cut.group: cut for cut in manifest.cuts}
    names = corpus.rollouts.source_names if chosen.per_source else ("all",)
    if missing := [name for name in names if name not in cuts]:
        raise DataError(f"{path}: no cut for {missing[0]}")
    return Subset(chosen, kept, cuts, manifest.tied_share)


def reliability_bins(world: WorldCorpus, subset: Subset) -> Bins:
    """R in tenths [a, b), and R = 1 by itself: where perfect and all-negative rollouts
    are.
    """
    edges = np.arange(11) / 10
    labels = [f"[{low:g}, {high:g})" for low, high in pairwise(edges)]
    index = np.digitize(scores.reliability(world.rollouts), edges[1:])
    return _bins([*labels, "1"], index, subset)


def mixture_bins(world: WorldCorpus, subset: Subset) -> Bins:
    """p(1-p): 0 (one label only) by itself, then (a, b] of width .05 up to .25."""
    edges = np.arange(6) / 20
    labels = [f"({low:g}, {high:g}]" for low, high in pairwise(edges)]
    index = np.digitize(scores.label_mixture(world.rollouts), edges[:-1], right=True)
    return _bins(["0", *labels], index, subset)


def _bins(labels: list[str], index: np.ndarray, subset: Subset) -> Bins:
    total = np.bincount(index, minlength=len(labels))
    return Bins(labels, total, np.bincount(index[subset.kept], minlength=len(labels)))


def subset_facts(world: WorldCorpus, subset: Subset | None) -> dict[str, float]:
    """A subset in numbers, or the whole corpus for None: those of
    :class:`theory.summary.Summary`, ``mean_reliability``, ``pseudo_positive_share`` (of
    its positive steps), a subset's ``tied_share``, and the corpus's ``words_per_step``.
    """
    rollouts = world.rollouts
    kept = np.ones(rollouts.n_rollouts, bool) if subset is None else subset.kept
    of_steps = np.repeat(kept, rollouts.lengths)
    positive = np.count_nonzero(of_steps & (rollouts.successes > 0))
    pseudo = np.count_nonzero(of_steps & world.pseudo_positive)
    part = rollouts.take(np.flatnonzero(kept))
    facts = asdict(summarise(part))
    facts["mean_reliability"] = float(scores.reliability(part).mean())
    facts["pseudo_positive_share"] = pseudo / max(positive, 1)
    if subset is None:
        every = np.arange(rollouts.n_rollouts)
        words = count_words(world.corpus, every, rollouts.lengths)
        facts["words_per_step"] = float(words.sum() / rollouts.n_steps)
    else:
        facts["tied_share"] = subset.tied_share
    return facts
