"""What a report shows of a world's corpus: counts, truth, subsets and distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from experiments.grid.demo_results import arm_order
from experiments.store.manifests import InputFile, typed
from mprm_jax.data.corpus import Corpus, read_corpus, usable_rollouts
from mprm_jax.data.outputs import MANIFEST_SUFFIX, manifest_path, read_manifest
from mprm_jax.data.problems import DataError
from mprm_jax.data.write import count_words
from sim.corpus.calibrate import PAPER_TARGETS
from theory import scores
from theory.rollouts import Rollouts
from theory.selection import Cut, RuleName
from theory.summary import Summary, summarise

# Table 1 of the paper, row "full data"; words per step from its text.
PAPER_TABLE_1 = {
    "rollouts": 565_096,
    "steps": 3_174_394,
    "steps_per_rollout": 5.62,
    "words_per_step": 27.8,
    "error_step_ratio": PAPER_TARGETS.error_step_ratio,
    "mean_mc": 0.8566,
    "mixed_share": PAPER_TARGETS.mixed_share,
}


class _Selected(msgspec.Struct, frozen=True):
    rule: RuleName
    keep_ratio: float
    alpha: float
    seed: int
    per_source: bool


class _SubsetManifest(msgspec.Struct, frozen=True):
    selection: _Selected
    inputs: tuple[InputFile, ...]
    cuts: tuple[Cut, ...]
    tied_share: float
    rows: tuple[int, ...]


class _Truth(msgspec.Struct, frozen=True):
    r: tuple[float, ...]
    correct: tuple[Literal[-1, 0, 1], ...]
    slip_rate: float


@dataclass(frozen=True, eq=False)
class Subset:
    """What one rule kept, as its manifest says.

    Attributes:
        rule: that kept it.
        keep_ratio: rho.
        alpha: BIS's.
        seed: of ties and random picks.
        per_source: whether every source had its own budget.
        kept: bool ``[n_rollouts]``.
        cuts: by group: the source, or "all".
        tied_share: picks that the tie rule decided.
    """

    rule: RuleName
    keep_ratio: float
    alpha: float
    seed: int
    per_source: bool
    kept: np.ndarray
    cuts: dict[str, Cut]
    tied_share: float

    def cut(self, source: str) -> Cut:
        """The cut that a rollout of this source met."""
        return self.cuts[source if self.per_source else "all"]


@dataclass(frozen=True, eq=False)
class WorldCorpus:
    """A world's corpus with the truth behind it.

    Attributes:
        folder: that holds ``annotations/``, ``images/`` and ``truth/``.
        corpus: as `mprm select` reads it; its rows are the manifests' rows.
        r: exact one-shot success probability of each step, ``[n_steps]``.
        correct: 1 right, -1 wrong, 0 neutral, int ``[n_steps]``.
        slip_rate: the policy's, ``[n_rollouts]``.
        words_per_step: mean words of a step's text.
        subsets: by rule; of several seeds the lowest, at the lowest keep ratio.
    """

    folder: Path
    corpus: Corpus
    r: np.ndarray
    correct: np.ndarray
    slip_rate: np.ndarray
    words_per_step: float
    subsets: dict[str, Subset]

    @property
    def rollouts(self) -> Rollouts:
        """The counts."""
        return self.corpus.rollouts

    @property
    def pseudo_positive(self) -> np.ndarray:
        """Steps with K > 0 that are wrong in truth, bool ``[n_steps]``."""
        return (self.rollouts.successes > 0) & (self.correct == -1)


@dataclass(frozen=True)
class Bin:
    """One bar of a distribution.

    Attributes:
        label: the values it holds, in words.
        low: lower end.
        high: upper end; equal to ``low`` where the bin holds one value only.
        total: rollouts of the corpus.
        kept: of those, in the subset.
    """

    label: str
    low: float
    high: float
    total: int
    kept: int

    @property
    def coverage(self) -> float | None:
        """kept / total; None for an empty bin."""
        return self.kept / self.total if self.total else None


@dataclass(frozen=True)
class SubsetFacts:
    """A subset in numbers; ``pseudo_positive_share`` is of its positive steps."""

    rule: str
    seed: int | None
    summary: Summary
    mean_reliability: float
    pseudo_positive_share: float
    tied_share: float | None


def read_world(folder: Path) -> WorldCorpus:
    """A world's corpus, truth and subsets.

    Raises:
        DataError: something is missing, does not fit the corpus, or no subset is BIS's.
    """
    corpus_folder = folder / "corpus"
    corpus = read_corpus(corpus_folder)
    usable_rollouts(corpus)  # refuses bad lines and unmeasured steps
    r, correct, slip_rate = _read_truth(corpus_folder, corpus)
    every = np.arange(corpus.rollouts.n_rollouts)
    words = count_words(corpus, every, corpus.rollouts.lengths)
    return WorldCorpus(
        folder=corpus_folder,
        corpus=corpus,
        r=r,
        correct=correct,
        slip_rate=slip_rate,
        words_per_step=float(words.sum() / corpus.rollouts.n_steps),
        subsets=_read_subsets(folder / "subsets", corpus),
    )


def _read_truth(
    folder: Path, corpus: Corpus
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    decoder = msgspec.json.Decoder(_Truth)
    r: list[float] = []
    correct: list[int] = []
    slip_rate: list[float] = []
    lengths = corpus.rollouts.lengths
    for number, file in enumerate(corpus.files):
        path = folder / "truth" / f"{file.path.name.removesuffix('.gz')}"
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
        for row in np.flatnonzero(corpus.file == number).tolist():
            line = int(corpus.line[row])
            where = f"{path}:{line}"
            if line > len(lines):
                raise DataError(f"{where}: no truth for {corpus.where(row)}")
            try:
                truth = decoder.decode(lines[line - 1])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{where}: no truth ({error})") from error
            if not len(truth.r) == len(truth.correct) == lengths[row]:
                raise DataError(
                    f"{where}: truth of {len(truth.r)} and {len(truth.correct)} steps, "
                    f"the rollout has {lengths[row]}"
                )
            r.extend(truth.r)
            correct.extend(truth.correct)
            slip_rate.append(truth.slip_rate)
    return np.array(r), np.array(correct, np.int8), np.array(slip_rate)


def _read_subsets(folder: Path, corpus: Corpus) -> dict[str, Subset]:
    found = sorted(folder.glob(f"*{MANIFEST_SUFFIX}"))
    subsets = [
        _read_subset(path.with_name(path.name.removesuffix(MANIFEST_SUFFIX)), corpus)
        for path in found
    ]
    of_bis = [subset.keep_ratio for subset in subsets if subset.rule == "bis"]
    if not of_bis:
        raise DataError(f"{folder}: no manifest of a subset kept by bis")
    chosen: dict[str, Subset] = {}
    for subset in sorted(subsets, key=lambda s: (arm_order(s.rule), s.seed)):
        if subset.keep_ratio == min(of_bis):
            chosen.setdefault(subset.rule, subset)
    return chosen


def _read_subset(output: Path, corpus: Corpus) -> Subset:
    path = manifest_path(output)
    manifest = typed(output, read_manifest(output), _SubsetManifest)
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
    return Subset(
        rule=chosen.rule,
        keep_ratio=chosen.keep_ratio,
        alpha=chosen.alpha,
        seed=chosen.seed,
        per_source=chosen.per_source,
        kept=kept,
        cuts=cuts,
        tied_share=manifest.tied_share,
    )


def reliability_bins(world: WorldCorpus, subset: Subset) -> list[Bin]:
    """R in tenths [a, b), and R = 1 by itself: where perfect and all-negative rollouts
    are.
    """
    edges = np.arange(11) / 10
    ranges = [
        (f"{low:.1f} to under {high:.1f}", low, high)
        for low, high in pairwise(edges.tolist())
    ]
    index = np.digitize(scores.reliability(world.rollouts), edges[1:])
    return _bins([*ranges, ("exactly 1", 1.0, 1.0)], index, subset)


def mixture_bins(world: WorldCorpus, subset: Subset) -> list[Bin]:
    """p(1-p): 0 (one label only) by itself, then (a, b] of width .05 up to .25."""
    edges = np.arange(6) / 20
    ranges = [
        (f"over {low:.2f} to {high:.2f}", low, high)
        for low, high in pairwise(edges.tolist())
    ]
    mixture = scores.label_mixture(world.rollouts)
    index = np.digitize(mixture, edges[:-1], right=True)
    return _bins([("exactly 0", 0.0, 0.0), *ranges], index, subset)


def _bins(
    ranges: Sequence[tuple[str, float, float]], index: np.ndarray, subset: Subset
) -> list[Bin]:
    total = np.bincount(index, minlength=len(ranges))
    kept = np.bincount(index[subset.kept], minlength=len(ranges))
    return [
        Bin(label, low, high, int(all_), int(of))
        for (label, low, high), all_, of in zip(ranges, total, kept, strict=True)
    ]


def subset_facts(world: WorldCorpus, subset: Subset | None) -> SubsetFacts:
    """A subset in numbers, or the whole corpus for None."""
    rollouts, rows = world.rollouts, np.arange(world.rollouts.n_rollouts)
    if subset is not None:
        rows = np.flatnonzero(subset.kept)
    of_steps = np.repeat(
        np.isin(np.arange(rollouts.n_rollouts), rows), rollouts.lengths
    )
    positive = of_steps & (rollouts.successes > 0)
    pseudo = np.count_nonzero(world.pseudo_positive[of_steps])
    part = rollouts.take(rows)
    return SubsetFacts(
        rule="full" if subset is None else subset.rule,
        seed=None if subset is None else subset.seed,
        summary=summarise(part),
        mean_reliability=float(scores.reliability(part).mean()),
        pseudo_positive_share=pseudo / max(int(np.count_nonzero(positive)), 1),
        tied_share=None if subset is None else subset.tied_share,
    )
