"""The check of training data and benchmark for what they share, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.console.progress import progress
from mprm_jax.data.corpus import Corpus
from mprm_jax.data.overlap import (
    Benchmark,
    Judged,
    Overlap,
    OverlapSettings,
    Roots,
    perceptual_hash,
)

PictureCheck = Literal["near", "same", "none"]


def check_overlap(
    corpus: Corpus,
    rows: np.ndarray,
    solutions: Sequence[Judged],
    settings: OverlapSettings,
) -> Overlap:
    """Compare questions; arguments as :class:`mprm_jax.data.overlap.Overlap`.

    Raises:
        DataError: a record is not the one that was indexed.
    """
    with progress("comparing questions", len(rows), "rollouts") as tick:
        return Overlap(corpus, rows, Benchmark(solutions), settings, tick)


def check_pictures(
    overlap: Overlap, check: PictureCheck, roots: tuple[Path, Path], workers: int
) -> None:
    """Compare pictures, too, where both sides have any.

    Args:
        overlap: questions, compared.
        check: "near" takes the same ones where the library for near ones is missing.
        roots: of the corpus's image paths and of the benchmark's.
        workers: threads that decode.
    """
    if check == "none" or not (overlap.images and overlap.benchmark.pictures):
        return
    look = perceptual_hash() if check == "near" else None
    with (
        ThreadPoolExecutor(workers) as pool,
        progress("comparing pictures", len(overlap.images), "pictures") as tick,
    ):
        overlap.compare_pictures(Roots(*roots, look), pool, tick)
